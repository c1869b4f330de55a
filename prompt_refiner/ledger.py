"""What a refined prompt holds that nobody typed, found by comparing texts, and what it must not lose.

Knows no model and believes none. Between two languages it can only compare the meanings in concepts.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict

from prompt_refiner.lexicon import Token, load_lexicon
from prompt_refiner.reading import read
from prompt_refiner.text import has_hanzi, quoted_spans
from prompt_refiner.types import AddedElement

NOT_DECLARED = "found by comparison; the model did not declare it"
_LATIN = re.compile(r"[a-z]{2,}")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_NUMBER_WORDS: Mapping[str, tuple[str, ...]] = {
    str(value): (word, *hanzi)
    for value, (word, hanzi) in enumerate(
        (("zero", "零"), ("one", "一"), ("two", "二两"), ("three", "三"), ("four", "四"), ("five", "五"), ("six", "六"),
         ("seven", "七"), ("eight", "八"), ("nine", "九"), ("ten", "十"))
    )
}  # fmt: skip
_CLAUSE = re.compile(r"[^,，;；.。!！?？]+[,，;；.。!！?？]*\s*")


class Found(NamedTuple):
    """One addition, with its place in the refined prompt."""

    element: str
    kind: str
    start: int
    end: int


class _Concept(NamedTuple):
    kind: str
    stems: frozenset[str]
    hanzi: tuple[str, ...]

    def is_in(self, stems: frozenset[str], text: str, things: str) -> bool:
        """One character counts in `things` alone: 走路 names no road."""
        return not self.stems.isdisjoint(stems) or any(
            word in (things if len(word) == 1 else text) for word in self.hanzi
        )


class _Neutral(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    english: str
    hanzi: str


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    neutral: _Neutral
    concepts: dict[str, list[str]]


@cache
def _file() -> _File:
    return _File.model_validate(yaml.safe_load((Path(__file__).parent / "concepts.yaml").read_text(encoding="utf-8")))


@cache
def _neutral() -> frozenset[str]:
    return frozenset(_file().neutral.english.split())


@cache
def _neutral_hanzi() -> frozenset[str]:
    return frozenset(_file().neutral.hanzi)


@cache
def _concepts() -> tuple[_Concept, ...]:
    return tuple(
        _Concept(kind, frozenset(map(stem, english.split())), tuple(chinese.split()))
        for kind, lines in _file().concepts.items()
        for english, _, chinese in (line.partition("|") for line in lines)
    )


def stem(word: str) -> str:
    """One form for walk, walks, walking, walked. Rough: it only ever compares."""
    for ending in ("ing", "ies", "ied", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)] + ("y" if ending in ("ies", "ied") else "")
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word.removesuffix("e")


def additions(typed: str, refined: str, *, seen: Iterable[str] = ()) -> tuple[Found, ...]:
    """What `refined` names and neither `typed` nor the list of things `seen` in the picture does, in order.

    Verbs of movement, adverbs, camera words, grammar and words such as "smooth" are no elements.
    """
    lexicon = load_lexicon()
    known_text = lexicon.fold(" ".join((typed, *seen)))
    known = frozenset(map(stem, _LATIN.findall(known_text)))
    is_english, is_chinese = bool(known), has_hanzi(known_text)
    words = lexicon.scan(known_text)
    things = "".join(token.word for token in words if token.is_content and not token.entry.action)
    met = [concept for concept in _concepts() if concept.is_in(known, known_text, things)]
    excused = known.union((stem(token.word) for token in words), *(concept.stems for concept in met))
    quotes = quoted_spans(refined)
    found: list[Found] = []
    for token in _elements(refined):
        if any(start <= token.start < end for start, end in quotes):
            continue
        concept = next((each for each in _concepts() if stem(token.word) in each.stems), None)
        if not token.is_latin or stem(token.word) in excused or (not is_english and concept is None):
            continue
        found.append(Found(token.word, concept.kind if concept else "other", token.start, token.end))
    found += _hanzi_additions(refined, known_text, met, compares=is_chinese)
    return tuple(sorted(dict.fromkeys(found), key=lambda each: each.start))


def _elements(refined: str) -> Iterator[Token]:
    for clause in read(refined).clauses:
        for index, token in enumerate(clause.tokens):
            plain = token.is_content and not token.entry.action and index not in clause.camera.used
            if plain and len(token.word) > 1 and token.word not in _neutral() and not token.word[0].isdigit():
                yield token


def _hanzi_additions(refined: str, known: str, met: Sequence[_Concept], *, compares: bool) -> Iterator[Found]:
    folded = load_lexicon().fold(refined)
    covered: set[int] = set()
    for concept in _concepts():
        if concept in met:
            continue
        for word in (each for each in concept.hanzi if len(each) > 1):
            for place in (found.start() for found in re.finditer(word, folded)):
                if not covered.intersection(range(place, place + len(word))):
                    covered.update(range(place, place + len(word)))
                    yield Found(refined[place : place + len(word)], concept.kind, place, place + len(word))
    if not compares:
        return
    excused = set(known) | _neutral_hanzi() | {mark for concept in met for word in concept.hanzi for mark in word}
    run: list[Token] = []
    for token in [*_elements_hanzi(refined), None]:
        is_new = token is not None and token.start not in covered and not set(token.word) & excused
        if token is not None and is_new and (not run or run[-1].end == token.start):
            run.append(token)
            continue
        if run and run[-1].end - run[0].start > 1:
            yield Found(refined[run[0].start : run[-1].end], "other", run[0].start, run[-1].end)
        run = [token] if token is not None and is_new else []


def _elements_hanzi(refined: str) -> Iterator[Token]:
    for clause in read(refined).clauses:
        for index, token in enumerate(clause.tokens):
            if (
                token.is_content
                and not token.entry.action
                and index not in clause.camera.used
                and has_hanzi(token.word)
            ):
                yield token


def without_additions(refined: str, found: Sequence[Found], *, typed: str) -> tuple[str, tuple[Found, ...]]:
    """The prompt without the clauses that hold nothing but additions, and the additions that are gone with them.

    A clause stays where it holds a word that was typed, a movement or a camera move, and the first stays always.
    """
    known = frozenset(map(stem, _LATIN.findall(load_lexicon().fold(typed))))
    kept: list[str] = []
    gone: list[Found] = []
    for clause in _CLAUSE.finditer(refined):
        inside = [each for each in found if clause.start() <= each.start < clause.end()]
        if inside and kept and not _says_more(clause.group(), inside, known, typed):
            gone += inside
        else:
            kept.append(clause.group())
    text = "".join(kept).rstrip(" ,，;；")
    stop = refined.rstrip()[-1:]
    return text + (stop if gone and stop in ".。" and text[-1:] not in ".。" else ""), tuple(gone)


def _says_more(clause: str, inside: Sequence[Found], known: frozenset[str], typed: str) -> bool:
    reading = read(clause)
    if reading.camera_requested:
        return True
    added = {stem(word) for each in inside for word in _LATIN.findall(each.element.lower())}
    words = {stem(word) for word in _LATIN.findall(clause.lower()) if word not in _neutral()} - added
    hanzi = set(re.findall(r"[㐀-䶿一-鿿]", clause)) - set("".join(each.element for each in inside)) - _neutral_hanzi()
    return bool(words & known) or bool(hanzi & set(typed))


def clauses_of(refined: str) -> Iterator[tuple[int, int]]:
    """Start and end of each clause, the punctuation and the space behind it included."""
    return (clause.span() for clause in _CLAUSE.finditer(refined))


def with_declared(
    found: Sequence[Found], declared: Sequence[AddedElement], gone: Sequence[Found]
) -> tuple[AddedElement, ...]:
    """Everything that was added: what the model declared and was not dropped, then what it kept to itself."""
    dropped = frozenset().union(*(content_words(each.element) for each in gone))
    held = [each for each in declared if not (words := content_words(each.element)) or not words <= dropped]
    owned = frozenset().union(*(content_words(each.element) for each in held))
    names = [each.element for each in held]
    hidden = {
        each.element: AddedElement(element=each.element, kind=each.kind, why=NOT_DECLARED)
        for each in found
        if not (
            content_words(each.element) & owned or any(each.element in name or name in each.element for name in names)
        )
    }
    return (*held, *hidden.values())


def content_words(text: str) -> frozenset[str]:
    """The stems of the English words that name something."""
    return frozenset(stem(word) for word in _LATIN.findall(text.lower()) if word not in _neutral())


def lost(typed: str, refined: str, *, locked: Iterable[str] = ()) -> tuple[str, ...]:
    """Quotations, numbers and `locked` words of the typed text that the refined one does not hold as they stood.

    A whole number up to ten may also be written as a word.
    """
    spans = [typed[start:end] for start, end in quoted_spans(typed)]
    gone = [span for span in spans if span[1:-1].strip() not in refined]
    gone += [word for word in locked if word and word in typed and word not in refined]
    bare = typed
    for span in spans:
        bare = bare.replace(span, " ")
    numbers = set(_NUMBER.findall(refined))
    words = refined.lower()
    for number in dict.fromkeys(_NUMBER.findall(bare)):
        if number not in numbers and not any(word in words for word in _NUMBER_WORDS.get(number, ())):
            gone.append(number)
    return tuple(dict.fromkeys(gone))
