"""How alike two pictures of one size are, in structure and in colour. Judges no video."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from i2v_pipeline.types import U8Image

Luma = npt.NDArray[np.float32]

SSIM_WINDOW_PX = 11
SSIM_SIGMA_PX = 1.5
"""Window and constants of Wang, Bovik, Sheikh, Simoncelli: Image quality assessment (2004)."""
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(one: U8Image, other: U8Image) -> float:
    """Structural similarity of two pictures of one size, on luma: 1 for equal ones (Wang et al. 2004, eq. 13)."""
    return luma_ssim(_luma(one), _luma(other))


def luma_ssim(a: Luma, b: Luma) -> float:
    """The same for luma in levels, 0 to 255."""
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


def _luma(picture: U8Image) -> Luma:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _blur(values: Luma) -> Luma:
    return cv2.GaussianBlur(values, (SSIM_WINDOW_PX, SSIM_WINDOW_PX), SSIM_SIGMA_PX).astype(np.float32)
