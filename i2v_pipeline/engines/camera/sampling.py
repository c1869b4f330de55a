"""Array types of the camera engine, and one call that reads a picture at any points.

Knows no camera and no depth.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy.typing as npt

F32 = npt.NDArray[Any]
U8 = npt.NDArray[Any]
"""float32 and uint8 arrays. OpenCV's stubs promise only some number: a narrower type would be a cast a line."""


def sample(source: npt.NDArray[Any], points: F32, interpolation: int, border: int) -> npt.NDArray[Any]:
    """`source` at `points` (rows, columns, 2): x and y in its pixels. Same type and channels as `source`."""
    # The stubs want two maps; with one map of two channels the second is absent.
    return cv2.remap(source, points, None, interpolation, borderMode=border)  # pyright: ignore[reportArgumentType, reportCallIssue]
