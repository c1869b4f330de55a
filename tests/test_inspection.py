"""The inspection of a finished video against clips whose movement and defects are known."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest

from bench.inspection import coded, inspect_engine
from bench.synthetic_clips import EXAMPLES, Clip, label_of, make
from i2v_pipeline.inspection.judge import inspect_frames, quality_of
from i2v_pipeline.inspection.likeness import delta_e, ssim
from i2v_pipeline.inspection.motion import luma_for_work, measure_pair

CLIP = Clip(photo="mountains", width=480, height=320, frames=25, fps=16)
PAN = replace(CLIP, pan=0.006)
MOVES = (
    {"pan": 0.006}, {"pan": -0.006}, {"tilt": 0.006}, {"tilt": -0.006}, {"zoom": 0.008}, {"zoom": -0.008},
    {"roll": 0.5}, {"roll": -0.5}, {"pan": 0.005, "tilt": 0.005}, {"shake": 2.0}, {"grain": 2.0},
)  # fmt: skip
PHOTOS = ("cat", "dogs")
DEFECTS = (
    "static", "flash", "strobe", "flicker", "duplicate_frames", "black", "blur", "color_drift", "snap_back",
)  # fmt: skip


@pytest.fixture(scope="module")
def picture():
    return make(replace(CLIP, frames=1)).first


def inspected(clip, **options):
    return inspect_frames([make(clip).frames], fps=clip.fps, **options)


def codes(inspection):
    return {flag.code for flag in inspection.flags}


@pytest.mark.parametrize("move", MOVES, ids=lambda move: "+".join(f"{name}{value:+}" for name, value in move.items()))
def test_a_camera_move_gets_its_name_and_its_amount_and_no_defect(move):
    clip = replace(CLIP, **move)
    found = inspected(clip)
    assert found.motion.label == label_of(clip)
    assert found.motion.pan_px == pytest.approx(clip.pan * clip.width, rel=0.1, abs=0.5 if clip.shake else 0.05)
    assert found.motion.tilt_px == pytest.approx(clip.tilt * clip.height, rel=0.1, abs=0.5 if clip.shake else 0.05)
    assert found.motion.zoom_percent == pytest.approx(clip.zoom * 100, rel=0.1, abs=0.02)
    assert found.motion.roll_deg == pytest.approx(clip.roll, rel=0.1, abs=0.02)
    assert codes(found) == set()


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("photo", PHOTOS)
def test_a_planted_defect_is_found_by_name_and_at_its_place_and_nothing_else_is(defect, photo):
    clip = replace(PAN, photo=photo, defects=(defect,), seed=5)
    made = make(clip)
    found = inspect_frames([made.frames], fps=clip.fps)
    assert codes(found) == {defect}
    (flag,) = found.flags
    assert set(flag.frames) & set(made.touched[defect])
    if defect in ("flash", "strobe", "black", "duplicate_frames", "snap_back"):
        assert set(flag.frames) == set(made.touched[defect])


def test_coding_and_grain_change_no_verdict():
    clip = replace(PAN, photo=PHOTOS[0], grain=3.0, crf=30)
    video, first = coded(clip)
    found = inspect_frames([video], fps=clip.fps, picture=first, asked=("pan_right",))
    assert (found.motion.label, codes(found), found.asked) == ("pan_right", set(), {"pan_right": True})
    assert (found.same_place_ssim or 0) > 0.6
    assert not found.is_broken


def test_something_that_moves_by_itself_is_no_camera_move_and_is_measured():
    found = inspected(replace(CLIP, subject=0.02, grain=1.0))
    assert found.motion.label == "static"
    assert found.motion.subject_px == pytest.approx(0.02 * CLIP.width, rel=0.1)


def test_chunks_of_any_length_give_the_same_inspection():
    frames = make(PAN).frames
    assert quality_of(inspect_frames([frames], fps=16)) == quality_of(
        inspect_frames(itertools.chain([frames[:1]], [frames[1:9]], [frames[9:]]), fps=16)
    )


@pytest.mark.parametrize(
    ("tag", "is_shown"),
    [("pan_right", True), ("truck_right", True), ("pan_left", False), ("zoom_in", False), ("static", False),
     ("handheld", False), ("roll_cw", False), ("follow", None)],
)  # fmt: skip
def test_what_was_asked_is_held_against_what_is_seen(tag, is_shown):
    assert inspected(PAN, asked=(tag,)).asked == {tag: is_shown}


def test_the_verdict_calls_what_was_missed_by_the_names_that_people_use():
    verdict = inspected(PAN, asked=("pan_right", "dolly_in", "roll_cw", "follow")).verdict
    assert verdict.en == "The camera pans right; asked for and not seen: push in, roll clockwise."
    assert verdict.zh == "镜头向右摇；要求但未出现：推近、顺时针旋转。"


def test_where_nothing_can_be_followed_the_verdict_claims_no_movement():
    stripes = np.repeat(np.arange(0, 250, 10, dtype=np.uint8), 8)[:, None, None].repeat(200, 1).repeat(3, 2)
    levels = (0, 5, 2, 8, 1, 6, 3, 9)
    found = inspect_frames([np.stack([stripes + level for level in levels]).astype(np.uint8)], fps=8)
    assert found.verdict.en.startswith("How the camera moves cannot be told")


def test_light_that_flickers_hides_no_movement():
    clip = replace(PAN, photo="rocket", pan=0.004, defects=("flicker",), seed=3)
    found = inspected(clip)
    assert found.motion.label == "pan_right"
    assert found.motion.pan_px == pytest.approx(0.004 * clip.width, rel=0.1)
    assert codes(found) == {"flicker"}


def test_a_part_of_the_picture_that_rests_now_and_then_is_no_repeated_frame():
    frames = make(replace(CLIP, grain=1.0)).frames.copy()
    random = np.random.default_rng(2)
    for index in range(len(frames)):
        # Somebody small who walks and stands, before a camera that does not move.
        left = 40 + 12 * (index - index // 4)
        frames[index, 100:180, left : left + 40] = random.integers(0, 255, (80, 40, 3))
    assert "duplicate_frames" not in codes(inspect_frames([frames], fps=10))


def test_a_repeated_frame_is_found_under_a_camera_that_stands_still():
    frames = make(replace(CLIP, subject=0.02, grain=2.0)).frames.copy()
    frames[7], frames[15] = frames[6], frames[14]
    (flag,) = inspect_frames([frames], fps=16).flags
    assert (flag.code, flag.frames) == ("duplicate_frames", (7, 15))


def test_near_and_far_that_slide_against_each_other_are_no_drift_of_colours():
    found = inspect_engine(EXAMPLES / "coffee.jpg", "orbit_left")
    assert codes(found) == set()


def test_a_hand_is_seen_as_one():
    assert inspected(replace(CLIP, shake=2.0), asked=("handheld",)).asked == {"handheld": True}


def test_a_still_video_is_broken_unless_stillness_was_asked_for():
    still = replace(CLIP, defects=("static",))
    assert inspected(still).is_broken
    wanted = inspected(still, asked=("static",))
    assert not wanted.is_broken
    assert "no defect" in wanted.verdict.en


def test_another_picture_at_the_start_is_told_and_a_closer_view_of_the_same_one_is_not(picture):
    other = make(replace(CLIP, photo="flower", frames=1)).first
    assert inspected(PAN, picture=other).is_broken
    zoomed = inspected(replace(CLIP, photo="mountains", zoom=0.01), picture=make(PAN).frames[-1])
    assert not zoomed.is_broken


def test_frames_of_one_colour_are_told_as_black_ones_are():
    grey = np.full((8, 64, 96, 3), 128, np.uint8)
    found = inspect_frames([grey], fps=8)
    assert codes(found) == {"black", "static"}
    assert found.is_broken
    assert found.motion.label == "mixed"


def test_a_single_frame_has_no_defect_and_no_movement(picture):
    found = inspect_frames([picture[None]], fps=8, picture=picture)
    assert (found.motion.label, found.flags, found.first_frame) == ("static", (), (pytest.approx(1), 0))


def test_a_video_without_a_frame_is_an_error():
    with pytest.raises(ValueError, match="no frame"):
        inspect_frames([], fps=8)


def test_a_movement_and_its_way_back_cancel_out():
    frames = make(PAN).frames
    there = measure_pair(luma_for_work(frames[0]), luma_for_work(frames[2]), scale=CLIP.width / 448)
    back = measure_pair(luma_for_work(frames[2]), luma_for_work(frames[0]), scale=CLIP.width / 448)
    assert there.pan_px == pytest.approx(-back.pan_px, abs=0.05)


def test_a_picture_is_like_itself_and_less_like_what_was_done_to_it(picture):
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 20, picture.shape), 0, 255).astype(np.uint8)
    blurred = cv2.GaussianBlur(picture, (0, 0), 3)
    assert ssim(picture, picture) == pytest.approx(1)
    assert delta_e(picture, picture) == 0
    assert ssim(picture, blurred) < 0.9
    assert ssim(picture, noisy) < 0.9


def test_colour_difference_is_distance_in_lab():
    white, grey = np.full((4, 4, 3), 255, np.uint8), np.full((4, 4, 3), 119, np.uint8)
    # L* of sRGB 119 is 50.03 by the CIE formula, a* and b* are zero; OpenCV interpolates in a table.
    assert delta_e(white, grey) == pytest.approx(49.97, abs=0.3)
