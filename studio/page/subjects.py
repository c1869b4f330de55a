"""Reference pictures on the form: up to three, each with a name and a switch, and how the model will see them.

Knows no job and no event.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from i2v_pipeline.errors import InputError, PictureError
from i2v_pipeline.images import open_picture
from i2v_pipeline.inspection.references import findings_of, named
from i2v_pipeline.inspection.subjects import SubjectFinder
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.subjects import name_of, prepare_reference
from i2v_pipeline.types import Finding, GenerationRequest, Subject, Text
from studio.page.icons import icon
from studio.page.text import both, escape, label
from studio.recipe import size_of

Form = dict[str, Any]
Values = Mapping[str, Any]

PICTURES = ("image", "image_2", "image_3")
"""The first is also the picture of an engine that begins with one."""
NAMES = ("subject_1", "subject_2", "subject_3")
SWITCHES = ("alone_1", "alone_2", "alone_3")
FIELDS = (*PICTURES, *NAMES, *SWITCHES)
PREVIEW_SIDE = 480
"""Longer side of what is shown, in pixels."""

ON_MOVE = """
window.studio.keepFocus(element, watch);
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-slot]');
  if (button) trigger('move_reference', {slot: button.dataset.slot, to: button.dataset.to});
});
"""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One that is on the form; `slot` counts from 0, and slots may be empty."""

    slot: int
    image: Path
    subject: Subject


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One reference as the model will see it, as a JPEG for the page; without one `problem` says why it cannot be.

    `findings` do not name it.
    """

    jpeg: bytes = b""
    fitted: Text | None = None
    findings: tuple[Finding, ...] = ()
    problem: Text | None = None


def make_pictures(spec: EngineSpec, form: Form) -> None:
    """The picture, or the references with what belongs to each; fills `form`."""
    shown = subject_updates(spec)
    with gr.Row(elem_id="subjects"):
        for slot, (picture, name, switch) in enumerate(zip(PICTURES, NAMES, SWITCHES, strict=True)):
            with gr.Column(elem_classes="subject", min_width=140):
                form[picture] = gr.Image(
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    buttons=[],
                    height=250,
                    label=shown[picture]["label"],
                    visible=shown[picture]["visible"],
                    elem_id="image" if slot == 0 else f"image-{slot + 1}",
                )
                form[name] = gr.Textbox(
                    label=label("subject_name"),
                    placeholder=label("subject_placeholder"),
                    max_lines=1,
                    min_width=100,
                    visible=shown[name]["visible"],
                    elem_id=f"subject-{slot + 1}",
                )
                form[switch] = gr.Checkbox(
                    False,
                    label=label("subject_alone"),
                    container=False,
                    min_width=100,
                    visible=shown[switch]["visible"],
                    elem_id=f"alone-{slot + 1}",
                )


def subject_updates(spec: EngineSpec) -> dict[str, Any]:
    """What choosing an engine does to them: which are there, and what the first one is."""
    most = spec.takes.references
    words = [f"reference_{slot + 1}" if most else "image" for slot in range(len(PICTURES))]
    pictures = {
        field: gr.update(visible=slot < max(most, 1), label=label(words[slot])) for slot, field in enumerate(PICTURES)
    }
    return {
        **pictures,
        **{fields[slot]: gr.update(visible=slot < most) for fields in (NAMES, SWITCHES) for slot in range(len(NAMES))},
        # References are put on white whatever is chosen there.
        "fit": gr.update(visible=not most),
    }


def subject_values(request: GenerationRequest) -> dict[str, Any]:
    """What they show for a request of before, pictures as the paths that it has; the first picture is left out."""
    subjects = (*request.subjects, *(Subject() for _ in NAMES[len(request.subjects) :]))
    return {
        **dict(zip(PICTURES[1:], (*request.images[1:], None, None), strict=False)),
        **{field: subject.name for field, subject in zip(NAMES, subjects, strict=True)},
        **{field: subject.remove_background for field, subject in zip(SWITCHES, subjects, strict=True)},
    }


def references_on(spec: EngineSpec, values: Values) -> tuple[Reference, ...]:
    """The references that are there, in their order; none for an engine that takes none."""
    slots = zip(PICTURES, NAMES, SWITCHES, strict=True)
    return tuple(
        Reference(
            slot=slot,
            image=Path(values[picture]),
            subject=Subject(name=(values.get(name) or "").strip(), remove_background=values.get(switch) is True),
        )
        for slot, (picture, name, switch) in enumerate(slots)
        if slot < spec.takes.references and values.get(picture)
    )


def pictures_on(spec: EngineSpec, values: Values) -> tuple[Path, ...]:
    """All the pictures that the engine would get, the one that a video begins with or the references."""
    if spec.takes.references:
        return tuple(each.image for each in references_on(spec, values))
    return (Path(values["image"]),) if values["image"] else ()


def read_subjects(spec: EngineSpec, values: Values) -> dict[str, Any]:
    """The fields of `Choice` that they hold."""
    references = references_on(spec, values)
    return {
        "further_images": tuple(each.image for each in references[1:]),
        "subjects": tuple(each.subject for each in references),
    }


def swapped(values: Values, first: int, second: int) -> dict[str, Any]:
    """The fields of two slots, each with what the other held."""
    both_ways = ((first, second), (second, first))
    return {fields[one]: values[fields[other]] for fields in (PICTURES, NAMES, SWITCHES) for one, other in both_ways}


def check_references(request: GenerationRequest) -> None:
    """Raises `PictureError`, which names it, for a reference that cannot be used as it is wanted."""
    for place, (subject, found) in enumerate(zip(request.subjects, seen_of(request), strict=True), 1):
        if found.problem is not None:
            name = name_of(place, subject)
            raise PictureError(f"{name.en}: {found.problem.en}", f"{name.zh}：{found.problem.zh}")


def findings_on(request: GenerationRequest) -> tuple[Finding, ...]:
    """What is worth knowing of the references, each sentence with the name of its own."""
    pairs = zip(request.subjects, seen_of(request), strict=True)
    return tuple(
        finding
        for place, (subject, found) in enumerate(pairs, 1)
        for finding in named(found.findings, name_of(place, subject))
    )


def seen_of(request: GenerationRequest) -> list[Seen]:
    """The request's references as the model will see them; none for a picture that a video begins with."""
    pairs = zip(request.images, request.subjects, strict=False)
    return [see(image, subject.remove_background, request.width, request.height) for image, subject in pairs]


