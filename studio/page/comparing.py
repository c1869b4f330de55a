"""The comparison's components and handlers: what is chosen, started, watched, cancelled and made final.

Writes no component that the live event writes: it changes what the page shows, and that event follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from i2v_pipeline.errors import InputError, StudioError
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Text
from studio.axes import FIELDS, propose_values, split_values
from studio.compare import (
    MAX_DRAFTS,
    Base,
    Sentence,
    check_models,
    draft_sketch,
    left_out,
    make_sketch,
    plan_total,
)
from studio.jobs.comparisons import Axis, Comparison, Comparisons, Sketch
from studio.jobs.types import Job
from studio.page import compare_view
from studio.page.desk import Data, Desk, OpenPage, Updates
from studio.page.edge import at_edge
from studio.page.form import read_choice, read_picture
from studio.page.refine import Proposal, motion_for, origin_for, used
from studio.page.remedies import changes_of, form_values
from studio.page.services import picture_facts
from studio.page.text import label

MODES = ("grid", "steps", "preview")
"""A grid over one or two axes, or drafts of either kind."""
NONE = "none"
SCRIPT = Path(__file__).resolve().parent / "assets" / "compare.js"
_TAKE_REMEDY = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-remedy]');
  if (button) trigger('take_remedy', {what: button.dataset.remedy});
});
"""
FORGOTTEN = Text("This comparison is not on the list any more.", "此对比已不在列表中。")
NOTHING = Text("Choose first what to compare.", "请先选择要对比的内容。")


def make_compare(view: dict[str, Any]) -> None:
    """The choice of what differs, its plan and its start; fills `view`."""
    view["compare_mode"] = gr.Radio(
        [(label(f"compare_{mode}"), mode) for mode in MODES],
        value=None,
        label=label("compare_mode"),
        elem_id="compare-mode",
        elem_classes="segmented",
    )
    for axis in ("x", "y"):
        with gr.Row(elem_classes="axis-row", visible=False) as view[f"{axis}_row"]:
            view[f"{axis}_field"] = gr.Dropdown(
                [(label(f"axis_{field}"), field) for field in (NONE, *FIELDS)],
                value=NONE,
                label=label(f"axis_{axis}"),
                filterable=False,
                min_width=150,
                elem_id=f"{axis}-field",
            )
            view[f"{axis}_values"] = gr.Textbox(
                label=label("axis_values"), lines=1, max_lines=6, min_width=200, elem_id=f"{axis}-values"
            )
    view["draft_count"] = gr.Slider(
        2, MAX_DRAFTS, value=4, step=1, label=label("draft_count"), visible=False, elem_id="draft-count"
    )
    view["compare_plan"] = gr.HTML("", elem_id="compare-plan", js_on_load=_TAKE_REMEDY)
    view["compare"] = gr.Button(label("compare"), size="sm", visible=False, elem_id="compare")


def make_comparison(view: dict[str, Any]) -> None:
    """The grid and the list of earlier ones; fills `view`."""
    view["comparison"] = gr.HTML("", elem_id="comparison", js_on_load=SCRIPT.read_text(encoding="utf-8"))


ASKED = ("compare_mode", "x_field", "x_values", "y_field", "y_values", "draft_count")
"""The components that say what shall be compared, by name."""


