"""The jobs that wait and run, in the order they run, and what a person may do with each of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import gradio as gr

from i2v_pipeline.planning.compiling import may_compile, shape_of
from i2v_pipeline.presets import find_engine
from i2v_pipeline.types import Text
from studio.compile_offer import compile_offer
from studio.jobs.types import Job, JobError
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
from studio.plans import learned_in, machine_now, once_for_each_kind, plan_here

log = logging.getLogger("studio.page")

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
        if event.act == "compile":
            return self._compile(job, request)
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
        if job.request.continues is not None:
            raise JobError(*notes.CONTINUES)
        page, values = self.desk.page(request), self.desk.values(data)
        before = page.before or draft.write(values, data[self.desk.view["proposal"]])
        self.desk.change(request, editing=job.id, before=before, note=notes.editing(job))
        settings = {**request_values(job.request), "image": job.request.images[0]}
        settings |= {field: self.desk.cached(path) for field, path in settings.items() if isinstance(path, Path)}
        return self.desk.fill(settings, taken_before(job.request.origin, job.request.motion))

    def _compile(self, job: Job, request: gr.Request) -> Updates:
        """All waiting jobs that share one compiling with `job` get it; what has begun meanwhile stays as it is."""
        page, done = self.desk.page(request), 0
        for each in _alike(self.store.unfinished(page.owner), page.editing).get(shape_of(job.request), ()):
            try:
                self.store.edit(each.id, replace(each.request, compiled=True))
                done += 1
            except JobError:
                log.info("Job %s has begun, and is not compiled", each.id)
        self.desk.change(request, note=notes.html(notes.compiled(done)))
        return {self.desk.view["shown"]: gr.skip()}


def _alike(jobs: Sequence[Job], editing: str | None) -> dict[tuple[object, ...], list[Job]]:
    """The waiting jobs that would share one compiling, where there are several.

    One that has begun would lose what it saved.
    """
    groups: dict[tuple[object, ...], list[Job]] = {}
    for job in jobs:
        if job.state == "queued" and job.started is None and job.id != editing and may_compile(job.request):
            groups.setdefault(shape_of(job.request), []).append(job)
    return {shape: group for shape, group in groups.items() if len(group) > 1}


def _offers(jobs: Sequence[Job], services: Services, editing: str | None) -> Iterator[str]:
    """For each group of waiting jobs that compiling pays for, what it takes and saves, with a button."""
    book = learned_in(services.store.data)
    for group in _alike(jobs, editing).values():
        spec = find_engine(group[0].request.engine)
        plan_of = once_for_each_kind(lambda request, spec=spec: plan_here(spec, request, book=book))
        offer = compile_offer([job.request for job in group], machine_now(), plan_of)
        if offer is not None:
            button = both(Text(f"Compile these {len(group)}", f"编译这 {len(group)} 个"))
            yield (
                f'<p class="offer"><span>{both(offer.message)}</span><button type="button" data-act="compile" '
                f'data-job="{group[0].id}" data-key="compile:{group[0].id}">{button}</button></p>'
            )


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
    offers = "".join(_offers(jobs, services, editing))
    return (
        f'<section class="queue"><h2>{title} <span class="quiet">{count}</span></h2>{offers}<ol>{rows}</ol></section>'
    )


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
            ("edit", "edit", Text("Change the settings", "修改参数"), job.request.continues is None),
        ]
    acts += [(*hold, True), ("remove", "remove", Text("Remove from the queue", "移出队列"), True)]
    return "".join(
        f'<button type="button" data-act="{act}" data-job="{job.id}" data-key="{act}:{job.id}"'
        f"{'' if is_possible else ' aria-disabled=true'}>{icon(drawing)}"
        f'<span class="sr-only">{both(words)}: {escape(name)}</span></button>'
        for act, drawing, words, is_possible in acts
    )
