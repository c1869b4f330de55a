"""A finished video and what is asked of its continuation become a complete request. Shared by page, command line, API.

Draws nothing and runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from i2v_pipeline.checks import check_request
from i2v_pipeline.continuation import best_frame, continued, open_source, read_frame
from i2v_pipeline.errors import InputError
from i2v_pipeline.presets import find_engine
from i2v_pipeline.recipe import Recipe, missing_parts, request_from_report
from i2v_pipeline.types import GenerationRequest, Text
from prompt_refiner import RefinerSettings, refine
from studio.recipe import fresh_seed, motion_of, origin_of, preset_of, style_of

_LAST_PICTURE_LEFT = Text(
    "The video ended with a picture of its own; the longer one does not: it goes on beyond it.",
    "原视频以指定图片结尾；续写后的视频会继续下去，不再使用该图片。",
)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked of a continuation. None: the late frame that is sharp, the same prompt, a new seed, as many frames
    as the clip before. `refine` is for another prompt than before; `off` sends it as it is.
    """

    frame: int | None = None
    prompt: str | None = None
    seed: int | None = None
    frames: int | None = None
    refine: Literal["auto", "llm", "offline", "off"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Continued:
    """The request to be run or queued, its first picture being a file of its own, and what to say about it."""

    request: GenerationRequest
    notices: tuple[Text, ...]


def request_of_video(recipe: Recipe, checkpoint: Path | None) -> GenerationRequest:
    """The request that a video was made with, for a continuation alike; its pictures are not needed and not there.

    Raises `InputError` where it was made with a model folder that is not given.
    """
    missing = next((part for part in missing_parts(recipe) if part.code == "checkpoint"), None)
    if missing is not None and checkpoint is None:
        raise InputError(
            f"{missing.message.en} Give that folder on the command line, with --checkpoint.",
            f"{missing.message.zh}请在命令行中用 --checkpoint 提供该文件夹。",
        )
    return request_from_report(recipe.report, Path(), checkpoint=checkpoint)


def request_of_sent_video(recipe: Recipe) -> GenerationRequest:
    """The same for a video that somebody sent: what its report names on this machine's disk is not opened.

    Raises `InputError` also for one that was made with LoRAs of its own.
    """
    request = request_of_video(recipe, None)
    usual = {lora for preset in find_engine(request.engine).presets.values() for lora in preset.loras}
    if not set(request.loras) <= usual:
        raise InputError(
            "This video was made with LoRAs of its own, and a file from elsewhere may not name files of this machine. "
            "Continue it by its id, or on the command line.",
            "该视频使用了自己的 LoRA，而外来文件不能指定本机上的文件。请用视频 id 续写，或在命令行中续写。",
        )
    return request


def request_to_continue(
    before: GenerationRequest, video: Path, wish: Wish, folder: Path, refiner: RefinerSettings
) -> Continued:
    """A clip like `before` that goes on from `video`; its first picture is written into `folder`, losing nothing.

    May take the refiner's whole deadline where another prompt is to be refined. Raises `InputError` for a video that
    cannot be continued like that.
    """
    source = open_source(video)
    frame = best_frame(source) if wish.frame is None else wish.frame
    picture = folder / f"frame-{frame}.png"
    Image.fromarray(read_frame(video, frame)).save(picture)
    seed = fresh_seed() if wish.seed is None else wish.seed
    request = continued(before, source, frame, picture, seed=seed, frames=wish.frames)
    spec = find_engine(request.engine)
    check_request(spec, request)
    notices = [_LAST_PICTURE_LEFT] if before.last_image is not None else []
    if wish.prompt is None or wish.prompt == before.prompt:
        return Continued(request=request, notices=tuple(notices))

    is_refined = wish.refine != "off"
    result = refine(
        wish.prompt,
        style=style_of(spec, request.checkpoint),
        settings=refiner,
        mode="offline" if wish.refine == "off" else wish.refine,
    )
    motion = motion_of(result)
    intensity = None if request.preset is None else preset_of(spec, request.preset).intensity
    request = replace(
        request,
        prompt=result.refined_prompt if is_refined else wish.prompt,
        origin=origin_of(wish.prompt, result if is_refined else None),
        motion=motion if intensity is None else replace(motion, intensity=intensity),
    )
    check_request(spec, request)
    said = [Text(each.en, each.zh) for each in result.notices] if is_refined else []
    return Continued(request=request, notices=(*notices, *said))
