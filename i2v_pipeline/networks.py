"""The small networks that travel with the project, each read only where it is the file that was meant.

Knows nothing of what they find.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from i2v_pipeline.errors import StudioError


def read_network(path: Path, sha256: str) -> cv2.dnn.Net:
    """The network in an ONNX file. Raises `StudioError` where the file is missing or its SHA-256 is another."""
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise _unusable(path, "cannot be read", "无法读取") from error
    if hashlib.sha256(weights).hexdigest() != sha256:
        raise _unusable(path, "is damaged", "已损坏")
    return cv2.dnn.readNetFromONNX(np.frombuffer(weights, np.uint8))


def _unusable(path: Path, en: str, zh: str) -> StudioError:
    return StudioError(
        f"The network file {path.name} {en}: it must be the file that came with the studio. Fetch the project again.",
        f"网络文件 {path.name} {zh}：必须是随本项目提供的原文件。请重新获取项目。",
    )
