"""Refining by an LLM: what is asked, and what of the answer is believed.

Knows no HTTP. The person's own words decide about the camera: a move that they did not ask for is dropped and told.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from prompt_refiner.answer import Answer, parse_answer
from prompt_refiner.cache import FLIGHTS, AnswerCache, Kept, key_of
from prompt_refiner.calling import ask_as_it_takes
from prompt_refiner.checks import check_prompt, count_tokens, fits_language, length_notice, locked_check
from prompt_refiner.deadline import Deadline, within_deadline
from prompt_refiner.failures import LlmFailure
from prompt_refiner.ledger import NOT_DECLARED, Found, additions, lost, with_declared, without_additions
from prompt_refiner.lexicon import load_lexicon
from prompt_refiner.offline import camera_notices
from prompt_refiner.picture import encode_picture
from prompt_refiner.providers import load_providers
from prompt_refiner.reading import Reading, read
from prompt_refiner.schema import answer_schema
from prompt_refiner.settings import RefinerSettings
from prompt_refiner.text import excerpt, has_hanzi, unquoted
from prompt_refiner.types import (
    AddedElement,
    CameraTag,
    Check,
    Fidelity,
    ImageTextMatch,
    Notice,
    RefineResult,
    Style,
    Suggestion,
    Usage,
)
from prompt_refiner.writing import camera_phrase, joined, without_camera

_log = logging.getLogger("prompt_refiner")
_PROMPTS = Path(__file__).parent / "prompts"
MAX_TYPED_CHARACTERS = 2000
_DESCRIBES = frozenset(("kaleido",))
"""Styles whose prompts describe what the picture shows, in words that no list of its elements holds."""
_LONGEST_REPEATED = 8000
"""Characters of an unusable answer that are shown to its model again."""
_REPAIR = (
    "Your answer cannot be used: {fault}. Answer again with exactly one JSON object with all the fields, in the form "
    "and the language that were asked for, and nothing else."
)
_NOT_A_PROMPT = ("://", "```", "<|", "{", "}")
"""What no prompt needs. An answer with one of these that was not typed is something else than a prompt."""

_FROM_CACHE = Notice(
    code="from_cache",
    en="This answer was kept from an earlier time; nothing was sent.",
    zh="该结果来自之前的回答，本次未发送任何内容。",
)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked of the model: the text, as the rules read it, and how it may be rewritten.

    `subjects` is what the person calls the subject of each picture, "" where nothing.
    """

    reading: Reading
    style: Style
    fidelity: Fidelity = "strict"
    locked: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What was really shown to the model, and what it took."""

    with_picture: bool
    usage: Usage | None
    notices: tuple[Notice, ...]


@cache
def known_styles() -> tuple[str, ...]:
    """The styles that have a system prompt."""
    return tuple(sorted(path.stem for path in _PROMPTS.glob("[!_]*.txt")))


@cache
def system_prompt(style_name: str, fidelity: Fidelity = "strict") -> str:
    """What the model is told: how this family's prompts read, the task, the form of the answer, what may be added."""
    files = (f"{style_name}.txt", "_answer.txt", f"_{fidelity}.txt")
    return "\n".join((_PROMPTS / name).read_text(encoding="utf-8") for name in files)


def refine_by_llm(
    wish: Wish,
    *,
    settings: RefinerSettings,
    pictures: Sequence[bytes],
    deadline_s: float,
    cancelled: Callable[[], bool],
) -> RefineResult:
    """The LLM's result within the deadline, or LlmFailure. `latency_s` is 0: whoever times the call sets it."""
    if len(wish.reading.text) > MAX_TYPED_CHARACTERS:
        raise LlmFailure("prompt_too_long")
    result = within_deadline(
        lambda deadline: _converse(wish, settings, pictures, deadline),
        deadline_s=deadline_s,
        cancelled=cancelled,
    )
    _log.info("refined by %s at %s, %s", settings.model, settings.host, result.usage)
    return result


