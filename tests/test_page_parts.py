"""The page's parts without a browser: what becomes HTML, what a form means, what a draft may bring back."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import gradio as gr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2v_pipeline.errors import RequestError
from i2v_pipeline.presets import find_engine, load_presets
from i2v_pipeline.specs import Capabilities
from i2v_pipeline.types import CameraTag, GenerationRequest, Motion, PromptOrigin, StageName, Text
from prompt_refiner import RefinerSettings
from prompt_refiner.types import Verdict, Warned
from studio.jobs.store import JobStore
from studio.jobs.types import Job, JobProgress, JobState
from studio.page import draft, status, words
from studio.page.desk import OpenPage
from studio.page.edge import OUR_FAULT, at_edge
from studio.page.form import read_choice
from studio.page.history import history_html
from studio.page.plan import lacks_html
from studio.page.refine import Proposal, from_json, to_json
from studio.page.services import Services, load_examples
from studio.page.text import LABELS, both, duration, escape
from studio.page.theme import make_theme

ROOT = Path(__file__).resolve().parents[1]
CAMERA = find_engine("camera")
# What an engine of the diffusion kind will look like to the page.
EVERYTHING = Capabilities(negative_prompt=True, steps=True, guidance=True, moves_subject=True)
DIFFUSION = replace(
    CAMERA,
    id="diffusion",
    takes=EVERYTHING,
    presets={name: replace(preset, steps=50, guidance=9.0) for name, preset in CAMERA.presets.items()},
)
VALUES: dict[str, Any] = {
    "image": None, "prompt": "镜头向左摇", "engine": "camera", "preset": "standard", "resolution": "720p", "seed": "",
    "frames": 96, "fps": 24, "steps": 10, "guidance": 1, "fit": "crop", "negative_prompt": "",
    "guidance_schedule": "", "scheduler": "", "flow_shift": "", "loras": [], "last_image": None, "embed_source": True,
    "image_2": None, "image_3": None, "subject_1": "", "subject_2": "", "subject_3": "",
    "alone_1": False, "alone_2": False, "alone_3": False,
    "double_rate": False, "ending": "plain",
    "attention": "auto", "cache": "off", "compiled": False,
}  # fmt: skip


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return Services(
        store=JobStore(tmp_path), engines=load_presets(), refiner=RefinerSettings(), examples=load_examples()
    )


def job_in(state: JobState, services: Services, **changes: Any) -> Job:
    request = GenerationRequest(
        engine="camera", images=(Path("cat.jpg"),), prompt="<b>猫</b>", motion=Motion(), resolution="720p", width=1280,
        origin=PromptOrigin(typed="", refined="", source="typed"), height=720, fit="crop", frames=96, fps=24, seed=7,
    )  # fmt: skip
    job = Job(
        id="20250101-000000-aaaaaaaa", owner="me", state=state, request=request, folder=services.store.data,
        created=0.0, started=100.0, finished=None, cancel_asked=False, progress=None, message=None, version=1,
    )  # fmt: skip
    return replace(job, **changes)


@given(st.text())
def test_escaped_text_holds_no_markup_and_no_template(text: str) -> None:
    assert not set("<>\"'`${}\\") & set(escape(text))


def test_every_code_of_the_core_has_words_in_both_languages() -> None:
    tables = {
        CameraTag: words.CAMERA,
        JobState: words.STATES,
        StageName: words.STAGES,
        Warned: words.WARNINGS,
        Verdict: words.MATCH,
    }
    for codes, table in tables.items():
        assert set(get_args(codes)) == set(table)
    for text in [*LABELS.values(), *words.CAMERA.values(), *words.STATES.values(), *words.STAGES.values()]:
        assert text.en.isascii()
        assert any("\u4e00" <= letter <= "\u9fff" for letter in text.zh)


@pytest.mark.parametrize(("seconds", "zh"), [(0.2, "0 秒"), (59.4, "59 秒"), (59.6, "1 分 00 秒"), (125, "2 分 05 秒")])
def test_durations_are_told_in_minutes_and_seconds(seconds: float, zh: str) -> None:
    assert duration(seconds).zh == zh


def test_a_form_means_what_it_shows_and_an_empty_seed_is_drawn() -> None:
    choice = read_choice(
        DIFFUSION, {**VALUES, "steps": 30, "guidance": 7.5, "negative_prompt": " blurry", "seed": "42"}
    )
    assert (choice.steps, choice.guidance, choice.negative_prompt, choice.seed) == (30, 7.5, " blurry", 42)
    assert read_choice(DIFFUSION, {**VALUES, "seed": "-1"}).seed is None
    camera = read_choice(CAMERA, {**VALUES, "negative_prompt": "blurry"})
    assert (camera.steps, camera.guidance, camera.negative_prompt, camera.seed) == (None, None, "", None)


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", "4294967296"), ("seed", "x"), ("seed", "1.5"), ("seed", "٣"), ("frames", 8.5), ("fps", 0.1)],
)
def test_a_number_that_is_none_is_refused_and_never_rounded(field: str, value: object) -> None:
    with pytest.raises(RequestError, match=str(value).replace("+", r"\+")):
        read_choice(CAMERA, {**VALUES, field: value})


# In a process of its own: Gradio's Blocks leave an event loop open behind them.
PRINT_CONFIGS = """
import json, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, "tests")
from test_page_parts import CAMERA, DIFFUSION, JobStore, RefinerSettings, Services, load_examples
from studio.page.build import build
for spec in (CAMERA, DIFFUSION):
    services = Services(
        store=JobStore(Path(sys.argv[1])), engines={spec.id: spec}, refiner=RefinerSettings(), examples=load_examples()
    )
    print(json.dumps(build(services).get_config_file(), default=str))
