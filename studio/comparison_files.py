"""A comparison to take along: one video with all cells side by side, and one table with what was measured of each.

Knows videos, reports and headings; no store, no page and no engine.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from i2v_pipeline.errors import InputError
from i2v_pipeline.guidance import guidance_as_json
from i2v_pipeline.types import GenerationRequest, Text, U8Frames, U8Image
from i2v_pipeline.video import WrittenVideo, read_frames, write_video
from studio.jobs.comparisons import Axis
from studio.measures import METRICS, best_of, measures_of

MAX_SIZE = (3840, 2160)
"""What graphics cards and browsers of today decode; a larger grid is scaled down to it."""
LEAST_WIDE = 240
"""A cell is at least as wide as its headings need."""
LINE, MARGIN, FONT_PX = 24, 8, 15
GROUND, INK, QUIET = (14, 13, 12), (245, 245, 244), (168, 162, 158)
FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "SourceHanSansSC-Regular.otf", "wqy-microhei.ttc",
    "wqy-zenhei.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc", "simhei.ttf",
)  # fmt: skip
"""Fonts with Chinese characters, as Linux, macOS and Windows have them. The one in Pillow has Latin letters only."""


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One cell: `name` is a job's id or a file's name, `state` a word on where it stands.

    `request` is None for a cell that was deleted; `report` and `video` are there where it is done.
    """

    name: str
    state: str
    request: GenerationRequest | None = None
    report: Mapping[str, Any] | None = None
    video: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All cells, row by row, with their headings."""

    x: Axis
    y: Axis | None
    cells: tuple[CellResult, ...]

    def headings(self, cell: int) -> list[str]:
        """`guidance = 5` and `seed = 7` for the cell at this place."""
        row, column = divmod(cell, len(self.x.values))
        told = [f"{self.x.field} = {self.x.values[column]}"]
        return told if self.y is None else [*told, f"{self.y.field} = {self.y.values[row]}"]


@dataclass(frozen=True, kw_only=True)
class GridShape:
    """How the grid's video is laid out. `scale` is below 1 where it would be larger than `MAX_SIZE`.

    `box` is the place for each picture, `strip` the height of the headings above it, all in pixels. `frames` are those
    of the longest video at `fps`, the highest frame rate of all.
    """

    columns: int
    rows: int
    scale: float
    box: tuple[int, int]
    strip: int
    fps: int
    frames: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, both even."""
        width = MARGIN + self.columns * (self.box[0] + MARGIN)
        height = MARGIN + self.rows * (self.strip + self.box[1] + MARGIN)
        return width + width % 2, height + height % 2

    def corner(self, cell: int) -> tuple[int, int]:
        """Left and top of the headings of the cell at this place."""
        row, column = divmod(cell, self.columns)
        return MARGIN + column * (self.box[0] + MARGIN), MARGIN + row * (self.strip + self.box[1] + MARGIN)


def grid_shape(grid: Grid) -> GridShape:
    """The layout of the grid's video. Raises `InputError` where no cell is done."""
    outputs = [cell.report["output"] for cell in grid.cells if cell.report is not None]
    if not outputs:
        raise InputError(
            "No video of this comparison is done yet, so there is nothing to export. Wait for the first one.",
            "此对比还没有完成的视频，无法导出。请等待第一个完成。",
        )
    columns, strip = len(grid.x.values), LINE * (1 if grid.y is None else 2)
    rows = len(grid.cells) // columns
    wide, high = max(each["width"] for each in outputs), max(each["height"] for each in outputs)
    scale = min(
        1.0,
        (MAX_SIZE[0] - MARGIN * (columns + 1)) / columns / wide,
        ((MAX_SIZE[1] - MARGIN * (rows + 1)) / rows - strip) / high,
    )
    fps = max(round(each["fps"]) for each in outputs)
    return GridShape(
        columns=columns,
        rows=rows,
        scale=scale,
        box=(max(LEAST_WIDE, math.floor(wide * scale)), math.floor(high * scale)),
        strip=strip,
        fps=fps,
        frames=math.ceil(max(each["frames"] / each["fps"] for each in outputs) * fps - 1e-6),
    )


