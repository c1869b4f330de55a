"""What fills the form from something that was made: a job's settings, a video's last frame, a file of this studio."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from i2v_pipeline.presets import find_engine
from i2v_pipeline.recipe import Recipe, StoredPicture, missing_parts, read_recipe, request_from_report
from studio.library import last_frame_png
from studio.page import notes, subjects
from studio.page.desk import Data, Desk, Updates
from studio.page.edge import at_edge
from studio.page.form import request_values, what_the_form_lacks
from studio.page.refine import Proposal, taken_before
from studio.page.remedies import changes_words, form_values
from studio.page.status import advised

PARTS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "negative_prompt"),
    "picture": (*subjects.FIELDS, "last_image"),
    "parameters": (
        "engine",
        "preset",
        "resolution",
        "frames",
        "fps",
        "steps",
        "guidance",
        "fit",
        "double_rate",
        "ending",
        "guidance_schedule",
        "scheduler",
        "flow_shift",
        "loras",
        "embed_source",
        "attention",
        "cache",
        "compiled",
    ),
    "seed": ("seed",),
}
"""What a person may take over of a job by itself, and the fields that it fills."""

ON_NOTE = """
window.studio.keepFocus(element, watch);
element.addEventListener('click', (event) => {
  const act = event.target.closest('[data-act]')?.dataset.act;
  if (act) trigger(act === 'stop_editing' ? 'stop_editing' : 'act_on_note', {act});
});
"""


class ReuseHandlers:
    """What is pressed to use something again, and in the note that then says where the form's content is from."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.services = desk.services
        self.form = desk.form
        self.view = desk.view

    @at_edge
    def reuse(self, data: Data, request: gr.Request) -> Updates:
        """The ticked parts of the shown job in the form; a prompt brings the origin that it had."""
        job = self.desk.shown(data, request)
        parts = [part for part in PARTS if part in (data[self.view["parts"]] or ())]
        settings = {**request_values(job.request), "image": job.request.images[0]}
        lacks = what_the_form_lacks(job.request) if "parameters" in parts else []
        self.desk.change(request, note=notes.used(job, lacks, with_seed=parts == list(PARTS)))
        return self._fill(data, settings, parts, taken_before(job.request.origin, job.request.motion))

    @at_edge
    def take_advice(self, data: Data, request: gr.Request) -> Updates:
        """The shown job's settings in the form, changed as was advised after its video was measured."""
        job = self.desk.shown(data, request)
        changes = advised(json.loads(job.report_path.read_text(encoding="utf-8"))["findings"])
        changed = form_values(find_engine(job.request.engine), changes)
        settings = {**request_values(job.request), "image": job.request.images[0], **changed}
        lacks = what_the_form_lacks(job.request)
        self.desk.change(request, note=notes.advised(job, changes_words(changes), lacks))
        return self._fill(data, settings, list(PARTS), taken_before(job.request.origin, job.request.motion))

    @at_edge
    def last_frame(self, data: Data, request: gr.Request) -> Updates:
        """The last frame of the shown video as the form's picture."""
        job = self.desk.shown(data, request)
        picture = self.desk.cached_bytes(last_frame_png(job.video_path), f"last-frame-of-{job.id}.png")
        self.desk.change(request, note=notes.last_frame(job))
        return {self.form["image"]: picture}

    @at_edge
    def restore(self, data: Data, request: gr.Request) -> Updates:
        """The settings that stand in a video or a report of this studio, its picture included.

        Raises `RecipeError` for any other file.
        """
        recipe = read_recipe(Path(data[self.view["restore"]]["path"]))
        picture, *further = self._pictures_of(recipe, request)
        # The request needs a file's name; where there is none the form's picture is left as it is.
        wanted = request_from_report(recipe.report, Path(picture or ""))
        here = {code for code, is_there in (("picture", picture), ("references", all(further))) if is_there}
        told = [finding.message for finding in missing_parts(recipe) if finding.code not in here]
        last = recipe.last_picture and self._cached_picture(recipe.last_picture)
        settings = {**request_values(wanted), "last_image": last}
        settings |= zip(subjects.PICTURES, (picture, *further, None, None), strict=False)
        parts = [part for part in PARTS if part != "picture" or picture]
        self.desk.change(request, note=notes.restored(told, what_the_form_lacks(wanted)))
        return self._fill(data, settings, parts, taken_before(wanted.origin, wanted.motion))

    @at_edge
    def act_on_note(self, event: gr.EventData, request: gr.Request) -> Updates:
        """A new seed instead of the one that came along, or the note put away."""
        if event.act == "new_seed":
            self.desk.change(request, note=notes.html(notes.FRESH_SEED))
            return {self.form["seed"]: ""}
        self.desk.change(request, note="")
        return {self.view["shown"]: gr.skip()}

    def _fill(self, data: Data, settings: Mapping[str, Any], parts: list[str], proposal: Proposal | None) -> Updates:
        """`parts` of `settings` in the form; all its other fields stay as they are."""
        taken = {field for part in parts for field in PARTS[part]}
        now = self.desk.values(data)
        values = {**now, **{field: settings[field] for field in taken}}
        pictures = [field for field in PARTS["picture"] if field in taken and isinstance(values[field], Path)]
        values |= {field: self.desk.cached(values[field]) for field in pictures}
        updates = self.desk.fill(values, proposal if "prompt" in parts else data[self.view["proposal"]])
        left = [self.form[field] for field in now if field not in taken]
        # An engine changes the ranges of fields that are not filled; alone it changes nothing else.
        return {place: update for place, update in updates.items() if place not in left}

    def _pictures_of(self, recipe: Recipe, request: gr.Request) -> list[str | None]:
        """The pictures in the file; else those of the person's own job that the report is of. None for one that is
        nowhere."""
        told = [recipe.report["image"], *recipe.report.get("references", [])[1:]]
        job = self.services.find_job(str(recipe.report.get("job")), self.desk.owner(request))
        stored = [recipe.picture, *(recipe.references or (None,) * (len(told) - 1))]
        paths = job.request.images if job is not None and len(job.request.images) == len(told) else (None,) * len(told)

        def found(picture: StoredPicture | None, path: Path | None, sha256: str) -> str | None:
            if picture is not None:
                return self._cached_picture(picture)
            is_same = path is not None and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
            return self.desk.cached(path) if path is not None and is_same else None

        return [found(picture, path, each["sha256"]) for picture, path, each in zip(stored, paths, told, strict=True)]

    def _cached_picture(self, picture: StoredPicture) -> str:
        kind, content = picture
        return self.desk.cached_bytes(content, f"picture.{kind.lower()}")
