"""What becomes of an LLM's answer, and of every way in which it can fail. Real HTTP on loopback, no other network."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from loopback_llm import ANSWER, KEY, TYPED, WAN, Service, answer, completion, send, serving

from prompt_refiner import RefineResult, RefinerSettings


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as playing:
        yield playing


def cause_of(result: RefineResult) -> str:
    """The cause of the one `llm_failed` notice, after checking that the rules' result stands whole."""
    assert result.source == "offline"
    assert (result.provider, result.model, result.usage) == (None, None, None)
    assert result.camera_motion == ("zoom_in",)
    assert result.refined_prompt == "海浪拍打礁石, camera slowly zooming in"
    (notice,) = (notice for notice in result.notices if notice.code == "llm_failed")
    assert "offline rules" in notice.en
    assert "离线规则" in notice.zh
    return notice.cause


# An answer that can be used


def test_an_answer_becomes_the_result(service: Service) -> None:
    service.says(answer())
    result = service.refine(settings=service.settings("vllm"))
    assert (result.source, result.provider, result.model) == ("llm", "vllm", "some-model")
    assert result.refined_prompt == ANSWER["refined_prompt"]
    assert (result.language_in, result.camera_motion, result.camera_requested) == ("zh", ("zoom_in",), True)
    assert (result.speed, result.motion_intensity, result.compound) == ("slow_motion", "high", True)
    assert [added.element for added in result.added_elements] == ["ocean"]
    assert result.usage is not None
    assert (result.usage.input_tokens, result.usage.output_tokens) == (900, 120)
    assert result.suggestion is not None
    assert result.suggestion.preset == "high_motion"
    assert all(check.passed for check in result.checks)
    assert not result.notices
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict()


@pytest.mark.parametrize(
    "content",
    [
        f"```json\n{answer()}\n```",
        f"<think>The user {{wants}} a zoom.</think>\n{answer()}",
        f"no opening tag {{}} </think>{answer()}",
        f"<|begin_of_box|>{answer()}<|end_of_box|>",
        f"Here is the JSON: {{not it}} {answer()} I hope it helps {{}}.",
        json.dumps(ANSWER, indent=4),
    ],
)
def test_an_answer_is_found_in_what_surrounds_it(service: Service, content: str) -> None:
    service.says(content)
    assert service.refine().refined_prompt == ANSWER["refined_prompt"]


def test_loose_values_are_made_regular(service: Service) -> None:
    service.says(
        answer(
            camera_motion="Zoom-In",
            speed="Slow motion",
            motion_intensity="高",
            compound="true",
            environment=None,
            image_elements="waves",
            added_elements=["ocean", {"element": ""}, 7],
            image_text_match="match",
            warnings=["Blurry", "unheard_of"],
            suggestion={"preset": "ultra", "duration": "normal"},
            confidence=0.9,
            refined_prompt="Ocean waves crashing,\n camera zooming in\u0007",
        )
    )
    result = service.refine()
    assert (result.source, result.camera_motion, result.speed) == ("llm", ("zoom_in",), "slow_motion")
    assert (result.motion_intensity, result.compound, result.environment) == ("high", True, "")
    assert [added.element for added in result.added_elements] == ["ocean", "7"]
    assert (result.warnings, result.suggestion) == (("blurry",), None)
    assert result.refined_prompt == "Ocean waves crashing, camera zooming in"


# What of it is believed


def test_a_camera_move_that_nobody_asked_for_is_dropped_from_tags_and_text_and_told(service: Service) -> None:
    service.says(
        answer(
            camera_motion=["pan_left"],
            refined_prompt="Ocean waves crashing, camera slowly panning left, smooth motion",
        )
    )
    result = service.refine("海浪动")
    assert (result.source, result.camera_motion, result.camera_requested) == ("llm", (), False)
    assert result.refined_prompt == "Ocean waves crashing, smooth motion"
    assert not result.compound
    (notice,) = (notice for notice in result.notices if notice.code == "camera_dropped")
    assert "pans left" in notice.en
    assert "向左摇" in notice.zh


def test_a_refused_camera_move_stays_refused(service: Service) -> None:
    service.says(answer(camera_motion=["zoom_in"], refined_prompt="女孩微笑，镜头推近"))
    result = service.refine("不要推近镜头，女孩微笑", WAN)
    assert (result.camera_motion, result.refined_prompt) == ((), "女孩微笑")


def test_a_second_move_that_nobody_asked_for_is_dropped(service: Service) -> None:
    service.says(answer(camera_motion=["zoom_in", "handheld"]))
    result = service.refine()
    assert result.camera_motion == ("zoom_in",)
    assert {notice.code for notice in result.notices} == {"camera_dropped"}


def test_a_move_that_was_asked_for_comes_back_when_the_model_forgets_it(service: Service) -> None:
    service.says(answer(camera_motion=[], refined_prompt="Ocean waves crashing on the rocks"))
    result = service.refine()
    assert result.camera_motion == ("zoom_in",)
    assert result.refined_prompt == "Ocean waves crashing on the rocks, camera slowly zooming in"


