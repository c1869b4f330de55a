"""The refine step with an LLM behind it, a real service on loopback: shown, sent and reported are one string."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from loopback_llm import ANSWER, KEY, TYPED, Service, answer, send, serving
from playwright.sync_api import Page, expect
from running_studio import (
    PATIENCE_MS,
    RunningStudio,
    choose_example,
    choose_preset,
    open_page,
    running_studio,
    submit,
    wait_for_state,
)
from test_page_looks import AXE_PATH, expect_no_scrolling_sideways, violations

from studio.consent import FILE_NAME, Consents

pytestmark = pytest.mark.browser

MODEL = "loopback-model"
HOST = "0.0.0.0"
"""This machine by an address that is not its own name: what goes there leaves the studio."""
FREELY = "Ocean waves crashing on the rocks with foam, camera slowly zooming in, soft morning light over the bay"
ADDED = [
    {"element": "foam", "kind": "object", "why": "breaking waves make it"},
    {"element": "morning light", "kind": "light", "why": "usual at the shore"},
    {"element": "bay", "kind": "place", "why": "where waves are"},
]


@pytest.fixture(scope="module")
def llm() -> Iterator[Service]:
    with serving() as service:
        yield service


@pytest.fixture(scope="module")
def studio(llm: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    address = llm.url.replace("127.0.0.1", HOST)
    settings = {"BASE_URL": f"{address}/v1", "MODEL": MODEL, "API_KEY": KEY, "CACHE": "off"}
    environment = {f"I2V_REFINER_{name}": value for name, value in settings.items()}
    with running_studio(tmp_path_factory.mktemp("llm") / "data", **environment) as started:
        yield started


@pytest.fixture
def ask(studio: RunningStudio, llm: Service) -> Callable[[Page], Page]:
    """Fills a page with a picture and a prompt. The picture may go to the LLM, and has not yet."""

    def fill(page: Page, typed: str = TYPED) -> Page:
        llm.requests.clear()
        llm.says(answer())
        Consents(studio.data).give_consent(HOST, True)
        open_page(page, studio.url)
        choose_example(page, "stream.jpg", typed)
        choose_preset(page, "preview")
        return page

    return fill


@pytest.fixture
def filled(page: Page, ask: Callable[[Page], Page]) -> Page:
    return ask(page)


def images_in(service: Service) -> list[str]:
    content = service.requests[-1].body["messages"][-1]["content"]
    return (
        [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        if isinstance(content, list)
        else []
    )


def prompt_of(studio: RunningStudio, job: str) -> dict[str, Any]:
    return report_of(studio, job)["prompt"]


def report_of(studio: RunningStudio, job: str) -> dict[str, Any]:
    return json.loads((studio.data / "jobs" / job / "report.json").read_text(encoding="utf-8"))


def test_refine_strike_out_apply_and_generate_and_all_of_it_stands_in_the_report(
    filled: Page, studio: RunningStudio, llm: Service
) -> None:
    choose_preset(filled, "standard")
    suggestion = {"preset": "preview", "duration": "short", "why": "to look at first"}
    llm.says(answer(refined_prompt=FREELY, added_elements=ADDED, suggestion=suggestion))
    filled.check("#fidelity input[value=creative]")
    filled.click("#refine")
    panel = filled.locator("#refine-panel")
    expect(panel.locator(".badge")).to_contain_text(MODEL)
    expect(panel.locator(".typed .diff")).to_have_text(TYPED)
    expect(panel.locator(".refined .diff")).to_have_text(FREELY)
    expect(panel.locator(".refined ins.added")).to_have_text(["foam", "morning light", "bay"])
    expect(panel.locator(".added li").first).to_contain_text(ADDED[0]["why"])
    expect(panel.locator(".match.match")).to_contain_text("The picture shows waves.")

    # By keyboard, which keeps its place.
    filled.focus("[data-strike='1']")
    filled.keyboard.press("Enter")
    expect(filled.locator("[data-restore='1']")).to_be_focused()
    without_light = "Ocean waves crashing on the rocks with foam, camera slowly zooming in"
    expect(panel.locator(".refined .diff")).to_have_text(without_light)
    filled.click("#use-refined")
    box = filled.locator("#prompt textarea")
    expect(box).to_have_value(without_light)
    # In the box too: out, and back.
    filled.click("[data-strike='0']")
    expect(box).to_have_value("Ocean waves crashing on the rocks, camera slowly zooming in")
    filled.click("[data-restore='0']")
    expect(box).to_have_value(without_light)

    filled.click("[data-apply=preset]")
    expect(filled.locator("#preset input[value=preview]")).to_be_checked()
    expect(filled.locator("#advice button")).to_have_count(0)
    expect(filled.locator("#plan .plan-numbers")).to_contain_text("32 帧")
    job = submit(filled)
    wait_for_state(filled, job, "done")
    report = report_of(studio, job)
    prompt = report["prompt"]
    assert (prompt["typed"], prompt["refined"], prompt["sent"]) == (TYPED, FREELY, without_light)
    assert report["refined_prompt"] == FREELY
    assert (prompt["source"], prompt["model"], prompt["edited"]) == ("llm", MODEL, False)
    assert prompt["added_elements"] == [ADDED[0]]
    assert prompt["struck_out"] == ADDED[1:]
    assert prompt["motion"]["speed"] == "slow_motion"
    assert report["parameters"]["preset"] == "preview"
    expect(filled.locator("#details .sent")).to_contain_text(without_light)

    filled.reload()
    expect(filled.locator("#refine-panel .used")).to_contain_text(TYPED)
    expect(filled.locator("[data-restore='1']")).to_be_visible()
    expect(box).to_have_value(without_light)
    filled.click("#undo-refine")
    expect(box).to_have_value(TYPED)
    expect(filled.locator("#refine-panel .refine-panel")).to_have_count(0)


def test_an_edited_refinement_is_checked_again_and_told_as_proposed_and_as_sent(
    filled: Page, studio: RunningStudio
) -> None:
    refined = ANSWER["refined_prompt"]
    filled.click("#refine")
    filled.click("#use-refined")
    expect(filled.locator("#prompt textarea")).to_have_value(refined)
    edited = f"{refined}, two dogs"
    filled.fill("#prompt textarea", edited)
    expect(filled.locator("#edited ins")).to_have_text(", two dogs")
    expect(filled.locator("#edited")).to_contain_text("新增：dogs")
    job = submit(filled)
    wait_for_state(filled, job, "done")
    prompt = prompt_of(studio, job)
    assert (prompt["refined"], prompt["sent"], prompt["edited"]) == (refined, edited, True)
    filled.fill("#prompt textarea", refined)
    expect(filled.locator("#edited .edited")).to_have_count(0)


def test_a_picture_leaves_only_after_the_person_said_so_and_they_can_take_it_back(
    filled: Page, studio: RunningStudio, llm: Service
) -> None:
    (studio.data / FILE_NAME).unlink()
    open_page(filled, studio.url)
    box, panel = filled.locator("#show-picture input"), filled.locator("#refine-panel")
    expect(box).not_to_be_checked()
    filled.click("#refine")
    expect(panel.locator(".question")).to_contain_text(HOST)
    assert llm.requests == []
    filled.click("[data-consent=yes]")
    expect(filled.locator("#use-refined")).to_be_visible()
    expect(box).to_be_checked()
    (url,) = images_in(llm)
    assert base64.b64decode(url.partition(",")[2]).startswith(b"\xff\xd8")
    # Comes with the answer that keeps the proposal in the draft.
    expect(filled.locator("#advice button")).to_be_visible()

    open_page(filled, studio.url)
    expect(box).to_be_checked()
    # The proposal comes back with the page; without it the next one is seen to come.
    filled.click("#keep-mine")
    expect(filled.locator("#use-refined")).to_be_hidden()
    filled.click("#refine")
    expect(filled.locator("#use-refined")).to_be_visible()
    assert len(images_in(llm)) == 1
    box.uncheck()
    said = filled.locator("#picture-note")
    expect(said).to_contain_text("已撤回")
    assert Consents(studio.data).consent_for(HOST) is False
    filled.click("#refine")
    expect(panel.locator(".match.unknown")).to_be_visible()
    assert images_in(llm) == []
    expect(said).to_contain_text("已撤回")


def test_an_llm_that_fails_is_told_with_the_reason_and_the_rules_take_over(filled: Page, llm: Service) -> None:
    llm.play = lambda handler, body: send(handler, 401, {"error": {"message": "bad key " + KEY}})
    filled.click("#refine")
    expect(filled.locator("#refine-panel .badge")).to_contain_text("离线规则")
    expect(filled.locator("#refine-panel .notice").first).to_be_visible()
    filled.click("#test-llm")
    expect(filled.locator("#llm-note .notice")).to_contain_text(HOST)
    assert KEY not in filled.content()


def test_the_connection_test_says_in_one_sentence_that_all_is_well(filled: Page, llm: Service) -> None:
    llm.says("Orange.")
    filled.click("#test-llm")
    expect(filled.locator("#llm-note .ok")).to_contain_text(f"{HOST} 连接正常")


def test_a_server_that_hangs_costs_the_deadline_and_never_holds_up_generate(filled: Page, llm: Service) -> None:
    def hang(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        llm.over.wait()

    llm.play = hang
    filled.click("#refine")
    expect(filled.locator("#refine-panel .working")).to_be_visible()
    wait_for_state(filled, submit(filled), "done")
    # The server hangs still, so what ends the waiting is the deadline.
    expect(filled.locator("#refine-panel .notice").first).to_contain_text("20 秒", timeout=PATIENCE_MS)
    expect(filled.locator("#refine-panel .badge")).to_contain_text("离线规则")


@pytest.mark.parametrize(("locale", "scheme", "width"), [("zh-CN", "light", 1280), ("en-GB", "dark", 390)])
def test_the_whole_panel_is_clean_to_axe_and_fits_a_phone(
    new_page: Callable[..., Page], ask: Callable[[Page], Page], llm: Service, locale: str, scheme: str, width: int
) -> None:
    page = ask(new_page(locale=locale, color_scheme=scheme, viewport={"width": width, "height": 844}))
    conflict = {"verdict": "mismatch", "score": 9, "conflicts": ["no waves"], "reason": "A stream."}
    llm.says(answer(refined_prompt=FREELY, added_elements=ADDED, image_text_match=conflict, warnings=["blurry"]))
    page.check("#fidelity input[value=creative]")
    page.click("#refine")
    page.click("[data-strike='1']")
    expect(page.locator("#advice button")).to_be_visible()
    page.evaluate(AXE_PATH.read_text(encoding="utf-8"))
    assert violations(page) == []
    page.click("#use-refined")
    expect(page.locator("#refine-panel .used")).to_be_visible()
    page.fill("#prompt textarea", f"{FREELY}, two dogs")
    expect(page.locator("#edited .edited")).to_be_visible()
    assert violations(page) == []
    expect_no_scrolling_sideways(page)
