"""Every service of providers.yaml against a server that plays it by its documents and takes nothing else. Loopback."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from loopback_llm import KEY, Service, answer, completion, send, serving
from PIL import Image
from test_refiner_wire import BASE, mfjs_faults, picture

from prompt_refiner.providers import load_providers

COUNTED = {"stream_options"}


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as playing:
        yield playing


def form(body: dict[str, Any]) -> str:
    return body.get("response_format", {}).get("type", "plain")


def fault_of_message(body: dict[str, Any], sees: bool) -> str | None:
    """What every service checks: plain messages, and a picture that is small, bare and what it says it is."""
    for message in body["messages"]:
        if set(message) != {"role", "content"}:
            return f"message fields {sorted(message)}"
        parts = message["content"] if isinstance(message["content"], list) else []
        for url in (part["image_url"]["url"] for part in parts if part["type"] == "image_url"):
            head, data = url.split(",")
            image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            is_bare = not image.getexif() and not {"exif", "comment", "icc_profile"} & set(image.info)
            if not sees or head != "data:image/jpeg;base64" or image.format != "JPEG" or not is_bare:
                return "the picture is refused"
            if max(image.size) > 1024 or len(data) > 5_000_000:
                return "the picture is too large"
    return None


def kimi(body: dict[str, Any]) -> str | None:
    model = body["model"]
    if model.startswith(("kimi-k2.5", "kimi-k2.6")):
        own = {"thinking"}
    elif model.startswith("kimi-k3"):
        own = {"reasoning_effort"}  # `thinking` is an error here
    else:
        own = set()
    if set(body) != BASE | COUNTED | own | {"max_completion_tokens", "response_format"}:
        return f"fields {sorted(body)}"
    if body["max_completion_tokens"] < 2048:
        return "no room to think"
    if body.get("reasoning_effort", "low") not in ("low", "high", "max"):
        return "reasoning_effort"
    if model.startswith("moonshot-v1"):
        return None if form(body) == "json_object" else "json_schema is not supported"
    schema = body["response_format"]["json_schema"]["schema"]
    return "; ".join(mfjs_faults(schema)) or None


def glm(body: dict[str, Any]) -> str | None:
    own = {"reasoning_effort"} if body["model"].startswith(("glm-5.2", "glm-5.3")) else {"thinking"}
    if set(body) != BASE | own | {"max_tokens", "temperature", "response_format"}:
        return f"fields {sorted(body)}"
    if not 0 <= body["temperature"] <= 1 or body["response_format"] != {"type": "json_object"}:
        return "temperature or response_format"
    if body["model"].startswith("glm-5.3-flash") and body["reasoning_effort"] not in ("low", "high", "max"):
        return "reasoning_effort"
    return None if any(message["role"] == "user" for message in body["messages"]) else "no user message"


def openai(body: dict[str, Any]) -> str | None:
    if set(body) != BASE | COUNTED | {"max_completion_tokens", "response_format"}:
        return f"fields {sorted(body)}"
    described = body["response_format"]["json_schema"]
    return None if described["strict"] and not mfjs_faults(described["schema"]) else "schema"


def own_server(body: dict[str, Any]) -> str | None:
    if set(body) != BASE | COUNTED | {"max_tokens", "temperature", "response_format"}:
        return f"fields {sorted(body)}"
    return None if form(body) == "json_schema" else "json_object"


def anything(body: dict[str, Any]) -> str | None:
    return None if set(body) == BASE | {"max_tokens"} else f"fields {sorted(body)}"


RULES: dict[str, Any] = {
    "kimi": kimi, "kimi-intl": kimi, "glm": glm, "glm-intl": glm, "openai": openai, "ollama": own_server,
    "lm-studio": own_server, "llama.cpp": own_server, "vllm": own_server, "sglang": own_server, "custom": anything,
}  # fmt: skip
KIMI_MODELS = (
    ("kimi-k2.6", True), ("kimi-k2.5", True), ("kimi-k2.7-code", True), ("kimi-k3", True),
    ("moonshot-v1-8k", False), ("moonshot-v1-32k-vision-preview", True),
)  # fmt: skip
GLM_MODELS = (
    ("glm-4.6v-flash", True), ("glm-5v-turbo", True), ("glm-5.3-flash", True), ("glm-5.3", False), ("glm-5.2", False),
    ("glm-5.1", False), ("glm-4.7-flash", False),
)  # fmt: skip
CASES = [
    (provider, model, sees)
    for provider in RULES
    for model, sees in {"kimi": KIMI_MODELS, "glm": GLM_MODELS}.get(provider.split("-")[0], (("some-model", True),))
]


def test_every_service_is_played() -> None:
    assert set(RULES) == set(load_providers())


@pytest.mark.parametrize(("provider", "model", "sees"), CASES)
def test_a_service_takes_the_first_request_as_it_comes(
    service: Service, provider: str, model: str, sees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "MOONSHOT_API_KEY", "ZAI_API_KEY", "ZHIPUAI_API_KEY"):
        monkeypatch.setenv(name, "sk-of-another-service")

    def play(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        fault = RULES[provider](body) or fault_of_message(body, sees)
        foreign = [value for value in handler.headers.values() if "another-service" in value]
        if handler.headers["Authorization"] != f"Bearer {KEY}" or foreign or "x-stainless-lang" in handler.headers:
            fault = "headers of another service"
        send(handler, 400 if fault else 200, {"error": {"message": fault}} if fault else completion(answer()))

    service.play = play
    result = service.refine(settings=service.settings(provider, model), picture=picture())
    assert [notice.cause for notice in result.notices] == ([] if sees else ["text_only"])
    assert (result.source, len(service.requests)) == ("llm", 1)
    assert result.image_text_match.verdict == ("match" if sees else "unknown")
