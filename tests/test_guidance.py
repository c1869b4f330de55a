"""The guidance of each step: numbers, schedules, experts, and how a person writes them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from i2v_pipeline.errors import RequestError
from i2v_pipeline.guidance import guidance_as_json, guidance_mistakes, is_ever_guided, parse_guidance, strength_at
from i2v_pipeline.types import Guidance, GuidanceSchedule

STRENGTHS = st.floats(1.0, 20.0)


@given(strength=STRENGTHS, steps=st.integers(1, 60))
def test_a_constant_schedule_is_the_plain_number_at_every_step_to_the_last_bit(strength, steps):
    constant = GuidanceSchedule(first=strength, last=strength)
    for step in range(steps):
        assert strength_at(constant, step, steps, "high") == strength_at(strength, step, steps, "high")


@given(first=STRENGTHS, last=STRENGTHS, steps=st.integers(2, 60))
def test_a_ramp_begins_and_ends_where_it_was_told_and_never_leaves_between(first, last, steps):
    ramp = GuidanceSchedule(first=first, last=last)
    strengths = [strength_at(ramp, step, steps, "high") for step in range(steps)]
    assert strengths[0] == first
    assert strengths[-1] == pytest.approx(last)
    assert sorted(strengths, reverse=first > last) == strengths


def test_outside_its_interval_there_is_no_guidance():
    interval = GuidanceSchedule(first=5.0, last=5.0, begin=0.2, end=0.6)
    assert [strength_at(interval, step, 10, "high") for step in range(10)] == [1, 1, 5, 5, 5, 5, 1, 1, 1, 1]


def test_each_expert_has_its_own_guidance_and_one_number_is_both():
    assert strength_at((3.5, 1.0), 0, 4, "high") == 3.5
    assert strength_at((3.5, 1.0), 3, 4, "low") == 1.0
    assert strength_at(3.5, 3, 4, "low") == 3.5


@pytest.mark.parametrize(
    ("guidance", "guided"),
    [(1.0, False), ((1.0, 1.0), False), ((1.0, 3.5), True), (5.0, True), (parse_guidance("1..4"), True)],
)
def test_the_negative_prompt_is_needed_exactly_where_some_step_is_guided(guidance, guided):
    assert is_ever_guided(guidance) is guided


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("5", 5.0),
        ("3.5,1", (3.5, 1.0)),
        ("9..6", GuidanceSchedule(first=9.0, last=6.0)),
        ("5@0-0.6", GuidanceSchedule(first=5.0, last=5.0, begin=0.0, end=0.6)),
        ("9..6@0.1-1, 4", (GuidanceSchedule(first=9.0, last=6.0, begin=0.1), 4.0)),
    ],
)
def test_what_a_person_writes_is_read(text, meant):
    assert parse_guidance(text) == meant


@pytest.mark.parametrize("text", ["", "five", "-3", "3,4,5", "3;4", "5@0.6", "nan", "1e3"])
def test_what_cannot_be_read_is_refused_with_examples(text):
    with pytest.raises(RequestError, match=r"cannot be read.*3\.5,1"):
        parse_guidance(text)


@pytest.mark.parametrize(
    ("guidance", "experts", "told"),
    [
        (0.5, 1, "Guidance 0.5: numbers from 1"),
        (float("nan"), 1, "Guidance nan"),
        (float("inf"), 1, "Guidance inf"),
        ((3.5, 0.0), 2, "Guidance 0: numbers from 1"),
        ((3.5, 3.5), 1, "one expert"),
        (GuidanceSchedule(first=5.0, last=5.0, begin=0.6, end=0.6), 1, "between 0 and 1"),
        (GuidanceSchedule(first=5.0, last=5.0, end=1.5), 1, "between 0 and 1"),
    ],
)
def test_a_guidance_that_means_nothing_is_told(guidance, experts, told):
    (mistake,) = guidance_mistakes(guidance, experts=experts)
    assert told in mistake.en


@pytest.mark.parametrize("guidance", [1.0, 12.5, (3.5, 1.0), GuidanceSchedule(first=9.0, last=1.0, begin=0.1)])
def test_a_guidance_that_means_something_is_not(guidance):
    assert list(guidance_mistakes(guidance, experts=2)) == []


@pytest.mark.parametrize("text", ["5", "3.5,1", "9..6@0.1-0.9", "9..6,2"])
def test_every_form_survives_json(text):
    guidance = parse_guidance(text)
    adapter = TypeAdapter(Guidance)
    assert adapter.validate_json(json.dumps(guidance_as_json(guidance))) == guidance
    assert adapter.validate_json(adapter.dump_json(guidance)) == guidance
