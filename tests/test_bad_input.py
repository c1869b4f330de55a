"""Fifty and more files that people really give: each becomes the right picture or one clear sentence, never a trace."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import tarfile
import wave
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from picture_files import (
    ALL_FORMATS,
    EXACT,
    HUGE,
    JPEG_LEVELS,
    LOSSY_LEVELS,
    after_ihdr,
    animated,
    black_and_white,
    chunk,
    cmyk,
    cut,
    encoded,
    gif_with_a_transparent_colour,
    grey_ramp,
    half_white,
    jpeg_with_garbage_exif,
    noisy,
    one_bit,
    one_channel,
    palette_with_alpha,
    patched,
    photo,
    png_of,
    quarters,
    sixteen_bit_grey,
    sixteen_bit_grey_with_alpha,
    sixteen_bit_rgb,
    swapped_profile,
    with_alpha,
    with_orientation,
)
from PIL import Image, ImageCms, TiffImagePlugin

from i2v_pipeline.errors import PictureError
from i2v_pipeline.images import MAX_BYTES, open_picture
from i2v_pipeline.types import U8Image

ROOT = Path(__file__).resolve().parents[1]

# --- pictures that must come out right ---


RIGHT: dict[str, tuple[Callable[[], bytes], Callable[[], U8Image], float]] = {
    "plain PNG": (lambda: encoded(quarters(), "PNG"), quarters, EXACT),
    "baseline JPEG": (photo, quarters, JPEG_LEVELS),
    "progressive JPEG": (lambda: photo(progressive=True), quarters, JPEG_LEVELS),
    "grey JPEG": (lambda: encoded(one_channel(grey_ramp()), "JPEG", quality=100), grey_ramp, JPEG_LEVELS),
    "CMYK JPEG": (cmyk, quarters, LOSSY_LEVELS),
    "lossless WebP": (lambda: encoded(quarters(), "WEBP", lossless=True), quarters, EXACT),
    "lossy WebP": (lambda: encoded(quarters(), "WEBP", quality=95), quarters, LOSSY_LEVELS),
    "AVIF": (lambda: encoded(quarters(), "AVIF", quality=100, subsampling="4:4:4"), quarters, JPEG_LEVELS),
    "BMP": (lambda: encoded(quarters(), "BMP"), quarters, EXACT),
    "palette BMP": (lambda: encoded(Image.fromarray(quarters()).quantize(16), "BMP"), quarters, EXACT),
    "GIF": (lambda: encoded(quarters(), "GIF"), quarters, EXACT),
    "animated GIF": (lambda: animated("GIF"), quarters, EXACT),
    "animated WebP": (lambda: animated("WEBP"), quarters, EXACT),
    "animated PNG": (lambda: animated("PNG"), quarters, EXACT),
    "PNG that claims an animation of no frames": (
        lambda: after_ihdr(encoded(quarters(), "PNG"), chunk(b"acTL", bytes(8))), quarters, EXACT,
    ),
    "16-bit grey PNG": (sixteen_bit_grey, grey_ramp, EXACT),
    "16-bit RGB PNG": (sixteen_bit_rgb, quarters, EXACT),
    "16-bit RGBA PNG": (lambda: sixteen_bit_rgb(with_alpha=True), quarters, EXACT),
    "16-bit grey PNG with alpha": (sixteen_bit_grey_with_alpha, half_white, EXACT),
    "1-bit PNG": (one_bit, black_and_white, EXACT),
    "palette PNG with alpha": (palette_with_alpha, quarters, EXACT),
    "RGBA PNG": (lambda: encoded(with_alpha(), "PNG"), quarters, EXACT),
    "grey PNG with alpha": (
        lambda: encoded(Image.merge("LA", (Image.new("L", (32, 32)), one_channel(half_white()[:, ::-1]))), "PNG"),
        half_white,
        EXACT,
    ),
    "RGB PNG with one transparent colour": (
        lambda: encoded(half_white() // 255 * np.uint8(9), "PNG", transparency=(9, 9, 9)),
        half_white,
        EXACT,
    ),
    "16-bit grey PNG with one transparent level": (
        lambda: png_of(
            width=32, height=32, bits=16, colour_type=0, rows=(b"\0" + b"\0\0" * 16 + b"\x12\x34" * 16) * 32,
            extra=chunk(b"tRNS", b"\x12\x34"),
        ),
        half_white,
        EXACT,
    ),
    "GIF with a transparent colour": (gif_with_a_transparent_colour, half_white, EXACT),
    **{f"JPEG turned by EXIF {n}": (lambda n=n: with_orientation(n), quarters, JPEG_LEVELS) for n in range(1, 9)},
    "PNG turned by EXIF 6": (lambda: with_orientation(6, "PNG"), quarters, EXACT),
    "AVIF turned by EXIF 8": (lambda: with_orientation(8, "AVIF"), quarters, LOSSY_LEVELS),
    "JPEG with garbage for EXIF": (jpeg_with_garbage_exif, quarters, JPEG_LEVELS),
    "JPEG with garbage for a colour profile": (lambda: photo(icc_profile=b"garbage" * 30), quarters, JPEG_LEVELS),
    "PNG whose profile exchanges red and blue": (
        lambda: encoded(quarters()[:, :, ::-1], "PNG", icc_profile=swapped_profile()), quarters, 2.0,
    ),
    "grey PNG with a profile for RGB": (
        lambda: encoded(
            one_channel(grey_ramp()), "PNG",
            icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        ),
        grey_ramp,
        1.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_usual_picture_comes_out_right(name: str) -> None:
    make, expected, levels = RIGHT[name]
    data = make()

    picture = open_picture(data)

    assert picture.source == data
    assert (picture.height, picture.width) == picture.pixels.shape[:2] == expected().shape[:2]
    assert picture.pixels.dtype == np.uint8
    # Blocks at the edges of colours smear in lossy formats, so the middle of each part is compared.
    worst = np.abs(inner_parts(picture.pixels) - inner_parts(expected())).max()
    assert worst <= levels, f"{worst} levels off"


def inner_parts(pixels: U8Image) -> np.ndarray:
    height, width = pixels.shape[:2]
    rows = np.r_[2 : height // 2 - 10, height // 2 + 10 : height - 2]
    columns = np.r_[2 : width // 2 - 10, width // 2 + 10 : width - 2]
    return pixels[np.ix_(rows, columns)].astype(float)


# --- files that must be refused ---


def huge_png() -> bytes:
    data = patched(encoded(quarters(), "PNG"), 16, struct.pack(">II", HUGE, HUGE))
    return patched(data, 29, struct.pack(">I", zlib.crc32(data[12:29])))


def huge_jpeg() -> bytes:
    data = encoded(quarters(), "JPEG")
    return patched(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", HUGE, HUGE))


def huge_webp(side: int = HUGE) -> bytes:
    data = animated("WEBP")
    return patched(data, data.index(b"VP8X") + 12, (side - 1).to_bytes(3, "little") * 2)


def huge_avif() -> bytes:
    data = encoded(quarters(), "AVIF")
    return patched(data, data.index(b"ispe") + 8, struct.pack(">II", HUGE, HUGE))


HUGE_HEADERS: dict[str, Callable[[], bytes]] = {
    "PNG": huge_png,
    "JPEG": huge_jpeg,
    "WebP": huge_webp,
    "AVIF": huge_avif,
    "BMP": lambda: patched(encoded(quarters(), "BMP"), 18, struct.pack("<ii", HUGE, HUGE)),
    "GIF": lambda: patched(encoded(quarters(), "GIF"), 6, struct.pack("<HH", HUGE, HUGE)),
}


def tiff_of_floats() -> bytes:
    return encoded(Image.fromarray(np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)), "TIFF")


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("picture.png", encoded(quarters(), "PNG"))
    return buffer.getvalue()


def compressed_archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz"):
        pass
    return buffer.getvalue()


def sound() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", "none"))
        file.writeframes(bytes(800))
    return buffer.getvalue()


def png_with_a_text_bomb() -> bytes:
    bomb = b"Comment\0\0" + zlib.compress(bytes(80 * 2**20))
    return png_of(width=32, height=32, bits=8, colour_type=0, rows=bytes(33) * 32, extra=chunk(b"zTXt", bomb))


def isobmff(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + brand + b"mif1" + bytes(200)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "0 bytes": (lambda: b"", "empty"),
    "1 × 1 pixel": (lambda: encoded(quarters()[:1, :1], "PNG"), "1 × 1"),
    "3000 × 8 pixels": (lambda: encoded(np.zeros((8, 3000, 3), np.uint8), "PNG"), "3000 × 8"),
    "more than 32 MiB": (lambda: encoded(quarters(), "PNG") + bytes(MAX_BYTES), "32 MiB"),
    **{f"20,000 × 20,000 in the header of a {name}": (make, "20000 × 20000") for name, make in HUGE_HEADERS.items()},
    **{f"{name} cut in the middle": (lambda name=name: cut(name), "cut short") for name in ALL_FORMATS},
    **{f"{name} cut after 20 bytes": (lambda name=name: noisy(name)[:20], "cut short") for name in ALL_FORMATS[:3]},
    "PNG with damaged pixel data": (lambda: patched(noisy("PNG"), 3000, bytes(64)), "damaged"),
    "PNG whose header names no known colour type": (
        lambda: patched(encoded(quarters(), "PNG"), 25, b"\x09"),
        "damaged",
    ),
    "PNG with a text that unpacks to 80 MB": (png_with_a_text_bomb, "damaged"),
    "JPEG of nothing but its first bytes": (lambda: b"\xff\xd8\xff\xe0" + bytes(40), "damaged"),
    "HEIC": (lambda: isobmff(b"heic"), "HEIC"),
    "HEIF without a brand of its own": (lambda: isobmff(b"mif1"), "HEIC"),
    "MP4": (lambda: isobmff(b"isom"), "video"),
    "QuickTime film": (lambda: isobmff(b"qt  "), "video"),
    "WebM": (lambda: b"\x1a\x45\xdf\xa3" + bytes(60), "video"),
    "TIFF": (lambda: encoded(quarters(), "TIFF"), "TIFF"),
    "TIFF of floats": (tiff_of_floats, "TIFF"),
    "camera raw (DNG)": (lambda: TiffImagePlugin.II + b"*\0" + bytes(400), "raw"),
    "JPEG 2000": (lambda: encoded(quarters(), "JPEG2000"), "JPEG 2000"),
    "JPEG XL": (lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL"),
    "icon": (lambda: encoded(quarters(), "ICO"), "icon"),
    "PPM": (lambda: encoded(quarters(), "PPM"), "not a picture"),
    "Photoshop document": (lambda: b"8BPS\0\1" + bytes(60), "Photoshop"),
    "PDF": (lambda: b"%PDF-1.7\n" + bytes(60), "PDF"),
    "SVG": (lambda: b'\xef\xbb\xbf<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "SVG behind an XML declaration": (lambda: b'<?xml version="1.0"?>\n<!-- x -->\n<svg width="9"/>', "SVG"),
    "web page": (lambda: b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "text called .png": (lambda: "这不是图片。".encode() * 2000, "a text"),
    "text that begins as a BMP does": (lambda: b"BMW is a maker of cars and motorcycles in Munich.", "a text"),
    "JSON": (lambda: b'{"error": "not found"}', "a text"),
    "zip called .png": (archive, "archive"),
    "tar.gz": (compressed_archive, "archive"),
    "sound": (sound, "sound"),
    "program": (lambda: b"\x7fELF" + bytes(range(256)), "not a picture"),
    "random bytes": (lambda: random.Random(1).randbytes(5000), "not a picture"),
    "zeros": (lambda: bytes(5000), "not a picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_refused_in_one_clear_sentence(name: str) -> None:
    make, expected = REFUSED[name]
    with pytest.raises(PictureError) as refusal:
        open_picture(make())
    assert expected in refusal.value.text.en
    assert_is_for_people(refusal.value)


def assert_is_for_people(error: PictureError) -> None:
    for text in error.text:
        assert 20 <= len(text) <= 300
        assert not any(word in text for word in ("Traceback", "Error", "Errno", "/", "\\", "PIL", "None", "0x", "b'"))
    assert error.text.en.isascii() or "×" in error.text.en
    assert any("\u4e00" <= character <= "\u9fff" for character in error.text.zh)
    assert error.exit_code == 2


def test_heic_names_the_remedy() -> None:
    with pytest.raises(PictureError) as refusal:
        open_picture(isobmff(b"heic"))
    assert "Most Compatible" in refusal.value.text.en
    assert "JPEG" in refusal.value.text.en
    assert "兼容性最佳" in refusal.value.text.zh


# --- names that lead nowhere, or elsewhere ---


def folder(at: Path) -> Path:
    (at / "folder.png").mkdir()
    return at / "folder.png"


def link_to_itself(at: Path) -> Path:
    (at / "loop.png").symlink_to(at / "loop.png")
    return at / "loop.png"


def broken_link(at: Path) -> Path:
    (at / "broken.png").symlink_to(at / "nothing.png")
    return at / "broken.png"


def pipe(at: Path) -> Path:
    os.mkfifo(at / "pipe.png")
    return at / "pipe.png"


PATHS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing file": (lambda at: at / "missing.png", "no such"),
    "folder": (folder, "folder"),
    "traversal to a file of the system": (lambda at: at / "../../../../../../../../etc/passwd", "a text"),
    "traversal to nowhere": (lambda at: at / "../../nowhere/secret.png", "no such"),
    "name with a NUL in it": (lambda at: at / "cat.png\0.txt", "no such"),
    "name that is too long": (lambda at: at / ("a" * 5000), "cannot be read"),
    "link to itself": (link_to_itself, "no such"),
    "broken link": (broken_link, "no such"),
    "named pipe, which would be waited for": (pipe, "pipe"),
    "endless device": (lambda at: Path("/dev/zero"), "device"),
    "file behind a file": (lambda at: Path(__file__) / "cat.png", "no such"),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_name_that_leads_to_no_picture_is_refused_without_being_shown(name: str, tmp_path: Path) -> None:
    make, expected = PATHS[name]
    path = make(tmp_path)
    with pytest.raises(PictureError) as refusal:
        open_picture(path)
    assert expected in refusal.value.text.en
    assert path.name not in refusal.value.text.en
    assert_is_for_people(refusal.value)


@pytest.mark.parametrize("name", ["猫 & <b>.png", "cat.jpg", "no_extension", "a;rm -rf.png", "\u202egnp.exe", "-v.png"])
def test_the_contents_count_and_not_the_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(encoded(quarters(), "PNG"))
    link = tmp_path / "link.bmp"
    link.symlink_to(path)
    for given in (path, link):
        assert open_picture(given).format == "PNG"


def test_the_table_holds_at_least_fifty_files() -> None:
    assert len(RIGHT) + len(REFUSED) + len(PATHS) >= 50


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is set as Linux knows it")
def test_a_huge_header_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    """In a process that may take 200 MiB more; 20,000 × 20,000 pixels in RGB are 1144 MiB."""
    for name, make in HUGE_HEADERS.items():
        (tmp_path / name).write_bytes(make())
    program = """
import resource, sys
from pathlib import Path
from i2v_pipeline.errors import PictureError
from i2v_pipeline.images import open_picture
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 200 * 2**20,) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        open_picture(path)
    except PictureError as error:
        print(path.name, "20000 × 20000" in error.text.en)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == [f"{name} True" for name in sorted(HUGE_HEADERS)], done.stderr


@pytest.mark.parametrize("name", ALL_FORMATS)
def test_no_damage_whatever_leads_to_anything_but_a_picture_or_a_sentence(name: str) -> None:
    """Bytes changed and cut at random, warnings counted as errors."""
    whole, chance = noisy(name), random.Random(name)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        # Headers are where the surprises are.
        reach = chance.choice([64, 400, len(data)])
        for _ in range(chance.randint(1, 12)):
            data[chance.randrange(min(reach, len(data)))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        try:
            picture = open_picture(bytes(data))
        except PictureError as error:
            refused += 1
            assert_is_for_people(error)
        else:
            assert picture.pixels.shape == (picture.height, picture.width, 3)
    assert refused > 0
