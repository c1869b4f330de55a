"""What a person may do with many finished jobs: see their room on the disk, take them along as a zip, clean up.

Knows the store's types; no page, no route and no owner.
"""

from __future__ import annotations

import io
import re
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from i2v_pipeline.errors import VideoError
from i2v_pipeline.types import U8Frames
from i2v_pipeline.video import read_frames
from studio.jobs.types import REPORT_NAME, VIDEO_NAME, Job

DAY_S = 86400.0
CHUNK_BYTES = 1 << 20
MAX_NAME_WORDS = 40
"""Characters of the prompt in a file name: Windows allows 260 for the whole path."""


@dataclass(frozen=True, kw_only=True)
class CleanUp:
    """What a clean-up would delete, and how many bytes that frees; `kept_bytes` is what is left after it."""

    jobs: tuple[Job, ...]
    freed_bytes: int
    kept_bytes: int


def bytes_of(job: Job) -> int:
    """What the job's folder takes on the disk; 0 where it is gone."""
    try:
        return sum(path.stat().st_size for path in job.folder.iterdir() if path.is_file())
    except FileNotFoundError:
        return 0


def clean_up_by_age(jobs: Sequence[Job], *, days: float, now: float) -> CleanUp:
    """Everything that is over and older than `days`; favourites stay. `now`: seconds since 1970."""
    return _clean_up(jobs, [job for job in jobs if _may_go(job) and job.created < now - days * DAY_S])


def clean_up_by_size(jobs: Sequence[Job], *, max_bytes: int) -> CleanUp:
    """The oldest that are over, until what is left takes at most `max_bytes`; favourites stay in any case."""
    left, chosen = sum(bytes_of(job) for job in jobs), []
    for job in sorted(jobs, key=lambda job: job.created):
        if left <= max_bytes:
            break
        if _may_go(job):
            chosen.append(job)
            left -= bytes_of(job)
    return _clean_up(jobs, chosen)


def file_stem(job: Job) -> str:
    """A name for the job's files that every file system takes: its id, and how its prompt begins."""
    words = re.sub(r"\W+", "-", job.request.prompt)[:MAX_NAME_WORDS].strip("-_")
    return f"{job.id}_{words}" if words else job.id


def zip_chunks(jobs: Sequence[Job]) -> Iterator[bytes]:
    """A zip of the video and the report of each done job, made while it is read: it takes no room on the disk.

    Raises `OSError` in the middle when a file is gone by then, so that no half of a zip looks like a whole one.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for job in jobs:
            for name in (VIDEO_NAME, REPORT_NAME):
                yield from _zip_file(archive, sink, job, job.folder / name)
    yield sink.take()


def last_frame_png(video: Path) -> bytes:
    """The last frame of a video as a PNG, which loses nothing more of it.

    Raises as `read_frames` does; `VideoError` also where there is no frame.
    """
    last: U8Frames | None = None
    for frames in read_frames(video):
        last = frames
    if last is None:
        raise VideoError(
            "This video has no frame that could be read. Make it again.", "无法从该视频读取任何一帧。请重新生成。"
        )
    buffer = io.BytesIO()
    Image.fromarray(last[-1]).save(buffer, "PNG")
    return buffer.getvalue()


class _Sink(io.RawIOBase):
    """What a zip is written to: it is taken from here piece by piece."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override] - zipfile writes bytes only
        self._written += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


def _zip_file(archive: zipfile.ZipFile, sink: _Sink, job: Job, path: Path) -> Iterator[bytes]:
    entry = zipfile.ZipInfo(file_stem(job) + path.suffix, time.localtime(job.finished or job.created)[:6])
    entry.compress_type = zipfile.ZIP_STORED if path.name == VIDEO_NAME else zipfile.ZIP_DEFLATED
    # Known beforehand, so that zipfile sees for itself whether the entry needs 64-bit sizes.
    entry.file_size = path.stat().st_size
    with path.open("rb") as source, archive.open(entry, "w") as target:
        while chunk := source.read(CHUNK_BYTES):
            target.write(chunk)
            yield sink.take()


def _may_go(job: Job) -> bool:
    return job.over and not job.favourite


def _clean_up(jobs: Sequence[Job], chosen: list[Job]) -> CleanUp:
    freed = sum(bytes_of(job) for job in chosen)
    return CleanUp(jobs=tuple(chosen), freed_bytes=freed, kept_bytes=sum(bytes_of(job) for job in jobs) - freed)
