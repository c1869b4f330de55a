"""Frames to an H.264 file and back, with a report and a picture inside. Knows no engine and nothing the report says.

Encoding and decoding is done by the ffmpeg binary that imageio-ffmpeg ships.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from i2v_pipeline import mp4
from i2v_pipeline.errors import InputError, VideoError
from i2v_pipeline.ffmpeg import damaged, disk_full, run_ffmpeg, url_of
from i2v_pipeline.types import U8Frames, U8Image

CRF = 16
"""x264's constant rate factor; 17 or less counts as visually lossless (trac.ffmpeg.org/wiki/Encode/H.264)."""
PRESET = "veryfast"
"""The fastest preset that keeps x264's adaptive quantisation and look-ahead; `superfast` makes files 2 to 3 times
as large at the same CRF and is no faster here."""
POSTER_QUALITY = 85
TO_BT709 = "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd"
EXACT_RGB = "accurate_rnd+full_chroma_int+full_chroma_inp"
"""swscale's exact arithmetic: YUV to RGB within 1 level, where its default is off by up to 4."""


@dataclass(frozen=True, kw_only=True)
class WrittenVideo:
    """What went into the encoder. `frames_sha256` is over the raw uint8 RGB frames in order."""

    frames: int
    frames_sha256: str
    first_frame: U8Image


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """A video as ffmpeg reads it: `frames` counted by decoding all of them, size after any rotation."""

    codec: str
    width: int
    height: int
    fps: float
    frames: int
    seconds: float


def write_video(
    chunks: Iterable[U8Frames], path: Path, *, width: int, height: int, fps: int, crf: int = CRF
) -> WrittenVideo:
    """Streams frames into an H.264 file (yuv420p, BT.709, index first), each once and at the size it has.

    `chunks` are uint8 (frames, height, width, 3) of any length, and an exception from them passes through. After any
    exception ffmpeg is dead and `path` is gone. Raises `VideoError` when the file could not be written.
    """
    if width % 2 or height % 2:
        raise VideoError(
            f"{width} × {height}: a video that every browser plays has even sides. Choose an even width and height.",
            f"{width} × {height}：浏览器能播放的视频，宽和高必须是偶数。请选择偶数的宽和高。",
        )
    digest, frames, first = hashlib.sha256(), 0, None
    try:
        with run_ffmpeg(_encoder_options(path, width, height, fps, crf), is_fed=True) as process:
            for chunk in chunks:
                if chunk.dtype != np.uint8 or chunk.shape[1:] != (height, width, 3):
                    raise ValueError(f"frames are {chunk.dtype} {chunk.shape}, not uint8 (n, {height}, {width}, 3)")
                pixels = np.ascontiguousarray(chunk).reshape(-1).data
                digest.update(pixels)
                process.feed(pixels)
                frames += len(chunk)
                if first is None and len(chunk):
                    first = chunk[0].copy()
            if first is None:
                raise VideoError(
                    "The engine made no frame, so there is no video. Please report this.",
                    "引擎没有生成任何一帧，因此没有视频。请反馈此问题。",
                )
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return WrittenVideo(frames=frames, frames_sha256=digest.hexdigest(), first_frame=first)


