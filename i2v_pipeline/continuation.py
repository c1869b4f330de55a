"""A finished video made longer: which of its frames the new clip begins with, and how the two become one video.

Knows no engine, no queue and no page. The video's frames are those that its MP4 decodes to, so the part that is kept is
coded once more; nothing else is lost of it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from i2v_pipeline.chain import Join, Kept, Told, findings_of, own_clip, ranges_of, section_of
from i2v_pipeline.colour_match import apply_match, find_match
from i2v_pipeline.errors import InputError, RequestError
from i2v_pipeline.images import open_picture, prepare
from i2v_pipeline.inspection.defects import see, sharpness_of
from i2v_pipeline.inspection.drift import measure_drift
from i2v_pipeline.inspection.judge import Inspection
from i2v_pipeline.inspection.likeness import delta_e, ssim
from i2v_pipeline.inspection.motion import luma_for_work
from i2v_pipeline.recipe import Recipe, first_recipe, known_report, read_recipe
from i2v_pipeline.report_parts import KnownReport
from i2v_pipeline.types import Aftercare, Continuation, GenerationRequest, U8Frames, U8Image
from i2v_pipeline.video import VideoInfo, probe_video, read_frames

LATE_FRAMES = 5
"""Among so many of the last frames the one is chosen that a new clip begins with: models often spoil the very last."""
SHARP_ENOUGH = 0.95
"""A frame counts as sharp from this share of the sharpest one's on; the last of the sharp ones is chosen."""
ODD_FLAGS = frozenset({"black", "flash", "strobe", "flicker", "duplicate_frames", "snap_back"})
"""What is wrong with single frames: one of these begins no clip where another is left."""
FPS_TOLERANCE = 0.01
"""MP4 counts time in whole ticks."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A finished video of this studio: what its report says, and what was read back from the file."""

    video: Path
    recipe: Recipe
    info: VideoInfo

    @property
    def known(self) -> KnownReport:
        return known_report(self.recipe.report)


def open_source(video: Path) -> Source:
    """Reads a finished video. Raises `RecipeError` for a file that is no whole video of this studio."""
    recipe = read_recipe(video)
    if not recipe.is_video:
        raise InputError(
            "This is a report: what is made longer is the video itself. Give the MP4 that it belongs to.",
            "这是一份报告：要续写的是视频本身。请提供对应的 MP4。",
        )
    return Source(video=video, recipe=recipe, info=probe_video(video))


def read_frame(video: Path, frame: int) -> U8Image:
    """One frame of a video, counted from 0, as the MP4 decodes. Raises `RequestError` for one that is not there."""
    count = 0
    with contextlib.closing(read_frames(video)) as frames:
        for chunk in frames:
            if count == frame:
                return chunk[0]
            count += 1
    raise RequestError(
        f"Frame {frame}: the video has frames 0 to {count - 1}. Choose one of these.",
        f"第 {frame} 帧：该视频只有第 0 到 {count - 1} 帧。请在此范围内选择。",
    )


def best_frame(source: Source) -> int:
    """The last sharp one of the last frames, counted from 0, that nothing is wrong with; where something is wrong with
    all of them, the last sharp one."""
    flags = source.recipe.report.get("quality", {}).get("flags", [])
    odd = {frame for flag in flags if flag["code"] in ODD_FLAGS for frame in flag["frames"]}
    first = max(source.info.frames - LATE_FRAMES, 0)
    sharpness: dict[int, float] = {}
    with contextlib.closing(read_frames(source.video)) as frames:
        for number, chunk in enumerate(frames):
            if number >= first:
                luma = luma_for_work(chunk[0])
                sharpness[number] = sharpness_of(luma)
                odd |= {number} if see(chunk[0], luma, None).is_black else set()
    usable = {number: value for number, value in sharpness.items() if number not in odd} or sharpness
    return max(number for number, value in usable.items() if value >= SHARP_ENOUGH * max(usable.values()))


def continued(
    before: GenerationRequest, source: Source, frame: int, picture: Path, *, seed: int, frames: int | None = None
) -> GenerationRequest:
    """The request of a clip like `before` that goes on from `frame`, which stands in the file `picture`.

    What the video ended with is not what the longer one ends with: a last picture is left out.
    Raises `InputError` where the video is not what `before` makes, or has had after-care: its frames are not the
    engine's alone.
    """
    if before.aftercare != Aftercare():
        raise InputError(
            "This video was looped, run back or doubled in its frame rate, so it has no plain end to go on from. Make "
            "it again without after-care and go on from that.",
            "该视频做过循环、倒放或帧率翻倍，没有可以续写的原始结尾。请先不带后期处理重新生成，再续写。",
        )
    request = replace(
        before,
        images=(picture,),
        last_image=None,
        seed=seed,
        frames=before.frames if frames is None else frames,
        continues=Continuation(video=source.video, frame=frame),
    )
    _check_alike(source.info, request)
    return request


