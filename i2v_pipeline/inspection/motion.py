"""How the camera and the subject of a video move, from one frame to the next. Knows no file, no request and no words.

Directions are the camera's: it pans right when the picture slides to the left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from i2v_pipeline.types import CameraTag, U8Image

Luma = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]

WORK_SIDE_PX = 448
"""Frames are measured with their longer side at most this long."""
CELLS = 18
"""Points are taken evenly over the picture: one for each of this many cells along the longer side."""
FEWEST_POINTS = 10
RETURN_PX = 0.5
"""A point that is tracked there and back must arrive where it began, within this distance."""
NEAR_PX = 0.75
"""A point moves with the camera when it is off the common movement by less than this, at the size of the work."""
FIT_ROUNDS = 5
LEAST_GAIN, MOST_GAIN = 0.01, 2.0
MATCHED_SHARE = 0.15
"""Below this share of points found again, two frames do not show the same place."""

STILL_SPEED = 0.003
"""A camera that moves less than this share of the picture's diagonal in a second stands still; so does one whose
whole way is shorter than `STILL_WAY`."""
STILL_WAY = 0.004
SHAKEN_SHARE = 0.0005
"""Standing still and yet going to and fro by this share of the diagonal in a frame is unrest, not stillness."""
CLEAR = 0.42
"""A movement is called by one name when no other one has this share of its strength (an angle of 23 degrees)."""
FOCUS_INSIDE = 0.6
"""A zoom aims at a point within this share of the half sides; a point further out is a pan that also zooms."""
SAME_SIGN = 0.8
"""Of the whole distance travelled, this share must lie in one direction for the movement to have one name."""


@dataclass(frozen=True, kw_only=True)
class PairMotion:
    """The camera's movement between two frames, and what moves beside it; pixels are those of the video.

    `zoom_percent` is by how much the picture grows; `roll_deg` is positive where the camera turns clockwise.
    `subject_px` is how far the moving part of the picture goes beside the camera; 0 where everything goes with it.
    `matched` is the share of points that were found again: near 0 the frames show different places. `scale` is by how
    much the video is larger than the frames that were compared.
    """

    pan_px: float
    tilt_px: float
    zoom_percent: float
    roll_deg: float
    subject_px: float
    matched: float
    scale: float = 1.0


NO_MOTION = PairMotion(pan_px=0, tilt_px=0, zoom_percent=0, roll_deg=0, subject_px=0, matched=0)


def luma_for_work(frame: U8Image) -> Luma:
    """Luma of a frame at the size that movements are measured at."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = WORK_SIDE_PX / max(grey.shape)
    if scale >= 1:
        return grey.astype(np.uint8)
    size = (max(round(grey.shape[1] * scale), 1), max(round(grey.shape[0] * scale), 1))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def measure_pair(before: Luma, after: Luma, *, scale: float) -> PairMotion:
    """The movement between two frames as `luma_for_work` gives them, of a video `scale` times as large."""
    points, moved, share = _tracked(before, _in_light_of(before, after))
    if len(points) < FEWEST_POINTS:
        return replace(NO_MOTION, scale=scale)
    centre = np.array([(before.shape[1] - 1) / 2, (before.shape[0] - 1) / 2], np.float64)
    here, there = points - centre, moved - centre
    fitted = _fit(here, there)
    if fitted is None:
        return replace(NO_MOTION, scale=scale)
    a, b, right, down, near = fitted
    off = np.hypot(*(there - _apply(here, a, b, right, down)).T)
    return PairMotion(
        pan_px=-right * scale,
        tilt_px=down * scale,
        zoom_percent=100 * (math.hypot(a, b) - 1),
        roll_deg=-math.degrees(math.atan2(b, a)),
        subject_px=_subject(off, near) * scale,
        matched=share,
        scale=scale,
    )


def _in_light_of(before: Luma, after: Luma) -> Luma:
    """`after` with the mean and the contrast of `before`: points are followed by their light, which may flicker."""
    gain = float(np.clip(before.std() / max(float(after.std()), 1e-3), 1 / MOST_GAIN, MOST_GAIN))
    offset = float(before.mean()) - gain * float(after.mean())
    if abs(gain - 1) < LEAST_GAIN and abs(offset) < 1:
        return after
    return cv2.convertScaleAbs(np.maximum(after * np.float32(gain) + np.float32(offset), 0)).astype(np.uint8)


