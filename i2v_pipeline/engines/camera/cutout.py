"""Cuts the subject out of a picture and fills in the background behind it.

Knows no depth and no camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from i2v_pipeline.engines.camera.sampling import F32, U8, sample
from i2v_pipeline.types import U8Image

MATTE_SIDE_PX = 640
"""The matte's filter is computed at this longer side and applied at full resolution."""
MATTE_RADIUS = 0.012
"""Share of the longer side over which the matte may follow the picture's own edges: hair and fur, not more."""
MATTE_REACH = 0.008
"""Share of the longer side by which the matte may reach beyond the decided mask: a wide, undecided haze stays out."""
MATTE_HAZE = 0.08
"""What a guided filter leaves of the subject in the background, and takes from the subject; both are cleared away."""
LEAST_COVER = 0.5
"""A subject that covers less than this everywhere is a few pixels wide: cut out, it would be a ghost."""
HOLE_ALPHA = 0.02
FRINGE = 0.0018
"""Share of the longer side by which the matte is grown, softly: what hangs on the subject's edge goes with it."""
FILL_SIDE_PX, INPAINT_SIDE_PX = 1280, 512
"""Longer sides at which the hole is filled and, within that, inpainted: what is behind a subject need not be sharp."""
MIRROR_REACH = 0.05
"""Share of the longer side over which the background's grain is carried into the hole; no move shows more of it."""
MAX_GRAIN = 30.0
"""Larger steps are things, not grain; a mirrored thing is a ghost."""


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """`plate` is the picture without its subject; `rgba` the subject, premultiplied, its corner at `offset_px`."""

    plate: U8Image
    rgba: U8
    offset_px: tuple[int, int]


def cut_out(pixels: U8Image, mask: F32, on_step: Callable[[], None], *, has_fringe: bool = True) -> Cutout | None:
    """`mask` is float32 in 0 to 1 over the whole picture, at any resolution. None where it is too thin to cut along.

    With a fringe what hangs on the subject's edge goes with it: right where the same background lies behind it again,
    and a dark line before any other. `on_step` is called between the steps and may raise, which ends the work.
    """
    alpha = _matte(pixels, mask)
    if has_fringe:
        alpha = _grown(alpha)
    on_step()
    if alpha.max() < LEAST_COVER:
        return None
    fill = _filled(pixels, alpha)
    on_step()
    plate = _behind(pixels, fill, alpha)
    on_step()
    rgba, offset_px = _lifted(pixels, plate, alpha)
    on_step()
    return Cutout(plate=plate, rgba=rgba, offset_px=offset_px)


def _matte(pixels: U8Image, mask: F32) -> F32:
    """The mask, drawn to the edges that the picture has: a guided filter on colour (He, Sun and Tang 2013, eq. 19)."""
    height, width = pixels.shape[:2]
    size = _fitted(width, height, MATTE_SIDE_PX)
    guide = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    small = cv2.resize(mask, size, interpolation=cv2.INTER_CUBIC)
    near = cv2.dilate((small > 0.5).astype(np.float32), _disc(MATTE_REACH * max(size)))
    target = np.clip((small - 0.5) * 3 + 0.5, 0, 1) * near
    radius = max(round(MATTE_RADIUS * max(size)), 1)

    def mean(values: F32) -> F32:
        return cv2.blur(values, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    guide_mean, target_mean = mean(guide), mean(target)
    shared = mean(guide * target[..., None]) - guide_mean * target_mean[..., None]
    products = np.stack([mean(guide * guide[..., channel : channel + 1]) for channel in range(3)], axis=-1)
    spread = products - guide_mean[..., :, None] * guide_mean[..., None, :] + np.eye(3, dtype=np.float32) * 1e-3
    slope = np.linalg.solve(spread, shared[..., None])[..., 0].astype(np.float32)
    offset = cv2.resize(mean(target_mean - (slope * guide_mean).sum(axis=2)), (width, height))
    slope = cv2.resize(mean(slope), (width, height))
    alpha = (slope * (pixels.astype(np.float32) / 255)).sum(axis=2) + offset
    return np.clip((alpha - MATTE_HAZE) / (1 - 2 * MATTE_HAZE), 0, 1)


def _grown(alpha: F32) -> F32:
    fringe_px = FRINGE * max(alpha.shape)
    return np.maximum(alpha, cv2.GaussianBlur(cv2.dilate(alpha, _disc(fringe_px)), (0, 0), 0.7 * fringe_px))


def _filled(pixels: U8Image, alpha: F32) -> F32:
    """The background everywhere, made up where the subject is."""
    height, width = alpha.shape
    hole = cv2.dilate((alpha > HOLE_ALPHA).astype(np.uint8), _disc(FRINGE * max(height, width)))
    size = _fitted(width, height, FILL_SIDE_PX)
    fill = _fill(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), _shrunk(hole, size))
    return cv2.resize(fill, (width, height), interpolation=cv2.INTER_LINEAR)


