"""What stands between the network and the page: who may ask, from where, and with which headers. Knows no page content.

One ASGI wrapper around everything that is served, so that no route of any library can be reached past it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from i2v_pipeline.types import Text
from studio.api.errors import error_response
from studio.login import Login, seconds_to_wait
from studio.owners import OWNER_HEADER, browser_owner, cookie_for, key_of, key_owner, new_token, token_of

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
STREAM = "text/event-stream"
API = "/v1/"

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
CHALLENGE = 'Basic realm="Image-to-Video Studio", charset="UTF-8"'
FOREIGN_HOST = Text(
    "This studio is not known by that host name. Open it by the address that it printed when it started, or name this "
    "one in STUDIO_HOSTS.",
    "工作室不认识这个主机名。请使用启动时显示的地址，或在 STUDIO_HOSTS 中列出这个名称。",
)
FOREIGN_ORIGIN = Text("Another site may not write here.", "其他网站不能在此写入。")
LOGIN_NEEDED = Text("This studio asks for a name and a password.", "此工作室需要用户名和密码。")

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

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None, login: Login | None, early_head: str) -> None:
        self._app = app
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._login = login
        self._early_head = early_head.encode()
        self._streams: set[asyncio.Task[object]] = set()

    def end_streams(self) -> None:
        """Ends the event streams to open pages, which would never end by themselves. For a server that stops."""
        for stream in tuple(self._streams):
            stream.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send))
        elif scope["path"] == "/" and scope["method"] == "GET":
            token = token_of(Headers(scope=scope)) or new_token()
            await self._serve_page(self._with_owner(scope, token), receive, _with_headers(send, _cookie(scope, token)))
        else:
            scope = self._with_owner(scope, token_of(Headers(scope=scope)))
            await self._serve(scope, receive, _with_headers(send))

    def _with_owner(self, scope: Scope, token: str | None) -> Scope:
        """The request as everything behind the shell sees it: with the name of whoever asks, where one is known."""
        headers = [(name, value) for name, value in scope["headers"] if name != OWNER_HEADER.encode()]
        key = key_of(Headers(scope=scope).get("authorization", ""))
        if self._login is not None:
            owner = self._login.user
        elif key is not None:
            owner = key_owner(key)
        elif token is not None:
            owner = browser_owner(token)
        else:
            return {**scope, "headers": headers}
        return {**scope, "headers": [*headers, (OWNER_HEADER.encode(), owner.encode())]}

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        task, is_complete, has_left = asyncio.current_task(), False, False

        async def hear() -> Message:
            nonlocal has_left
            message = await receive()
            has_left = has_left or message["type"] == "http.disconnect"
            return message

        async def note(message: Message) -> None:
            nonlocal is_complete
            if task is not None and Headers(raw=message.get("headers", [])).get("content-type", "").startswith(STREAM):
                self._streams.add(task)
            is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, hear, note)
        except (KeyError, RuntimeError, asyncio.CancelledError) as error:
            if task not in self._streams or not (has_left or _is_parting(error)):
                raise
            if not is_complete:
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._streams.discard(task)  # type: ignore[arg-type]

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if scope["type"] != "http":
            return PlainTextResponse("Not here.", 404)
        if self._hosts is not None and _name_of(host) not in self._hosts:
            return _refused(scope, 400, FOREIGN_HOST)
        origin = headers.get("origin")
        if scope["method"] not in SAFE_METHODS and origin is not None and urlsplit(origin).netloc != host:
            return _refused(scope, 403, FOREIGN_ORIGIN)
        # Gradio would fetch the address for whoever asks.
        if scope["path"].startswith(("/gradio_api/file=http:", "/gradio_api/file=https:", "/gradio_api/proxy=")):
            return PlainTextResponse("Not here.\n", 404)
        return None if self._login is None else self._login_refusal(scope, self._login)

    @staticmethod
    def _login_refusal(scope: Scope, login: Login) -> Response | None:
        headers, source = Headers(scope=scope), (scope.get("client") or ("", 0))[0]
        verdict = login.judge(headers.get("authorization", ""), source, token_of(headers))
        if verdict == "right":
            return None
        if verdict == "wait":
            wait_s = seconds_to_wait(login.wait_s(source))
            text = Text(
                f"Too many wrong passwords came from your address. Try again in {wait_s} s.",
                f"你的地址输错密码次数过多。请在 {wait_s} 秒后再试。",
            )
            return _refused(scope, 429, text, {"Retry-After": str(wait_s)})
        return _refused(scope, 401, LOGIN_NEEDED, {"WWW-Authenticate": CHALLENGE})

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
                await send(start)
                await send({"type": "http.response.body", "body": page})

        await self._app({**scope, "headers": asked}, receive, collect)


def _with_headers(send: Send, cookie: str | None = None) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name in [name for name in headers if name.lower().startswith("access-control-")]:
                del headers[name]
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            if cookie is not None:
                headers.append("set-cookie", cookie)
        await send(message)

    return send_with_headers


def _cookie(scope: Scope, token: str) -> str:
    return cookie_for(token, is_secure=scope.get("scheme") == "https")


def _refused(scope: Scope, status: int, text: Text, headers: dict[str, str] | None = None) -> Response:
    """For programs as the API tells its errors, for people as a sentence."""
    if scope["path"].startswith(API):
        return error_response(status, text, headers=headers)
    return PlainTextResponse(f"{text.en}\n{text.zh}\n", status, headers)


def _is_parting(error: BaseException) -> bool:
    """Whether a stream ends because it was told to, or because Gradio has told its page that the session is gone.

    The latter, and a look for a session that is cleared already, happen to streams of pages that have left.
    """
    return isinstance(error, asyncio.CancelledError) or isinstance(error.__cause__, HTTPException)


def _name_of(host: str) -> str:
    """The name in a Host header: `localhost` of `localhost:7860`, `::1` of `[::1]:7860`."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