def _tracked(before: Luma, after: Luma) -> tuple[Points, Points, float]:
    """Points of `before` and where they are in `after`, and the share of points that could be found again."""
    step = max(before.shape) / CELLS
    found = cv2.goodFeaturesToTrack(before, maxCorners=500, qualityLevel=0.002, minDistance=step * 0.7, blockSize=5)
    if found is None:
        return np.empty((0, 2), np.float32), np.empty((0, 2), np.float32), 0.0
    options: dict[str, Any] = {"winSize": (19, 19), "maxLevel": 4}
    moved, seen, _ = cv2.calcOpticalFlowPyrLK(before, after, found, found.copy(), **options)
    back, seen_back, _ = cv2.calcOpticalFlowPyrLK(after, before, moved, moved.copy(), **options)
    returned = np.linalg.norm(back - found, axis=2)[:, 0] < RETURN_PX
    good = (seen[:, 0] == 1) & (seen_back[:, 0] == 1) & returned
    return found[good, 0].astype(np.float32), moved[good, 0].astype(np.float32), float(good.mean())


def _apply(points: npt.NDArray[np.float64], a: float, b: float, right: float, down: float) -> npt.NDArray[np.float64]:
    x, y = points[:, 0], points[:, 1]
    return np.stack((a * x - b * y + right, b * x + a * y + down), axis=1)


def _fit(
    here: npt.NDArray[np.float64], there: npt.NDArray[np.float64]
) -> tuple[float, float, float, float, npt.NDArray[np.bool_]] | None:
    """The similarity that most points follow: RANSAC finds them, least squares on these alone gives the numbers."""
    # RANSAC draws from OpenCV's own generator, which must begin alike for equal results.
    cv2.setRNGSeed(1)
    matrix, kept = cv2.estimateAffinePartial2D(
        here.astype(np.float32), there.astype(np.float32), method=cv2.RANSAC, ransacReprojThreshold=NEAR_PX,
        maxIters=400, confidence=0.995, refineIters=0,
    )  # fmt: skip
    if matrix is None or kept is None or kept.sum() < FEWEST_POINTS // 2:
        return None
    near = kept[:, 0].astype(bool)
    a, b, right, down = 1.0, 0.0, 0.0, 0.0
    for _ in range(FIT_ROUNDS):
        a, b, right, down = _least_squares(here[near], there[near])
        off = np.hypot(*(there - _apply(here, a, b, right, down)).T)
        now_near = off < NEAR_PX
        if now_near.sum() < FEWEST_POINTS // 2 or (now_near == near).all():
            break
        near = now_near
    return a, b, right, down, near


