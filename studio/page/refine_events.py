"""The refine step's components, handlers and the events between them. Renders nothing and asks no LLM itself.

Whether a picture may leave is looked up when it would leave, not read from the page.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from typing import Any, get_args

import gradio as gr
from gradio.components import Component

from i2v_pipeline.errors import InputError
from i2v_pipeline.images import open_picture
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Text
from prompt_refiner import Fidelity, RefinerSettings, check_connection
from prompt_refiner.providers import load_providers
from prompt_refiner.striking import strike_out
from studio.consent import Consents, is_loopback
from studio.page import refine, refine_panel
from studio.page.advice import advice_for, advice_html
from studio.page.edge import at_edge
from studio.page.form import Form, preset_values, read_values
from studio.page.newer import fill
from studio.page.refine import Proposal
from studio.page.services import Services
from studio.page.subjects import pictures_on, references_on
from studio.page.text import label

Data = Mapping[Component, Any]
Updates = dict[Component, Any]

# The panel is drawn anew after each click, so what was in focus is found again by its name.
_ACT = """
const acts = ['strike', 'restore', 'consent', 'apply'];
const find = (names) => names.map((name) => element.querySelector(`[data-${name[0]}="${name[1]}"]`)).find(Boolean);
let wanted = null;
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  const act = button && acts.find((name) => name in button.dataset);
  if (!act) return;
  const what = button.dataset[act];
  wanted = [['strike', what], ['restore', what]];
  trigger(act, {what});
});
new MutationObserver(() => {
  if (!wanted || document.activeElement !== document.body) return;
  (find(wanted) ?? element.querySelector('button'))?.focus({preventScroll: true});
  wanted = null;
}).observe(element, {childList: true, subtree: true});
"""

NOTHING_TYPED = Text(
    "There is no prompt to refine yet. Write a sentence first.", "还没有可优化的提示词。请先写一句话。"
)
TESTING = Text("Testing the connection …", "正在测试连接 …")
EDITED_SINCE = Text(
    "You edited the text since: write it back in where you want it.", "文字已被修改：请直接写回你想要的位置。"
)


def make_refine(services: Services, view: dict[str, Any]) -> None:
    """The components below the prompt; fills `view`."""
    has_llm = services.refiner.configured
    view["refine_panel"] = gr.HTML("", elem_id="refine-panel", js_on_load=_ACT)
    view["edited"] = gr.HTML("", elem_id="edited", js_on_load="")
    view["advice"] = gr.HTML("", elem_id="advice", js_on_load=_ACT)
    with gr.Row(elem_id="refine-row"):
        view["refine"] = gr.Button(label("refine"), size="sm", min_width=120, elem_id="refine")
        view["use_refined"] = gr.Button(
            label("use_refined"), size="sm", variant="primary", min_width=120, visible=False, elem_id="use-refined"
        )
        view["keep_mine"] = gr.Button(label("keep_mine"), size="sm", min_width=100, visible=False, elem_id="keep-mine")
        view["undo_refine"] = gr.Button(
            label("undo_refine"), size="sm", min_width=120, visible=False, elem_id="undo-refine"
        )
    with gr.Row(elem_id="llm-row", visible=has_llm):
        view["fidelity"] = gr.Radio(
            [(label(f"fidelity_{name}"), name) for name in get_args(Fidelity)],
            value="strict",
            label=label("fidelity"),
            elem_id="fidelity",
            elem_classes="segmented",
        )
        view["show_picture"] = gr.Checkbox(
            False,
            label=label("show_picture"),
            container=False,
            min_width=160,
            visible=has_llm and sees_pictures(services.refiner),
            elem_id="show-picture",
        )
        view["test_llm"] = gr.Button(label("test_llm"), size="sm", min_width=100, elem_id="test-llm")
    # Two sentences in two places: what one event says of the picture would else be wiped away by another's answer.
    view["picture_note"] = gr.HTML("", elem_id="picture-note", js_on_load="")
    view["llm_note"] = gr.HTML("", elem_id="llm-note", js_on_load="")


def wire_refine(handlers: RefineHandlers, everything: list[Component], event: Mapping[str, Any]) -> None:
    """The step's events. `everything` is what a change of the whole form may fill; `event` are options of each."""
    form, view = handlers.form, handlers.view
    asked = {*form.values(), view["proposal"], view["show_picture"], view["fidelity"]}
    drawn = [view[name] for name in ("proposal", "refine_panel", "use_refined", "keep_mine", "undo_refine")]
    asking = [*drawn, view["show_picture"], view["picture_note"], view["llm_note"]]
    noted = [view["show_picture"], view["picture_note"], view["refine_panel"]]
    boxed = {view["proposal"], form["prompt"]}

    def or_empty(started: Any) -> None:  # noqa: ANN401 - Gradio's Dependency has no public type
        """Where it fails, no panel says for ever that it works."""
        quiet = {name: value for name, value in event.items() if name != "concurrency_limit"}
        started.failure(None, None, view["refine_panel"], js="() => ''", **quiet)

    or_empty(view["refine"].click(handlers.refine, asked, asking, **event))
    or_empty(view["refine_panel"].consent(handlers.answer, asked, asking, **event))
    # What the box is last set to is what counts, however fast that was.
    view["show_picture"].input(
        handlers.choose_picture, view["show_picture"], noted, trigger_mode="always_last", **event
    )
    view["test_llm"].click(handlers.test_connection, None, view["llm_note"], **event)
    fill(view["refine_panel"].strike, handlers.strike, boxed, everything, **event)
    fill(view["refine_panel"].restore, handlers.restore, boxed, everything, **event)
    fill(view["use_refined"].click, handlers.use_refined, {view["proposal"]}, everything, **event)
    view["keep_mine"].click(handlers.keep_mine, None, drawn, **event)
    fill(view["undo_refine"].click, handlers.undo_refine, {view["proposal"]}, everything, **event)
    fill(view["advice"].apply, handlers.apply, {*form.values(), view["proposal"]}, everything, **event)


