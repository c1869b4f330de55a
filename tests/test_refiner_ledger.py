"""What was added is found, declared or not, and what must stay stays. HTTP on loopback, no other network."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback_llm import I2VGEN, WAN, Service, answer, serving
from test_refiner_wire import picture

from prompt_refiner import Fidelity, Style, check_text
from prompt_refiner.ledger import NOT_DECLARED, additions, lost, stem, without_additions
from prompt_refiner.llm import known_styles, system_prompt


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as playing:
        yield playing


def added(typed: str, refined: str, *seen: str) -> list[str]:
    return [each.element for each in additions(typed, refined, seen=seen)]


@pytest.mark.parametrize(
    ("typed", "refined", "found"),
    [
        # One language
        ("a cat turns its head", "A cat slowly turning its head, sunlight through a window", ["sunlight", "window"]),
        ("a girl dances", "A girl dances gracefully in the rain, smooth motion", ["rain"]),
        ("dog running on the beach", "The dog is running fast on the sandy beach, camera panning left", []),
        ("waves on the sea", "Ocean waves gently moving", []),
        ("猫转头", "猫缓缓转头，阳光洒进窗户", ["阳光", "窗户"]),
        ("女孩跳舞", "女孩轻盈地旋转起舞，裙摆飞扬", ["裙摆"]),
        # Two languages: the meanings that models like to add
        ("猫转头", "A cat slowly turning its head, warm sunlight through the window", ["warm", "sunlight", "window"]),
        ("人走路", "A person walking along the sidewalk", ["sidewalk"]),
        ("海浪动", "Ocean waves rolling with foam", ["foam"]),
        ("雨中的街道，女孩撑伞走过", "A girl walking down a rainy street with an umbrella", []),
        ("鏡頭推近，海浪拍打礁石", "Ocean waves crashing on the rocks, camera slowly zooming in", []),
        ("男人挥手", "A man waving his hand", []),
        ("她眨眼微笑", "A woman blinking her eyes, a smile on her face", []),
        ("街灯亮起，天黑了", "Street lamps light up, night falls", []),
        ("老人划船", "An old man rowing a boat", []),
        ("狗摇尾巴", "A dog wagging its tail", []),
        # A quotation is the person's own
        ('the sign "SUNLIGHT" flickers', 'the sign "SUNLIGHT" flickers', []),
    ],
)
def test_what_nobody_typed_is_found(typed: str, refined: str, found: list[str]) -> None:
    assert added(typed, refined) == found


def test_what_is_seen_in_the_picture_is_no_addition() -> None:
    assert added("a girl dances", "A girl dances, her dress swirling") == ["dress"]
    assert added("a girl dances", "A girl dances, her dress swirling", "white dress") == []


def test_forms_of_a_word_are_one_word() -> None:
    assert len({stem(word) for word in ("walk", "walks", "walked", "walking")}) == 1
    assert stem("running") == stem("run")
    assert stem("butterflies") == stem("butterfly")
    assert stem("kissing") == stem("kiss")
    assert stem("mother's") == stem("mother")
    assert stem("crashes") == stem("crash")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_a_text_adds_nothing_to_itself_and_loses_nothing(text: str) -> None:
    assert additions(text, text) == ()
    assert lost(text, text) == ()


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40), st.text(max_size=60))
def test_any_two_texts_can_be_compared(typed: str, refined: str) -> None:
    found = additions(typed, refined)
    for each in found:
        assert refined[each.start : each.end].strip()
    without_additions(refined, found, typed=typed)


def test_strict_drops_what_is_nothing_but_an_addition_and_tells(service: Service) -> None:
    service.says(answer(refined_prompt="A cat turning its head, warm sunlight through a window", camera_motion=[]))
    result = service.refine("a cat turns its head")
    assert (result.source, result.refined_prompt) == ("llm", "A cat turning its head")
    (notice,) = (notice for notice in result.notices if notice.code == "addition_dropped")
    assert "sunlight" in notice.en
    assert "window" in notice.zh


@pytest.mark.parametrize("fidelity", ["balanced", "creative"])
def test_the_other_levels_keep_it_and_list_it(service: Service, fidelity: Fidelity) -> None:
    declared = [{"element": "sunlight", "kind": "light", "why": "mood"}]
    prompt = "A cat turning its head, sunlight through a window"
    service.says(answer(refined_prompt=prompt, camera_motion=[], added_elements=declared))
    result = service.refine("a cat turns its head", fidelity=fidelity)
    assert result.refined_prompt == prompt
    assert [(each.element, each.kind, each.why) for each in result.added_elements] == [
        ("sunlight", "light", "mood"),
        ("window", "place", NOT_DECLARED),
    ]
    (check,) = (check for check in result.checks if check.name == "additions_declared")
    assert (check.passed, check.detail) == (False, "not declared: window")
    assert service.requests[0].body["messages"][0]["content"] == system_prompt("i2vgen_xl", fidelity)


def test_an_addition_inside_what_was_asked_is_kept_and_listed(service: Service) -> None:
    service.says(answer(refined_prompt="Person walking along the sidewalk", camera_motion=[], added_elements=[]))
    result = service.refine("人走路")
    assert result.refined_prompt == "Person walking along the sidewalk"
    assert [each.element for each in result.added_elements] == ["sidewalk"]


def test_every_style_has_a_prompt_for_every_level() -> None:
    levels: tuple[Fidelity, ...] = ("strict", "balanced", "creative")
    prompts = {system_prompt(style, level) for style in known_styles() for level in levels}
    assert len(prompts) == len(known_styles()) * 3


# What must stay


def test_quotations_numbers_and_trigger_words_must_stand_as_typed() -> None:
    typed = 'sks-style, 3 ducks past the sign "OPEN 24h", 12.5 m high'
    assert lost(typed, 'sks-style three ducks, sign "OPEN 24h", 12.5 m', locked=("sks-style", "absent")) == ()
    assert lost(typed, "ducks", locked=("sks-style",)) == ('"OPEN 24h"', "sks-style", "3", "12.5")


def test_an_answer_that_loses_a_locked_word_is_repaired_or_refused(service: Service) -> None:
    service.says(answer(refined_prompt="A girl dancing", camera_motion=[]))
    result = service.refine("ohwx girl dances", locked=("ohwx",))
    assert result.source == "offline"
    assert "ohwx" in result.refined_prompt
    asked, repair = (request.body["messages"][-1]["content"] for request in service.requests)
    assert json.loads(asked)["keep_verbatim"] == ["ohwx"]
    assert "ohwx" in repair


def test_the_rules_keep_a_locked_word_that_sounds_like_the_camera(service: Service) -> None:
    result = service.refine("waves, zoom in slowly", WAN, mode="offline", locked=("zoom in slowly",))
    assert result.refined_prompt == "waves, zoom in slowly"
    assert service.refine("waves, zoom in slowly", WAN, mode="offline").refined_prompt != result.refined_prompt


# When the person edits


def test_an_edited_text_is_checked_again() -> None:
    report = check_text('a cat by the sign "OPEN"', "a cat in the rain 猫", I2VGEN, locked=("cat",))
    assert {check.name: check.passed for check in report.checks} == {
        "language": False,
        "token_budget_estimated": True,
        "kept_verbatim": False,
    }
    assert [each.element for each in report.additions] == ["rain"]
    assert "untranslated" in {notice.code for notice in report.notices}
    assert report.token_count is not None


def test_an_edited_text_without_changes_has_no_findings() -> None:
    report = check_text("a cat walks", "a cat walks", I2VGEN)
    assert all(check.passed for check in report.checks)
    assert (report.additions, report.notices) == ((), ())


def test_a_style_that_describes_the_picture_may_do_so(service: Service) -> None:
    prompt = "A girl in a red dress dances, her long hair tied with a ribbon"
    service.says(answer(refined_prompt=prompt, camera_motion=[], added_elements=[]))
    kaleido = Style(name="kaleido", encoder="umT5-XXL", token_limit=512, languages=("zh", "en"))
    assert service.refine("a girl dances", kaleido, picture=picture((64, 64))).refined_prompt == prompt
    assert service.refine("a girl dances", kaleido).refined_prompt == "A girl in a red dress dances"
