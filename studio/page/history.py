"""What was made: the gallery with its search, favourites and selection, deleting with undo, clean-up, reuse."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import gradio as gr

from i2v_pipeline.aftercare.length import length_of
from i2v_pipeline.errors import InputError
from i2v_pipeline.types import Text
from studio.jobs.erasing import erase
from studio.jobs.store import JobStore
from studio.jobs.types import POSTER_NAME, Job
from studio.library import CleanUp, bytes_of, clean_up_by_age, clean_up_by_size
from studio.page.desk import PAGE_OF_JOBS, Data, Desk, Look, OpenPage, Updates
from studio.page.edge import at_edge
from studio.page.icons import icon
from studio.page.notes import name_of
from studio.page.quality import is_broken, warning_html
from studio.page.status import MEDIA
from studio.page.text import both, escape, size
from studio.page.words import STATES

ALL_ENGINES = "all"
GB = 10**9
AGES_DAYS = {"older_7": 7, "older_30": 30, "older_90": 90}
SIZES_BYTES = {"size_1": GB, "size_5": 5 * GB, "size_20": 20 * GB}

ON_LOAD = """
window.studio.keepFocus(element, watch);
const chosen = new Set();
const apply = () => {
  const boxes = [...element.querySelectorAll('[data-choose]')];
  const there = new Set(boxes.map((box) => box.dataset.choose));
  for (const job of chosen) if (!there.has(job)) chosen.delete(job);
  for (const box of boxes) box.checked = chosen.has(box.dataset.choose);
  const bar = element.querySelector('.choice-bar');
  if (!bar) return;
  bar.hidden = !chosen.size;
  element.firstElementChild.classList.toggle('choosing', chosen.size > 0);
  for (const count of bar.querySelectorAll('[data-count]')) count.textContent = chosen.size;
  const done = boxes.filter((box) => box.checked && box.dataset.done).map((box) => box.dataset.choose);
  const zip = bar.querySelector('[data-zip]');
  zip.hidden = !done.length;
  zip.href = 'studio/export.zip?jobs=' + done.join(',');
  for (const count of bar.querySelectorAll('[data-done-count]')) count.textContent = done.length;
};
watch('value', apply);
element.addEventListener('change', (event) => {
  const job = event.target.dataset.choose;
  if (!job) return;
  event.target.checked ? chosen.add(job) : chosen.delete(job);
  apply();
});
element.addEventListener('click', (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  const pressed = event.target.closest('[data-act], [data-job]');
  if (!pressed) return;
  event.preventDefault();
  const act = pressed.dataset.act ?? 'open';
  if (act === 'choose_none') { chosen.clear(); apply(); return; }
  const jobs = act === 'delete_chosen' ? [...chosen] : [pressed.dataset.of ?? pressed.dataset.job];
  trigger('act_on_history', {act, jobs});
});
"""
ON_DISK = """
window.studio.keepFocus(element, watch);
element.addEventListener('click', (event) => {
  const act = event.target.closest('[data-act]')?.dataset.act;
  if (act) trigger('act_on_disk', {act});
});
"""


class HistoryHandlers:
    """What is typed and pressed in the history, and below the video where it concerns the job as a whole."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.store = desk.services.store
        self.view = desk.view

    @at_edge
    def look(self, data: Data, request: gr.Request) -> None:
        """The search, the engine and the favourites that were chosen; from the newest on."""
        engine = data[self.view["filter_engine"]]
        look = Look(
            search=(data[self.view["search"]] or "").strip(),
            engine=None if engine == ALL_ENGINES else engine,
            favourites=bool(data[self.view["favourites"]]),
        )
        self.desk.change(request, look=look)

    @at_edge
    def act_on_history(self, event: gr.EventData, request: gr.Request) -> Updates:
        """One of the buttons in the gallery."""
        page = self.desk.page(request)
        if event.act == "more":
            self.desk.change(request, look=replace(page.look, limit=page.look.limit + PAGE_OF_JOBS))
        elif event.act == "undo":
            for job_id in page.undo:
                self.store.restore(job_id)
            self.desk.change(request, undo=())
        elif event.act == "put_away":
            self.desk.change(request, undo=())
        else:
            jobs = [self.desk.find(job_id, request) for job_id in event.jobs]
            if event.act == "open":
                return self.desk.show(jobs[0].id, request)
            if event.act == "star":
                self.store.set_favourite(jobs[0].id, not jobs[0].favourite)
            elif event.act == "delete_chosen":
                return self._delete(jobs, request)
        return {self.view["shown"]: gr.skip()}

    @at_edge
    def delete(self, data: Data, request: gr.Request) -> Updates:
        """Deletes the job on the screen."""
        return self._delete([self.desk.shown(data, request)], request)

    @at_edge
    def look_at_clean_up(self, data: Data, request: gr.Request) -> None:
        """Works out what the chosen clean-up would delete, and asks."""
        page, rule = self.desk.page(request), data[self.view["clean_rule"]]
        jobs = everything(page.owner, self.store)
        if rule in AGES_DAYS:
            found = clean_up_by_age(jobs, days=AGES_DAYS[rule], now=time.time())
        else:
            found = clean_up_by_size(jobs, max_bytes=SIZES_BYTES[rule])
        self.desk.change(request, clean_up=found)

    @at_edge
    def act_on_disk(self, event: gr.EventData, request: gr.Request) -> None:
        """The answer to what a clean-up asked. What became a favourite meanwhile stays."""
        page = self.desk.page(request)
        self.desk.change(request, clean_up=None)
        if event.act != "clean_up" or page.clean_up is None:
            return
        there = {job.id: job for job in everything(page.owner, self.store)}
        for job in page.clean_up.jobs:
            if job.id in there and not there[job.id].favourite:
                self.store.delete(job.id)
                erase(self.store, job.id)

    def _delete(self, jobs: Sequence[Job], request: gr.Request) -> Updates:
        running = [job for job in jobs if job.state == "running"]
        if running:
            name = name_of(running[0])
            raise InputError(
                f"{name.en} is being made: a running job cannot be deleted. Cancel it first.",
                f"{name.zh} 正在生成：运行中的任务不能删除。请先取消。",
            )
        for job in jobs:
            self.store.delete(job.id)
        self.desk.change(request, undo=tuple(job.id for job in jobs))
        page = self.desk.page(request)
        if page.job not in page.undo:
            return {self.view["shown"]: gr.skip()}
        newest = self.store.unfinished(page.owner) or self.store.list(page.owner, limit=1)
        self.desk.change(request, job=newest[0].id if newest else None)
        return {self.view["shown"]: newest[0].id if newest else None}


