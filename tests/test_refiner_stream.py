"""An answer in pieces is the same answer: split anywhere, counted by anyone, broken off or broken. Loopback only."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback_llm import ANSWER, Service, answer, completion, in_pieces, send, serving

from prompt_refiner.stream import read_answer

WHOLE = completion(answer(subject="waves \u2028 \x85 浪"))
EVENTS = in_pieces(WHOLE, with_usage=True)


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as playing:
        yield playing


def cut(body: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(ends)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10_000), max_size=8), st.sampled_from(("\n", "\r\n")))
def test_pieces_give_the_whole_answer_wherever_the_line_cuts_them(places: list[int], line_end: str) -> None:
    body = EVENTS.replace("\n", line_end).encode()
    found = read_answer(cut(body, places))
    (choice,) = found["choices"]
    assert choice["message"]["content"] == WHOLE["choices"][0]["message"]["content"]
    assert choice["finish_reason"] == "stop"
    assert found["usage"] == WHOLE["usage"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10_000), max_size=8), st.sampled_from((None, 2)))
def test_an_answer_that_comes_whole_is_read_as_it_stands(places: list[int], indent: int | None) -> None:
    assert read_answer(cut(json.dumps(WHOLE, indent=indent, ensure_ascii=False).encode(), places)) == WHOLE


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from((b"", b"data: ", b"data: {", b": x\n\ndata: ", b"error: ")))
def test_bytes_of_any_kind_are_an_answer_or_a_value_error(body: bytes, before: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_answer([before + body])


def test_nothing_is_read_after_the_end() -> None:
    def body() -> Iterator[bytes]:
        yield EVENTS.encode()
        raise AssertionError("the line was kept open")

    assert read_answer(body())["choices"]


def piece(content: str | None = None, **choice: Any) -> str:
    delta = {} if content is None else {"content": content}
    return f"data: {json.dumps({'choices': [{'delta': delta, **choice}]})}\n\n"


def test_kimis_count_stands_in_the_choice() -> None:
    counted = {"prompt_tokens": 9, "completion_tokens": 2}
    body = piece("{}") + piece(finish_reason="stop", usage=counted) + "data: [DONE]\n\n"
    assert read_answer([body.encode()])["usage"] == counted


def stream(handler: BaseHTTPRequestHandler, text: str) -> None:
    """Sends the text and closes the line."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(text.encode())
    handler.close_connection = True


OVERLOADED = '{"error": {"code": 503, "message": "overloaded", "type": "unavailable_error"}}'
BROKEN = [
    ("server_error", 2, piece("{") + f"data: {OVERLOADED}\n\n"),
    ("server_error", 2, piece("{") + 'error: {"code": 500, "message": "out of memory"}\n\n'),
    ("no_credit", 1, 'data: {"error": {"code": "1113", "message": "账户已欠费"}}\n\n'),
    ("refused", 1, piece("I", finish_reason="sensitive")),
    ("refused", 1, 'data: {"error": {"code": 400, "type": "content_filter", "message": "no"}}\n\n'),
    ("empty_answer", 2, "data: [DONE]\n\n"),
    ("empty_answer", 2, piece(finish_reason="length") + "data: [DONE]\n\n"),
    ("unusable_answer", 2, piece('{"refined_prompt": "wa')),
    ("not_an_api", 2, piece('{"refined_prompt"') + 'data: {"choices": [{"del'),
    ("not_an_api", 2, "data: 7\n\n"),
]


@pytest.mark.parametrize(("cause", "asked", "said"), BROKEN)
def test_every_way_in_which_a_stream_breaks_has_its_cause(service: Service, cause: str, asked: int, said: str) -> None:
    service.play = lambda handler, body: stream(handler, said)
    result = service.refine()
    assert (result.source, result.notices[0].cause, len(service.requests)) == ("offline", cause, asked)


def test_a_line_that_breaks_in_the_middle_is_tried_once_more(service: Service) -> None:
    def play(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if len(service.requests) > 1:
            send(handler, 200, completion(answer()))
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.wfile.write(EVENTS[:200].encode())
        handler.close_connection = True

    service.play = play
    result = service.refine()
    assert (result.source, result.refined_prompt) == ("llm", ANSWER["refined_prompt"])


def test_thoughts_that_are_streamed_are_no_part_of_the_answer(service: Service) -> None:
    service.says(answer())
    assert "thinking" in in_pieces(completion(answer()), with_usage=False)
    result = service.refine()
    assert "thinking" not in json.dumps(result.to_dict())
