"""What could be set or said otherwise for the movement that was asked for. Changes nothing; knows no component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from i2v_pipeline.errors import RequestError
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.suggestions import CurrentSettings, suggest
from i2v_pipeline.types import Text
from prompt_refiner.checks import count_tokens
from prompt_refiner.ledger import content_words
from prompt_refiner.reading import read
from prompt_refiner.text import clean
from prompt_refiner.types import CameraTag
from prompt_refiner.writing import camera_phrase, without_camera
from studio.page.form import Values, read_choice
from studio.page.refine import Proposal, is_own_text, movement_for
from studio.page.services import Services
from studio.page.text import LABELS, both, escape
from studio.recipe import style_of

AS_IF = "as if the camera"
FRAMED = {
    "zoom_in": "Close-up view of ",
    "dolly_in": "Close-up view of ",
    "zoom_out": "Wide view of ",
    "dolly_out": "Wide view of ",
}
"""A wording of the result in place of the act: models like I2VGen-XL mix up the two movements otherwise."""
REWORDED = Text(
    "Subject and camera both move, which this engine tends to mix up: naming the result keeps them apart.",
    "主体与镜头同时运动，该引擎容易混淆；改为描述结果可以减少变形。",
)
BY_LLM = Text("The LLM would choose it.", "大模型的建议。")


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One thing that a click would change: a field of the form, its new value, and why."""

    field: str
    value: Any
    reason: Text
    source: str = ""


def advice_for(values: Values, proposal: Proposal | None, services: Services) -> tuple[Advice, ...]:
    """What differs from the form as it stands; nothing without a refinement, or for a form that is not complete."""
    prompt = values["prompt"] or ""
    spec = services.engines[values["engine"]]
    if proposal is None or (proposal.is_used and is_own_text(prompt, proposal)):
        return ()
    try:
        choice = read_choice(spec, values)
    except RequestError:
        return ()
    preset = spec.presets[choice.preset]
    current = CurrentSettings(
        preset=choice.preset, steps=choice.steps, guidance=choice.guidance, fps=choice.fps or preset.fps
    )
    if proposal.is_used:
        motion, compound = movement_for(prompt, proposal, spec, services)
    else:
        motion, compound = proposal.motion, proposal.compound
    found = [
        Advice(field=each.field, value=each.value, reason=each.reason, source=each.source)
        for each in suggest(spec, motion, compound=compound, current=current)
    ]
    if proposal.preset not in (None, choice.preset) and proposal.preset in spec.presets and not _has(found, "preset"):
        why = Text(f"{BY_LLM.en} {proposal.preset_why}".strip(), f"{BY_LLM.zh}{proposal.preset_why}")
        found.insert(0, Advice(field="preset", value=proposal.preset, reason=why))
    worded = by_result(prompt, spec) if proposal.is_used else None
    if worded is not None:
        found.append(Advice(field="prompt", value=worded, reason=REWORDED))
    return tuple(found)


def by_result(prompt: str, spec: EngineSpec) -> str | None:
    """The prompt with its camera move told by its result, for an engine that mixes up camera and subject.

    None where only one of them moves, where both stand in one clause, or where it would be too long.
    """
    reading = read(clean(prompt))
    tags: tuple[CameraTag, ...] = tuple(tag for tag in reading.camera_motion if tag != "static")
    if spec.family != "i2vgen_xl" or reading.language != "en" or not reading.compound or AS_IF in prompt.lower():
        return None
    rest = without_camera(reading).strip(" ,.;")
    phrase = camera_phrase(tags, reading, "en")
    if not content_words(rest) or not phrase.startswith("camera "):
        return None
    frame = FRAMED.get(tags[0], "")
    scene = rest[:1].lower() + rest[1:] if frame else rest
    worded = f"{frame}{scene}, {AS_IF} is {phrase.removeprefix('camera ')}"
    tokens, limit = count_tokens(worded, style_of(spec)), spec.prompt_style.token_limit
    return worded if tokens is None or limit is None or tokens <= limit else None


def advice_html(found: tuple[Advice, ...], values: Values) -> str:
    """Each with its own button; empty where there is nothing to say."""
    if not found:
        return ""
    title = both(Text("Suggestions", "参数建议"))
    return f'<div class="advice"><h2>{title}</h2><ul>{"".join(_item(each, values) for each in found)}</ul></div>'


def _item(each: Advice, values: Values) -> str:
    label = LABELS[each.field]
    now, then = _shown(each.field, values[each.field]), _shown(each.field, each.value)
    change = f"<del>{now}</del> <ins>{then}</ins>" if each.field != "prompt" else f"<ins>{then}</ins>"
    source = f' title="{escape(each.source)}"' if each.source else ""
    button = both(Text("Apply", "采用"))
    return (
        f'<li><span class="what"><strong>{both(label)}</strong> {change}</span>'
        f'<span class="why quiet"{source}>{both(each.reason)}</span>'
        f'<button type="button" data-apply="{each.field}">{button}'
        f'<span class="sr-only">{both(label)}</span></button></li>'
    )


def _shown(field: str, value: Any) -> str:  # noqa: ANN401 - a form's value
    if field == "preset":
        return both(LABELS[f"preset_{value}"])
    return escape(f"{value:g}" if isinstance(value, int | float) else value)


def _has(found: list[Advice], field: str) -> bool:
    return any(each.field == field for each in found)