def _fill(pixels: U8, hole: U8) -> F32:
    longer = max(hole.shape)
    across, distance = _mirror(hole, evened_px=0.006 * longer)
    mirrored = sample(pixels, across, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)
    grain = mirrored - cv2.GaussianBlur(mirrored, (0, 0), 0.008 * longer).astype(np.float32)
    outside = 1 - sample(hole.astype(np.float32), across, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)
    share = cv2.GaussianBlur(np.clip(1 - distance / (MIRROR_REACH * longer), 0, 1) * outside, (0, 0), 1.5)
    return _inpainted(pixels, hole) + np.clip(grain, -MAX_GRAIN, MAX_GRAIN) * share[..., None]


def _mirror(hole: U8, *, evened_px: float) -> tuple[F32, F32]:
    """For each pixel of the hole its mirror point across the hole's edge (height, width, 2), and the way to the edge.

    Evened out inwards, as the nearest background jumps along a ragged edge and would leave shards.
    """
    height, width = hole.shape
    distance, labels = cv2.distanceTransformWithLabels(hole, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    labels = labels.astype(np.intp)
    rows, columns = np.nonzero(hole == 0)
    nearest = np.zeros((int(labels.max()) + 1, 2), np.float32)
    nearest[labels[rows, columns]] = np.stack((columns, rows), axis=1)
    here = np.dstack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))
    to_edge = nearest[labels] - here
    weight = cv2.GaussianBlur(hole.astype(np.float32), (0, 0), evened_px)[..., None]
    even = cv2.GaussianBlur(to_edge * hole[..., None], (0, 0), evened_px) / np.maximum(weight, 1e-6)
    inward = np.clip(distance / (3 * evened_px), 0, 1)[..., None]
    return here + 2 * (to_edge + (even - to_edge) * inward), distance


def _inpainted(pixels: U8, hole: U8) -> U8:
    height, width = hole.shape
    size = _fitted(width, height, INPAINT_SIDE_PX)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    filled = cv2.inpaint(small, _shrunk(hole, size), 4, cv2.INPAINT_TELEA)
    return cv2.resize(filled, (width, height), interpolation=cv2.INTER_CUBIC)


def _behind(pixels: U8Image, fill: F32, alpha: F32) -> U8Image:
    """The picture without its subject: as it is where the subject hardly covers it, `fill` where it does."""
    hidden = np.clip((alpha - 0.03) / 0.3, 0, 1)[..., None]
    return np.clip(pixels + (fill - pixels) * hidden, 0, 255).round().astype(np.uint8)


def _lifted(pixels: U8Image, plate: U8Image, alpha: F32) -> tuple[U8, tuple[int, int]]:
    """The subject's colours such that subject over plate gives back the picture: alpha F = I - (1 - alpha) B.

    Where the subject covers little that would amplify the errors of B, so there F keeps near the mean of the
    subject's colours around (after Forte 2021, "Approximate Fast Foreground Colour Estimation").
    """
    height, width = alpha.shape
    rows, columns = np.nonzero(alpha > 0)
    margin = 4
    top, bottom = max(int(rows.min()) - margin, 0), min(int(rows.max()) + margin + 1, height)
    left, right = max(int(columns.min()) - margin, 0), min(int(columns.max()) + margin + 1, width)
    part = np.s_[top:bottom, left:right]
    cover = alpha[part][..., None]
    nearby = _colour_nearby(pixels, alpha)[part]
    leeway = 50 + 400 * cover**2
    exact = pixels[part] - (1 - cover) * plate[part]
    colour = np.clip(exact, cover * (nearby - leeway), cover * (nearby + leeway))
    rgba = np.concatenate((np.clip(colour, 0, 255 * cover), 255 * cover), axis=2)
    return rgba.round().astype(np.uint8), (left, top)


def _colour_nearby(pixels: U8Image, alpha: F32) -> F32:
    """The subject's mean colour around each pixel, also a little beyond its edge."""
    height, width = alpha.shape
    size = _fitted(width, height, MATTE_SIDE_PX)
    sure = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)[..., None] ** 4
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    sigma = 0.006 * max(size)
    weight = cv2.GaussianBlur(sure, (0, 0), sigma)[..., None]
    mean = cv2.GaussianBlur(small * sure, (0, 0), sigma) / np.maximum(weight, 1e-3)
    return cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR)


def _shrunk(hole: U8, size: tuple[int, int]) -> U8:
    """The hole at a smaller size, never smaller than it is: what it touches is covered."""
    return (cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)


def _fitted(width: int, height: int, side_px: int) -> tuple[int, int]:
    scale = min(1.0, side_px / max(width, height))
    return max(round(width * scale), 2), max(round(height * scale), 2)


def _disc(radius_px: float) -> U8:
    radius = max(round(radius_px), 1)
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
