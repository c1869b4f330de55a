"""A chat service on loopback for tests: a real HTTP server, played by a function for each test. Knows no test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prompt_refiner import RefineResult, RefinerSettings, Style, refine

KEY = "sk-loopback-0123456789"
I2VGEN = Style(name="i2vgen_xl", encoder="CLIP ViT-H", token_limit=75, languages=("en",))
WAN = Style(name="wan", encoder="umT5-XXL", token_limit=512, languages=("zh", "en"))

ANSWER: dict[str, Any] = {
    "subject": "waves",
    "action": "crashing on the rocks",
    "manner": "",
    "environment": "the shore",
    "camera_motion": ["zoom_in"],
    "speed": "slow_motion",
    "motion_intensity": "high",
    "compound": True,
    "refined_prompt": "Ocean waves crashing on the rocks, camera slowly zooming in",
    "negative_prompt": "",
    "added_elements": [{"element": "ocean", "kind": "place", "why": "waves belong to it"}],
    "image_elements": ["waves", "rocks"],
    "image_text_match": {"verdict": "match", "score": 90, "conflicts": [], "reason": "The picture shows waves."},
    "warnings": [],
    "suggestion": {"preset": "high_motion", "duration": "normal", "why": "strong movement"},
}
TYPED = "镜头慢慢推近，海浪拍打礁石"


def answer(**changes: Any) -> str:
    return json.dumps({**ANSWER, **changes}, ensure_ascii=False)


def completion(content: Any, **choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "reasoning_content": "thinking aloud"}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 900, "completion_tokens": 120, "total_tokens": 1020},
    }


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Service:
    """`play` answers questions, `models` whoever asks for their list; `requests` are the questions that arrived; `over`
    ends answers that would take for ever."""

    url: str = ""
    play: Callable[[BaseHTTPRequestHandler, dict[str, Any]], None] = lambda handler, body: send(handler, 200, {})
    models: Callable[[BaseHTTPRequestHandler], None] = lambda handler: send(handler, 404, {})
    requests: list[Request] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def settings(self, provider: str = "custom", model: str = "some-model", key: str | None = KEY) -> RefinerSettings:
        return RefinerSettings(provider=provider, base_url=f"{self.url}/v1", model=model, api_key=key)

    def says(self, content: Any, **choice: Any) -> None:
        self.play = lambda handler, body: send(handler, 200, completion(content, **choice))

    def refine(self, text: str = TYPED, style: Style = I2VGEN, **options: Any) -> RefineResult:
        options.setdefault("settings", self.settings())
        options.setdefault("deadline_s", 10.0)
        return refine(text, style=style, **options)


def in_pieces(answered: dict[str, Any], *, with_usage: bool) -> str:
    """A completion as server-sent events, a few characters each."""
    pieces: list[dict[str, Any]] = [{**answered, "choices": [], "usage": None}]
    for choice in answered["choices"]:
        message = choice["message"]
        said = message["content"]
        deltas = [{"role": "assistant", "content": ""}, {"reasoning_content": message["reasoning_content"]}]
        deltas += [{"content": said[at : at + 7]} for at in range(0, len(said), 7)] if isinstance(said, str) else []
        pieces += [{**pieces[0], "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        end = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
        pieces.append({**pieces[0], "choices": [end]})
    if with_usage:
        pieces.append({**pieces[0], "usage": answered["usage"]})
    events = [json.dumps(piece, ensure_ascii=False) for piece in pieces]
    return ": hello\n\n" + "".join(f"data: {event}\n\n" for event in (*events, "[DONE]"))


def send(
    handler: BaseHTTPRequestHandler, status: int, body: Any, kind: str = "application/json", **headers: str
) -> None:
    """Sends text or a JSON value; a completion goes in pieces to whoever asked for pieces."""
    asked = getattr(handler, "asked", {})
    if asked.get("stream") and isinstance(body, dict) and "choices" in body:
        # GLM counts unasked; everybody else counts a stream on request.
        counts = asked.get("stream_options", {}).get("include_usage", asked["model"].startswith("glm"))
        body, kind = in_pieces(body, with_usage=counts), "text/event-stream"
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


@contextmanager
def serving() -> Iterator[Service]:
    """Serves until the block ends."""
    playing = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.asked = body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            playing.requests.append(Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            try:
                playing.play(self, body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def do_GET(self) -> None:
            playing.models(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    playing.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield playing
    playing.over.set()
    server.shutdown()
    server.server_close()
    thread.join()
