"""Whether the LLM that is set up can be used now, and if not, why not, in one sentence.

Knows no prompt and sends nothing of the person's: one plain question about a picture of one colour.
"""

from __future__ import annotations

import base64
import difflib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompt_refiner.calling import ask_as_it_takes
from prompt_refiner.deadline import Deadline, within_deadline
from prompt_refiner.failures import LlmFailure, sentence_of
from prompt_refiner.providers import load_providers
from prompt_refiner.settings import API_KEY_KEY, MODEL_KEY, PROVIDER_KEY, RefinerSettings
from prompt_refiner.transport import list_models
from prompt_refiner.types import Connection, Notice

_log = logging.getLogger("prompt_refiner")
_COLOUR = (255, 140, 0)
_COLOUR_WORDS = ("orange", "橙", "橘")
_SIDE = 256
"""Pixels. Some vision models refuse pictures of a few pixels."""
_MODELS_NAMED = 4
_NOT_SET_UP = Notice(
    code="connection_failed",
    cause="not_configured",
    en=f"No LLM is set up: the offline rules refine every prompt. To use one, set {PROVIDER_KEY} and {API_KEY_KEY}.",
    zh=f"未配置大模型，所有提示词由离线规则处理。如需使用，请设置 {PROVIDER_KEY} 和 {API_KEY_KEY}。",
)


def check_connection(
    settings: RefinerSettings, *, deadline_s: float = 15.0, cancelled: Callable[[], bool] = lambda: False
) -> Connection:
    """Asks for the list of models, then the chosen one for one word about a small picture, within `deadline_s` seconds.

    Never raises for what the network or a service may bring. `sees_pictures` is true where the model named the colour
    of the picture that it was shown, false where it takes none, and None where it answered something else.
    """
    if not settings.configured:
        return _connection(settings, settings.problem or _NOT_SET_UP)
    # The list stands outside the work, so that it is known where the model itself did not answer in time.
    offered: list[str] = []
    try:
        sees = within_deadline(
            lambda deadline: _try(settings, offered, deadline), deadline_s=deadline_s, cancelled=cancelled
        )
    except LlmFailure as failure:
        _log.info("connection test of %s at %s: %s", settings.model, settings.host, failure)
        return _connection(settings, _failed(failure, settings, offered, deadline_s=deadline_s))
    return _connection(settings, _connected(settings, sees), ok=True, sees=sees)


def _connection(settings: RefinerSettings, notice: Notice, *, ok: bool = False, sees: bool | None = None) -> Connection:
    return Connection(ok=ok, host=settings.host, model=settings.model, sees_pictures=sees, notice=notice)


def _try(settings: RefinerSettings, offered: list[str], deadline: Deadline) -> bool | None:
    """Whether the model sees pictures; LlmFailure where it does not answer."""
    try:
        offered.extend(list_models(settings, deadline))
    except LlmFailure as failure:
        if failure.cause not in ("model_missing", "not_an_api", "request_refused", "server_error", "busy"):
            raise
        # Not every service lists its models; the question itself decides.
        _log.info("%s does not list its models: %s", settings.host, failure)
    rule = load_providers()[settings.provider or ""].rule_for(settings.model or "")
    reply, with_picture = ask_as_it_takes(
        settings, _question, has_picture=rule.sees_pictures, deadline=deadline, in_form=False
    )
    if not with_picture:
        return False
    return True if any(word in reply.text.lower() for word in _COLOUR_WORDS) else None


def _question(with_picture: bool) -> Sequence[Mapping[str, Any]]:
    if not with_picture:
        return [{"role": "user", "content": "Answer with the one word: ready"}]
    asked = {"type": "text", "text": "Which colour is this picture? Answer with one English word."}
    return [{"role": "user", "content": [asked, {"type": "image_url", "image_url": {"url": _picture_url()}}]}]


def _picture_url() -> str:
    from PIL import Image

    written = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), _COLOUR).save(written, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode("ascii")


def _connected(settings: RefinerSettings, sees: bool | None) -> Notice:
    host, model = settings.host, settings.model
    en, zh = {
        True: ("and sees pictures.", "可以识别图片。"),
        False: (
            "but reads text only: whether picture and text match stays unknown.",
            "但只能读取文字，无法判断图文是否匹配。",
        ),
        None: ("whether it sees pictures could not be told.", "无法确定它能否识别图片。"),
    }[sees]
    joint = "; " if sees is None else " "
    return Notice(
        code="connected",
        cause={True: "", False: "text_only", None: "vision_unknown"}[sees],
        en=f"{host} answers: “{model}” is ready{joint}{en}",
        zh=f"{host} 连接正常：“{model}” 可用，{zh}",
    )


def _failed(failure: LlmFailure, settings: RefinerSettings, offered: Sequence[str], *, deadline_s: float) -> Notice:
    en, zh = sentence_of(failure, settings, deadline_s=deadline_s)
    if failure.cause == "model_missing" and offered:
        named = ", ".join(_nearest(settings.model or "", offered))
        en = f"{settings.host} has no model “{settings.model}”. Set {MODEL_KEY} to one that it has, such as {named}."
        zh = f"{settings.host} 没有模型“{settings.model}”。请把 {MODEL_KEY} 设为它提供的模型，例如 {named}。"
    elif failure.cause == "timeout" and offered:
        en = (
            f"{settings.host} answers, but “{settings.model}” said nothing within {deadline_s:g} seconds: it may still "
            f"be loading. Try again, or choose a faster model with {MODEL_KEY}."
        )
        zh = (
            f"{settings.host} 可以连接，但“{settings.model}”在 {deadline_s:g} 秒内没有回答，可能仍在加载。"
            f"请重试，或用 {MODEL_KEY} 换一个更快的模型。"
        )
    severity = "info" if failure.cause == "cancelled" else "error"
    return Notice(code="connection_failed", cause=failure.cause, severity=severity, en=en, zh=zh)


def _nearest(model: str, offered: Sequence[str]) -> list[str]:
    """A few names, the most alike first."""
    alike = difflib.get_close_matches(model, offered, n=_MODELS_NAMED, cutoff=0.3)
    return list(dict.fromkeys((*alike, *offered)))[:_MODELS_NAMED]
