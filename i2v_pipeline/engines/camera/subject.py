"""Where the subject of a picture is, by the salient-object network U2-Netp that travels with the project.

Knows no camera and no depth; decides only whether there is a clear subject and which pixels belong to it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from i2v_pipeline.errors import StudioError
from i2v_pipeline.types import U8Image

NETWORK_PATH = Path(__file__).with_name("u2netp.onnx")
NETWORK_SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"

INPUT_SIDE = 320
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)
"""Input size and normalisation of U-2-Net's own test program (data_loader.py: RescaleT, ToTensorLab flag 0)."""

MIN_AREA, MAX_AREA = 0.01, 0.90
MIN_CONFIDENCE = 0.62
RIDGE_EDGE_SHARE = 0.1
"""Tried on 24 pictures: clear subjects had a confidence of 0.69 to 0.99, textures and open landscapes 0.27 to 0.57.
A mask that reaches over this share of the left and of the right edge but not to the bottom is a ridge of mountains."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """`mask` is float32 (320, 320) in 0 to 1 over the whole picture. The shares are given when `found` is false too."""

    found: bool
    mask: npt.NDArray[np.float32]
    area_share: float
    confidence: float


class SubjectNetwork:
    """The loaded network. Raises `StudioError` where its file is missing or is not the one it should be."""

    def __init__(self, path: Path = NETWORK_PATH) -> None:
        try:
            weights = path.read_bytes()
        except OSError as error:
            raise _damaged(path, "cannot be read", "无法读取") from error
        if hashlib.sha256(weights).hexdigest() != NETWORK_SHA256:
            raise _damaged(path, "is damaged", "已损坏")
        self._network = cv2.dnn.readNetFromONNX(np.frombuffer(weights, np.uint8))

    def find(self, pixels: U8Image) -> Subject:
        """Looks for the subject of one RGB picture."""
        small = cv2.resize(pixels, (INPUT_SIDE, INPUT_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        small = (small / max(float(small.max()), 1.0) - MEAN) / DEVIATION
        self._network.setInput(np.ascontiguousarray(small.transpose(2, 0, 1)[None]))
        mask = np.ascontiguousarray(self._network.forward()[0, 0])
        return judge_mask(mask)


def judge_mask(mask: npt.NDArray[np.float32]) -> Subject:
    """Decides whether `mask` shows a clear subject. Confidence: how far the mask is from undecided where it is set."""
    inside = mask > 0.5
    touched = mask > 0.15
    area_share = float(inside.mean())
    confidence = float(np.abs(2 * mask[touched] - 1).mean()) if touched.any() else 0.0
    left, right, bottom = inside[:, 0].mean(), inside[:, -1].mean(), inside[-1].mean()
    ridge = min(left, right) > RIDGE_EDGE_SHARE and bottom < RIDGE_EDGE_SHARE / 2
    found = MIN_AREA <= area_share <= MAX_AREA and confidence >= MIN_CONFIDENCE and not ridge
    return Subject(found=found, mask=mask, area_share=area_share, confidence=confidence)


def _damaged(path: Path, en: str, zh: str) -> StudioError:
    return StudioError(
        f"The camera engine's subject network {path.name} {en}: it must be the file that came with the studio. "
        "Fetch the project again.",
        f"镜头引擎的主体识别网络 {path.name} {zh}：必须是随本项目提供的原文件。请重新获取项目。",
    )
