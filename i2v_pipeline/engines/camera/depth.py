"""How near the ground, the background and the subject of a picture are: a heuristic, not a measurement.

Knows no camera and cuts nothing out. Depth here is inverse depth: 1 is the nearest ground, 0 infinitely far.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from i2v_pipeline.engines.camera.sampling import F32
from i2v_pipeline.engines.camera.subject import Subject
from i2v_pipeline.types import U8Image

FAR = 0.2
"""Depth of the horizon. Not 0: even far things move a little, as in a film."""
STEEPEST = 1.6
"""Depth that the ground gains per height of the picture: where little ground is seen below the horizon, it is far."""
BEFORE_GROUND = 0.12
"""How much nearer a subject is than the ground at its foot: it has a front."""
ABOVE_THE_PICTURE = -0.3
"""The horizon's row where none is seen, in heights: the whole picture is ground, seen from a normal eye level."""
LOWEST_HORIZON = 0.85
BANDS = 16
CALM_SLOPE = 1.6
"""Levels per pixel, as the median of a band of rows of a picture 256 rows high. Skies and blurred backgrounds have 0.2
to 1.4; grass, rock and rooms 1.8 to 10 (24 pictures)."""
BEND = 0.06
"""Heights over which the ground is rounded into the horizon, so that what crosses it does not break."""
WALL_SHARE = 0.65
"""How much of the ground's slope is lost behind a subject that fills the lower edge: what stands there is more like a
wall."""
EDGE_SPREAD = 0.03
"""Share of the longer side over which the mask is averaged to see how decided it is."""


@dataclass(frozen=True, kw_only=True)
class SubjectDepth:
    """Depth of the subject's layer and of the background behind it, and the subject's mean as `pivot`."""

    front: F32
    back: F32
    pivot: float


def ground_depth(pixels: U8Image, grid: tuple[int, int], *, slope: float) -> F32:
    """A plane that comes nearer from the horizon to the lower edge, on a `grid` of (columns, rows).

    Inverse depth is linear on a plane, so straight lines stay straight; above the horizon everything is far.
    """
    columns, rows = grid
    horizon = _horizon(pixels)
    height = (np.arange(rows) + 0.5) / rows
    below = np.logaddexp(0.0, (height - horizon) / BEND) / np.logaddexp(0.0, (1 - horizon) / BEND)
    ramp = FAR + slope * min(1 - FAR, STEEPEST * (1 - horizon)) * below
    return np.repeat(ramp.astype(np.float32)[:, None], columns, axis=1)


def subject_depth(pixels: U8Image, subject: Subject, grid: tuple[int, int]) -> SubjectDepth:
    """Each part of the subject stands upright before the ground at its foot, and nearer the larger it is.

    Where the mask is undecided the two layers approach each other's depth, so that a cut through the middle of
    something does not open; and a less confident mask as a whole stands out less.
    """
    mask = cv2.resize(subject.mask, grid, interpolation=cv2.INTER_AREA)
    inside = (mask > 0.5).astype(np.uint8)
    trust = float(np.clip((subject.confidence - 0.5) / 0.4, 0.4, 1))
    covered = min(float((subject.mask[-1] > 0.5).mean()) / 0.4, 1.0)
    whole_ground = ground_depth(pixels, grid, slope=1.0)
    ground = ground_depth(pixels, grid, slope=1 - WALL_SHARE * covered)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside)
    upright = np.zeros_like(mask)
    for label in range(1, count):
        part = labels == label
        foot = min(int(stats[label, cv2.CC_STAT_TOP] + stats[label, cv2.CC_STAT_HEIGHT]), grid[1] - 1)
        by_foot = float(whole_ground[foot, 0]) + BEFORE_GROUND
        by_size = 0.3 + 1.4 * float(np.sqrt(part.mean()))
        behind = float(ground[part].mean())
        upright[part] = behind + trust * (min(max(by_foot, by_size), 1.0) - behind)
    spread = max(grid) * EDGE_SPREAD
    weight = mask * inside
    raised = _mean_among(upright, weight, spread)
    front = ground + (raised - ground) * _decided(_mean_among(mask, weight, spread))
    back = ground + (raised - ground) * _decided(_mean_among(mask, (1 - mask) * (1 - inside), spread))
    pivot = float((front * weight).sum() / max(float(weight.sum()), 1e-6))
    return SubjectDepth(front=np.clip(front, 0, 1), back=np.clip(back, 0, 1), pivot=pivot)


def _horizon(pixels: U8Image) -> float:
    """Share of the height down to which the picture is calm: sky, or a background out of focus. Both are far away."""
    grey = cv2.cvtColor(cv2.resize(pixels, (384, 256), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    calm = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1)
    slope = np.hypot(cv2.Sobel(calm, cv2.CV_32F, 1, 0), cv2.Sobel(calm, cv2.CV_32F, 0, 1)) / 8
    bands = np.median(slope.reshape(BANDS, -1), axis=1)
    first_rough = int(np.argmax(bands > CALM_SLOPE)) if (bands > CALM_SLOPE).any() else BANDS
    return min(first_rough / BANDS, LOWEST_HORIZON) if first_rough > 1 else ABOVE_THE_PICTURE


def _decided(share: F32) -> F32:
    """0 below a quarter, 1 above three quarters, smooth between."""
    t = np.clip((share - 0.25) / 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _mean_among(values: F32, weight: F32, sigma: float) -> F32:
    """Gaussian mean of the values that have weight; far from any, ever wider means fill in."""
    total, norm = np.zeros_like(values), np.full_like(values, 1e-12)
    for level in range(3):
        wide, faint = sigma * 4**level, np.float32(1e-3**level)
        total += cv2.GaussianBlur(values * weight, (0, 0), wide) * faint
        norm += cv2.GaussianBlur(weight, (0, 0), wide) * faint
    return total / norm
