"""The boxes of an MP4 file: puts a comment and pictures into one and reads them back. Knows no codec and no report.

Box layout: ISO/IEC 14496-12. The comment is the iTunes item `©cmt`, which ffprobe and players show as `comment`;
each picture is a `uuid` box at the end of the file, which players skip.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO
from uuid import UUID

PICTURE_UUID = UUID("8f1e6f0a-6d0c-4c0e-9b52-1d2b9a7c5e31")
"""Names our picture box. Its contents: one byte with the length of the format's name, the name, the bytes as given."""
LAST_PICTURE_UUID = UUID("5b0f4f5e-3c57-4a0b-8d0a-7f2c6f1f9e02")
"""Names the box of the picture that the video ends with, built in the same way."""
REFERENCE_UUID = UUID("c1d3a4b6-2f0e-4d6b-9a35-6e2b8f7d1c47")
"""Names the box of a further reference picture, built in the same way; there may be several, in their order."""
MAX_MOOV_BYTES = 64 * 2**20
MAX_PICTURE_BOX_BYTES = 64 * 2**20
MAX_PICTURES = 16
"""Far beyond the references that any engine takes."""
MAX_ROUNDS = 10
"""The first round learns how many digits the size has, the next two settle whether the report makes it one more."""
MAX_BOXES = 10_000
"""Far beyond what any file has on one level; a file made of empty boxes is given up here."""

_CHUNK_OFFSETS = {b"stco": ("I", 4), b"co64": ("Q", 8)}
_UTF8 = 1
"""Well-known type of an iTunes `data` box: UTF-8 without a terminator."""


class Mp4Error(ValueError):
    """The bytes are not an MP4, or one that is damaged."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """Where a box lies: its header begins at `start`, its contents fill `body` to `end` (exclusive)."""

    kind: bytes
    start: int
    body: int
    end: int


def embed(source: BinaryIO, target: BinaryIO, comment_of: Callable[[int], bytes], tail: bytes) -> None:
    """Copies the MP4 `source` to `target` with a comment in it and `tail` after it.

    `comment_of` gets the size of the finished file in bytes, its own result included, and returns the comment. Its
    length may depend on that number only through the number's digits, so that a few rounds settle it.
    Raises `Mp4Error` when `source` is not an MP4.
    """
    moov_box, moov = read_moov(source)
    source_bytes = source.seek(0, 2)

    changed, promised_bytes, total_bytes = moov, -1, 0
    for _ in range(MAX_ROUNDS):
        if promised_bytes == total_bytes:
            break
        promised_bytes = total_bytes
        changed = replace_comment(moov, comment_of(promised_bytes), moov_box.end)
        total_bytes = source_bytes - len(moov) + len(changed) + len(tail)
    else:
        raise ValueError("the comment's length does not settle")
    source.seek(0)
    target.write(source.read(moov_box.start))
    target.write(changed)
    source.seek(moov_box.end)
    shutil.copyfileobj(source, target, 2**20)
    target.write(tail)


def read_moov(file: BinaryIO) -> tuple[Box, bytes]:
    """The `moov` box, whole. Raises `Mp4Error` where there is none."""
    box = next((box for box in _top_level(file) if box.kind == b"moov"), None)
    if box is None or box.end - box.start > MAX_MOOV_BYTES:
        raise Mp4Error("no moov box of a sane size")
    file.seek(box.start)
    return box, file.read(box.end - box.start)


def read_comment(file: BinaryIO) -> bytes | None:
    """The comment's bytes, None where there is none. Raises `Mp4Error` when the file is not an MP4."""
    _, moov = read_moov(file)
    start, end = _moov_body(moov), len(moov)
    for kind in (b"udta", b"meta", b"ilst", b"\xa9cmt", b"data"):
        found = next((box for box in _boxes_in(moov, start, end) if box.kind == kind), None)
        if found is None:
            return None
        # `meta` is a full box: version and flags come before its boxes.
        start, end = found.body + (4 if kind == b"meta" else 0), found.end
    # Type and locale come before the text of a `data` box.
    return moov[start + 8 : end]


def picture_box(picture_format: str, picture: bytes, uuid: UUID = PICTURE_UUID) -> bytes:
    """A box that holds `picture` as given, and the name of its format (ASCII, at most 255 bytes)."""
    name = picture_format.encode("ascii")
    return _box(b"uuid", uuid.bytes + struct.pack(">B", len(name)) + name + picture)