def test_the_model_names_a_move_that_the_rules_could_not(service: Service) -> None:
    service.says(answer(camera_motion=["dolly_in"], refined_prompt="镜头推向女孩的脸"))
    result = service.refine("镜头聚焦到女孩的脸上", WAN)
    assert result.camera_motion == ("dolly_in",)
    assert not result.notices


def test_without_a_picture_nothing_is_believed_about_it(service: Service) -> None:
    service.says(answer())
    result = service.refine()
    assert (result.image_text_match.verdict, result.image_text_match.score) == ("unknown", None)
    assert result.image_elements == ()


def test_a_prompt_over_the_engines_limit_is_kept_whole_and_told(service: Service) -> None:
    long = "waves crashing on rocks " * 25 + "camera zooming in"
    service.says(answer(refined_prompt=long))
    result = service.refine()
    assert result.refined_prompt == long
    assert "too_long" in {notice.code for notice in result.notices}
    assert not next(check for check in result.checks if check.name == "token_budget_estimated").passed


@pytest.mark.parametrize(
    ("prompt", "typed"),
    [
        ("海浪拍打礁石，镜头推近", TYPED),
        ("", TYPED),
        ("   ", TYPED),
        ("see https://example.com for waves, camera zooming in", TYPED),
        ("```waves``` camera zooming in", TYPED),
        ("waves " * 300, TYPED),
    ],
)
def test_a_prompt_that_is_none_is_not_believed(service: Service, prompt: str, typed: str) -> None:
    service.says(answer(refined_prompt=prompt))
    assert cause_of(service.refine(typed)) == "unusable_answer"


def test_a_prompt_that_was_only_an_invented_move_is_not_believed(service: Service) -> None:
    service.says(answer(refined_prompt="camera slowly panning left"))
    assert service.refine("海浪动").source == "offline"


# What goes wrong


def error(message: str, **more: str) -> dict[str, Any]:
    return {"error": {"message": f"{message} (key {KEY})", **more}}


FAILURES: list[tuple[str, int, Any]] = [
    ("key_refused", 401, error("Invalid Authentication", type="invalid_authentication_error")),
    ("key_refused", 403, error("forbidden")),
    ("model_missing", 404, error("Not found the model")),
    ("model_missing", 400, error("模型不存在", code="1211")),
    ("key_refused", 401, error("身份验证失败", code="1000")),
    ("key_refused", 401, error("Incorrect API key", type="incorrect_api_key_error")),
    ("busy", 429, error("too many", type="rate_limit_reached_error")),
    ("busy", 429, error("traffic", code="1305")),
    ("refused", 200, completion("", finish_reason="content_filter")),
    ("server_error", 200, completion("", finish_reason="network_error")),
    ("busy", 429, error("engine is overloaded", type="engine_overloaded_error")),
    ("busy", 429, error("too many requests", code="1302")),
    ("no_credit", 429, error("check your plan", type="exceeded_current_quota_error")),
    ("no_credit", 429, error("账户已欠费", code="1113")),
    ("no_credit", 402, error("pay")),
    ("refused", 400, error("The request was rejected", type="content_filter")),
    ("refused", 400, error("不安全", code="1301")),
    ("request_refused", 400, error("response_format is unknown")),
    ("request_refused", 422, error("max_tokens")),
    ("too_large", 413, error("too big")),
    ("too_large", 400, error("exceeded model token limit")),
    ("server_error", 500, error("image input is not supported")),
    ("server_error", 503, "upstream"),
    ("server_error", 200, error("in a body that says 200")),
    ("not_an_api", 200, []),
    ("not_an_api", 200, None),
    ("empty_answer", 200, {**completion(""), "choices": []}),
    ("empty_answer", 200, completion("")),
    ("empty_answer", 200, completion(None, finish_reason="length")),
    ("refused", 200, completion("", finish_reason="sensitive")),
    ("unusable_answer", 200, completion("I cannot help with that.")),
    ("unusable_answer", 200, completion(answer()[:200], finish_reason="length")),
    ("unusable_answer", 200, completion('{"refined_prompt": 0')),
    ("unusable_answer", 200, completion('{"prompt": "waves"}')),
]


def is_asked_again(cause: str, status: int) -> bool:
    """A 200 that holds no answer may have been an accident, a wrong answer is repaired once, and max_tokens that is
    refused is left out once. The rest is final: here every busy service asks for more time than there is."""
    return (status == 200 and cause != "refused") or (status, cause) == (422, "request_refused")


