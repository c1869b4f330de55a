"""Striking single additions out of a refined prompt: what goes with them and what stays."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_refiner.ledger import additions
from prompt_refiner.striking import places_of, strike_out

WALK = ("人走路", "A person walking forward naturally on a sidewalk, slight arm swing, cloth fluttering in wind")
SEA = (
    "海浪动",
    "Ocean waves crashing on the beach with foam, camera slowly panning left, morning sun reflecting.",
)
CAT = ("猫转头", "一只白猫在阳光下慢慢转头，窗外下着雨，背景是温暖的客厅。")
ROOM = ("猫转头", "阳光下，一只猫在温暖的客厅里慢慢转头")
FIELD = ("女孩走路", "女孩走路，金色的麦田随风摆动，镜头推近")
COAT = ("a man waves", "A man in a red coat waves under the old trees in warm light")
DOG = ("a dog runs", "An orange dog runs through rain and snow, camera pans left over hills.")


@pytest.mark.parametrize(
    ("texts", "element", "left"),
    [
        (WALK, "sidewalk", "A person walking forward naturally, slight arm swing, cloth fluttering in wind"),
        (WALK, "wind", "A person walking forward naturally on a sidewalk, slight arm swing, cloth fluttering"),
        (WALK, "cloth", "A person walking forward naturally on a sidewalk, slight arm swing"),
        (SEA, "Ocean", "Waves crashing on the beach with foam, camera slowly panning left, morning sun reflecting."),
        (SEA, "sun", "Ocean waves crashing on the beach with foam, camera slowly panning left."),
        (SEA, "sandy beach", "Ocean waves crashing with foam, camera slowly panning left, morning sun reflecting."),
        (CAT, "阳光", "一只白猫慢慢转头，窗外下着雨，背景是温暖的客厅。"),
        (CAT, "窗外", "一只白猫在阳光下慢慢转头，背景是温暖的客厅。"),
        (CAT, "温暖", "一只白猫在阳光下慢慢转头，窗外下着雨，背景是客厅。"),
        (CAT, "客厅", "一只白猫在阳光下慢慢转头，窗外下着雨。"),
        (ROOM, "阳光", "一只猫在温暖的客厅里慢慢转头"),
        (ROOM, "客厅", "阳光下，一只猫慢慢转头"),
        (FIELD, "金色", "女孩走路，麦田随风摆动，镜头推近"),
        (FIELD, "麦田", "女孩走路，镜头推近"),
        (COAT, "red", "A man in a coat waves under the old trees in warm light"),
        (COAT, "trees", "A man in a red coat waves in warm light"),
        (DOG, "orange", "A dog runs through rain and snow, camera pans left over hills."),
        (DOG, "rain", "An orange dog runs through snow, camera pans left over hills."),
        (DOG, "snow", "An orange dog runs through rain, camera pans left over hills."),
        (DOG, "hills", "An orange dog runs through rain and snow, camera pans left."),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 12 else "",
)  # fmt: skip
def test_an_addition_goes_with_the_small_words_that_only_belong_to_it(
    texts: tuple[str, str], element: str, left: str
) -> None:
    typed, refined = texts
    assert strike_out(refined, [element], typed=typed) == left


@pytest.mark.parametrize("texts", [WALK, SEA, CAT, ROOM, FIELD, COAT, DOG], ids=lambda texts: texts[0])
@settings(deadline=None)
@given(data=st.data())
def test_nothing_that_was_struck_out_stands_any_longer_and_no_camera_move_is_lost(
    texts: tuple[str, str], data: st.DataObject
) -> None:
    typed, refined = texts
    elements = list(dict.fromkeys(found.element for found in additions(typed, refined)))
    struck = data.draw(st.lists(st.sampled_from(elements), unique=True))
    left = strike_out(refined, struck, typed=typed)
    assert not any(places_of(element, left, typed=typed) for element in struck)
    assert ("camera" in left, "镜头" in left) == ("camera" in refined, "镜头" in refined)
    assert strike_out(left, struck, typed=typed) == left
    assert (left == refined) == (not struck)
    assert ",," not in left.replace(" ", "")
    assert "  " not in left


@settings(deadline=None)
@given(st.text(), st.lists(st.text(), max_size=3), st.text())
def test_any_text_survives_any_element_and_never_vanishes(refined: str, elements: list[str], typed: str) -> None:
    left = strike_out(refined, elements, typed=typed)
    assert len(left) <= len(refined) + 2
    assert any(mark.isalnum() for mark in left) or left == refined


def test_what_is_only_paraphrased_has_no_place_and_typed_words_are_nobodys_addition() -> None:
    assert places_of("cosy mood", "A cat on a sofa", typed="猫") == ()
    assert places_of("city skyline", "A city at the shore", typed="a city") == ()
    assert strike_out("Rain.", ["rain"], typed="") == "Rain."
