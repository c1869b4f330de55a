"""The camera engine as its users see it: which way the picture moves, what is never seen, what is said about it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from PIL import Image

from i2v_pipeline.engines.camera import CameraEngine
from i2v_pipeline.errors import Cancelled
from i2v_pipeline.types import (
    CameraTag,
    GenerationRequest,
    Intensity,
    Motion,
    Prepared,
    Progress,
    PromptOrigin,
    Speed,
    Text,
    U8Frames,
    U8Image,
)

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ("cat", "coffee", "flower", "mountains", "stream")
TAGS: tuple[CameraTag, ...] = get_args(CameraTag)
STILL_PX = 0.05


@pytest.fixture(scope="module")
def engine() -> CameraEngine:
    return CameraEngine()


@cache
def picture(name: str, longer_side: int = 384) -> Prepared:
    with Image.open(ROOT / "examples" / f"{name}.jpg") as opened:
        scale = longer_side / max(opened.size)
        width, height = (round(side * scale / 2) * 2 for side in opened.size)
        pixels = np.asarray(opened.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
    return prepared(pixels)


def prepared(pixels: U8Image) -> Prepared:
    height, width = pixels.shape[:2]
    pixels.flags.writeable = False
    return Prepared(
        pixels=pixels,
        source=b"",
        source_format="PNG",
        source_width=width,
        source_height=height,
        fitted=Text(en="", zh=""),
    )


def request_for(
    shown: Prepared,
    *camera: CameraTag,
    frames: int = 7,
    fps: int = 6,
    seed: int = 7,
    speed: Speed = "normal",
    intensity: Intensity = "medium",
) -> GenerationRequest:
    height, width = shown.pixels.shape[:2]
    return GenerationRequest(
        engine="camera",
        images=(Path("picture.png"),),
        prompt="a sentence",
        origin=PromptOrigin(typed="a sentence", refined="a sentence", source="typed"),
        motion=Motion(camera=camera, requested=bool(camera), speed=speed, intensity=intensity),
        resolution="512p",
        width=width,
        height=height,
        fit="crop",
        frames=frames,
        fps=fps,
        seed=seed,
    )


def film(
    engine: CameraEngine,
    shown: Prepared,
    request: GenerationRequest,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> U8Frames:
    return np.concatenate(list(engine.generate(request, shown, on_progress)))


def flow(before: U8Image, after: U8Image) -> tuple[np.ndarray, np.ndarray]:
    """Dense optical flow in pixels at the pixels that have texture, and where they lie from the picture's centre."""
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (before, after)]
    field = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(*grey, None)
    slope = np.hypot(cv2.Sobel(grey[0], cv2.CV_32F, 1, 0), cv2.Sobel(grey[0], cv2.CV_32F, 0, 1))
    rows, columns = np.nonzero(slope >= np.percentile(slope, 60))
    place = np.stack((columns, rows), axis=1) - np.array(grey[0].shape[::-1]) / 2
    return field[rows, columns], place


def movement(frames: U8Frames) -> tuple[float, float, float]:
    """Medians over the frames: pixels to the right, pixels down, and growth as a share, per frame."""
    steps = []
    for before, after in itertools.pairwise(frames):
        moved, place = flow(before, after)
        middle = np.median(moved, axis=0)
        growth = ((moved - middle) * place).sum() / (place**2).sum()
        steps.append((*middle, growth))
    right, down, growth = np.median(steps, axis=0)
    return float(right), float(down), float(growth)


def codes(engine: CameraEngine) -> set[str]:
    assert all(finding.message.en and finding.message.zh for finding in engine.findings())
    return {finding.code for finding in engine.findings()}


