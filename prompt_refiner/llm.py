"""Refining by an LLM: what is asked, and what of the answer is believed.

Knows no HTTP. The person's own words decide about the camera: a move that they did not ask for is dropped and told.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from prompt_refiner.answer import Answer, parse_answer
from prompt_refiner.checks import check_prompt, count_tokens, fits_language, length_notice
from prompt_refiner.failures import LlmFailure
from prompt_refiner.lexicon import load_lexicon
from prompt_refiner.offline import camera_notices
from prompt_refiner.picture import encode_picture
from prompt_refiner.providers import load_providers
from prompt_refiner.reading import Reading, read
from prompt_refiner.settings import RefinerSettings
from prompt_refiner.text import excerpt, has_hanzi, unquoted
from prompt_refiner.transport import Reply, ask, within_deadline
from prompt_refiner.types import (
    AddedElement,
    CameraTag,
    Check,
    ImageTextMatch,
    Notice,
    RefineResult,
    Style,
    Suggestion,
)
from prompt_refiner.writing import camera_phrase, joined, without_camera

_log = logging.getLogger("prompt_refiner")
_PROMPTS = Path(__file__).parent / "prompts"
MAX_TYPED_CHARACTERS = 2000
_NOT_A_PROMPT = ("://", "```", "<|", "{", "}")
"""What no prompt needs. An answer with one of these that was not typed is something else than a prompt."""


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What was really shown to the model."""

    reply: Reply
    with_picture: bool
    notices: tuple[Notice, ...]


@cache
def known_styles() -> tuple[str, ...]:
    """The styles that have a system prompt."""
    return tuple(sorted(path.stem for path in _PROMPTS.glob("[!_]*.txt")))


@cache
def system_prompt(style_name: str) -> str:
    """What the model is told: how this family's prompts read, then the task and the form of the answer."""
    files = (f"{style_name}.txt", "_answer.txt")
    return "\n".join((_PROMPTS / name).read_text(encoding="utf-8") for name in files)


def refine_by_llm(
    reading: Reading,
    *,
    style: Style,
    settings: RefinerSettings,
    picture: bytes | None,
    deadline_s: float,
    cancelled: Callable[[], bool],
) -> RefineResult:
    """The LLM's result within the deadline, or LlmFailure. `latency_s` is 0: whoever times the call sets it."""
    if len(reading.text) > MAX_TYPED_CHARACTERS:
        raise LlmFailure("prompt_too_long")
    shown = within_deadline(
        lambda: _show(reading, style, settings, picture, deadline_s), deadline_s=deadline_s, cancelled=cancelled
    )
    answer = parse_answer(shown.reply.text)
    result = _believe(answer, reading, style=style, settings=settings, shown=shown)
    _log.info("refined by %s at %s, %s", settings.model, settings.host, shown.reply.usage)
    return result


def _show(reading: Reading, style: Style, settings: RefinerSettings, picture: bytes | None, timeout_s: float) -> _Shown:
    jpeg, notices = _picture_for(settings, picture)
    asked = json.dumps({"prompt": reading.text, "picture": "attached" if jpeg else "none"}, ensure_ascii=False)
    content: str | list[dict[str, Any]] = asked
    if jpeg is not None:
        url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
        content = [{"type": "text", "text": asked}, {"type": "image_url", "image_url": {"url": url}}]
    messages = [{"role": "system", "content": system_prompt(style.name)}, {"role": "user", "content": content}]
    reply = ask(settings, messages, timeout_s=timeout_s)
    return _Shown(reply=reply, with_picture=jpeg is not None, notices=notices)


def _picture_for(settings: RefinerSettings, picture: bytes | None) -> tuple[bytes | None, tuple[Notice, ...]]:
    if picture is None:
        return None, ()
    rule = load_providers()[settings.provider or ""].rule_for(settings.model or "")
    if not rule.sees_pictures:
        return None, (
            _not_sent(
                f"the model “{settings.model}” reads text only", f"模型“{settings.model}”只能读取文字", "text_only"
            ),
        )
    try:
        return encode_picture(picture), ()
    except ValueError:
        return None, (_not_sent("it could not be read", "无法读取该图片", "unreadable"),)


def _not_sent(en: str, zh: str, cause: str) -> Notice:
    return Notice(
        code="picture_not_sent",
        cause=cause,
        severity="warn",
        en=f"The picture was not shown to the LLM: {en}. Whether text and picture match is not known.",
        zh=f"未向大模型展示图片：{zh}。因此无法判断图文是否匹配。",
    )


