"""One question to an OpenAI-compatible service, with a deadline that holds.

Knows nothing of prompts: it sends messages and gives back text, or says which failure it was.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from prompt_refiner.deadline import Deadline
from prompt_refiner.failures import Cause, LlmFailure
from prompt_refiner.settings import RefinerSettings
from prompt_refiner.stream import read_answer
from prompt_refiner.types import Usage

if TYPE_CHECKING:
    import httpx2
    import openai
    from openai import APIStatusError

_CONNECT_S = 5.0
_HEADERS_SENT = frozenset(
    (
        "host",
        "accept",
        "accept-encoding",
        "connection",
        "content-type",
        "content-length",
        "transfer-encoding",
        "user-agent",
    )
)
_BREATH_S = 0.5
"""Seconds before the second try where the service names none."""
_LARGEST_ANSWER = 4 * 1024 * 1024
"""Bytes. A real answer has a few thousand."""
# GLM says by number what others say in words.
_NO_CREDIT = ("quota", "balance", "arrears", "insufficient", "billing", "余额", "欠费", "code 1113")
_DECLINED = ("content_filter", "sensitive", "high risk", "code 1301")
_MAY_PASS = ("busy", "server_error")
_TOO_LARGE = ("context length", "context_length", "token limit", "too many tokens", "context size", "code 1261")


class Reply(NamedTuple):
    """What the model wrote, and what the service counted."""

    text: str
    usage: Usage | None


def ask(
    settings: RefinerSettings,
    messages: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    deadline: Deadline,
) -> Reply:
    """Sends one chat request, never a second one. Every way to fail is an LlmFailure that says when to ask again."""
    with (
        _answering(settings, deadline) as client,
        # As a body of its own: what a service takes is not limited to what the package has a name for. And read here,
        # since not every service that is asked for pieces sends pieces.
        client.chat.completions.create(
            model=settings.model or "",
            messages=list(messages),
            stream=True,
            extra_body={"stream": False, **parameters},
        ) as pieces,
    ):
        return _reply(read_answer(pieces.response.iter_bytes()))


def list_models(settings: RefinerSettings, deadline: Deadline) -> tuple[str, ...]:
    """The names of the models that the service says it has. LlmFailure as `ask`; many services say nothing."""
    with _answering(settings, deadline) as client:
        listed = client.models.list().data
        if not isinstance(listed, list):
            raise LlmFailure("not_an_api", type(listed).__name__)
        return tuple(name for model in listed if isinstance(name := getattr(model, "id", None), str))


@contextlib.contextmanager
def _answering(settings: RefinerSettings, deadline: Deadline) -> Iterator[Any]:
    """A client for one request; whatever goes wrong with it leaves as an LlmFailure."""
    try:
        import httpx2
        import openai
    except ImportError as error:
        raise LlmFailure("package_missing") from error
    deadline.check()
    try:
        with _client(settings, deadline) as client:
            yield client
    except openai.APIStatusError as error:
        raise _refusal(error, settings) from error
    except openai.APIConnectionError as error:
        raise _connection_failure(error, settings) from error
    except httpx2.TimeoutException as error:
        raise LlmFailure("timeout") from error
    except httpx2.TransportError as error:
        raise LlmFailure("unreachable", type(error).__name__, again_after_s=_BREATH_S) from error
    except (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, ValueError, TypeError, AttributeError) as error:
        # A body that is no answer reaches us in any of these forms: see the package's own parsing.
        raise LlmFailure("not_an_api", type(error).__name__, again_after_s=0) from error


def _connection_failure(error: openai.APIConnectionError, settings: RefinerSettings) -> LlmFailure:
    """Why there was no answer at all. A timeout is an APIConnectionError too."""
    import httpx2
    import openai

    cause = error.__cause__
    if isinstance(cause, LlmFailure):
        return cause
    proxy = _proxy_for(settings)
    is_connecting = isinstance(cause, httpx2.ConnectTimeout | httpx2.ConnectError)
    if _is_untrusted(error):
        return LlmFailure("certificate")
    # Through a proxy, the only connection that this machine makes is the one to the proxy.
    if isinstance(cause, httpx2.ProxyError) or (proxy and is_connecting):
        return LlmFailure("proxy", proxy or "")
    if isinstance(error, openai.APITimeoutError):
        return LlmFailure("unreachable" if is_connecting else "timeout")
    return LlmFailure("unreachable", again_after_s=_BREATH_S)


def _is_untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _proxy_for(settings: RefinerSettings) -> str | None:
    """Host and port of the proxy that the environment names for this service; never its password."""
    host = settings.host or ""
    if _is_near(host) or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    address = proxies.get(urlsplit(settings.base_url or "").scheme) or proxies.get("all")
    return None if address is None else urlsplit(address).netloc.rpartition("@")[2] or address


def _client(settings: RefinerSettings, deadline: Deadline) -> Any:  # noqa: ANN401 - the package is imported late
    import httpx2
    from openai import DefaultHttpx2Client, OpenAI

    key = settings.api_key or "none"
    timeout_s = deadline.left_s()

    def keep_own_headers(request: httpx2.Request) -> None:
        """The package adds what it finds in OPENAI_* variables; none of that is this service's business."""
        for name in set(request.headers) - _HEADERS_SENT:
            del request.headers[name]
        request.headers["Authorization"] = f"Bearer {key}"
        request.extensions["trace"] = _hanging_up(deadline)

    return OpenAI(
        api_key=key,
        base_url=settings.base_url,
        max_retries=0,
        timeout=httpx2.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
        http_client=DefaultHttpx2Client(
            trust_env=not _is_near(settings.host or ""),
            follow_redirects=False,
            event_hooks={"request": [keep_own_headers], "response": [_bounding(deadline)]},
        ),
    )