"""


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The page as Gradio describes it to the browser: with the camera engine, and with one that takes everything."""
    printed = subprocess.run(
        [sys.executable, "-c", PRINT_CONFIGS, str(tmp_path_factory.mktemp("store"))],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return [json.loads(line) for line in printed.stdout.splitlines()]


def test_settings_that_an_engine_lacks_are_named_and_those_of_another_are_shown(configs: list[dict[str, Any]]) -> None:
    for word in ("推理步数", "引导系数", "负向提示词"):
        assert word in lacks_html(CAMERA)
    assert lacks_html(DIFFUSION) == ""
    camera, diffusion = (
        {part["props"].get("elem_id") for part in config["components"] if part["props"].get("visible", True) is True}
        for config in configs
    )
    assert diffusion - camera == {"steps", "guidance", "negative-prompt", "guidance-schedule"}


def test_a_page_has_few_components_and_no_public_event_but_the_named_endpoints(configs: list[dict[str, Any]]) -> None:
    for config in configs:
        assert len([part for part in config["components"] if part["type"] != "api"]) < 180
        public = {event["api_name"] for event in config["dependencies"] if event["api_visibility"] != "private"}
        assert public == {"generate", "refine", "models"}


def test_a_draft_comes_back_as_it_was_kept(services: Services) -> None:
    origin = PromptOrigin(typed="猫", refined="a cat", source="llm", provider="p", model="m")
    proposal = Proposal(origin=origin, motion=Motion(camera=("pan_left",), requested=True), is_used=True)
    kept = draft.read(draft.write(VALUES, proposal), services)
    assert kept == draft.Draft(values=VALUES, proposal=proposal)
    assert from_json(to_json(proposal)) == proposal
    earlier = {name: value for name, value in VALUES.items() if name not in ("double_rate", "ending")}
    assert draft.read(draft.write(earlier, None), services) == draft.Draft(values=VALUES, proposal=None)


@pytest.mark.parametrize(
    "kept",
    [None, 7, {}, {"values": []}, {"values": {**VALUES, "engine": "gone"}}, {"values": {**VALUES, "preset": []}},
     {"values": {**VALUES, "prompt": 3}}, {"values": {**VALUES, "frames": "many"}},
     {"values": {**VALUES, "double_rate": "yes"}}, {"values": {**VALUES, "ending": "spiral"}}],
)  # fmt: skip
def test_a_draft_of_another_time_is_left_alone(kept: object, services: Services) -> None:
    assert draft.read(kept, services) is None


def test_a_draft_names_no_file_but_an_upload(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    (uploads / "own.png").touch()
    (tmp_path / "secret.png").touch()

    def image_of(path: object) -> object:
        kept = draft.read({"values": {**VALUES, "image": path}}, services)
        assert kept is not None
        return kept.values["image"]

    assert image_of(str(uploads / "own.png")) == str(uploads / "own.png")
    for path in (
        tmp_path / "secret.png",
        uploads / ".." / "secret.png",
        "/etc/passwd",
        uploads / "gone.png",
        "\0",
        5,
        uploads,
    ):
        assert image_of(path if isinstance(path, int) else str(path)) is None


def test_a_running_job_tells_stage_step_elapsed_and_left(services: Services) -> None:
    progress = JobProgress(stage="decode", step=24, steps=96, seconds_left=61.0)
    html = status.status_html(job_in("running", services, progress=progress), now=112.0)
    for told in ("生成画面", "24/96", "已用 12 秒", "约剩 1 分 01 秒", 'aria-valuenow="25"'):
        assert told in html


def test_a_failed_job_tells_why_and_a_cancelled_one_what_was_kept(services: Services) -> None:
    failed = job_in("failed", services, finished=101.0, message=Text("No room & more.", "空间不足。"))
    assert "No room &amp; more." in status.status_html(failed, now=200.0)
    assert status.KEPT.zh in status.status_html(job_in("cancelled", services, finished=101.0), now=200.0)
    assert "空间不足" in status.announcement(failed)


def test_a_history_escapes_prompts_and_names_the_open_job(services: Services) -> None:
    job = job_in("done", services)
    html = history_html([job], OpenPage(owner="me", job=job.id))
    assert "&lt;b&gt;猫" in html
    assert html.count('aria-current="true"') == 1


def test_an_unexpected_error_becomes_one_sentence_and_a_whole_log_entry(caplog: pytest.LogCaptureFixture) -> None:
    @at_edge
    def plain() -> None:
        raise KeyError("/secret/path")

    @at_edge
    async def stream() -> AsyncIterator[int]:
        yield 1
        raise RequestError("Nine & no more.", "最多九个。")

    with caplog.at_level(logging.ERROR), pytest.raises(gr.Error) as told:
        plain()
    assert told.value.message == both(OUR_FAULT)
    assert "/secret/path" in caplog.text

    async def drain() -> list[int]:
        return [value async for value in stream()]

    with pytest.raises(gr.Error) as told:
        asyncio.run(drain())
    assert told.value.message == both(Text("Nine & no more.", "最多九个。"))


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio of two colours as `#rrggbb`."""

    def luminance(colour: str) -> float:
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_quiet_text_is_readable_on_every_ground_in_both_modes() -> None:
    theme = make_theme()

    def colour(name: str) -> str:
        value = getattr(theme, name)
        return getattr(theme, value[1:]) if value.startswith("*") else value

    for mode in ("", "_dark"):
        for ground in ("body_background_fill", "block_background_fill", "input_background_fill"):
            assert contrast(colour(f"body_text_color_subdued{mode}"), colour(ground + mode)) >= 4.5