def finish_video(
    draft: Path,
    path: Path,
    *,
    make_report: Callable[[int], dict[str, Any]],
    picture: tuple[str, bytes] | None,
    last_picture: tuple[str, bytes] | None = None,
    references: Sequence[tuple[str, bytes]] = (),
) -> dict[str, Any]:
    """Writes the video `draft` to `path`, whole or not at all, with its report inside, and returns the report.

    `make_report` gets the size in bytes of the finished file, report included; a picture is a format's name and the
    picture's bytes as given; `references` are those after `picture`. The draft stays. Raises `VideoError` when the
    file could not be written.
    """
    tail = mp4.picture_box(*picture) if picture else b""
    tail += mp4.picture_box(*last_picture, mp4.LAST_PICTURE_UUID) if last_picture else b""
    tail += b"".join(mp4.picture_box(*reference, mp4.REFERENCE_UUID) for reference in references)
    report: dict[str, Any] = {}

    def comment_of(file_bytes: int) -> bytes:
        report.clear()
        report.update(make_report(file_bytes))
        text = json.dumps(report, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # Half of a surrogate pair has no UTF-8, but `\udXXX`, which this writes for it, is how JSON spells it.
        return text.encode("utf-8", "backslashreplace")

    with _written_whole(path) as target, draft.open("rb") as source:
        mp4.embed(source, target, comment_of, tail)
    return report


def read_report(path: Path) -> dict[str, Any]:
    """The report inside a video of ours. Raises `InputError` for any other file."""
    try:
        report = json.loads(read_comment(path) or b"")
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict):
        raise InputError(
            "This video has no report inside: only videos made by this studio do, as long as no other program has "
            "rewritten them. Give the original file, or its report.json.",
            "该视频里没有报告：只有本工作室生成、且未被其他程序改写过的视频才有。请提供原始文件或它的 report.json。",
        )
    return report


def read_comment(path: Path) -> bytes | None:
    """The comment inside a video, whoever wrote it; None where there is none.

    Raises `InputError` when the file is not an MP4.
    """
    with _opened_mp4(path) as file:
        return mp4.read_comment(file)


def read_picture(path: Path) -> tuple[str, bytes] | None:
    """Format and bytes of the source picture inside a video of ours, None where it was left out.

    Raises `InputError` when the file is not an MP4.
    """
    with _opened_mp4(path) as file:
        return next(iter(mp4.read_picture_boxes(file)), None)


def read_last_picture(path: Path) -> tuple[str, bytes] | None:
    """As `read_picture`, for the picture that the video ends with."""
    with _opened_mp4(path) as file:
        return next(iter(mp4.read_picture_boxes(file, mp4.LAST_PICTURE_UUID)), None)


def read_references(path: Path) -> tuple[tuple[str, bytes], ...]:
    """As `read_picture`, for the references after the first, in their order; empty where there are none."""
    with _opened_mp4(path) as file:
        return tuple(mp4.read_picture_boxes(file, mp4.REFERENCE_UUID))


def strip_video(path: Path, target: Path) -> None:
    """Copies an MP4 without its report, pictures, tags, chapters and times to `target`, whole or not at all.

    The coded frames and any sound are the same bytes. Raises `InputError` when `path` is no MP4 or is `target`, and
    `VideoError` when it is damaged or `target` could not be written.
    """
    with _opened_mp4(path) as file:
        mp4.read_moov(file)
    if target.exists() and target.samefile(path):
        raise InputError(
            "The stripped video would overwrite the one that holds the report. Choose another name for it.",
            "去除信息后的视频会覆盖含报告的原视频。请换一个文件名。",
        )
    copied = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.stripped.mp4")
    options = [
        *("-map", "0:a?", "-c", "copy", "-map_metadata", "-1", "-map_chapters", "-1"),
        # Else ffmpeg writes its own name and version.
        *("-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"),
        *("-movflags", "+faststart", "-f", "mp4", url_of(copied)),
    ]
    try:
        with _written_whole(target) as file:
            with run_ffmpeg([*_input_options(path), *options]):
                pass
            with copied.open("rb") as source:
                shutil.copyfileobj(source, file, 2**20)
    finally:
        copied.unlink(missing_ok=True)


