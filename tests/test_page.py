"""The page as a person uses it, in a real Chromium on the real studio: from a picture to a video and back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from running_studio import (
    PATIENCE_MS,
    RunningStudio,
    choose_example,
    choose_preset,
    held_back,
    open_page,
    submit,
    wait_for_job,
    wait_for_state,
)

from i2v_pipeline.video import probe_video

pytestmark = pytest.mark.browser

PROMPT = "镜头慢慢推近"


@pytest.fixture
def made(page: Page, studio: RunningStudio) -> Page:
    """A page that shows a finished video."""
    open_page(page, studio.url)
    choose_example(page, "stream.jpg", PROMPT)
    choose_preset(page, "preview")
    wait_for_state(page, submit(page), "done")
    return page


def report_of(studio: RunningStudio, job: str) -> dict[str, Any]:
    return json.loads((studio.data / "jobs" / job / "report.json").read_text(encoding="utf-8"))


def test_an_example_and_a_sentence_become_a_playing_video_and_its_report(made: Page, studio: RunningStudio) -> None:
    playing = "() => { const v = document.querySelector('video'); return v && !v.paused && v.currentTime > 0.2; }"
    made.wait_for_function(playing, timeout=PATIENCE_MS)
    job = wait_for_job(made)
    video = probe_video(studio.data / "jobs" / job / "video.mp4")
    report = report_of(studio, job)
    assert video.codec == "h264"
    assert made.evaluate("document.querySelector('video').videoWidth") == report["output"]["width"]
    assert report["prompt"]["sent"] == PROMPT
    assert set(report["prompt"]["motion"]["camera"]) & {"dolly_in", "zoom_in"}
    expect(made.locator("#details")).to_contain_text(PROMPT)
    expect(made.locator("#details")).to_contain_text(str(report["parameters"]["seed"]))
    for finding in report["findings"]:
        expect(made.locator("#details")).to_contain_text(finding["message_zh"])
    made.click("#report-box button")
    expect(made.locator("#report")).to_contain_text("frames_sha256")


def test_the_plan_tells_what_is_then_really_made(page: Page, studio: RunningStudio) -> None:
    open_page(page, studio.url)
    choose_example(page, "cat.jpg", "镜头向左摇")
    choose_preset(page, "preview")
    numbers = page.locator("#plan .plan-numbers")
    expect(numbers).to_contain_text("32 帧 · 16 帧/秒 · 2.0 秒")
    expect(page.locator("#plan .chips")).to_contain_text("左摇")
    promised = numbers.inner_text()
    job = submit(page)
    wait_for_state(page, job, "done")
    report = report_of(studio, job)
    output = report["output"]
    assert promised.startswith(f"{output['width']} × {output['height']} · {output['frames']} 帧")
    assert report["prompt"]["motion"]["camera"] == ["pan_left"]
    expect(page.locator("#plan")).to_contain_text(report["image"]["fitted_zh"])


def test_an_impossible_setting_is_told_at_once_and_generate_refuses(page: Page, studio: RunningStudio) -> None:
    open_page(page, studio.url)
    choose_example(page, "cat.jpg")
    page.click("[data-fold=advanced]")
    page.fill("#resolution input", "333x500")
    page.press("#resolution input", "Enter")
    expect(page.locator("#plan .problem")).to_contain_text("333")
    page.click("#generate")
    expect(page.locator(".toast-body")).to_contain_text("333")
    expect(page.locator("#status .state")).to_have_count(0)
    assert page.input_value("#prompt textarea")


def test_generate_without_a_picture_says_what_is_missing(page: Page, studio: RunningStudio) -> None:
    open_page(page, studio.url)
    page.fill("#prompt textarea", PROMPT)
    page.click("#generate")
    expect(page.locator(".toast-body")).to_contain_text("还没有图像")
    assert page.input_value("#prompt textarea") == PROMPT


def test_control_enter_in_the_prompt_generates(page: Page, studio: RunningStudio) -> None:
    open_page(page, studio.url)
    choose_example(page, "sunset.jpg")
    choose_preset(page, "preview")
    page.focus("#prompt textarea")
    page.keyboard.press("Control+Enter")
    wait_for_state(page, wait_for_job(page), "done")


def test_refining_is_a_visible_step_that_is_taken_or_refused(page: Page, studio: RunningStudio) -> None:
    typed = "猫转头，镜头向左摇"
    open_page(page, studio.url)
    choose_example(page, "cat.jpg", typed)
    choose_preset(page, "preview")
    page.click("#refine")
    expect(page.locator("#refine-panel .badge")).to_contain_text("离线规则")
    expect(page.locator("#refine-panel .chips")).to_contain_text("左摇")
    assert page.input_value("#prompt textarea") == typed

    page.click("#keep-mine")
    expect(page.locator("#refine-panel .refine-panel")).to_have_count(0)
    assert page.input_value("#prompt textarea") == typed

    page.click("#refine")
    page.click("#use-refined")
    expect(page.locator("#refine-panel .used")).to_contain_text(typed)
    sent = page.input_value("#prompt textarea")
    job = submit(page)
    wait_for_state(page, job, "done")
    prompt = report_of(studio, job)["prompt"]
    assert (prompt["typed"], prompt["refined"], prompt["sent"]) == (typed, sent, sent)
    assert prompt["source"] == "offline"

    page.click("#undo-refine")
    expect(page.locator("#prompt textarea")).to_have_value(typed)


def test_what_is_typed_while_an_answer_is_on_its_way_stays_and_the_rest_of_the_answer_counts(
    page: Page, studio: RunningStudio
) -> None:
    open_page(page, studio.url)
    box, frames = page.locator("#prompt textarea"), page.locator("#frames input[type=number]")
    page.click("[data-fold=advanced]")
    with held_back(page):
        page.click("[data-example='flower.jpg']")
        page.check("#preset input[value=preview]")
        box.fill("猫转头，镜头向左摇")
        frames.fill("7")
        frames.press("Tab")
    expect(page.locator("#image img")).to_be_visible()
    expect(page.locator("#plan .plan-numbers")).to_contain_text("7 帧 · 16 帧/秒")
    expect(page.locator("#plan .chips")).to_contain_text("左摇")
    expect(box).to_have_value("猫转头，镜头向左摇")

    page.click("#refine")
    expect(page.locator("#use-refined")).to_be_visible()
    with held_back(page):
        page.click("#use-refined")
        box.fill("镜头向右摇")
    expect(page.locator("#refine-panel .used")).to_be_visible()
    expect(page.locator("#plan .chips")).to_contain_text("右摇")
    expect(box).to_have_value("镜头向右摇")
    # What was typed before a press is older than its answer.
    page.click("#undo-refine")
    expect(box).to_have_value("猫转头，镜头向左摇")


def test_of_two_choices_or_examples_pressed_in_a_row_the_later_one_counts(page: Page, studio: RunningStudio) -> None:
    open_page(page, studio.url)
    with held_back(page):
        for name in ("preview", "standard"):
            page.check(f"#preset input[value={name}]")
        for name in ("cat.jpg", "flower.jpg"):
            page.click(f"[data-example='{name}']")
    expect(page.locator("#image img")).to_have_attribute("src", re.compile("flower"))
    expect(page.locator("#plan .plan-numbers")).to_contain_text("96 帧 · 24 帧/秒")
    expect(page.locator("#preset input[value=standard]")).to_be_checked()


def test_again_makes_the_same_with_a_new_seed_and_use_these_settings_fills_the_form(
    made: Page, studio: RunningStudio
) -> None:
    first = wait_for_job(made)
    second = submit(made, "#again")
    wait_for_state(made, second, "done")
    reports = [report_of(studio, job) for job in (first, second)]
    seeds = [report["parameters"].pop("seed") for report in reports]
    assert seeds[0] != seeds[1]
    assert reports[0]["parameters"] == reports[1]["parameters"]
    assert reports[0]["image"] == reports[1]["image"]

    open_page(made, studio.url + "/?job=" + first)
    made.fill("#prompt textarea", "别的文字")
    made.click("#image button[aria-label]")
    made.click("[data-fold=advanced]")
    made.click("#reuse")
    expect(made.locator("#prompt textarea")).to_have_value(PROMPT)
    expect(made.locator("#image img")).to_be_visible()
    expect(made.locator("#seed input")).to_have_value(str(seeds[0]))


def test_the_history_shows_each_video_and_a_click_opens_it(made: Page) -> None:
    first = wait_for_job(made)
    choose_example(made, "mountains.jpg")
    second = submit(made)
    wait_for_state(made, second, "done")
    expect(made.locator("#history li")).to_have_count(2)
    made.click(f"#history [data-job='{first}']")
    expect(made.locator("#details")).to_contain_text(PROMPT)
    assert wait_for_job(made, second) == first


def test_words_of_a_person_never_become_markup(page: Page, studio: RunningStudio) -> None:
    nasty = "<img src=x onerror=alert(1)> ${document.title} {{value}} <b>左摇</b> 镜头向左摇"
    open_page(page, studio.url)
    choose_example(page, "cat.jpg", nasty)
    choose_preset(page, "preview")
    page.click("#refine")
    expect(page.locator("#refine-panel .diff")).to_have_text(nasty)
    wait_for_state(page, submit(page), "done")
    expect(page.locator("#details .sent")).to_contain_text(nasty)
    expect(page.locator("#history .caption").first).to_have_text(nasty)
    assert page.locator("#details b, #history b, #refine-panel img, #details img").count() == 0


def test_two_tabs_of_one_person_each_keep_their_own_job(new_page: Callable[..., Page], studio: RunningStudio) -> None:
    one = open_page(new_page(), studio.url)
    other = one.context.new_page()
    open_page(other, studio.url)
    for tab, example in ((one, "cat.jpg"), (other, "flower.jpg")):
        choose_example(tab, example)
        choose_preset(tab, "preview")
    jobs = [submit(tab) for tab in (one, other)]
    assert jobs[0] != jobs[1]
    for tab, job in zip((one, other), jobs, strict=True):
        wait_for_state(tab, job, "done")
        open_page(tab, tab.url)
        wait_for_state(tab, job, "done")
        expect(tab.locator("#screen video")).to_have_attribute("src", re.compile(job))
        expect(tab.locator("#history li")).to_have_count(2)
