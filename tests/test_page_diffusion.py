"""A diffusion engine on the page: its settings, a model that is not here, and a run from the form to the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from running_studio import PATIENCE_MS, RunningStudio, choose_example, open_page, running_studio, submit

from i2v_pipeline.presets import load_presets
from tests.test_diffusion_requests import save_lora

FLAVOURS = {
    "i2vgen-xl": "I2VGen-XL",
    "wan2.1-i2v-14b-480p": "万相 2.1 图生视频 14B 480p",
    "wan2.2-i2v-a14b": "万相 2.2 图生视频 A14B",
    "wan2.2-ti2v-5b": "万相 2.2 文图生视频 5B",
}
RUN_MS = 120_000

pytestmark = [pytest.mark.browser, pytest.mark.diffusion]


@pytest.fixture(scope="module")
def studio(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    """A studio whose models folder holds a tiny model of each flavour."""
    folders = [tiny_checkpoint(engine_id) for engine_id in FLAVOURS]
    loras = folders[0].parent / "loras"
    loras.mkdir()
    save_lora(loras / "slow.safetensors")
    data = tmp_path_factory.mktemp("studio") / "data"
    with running_studio(data, STUDIO_MODELS=str(folders[0].parent), HF_HUB_CACHE=str(data.parent / "hub")) as started:
        yield started


def choose_engine(page: Page, title: str) -> None:
    page.click("#engine input")
    page.click(f"#engine [role=option]:has-text('{title}')")


def set_value(page: Page, field: str, value: str) -> None:
    page.fill(f"#{field} input[type=number]", value)
    page.press(f"#{field} input[type=number]", "Tab")


def test_an_engine_brings_its_presets_settings_and_its_own_negative_prompt(
    new_page: Callable[..., Page], studio: RunningStudio
) -> None:
    page = open_page(new_page(locale="en-US"), studio.url)
    choose_example(page, "cat.jpg")
    page.click("[data-fold=advanced]")
    choose_engine(page, "Wan 2.2 I2V A14B")
    expect(page.locator("#preset input[value=fast]")).to_be_visible()
    expect(page.locator("#steps input[type=number]")).to_have_value("40")
    expect(page.locator("#guidance input[type=number]")).to_have_value("3.5")
    assert "最差质量" in (page.get_attribute("#negative-prompt textarea", "placeholder") or "")
    page.check("#preset input[value=fast]")
    expect(page.locator("#steps input[type=number]")).to_have_value("4")
    expect(page.locator("#plan .plan-numbers")).to_contain_text("81 frames", timeout=PATIENCE_MS)

    page.reload()
    expect(page.locator("#preset input[value=fast]")).to_be_checked(timeout=PATIENCE_MS)
    choose_engine(page, "Camera move")
    expect(page.locator("#preset input[value=fast]")).to_have_count(0)
    expect(page.locator("#preset input[value=standard]")).to_be_checked()
    expect(page.locator("#steps")).to_be_hidden()


def test_a_model_that_is_not_here_is_told_before_generate_and_refused_by_it(
    new_page: Callable[..., Page], studio: RunningStudio
) -> None:
    page = open_page(new_page(locale="en-US"), studio.url)
    choose_example(page, "cat.jpg")
    choose_engine(page, "Wan 2.1 I2V 14B 720p")
    told = "The model of wan2.1-i2v-14b-720p is not on this machine: about 91 GB to download"
    expect(page.locator("#plan .obstacle")).to_contain_text(told, timeout=PATIENCE_MS)
    page.click("#generate")
    expect(page.locator(".toast-body")).to_contain_text("python app.py models download wan2.1-i2v-14b-720p")
    assert not list((studio.data / "jobs").glob("*"))


@pytest.mark.parametrize("engine_id", FLAVOURS)
def test_each_flavour_makes_a_video_and_its_report_through_the_page(
    page: Page, studio: RunningStudio, engine_id: str
) -> None:
    spec = load_presets()[engine_id]
    assert spec.diffusion is not None
    open_page(page, studio.url)
    choose_example(page, "cat.jpg", "a cat turns its head" if spec.prompt_style.languages == ("en",) else "猫转头")
    page.click("[data-fold=advanced]")
    choose_engine(page, FLAVOURS[engine_id])
    expect(page.locator("#steps input[type=number]")).to_have_value(str(spec.presets["standard"].steps))
    page.fill("#resolution input", "96x64")
    page.press("#resolution input", "Enter")
    set_value(page, "frames", "5")
    set_value(page, "steps", "2")
    expect(page.locator("#plan .plan-numbers")).to_contain_text("96 × 64 · 5", timeout=PATIENCE_MS)
    expect(page.locator("#plan .warn")).to_contain_text("训练时的尺寸")
    job = submit(page)
    page.wait_for_selector(f".status[data-of='{job}'] .state.done", timeout=RUN_MS)
    page.wait_for_function("document.querySelector('video')?.videoWidth === 96", timeout=PATIENCE_MS)
    expect(page.locator("#details .findings", has_text="训练时的尺寸")).to_be_visible()
    report = json.loads((studio.data / "jobs" / job / "report.json").read_text(encoding="utf-8"))
    assert report["engine"]["id"] == report["engine"]["checkpoint"] == engine_id
    assert len(report["engine"]["strengths"]) == report["parameters"]["steps"] == 2
    assert report["prompt"]["negative_sent"].startswith(spec.diffusion.negative_prompt)
    assert report["output"]["frames"] == 5
    assert "Traceback" not in studio.log(), studio.log()

    page.reload()
    page.wait_for_selector(f".status[data-of='{job}'] .state.done", timeout=PATIENCE_MS)
    page.click("#reuse")
    expect(page.locator("#steps input[type=number]")).to_have_value("2")
    expect(page.locator("#negative-prompt textarea")).to_have_value(report["prompt"]["negative_sent"])


def test_the_finer_settings_reach_the_run_and_come_back_after_a_reload(page: Page, studio: RunningStudio) -> None:
    open_page(page, studio.url)
    choose_example(page, "cat.jpg", "猫转头")
    page.click("[data-fold=advanced]")
    choose_engine(page, FLAVOURS["wan2.2-i2v-a14b"])
    expect(page.locator("#last-image")).to_be_visible()
    page.set_input_files("#last-image input[type=file]", "examples/flower.jpg")
    expect(page.locator("#last-image img")).to_be_visible(timeout=PATIENCE_MS)
    page.fill("#guidance-schedule input", "5..2,1")
    page.fill("#loras input", "slow.safetensors:0.5@low")
    page.press("#loras input", "Enter")
    page.uncheck("#embed-source input")
    page.fill("#resolution input", "64x64")
    page.press("#resolution input", "Enter")
    set_value(page, "frames", "5")
    set_value(page, "steps", "2")
    expect(page.locator("#plan .plan-numbers")).to_contain_text("64 × 64 · 5", timeout=PATIENCE_MS)
    job = submit(page)
    page.wait_for_selector(f".status[data-of='{job}'] .state.done", timeout=RUN_MS)
    report = json.loads((studio.data / "jobs" / job / "report.json").read_text(encoding="utf-8"))
    (lora,) = report["engine"]["loras"]
    assert (lora["file"], lora["weight"], lora["expert"]) == ("slow.safetensors", 0.5, "low")
    assert report["parameters"]["guidance"] == [{"first": 5.0, "last": 2.0, "begin": 0.0, "end": 1.0}, 1.0]
    assert report["image"]["last"]["sha256"]

    page.reload()
    expect(page.locator("#guidance-schedule input")).to_have_value("5..2,1", timeout=PATIENCE_MS)
    expect(page.locator("#loras")).to_contain_text("slow.safetensors:0.5@low")
    expect(page.locator("#last-image img")).to_have_count(1)
    expect(page.locator("#embed-source input")).not_to_be_checked()
