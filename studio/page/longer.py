"""The panel that makes the video on the screen longer: its frame to go on from, what happens next, how long it gets.

Knows the shown job alone; whether the panel is open stands in what the page shows.
"""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from i2v_pipeline.continuation import open_source, read_frame
from i2v_pipeline.errors import InputError
from i2v_pipeline.types import Text, U8Image
from studio.continuing import Wish, request_to_continue
from studio.jobs.types import Job
from studio.page import notes
from studio.page.desk import Data, Desk, Updates
from studio.page.edge import at_edge
from studio.page.plan import check_can_run, numbers_of
from studio.page.text import both, label

SHOWN_SIDE_PX = 640
PARTS = ("longer_frame", "longer_picture", "longer_prompt", "longer_same_seed", "longer_length")
"""The components of the panel that its own events write."""

_NOT_DONE = Text("Only a finished video can be continued. Wait for it.", "只有已完成的视频可以续写。请稍候。")


def make_longer(view: dict[str, Any]) -> None:
    """The panel; fills `view`."""
    with gr.Column(visible=False, elem_id="longer-box", elem_classes="card") as view["longer_box"]:
        view["longer_picture"] = gr.HTML("", elem_id="longer-picture", js_on_load="")
        view["longer_frame"] = gr.Slider(0, 1, value=1, step=1, label=label("longer_frame"), elem_id="longer-frame")
        view["longer_prompt"] = gr.Textbox(
            label=label("longer_prompt"), info=label("prompt_info"), lines=2, max_lines=6, elem_id="longer-prompt"
        )
        view["longer_same_seed"] = gr.Checkbox(
            False, label=label("longer_same_seed"), container=False, elem_id="longer-same-seed"
        )
        view["longer_length"] = gr.HTML("", elem_id="longer-length", js_on_load="")
        with gr.Row():
            view["longer_make"] = gr.Button(
                label("longer_make"), variant="primary", min_width=160, elem_id="longer-make"
            )
            view["longer_close"] = gr.Button(label("longer_close"), min_width=100, elem_id="longer-close")


class LongerHandlers:
    """What is pressed and moved in the panel, and the button that opens it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.services = desk.services
        self.view = desk.view

    @at_edge
    def open(self, data: Data, request: gr.Request) -> Updates:
        """The panel for the shown video, at the late frame that is sharp. Raises `InputError` for one that cannot be
        continued."""
        job = _done(self.desk.shown(data, request))
        check_can_run(self.services.engines[job.request.engine], job.request)
        with tempfile.TemporaryDirectory() as folder:
            wanted = request_to_continue(job.request, job.video_path, Wish(), Path(folder), self.services.refiner)
        going_on = wanted.request.continues
        assert going_on is not None, "it is what was asked for"
        frames = open_source(job.video_path).info.frames
        self.desk.change(request, longer=job.id)
        return {
            self.view["longer_frame"]: gr.update(
                minimum=max(frames - job.request.frames + 1, 1), maximum=frames - 1, value=going_on.frame
            ),
            self.view["longer_prompt"]: job.request.prompt,
            self.view["longer_same_seed"]: False,
            **self._look_of(job, going_on.frame, frames),
        }

    @at_edge
    def look(self, data: Data, request: gr.Request) -> Updates:
        """The frame that the slider names, and how long the video gets with it."""
        job = _done(self.desk.shown(data, request))
        return self._look_of(job, int(data[self.view["longer_frame"]]), open_source(job.video_path).info.frames)

    @at_edge
    def make(self, data: Data, request: gr.Request) -> Updates:
        """Queues the longer video, with exactly the prompt that stands in the panel."""
        job = _done(self.desk.shown(data, request))
        wish = Wish(
            frame=int(data[self.view["longer_frame"]]),
            prompt=data[self.view["longer_prompt"]] or "",
            seed=job.request.seed if data[self.view["longer_same_seed"]] else None,
            refine="off",
        )
        check_can_run(self.services.engines[job.request.engine], job.request)
        with tempfile.TemporaryDirectory() as folder:
            wanted = request_to_continue(job.request, job.video_path, wish, Path(folder), self.services.refiner)
            made = self.services.store.submit(wanted.request, self.desk.owner(request))
        told = " ".join(notes.html(notice) for notice in wanted.notices)
        self.desk.change(request, longer=None, note=told)
        return self.desk.show(made.id, request)

    @at_edge
    def close(self, request: gr.Request) -> None:
        self.desk.change(request, longer=None)

    def _look_of(self, job: Job, frame: int, frames: int) -> Updates:
        return {
            self.view["longer_picture"]: _picture_html(read_frame(job.video_path, frame), frame),
            self.view["longer_length"]: f'<p class="quiet">{both(length_words(job, frame, frames))}</p>',
        }


def length_words(job: Job, frame: int, frames: int) -> Text:
    """What comes out: what is kept, what is cut, what is new."""
    new, fps = job.request.frames - 1, job.request.fps
    total = frame + 1 + new
    cut = frames - 1 - frame
    return Text(
        f"{total / fps:.1f} s, {total} frames: {frame + 1} are kept, {cut} cut away, {new} new. Now: "
        f"{numbers_of(job.request).en}.",
        f"共 {total / fps:.1f} 秒、{total} 帧：保留 {frame + 1} 帧，裁去 {cut} 帧，新增 {new} 帧。"
        f"现在：{numbers_of(job.request).zh}。",
    )


def _done(job: Job) -> Job:
    if job.state != "done":
        raise InputError(*_NOT_DONE)
    return job


def _picture_html(pixels: U8Image, frame: int) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((SHOWN_SIDE_PX, SHOWN_SIDE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    words = both(Text(f"The new clip begins with frame {frame}.", f"新片段从第 {frame} 帧开始。"))
    return f'<figure><img src="{url}" alt=""><figcaption class="quiet">{words}</figcaption></figure>'


def is_open(longer: str | None, job: Job | None) -> bool:
    """Whether the panel belongs to the job on the screen."""
    return longer is not None and job is not None and job.id == longer and job.state == "done"