def everything(owner: str, store: JobStore) -> list[Job]:
    """All of the owner's jobs that are not deleted."""
    return store.list(owner, limit=10**6)


def listing(page: OpenPage, store: JobStore, unfinished: int) -> list[Job]:
    """What the page looks at of all that is over, and one more where there is more; the rest stands in the queue."""
    look, limit = page.look, page.look.limit + 1
    jobs = store.list(
        page.owner, limit=limit + unfinished, search=look.search, engine=look.engine, favourites=look.favourites
    )
    return [job for job in jobs if job.over][:limit]


def history_html(jobs: Sequence[Job], page: OpenPage) -> str:
    """The jobs as `listing` gives them, newest first, each a link to itself."""
    undo = _undo_html(page.undo)
    if not jobs:
        is_all = page.look == Look(limit=page.look.limit)
        words = (
            Text("Your videos gather here.", "你的视频会保存在这里。")
            if is_all
            else Text("Nothing here fits the search.", "没有符合条件的视频。")
        )
        return f'<div class="history none">{undo}<p class="quiet">{both(words)}</p></div>'
    items = "".join(_item(job, is_shown=job.id == page.job) for job in jobs[: page.look.limit])
    more = ""
    if len(jobs) > page.look.limit:
        more = _button("more", Text("Show more", "显示更多"), "more")
    return f'<div class="history">{undo}{_CHOICE_BAR}<ul>{items}</ul>{more}</div>'


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many jobs an owner has, and how many bytes they take on the disk."""

    jobs: int
    taken_bytes: int


@functools.lru_cache(maxsize=64)
def room_of(store: JobStore, owner: str, mark: object) -> Room:
    """Looked up once for each `mark`, as `JobStore.mark_of` gives it: it takes a third of a second for 1000 jobs."""
    jobs = everything(owner, store)
    return Room(jobs=len(jobs), taken_bytes=sum(bytes_of(job) for job in jobs))


def disk_html(room: Room, asked: CleanUp | None) -> str:
    """What the owner's jobs take on the disk; below it what a clean-up would delete."""
    if not room.jobs:
        return ""
    count, taken = room.jobs, size(room.taken_bytes)
    line = Text(f"{count} {'job' if count == 1 else 'jobs'} · {taken} on the disk", f"{count} 个任务 · 占用 {taken}")
    return f'<p class="quiet">{both(line)}</p>{_question(asked)}'


