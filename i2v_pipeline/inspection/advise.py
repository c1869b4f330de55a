"""What to change after a video that is not what was wanted, in the engine's own numbers. Measures nothing.

The order of the remedies is that of the guides that came with the original tool: too little movement wants more
guidance or more steps, restless or distorted pictures less guidance or fewer frames, blur more steps. The numbers are
the engine's presets, since those of one model mean nothing to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from i2v_pipeline.guidance import NO_GUIDANCE, is_ever_guided
from i2v_pipeline.inspection.judge import Inspection
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Change, Finding, GenerationRequest, Guidance, SettingName, Text

DISTILLED = "fast"
"""A distilled model works at its own steps and guidance only."""

GUIDANCE = Text("Guidance scale", "引导系数")
STEPS = Text("Inference steps", "推理步数")
FRAMES = Text("Frames", "生成帧数")
RAISE, LOWER = Text("Raise", "调高"), Text("Lower", "调低")


class Remedy(NamedTuple):
    """What to do, and what of it can be set; nothing where a person has to think of words."""

    text: Text
    changes: tuple[Change, ...] = ()


Way = Callable[[EngineSpec, GenerationRequest], Remedy | None]


class Trouble(NamedTuple):
    """What went wrong, and the ways out of it, the most promising first."""

    name: str
    message: Text
    ways: tuple[Way, ...]


def advise(inspection: Inspection, spec: EngineSpec, request: GenerationRequest) -> tuple[Finding, ...]:
    """One finding `advice_*` with one remedy for each trouble that a setting of this engine can help.

    No two of them turn one setting to different values: the graver trouble, which comes first, has its way.
    """
    findings: list[Finding] = []
    taken: dict[str, Change] = {}
    for trouble in _troubles(inspection):
        remedies = (way(spec, request) for way in trouble.ways)
        fitting = (each for each in remedies if each and all(taken.get(c.field, c) == c for c in each.changes))
        remedy = next(fitting, None)
        if remedy is not None:
            taken |= {change.field: change for change in remedy.changes}
            findings.append(
                Finding(
                    code=f"advice_{trouble.name}",
                    severity="warn",
                    message=trouble.message,
                    remedy=remedy.text,
                    changes=remedy.changes,
                )
            )
    return tuple(findings)


def _troubles(inspection: Inspection) -> Iterator[Trouble]:
    """Worst first."""
    codes = {flag.code for flag in inspection.flags}
    missed = {tag for tag, is_shown in inspection.asked.items() if is_shown is False}
    if "black" in codes:
        yield _BLACK
        return
    if inspection.is_other_picture:
        yield _OTHER_PICTURE
    if "static" in codes and not inspection.asked.get("static"):
        yield _STATIC
    elif missed and inspection.frames > 1:
        yield _RESTLESS_CAMERA if "static" in missed else _MISSED
    if "snap_back" in codes:
        yield _SNAP_BACK
    if codes & {"strobe", "flash", "flicker", "color_drift"}:
        yield _UNSTEADY
    if "duplicate_frames" in codes:
        yield _STUTTER
    if "blur" in codes:
        yield _BLUR


def _more_guidance(spec: EngineSpec, request: GenerationRequest) -> Remedy | None:
    higher = [value for value in _guidances(spec, request) if value > _number(request.guidance)]
    return _set("guidance", GUIDANCE, higher[0], RAISE) if higher else None


def _less_guidance(spec: EngineSpec, request: GenerationRequest) -> Remedy | None:
    lower = [value for value in _guidances(spec, request) if value < _number(request.guidance)]
    return _set("guidance", GUIDANCE, lower[-1], LOWER) if lower else None


def _guidances(spec: EngineSpec, request: GenerationRequest) -> list[float]:
    """The guidances of the engine's presets in order; none where one number would not do."""
    if request.preset == DISTILLED or _number(request.guidance) <= NO_GUIDANCE:
        return []
    return sorted({_number(preset.guidance) for name, preset in spec.presets.items() if name != DISTILLED} - {0.0})


def _number(guidance: Guidance | None) -> float:
    """The guidance where it is one number; 0 for a schedule and for none, which no preset stands beside."""
    return float(guidance) if isinstance(guidance, int | float) else 0.0


def _more_steps(spec: EngineSpec, request: GenerationRequest) -> Remedy | None:
    if request.steps is None or request.preset == DISTILLED:
        return None
    presets = (preset.steps for name, preset in spec.presets.items() if name != DISTILLED)
    higher = sorted(steps for steps in presets if steps and steps > request.steps)
    return _set("steps", STEPS, higher[0], RAISE) if higher else None


