"""One request varied along one or two axes: a complete request for each cell, in the order that shares most work.

Knows no page, no store and no report. Page and command line give it the same plain values.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from i2v_pipeline.aftercare.length import length_of
from i2v_pipeline.checks import request_mistakes
from i2v_pipeline.errors import InputError, RequestError, StudioError
from i2v_pipeline.hub import as_here, check_model
from i2v_pipeline.images import fit_size
from i2v_pipeline.planning import plan_run
from i2v_pipeline.planning.compiling import shape_of
from i2v_pipeline.planning.costs import VIDEO_BYTES_PER_PIXEL
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.presets import find_engine
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Finding, GenerationRequest, Motion, PromptOrigin, Text
from studio.axes import axes_mistakes, parse_values
from studio.compile_offer import compile_offer
from studio.jobs.comparisons import Axis, AxisField, Sketch
from studio.plans import machine_now, once_for_each_kind
from studio.recipe import SEED_LIMIT, Choice, compose, preset_of

MAX_DRAFTS = 6
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


def make_sketch(base: Base, x: Axis, y: Axis | None, read_prompt: ReadPrompt) -> Sketch:
    """The checked request of every cell. A seed that is neither given nor an axis is drawn once, for all cells alike.

    Raises `RequestError` with every mistake at once: in the axes, and in each cell by its engine's own rules.
    """
    axes = [x] if y is None else [x, y]
    mistakes = list(axes_mistakes(axes))
    parsed: dict[AxisField, list[Any]] = {axis.field: parse_values(axis, mistakes) for axis in axes}
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