class Joining:
    """The kept frames and the new ones as one video, and what there is to tell about it afterwards."""

    def __init__(self, source: Source, frame: int, chosen: U8Image) -> None:
        self._source = source
        self._frame = frame
        self._chosen = chosen
        self._join: Join | None = None

    @property
    def first_picture(self) -> U8Image | None:
        """The picture that the whole video begins with, at its size; None where its file does not hold it."""
        if self._source.recipe.picture is None:
            return None
        settings = first_recipe(self._source.known).parameters
        picture = open_picture(self._source.recipe.picture[1])
        return prepare(picture, settings.width, settings.height, settings.fit).pixels

    @property
    def stored_picture(self) -> tuple[str, bytes] | None:
        """That picture's format and bytes as they were given."""
        return self._source.recipe.picture

    @property
    def first_new(self) -> int:
        """The number of the first frame that the new clip brings."""
        return self._frame + 1

    def frames(self, new: Iterator[U8Frames]) -> Iterator[U8Frames]:
        """The kept frames, then those of the new clip but its first, which shows the chosen frame once more.

        The new clip's colours are matched to the chosen frame's by what its own first frame looks like.
        """
        with contextlib.closing(read_frames(self._source.video)) as kept:
            yield from islice(kept, self._frame + 1)
        for chunk in new:
            later = chunk
            if self._join is None and len(chunk):
                self._join = _compare(self._chosen, chunk[0])
                later = chunk[1:]
            if len(later):
                match = self._join.match if self._join else None
                yield later if match is None else apply_match(match, later)

    def told(
        self, video: Path, request: GenerationRequest, inspection: Inspection, job_id: str, created: datetime
    ) -> Told:
        """What there is to report of the joined `video`, once all its frames were written."""
        own = own_clip(request, self._join, (self.first_new, inspection.frames - 1), job_id=job_id, created=created)
        clips = [*_clips_before(self._source, self._frame), own]
        drift = measure_drift(read_frames(video), ranges_of(clips), inspection.pairs)
        cut = self._source.info.frames - self.first_new
        kept = Kept(frame=self._frame, cut=cut, new=inspection.frames - self.first_new)
        return Told(section=section_of(clips, drift), findings=findings_of(kept, self._join, drift[-1]))


def open_joining(request: GenerationRequest, picture: U8Image) -> Joining | None:
    """The video that the request goes on from, None where it begins anew. `picture` is the engine's, as prepared.

    Raises `InputError` where the video is not one that this request can go on from.
    """
    if request.continues is None:
        return None
    source = open_source(request.continues.video)
    _check_alike(source.info, request)
    chosen = read_frame(source.video, request.continues.frame)
    if not np.array_equal(chosen, picture):
        raise InputError(
            f"The picture is not frame {request.continues.frame} of the video that is continued. Leave the picture to "
            "the studio: it takes it from the video.",
            f"图片不是被续写视频的第 {request.continues.frame} 帧。请不要另外提供图片：工作室会从视频中取出。",
        )
    return Joining(source, request.continues.frame, chosen)


def _check_alike(info: VideoInfo, request: GenerationRequest) -> None:
    is_alike = (info.width, info.height) == (request.width, request.height)
    if is_alike and abs(info.fps - request.fps) < FPS_TOLERANCE:
        return
    raise InputError(
        f"The video has {info.width} × {info.height} at {info.fps:g} frames per second, the clip would have "
        f"{request.width} × {request.height} at {request.fps}: both must be alike. Continue a video as its engine made "
        "it, without frames put in between and without another size.",
        f"视频为 {info.width} × {info.height}、每秒 {info.fps:g} 帧，新片段为 {request.width} × {request.height}、每秒 "
        f"{request.fps} 帧：两者必须一致。请续写引擎原样生成、未插帧也未改尺寸的视频。",
    )


def _compare(chosen: U8Image, first: U8Image) -> Join:
    match = find_match(chosen, first)
    shown = first if match is None else apply_match(match, first[None])[0]
    return Join(ssim=ssim(shown, chosen), delta_e=delta_e(shown, chosen), match=match)


def _clips_before(source: Source, frame: int) -> list[dict[str, Any]]:
    """The clips of the video that is continued, cut off after `frame` and coded once more."""
    known = source.known
    chain = known.continuation
    clips = [_first_clip(source)] if chain is None else [clip.model_dump(mode="json") for clip in chain.clips]
    content = source.video.read_bytes()
    clips[-1] |= {
        "continued_at": frame,
        "video_sha256": hashlib.sha256(content).hexdigest(),
        "video_bytes": len(content),
        "frames_sha256": known.output.frames_sha256,
        "recipe": known.model_dump(mode="json", exclude={"continuation", "job", "created"}),
    }
    for clip in clips:
        clip["encoded"] += 1
        if clip["frames"] is not None:
            first, last = clip["frames"]
            clip["frames"] = [first, min(last, frame)] if first <= frame else None
    return clips


def _first_clip(source: Source) -> dict[str, Any]:
    known = source.known
    return {
        "job": known.job,
        "created": known.created,
        "seed": known.parameters.seed,
        "prompt": known.prompt.sent,
        "frames": [0, source.info.frames - 1],
        "encoded": 1,
        "join": None,
    }
