"""Numbers about one picture: sharpness, blocks, light, colour, lettering. Judges nothing and knows no request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from i2v_pipeline.types import U8Image

Plane = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]

BLUR_SIDE_PX = 768
FINE_SIGMA_PX, COARSE_SIGMA_PX = 1.0, 2.5
"""Sharpness is the loss of gradient between these two; the finer one takes grain and JPEG's noise away."""
DIRECTIONS = 4
STRONGEST_EDGES_PERCENT = 98
WEAKEST_EDGE, WEAKEST_OF_STRONGEST = 8.0, 0.2
FEWEST_EDGE_PX = 200
SHARP_EDGES_PERCENT = 15
BLOCK_PX, BLOCKS_CROP_PX = 8, 1024
VISIBLE_STEP = 4.0
LETTERING_SIDE_PX = 960
STROKE_REACH_PX = (13, 41)
"""Letters are thin: their strokes are narrower than these, for small and for large type."""
MIN_LETTER_PX, MAX_LETTER_SHARE = 9, 0.3
MIN_STROKE_CONTRAST = 55
INK_PERCENT = 75
MIN_LINE = 6
"""Fewer letter-like shapes side by side are windows, leaves or railings as often as letters."""
SAME_INK = 3.0
"""Letters of a printed line share one colour; the nearest line-like thing in a photograph, a row of roof tiles, varies
by 4 to 6 levels."""
LINE_LEVELS = 16
MIN_ROW, ROW_INK, ROW_LEVELS = 7, 1.5, 4.0
MAX_STROKE_OCTAVES = 1
ROW_HEIGHT, ROW_LENGTH, LOWEST_PART = 1.35, 3.0, 0.3
"""Parts of hanzi share neither base nor height, so their ink has to be of one colour almost to the level. The row is
at most this much taller than its tallest part, this much longer than tall, and no part is lower than that share."""
MOST_SHAPES = 4000


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A letter-like shape in pixels: its box, its stroke's width, its level of grey."""

    left: int
    top: int
    width: int
    height: int
    stroke_px: float
    level: float

    @property
    def bottom(self) -> int:
        return self.top + self.height


def at_most(pixels: U8Image, side_px: int) -> U8Image:
    """The picture with no side longer than this; itself where that is so already."""
    height, width = pixels.shape[:2]
    scale = side_px / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(round(width * scale), 8), max(round(height * scale), 8))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def edge_blur(pixels: U8Image) -> float | None:
    """How wide the sharper ones of the strongest edges are: a Gaussian's sigma, in thousandths of the longer side.

    From the ratio of the gradients at two scales (after Zhuo and Sim 2011, "Defocus map estimation from a single
    image", eq. 4), so a soft background around a sharp subject does not count, nor does the number of pixels. The
    edges of each direction are taken by themselves and the softest direction counts: what moved is blurred along its
    way alone. None where there is no edge.
    """
    grey = _grey(at_most(pixels, BLUR_SIDE_PX)).astype(np.float32)
    across, down = _gradients(cv2.GaussianBlur(grey, (0, 0), FINE_SIGMA_PX))
    fine, coarse = np.hypot(across, down), np.hypot(*_gradients(cv2.GaussianBlur(grey, (0, 0), COARSE_SIGMA_PX)))
    direction = np.round(np.arctan2(down, across) / np.pi * DIRECTIONS) % DIRECTIONS
    weakest = max(WEAKEST_EDGE, WEAKEST_OF_STRONGEST * float(np.percentile(fine, STRONGEST_EDGES_PERCENT)))
    sigmas = []
    for each in range(DIRECTIONS):
        edges = direction == each
        if edges.sum() < FEWEST_EDGE_PX:
            continue
        limit = float(np.percentile(fine[edges], STRONGEST_EDGES_PERCENT))
        if limit < weakest:
            continue
        strongest = edges & (fine >= limit)
        ratio = np.clip(coarse[strongest] / fine[strongest], 0, 0.999)
        variance = (ratio**2 * COARSE_SIGMA_PX**2 - FINE_SIGMA_PX**2) / (1 - ratio**2)
        sigmas.append(float(np.percentile(np.sqrt(np.maximum(variance, 0)), SHARP_EDGES_PERCENT)))
    return max(sigmas) * 1000 / max(grey.shape) if sigmas else None


