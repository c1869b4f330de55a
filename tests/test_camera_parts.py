"""The parts of the camera engine: curves, shots, the subject network, the cut-out. Each by what must hold for it."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from i2v_pipeline.camera_moves import MOVES, plan_phases
from i2v_pipeline.engines.camera.cutout import cut_out
from i2v_pipeline.engines.camera.depth import ground_depth
from i2v_pipeline.engines.camera.layers import Sprite, Stage, build_flat_stage, build_stage
from i2v_pipeline.engines.camera.lens import Lens, Pose
from i2v_pipeline.engines.camera.path import AMOUNTS, plan_moves
from i2v_pipeline.engines.camera.render import render_frames
from i2v_pipeline.engines.camera.shot import Shot, plan_shot
from i2v_pipeline.engines.camera.subject import NETWORK_PATH, SubjectNetwork, judge_mask
from i2v_pipeline.errors import StudioError
from i2v_pipeline.types import CameraTag, Intensity, Motion, Speed, U8Image

ROOT = Path(__file__).resolve().parents[1]
TAGS: tuple[CameraTag, ...] = get_args(CameraTag)
EVERY_PIXEL_STEP = 7

motions = st.builds(
    Motion,
    camera=st.lists(st.sampled_from(TAGS), min_size=1, max_size=6).map(tuple),
    requested=st.just(True),
    speed=st.sampled_from(get_args(Speed)),
    intensity=st.sampled_from(get_args(Intensity)),
)


@pytest.fixture(scope="module")
def network() -> SubjectNetwork:
    return SubjectNetwork()


def example(name: str) -> U8Image:
    with Image.open(ROOT / "examples" / f"{name}.jpg") as opened:
        opened.thumbnail((512, 512))
        return np.asarray(opened.convert("RGB"))


def curved(amount_of: str, motion: Motion, frames: int = 33) -> np.ndarray:
    return plan_moves(motion, frames=frames, fps=8, seed=1).axes[amount_of]


def test_every_tag_has_a_move_and_every_move_an_amount():
    assert set(MOVES) == set(TAGS)
    assert {axis for move in MOVES.values() for axis in move} == set(AMOUNTS)


@given(motion=motions, seed=st.integers(0, 2**32), frames=st.integers(1, 120), fps=st.integers(4, 60))
@settings(max_examples=60, deadline=None)
def test_no_axis_ever_passes_its_limit_and_all_curves_have_one_value_a_frame(motion, seed, frames, fps):
    moves = plan_moves(motion, frames=frames, fps=fps, seed=seed)
    assert moves.hand.shape == (frames, 5)
    for axis, curve in moves.axes.items():
        assert curve.shape == (frames,) and np.isfinite(curve).all()
        assert np.ptp(curve) <= AMOUNTS[axis][1] * len(moves.phases)


@given(motion=motions, seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_curves_begin_and_end_gently_and_never_jerk(motion, seed):
    moves = plan_moves(motion, frames=121, fps=24, seed=seed)
    for curve in moves.axes.values():
        speed = np.diff(curve)
        assert np.abs(np.diff(speed)).max() <= 0.1 * np.abs(speed).max() * len(moves.phases)
        assert max(abs(speed[0]), abs(speed[-1])) <= 0.35 * np.abs(speed).max()


def test_the_unrest_of_a_hand_is_slow_enough_to_look_like_one():
    hand = plan_moves(Motion(camera=("handheld",)), frames=240, fps=24, seed=5).hand
    assert (np.ptp(hand, axis=0) > 0.003).all()
    assert (np.abs(np.diff(hand, n=2, axis=0)).max(axis=0) < 0.1 * np.ptp(hand, axis=0)).all()


def test_more_intensity_and_more_speed_go_further():
    for tags, axis in (
        (("pan_left",), "pan"),
        (("zoom_in",), "zoom"),
        (("dolly_out",), "dolly"),
        (("roll_cw",), "roll"),
    ):
        by_intensity = [np.ptp(curved(axis, Motion(camera=tags, intensity=step))) for step in get_args(Intensity)]
        by_speed = [np.ptp(curved(axis, Motion(camera=tags, speed=step))) for step in get_args(Speed)]
        assert by_intensity == sorted(by_intensity) and by_intensity[-1] > 2 * by_intensity[0]
        assert by_speed == sorted(by_speed) and by_speed[-1] > 2 * by_speed[0]


def test_seeds_vary_the_amount_by_no_more_than_a_tenth():
    spans = [
        np.ptp(plan_moves(Motion(camera=("pan_left",)), frames=33, fps=8, seed=seed).axes["pan"]) for seed in range(40)
    ]
    assert max(spans) / min(spans) < 1.2 and np.std(spans) > 0.01 * np.mean(spans)


@pytest.mark.parametrize(
    ("tags", "phases"),
    [
        (("pan_left", "zoom_in"), [{"pan_left", "zoom_in"}]),
        (("dolly_in", "zoom_out"), [{"dolly_in", "zoom_out"}]),
        (("pan_left", "pan_right"), [{"pan_left"}, {"pan_right"}]),
        (("static", "tilt_up"), [{"static"}, {"tilt_up"}]),
        (("zoom_in", "pan_left", "zoom_out"), [{"zoom_in", "pan_left"}, {"zoom_out"}]),
        (("pan_left", "handheld"), [{"pan_left", "handheld"}]),
        (("static", "handheld"), [{"static"}, {"handheld"}]),
        (("pan_left", "pan_right", "handheld"), [{"pan_left", "handheld"}, {"pan_right", "handheld"}]),
        (("follow", "orbit_left"), [{"follow", "orbit_left"}]),
        (("pan_left", "pan_left"), [{"pan_left"}]),
    ],
)
def test_tags_that_one_camera_can_do_at_once_share_a_phase(tags, phases):
    assert [sorted(phase) for phase in plan_phases(tags)] == [sorted(phase) for phase in phases]


def test_a_phase_that_is_static_stands_still():
    curve = plan_moves(Motion(camera=("static", "pan_left")), frames=41, fps=8, seed=3).axes["pan"]
    assert np.ptp(curve[:20]) < 1e-9 and np.ptp(curve[21:]) > 0.05


def test_following_drifts_to_the_side_that_another_tag_names():
    for seed in range(6):
        curve = plan_moves(Motion(camera=("follow", "truck_left")), frames=9, fps=8, seed=seed).axes["orbit"]
        assert curve[-1] < curve[0]


def stage_of(width: int, height: int) -> Stage:
    """A subject in the middle before a ground that comes nearer downwards."""
    ramp = np.repeat(np.linspace(0.2, 1, 16, dtype=np.float32)[:, None], 16, axis=1)
    return Stage(
        scale=1,
        backdrop=np.zeros((height, width, 3), np.uint8),
        depth=ramp,
        subject=Sprite(rgba=np.zeros((2, 2, 4), np.uint8), offset_px=(0, 0), depth=np.full((16, 16), 0.95, np.float32)),
        pivot=0.9,
        focus_px=(0.7 * width, 0.3 * height),
        depth_kind="ground and subject",
    )


@given(motion=motions, seed=st.integers(0, 2**32), size=st.sampled_from([(640, 360), (360, 640), (512, 512)]))
@settings(max_examples=25, deadline=None)
def test_no_camera_ever_looks_past_the_edge_of_the_picture(motion, seed, size):
    width, height = size
    stage = stage_of(width, height)
    shot = plan_shot(plan_moves(motion, frames=13, fps=4, seed=seed), stage, width=width, height=height, frames=13)
    x, y = np.arange(0, width, EVERY_PIXEL_STEP), np.arange(0, height, EVERY_PIXEL_STEP)
    x, y = np.append(x, width - 1), np.append(y, height - 1)
    pixels = np.dstack(np.meshgrid(x, y)).astype(np.float32)
    assert stage.subject is not None
    for pose in shot.poses:
        assert pose.zoom >= 1
        for depth in (stage.depth, stage.subject.depth):
            seen = shot.lens.shown(pixels, pose, depth)
            assert seen.min() > -0.5
            assert (seen.max(axis=(0, 1)) < (width - 0.5, height - 0.5)).all()


def test_moves_that_would_leave_too_little_of_the_picture_are_made_smaller():
    everything = Motion(
        camera=("pan_left", "tilt_up", "truck_left", "crane_up", "orbit_right", "roll_cw", "handheld"),
        intensity="high",
        speed="timelapse",
    )
    moves = plan_moves(everything, frames=9, fps=2, seed=1)
    shot = plan_shot(moves, stage_of(640, 360), width=640, height=360, frames=9)
    assert shot.reduced and 1.4 < shot.crop_in <= 1.8
    assert 0 < np.ptp(shot.moves.axes["pan"]) < np.ptp(moves.axes["pan"])
    alone = plan_moves(Motion(camera=("pan_left",), intensity="high", speed="timelapse"), frames=9, fps=1, seed=1)
    assert not plan_shot(alone, stage_of(640, 360), width=640, height=360, frames=9).reduced


def test_a_zoom_or_a_dolly_alone_needs_no_margin():
    for tag in ("zoom_in", "zoom_out", "dolly_in", "dolly_out"):
        moves = plan_moves(Motion(camera=(tag,)), frames=9, fps=8, seed=1)
        shot = plan_shot(moves, stage_of(320, 240), width=320, height=240, frames=9)
        assert shot.crop_in == 1 and shot.widest_share == pytest.approx(1)


def test_what_a_lens_shows_is_what_its_depth_projects_back_to_the_pixel():
    lens = Lens(width=320, height=240, aim_px=(100, 80))
    pose = Pose(zoom=1.2, yaw=0.05, pitch=-0.03, roll=0.08, x=0.04, y=-0.02, z=0.15)
    depth = np.repeat(np.linspace(0.2, 1, 30, dtype=np.float32)[:, None], 40, axis=1)
    pixel = np.array([[[220.0, 150.0]]], np.float32)
    seen = lens.shown(pixel, pose, depth)[0, 0]
    # Forwards: the point in space, as the moved and turned camera sees it.
    row = (seen[1] + 0.5) / 240 * 30 - 0.5
    near = np.interp(row, np.arange(30), depth[:, 0])
    centre, focal = np.array(lens.centre_px), lens.focal_px
    point = np.append((seen - centre) / focal, 1.0) / near - (pose.x, pose.y, pose.z)
    yaw = np.array([[math.cos(0.05), 0, math.sin(0.05)], [0, 1, 0], [-math.sin(0.05), 0, math.cos(0.05)]])
    pitch = np.array([[1, 0, 0], [0, math.cos(-0.03), -math.sin(-0.03)], [0, math.sin(-0.03), math.cos(-0.03)]])
    roll = np.array([[math.cos(0.08), -math.sin(0.08), 0], [math.sin(0.08), math.cos(0.08), 0], [0, 0, 1]])
    turned = (yaw @ pitch @ roll).T @ point
    projected = turned[:2] / turned[2] * focal + centre
    aimed = np.array(lens.aim_px) + (projected - lens.aim_px) * pose.zoom
    assert aimed == pytest.approx(pixel[0, 0], abs=0.02)


def test_a_shift_by_any_part_of_a_pixel_keeps_the_picture_sharp_and_moves_it_evenly():
    pixels = example("stream")
    height, width = pixels.shape[:2]
    stage = build_flat_stage(pixels, judge_mask(np.zeros((320, 320), np.float32)))
    lens = Lens(width=width, height=height, aim_px=(0, 0))
    turns = [math.atan(eighth / 8 / lens.focal_px) for eighth in range(9)]
    poses = tuple(Pose(zoom=1, yaw=turn, pitch=turn, roll=0, x=0, y=0, z=0) for turn in turns)
    shot = Shot(moves=plan_moves(Motion(), frames=9, fps=1, seed=0), reduced=False, lens=lens, poses=poses, crop_in=1)
    frames = [frame[20:-20, 20:-20].astype(np.float32) for frame in render_frames(stage, shot)]
    sharpness = [cv2.Laplacian(frame, cv2.CV_32F).std() for frame in frames]
    assert min(sharpness) > 0.79 * sharpness[0]
    steps = [np.abs(after - before).mean() for before, after in pairwise(frames)]
    assert min(steps) > 0.6 * max(steps)


def test_the_subject_network_finds_subjects_and_leaves_landscapes_alone(network):
    found = {
        name: network.find(example(name)) for name in ("cat", "astronaut", "flower", "coffee", "mountains", "stream")
    }
    assert {name for name, subject in found.items() if subject.found} == {"cat", "astronaut", "flower", "coffee"}
    assert found["flower"].area_share == pytest.approx(0.22, abs=0.03)
    assert found["flower"].confidence > 0.9


def test_a_ridge_from_edge_to_edge_is_no_subject():
    mask = np.zeros((320, 320), np.float32)
    mask[80:200] = 0.85
    assert not judge_mask(mask).found
    mask[:, :40] = 0
    assert judge_mask(mask).found


def test_a_damaged_network_is_refused_in_a_plain_sentence(tmp_path):
    damaged = tmp_path / "u2netp.onnx"
    damaged.write_bytes(NETWORK_PATH.read_bytes()[:-1] + b"x")
    with pytest.raises(StudioError, match=r"u2netp\.onnx is damaged") as caught:
        SubjectNetwork(damaged)
    assert "已损坏" in caught.value.text.zh
    with pytest.raises(StudioError, match="cannot be read"):
        SubjectNetwork(tmp_path / "absent.onnx")


def test_the_background_behind_a_subject_has_its_colours_and_not_the_subjects(network):
    pixels = example("flower")
    cutout = cut_out(pixels, network.find(pixels).mask, lambda: None)
    assert cutout is not None
    middle = np.s_[
        cutout.plate.shape[0] // 3 : cutout.plate.shape[0] // 2, pixels.shape[1] // 2 - 60 : pixels.shape[1] // 2
    ]
    assert pixels[middle][..., 0].mean() > 180
    assert cutout.plate[middle][..., 0].mean() < 80


def test_the_subject_laid_over_its_background_gives_the_picture_back(network):
    pixels = example("astronaut")
    cutout = cut_out(pixels, network.find(pixels).mask, lambda: None)
    assert cutout is not None
    left, top = cutout.offset_px
    high, wide = cutout.rgba.shape[:2]
    again = cutout.plate.astype(float)
    part = again[top : top + high, left : left + wide]
    part[:] = part * (1 - cutout.rgba[..., 3:] / 255) + cutout.rgba[..., :3]
    difference = np.abs(again - pixels).max(axis=2)
    assert difference.mean() < 0.5 and (difference > 24).mean() < 0.01


@pytest.mark.parametrize("size", [(64, 64), (640, 64), (64, 640), (640, 360)])
@pytest.mark.parametrize("shape", ["line", "dots", "ring", "almost everything"])
def test_a_subject_of_any_shape_is_cut_out_or_left_alone(size, shape):
    mask = np.zeros((320, 320), np.float32)
    if shape == "line":
        mask[:, 158:162] = 1
    elif shape == "dots":
        mask[::9, ::9] = 1
    elif shape == "ring":
        cv2.circle(mask, (160, 160), 100, 1.0, 3)
    else:
        mask[12:-12, 20:] = 1
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    subject = judge_mask(mask)
    assert subject.found
    stage = build_stage(pixels, subject, lambda: None)
    assert (stage.subject is None) == (stage.depth_kind == "ground")
    assert shape != "almost everything" or stage.subject is not None


def test_the_ground_is_far_in_the_sky_and_near_at_the_feet():
    pixels = example("sunset")
    depth = ground_depth(pixels, (48, 32), slope=1.0)
    assert (np.diff(depth[:, 0]) >= -1e-6).all() and (depth == depth[:, :1]).all()
    assert depth[8, 0] < 0.25 and depth[-1, 0] > 0.9


def test_straight_lines_stay_straight_on_open_ground():
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8), (720, 480))
    depth = ground_depth(pixels, (90, 60), slope=1.0)
    assert np.abs(np.diff(depth[:, 0], n=2)).max() < 2e-3