def describe_shape(grid: Grid, shape: GridShape) -> list[Text]:
    """What the grid's video does to videos that differ from each other, and to a grid that is too large."""
    outputs = [cell.report["output"] for cell in grid.cells if cell.report is not None]
    told = []
    if shape.scale < 1:
        percent = f"{100 * shape.scale:.0f}"
        told.append(
            Text(f"All are scaled to {percent} % to fit into one video.", f"为放进一个视频，均缩放到 {percent}%。")
        )
    if len({(each["width"], each["height"]) for each in outputs}) > 1:
        told.append(
            Text(
                "The sizes differ: each keeps its own scale, and smaller ones stand in a frame.",
                "尺寸不同：各自保持原比例，较小的四周留边。",
            )
        )
    if len({each["frames"] / each["fps"] for each in outputs}) > 1:
        told.append(
            Text(
                "The lengths differ: all start together, and shorter ones hold their last frame.",
                "时长不同：同时开始，较短的停在最后一帧。",
            )
        )
    if len({round(each["fps"], 3) for each in outputs}) > 1:
        told.append(
            Text(
                f"The frame rates differ: the grid has the highest, {shape.fps}, and repeats frames of the others.",
                f"帧率不同：合成视频采用最高的 {shape.fps}，其余视频重复部分帧。",
            )
        )
    return told


def write_grid(grid: Grid, path: Path) -> WrittenVideo:
    """All cells side by side in one H.264 file, headings above each; what is not done says so in its place.

    Raises `InputError` where no cell is done, and what reading and writing videos raises.
    """
    shape = grid_shape(grid)
    width, height = shape.size
    return write_video(_frames(grid, shape), path, width=width, height=height, fps=shape.fps)


def table_csv(grid: Grid) -> bytes:
    """A row for each cell: its values, its settings, what was measured, and for what it is the best of all.

    UTF-8 with a mark at its beginning, without which Excel reads Chinese wrongly.
    """
    measures = [None if cell.report is None else measures_of(cell.report) for cell in grid.cells]
    best = {name: best_of(metric, measures) for name, metric in METRICS.items()}
    rows = [_row(grid, place, cell) for place, cell in enumerate(grid.cells)]
    for place, (row, measured) in enumerate(zip(rows, measures, strict=True)):
        if measured is None:
            continue
        row |= {
            "run_seconds": measured.wall_seconds,
            "first_frame_ssim": measured.ssim,
            "first_frame_delta_e": measured.delta_e,
            "camera": measured.camera,
            "camera_percent_per_s": _rounded(measured.camera_speed),
            "subject_percent_per_s": _rounded(measured.subject_speed),
            "smoothness": measured.smoothness,
            "flags": " ".join(measured.flags),
            "asked_and_seen": " ".join(tag for tag, is_seen in measured.asked.items() if is_seen),
            "asked_and_not_seen": " ".join(tag for tag, is_seen in measured.asked.items() if is_seen is False),
            "broken": measured.is_broken,
            "verdict": measured.verdict.en if measured.verdict else "",
            "best": " ".join(name for name, places in best.items() if place in places),
        }
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig")


