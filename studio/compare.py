"""One request varied along one or two axes: a complete request for each cell, in the order that shares most work.

Knows no page, no store and no report. Page and command line give it the same plain values.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from i2v_pipeline.aftercare.length import length_of
from i2v_pipeline.checks import MAX_SEED, request_mistakes
from i2v_pipeline.errors import InputError, RequestError, StudioError
from i2v_pipeline.guidance import parse_guidance
from i2v_pipeline.hub import as_here, check_model, is_here
from i2v_pipeline.images import fit_size
from i2v_pipeline.planning import plan_run
from i2v_pipeline.planning.compiling import shape_of
from i2v_pipeline.planning.costs import VIDEO_BYTES_PER_PIXEL
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.presets import find_engine, load_presets
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Finding, GenerationRequest, Motion, PromptOrigin, Text
from studio.compile_offer import compile_offer
from studio.jobs.comparisons import Axis, AxisField, Sketch
from studio.plans import machine_now, once_for_each_kind
from studio.recipe import SEED_LIMIT, Choice, compose, preset_of

MAX_CELLS = 25
"""Five by five: a quarter of what one person may have in the queue, and as many players as a screen can hold."""
MAX_DRAFTS = 6
PROPOSED = 3

FIELDS: tuple[AxisField, ...] = get_args(AxisField)
WORDS: Mapping[AxisField, Text] = {
    "seed": Text("Seed", "随机种子"),
    "steps": Text("Steps", "推理步数"),
    "guidance": Text("Guidance", "引导系数"),
    "flow_shift": Text("Flow shift", "流偏移 (flow shift)"),
    "engine": Text("Engine", "引擎"),
    "preset": Text("Preset", "预设"),
    "prompt": Text("Prompt", "提示词"),
    "lora_weight": Text("LoRA weight", "LoRA 权重"),
}
"""What people call each axis."""

DraftKind = Literal["steps", "preview"]
DRAFT_STEPS_SHARE = 0.4
"""Of the final's steps: the order of 20 of 50, at which a video's movement and composition can be told."""


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A prompt as it would be sent, where it comes from, and the movement in it."""

    text: str
    origin: PromptOrigin
    motion: Motion


ReadPrompt = Callable[[str, EngineSpec], Sentence]
"""What a value of the prompt axis, or the base's own prompt, means for an engine."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """What all cells have in common, but for what the axes change. `image_size` is the upright picture's in pixels."""

    engine: str
    choice: Choice
    prompt: str
    image: Path
    image_size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Total:
    """What a whole comparison is expected to take. `misfits` say why a cell would not fit into this machine.

    `offer` is what would make it quicker in all, for somebody to choose.
    """

    seconds: float
    disk_bytes: int
    misfits: tuple[Text, ...]
    offer: Finding | None


def split_values(field: AxisField, text: str) -> tuple[str, ...]:
    """The values in `text`: prompts by lines or `|`; anything else by commas, or by `;` and lines where it has any."""
    if field == "prompt":
        parts = re.split(r"[|\n]", text)
    else:
        text = text.translate(str.maketrans("，；、", ",;,"))
        # A guidance for two experts has a comma of its own.
        parts = re.split(r"[;\n]", text) if re.search(r"[;\n]", text.strip()) else text.split(",")
    return tuple(part.strip() for part in parts if part.strip())


def make_sketch(base: Base, x: Axis, y: Axis | None, read_prompt: ReadPrompt) -> Sketch:
    """The checked request of every cell. A seed that is neither given nor an axis is drawn once, for all cells alike.

    Raises `RequestError` with every mistake at once: in the axes, and in each cell by its engine's own rules.
    """
    axes = [x] if y is None else [x, y]
    mistakes = list(_axes_mistakes(axes))
    parsed: dict[AxisField, list[Any]] = {axis.field: _parsed(axis, mistakes) for axis in axes}
    if mistakes:
        raise _all_of(mistakes)
    if base.choice.seed is None:
        base = replace(base, choice=replace(base.choice, seed=secrets.randbelow(SEED_LIMIT)))
    requests: list[GenerationRequest] = []
    for changes in _changes(parsed, x, y):
        try:
            request = _cell(base, changes, read_prompt)
        except InputError as error:
            mistakes.append(error.text)
            continue
        mistakes += request_mistakes(find_engine(request.engine), request)
        requests.append(request)
    if mistakes:
        raise _all_of(mistakes)
    return Sketch(x=x, y=y, requests=tuple(requests), order=run_order(requests))


