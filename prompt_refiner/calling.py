"""One question put so that its service takes it, and put again where that can help.

Knows nothing of prompts. What a service refuses by name is left out from then on, for this address and model and as
long as the program runs; whoever is only busy is asked once more, and an empty account is not.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prompt_refiner.deadline import Deadline
from prompt_refiner.failures import LlmFailure
from prompt_refiner.providers import load_providers
from prompt_refiner.schema import answer_schema
from prompt_refiner.settings import RefinerSettings
from prompt_refiner.transport import Reply, ask

_log = logging.getLogger("prompt_refiner")
_FORM = "response_format"
_FORM_WORDS = re.compile(r"response_format|json_schema|json_object|json schema|grammar")
_TOKENS = ("max_tokens", "max_completion_tokens")
_SEES_NOTHING = re.compile(
    r"(?:image|vision|multimodal|image_url)\b.{0,80}?(?:not support|unsupported|not allowed|disabled|invalid)"
    r"|(?:not support|unsupported|only supports text|cannot).{0,80}?(?:image|vision|multimodal)"
    r"|content.{0,40}?(?:must be|should be|valid) (?:a )?(?:valid )?string"
)


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What one model at one address does not take, as its own answers said."""

    rung: int = 0
    left_out: frozenset[str] = frozenset()
    tokens_as: str | None = None
    is_blind: bool = False


class Memory:
    """What was learned about each address and model since the program began."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Learned] = {}
        self._lock = threading.Lock()

    def of(self, settings: RefinerSettings) -> Learned:
        with self._lock:
            return self._known.get((settings.base_url or "", settings.model or ""), Learned())

    def keep(self, settings: RefinerSettings, learned: Learned) -> None:
        with self._lock:
            self._known[settings.base_url or "", settings.model or ""] = learned


MEMORY = Memory()

Question = Callable[[bool], Sequence[Mapping[str, Any]]]
"""The messages, with the picture or without it."""


def ask_as_it_takes(
    settings: RefinerSettings, question: Question, *, has_picture: bool, deadline: Deadline, in_form: bool = True
) -> tuple[Reply, bool]:
    """The reply, and whether the picture was part of the question. LlmFailure where no way of asking helped.

    `in_form`: the reply is held to the JSON that a refinement is made of, as far as the service can.
    """
    learned = MEMORY.of(settings)
    is_second_try = False
    room = 1
    while True:
        with_picture = has_picture and not learned.is_blind
        sent = parameters(settings, learned, room=room)
        if not in_form:
            sent.pop(_FORM, None)
        try:
            reply = ask(settings, question(with_picture), sent, deadline)
        except LlmFailure as failure:
            if (better := _adapted(learned, failure, sent, settings, with_picture=with_picture)) is not None:
                _log.info("%s at %s does not take everything: now %s", settings.model, settings.host, better)
                learned = better
                continue
            pause_s = failure.again_after_s
            if is_second_try or pause_s is None or pause_s >= deadline.left_s():
                raise
            is_second_try = True
            # A model that thought until its tokens were used up says nothing.
            room = 2 if failure.cause == "empty_answer" else 1
            deadline.pause(pause_s)
        else:
            MEMORY.keep(settings, learned)
            return reply, with_picture


def parameters(settings: RefinerSettings, learned: Learned, *, room: int = 1) -> dict[str, Any]:
    """Everything beside model and messages. `room` multiplies the length that the answer may have."""
    provider = load_providers()[settings.provider or ""]
    rule = provider.rule_for(settings.model or "")
    sent: dict[str, Any] = {learned.tokens_as or provider.token_parameter: provider.max_tokens * room}
    # In pieces, since most servers notice only then that nobody waits any more, and leave the GPU to the video.
    sent["stream"] = True
    if provider.usage_on_request and "stream" not in learned.left_out:
        sent["stream_options"] = {"include_usage": True}
    if provider.temperature is not None:
        sent["temperature"] = provider.temperature
    forms = _forms(settings)[learned.rung :]
    if forms:
        sent[_FORM] = _response_format(forms[0])
    return {name: value for name, value in {**sent, **rule.extra}.items() if name not in learned.left_out}


def _forms(settings: RefinerSettings) -> Sequence[str]:
    provider = load_providers()[settings.provider or ""]
    forms = provider.rule_for(settings.model or "").forms
    return provider.forms if forms is None else forms


def _response_format(form: str) -> dict[str, Any]:
    if form == "json_schema":
        return {"type": form, "json_schema": {"name": "refined", "strict": True, "schema": answer_schema()}}
    return {"type": form}


def _adapted(
    learned: Learned, failure: LlmFailure, sent: Mapping[str, Any], settings: RefinerSettings, *, with_picture: bool
) -> Learned | None:
    """What to leave out so that the next try is another question than this one; None where nothing was named."""
    if failure.cause not in ("request_refused", "server_error"):
        return None
    if with_picture and _SEES_NOTHING.search(failure.said):
        return replace(learned, is_blind=True)
    if failure.cause != "request_refused":
        return None
    named = [(place, name) for name in sent if (place := _place_of(name, failure.said)) is not None]
    if not named:
        return None
    _, name = min(named)
    if name == _FORM:
        return replace(learned, rung=learned.rung + 1)
    other = next((each for each in _TOKENS if name in _TOKENS and each != name), None)
    if other is not None and learned.tokens_as is None and _place_of(other, failure.said) is not None:
        return replace(learned, tokens_as=other)
    return replace(learned, left_out=learned.left_out | {name})


def _place_of(name: str, said: str) -> int | None:
    found = _FORM_WORDS.search(said) if name == _FORM else re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", said)
    return None if found is None else found.start()