class CompareHandlers:
    """What is chosen and pressed, and what the live event shows of it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.services = desk.services
        self.view = desk.view
        self.store = desk.services.store
        self.comparisons = Comparisons(desk.services.store)

    # --- before the start ---------------------------------------------------------------------------------------------

    @at_edge
    def choose_mode(self, data: Data) -> Updates:
        """The fields that belong to the mode."""
        mode = data[self.view["compare_mode"]]
        rows = {self.view[name]: gr.update(visible=mode == "grid") for name in ("x_row", "y_row")}
        return {
            **rows,
            self.view["draft_count"]: gr.update(visible=mode in ("steps", "preview")),
            self.view["compare"]: gr.update(
                visible=mode is not None, value=label("compare" if mode == "grid" else "make_drafts")
            ),
        }

    @at_edge
    def propose_x(self, data: Data) -> Updates:
        """Values for the axis that was just chosen."""
        return self._propose(data, "x")

    @at_edge
    def propose_y(self, data: Data) -> Updates:
        """The same for the rows."""
        return self._propose(data, "y")

    def told(self, data: Data, values: Mapping[str, Any], proposal: Proposal | None) -> Updates:
        """The plan of what is chosen, for the event that follows every change of the form."""
        if data[self.view["compare_mode"]] is None:
            return {self.view["compare_plan"]: ""}
        if data[self.view["compare_mode"]] == "grid" and self._chosen(data) == {NONE}:
            return {self.view["compare_plan"]: compare_view.hint_html(NOTHING)}
        try:
            base, sketch = self._sketch(data, values, proposal)
            check_models(sketch.requests)
            notices = left_out(base, sketch)
            plan = compare_view.plan_html(sketch, plan_total(sketch), notices, is_seed_drawn=base.choice.seed is None)
        except StudioError as error:
            plan = compare_view.problem_html(error.text)
        return {self.view["compare_plan"]: plan}

    @at_edge
    def take_remedy(self, data: Data, event: gr.EventData) -> Updates:
        """The setting that the plan offers for all cells, as it would be offered now."""
        values, proposal = self.desk.values(data), data[self.view["proposal"]]
        offer = plan_total(self._sketch(data, values, proposal)[1]).offer
        changes = changes_of(offer) if offer is not None and offer.code == event.what else {}
        settings = form_values(self.services.engines[values["engine"]], changes)
        return {self.desk.form[field]: value for field, value in settings.items()}

    @at_edge
    def start(self, data: Data, request: gr.Request) -> Updates:
        """A job for each cell; the grid is shown from now on."""
        _, sketch = self._sketch(data, self.desk.values(data), data[self.view["proposal"]])
        check_models(sketch.requests)
        comparison = self.comparisons.submit(sketch, self.desk.owner(request))
        self.desk.change(request, comparison=comparison.id)
        return {self.view["shown"]: gr.skip()}

    # --- in the grid --------------------------------------------------------------------------------------------------

    @at_edge
    def act_on_comparison(self, event: gr.EventData, request: gr.Request) -> Updates:
        """One of the buttons of the grid, or of the list. Raises `InputError` for what is gone meanwhile."""
        nothing = {self.view["shown"]: gr.skip()}
        if event.act == "open":
            self.desk.change(request, comparison=self._find(event.comparison, request).id)
            return nothing
        if event.act == "close":
            self.desk.change(request, comparison=None)
            return nothing
        if event.act in ("cancel", "retry", "show"):
            return self._act_on_cell(event.act, self.desk.find(event.job, request), request)
        comparison = self._find(self.desk.page(request).comparison, request)
        if event.act == "cancel_all":
            for job in self.comparisons.cells(comparison):
                if job is not None and not job.over:
                    self.store.cancel(job.id)
        elif event.act == "final":
            draft = self.desk.find(event.job, request)
            if comparison.final is not None and draft.id in comparison.jobs:
                check_models([comparison.final])
                return self.desk.show(self.comparisons.make_final(comparison, draft).id, request)
        elif event.act == "forget":
            self.comparisons.forget(comparison)
            self.desk.change(request, comparison=None)
        return nothing

    # --- for the live event -------------------------------------------------------------------------------------------

    def opened(self, asked: str | None, owner: str) -> str | None:
        """The comparison that a page shows which is opened: the address's, else the newest if it is not over."""
        if asked is not None and self.comparisons.get(asked, owner) is not None:
            return asked
        for newest in self.comparisons.newest(owner, limit=1):
            if any(job is not None and not job.over for job in self.comparisons.cells(newest)):
                return newest.id
        return None

    def updates(self, page: OpenPage) -> Updates:
        """What the page shows of the owner's comparisons."""
        earlier = self.comparisons.newest(page.owner)
        shown = None if page.comparison is None else self.comparisons.get(page.comparison, page.owner)
        cells: list[Job | None] = []
        finals: list[Job | None] = []
        if shown is not None:
            cells = self.comparisons.cells(shown)
            finals = self.comparisons.jobs([shown.finals.get(job_id, "") for job_id in shown.jobs], page.owner)
        return {self.view["comparison"]: compare_view.comparison_html(earlier, shown, cells, finals)}

    # --- shared -------------------------------------------------------------------------------------------------------

    def _propose(self, data: Data, axis: str) -> Updates:
        field = data[self.view[f"{axis}_field"]]
        values, proposal = self.desk.values(data), data[self.view["proposal"]]
        if field == NONE:
            return {self.view[f"{axis}_values"]: ""}
        if field == "prompt":
            refined = [] if proposal is None else [proposal.origin.typed, proposal.text]
            lines = dict.fromkeys(line for line in (*refined, values["prompt"] or "") if line.strip())
            return {self.view[f"{axis}_values"]: "\n".join(lines)}
        spec = self.services.engines[values["engine"]]
        return {self.view[f"{axis}_values"]: ", ".join(propose_values(field, spec, read_choice(spec, values)))}

    def _sketch(self, data: Data, values: Mapping[str, Any], proposal: Proposal | None) -> tuple[Base, Sketch]:
        """What is chosen, checked. Raises `InputError`."""
        spec = self.services.engines[values["engine"]]
        image, prompt = read_picture(spec, values), values["prompt"] or ""
        facts = picture_facts(image)
        base = Base(
            engine=spec.id,
            choice=read_choice(spec, values),
            prompt=prompt,
            image=image,
            image_size=(facts.width, facts.height),
        )

        def read(text: str, spec: EngineSpec) -> Sentence:
            taken = proposal
            if text != prompt:
                taken = used(proposal) if proposal is not None and text == proposal.text else None
            motion = motion_for(text, taken, spec, self.services)
            return Sentence(text=text, origin=origin_for(text, taken), motion=motion)

        mode = data[self.view["compare_mode"]]
        if mode in ("steps", "preview"):
            return base, draft_sketch(base, mode, int(data[self.view["draft_count"]]), read)
        axes = [axis for axis in (self._axis(data, "x"), self._axis(data, "y")) if axis is not None]
        if not axes:
            raise InputError(*NOTHING)
        return base, make_sketch(base, axes[0], axes[1] if len(axes) > 1 else None, read)

    def _chosen(self, data: Data) -> set[str]:
        return {data[self.view[f"{axis}_field"]] for axis in ("x", "y")}

    def _axis(self, data: Data, axis: str) -> Axis | None:
        field = data[self.view[f"{axis}_field"]]
        if field == NONE:
            return None
        return Axis(field=field, values=split_values(field, data[self.view[f"{axis}_values"]] or ""))

    def _find(self, comparison_id: str | None, request: gr.Request) -> Comparison:
        found = self.comparisons.get(comparison_id or "", self.desk.owner(request))
        if found is None:
            raise InputError(*FORGOTTEN)
        return found

    def _act_on_cell(self, act: str, job: Job, request: gr.Request) -> Updates:
        if act == "show":
            return self.desk.show(job.id, request)
        if act == "cancel":
            self.store.cancel(job.id)
        else:
            check_models([job.request])
            self.store.requeue(job.id)
        return {self.view["shown"]: gr.skip()}
