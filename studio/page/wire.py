"""Which event of which component calls which handler. Makes no component and decides nothing."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component

from studio.page.comparing import ASKED, CompareHandlers
from studio.page.desk import Desk
from studio.page.events import Handlers
from studio.page.history import HistoryHandlers
from studio.page.live import FOLLOWED, Live
from studio.page.longer import PARTS as LONGER_PARTS
from studio.page.longer import LongerHandlers
from studio.page.newer import fill
from studio.page.queue import QueueHandlers
from studio.page.refine_events import wire_refine
from studio.page.reuse import ReuseHandlers
from studio.page.subjects import PICTURES

# No event is part of the public API, which has endpoints of its own. Values come as they are: Gradio's own reading of a
# picture forgets its rotation and depth and tells a reader's error with the path of the file, and a number out of range
# is refused in English.
PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
EVENT: dict[str, Any] = {"concurrency_limit": None, **PRIVATE}
# Gradio drops a press whose like is still under way. Of two choices the later one counts; two examples are answered in
# their order; and each press on a list is one of its own.
CHOICE: dict[str, Any] = {**EVENT, "trigger_mode": "always_last"}
IN_TURN: dict[str, Any] = {**PRIVATE, "concurrency_limit": 1, "trigger_mode": "multiple"}
PRESS: dict[str, Any] = {**EVENT, "trigger_mode": "multiple"}

# Two changes at once are two requests, and the later one may arrive first.
_COUNT = "(...values) => [...values.slice(0, -1), window.studio.count()]"
# The address names the job, so a reload and a second tab each find their own.
_SHOW_JOB = "(job) => window.studio.showJob(job)"


def wire(page: gr.Blocks, desk: Desk) -> None:
    """All events of the page."""
    form, view = desk.form, desk.view
    refined = [view[name] for name in ("proposal", "refine_panel", "use_refined", "keep_mine", "undo_refine")]
    everything = [*form.values(), view["engine_note"], view["lacks"], *refined]
    opened = [view["client"], view["shown"], view["show_picture"], *everything, *(view[name] for name in FOLLOWED)]
    page.load(Live(desk).live, {view["client"], view["draft"]}, opened, **EVENT)
    handlers = Handlers(desk)
    _wire_form(desk, handlers, everything)
    wire_refine(desk.refining, everything, EVENT)
    _wire_jobs(desk, handlers, everything)
    _wire_longer(desk, LongerHandlers(desk))
    _wire_reuse(desk, ReuseHandlers(desk), everything)
    _wire_lists(desk, everything)
    _wire_compare(desk, CompareHandlers(desk))


def _wire_form(desk: Desk, handlers: Handlers, everything: list[Component]) -> None:
    """What is typed: the plan, the draft, the settings behind engine and preset."""
    form, view = desk.form, desk.view
    fields = set(form.values())
    several = [view["pictures"], view["each_line"], *(view[name] for name in ASKED)]
    plan: dict[str, Any] = {
        "fn": handlers.plan,
        "inputs": {*fields, *several, view["proposal"], view["planned"], view["count"]},
        "outputs": [view[name] for name in ("plan", "seen", "draft", "planned", "advice", "edited", "compare_plan")],
        "js": _COUNT,
        # One at a time and in the queue: otherwise answers overtake each other, and an old plan would stay.
        "concurrency_limit": 1,
        **PRIVATE,
    }
    changes = [component.change for component in (*form.values(), *several, view["proposal"])]
    gr.on(changes, **plan, trigger_mode="always_last")
    for field in PICTURES:
        form[field].upload(handlers.check_picture, fields, None, **EVENT).failure(
            None, None, form[field], js="() => null", **PRIVATE
        )
    noted = [*form.values(), view["engine_note"], view["lacks"]]
    fill(view["seen"].move_reference, handlers.move_reference, fields, list(form.values()), **EVENT)
    form["image"].change(handlers.look_for_subject, fields, [view["subject"]], trigger_mode="always_last", **EVENT)
    fill(form["preset"].input, handlers.choose_preset, fields, list(form.values()), **CHOICE)
    fill(form["engine"].input, handlers.choose_engine, fields, noted, **CHOICE)
    fill(view["plan"].take_offer, handlers.take_offer, fields, noted, **EVENT)
    remedied = {*fields, *several, view["proposal"]}
    fill(view["plan"].take_remedy, handlers.take_remedy, remedied, list(form.values()), **EVENT)
    fill(view["examples"].pick_example, handlers.pick_example, None, everything, **IN_TURN)


def _wire_jobs(desk: Desk, handlers: Handlers, everything: list[Component]) -> None:
    """What makes a job, and what happens to the one on the screen."""
    fields, view = set(desk.form.values()), desk.view
    shown = {view["shown"]}
    wanted = {*fields, view["proposal"], view["pictures"], view["each_line"]}
    _then_show(desk, fill(view["generate"].click, handlers.generate, wanted, [view["shown"], *everything], **EVENT))
    _then_show(desk, view["again"].click(handlers.again, shown, [view["shown"]], **EVENT))
    _then_show(desk, view["retry"].click(handlers.retry, shown, [view["shown"]], **EVENT))
    view["cancel"].click(handlers.cancel, shown, None, **EVENT)


def _wire_longer(desk: Desk, handlers: LongerHandlers) -> None:
    """The panel that makes the video on the screen longer."""
    view = desk.view
    shown, frame = view["shown"], view["longer_frame"]
    parts = [view[name] for name in LONGER_PARTS]
    fill(view["longer"].click, handlers.open, {shown}, parts, **EVENT)
    look = [view["longer_picture"], view["longer_length"]]
    frame.input(handlers.look, {shown, frame}, look, trigger_mode="always_last", **EVENT)
    view["longer_close"].click(handlers.close, None, None, **EVENT)
    wanted = {shown, frame, view["longer_prompt"], view["longer_same_seed"]}
    _then_show(desk, view["longer_make"].click(handlers.make, wanted, [shown], **EVENT))


def _wire_reuse(desk: Desk, handlers: ReuseHandlers, everything: list[Component]) -> None:
    """What fills the form from something that was made."""
    fields, view = set(desk.form.values()), desk.view
    filled = [view["shown"], *everything]
    parts = {*fields, view["shown"], view["parts"], view["proposal"]}
    fill(view["reuse"].click, handlers.reuse, parts, filled, **EVENT)
    fill(view["last_frame"].click, handlers.last_frame, {view["shown"]}, filled, **EVENT)
    fill(view["restore"].upload, handlers.restore, {*fields, view["restore"], view["proposal"]}, filled, **EVENT)
    advised = {*fields, view["shown"], view["proposal"]}
    fill(view["details"].take_advice, handlers.take_advice, advised, filled, **EVENT)
    fill(view["note"].act_on_note, handlers.act_on_note, None, filled, **EVENT)


def _wire_lists(desk: Desk, everything: list[Component]) -> None:
    """The queue and the history."""
    fields, view = set(desk.form.values()), desk.view
    queue, history = QueueHandlers(desk), HistoryHandlers(desk)
    filled = [view["shown"], *everything]
    acted = fill(view["queue"].act_on_job, queue.act_on_job, {*fields, view["proposal"]}, filled, **PRESS)
    _then_show(desk, acted)
    fill(view["note"].stop_editing, queue.stop_editing, None, filled, **EVENT)
    _then_show(desk, view["history"].act_on_history(history.act_on_history, None, [view["shown"]], **PRESS))
    _then_show(desk, view["delete"].click(history.delete, {view["shown"]}, [view["shown"]], **EVENT))
    looked_for = [view[name] for name in ("search", "filter_engine", "favourites")]
    gr.on(
        [component.change for component in looked_for], history.look, set(looked_for), None,
        trigger_mode="always_last", **EVENT,
    )  # fmt: skip
    view["look_at_clean_up"].click(history.look_at_clean_up, {view["clean_rule"]}, None, **EVENT)
    view["disk"].act_on_disk(history.act_on_disk, None, None, **PRESS)


def _wire_compare(desk: Desk, handlers: CompareHandlers) -> None:
    """The comparison: what is chosen, and what is pressed in its grid."""
    fields, view = set(desk.form.values()), desk.view
    asked = {*fields, view["proposal"], *(view[name] for name in ASKED)}
    rows = [view[name] for name in ("x_row", "y_row", "draft_count", "compare")]
    view["compare_mode"].change(handlers.choose_mode, {view["compare_mode"]}, rows, **EVENT)
    fill(view["x_field"].input, handlers.propose_x, asked, [view["x_values"]], **CHOICE)
    fill(view["y_field"].input, handlers.propose_y, asked, [view["y_values"]], **CHOICE)
    fill(view["compare_plan"].take_remedy, handlers.take_remedy, asked, list(desk.form.values()), **EVENT)
    view["compare"].click(handlers.start, asked, [view["shown"]], **EVENT)
    _then_show(desk, view["comparison"].act_on_comparison(handlers.act_on_comparison, None, [view["shown"]], **PRESS))


def _then_show(desk: Desk, event: Any) -> None:  # noqa: ANN401 - Gradio's Dependency has no public type
    event.success(None, desk.view["shown"], None, js=_SHOW_JOB, **PRIVATE)
