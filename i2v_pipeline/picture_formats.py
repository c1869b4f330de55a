"""What a file is by its first bytes, never by its name, and the sentence that refuses it. Decodes nothing."""

from __future__ import annotations

import math
import re
import struct
from typing import NamedTuple

from i2v_pipeline.errors import PictureError
from i2v_pipeline.types import Text

ALLOWED = Text(en="PNG, JPEG, WebP, AVIF, BMP and GIF", zh="PNG、JPEG、WebP、AVIF、BMP 和 GIF")

_BMP_HEADER_SIZES = {12, 16, 40, 52, 56, 64, 108, 124}
"""Sizes of the second header in the known versions of BMP; the letters BM alone begin texts too."""


class _Kind(NamedTuple):
    name: Text
    remedy: Text


_EXPORT = Text("Open it in an image program and export it as PNG or JPEG.", "请用图像软件打开并导出为 PNG 或 JPEG。")
_ANOTHER = Text("Choose a picture.", "请选择一张图片。")
_HEIC = _Kind(
    Text("a HEIC photo", "HEIC 照片"),
    Text(
        "Convert it to JPEG; on an iPhone, Settings > Camera > Formats > Most Compatible makes new photos JPEG.",
        "请转换为 JPEG；在 iPhone 上，「设置 > 相机 > 格式 > 兼容性最佳」会让新照片存为 JPEG。",
    ),
)
_VIDEO = _Kind(Text("a video", "视频"), Text("Save one frame of it as a picture.", "请把其中一帧存为图片。"))
_TIFF = _Kind(Text("a TIFF picture or a camera's raw file", "TIFF 图片或相机 RAW 文件"), _EXPORT)
_JPEG_2000 = _Kind(Text("a JPEG 2000 picture", "JPEG 2000 图片"), _EXPORT)
_JPEG_XL = _Kind(Text("a JPEG XL picture", "JPEG XL 图片"), _EXPORT)
_SVG = _Kind(Text("an SVG drawing", "SVG 矢量图"), _EXPORT)
_PDF = _Kind(Text("a PDF document", "PDF 文档"), _EXPORT)
_WEB_PAGE = _Kind(
    Text("a web page", "网页"),
    Text("Save the picture itself, not the page that shows it.", "请保存图片本身，而不是显示它的网页。"),
)
_SOUND = _Kind(Text("a sound file", "音频文件"), _ANOTHER)
_ARCHIVE = _Kind(Text("an archive or an office document", "压缩包或办公文档"), _ANOTHER)
_TEXT = _Kind(Text("a text", "文本文件"), _ANOTHER)
_UNKNOWN = _Kind(Text("not a picture that is known here", "无法识别的格式"), _EXPORT)

_REFUSED = (
    (b"II*\0", _TIFF), (b"MM\0*", _TIFF), (b"II+\0", _TIFF), (b"MM\0+", _TIFF),
    (b"\0\0\0\x0cjP  ", _JPEG_2000), (b"\xff\x4f\xff\x51", _JPEG_2000),
    (b"\0\0\0\x0cJXL ", _JPEG_XL), (b"\xff\x0a", _JPEG_XL),
    (b"%PDF", _PDF),
    (b"%!PS", _Kind(Text("a PostScript drawing", "PostScript 图形"), _EXPORT)),
    (b"8BPS", _Kind(Text("a Photoshop document", "Photoshop 文档"), _EXPORT)),
    (b"gimp xcf", _Kind(Text("a GIMP document", "GIMP 文档"), _EXPORT)),
    (b"qoif", _Kind(Text("a QOI picture", "QOI 图片"), _EXPORT)),
    (b"\0\0\1\0", _Kind(Text("an icon", "图标文件"), _EXPORT)),
    (b"\x1a\x45\xdf\xa3", _VIDEO), (b"FLV", _VIDEO),
    (b"OggS", _SOUND), (b"ID3", _SOUND), (b"fLaC", _SOUND),
    (b"PK\x03\x04", _ARCHIVE), (b"\x1f\x8b", _ARCHIVE), (b"Rar!", _ARCHIVE), (b"7z\xbc\xaf", _ARCHIVE),
)  # fmt: skip
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
"""Bytes that no text holds: control characters but white space and escape."""
_RIFF = {b"AVI ": _VIDEO, b"WAVE": _SOUND}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


def format_of(data: bytes) -> str:
    """PNG, JPEG, WEBP, AVIF, BMP or GIF. Raises `PictureError` for anything else, naming what it looks like."""
    if not data:
        raise PictureError(
            f"The file is empty: {ALLOWED.en} pictures are allowed. Copy or download it again.",
            f"文件是空的：支持 {ALLOWED.zh} 图片。请重新复制或下载。",
        )
    for start, name in ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF8", "GIF")):
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and {b"avif", b"avis"} & _brands(data):
        return "AVIF"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    kind = _kind_of(data)
    raise PictureError(
        f"This file is {kind.name.en}: {ALLOWED.en} pictures are allowed. {kind.remedy.en}",
        f"这个文件是{kind.name.zh}：支持 {ALLOWED.zh} 图片。{kind.remedy.zh}",
    )


def declared_size(name: str, data: bytes) -> tuple[int, int] | None:
    """Width and height that the header states, for the formats whose readers allocate or give up before saying it.

    None where it states none, and for the formats whose readers say it themselves.
    """
    if name == "WEBP" and len(data) >= 30:
        return _webp_size(data)
    if name == "AVIF":
        # ISO/IEC 23008-12, 6.5.3: one `ispe` for each stored picture; the shown one is the largest.
        header = data.partition(b"mdat")[0]
        sizes = [struct.unpack(">II", stated[1]) for stated in re.finditer(b"ispe\0{4}(.{8})", header, re.DOTALL)]
        return max(sizes, key=math.prod, default=None)
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """RFC 9649: 2.7 (extended), 3.4 (lossless); RFC 6386, 9.1 (lossy)."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def _kind_of(data: bytes) -> _Kind:
    for start, kind in _REFUSED:
        if data.startswith(start):
            return kind
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12], _UNKNOWN)
    if data[4:8] == b"ftyp":
        return _HEIC if data[8:12] in _HEIC_BRANDS else _VIDEO
    return _text_kind(data)


def _text_kind(data: bytes) -> _Kind:
    head = data[:4096]
    if _CONTROL.search(head):
        return _UNKNOWN
    try:
        # The cut may go through the middle of a character.
        text = head.decode("utf-8-sig", "strict" if len(data) <= len(head) else "ignore").lstrip().lower()
    except UnicodeDecodeError:
        return _UNKNOWN
    if text.startswith("<svg") or (text.startswith(("<?xml", "<!--", "<!doctype svg")) and "<svg" in text):
        return _SVG
    if text.startswith(("<!doctype html", "<html", "<head", "<body")):
        return _WEB_PAGE
    return _TEXT


def _brands(data: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO base media file (ISO/IEC 14496-12, 4.3)."""
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
