"""What happens when: the page's handlers and how they hang on its components. Renders nothing itself.

A Gradio event is not a job. Handlers only submit, follow and cancel; a page finds its job again after a reload, a lost
connection or a restart, because everything it shows is read from the store.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from gradio.components import Component

from i2v_pipeline.errors import InputError
from i2v_pipeline.types import EngineSpec, GenerationRequest
from studio.jobs.store import Job
from studio.owners import owner_of
from studio.page import draft, status
from studio.page.edge import at_edge
from studio.page.form import Form, engine_updates, preset_values, read_picture, read_values, request_values
from studio.page.plan import check_can_run, engine_html, lacks_html, plan_html, request_of
from studio.page.refine import Proposal, taken_before
from studio.page.refine_events import RefineHandlers
from studio.page.services import Services, picture_facts
from studio.recipe import SEED_LIMIT

WATCH_EVERY_S = 0.1
"""How often a page looks at a job that is not over; only what changed is sent."""

Data = Mapping[Component, Any]
Updates = dict[Component, Any]


class Handlers:
    """The page's handlers. `form` holds the components by field, `view` all others by name."""

    def __init__(self, services: Services, form: Form, view: dict[str, Any]) -> None:
        self.services = services
        self.form = form
        self.view = view
        self.refining = RefineHandlers(services, form, view)
        # The job that each open page shows, by Gradio's name for the page.
        self._shown_on: dict[str, str | None] = {}

    @at_edge
    async def live(self, data: Data, request: gr.Request) -> AsyncIterator[Updates]:
        """Fills the page that was opened, and then follows the job that it shows, for as long as it is open.

        That one event of a page is always under way also keeps its stream of answers open: Gradio's client closes the
        stream after the last answer, and may lose one that is just then on its way.
        """
        page = request.session_hash or ""
        owner = _owner(request)
        opening = await asyncio.to_thread(self._opening, data, request.query_params.get("job"), owner)
        self._shown_on[page] = opening[self.view["shown"]]
        try:
            yield opening
            async for updates in self._follow(page, owner):
                yield updates
        finally:
            del self._shown_on[page]

    @at_edge
    def plan(self, data: Data) -> Updates:
        """The line that says what will be made, and the draft that survives a reload; nothing for a form of before."""
        count = data[self.view["count"]]
        if count < data[self.view["planned"]]:
            return {self.view["plan"]: gr.skip()}
        values, proposal = self._values(data), data[self.view["proposal"]]
        return {
            self.view["planned"]: count,
            self.view["plan"]: plan_html(values, proposal, self.services),
            self.view["draft"]: draft.write(values, proposal),
            **self.refining.told(values, proposal),
        }

    @at_edge
    def check_picture(self, data: Data) -> None:
        """Refuses a picture that cannot be read as soon as it is there."""
        picture_facts(read_picture(self._values(data)))

    @at_edge
    def pick_example(self, event: gr.EventData) -> Updates:
        """Picture and prompt of an example, in the page's language."""
        example = next(example for example in self.services.examples if example.path.name == event.file)
        prompt = example.prompt.zh if event.lang.startswith("zh") else example.prompt.en
        return {
            self.form["image"]: self._cached(example.path),
            self.form["prompt"]: prompt,
            **self.refining.updates(None),
        }

    @at_edge
    def choose_preset(self, data: Data) -> Updates:
        values = self._values(data)
        spec = self.services.engines[values["engine"]]
        return {self.form[field]: value for field, value in preset_values(spec, values["preset"]).items()}

    @at_edge
    def choose_engine(self, data: Data) -> Updates:
        values = self._values(data)
        spec = self.services.engines[values["engine"]]
        return {
            **{self.form[field]: update for field, update in engine_updates(spec, values["preset"]).items()},
            **self._engine_notes(spec),
        }

    @at_edge
    def take_offer(self, data: Data, event: gr.EventData) -> Updates:
        """What the plan offered in place of a run that does not fit: a size and a length, or another engine."""
        values = self._values(data)
        if event.engine == values["engine"]:
            return {self.form["resolution"]: event.size, self.form["frames"]: int(event.frames)}
        spec = self.services.engines[event.engine]
        settings = {self.form[field]: update for field, update in engine_updates(spec, "standard").items()}
        return {self.form["engine"]: spec.id, **settings, **self._engine_notes(spec)}

    @at_edge
    def generate(self, data: Data, request: gr.Request) -> Updates:
        wanted = request_of(self._values(data), data[self.view["proposal"]], self.services)
        return self._submit(wanted, request)

    @at_edge
    def again(self, data: Data, request: gr.Request) -> Updates:
        """The same job with a new seed."""
        job = self._shown(data, request)
        return self._submit(replace(job.request, seed=secrets.randbelow(SEED_LIMIT)), request)

    @at_edge
    def retry(self, data: Data, request: gr.Request) -> Updates:
        """The same job once more."""
        return self._submit(self._shown(data, request).request, request)

    @at_edge
    def cancel(self, data: Data, request: gr.Request) -> None:
        self.services.store.cancel(self._shown(data, request).id)

    @at_edge
    def reuse(self, data: Data, page: gr.Request) -> Updates:
        """The shown job's settings in the form, its picture and the origin of its prompt included."""
        request = self._shown(data, page).request
        proposal = taken_before(request.origin, request.motion)
        values = {**request_values(request), "image": self._cached(request.images[0])}
        return self._form_updates(values, proposal)

    @at_edge
    def open_job(self, event: gr.EventData, request: gr.Request) -> Updates:
        return self._show(event.job, request)

    def _opening(self, data: Data, asked: str | None, owner: str) -> Updates:
        """The draft of before, and the job to show: the address's, else one that runs, else the newest."""
        view = self.view
        self._adopt(data[view["client"]], owner)
        jobs = self.services.store.list(owner)
        newest = ([job for job in jobs if not job.over] or jobs)[:1]
        updates: Updates = {view["client"]: None, view["shown"]: asked or (newest[0].id if newest else None)}
        updates |= self.refining.opening()
        kept = draft.read(data[view["draft"]], self.services)
        return updates if kept is None else updates | self._form_updates(kept.values, kept.proposal)

    async def _follow(self, page: str, owner: str) -> AsyncIterator[Updates]:
        """What changes about the job that `page` shows, whichever that is; never ends by itself."""
        sent: Updates = {}
        known: tuple[str | None, str | None] | None = None
        while True:
            job_id = self._shown_on[page]
            job = await asyncio.to_thread(self.services.find_job, job_id, owner)
            updates = self._job_updates(job, is_missing=job is None and job_id is not None)
            if known != (job_id, job and job.state):
                known = (job_id, job and job.state)
                jobs = await asyncio.to_thread(self.services.store.list, owner)
                updates[self.view["history"]] = status.history_html(jobs, job_id)
            changed = {place: value for place, value in updates.items() if place not in sent or sent[place] != value}
            if changed:
                sent |= changed
                yield changed
            await asyncio.sleep(WATCH_EVERY_S)
            while (job is None or job.over) and self._shown_on[page] == job_id:
                await asyncio.sleep(WATCH_EVERY_S)

    def _adopt(self, client: object, owner: str) -> None:
        """Jobs of the name that earlier versions kept in the browser's storage, which only that browser knows."""
        if isinstance(client, str) and re.fullmatch(r"[A-Za-z0-9_-]{22}", client):
            self.services.store.adopt(client, owner)

    def _values(self, data: Data) -> dict[str, Any]:
        return read_values(self.form, data)

    def _shown(self, data: Data, request: gr.Request) -> Job:
        job = self.services.find_job(data[self.view["shown"]], _owner(request))
        if job is None:
            raise InputError(status.GONE.en, status.GONE.zh)
        return job

    def _submit(self, wanted: GenerationRequest, request: gr.Request) -> Updates:
        check_can_run(self.services.engines[wanted.engine], wanted)
        return self._show(self.services.store.submit(wanted, _owner(request)).id, request)

    def _show(self, job_id: str, request: gr.Request) -> Updates:
        self._shown_on[request.session_hash or ""] = job_id
        return {self.view["shown"]: job_id}

    def _cached(self, path: Path) -> str:
        """A copy that Gradio may show: it serves no other file than those in its own folder."""
        return processing_utils.save_file_to_cache(path, cache_dir=self.form["image"].GRADIO_CACHE)

    def _form_updates(self, values: Mapping[str, Any], proposal: Proposal | None) -> Updates:
        """All fields, each with the range and the choices that the engine among `values` has."""
        spec = self.services.engines[values["engine"]]
        settings = engine_updates(spec, values["preset"])
        fields = {name: {**settings.get(name, gr.update()), "value": value} for name, value in values.items()}
        updates = {self.form[name]: update for name, update in fields.items()}
        return {**updates, **self._engine_notes(spec), **self.refining.updates(proposal)}

    def _engine_notes(self, spec: EngineSpec) -> Updates:
        return {self.view["engine_note"]: engine_html(spec), self.view["lacks"]: lacks_html(spec)}

    def _job_updates(self, job: Job | None, *, is_missing: bool) -> Updates:
        report = json.loads(job.report_path.read_text(encoding="utf-8")) if job and job.state == "done" else None
        view, over = self.view, job is not None and job.over
        return {
            view["status"]: status.gone_html() if is_missing else status.status_html(job, time.time()),
            view["announcer"]: status.announcement(job),
            view["screen"]: status.screen_html(job),
            view["details"]: status.details_html(job, report),
            view["report"]: report,
            view["report_box"]: gr.update(visible=report is not None),
            view["cancel"]: gr.update(visible=job is not None and not over),
            view["again"]: gr.update(visible=report is not None),
            view["reuse"]: gr.update(visible=over),
            view["retry"]: gr.update(visible=over and report is None),
        }


def _owner(request: gr.Request) -> str:
    """Who sits before the page. Raises `InputError` for a browser that keeps no cookie."""
    owner = owner_of(request.headers)
    if owner is None:
        raise InputError(
            "Your browser keeps no cookie of this studio, so it cannot tell which videos are yours. Allow cookies for "
            "this address and reload.",
            "浏览器没有保存本工作室的 Cookie，无法识别哪些视频属于你。请允许此地址的 Cookie，然后刷新。",
        )
    return owner
