"""A picture file becomes sRGB pixels, and pixels the size that an engine takes. Knows no engine; crops nothing unsaid.

`fit_*` propose and are pure, `open_picture` reads, `prepare` does what `describe_fit` says.
"""

from __future__ import annotations

import functools
import io
import math
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageFilter
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from i2v_pipeline.colours import DECODE_ERRORS, to_srgb_pixels
from i2v_pipeline.errors import PictureError
from i2v_pipeline.picture_formats import declared_size, format_of
from i2v_pipeline.specs import Grid
from i2v_pipeline.types import Finding, Fit, Prepared, Text, U8Image

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 64_000_000
MIN_SIDE = 16

# Named one by one: `Image.open` would try every plugin, and judges the number of pixels by a limit of its own.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WEBP": WebPImageFile,
    "AVIF": AvifImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
}
# One picture at a time: Python's warning filters are the process's, and a large picture takes some 600 MB to decode.
_decoding = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An upright, opaque picture: `pixels` uint8 (height, width, 3) sRGB; `source` holds the bytes as given."""

    pixels: U8Image = field(repr=False)
    source: bytes = field(repr=False)
    format: str
    width: int
    height: int
    notes: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Percent of the width at left and right, percent of the height at top and bottom."""

    left: float = 0.0
    right: float = 0.0
    top: float = 0.0
    bottom: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Proposed:
    """A size that the engine can make, and what each way of fitting the picture to it would cost.

    `crop` is what of the picture is cut off, `pad` what of the video is filled in. `stretch_percent` is how much wider
    things look than they are; negative: how much taller.
    """

    width: int
    height: int
    crop: Sides
    pad: Sides
    stretch_percent: float


def open_picture(source: Path | bytes) -> Picture:
    """Reads a PNG, JPEG, WebP, AVIF, BMP or GIF file (its first frame), upright, opaque and in sRGB.

    Raises `PictureError` for everything else, for more than `MAX_BYTES` or `MAX_PIXELS` (judged before anything is
    decoded) and for a side under `MIN_SIDE`. Its sentences name no path.
    """
    data = source if isinstance(source, bytes) else _read(source)
    if len(data) > MAX_BYTES:
        raise _too_many_bytes()
    name = format_of(data)
    if (declared := declared_size(name, data)) is not None:
        _check_size(*declared)
    with _decoding, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _READERS[name](io.BytesIO(data)) as image:
                _check_size(*image.size)
                notes = [_ANIMATED] if getattr(image, "is_animated", False) else []
                image.load()
                pixels = to_srgb_pixels(image, notes)
        except DECODE_ERRORS as error:
            raise PictureError(
                f"This {name} picture cannot be decoded: it is damaged, cut short or built in an unusual way. "
                "Export it again, or take another copy.",
                f"这张 {name} 图片无法解码：文件已损坏、不完整或结构特殊。请重新导出，或换一份副本。",
            ) from error
    height, width = pixels.shape[:2]
    return Picture(pixels=pixels, source=data, format=name, width=width, height=height, notes=tuple(notes))


