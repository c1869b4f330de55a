"""The colours of one picture given to another that shows the same place, and so to the frames that follow it.

Knows no video. Mean and spread of each channel of L*a*b* (D65) are carried over, as in Reinhard, Ashikhmin, Gooch and
Shirley: Color transfer between images (2001), but measured only where both pictures show the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from i2v_pipeline.inspection.likeness import ssim
from i2v_pipeline.inspection.motion import MATCHED_SHARE, luma_for_work, matrix_of, measure_pair
from i2v_pipeline.types import U8Frames, U8Image

SPACE = "CIE L*a*b* (D65)"
LEAST_DELTA_E = 0.5
"""Frames are left alone, bit for bit, where matching would move them by less than this (CIE76): no eye sees it."""
MAX_GAIN = 1.5
"""A spread is never made larger or smaller than this many times: beyond it the pictures differ in more than colour."""
LEAST_SPREAD = 1.0
"""Under this standard deviation a channel is noise, and its spread says nothing."""
SAME_STRUCTURE = 0.5
"""Pictures without points to follow show the same place from this structural similarity on."""
SHRINK = 6
EVEN_SIGMA = 2.0
MIN_SHARED = 0.2

Lab = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ColourMatch:
    """`value * gain + offset` for L*, a* and b*. `moved_by` is how far that moves the picture's own colours.

    `before` and `after` are the mean colour differences to the wanted picture where both show the same; all CIE76.
    """

    gain: tuple[float, float, float]
    offset: tuple[float, float, float]
    moved_by: float
    before: float
    after: float

    @property
    def is_applied(self) -> bool:
        """Whether it changes frames at all: only where that is seen and for the better."""
        return self.moved_by >= LEAST_DELTA_E and self.after < self.before


def find_match(wanted: U8Image, given: U8Image) -> ColourMatch | None:
    """What makes `given` look as `wanted` does; None where the two do not show the same place."""
    pair = _same_places(wanted, given)
    if pair is None:
        return None
    there, here = pair
    mean_there, mean_here = there.mean(axis=0), here.mean(axis=0)
    spread_there, spread_here = there.std(axis=0), here.std(axis=0)
    is_known = np.minimum(spread_there, spread_here) >= LEAST_SPREAD
    ratio = spread_there / np.maximum(spread_here, LEAST_SPREAD)
    gain = np.where(is_known, np.clip(ratio, 1 / MAX_GAIN, MAX_GAIN), 1.0)
    offset = mean_there - gain * mean_here
    matched = here * gain + offset
    return ColourMatch(
        gain=_three(gain),
        offset=_three(offset),
        moved_by=_distance(matched, here),
        before=_distance(here, there),
        after=_distance(matched, there),
    )


def apply_match(match: ColourMatch, frames: U8Frames) -> U8Frames:
    """uint8 (frames, height, width, 3) with the match applied; the same array where it is not applied."""
    if not match.is_applied:
        return frames
    gain, offset = np.array(match.gain, np.float32), np.array(match.offset, np.float32)
    matched = np.empty_like(frames)
    for place, frame in enumerate(frames):
        lab = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) * gain + offset
        rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)
        matched[place] = np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
    return matched


def _same_places(wanted: U8Image, given: U8Image) -> tuple[Lab, Lab] | None:
    """The colours (places, 3) of both pictures, place by place: averages over a few pixels, which hide noise."""
    before, after = luma_for_work(wanted), luma_for_work(given)
    motion = measure_pair(before, after, scale=1.0)
    if motion.matched >= MATCHED_SHARE:
        place = matrix_of(motion, before.shape)
    elif ssim(wanted, given) >= SAME_STRUCTURE:
        place = np.eye(3)
    else:
        return None
    small = (max(before.shape[1] // SHRINK, 1), max(before.shape[0] // SHRINK, 1))
    there, here = (_small_lab(picture, small) for picture in (wanted, given))
    shrink = np.diag([small[0] / before.shape[1], small[1] / before.shape[0], 1.0])
    matrix = (shrink @ place @ np.linalg.inv(shrink))[:2]
    moved = cv2.warpAffine(there, matrix, small).astype(np.float32, copy=False)
    shared = cv2.warpAffine(np.full(there.shape[:2], 255, np.uint8), matrix, small) == 255
    return (moved[shared], here[shared]) if shared.mean() >= MIN_SHARED else None


def _small_lab(picture: U8Image, size: tuple[int, int]) -> Lab:
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    # Or what moving the other picture to the same place costs in contrast would be taken for a difference.
    even = cv2.GaussianBlur(small, (0, 0), EVEN_SIGMA)
    return cv2.cvtColor(even, cv2.COLOR_RGB2LAB).astype(np.float32, copy=False)


def _distance(one: Lab, other: Lab) -> float:
    return float(np.linalg.norm(one - other, axis=1).mean())


def _three(values: npt.NDArray[np.floating]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
