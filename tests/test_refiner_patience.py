"""What is asked again, how, and how often: refused fields, busy services, broken answers. Real HTTP on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback_llm import TYPED, Service, answer, completion, send, serving
from test_refiner_wire import mfjs_faults, picture

from prompt_refiner.schema import answer_schema


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as playing:
        yield playing


def refuse(handler: BaseHTTPRequestHandler, message: str, status: int = 400, **more: Any) -> None:
    send(handler, status, {"error": {"message": message, "type": "invalid_request_error", **more}})


def good(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, completion(answer()))


def form_of(body: dict[str, Any]) -> str:
    return body.get("response_format", {}).get("type", "plain")


# Servers of one's own, by their documents


def lm_studio(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    if form_of(body) == "json_object":
        refuse(handler, "'response_format.type' must be 'json_schema' or 'text'")
    elif set(body) != {
        "model",
        "messages",
        "max_tokens",
        "temperature",
        "response_format",
        "stream",
        "stream_options",
    }:
        refuse(handler, f"unexpected: {sorted(body)}")
    else:
        good(handler)


def blind_llama(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """A llama.cpp server without a projector for pictures."""
    if any(isinstance(message["content"], list) for message in body["messages"]):
        refuse(handler, "image input is not supported - hint: you may need to provide the mmproj", 500)
    elif form_of(body) not in ("json_schema", "json_object"):
        refuse(handler, "json schema or grammar expected")
    else:
        good(handler)


def test_lm_studio_gets_a_schema_and_nothing_that_it_refuses(service: Service) -> None:
    service.play = lm_studio
    assert service.refine(settings=service.settings("lm-studio")).source == "llm"
    sent = service.requests[0].body["response_format"]["json_schema"]
    assert len(service.requests) == 1
    assert (sent["strict"], sent["schema"]) == (True, answer_schema())


def test_the_schema_keeps_to_what_the_narrowest_decoder_takes() -> None:
    assert mfjs_faults(answer_schema()) == []
    assert mfjs_faults({"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}) == ["unknown const"]


def test_a_model_that_turns_out_blind_is_asked_without_the_picture_and_remembered(service: Service) -> None:
    service.play = blind_llama
    llama = service.settings("llama.cpp")
    for requests in (2, 3):
        result = service.refine(settings=llama, picture=picture((64, 64)))
        assert (result.source, len(service.requests)) == ("llm", requests)
        assert [(notice.code, notice.cause) for notice in result.notices] == [("picture_not_sent", "text_only")]
        assert (result.image_text_match.verdict, result.image_elements) == ("unknown", ())


# Fields that are refused


@pytest.mark.parametrize(
    ("provider", "field", "message", "status"),
    [
        ("kimi", "thinking", "Extra inputs are not permitted: thinking", 400),
        ("glm", "temperature", "参数 temperature 非法", 400),
        ("glm", "max_tokens", "API 调用参数有误：max_tokens", 400),
        ("vllm", "temperature", '[{"loc": ["body", "temperature"], "input": {"max_tokens": 4096}}]', 422),
    ],
)
def test_exactly_the_refused_field_is_left_out_and_stays_out(
    service: Service, provider: str, field: str, message: str, status: int
) -> None:
    service.play = lambda handler, body: refuse(handler, message, status) if field in body else good(handler)
    model = {"kimi": "kimi-k2.6", "glm": "glm-4.6v"}.get(provider, "m")
    chosen = service.settings(provider, model)
    assert service.refine(settings=chosen).source == "llm"
    first, second = (request.body for request in service.requests)
    assert set(first) - set(second) == {field}
    assert service.refine(settings=chosen).source == "llm"
    assert [set(request.body) for request in service.requests[2:]] == [set(second)]


def test_what_one_model_refuses_another_is_still_asked(service: Service) -> None:
    service.play = lambda handler, body: refuse(handler, "temperature") if "temperature" in body else good(handler)
    for model in ("one", "two"):
        service.refine(settings=service.settings("vllm", model))
    assert ["temperature" in request.body for request in service.requests] == [True, False, True, False]


def test_the_form_steps_down_until_it_is_taken(service: Service) -> None:
    def play(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        refuse(handler, f"{form_of(body)} is no response_format of ours") if "response_format" in body else good(
            handler
        )

    service.play = play
    assert service.refine(settings=service.settings("vllm")).source == "llm"
    assert [form_of(request.body) for request in service.requests] == ["json_schema", "json_object", "plain"]


def test_the_other_name_of_a_parameter_is_learned(service: Service) -> None:
    def play(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if "max_tokens" in body:
            refuse(handler, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        else:
            good(handler)

    service.play = play
    assert service.refine().source == "llm"
    assert service.requests[1].body["max_completion_tokens"] == service.requests[0].body["max_tokens"]


def test_a_server_that_does_not_stream_is_asked_for_the_whole_answer(service: Service) -> None:
    def play(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        refuse(handler, "stream: only false is supported") if body["stream"] else good(handler)

    service.play = play
    result = service.refine(settings=service.settings("vllm"))
    assert (result.source, result.usage is not None) == ("llm", True)
    first, second = (request.body for request in service.requests)
    assert (first["stream"], first["stream_options"]) == (True, {"include_usage": True})
    assert (second["stream"], "stream_options" in second) == (False, False)


def test_a_server_that_answers_whole_where_pieces_were_asked_for_is_understood(service: Service) -> None:
    service.play = lambda handler, body: send(handler, 200, json.dumps(completion(answer())))
    result = service.refine()
    assert (result.source, len(service.requests)) == ("llm", 1)
    assert result.usage is not None


def test_a_refusal_that_names_nothing_is_final(service: Service) -> None:
    service.play = lambda handler, body: refuse(handler, "no")
    result = service.refine(settings=service.settings("vllm"))
    assert (result.notices[0].cause, len(service.requests)) == ("request_refused", 1)


def test_a_server_that_refuses_whatever_is_sent_is_not_asked_for_ever(service: Service) -> None:
    service.play = lambda handler, body: refuse(handler, " ".join(body))
    assert service.refine(settings=service.settings("vllm")).notices[0].cause == "request_refused"
    assert len(service.requests) == 6


# Busy, empty, broken


def at_first(service: Service, *args: Any, **headers: str) -> None:
    """Answers the first request with this, and any other well."""
    service.play = lambda handler, body: (
        send(handler, *args, **headers) if len(service.requests) == 1 else good(handler)
    )


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, {"error": {"message": "engine is overloaded", "type": "engine_overloaded_error"}}),
        (429, {"error": {"message": "并发数过高", "code": "1302"}}),
        (503, "upstream"),
        (200, {"error": {"message": "try again"}}),
        (200, completion("")),
        (200, completion("", finish_reason="network_error")),
    ],
)
def test_what_may_pass_is_asked_once_more(service: Service, status: int, body: Any) -> None:
    at_first(service, status, body)
    assert service.refine().source == "llm"
    assert len(service.requests) == 2


def test_the_service_says_when_it_will_have_time(service: Service) -> None:
    at_first(service, 429, {"error": {"message": "slow down"}}, **{"Retry-After": "1.2"})
    result = service.refine()
    assert result.source == "llm"
    assert result.latency_s >= 1.2


def test_a_service_that_will_not_have_time_is_not_waited_for(service: Service) -> None:
    at_first(service, 429, {"error": {"message": "slow down"}}, **{"Retry-After": "30"})
    result = service.refine(deadline_s=5)
    assert (result.notices[0].cause, len(service.requests)) == ("busy", 1)
    assert result.latency_s < 5


def test_an_empty_account_is_not_asked_again(service: Service) -> None:
    at_first(service, 429, {"error": {"message": "insufficient balance", "code": "1113"}}, **{"Retry-After": "0"})
    assert service.refine().notices[0].cause == "no_credit"
    assert len(service.requests) == 1


def test_who_stays_busy_is_left_alone(service: Service) -> None:
    service.play = lambda handler, body: refuse(handler, "busy", 429)
    assert service.refine().notices[0].cause == "busy"
    assert len(service.requests) == 2


def test_a_model_that_thought_its_tokens_away_gets_twice_as_many(service: Service) -> None:
    at_first(service, 200, completion(None, finish_reason="length"))
    assert service.refine().source == "llm"
    first, second = (request.body["max_tokens"] for request in service.requests)
    assert second == 2 * first


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ("Here you are: a fine prompt.", "no JSON object"),
        (answer(refined_prompt=""), "refined_prompt of 0 characters"),
        (answer(refined_prompt="海浪拍打礁石，镜头推近"), "wrong language"),
    ],
)
def test_a_broken_answer_is_repaired_once_with_what_is_wrong(service: Service, broken: str, fault: str) -> None:
    at_first(service, 200, completion(broken))
    result = service.refine(settings=service.settings("vllm"))
    assert result.source == "llm"
    *_, said, asked = service.requests[1].body["messages"]
    assert (said["role"], asked["role"]) == ("assistant", "user")
    assert said["content"] == broken
    assert fault in asked["content"]
    assert result.usage is not None
    assert (result.usage.input_tokens, result.usage.output_tokens) == (1800, 240)


def test_an_answer_that_stays_broken_is_given_up(service: Service) -> None:
    service.says("no JSON today")
    assert service.refine().notices[0].cause == "unusable_answer"
    assert len(service.requests) == 2


def test_asking_again_keeps_to_the_one_deadline(service: Service) -> None:
    def play(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        service.over.wait(0.7)
        send(handler, 200, completion("no JSON"))

    service.says(answer())
    service.refine()  # the first call imports the package
    service.play = play
    started = time.monotonic()
    assert service.refine(deadline_s=1.0).notices[0].cause == "timeout"
    assert time.monotonic() - started < 10


def test_whoever_stops_waiting_hangs_up(service: Service) -> None:
    """A server of one's own then stops to write, and its GPU is free for the video."""
    hung_up = threading.Event()

    def play(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if handler.rfile.read(1) == b"":
            hung_up.set()

    service.play = play
    result = service.refine(TYPED, deadline_s=30, cancelled=lambda: bool(service.requests))
    assert result.notices[0].cause == "cancelled"
    assert hung_up.wait(10)


def test_no_bytes_that_a_server_sends_break_a_refinement() -> None:
    with serving() as service:

        @settings(max_examples=60, deadline=None)
        @given(
            st.binary(max_size=300), st.sampled_from((200, 400, 429, 500)), st.sampled_from(("application/json", ""))
        )
        def holds(sent: bytes, status: int, kind: str) -> None:
            def play(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
                handler.send_response(status)
                handler.send_header("Content-Type", kind)
                handler.send_header("Retry-After", "60")
                handler.send_header("Content-Length", str(len(sent)))
                handler.end_headers()
                handler.wfile.write(sent)

            service.play = play
            result = service.refine(settings=service.settings("vllm"))
            assert result.source == "offline"
            assert result.notices[0].code == "llm_failed"

        holds()