def legal_sides(grid: Grid) -> range:
    """The widths and heights of the grid. Even ones only: H.264's 4:2:0 has one colour for two pixels each way."""
    step = math.lcm(grid.pixel_multiple, 2)
    return range(-(-grid.min_side // step) * step, grid.max_side + 1, step)


def legal_frames(grid: Grid) -> range:
    """The frame counts of the grid."""
    step = grid.frame_step
    return range(-(-(grid.min_frames - 1) // step) * step + 1, grid.max_frames + 1, step)


@functools.lru_cache(maxsize=512)
def fit_size(spec_grid: Grid, budget: tuple[int, int], source_width: int, source_height: int) -> Proposed:
    """The size on the grid that keeps the picture's aspect and the budget's number of pixels best.

    Off by one percent in aspect counts as much as off by six percent in pixels: what is cut is seen, a few pixels
    more or fewer are not. The budget may be overstepped by that, the grid's own limits never.
    """
    sides, pixels, aspect = legal_sides(spec_grid), math.prod(budget), source_width / source_height

    def cost(size: tuple[int, int]) -> float:
        width, height = size
        return 6 * abs(math.log(width / height / aspect)) + abs(math.log(width * height / pixels))

    candidates = (
        (width, height)
        for width in sides
        for wished in (width / aspect, pixels / width)
        for height in _around(sides, wished)
        if width * height <= spec_grid.max_pixels
    )
    width, height = min(candidates, key=cost)
    crop, pad, stretch_percent = _losses(width, height, source_width, source_height)
    return Proposed(width=width, height=height, crop=crop, pad=pad, stretch_percent=stretch_percent)


def fit_frames(grid: Grid, frames: int) -> int:
    """The legal frame count nearest to `frames`, the longer one of two."""
    return min(legal_frames(grid), key=lambda legal: (abs(legal - frames), -legal))


TOLD_ENLARGEMENT = 1.1
"""From here on a picture that is scaled up is told as enlarged: it will look softer than it is."""


def describe_fit(fit: Fit, width: int, height: int, source_width: int, source_height: int) -> Text:
    """What fitting the picture to this size does to it, in one sentence."""
    scale = enlargement(fit, width, height, source_width, source_height)
    if (width, height) == (source_width, source_height):
        size = Text(f"The picture keeps its size, {width} × {height}", f"画面保持原尺寸 {width} × {height}")
    elif scale >= TOLD_ENLARGEMENT:
        size = Text(
            f"The picture is enlarged {scale:.1f} times, to {width} × {height}, which adds no detail",
            f"画面放大 {scale:.1f} 倍至 {width} × {height}（不会增加细节）",
        )
    else:
        size = Text(f"The picture is scaled to {width} × {height}", f"画面缩放为 {width} × {height}")
    change = _describe_change(fit, *_losses(width, height, source_width, source_height))
    return Text(f"{size.en}; {change.en}.", f"{size.zh}，{change.zh}。")


def enlargement(fit: Fit, width: int, height: int, source_width: int, source_height: int) -> float:
    """How much larger the picture's content gets; a stretched one by the mean of both directions."""
    across, down = width / source_width, height / source_height
    inside = min(across, down)
    return {"crop": max(across, down), "pad": inside, "white": inside, "stretch": math.sqrt(across * down)}[fit]


def prepare(picture: Picture, width: int, height: int, fit: Fit) -> Prepared:
    """Crops around the centre, pads, stretches or puts on white at exactly this size; `fitted` says which."""
    image = Image.fromarray(picture.pixels)
    if fit == "crop":
        fitted = _covering(image, width, height)
    elif fit == "pad":
        fitted = _padded(image, width, height)
    elif fit == "white":
        fitted = _on_white(image, width, height)
    else:
        fitted = image.resize((width, height), Image.Resampling.LANCZOS)
    return Prepared(
        pixels=np.array(fitted),
        source=picture.source,
        source_format=picture.format,
        source_width=picture.width,
        source_height=picture.height,
        fitted=describe_fit(fit, width, height, picture.width, picture.height),
    )


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise PictureError(
                "This is a folder: one picture file is needed. Name a file inside it.",
                "这是一个文件夹：需要一个图片文件。请指定其中的文件。",
            )
        if not path.exists():
            raise PictureError(
                "There is no such picture file. Check the name and the folder.",
                "找不到该图片文件。请检查文件名和文件夹。",
            )
        if not path.is_file():
            raise PictureError(
                "This is a device or a pipe: a regular picture file is needed. Copy the picture into a file.",
                "这是设备或管道：需要普通的图片文件。请先把图片存成文件。",
            )
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    # A name with a NUL in it is a ValueError.
    except (OSError, ValueError) as error:
        raise PictureError(
            "The picture file cannot be read. Check its name and that you may open it.",
            "无法读取该图片文件。请检查文件名以及是否有权限打开。",
        ) from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"The picture has {width} × {height} pixels: at most {MAX_PIXELS // 10**6} million are allowed. "
            "Make it smaller and try again.",
            f"图片有 {width} × {height} 像素：最多允许 {MAX_PIXELS // 10**4} 万像素。请缩小后重试。",
        )
    if min(width, height) < MIN_SIDE:
        raise PictureError(
            f"The picture has {width} × {height} pixels: each side needs at least {MIN_SIDE}. Choose a larger one.",
            f"图片只有 {width} × {height} 像素：每边至少需要 {MIN_SIDE} 像素。请选择更大的图片。",
        )


def _too_many_bytes() -> PictureError:
    return PictureError(
        f"The picture file is too large: at most {MAX_BYTES // 2**20} MiB are allowed. Save it as JPEG, or smaller.",
        f"图片文件太大：最多允许 {MAX_BYTES // 2**20} MiB。请存为 JPEG 或缩小尺寸。",
    )


def _losses(width: int, height: int, source_width: int, source_height: int) -> tuple[Sides, Sides, float]:
    """What crop, pad and stretch do to a picture, in percent; all zero when the aspects are equal."""
    # Compared in integers, so that equal aspects lose exactly nothing.
    across, down = source_width * height, source_height * width
    crop_x = 50 * (1 - down / across) if across > down else 0.0
    crop_y = 50 * (1 - across / down) if down > across else 0.0
    inner_width, inner_height = _inner_size(width, height, source_width, source_height)
    pad_x, pad_y = 50 * (1 - inner_width / width), 50 * (1 - inner_height / height)
    return (
        Sides(left=crop_x, right=crop_x, top=crop_y, bottom=crop_y),
        Sides(left=pad_x, right=pad_x, top=pad_y, bottom=pad_y),
        100 * (down / across - 1) if down >= across else -100 * (across / down - 1),
    )


def _inner_size(width: int, height: int, source_width: int, source_height: int) -> tuple[int, int]:
    """The picture's size inside the given one with nothing cut; opposite margins are equal, to the nearest pixel."""
    scale = min(width / source_width, height / source_height)
    margin_x, margin_y = (width - source_width * scale) / 2, (height - source_height * scale) / 2
    return max(width - 2 * round(margin_x), 1), max(height - 2 * round(margin_y), 1)


def _covering(image: Image.Image, width: int, height: int) -> Image.Image:
    """The middle of the picture at this size, cut and scaled in one step, so that the cut need not hit whole pixels."""
    crop, _, _ = _losses(width, height, *image.size)
    left, top = image.width * crop.left / 100, image.height * crop.top / 100
    return image.resize(
        (width, height), Image.Resampling.LANCZOS, box=(left, top, image.width - left, image.height - top)
    )


def _padded(image: Image.Image, width: int, height: int) -> Image.Image:
    """The whole picture in the middle of its own blurred enlargement."""
    inner = _inner_size(width, height, *image.size)
    fitted = _covering(image, width, height).filter(ImageFilter.GaussianBlur(max(width, height) / 24))
    fitted.paste(image.resize(inner, Image.Resampling.LANCZOS), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return fitted


def _on_white(image: Image.Image, width: int, height: int) -> Image.Image:
    """The whole picture, as large as it fits, in the middle of white; an odd pixel of margin goes right or down."""
    # Compared and cut to whole pixels in integers, so that no rounding of a quotient loses a line.
    if width * image.height <= height * image.width:
        inner = (width, max(image.height * width // image.width, 1))
    else:
        inner = (max(image.width * height // image.height, 1), height)
    canvas = Image.new("RGB", (width, height), "white")
    fitted = image.resize(inner, Image.Resampling.LANCZOS)
    canvas.paste(fitted, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas


def _around(sides: range, wished: float) -> set[int]:
    """The legal sides just below and just above a wished one."""
    place = min(max((wished - sides.start) / sides.step, 0), len(sides) - 1)
    return {sides[math.floor(place)], sides[math.ceil(place)]}


def _describe_change(fit: Fit, crop: Sides, pad: Sides, stretch_percent: float) -> Text:
    if fit == "crop" and crop.left:
        en, zh = "{} of its width is cut off at the left and as much at the right", "左右各裁去{}"
        share = crop.left
    elif fit == "crop" and crop.top:
        en, zh = "{} of its height is cut off at the top and as much at the bottom", "上下各裁去{}"
        share = crop.top
    elif fit == "pad" and pad.left:
        en, zh = "a blurred border of {} of the width is added at the left and at the right", "左右各加{}的模糊边缘"
        share = pad.left
    elif fit == "pad" and pad.top:
        en, zh = "a blurred border of {} of the height is added at the top and at the bottom", "上下各加{}的模糊边缘"
        share = pad.top
    elif fit == "white" and pad.left:
        en, zh = "white is added at the left and at the right, {} of the width each", "左右各加{}的白边"
        share = pad.left
    elif fit == "white" and pad.top:
        en, zh = "white is added at the top and at the bottom, {} of the height each", "上下各加{}的白边"
        share = pad.top
    elif fit == "stretch" and stretch_percent > 0:
        en, zh, share = "everything looks {} wider than it is", "所有内容看起来宽了{}", stretch_percent
    elif fit == "stretch" and stretch_percent < 0:
        en, zh, share = "everything looks {} taller than it is", "所有内容看起来高了{}", -stretch_percent
    else:
        return Text("nothing is cut, added or stretched", "没有裁切、填充或拉伸")
    percent = Text(f"{share:.1f} %", f" {share:.1f} %") if share >= 0.05 else Text("under 0.1 %", "不到 0.1 %")
    return Text(en.format(percent.en), zh.format(percent.zh))


_ANIMATED = Finding(
    code="picture_animated",
    severity="info",
    message=Text("The picture is animated: its first frame is used.", "这是动图：使用其第一帧。"),
)
