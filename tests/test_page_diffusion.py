"""A diffusion engine on the page: its settings, a model that is not here, and a run from the form to the report."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from running_studio import PATIENCE_MS, ROOT, RUN_MS, RunningStudio, choose_example, open_page, running_studio, submit

from i2v_pipeline.presets import load_presets
from tests.test_diffusion_requests import save_lora

FLAVOURS = {
    "i2vgen-xl": "I2VGen-XL",
    "wan2.1-i2v-14b-480p": "万相 2.1 图生视频 14B 480p",
    "wan2.2-i2v-a14b": "万相 2.2 图生视频 A14B",
    "wan2.2-ti2v-5b": "万相 2.2 文图生视频 5B",
}
OF_REFERENCES = ("wan2.1-vace-1.3b", "kaleido-14b-s2v")
CAT, FLOWER = (ROOT / "examples" / name for name in ("cat.jpg", "flower.jpg"))
KINDS = {".jpg": "image/jpeg", ".mp4": "video/mp4"}

pytestmark = [pytest.mark.browser, pytest.mark.diffusion]


@pytest.fixture(scope="module")
def studio(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    """A studio whose models folder holds a tiny model of each flavour."""
    folders = [tiny_checkpoint(engine_id) for engine_id in (*FLAVOURS, *OF_REFERENCES)]
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
    expect(page.locator("#negative-prompt textarea")).to_have_attribute("placeholder", re.compile("最差质量"))
    page.check("#preset input[value=fast]")
    expect(page.locator("#steps input[type=number]")).to_have_value("4")
    # The draft comes with the plan's answer, and only another number of frames tells which answer it is.
    set_value(page, "frames", "77")
    expect(page.locator("#plan .plan-numbers")).to_contain_text("77 frames", timeout=PATIENCE_MS)

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


def drop(page: Page, place: str, *paths: Path) -> None:
    """Lets files fall on a place of the page."""
    page.evaluate(
        """([place, files]) => {
          const transfer = new DataTransfer();
          for (const [name, type, content] of files) {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name, {type}));
          }
          const event = new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: transfer});
          document.querySelector(place).dispatchEvent(event);
        }""",
        [place, [(path.name, KINDS[path.suffix], base64.b64encode(path.read_bytes()).decode()) for path in paths]],
    )


def expect_subjects(page: Page, *subjects: tuple[str, bool]) -> None:
    """The references that the form holds: each with its picture, its name, and whether its background goes."""
    for slot, (name, is_alone) in enumerate(subjects, 1):
        picture = "#image" if slot == 1 else f"#image-{slot}"
        expect(page.locator(f"{picture} img")).to_be_visible(timeout=PATIENCE_MS)
        expect(page.locator(f"#subject-{slot} :is(input, textarea)")).to_have_value(name)
        expect(page.locator(f"#alone-{slot} input")).to_be_checked(checked=is_alone)
    expect(page.locator("#seen img")).to_have_count(len(subjects), timeout=PATIENCE_MS)


@pytest.mark.parametrize("title", ["Wan 2.1 VACE 1.3B", "Kaleido 14B S2V"])
def test_two_references_with_names_make_a_video_and_come_back_from_reload_and_file(
    new_page: Callable[..., Page], studio: RunningStudio, title: str
) -> None:
    page = open_page(new_page(locale="en-US"), studio.url)
    page.fill("#prompt textarea", "a cat sniffs at a flower")
    page.click("[data-fold=advanced]")
    choose_engine(page, title)
    expect(page.locator("#fit")).to_have_count(0)
    page.fill("#resolution input", "96x64")
    page.press("#resolution input", "Enter")
    set_value(page, "frames", "5")
    set_value(page, "steps", "2")
    drop(page, "#image-2", FLOWER)
    expect(page.locator("#image-2 img")).to_be_visible(timeout=PATIENCE_MS)
    drop(page, "#screen", CAT)
    expect(page.locator("#image img")).to_be_visible(timeout=PATIENCE_MS)
    page.fill("#subject-1 :is(input, textarea)", "the cat")
    page.fill("#subject-2 :is(input, textarea)", "the flower")
    page.check("#alone-1 input")
    expect(page.locator("#seen")).to_contain_text("As the model sees them, 96 × 64", timeout=PATIENCE_MS)
    expect_subjects(page, ("the cat", True), ("the flower", False))
    expect(page.locator("#plan .plan-fit")).to_contain_text("The 2 reference pictures are each put whole on white")
    page.click("#seen [data-slot='0'][data-to='1']")
    expect_subjects(page, ("the flower", False), ("the cat", True))
    expect(page.locator("#plan .plan-fit")).to_contain_text("background: Reference 2 (the cat)", timeout=PATIENCE_MS)

    job = submit(page)
    page.wait_for_selector(f".status[data-of='{job}'] .state.done", timeout=RUN_MS)
    page.wait_for_function("document.querySelector('video')?.videoWidth === 96", timeout=PATIENCE_MS)
    folder = studio.data / "jobs" / job
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["parameters"]["subjects"] == [
        {"name": "the flower", "remove_background": False},
        {"name": "the cat", "remove_background": True},
    ]
    given = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (FLOWER, CAT)]
    assert [each["sha256"] for each in report["references"]] == given

    page.reload()
    expect_subjects(page, ("the flower", False), ("the cat", True))

    # Somebody else has nothing but the file.
    other = open_page(new_page(locale="en-US"), studio.url)
    drop(other, "#screen", folder / "video.mp4")
    expect_subjects(other, ("the flower", False), ("the cat", True))
    again = submit(other)
    other.wait_for_selector(f".status[data-of='{again}'] .state.done", timeout=RUN_MS)
    made = json.loads((studio.data / "jobs" / again / "report.json").read_text(encoding="utf-8"))
    assert made["parameters"] == report["parameters"]
    assert made["output"]["frames_sha256"] == report["output"]["frames_sha256"]
    assert "Traceback" not in studio.log(), studio.log()