def _row(grid: Grid, place: int, cell: CellResult) -> dict[str, Any]:
    row, column = divmod(place, len(grid.x.values))
    found: dict[str, Any] = {"x": grid.headings(place)[0], "y": grid.headings(place)[-1] if grid.y else ""}
    found |= {"row": row + 1, "column": column + 1, "name": cell.name, "state": cell.state}
    request = cell.request
    if request is not None:
        names = ("engine", "preset", "width", "height", "frames", "fps", "steps", "flow_shift", "seed")
        found |= {name: getattr(request, name) for name in names}
        found["guidance"] = guidance_as_json(request.guidance)
        found["loras"] = " ".join(f"{lora.source.rpartition('/')[2]}:{lora.weight:g}" for lora in request.loras)
        found |= {"prompt": request.prompt, "negative_prompt": request.negative_prompt}
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _frames(grid: Grid, shape: GridShape) -> Iterator[U8Frames]:
    """The frames of the grid, uint8 (1, height, width, 3) each."""
    canvas = _ground(grid, shape)
    players = [
        (_Player(cell.video, cell.report["output"]["fps"]), *shape.corner(place))
        for place, cell in enumerate(grid.cells)
        if cell.video is not None and cell.report is not None
    ]
    for number in range(shape.frames):
        for player, left, top in players:
            picture = player.at(number / shape.fps)
            if picture is not None:
                _put(canvas, picture, shape, left, top + shape.strip)
        yield canvas[None].copy()


class _Player:
    """A video whose frame at any later time can be asked for; after its end the last one stays."""

    def __init__(self, video: Path, fps: float) -> None:
        self._frames = read_frames(video)
        self._fps = fps
        self._shown = -1

    def at(self, seconds: float) -> U8Image | None:
        """The frame shown then, uint8 (height, width, 3); None while it is the one of before."""
        wanted, frame = math.floor(seconds * self._fps + 1e-6), None
        while self._shown < wanted:
            chunk = next(self._frames, None)
            if chunk is None:
                break
            frame, self._shown = chunk[0], self._shown + 1
        return frame


def _put(canvas: U8Image, picture: U8Image, shape: GridShape, left: int, top: int) -> None:
    """Draws the picture into the middle of its box."""
    if shape.scale < 1:
        size = (max(1, math.floor(picture.shape[1] * shape.scale)), max(1, math.floor(picture.shape[0] * shape.scale)))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    height, width = picture.shape[:2]
    left, top = left + (shape.box[0] - width) // 2, top + (shape.box[1] - height) // 2
    canvas[top : top + height, left : left + width] = picture


def _ground(grid: Grid, shape: GridShape) -> U8Image:
    """The picture behind the videos: the headings, and a word in each cell that has no video."""
    image = Image.new("RGB", shape.size, GROUND)
    draw = ImageDraw.Draw(image)
    font, has_chinese = _font()
    for place, cell in enumerate(grid.cells):
        left, top = shape.corner(place)
        for line, heading in enumerate(grid.headings(place)):
            text = heading if has_chinese or heading.isascii() else _numbered(grid, place, line)
            shown = _shortened(draw, " ".join(text.split()), font, shape.box[0])
            draw.text((left, top + line * LINE + 2), shown, INK if line == 0 else QUIET, font)
        if cell.video is None:
            middle = (left + shape.box[0] / 2, top + shape.strip + shape.box[1] / 2)
            draw.text(middle, cell.state, QUIET, font, anchor="mm")
    return np.array(image)


def _numbered(grid: Grid, place: int, line: int) -> str:
    """In place of a heading that no font on this machine can draw: the table has the text."""
    row, column = divmod(place, len(grid.x.values))
    axis, number = (grid.x, column) if line == 0 or grid.y is None else (grid.y, row)
    return f"{axis.field} {number + 1} (see the table)"


def _shortened(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, wide: int
) -> str:
    """The text, cut with an ellipsis where it is wider than its cell."""
    if draw.textlength(text, font) <= wide:
        return text
    while text and draw.textlength(text + "...", font) > wide:
        text = text[:-1]
    return text + "..."


def _font() -> tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, bool]:
    """A font, and whether it has Chinese characters. Pillow looks for the names where the system keeps its fonts."""
    for name in FONTS:
        try:
            return ImageFont.truetype(name, FONT_PX), True
        except OSError:
            continue
    return ImageFont.load_default(FONT_PX), False