@pytest.mark.parametrize(
    ("cause", "status", "body"), FAILURES, ids=[f"{f[1]}-{f[0]}-{i}" for i, f in enumerate(FAILURES)]
)
def test_every_failure_gives_the_offline_result_and_its_cause(
    service: Service, caplog: pytest.LogCaptureFixture, cause: str, status: int, body: Any
) -> None:
    service.play = lambda handler, asked: send(handler, status, body, **{"Retry-After": "100"})
    with caplog.at_level(logging.INFO, "prompt_refiner"):
        result = service.refine()
    assert cause_of(result) == cause
    assert result.latency_s < 5
    assert len(service.requests) == (2 if is_asked_again(cause, status) else 1)
    everything = json.dumps(result.to_dict(), ensure_ascii=False) + caplog.text + repr(service.settings())
    assert KEY not in everything
    assert "Traceback" not in everything
    assert cause in caplog.text


def test_a_page_instead_of_an_api_is_told(service: Service) -> None:
    service.play = lambda handler, body: send(handler, 200, "<html><h1>Welcome</h1></html>", "text/html")
    assert cause_of(service.refine()) == "not_an_api"


def test_an_endless_answer_is_not_read_to_its_end(service: Service) -> None:
    service.play = lambda handler, body: send(handler, 200, " " * 5_000_000)
    assert cause_of(service.refine()) == "unusable_answer"


def test_a_redirect_is_not_followed(service: Service) -> None:
    elsewhere = f"{service.url}/elsewhere"
    service.play = lambda handler, body: send(handler, 307, "", Location=elsewhere)
    assert cause_of(service.refine()) == "not_an_api"
    assert len(service.requests) == 1


def test_a_connection_that_breaks_is_told(service: Service) -> None:
    service.play = lambda handler, body: handler.connection.shutdown(socket.SHUT_RDWR)
    assert cause_of(service.refine()) == "unreachable"


def test_nobody_there_is_told(service: Service) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        nobody = RefinerSettings(provider="custom", base_url=f"http://127.0.0.1:{port}/v1", model="m")
        assert cause_of(service.refine(settings=nobody)) == "unreachable"


def test_a_wrong_key_names_the_other_region(service: Service) -> None:
    service.play = lambda handler, body: send(handler, 401, error("no"))
    (notice, *_) = service.refine(settings=service.settings("kimi", "kimi-k2.6")).notices
    assert "https://api.moonshot.ai/v1" in notice.en
    assert "kimi-intl" in notice.zh


def hang(service: Service) -> Callable[[BaseHTTPRequestHandler, Any], None]:
    def play(handler: BaseHTTPRequestHandler, body: Any) -> None:
        service.over.wait(30)

    return play


def drip(service: Service) -> Callable[[BaseHTTPRequestHandler, Any], None]:
    """A byte every 50 ms: no read ever takes long, and the answer would take a minute."""

    def play(handler: BaseHTTPRequestHandler, body: Any) -> None:
        content = json.dumps(completion(answer())).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        for byte in content:
            if service.over.wait(0.05):
                return
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()

    return play


@pytest.mark.parametrize("slow", [hang, drip])
def test_the_deadline_holds_and_the_waiting_thread_ends(service: Service, slow: Any) -> None:
    service.says(answer())
    service.refine()  # the first call imports the package
    service.play = slow(service)
    started = time.monotonic()
    result = service.refine(deadline_s=1.0)
    assert time.monotonic() - started < 10
    assert cause_of(result) == "timeout"
    assert "1 seconds" in result.notices[0].en
    ends = time.monotonic() + 5
    while any(thread.name == "prompt-refiner" for thread in threading.enumerate()) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not any(thread.name == "prompt-refiner" for thread in threading.enumerate())


def test_the_deadline_holds_while_headers_drip(service: Service) -> None:
    def play(handler: BaseHTTPRequestHandler, body: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not service.over.wait(0.05):
            handler.wfile.write(b"a")
            handler.wfile.flush()

    service.play = play
    started = time.monotonic()
    assert cause_of(service.refine(deadline_s=1.0)) == "timeout"
    assert time.monotonic() - started < 10


def test_a_person_who_does_not_want_to_wait_does_not_wait(service: Service) -> None:
    service.play = hang(service)
    started = time.monotonic()
    result = service.refine(cancelled=lambda: bool(service.requests), deadline_s=30.0)
    assert time.monotonic() - started < 10
    assert cause_of(result) == "cancelled"
    assert result.notices[0].severity == "info"


def test_a_missing_package_is_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    result = service.refine()
    assert cause_of(result) == "package_missing"
    assert "pip install openai" in result.notices[0].en


def test_a_failure_is_an_error_only_where_the_llm_was_asked_for_by_name(service: Service) -> None:
    service.play = lambda handler, body: send(handler, 500, "")
    assert service.refine(mode="auto").notices[0].severity == "warn"
    assert service.refine(mode="llm").notices[0].severity == "error"


def test_no_llm_is_no_fault_unless_it_was_asked_for(service: Service) -> None:
    auto, asked = (service.refine(settings=RefinerSettings(), mode=mode).notices[0] for mode in ("auto", "llm"))
    assert (auto.code, auto.severity) == ("no_llm", "info")
    assert (asked.code, asked.severity, asked.cause) == ("llm_failed", "error", "not_configured")
