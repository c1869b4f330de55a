"""The refine step without a browser: diff, proposal, suggestions, consent, and one text from the box to the video."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from loopback_llm import KEY, Service, answer, serving
from page_handlers import CAT, FORM, Studio

from i2v_pipeline.pipeline import EngineCache
from i2v_pipeline.presets import find_engine, load_presets
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import AddedElement, Motion, PromptOrigin
from i2v_pipeline.video import read_report
from prompt_refiner import RefinerSettings
from prompt_refiner.ledger import NOT_DECLARED
from studio.consent import Consents
from studio.jobs.store import JobStore
from studio.jobs.worker import run_job
from studio.page.advice import advice_for, advice_html, by_result
from studio.page.diff import as_html, compare, likeness, words_of
from studio.page.refine import (
    Match,
    Proposal,
    motion_for,
    origin_for,
    restored,
    struck_out,
    taken_before,
    used,
)
from studio.page.refine_events import RefineHandlers
from studio.page.refine_panel import edited_html, panel
from studio.page.services import Services, load_examples
from studio.page.text import escape

CAMERA, I2VGEN = find_engine("camera"), find_engine("i2vgen-xl")
ADDED = (
    AddedElement(element="morning light", kind="light", why="usual at the shore"),
    AddedElement(element="foam", kind="object", why=NOT_DECLARED),
    AddedElement(element="calm mood", kind="style", why="fits"),
)
OFFERED = Proposal(
    origin=PromptOrigin(
        typed="a wave breaks", refined="A wave breaks with foam, soft morning light", source="llm", model="<m>",
        added_elements=ADDED,
    ),
    motion=Motion(camera=("zoom_in",), requested=True),
    tokens=9,
    token_limit=75,
)  # fmt: skip
TAKEN = used(OFFERED)


@pytest.fixture
def services(tmp_path: Path) -> Services:
    return services_at(tmp_path)


def services_at(data: Path, **refiner: Any) -> Services:
    return Services(
        store=JobStore(data), engines=load_presets(), refiner=RefinerSettings(**refiner), examples=load_examples()
    )


def handlers_of(services: Services) -> RefineHandlers:
    return Studio(services).desk.refining


def form(**changes: Any) -> dict[str, Any]:
    extra = {"proposal": None, "client": "me", "show_picture": False, "fidelity": "strict"}
    return {**FORM, **extra, **changes}


def all_of(updates: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        return [each async for each in updates]

    return asyncio.run(collect())


def click(what: str) -> Any:
    return SimpleNamespace(what=what)


# The diff


@settings(deadline=None)
@given(st.text(), st.text())
def test_a_diff_holds_both_texts_whole(before: str, after: str) -> None:
    runs = compare(before, after)
    assert as_html(runs, hide="gone").replace("<ins>", "").replace("</ins>", "") == escape(after)
    assert re.sub("</?del>", "", as_html(runs, hide="new")) == escape(before)
    assert "".join(words_of(before)) == before
    assert 0 <= likeness(before, after) <= 1


@settings(deadline=None)
@given(st.text(min_size=1), st.data())
def test_additions_stand_out_where_they_are_and_nothing_is_lost(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    html = as_html(compare("", text, [(start, end)]))
    assert f'<ins class="added">{escape(text[start:end])}</ins>' in html
    assert re.sub("<[^>]*>", "", html) == escape(text)


def test_a_diff_marks_whole_words_and_joins_what_changed_side_by_side() -> None:
    assert as_html(compare("sunset over hills", "red sunset, over hills")) == (
        "<ins>red </ins>sunset<ins>,</ins> over hills"
    )  # fmt: skip
    assert as_html(compare("a cat turns.", "a dog jumps.")) == "a <del>cat turns</del><ins>dog jumps</ins>."
    assert as_html(compare("镜头左摇", "镜头右摇")) == "镜头<del>左</del><ins>右</ins>摇"
    assert as_html(compare("女孩走路", "女孩慢慢走路")) == "女孩<ins>慢慢</ins>走路"


# What became of a proposal


def test_only_a_proposal_that_was_taken_is_the_prompts_origin(services: Services) -> None:
    def origin(prompt: str, proposal: Proposal) -> PromptOrigin:
        return origin_for(prompt, proposal)

    typed = PromptOrigin(typed="狗", refined="狗", source="typed")
    assert origin("狗", OFFERED) == typed
    assert origin(OFFERED.text, TAKEN) == OFFERED.origin
    # Nothing of the proposal is left.
    assert origin("狗", TAKEN) == typed
    assert motion_for(TAKEN.text, TAKEN, CAMERA, services).camera == ("zoom_in",)
    assert motion_for("镜头向左摇", TAKEN, CAMERA, services).camera == ("pan_left",)
    assert motion_for("镜头向左摇", OFFERED, CAMERA, services).camera == ("pan_left",)


def test_what_was_struck_out_is_gone_from_text_and_ledger_and_comes_back_exactly() -> None:
    without = struck_out(TAKEN, 1)
    assert without.text == "A wave breaks, soft morning light"
    assert without.fates() == {"morning light": "stands", "foam": "struck", "calm mood": "paraphrased"}
    told = origin_for(without.text, without)
    assert [each.element for each in told.added_elements] == ["morning light", "calm mood"]
    assert [each.element for each in told.struck_out] == ["foam"]
    assert (told.edited, told.refined) == (False, OFFERED.origin.refined)
    assert restored(without, 1) == TAKEN
    assert taken_before(told, without.motion) is not None
    assert taken_before(told, without.motion).text == without.text  # type: ignore[union-attr]


def test_an_edit_is_told_and_takes_its_additions_off_the_ledger() -> None:
    told = origin_for("A wave breaks with foam, at dusk", TAKEN)
    assert told.edited
    assert [each.element for each in told.added_elements] == ["foam", "calm mood"]
    assert told.struck_out == ()


def test_the_panel_shows_both_texts_and_marks_only_what_was_added() -> None:
    html = panel(OFFERED)
    refined = html.partition('class="refined"')[2].partition("</div>")[0]
    assert re.findall('<ins class="added">(.*?)</ins>', refined) == ["foam", "morning light"]
    assert "a wave breaks" in re.sub("<[^>]*>", "", html)
    assert html.count("data-strike") == 2
    assert "9 of 75" in html
    assert "<m>" not in html
    struck = panel(struck_out(OFFERED, 0))
    assert 'data-restore="0"' in struck
    assert "morning light" not in struck.partition('class="refined"')[2].partition("</div>")[0]


def test_texts_of_two_languages_are_shown_whole_and_not_as_a_diff() -> None:
    origin = PromptOrigin(typed="猫转头", refined="A cat turns its head", source="llm")
    html = panel(Proposal(origin=origin, motion=Motion()))
    assert '<p class="diff">猫转头</p>' in html
    assert '<p class="diff">A cat turns its head</p>' in html


@pytest.mark.parametrize(
    ("match", "words"),
    [
        (Match(), "未作比较"),
        (Match(verdict="match", reason="<cat>"), "&lt;cat&gt;"),
        (Match(verdict="partial", conflicts=("no dog",)), "no dog"),
        (Match(verdict="mismatch", reason="a car"), "图文不符"),
    ],
    ids=["unknown", "match", "partial", "mismatch"],
)
def test_the_verdict_is_told_with_its_reason_and_unknown_as_unknown(match: Match, words: str) -> None:
    html = panel(replace(OFFERED, match=match))
    assert f'class="match {match.verdict}"' in html
    assert words in html


def test_an_edited_text_is_checked_again_and_an_untouched_one_says_nothing() -> None:
    assert edited_html(TAKEN.text, TAKEN, I2VGEN) == ""
    assert edited_html("anything", OFFERED, I2VGEN) == ""
    html = edited_html(f"{TAKEN.text}, two dogs", TAKEN, I2VGEN)
    assert "<ins>, two dogs</ins>" in html
    assert "New beside what you first typed: dogs." in html
    assert "of 75 tokens" in html
    assert "reads 75, the rest has no effect" in edited_html(f"{TAKEN.text}{', very tall' * 40}", TAKEN, I2VGEN)
    assert "English only" in edited_html(f"{TAKEN.text}，猫在跑", TAKEN, I2VGEN)
    number = replace(TAKEN, origin=replace(TAKEN.origin, typed="3 waves break", refined="3 waves break with foam"))
    assert "gone: 3." in edited_html("Waves break with foam", number, I2VGEN)
    assert "text of your own" in edited_html("镜头向左摇", TAKEN, I2VGEN)


# Suggestions


def advised(spec: EngineSpec, services: Services, proposal: Proposal | None, **changes: Any) -> dict[str, Any]:
    preset = spec.presets["standard"]
    values = {
        **FORM, "image": None, "engine": spec.id, "steps": preset.steps, "guidance": preset.guidance,
        "prompt": TAKEN.text, **changes,
    }  # fmt: skip
    found = advice_for(values, proposal, services)
    html = advice_html(found, values)
    assert html.count("data-apply") == len(found)
    return {each.field: each.value for each in found}


def test_suggestions_come_with_a_refinement_only_and_end_when_they_are_taken(services: Services) -> None:
    assert advised(I2VGEN, services, None) == {}
    assert advised(I2VGEN, services, OFFERED) == {"guidance": 10.5}
    assert advised(I2VGEN, services, OFFERED, guidance=10.5) == {}
    by_llm = replace(OFFERED, preset="creative")
    assert advised(I2VGEN, services, by_llm) == {"preset": "creative", "guidance": 10.5}
    assert advised(I2VGEN, services, by_llm, preset="creative", guidance=10.5) == {}
    assert advised(I2VGEN, services, OFFERED, frames=None, steps=2.5) == {}
    assert advised(I2VGEN, services, TAKEN, prompt="镜头向左摇") == {}


def test_a_camera_move_beside_a_moving_subject_can_be_told_by_its_result(services: Services) -> None:
    worded = by_result("A person waving, camera slowly zooming in", I2VGEN)
    assert worded == "Close-up view of a person waving, as if the camera is slowly zooming in"
    assert by_result("A dog runs, camera panning left", I2VGEN) == "A dog runs, as if the camera is panning left"
    for other in (worded, "A person waving", "Camera slowly zooming in", "人在挥手，镜头推近"):
        assert by_result(other, I2VGEN) is None
    assert by_result("A person waving, camera slowly zooming in", find_engine("wan2.2-i2v-a14b")) is None
    assert by_result("A person waving, camera slowly zooming in, " + "very " * 60 + "tall", I2VGEN) is None
    origin = PromptOrigin(typed="x", refined="A person waving, camera zooming in", source="llm")
    taken = Proposal(origin=origin, motion=Motion(camera=("zoom_in",), requested=True), compound=True, is_used=True)
    assert "prompt" in advised(I2VGEN, services, taken, prompt=taken.text)


def test_a_suggestion_is_applied_as_it_would_be_made_now(services: Services) -> None:
    handlers = handlers_of(services)
    data = form(proposal=replace(OFFERED, preset="high_motion"))
    assert handlers.apply(data, click("preset")) == {
        "preset": "high_motion", "resolution": "720p", "frames": 96, "fps": 24, "steps": None, "guidance": None,
        "guidance_schedule": "", "scheduler": "", "flow_shift": "",
    }  # fmt: skip
    assert handlers.apply(data, click("guidance")) == {}
    assert handlers.apply(form(), click("preset")) == {}


# Striking out in the box


def test_striking_out_changes_the_box_too_and_spares_what_the_person_wrote(services: Services) -> None:
    handlers = handlers_of(services)
    assert "prompt" not in handlers.strike(form(proposal=OFFERED, prompt="a wave breaks"), click("1"))
    struck = handlers.strike(form(proposal=TAKEN, prompt=TAKEN.text), click("1"))
    assert struck["prompt"] == struck["proposal"].text == "A wave breaks, soft morning light"
    back = handlers.restore(form(proposal=struck["proposal"], prompt=struck["prompt"]), click("1"))
    assert back["prompt"] == TAKEN.text
    edited = handlers.strike(form(proposal=TAKEN, prompt=f"{TAKEN.text}, a gull cries"), click("0"))
    assert edited["prompt"] == "A wave breaks with foam, a gull cries"
    with pytest.raises(gr.Error, match="write it back"):
        handlers.restore(form(proposal=edited["proposal"], prompt=edited["prompt"]), click("0"))


# Consent


@pytest.fixture
def llm() -> Iterator[Service]:
    with serving() as service:
        service.says(answer())
        yield service


def remote(llm: Service, data: Path) -> Services:
    """An address that is not this machine by its name, and is all the same."""
    url = llm.url.replace("127.0.0.1", "0.0.0.0")
    return services_at(data, provider="custom", base_url=f"{url}/v1", model="m", api_key=KEY)


def pictures_sent(llm: Service) -> list[bool]:
    return ["image_url" in json.dumps(request.body["messages"]) for request in llm.requests]


def test_nothing_is_sent_before_the_person_answered_and_the_answer_is_kept(llm: Service, tmp_path: Path) -> None:
    handlers = handlers_of(remote(llm, tmp_path))
    assert handlers.opening() == {"show_picture": False}
    (asked,) = all_of(handlers.refine(form()))
    assert "0.0.0.0" in asked["refine_panel"]
    assert "data-consent" in asked["refine_panel"]
    assert llm.requests == []
    answered = all_of(handlers.answer(form(), click("yes")))
    assert answered[0]["show_picture"] is True
    assert answered[-1]["proposal"].origin.source == "llm"
    assert pictures_sent(llm) == [True]
    assert handlers.opening() == {"show_picture": True}
    assert Consents(tmp_path).consent_for("0.0.0.0") is True
    all_of(handlers.refine(form(show_picture=True)))
    assert pictures_sent(llm) == [True, True]


def test_a_consent_that_was_taken_back_holds_even_for_a_page_that_does_not_know(llm: Service, tmp_path: Path) -> None:
    handlers = handlers_of(remote(llm, tmp_path))
    all_of(handlers.answer(form(), click("yes")))
    assert "0.0.0.0" in handlers.choose_picture(False)["picture_note"]
    last = all_of(handlers.refine(form(show_picture=True)))[-1]
    assert "0.0.0.0" in last["picture_note"]
    assert pictures_sent(llm) == [True, False]
    # A refinement that was under way meanwhile, or comes after it, leaves that sentence.
    assert not any("picture_note" in each for each in all_of(handlers.refine(form(show_picture=False))))
    # Ticking the box again asks again; nothing is ticked before the answer.
    ticked = handlers.choose_picture(True)
    assert ticked["show_picture"] is False
    assert "data-consent" in ticked["refine_panel"]


def test_text_only_is_an_answer_too_and_is_not_asked_again(llm: Service, tmp_path: Path) -> None:
    handlers = handlers_of(remote(llm, tmp_path))
    all_of(handlers.answer(form(), click("no")))
    all_of(handlers.refine(form()))
    assert pictures_sent(llm) == [False, False]


def test_an_llm_on_this_machine_needs_no_consent(llm: Service, tmp_path: Path) -> None:
    services = services_at(tmp_path, provider="custom", base_url=f"{llm.url}/v1", model="m", api_key=KEY)
    handlers = handlers_of(services)
    assert handlers.opening() == {"show_picture": True}
    all_of(handlers.refine(form(show_picture=True)))
    all_of(handlers.refine(form(show_picture=False)))
    assert pictures_sent(llm) == [True, False]


def test_refining_once_more_begins_at_what_was_typed(llm: Service, tmp_path: Path) -> None:
    services = services_at(tmp_path, provider="custom", base_url=f"{llm.url}/v1", model="m", api_key=KEY)
    handlers = handlers_of(services)
    again = all_of(handlers.refine(form(proposal=TAKEN, prompt=TAKEN.text)))[-1]["proposal"]
    assert again.origin.typed == TAKEN.origin.typed
    edited = all_of(handlers.refine(form(proposal=TAKEN, prompt=f"{TAKEN.text}, at dusk")))[-1]["proposal"]
    assert edited.origin.typed == f"{TAKEN.text}, at dusk"


def test_how_much_the_llm_may_add_is_told_to_it(llm: Service, tmp_path: Path) -> None:
    services = services_at(tmp_path, provider="custom", base_url=f"{llm.url}/v1", model="m", api_key=KEY)
    handlers = handlers_of(services)
    for fidelity in ("strict", "creative"):
        all_of(handlers.refine(form(fidelity=fidelity)))
    told = [request.body["messages"][0]["content"] for request in llm.requests]
    assert told[0] != told[1]


# Shown, sent, reported

ENGINES = EngineCache()
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="镜头推近猫跑左右,，\n \"'“”", max_size=30),
    st.sampled_from(["שלום, המצלמה זזה", "\u202eabc\u202c 猫", "👩‍👩‍👧 🌊 waves", "a\x00b\x1b[31m", "x" * 5000]),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(typed=TEXTS, refines=st.booleans())
@example(typed='他说"停"，👋 שלום\r\n镜头慢慢推近\x07', refines=True)
@example(typed="camera zooms in. " * 300, refines=True)
def test_the_text_shown_is_the_text_sent_and_the_text_in_the_report_and_in_the_video(
    typed: str, refines: bool, tmp_path: Path
) -> None:
    services = services_at(tmp_path)
    studio = Studio(services)
    handlers = studio.desk.refining
    shown, proposal = typed, None
    if refines and typed.strip():
        proposal = all_of(handlers.refine(form(prompt=typed)))[-1]["proposal"]
        box = handlers.use_refined({"proposal": proposal})
        shown, proposal = box["prompt"], box["proposal"]
    data = form(prompt=shown, proposal=proposal, resolution="64x64", frames=2, fps=2, image={"path": str(CAT)})
    studio.form.generate(data, studio.open())
    job = services.store.claim(1)
    assert job is not None
    # A still camera needs no network for the subject, which takes most of the time of so small a video.
    still = replace(job, request=replace(job.request, motion=Motion(camera=("static",), requested=True)))
    lease = services.store.lease_of(still.id)
    assert lease is not None
    run_job(services.store, still, lease, ENGINES, threading.Event())
    report = json.loads(job.report_path.read_text(encoding="utf-8"))
    inside = read_report(job.report_path.with_name("video.mp4"))
    for told in (report, inside):
        assert told["prompt"]["sent"] == shown
        assert told["prompt"]["typed"] == typed
        assert (told["prompt"]["edited"], told["prompt"]["struck_out"]) == (False, [])
    assert job.request.prompt == shown


@pytest.mark.parametrize("place", ["prompt", "typed"])
def test_half_a_character_is_refused_in_words(services: Services, place: str) -> None:
    studio, half = Studio(services), "\ud83d 猫"
    proposal = used(Proposal(origin=PromptOrigin(typed=half, refined="猫", source="offline"), motion=Motion()))
    data = form(prompt=half) if place == "prompt" else form(prompt="猫", proposal=proposal)
    with pytest.raises(gr.Error, match="half a character"):
        studio.form.generate(data, studio.open())


def test_a_preset_is_the_llms_suggestion_only_where_an_llm_made_it(services: Services) -> None:
    offline = all_of(handlers_of(services).refine(form(prompt="猫快速奔跑，镜头推近")))[-1]["proposal"]
    assert (offline.origin.source, offline.preset) == ("offline", None)
    assert advised(CAMERA, services, offline, prompt=offline.origin.typed, steps=None, guidance=None) == {}