def _converse(wish: Wish, settings: RefinerSettings, pictures: Sequence[bytes], deadline: Deadline) -> RefineResult:
    """The answer that is kept from before, or a new one, which is then kept."""
    jpegs, notices = _pictures_for(settings, pictures)
    if settings.cache_path is None:
        return _ask(wish, settings, jpegs, notices, deadline)[0]
    cache = AnswerCache(settings.cache_path)
    key = _key(wish, settings, jpegs)
    with FLIGHTS.alone(key, deadline):
        kept = cache.get(key)
        if kept is not None:
            blind = (_blind(settings),) if jpegs and not kept.with_picture else ()
            shown = _Shown(with_picture=kept.with_picture, usage=None, notices=(*notices, *blind, _FROM_CACHE))
            with contextlib.suppress(LlmFailure):  # what was usable once may not be by newer rules
                return _believe(parse_answer(kept.text), wish, settings=settings, shown=shown)
        result, new = _ask(wish, settings, jpegs, notices, deadline)
        cache.put(key, new)
        return result


def _key(wish: Wish, settings: RefinerSettings, jpegs: Sequence[bytes]) -> str:
    style = wish.style
    return key_of(
        [
            system_prompt(style.name, wish.fidelity),
            answer_schema(),
            [settings.base_url, settings.provider, settings.model],
            [style.name, style.encoder, style.token_limit, list(style.languages)],
            [wish.reading.text, list(wish.locked), list(wish.subjects)],
            [hashlib.sha256(jpeg).hexdigest() for jpeg in jpegs],
        ]
    )


def _ask(
    wish: Wish, settings: RefinerSettings, jpegs: Sequence[bytes], notices: tuple[Notice, ...], deadline: Deadline
) -> tuple[RefineResult, Kept]:
    """Asks, and where the answer cannot be used, says once what is wrong with it."""
    turns: list[dict[str, str]] = []
    usages: list[Usage | None] = []
    while True:
        reply, with_picture = ask_as_it_takes(
            settings,
            lambda with_picture: _messages(wish, jpegs if with_picture else (), turns),
            has_picture=bool(jpegs),
            deadline=deadline,
        )
        usages.append(reply.usage)
        blind = (_blind(settings),) if jpegs and not with_picture else ()
        shown = _Shown(with_picture=with_picture, usage=_sum(usages), notices=(*notices, *blind))
        try:
            result = _believe(parse_answer(reply.text), wish, settings=settings, shown=shown)
        except LlmFailure as failure:
            if turns:
                raise
            _log.info("%s gave an answer that cannot be used (%s): asked to repair it", settings.model, failure.detail)
            said = {"role": "assistant", "content": reply.text[:_LONGEST_REPEATED]}
            turns.extend((said, {"role": "user", "content": _REPAIR.format(fault=failure.detail)}))
        else:
            return result, Kept(text=reply.text, with_picture=with_picture)


def _messages(wish: Wish, jpegs: Sequence[bytes], turns: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    told: dict[str, Any] = {"prompt": wish.reading.text, "picture": "attached" if jpegs else "none"}
    if wish.locked:
        told["keep_verbatim"] = list(wish.locked)
    if any(wish.subjects):
        told["subjects"] = list(wish.subjects)
    asked = json.dumps(told, ensure_ascii=False)
    content: str | list[dict[str, Any]] = asked
    if jpegs:
        urls = ["data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii") for jpeg in jpegs]
        content = [{"type": "text", "text": asked}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]
    return [
        {"role": "system", "content": system_prompt(wish.style.name, wish.fidelity)},
        {"role": "user", "content": content},
        *turns,
    ]


