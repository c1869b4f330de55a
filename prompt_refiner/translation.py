"""Chinese words and their English, from translation.yaml, and a text cut into them.

Knows no grammar: it says what a word can be in English, never what it is in its sentence.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from prompt_refiner.text import has_hanzi
from prompt_refiner.types import Intensity

Role = Literal[
    "people", "animals", "body", "clothes", "nature", "things", "food",
    "place", "time", "adjective", "verb", "manner", "preposition", "localizer", "number", "measure", "pronoun",
    "join", "negator", "silent", "auxiliary", "complement", "existential",
    "of", "degree", "and", "object", "foreign", "unknown", "symbol",
]  # fmt: skip
NounRole = Literal["people", "animals", "body", "clothes", "nature", "things", "food"]
NOUNS: frozenset[Role] = frozenset(("people", "animals", "body", "clothes", "nature", "things", "food"))

_GRAMMAR: Mapping[str, Role] = {"的": "of", "得": "degree", "、": "and", "把": "object", "将": "object"}
_FIRM = frozenset("的了着在和与地得，、她他它我你")
"""Words of one character that are hardly ever a part of a longer one."""
_TAKING = frozenset("看吃喝拿抱骑戴穿追摸舔啃踢喂")
"""Verbs of one character that take any noun, and rarely begin a longer word."""
_LONGEST = 8
"""Characters of the longest Chinese word."""
_FOREIGN = re.compile(r"[A-Za-z0-9À-ɏ]+(?:[-'’.:/][A-Za-z0-9À-ɏ]+)*(?:\s+[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ'’-]*)*")
_DIGITS = re.compile(r"\d+(?:[.,:]\d+)*")
_PARTED = re.compile(r".(?:了一?个|了一|了|着|过|个)")
_DOUBLED = re.compile(r"(.)[一了]?(?=\1)")


def read_yaml(name: str) -> Any:  # noqa: ANN401 - whatever the file holds
    """A data file of this package, by the parser in C where there is one: five times as fast."""
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    nouns: dict[NounRole, dict[str, str]]
    places: dict[str, str]
    times: dict[str, str]
    adjectives: dict[str, str]
    verbs: dict[Intensity, dict[str, str]]
    manners: dict[str, str]
    prepositions: dict[str, str]
    localizers: dict[str, str]
    numbers: dict[str, str]
    measures: dict[str, str]
    pronouns: dict[str, str]
    joins: dict[str, str]
    negators: list[str]
    silent: list[str]
    auxiliaries: dict[str, str]
    complements: dict[str, str]
    existential: list[str]


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word at its place in the text, with its English in each role that it can play."""

    start: int
    end: int
    text: str
    key: str
    """The text as the dictionary spells it."""
    roles: Mapping[Role, str]

    def can(self, *roles: Role) -> bool:
        return any(role in self.roles for role in roles)

    @property
    def noun(self) -> Role | None:
        return next((role for role in self.roles if role in NOUNS), None)

    @property
    def is_lone(self) -> bool:
        """One character that names something or is done: too often a part of a longer word."""
        return len(self.text) == 1 and (self.noun is not None or self.can("verb", "place", "adjective"))


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """`actions` says how much movement each verb is."""

    words: Mapping[str, Mapping[Role, str]]
    actions: Mapping[str, Intensity]

    def cut(self, text: str, folded: str, *, kept: Sequence[tuple[int, int]] = ()) -> list[Word]:
        """The words of a text; `folded` is the same text as the dictionary spells it, `kept` spans stay whole."""
        words: list[Word] = []
        place = 0
        while place < len(text):
            if text[place].isspace():
                place += 1
                continue
            word = self._word_at(text, folded, place, kept)
            words.append(word)
            place = word.end
        return _lone_ones_doubted(words)

    def _word_at(self, text: str, folded: str, place: int, kept: Sequence[tuple[int, int]]) -> Word:
        def word(end: int, roles: Mapping[Role, str]) -> Word:
            return Word(start=place, end=end, text=text[place:end], key=folded[place:end], roles=roles)

        for start, end in kept:
            if start <= place < end:
                return word(end, {"foreign": text[place:end]})
        limit = min([start for start, _ in kept if start > place] + [len(text)])
        parted = self._parted(folded, place, limit)
        for end in range(min(place + _LONGEST, limit), place, -1):
            if end == place + 1 and (skipped := self._doubled(folded, place, limit)):
                return word(skipped, {"silent": ""})
            if parted and parted[0] > end:
                return word(*parted)
            if roles := self.words.get(folded[place:end]):
                return word(end, roles)
        if (found := _DIGITS.match(text, place, limit)) and not re.match(r"[A-Za-z]", text[found.end() : limit]):
            return word(found.end(), {"number": found.group()})
        if found := _FOREIGN.match(text, place, limit):
            return word(found.end(), {"foreign": found.group()})
        return word(place + 1, {"unknown": text[place]} if text[place].isalnum() else {"symbol": text[place]})

    def _parted(self, folded: str, place: int, limit: int) -> tuple[int, Mapping[Role, str]] | None:
        """打了个哈欠 is 打哈欠, 跳着舞 is 跳舞: a verb with its noun, parted by how far it has come."""
        found = _PARTED.match(folded, place, limit)
        if found is None:
            return None
        for size in (3, 2, 1):
            end = found.end() + size
            roles = self.words.get(folded[place] + folded[found.end() : end], {}) if end <= limit else {}
            if "verb" in roles:
                return end, roles
        return None

    def _doubled(self, folded: str, place: int, limit: int) -> int | None:
        """Where the second verb of 点点头, 笑一笑 or 眨了眨 begins: once is enough in English."""
        found = _DOUBLED.match(folded, place, limit)
        if found is None:
            return None
        after = found.end()
        return after if any("verb" in self.words.get(folded[after : after + size], {}) for size in (2, 1)) else None