def _question(asked: CleanUp | None) -> str:
    if asked is None:
        return ""
    left = size(asked.kept_bytes)
    if not asked.jobs:
        words = Text(
            f"Nothing would go. Favourites and jobs that wait or run always stay; {left} are left.",
            f"没有可清理的内容。收藏的、排队或运行中的任务始终保留；共占用 {left}。",
        )
        seen = _button("keep", Text("All right", "知道了"))
        return f'<div class="note" role="status"><p>{both(words)}</p>{seen}</div>'
    count, freed = len(asked.jobs), size(asked.freed_bytes)
    words = Text(
        f"{count} {'job goes' if count == 1 else 'jobs go'} for good, which frees {freed}; {left} are left. "
        "Favourites and jobs that wait or run stay. This cannot be undone.",
        f"将永久删除 {count} 个任务，释放 {freed}，剩余 {left}。收藏的、排队或运行中的任务保留。此操作无法撤销。",
    )
    buttons = _button("clean_up", Text(f"Delete {count}", f"删除 {count} 个"), "stop") + _button(
        "keep", Text("Keep everything", "全部保留")
    )
    return f'<div class="note" role="alert"><p>{both(words)}</p>{buttons}</div>'


def _undo_html(undo: Sequence[str]) -> str:
    if not undo:
        return ""
    count = len(undo)
    jobs = "One job was deleted" if count == 1 else f"{count} jobs were deleted"
    words = Text(f"{jobs}; the files go after a day.", f"已删除 {count} 个任务，文件将在一天后清除。")
    away = f'<span class="sr-only">{both(Text("Put this note away", "收起提示"))}</span>'
    return (
        f'<div class="note" role="status"><p>{both(words)}</p>{_button("undo", Text("Undo", "撤销"))}'
        f'<button type="button" class="away" data-act="put_away">×{away}</button></div>'
    )


def _button(act: str, words: Text, kind: str = "") -> str:
    return f'<button type="button" class="{kind}" data-act="{act}" data-key="{act}">{both(words)}</button>'


def _counted(text: Text, mark: str) -> str:
    """The sentence, in which the browser fills in the number."""
    number = f"<span {mark}></span>"
    return both(text).replace("#", number)


_CHOSEN = _counted(Text("# chosen", "已选 # 个"), "data-count")
_ZIP = _counted(Text("Videos and reports as a zip (#)", "打包下载视频与报告（#）"), "data-done-count")
_CHOICE_BAR = (
    f'<div class="note choice-bar" role="status" hidden><p>{_CHOSEN}</p>'
    f'<a data-zip data-key="zip" download>{_ZIP}</a>'
    f"{_button('delete_chosen', Text('Delete', '删除'))}{_button('choose_none', Text('Choose none', '取消选择'))}</div>"
)


def _item(job: Job, *, is_shown: bool) -> str:
    is_done = job.state == "done"
    picture = f"{MEDIA}/{job.id}/{POSTER_NAME if is_done else 'input'}"
    badge = "" if is_done else f'<span class="state {job.state}">{both(STATES[job.state])}</span>'
    if is_broken(job):
        badge = warning_html()
    made = time.strftime("%m-%d %H:%M", time.localtime(job.created))
    current = ' aria-current="true"' if is_shown else ""
    name = escape(job.request.prompt.strip()[:40]) or "—"
    star, choose = both(Text("Favourite", "收藏")), both(Text("Choose", "选择"))
    pressed = str(job.favourite).lower()
    return (
        f'<li><a href="?job={job.id}" data-job="{job.id}" data-key="open:{job.id}"{current}>'
        f'<span class="thumb"><img src="{picture}" alt="" loading="lazy">{badge}</span>'
        f'<span class="caption">{escape(job.request.prompt) or "—"}</span>'
        f'<span class="quiet">{made} · {length_of(job.request).seconds:.1f} s</span></a>'
        f'<label class="choose"><input type="checkbox" data-choose="{job.id}" data-key="choose:{job.id}"'
        f'{" data-done=1" if is_done else ""}><span class="sr-only">{choose}: {name}</span></label>'
        f'<button type="button" class="star" data-act="star" data-of="{job.id}" data-key="star:{job.id}"'
        f' aria-pressed="{pressed}">{icon("star")}<span class="sr-only">{star}: {name}</span></button></li>'
    )