def _sum(usages: Sequence[Usage | None]) -> Usage | None:
    """Over all turns; unknown where one turn was not counted."""
    asked = [usage.input_tokens if usage else None for usage in usages]
    answered = [usage.output_tokens if usage else None for usage in usages]
    totals = [sum(filter(None, each)) if None not in each else None for each in (asked, answered)]
    return Usage(input_tokens=totals[0], output_tokens=totals[1]) if any(usages) else None


def _pictures_for(settings: RefinerSettings, pictures: Sequence[bytes]) -> tuple[tuple[bytes, ...], tuple[Notice, ...]]:
    """All of them or none."""
    if not pictures:
        return (), ()
    rule = load_providers()[settings.provider or ""].rule_for(settings.model or "")
    if not rule.sees_pictures:
        return (), (_blind(settings),)
    try:
        return tuple(encode_picture(picture) for picture in pictures), ()
    except ValueError:
        return (), (_not_sent("it could not be read", "无法读取该图片", "unreadable"),)


def _blind(settings: RefinerSettings) -> Notice:
    return _not_sent(
        f"the model “{settings.model}” reads text only", f"模型“{settings.model}”只能读取文字", "text_only"
    )


def _not_sent(en: str, zh: str, cause: str) -> Notice:
    return Notice(
        code="picture_not_sent",
        cause=cause,
        severity="warn",
        en=f"The picture was not shown to the LLM: {en}. Whether text and picture match is not known.",
        zh=f"未向大模型展示图片：{zh}。因此无法判断图文是否匹配。",
    )


def _believe(answer: Answer, wish: Wish, *, settings: RefinerSettings, shown: _Shown) -> RefineResult:
    reading, style = wish.reading, wish.style
    tags = _believed_tags(answer, reading)
    prompt, camera_told = _believed_prompt(answer, reading, tags, style)
    if gone := lost(reading.text, prompt, locked=wish.locked):
        raise LlmFailure("unusable_answer", f"refined_prompt must hold these as they stand: {', '.join(gone)}")
    seen = answer.image_elements if shown.with_picture else []
    prompt, added, told = _ledger(answer, prompt, wish, seen)
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
        added_elements=added,
        image_elements=tuple(seen),
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
        usage=shown.usage,
        checks=(
            *check_prompt(prompt, style),
            locked_check(reading.text, prompt, wish.locked),
            _camera_check(prompt, tags),
            _declared_check(added),
        ),
        token_count=count_tokens(prompt, style),
        token_count_is_exact=style.counts_exactly,
        notices=(*shown.notices, *camera_told, *told, *length_notice(prompt, style)),
    )


def _ledger(
    answer: Answer, prompt: str, wish: Wish, seen: Sequence[str]
) -> tuple[str, tuple[AddedElement, ...], tuple[Notice, ...]]:
    """The prompt, everything in it that was not typed, and what is to be told. Strict: whole additions are dropped."""
    typed = wish.reading.text
    known = (*seen, *wish.subjects)
    found = additions(typed, prompt, seen=known)
    gone: tuple[Found, ...] = ()
    if wish.fidelity == "strict" and not (seen and wish.style.name in _DESCRIBES):
        prompt, gone = without_additions(prompt, found, typed=typed)
        found = additions(typed, prompt, seen=known)
    declared = [AddedElement(element=each.element, kind=each.kind, why=each.why) for each in answer.added_elements]
    names = dict.fromkeys(each.element for each in gone)
    told = (
        Notice(
            code="addition_dropped",
            en=f"The LLM added what was not typed ({', '.join(names)}); it was left out.",
            zh=f"大模型添加了未输入的内容（{'、'.join(names)}），已去掉。",
        ),
    )
    return prompt, with_declared(found, declared, gone), told if names else ()


def _declared_check(added: Sequence[AddedElement]) -> Check:
    hidden = [each.element for each in added if each.why == NOT_DECLARED]
    detail = excerpt(f"not declared: {', '.join(hidden)}") if hidden else "nothing was kept back"
    return Check(name="additions_declared", passed=not hidden, detail=detail)


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
