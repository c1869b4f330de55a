"""Reads a written video back and measures what any viewer would see at once. Judges no motion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from i2v_pipeline.types import U8Frames, U8Image

BLACK_LUMA = 20
"""A frame whose brightest pixels (99th percentile of luma, 0 to 255) stay at or below this is black."""
STILL_DIFFERENCE = 0.05
"""Two frames closer than this (mean absolute difference in levels, at a quarter of the size) show no movement.
A still picture coded at CRF 16 stays below it; a drift of a tenth of a pixel in a photograph does not."""
SSIM_WINDOW_PX = 11
SSIM_SIGMA_PX = 1.5
"""Window and constants of Wang, Bovik, Sheikh, Simoncelli: Image quality assessment (2004)."""
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@dataclass(frozen=True, kw_only=True)
class Readback:
    """What the decoded frames say. `still` and `black` hold frame numbers, counted from 0."""

    frames: int
    width: int
    height: int
    still: tuple[int, ...]
    black: tuple[int, ...]
    first_frame_ssim: float
    first_frame_delta_e: float

    def to_quality(self, fps: float) -> dict[str, Any]:
        """The `quality` section of the report. A video is `static` when no frame moves against the one before it."""
        flags: list[dict[str, Any]] = []
        if self.frames > 1 and len(self.still) == self.frames - 1:
            flags.append({"code": "static", "frames": list(self.still)})
        if self.black:
            flags.append({"code": "black", "frames": list(self.black)})
        return {
            "frames": self.frames,
            "fps": fps,
            "size": [self.width, self.height],
            "flags": flags,
            "first_frame": {"ssim": round(self.first_frame_ssim, 4), "delta_e": round(self.first_frame_delta_e, 2)},
        }


def read_back(chunks: Iterable[U8Frames], reference: U8Image) -> Readback:
    """Measures decoded frames; `reference` is the picture as the engine saw it, of the same size.

    Raises `ValueError` when there is no frame.
    """
    frames, still, black = 0, [], []
    first: U8Image | None = None
    previous: npt.NDArray[np.float32] | None = None
    for chunk in chunks:
        for frame in chunk:
            first = frame if first is None else first
            small = _small_luma(frame)
            if np.percentile(small, 99) <= BLACK_LUMA:
                black.append(frames)
            if previous is not None and float(np.abs(small - previous).mean()) < STILL_DIFFERENCE:
                still.append(frames)
            previous, frames = small, frames + 1
    if first is None:
        raise ValueError("the video has no frame")
    height, width = first.shape[:2]
    return Readback(
        frames=frames,
        width=width,
        height=height,
        still=tuple(still),
        black=tuple(black),
        first_frame_ssim=ssim(first, reference),
        first_frame_delta_e=delta_e(first, reference),
    )


def ssim(one: U8Image, other: U8Image) -> float:
    """Structural similarity of two pictures of one size, on luma: 1 for equal ones (Wang et al. 2004, eq. 13)."""
    a, b = _luma(one), _luma(other)
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a = _blur(a * a) - mean_a**2
    variance_b = _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + SSIM_C1) * (2 * covariance + SSIM_C2)
    return float(np.mean(numerator / ((mean_a**2 + mean_b**2 + SSIM_C1) * (variance_a + variance_b + SSIM_C2))))


def delta_e(one: U8Image, other: U8Image) -> float:
    """Mean colour difference of two pictures of one size: CIE76, distance in L*a*b*."""
    a, b = (cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for picture in (one, other))
    return float(np.linalg.norm(a - b, axis=2).mean())


def _luma(picture: U8Image) -> npt.NDArray[np.float32]:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _small_luma(frame: U8Image) -> npt.NDArray[np.float32]:
    height, width = frame.shape[:2]
    small = cv2.resize(_luma(frame), (max(width // 4, 1), max(height // 4, 1)), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32, copy=False)


def _blur(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return cv2.GaussianBlur(values, (SSIM_WINDOW_PX, SSIM_WINDOW_PX), SSIM_SIGMA_PX).astype(np.float32)
