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
FOOT_AT_TOP, FOOT_AT_BOTTOM = 0.35, 1.0
"""Depth of something that stands with its foot at the picture's upper or lower edge."""
ABOVE_THE_PICTURE = -0.3
"""The horizon's row where none is seen, in heights: the whole picture is ground, seen from a normal eye level."""
HORIZON_CONTRAST = 0.3
"""Share of the picture's variance that a horizon must explain to be believed."""
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
    ramp = FAR + (1 - FAR) * slope * below
    return np.repeat(ramp.astype(np.float32)[:, None], columns, axis=1)


def subject_depth(pixels: U8Image, subject: Subject, grid: tuple[int, int]) -> SubjectDepth:
    """Each part of the subject stands upright at the depth of its foot.

    Where the mask is undecided the two layers approach each other's depth, so that a cut through the middle of
    something does not open; and a less confident mask as a whole stands out less.
    """
    mask = cv2.resize(subject.mask, grid, interpolation=cv2.INTER_AREA)
    inside = (mask > 0.5).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside)
    standing = np.zeros_like(mask)
    for label in range(1, count):
        foot = float(stats[label, cv2.CC_STAT_TOP] + stats[label, cv2.CC_STAT_HEIGHT]) / grid[1]
        standing[labels == label] = FOOT_AT_TOP + (FOOT_AT_BOTTOM - FOOT_AT_TOP) * foot
    covered = min(float((subject.mask[-1] > 0.5).mean()) / 0.4, 1.0)
    ground = ground_depth(pixels, grid, slope=1 - WALL_SHARE * covered)
    spread = max(grid) * EDGE_SPREAD
    weight = mask * inside
    raised = _mean_among(standing, weight, 2 * spread) - ground
    raised *= np.float32(np.clip((subject.confidence - 0.5) / 0.4, 0.4, 1))
    front = ground + raised * _decided(_mean_among(mask, weight, spread))
    back = ground + raised * _decided(_mean_among(mask, (1 - mask) * (1 - inside), spread))
    pivot = float((front * weight).sum() / max(float(weight.sum()), 1e-6))
    return SubjectDepth(front=np.clip(front, 0, 1), back=np.clip(back, 0, 1), pivot=pivot)


def _horizon(pixels: U8Image) -> float:
    """Share of the height at which colour and texture change most from above to below.

    The row that explains most of the variance when the rows fall into two groups (Otsu's criterion).
    """
    columns, rows = 96, 64
    lab = cv2.cvtColor(cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2Lab)
    grey = cv2.cvtColor(cv2.resize(pixels, (4 * columns, 4 * rows), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    roughness = np.sqrt(
        cv2.resize(np.abs(cv2.Laplacian(grey, cv2.CV_32F)), (columns, rows), interpolation=cv2.INTER_AREA)
    )
    features = np.dstack((lab.astype(np.float32), 8 * roughness))
    variance = float(features.reshape(-1, 4).var(axis=0).sum())
    means = features.mean(axis=1)
    explained = np.zeros(rows)
    for row in range(rows // 6, rows - rows // 10):
        step = means[:row].mean(axis=0) - means[row:].mean(axis=0)
        explained[row] = row / rows * (1 - row / rows) * float((step**2).sum())
    best = int(explained.argmax())
    return best / rows if explained[best] > HORIZON_CONTRAST * variance > 0 else ABOVE_THE_PICTURE


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