def left_out(base: Base, sketch: Sketch) -> tuple[Text, ...]:
    """What the base has chosen and a cell's engine has no setting for, so that its cells go without it."""
    specs = {request.engine: find_engine(request.engine) for request in sketch.requests}
    return tuple(_told_left_out(spec, names) for spec in specs.values() if (names := _lacking(base, spec)))


def draft_sketch(base: Base, kind: DraftKind, count: int, read_prompt: ReadPrompt) -> Sketch:
    """`count` quick drafts with seeds of their own, and the final that any of them can become.

    `steps` leaves size and length as they are and takes fewer steps; `preview` also takes the preview preset's smaller
    size, in the same aspect, and its length where that is shorter. Raises `RequestError`.
    """
    if not 2 <= count <= MAX_DRAFTS:
        raise RequestError(
            f"{count} drafts: 2 to {MAX_DRAFTS} are possible. Choose one of these.",
            f"{count} 个草稿：可以是 2 到 {MAX_DRAFTS} 个。请在此范围内选择。",
        )
    spec = find_engine(base.engine)
    seeds = Axis(field="seed", values=tuple(str(secrets.randbelow(SEED_LIMIT)) for _ in range(count)))
    final = _cell(replace(base, choice=replace(base.choice, seed=0)), {}, read_prompt)
    found = request_mistakes(spec, final)
    if found:
        raise _all_of(found)
    draft = replace(base, choice=_draft_choice(spec, base.choice, final, kind))
    return replace(make_sketch(draft, seeds, None, read_prompt), final=final)


def check_models(requests: Sequence[GenerationRequest]) -> None:
    """Raises `ModelError` for each engine whose model is not here, all at once."""
    found: list[StudioError] = []
    for engine, checkpoint in dict.fromkeys((request.engine, request.checkpoint) for request in requests):
        try:
            check_model(find_engine(engine), checkpoint)
        except StudioError as error:
            found.append(error)
    if found:
        texts = [error.text for error in found]
        raise type(found[0])(" ".join(text.en for text in texts), "".join(text.zh for text in texts))


def run_order(requests: Sequence[GenerationRequest]) -> tuple[int, ...]:
    """The places of `requests` in the order in which they should run.

    An engine is loaded once if its cells follow each other, its weights are changed once for each set of LoRAs, and an
    encoded prompt is found again as long as few others came between. Apart from that the order stays.
    """
    parts = [(_loaded(each), each.loras, (each.prompt, each.negative_prompt)) for each in requests]
    ranks = [{part: rank for rank, part in enumerate(dict.fromkeys(each))} for each in zip(*parts, strict=True)]

    def place(index: int) -> tuple[int, ...]:
        return (*(rank[part] for rank, part in zip(ranks, parts[index], strict=True)), index)

    return tuple(sorted(range(len(requests)), key=place))


def plan_total(sketch: Sketch, machine: Machine | None = None) -> Total:
    """Seconds and bytes of all cells: a model is loaded anew only where the cell before had another one, and what a
    size takes once, as compiling does, is counted for the first cell of that size.

    A download is not part of it: a comparison whose models are not all here is refused (`check_models`).
    """
    machine = machine or machine_now()
    plan_of = once_for_each_kind(
        lambda request: plan_run(as_here(find_engine(request.engine), request.checkpoint), request, machine)
    )
    seconds, disk_bytes, before = 0.0, 0.0, None
    misfits: list[Text] = []
    shapes: set[Any] = set()
    for cell in sketch.order:
        request = sketch.requests[cell]
        plan, shape = plan_of(request), shape_of(request)
        is_loaded = before == (_loaded(request), request.loras)
        for stage in plan.stages:
            is_first = not is_loaded if stage.name == "load" else shape not in shapes
            seconds += stage.seconds if is_first else stage.later_seconds
        shapes.add(shape)
        disk_bytes += _bytes_of(request)
        before = (_loaded(request), request.loras)
        if not plan.fits:
            misfits.append(plan.reason)
    return Total(
        seconds=seconds,
        disk_bytes=round(disk_bytes),
        misfits=tuple(dict.fromkeys(misfits)),
        offer=compile_offer(sketch.requests, machine, plan_of),
    )


