"""A decoded picture of any mode becomes upright, opaque sRGB. Knows no file and no size limit."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageCms

from i2v_pipeline.types import Finding, Text, U8Image

# What Pillow raises for bytes that are not what they say they are.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError,
    EOFError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
# EXIF 2.32, tag 0x0112: how the stored picture is turned to stand upright.
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_TRANSPARENT = Finding(
    code="picture_transparent",
    severity="info",
    message=Text("The picture has transparent parts: they become white.", "图片含有透明部分：将以白色填充。"),
    remedy=Text("For another background, fill it in an image program first.", "如需其他背景，请先用图像软件填充。"),
)
_BAD_EXIF = Finding(
    code="picture_exif_unreadable",
    severity="warn",
    message=Text(
        "The picture's EXIF data cannot be read, so it is used as it is stored.",
        "图片的 EXIF 信息无法读取，按存储方向使用。",
    ),
    remedy=Text(
        "If it lies on its side, turn it in an image program and save it again.",
        "若方向不对，请用图像软件旋转后重新保存。",
    ),
)
_BAD_PROFILE = Finding(
    code="picture_profile_unreadable",
    severity="warn",
    message=Text(
        "The picture's colour profile cannot be used, so its colours may look different.",
        "图片的色彩配置文件无法使用，颜色可能有偏差。",
    ),
    remedy=Text("Save it as sRGB in an image program.", "请用图像软件另存为 sRGB。"),
)
_PRINT_COLOURS = Finding(
    code="picture_print_colours",
    severity="warn",
    message=Text(
        "The picture is stored for print (CMYK) without a colour profile, so its colours are a guess.",
        "图片为印刷用的 CMYK 且没有色彩配置文件，颜色只能估计。",
    ),
    remedy=Text("Save it as sRGB in an image program.", "请用图像软件另存为 sRGB。"),
)


def to_srgb_pixels(image: Image.Image, notes: list[Finding]) -> U8Image:
    """A decoded picture of any mode as uint8 (height, width, 3), upright, opaque and in sRGB.

    What had to be decided on the way is appended to `notes`.
    """
    profile = image.info.get("icc_profile")
    turned = _upright(image, notes)
    colours, alpha = _without_alpha(turned)
    rgb = _to_srgb(colours, profile, notes)
    if alpha is not None and alpha.getextrema() != (255, 255):
        notes.append(_TRANSPARENT)
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)
    return np.array(rgb)


def _upright(image: Image.Image, notes: list[Finding]) -> Image.Image:
    # Pillow warns where the data is damaged and goes on with what it could read, and raises where that is nothing.
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        try:
            orientation = image.getexif().get(_ORIENTATION)
            is_unreadable = orientation is None and bool(complaints)
        except DECODE_ERRORS:
            orientation, is_unreadable = None, True
    if is_unreadable:
        notes.append(_BAD_EXIF)
    turn = _TURNS.get(orientation) if orientation else None
    return image if turn is None else image.transpose(turn)


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours as L, RGB or CMYK, and the alpha channel where there is one."""
    if image.mode == "I;16":
        levels = np.asarray(image).astype(np.uint32)
        clear = image.info.get("transparency")
        alpha = None if clear is None else Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8))
        # 65535 = 257 * 255; Pillow's own conversion would round down.
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)), alpha
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.mode in ("RGBA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
    if image.mode in ("L", "RGB", "CMYK"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[Finding]) -> Image.Image:
    if profile:
        # Some programs leave the RGB profile in place when they make a picture grey (ICC.1:2022, 7.2.8).
        if image.mode == "L" and profile[16:20] == b"RGB ":
            image = image.convert("RGB")
        try:
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            # The choice of print programs; profiles of screens give the same with any intent.
            converted = ImageCms.profileToProfile(
                image,
                given,
                ImageCms.createProfile("sRGB"),
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                "RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            notes.append(_BAD_PROFILE)
        else:
            assert converted is not None
            return converted
    elif image.mode == "CMYK":
        notes.append(_PRINT_COLOURS)
    return image.convert("RGB")
