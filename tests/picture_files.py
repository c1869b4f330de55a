"""Picture files as people have them, made on the spot: turned, transparent, 16-bit, animated, odd. Judges none."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image, ImageCms

from i2v_pipeline.types import U8Image

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 180, 60), (40, 60, 200), (255, 255, 255)
HUGE = 20_000
ALL_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF")


def quarters() -> U8Image:
    """Three colours and a white quarter, wider than high: every turn and every mirror image of it looks different."""
    pixels = np.empty((48, 64, 3), np.uint8)
    pixels[:24, :32], pixels[:24, 32:], pixels[24:, :32], pixels[24:, 32:] = RED, GREEN, BLUE, WHITE
    return pixels


def grey_ramp() -> U8Image:
    """Levels from 0 to 255 from left to right."""
    return np.repeat(np.tile(np.arange(256, dtype=np.uint8), (32, 1))[..., None], 3, axis=2)


def one_channel(grey: U8Image) -> Image.Image:
    return Image.fromarray(grey).convert("L")


def encoded(image: Image.Image | U8Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, name, **options)
    return buffer.getvalue()


def noisy(name: str) -> bytes:
    """A picture whose compressed data is long enough to be cut or damaged in the middle."""
    pixels = np.random.default_rng(7).integers(0, 256, (96, 128, 3), np.uint8)
    return encoded(pixels, name)


def cut(name: str, share: float = 0.5) -> bytes:
    data = noisy(name)
    return data[: int(len(data) * share)]


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def with_orientation(orientation: int, name: str = "JPEG") -> bytes:
    """A file that stands upright only after its EXIF orientation has been applied."""
    inverse = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    turns = [None, *(Image.Transpose(number) for number in (0, 3, 1, 5, 4, 6, 2))]
    stored = Image.fromarray(quarters())
    if orientation > 1:
        turn = turns[inverse[orientation] - 1]
        assert turn is not None
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(stored, name, exif=exif.tobytes(), **({"quality": 100, "subsampling": 0} if name == "JPEG" else {}))


def with_alpha() -> Image.Image:
    """The quarters with the white one fully transparent black instead, so that only white paper makes it right."""
    pixels = np.dstack([quarters(), np.full((48, 64), 255, np.uint8)])
    pixels[24:, 32:] = 0
    return Image.fromarray(pixels)


def palette_with_alpha() -> bytes:
    indices = np.array([[0, 1], [2, 3]], np.uint8).repeat(24, 0).repeat(32, 1)
    image = Image.fromarray(indices, "P")
    image.putpalette([*RED, *GREEN, *BLUE, 0, 0, 0])
    return encoded(image, "PNG", transparency=bytes([255, 255, 255, 0]))


def gif_with_a_transparent_colour() -> bytes:
    image = Image.fromarray(half_white()[:, :, 0] // 255, "P")
    image.putpalette([0, 0, 0, 9, 9, 9])
    return encoded(image, "GIF", transparency=1)


def sixteen_bit_grey() -> bytes:
    """A ramp over the whole range, which clipping instead of scaling would turn white."""
    levels = np.tile(np.arange(256, dtype=np.uint16) * 257, (32, 1))
    return encoded(Image.fromarray(levels), "PNG")


def sixteen_bit_rgb(with_alpha: bool = False) -> bytes:
    levels = quarters().astype(np.uint16)[..., ::-1] * 257
    if with_alpha:
        levels = np.dstack([levels, np.full((48, 64), 65535, np.uint16)])
    return cv2.imencode(".png", levels)[1].tobytes()


def sixteen_bit_grey_with_alpha() -> bytes:
    """Pillow writes none, so chunk by chunk: a black square, its right half transparent."""
    row = b"\0" + b"\0\0\xff\xff" * 16 + b"\0\0\0\0" * 16
    return png_of(width=32, height=32, bits=16, colour_type=4, rows=row * 32)


def png_of(*, width: int, height: int, bits: int, colour_type: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def animated(name: str) -> bytes:
    second = Image.new("RGB", (64, 48), "black")
    return encoded(
        quarters(), name, save_all=True, append_images=[second], **({"lossless": True} if name == "WEBP" else {})
    )


def after_ihdr(png: bytes, new: bytes) -> bytes:
    return png[:33] + new + png[33:]


def jpeg_with_garbage_exif() -> bytes:
    content = b"Exif\0\0" + bytes(range(7, 107))
    return patched_after_soi(b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content)


def patched_after_soi(segment: bytes) -> bytes:
    data = encoded(quarters(), "JPEG", quality=100, subsampling=0)
    return data[:2] + segment + data[2:]


def swapped_profile() -> bytes:
    """sRGB with the tags of red and blue exchanged: a reader that applies it exchanges red and blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"????", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"????", b"bXYZ", 1)


def cmyk() -> bytes:
    return encoded(Image.fromarray(quarters()).convert("CMYK"), "JPEG", quality=100, subsampling=0)


def one_bit() -> bytes:
    return encoded(Image.fromarray(quarters()[:, :, 0] > 128), "PNG")


def black_and_white() -> U8Image:
    return np.repeat(np.where(quarters()[:, :, :1] > 128, 255, 0).astype(np.uint8), 3, axis=2)


def half_white() -> U8Image:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    return pixels


def photo(**options: object) -> bytes:
    return encoded(quarters(), "JPEG", quality=100, subsampling=0, **options)


EXACT, JPEG_LEVELS, LOSSY_LEVELS = 0.0, 3.0, 8.0