def _fewer_frames(spec: EngineSpec, request: GenerationRequest) -> Remedy | None:
    if spec.diffusion is None:
        return None
    known = {spec.diffusion.trained_frames, spec.presets["preview"].frames}
    lower = sorted(frames for frames in known if frames < request.frames)
    return _set("frames", FRAMES, lower[-1], LOWER) if lower else None


def _stronger(spec: EngineSpec, request: GenerationRequest) -> Remedy | None:
    is_strong = request.preset == DISTILLED or request.motion.intensity == "high"
    if is_strong or spec.presets["high_motion"].intensity != "high":
        return None
    words = Text("Choose the preset High motion.", "请选择“高动态”预设。")
    return Remedy(words, (Change(field="preset", value="high_motion"),))


def _gentler(spec: EngineSpec, request: GenerationRequest) -> Remedy | None:
    if request.motion.intensity == "low" or spec.presets["creative"].intensity != "low":
        return None
    words = Text("Ask for less movement, or choose the preset Creative.", "请减小运动幅度，或选择“创意”预设。")
    return Remedy(words, (Change(field="preset", value="creative"),))


def _words_against_stillness(spec: EngineSpec, request: GenerationRequest) -> Remedy | None:
    if spec.diffusion is None or request.guidance is None or not is_ever_guided(request.guidance):
        return None
    missing = [word for word in spec.diffusion.stillness_words if word not in request.negative_prompt]
    if not missing:
        return None
    words = Text(f"Add to the negative prompt: {', '.join(missing)}.", f"请在负向提示词中加入：{'，'.join(missing)}。")
    whole = ", ".join([*filter(None, [request.negative_prompt.strip(" ,，")]), *missing])
    return Remedy(words, (Change(field="negative_prompt", value=whole),))


def _name_the_movement(spec: EngineSpec, request: GenerationRequest) -> Remedy | None:
    if request.motion.requested:
        return None
    return Remedy(Text("Say in the prompt what moves, and how.", "请在提示词中写明什么在动、怎么动。"))


def _another_seed(spec: EngineSpec, request: GenerationRequest) -> Remedy | None:
    if spec.diffusion is None:
        return None
    return Remedy(Text("Try again with another seed.", "请换一个随机种子再试。"), (Change(field="seed", value=None),))


def _set(field: SettingName, name: Text, value: float, verb: Text) -> Remedy:
    words = Text(f"{verb.en} “{name.en}” to {value:g}.", f"请将“{name.zh}”{verb.zh}到 {value:g}。")
    return Remedy(words, (Change(field=field, value=value),))


_BLACK = Trouble(
    "black",
    Text("Black or one-coloured frames: the model lost the picture.", "出现黑帧或单色帧：模型没有保住画面。"),
    (_less_guidance, _another_seed),
)
_OTHER_PICTURE = Trouble(
    "other_picture",
    Text("The video does not begin with the picture.", "视频开头与输入图像不符。"),
    (_less_guidance, _another_seed),
)
_STATIC = Trouble(
    "static",
    Text("Nothing moves.", "画面没有动。"),
    (_more_guidance, _words_against_stillness, _more_steps, _stronger, _name_the_movement, _another_seed),
)
_MISSED = Trouble(
    "missed",
    Text("A camera move that was asked for cannot be seen.", "要求的运镜没有出现。"),
    (_more_guidance, _more_steps, _stronger, _another_seed),
)
_RESTLESS_CAMERA = Trouble(
    "restless_camera",
    Text("The camera was to stand still, and moves.", "要求镜头固定，但镜头在动。"),
    (_more_guidance, _gentler, _another_seed),
)
_SNAP_BACK = Trouble(
    "snap_back",
    Text(
        "The picture jumps back to the start, as clips do that are too long for the model.",
        "画面跳回开头，通常是帧数超出模型所长。",
    ),
    (_fewer_frames, _another_seed),
)
_UNSTEADY = Trouble(
    "unsteady",
    Text("Light or colours do not hold from frame to frame.", "亮度或颜色在帧间不稳定。"),
    (_less_guidance, _more_steps, _fewer_frames, _another_seed),
)
_STUTTER = Trouble(
    "stutter",
    Text("The movement stutters: frames are repeated.", "动作卡顿：有重复帧。"),
    (_less_guidance, _more_steps, _another_seed),
)
_BLUR = Trouble(
    "blur",
    Text("The picture grows blurred towards the end.", "画面越到后面越模糊。"),
    (_more_steps, _fewer_frames, _gentler),
)