def read_picture_boxes(file: BinaryIO, uuid: UUID = PICTURE_UUID) -> list[tuple[str, bytes]]:
    """The format's name and the bytes of each picture inside that `uuid` names, in the file's order.

    Raises `Mp4Error` when the file is not an MP4, a picture's box is damaged, or there are more than `MAX_PICTURES`.
    """

    def is_picture(box: Box) -> bool:
        file.seek(box.body)
        return box.kind == b"uuid" and file.read(min(16, box.end - box.body)) == uuid.bytes

    boxes = [box for box in _top_level(file) if is_picture(box)]
    if len(boxes) > MAX_PICTURES:
        raise Mp4Error(f"{len(boxes)} boxes of pictures")
    return [_picture_in(file, box) for box in boxes]


def _picture_in(file: BinaryIO, box: Box) -> tuple[str, bytes]:
    if box.end - box.body > MAX_PICTURE_BOX_BYTES:
        raise Mp4Error("the picture's box is too large")
    file.seek(box.body + 16)
    content = file.read(box.end - box.body - 16)
    if not content or len(content) < 1 + content[0]:
        raise Mp4Error("the picture's box is cut short")
    name = content[1 : 1 + content[0]]
    if not name.isascii():
        raise Mp4Error("the picture's format has no name")
    return name.decode("ascii"), content[1 + len(name) :]


def replace_comment(moov: bytes, comment: bytes, moov_end: int) -> bytes:
    """A `moov` box with this comment in place of all user data. What follows the box in the file moves with its size.

    `moov_end` is where the box ends in its file: chunk offsets beyond it are corrected.
    """
    body = _moov_body(moov)
    kept = b"".join(moov[box.start : box.end] for box in _boxes_in(moov, body, len(moov)) if box.kind != b"udta")
    changed = bytearray(_box(b"moov", kept + _user_data(comment)))
    shift = len(changed) - len(moov)
    for table in _chunk_tables(changed, 8, len(changed)):
        letter, width = _CHUNK_OFFSETS[table.kind]
        count = int.from_bytes(changed[table.body + 4 : table.body + 8], "big")
        if table.body + 8 + count * width > table.end:
            raise Mp4Error("the table of chunks is cut short")
        layout = struct.Struct(f">{count}{letter}")
        offsets = layout.unpack_from(changed, table.body + 8)
        moved = (offset + shift if offset >= moov_end else offset for offset in offsets)
        layout.pack_into(changed, table.body + 8, *moved)
    return bytes(changed)


def _chunk_tables(data: bytes | bytearray, start: int, end: int) -> Iterator[Box]:
    for box in _boxes_in(data, start, end):
        if box.kind in _CHUNK_OFFSETS:
            yield box
        elif box.kind in (b"trak", b"mdia", b"minf", b"stbl"):
            yield from _chunk_tables(data, box.body, box.end)


def _user_data(comment: bytes) -> bytes:
    handler = _box(b"hdlr", struct.pack(">I4s4s4s9x", 0, b"\0\0\0\0", b"mdir", b"appl"))
    item = _box(b"\xa9cmt", _box(b"data", struct.pack(">II", _UTF8, 0) + comment))
    return _box(b"udta", _box(b"meta", struct.pack(">I", 0) + handler + _box(b"ilst", item)))


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _moov_body(moov: bytes) -> int:
    return next(_boxes_in(moov, 0, len(moov))).body


def _boxes_in(data: bytes | bytearray, start: int, end: int) -> Iterator[Box]:
    return _boxes(lambda offset, count: bytes(data[offset : offset + count]), start, end)


def _top_level(file: BinaryIO) -> Iterator[Box]:
    def read(offset: int, count: int) -> bytes:
        file.seek(offset)
        return file.read(count)

    if read(4, 4) != b"ftyp":
        raise Mp4Error("the file does not begin as an MP4 does")
    yield from _boxes(read, 0, file.seek(0, 2))


def _boxes(read: Callable[[int, int], bytes], start: int, end: int) -> Iterator[Box]:
    """The boxes between two offsets, in order. Raises `Mp4Error` when a size cannot be true."""
    for _ in range(MAX_BOXES):
        if start == end:
            return
        header = read(start, 16)
        size, kind, body = int.from_bytes(header[:4], "big"), header[4:8], start + 8
        if size == 0:
            size = end - start
        elif size == 1:
            size, body = int.from_bytes(header[8:], "big"), start + 16
        if len(kind) < 4 or start + size < body or start + size > end:
            raise Mp4Error(f"a box at {start} says that it has {size} bytes")
        yield Box(kind=kind, start=start, body=body, end=start + size)
        start += size
    raise Mp4Error(f"more than {MAX_BOXES} boxes")
