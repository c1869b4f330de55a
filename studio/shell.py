"""What stands between the network and the page: who may ask, from where, and with which headers. Knows no page content.

One ASGI wrapper around everything that is served, so that no route of any library can be reached past it.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
STREAM = "text/event-stream"
FAILED_LOGIN_WAIT_S = 1.0
"""All wrong passwords together are answered no faster than this."""

# Gradio starts from inline scripts and compiles its event functions with `new Function`; nothing comes from elsewhere.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Shell:
    """Wraps `app`. `hosts` are the names that the browser may call the studio by, without port; None allows any.

    `early_head` is HTML that goes first into the page's head, before any other script runs.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Collection[str] | None, auth: tuple[str, str] | None, early_head: str
    ) -> None:
        self._app = app
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._auth = None if auth is None else base64.b64encode(":".join(auth).encode())
        self._early_head = early_head.encode()
        self._failed_login = asyncio.Lock()
        self._streams: set[asyncio.Task[object]] = set()

    def end_streams(self) -> None:
        """Ends the event streams to open pages, which would never end by themselves. For a server that stops."""
        for stream in tuple(self._streams):
            stream.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = await self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send))
        elif scope["path"] == "/" and scope["method"] == "GET":
            await self._serve_page(scope, receive, send)
        else:
            await self._serve(scope, receive, _with_headers(send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        task, is_complete = asyncio.current_task(), False

        async def note(message: Message) -> None:
            nonlocal is_complete
            if task is not None and Headers(raw=message.get("headers", [])).get("content-type", "").startswith(STREAM):
                self._streams.add(task)
            is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:
            if task not in self._streams:
                raise
            if not is_complete:
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._streams.discard(task)  # type: ignore[arg-type]

    async def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if scope["type"] != "http":
            return PlainTextResponse("Not here.", 404)
        if self._hosts is not None and _name_of(host) not in self._hosts:
            return PlainTextResponse(
                "This studio is not known by that host name. Open it by the address that it printed when it started, "
                "or name this one in STUDIO_HOSTS.\n",
                400,
            )
        origin = headers.get("origin")
        if scope["method"] not in SAFE_METHODS and origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("Another site may not write here.\n", 403)
        # Gradio would fetch the address for whoever asks.
        if scope["path"].startswith(("/gradio_api/file=http:", "/gradio_api/file=https:", "/gradio_api/proxy=")):
            return PlainTextResponse("Not here.\n", 404)
        if self._auth is not None and not _is_login(headers.get("authorization", ""), self._auth):
            if "authorization" in headers:
                async with self._failed_login:
                    await asyncio.sleep(FAILED_LOGIN_WAIT_S)
            return PlainTextResponse(
                "This studio asks for a name and a password.\n",
                401,
                {"WWW-Authenticate": 'Basic realm="Image-to-Video Studio", charset="UTF-8"'},
            )
        return None

    async def _serve_page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The page with `early_head` in it: the body is collected, changed once and sent whole."""
        # A compressed body could not be changed.
        asked = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        start: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                page = bytes(body).replace(b"<head>", b"<head>" + self._early_head, 1)
                MutableHeaders(scope=start)["content-length"] = str(len(page))
                MutableHeaders(scope=start)["cache-control"] = "no-store"
                await _with_headers(send)(start)
                await send({"type": "http.response.body", "body": page})

        await self._app({**scope, "headers": asked}, receive, collect)


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name in [name for name in headers if name.lower().startswith("access-control-")]:
                del headers[name]
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
        await send(message)

    return send_with_headers


def _name_of(host: str) -> str:
    """The name in a Host header: `localhost` of `localhost:7860`, `::1` of `[::1]:7860`."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_login(given: str, wanted: bytes) -> bool:
    scheme, _, value = given.partition(" ")
    return scheme.lower() == "basic" and hmac.compare_digest(value.strip().encode(), wanted)
