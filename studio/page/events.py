"""What happens when something is chosen, typed or pressed: the form, the refine step, the job on the screen.

Renders nothing itself. Handlers only submit and cancel; what became of it is sent by the event that follows the page.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from i2v_pipeline.errors import PictureError
from i2v_pipeline.types import GenerationRequest
from studio.jobs.types import JobError
from studio.page import draft, notes, subjects
from studio.page.comparing import CompareHandlers
from studio.page.desk import Data, Desk, Updates
from studio.page.edge import at_edge
from studio.page.form import engine_updates, preset_values, with_what_the_form_lacks
from studio.page.plan import check_can_run, offers_of, plan_html, warnings_of
from studio.page.remedies import changes_of, form_values, warning_html
from studio.page.series import Series, read_series, request_of, requests_of
from studio.page.services import picture_facts, subject_facts
from studio.recipe import SEED_LIMIT


class Handlers:
    """The handlers of the form and of the job on the screen."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.services = desk.services
        self.form = desk.form
        self.view = desk.view
        self.comparing = CompareHandlers(desk)

    @at_edge
    def plan(self, data: Data, request: gr.Request) -> Updates:
        """The line that says what will be made, and the draft that survives a reload; nothing for a form of before."""
        count = data[self.view["count"]]
        if count < data[self.view["planned"]]:
            return {self.view["plan"]: gr.skip()}
        values, proposal = self.desk.values(data), data[self.view["proposal"]]
        series = self._series(data, values, request)
        self.desk.change(request, videos=series.videos)
        return {
            self.view["planned"]: count,
            self.view["plan"]: plan_html(values, proposal, self.services, series),
            self.view["draft"]: draft.write(values, proposal),
            self.view["seen"]: subjects.subjects_html(self.services.engines[values["engine"]], values),
            **self.desk.refining.told(values, proposal),
            **self.comparing.told(data, values, proposal),
        }

    @at_edge
    def check_picture(self, data: Data) -> None:
        """Refuses a picture that cannot be read as soon as it is there."""
        values = self.desk.values(data)
        for picture in subjects.pictures_on(self.services.engines[values["engine"]], values):
            picture_facts(picture)

    @at_edge
    def move_reference(self, data: Data, event: gr.EventData) -> Updates:
        """A reference and all that belongs to it in the place of another one, and that one in its."""
        values = self.desk.values(data)
        swapped = subjects.swapped(values, int(event.slot), int(event.to))
        return {self.form[field]: value for field, value in swapped.items()}

    @at_edge
    def look_for_subject(self, data: Data) -> Updates:
        """What the first picture's subject means for a video; nothing for one that cannot be read. References are
        judged as the model sees them."""
        values = self.desk.values(data)
        image = None if self.services.engines[values["engine"]].takes.references else values["image"]
        try:
            found = subject_facts(Path(image)) if image else ()
        except PictureError:
            found = ()
        return {self.view["subject"]: "".join(warning_html(finding) for finding in found)}

    @at_edge
    def take_remedy(self, data: Data, event: gr.EventData, request: gr.Request) -> Updates:
        """What of a warning's remedy, or of an offer, can be set, as it would be told now."""
        values = self.desk.values(data)
        spec = self.services.engines[values["engine"]]
        proposal = data[self.view["proposal"]]
        requests = requests_of(values, proposal, self._series(data, values, request), self.services)
        found = warnings_of(spec, requests, is_advised=proposal is not None)
        told = (each for each in (*found, *offers_of(spec, requests, self.services)) if each.code == event.what)
        changes = next((changes_of(finding) for finding in told if finding.changes), {})
        return {self.form[field]: value for field, value in form_values(spec, changes).items()}

    @at_edge
    def pick_example(self, event: gr.EventData) -> Updates:
        """Picture and prompt of an example, in the page's language."""
        example = next(example for example in self.services.examples if example.path.name == event.file)
        prompt = example.prompt.zh if event.lang.startswith("zh") else example.prompt.en
        return {
            self.form["image"]: self.desk.cached(example.path),
            self.form["subject_1"]: "",
            self.form["prompt"]: prompt,
            **self.desk.refining.updates(None),
        }

    @at_edge
    def choose_preset(self, data: Data) -> Updates:
        values = self.desk.values(data)
        spec = self.services.engines[values["engine"]]
        return {self.form[field]: value for field, value in preset_values(spec, values["preset"]).items()}

    @at_edge
    def choose_engine(self, data: Data) -> Updates:
        values = self.desk.values(data)
        spec = self.services.engines[values["engine"]]
        return {
            **{self.form[field]: update for field, update in engine_updates(spec, values["preset"]).items()},
            **self.desk.engine_notes(spec),
        }

    @at_edge
    def take_offer(self, data: Data, event: gr.EventData) -> Updates:
        """What the plan offered in place of a run that does not fit: a size and a length, or another engine."""
        values = self.desk.values(data)
        if event.engine == values["engine"]:
            return {self.form["resolution"]: event.size, self.form["frames"]: int(event.frames)}
        spec = self.services.engines[event.engine]
        settings = {self.form[field]: update for field, update in engine_updates(spec, "standard").items()}
        return {self.form["engine"]: spec.id, **settings, **self.desk.engine_notes(spec)}

    @at_edge
    def generate(self, data: Data, request: gr.Request) -> Updates:
        """A job for each picture and prompt; while a waiting job is edited, its new settings instead."""
        values, proposal = self.desk.values(data), data[self.view["proposal"]]
        editing = self.desk.page(request).editing
        if editing is not None:
            return self._save(editing, request_of(values, proposal, self.services), request)
        series = self._series(data, values, request)
        wanted = requests_of(values, proposal, series, self.services)
        check_can_run(self.services.engines[values["engine"]], wanted[0])
        self.desk.change(request, note="")
        return self._submit(wanted, request)

    @at_edge
    def again(self, data: Data, request: gr.Request) -> Updates:
        """The same job with a new seed."""
        wanted = self.desk.shown(data, request).request
        check_can_run(self.services.engines[wanted.engine], wanted)
        return self._submit([replace(wanted, seed=secrets.randbelow(SEED_LIMIT))], request)

    @at_edge
    def retry(self, data: Data, request: gr.Request) -> Updates:
        """The same job once more, from where it came to."""
        job = self.desk.shown(data, request)
        check_can_run(self.services.engines[job.request.engine], job.request)
        return self.desk.show(self.services.store.requeue(job.id).id, request)

    @at_edge
    def cancel(self, data: Data, request: gr.Request) -> None:
        self.services.store.cancel(self.desk.shown(data, request).id)

    def _series(self, data: Data, values: Mapping[str, Any], request: gr.Request) -> Series:
        if self.desk.page(request).editing is not None:
            return Series()
        spec = self.services.engines[values["engine"]]
        return read_series(spec, values, data[self.view["pictures"]], is_each_line=data[self.view["each_line"]])

    def _submit(self, wanted: Sequence[GenerationRequest], request: gr.Request) -> Updates:
        jobs = self.services.store.submit_many(wanted, self.desk.owner(request))
        return self.desk.show(jobs[0].id, request)

    def _save(self, job_id: str, wanted: GenerationRequest, request: gr.Request) -> Updates:
        """The new settings of the job that is edited, and the form as it was before."""
        job = self.desk.find(job_id, request)
        wanted = with_what_the_form_lacks(wanted, job.request)
        check_can_run(self.services.engines[wanted.engine], wanted)
        try:
            self.services.store.edit(job_id, wanted)
        except JobError:
            self.desk.change(request, editing=None, before=None, note=notes.html(notes.STARTED))
            return {self.view["shown"]: gr.skip()}
        updates = self.desk.leave_editing(request, notes.html(notes.SAVED))
        return {**updates, **self.desk.show(job_id, request)}
