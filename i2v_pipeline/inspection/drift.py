"""How far the clips of one video have drifted from the first of them, in colour and in sharpness. Knows no request.

Two measures, since neither is enough: the same places followed through each clip, which says nothing once they are
lost, and whole clips against each other, which also counts what the camera shows anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from i2v_pipeline.inspection.defects import (
    BLUR_SHARE,
    DRIFT_DELTA_E,
    Compared,
    Seen,
    Values,
    compare_places,
    see,
    sharpness_of,
)
from i2v_pipeline.inspection.motion import MATCHED_SHARE, PairMotion, luma_for_work, matrix_of
from i2v_pipeline.types import U8Frames

Range = tuple[int, int]
"""The first and the last frame of a clip, counted from 0."""


@dataclass(frozen=True, kw_only=True)
class ClipDrift:
    """A clip's end against the video's beginning, or the whole clip against the whole first one.

    Colour is the CIE76 difference, sharpness a share. `followed_*` is along the same places from frame to frame and
    added up over the clips; None once they were lost within a clip.
    """

    colour: float
    sharpness: float
    followed_colour: float | None
    followed_sharpness: float | None

    @property
    def is_far(self) -> bool:
        """Whether anybody would see it, by the places where they could be followed, else by the clips as a whole."""
        if self.followed_colour is None or self.followed_sharpness is None:
            return self.colour > DRIFT_DELTA_E or self.sharpness < BLUR_SHARE
        return self.followed_colour > DRIFT_DELTA_E or self.followed_sharpness < BLUR_SHARE


@dataclass(frozen=True, kw_only=True)
class _Look:
    """A clip as a whole: the median of its frames."""

    colour: Values
    sharpness: float


def measure_drift(
    chunks: Iterable[U8Frames], clips: Sequence[Range], pairs: Sequence[PairMotion]
) -> tuple[ClipDrift, ...]:
    """One for each clip, in order. `pairs[n]` is the movement from frame n to frame n + 1 of the video.

    `chunks` are the video's frames, uint8 (frames, height, width, 3); a clip follows on the last frame of the one
    before, so places are followed across the join.
    """
    seen = [see(frame, luma_for_work(frame), None) for chunk in chunks for frame in chunk]
    looks = [_look(seen[first : last + 1]) for first, last in clips]
    drifts, shift, sharpness = [], np.zeros(3, np.float32), 1.0
    is_lost = False
    for (first, last), look in zip(clips, looks, strict=True):
        compared = None if is_lost else _follow(seen, max(first - 1, 0), last, pairs)
        is_lost = compared is None
        if compared is not None:
            shift, sharpness = shift + compared.shift, sharpness * compared.sharpness
        drifts.append(
            ClipDrift(
                colour=float(np.linalg.norm(look.colour - looks[0].colour)),
                sharpness=look.sharpness / max(looks[0].sharpness, 1e-6),
                followed_colour=None if is_lost else float(np.linalg.norm(shift)),
                followed_sharpness=None if is_lost else sharpness,
            )
        )
    return tuple(drifts)


def _look(seen: Sequence[Seen]) -> _Look:
    colours = [each.colours.reshape(-1, 3).mean(axis=0) for each in seen]
    return _Look(
        colour=np.median(colours, axis=0).astype(np.float32),
        sharpness=float(np.median([sharpness_of(each.luma) for each in seen])),
    )


def _follow(seen: Sequence[Seen], first: int, last: int, pairs: Sequence[PairMotion]) -> Compared | None:
    """The last frame against the first, in the places that can be followed; None where too few of them are left."""
    place = np.eye(3)
    for pair in pairs[first:last]:
        if pair.matched < MATCHED_SHARE:
            return None
        place = matrix_of(pair, seen[first].luma.shape) @ place
    return compare_places(seen[first], seen[last], place)
