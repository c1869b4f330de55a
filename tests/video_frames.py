"""Frames that the tests of videos write, and the measure that compares them. Knows no file."""

from __future__ import annotations

import numpy as np

from i2v_pipeline.types import U8Frames

PATCHES = [
    (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255),
    (255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 80, 40), (30, 90, 160), (3, 2, 1),
]  # fmt: skip
PATCH_SIDE = 32


def patches(frames: int = 4) -> U8Frames:
    """Squares of saturated and plain colours in a row."""
    row = np.repeat(np.repeat(np.array([PATCHES], np.uint8), PATCH_SIDE, 0), PATCH_SIDE, 1)
    return np.repeat(row[None], frames, 0)


def moving(width: int, height: int, frames: int) -> U8Frames:
    """Smooth colours with fine grain that drift by a pixel a frame, as a photograph under a slow pan does."""
    x, y = np.meshgrid(np.arange(width + frames) / 60, np.arange(height) / 60)
    waves = np.stack([np.sin(x + 0.7 * y), np.cos(0.8 * y - x), np.sin(x * 0.9 + y * 1.1)], axis=2)
    grain = np.random.default_rng(0).normal(0, 2, (height, width + frames, 1))
    still = np.clip(128 + 90 * waves + grain, 0, 255).astype(np.uint8)
    return np.stack([still[:, i : i + width] for i in range(frames)])


def psnr(one: U8Frames, other: U8Frames) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))
