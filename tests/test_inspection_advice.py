"""What is advised after a video with known troubles, on the real engines' presets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i2v_pipeline.inspection.advise import advise
from i2v_pipeline.inspection.defects import Flag, FlagCode
from i2v_pipeline.inspection.judge import Inspection
from i2v_pipeline.inspection.motion import CameraMotion
from i2v_pipeline.pipeline import EngineCache, Outputs, run
from i2v_pipeline.presets import find_engine
from i2v_pipeline.types import CameraTag, GenerationRequest, Motion, PromptOrigin

I2VGEN = find_engine("i2vgen-xl")
CAMERA = find_engine("camera")


def inspection(*codes: FlagCode, asked: dict[CameraTag, bool | None] | None = None) -> Inspection:
    return Inspection(
        frames=16, width=1280, height=704, fps=8, pairs=(), first_frame=None, same_place_ssim=None,
        found_again=None, asked=asked or {},
        flags=tuple(Flag(code=code, frames=(3, 4)) for code in codes),
        motion=CameraMotion(
            label="static", pan_px=0, tilt_px=0, zoom_percent=0, roll_deg=0, subject_px=0, smoothness=1
        ),
    )  # fmt: skip


def request(engine: str = "i2vgen-xl", **changes: Any) -> GenerationRequest:
    made = GenerationRequest(
        engine=engine, images=(Path("cat.jpg"),), prompt="a cat", motion=Motion(), resolution="704p", width=1280,
        origin=PromptOrigin(typed="", refined="", source="typed"), height=704, fit="crop", frames=16, fps=8, seed=7,
        steps=50, guidance=9.0, preset="standard", negative_prompt="motionless, static",
    )  # fmt: skip
    return replace(made, **changes)


def remedies(*codes: FlagCode, asked: dict[CameraTag, bool | None] | None = None, **changes: Any) -> dict[str, str]:
    found = advise(inspection(*codes, asked=asked), I2VGEN, request(**changes))
    assert all(finding.remedy and finding.remedy.zh for finding in found)
    return {finding.code: finding.remedy.en for finding in found if finding.remedy}


def test_a_good_video_needs_no_advice():
    assert remedies(asked={"pan_left": True, "orbit_left": None}) == {}


@pytest.mark.parametrize(
    ("code", "changes", "words"),
    [
        ("static", {}, "Raise “Guidance scale” to 11."),
        ("static", {"guidance": 11.0, "negative_prompt": "ugly"}, "Add to the negative prompt: motionless, static."),
        ("static", {"guidance": 11.0}, "Raise “Inference steps” to 60."),
        ("static", {"guidance": 11.0, "steps": 60}, "Choose the preset High motion."),
        ("flicker", {}, "Lower “Guidance scale” to 7."),
        ("flicker", {"guidance": 20.0}, "Lower “Guidance scale” to 11."),
        ("flicker", {"guidance": 6.5}, "Raise “Inference steps” to 60."),
        ("blur", {}, "Raise “Inference steps” to 60."),
        ("blur", {"steps": 60, "frames": 32}, "Lower “Frames” to 16."),
        ("blur", {"steps": 60}, "Ask for less movement, or choose the preset Creative."),
        ("snap_back", {"frames": 32}, "Lower “Frames” to 16."),
        ("snap_back", {}, "Try again with another seed."),
    ],
)
def test_each_trouble_gets_the_next_of_the_engines_own_numbers(code: FlagCode, changes: dict[str, Any], words: str):
    assert list(remedies(code, **changes).values()) == [words]


@pytest.mark.parametrize(
    ("code", "given", "field", "value"),
    [
        ("static", {}, "guidance", 11.0),
        ("static", {"guidance": 11.0, "negative_prompt": "ugly"}, "negative_prompt", "ugly, motionless, static"),
        ("static", {"guidance": 11.0, "negative_prompt": ""}, "negative_prompt", "motionless, static"),
        ("static", {"guidance": 11.0, "steps": 60}, "preset", "high_motion"),
        ("flicker", {"guidance": 6.5}, "steps", 60),
        ("snap_back", {"frames": 32}, "frames", 16),
        ("snap_back", {}, "seed", None),
    ],
)
def test_what_is_advised_comes_as_the_setting_and_its_new_value(
    code: FlagCode, given: dict[str, Any], field: str, value: Any
):
    (found,) = advise(inspection(code), I2VGEN, request(**given))
    assert {change.field: change.value for change in found.changes} == {field: value}


def test_two_troubles_never_turn_one_setting_both_ways():
    found = remedies("flicker", asked={"pan_left": False})
    assert found == {
        "advice_missed": "Raise “Guidance scale” to 11.",
        "advice_unsteady": "Raise “Inference steps” to 60.",
    }


def test_stillness_that_was_asked_for_is_no_trouble():
    assert remedies("static", asked={"static": True}) == {}


def test_a_distilled_model_keeps_its_steps_and_its_guidance():
    wan = find_engine("wan2.1-i2v-14b-480p")
    fast = request(wan.id, preset="fast", guidance=1.0, steps=4, frames=81)
    for code in ("static", "flicker", "blur", "black"):
        for finding in advise(inspection(code), wan, fast):
            assert finding.remedy
            assert "Guidance" not in finding.remedy.en
            assert "steps" not in finding.remedy.en


@pytest.mark.parametrize(
    ("code", "intensity", "words"),
    [
        ("static", "medium", ["Choose the preset High motion."]),
        ("blur", "medium", ["Ask for less movement, or choose the preset Creative."]),
        ("blur", "low", []),
        ("flicker", "medium", []),
    ],
)
def test_the_camera_engine_is_advised_by_strength_alone(code: FlagCode, intensity: Any, words: list[str]):
    asked = request("camera", motion=Motion(intensity=intensity), steps=None, guidance=None, frames=96, fps=24)
    found = advise(inspection(code), CAMERA, asked)
    assert [finding.remedy.en for finding in found if finding.remedy] == words


def test_a_single_frame_cannot_show_a_move_and_is_not_advised_about_it():
    found = advise(replace(inspection(asked={"pan_left": False}), frames=1), I2VGEN, request())
    assert found == ()


def test_a_run_puts_the_advice_into_its_report(tmp_path: Path):
    # Stripes along the way of the camera look the same wherever it goes.
    stripes = np.repeat(np.arange(0, 250, 10, dtype=np.uint8), 8)[:, None, None].repeat(200, 1).repeat(3, 2)
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    asked = request(
        "camera", images=(tmp_path / "stripes.png",), motion=Motion(camera=("pan_left",), requested=True),
        resolution="128x128", width=128, height=128, frames=8, steps=None, guidance=None, negative_prompt="",
    )  # fmt: skip
    outputs = Outputs(video=tmp_path / "a.mp4", report=tmp_path / "a.json", shown_path="a.mp4")
    report = run(asked, EngineCache(), outputs, lambda progress: None, job_id="a")
    assert report["quality"]["asked"] == {"pan_left": False}
    (advice,) = [each for each in report["findings"] if each["code"].startswith("advice_")]
    assert (advice["code"], advice["remedy_zh"]) == ("advice_missed", "请选择“高动态”预设。")


def test_another_start_of_the_same_fine_texture_is_not_another_picture():
    start = replace(inspection(), same_place_ssim=0.31, found_again=0.85)
    assert not start.is_broken
    assert replace(start, found_again=0.0).is_broken