def propose_values(field: AxisField, spec: EngineSpec, choice: Choice) -> tuple[str, ...]:
    """Values worth a look: seeds drawn now, numbers around the preset's own; empty where the engine has no such axis.

    Of a prompt nothing is proposed: only its author knows another one.
    """
    preset = preset_of(spec, choice.preset)
    shift = choice.flow_shift or preset.flow_shift or (spec.diffusion.flow_shift if spec.diffusion else None)
    steps = choice.steps or preset.steps
    guidance = choice.guidance if isinstance(choice.guidance, int | float) else preset.guidance
    if field == "seed":
        own = [] if choice.seed is None else [choice.seed]
        return tuple(str(seed) for seed in [*own, *(secrets.randbelow(SEED_LIMIT) for _ in range(PROPOSED))][:PROPOSED])
    if field == "steps" and steps is not None:
        return _numbers(max(1, round(steps * 0.6)), steps, round(steps * 1.4) + (steps < 2))
    if field == "guidance" and guidance is not None:
        span = 2.0 if guidance >= 6 else 1.0
        return _numbers(max(1.0, guidance - span), guidance, guidance + span)
    if field == "flow_shift" and shift is not None:
        return _numbers(max(1.0, shift - 2), shift, shift + 3)
    if field == "engine":
        others = [each.id for each in load_presets().values() if each.id != spec.id and is_here(each)]
        return tuple([spec.id, *others][:PROPOSED])
    if field == "preset":
        return tuple(name for name in spec.presets if name != "fast")[:PROPOSED]
    if field == "lora_weight" and (preset.loras or choice.loras):
        return ("0.5", "0.75", "1")
    return ()


def _numbers(*values: float) -> tuple[str, ...]:
    return tuple(f"{value:g}" for value in dict.fromkeys(values))


def _changes(parsed: Mapping[AxisField, Sequence[Any]], x: Axis, y: Axis | None) -> Iterator[dict[AxisField, Any]]:
    """What differs in each cell, row by row."""
    for row in [None] if y is None else parsed[y.field]:
        for column in parsed[x.field]:
            yield {x.field: column} if y is None else {x.field: column, y.field: row}


def _cell(base: Base, changes: Mapping[AxisField, Any], read_prompt: ReadPrompt) -> GenerationRequest:
    """The request of one cell. Raises `RequestError` for an engine, a preset or a resolution that there is not."""
    own, spec = find_engine(base.engine), find_engine(changes.get("engine", base.engine))
    choice = base.choice
    if "engine" in changes or "preset" in changes:
        choice = _as_the_preset_says(own, choice)
    if spec.id != own.id:
        choice = replace(choice, **dict.fromkeys(_lacking(base, spec)))
        # An engine without a negative prompt has an empty one, which another engine would take for a wish.
        negative = choice.negative_prompt if own.takes.negative_prompt else None
        several = {name: getattr(choice, name) or () for name in ("loras", "further_images", "subjects")}
        choice = replace(choice, **several, negative_prompt=negative)
    named = {name: changes[name] for name in ("preset", "seed", "steps", "guidance", "flow_shift") if name in changes}
    choice = replace(choice, **named)
    said = read_prompt(changes.get("prompt", base.prompt), spec)
    request = compose(
        spec,
        choice,
        image=base.image,
        image_size=base.image_size,
        prompt=said.text,
        origin=said.origin,
        motion=said.motion,
    )
    if "lora_weight" not in changes:
        return request
    if not request.loras:
        raise RequestError(
            f"LoRA weight: no LoRA is in use with {spec.id} and the preset {choice.preset}. Choose a LoRA, or another "
            "axis.",
            f"LoRA 权重：{spec.id} 的预设 {choice.preset} 没有使用 LoRA。请选择 LoRA，或换一个对比项。",
        )
    return replace(request, loras=tuple(replace(lora, weight=changes["lora_weight"]) for lora in request.loras))


