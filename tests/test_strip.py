"""A stripped video shows the same frames and plays the same sound, and nothing else of where it came from is in it."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from video_frames import moving

from i2v_pipeline.errors import InputError, StudioError, VideoError
from i2v_pipeline.pipeline import EngineCache, Outputs, run
from i2v_pipeline.recipe import read_recipe
from i2v_pipeline.types import AddedElement, GenerationRequest, Motion, PromptOrigin
from i2v_pipeline.video import probe_video, read_picture, strip_video, write_video
from studio.cli import main

CAT = Path(__file__).parent.parent / "examples" / "cat.jpg"
REQUEST = GenerationRequest(
    engine="camera", images=(CAT,), prompt="secretsentence 秘密的句子",
    motion=Motion(camera=("static",), requested=True),
    origin=PromptOrigin(
        typed="typedsentence", refined="refinedsentence", source="llm", provider="someprovider", model="somemodel",
        added_elements=(AddedElement(element="addedelement", kind="detail", why="somereason"),),
    ),
    resolution="160x120", width=160, height=120, fit="crop", frames=6, fps=8, seed=4023581967,
)  # fmt: skip


def ffmpeg(*arguments: str) -> bytes:
    done = subprocess.run([get_ffmpeg_exe(), "-hide_banner", *arguments], capture_output=True, timeout=60)
    return done.stdout + done.stderr


def coded(path: Path, streams: str) -> bytes:
    """A hash over the coded packets of the streams, for telling whether their bytes are the same."""
    return ffmpeg("-v", "error", "-i", str(path), "-map", streams, "-c", "copy", "-f", "hash", "-")


def test_nothing_private_is_left_and_the_frames_are_the_same(tmp_path: Path) -> None:
    video, stripped = tmp_path / "privatename.mp4", tmp_path / "out.mp4"
    outputs = Outputs(video=video, report=tmp_path / "privatename.json", shown_path="somewhere/privatename.mp4")
    report = run(REQUEST, EngineCache(), outputs, lambda _: None, job_id="jobnumber")
    private = [
        *("secretsentence", "秘密的句子", "typedsentence", "refinedsentence", "someprovider", "somemodel"),
        *("addedelement", "somereason", "4023581967", "privatename", "somewhere", "jobnumber", report["created"]),
        *(report["image"]["sha256"], report["environment"]["torch"] or "torch", "frames_sha256", "schema", "camera"),
    ]
    before = video.read_bytes()
    assert all(word.encode() in before for word in private)
    assert main(["strip", str(video), "--out", str(stripped)]) == 0
    after = stripped.read_bytes()
    for word in private:
        assert word.encode() not in after and word.encode("utf-16-le") not in after, word
    picture = CAT.read_bytes()
    assert not any(picture[start : start + 64] in after for start in range(0, len(picture) - 64, 1024))
    assert read_picture(stripped) is None
    with pytest.raises(InputError, match="no report inside"):
        read_recipe(stripped)
    assert probe_video(stripped) == probe_video(video)
    assert coded(stripped, "0:v") == coded(video, "0:v") != b""
    assert video.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.mp4", "privatename.json", "privatename.mp4"]


def test_tags_chapters_and_times_of_other_programs_go_and_the_sound_stays(tmp_path: Path) -> None:
    write_video([moving(66, 50, 16)], tmp_path / "draft.mp4", width=66, height=50, fps=8)
    notes = ";FFMETADATA1\ntitle=privatetitle\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=900\ntitle=privatechapter\n"
    (tmp_path / "notes.txt").write_text(notes, encoding="utf-8")
    ffmpeg(
        "-i", str(tmp_path / "draft.mp4"), "-i", str(tmp_path / "notes.txt"), "-f", "lavfi", "-i", "sine=d=2",
        "-map", "0:v", "-map", "2:a", "-map_metadata", "1", "-c:v", "copy", "-c:a", "aac",
        "-metadata", "comment=privatecomment", "-metadata", "creation_time=2024-05-06T07:08:09Z",
        "-metadata:s:v", "handler_name=privatehandler", "-metadata:s:a", "language=zho", str(tmp_path / "full.mp4"),
    )  # fmt: skip
    before = (tmp_path / "full.mp4").read_bytes()
    private = (b"privatetitle", b"privatechapter", b"privatehandler", b"privatecomment", b"Lavf")
    assert all(word in before for word in private)
    assert created(before) != 0
    strip_video(tmp_path / "full.mp4", tmp_path / "out.mp4")
    after = (tmp_path / "out.mp4").read_bytes()
    assert not [word for word in private if word in after]
    assert created(after) == 0
    for streams in ("0:v", "0:a"):
        assert coded(tmp_path / "out.mp4", streams) == coded(tmp_path / "full.mp4", streams) != b""
    assert b"(zho)" in ffmpeg("-i", str(tmp_path / "full.mp4")) and b"(zho)" not in ffmpeg(
        "-i", str(tmp_path / "out.mp4")
    )


def created(data: bytes) -> int:
    """Seconds since 1904 in the movie's header (ISO/IEC 14496-12, version 0)."""
    return struct.unpack(">I", data[data.index(b"mvhd") + 8 :][:4])[0]


def test_what_cannot_be_stripped_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    write_video([moving(66, 50, 16)], video, width=66, height=50, fps=8)
    (tmp_path / "text.mp4").write_text("no video")
    whole = video.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    kept = {file.name for file in tmp_path.iterdir()}
    cases: list[tuple[Path, Path, type[StudioError], str]] = [
        (video, video, InputError, "overwrite"),
        (tmp_path / "missing.mp4", tmp_path / "out.mp4", InputError, "no such video"),
        (tmp_path / "text.mp4", tmp_path / "out.mp4", InputError, "not an MP4"),
        (tmp_path / "cut.mp4", tmp_path / "out.mp4", VideoError, "damaged"),
        (video, tmp_path / "nowhere" / "out.mp4", VideoError, "could not be written"),
    ]
    for source, target, error, told in cases:
        with pytest.raises(error, match=told):
            strip_video(source, target)
    assert video.read_bytes() == whole
    assert {file.name for file in tmp_path.iterdir()} == kept
    assert main(["strip", str(video), "--out", str(tmp_path / "out.gif")]) == 2
