"""The named endpoints for Gradio's client: generate, refine, models. Everything else of the page is private.

An endpoint that waits for its job only watches the store, so any number of them hold up nobody.
"""

# No `annotations` from the future here: Gradio reads the kinds of the answers from them, and cannot from texts.
import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from gradio.events import api
from gradio.utils import get_upload_folder

from i2v_pipeline.errors import InputError, PictureError, StudioError
from i2v_pipeline.hub import is_here
from i2v_pipeline.images import open_picture
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import PresetName, Text
from prompt_refiner import refine
from studio.jobs.types import Job
from studio.models import needs_of
from studio.orders import Order, RefineMode, engine_of, make_order, read_order
from studio.owners import owner_of
from studio.page.edge import OUR_FAULT
from studio.page.services import Services
from studio.page.uploads import own_upload
from studio.recipe import style_of

log = logging.getLogger("studio.endpoints")

LOOK_EVERY_S = 0.2
ORDERS_AT_ONCE = 8
"""Each is a thread, and open pages share the interpreter with it."""
_STOPPED = Text("The job was cancelled or deleted before it was done.", "任务在完成之前被取消或删除。")

Endpoint = Callable[..., Awaitable[Any]]


def add_endpoints(services: Services) -> None:
    """Adds the endpoints to the page that is being built."""
    endpoints = Endpoints(services)
    for endpoint in (endpoints.generate, endpoints.refine, endpoints.models):
        api(_told(endpoint), api_name=endpoint.__name__, concurrency_limit=None)


class Endpoints:
    """What a program may call by name."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._turn = asyncio.Semaphore(ORDERS_AT_ONCE)

    async def generate(
        self,
        request: gr.Request,
        picture: gr.FileData,
        prompt: str,
        model: str = "auto",
        preset: PresetName = "standard",
        refine: RefineMode = "auto",
        settings: dict[str, Any] | None = None,
    ) -> tuple[gr.FileData, dict[str, Any]]:
        """Makes a video of a picture and a sentence; gives the MP4 and its report once it is done.

        Args:
            picture: The picture.
            prompt: What happens, in English or Chinese.
            model: An engine's id, or auto.
            preset: Where the defaults come from.
            refine: Who refines the prompt; off sends it as it is.
            settings: Any other setting by its name, such as {"size": "832x480", "frames": 33, "seed": 7}.
        """
        fields = {"prompt": prompt, "model": model, "preset": preset, "refine": refine}
        order = make_order({**fields, **(settings or {})})
        # Without a key or a cookie the job is of this call alone.
        owner = owner_of(request.headers) or f"session:{request.session_hash}"
        async with self._turn:
            job = await asyncio.to_thread(self._place, order, picture, owner)
        job = await self._finished(job.id)
        return await asyncio.to_thread(_results, job)

    async def refine(self, prompt: str, model: str = "auto", mode: RefineMode = "auto") -> dict[str, Any]:
        """What the refiner makes of a sentence for an engine; no video is made.

        Args:
            prompt: What happens, in English or Chinese.
            model: An engine's id, or auto.
            mode: llm asks the language model, offline the rules, auto whichever is there.
        """
        order = make_order({"prompt": prompt, "model": model, "refine": mode})
        if order.refine == "off":
            raise InputError(
                "Mode off: auto, llm and offline are allowed. Choose one of these.",
                "模式 off：可用 auto、llm、offline。请选择其一。",
            )
        style = style_of(await asyncio.to_thread(engine_of, order, self._services))
        settings = self._services.refiner
        result = await asyncio.to_thread(refine, order.prompt, style=style, settings=settings, mode=order.refine)
        return result.to_dict()

    async def models(self) -> list[dict[str, Any]]:
        """The engines: what each takes and makes, and whether it could run now."""
        specs = self._services.engines.values()
        return await asyncio.to_thread(lambda: [_facts(spec) for spec in specs])

    def _place(self, order: Order, picture: Any, owner: str) -> Job:  # noqa: ANN401 - whatever a program sent
        path = own_upload(picture.get("path") if isinstance(picture, dict) else None)
        if path is None:
            raise PictureError(
                "There is no picture. Send one with handle_file(...).", "没有图片。请用 handle_file(...) 发送。"
            )
        ordered = read_order(order, [(open_picture(Path(path)), Path(path))], self._services)
        return self._services.store.submit(ordered.request, owner)

    async def _finished(self, job_id: str) -> Job:
        """The job once it is done. Raises `StudioError` with the reason for one that never will be."""
        while True:
            job = await asyncio.to_thread(self._services.store.get, job_id)
            if job is None or job.deleted is not None or job.state == "cancelled":
                raise StudioError(*_STOPPED)
            if job.state == "done":
                return job
            if job.over:
                raise StudioError(*(job.message or _STOPPED))
            await asyncio.sleep(LOOK_EVERY_S)


def _results(job: Job) -> tuple[gr.FileData, dict[str, Any]]:
    report = json.loads(job.report_path.read_text(encoding="utf-8"))
    # Gradio serves no other files than those in its own folder.
    video = processing_utils.save_file_to_cache(job.video_path, cache_dir=get_upload_folder())
    return gr.FileData(path=video, orig_name=f"{job.id}.mp4", mime_type="video/mp4"), report


def _facts(spec: EngineSpec) -> dict[str, Any]:
    return {
        "id": spec.id,
        "title": spec.title.en,
        "is_here": is_here(spec),
        "references": spec.takes.references,
        "presets": list(spec.presets),
        "resolutions": list(spec.resolutions),
        "frames": [spec.grid.min_frames, spec.grid.max_frames, spec.grid.frame_step],
        "standard": needs_of(spec).en,
        "licence": spec.licence,
    }


def _told(endpoint: Endpoint) -> Endpoint:
    """The same endpoint, which raises nothing but `gr.Error` with a sentence in both languages."""

    @functools.wraps(endpoint)
    async def call(*arguments: Any) -> Any:  # noqa: ANN401
        try:
            return await endpoint(*arguments)
        except StudioError as error:
            raise gr.Error("\n".join(error.text), print_exception=False) from None
        except Exception as error:  # the endpoints' edge; logged whole
            log.error("A named endpoint failed", exc_info=error)
            raise gr.Error("\n".join(OUR_FAULT), print_exception=False) from None

    return call