@pytest.mark.parametrize("name", PICTURES)
def test_pans_tilts_and_zooms_move_the_picture_in_the_cameras_sense(engine, name):
    shown = picture(name)

    def moved_by(tag: CameraTag) -> tuple[float, float, float]:
        return movement(film(engine, shown, request_for(shown, tag)))

    right, down, growth = moved_by("pan_left")
    assert right > 1 and abs(down) < right / 4 and abs(growth) < 0.01
    right, down, growth = moved_by("pan_right")
    assert right < -1 and abs(down) < -right / 4 and abs(growth) < 0.01
    right, down, growth = moved_by("tilt_up")
    assert down > 1 and abs(right) < down / 4 and abs(growth) < 0.01
    right, down, growth = moved_by("tilt_down")
    assert down < -1 and abs(right) < -down / 4 and abs(growth) < 0.01
    assert moved_by("zoom_in")[2] > 0.01
    assert moved_by("zoom_out")[2] < -0.01


@pytest.mark.parametrize("name", PICTURES)
def test_a_static_camera_gives_the_picture_itself_in_every_frame(engine, name):
    shown = picture(name)
    frames = film(engine, shown, request_for(shown, "static", frames=4))
    assert all(np.array_equal(frame, shown.pixels) for frame in frames)
    assert np.abs(flow(frames[0], frames[-1])[0]).max() < STILL_PX


def test_the_other_tags_move_the_picture_in_the_cameras_sense_too(engine):
    shown = picture("stream")
    moved = {
        tag: movement(film(engine, shown, request_for(shown, tag)))
        for tag in ("truck_left", "truck_right", "crane_up", "crane_down", "dolly_in", "dolly_out")
    }
    assert moved["truck_left"][0] > 0.5 and moved["truck_right"][0] < -0.5
    assert moved["crane_up"][1] > 0.5 and moved["crane_down"][1] < -0.5
    assert moved["dolly_in"][2] > 0.005 and moved["dolly_out"][2] < -0.005


@pytest.mark.parametrize(("tag", "clockwise"), [("roll_cw", -1), ("roll_ccw", 1)])
def test_a_camera_that_rolls_turns_the_picture_the_other_way(engine, tag, clockwise):
    shown = picture("stream")
    frames = film(engine, shown, request_for(shown, tag))
    moved, place = flow(frames[3], frames[4])
    spin = (place[:, 0] * moved[:, 1] - place[:, 1] * moved[:, 0]).sum() / (place**2).sum()
    assert spin * clockwise > 0.005


