"""The picture half way between two pictures, by optical flow in both directions. Knows no video and no frame rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from i2v_pipeline.types import U8Image

Grey = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]
Flow = npt.NDArray[np.float32]
"""Where each pixel goes, in pixels to the right and down: float32 (height, width, 2)."""

FLOW_STEPS = 50
"""Gradient steps of the patch search. OpenCV's slowest preset takes 25; twice as many find fast movements better."""
HALVING_ROUNDS = 3
"""Rounds that find the flow of the pixels that are half way; after them it changes by less than 0.1 pixels."""
COMPARED_PX = 9
"""What both pictures say is compared over squares of this side, so that one pixel of grain does not decide."""
SHARPNESS = 1.5
"""How strongly that is preferred on which both pictures agree. 2.5 is a little crisper where something covers
something else, and further from the truth wherever there is grain."""
AGREED = 0.25
"""A disagreement far below this, in levels, is none."""
UNMOVED_WEIGHT = 3.0
"""The plain mean counts as this many flows: it is right where nothing moves, also where compression moves it."""
CUT_RETURN_SHARE = 0.15
"""Below this share of pixels whose way there and back ends where it began, two pictures show different scenes. Cuts
in real films have up to 0.07; their fastest pans, and a hand that covers the whole picture, have 0.3 and more."""
CUT_DIFFERENCE = 8.0
"""Levels of mean difference, the movement taken away, below which nobody would see a cut: the flow of grain on a
blank wall does not return either."""
ASKED_EVERY_PX = 4
"""The flow is asked whether it returns at one pixel out of so many in each direction."""
_MEAN_OF_RGB = np.full((1, 3), 1 / 3, np.float32)


@dataclass(frozen=True, kw_only=True)
class Between:
    """The picture half way, uint8 (height, width, 3). At a cut there is none: `is_cut`, and the earlier picture."""

    picture: U8Image
    is_cut: bool


class Halfway:
    """Finds pictures half way between two of one size. One thread at a time may use it."""

    def __init__(self, height: int, width: int) -> None:
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
        self._grid: Flow = np.dstack([columns, rows])
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._search.setGradientDescentIterations(FLOW_STEPS)
        # Smoothing the flow takes as long as finding it and brings the result no nearer to the truth.
        self._search.setVariationalRefinementIterations(0)

    def __call__(self, earlier: U8Image, later: U8Image) -> Between:
        """The same two pictures give the same result, on any number of cores."""
        greys = _grey(earlier), _grey(later)
        there: Flow = self._search.calc(*greys, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
        back: Flow = self._search.calc(*greys[::-1], None)  # pyright: ignore[reportCallIssue, reportArgumentType]
        if self._is_cut(*greys, there, back):
            return Between(picture=earlier.copy(), is_cut=True)
        pictures = earlier.astype(np.float32), later.astype(np.float32)
        # What only one picture shows has a flow in that one alone; the better candidate is found pixel by pixel. One
        # kernel keeps detail and one damps grain: their mean does both.
        candidates = (
            (1.0, *self._moved_half(*pictures, self._halved(there), cv2.INTER_CUBIC)),
            (1.0, *self._moved_half(*pictures, -self._halved(back), cv2.INTER_LINEAR)),
            (UNMOVED_WEIGHT, 0.5 * (pictures[0] + pictures[1]), _disagreement(*pictures)),
        )
        total, weights = np.zeros_like(pictures[0]), np.zeros_like(there[..., 0])
        for counts, candidate, error in candidates:
            weight = counts / (AGREED + error**SHARPNESS)
            total += weight[..., None] * candidate
            weights += weight
        return Between(picture=np.rint(total / weights[..., None]).clip(0, 255).astype(np.uint8), is_cut=False)

    def _moved_half(self, earlier: Values, later: Values, half: Flow, kernel: int) -> tuple[Values, Values]:
        """The picture half way by one flow, and by how much the pictures disagree on it."""
        before = _sampled(earlier, self._grid - half, kernel)
        after = _sampled(later, self._grid + half, kernel)
        error = _disagreement(before, after)
        # What enters or leaves the picture is in one of both only.
        in_earlier, in_later = self._inside(-half), self._inside(half)
        share: Values = np.where(in_earlier == in_later, np.float32(0.5), in_earlier).astype(np.float32, copy=False)
        before -= after
        before *= share[..., None]
        after += before
        return after, error

    def _halved(self, flow: Flow) -> Flow:
        """Half of `flow` for each pixel that is half way, where `flow` is that of the pixels that set out."""
        half: Flow = flow * np.float32(0.5)
        for _ in range(HALVING_ROUNDS):
            half = _sampled(flow, self._grid - half, cv2.INTER_LINEAR) * np.float32(0.5)
        return half

    def _inside(self, flow: Flow) -> Values:
        """1 where `flow` ends inside the picture, and 0 elsewhere."""
        height, width = flow.shape[:2]
        found = cv2.inRange(self._grid + flow, (-0.5, -0.5), (width - 0.5, height - 0.5))  # pyright: ignore
        return (found / np.float32(255)).astype(np.float32, copy=False)

    def _is_cut(self, earlier: Grey, later: Grey, there: Flow, back: Flow) -> bool:
        asked = (slice(ASKED_EVERY_PX // 2, None, ASKED_EVERY_PX),) * 2
        goal = (self._grid + there)[asked]
        off = np.linalg.norm(there[asked] + _sampled(back, goal, cv2.INTER_LINEAR), axis=2)
        if (off < 1 + 0.05 * np.linalg.norm(there[asked], axis=2)).mean() >= CUT_RETURN_SHARE:
            return False
        found = _sampled(later, goal, cv2.INTER_LINEAR)
        return float(cv2.absdiff(earlier[asked], found).mean()) > CUT_DIFFERENCE


def _grey(picture: U8Image) -> Grey:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)


def _sampled(values: Values | Grey, places: Flow, kernel: int) -> Any:  # noqa: ANN401 - an array like `values`
    return cv2.remap(values, places, None, kernel, borderMode=cv2.BORDER_REPLICATE)  # pyright: ignore


def _disagreement(one: Values, other: Values) -> Values:
    error = cv2.blur(cv2.transform(cv2.absdiff(one, other), _MEAN_OF_RGB), (COMPARED_PX, COMPARED_PX))
    # The mean of zeros may come out a little below zero.
    return np.maximum(error, np.float32(0)).astype(np.float32, copy=False)
