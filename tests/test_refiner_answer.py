"""The model's text becomes data or a failure, whatever stands in it. No network."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_refiner.answer import Answer, find_object, parse_answer
from prompt_refiner.failures import LlmFailure
from prompt_refiner.llm import known_styles, system_prompt


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(), st.text(alphabet='{}[]",:\\ntrue0<think/>`'), st.binary().map(lambda b: b.decode("latin-1")))
)
def test_no_text_breaks_the_extractor(text: str) -> None:
    assert find_object(text) is None or isinstance(find_object(text), dict)


@pytest.mark.parametrize("text", ['{"a":' * 50_000, "[" * 100_000, '{"a":[' * 20_000, "{" * 100_000])
def test_deep_nesting_is_no_answer_and_takes_no_time(text: str) -> None:
    started = time.monotonic()
    assert find_object(text) is None
    assert time.monotonic() - started < 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(Answer.model_fields)), JSON))
def test_any_values_are_an_answer_or_a_failure(found: dict[str, Any]) -> None:
    try:
        parsed = parse_answer(json.dumps({"refined_prompt": "waves", **found}))
    except LlmFailure as failure:
        assert failure.cause == "unusable_answer"
    else:
        json.dumps(parsed.model_dump(), allow_nan=False, ensure_ascii=False).encode("utf-8")


def test_every_style_tells_the_model_every_field_of_the_answer() -> None:
    assert {"camera", "i2vgen_xl", "wan"} <= set(known_styles())
    for style in known_styles():
        told = system_prompt(style)
        assert [name for name in Answer.model_fields if f'"{name}"' not in told] == []
        assert "JSON" in told  # Kimi refuses json_object without the word
