"""The jobs that wait and run, in the order they run, and what a person may do with each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gradio as gr

from i2v_pipeline.types import Text
from studio.jobs.store import Job
from studio.jobs.types import JobError
from studio.page import draft, notes
from studio.page.desk import Data, Desk, Updates
from studio.page.edge import at_edge
from studio.page.form import request_values
from studio.page.icons import icon
from studio.page.plan import numbers_of
from studio.page.refine import taken_before
from studio.page.services import Services
from studio.page.status import MEDIA
from studio.page.text import both, escape
from studio.page.words import STATES

PAUSED = Text("Paused", "已暂停")
PAUSING = Text("pausing …", "正在暂停 …")

ON_LOAD = """
window.studio.keepFocus(element, watch);
element.addEventListener('click', (event) => {
  const pressed = event.target.closest('[data-act], [data-job]');
  if (!pressed || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  if (pressed.getAttribute('aria-disabled') === 'true') return;
  trigger('act_on_job', {act: pressed.dataset.act ?? 'open', job: pressed.dataset.job});
});
"""


class QueueHandlers:
    """What is pressed in the queue, and in the note above the form while a waiting job is edited."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.store = desk.services.store

    @at_edge
    def act_on_job(self, data: Data, event: gr.EventData, request: gr.Request) -> Updates:
        """One of the buttons of a row. Raises `JobError` where the job has gone on meanwhile."""
        job = self.desk.find(event.job, request)
        nothing = {self.desk.view["shown"]: gr.skip()}
        if event.act == "open":
            return self.desk.show(job.id, request)
        if event.act == "edit":
            return self._edit(job, data, request)
        {
            "up": self.store.move_up,
            "down": self.store.move_down,
            "hold": self.store.hold,
            "release": self.store.release,
            "remove": self.store.cancel,
        }[event.act](job.id)
        return nothing

    @at_edge
    def stop_editing(self, request: gr.Request) -> Updates:
        """The form as it was before; the job keeps the settings that it has."""
        return {self.desk.view["shown"]: gr.skip(), **self.desk.leave_editing(request, "")}

    def _edit(self, job: Job, data: Data, request: gr.Request) -> Updates:
        if job.state != "queued":
            raise JobError(*notes.STARTED)
        page, values = self.desk.page(request), self.desk.values(data)
        before = page.before or draft.write(values, data[self.desk.view["proposal"]])
        self.desk.change(request, editing=job.id, before=before, note=notes.editing(job))
        pictures = {"image": job.request.images[0], "last_image": job.request.last_image}
        cached = {field: path and self.desk.cached(path) for field, path in pictures.items()}
        settings = {**request_values(job.request), **cached}
        return self.desk.fill(settings, taken_before(job.request.origin, job.request.motion))


def queue_html(jobs: Sequence[Job], services: Services, *, shown: str | None, editing: str | None) -> str:
    """The owner's unfinished jobs in the order they run; empty where all there is runs and is on the screen."""
    waiting = [job.id for job in jobs if job.state == "queued"]
    if not waiting and all(job.id == shown for job in jobs):
        return ""
    rows = "".join(
        _row(
            job,
            services,
            place=waiting.index(job.id) if job.id in waiting else None,
            waiting=len(waiting),
            marks={"shown": job.id == shown, "edited": job.id == editing},
        )
        for job in jobs
    )
    title = both(Text("Queue", "排队"))
    count = both(Text(f"{len(waiting)} waiting", f"{len(waiting)} 个等待中"))
    return f'<section class="queue"><h2>{title} <span class="quiet">{count}</span></h2><ol>{rows}</ol></section>'


def _row(job: Job, services: Services, *, place: int | None, waiting: int, marks: Mapping[str, bool]) -> str:
    spec = services.engines.get(job.request.engine)
    classes = " ".join(name for name, is_so in marks.items() if is_so)
    engine = both(spec.title) if spec else escape(job.request.engine)
    current = ' aria-current="true"' if marks["shown"] else ""
    return (
        f'<li class="{classes}" data-row="{job.id}"><span class="place">{"" if place is None else place + 1}</span>'
        f'<a href="?job={job.id}" data-job="{job.id}" data-key="open:{job.id}"{current}>'
        f'<img src="{MEDIA}/{job.id}/input?v={job.version if job.state == "queued" else 0}" alt="" loading="lazy">'
        f'<span class="words"><span class="caption">{escape(job.request.prompt) or "—"}</span>'
        f'<span class="quiet">{engine} · {both(numbers_of(job.request))}</span></span></a>'
        f'{_badge(job)}<span class="acts">{_acts(job, place, waiting)}</span></li>'
    )


def _badge(job: Job) -> str:
    if job.held:
        words = PAUSED if job.state == "queued" else PAUSING
        return f'<span class="state held">{both(words)}</span>'
    return f'<span class="state {job.state}">{both(STATES[job.state])}</span>'


def _acts(job: Job, place: int | None, waiting: int) -> str:
    name = job.request.prompt.strip()[:40] or "—"
    hold = ("release", "play", Text("Go on", "继续")) if job.held else ("hold", "pause", Text("Pause", "暂停"))
    acts = []
    if place is not None:
        where = Text(f"{place + 1} of {waiting}", f"第 {place + 1} 个，共 {waiting} 个")
        acts += [
            ("up", "up", Text(f"Move up ({where.en})", f"上移（{where.zh}）"), place > 0),
            ("down", "down", Text(f"Move down ({where.en})", f"下移（{where.zh}）"), place < waiting - 1),
            ("edit", "edit", Text("Change the settings", "修改参数"), True),
        ]
    acts += [(*hold, True), ("remove", "remove", Text("Remove from the queue", "移出队列"), True)]
    return "".join(
        f'<button type="button" data-act="{act}" data-job="{job.id}" data-key="{act}:{job.id}"'
        f"{'' if is_possible else ' aria-disabled=true'}>{icon(drawing)}"
        f'<span class="sr-only">{both(words)}: {escape(name)}</span></button>'
        for act, drawing, words, is_possible in acts
    )
