"""What a program orders becomes a complete request: its fields checked, its defaults the preset's, its prompt refined.

Shared by the HTTP API and the page's named endpoints; knows neither.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from i2v_pipeline.checks import check_request
from i2v_pipeline.errors import InputError, RequestError
from i2v_pipeline.guidance import parse_guidance
from i2v_pipeline.hub import check_model
from i2v_pipeline.images import Picture, legal_frames
from i2v_pipeline.presets import find_engine
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import (
    Aftercare,
    Attention,
    Ending,
    FeatureCache,
    Fit,
    GenerationRequest,
    Motion,
    PresetName,
    Subject,
    Text,
)
from prompt_refiner import refine
from studio.continuing import Wish, request_to_continue
from studio.models import best_engine, best_reference_engine
from studio.page.services import Services
from studio.plans import machine_now
from studio.recipe import Choice, compose, motion_of, origin_of, preset_of, style_of

MAX_PROMPT = 8000
"""Characters: more than any encoder reads, and little enough to be refined at once."""

SHOWN = 60
"""Characters of a wrong value that an answer repeats."""

RefineMode = Literal["auto", "llm", "offline", "off"]
_Words = Annotated[str, Field(max_length=MAX_PROMPT)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _as_text(value: object) -> object:
    """A number where a text is wanted, as clients send guidance."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_number(value: object) -> object:
    """A text where a number is wanted, as clients of the wire format send seconds."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


class OrderedSubject(BaseModel):
    """What a reference picture shows."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(default="", description="What you call it.")
    remove_background: bool = Field(default=False, description="Whether it is cut out and put alone on white.")


class Order(BaseModel):
    """What may be asked for; what is left out is as the preset says. Extra fields are refused, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: _Words = Field(description="What happens, in English or Chinese.")
    model: str = Field(default="auto", description="An engine's id, or auto: the best one that is on this machine.")
    preset: PresetName = Field(default="standard", description="Where the defaults come from.")
    seconds: Annotated[_Seconds | None, BeforeValidator(_as_number)] = Field(
        default=None,
        description="Becomes the nearest number of frames that the engine can make; the answer has what it is.",
    )
    frames: int | None = Field(default=None, description="In place of seconds; exact.")
    size: str | None = Field(
        default=None, description="WIDTHxHEIGHT, exact; without it the picture's own aspect is kept."
    )
    resolution: str | None = Field(default=None, description="In place of size: a name such as 480p or 720p.")
    fit: Fit | None = Field(
        default=None,
        description="What happens to a picture of another aspect: crop, pad or stretch; references are put on white.",
    )
    fps: int | None = None
    steps: int | None = None
    guidance: Annotated[str | None, BeforeValidator(_as_text)] = Field(
        default=None, description="5, a ramp 9..6, an interval 5@0-0.6; for two experts two of these: 3.5,1."
    )
    flow_shift: float | None = None
    attention: Attention = Field(default="auto", description="sage rounds to 8 bits; the others are exact.")
    cache: FeatureCache = Field(default="off", description="Faster, with less fine motion and detail.")
    compiled: bool = Field(default=False, description="Pays when several videos of one size are made.")
    negative_prompt: _Words | None = None
    seed: int | None = Field(default=None, description="Drawn and told when it is not given.")
    refine: RefineMode = Field(default="auto", description="off sends the prompt as it is.")
    double_rate: bool = Field(default=False, description="Puts a frame between any two: twice the frames per second.")
    ending: Ending = Field(
        default="plain", description="loop: the end dissolves into the start; boomerang: back the way that it came."
    )
    embed_source: bool = Field(default=True, description="Whether the picture travels inside the MP4.")
    subjects: list[OrderedSubject] | None = Field(
        default=None,
        description="What each reference shows, in their order, for an engine that takes them; in a form as JSON.",
    )


class VideoReference(BaseModel):
    """A video of the same owner."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str