def subject_and_background(frames: U8Frames, shown: Prepared) -> tuple[float, float]:
    """Pixels to the right, in the middle of the video, of the flower (bright and orange) and of what is behind it."""
    middle = len(frames) // 2
    field = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(
        *(cv2.cvtColor(frames[index], cv2.COLOR_RGB2GRAY) for index in (middle, middle + 1)), None
    )
    orange = (frames[middle][..., 0] > 150) & (frames[middle][..., 2] < 140)
    far = np.zeros_like(orange)
    far[: len(far) // 2] = True
    near = cv2.erode(orange.astype(np.uint8), np.ones((9, 9))) > 0
    far &= cv2.dilate(orange.astype(np.uint8), np.ones((41, 41))) == 0
    assert near.sum() > 500 and far.sum() > 500
    return float(np.median(field[near][:, 0])), float(np.median(field[far][:, 0]))


def test_a_camera_that_travels_moves_the_subject_before_its_background(engine):
    shown = picture("flower")
    subject, background = subject_and_background(film(engine, shown, request_for(shown, "truck_left")), shown)
    assert subject > 1.5 * background > 0


def test_a_camera_that_orbits_holds_the_subject_and_moves_its_background(engine):
    shown = picture("flower")
    subject, background = subject_and_background(film(engine, shown, request_for(shown, "orbit_left")), shown)
    assert abs(subject) < 0.35 and background < -1


def test_a_camera_that_only_turns_shows_no_parallax(engine):
    shown = picture("flower")
    subject, background = subject_and_background(film(engine, shown, request_for(shown, "pan_left")), shown)
    assert subject == pytest.approx(background, rel=0.15)


def test_a_zoom_in_begins_and_a_zoom_out_ends_at_the_full_picture(engine):
    shown = picture("cat")
    first = film(engine, shown, request_for(shown, "zoom_in"))[0]
    last = film(engine, shown, request_for(shown, "zoom_out"))[-1]
    for frame in (first, last):
        assert np.abs(frame.astype(int) - shown.pixels).max() <= 1


@pytest.mark.parametrize("name", ["astronaut", "dogs", "pagoda"])
def test_a_push_in_begins_with_the_picture_though_its_subject_was_cut_out(engine, name):
    shown = picture(name, 512)
    first = film(engine, shown, request_for(shown, "dolly_in", frames=2))[0]
    difference = np.abs(first.astype(int) - shown.pixels).max(axis=2)
    assert difference.mean() < 0.5 and (difference > 24).mean() < 0.01


def textured(width: int, height: int) -> Prepared:
    """Leaves of random colours over the whole picture, bright in the middle: no row or column is of one colour."""
    random = np.random.default_rng(3)
    leaves = random.integers(40, 216, (height // 8, width // 8, 3), dtype=np.uint8)
    return prepared(cv2.resize(leaves, (width, height), interpolation=cv2.INTER_CUBIC))


def edges(frame: U8Image) -> Sequence[np.ndarray]:
    return frame[0], frame[-1], frame[:, 0], frame[:, -1]


def assert_filled_to_the_edges(frames: U8Frames, source: U8Image) -> None:
    least = min(edge.std(axis=0).max() for edge in edges(source))
    for frame in frames:
        assert min(edge.std(axis=0).max() for edge in edges(frame)) > least / 3


@pytest.mark.parametrize("tag", TAGS)
def test_every_tag_fills_every_frame_to_its_edges_and_tells_what_it_did(engine, tag):
    shown = picture("coffee", 256)
    request = request_for(shown, tag, frames=5, intensity="high", speed="timelapse")
    chunks = list(engine.generate(request, shown, lambda progress: None))
    assert all(chunk.dtype == np.uint8 and chunk.shape[1:] == shown.pixels.shape for chunk in chunks)
    assert sum(map(len, chunks)) == request.frames
    assert max(map(len, chunks)) <= 4
    assert_filled_to_the_edges(np.concatenate(chunks), shown.pixels)

    facts = json.loads(json.dumps(engine.facts(), allow_nan=False))
    assert facts["camera"] == [[tag]] and facts["camera_chosen_by"] == "request"
    assert bool(facts["path"]) == (tag != "static")
    assert facts["crop_in"] >= 1 and 0 < facts["widest_share"] <= 1
    assert len(facts["network_sha256"]) == 64 and facts["opencv"] == cv2.__version__
    assert codes(engine) >= {"camera_moves_only"}


def test_moves_made_smaller_are_told_as_small_as_they_are(engine):
    shown = picture("coffee", 128)
    tags: tuple[CameraTag, ...] = ("pan_left", "tilt_up", "truck_left", "crane_up", "orbit_right", "roll_cw")
    pans = []
    for camera in (tags[:1], tags):
        film(engine, shown, request_for(shown, *camera, frames=5, fps=1, intensity="high", speed="timelapse"))
        pans.append(engine.facts()["path"]["pan_px"] / engine.facts()["crop_in"])
        assert ("camera_moves_reduced" in codes(engine)) == (camera == tags)
    assert pans[1] < 0.8 * pans[0]


def test_the_path_in_the_facts_is_the_one_that_the_frames_show(engine):
    shown = picture("stream")

    def travelled(frames: U8Frames, rows: slice) -> float:
        return sum(float(np.median(flow(*pair)[0][:, 0])) for pair in itertools.pairwise(frames[:, rows]))

    whole, nearest = slice(None), slice(-40, None)
    panned = film(engine, shown, request_for(shown, "pan_left", frames=9))
    assert travelled(panned, whole) == pytest.approx(engine.facts()["path"]["pan_px"], rel=0.1)
    trucked = film(engine, shown, request_for(shown, "truck_left", frames=9))
    assert travelled(trucked, nearest) == pytest.approx(engine.facts()["path"]["truck_px"], rel=0.1)
    zoomed = film(engine, shown, request_for(shown, "zoom_in", frames=9))
    grown = math.prod(1 + movement(np.stack(pair))[2] for pair in itertools.pairwise(zoomed))
    assert grown == pytest.approx(engine.facts()["path"]["zoom_factor"], rel=0.05)


def test_what_is_far_makes_a_truck_or_a_dolly_smaller_in_the_facts(engine):
    shown = picture("rocket", 256)
    film(engine, shown, request_for(shown, "truck_left"))
    night = engine.facts()["path"]["truck_px"] / shown.pixels.shape[1]
    shown = picture("coffee", 256)
    film(engine, shown, request_for(shown, "truck_left"))
    assert 0 < night < 0.7 * engine.facts()["path"]["truck_px"] / shown.pixels.shape[1]


@pytest.mark.parametrize("tag", ["truck_left", "crane_down", "orbit_right", "dolly_out", "follow", "handheld"])
def test_frames_without_a_subject_are_filled_to_their_edges_too(engine, tag):
    shown = textured(256, 160)
    frames = film(engine, shown, request_for(shown, tag, frames=5, intensity="high", speed="timelapse"))
    assert engine.facts()["depth"] == "ground"
    assert_filled_to_the_edges(frames, shown.pixels)


def frame_steps(frames: U8Frames) -> np.ndarray:
    """How far the picture moves from each frame to the next, in pixels: the mean over its texture."""
    return np.array([np.abs(flow(*pair)[0]).mean() for pair in itertools.pairwise(frames)])


@pytest.mark.parametrize("tag", ["pan_left", "zoom_in", "dolly_in", "orbit_right"])
def test_movement_is_smooth_no_frame_repeats_and_none_jumps(engine, tag):
    shown = picture("coffee")
    frames = film(engine, shown, request_for(shown, tag, frames=25, fps=12))
    steps = frame_steps(frames)
    assert not any(np.array_equal(*pair) for pair in itertools.pairwise(frames))
    assert steps.min() > 0.1 * steps.max()
    assert np.abs(np.diff(steps)).max() < 0.25 * steps.max()
    assert steps[0] < 0.7 * steps.max() and steps[-1] < 0.7 * steps.max()


def test_sharpness_does_not_pulse_while_the_picture_moves(engine):
    shown = picture("stream")
    frames = film(engine, shown, request_for(shown, "pan_right", frames=13))
    sharpness = [
        cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.CV_32F)[40:-40, 60:-60].std() for frame in frames
    ]
    assert min(sharpness) > 0.85 * max(sharpness)


RENDER_AND_HASH = """
import sys; sys.path[:0] = {paths!r}
import cv2; cv2.setNumThreads({threads})
from test_camera import CameraEngine, digest
print(digest(CameraEngine()))
assert "torch" not in sys.modules
"""


def digest(engine: CameraEngine) -> str:
    shown = picture("cat")
    frames = film(engine, shown, request_for(shown, "truck_right", "handheld", frames=3))
    return hashlib.sha256(frames.tobytes()).hexdigest()


def test_the_same_request_gives_the_same_bytes_in_every_process_with_any_number_of_threads(engine):
    digests = {digest(engine)}
    for threads in (1, 2):
        program = RENDER_AND_HASH.format(paths=[str(ROOT), str(ROOT / "tests")], threads=threads)
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        digests.add(run.stdout.strip())
    assert len(digests) == 1


def test_another_seed_gives_another_take_of_the_same_shot(engine):
    shown = picture("cat")
    takes = [film(engine, shown, request_for(shown, "pan_left", seed=seed)) for seed in (1, 2)]
    assert not np.array_equal(*takes)
    first, second = (movement(take)[0] for take in takes)
    assert first > 1 and second == pytest.approx(first, rel=0.4)


def test_a_still_camera_is_the_same_for_every_seed(engine):
    shown = picture("cat")
    takes = [film(engine, shown, request_for(shown, "static", seed=seed, frames=2)) for seed in (1, 2)]
    assert np.array_equal(*takes)


@pytest.mark.parametrize("stage", ["load", "encode", "decode"])
def test_cancel_ends_the_run_at_the_stage_in_which_it_is_asked_for(stage):
    shown = picture("cat")
    stages: list[str] = []

    def cancel(progress: Progress) -> None:
        stages.append(progress.stage)
        if progress.stage == stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        film(CameraEngine(), shown, request_for(shown, "dolly_in"), cancel)
    assert stages.count(stage) == 1 and stages[-1] == stage


def test_progress_counts_the_frames_and_previews_are_small_and_few():
    shown = picture("cat", 640)
    told: list[Progress] = []
    seconds = iter(np.arange(0, 100, 0.05))
    engine = CameraEngine(clock=lambda: float(next(seconds)))
    film(engine, shown, request_for(shown, "pan_left", frames=13), told.append)
    decoded = [progress for progress in told if progress.stage == "decode"]
    assert [progress.stage for progress in told if progress.stage != "decode"] == ["load", "load", *["encode"] * 3]
    assert [(progress.step, progress.steps) for progress in decoded] == [(step, 13) for step in range(1, 14)]
    assert decoded[-1].seconds_left == 0
    previews = [progress.preview for progress in decoded if progress.preview is not None]
    assert 3 <= len(previews) <= 4
    assert all(max(preview.shape) == 480 and preview.dtype == np.uint8 for preview in previews)


def test_without_a_camera_word_the_engine_pushes_in_gently_and_says_that_it_chose_to(engine):
    shown = picture("cat")
    frames = film(engine, shown, request_for(shown))
    assert 0.001 < movement(frames)[2] < 0.02
    assert codes(engine) == {"camera_moves_only", "camera_move_chosen"}
    assert engine.facts()["camera"] == [["dolly_in"]] and engine.facts()["camera_chosen_by"] == "engine"


def test_a_pan_tells_how_much_of_the_picture_it_shows(engine):
    shown = picture("cat")
    film(engine, shown, request_for(shown, "pan_left"))
    assert codes(engine) == {"camera_moves_only", "camera_crop_in"}
    percent = int(engine.facts()["widest_share"] * 100)
    message = next(finding.message for finding in engine.findings() if finding.code == "camera_crop_in")
    assert f"{percent} %" in message.en and f"{percent}%" in message.zh
    assert 75 < percent < 95


def test_a_landscape_without_a_subject_is_said_to_have_none(engine):
    shown = picture("mountains")
    film(engine, shown, request_for(shown, "dolly_in", frames=2))
    assert "no_subject" in codes(engine)
    assert engine.facts()["subject"]["found"] is False and engine.facts()["depth"] == "ground"


def test_moves_that_contradict_each_other_follow_one_another_and_the_person_is_told(engine):
    shown = picture("stream")
    frames = film(engine, shown, request_for(shown, "pan_left", "pan_right", frames=13))
    assert movement(frames[:7])[0] > 1 and movement(frames[6:])[0] < -1
    assert "camera_moves_in_sequence" in codes(engine)
    assert engine.facts()["camera"] == [["pan_left"], ["pan_right"]]


def test_moves_that_agree_are_carried_out_at_once(engine):
    shown = picture("stream")
    right, _, growth = movement(film(engine, shown, request_for(shown, "pan_left", "zoom_in")))
    assert right > 1 and growth > 0.01
    assert "camera_moves_in_sequence" not in codes(engine)


def test_an_engine_that_was_closed_loads_again(engine):
    shown = picture("cat", 128)
    used = CameraEngine()
    first = film(used, shown, request_for(shown, "zoom_in", frames=2))
    used.close()
    assert np.array_equal(first, film(used, shown, request_for(shown, "zoom_in", frames=2)))


@pytest.mark.parametrize(("width", "height", "frames"), [(64, 64, 1), (64, 640, 2), (640, 64, 2)])
def test_the_smallest_and_the_narrowest_pictures_work(engine, width, height, frames):
    shown = textured(width, height)
    for tag in ("dolly_in", "roll_cw", "orbit_left"):
        assert film(engine, shown, request_for(shown, tag, frames=frames)).shape == (frames, height, width, 3)