def _as_the_preset_says(spec: EngineSpec, choice: Choice) -> Choice:
    """The choice without what is no choice: a number that is the preset's own means another one in another preset."""
    preset = preset_of(spec, choice.preset)
    names = ("resolution", "frames", "fps", "steps", "guidance", "flow_shift", "scheduler")
    return replace(choice, **{name: None for name in names if getattr(choice, name) == getattr(preset, name)})


def _lacking(base: Base, spec: EngineSpec) -> list[str]:
    """The settings of the base's choice, beyond its preset's own, that `spec` has not."""
    own = find_engine(base.engine)
    if spec.id == own.id:
        return []
    choice, diffusion = _as_the_preset_says(own, base.choice), spec.diffusion
    lacks = {
        "steps": not spec.takes.steps,
        "guidance": not spec.takes.guidance,
        "negative_prompt": not spec.takes.negative_prompt,
        "flow_shift": diffusion is None or diffusion.flow_shift is None,
        "scheduler": diffusion is None or choice.scheduler not in diffusion.schedulers,
        "loras": not spec.takes.loras,
        "last_image": not spec.takes.last_image,
        "further_images": not spec.takes.references,
        "subjects": not spec.takes.references,
        "fit": choice.fit not in spec.takes.fits,
        "checkpoint": True,
    }
    return [name for name, is_lacking in lacks.items() if is_lacking and getattr(choice, name)]


def _told_left_out(spec: EngineSpec, names: Sequence[str]) -> Text:
    words = {
        "steps": Text("steps", "步数"),
        "guidance": Text("guidance", "引导系数"),
        "negative_prompt": Text("negative prompt", "负向提示词"),
        "flow_shift": Text("flow shift", "flow shift"),
        "scheduler": Text("scheduler", "采样器"),
        "loras": Text("LoRAs", "LoRA"),
        "last_image": Text("last picture", "结尾图像"),
        "further_images": Text("further references", "其余参考图"),
        "subjects": Text("names of the references", "参考图名称"),
        "fit": Text("fitting of the picture", "画面适配"),
        "checkpoint": Text("model folder", "模型文件夹"),
    }
    told = [words[name] for name in names]
    return Text(
        f"{spec.id} goes without what was chosen for: {', '.join(text.en for text in told)}.",
        f"{spec.id} 不使用以下设置：{'、'.join(text.zh for text in told)}。",
    )


def _draft_choice(spec: EngineSpec, choice: Choice, final: GenerationRequest, kind: DraftKind) -> Choice:
    """The base's choice made quick. Raises `RequestError` where there is nothing to save."""
    preview = preset_of(spec, "preview")
    steps = final.steps and max(1, round(final.steps * DRAFT_STEPS_SHARE))
    draft = replace(choice, steps=steps, seed=None)
    if kind == "preview":
        draft = replace(
            draft,
            resolution=_smaller(spec, preview.resolution, final),
            frames=min(preview.frames, final.frames) if preview.fps == final.fps else final.frames,
        )
    width, height = (int(side) for side in (draft.resolution or "0x0").split("x")) if kind == "preview" else (0, 0)
    is_as_large = kind == "steps" or (width, height, draft.frames) == (final.width, final.height, final.frames)
    if is_as_large and steps == final.steps:
        raise RequestError(
            f"Drafts with {spec.id}: it has nothing that would make these settings quicker. Choose a larger size, "
            "another kind of draft, or make the video itself.",
            f"{spec.id} 的草稿：当前设置已无法更快。请选更大的尺寸、另一种草稿，或直接生成视频。",
        )
    return draft


