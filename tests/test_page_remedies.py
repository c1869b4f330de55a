"""Buttons that set what a warning or a piece of advice says: on the page's handlers, and once in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from page_handlers import CAT, FIELDS, FORM, REQUEST, Studio
from PIL import Image
from playwright.sync_api import Page, expect
from running_studio import PATIENCE_MS, RunningStudio, open_page, submit, wait_for_state

from bench.preflight import ROOT
from i2v_pipeline.presets import find_engine
from i2v_pipeline.report import finding_of
from i2v_pipeline.types import Change, Finding, Text
from studio.jobs.store import JobStore
from studio.jobs.types import Job
from studio.page import status
from studio.page.remedies import changes_words, form_values

TALL = {**FORM, "resolution": "720x1280"}
"""A tall video of a wide picture, which loses more than half of it."""
I2VGEN = {"engine": "i2vgen-xl", "preset": "standard", "resolution": "704p", "steps": 50, "guidance": 9.0, "fps": 8}


def finding(code: str, **changes: Any) -> dict[str, Any]:
    made = Finding(
        code=code, severity="warn", message=Text("It is.", "是"), remedy=Text("Do it.", "做"),
        changes=tuple(Change(field=field, value=value) for field, value in changes.items()),  # type: ignore[arg-type]
    )  # fmt: skip
    return finding_of(made)


def done(store: JobStore, *findings: dict[str, Any]) -> Job:
    """A job whose report holds these findings."""
    store.submit(REQUEST, "me")
    job = store.claim(1)
    assert job is not None
    job.report_path.write_text(json.dumps({"findings": list(findings)}), encoding="utf-8")
    return job


def click(what: str = "") -> Any:
    return SimpleNamespace(what=what)


def test_a_warning_has_a_button_that_sets_the_form_until_the_warning_is_gone(tmp_path: Path) -> None:
    studio = Studio.on(JobStore(tmp_path))
    request = studio.open()

    def card(form: dict[str, Any]) -> str:
        return studio.form.plan({**form, "planned": 0, "count": 1}, request)["plan"]

    assert 'data-remedy="crop_loss"' in card(TALL)
    assert "设为 分辨率：720p" in card(TALL)
    taken = studio.form.take_remedy(TALL, click("crop_loss"), request)
    assert taken == {"resolution": "720p"}
    assert "data-remedy" not in card({**TALL, **taken})


def test_a_warning_that_is_no_longer_true_changes_nothing(tmp_path: Path) -> None:
    studio = Studio.on(JobStore(tmp_path))
    assert studio.form.take_remedy(FORM, click("crop_loss"), studio.open()) == {}
    assert studio.form.take_remedy(TALL, click("<script>"), studio.open()) == {}


def test_guidance_that_does_not_suit_is_told_on_the_card_as_long_as_nothing_else_offers_it(tmp_path: Path) -> None:
    studio = Studio.on(JobStore(tmp_path))
    request, form = studio.open(), {**FORM, **I2VGEN, "frames": 16, "guidance": 4.0, "prompt": "一只猫转头"}
    assert 'data-remedy="guidance_unsuitable"' in studio.form.plan({**form, "planned": 0, "count": 1}, request)["plan"]
    assert set(studio.form.take_remedy(form, click("guidance_unsuitable"), request)) == {"guidance"}


def test_the_advice_fills_the_form_with_the_jobs_settings_and_what_was_advised(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    studio = Studio.on(store)
    job = done(store, finding("advice_static", preset="high_motion", seed=None), finding("crop_loss", fit="pad"))
    request = studio.open(job=job.id)
    filled = studio.reuse.take_advice({**FORM, "prompt": "", "fps": 7, "shown": job.id, "parts": []}, request)
    values = {field: filled[field]["value"] for field in FIELDS if field != "image"}
    assert (values["preset"], values["seed"], values["prompt"]) == ("high_motion", "", REQUEST.prompt)
    assert (values["frames"], values["fps"], values["fit"]) == (REQUEST.frames, REQUEST.fps, REQUEST.fit)
    assert "预设：高动态 · 随机种子：重新随机" in studio.opened().note


def test_the_result_offers_all_that_was_advised_with_one_button_and_old_reports_offer_none(tmp_path: Path) -> None:
    both_pieces = [finding("advice_blur", steps=60), finding("advice_snap_back", frames=16)]
    assert status.advised([*both_pieces, finding("crop_loss", fit="pad")]) == {"steps": 60, "frames": 16}
    old = {key: value for key, value in finding("advice_blur", steps=60).items() if key != "changes"}
    assert status.advised([old]) == {}


def test_changes_are_told_in_both_languages_and_a_preset_brings_its_own_settings() -> None:
    told = changes_words({"preset": "creative", "guidance": 7.0, "fit": "pad", "seed": None})
    assert told.en == "Preset: Creative · Guidance scale: 7 · Fitting the picture to the size: Pad · Seed: a new one"
    values = form_values(find_engine("i2vgen-xl"), {"preset": "creative", "steps": 60})
    assert (values["preset"], values["guidance"], values["steps"]) == ("creative", 6.5, 60)
    assert "resolution" not in values


def test_what_the_subject_means_is_told_under_the_picture_and_a_broken_one_is_left_to_others(tmp_path: Path) -> None:
    studio, broken = Studio.on(JobStore(tmp_path / "data")), tmp_path / "broken.png"
    broken.write_bytes(b"no picture")

    def told(path: Path) -> str:
        return studio.form.look_for_subject({**FORM, "image": {"path": str(path)}})["subject"]

    assert "没有突出的主体" in told(ROOT / "examples" / "mountains.jpg")
    assert told(CAT) == told(broken) == ""
    assert studio.form.look_for_subject({**FORM, "image": None}) == {"subject": ""}


@pytest.mark.browser
def test_a_click_mends_the_form_before_a_run_and_after_it(page: Page, studio: RunningStudio, tmp_path: Path) -> None:
    # Stripes along the way of the camera look the same wherever it goes.
    stripes = np.repeat(np.arange(0, 250, 8, dtype=np.uint8), 8)[:, None, None].repeat(256, 1).repeat(3, 2)
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    open_page(page, studio.url)
    page.set_input_files("#image input[type=file]", tmp_path / "stripes.png")
    page.fill("#prompt textarea", "镜头向左摇")
    page.click("[data-fold=advanced]")
    page.fill("#resolution input", "128x256")
    page.press("#resolution input", "Enter")
    page.click("#plan [data-remedy=crop_loss]", timeout=PATIENCE_MS)
    expect(page.locator("#resolution input")).to_have_value("256p")
    expect(page.locator("#plan .plan-numbers")).to_contain_text("256 × 256")
    expect(page.locator("#plan [data-remedy]")).to_have_count(0)

    wait_for_state(page, submit(page), "done")
    expect(page.locator("#details .changes")).to_contain_text("要求的运镜没有出现")
    page.click("#details [data-advice]")
    expect(page.locator("#preset input[value=high_motion]")).to_be_checked()
    expect(page.locator("#note")).to_contain_text("预设：高动态")
    expect(page.locator("#plan .plan-numbers")).to_contain_text("256 × 256")
