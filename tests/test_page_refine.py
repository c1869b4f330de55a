"""The refine step with an LLM behind it, a real service on loopback: shown, sent and reported are one string."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from loopback_llm import ANSWER, KEY, Service, answer, send, serving
from playwright.sync_api import Page, expect
from running_studio import (
    RunningStudio,
    choose_example,
    choose_preset,
    open_page,
    running_studio,
    submit,
    wait_for_state,
)

pytestmark = pytest.mark.browser

MODEL = "loopback-model"
REFINED = ANSWER["refined_prompt"]
# One for each test: the refiner remembers an answer.
PHRASINGS = iter(
    f"镜头{slowly}推近，海浪拍打{rocks}" for slowly in ("慢慢", "缓缓", "缓慢", "慢速") for rocks in ("礁石", "岩石")
)


@pytest.fixture(scope="module")
def llm() -> Iterator[Service]:
    with serving() as service:
        yield service


@pytest.fixture(scope="module")
def studio(llm: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    settings = {"BASE_URL": f"{llm.url}/v1", "MODEL": MODEL, "API_KEY": KEY}
    environment = {f"I2V_REFINER_{name}": value for name, value in settings.items()}
    with running_studio(tmp_path_factory.mktemp("llm") / "data", **environment) as started:
        yield started


@pytest.fixture
def typed() -> str:
    return next(PHRASINGS)


@pytest.fixture
def filled(page: Page, studio: RunningStudio, llm: Service, typed: str) -> Page:
    """A page with a picture and a prompt in it."""
    llm.requests.clear()
    llm.says(answer())
    open_page(page, studio.url)
    choose_example(page, "stream.jpg", typed)
    choose_preset(page, "preview")
    return page


def images_in(service: Service) -> list[str]:
    content = service.requests[-1].body["messages"][-1]["content"]
    return (
        [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        if isinstance(content, list)
        else []
    )


def test_what_the_llm_proposes_is_shown_with_its_name_and_sent_as_shown(
    filled: Page, studio: RunningStudio, typed: str
) -> None:
    filled.click("#refine")
    panel = filled.locator("#refine-panel")
    expect(panel.locator(".badge")).to_contain_text(MODEL)
    expect(panel.locator("ins")).to_have_text(REFINED)
    expect(panel.locator("del")).to_have_text(typed)
    added = ANSWER["added_elements"][0]
    expect(panel.locator("li")).to_contain_text(added["element"])
    expect(panel.locator("li")).to_contain_text(added["why"])
    filled.click("#use-refined")
    expect(filled.locator("#prompt textarea")).to_have_value(REFINED)
    job = submit(filled)
    wait_for_state(filled, job, "done")
    prompt: dict[str, Any] = json.loads((studio.data / "jobs" / job / "report.json").read_text(encoding="utf-8"))[
        "prompt"
    ]
    assert (prompt["typed"], prompt["refined"], prompt["sent"]) == (typed, REFINED, REFINED)
    assert (prompt["source"], prompt["model"]) == ("llm", MODEL)
    assert prompt["added_elements"] == ANSWER["added_elements"]
    assert prompt["motion"]["speed"] == "slow_motion"

    filled.reload()
    expect(filled.locator("#refine-panel .used")).to_contain_text(typed)
    expect(filled.locator("#prompt textarea")).to_have_value(REFINED)


def test_an_edited_refinement_is_sent_as_edited_and_told_as_proposed(filled: Page, studio: RunningStudio) -> None:
    filled.click("#refine")
    filled.click("#use-refined")
    expect(filled.locator("#prompt textarea")).to_have_value(REFINED)
    edited = f"{REFINED}, at dusk"
    filled.fill("#prompt textarea", edited)
    job = submit(filled)
    wait_for_state(filled, job, "done")
    prompt = json.loads((studio.data / "jobs" / job / "report.json").read_text(encoding="utf-8"))["prompt"]
    assert (prompt["refined"], prompt["sent"]) == (REFINED, edited)


def test_the_picture_goes_to_the_llm_only_when_the_person_says_so(filled: Page, llm: Service) -> None:
    # An LLM on this machine may see it at first; the box says so and takes it back.
    box = filled.locator("#show-picture input")
    expect(box).to_be_checked()
    box.uncheck()
    filled.click("#refine")
    expect(filled.locator("#use-refined")).to_be_visible()
    assert images_in(llm) == []
    filled.click("#keep-mine")
    box.check()
    filled.click("#refine")
    expect(filled.locator("#use-refined")).to_be_visible()
    (url,) = images_in(llm)
    assert base64.b64decode(url.partition(",")[2]).startswith(b"\xff\xd8")


def test_an_llm_that_fails_is_told_with_the_reason_and_the_rules_take_over(filled: Page, llm: Service) -> None:
    llm.play = lambda handler, body: send(handler, 401, {"error": {"message": "bad key " + KEY}})
    filled.click("#refine")
    expect(filled.locator("#refine-panel .badge")).to_contain_text("离线规则")
    expect(filled.locator("#refine-panel .notice").first).to_be_visible()
    assert KEY not in filled.content()


def test_refining_does_not_hold_up_generate(filled: Page, llm: Service) -> None:
    def slow(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        llm.over.wait(15)
        send(handler, 500, {})

    llm.play = slow
    filled.click("#refine")
    expect(filled.locator("#refine-panel .working")).to_be_visible()
    wait_for_state(filled, submit(filled), "done")
    expect(filled.locator("#refine-panel .working")).to_be_visible()
