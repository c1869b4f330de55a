"""A picture made ready to leave the machine: small, upright, JPEG, without metadata.

Knows no provider. Whether it may leave is the caller's question to the person.
"""

from __future__ import annotations

import io

LONGEST_SIDE = 1024
"""Pixels. Enough for any vision model to name what is there; 100 to 250 kB as JPEG."""
_QUALITY = 88


def encode_picture(picture: bytes) -> bytes:
    """JPEG bytes, RGB, at most 1024 px on the longest side. ValueError where it is not a picture that Pillow opens."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(picture)) as opened:
            opened.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
            upright = ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("not a picture") from error
    if upright.mode.startswith("I;16"):
        upright = upright.point(lambda value: value / 256).convert("L")
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.new("RGBA", layer.size, "white")
        upright.alpha_composite(layer)
    small = upright.convert("RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    # Only the pixels go on: metadata rides on the opened image, and this one never had any.
    bare = Image.new("RGB", small.size)
    bare.paste(small)
    written = io.BytesIO()
    bare.save(written, "JPEG", quality=_QUALITY)
    return written.getvalue()
