"""One prompt in, one refined prompt out: the LLM where it is asked for and answers in time, else the rules.

Never raises for what the network, a model or a person's text may bring.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from prompt_refiner.failures import LlmFailure, failure_notice, not_configured_notice
from prompt_refiner.llm import Wish, known_styles, refine_by_llm
from prompt_refiner.offline import refine_offline
from prompt_refiner.reading import read
from prompt_refiner.settings import RefinerSettings
from prompt_refiner.text import clean
from prompt_refiner.types import Fidelity, Mode, RefineResult, Style

_log = logging.getLogger("prompt_refiner")


def _never() -> bool:
    return False


def refine(  # noqa: PLR0913 - the sides of one question, all by name
    text: str,
    *,
    style: Style,
    settings: RefinerSettings,
    mode: Mode = "auto",
    picture: bytes | None = None,
    deadline_s: float = 20.0,
    cancelled: Callable[[], bool] = _never,
    fidelity: Fidelity = "strict",
    locked: Iterable[str] = (),
    further_pictures: Iterable[bytes] = (),
    subjects: Iterable[str] = (),
) -> RefineResult:
    """Refines `text` for an engine family.

    `picture` (any format that Pillow reads) is sent to the LLM, small and without metadata: give it only where the
    person agreed. `cancelled` is asked about twenty times a second while the LLM is waited for. Whatever goes wrong
    there, the result is the offline rules' and a notice says why. ValueError where the style has no system prompt.
    `further_pictures` go with `picture`, where the video is made of several; `subjects` are what the person calls what
    each of them shows, in the same order, and go along as text whether the pictures do or not.
    Of what was typed, quotations, numbers and the `locked` words (a LoRA's trigger words) stay as they stand.
    """
    if style.name not in known_styles():
        raise ValueError(f"prompt style {style.name!r}: it can be {', '.join(known_styles())}")
    started = time.monotonic()
    reading = read(clean(text))
    locked = tuple(locked)
    result = refine_offline(reading, style=style, locked=locked)
    if mode == "offline" or not reading.text:
        pass
    elif not settings.configured:
        result = replace(result, notices=(not_configured_notice(settings, mode=mode), *result.notices))
    else:
        try:
            wish = Wish(reading=reading, style=style, fidelity=fidelity, locked=locked, subjects=tuple(subjects))
            pictures = () if picture is None else (picture, *further_pictures)
            result = refine_by_llm(
                wish, settings=settings, pictures=pictures, deadline_s=deadline_s, cancelled=cancelled
            )
        except LlmFailure as failure:
            _log.warning("no result from %s at %s: %s", settings.model, settings.host, failure)
            notice = failure_notice(failure, settings, mode=mode, deadline_s=deadline_s)
            result = replace(result, notices=(notice, *result.notices))
    return replace(result, latency_s=round(time.monotonic() - started, 3))
