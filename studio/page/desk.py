"""What every handler of the page stands on: the services, the components, and what each open page shows just now.

Knows no event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from gradio.components import Component
from gradio.utils import get_upload_folder

from i2v_pipeline.errors import InputError
from i2v_pipeline.specs import EngineSpec
from studio.jobs.types import Job
from studio.library import CleanUp
from studio.owners import owner_of
from studio.page import draft
from studio.page.form import Form, engine_updates, read_values
from studio.page.plan import engine_html, lacks_html
from studio.page.refine import Proposal
from studio.page.refine_events import RefineHandlers
from studio.page.services import Services
from studio.page.status import GONE

PAGE_OF_JOBS = 60
"""How many jobs the history shows at first, and how many more each time."""

Data = Mapping[Component, Any]
Updates = dict[Component, Any]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What of the history is looked at. An empty search and no engine mean all."""

    search: str = ""
    engine: str | None = None
    favourites: bool = False
    limit: int = PAGE_OF_JOBS


@dataclass(frozen=True, kw_only=True)
class OpenPage:
    """What one open page shows. Handlers change it; one event of the page follows it and sends what that means.

    `editing` is a waiting job whose settings stand in the form, and `before` the form as it was before that. `longer`
    is the job whose panel for a continuation is open. `undo` are the jobs that were deleted last. `videos` is how many
    Generate would make. `comparison` is the one that is open.
    """

    owner: str
    job: str | None = None
    look: Look = Look()
    note: str = ""
    editing: str | None = None
    before: Any = None
    longer: str | None = None
    undo: tuple[str, ...] = ()
    clean_up: CleanUp | None = None
    videos: int = 1
    comparison: str | None = None


class Desk:
    """`form` holds the components by field, `view` all others by name, `pages` the open pages by Gradio's name."""

    def __init__(self, services: Services, form: Form, view: dict[str, Any]) -> None:
        self.services = services
        self.form = form
        self.view = view
        self.refining = RefineHandlers(services, form, view)
        self.pages: dict[str, OpenPage] = {}

    def owner(self, request: gr.Request) -> str:
        """Who sits before the page. Raises `InputError` for a browser that keeps no cookie."""
        owner = owner_of(request.headers)
        if owner is None:
            raise InputError(
                "Your browser keeps no cookie of this studio, so it cannot tell which videos are yours. Allow cookies "
                "for this address and reload.",
                "浏览器没有保存本工作室的 Cookie，无法识别哪些视频属于你。请允许此地址的 Cookie，然后刷新。",
            )
        return owner

    def page(self, request: gr.Request) -> OpenPage:
        """What the page shows that the event came from. Raises `InputError` where it has lost its connection."""
        owner, page = self.owner(request), self.pages.get(request.session_hash or "")
        if page is None or page.owner != owner:
            raise InputError(
                "This page has lost its connection to the studio. Reload it; the form is kept.",
                "页面与工作室的连接已断开。请刷新页面；表单内容会保留。",
            )
        return page

    def change(self, request: gr.Request, **changes: Any) -> None:  # noqa: ANN401 - the fields of OpenPage
        """Changes what that page shows; the page itself is told by the event that follows it."""
        self.pages[request.session_hash or ""] = replace(self.page(request), **changes)

    def show(self, job_id: str, request: gr.Request) -> Updates:
        """Makes this the job that the page shows."""
        self.change(request, job=job_id)
        return {self.view["shown"]: job_id}

    def find(self, job_id: str | None, request: gr.Request) -> Job:
        """The person's own job with that id. Raises `InputError` where there is none."""
        job = self.services.find_job(job_id, self.owner(request))
        if job is None:
            raise InputError(GONE.en, GONE.zh)
        return job

    def shown(self, data: Data, request: gr.Request) -> Job:
        """The job on the screen. Raises `InputError` where it is gone."""
        return self.find(data[self.view["shown"]], request)

    def values(self, data: Data) -> dict[str, Any]:
        """What the form holds, by field."""
        return read_values(self.form, data)

    def cached(self, path: Path) -> str:
        """A copy that Gradio may show: it serves no other file than those in its own folder."""
        return processing_utils.save_file_to_cache(path, cache_dir=get_upload_folder())

    def cached_bytes(self, content: bytes, name: str) -> str:
        """The same for a file that does not exist yet."""
        return processing_utils.save_bytes_to_cache(content, name, cache_dir=get_upload_folder())

    def fill(self, values: Mapping[str, Any], proposal: Proposal | None) -> Updates:
        """These fields in the form, each with the range and the choices that the engine among `values` has."""
        spec = self.services.engines[values["engine"]]
        settings = engine_updates(spec, values["preset"])
        fields = {name: {**settings.get(name, gr.update()), "value": value} for name, value in values.items()}
        updates = {self.form[name]: update for name, update in fields.items()}
        return {**updates, **self.engine_notes(spec), **self.refining.updates(proposal)}

    def leave_editing(self, request: gr.Request, note: str) -> Updates:
        """The form as it was before a waiting job's settings were put into it."""
        before = draft.read(self.page(request).before, self.services)
        self.change(request, editing=None, before=None, note=note)
        return {} if before is None else self.fill(before.values, before.proposal)

    def engine_notes(self, spec: EngineSpec) -> Updates:
        return {self.view["engine_note"]: engine_html(spec), self.view["lacks"]: lacks_html(spec)}
