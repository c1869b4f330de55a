"""One question to an OpenAI-compatible service, with a deadline that holds.

Knows nothing of prompts: it sends messages and gives back text, or says which failure it was.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from prompt_refiner.failures import Cause, LlmFailure
from prompt_refiner.providers import load_providers
from prompt_refiner.settings import RefinerSettings
from prompt_refiner.types import Usage

if TYPE_CHECKING:
    import httpx2
    from openai import APIStatusError

T = TypeVar("T")

_POLL_S = 0.05
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
_LARGEST_ANSWER = 4 * 1024 * 1024
"""Bytes. A real answer has a few thousand."""
# GLM says by number what others say in words.
_NO_CREDIT = ("quota", "balance", "arrears", "insufficient", "billing", "余额", "欠费", "code 1113")
_DECLINED = ("content_filter", "sensitive", "high risk", "code 1301")
_TOO_LARGE = ("context length", "context_length", "token limit", "too many tokens", "code 1261")


class Reply(NamedTuple):
    """What the model wrote, and what the service counted."""

    text: str
    usage: Usage | None


def within_deadline(work: Callable[[], T], *, deadline_s: float, cancelled: Callable[[], bool]) -> T:
    """Runs `work` in its own thread and waits for it at most `deadline_s` seconds; raises what it raises.

    The client's own timeouts restart with every byte that arrives, and a name lookup has none, so the wait happens
    here. LlmFailure `timeout` or `cancelled` leaves the thread behind; its socket times out on its own.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - handed to the waiting thread, which raises it
            future.set_exception(error)

    ends = time.monotonic() + deadline_s
    threading.Thread(target=run, name="prompt-refiner", daemon=True).start()
    while not future.done():
        left = ends - time.monotonic()
        if left <= 0:
            raise LlmFailure("timeout")
        if cancelled():
            raise LlmFailure("cancelled")
        wait((future,), timeout=min(_POLL_S, left))
    return future.result()


def ask(settings: RefinerSettings, messages: Sequence[Mapping[str, Any]], *, timeout_s: float) -> Reply:
    """Sends one chat request, never a second one. Every way to fail is an LlmFailure."""
    try:
        import httpx2
        import openai
    except ImportError as error:
        raise LlmFailure("package_missing") from error
    parameters = _parameters(settings)
    try:
        with _client(settings, timeout_s) as client:
            return _reply(client.chat.completions.create(messages=list(messages), **parameters))
    except openai.APITimeoutError as error:
        is_unreachable = isinstance(error.__cause__, httpx2.ConnectTimeout)
        raise LlmFailure("unreachable" if is_unreachable else "timeout") from error
    except openai.APIStatusError as error:
        raise LlmFailure(_cause_of(error), str(error.status_code)) from error
    except openai.APIConnectionError as error:
        if isinstance(error.__cause__, LlmFailure):
            raise error.__cause__ from None
        raise LlmFailure("unreachable") from error
    except (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, ValueError, TypeError, AttributeError) as error:
        # A body that is no answer reaches us in any of these forms: see the package's own parsing.
        raise LlmFailure("not_an_api", type(error).__name__) from error


def _client(settings: RefinerSettings, timeout_s: float) -> Any:  # noqa: ANN401 - the package is imported late
    import httpx2
    from openai import DefaultHttpx2Client, OpenAI

    key = settings.api_key or "none"
    ends = time.monotonic() + timeout_s

    class Bounded(httpx2.SyncByteStream):
        """A body that ends with the deadline, so that a server that drips bytes does not hold its thread for ever."""

        def __init__(self, body: Any) -> None:  # noqa: ANN401 - whatever the response came with
            self._body = body

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in self._body:
                size += len(chunk)
                if time.monotonic() > ends:
                    raise LlmFailure("timeout")
                if size > _LARGEST_ANSWER:
                    raise LlmFailure("unusable_answer", "too long")
                yield chunk

        def close(self) -> None:
            self._body.close()

    def bound(response: httpx2.Response) -> None:
        response.stream = Bounded(response.stream)

    def keep_own_headers(request: httpx2.Request) -> None:
        """The package adds what it finds in OPENAI_* variables; none of that is this service's business."""
        for name in set(request.headers) - _HEADERS_SENT:
            del request.headers[name]
        request.headers["Authorization"] = f"Bearer {key}"

    return OpenAI(
        api_key=key,
        base_url=settings.base_url,
        max_retries=0,
        timeout=httpx2.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
        http_client=DefaultHttpx2Client(
            trust_env=not _is_near(settings.host or ""),
            follow_redirects=False,
            event_hooks={"request": [keep_own_headers], "response": [bound]},
        ),
    )


def _is_near(host: str) -> bool:
    """This machine or its own network, where a proxy from the environment would only be in the way."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False


def _parameters(settings: RefinerSettings) -> dict[str, Any]:
    provider = load_providers()[settings.provider or ""]
    model = settings.model or ""
    parameters: dict[str, Any] = {"model": model, provider.token_parameter: provider.max_tokens}
    if provider.temperature is not None:
        parameters["temperature"] = provider.temperature
    if provider.response_format is not None:
        parameters["response_format"] = {"type": provider.response_format}
    if extra := provider.rule_for(model).extra:
        parameters["extra_body"] = extra
    return parameters


def _reply(answer: Any) -> Reply:  # noqa: ANN401 - servers send what they like
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list):
        raise LlmFailure("not_an_api", type(answer).__name__)
    if not choices:
        raise LlmFailure("empty_answer")
    if choices[0].finish_reason in ("content_filter", "sensitive"):
        raise LlmFailure("refused", str(choices[0].finish_reason))
    content = choices[0].message.content
    if not isinstance(content, str) or not content.strip():
        raise LlmFailure("empty_answer", str(choices[0].finish_reason))
    return Reply(content, _usage(answer.usage))


def _usage(counted: Any) -> Usage | None:  # noqa: ANN401
    if counted is None:
        return None
    numbers = [getattr(counted, name, None) for name in ("prompt_tokens", "completion_tokens")]
    asked, answered = (number if isinstance(number, int) else None for number in numbers)
    return Usage(input_tokens=asked, output_tokens=answered)


def _cause_of(error: APIStatusError) -> Cause:
    """What an HTTP status means, with the words of the error body where one status has two meanings."""
    words = f"code {error.code} {error.type} {error.body}".lower()
    status = error.status_code
    if any(word in words for word in _DECLINED) and status in (400, 403, 422):
        return "refused"
    if status in (401, 403):
        return "key_refused"
    if status == 404:
        return "model_missing"
    if status in (402, 429):
        return "no_credit" if status == 402 or any(word in words for word in _NO_CREDIT) else "busy"
    if status == 413 or (status == 400 and any(word in words for word in _TOO_LARGE)):
        return "too_large"
    if status >= 500:
        return "server_error"
    return "not_an_api" if status < 400 else "request_refused"
