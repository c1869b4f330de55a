"""What is wrong with a video by itself: it stands still, flashes, flickers, melts, drifts or jumps back.

Knows no request. Every threshold was set on clips with planted defects and held against others (bench/inspection.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from i2v_pipeline.inspection.motion import MATCHED_SHARE, Luma, PairMotion, matrix_of, measure_pair, ways_of
from i2v_pipeline.types import U8Image

FlagCode = Literal[
    "static", "flash", "strobe", "flicker", "duplicate_frames", "black", "blur", "color_drift", "snap_back"
]
Values = npt.NDArray[np.float32]
Ways = npt.NDArray[np.float64]

BLACK_LUMA = 20
"""A frame whose brightest pixels (99th percentile of luma, 0 to 255) stay at or below this is black."""
ONE_COLOUR_LEVELS = 1.5
"""A frame whose luma varies by less than this (standard deviation in levels) is one colour."""
STILL_LEVELS = 0.05
"""Two frames closer than this (mean absolute difference in levels, at a quarter of the size) show no movement.
A still picture coded at CRF 16 stays below it; a drift of a tenth of a pixel in a photograph does not."""
REPEATED_SHARE = 0.12
"""A frame repeats the one before it when it moves by less than this share of what its neighbours move by,"""
REPEATED_PX = 0.1
"""and by less than this: what is measured between two coded frames of one picture, in pixels of the work."""
MOVING_PX = 0.15
"""Where neighbours move by less than this, a repetition cannot be told from standing still."""
REPEATED_REACH = 4
SHAKY_PX = 0.2
FLASH_LEVELS = 7.0
"""A frame that is brighter or darker than those around it by this many levels of mean luma is a flash."""
FLICKER_LEVELS = 1.1
"""Mean luma that goes up and down from frame to frame by this much (root mean square) is flicker."""
STROBE_FLASHES, STROBE_WINDOW_S = 3, 1.5
"""So many flashes within this time are a strobe; WCAG 2.2 (2.3.1) draws its line at three within a second."""
BLUR_SHARE = 0.65
"""Sharpness that has fallen below this share of the first frame's, in what is left of the first frame."""
DRIFT_DELTA_E = 5.0
"""Colours that have moved by this much (CIE76) against the same places of the first frame."""
LONGEST_FLASH_FRAMES = 3
JUMP_PX = 2.5
"""A jump is further off the usual movement than this, in pixels of the work."""
FOUND_AGAIN_SHARE = 0.4
LASTING_FRAMES = 3
COLOURS_SHRINK = 6
EDGE_SIGMA_PX = 0.8


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One thing that is wrong, and the numbers of the frames that show it, counted from 0."""

    code: FlagCode
    frames: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A frame against the same places of an earlier one.

    `sharpness` is a share of the earlier one's, `distance` how far half of the places are off in colour (CIE76), and
    `shift` by what: the median of each channel's change in L*a*b*.
    """

    sharpness: float
    distance: float
    shift: Values


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is kept of each frame: luma at the size of the work, a small L*a*b* picture, mean luma, darkness.

    `difference` is the mean absolute difference to the frame before, in levels; 0 for the first. `scale` is by how
    much the video is larger than the work.
    """

    luma: Luma
    colours: Values
    mean_luma: float
    is_black: bool
    difference: float
    scale: float


def see(frame: U8Image, luma: Luma, before: Seen | None) -> Seen:
    """What later comparisons need of a frame, uint8 (height, width, 3); `luma` as `luma_for_work` gives it."""
    quarter = cv2.resize(luma, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    size = (max(luma.shape[1] // COLOURS_SHRINK, 1), max(luma.shape[0] // COLOURS_SHRINK, 1))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    difference = 0.0
    if before is not None:
        difference = float(cv2.absdiff(luma, before.luma).mean())
    return Seen(
        luma=luma,
        colours=cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float32, copy=False),
        mean_luma=float(quarter.mean()),
        is_black=bool(np.percentile(quarter, 99) <= BLACK_LUMA or quarter.std() < ONE_COLOUR_LEVELS),
        difference=difference,
        scale=frame.shape[1] / luma.shape[1],
    )


def find_flags(
    seen: Sequence[Seen], pairs: Sequence[PairMotion], *, fps: float, width: int, height: int
) -> tuple[Flag, ...]:
    """Everything that is wrong; `pairs[n]` is the movement from frame n to frame n + 1."""
    black = {index for index, each in enumerate(seen) if each.is_black}
    flashes, flicker = _light(seen, black)
    # What is told already explains why these frames are unlike the ones beside them.
    odd = black | set(flashes) | set(flicker)
    found: list[tuple[FlagCode, Iterable[int]]] = [("black", sorted(black)), ("flicker", flicker)]
    found.append(("strobe" if _is_strobe(flashes, fps) else "flash", flashes))
    ways = ways_of(pairs, width, height)
    if len(seen) > 1 and all(each.difference < STILL_LEVELS for each in seen[1:]):
        found.append(("static", range(1, len(seen))))
    else:
        found.append(("duplicate_frames", _repeated(seen, pairs, ways, odd)))
    found += _against_first(seen, ways, pairs, black | set(flashes))
    flags = (Flag(code=code, frames=tuple(frames)) for code, frames in found)
    return tuple(flag for flag in flags if flag.frames)


def _repeated(seen: Sequence[Seen], pairs: Sequence[PairMotion], ways: Ways, odd: set[int]) -> list[int]:
    """Frames that show the one before once more, while what is around them moves."""
    # By frame, in pixels of the work: how far its picture is from the one before.
    moves = np.maximum(np.abs(ways).max(axis=1), [pair.subject_px for pair in pairs]) / seen[0].scale
    net, travelled = np.abs(ways.sum(axis=0)), np.abs(ways).sum(axis=0)
    is_shaky = travelled.max() > SHAKY_PX * len(ways) and net.max() < 0.8 * travelled.max()
    usable = [index for index in range(1, len(seen)) if not {index - 1, index} & odd]
    repeated = []
    for index in usable:
        around = [each - 1 for each in usable if 0 < abs(each - index) <= REPEATED_REACH]
        usual = float(np.percentile(moves[around], 60)) if around else 0.0
        stands = usual > MOVING_PX and moves[index - 1] < min(REPEATED_PX, REPEATED_SHARE * usual)
        # A hand may stand for a moment: then only a picture that is the same to the last level is the same picture.
        if stands and (not is_shaky or seen[index].difference < STILL_LEVELS):
            repeated.append(index)
    return repeated


def _light(seen: Sequence[Seen], black: set[int]) -> tuple[list[int], list[int]]:
    """The frames that flash and the frames that flicker, by the mean luma of those that are not black."""
    shown = [index for index in range(len(seen)) if index not in black]
    luma = np.array([seen[index].mean_luma for index in shown])
    flashes = _flashes(luma)
    rest = np.delete(np.arange(len(luma)), flashes)
    if len(rest) < 5:
        return [shown[index] for index in flashes], []
    calm = np.interp(np.arange(len(luma)), rest, luma[rest])
    jitter = calm[1:-1] - (calm[:-2] + calm[2:]) / 2
    # Black frames leave a seam: the largest of the differences says nothing about flicker.
    jitter = np.sort(np.abs(jitter))[: -max(len(jitter) // 10, 2)]
    ups = [luma[index] > calm[index] for index in flashes]
    if float(np.sqrt(np.mean(jitter**2))) > FLICKER_LEVELS or (any(ups) and not all(ups)):
        return [], shown
    return [shown[index] for index in flashes], []


def _flashes(luma: npt.NDArray[np.float64]) -> list[int]:
    """Positions where the light jumps away and, within a few frames, comes back to where it was."""
    flashes: list[int] = []
    index = 1
    while index < len(luma):
        level = luma[index - 1]
        jump = luma[index] - level
        if abs(jump) > FLASH_LEVELS:
            ends = range(index + 1, min(index + 1 + LONGEST_FLASH_FRAMES, len(luma)))
            end = next((each for each in ends if abs(luma[each] - level) < abs(jump) / 3), None)
            if end is not None:
                flashes += range(index, end)
                index = end
        index += 1
    return flashes


def _is_strobe(flashes: Sequence[int], fps: float) -> bool:
    starts = [index for index in flashes if index - 1 not in flashes]
    window = max(round(STROBE_WINDOW_S * fps), 2 * STROBE_FLASHES)
    return any(sum(start <= other < start + window for other in starts) >= STROBE_FLASHES for start in starts)


def _against_first(
    seen: Sequence[Seen], ways: Ways, pairs: Sequence[PairMotion], odd: set[int]
) -> list[tuple[FlagCode, Iterable[int]]]:
    """What changes in the places of the first frame, followed through the video until they are lost."""
    first = seen[0]
    sharp: list[tuple[int, float]] = []
    drifted: list[tuple[int, float]] = []
    place = np.eye(3)
    jumps = _jumps(ways, pairs, odd)
    last = 0
    for index in range(1, len(seen)):
        if index in jumps:
            break
        if index in odd:
            continue
        # Across frames whose light hides the movement, it is measured anew.
        is_next = last == index - 1
        pair = pairs[last] if is_next else measure_pair(seen[last].luma, seen[index].luma, scale=first.scale)
        place, last = matrix_of(pair, first.luma.shape) @ place, index
        compared = compare_places(first, seen[index], place)
        if compared is not None:
            sharp.append((index, compared.sharpness))
            drifted.append((index, compared.distance))
    return [
        ("blur", _lasting([index for index, share in sharp if share < BLUR_SHARE], sharp)),
        ("color_drift", _lasting([index for index, delta in drifted if delta > DRIFT_DELTA_E], drifted)),
        ("snap_back", [index for index, jump_px in jumps.items() if _is_first_again(first, seen[index], jump_px)]),
    ]


def _lasting(bad: list[int], compared: Sequence[tuple[int, float]]) -> list[int]:
    """The bad frames, if the last ones that could be compared are among them: what passes is another fault."""
    last = [index for index, _ in compared[-LASTING_FRAMES:]]
    return bad if len(last) == LASTING_FRAMES and set(last) <= set(bad) else []


def compare_places(first: Seen, now: Seen, place: npt.NDArray[np.float64]) -> Compared | None:
    """`now` against `first` where both show the same, `place` leading from one to the other; None where too little of
    the first frame is left."""
    height, width = now.luma.shape
    there = cv2.warpAffine(
        first.luma, place[:2], (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=0
    )
    inside = cv2.warpAffine(np.full_like(first.luma, 255), place[:2], (width, height)) == 255
    inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    if inside.mean() < 0.2:
        return None
    share = sharpness_of(now.luma, inside) / max(sharpness_of(there.astype(np.uint8), inside), 1e-6)
    small = (first.colours.shape[1], first.colours.shape[0])
    shrink = np.diag([small[0] / width, small[1] / height, 1.0])
    matrix = (shrink @ place @ np.linalg.inv(shrink))[:2]
    moved = cv2.warpAffine(first.colours, matrix, small)
    shown = cv2.resize(inside.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST).astype(bool)
    if not shown.any():
        return None
    # Half of the places are not covered by something that walks through the picture.
    change = cv2.blur(now.colours - moved, (5, 5))[shown]
    distance = float(np.median(np.linalg.norm(change, axis=1)))
    return Compared(sharpness=share, distance=distance, shift=np.median(change, axis=0))


def sharpness_of(luma: Luma, inside: npt.NDArray[np.bool_] | None = None) -> float:
    """How steep the steepest twentieth of the picture is: Laplacian of a Gaussian, which grain does not pass."""
    smooth = cv2.GaussianBlur(luma.astype(np.float32), (0, 0), EDGE_SIGMA_PX)
    steepness = np.abs(cv2.Laplacian(smooth, cv2.CV_32F))
    return float(np.percentile(steepness if inside is None else steepness[inside], 95))


def _jumps(ways: Ways, pairs: Sequence[PairMotion], odd: set[int]) -> dict[int, float]:
    """Frames that do not continue the movement before them, with the length of the jump in pixels of the video."""
    if not pairs:
        return {}
    off = np.abs(ways - np.median(ways, axis=0)).max(axis=1)
    limit = max(JUMP_PX * pairs[0].scale, 6 * float(np.median(off)))
    return {
        index + 1: float(off[index])
        for index, pair in enumerate(pairs)
        if (pair.matched < MATCHED_SHARE or off[index] > limit) and not {index, index + 1} & odd
    }


def _is_first_again(first: Seen, now: Seen, jump_px: float) -> bool:
    back = measure_pair(first.luma, now.luma, scale=first.scale)
    height, width = (side * first.scale for side in first.luma.shape)
    way = float(np.abs(ways_of([back], width, height)).max())
    return back.matched > FOUND_AGAIN_SHARE and way < max(0.4 * jump_px, JUMP_PX * first.scale)
