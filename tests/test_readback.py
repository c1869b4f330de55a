"""Reading a video back: what stands still, what is black, and how near the first frame is to the picture."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from i2v_pipeline.inspection.readback import delta_e, read_back, ssim

CAT = Path(__file__).parent.parent / "examples" / "cat.jpg"


@pytest.fixture(scope="module")
def picture():
    pixels = cv2.cvtColor(cv2.imread(str(CAT)), cv2.COLOR_BGR2RGB)
    return cv2.resize(pixels, (320, 208), interpolation=cv2.INTER_AREA)


def shifted(picture, x_px):
    matrix = np.float32([[1, 0, x_px], [0, 1, 0]])
    height, width = picture.shape[:2]
    return cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT, flags=cv2.INTER_CUBIC)


def chunk(*frames):
    return np.stack(frames)


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


def test_frames_that_do_not_move_make_a_static_video(picture):
    measured = read_back([chunk(picture, picture), chunk(picture)], picture)
    assert measured.frames == 3
    assert measured.to_quality(24.0)["flags"] == [{"code": "static", "frames": [1, 2]}]


def test_a_drift_of_a_tenth_of_a_pixel_is_not_static(picture):
    frames = [shifted(picture, 0.1 * index) for index in range(6)]
    assert read_back([chunk(*frames)], picture).still == ()


def test_a_single_frame_is_no_static_video(picture):
    assert read_back([chunk(picture)], picture).to_quality(24.0)["flags"] == []


def test_black_frames_are_named_by_number(picture):
    black = np.full_like(picture, 3)
    measured = read_back([chunk(picture, black, picture, black)], picture)
    assert measured.to_quality(24.0)["flags"] == [{"code": "black", "frames": [1, 3]}]


def test_the_first_frame_is_held_against_the_prepared_picture(picture):
    measured = read_back([chunk(shifted(picture, 40), picture)], picture)
    assert measured.first_frame_ssim < 0.6
    assert measured.first_frame_delta_e > 5


def test_a_video_without_a_frame_is_an_error(picture):
    with pytest.raises(ValueError, match="no frame"):
        read_back([], picture)