def _bounding(deadline: Deadline) -> Callable[[httpx2.Response], None]:
    import httpx2

    class Bounded(httpx2.SyncByteStream):
        """A body that ends with the deadline, so that a server that drips bytes does not hold its thread for ever."""

        def __init__(self, body: Any) -> None:  # noqa: ANN401 - whatever the response came with
            self._body = body

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in self._body:
                size += len(chunk)
                deadline.check()
                if size > _LARGEST_ANSWER:
                    raise LlmFailure("unusable_answer", "too long")
                yield chunk

        def close(self) -> None:
            self._body.close()

    def bound(response: httpx2.Response) -> None:
        response.stream = Bounded(response.stream)

    return bound


def _hanging_up(deadline: Deadline) -> Callable[[str, Mapping[str, Any]], None]:
    """Ends the connection together with the wish for it, so that no thread waits and a server that streams stops
    writing. One that answers whole often writes to its end all the same: llama.cpp looks only when it sends."""

    def trace(event: str, facts: Mapping[str, Any]) -> None:
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            line = facts["return_value"].get_extra_info("socket")
            deadline.on_give_up(lambda: _shut(line))

    return trace


def _shut(line: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may have ended by itself
        line.shutdown(socket.SHUT_RDWR)


def _is_near(host: str) -> bool:
    """This machine or its own network, where a proxy from the environment would only be in the way."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False


def _reply(answer: Any) -> Reply:  # noqa: ANN401 - servers send what they like
    if isinstance(answer, dict) and answer.get("error"):
        raise _told(answer["error"])
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list):
        raise LlmFailure("not_an_api", type(answer).__name__, again_after_s=0)
    if not choices:
        raise LlmFailure("empty_answer", again_after_s=0)
    reason = choices[0].get("finish_reason")
    if reason in ("content_filter", "sensitive"):
        raise LlmFailure("refused", reason)
    if reason == "network_error":
        raise LlmFailure("server_error", reason, again_after_s=_BREATH_S)
    content = (choices[0].get("message") or {}).get("content")
    if not isinstance(content, str) or not content.strip():
        raise LlmFailure("empty_answer", str(reason), again_after_s=0)
    return Reply(content, _usage(answer.get("usage")))


def _told(error: Any) -> LlmFailure:  # noqa: ANN401
    """The failure that stands in a body where an answer should: the status was sent before it was known."""
    named = error if isinstance(error, dict) else {}
    code = named.get("code")
    words = f"code {code} {named.get('type')} {error}".lower()
    meant = ((400, _DECLINED), (400, _TOO_LARGE), (429, _NO_CREDIT))
    status = next((status for status, signs in meant if any(sign in words for sign in signs)), 500)
    cause = _cause_of(code if isinstance(code, int) and 400 <= code < 600 else status, words)
    return LlmFailure(cause, "in a 200", again_after_s=_BREATH_S if cause in _MAY_PASS else None, said=words)


def _usage(counted: Any) -> Usage | None:  # noqa: ANN401
    if not isinstance(counted, dict):
        return None
    numbers = [counted.get(name) for name in ("prompt_tokens", "completion_tokens")]
    asked, answered = (number if isinstance(number, int) else None for number in numbers)
    return Usage(input_tokens=asked, output_tokens=answered)


def _refusal(error: APIStatusError, settings: RefinerSettings) -> LlmFailure:
    if error.status_code == 407:
        return LlmFailure("proxy", _proxy_for(settings) or "")
    cause = _cause_of(error.status_code, f"code {error.code} {error.type} {error.body}".lower())
    again_after_s: float | None = None
    if cause in _MAY_PASS:
        again_after_s = _BREATH_S
        with contextlib.suppress(ValueError):
            again_after_s = max(float(error.response.headers.get("Retry-After", _BREATH_S)), 0.0)
    said = f"{error.body}".lower()
    return LlmFailure(cause, str(error.status_code), again_after_s=again_after_s, said=said)


def _cause_of(status: int, words: str) -> Cause:
    """What an HTTP status means, with the words of the error body where one status has two meanings."""
    if any(word in words for word in _DECLINED) and status in (400, 403, 422):
        return "refused"
    if status in (401, 403):
        return "key_refused"
    if status == 404 or (status == 400 and "code 1211" in words):
        return "model_missing"
    if status in (402, 429):
        return "no_credit" if status == 402 or any(word in words for word in _NO_CREDIT) else "busy"
    if status == 413 or (status == 400 and any(word in words for word in _TOO_LARGE)):
        return "too_large"
    if status >= 500:
        return "server_error"
    return "not_an_api" if status < 400 else "request_refused"
