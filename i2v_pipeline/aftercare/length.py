"""How long a video becomes by its after-care. Arithmetic alone: knows no frame."""

from __future__ import annotations

from dataclasses import dataclass

from i2v_pipeline.types import GenerationRequest

MOST_PAIRS_AT_ONCE = 4
"""Frames that are made between others at the same time, where there are cores for them: each takes memory."""
FADE_S = 0.5
"""A loop's end dissolves into its start for so long, or for `FADE_SHARE` of the video where that is shorter."""
FADE_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long the written video is. In a loop its last `faded` frames dissolve into its start."""

    frames: int
    fps: int
    faded: int = 0

    @property
    def seconds(self) -> float:
        return self.frames / self.fps


def length_of(request: GenerationRequest) -> Length:
    """The video that will be written."""
    care, frames, fps, steps = request.aftercare, request.video_frames, request.fps, 1
    if care.double_rate:
        frames, fps, steps = 2 * frames - 1, 2 * fps, 2
    if care.ending == "boomerang":
        return Length(frames=2 * frames - 2, fps=fps)
    if care.ending == "loop":
        faded = steps * max(1, min(round(FADE_S * request.fps), int(FADE_SHARE * request.frames)))
        return Length(frames=frames - faded, fps=fps, faded=faded)
    return Length(frames=frames, fps=fps)


def pairs_at_once(cores: int | None) -> int:
    """How many frames are made between others at the same time."""
    return min(MOST_PAIRS_AT_ONCE, cores or 1)
