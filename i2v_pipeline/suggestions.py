"""Settings that suit the movement that was asked for, each with its reason. Knows no prompt and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Guidance, Intensity, Motion, PresetName, Text

I2VGEN_BY_INTENSITY: Mapping[Intensity, float] = {"low": 7.5, "medium": 9.5, "high": 11.5}
"""The middle of 7 to 8, 9 to 10 and 11 to 12."""
I2VGEN_CAMERA_ONLY = 10.5
"""The middle of 10 to 11."""
I2VGEN_COMPOUND: Mapping[Intensity, float] = {"low": 11.5, "medium": 11.5, "high": 12.0}
"""Within 11 to 12.5."""
I2VGEN_SOURCE = (
    "The table that came with the original tool, tried with I2VGen-XL: guidance 7 to 8 for slight movement, 9 to 10 "
    "for medium, 11 to 12 for strong, 10 to 11 for the camera, 11 to 12.5 for subject and camera together; 50 steps "
    "with 9, 60 with 11, 30 for a preview."
)
MANY_STEPS_FROM = 11.0
PREVIEW_STEPS, USUAL_STEPS, MANY_STEPS = 30, 50, 60
STUTTER_GUIDANCE, STUTTER_FPS, CALM_GUIDANCE = 12.5, 8, 11.0
"""Above every range of the table, and at so few frames a second, movement tends to stutter. Within the table, up to 11
for strong movement, the same guides call it the price of a clear movement, not a fault."""


@dataclass(frozen=True, kw_only=True)
class CurrentSettings:
    """What stands in the form just now."""

    preset: PresetName
    steps: int | None
    guidance: Guidance | None
    fps: int


@dataclass(frozen=True, kw_only=True)
class SuggestedSetting:
    """One setting that would suit better than the present one: why, and where its number comes from.

    The value of a `preset` is its name; choosing it brings all its settings.
    """

    field: Literal["guidance", "steps", "preset"]
    value: float | int | PresetName
    reason: Text
    source: str


def suggest(
    spec: EngineSpec, motion: Motion, *, compound: bool, current: CurrentSettings
) -> tuple[SuggestedSetting, ...]:
    """What would suit `motion` better than `current`; empty where all is well. `compound`: subject and camera move.

    What it says does not depend on what was accepted before, so accepting everything leaves nothing to suggest.
    """
    if spec.family == "camera":
        found = _for_camera(spec, motion, current)
    elif current.preset == "fast":
        # A distilled model works at its own steps and guidance only.
        found = iter(())
    elif spec.family == "i2vgen_xl":
        found = _for_i2vgen(motion, compound, current)
    else:
        found = _for_official(spec, motion, current)
    return tuple(each for each in found if each.value != getattr(current, each.field))


def moves_camera(motion: Motion) -> bool:
    """Whether any camera move was asked for; a still camera is none."""
    return any(tag != "static" for tag in motion.camera)


def _for_i2vgen(motion: Motion, compound: bool, current: CurrentSettings) -> Iterator[SuggestedSetting]:
    guidance, reason = _i2vgen_guidance(motion, compound)
    if guidance >= MANY_STEPS_FROM and current.fps <= STUTTER_FPS:
        reason = Text(
            f"{reason.en} At {current.fps} frames per second it may stutter.",
            f"{reason.zh}每秒 {current.fps} 帧时可能出现卡顿。",
        )
    yield SuggestedSetting(field="guidance", value=guidance, reason=reason, source=I2VGEN_SOURCE)
    if current.preset == "preview":
        steps, why = PREVIEW_STEPS, Text("Enough for a preview.", "预览用此步数即可。")
    elif guidance >= MANY_STEPS_FROM:
        steps = MANY_STEPS
        why = Text(f"Guidance of {MANY_STEPS_FROM:g} or more needs more steps.", "引导系数达到 11 时需要更多步数。")
    else:
        steps, why = USUAL_STEPS, Text("Smooth with guidance of about 9.", "与 9 左右的引导系数搭配最流畅。")
    yield SuggestedSetting(field="steps", value=steps, reason=why, source=I2VGEN_SOURCE)


def _i2vgen_guidance(motion: Motion, compound: bool) -> tuple[float, Text]:
    if compound:
        return I2VGEN_COMPOUND[motion.intensity], Text(
            "Subject and camera both move: 11 to 12.5 keeps hold of both.",
            "主体与镜头同时运动：11 到 12.5 才能兼顾两者。",
        )
    if moves_camera(motion):
        return I2VGEN_CAMERA_ONLY, Text("A camera move: 10 to 11 suits.", "镜头运动适合 10 到 11。")
    return I2VGEN_BY_INTENSITY[motion.intensity], {
        "low": Text("Slight movement: 7 to 8 keeps it natural.", "轻微动作适合 7 到 8，画面更自然。"),
        "medium": Text("Medium movement: 9 to 10 suits.", "中等动作适合 9 到 10。"),
        "high": Text("Strong movement: 11 to 12 brings it out.", "强烈动作适合 11 到 12，动作更明显。"),
    }[motion.intensity]


def _for_official(spec: EngineSpec, motion: Motion, current: CurrentSettings) -> Iterator[SuggestedSetting]:
    """The published values of the model: its strength of movement comes with the steps, not with the guidance."""
    official = spec.presets["standard"]
    numbers = [preset.guidance for name, preset in spec.presets.items() if name != "fast" and preset.guidance]
    is_near = isinstance(current.guidance, int | float) and min(numbers) <= current.guidance <= max(numbers)
    if official.guidance is not None and isinstance(current.guidance, int | float) and not is_near:
        yield SuggestedSetting(
            field="guidance",
            value=official.guidance,
            reason=Text(
                f"{official.guidance:g} is this model's official value. The 7 to 12 of other guides were found with "
                "I2VGen-XL and do not carry over.",
                f"{official.guidance:g} 是该模型的官方取值。其他教程中的 7 到 12 来自 I2VGen-XL，不适用于此模型。",
            ),
            source=spec.sources["presets"],
        )
    if current.preset == "preview" or official.steps is None:
        return
    more = spec.presets["high_motion"].steps
    if motion.intensity == "high" and more is not None and more > official.steps:
        yield SuggestedSetting(
            field="steps",
            value=more,
            reason=Text(
                "Strong movement: more steps, not more guidance, keep it clean.",
                "动作强烈时应增加步数，而不是引导系数。",
            ),
            source=spec.sources["presets"],
        )
        return
    yield SuggestedSetting(
        field="steps",
        value=official.steps,
        reason=Text("This model's official number.", "该模型的官方步数。"),
        source=spec.sources["presets"],
    )


def _for_camera(spec: EngineSpec, motion: Motion, current: CurrentSettings) -> Iterator[SuggestedSetting]:
    """A preset with a strength of its own moves by that, whatever the prompt asks for."""
    own = spec.presets[current.preset].intensity
    if own is None or own == motion.intensity:
        return
    wanted: PresetName = "high_motion" if motion.intensity == "high" else "standard"
    yield SuggestedSetting(
        field="preset",
        value=wanted,
        reason=Text(
            "The chosen preset moves the camera by a strength of its own, and the prompt asks for another.",
            "当前预设自带运动幅度，与提示词要求的不同。",
        ),
        source=spec.sources["presets"],
    )