def _least_squares(here: npt.NDArray[np.float64], there: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Umeyama's similarity without reflection, in closed form for the plane."""
    mean_here, mean_there = here.mean(axis=0), there.mean(axis=0)
    p, q = here - mean_here, there - mean_there
    size = float((p**2).sum()) or 1.0
    a = float((p * q).sum()) / size
    b = float((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum()) / size
    right = float(mean_there[0] - a * mean_here[0] + b * mean_here[1])
    down = float(mean_there[1] - b * mean_here[0] - a * mean_here[1])
    return a, b, right, down


def _subject(off: npt.NDArray[np.float64], near: npt.NDArray[np.bool_]) -> float:
    """How far the points go that do not go with the camera: their median, 0 where they are too few to be something."""
    return float(np.median(off[~near])) if (~near).sum() >= max(4, 0.03 * len(off)) else 0.0


def matrix_of(pair: PairMotion, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """The movement of the picture about its middle, in pixels of the work, as a 3 x 3 matrix."""
    growth, turn = 1 + pair.zoom_percent / 100, -np.radians(pair.roll_deg)
    cos, sin = growth * np.cos(turn), growth * np.sin(turn)
    x, y = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    right, down = -pair.pan_px / pair.scale, pair.tilt_px / pair.scale
    return np.array([[cos, -sin, x - cos * x + sin * y + right], [sin, cos, y - sin * x - cos * y + down], [0, 0, 1]])


@dataclass(frozen=True, kw_only=True)
class CameraMotion:
    """The camera's movement over a video: medians per frame, and its name.

    `label` is one of the seven tags that can be measured, or `mixed` for anything that has no single name.
    `smoothness` is 1 for a movement without any jerk and falls with the share of the way that is one.
    """

    label: CameraTag | str
    pan_px: float
    tilt_px: float
    zoom_percent: float
    roll_deg: float
    subject_px: float
    smoothness: float


def summarise(pairs: Sequence[PairMotion], *, width: int, height: int, fps: float) -> CameraMotion:
    """What the movements between the frames of one video have in common."""
    known = [pair for pair in pairs if pair.matched >= MATCHED_SHARE]
    if not known:
        return CameraMotion(
            label="static" if not pairs else "mixed", pan_px=0, tilt_px=0, zoom_percent=0, roll_deg=0, subject_px=0,
            smoothness=1,
        )  # fmt: skip
    values = np.array([[pair.pan_px, pair.tilt_px, pair.zoom_percent, pair.roll_deg] for pair in known])
    pan, tilt, zoom, roll = (float(value) for value in np.median(values, axis=0))
    ways = ways_of(known, width, height)
    label = _label(values, ways, width, height, fps)
    return CameraMotion(
        label=label,
        pan_px=pan,
        tilt_px=tilt,
        zoom_percent=zoom,
        roll_deg=roll,
        subject_px=float(np.median([pair.subject_px for pair in known])),
        smoothness=1.0 if label == "static" else _smoothness(ways),
    )


def ways_of(pairs: Sequence[PairMotion], width: float, height: float) -> npt.NDArray[np.float64]:
    """The movements as pixels that a point of the picture goes by pan, tilt, zoom and roll: (pairs, 4).

    A turn and a zoom move a point in proportion to its distance from the centre, which is sqrt((w² + h²) / 12) on
    average (root mean square over the rectangle).
    """
    radius = math.sqrt((width**2 + height**2) / 12)
    values = np.array([[pair.pan_px, pair.tilt_px, pair.zoom_percent, pair.roll_deg] for pair in pairs])
    return values.reshape(-1, 4) * np.array([1, 1, radius / 100, math.radians(1) * radius])


def _label(
    values: npt.NDArray[np.float64], ways: npt.NDArray[np.float64], width: int, height: int, fps: float
) -> CameraTag | str:
    diagonal = math.hypot(width, height)
    net, travelled = ways.sum(axis=0), np.abs(ways).sum(axis=0)
    seconds = len(ways) / fps
    if np.abs(net).max() < max(STILL_SPEED * seconds, STILL_WAY) * diagonal:
        return "mixed" if np.abs(ways).mean(axis=0).max() > SHAKEN_SHARE * diagonal else "static"
    pan, tilt, zoom, roll = (float(value) for value in net)
    if abs(zoom) > 0 and abs(roll) < CLEAR * abs(zoom):
        # The point that a zoom aims at does not move: its distance from the centre is translation / growth.
        growth = values[:, 2].sum() / 100
        aim_x, aim_y = abs(values[:, 0].sum() / growth), abs(values[:, 1].sum() / growth)
        if aim_x < FOCUS_INSIDE * width / 2 and aim_y < FOCUS_INSIDE * height / 2:
            name: CameraTag = "zoom_in" if zoom > 0 else "zoom_out"
            return name if abs(zoom) > SAME_SIGN * travelled[2] else "mixed"
    strengths = {"pan": abs(pan), "tilt": abs(tilt), "zoom": abs(zoom), "roll": abs(roll)}
    strongest = max(strengths, key=lambda axis: strengths[axis])
    if any(value > CLEAR * strengths[strongest] for axis, value in strengths.items() if axis != strongest):
        return "mixed"
    if strongest == "pan" and abs(pan) > SAME_SIGN * travelled[0]:
        return "pan_right" if pan > 0 else "pan_left"
    if strongest == "tilt" and abs(tilt) > SAME_SIGN * travelled[1]:
        return "tilt_up" if tilt > 0 else "tilt_down"
    return "mixed"


def _smoothness(ways: npt.NDArray[np.float64]) -> float:
    """1 minus the share of the way that is jerk: how much the speed changes against its average, over three frames."""
    if len(ways) < 3:
        return 1.0
    speed = np.abs(ways).mean()
    jerk = np.abs(ways[:-2] - 2 * ways[1:-1] + ways[2:]).mean() / 4
    return float(np.clip(1 - jerk / speed, 0, 1)) if speed > 0 else 1.0
