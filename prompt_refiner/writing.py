"""A reading becomes the prompt that an engine family understands, in the person's words.

Only a clause that is nothing but camera words is written anew; every other word stays as typed, and nothing is added
but a camera phrase in the engine's language.
"""

from __future__ import annotations

from typing import Literal

from prompt_refiner.lexicon import load_lexicon
from prompt_refiner.reading import Clause, Reading, not_refused, subject_of
from prompt_refiner.text import has_hanzi, has_quotes
from prompt_refiner.types import CameraTag, Style

_BETWEEN = " 、-"
_JOINTS = " ,，;；、:："
_STOPS = ".。!！?？…"
ORDER = frozenset(("先", "首先", "first", "at first"))
_IN_SENTENCES = frozenset(("wan", "kaleido"))
WITHOUT_PACE = frozenset(("static", "handheld"))


def write(reading: Reading, style: Style) -> str:
    """The refined prompt by rules."""
    tags = reading.camera_motion
    if not tags:
        return reading.text
    clause = _camera_alone(reading)
    spoken = "".join(each.text for each in reading.clauses if each.is_about_camera)
    typed = "zh" if has_hanzi(spoken) else "en"
    language = typed if typed in style.languages else style.languages[0]
    phrase = camera_phrase(tags, reading, language, is_sentence=style.name in _IN_SENTENCES)
    if clause is None:
        # The engine reads the person's own camera words, unless they are in a language that it does not know.
        return reading.text if typed == language else joined(reading.text, phrase)
    if _holds_the_next(clause, reading):
        return reading.text[: clause.start] + phrase + reading.text[clause.end :]
    rest = _without(reading.text, clause)
    if style.name == "camera":
        return joined(phrase, rest)
    return _as_sentences(rest, phrase) if style.name in _IN_SENTENCES else joined(rest, phrase)


def camera_phrase(
    tags: tuple[CameraTag, ...], reading: Reading, language: Literal["zh", "en"], *, is_sentence: bool = False
) -> str:
    """ "camera slowly panning left", "The camera slowly pans left" or 镜头缓慢向左摇."""
    lexicon = load_lexicon()
    phrases = [lexicon.phrases[tag] for tag in tags]
    paces = _paces(reading) if WITHOUT_PACE.isdisjoint(tags) else set()
    only = next(iter(paces)) if len(paces) == 1 else ""
    if language == "zh":
        pace = {"slow": "缓慢", "fast": "快速"}.get(only, "")
        alone = phrases[0].zh_alone if len(tags) == 1 else ""
        phrase = alone or "镜头" + pace + "、".join(each.zh for each in phrases)
        return lexicon.in_traditional(phrase) if lexicon.is_traditional(reading.text) else phrase
    pace = {"slow": "slowly ", "fast": "quickly "}.get(only, "")
    if is_sentence:
        return f"The camera {pace}" + " and ".join(each.en for each in phrases)
    alone = phrases[0].en_alone if len(tags) == 1 else ""
    return alone or f"camera {pace}" + " and ".join(each.en_ing for each in phrases)


def _paces(reading: Reading) -> set[str]:
    """How fast the camera was asked to go."""
    asked = (clause.tokens for clause in reading.clauses if clause.camera.tags)
    return {token.entry.pace for tokens in asked for token in not_refused(tokens) if token.entry.pace}


def _camera_alone(reading: Reading) -> Clause | None:
    """The one clause about the camera, if it holds nothing else and nothing hangs on its place in the text."""
    spoken = [clause for clause in reading.clauses if clause.camera.is_topic]
    if len(spoken) != 1 or reading.unclear or has_quotes(reading.text):
        return None
    paces = _paces(reading)
    if len(paces) > 1 or (paces and not WITHOUT_PACE.isdisjoint(reading.camera_motion)):
        return None
    if any(token.has("then") or token.word in ORDER for clause in reading.clauses for token in clause.tokens):
        return None
    clause = spoken[0]
    left_over = clause.text
    for index, token in enumerate(clause.tokens):
        is_camera = index in clause.camera.used or token.entry.pace or token.has("determiner", "function", "while")
        if not is_camera:
            return None
        left_over = left_over.replace(reading.text[token.start : token.end], "", 1)
    return None if left_over.strip(_BETWEEN) else clause


def _holds_the_next(clause: Clause, reading: Reading) -> bool:
    """Whether what follows only makes sense behind the camera: "while waves crash", 露出远处的山."""
    place = reading.clauses.index(clause) + 1
    if place == len(reading.clauses):
        return False
    following = reading.clauses[place]
    return following.tokens[0].has("while") or subject_of(following) is None


def _without(text: str, clause: Clause) -> str:
    before = text[: clause.start].rstrip(_JOINTS)
    after = text[clause.end :].lstrip(_JOINTS + (_STOPS if not before or before[-1] in _STOPS else ""))
    if after and after[0] in _STOPS:
        return before + after
    return joined(before, after)


def joined(left: str, right: str) -> str:
    """Two pieces of a prompt with the comma of their language between them."""
    if not left or not right:
        return left or right
    if left[-1] in _STOPS:
        return left + ("" if left[-1] in "。！？" else " ") + right
    return left.rstrip(_JOINTS) + ("，" if has_hanzi(left[-1]) and has_hanzi(right[0]) else ", ") + right


def without_camera(reading: Reading) -> str:
    """The text without the clauses that move the camera."""
    text = reading.text
    for clause in reversed(reading.clauses):
        if clause.camera.tags:
            text = _without(text, clause)
    return text


def _as_sentences(rest: str, sentence: str) -> str:
    stop = "。" if has_hanzi(sentence) else "."
    if rest and rest[-1] not in _STOPS:
        rest = rest.rstrip(_JOINTS) + ("。" if has_hanzi(rest) else ".")
    return joined(rest, sentence.rstrip(_JOINTS + _STOPS) + stop)
