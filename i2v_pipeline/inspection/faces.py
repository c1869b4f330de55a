"""Where the faces in a picture are, by the network CenterFace that travels with the project.

Knows nobody: a face is a place, never a person.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from i2v_pipeline.networks import read_network
from i2v_pipeline.types import U8Image

NETWORK_PATH = Path(__file__).with_name("centerface.onnx")
NETWORK_SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
OUTPUTS = ("537", "538", "539", "540")
"""Of the network, for each cell: how much it looks like the middle of a face; the logarithms of the face's height and
width; how far below and right of the cell's own middle the face's is; and its features, which nobody asks for. Lengths
are in cells."""
CELL_PX = 4

INPUT_SIDE, INPUT_GRID = 704, 32
"""The longer side, and what both sides are multiples of. Tried from 608 to 768 on photographs of groups and of
everything else: at this size the surest second face of pictures without two people is 0.23, the least sure one of
groups, a choir of forty, 0.54."""
MIN_SCORE = 0.4
MAX_OVERLAP = 0.3
"""Of two boxes of one face, as in the network's own program (centerface.py: nms)."""


@dataclass(frozen=True, kw_only=True)
class Face:
    """A face's box, in shares of the picture's width and height; `score` is from 0 to 1."""

    left: float
    top: float
    width: float
    height: float
    score: float


class FaceNetwork:
    """The loaded network. Raises `StudioError` where its file is missing or is not the one it should be."""

    def __init__(self, path: Path = NETWORK_PATH) -> None:
        self._network = read_network(path, NETWORK_SHA256)

    def find(self, pixels: U8Image) -> tuple[Face, ...]:
        """The faces of one RGB picture, the tallest first."""
        scale = INPUT_SIDE / max(pixels.shape)
        width, height = (INPUT_GRID * math.ceil(scale * side / INPUT_GRID) for side in pixels.shape[1::-1])
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        self._network.setInput(cv2.dnn.blobFromImage(small))
        scores, lengths, offsets, _ = (output[0] for output in self._network.forward(OUTPUTS))
        rows, columns = np.nonzero(scores[0] > MIN_SCORE)
        found = scores[0, rows, columns]
        heights, widths = CELL_PX * np.exp(lengths[:, rows, columns])
        downs, rights = offsets[:, rows, columns]
        middles = CELL_PX * (columns + rights + 0.5), CELL_PX * (rows + downs + 0.5)
        boxes = np.stack((middles[0] - widths / 2, middles[1] - heights / 2, widths, heights), axis=1)
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), found.tolist(), MIN_SCORE, MAX_OVERLAP)
        shares = boxes / (width, height, width, height)
        faces = (
            Face(left=left, top=top, width=wide, height=high, score=float(found[place]))
            for place in kept
            for left, top, wide, high in (shares[place].tolist(),)
        )
        return tuple(sorted(faces, key=lambda face: -face.height))
