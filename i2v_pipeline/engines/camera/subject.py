"""Where the subject of a picture is, by the salient-object network U2-Netp that travels with the project.

Knows no camera and no depth; decides only whether there is a clear subject and which pixels belong to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from i2v_pipeline.networks import read_network
from i2v_pipeline.types import U8Image

NETWORK_PATH = Path(__file__).with_name("u2netp.onnx")
NETWORK_SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"

INPUT_SIDE = 320
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)
"""Input size and normalisation of U-2-Net's own test program (data_loader.py: RescaleT, ToTensorLab flag 0)."""

MIN_AREA, MAX_AREA = 0.01, 0.90
MIN_CONFIDENCE = 0.62
RIDGE_EDGE_SHARE, RIDGE_CONFIDENCE = 0.1, 0.8
"""Tried on 24 pictures: clear subjects had a confidence of 0.69 to 0.99, textures and open landscapes 0.27 to 0.57.
A mask that reaches over this share of the left and of the right edge but not to the bottom is a ridge of mountains,
of which the network is not as sure as of a car or a sign that fills the picture's width."""
SURE, CLOSER_CONFIDENCE = 0.9, 0.7
LEAST_WINDOW, LARGEST_WINDOW = 0.25, 0.6
MAX_BORDER_SHARE = 0.05
"""A second look is taken where the mask is this sure of some pixel, at a window of these shares of the sides; what is
cut off by the window's border is no small subject."""


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
        self._network = read_network(path, NETWORK_SHA256)

    def find(self, pixels: U8Image) -> Subject:
        """Looks for the subject of one RGB picture."""
        small = cv2.resize(pixels, (INPUT_SIDE, INPUT_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        small = (small / max(float(small.max()), 1.0) - MEAN) / DEVIATION
        self._network.setInput(np.ascontiguousarray(small.transpose(2, 0, 1)[None]))
        mask = np.ascontiguousarray(self._network.forward()[0, 0])
        return judge_mask(mask)

    def find_small(self, pixels: U8Image) -> Subject:
        """As `find`, and where that shows no clear subject, once more close up: 320 pixels hide what is small."""
        subject = self.find(pixels)
        if subject.found or subject.mask.max() < SURE:
            return subject
        left, top, side = _window_around(subject.mask)
        if side > LARGEST_WINDOW:
            return subject
        height, width = pixels.shape[:2]
        rows = slice(round(top * height), round((top + side) * height))
        columns = slice(round(left * width), round((left + side) * width))
        closer = self.find(pixels[rows, columns])
        inside = closer.mask > 0.5
        border = np.concatenate((inside[0], inside[-1], inside[:, 0], inside[:, -1])).mean()
        if not closer.found or closer.confidence < CLOSER_CONFIDENCE or border > MAX_BORDER_SHARE:
            return subject
        span = round(side * INPUT_SIDE)
        first_row, first_column = round(top * INPUT_SIDE), round(left * INPUT_SIDE)
        mask = np.zeros_like(subject.mask)
        part = mask[first_row : first_row + span, first_column : first_column + span]
        part[:] = cv2.resize(closer.mask, part.shape[::-1], interpolation=cv2.INTER_AREA)
        return Subject(found=True, mask=mask, area_share=closer.area_share * side * side, confidence=closer.confidence)


def _window_around(mask: npt.NDArray[np.float32]) -> tuple[float, float, float]:
    """Left, top and side, as shares, of a window three times as large as what the mask is surest of."""
    _, labels, boxes, _ = cv2.connectedComponentsWithStats((mask > 0.5).astype(np.uint8))
    strengths = np.bincount(labels.ravel(), weights=mask.ravel())
    left, top, width, height, _ = boxes[1 + int(np.argmax(strengths[1:]))] / INPUT_SIDE
    side = min(max(3 * width, 3 * height, LEAST_WINDOW), 1.0)
    return (
        float(np.clip(left + width / 2 - side / 2, 0, 1 - side)),
        float(np.clip(top + height / 2 - side / 2, 0, 1 - side)),
        float(side),
    )


def judge_mask(mask: npt.NDArray[np.float32]) -> Subject:
    """Decides whether `mask` shows a clear subject. Confidence: how far the mask is from undecided where it is set."""
    inside = mask > 0.5
    touched = mask > 0.15
    area_share = float(inside.mean())
    confidence = float(np.abs(2 * mask[touched] - 1).mean()) if touched.any() else 0.0
    left, right, bottom = inside[:, 0].mean(), inside[:, -1].mean(), inside[-1].mean()
    ridge = min(left, right) > RIDGE_EDGE_SHARE and bottom < RIDGE_EDGE_SHARE / 2 and confidence < RIDGE_CONFIDENCE
    found = MIN_AREA <= area_share <= MAX_AREA and confidence >= MIN_CONFIDENCE and not ridge
    return Subject(found=found, mask=mask, area_share=area_share, confidence=confidence)
