"""What is said before a run: each finding on its case, none on good pictures and usual settings, nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from page_handlers import CAT, FORM, Studio
from PIL import Image, ImageDraw, ImageFont

from bench.preflight import (
    EXAMPLES,
    NO_SUBJECT,
    ROOT,
    blurred,
    moved,
    poster,
    saved,
    scaled,
    scene,
    side_by_side,
    size_of,
)
from i2v_pipeline.advice import training_findings
from i2v_pipeline.engines.camera.subject import SubjectNetwork, judge_mask
from i2v_pipeline.images import open_picture
from i2v_pipeline.inspection.faces import Face, FaceNetwork
from i2v_pipeline.inspection.picture import blockiness
from i2v_pipeline.inspection.preflight import (
    MIN_BLOCKS,
    picture_findings,
    request_findings,
    without_repeats,
)
from i2v_pipeline.inspection.subjects import Found, SubjectFinder, subject_findings
from i2v_pipeline.pipeline import EngineCache, run
from i2v_pipeline.presets import find_engine
from i2v_pipeline.types import Finding, Motion, Text
from studio.checking import find_findings
from studio.foreground import outputs_at
from studio.jobs.store import JobStore
from studio.recipe import Choice, compose, origin_of

SIZE = (1280, 720)
SIDEWAYS = Motion(camera=("pan_left", "pan_right"), requested=True)


def codes(findings):
    return {finding.code for finding in findings}


def request_of(engine, *, prompt="the cat turns its head", motion=None, size=SIZE, **choices):
    spec = find_engine(engine)
    motion = motion or Motion()
    choice = Choice(seed=1, **choices)
    origin = origin_of(prompt, None)
    request = compose(spec, choice, image=Path("x"), image_size=size, prompt=prompt, origin=origin, motion=motion)
    return spec, request


def said(engine, *, size=SIZE, count_tokens=None, compound=False, **choices):
    spec, request = request_of(engine, size=size, **choices)
    found = request_findings(spec, request, source_size=size, count_tokens=count_tokens, compound=compound)
    return {finding.code: finding for finding in found}


@pytest.fixture(scope="module")
def network():
    return SubjectNetwork()


@pytest.fixture(scope="module")
def astronaut():
    return open_picture(ROOT / "examples" / "astronaut.jpg").pixels


@pytest.fixture(scope="module")
def finder():
    return SubjectFinder()


@pytest.fixture(scope="module")
def flower(network):
    """The picture, and the mask of its subject."""
    pixels = open_picture(ROOT / "examples" / "flower.jpg").pixels
    return pixels, network.find(pixels).mask


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_nothing_is_wrong_with_an_example_photograph(path):
    picture = open_picture(path)
    assert codes(picture_findings(picture.pixels)) == set()
    assert said("camera", size=(picture.width, picture.height)) == {}


@pytest.mark.parametrize("name", ["coffee", "pagoda", "seeding"])
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda pixels: blurred(pixels, 5), "blurry"),
        (lambda pixels: moved(pixels, 20, 30), "blurry"),
        (lambda pixels: saved(pixels, 8), "picture_blocky"),
        (lambda pixels: (pixels * 0.2).astype(np.uint8), "picture_dark"),
        (lambda pixels: scaled(pixels, 200), "picture_small"),
        (lambda pixels: poster(np.random.default_rng(4), pixels), "text_poster"),
        (lambda pixels: np.full_like(pixels, 128), "picture_one_colour"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_of_the_picture_is_found_and_no_other(name, damage, code):
    pixels = open_picture(ROOT / "examples" / f"{name}.jpg").pixels
    found = picture_findings(damage(pixels))
    assert codes(found) == {code}
    assert all(each.severity == "warn" and each.remedy for each in found)


def test_blur_is_found_at_every_size_of_the_same_picture():
    pixels = blurred(open_picture(ROOT / "examples" / "mountains.jpg").pixels, 6)
    assert all("blurry" in codes(picture_findings(scaled(pixels, side))) for side in (2048, 1024, 512))


@pytest.mark.parametrize(("step", "is_seen"), [(1, False), (3, False), (8, True)])
def test_blocks_count_when_their_steps_can_be_seen(step, is_seen):
    rows, columns = np.mgrid[0:512, 0:512] // 8
    blocks = (100 + step * ((rows + columns) % 2)).astype(np.uint8)
    assert (blockiness(np.repeat(blocks[..., None], 3, axis=2)) > MIN_BLOCKS) == is_seen


def test_parts_of_one_ink_in_a_row_are_lettering_whatever_their_height():
    """As printed hanzi fall apart into: no common base, no common height, one colour; a row of many inks is none."""
    random = np.random.default_rng(2)
    for levels, is_text in ((range(235, 236), True), (range(70, 250, 20), False)):
        pixels = np.full((540, 960, 3), 40, np.uint8)
        for top in (60, 160, 260, 360):
            for place, left in enumerate(range(40, 900, 30)):
                high, low = top + int(random.integers(0, 16)), top + int(random.integers(30, 46))
                ink = levels[place % len(levels)]
                cv2.line(pixels, (left, high), (left, low), (ink, ink, ink), 5)
        assert ("text_poster" in codes(picture_findings(pixels))) == is_text


def test_a_small_page_of_text_is_lettering_too():
    page = Image.new("L", (384, 190), 235)
    for line in range(6):
        text = "the letters of this page"
        ImageDraw.Draw(page).text((8, 8 + 30 * line), text, fill=30, font=ImageFont.load_default(14))
    assert "text_poster" in codes(picture_findings(np.array(page.convert("RGB"))))


def test_two_subjects_that_touch_are_two(finder, flower):
    pixels, mask = flower
    found = subject_findings(finder.find(scene(pixels, mask, side_by_side(size_of(mask, pixels.shape), 0.45))))
    assert codes(found) == {"multiple_subjects"}


def test_a_face_is_found_where_it_is(astronaut):
    (face,) = FaceNetwork().find(astronaut)
    middle = face.left + face.width / 2, face.top + face.height / 2
    assert middle == pytest.approx((0.44, 0.23), abs=0.02)
    assert face.height == pytest.approx(0.23, abs=0.03)


@pytest.mark.parametrize(("scale", "code"), [(1.0, "multiple_subjects"), (0.6, "multiple_subjects"), (0.35, None)])
def test_people_of_one_shape_are_told_apart_by_their_faces_and_those_far_behind_do_not_count(astronaut, scale, code):
    other = scaled(astronaut, scale * astronaut.shape[1])
    beside = np.full_like(astronaut, 90)
    beside[-other.shape[0] :, : other.shape[1]] = other
    faces = FaceNetwork().find(np.concatenate((astronaut, beside), axis=1))
    assert len(faces) == 2
    shape = np.zeros((320, 320), np.float32)
    shape[40:, 60:260] = 1
    assert subject_findings(Found(subject=judge_mask(shape))) == ()
    found = subject_findings(Found(subject=judge_mask(shape), faces=faces))
    assert codes(found) == ({code} if code else set())
    if code:
        assert "at least 2 faces" in found[0].message.en
        assert "2 张人脸" in found[0].message.zh


@pytest.mark.parametrize("between", [0.3, 0.4, 0.7])
def test_what_is_apart_at_one_level_of_sureness_alone_is_several(between):
    """Two that the network is sure of, with as much between them."""
    mask = np.zeros((320, 320), np.float32)
    mask[100:220, 40:280] = between
    mask[100:220, 40:130] = mask[100:220, 190:280] = 1
    assert codes(subject_findings(Found(subject=judge_mask(mask)))) == {"multiple_subjects"}


def test_a_second_subject_of_which_the_network_is_less_sure_is_one():
    mask = np.zeros((320, 320), np.float32)
    mask[60:260, 40:140] = 1
    assert codes(subject_findings(Found(subject=judge_mask(mask)))) <= {"subject_off_centre"}
    mask[60:260, 200:260] = 0.4
    assert codes(subject_findings(Found(subject=judge_mask(mask)))) == {"multiple_subjects"}


def test_the_neck_of_a_person_does_not_make_two_of_one():
    mask = np.zeros((320, 320), np.float32)
    cv2.circle(mask, (160, 100), 60, 1.0, -1)
    cv2.circle(mask, (160, 220), 66, 1.0, -1)
    face = Face(left=0.4, top=0.15, width=0.2, height=0.3, score=0.9)
    assert codes(subject_findings(Found(subject=judge_mask(mask)))) == {"multiple_subjects"}
    assert subject_findings(Found(subject=judge_mask(mask), faces=(face,))) == ()


def test_where_there_is_a_face_nobody_says_that_there_is_no_subject():
    nothing = judge_mask(np.zeros((320, 320), np.float32))
    face = Face(left=0.4, top=0.2, width=0.1, height=0.15, score=0.8)
    assert codes(subject_findings(Found(subject=nothing))) == {"no_subject"}
    assert subject_findings(Found(subject=nothing, faces=(face,))) == ()


def test_a_subject_too_small_for_the_network_is_found_close_up(network, flower):
    pixels, mask = flower
    shown = scene(pixels, mask, [(0.4, 0.6, 0.1)])
    subject = network.find_small(shown)
    assert codes(subject_findings(Found(subject=subject))) == {"tiny_subject"}
    rows, columns = np.nonzero(subject.mask > 0.5)
    assert (columns.mean() / 320, rows.mean() / 320) == pytest.approx((0.4, 0.6), abs=0.02)
    assert subject.area_share == pytest.approx((subject.mask > 0.5).mean(), rel=0.2)


def test_a_subject_that_fills_the_width_is_no_ridge_of_mountains():
    mask = np.zeros((320, 320), np.float32)
    mask[100:220] = 1
    assert judge_mask(mask).found
    assert not judge_mask(mask * 0.85).found


@pytest.mark.parametrize(
    ("places", "code"),
    [
        ([(0.5, 0.5, 0.7)], None),
        ([(0.25, 0.5, 0.55), (0.75, 0.5, 0.55)], "multiple_subjects"),
        ([(0.5, 0.5, 0.19)], "tiny_subject"),
        ([(0.85, 0.5, 0.5)], "subject_off_centre"),
    ],
)
def test_the_subject_is_alone_large_enough_and_inside_or_it_is_said(finder, flower, places, code):
    pixels, mask = flower
    found = subject_findings(finder.find(scene(pixels, mask, places)))
    assert codes(found) == ({code} if code else set())


def test_a_landscape_without_a_subject_is_told_and_is_no_fault(finder):
    pixels = open_picture(ROOT / "examples" / f"{NO_SUBJECT[0]}.jpg").pixels
    (found,) = subject_findings(finder.find(pixels))
    assert (found.code, found.severity) == ("no_subject", "info")


@pytest.mark.parametrize("engine", ["camera", "i2vgen-xl", "wan2.1-i2v-14b-480p", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"])
def test_the_standard_settings_of_an_engine_are_all_right(engine):
    assert said(engine, count_tokens=len if engine == "wan2.2-ti2v-5b" else None) == {}


@pytest.mark.parametrize(
    ("engine", "given", "code"),
    [
        ("camera", {"prompt": " \n"}, "prompt_empty"),
        ("camera", {"motion": SIDEWAYS}, "camera_moves_in_sequence"),
        ("wan2.2-ti2v-5b", {"motion": SIDEWAYS}, "camera_contradiction"),
        ("wan2.2-ti2v-5b", {"prompt": "word " * 600, "count_tokens": lambda text: len(text.split())}, "prompt_cut"),
        ("wan2.2-ti2v-5b", {"guidance": 9.0}, "guidance_unsuitable"),
        ("wan2.2-i2v-a14b", {"preset": "fast"}, "negative_unused"),
        ("i2vgen-xl", {"guidance": 4.0}, "guidance_unsuitable"),
        ("i2vgen-xl", {"guidance": 13.0, "motion": Motion(intensity="high")}, "guidance_stutter"),
        ("camera", {"size": (320, 260), "resolution": "1280x960"}, "picture_enlarged"),
        ("camera", {"resolution": "720x1280"}, "crop_loss"),
    ],
)
def test_a_setting_or_a_sentence_that_does_not_suit_is_told(engine, given, code):
    assert set(said(engine, **given)) == {code}


@pytest.mark.parametrize(("fit", "told"), [("crop", "4.0 times"), ("pad", "3.2 times")])
def test_how_much_a_picture_is_enlarged_is_told_as_it_is_fitted(fit, told):
    found = said("camera", size=(300, 300), resolution="1200x960", fit=fit)
    assert told in found["picture_enlarged"].message.en


@pytest.mark.parametrize("preset", ["preview", "high_motion", "creative"])
@pytest.mark.parametrize("engine", ["i2vgen-xl", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"])
@pytest.mark.parametrize("intensity", ["low", "medium", "high"])
def test_a_preset_taken_as_it_is_is_not_scolded(engine, preset, intensity):
    assert said(engine, preset=preset, motion=Motion(intensity=intensity)) == {}


@pytest.mark.parametrize(
    ("engine", "given"),
    [
        ("wan2.2-ti2v-5b", {"guidance": 9.0}),
        ("i2vgen-xl", {"guidance": 4.0}),
        ("i2vgen-xl", {"guidance": 13.0, "motion": Motion(intensity="high")}),
        ("camera", {"size": (320, 260), "resolution": "1280x960"}),
        ("camera", {"resolution": "720x1280"}),
        ("i2vgen-xl", {"frames": 32}),
        ("wan2.2-ti2v-5b", {"resolution": "832x480"}),
        ("i2vgen-xl", {"resolution": "720x1280"}),
    ],
)
def test_what_a_remedy_sets_takes_its_finding_away(engine, given):
    spec, request = request_of(engine, **given)
    size = given.get("size", SIZE)

    def warned(request):
        found = (*request_findings(spec, request, source_size=size), *training_findings(spec, request))
        return {finding.code: finding for finding in found if finding.severity == "warn"}

    found = warned(request)
    assert found
    for code, finding in found.items():
        assert finding.changes and finding.remedy
        changed = {change.field: change.value for change in finding.changes}
        assert code not in warned(request_of(engine, **{**given, **changed})[1])


def test_pad_in_place_of_crop_loses_nothing():
    assert said("camera", resolution="720x1280", fit="pad") == {}


def test_subject_and_camera_together_need_more_guidance_where_that_is_known():
    motion = Motion(camera=("pan_left",), requested=True)
    assert set(said("i2vgen-xl", motion=motion, compound=True)) == {"guidance_unsuitable"}
    assert set(said("i2vgen-xl", motion=motion)) == set()


def test_what_the_engine_says_itself_is_not_said_twice():
    early, late = (Finding(code="prompt_cut", severity="warn", message=Text(words, words)) for words in "ab")
    other = replace(early, code="blurry")
    assert without_repeats((early, other), (late, late)) == (other, late, late)


def test_a_check_joins_picture_prompt_and_settings_the_warnings_first():
    found = find_findings([ROOT / "examples" / "mountains.jpg"], "pan left, then pan right", find_engine("camera"))
    assert [finding.code for finding in found] == ["no_subject", "camera_moves_in_sequence", "match_unknown"]


def test_the_plan_on_the_page_tells_the_warnings_and_what_to_do(tmp_path):
    blurry = tmp_path / "blurry.png"
    Image.fromarray(blurred(open_picture(CAT).pixels, 6)).save(blurry)
    studio = Studio.on(JobStore(tmp_path / "data"))
    form, request = {**FORM, "image": {"path": str(blurry)}, "resolution": "720x1280"}, studio.open()
    card = studio.form.plan({**form, "planned": 0, "count": 1}, request)["plan"]
    assert "图片模糊" in card and "请换一张更清晰的图片" in card
    assert "该尺寸会裁去画面的" in card
    good = studio.form.plan({**FORM, "planned": 0, "count": 2}, request)["plan"]
    assert 'class="warn"' not in good


def test_the_report_has_what_was_said_before_the_run_once(tmp_path):
    blurry = tmp_path / "blurry.png"
    Image.fromarray(blurred(open_picture(CAT).pixels, 6)).save(blurry)
    _, request = request_of("camera", prompt="", motion=SIDEWAYS, size=(451, 300), resolution="256p", frames=8)
    engines = EngineCache()
    report = run(
        replace(request, images=(blurry,)), engines, outputs_at(tmp_path / "video.mp4"), lambda _: None, job_id="job"
    )
    told = [finding["code"] for finding in report["findings"]]
    assert len(told) == len(set(told))
    assert {"blurry", "prompt_empty", "camera_moves_in_sequence", "camera_moves_only"} <= set(told)


def test_the_command_prints_one_object_and_ends_well_whatever_it_finds(tmp_path):
    path = tmp_path / "small.png"
    path.write_bytes(open_picture(ROOT / "examples" / "cat.jpg").source)
    ended = subprocess.run(
        [sys.executable, "app.py", "check", str(path), "", "--engine", "camera", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    answer = json.loads(ended.stdout)
    assert [finding["code"] for finding in answer["findings"]] == ["prompt_empty", "match_unknown"]
    assert {"code", "severity", "message", "remedy"} <= set(answer["findings"][0])