class Extension(BaseModel):
    """What may be asked of a continuation; everything else is as it was. Extra fields are refused, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    video: VideoReference | None = Field(
        default=None, description="A completed video of yours; in a form a file may stand in its place."
    )
    prompt: _Words | None = Field(default=None, description="What happens next; without it the same as before.")
    seconds: Annotated[_Seconds | None, BeforeValidator(_as_number)] = Field(
        default=None,
        description="Of the new clip; becomes the nearest number of frames that the engine can make. Without it as "
        "before. One frame less is added, since the first shows the frame that it goes on from.",
    )
    frames: int | None = Field(default=None, description="In place of seconds; exact.")
    frame: int | None = Field(
        default=None, description="The video's frame to go on from, counted from 0; without it a late sharp one."
    )
    seed: int | None = Field(default=None, description="Drawn and told when it is not given.")
    refine: RefineMode = Field(default="auto", description="off sends a new prompt as it is.")


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """The request to be queued, and what its sender should know about it."""

    request: GenerationRequest
    notices: tuple[Text, ...]


def read_order(order: Order, pictures: Sequence[tuple[Picture, Path]], services: Services) -> Ordered:
    """The complete, checked request for `pictures` and where they lie. May take the refiner's whole deadline.

    Several are references, and so is one with `subjects`. Raises `InputError` for what the engine does not take and
    `ModelError` for an engine whose model is not here.
    """
    # 1. What will be made: refused before anybody waits for a refiner
    (picture, path), *further = pictures
    spec = engine_of(order, services, has_references=bool(further or order.subjects))
    fps = preset_of(spec, order.preset).fps if order.fps is None else order.fps
    frames, notice = frames_in(order.seconds, order.frames, fps, spec)
    choice = Choice(
        preset=order.preset,
        resolution=_resolution_of(order),
        frames=frames,
        fps=order.fps,
        steps=order.steps,
        guidance=None if order.guidance is None else parse_guidance(order.guidance),
        negative_prompt=order.negative_prompt,
        seed=order.seed,
        fit=order.fit,
        embed_source=order.embed_source,
        flow_shift=order.flow_shift,
        aftercare=Aftercare(double_rate=order.double_rate, ending=order.ending),
        attention=order.attention,
        cache=order.cache,
        compiled=order.compiled,
        further_images=tuple(place for _, place in further),
        subjects=tuple(Subject(**subject.model_dump()) for subject in order.subjects or ()),
    )
    request_for = partial(compose, spec, choice, image=path, image_size=(picture.width, picture.height))
    typed = order.prompt
    check_request(spec, request_for(prompt=typed, origin=origin_of(typed, None), motion=Motion()))
    check_model(spec)

    # 2. The prompt
    is_refined = order.refine != "off"
    result = refine(
        typed,
        style=style_of(spec),
        settings=services.refiner,
        mode="offline" if order.refine == "off" else order.refine,
    )
    request = request_for(
        prompt=result.refined_prompt if is_refined else typed,
        origin=origin_of(typed, result if is_refined else None),
        motion=motion_of(result),
    )
    said = [Text(each.en, each.zh) for each in result.notices] if is_refined else []
    return Ordered(request=request, notices=(*([notice] if notice else []), *said))


def read_extension(
    extension: Extension, before: GenerationRequest, video: Path, folder: Path, services: Services
) -> Ordered:
    """The complete, checked request that goes on from `video`; its first picture is written into `folder`.

    `before` is the request that the video was made with. Raises as `read_order` does.
    """
    spec = find_engine(before.engine)
    frames, notice = frames_in(extension.seconds, extension.frames, before.fps, spec)
    wish = Wish(
        frame=extension.frame,
        prompt=extension.prompt,
        seed=extension.seed,
        frames=frames,
        refine=extension.refine,
    )
    check_model(spec, before.checkpoint)
    longer = request_to_continue(before, video, wish, folder, services.refiner)
    return Ordered(request=longer.request, notices=(*([notice] if notice else []), *longer.notices))


def engine_of(order: Order, services: Services, *, has_references: bool = False) -> EngineSpec:
    """The engine that is meant; for `auto` the best one that is on this machine. Raises `InputError`."""
    if order.model != "auto":
        return find_engine(order.model)
    best = best_reference_engine if has_references else best_engine
    return best(services.engines, machine_now())


def make_order(fields: Mapping[str, object]) -> Order:
    """The order with these fields. Raises `InputError` with every mistake at once."""
    try:
        return Order.model_validate(fields)
    except ValidationError as error:
        raise InputError(*mistakes_in(error)) from None


def mistakes_in(error: ValidationError, fields: Iterable[str] = Order.model_fields) -> Text:
    """What is wrong with each field, and which `fields` there are where one is unknown."""
    told: list[str] = []
    for each in error.errors(include_url=False, include_context=False):
        field = ".".join(str(part) for part in each["loc"]) or "body"
        if each["type"] == "extra_forbidden":
            told.append(f"{field}: there is no such field. Allowed are {', '.join(fields)}.")
        else:
            told.append(f"{field} {_shown(each['input'])}: {each['msg']}.")
    return Text(" ".join(told), f"字段有误：{' '.join(told)}")


def _shown(value: object) -> str:
    """What was given, short enough to be read."""
    if not isinstance(value, str | int | float):
        return ""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _resolution_of(order: Order) -> str | None:
    if order.size is not None and order.resolution is not None:
        raise RequestError(
            f"Size {order.size} and resolution {order.resolution}: they say the same thing. Give one of them.",
            f"同时给出了 size {order.size} 和 resolution {order.resolution}：两者含义相同。请只给一个。",
        )
    return order.size or order.resolution


def frames_in(seconds: float | None, frames: int | None, fps: int, spec: EngineSpec) -> tuple[int | None, Text | None]:
    """The number of frames that was asked for, and what to say where seconds could not be met exactly."""
    if seconds is None:
        return frames, None
    if frames is not None:
        raise RequestError(
            f"{seconds:g} seconds and {frames} frames: they say the same thing. Give one of them.",
            f"同时给出了 {seconds:g} 秒和 {frames} 帧：两者含义相同。请只给一个。",
        )
    if fps < 1:
        # The check of the whole request says what is allowed.
        return None, None
    legal = legal_frames(spec.grid)
    shortest, longest = legal[0] / fps, legal[-1] / fps
    # Half a step around the ends still means the end.
    margin = legal.step / 2 / fps
    if not shortest - margin <= seconds <= longest + margin:
        raise RequestError(
            f"{seconds:g} seconds: {spec.id} makes {shortest:.2f} to {longest:.2f} s at {fps} frames per second. "
            "Choose a length in between.",
            f"{seconds:g} 秒：{spec.id} 在每秒 {fps} 帧时可生成 {shortest:.2f} 到 {longest:.2f} 秒。请选择其间的时长。",
        )
    wished = seconds * fps
    frames = min(legal, key=lambda count: abs(count - wished))
    if math.isclose(frames, wished):
        return frames, None
    made = frames / fps
    return frames, Text(
        f"{seconds:g} s is not a length that {spec.id} makes at {fps} frames per second; the nearest is "
        f"{made:.2f} s, {frames} frames.",
        f"{spec.id} 在每秒 {fps} 帧时无法正好生成 {seconds:g} 秒；最接近的是 {made:.2f} 秒，{frames} 帧。",
    )