@functools.lru_cache(maxsize=64)
def see(image: Path, remove_background: bool, width: int, height: int) -> Seen:
    """Prepares the picture as the run will; remembered, since an uploaded file lies under the hash of its content."""
    try:
        picture = open_picture(image)
        found = findings_of(picture, (width, height), SubjectFinder().find(picture.pixels))
    except PictureError as error:
        return Seen(problem=error.text)
    try:
        prepared = prepare_reference(picture, Subject(remove_background=remove_background), width, height)
    except PictureError as error:
        return Seen(findings=found, problem=error.text)
    small = Image.fromarray(prepared.pixels)
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # Without subsampling, or white beside a colour would be tinted.
    small.save(buffer, "JPEG", quality=90, subsampling=0)
    return Seen(jpeg=buffer.getvalue(), fitted=prepared.fitted, findings=found)


def white_words(request: GenerationRequest) -> Text:
    """What happens to the references of a request, in one sentence."""
    count, size = len(request.images), f"{request.width} × {request.height}"
    without = [place for place, subject in enumerate(request.subjects, 1) if subject.remove_background]
    names = [name_of(place, request.subjects[place - 1]) for place in without]
    removed = Text(
        f", without its background: {', '.join(name.en for name in names)}" if names else "",
        f"去除背景：{'、'.join(name.zh for name in names)}。" if names else "",
    )
    whole = "The reference picture is put whole" if count == 1 else f"The {count} reference pictures are each put whole"
    return Text(
        f"{whole} on white at {size}{removed.en}; nothing is cropped or stretched.",
        f"{count} 张参考图各自完整放在 {size} 的白底上，不裁切、不拉伸。{removed.zh}",
    )


def subjects_html(spec: EngineSpec, values: Values) -> str:
    """The references as the model will see them, with what changes their order; empty where there are none."""
    references, size = references_on(spec, values), _size_for(spec, values)
    if not references or size is None:
        return ""
    title = Text(f"As the model sees them, {size[0]} × {size[1]}", f"模型看到的画面（{size[0]} × {size[1]}）")
    items = "".join(_items(references, size))
    return f'<section class="seen"><h2>{both(title)}</h2><ol>{items}</ol></section>'


def _items(references: Sequence[Reference], size: tuple[int, int]) -> Iterator[str]:
    for index, each in enumerate(references):
        found = see(each.image, each.subject.remove_background, *size)
        name = name_of(index + 1, each.subject)
        acts = [
            _act(name, each.slot, references[index - 1].slot, Text("earlier", "前移"), "left") if index else "",
            _act(name, each.slot, references[index + 1].slot, Text("later", "后移"), "right")
            if index + 1 < len(references)
            else "",
        ]
        yield (
            f'<li>{_picture(found, size)}<p class="name"><strong>{index + 1}</strong> {escape(each.subject.name)}'
            f'<span class="acts">{"".join(acts)}</span></p>'
            f'<p class="{"problem" if found.problem else "quiet"}">{_told(found)}</p></li>'
        )


def _told(found: Seen) -> str:
    text = found.problem or found.fitted
    return both(text) if text is not None else ""


def _picture(found: Seen, size: tuple[int, int]) -> str:
    shape = f'style="aspect-ratio: {size[0]} / {size[1]}"'
    if found.problem is not None:
        return f'<div class="none" {shape}></div>'
    data = base64.b64encode(found.jpeg).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{data}" alt="" {shape}>'


def _act(name: Text, start: int, end: int, words: Text, drawing: str) -> str:
    told = Text(f"{name.en}: {words.en}", f"{name.zh}：{words.zh}")
    return (
        f'<button type="button" data-slot="{start}" data-to="{end}" data-key="{drawing}:{start}">{icon(drawing)}'
        f'<span class="sr-only">{both(told)}</span></button>'
    )


def _size_for(spec: EngineSpec, values: Values) -> tuple[int, int] | None:
    """The size that the form means; None for one that the engine could not make."""
    wanted = str(values["resolution"] or "").strip() or spec.presets[values["preset"]].resolution
    try:
        width, height = size_of(spec, wanted, 1, 1)
    except InputError:
        return None
    sides = range(spec.grid.min_side, spec.grid.max_side + 1)
    return (width, height) if width in sides and height in sides else None
