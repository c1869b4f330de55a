"""What a request's after-care does to the engine's frames on their way into the file. Knows no engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2v_pipeline.aftercare.doubling import doubled
from i2v_pipeline.aftercare.length import length_of
from i2v_pipeline.aftercare.turning import looped, there_and_back
from i2v_pipeline.types import GenerationRequest, U8Frames


@dataclass(frozen=True, kw_only=True)
class Cared:
    """The frames to be written, and what was done to them, known when the last one has been taken.

    `cuts` are the engine's frames after which the scene changes, so that nothing could be put between.
    """

    frames: Iterator[U8Frames]
    cuts: list[int]


def care_for(request: GenerationRequest, chunks: Iterable[U8Frames], folder: Path) -> Cared:
    """The engine's frames with the request's after-care; `folder` may hold a file of them for the way back."""
    cuts: list[int] = []
    frames: Iterator[U8Frames] = iter(chunks)
    if request.aftercare.double_rate:
        frames = doubled(frames, cuts.append)
    if request.aftercare.ending == "loop":
        frames = looped(frames, length_of(request).faded)
    elif request.aftercare.ending == "boomerang":
        frames = there_and_back(frames, folder)
    return Cared(frames=frames, cuts=cuts)


def as_made(request: GenerationRequest, written: Iterable[U8Frames]) -> Iterator[U8Frames]:
    """Of the frames read back from the file those that the engine made, in its order and for its frame rate.

    In a loop they are those that nothing dissolves into.
    """
    length, step = length_of(request), 2 if request.aftercare.double_rate else 1
    last = {"plain": length.frames, "loop": length.frames - length.faded, "boomerang": length.frames // 2 + 1}
    return _every(written, step, last[request.aftercare.ending])


def facts_of(request: GenerationRequest, cuts: Iterable[int]) -> dict[str, Any]:
    """What was done, for the report: JSON values."""
    return {
        "double_rate": request.aftercare.double_rate,
        "ending": request.aftercare.ending,
        "made_frames": request.frames,
        "made_fps": request.fps,
        "repeated_at_cuts": list(cuts),
        "dissolved_frames": length_of(request).faded,
    }


def _every(chunks: Iterable[U8Frames], step: int, last: int) -> Iterator[U8Frames]:
    number = 0
    for chunk in chunks:
        chosen = [place for place in range(len(chunk)) if (number + place) % step == 0 and number + place < last]
        number += len(chunk)
        if chosen:
            yield chunk[chosen]