def blockiness(pixels: U8Image) -> float:
    """How much oftener visible steps stand on JPEG's grid than beside it, as a share of all places on it.

    A step is visible when it stands out of its neighbours by more than `VISIBLE_STEP` levels: smooth pictures that
    were saved well have a grid too, which nobody sees. The weaker direction counts, and the middle of a large
    picture. At the picture's own size, as scaling hides it.
    """
    height, width = pixels.shape[:2]
    top, left = max(height - BLOCKS_CROP_PX, 0) // 2, max(width - BLOCKS_CROP_PX, 0) // 2
    grey = _grey(pixels[top : top + BLOCKS_CROP_PX, left : left + BLOCKS_CROP_PX]).astype(np.float32)
    found = [_steps_on_grid(plane) for plane in (grey, grey.T) if plane.shape[1] > 4 * BLOCK_PX]
    return min(found) if len(found) == 2 else 0.0


def brightness(pixels: U8Image) -> float:
    """The level, 0 to 255, that 98 % of the picture stay below: dark walls around a lit thing are no dark picture."""
    return float(np.percentile(_grey(at_most(pixels, BLUR_SIDE_PX)), 98))


def colour_spread(pixels: U8Image) -> float:
    """Standard deviation, in levels, of the channel that varies most, at 64 pixels: grain is no colour."""
    return float(at_most(pixels, 64).std(axis=(0, 1)).max())


def letters_in_lines(pixels: U8Image) -> tuple[int, int]:
    """How many letter-like shapes stand in lines, and how many in rows of one ink.

    In lines: thin strokes of one width, one height and one colour, on one base. In rows: parts of any height and place
    within the row whose colour is the same almost to the level, as the parts of printed hanzi are. A shape that is
    found in two ways counts twice. Handwriting, curved or slanting lines and single words are not found.
    """
    grey = _grey(pixels)
    scale = LETTERING_SIDE_PX / max(grey.shape)
    # A small picture is enlarged too: its letters are as small as it is.
    grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    in_lines = in_rows = 0
    for plane in (grey, 255 - grey):
        for reach_px in STROKE_REACH_PX:
            letters = _letters(plane.astype(np.uint8), reach_px)
            in_lines += sum(len(line) for line in _lines(letters) if _ink(line) <= SAME_INK)
            in_rows += sum(len(row) for row in _rows(letters) if _ink(row) <= ROW_INK)
    return in_lines, in_rows


def _ink(letters: list[Letter]) -> float:
    return float(np.std([letter.level for letter in letters]))


def _steps_on_grid(plane: Plane) -> float:
    steps = np.minimum(np.abs(np.diff(plane, axis=1)), 40)
    visible = (steps[:, 1:-1] - (steps[:, :-2] + steps[:, 2:]) / 2 > VISIBLE_STEP).mean(axis=0)
    by_phase = [float(visible[phase::BLOCK_PX].mean()) for phase in range(BLOCK_PX)]
    return max(by_phase) - float(np.median(by_phase))