class RefineHandlers:
    """The handlers of the refine step. `form` holds the components by field, `view` all others by name."""

    def __init__(self, services: Services, form: Form, view: dict[str, Any]) -> None:
        self.services = services
        self.form = form
        self.view = view
        self.consents = Consents(services.store.data)

    def updates(self, proposal: Proposal | None) -> Updates:
        """What the page shows of `proposal`, the one that it then has."""
        is_open = proposal is not None and not proposal.is_used
        is_change = proposal is not None and proposal.text != proposal.origin.typed
        return {
            self.view["proposal"]: proposal,
            self.view["refine_panel"]: refine_panel.panel(proposal),
            self.view["use_refined"]: gr.update(visible=is_open and is_change),
            self.view["keep_mine"]: gr.update(visible=is_open),
            self.view["undo_refine"]: gr.update(visible=proposal is not None and proposal.is_used),
        }

    def told(self, values: Mapping[str, Any], proposal: Proposal | None) -> Updates:
        """What depends on the form as it stands: the suggestions, and what the person changed in the text."""
        spec = self._spec(values)
        return {
            self.view["advice"]: advice_html(advice_for(values, proposal, self.services), values),
            self.view["edited"]: refine_panel.edited_html(values["prompt"] or "", proposal, spec),
        }

    def opening(self) -> Updates:
        """The box stands as the person once answered; an LLM on this machine may look. Part of the one event that opens
        the page: with a second one beside it, the page lost what the first restored."""
        return {self.view["show_picture"]: self._may_see() is True}

    @at_edge
    async def refine(self, data: Data) -> AsyncIterator[Updates]:
        """A proposal for the prompt in the box, which itself is not touched. Asks first where nobody ever said whether
        the picture may go there."""
        values = read_values(self.form, data)
        if not (values["prompt"] or "").strip():
            raise InputError(NOTHING_TYPED.en, NOTHING_TYPED.zh)
        pictures = pictures_on(self._spec(values), values)
        if pictures and self._may_see() is None:
            yield {self.view["refine_panel"]: refine_panel.question_html(self._host, len(pictures))}
            return
        async for updates in self._propose(data):
            yield updates

    @at_edge
    async def answer(self, data: Data, event: gr.EventData) -> AsyncIterator[Updates]:
        """Keeps whether the picture may go to the LLM, and refines by it."""
        allowed = event.what == "yes"
        self.consents.give_consent(self._host, allowed)
        yield {self.view["show_picture"]: allowed, self.view["picture_note"]: ""}
        if not (data[self.form["prompt"]] or "").strip():
            yield self.updates(data[self.view["proposal"]])
            return
        async for updates in self._propose({**data, self.view["show_picture"]: allowed}):
            yield updates

    @at_edge
    def choose_picture(self, ticked: bool) -> Updates:
        """Unticking takes the consent back; ticking asks for it where it was never given."""
        view, host = self.view, self._host
        if is_loopback(host):
            return {view["picture_note"]: ""}
        if not ticked:
            self.consents.give_consent(host, False)
            return {view["picture_note"]: refine_panel.note_html(refine_panel.taken_back(host))}
        if self._may_see():
            return {view["picture_note"]: ""}
        return {view["show_picture"]: False, view["refine_panel"]: refine_panel.question_html(host)}

    @at_edge
    async def test_connection(self) -> AsyncIterator[str]:
        yield refine_panel.note_html(TESTING)
        gone = threading.Event()
        try:
            found = await asyncio.to_thread(check_connection, self.services.refiner, cancelled=gone.is_set)
        finally:
            gone.set()
        yield refine_panel.connection_html(found)

    @at_edge
    def strike(self, data: Data, event: gr.EventData) -> Updates:
        """One addition out of the proposal, and out of the prompt box where it stands there."""
        before, prompt = data[self.view["proposal"]], data[self.form["prompt"]]
        after = refine.struck_out(before, int(event.what))
        updates = self.updates(after)
        if after.is_used:
            is_edited = prompt != before.text
            typed = after.origin.typed
            updates[self.form["prompt"]] = (
                strike_out(prompt, after.struck[-1:], typed=typed) if is_edited else after.text
            )
        return updates

    @at_edge
    def restore(self, data: Data, event: gr.EventData) -> Updates:
        before = data[self.view["proposal"]]
        after = refine.restored(before, int(event.what))
        if not after.is_used:
            return self.updates(after)
        if data[self.form["prompt"]] != before.text:
            raise InputError(EDITED_SINCE.en, EDITED_SINCE.zh)
        return {**self.updates(after), self.form["prompt"]: after.text}

    @at_edge
    def use_refined(self, data: Data) -> Updates:
        proposal = data[self.view["proposal"]]
        return {self.form["prompt"]: proposal.text, **self.updates(refine.used(proposal))}

    @at_edge
    def keep_mine(self) -> Updates:
        return self.updates(None)

    @at_edge
    def undo_refine(self, data: Data) -> Updates:
        return {self.form["prompt"]: data[self.view["proposal"]].origin.typed, **self.updates(None)}

    @at_edge
    def apply(self, data: Data, event: gr.EventData) -> Updates:
        """One suggestion, as it would be made now."""
        values = read_values(self.form, data)
        found = advice_for(values, data[self.view["proposal"]], self.services)
        updates: Updates = {}
        for each in found:
            if each.field == event.what:
                updates[self.form[each.field]] = each.value
                if each.field == "preset":
                    own = preset_values(self._spec(values), each.value)
                    updates |= {self.form[field]: value for field, value in own.items()}
        return updates

    async def _propose(self, data: Data) -> AsyncIterator[Updates]:
        values, before = read_values(self.form, data), data[self.view["proposal"]]
        spec = self._spec(values)
        paths, pictures = pictures_on(spec, values), []
        told: Updates = {self.view["llm_note"]: ""}
        if data[self.view["show_picture"]] and paths:
            if self._may_see():
                pictures = [(await asyncio.to_thread(open_picture, path)).source for path in paths]
            else:
                told[self.view["picture_note"]] = refine_panel.note_html(refine_panel.taken_back(self._host))
        yield {self.view["refine_panel"]: refine_panel.working_panel()}
        typed = values["prompt"]
        if before is not None and before.is_used and typed == before.text:
            typed = before.origin.typed
        gone = threading.Event()
        try:
            proposal = await asyncio.to_thread(
                refine.propose,
                typed,
                spec,
                self.services,
                pictures=pictures,
                subjects=[each.subject.name for each in references_on(spec, values)],
                fidelity=data[self.view["fidelity"]],
                is_gone=gone.is_set,
            )
        finally:
            gone.set()
        yield {**self.updates(proposal), **told}

    def _may_see(self) -> bool | None:
        """Whether the LLM may see pictures; None where nobody was asked yet."""
        settings = self.services.refiner
        if not settings.configured or not sees_pictures(settings):
            return False
        return self.consents.consent_for(self._host)

    @property
    def _host(self) -> str:
        return self.services.refiner.host or ""

    def _spec(self, values: Mapping[str, Any]) -> EngineSpec:
        return self.services.engines[values["engine"]]


def sees_pictures(settings: RefinerSettings) -> bool:
    """Whether the model that is set up takes pictures at all."""
    return load_providers()[settings.provider or ""].rule_for(settings.model or "").sees_pictures
