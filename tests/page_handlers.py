"""The page's handlers on a real store, without a browser: names stand for the components that they read and fill."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from starlette.datastructures import Headers

from i2v_pipeline.presets import load_presets
from i2v_pipeline.types import GenerationRequest, Motion, PromptOrigin
from prompt_refiner import RefinerSettings
from studio.jobs.store import JobStore
from studio.owners import OWNER_HEADER
from studio.page.comparing import ASKED, CompareHandlers
from studio.page.desk import Desk, OpenPage
from studio.page.events import Handlers
from studio.page.history import HistoryHandlers
from studio.page.live import FOLLOWED, Live
from studio.page.queue import QueueHandlers
from studio.page.reuse import ReuseHandlers
from studio.page.services import Services, load_examples

CAT = Path(__file__).resolve().parents[1] / "examples" / "cat.jpg"
FIELDS = (
    "image", "prompt", "engine", "preset", "resolution", "frames", "fps", "steps", "guidance", "seed", "fit",
    "negative_prompt", "guidance_schedule", "scheduler", "flow_shift", "loras", "last_image", "embed_source",
    "image_2", "image_3", "subject_1", "subject_2", "subject_3", "alone_1", "alone_2", "alone_3",
    "double_rate", "ending",
    "attention", "cache", "compiled",
)  # fmt: skip
VIEW = (
    "shown", "client", "draft", "proposal", "planned", "count", "plan", "refine_panel", "use_refined", "keep_mine",
    "undo_refine", "engine_note", "lacks", "pictures", "each_line", "parts", "restore", "search", "filter_engine",
    "favourites", "clean_rule", "advice", "edited", "subject", "seen", "show_picture", "fidelity",
    "picture_note", "llm_note",
    "compare_plan", "compare", "x_row", "y_row", *ASKED, *FOLLOWED,
)  # fmt: skip
FORM = {
    "image": {"path": str(CAT)}, "prompt": "镜头向左摇", "engine": "camera", "preset": "standard", "resolution": "720p",
    "frames": 96, "fps": 24, "steps": 10, "guidance": 1, "seed": "", "fit": "crop", "negative_prompt": "",
    "guidance_schedule": "", "scheduler": "", "flow_shift": "", "loras": [], "last_image": None, "embed_source": True,
    "image_2": None, "image_3": None, "subject_1": "", "subject_2": "", "subject_3": "",
    "alone_1": False, "alone_2": False, "alone_3": False,
    "double_rate": False, "ending": "plain",
    "attention": "auto", "cache": "off", "compiled": False,
    "pictures": None, "each_line": False, "proposal": None,
    "compare_mode": None, "x_field": "none", "x_values": "", "y_field": "none", "y_values": "", "draft_count": 4,
}  # fmt: skip
REQUEST = GenerationRequest(
    engine="camera", images=(CAT,), prompt="镜头向左摇", motion=Motion(), resolution="720p", width=1280, height=720,
    origin=PromptOrigin(typed="镜头向左摇", refined="镜头向左摇", source="typed"), fit="crop", frames=9, fps=3, seed=7,
)  # fmt: skip


class Studio:
    """All handlers of the page on one desk."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.desk = Desk(self.services, {name: name for name in FIELDS}, {name: name for name in VIEW})
        self.form, self.live = Handlers(self.desk), Live(self.desk).live
        self.queue, self.history = QueueHandlers(self.desk), HistoryHandlers(self.desk)
        self.reuse = ReuseHandlers(self.desk)
        self.comparing = CompareHandlers(self.desk)

    @classmethod
    def on(cls, store: JobStore) -> Studio:
        return cls(Services(store=store, engines=load_presets(), refiner=RefinerSettings(), examples=load_examples()))

    def open(self, session: str = "page", owner: str = "me", **shown: Any) -> Any:
        """A page that is open: its requests."""
        self.desk.pages[session] = OpenPage(owner=owner, **shown)
        return page(session, owner)

    def opened(self, session: str = "page") -> OpenPage:
        return self.desk.pages[session]


def page(session: str = "page", owner: str | None = "me", **query: str) -> Any:
    headers = Headers({} if owner is None else {OWNER_HEADER: owner})
    return SimpleNamespace(session_hash=session, query_params=query, headers=headers)


def opening(studio: Studio, client: str | None = None, **query: str) -> dict[str, Any]:
    """What a page that is opened gets first; `client` is what an earlier version left in the browser's storage."""

    async def first() -> dict[str, Any]:
        updates = studio.live({"client": client, "draft": None}, page(**query))
        try:
            return await anext(updates)
        finally:
            await updates.aclose()

    return asyncio.run(first())
