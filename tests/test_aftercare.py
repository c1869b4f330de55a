"""Frames between frames, loops and boomerangs: what is put between, what stays as it was, and that a run tells it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from video_frames import psnr

from i2v_pipeline.aftercare.between import Halfway
from i2v_pipeline.aftercare.care import as_made, care_for
from i2v_pipeline.aftercare.doubling import doubled
from i2v_pipeline.aftercare.length import length_of
from i2v_pipeline.aftercare.turning import looped, there_and_back
from i2v_pipeline.checks import check_request
from i2v_pipeline.errors import RequestError, VideoError
from i2v_pipeline.pipeline import EngineCache, Outputs, run
from i2v_pipeline.planning import plan_run
from i2v_pipeline.planning.machine import this_machine
from i2v_pipeline.presets import find_engine
from i2v_pipeline.rerun import Given, find_original, rerun
from i2v_pipeline.types import Aftercare, GenerationRequest, Motion, PromptOrigin, U8Frames, U8Image
from i2v_pipeline.video import probe_video, read_frames
from studio.cli import main

EXAMPLES = Path(__file__).parent.parent / "examples"
CAT = EXAMPLES / "cat.jpg"
WIDTH, HEIGHT = 320, 200
CAMERA = GenerationRequest(
    engine="camera", images=(CAT,), prompt="pan left", motion=Motion(camera=("pan_left",), requested=True),
    origin=PromptOrigin(typed="pan left", refined="pan left", source="typed"), resolution="160x120", width=160,
    height=120, fit="crop", frames=17, fps=8, seed=3,
)  # fmt: skip
DOUBLE, LOOP, BOOMERANG = Aftercare(double_rate=True), Aftercare(ending="loop"), Aftercare(ending="boomerang")


def photo(name: str) -> U8Image:
    with Image.open(EXAMPLES / f"{name}.jpg") as opened:
        return np.asarray(opened.convert("RGB"))


def pan(name: str, shift_px: float, frames: int) -> U8Frames:
    """A camera that goes right by `shift_px` a frame over the lower half of a photograph."""
    picture = cv2.GaussianBlur(photo(name), (0, 0), 1.0)
    top = (picture.shape[0] - HEIGHT) / 2
    made = []
    for number in range(frames):
        matrix = np.array([[1, 0, 20 + shift_px * number], [0, 1, top]], np.float32)
        made.append(cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP))
    return np.stack(made).astype(np.uint8)


def double(frames: U8Frames, cuts: list[int] | None = None, chunk: int = 3) -> U8Frames:
    pieces = (frames[start : start + chunk] for start in range(0, len(frames), chunk))
    return np.concatenate(list(doubled(pieces, ([] if cuts is None else cuts).append)))


def joined(chunks: Iterable[U8Frames]) -> U8Frames:
    return np.concatenate(list(chunks))


def refused(request: GenerationRequest) -> str:
    with pytest.raises(RequestError) as refusal:
        check_request(find_engine("camera"), request)
    assert any("\u4e00" <= character <= "\u9fff" for character in refusal.value.text.zh)
    return refusal.value.text.en


# --- twice the frame rate ---


def test_the_given_frames_stay_to_the_last_bit_and_a_still_picture_stays_still() -> None:
    moving = pan("cat", 3.0, 5)
    made = double(moving)
    assert len(made) == 9
    assert (made[::2] == moving).all()
    still = np.repeat(moving[:1], 3, 0)
    assert (double(still) == np.repeat(moving[:1], 5, 0)).all()


@pytest.mark.parametrize("shift_px", [2.0, 5.0, 16.0])
@pytest.mark.parametrize("name", ["pagoda", "dogs"])
def test_a_pan_is_half_way_in_the_frame_between(name: str, shift_px: float) -> None:
    before, truth, after = pan(name, shift_px / 2, 3)
    found = Halfway(HEIGHT, WIDTH)(before, after)
    assert not found.is_cut
    inside = (slice(8, -8), slice(24, -24))
    grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY)[inside].astype(np.float32) for each in (before, found.picture)]
    (right, down), _ = cv2.phaseCorrelate(*grey, cv2.createHanningWindow(grey[0].shape[::-1], cv2.CV_32F))
    assert abs(-right - shift_px / 2) < 0.25 and abs(down) < 0.25
    error = found.picture[inside].astype(np.float32) - truth[inside]
    assert np.sqrt(np.mean(error**2)) < 5


def test_what_comes_in_at_the_edge_is_not_smeared() -> None:
    before, truth, after = pan("pagoda", 12.0, 3)
    found = Halfway(HEIGHT, WIDTH)(before, after).picture
    for edge in (slice(0, 12), slice(-12, None)):
        assert (
            psnr(found[:, edge], truth[:, edge])
            > psnr(((before[:, edge] + 1.0) + after[:, edge]) / 2, truth[:, edge]) + 4
        )


def test_something_that_passes_before_the_camera_is_no_ghost_at_two_places() -> None:
    background = photo("mountains")[200 : 200 + HEIGHT, 100 : 100 + WIDTH]
    ball = cv2.resize(photo("cat"), (60, 60), interpolation=cv2.INTER_AREA)
    frames = []
    for x in (60, 66, 72):
        frame = background.copy()
        frame[70:130, x : x + 60] = ball
        frames.append(frame)
    before, truth, after = np.stack(frames)
    found = Halfway(HEIGHT, WIDTH)(before, after).picture
    mean = ((before.astype(np.uint16) + after) // 2).astype(np.uint8)
    around = (slice(60, 140), slice(50, 150))
    assert psnr(found[around], truth[around]) > psnr(mean[around], truth[around]) + 6


def test_over_a_cut_nothing_is_mixed_and_the_cut_is_told() -> None:
    scene = np.concatenate([pan("cat", 2.0, 3), pan("stream", 2.0, 3)])
    cuts: list[int] = []
    made = double(scene, cuts)
    assert cuts == [2]
    assert (made[5] == scene[2]).all() and (made[6] == scene[3]).all()
    assert not (made[3] == scene[1]).all()


def test_grain_and_a_flash_are_no_cuts() -> None:
    random = np.random.default_rng(5)
    wall = np.full((2, HEIGHT, WIDTH, 3), 120.0) + random.normal(0, 5, (2, HEIGHT, WIDTH, 3))
    cuts: list[int] = []
    double(wall.clip(0, 255).astype(np.uint8), cuts)
    steady = pan("dogs", 1.0, 2)
    flash = np.stack([steady[0], np.clip(steady[1] * 1.2 + 30, 0, 255).astype(np.uint8)])
    double(flash, cuts)
    assert cuts == []


def test_neither_the_size_of_the_chunks_nor_the_number_of_cores_changes_a_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moving = pan("dogs", 4.0, 6)
    made = double(moving, chunk=6)
    assert (double(moving, chunk=1) == made).all()
    monkeypatch.setattr("i2v_pipeline.aftercare.doubling.os.cpu_count", lambda: 1)
    assert (double(moving, chunk=4) == made).all()


def test_frames_are_taken_a_few_at_a_time_and_one_alone_stays_alone() -> None:
    taken = 0

    def endless() -> Iterable[U8Frames]:
        nonlocal taken
        while True:
            taken += 1
            yield pan("cat", 1.0, 1)

    made = doubled(endless(), [].append)
    assert len(next(made)) == 1 and taken == 1
    assert len(next(made)) <= 8 and taken <= 5
    made.close()
    assert len(double(pan("cat", 1.0, 1))) == 1
    assert list(doubled([], [].append)) == []


# --- endings ---


def test_a_loop_runs_from_its_end_into_its_start_without_a_jump() -> None:
    frames = pan("dogs", 4.0, 21)
    made = joined(looped([frames[:4], frames[4:9], frames[9:]], 4))
    assert len(made) == 17
    assert (made[:13] == frames[4:17]).all()
    steps = np.abs(np.diff(np.concatenate([made, made[:1]]).astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
    jump = np.abs(frames[0].astype(np.int16) - frames[-1]).mean()
    assert max(steps[12:]) < 1.2 * max(steps[:12]) < jump
    with pytest.raises(ValueError, match="too few"):
        list(looped([frames[:7]], 4))


def test_a_boomerang_comes_back_and_shows_no_end_twice(tmp_path: Path) -> None:
    frames = pan("cat", 2.0, 5)
    made = joined(there_and_back([frames[:2], frames[2:]], tmp_path))
    assert (made == frames[[0, 1, 2, 3, 4, 3, 2, 1]]).all()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(VideoError):
        list(there_and_back([frames], tmp_path / "nowhere"))


@pytest.mark.parametrize("ending", ["plain", "loop", "boomerang"])
@pytest.mark.parametrize("double_rate", [False, True])
@pytest.mark.parametrize("frames", [5, 16, 17, 81])
def test_the_length_that_is_told_is_the_length_that_is_made(
    frames: int, double_rate: bool, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    care = Aftercare(double_rate=double_rate, ending=ending)  # type: ignore[arg-type]
    request = replace(CAMERA, frames=frames, fps=16, aftercare=care)
    # Numbered frames: what is between two is not looked at.
    given = np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)

    def between(chunks: Iterable[U8Frames], _: object) -> Iterable[U8Frames]:
        known = joined(chunks)
        made = np.full((2 * len(known) - 1, *known.shape[1:]), 255, np.uint8)
        made[::2] = known
        yield made

    monkeypatch.setattr("i2v_pipeline.aftercare.care.doubled", between)
    made, length = joined(care_for(request, [given], tmp_path).frames), length_of(request)
    assert len(made) == length.frames
    assert length.fps == 16 * (2 if double_rate else 1)
    back = [int(frame[0, 0, 0]) for frame in joined(as_made(request, [made[:3], made[3:]]))]
    first = length.faded // (2 if double_rate else 1)
    assert back == list(range(first, frames - first))


# --- in a request ---


def test_what_cannot_be_done_is_refused_in_words() -> None:
    assert "48 frames per second, doubled, are 96: up to 60" in refused(replace(CAMERA, fps=48, aftercare=DOUBLE))
    assert "at least 5" in refused(replace(CAMERA, frames=4, aftercare=LOOP))
    assert "at least 3" in refused(replace(CAMERA, frames=2, aftercare=BOOMERANG))
    assert "'spiral'" in refused(replace(CAMERA, aftercare=Aftercare(ending="spiral")))  # type: ignore[arg-type]
    assert "last picture would not be seen" in refused(replace(CAMERA, last_image=CAT, aftercare=LOOP))
    for care in (Aftercare(), DOUBLE, LOOP, BOOMERANG):
        check_request(find_engine("camera"), replace(CAMERA, fps=30, aftercare=care))


def test_the_plan_counts_the_seconds_the_memory_and_the_disk_of_after_care() -> None:
    spec, machine = find_engine("camera"), replace(this_machine(EXAMPLES), free_ram_gib=None, free_disk_gib=None)
    large = replace(CAMERA, width=1280, height=720, frames=96, fps=24)
    plain, twice, back = (
        plan_run(spec, replace(large, aftercare=care), machine) for care in (Aftercare(), DOUBLE, BOOMERANG)
    )
    assert twice.seconds > plain.seconds + 1 and twice.peak_ram_gib > plain.peak_ram_gib
    assert back.disk_gib > plain.disk_gib + 96 * 1280 * 720 * 3 / 2**30
    assert [stage.name for stage in twice.stages] == [stage.name for stage in plain.stages]
    scarce = replace(machine, free_ram_gib=plain.peak_ram_gib + 0.01)
    assert plan_run(spec, large, scarce).fits
    lacking = plan_run(spec, replace(large, aftercare=DOUBLE), scarce)
    assert not lacking.fits and "after-care" in lacking.reason.en and "RAM" in lacking.reason.en


@pytest.mark.parametrize(
    ("care", "frames", "fps"),
    [(DOUBLE, 33, 16), (replace(DOUBLE, ending="loop"), 27, 16), (replace(DOUBLE, ending="boomerang"), 64, 16)],
)
def test_the_file_and_the_report_say_what_was_written_and_it_can_be_made_again(
    care: Aftercare, frames: int, fps: int, tmp_path: Path
) -> None:
    engines = EngineCache()
    request = replace(CAMERA, aftercare=care)
    outputs = [
        Outputs(video=tmp_path / f"{name}.mp4", report=tmp_path / f"{name}.json", shown_path=f"{name}.mp4")
        for name in ("first", "second")
    ]
    report = run(request, engines, outputs[0], lambda _: None, job_id="first")
    info = probe_video(outputs[0].video)
    assert (info.frames, info.fps) == (frames, fps)
    output = report["output"]
    assert (output["frames"], output["fps"], output["seconds"]) == (frames, fps, frames / fps)
    assert report["parameters"]["aftercare"] == {"double_rate": True, "ending": care.ending}
    assert (report["parameters"]["frames"], report["parameters"]["fps"]) == (17, 8)
    assert output["aftercare"]["repeated_at_cuts"] == []
    # The engine's own frames are judged: a way back or a dissolve is no fault of its movement.
    assert report["quality"]["fps"] == 8
    assert report["quality"]["asked"] == {"pan_left": True}
    assert report["quality"]["flags"] == []
    again = rerun(find_original(outputs[0].video), Given(), engines, outputs[1], lambda _: None, job_id="second")
    assert again.is_equal and again.differences == ()


def test_an_older_report_without_after_care_is_read_and_another_after_care_is_named(tmp_path: Path) -> None:
    still = replace(CAMERA, motion=Motion(camera=("static",), requested=True), frames=5)
    outputs = Outputs(video=tmp_path / "v.mp4", report=tmp_path / "v.json", shown_path="v.mp4")
    report = run(still, EngineCache(), outputs, lambda _: None, job_id="first")
    del report["parameters"]["aftercare"], report["output"]["aftercare"]
    old = tmp_path / "old.json"
    old.write_text(json.dumps(report), encoding="utf-8")
    new = Outputs(video=tmp_path / "w.mp4", report=tmp_path / "w.json", shown_path="w.mp4")
    again = rerun(find_original(old), Given(image=CAT), EngineCache(), new, lambda _: None, job_id="second")
    assert again.is_equal and again.differences == ()


def test_the_command_line_doubles_and_turns_and_takes_one_ending(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "v.mp4"
    small = ["--resolution", "160x120", "--frames", "9", "--fps", "8", "--refine", "off", "--out", str(out), "--json"]
    given = ["generate", str(CAT), "static camera", "--engine", "camera", *small]
    assert main([*given, "--double-rate", "--boomerang"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["output"]["frames"], report["output"]["fps"]) == (32, 16)
    frames = joined(read_frames(out))
    assert psnr(frames[1], frames[-1]) > 35
    with pytest.raises(SystemExit):
        main([*given, "--loop", "--boomerang"])
