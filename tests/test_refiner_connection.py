"""The connection test names the one cause in one sentence, and sends nothing of the person's. Loopback only."""

from __future__ import annotations

import base64
import dataclasses
import io
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from loopback_llm import KEY, Service, completion, send, serving
from PIL import Image

from prompt_refiner import Connection, RefinerSettings, check_connection
from studio.doctor import diagnose

ROOT = Path(__file__).resolve().parents[1]
MODELS = {"object": "list", "data": [{"id": name} for name in ("kimi-k2.6", "kimi-k3", "moonshot-v1-8k")]}


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as playing:
        playing.models = lambda handler: send(handler, 200, MODELS)
        playing.says("Orange.")
        yield playing


def connect(service: Service, provider: str = "kimi", model: str = "kimi-k2.6", **options: Any) -> Connection:
    found = check_connection(service.settings(provider, model), **{"deadline_s": 30.0, **options})
    assert (found.host, found.model) == ("127.0.0.1", model)
    assert found.ok == (found.notice.code == "connected")
    assert KEY not in f"{found}"
    assert "offline" not in found.notice.en
    return found


def test_a_service_that_names_the_colour_is_connected_and_sees(service: Service) -> None:
    found = connect(service)
    assert (found.ok, found.sees_pictures, found.notice.severity) == (True, True, "info")
    assert "sees pictures" in found.notice.en
    assert "可以识别图片" in found.notice.zh
    (request,) = service.requests
    assert (request.path, request.headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert set(request.body) == {
        "model", "messages", "stream", "stream_options", "max_completion_tokens", "thinking",
    }  # fmt: skip
    data = request.body["messages"][0]["content"][1]["image_url"]["url"].partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        red, green, blue = picture.convert("RGB").resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert red > 240 > green > 120 > 20 > blue


def test_an_answer_about_another_colour_leaves_it_open_whether_pictures_are_seen(service: Service) -> None:
    service.says("As a language model I like blue.")
    found = connect(service)
    assert (found.ok, found.sees_pictures, found.notice.cause) == (True, None, "vision_unknown")


def test_a_model_that_refuses_pictures_is_connected_and_blind(service: Service) -> None:
    def play(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if isinstance(body["messages"][0]["content"], list):
            send(handler, 500, {"error": {"message": "image input is not supported"}})
        else:
            send(handler, 200, completion("ready"))

    service.play = play
    found = connect(service)
    assert (found.ok, found.sees_pictures, found.notice.cause) == (True, False, "text_only")
    assert "reads text only" in found.notice.en


def test_a_model_that_is_known_to_read_only_text_is_shown_no_picture(service: Service) -> None:
    service.says("ready")
    assert connect(service, "glm", "glm-5.2").sees_pictures is False
    assert len(service.requests) == 1


def test_a_wrong_key_names_the_other_region(service: Service) -> None:
    refusal = {"error": {"message": "Invalid Authentication", "type": "invalid_authentication_error"}}
    service.models = lambda handler: send(handler, 401, refusal)
    found = connect(service)
    assert (found.ok, found.notice.cause) == (False, "key_refused")
    assert "https://api.moonshot.ai/v1" in found.notice.en
    assert "I2V_REFINER_PROVIDER=kimi-intl" in found.notice.zh
    assert service.requests == []


def test_a_wrong_key_of_a_server_without_regions_names_none(service: Service) -> None:
    service.models = lambda handler: send(handler, 401, {"error": "no"})
    assert connect(service, "vllm", "m").notice.en == "127.0.0.1 refused the key. Check it."


def test_a_retired_model_names_those_that_are_there(service: Service) -> None:
    service.play = lambda handler, body: send(handler, 404, {"error": {"message": "Not found the model"}})
    found = connect(service, model="kimi-k2.5")
    assert found.notice.cause == "model_missing"
    assert "has no model “kimi-k2.5”" in found.notice.en
    assert "such as kimi-k2.6, kimi-k3, moonshot-v1-8k" in found.notice.en
    assert "kimi-k2.6" in found.notice.zh


@pytest.mark.parametrize("status", [404, 500, 200])
def test_a_service_that_lists_no_models_is_asked_all_the_same(service: Service, status: int) -> None:
    service.models = lambda handler: send(handler, status, "no such page", "text/html")
    assert connect(service).ok


def test_an_address_where_no_api_is_names_the_setting(service: Service) -> None:
    service.models = lambda handler: send(handler, 200, "<html>", "text/html")
    service.play = lambda handler, body: send(handler, 200, "<html>", "text/html")
    found = connect(service)
    assert found.notice.cause == "not_an_api"
    assert "I2V_REFINER_BASE_URL" in found.notice.en


def test_an_empty_account_is_told(service: Service) -> None:
    told = {"error": {"message": "check your plan", "type": "exceeded_current_quota_error"}}
    service.play = lambda handler, body: send(handler, 429, told)
    assert connect(service).notice.cause == "no_credit"


def test_a_model_that_does_not_answer_in_time_may_still_be_loading(service: Service) -> None:
    service.play = lambda handler, body: service.over.wait(30) and None
    found = connect(service, deadline_s=1.0)
    assert found.notice.cause == "timeout"
    assert "127.0.0.1 answers, but “kimi-k2.6” said nothing within 1 seconds" in found.notice.en


def test_a_person_who_does_not_want_to_wait_does_not_wait(service: Service) -> None:
    service.play = lambda handler, body: service.over.wait(30) and None
    found = connect(service, deadline_s=30.0, cancelled=lambda: bool(service.requests))
    assert (found.notice.cause, found.notice.severity) == ("cancelled", "info")


def a_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_nobody_there_is_told() -> None:
    nobody = RefinerSettings(provider="vllm", base_url=f"http://127.0.0.1:{a_free_port()}/v1", model="m")
    found = check_connection(nobody)
    assert (found.ok, found.notice.cause) == (False, "unreachable")


def test_nothing_set_up_and_a_wrong_setting_are_told_without_a_request() -> None:
    none = check_connection(RefinerSettings())
    assert (none.ok, none.host, none.notice.cause) == (False, None, "not_configured")
    assert "I2V_REFINER_PROVIDER" in none.notice.en


# Between here and there

FAR = RefinerSettings(provider="custom", base_url="https://llm.example/v1", model="m", api_key=KEY)


def proxies(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, address)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_a_proxy_that_is_not_there_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    port = a_free_port()
    proxies(monkeypatch, f"http://me:secret@127.0.0.1:{port}")
    found = check_connection(FAR)
    assert (found.ok, found.notice.cause) == (False, "proxy")
    assert f"The proxy 127.0.0.1:{port} did not let the request to llm.example through" in found.notice.en
    assert f"127.0.0.1:{port}" in found.notice.zh
    assert "secret" not in f"{found}"


class Refusing(BaseHTTPRequestHandler):
    """A proxy that asks for a login that nobody has."""

    def do_CONNECT(self) -> None:
        self.send_error(407)

    def do_GET(self) -> None:
        self.do_CONNECT()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def run_server() -> Iterator[Callable[..., int]]:
    servers: list[ThreadingHTTPServer] = []

    def run(handler: type[BaseHTTPRequestHandler], secured: ssl.SSLContext | None = None) -> int:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if secured is not None:
            server.socket = secured.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return server.server_port

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_is_named(
    scheme: str, run_server: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = run_server(Refusing)
    proxies(monkeypatch, f"http://127.0.0.1:{port}")
    found = check_connection(dataclasses.replace(FAR, base_url=f"{scheme}://llm.example/v1"))
    assert found.notice.cause == "proxy"
    assert f"127.0.0.1:{port}" in found.notice.en


def test_a_certificate_that_nobody_vouches_for_is_told(run_server: Callable[..., int], tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    secured = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secured.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    port = run_server(Refusing, secured)
    near = RefinerSettings(provider="custom", base_url=f"https://localhost:{port}/v1", model="m")
    found = check_connection(near)
    assert found.notice.cause == "certificate"
    assert "ca-certificates" in found.notice.en
    assert "SSL_CERT_FILE" in found.notice.zh


# On the command line


@pytest.fixture
def set_up(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("I2V_REFINER_PROVIDER", "kimi")
    monkeypatch.setenv("I2V_REFINER_BASE_URL", f"{service.url}/v1")
    monkeypatch.setenv("I2V_REFINER_API_KEY", KEY)
    monkeypatch.delenv("I2V_REFINER_MODEL", raising=False)


@pytest.mark.usefixtures("set_up")
def test_doctor_says_what_the_connection_test_found(service: Service) -> None:
    refiner = diagnose()["refiner"]
    assert refiner["configured"] is True
    connection = refiner["connection"]
    assert (connection["ok"], connection["cause"], connection["sees_pictures"]) == (True, "", True)
    assert "sees pictures" in connection["en"]
    env = {**os.environ, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "app.py", "doctor"]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert "127.0.0.1 answers: “kimi-k2.6” is ready and sees pictures." in ended.stdout
    assert KEY not in ended.stdout + ended.stderr


@pytest.mark.usefixtures("set_up")
def test_doctor_asks_nobody_where_it_is_told_not_to(service: Service) -> None:
    assert diagnose(connect=False)["refiner"]["connection"] is None
    assert service.requests == []


def test_the_log_names_the_cause_and_never_the_key(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.models = lambda handler: send(handler, 401, {"error": {"message": f"bad key {KEY}"}})
    with caplog.at_level(logging.INFO, "prompt_refiner"):
        connect(service)
    assert "key_refused" in caplog.text
    assert KEY not in caplog.text