def _smaller(spec: EngineSpec, resolution: str, final: GenerationRequest) -> str:
    """The size of the preview's budget in the final's aspect; the final's own where that is not larger."""
    size = fit_size(spec.grid, spec.resolutions[resolution], final.width, final.height)
    if size.width * size.height >= final.width * final.height:
        return f"{final.width}x{final.height}"
    return f"{size.width}x{size.height}"


def _axes_mistakes(axes: Sequence[Axis]) -> Iterator[Text]:
    cells = 1
    for axis in axes:
        name, cells = WORDS[axis.field], cells * max(1, len(axis.values))
        if not axis.values:
            yield Text(f"{name.en}: no value was given. Give one or more.", f"{name.zh}：没有给出值。请至少给出一个。")
        for value in dict.fromkeys(axis.values):
            if axis.values.count(value) > 1:
                yield Text(
                    f"{name.en} {value}: it stands there twice. Give each value once.",
                    f"{name.zh} {value}：重复出现。每个值请只给一次。",
                )
    if len({axis.field for axis in axes}) < len(axes):
        name = WORDS[axes[0].field]
        yield Text(
            f"Both axes are {name.en}: one thing can only differ along one of them. Choose another one.",
            f"两个对比项都是{name.zh}：请选择另一个。",
        )
    if cells > MAX_CELLS:
        yield Text(
            f"{cells} videos: a comparison has at most {MAX_CELLS}. Give fewer values.",
            f"{cells} 个视频：一次对比最多 {MAX_CELLS} 个。请减少取值。",
        )


def _parsed(axis: Axis, mistakes: list[Text]) -> list[Any]:
    """The values as what they mean; what cannot be read goes to `mistakes`."""
    values: list[Any] = []
    for value in axis.values:
        try:
            values.append(_READERS[axis.field](value))
        except InputError as error:
            mistakes.append(error.text)
        except ValueError:
            name, what = WORDS[axis.field], _ALLOWED[axis.field]
            mistakes.append(
                Text(
                    f"{name.en} {value}: {what.en}. Change it.",
                    f"{name.zh} {value}：{what.zh}。请修改。",
                )
            )
    return values


def _seed(text: str) -> int:
    # Python reads 1_000 and a leading plus, too.
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > MAX_SEED:
        raise ValueError(text)
    return int(text)


def _whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise ValueError(text)
    return int(text)


def _decimal(text: str) -> float:
    if not re.fullmatch(r"-?[0-9]{1,4}(\.[0-9]{1,6})?", text):
        raise ValueError(text)
    return float(text)


_READERS: Mapping[AxisField, Callable[[str], Any]] = {
    "seed": _seed,
    "steps": _whole,
    "guidance": parse_guidance,
    "flow_shift": _decimal,
    "engine": lambda text: find_engine(text).id,
    "preset": str,
    "prompt": str,
    "lora_weight": _decimal,
}
_ALLOWED: Mapping[AxisField, Text] = {
    "seed": Text(f"whole numbers from 0 to {MAX_SEED} are allowed", f"允许 0 到 {MAX_SEED} 的整数"),
    "steps": Text("a whole number is needed", "应为整数"),
    "flow_shift": Text("a number is needed", "应为数字"),
    "lora_weight": Text("a number such as 0.8 is needed", "应为数字，例如 0.8"),
}


def _loaded(request: GenerationRequest) -> tuple[object, ...]:
    """What one load of a model serves."""
    return request.engine, request.checkpoint, request.device, request.precision


def _bytes_of(request: GenerationRequest) -> float:
    """The video, and its pictures: beside the video and, unless left out, inside it."""
    pictures = sum(picture.stat().st_size for picture in request.images) * (2 if request.embed_source else 1)
    return request.width * request.height * length_of(request).frames * VIDEO_BYTES_PER_PIXEL + pictures


def _all_of(mistakes: Sequence[Text]) -> RequestError:
    told = list(dict.fromkeys(mistakes))
    return RequestError(" ".join(text.en for text in told), "".join(text.zh for text in told))