def _letters(plane: Grey, reach_px: int) -> list[Letter]:
    """Bright shapes with thin strokes, from left to right."""
    raised = cv2.morphologyEx(plane, cv2.MORPH_TOPHAT, np.ones((reach_px, reach_px), np.uint8))
    around = cv2.dilate(raised, np.ones((reach_px // 2 | 1, reach_px // 2 | 1), np.uint8))
    inked = ((raised > MIN_STROKE_CONTRAST) & (raised > 0.5 * around)).astype(np.uint8)
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(inked, connectivity=8)
    lefts, tops, widths, heights, areas = boxes.T
    like_letters = (heights >= MIN_LETTER_PX) & (heights <= MAX_LETTER_SHARE * plane.shape[0])
    like_letters &= (widths >= 2) & (widths <= 2.5 * heights) & (areas >= 0.15 * widths * heights)
    chosen = 1 + np.flatnonzero(like_letters[1:])
    if not 0 < len(chosen) <= MOST_SHAPES:
        return []
    depth = cv2.distanceTransform(inked, cv2.DIST_L2, 3)
    # The pixels of all shapes, those of one after those of another, in each by level: a texture has thousands.
    places = np.flatnonzero(inked)
    of, levels = labels.ravel()[places], plane.ravel()[places]
    order = np.lexsort((levels, of))
    levels, starts = levels[order].astype(np.float32), np.concatenate(([0], np.cumsum(areas[1:-1])))
    strokes = 2 * np.maximum.reduceat(depth.ravel()[places][order], starts)
    ranks = starts + INK_PERCENT / 100 * (areas[1:] - 1)
    below = ranks.astype(int)
    inks = levels[below] + (ranks - below) * (levels[np.ceil(ranks).astype(int)] - levels[below])
    letters = [
        Letter(
            left=int(lefts[label]),
            top=int(tops[label]),
            width=int(widths[label]),
            height=int(heights[label]),
            stroke_px=float(strokes[label - 1]),
            level=float(inks[label - 1]),
        )
        for label in chosen
    ]
    return sorted(letters, key=lambda letter: letter.left)


def _lines(letters: list[Letter]) -> list[list[Letter]]:
    """Puts letters that may follow one another into lines of at least `MIN_LINE`."""
    lines, used = [], set()
    levels = np.array([letter.level for letter in letters])
    for place, first in enumerate(letters):
        if place in used:
            continue
        line, places = [first], [place]
        alike = np.abs(levels[place + 1 :] - first.level) < LINE_LEVELS
        for later in (place + 1 + np.flatnonzero(alike)).tolist():
            letter, last = letters[later], line[-1]
            if letter.left > last.left + last.width + max(last.height, letter.height):
                break
            if later not in used and _follows(letter, last, first):
                line.append(letter)
                places.append(later)
        if len(line) >= MIN_LINE:
            used.update(places)
            lines.append(line)
    return lines


def _follows(letter: Letter, last: Letter, first: Letter) -> bool:
    tallest = max(letter.height, last.height, first.height)
    return (
        letter.left >= last.left + 0.6 * last.width
        and abs(letter.bottom - last.bottom) < 0.1 * tallest + 1
        and min(letter.height, last.height) > 0.5 * tallest
        and 0.6 < letter.stroke_px / last.stroke_px < 1.67
    )


def _rows(letters: list[Letter]) -> list[list[Letter]]:
    """Puts shapes of one ink whose heights overlap into rows of at least `MIN_ROW`."""
    rows, used = [], set()
    levels = np.array([letter.level for letter in letters])
    strokes = np.array([letter.stroke_px for letter in letters])
    for place, first in enumerate(letters):
        if place in used:
            continue
        row, places = [first], [place]
        alike = np.abs(levels[place + 1 :] - first.level) <= ROW_LEVELS
        alike &= np.abs(np.log2(strokes[place + 1 :] / first.stroke_px)) < MAX_STROKE_OCTAVES
        top, bottom, right, tallest = first.top, first.bottom, first.left + first.width, first.height
        for later in (place + 1 + np.flatnonzero(alike)).tolist():
            letter = letters[later]
            if letter.left > right + max(bottom - top, letter.height):
                break
            higher, lower = min(top, letter.top), max(bottom, letter.bottom)
            taller = max(tallest, letter.height)
            fits = lower - higher <= ROW_HEIGHT * taller and letter.height >= LOWEST_PART * taller
            if later in used or not fits:
                continue
            row.append(letter)
            places.append(later)
            top, bottom, right, tallest = higher, lower, max(right, letter.left + letter.width), taller
        if len(row) >= MIN_ROW and right - first.left > ROW_LENGTH * (bottom - top):
            used.update(places)
            rows.append(row)
    return rows


def _grey(pixels: U8Image) -> Grey:
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)


def _gradients(grey: npt.NDArray[Any]) -> tuple[Plane, Plane]:
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    return across.astype(np.float32, copy=False), down.astype(np.float32, copy=False)
