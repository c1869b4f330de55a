"""Frames come back from the file as they went in, the file carries its report, and a failure leaves nothing behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image
from video_frames import PATCH_SIDE, PATCHES, moving, patches, psnr

from i2v_pipeline import mp4
from i2v_pipeline.errors import Cancelled, InputError, VideoError
from i2v_pipeline.types import U8Frames
from i2v_pipeline.video import (
    finish_video,
    probe_video,
    read_frames,
    read_picture,
    read_report,
    write_poster,
    write_video,
)


def decoded(path: Path) -> U8Frames:
    return np.concatenate(list(read_frames(path)))


def boxes(path: Path) -> list[bytes]:
    """Kinds of the boxes at the top of the file, read independently of our own reader."""
    data, at, kinds = path.read_bytes(), 0, []
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        kinds.append(kind)
        at += size
    assert at == len(data)
    return kinds


def ffmpeg(*arguments: str) -> str:
    """What ffmpeg says."""
    done = subprocess.run([get_ffmpeg_exe(), "-hide_banner", *arguments], capture_output=True, timeout=60)
    return done.stderr.decode() + done.stdout.decode()


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("draft") / "draft.mp4"
    write_video([moving(66, 50, 8)], path, width=66, height=50, fps=8)
    return path


def finished(draft: Path, path: Path, report: Any = None, picture: tuple[str, bytes] | None = None) -> dict[str, Any]:
    report = {"schema": 1} if report is None else report
    return finish_video(draft, path, make_report=lambda size: {**report, "output": {"bytes": size}}, picture=picture)


# --- what is written ---


@pytest.mark.parametrize(
    ("width", "height", "frames", "fps"),
    [(2, 2, 3, 24), (66, 50, 1, 8), (66, 50, 25, 24), (130, 98, 17, 30), (854, 480, 5, 60), (48, 200, 9, 1)],
)
def test_size_count_and_rate_are_exact(tmp_path: Path, width: int, height: int, frames: int, fps: int) -> None:
    path = tmp_path / "video.mp4"
    written = write_video(np.array_split(moving(width, height, frames), 3), path, width=width, height=height, fps=fps)
    info = probe_video(path)
    assert written.frames == info.frames == frames
    assert (info.codec, info.width, info.height, info.fps) == ("h264", width, height, fps)
    assert info.seconds == pytest.approx(frames / fps, abs=1e-3)
    assert decoded(path).shape == (frames, height, width, 3)


def test_the_file_is_what_every_browser_plays(draft: Path) -> None:
    said = ffmpeg("-i", str(draft))
    assert "h264" in said
    assert "yuv420p(tv, bt709, progressive)" in said
    # The index comes before the frames, so that playing starts before all is loaded.
    assert boxes(draft).index(b"moov") < boxes(draft).index(b"mdat")


def test_the_hash_is_over_the_raw_frames_however_they_are_cut(tmp_path: Path) -> None:
    frames = moving(66, 50, 7)
    expected = hashlib.sha256(frames.tobytes()).hexdigest()
    striped = np.asfortranarray(frames)
    for chunks in ([frames], list(frames[:, None]), [striped[:3], frames[:0], frames[3:]], [frames[::-1][::-1]]):
        written = write_video(chunks, tmp_path / "v.mp4", width=66, height=50, fps=8)
        assert written.frames_sha256 == expected
        assert np.array_equal(written.first_frame, frames[0])


def test_the_same_frames_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.mp4", "two.mp4"):
        write_video([moving(130, 98, 12)], tmp_path / name, width=130, height=98, fps=8)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_a_picture_full_of_detail_comes_back_visually_lossless(tmp_path: Path) -> None:
    frames = moving(320, 240, 24)
    write_video([frames], tmp_path / "v.mp4", width=320, height=240, fps=24)
    back = decoded(tmp_path / "v.mp4")
    assert psnr(back, frames) > 40
    assert min(psnr(a, b) for a, b in zip(back, frames, strict=True)) > 38


def test_colours_come_back(tmp_path: Path) -> None:
    frames = patches()
    write_video([frames], tmp_path / "v.mp4", width=frames.shape[2], height=frames.shape[1], fps=8)
    middles = decoded(tmp_path / "v.mp4")[:, PATCH_SIDE // 2, PATCH_SIDE // 2 :: PATCH_SIDE].astype(int)
    assert np.abs(middles - PATCHES).max() <= 4


def test_a_still_picture_keeps_its_average_colour(tmp_path: Path) -> None:
    frames = np.repeat(moving(320, 240, 1), 12, 0)
    write_video([frames], tmp_path / "v.mp4", width=320, height=240, fps=24)
    shift = decoded(tmp_path / "v.mp4").astype(float).mean((0, 1, 2)) - frames.astype(float).mean((0, 1, 2))
    assert np.abs(shift).max() < 0.5


@pytest.mark.parametrize(("width", "height"), [(65, 50), (66, 51)])
def test_odd_sides_are_refused_and_never_changed(tmp_path: Path, width: int, height: int) -> None:
    with pytest.raises(VideoError, match="even"):
        write_video([np.zeros((1, height, width, 3), np.uint8)], tmp_path / "v.mp4", width=width, height=height, fps=8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("frames", [np.zeros((1, 50, 60, 3), np.uint8), np.zeros((1, 50, 66, 3), np.float32)])
def test_frames_of_another_size_or_type_are_a_fault(tmp_path: Path, frames: U8Frames) -> None:
    with pytest.raises(ValueError, match="frames are"):
        write_video([frames], tmp_path / "v.mp4", width=66, height=50, fps=8)
    assert not list(tmp_path.iterdir())


def test_no_frame_is_no_video(tmp_path: Path) -> None:
    for chunks in ([], [np.zeros((0, 50, 66, 3), np.uint8)]):
        with pytest.raises(VideoError, match="no frame"):
            write_video(chunks, tmp_path / "v.mp4", width=66, height=50, fps=8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["-y.mp4", "a:b.mp4", "100%d 猫 'x\".mp4", "pipe:1.mp4"])
def test_any_name_is_only_a_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, draft: Path) -> None:
    monkeypatch.chdir(tmp_path)
    write_video([moving(66, 50, 2)], Path(name), width=66, height=50, fps=8)
    assert os.listdir() == [name]  # noqa: PTH208 - the name as the system holds it
    assert probe_video(Path(name)).frames == 2
    finished(draft, Path(name))
    assert read_report(Path(name))["schema"] == 1


# --- what happens when it does not work ---


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def endless(then: Callable[[int], None]) -> Iterator[U8Frames]:
    chunk, count = moving(320, 240, 4), 0
    while True:
        yield chunk
        count += 1
        then(count)


@pytest.mark.parametrize("error", [Cancelled, KeyboardInterrupt, RuntimeError])
def test_cancel_kills_the_encoder_at_once_and_leaves_no_file(tmp_path: Path, error: type[BaseException]) -> None:
    raised_at = 0.0

    def cancel(count: int) -> None:
        nonlocal raised_at
        if count == 5:
            (encoder,) = children()
            # Ctrl+C in a terminal goes to the whole group, and must not look as if the encoder had failed.
            assert os.getpgid(encoder.pid) != os.getpgid(0)
            raised_at = time.perf_counter()
            raise error

    with pytest.raises(error):
        write_video(endless(cancel), tmp_path / "v.mp4", width=320, height=240, fps=24)
    assert time.perf_counter() - raised_at < 0.5
    assert not children()
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_dies_is_told_and_leaves_no_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def shoot(count: int) -> None:
        if count == 3:
            for child in children():
                child.kill()

    with pytest.raises(VideoError, match="encoder stopped") as failure:
        write_video(endless(shoot), tmp_path / "v.mp4", width=320, height=240, fps=24)
    assert "-9" in caplog.text
    assert str(tmp_path) not in failure.value.text.en
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("frames", [1, 400])
def test_a_full_disk_is_told_as_such(tmp_path: Path, frames: int) -> None:
    """`/dev/full` takes nothing; with few frames it shows at the end only, with many in the middle."""
    (tmp_path / "v.mp4").symlink_to("/dev/full")
    noise = np.random.default_rng(0).integers(0, 256, (4, 240, 320, 3), np.uint8)
    with pytest.raises(VideoError, match="disk is full") as failure:
        write_video((noise for _ in range(frames)), tmp_path / "v.mp4", width=320, height=240, fps=24)
    assert "磁盘" in failure.value.text.zh
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, draft: Path) -> None:
    with pytest.raises(VideoError, match="could not be written"):
        write_video([moving(66, 50, 2)], tmp_path / "nowhere" / "v.mp4", width=66, height=50, fps=8)
    with pytest.raises(VideoError, match="could not be written"):
        finished(draft, tmp_path / "nowhere" / "v.mp4")
    with pytest.raises(VideoError, match="could not be written"):
        write_poster(tmp_path / "nowhere" / "p.jpg", moving(66, 50, 1)[0])


def test_a_machine_without_ffmpeg_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nothing"))
    with pytest.raises(VideoError, match="no ffmpeg"):
        write_video([moving(66, 50, 2)], tmp_path / "v.mp4", width=66, height=50, fps=8)


def test_an_unfinished_file_never_stands_under_its_name(tmp_path: Path, draft: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"the video before")

    def fail(size: int) -> dict[str, Any]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        finish_video(draft, path, make_report=fail, picture=None)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"the video before"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_while_finishing_leaves_no_file(
    tmp_path: Path, draft: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(code, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VideoError, match="disk is full"):
        finished(draft, tmp_path / "v.mp4")
    assert not list(tmp_path.iterdir())


# --- the report and the picture inside ---


def test_the_report_inside_says_the_size_of_the_file_that_holds_it(tmp_path: Path, draft: Path) -> None:
    """At every length, so at each step from one number of digits to the next."""
    base_bytes = draft.stat().st_size
    for length in [*range(60), *range(9_600 - base_bytes, 10_010 - base_bytes, 7), 99_800, 100_000, 250_000]:
        path = tmp_path / "v.mp4"
        report = finished(draft, path, {"prompt": "x" * length}, ("PNG", b"abc"))
        assert report["output"]["bytes"] == path.stat().st_size
        assert read_report(path) == report


NASTY = "=;#\\\n\r\t\"'{}[]%$(x) 镜头慢慢推近，海浪拍打礁石 🌊 \u2028\u0000\ud800"


def test_nothing_in_the_report_is_changed_on_the_way(tmp_path: Path, draft: Path) -> None:
    beside = tmp_path / "report.json"
    report = finished(draft, tmp_path / "v.mp4", {NASTY: [NASTY, 1.5, None, True, 2**53, {"nested": NASTY * 5000}]})
    beside.write_text(json.dumps(report), encoding="utf-8")
    inside = read_report(tmp_path / "v.mp4")
    assert json.dumps(inside) == beside.read_text(encoding="utf-8")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=15,
)


@given(report=st.dictionaries(st.text(), json_values, max_size=6), picture=st.binary(max_size=300))
@settings(max_examples=80, deadline=None)
def test_any_report_and_any_picture_come_back(
    draft: Path, tmp_path_factory: pytest.TempPathFactory, report: dict[str, Any], picture: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.mp4"
    embedded = finished(draft, path, report, ("WEBP", picture))
    assert read_report(path) == embedded
    assert embedded == {**report, "output": {"bytes": path.stat().st_size}}
    assert read_picture(path) == ("WEBP", picture)


def test_ffmpeg_shows_the_report_as_the_comment(tmp_path: Path, draft: Path) -> None:
    report = finished(draft, tmp_path / "v.mp4", {"prompt": NASTY.replace("\ud800", "")})
    written = ffmpeg("-v", "error", "-i", str(tmp_path / "v.mp4"), "-f", "ffmetadata", "-")
    comment = re.search(r"^comment=(.*?)(?<!\\)$", written, re.MULTILINE | re.DOTALL)
    assert comment is not None
    assert json.loads(re.sub(r"\\(.)", r"\1", comment[1], flags=re.DOTALL)) == report


def test_the_frames_are_untouched_by_what_is_put_in(tmp_path: Path, draft: Path) -> None:
    finished(draft, tmp_path / "v.mp4", {"prompt": "x" * 70_000}, ("PNG", bytes(200_000)))
    assert np.array_equal(decoded(tmp_path / "v.mp4"), decoded(draft))
    assert probe_video(tmp_path / "v.mp4") == probe_video(draft)
    assert boxes(tmp_path / "v.mp4") == [*boxes(draft), b"uuid"]


def test_the_picture_can_be_left_out(tmp_path: Path, draft: Path) -> None:
    finished(draft, tmp_path / "v.mp4", picture=None)
    assert read_picture(tmp_path / "v.mp4") is None
    assert b"uuid" not in boxes(tmp_path / "v.mp4")


def test_finishing_a_finished_video_replaces_the_report(tmp_path: Path, draft: Path) -> None:
    finished(draft, tmp_path / "one.mp4", {"prompt": "old" * 1000})
    report = finished(tmp_path / "one.mp4", tmp_path / "two.mp4", {"prompt": "new"})
    assert read_report(tmp_path / "two.mp4") == report
    assert np.array_equal(decoded(tmp_path / "two.mp4"), decoded(draft))


# --- files that are not ours ---


def test_a_video_without_a_report_is_told(tmp_path: Path, draft: Path) -> None:
    with pytest.raises(InputError, match="no report inside"):
        read_report(draft)
    ffmpeg("-i", str(draft), "-c", "copy", "-metadata", "comment=not JSON", str(tmp_path / "other.mp4"))
    with pytest.raises(InputError, match="no report inside"):
        read_report(tmp_path / "other.mp4")


def test_a_report_nested_beyond_all_measure_is_told(tmp_path: Path, draft: Path) -> None:
    with draft.open("rb") as source, (tmp_path / "deep.mp4").open("wb") as target:
        mp4.embed(source, target, lambda size: b"[" * 200_000, b"")
    with pytest.raises(InputError, match="no report inside"):
        read_report(tmp_path / "deep.mp4")


def box(kind: bytes, content: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack(">I4s", 8 + len(content) if size is None else size, kind) + content


FTYP = box(b"ftyp", b"isom" + bytes(4))
NO_MP4, NO_REPORT = "not an MP4", "no report inside"
HOSTILE = {
    "empty": (b"", NO_MP4),
    "text": (b"this is no video", NO_MP4),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), NO_MP4),
    "only its first box": (FTYP, NO_MP4),
    "no moov": (FTYP + box(b"mdat", bytes(99)), NO_MP4),
    "size below its header": (FTYP + box(b"moov", size=7) + bytes(99), NO_MP4),
    "size beyond the end": (FTYP + box(b"moov", bytes(8), size=2**20), NO_MP4),
    "size of 64 bits beyond the end": (FTYP + struct.pack(">I4sQ", 1, b"moov", 2**63) + bytes(99), NO_MP4),
    "size of 64 bits below its header": (FTYP + struct.pack(">I4sQ", 1, b"moov", 8), NO_MP4),
    "size beyond all memory": (FTYP + box(b"moov", bytes(2**26)), NO_MP4),
    "header cut short": (FTYP + b"\0\0\0\0mo", NO_MP4),
    "a million empty boxes": (FTYP + box(b"free") * 1_000_000, NO_MP4),
    "child beyond its parent": (FTYP + box(b"moov", box(b"udta", bytes(9), size=999)), NO_MP4),
    "tags that do not fit": (FTYP + box(b"moov", box(b"udta", box(b"meta", b"\0"))), NO_MP4),
    "no tags": (FTYP + box(b"moov"), NO_REPORT),
    "comment without a type": (
        FTYP + box(b"moov", box(b"udta", box(b"meta", bytes(4) + box(b"ilst", box(b"\xa9cmt", box(b"data", b"{}")))))),
        NO_REPORT,
    ),
}
UUID = mp4.PICTURE_UUID.bytes
HOSTILE_PICTURES = {
    "no format": box(b"uuid", UUID),
    "a format longer than it": box(b"uuid", UUID + b"\xffPNG"),
    "a format that is no text": box(b"uuid", UUID + b"\x02\xff\xfeabc"),
    "a box that ends within its name": box(b"uuid", UUID + bytes(99), size=12),
    "a box beyond all memory": box(b"uuid", UUID + b"\x03PNG" + bytes(2**26)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_no_video_of_ours_is_refused_in_words(tmp_path: Path, name: str) -> None:
    path = tmp_path / "v.mp4"
    data, expected = HOSTILE[name]
    path.write_bytes(data)
    started = time.perf_counter()
    with pytest.raises(InputError, match=expected) as refusal:
        read_report(path)
    assert time.perf_counter() - started < 1
    assert_is_for_people(refusal.value)


@pytest.mark.parametrize("name", HOSTILE_PICTURES)
def test_a_damaged_picture_inside_is_refused_in_words(tmp_path: Path, name: str) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(FTYP + box(b"moov") + HOSTILE_PICTURES[name])
    with pytest.raises(InputError, match="damaged") as refusal:
        read_picture(path)
    assert_is_for_people(refusal.value)


def assert_is_for_people(error: InputError | VideoError) -> None:
    assert not any(word in error.text.en for word in ("Traceback", "Errno", "/", "Mp4Error", "b'"))
    assert any("\u4e00" <= character <= "\u9fff" for character in error.text.zh)


@pytest.mark.parametrize("read", [read_report, read_picture, probe_video, lambda path: list(read_frames(path))])
def test_a_missing_file_or_a_folder_is_told(tmp_path: Path, read: Callable[[Path], object]) -> None:
    for path in (tmp_path, tmp_path / "missing.mp4"):
        with pytest.raises(InputError, match="no such video"):
            read(path)


@pytest.mark.parametrize("read", [probe_video, lambda path: list(read_frames(path))])
def test_what_cannot_be_decoded_is_told(tmp_path: Path, draft: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "text.mp4").write_text("this is no video")
    # A playlist is a text that makes ffmpeg open other files.
    (tmp_path / "other.mp4").write_bytes(draft.read_bytes())
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    for name in ("text.mp4", "list.mp4"):
        with pytest.raises(InputError, match="not a video") as refusal:
            read(tmp_path / name)
        assert_is_for_people(refusal.value)
    whole = draft.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(VideoError, match="damaged"):
        read(tmp_path / "cut.mp4")


@pytest.mark.parametrize("read", [probe_video, lambda path: list(read_frames(path))])
def test_damage_in_the_middle_is_told_though_a_player_would_hide_it(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "v.mp4"
    write_video([moving(320, 240, 48)], path, width=320, height=240, fps=24)
    data = bytearray(path.read_bytes())
    middle = (data.index(b"mdat") + len(data)) // 2
    data[middle : middle + 300] = bytes(300)
    path.write_bytes(data)
    with pytest.raises(VideoError, match="damaged"):
        read(path)


def test_a_turned_video_is_read_upright(tmp_path: Path, draft: Path) -> None:
    ffmpeg("-display_rotation", "90", "-i", str(draft), "-c", "copy", str(tmp_path / "turned.mp4"))
    assert decoded(tmp_path / "turned.mp4").shape[1:] == (66, 50, 3)
    info = probe_video(tmp_path / "turned.mp4")
    assert (info.width, info.height) == (50, 66)


def test_frames_are_read_no_further_than_wanted(tmp_path: Path) -> None:
    write_video([moving(320, 240, 60)], tmp_path / "v.mp4", width=320, height=240, fps=24)
    frames = read_frames(tmp_path / "v.mp4")
    next(frames)
    assert children()
    frames.close()  # type: ignore[attr-defined]
    assert not children()


def test_the_poster_is_a_small_jpeg_of_the_frame(tmp_path: Path) -> None:
    frame = moving(320, 240, 1)[0]
    write_poster(tmp_path / "poster.jpg", frame)
    with Image.open(tmp_path / "poster.jpg") as poster:
        assert (poster.format, poster.size) == ("JPEG", (320, 240))
        assert psnr(np.array(poster), frame) > 33
    assert [entry.name for entry in tmp_path.iterdir()] == ["poster.jpg"]
