"""A picture becomes a stage: its layers, at a resolution fit for sub-pixel movement, and a depth for each.

Knows no camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from i2v_pipeline.engines.camera.cutout import cut_out
from i2v_pipeline.engines.camera.depth import ground_depth, subject_depth
from i2v_pipeline.engines.camera.sampling import F32, U8
from i2v_pipeline.engines.camera.subject import Subject
from i2v_pipeline.types import U8Image

DepthKind = Literal["flat", "ground", "ground and subject"]

SUPERSAMPLING = 3
"""Layers are kept at three times the picture's resolution (Lanczos), so that linear sampling keeps at least 0.82 of the
sharpness of fine texture at every sub-pixel position. Sampling the picture itself keeps 0.51 (linear) or 0.76 (cubic)
at the worst position, which is seen as pulsing. Odd, so that each pixel of the picture is a sample unchanged."""
LARGE_PIXELS = 2_400_000
"""Larger pictures are kept as they are: what is lost is smaller than a pixel of the screen, and memory counts."""
DEPTH_CELL_PX = 8
CUT_BELOW = 0.2
"""Share of the lower edge from which on a subject counts as leaving the picture there."""


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """The subject: premultiplied `rgba` uint8 at the stage's scale, its upper left pixel `offset_px` in the picture."""

    rgba: U8
    offset_px: tuple[int, int]
    depth: F32


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Everything that the camera can see. Depth is inverse depth in 0 to 1 over the whole picture, coarse.

    `scale` is the number of samples a pixel, along each side, of the layers' colours. `pivot` is the inverse depth
    around which the camera can turn, `focus_px` the point it is interested in.
    """

    scale: int
    backdrop: U8Image
    depth: F32
    subject: Sprite | None
    pivot: float
    focus_px: tuple[float, float]
    depth_kind: DepthKind

    @property
    def nearest(self) -> float:
        """The greatest depth in any layer: what a move of 1 shifts most."""
        return max(float(self.depth.max()), float(self.subject.depth.max()) if self.subject else 0.0)


def build_flat_stage(pixels: U8Image, subject: Subject) -> Stage:
    """One layer without depth: enough for a camera that turns and zooms but does not change its place."""
    return Stage(
        scale=_scale(pixels),
        backdrop=_supersampled(pixels, _scale(pixels)),
        depth=np.zeros((1, 1), np.float32),
        subject=None,
        pivot=0.0,
        focus_px=_focus(pixels, subject),
        depth_kind="flat",
    )


def build_stage(pixels: U8Image, subject: Subject, on_step: Callable[[], None]) -> Stage:
    """Layers and depth. Without a clear subject there is one layer, and the ground alone gives the depth.

    `on_step` is called between the steps and may raise, which ends the work.
    """
    height, width = pixels.shape[:2]
    grid = (max(-(-width // DEPTH_CELL_PX), 2), max(-(-height // DEPTH_CELL_PX), 2))
    cutout = cut_out(pixels, subject.mask, on_step) if subject.found else None
    if cutout is None:
        ground = ground_depth(pixels, grid, slope=1.0)
        return Stage(
            scale=_scale(pixels),
            backdrop=_supersampled(pixels, _scale(pixels)),
            depth=ground,
            subject=None,
            pivot=float(np.percentile(ground, 80)),
            focus_px=_focus(pixels, subject),
            depth_kind="ground",
        )
    depth = subject_depth(pixels, subject, grid)
    backdrop = _supersampled(cutout.plate, _scale(pixels))
    on_step()
    return Stage(
        scale=_scale(pixels),
        backdrop=backdrop,
        depth=depth.back,
        subject=Sprite(rgba=_supersampled(cutout.rgba, _scale(pixels)), offset_px=cutout.offset_px, depth=depth.front),
        pivot=depth.pivot,
        focus_px=_focus(pixels, subject),
        depth_kind="ground and subject",
    )


def _scale(pixels: U8Image) -> int:
    return SUPERSAMPLING if pixels.shape[0] * pixels.shape[1] <= LARGE_PIXELS else 1


def _supersampled(layer: U8, scale: int) -> U8:
    height, width = layer.shape[:2]
    return cv2.resize(layer, (width * scale, height * scale), interpolation=cv2.INTER_LANCZOS4)


def _focus(pixels: U8Image, subject: Subject) -> tuple[float, float]:
    """What a viewer looks at: the upper part of a subject that leaves the picture below (a face), else its middle."""
    height, width = pixels.shape[:2]
    if not subject.found:
        return (width - 1) / 2, (height - 1) / 2
    inside = subject.mask > 0.5
    rows = np.flatnonzero(inside.any(axis=1))
    looked_at, aimed_at = (0.4, 0.25) if inside[-1].mean() > CUT_BELOW else (1.0, 0.5)
    top, extent = int(rows[0]), int(rows[-1] - rows[0] + 1)
    columns = np.nonzero(inside[top : top + max(round(extent * looked_at), 1)])[1]
    side = inside.shape[0]
    return float(columns.mean() / side * width), float((top + extent * aimed_at) / side * height)