def _believe(
    answer: Answer, reading: Reading, *, style: Style, settings: RefinerSettings, shown: _Shown
) -> RefineResult:
    tags = _believed_tags(answer, reading)
    prompt, camera_told = _believed_prompt(answer, reading, tags, style)
    match = answer.image_text_match
    return RefineResult(
        language_in=reading.language,
        subject=answer.subject,
        action=answer.action,
        manner=answer.manner,
        environment=answer.environment,
        camera_motion=tags,
        camera_requested=reading.camera_requested,
        speed=answer.speed if reading.speed == "normal" else reading.speed,
        motion_intensity=answer.motion_intensity,
        compound=answer.compound and any(tag != "static" for tag in tags),
        refined_prompt=prompt,
        negative_prompt=answer.negative_prompt,
        added_elements=tuple(
            AddedElement(element=added.element, kind=added.kind, why=added.why) for added in answer.added_elements
        ),
        image_elements=tuple(answer.image_elements) if shown.with_picture else (),
        image_text_match=ImageTextMatch(
            verdict=match.verdict, score=match.score, conflicts=tuple(match.conflicts), reason=match.reason
        )
        if shown.with_picture
        else ImageTextMatch(),
        warnings=tuple(answer.warnings),
        suggestion=None
        if answer.suggestion is None
        else Suggestion(
            preset=answer.suggestion.preset, duration=answer.suggestion.duration, why=answer.suggestion.why
        ),
        source="llm",
        provider=settings.provider,
        model=settings.model,
        latency_s=0.0,
        usage=shown.reply.usage,
        checks=(*check_prompt(prompt, style), _camera_check(prompt, tags)),
        token_count=count_tokens(prompt, style),
        notices=(*shown.notices, *camera_told, *length_notice(prompt, style)),
    )


def _believed_tags(answer: Answer, reading: Reading) -> tuple[CameraTag, ...]:
    """What the person asked for by the rules; the model fills in only what the rules saw and could not name."""
    if not reading.unclear and not reading.chosen:
        return reading.camera_motion
    named: tuple[CameraTag, ...] = tuple(tag for tag in reading.camera_motion if tag not in reading.chosen)
    return tuple(dict.fromkeys((*named, *answer.camera_motion))) or reading.camera_motion


def _believed_prompt(
    answer: Answer, reading: Reading, tags: Sequence[CameraTag], style: Style
) -> tuple[str, tuple[Notice, ...]]:
    """The model's prompt without camera moves that nobody asked for, and with the one that was."""
    prompt = answer.refined_prompt
    if any(mark in prompt and mark not in reading.text for mark in _NOT_A_PROMPT):
        raise LlmFailure("unusable_answer", "not a prompt")
    written = read(prompt)
    claimed = list(answer.camera_motion)
    if not reading.camera_requested:
        claimed += written.camera_motion
        prompt = without_camera(written)
    elif tags and not written.camera_requested:
        language: Literal["zh", "en"] = "zh" if has_hanzi(prompt) and "zh" in style.languages else "en"
        prompt = joined(prompt, camera_phrase(tuple(tags), reading, language))
    if not prompt:
        raise LlmFailure("unusable_answer", "nothing but a camera move that was not asked for")
    if not fits_language(unquoted(prompt), style):
        raise LlmFailure("unusable_answer", "wrong language")
    invented: dict[CameraTag, None] = dict.fromkeys(tag for tag in claimed if tag not in tags)
    told = [notice for notice in camera_notices(reading) if notice.code != "camera_not_understood" or not tags]
    return prompt, (*told, *((_dropped(invented),) if invented else ()))


def _dropped(tags: Iterable[CameraTag]) -> Notice:
    phrases = load_lexicon().phrases
    return Notice(
        code="camera_dropped",
        severity="warn",
        en=f"The LLM added a camera move that was not asked for (the camera {', '.join(phrases[t].en for t in tags)}); "
        "it was left out.",
        zh=f"大模型添加了未要求的镜头运动（{'、'.join(phrases[t].zh for t in tags)}），已去掉。",
    )


def _camera_check(prompt: str, tags: Sequence[CameraTag]) -> Check:
    """Whether the prompt's camera goes where the tags go; zoom and dolly, pan and truck count as one way."""
    written = read(prompt).camera_motion
    asked = {tag.rpartition("_")[2] for tag in tags}
    strays = [tag for tag in written if tag.rpartition("_")[2] not in asked]
    return Check(
        name="camera_as_asked", passed=not strays, detail=excerpt(f"asked {list(tags)}, written {list(written)}")
    )