def _is_part_of_longer(words: Sequence[Word], doubted: Sequence[bool], index: int) -> bool:
    word = words[index]
    for step in (-1, 1):
        near = index + step
        if not (0 <= near < len(words) and doubted[near]):
            continue
        if (words[near].end if step < 0 else word.end) != (word.start if step < 0 else words[near].start):
            continue
        beyond = near + step
        is_single = len(words[near].text) == 1 and not (0 <= beyond < len(words) and doubted[beyond])
        is_short = len(word.text) == 1 and word.key not in _FIRM and not word.can("foreign", "symbol")
        if word.is_lone or (is_single and is_short):
            return True
    return False


def _lone_ones_doubted(words: Sequence[Word]) -> list[Word]:
    """Runs of characters that no entry covers, one word each.

    A word of one character beside such a run is likely a part of it, and two nouns of one character side by side, or a
    verb and what follows it, are likely one longer word: neither is guessed. Beside a single unknown character this
    goes for every word but 的, 在 and the like.
    """
    doubted = [word.can("unknown") for word in words]
    for index, (word, following) in enumerate(itertools.pairwise(words)):
        if word.end != following.start or not (word.is_lone and following.is_lone):
            continue
        if word.key in _TAKING:
            continue
        if (word.noun or word.can("verb")) and (following.noun or (word.can("verb") and following.can("verb"))):
            doubted[index] = doubted[index + 1] = True
    changed = True
    while changed:
        changed = False
        for index in range(len(words)):
            if not doubted[index] and _is_part_of_longer(words, doubted, index):
                doubted[index] = changed = True
    return _joined(words, doubted)


def _joined(words: Sequence[Word], doubted: Sequence[bool]) -> list[Word]:
    joined: list[Word] = []
    for word, is_doubted in zip(words, doubted, strict=True):
        last = joined[-1] if joined else None
        if not is_doubted:
            joined.append(word)
        elif last is not None and last.can("unknown") and last.end == word.start:
            text = last.text + word.text
            joined[-1] = Word(start=last.start, end=word.end, text=text, key=text, roles={"unknown": text})
        else:
            joined.append(replace(word, roles={"unknown": word.text}))
    return joined


@cache
def load_dictionary() -> Dictionary:
    """Reads translation.yaml, once."""
    file = _File.model_validate(read_yaml("translation.yaml"))
    words: dict[str, dict[Role, str]] = {}
    for key, role, english in _entries(file):
        words.setdefault(key.lower(), {})[role] = english
    actions: dict[str, Intensity] = {}
    for intensity, verbs in file.verbs.items():
        actions.update(dict.fromkeys(verbs, intensity))
    return Dictionary(words=words, actions=actions)


def _entries(file: _File) -> Iterator[tuple[str, Role, str]]:
    by_role: dict[Role, dict[str, str]] = {
        "place": file.places, "time": file.times, "adjective": file.adjectives, "manner": file.manners,
        "preposition": file.prepositions, "localizer": file.localizers, "number": file.numbers,
        "measure": file.measures, "pronoun": file.pronouns, "join": file.joins, "auxiliary": file.auxiliaries,
        "complement": file.complements,
        "verb": {key: verb for verbs in file.verbs.values() for key, verb in verbs.items()},
        "negator": dict.fromkeys(file.negators, ""), "silent": dict.fromkeys(file.silent, ""),
        "existential": dict.fromkeys(file.existential, ""),
    }  # fmt: skip
    for noun, entries in file.nouns.items():
        by_role[noun] = entries
    for role, entries in by_role.items():
        for key, english in entries.items():
            yield key, role, english
    for key, role in _GRAMMAR.items():
        yield key, role, ""


_ENGLISH_WORD = re.compile(r"[a-z]{2,}")


def meanings(text: str, folded: str) -> frozenset[str]:
    """Every English word that some Chinese word of the text can mean."""
    if not has_hanzi(text):
        return frozenset()
    words = load_dictionary().cut(text, folded)
    return frozenset(
        found for word in words for each in word.roles.values() for found in _ENGLISH_WORD.findall(each.lower())
    )
