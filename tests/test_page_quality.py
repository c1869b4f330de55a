"""What was measured on a video, on the page: as HTML, beside the state, in the history; and old reports."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.synthetic_clips import Clip, make
from i2v_pipeline.inspection.defects import FlagCode
from i2v_pipeline.inspection.judge import inspect_frames, quality_of
from i2v_pipeline.types import GenerationRequest, Motion, PromptOrigin
from studio.jobs.store import JobStore
from studio.jobs.types import Job
from studio.page import status, words
from studio.page.desk import OpenPage
from studio.page.history import history_html
from studio.page.quality import WARNING, is_broken, quality_html

PAN = Clip(photo="mountains", width=240, height=160, frames=12, fps=8, pan=0.006)
OLD = {
    "frames": 96, "width": 1280, "height": 720, "still": [], "black": [], "first_frame_ssim": 0.97,
    "first_frame_delta_e": 1.0,
}  # fmt: skip
"""What earlier versions measured."""


def measured(*defects: FlagCode, **options: Any) -> dict[str, Any]:
    """The section as it stands in a report file."""
    clip = replace(PAN, defects=defects, seed=5)
    quality = quality_of(inspect_frames([make(clip).frames], fps=clip.fps, **options))
    return json.loads(json.dumps(quality))


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    return measured(asked=("pan_right", "pan_left", "orbit_left"))


@pytest.fixture(scope="module")
def still() -> dict[str, Any]:
    return measured("static", asked=("pan_right",))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    request = GenerationRequest(
        engine="camera", images=(Path("cat.jpg"),), prompt="<b>cat</b>", motion=Motion(), resolution="720p", width=240,
        origin=PromptOrigin(typed="", refined="", source="typed"), height=160, fit="crop", frames=12, fps=8, seed=7,
    )  # fmt: skip
    return Job(
        id="20250101-000000-aaaaaaaa", owner="me", state="done", request=request, folder=JobStore(tmp_path).data,
        created=0.0, started=100.0, finished=101.0, cancel_asked=False, progress=None, message=None, version=1,
    )  # fmt: skip


def report(quality: Any, *findings: dict[str, Any]) -> dict[str, Any]:
    return {
        "parameters": {"seed": 7}, "output": {"codec": "h264", "bytes": 10**6}, "prompt": {"sent": "a cat"},
        "findings": list(findings), "quality": quality,
    }  # fmt: skip


def finding(code: str, message: str) -> dict[str, Any]:
    return {
        "code": code, "severity": "warn", "message": message, "message_zh": "中", "remedy": "Do <it>.",
        "remedy_zh": "做",
    }  # fmt: skip


def write(job: Job, quality: Any) -> None:
    job.report_path.write_text(json.dumps(report(quality)), encoding="utf-8")


def test_each_move_that_was_asked_for_says_in_words_whether_it_is_seen(good: dict[str, Any]) -> None:
    html = quality_html(report(good))
    for tag, kind, said in (
        ("右摇", "seen", "已出现"),
        ("左摇", "missed", "未出现"),
        ("向左环绕", "unknown", "无法测量"),
    ):
        chip = next(chip for chip in html.split("<li ") if tag in chip and "chip" in chip)
        assert f'class="chip {kind}"' in chip
        assert said in chip
    assert good["verdict"] in html
    assert good["verdict_zh"] in html
    assert "broken" not in html


def test_the_chart_is_drawn_once_for_each_movement_and_told_in_words(good: dict[str, Any]) -> None:
    html = quality_html(report(good))
    tree = ET.fromstring(html)
    svg = next(tree.iter("svg"))
    lines = {path.get("class"): path.get("d", "") for path in svg.iter("path")}
    assert lines["camera"].count("L") + 1 == lines["subject"].count("L") + 1 == PAN.frames - 1
    assert list(svg.iter("rect")) == []
    ids = {element.get("id") for element in tree.iter()}
    assert {svg.get("aria-labelledby"), svg.get("aria-describedby")} <= ids
    assert "Camera: 1.5 pixels per frame on average" in html


def test_a_defect_is_named_with_its_frames_and_marked_in_the_chart(good: dict[str, Any]) -> None:
    tree = ET.fromstring(quality_html(report(good | {"flags": [{"code": "flash", "frames": [2, 5, 6, 7]}]})))
    assert "第 2, 5–7 帧" in ET.tostring(tree, encoding="unicode")
    bands = [(float(band.get("x", "")), float(band.get("width", ""))) for band in tree.iter("rect")]
    assert bands == [(100.0, 50.0), (250.0, 150.0)]


def test_stillness_that_was_asked_for_is_not_shown_as_a_defect() -> None:
    wanted = quality_html(report(measured("static", asked=("static",))))
    assert 'class="chip seen"' in wanted
    assert "flag" not in wanted
    assert "<rect" not in wanted


def test_every_defect_has_a_name_in_both_languages() -> None:
    assert set(words.DEFECTS) == set(FlagCode.__args__)


def test_what_a_report_says_is_text_and_no_markup(good: dict[str, Any]) -> None:
    odd = good | {
        "verdict": "<script>{{x}}", "asked": {"<img>": False}, "flags": [{"code": "<i>", "frames": [1]}],
    }  # fmt: skip
    html = quality_html(report(odd))
    assert not any(mark in html for mark in ("<script", "<img", "<i>", "{{"))


@pytest.mark.parametrize("quality", [OLD, {}, None], ids=["earlier", "empty", "none"])
def test_a_video_of_an_earlier_version_is_shown_as_before(job: Job, quality: Any) -> None:
    write(job, quality)
    assert not is_broken(job)
    details = status.details_html(job, report(quality, finding("untrained_size", "A size.")))
    assert "A size." in details
    assert "quality" not in details
    assert "a cat" in details


def test_a_report_without_the_section_is_shown_too(job: Job) -> None:
    old = {name: value for name, value in report({}).items() if name != "quality"}
    job.report_path.write_text(json.dumps(old), encoding="utf-8")
    assert not is_broken(job)
    assert "a cat" in status.details_html(job, old)


def test_a_single_frame_has_a_verdict_and_no_chart(job: Job) -> None:
    quality = quality_of(inspect_frames([make(replace(PAN, frames=1)).frames], fps=8))
    details = status.details_html(job, report(quality))
    assert 'class="verdict"' in details
    assert "<svg" not in details


def test_a_broken_video_is_done_with_a_warning_wherever_its_state_stands(job: Job, still: dict[str, Any]) -> None:
    write(job, still)
    shown = status.status_html(job, now=102.0)
    assert 'class="state done"' in shown
    assert WARNING.zh in shown
    assert WARNING.zh in status.announcement(job)
    assert WARNING.zh in history_html([job], OpenPage(owner="me"))
    assert 'class="quality broken"' in status.details_html(job, report(still))


def test_a_good_video_has_no_warning_and_neither_has_one_that_is_not_done(
    job: Job, good: dict[str, Any], still: dict[str, Any]
) -> None:
    write(job, good)
    assert WARNING.zh not in status.status_html(job, now=102.0) + history_html([job], OpenPage(owner="me"))
    write(job, still)
    assert not is_broken(replace(job, state="failed"))
    job.report_path.unlink()
    assert not is_broken(job)


def test_advice_stands_apart_from_the_other_findings_and_is_escaped(job: Job, good: dict[str, Any]) -> None:
    details = status.details_html(
        job, report(good, finding("untrained_size", "A size."), finding("advice_blur", "Blur & more."))
    )
    before, _, after = details.partition('<section class="changes">')
    advice, _, rest = after.partition("</section>")
    assert "A size." not in before + advice
    assert "A size." in rest
    assert "Blur &amp; more." in advice
    assert "Do &lt;it&gt;." in advice
