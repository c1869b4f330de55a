"""Fills a page that was opened, and sends it what changes for as long as it is open. Decides nothing.

A Gradio event is not a job: a page finds its job again after a reload, a lost connection or a restart, because
everything it shows is read from the store. This one event writes the job's status, the queue, the history and the
comparison, so that no two answers ever overtake each other there.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator

import gradio as gr

from studio.jobs.types import Job
from studio.page import draft, history, longer, notes, queue, status
from studio.page.comparing import CompareHandlers
from studio.page.desk import Data, Desk, OpenPage, Updates
from studio.page.edge import at_edge
from studio.page.text import label

WATCH_EVERY_S = 0.1
"""How often a page looks at a job that is not over; only what changed is sent."""
LISTS_EVERY_S = 0.5
"""How often it looks whether anything changed in its queue and its history."""
FOLLOWED = (
    "queue", "history", "disk", "note", "generate", "status", "announcer", "screen", "details", "report", "report_box",
    "cancel", "again", "longer", "longer_box", "last_frame", "reuse", "parts", "retry", "delete", "comparison",
)  # fmt: skip
"""The components that this event writes, by name."""


class Live:
    """The event that every open page keeps under way."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.services = desk.services
        self.view = desk.view
        self.comparing = CompareHandlers(desk)

    @at_edge
    async def live(self, data: Data, request: gr.Request) -> AsyncIterator[Updates]:
        """Fills the page that was opened, and then follows the job that it shows, for as long as it is open.

        That one event of a page is always under way also keeps its stream of answers open: Gradio's client closes the
        stream after the last answer, and may lose one that is just then on its way.
        """
        session, owner = request.session_hash or "", self.desk.owner(request)
        opening = await asyncio.to_thread(self._opening, data, request.query_params.get("job"), owner)
        comparison = await asyncio.to_thread(self.comparing.opened, request.query_params.get("compare"), owner)
        self.desk.pages[session] = OpenPage(owner=owner, job=opening[self.view["shown"]], comparison=comparison)
        try:
            yield opening
            async for updates in self._follow(session):
                yield updates
        finally:
            del self.desk.pages[session]

    def _opening(self, data: Data, asked: str | None, owner: str) -> Updates:
        """The draft of before, and the job to show: the address's, else one that runs, else the newest."""
        self._adopt(data[self.view["client"]], owner)
        newest = (self.services.store.unfinished(owner) or self.services.store.list(owner, limit=1))[:1]
        updates: Updates = {
            self.view["client"]: None,
            self.view["shown"]: asked or (newest[0].id if newest else None),
        }
        updates |= self.desk.refining.opening()
        kept = draft.read(data[self.view["draft"]], self.services)
        return updates if kept is None else updates | self.desk.fill(kept.values, kept.proposal)

    def _adopt(self, client: object, owner: str) -> None:
        """Jobs of the name that earlier versions kept in the browser's storage, which only that browser knows."""
        if isinstance(client, str) and re.fullmatch(r"[A-Za-z0-9_-]{22}", client):
            self.services.store.adopt(client, owner)

    async def _follow(self, session: str) -> AsyncIterator[Updates]:
        """What changes about what the page shows; never ends by itself."""
        sent: Updates = {}
        listed: tuple[OpenPage, object] | None = None
        known: tuple[OpenPage, str | None] | None = None
        looked_at = -math.inf
        while True:
            # Of two answers within one frame of the browser the page would only take the second.
            await asyncio.sleep(WATCH_EVERY_S)
            page = self.desk.pages[session]
            job = await asyncio.to_thread(self.services.find_job, page.job, page.owner)
            updates = self._job_updates(job, page)
            if known != (page, job and job.state):
                # The screen first; the lists in the next round.
                known, looked_at = (page, job and job.state), -math.inf
            elif time.monotonic() - looked_at >= LISTS_EVERY_S:
                looked_at = time.monotonic()
                updates |= await asyncio.to_thread(self.comparing.updates, page)
                mark = await asyncio.to_thread(self.services.store.mark_of, page.owner)
                if listed != (page, mark):
                    listed = (page, mark)
                    updates |= await asyncio.to_thread(self._list_updates, page, mark)
            changed = {place: value for place, value in updates.items() if place not in sent or sent[place] != value}
            if changed:
                sent |= changed
                yield changed
            while (job is None or job.over) and self._is_idle(session, page, looked_at):
                await asyncio.sleep(WATCH_EVERY_S)

    def _is_idle(self, session: str, page: OpenPage, looked_at: float) -> bool:
        return self.desk.pages[session] == page and time.monotonic() - looked_at < LISTS_EVERY_S

    def _list_updates(self, page: OpenPage, mark: object) -> Updates:
        """The queue, the history, and what the page says about itself."""
        view, store = self.view, self.services.store
        unfinished = store.unfinished(page.owner)
        waiting = {job.id for job in unfinished if job.state == "queued"}
        is_late = page.editing is not None and page.editing not in waiting
        return {
            view["queue"]: queue.queue_html(unfinished, self.services, shown=page.job, editing=page.editing),
            view["history"]: history.history_html(history.listing(page, store, len(unfinished)), page),
            view["disk"]: history.disk_html(history.room_of(store, page.owner, mark), page.clean_up),
            view["note"]: notes.editing_too_late() if is_late else page.note,
            view["generate"]: gr.update(value=label(_generate_key(page))),
        }

    def _job_updates(self, job: Job | None, page: OpenPage) -> Updates:
        is_missing = job is None and page.job is not None
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
            view["longer"]: gr.update(visible=report is not None),
            view["longer_box"]: gr.update(visible=longer.is_open(page.longer, job)),
            view["last_frame"]: gr.update(visible=report is not None),
            view["reuse"]: gr.update(visible=over),
            view["parts"]: gr.update(visible=over),
            view["retry"]: gr.update(visible=over and report is None),
            view["delete"]: gr.update(visible=over),
        }


def _generate_key(page: OpenPage) -> str:
    if page.editing is not None:
        return "save_changes"
    return "generate" if page.videos == 1 else "generate_all"
