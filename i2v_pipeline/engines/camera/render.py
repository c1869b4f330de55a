"""Draws the frames of a shot: each layer resampled once, straight from the stage, the subject over the background.

Knows no tags and no file format.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from i2v_pipeline.engines.camera.layers import Sprite, Stage
from i2v_pipeline.engines.camera.lens import Lens, Pose
from i2v_pipeline.engines.camera.sampling import F32, U8, sample
from i2v_pipeline.engines.camera.shot import Shot
from i2v_pipeline.types import U8Image

CELL_PX = 16
"""Which point a pixel shows is computed once for a cell of this side and is linear between the cells' centres."""


def render_frames(stage: Stage, shot: Shot) -> Iterator[U8Image]:
    """One RGB frame at a time, uint8 (height, width, 3), each a new array."""
    cells = _cell_centres(shot.lens)
    for pose in shot.poses:
        frame = _draw_backdrop(stage, shot.lens, pose, cells)
        if stage.subject:
            _draw_subject(frame, stage.subject, stage.scale, shot.lens, pose, cells)
        yield frame


def _cell_centres(lens: Lens) -> F32:
    """Pixel positions of the centres of the frame's cells, and of one ring of cells around: (rows, columns, 2)."""
    x, y = (
        (np.arange(-1, -(-side // CELL_PX) + 1, dtype=np.float32) + np.float32(0.5)) * CELL_PX - np.float32(0.5)
        for side in (lens.width, lens.height)
    )
    return np.dstack(np.meshgrid(x, y))


def _per_pixel(cells: F32) -> F32:
    """From the cells' centres to every pixel of the cells inside the ring."""
    rows, columns = cells.shape[:2]
    dense = cv2.resize(cells, (columns * CELL_PX, rows * CELL_PX), interpolation=cv2.INTER_LINEAR)
    return dense[CELL_PX:-CELL_PX, CELL_PX:-CELL_PX]


def _sampled(layer: U8, scale: int, points: F32, border: int) -> U8:
    """A layer at points that are given in pixels of the picture."""
    samples = points * np.float32(scale) + np.float32((scale - 1) / 2)
    return sample(layer, samples, cv2.INTER_CUBIC if scale == 1 else cv2.INTER_LINEAR, border)


def _draw_backdrop(stage: Stage, lens: Lens, pose: Pose, cells: F32) -> U8Image:
    points = _per_pixel(lens.shown(cells, pose, stage.depth))[: lens.height, : lens.width]
    return _sampled(stage.backdrop, stage.scale, points, cv2.BORDER_REFLECT_101)


def _draw_subject(frame: U8Image, sprite: Sprite, scale: int, lens: Lens, pose: Pose, cells: F32) -> None:
    """Draws the subject over `frame`, in place, within the cells where it can be seen."""
    shown = lens.shown(cells, pose, sprite.depth) - np.array(sprite.offset_px, np.float32)
    high, wide = (side / scale for side in sprite.rgba.shape[:2])
    reach = 2 * CELL_PX
    close = ((shown > -reach) & (shown < np.array((wide + reach, high + reach), np.float32))).min(axis=2)
    rows, columns = np.flatnonzero(close[1:-1].any(axis=1)), np.flatnonzero(close[:, 1:-1].any(axis=0))
    if not len(rows) or not len(columns):
        return
    top, left, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
    part = frame[top * CELL_PX : bottom * CELL_PX, left * CELL_PX : right * CELL_PX]
    points = _per_pixel(shown[top : bottom + 2, left : right + 2])[: part.shape[0], : part.shape[1]]
    drawn = _sampled(sprite.rgba, scale, points, cv2.BORDER_REPLICATE)
    uncovered = cv2.bitwise_not(cv2.extractChannel(drawn, 3))
    behind = cv2.multiply(part, cv2.merge((uncovered, uncovered, uncovered)), scale=1 / 255)
    part[:] = cv2.add(behind, cv2.cvtColor(drawn, cv2.COLOR_RGBA2RGB))
