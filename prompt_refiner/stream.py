"""A chat answer as it comes over the line, whole or in pieces, put together as one JSON value.

Knows no connection and believes nothing: what the value means is for others to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

_END = "[DONE]"
_EVENT_FIELDS = ("data", "event", "id", "retry", "error", "")
"""What a line of server-sent events begins with. `error` is llama.cpp's own; a comment begins with the colon."""


def read_answer(body: Iterable[bytes]) -> Any:  # noqa: ANN401 - any JSON value
    """The value that the body holds; pieces (server-sent events) become the one answer that they are pieces of.

    Reads no further than the end that the service marks. ValueError where the body is neither JSON nor pieces of it.
    """
    lines = _lines(body)
    first = next((line for line in lines if line.strip()), "")
    if first.partition(":")[0] in _EVENT_FIELDS and ":" in first:
        return _joined(_pieces(chain((first,), lines)))
    return json.loads("\n".join((first, *lines)))


def _lines(body: Iterable[bytes]) -> Iterator[str]:
    """Cut at line feeds alone: text may hold every other character that Python takes for the end of a line."""
    rest = b""
    for chunk in body:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in whole)
    yield rest.decode("utf-8", "replace")


def _pieces(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        field, _, value = line.partition(":")
        if value.strip() == _END:
            return
        if field in ("data", "error") and value.strip():
            piece = json.loads(value)
            if not isinstance(piece, dict):
                raise ValueError("a piece that is no object")
            yield {"error": piece} if field == "error" else piece


def _joined(pieces: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One answer, in the form in which it comes without streaming; an error ends it."""
    content: list[str] = []
    finish_reason, usage, is_begun = None, None, False
    for piece in pieces:
        if piece.get("error"):
            return {"error": piece["error"]}
        # Kimi counts inside the choice, everybody else beside it.
        choices = piece.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        usage = piece.get("usage") or choice.get("usage") or usage
        finish_reason = choice.get("finish_reason") or finish_reason
        delta = choice.get("delta")
        if isinstance(delta, dict):
            is_begun = True
            if isinstance(delta.get("content"), str):
                content.append(delta["content"])
    choice = {"message": {"content": "".join(content)}, "finish_reason": finish_reason}
    return {"choices": [choice] if is_begun else [], "usage": usage}