def probe_video(path: Path) -> VideoInfo:
    """Decodes the whole video and says what it is.

    Raises `InputError` when the file is no video that ffmpeg knows, `VideoError` when it is a damaged one.
    """
    _check_is_file(path)
    options = [*_input_options(path), "-fps_mode", "passthrough", "-f", "null", "-progress", "pipe:1", "-"]
    with run_ffmpeg(options, level="info") as process:
        progress = process.read_all().decode()
        messages = process.finish()
    given, _, made = messages.partition("\nOutput #0")
    codec = re.search(r"Stream #.*: Video: (\w+)", given)
    size = re.search(r"Stream #.*: Video: .*?, (\d+)x(\d+)\b", made)
    rate = re.search(r"Stream #.*: Video: .*, ([\d.]+k?) fps", made)
    counted = re.findall(r"^frame=(\d+)$", progress, re.MULTILINE)
    lasted = re.findall(r"^out_time_us=(\d+)$", progress, re.MULTILINE)
    if not (codec and size and rate and counted and lasted):
        raise damaged()
    return VideoInfo(
        codec=codec[1],
        width=int(size[1]),
        height=int(size[2]),
        fps=float(rate[1].replace("k", "e3")),
        frames=int(counted[-1]),
        seconds=int(lasted[-1]) / 1e6,
    )


def read_frames(path: Path) -> Iterator[U8Frames]:
    """Decodes a video to RGB: uint8 (1, height, width, 3) for each frame, in order.

    Raises as `probe_video` does; frames before a damaged place have been yielded by then.
    """
    _check_is_file(path)
    # A PPM picture tells its size, so that no second ffmpeg has to be asked for it.
    options = ["-vf", f"scale=flags={EXACT_RGB},format=rgb24", "-fps_mode", "passthrough"]
    with run_ffmpeg([*_input_options(path), *options, "-f", "image2pipe", "-c:v", "ppm", "pipe:1"]) as process:
        while header := process.read_line():
            if header != b"P6\n":
                raise damaged()
            width, height = (int(side) for side in process.read_line().split())
            process.read_line()
            frame = np.empty((1, height, width, 3), np.uint8)
            if not process.fill(frame):
                raise damaged()
            yield frame


def write_poster(path: Path, frame: U8Image) -> None:
    """Writes one frame as a JPEG, whole or not at all. Raises `VideoError` when it could not be written."""
    with _written_whole(path) as target:
        Image.fromarray(frame).save(target, "JPEG", quality=POSTER_QUALITY, optimize=True)


def _encoder_options(path: Path, width: int, height: int, fps: int, crf: int) -> list[str]:
    return [
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}", "-framerate", f"{fps}"),
        *("-i", "pipe:0"),
        # The matrix is applied and named: players guess BT.601 for small videos that name none.
        *("-vf", f"{TO_BT709},format=yuv420p,setparams=color_primaries=bt709:color_trc=bt709"),
        *("-c:v", "libx264", "-preset", PRESET, "-crf", f"{crf}"),
        *("-movflags", "+faststart", "-f", "mp4", url_of(path)),
    ]  # fmt: skip


def _input_options(path: Path) -> list[str]:
    # A playlist could make ffmpeg open other files and addresses; these formats name nothing outside themselves.
    return ["-format_whitelist", "mov,matroska,webm,avi,gif", "-xerror", "-i", url_of(path), "-map", "0:v:0"]


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file under a temporary name beside `path`, on the disk and renamed when the block ends, gone when it raises."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.unfinished{path.suffix}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritten(error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened_mp4(path: Path) -> Iterator[BinaryIO]:
    _check_is_file(path)
    try:
        with path.open("rb") as file:
            yield file
    except (OSError, mp4.Mp4Error) as error:
        raise InputError(
            "This file is not an MP4 video, or it is damaged. Give a video made by this studio.",
            "该文件不是 MP4 视频，或已损坏。请提供由本工作室生成的视频。",
        ) from error


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(
            "There is no such video file. Check the name and the folder.",
            "找不到该视频文件。请检查文件名和文件夹。",
        )


def _unwritten(error: OSError) -> VideoError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return disk_full()
    return VideoError(
        f"The file could not be written: {error.strerror}. Choose another place for it.",
        f"文件未能写入：{error.strerror}。请换一个保存位置。",
    )
