"""The words that the offline rules know, from lexicon.yaml, and the longest match of a text against them.

Knows no grammar: it says what a word can be, never what it is in its sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from prompt_refiner.text import has_hanzi, quoted_spans
from prompt_refiner.translation import load_dictionary, read_yaml
from prompt_refiner.types import CameraTag, Intensity, Speed

Flag = Literal[
    "noun", "movement", "weak_noun", "framing", "static", "still", "negator", "degree", "function", "manner",
    "determiner", "preposition", "governor", "locative", "patient", "then", "while", "neutral",
    "abstract",
]  # fmt: skip
Direction = Literal["left", "right", "up", "down", "in", "out", "forward", "back", "around", "cw", "ccw", "unclear"]
Way = Direction | Literal["implied", "chosen"]
Strength = Literal["sure", "bare", "weak"]
Pace = Literal["slow", "fast"]
Amount = Literal["weak", "strong"]

# What may stand beside a camera word without being somebody or something else that moves.
_TRANSPARENT: frozenset[Flag] = frozenset(
    ("noun", "weak_noun", "framing", "static", "still", "negator", "degree", "function", "manner", "determiner",
     "preposition", "patient", "then", "while")
)  # fmt: skip
_LONGEST_ENTRY = 12
"""In atoms: a hanzi or a Latin word is one atom."""

_ATOM = re.compile(r"[^\W\d_㐀-䶿一-鿿]+(?:'[a-z]+)?|\d+(?:[.,:]\d+)*|\s+|.", re.DOTALL)
BREAKS = frozenset("，。；：！？…,.;:!?()（）[]【】—–|\n~～")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Ways(_File):
    loose: list[str]
    tight: list[str]


class Phrase(_File):
    """How one camera move is written. The `alone` forms are whole phrases that need no "camera" before them."""

    zh: str
    en: str
    en_ing: str
    zh_alone: str = ""
    en_alone: str = ""


class _VerbList(_File):
    kind: str
    strength: Strength
    words: list[str]
    direction: Direction | None = None


class _LexiconFile(_File):
    words: dict[Flag, list[str]]
    directions: dict[Direction, _Ways]
    moves: dict[str, dict[Way, CameraTag]]
    verbs: list[_VerbList]
    pace: dict[Pace, list[str]]
    footage: dict[Speed, list[str]]
    amount: dict[Amount, list[str]]
    actions: dict[Intensity, list[str]]
    phrases: dict[CameraTag, Phrase]
    traditional: list[str]
    write_traditional: str


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A verb of camera moves. `direction` is built into the word."""

    kind: str
    strength: Strength
    direction: Direction | None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Everything that one word can be. An entry without any role is a word that the lexicon does not have."""

    flags: frozenset[Flag] = frozenset()
    verb: Verb | None = None
    direction: Direction | None = None
    is_tight: bool = False
    pace: Pace | None = None
    footage: Speed | None = None
    amount: Amount | None = None
    action: Intensity | None = None


_UNKNOWN = Entry()
_MANNER = Entry(flags=frozenset({"manner"}))


@dataclass(frozen=True, kw_only=True)
class Token:
    """A word of the text with its place. `word` is folded: lower case, simplified characters."""

    start: int
    end: int
    word: str
    entry: Entry = field(repr=False)
    is_break: bool = False
    after_gap: bool = False
    """White space between two Chinese words, which people use in place of a comma."""

    def has(self, *flags: Flag) -> bool:
        return not self.entry.flags.isdisjoint(flags)

    @property
    def is_content(self) -> bool:
        """Somebody, something or anything else that is not about the camera."""
        entry = self.entry
        known = entry.verb or entry.direction or entry.pace or entry.footage or entry.amount
        return not known and entry.flags.isdisjoint(_TRANSPARENT)

    @property
    def is_latin(self) -> bool:
        return self.word[:1].isascii()


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """`moves` gives each kind of verb its tag by direction; `phrases` the one way in which we write each tag."""

    entries: Mapping[str, Entry]
    moves: Mapping[str, Mapping[Way, CameraTag]]
    phrases: Mapping[CameraTag, Phrase]
    folding: Mapping[str, str]
    writing: Mapping[str, str]

    def fold(self, text: str) -> str:
        """Lower case, simplified characters, half-width letters; every character keeps its place."""
        return "".join(self._fold_character(mark) for mark in text)

    def _fold_character(self, mark: str) -> str:
        if "！" <= mark <= "～" and mark.isalnum():
            mark = chr(ord(mark) - 0xFEE0)
        if mark == "’":
            return "'"
        lower = mark.lower()
        return self.folding.get(mark, lower if len(lower) == 1 else mark)

    def is_traditional(self, text: str) -> bool:
        return any(mark in self.folding for mark in text)

    def in_traditional(self, phrase: str) -> str:
        return "".join(self.writing.get(mark, mark) for mark in phrase)

    def scan(self, text: str) -> list[Token]:
        """The words of the text in order. A quotation is one unknown word; punctuation is a break or left out."""
        tokens: list[Token] = []
        folded = self.fold(text)
        position = 0
        for start, end in quoted_spans(text):
            tokens += self._scan_plain(folded, position, start)
            tokens.append(Token(start=start, end=end, word=folded[start:end], entry=_UNKNOWN))
            position = end
        return tokens + self._scan_plain(folded, position, len(folded))

    def _scan_plain(self, folded: str, start: int, end: int) -> list[Token]:
        atoms = [(found.start(), found.group()) for found in _ATOM.finditer(folded, start, end)]
        tokens: list[Token] = []
        index, after_gap = 0, False
        while index < len(atoms):
            place, atom = atoms[index]
            entry, used = self._longest(atoms, index)
            if entry is None and not atom.isalnum() and "'" not in atom:
                if atom in BREAKS:
                    tokens.append(Token(start=place, end=place + 1, word=atom, entry=_UNKNOWN, is_break=True))
                after_gap = atom.isspace() and bool(tokens) and not tokens[-1].is_latin
                index += 1
                continue
            last_place, last = atoms[index + used - 1]
            last_end = last_place + len(last)
            tokens.append(
                Token(
                    start=place,
                    end=last_end,
                    word=folded[place:last_end],
                    entry=entry or (_MANNER if _is_adverb(atom) else _UNKNOWN),
                    after_gap=after_gap and not atom.isascii(),
                )
            )
            index, after_gap = index + used, False
        return _adverbs_marked(tokens)

    def _longest(self, atoms: list[tuple[int, str]], index: int) -> tuple[Entry | None, int]:
        best, used = None, 1
        for key, length in _keys(atoms, index):
            if found := self.entries.get(key):
                best, used = found, length
        return best, used


def _is_adverb(word: str) -> bool:
    return len(word) > 4 and word.isascii() and word.endswith("ly")


def _adverbs_marked(tokens: list[Token]) -> list[Token]:
    """The two characters before 地 are an adverb where a word of movement follows: 优雅地推近."""
    marked = list(tokens)
    for index in range(2, len(tokens) - 1):
        following = tokens[index + 1].entry
        if tokens[index].word != "地" or not (following.verb or following.direction or following.pace):
            continue
        for place in (index - 1, index - 2):
            if tokens[place].entry == _UNKNOWN and not tokens[place].is_break:
                marked[place] = replace(tokens[place], entry=_MANNER)
    return marked


def _keys(atoms: list[tuple[int, str]], index: int) -> Iterator[tuple[str, int]]:
    """Every key that begins at `index`, with its length in atoms. Latin words are joined by one space."""
    key = ""
    is_latin = False
    for length, (_, atom) in enumerate(atoms[index : index + _LONGEST_ENTRY], start=1):
        if atom == "-" or atom.isspace():
            if not is_latin:
                return
            continue
        atom_is_latin = atom.isascii() and atom[0].isalnum()
        separated = atoms[index + length - 2][1] in "- " if length > 1 else False
        if separated and not atom_is_latin:
            return
        key += (" " if separated else "") + atom
        is_latin = atom_is_latin
        yield key, length


def _key(word: str) -> str:
    """A word of the file in the form that `_keys` makes of a text."""
    atoms = [(found.start(), found.group()) for found in _ATOM.finditer(word)]
    *_, (key, _) = _keys(atoms, 0)
    return key


_VOWELS = "aeiou"


def english_forms(word: str) -> list[str]:
    """An English verb with its endings, by the regular rules, -ing last; a word that begins with "=" is only itself."""
    if word.startswith("="):
        return [word[1:]]
    if not word.isascii():
        return [word]
    verb, _, rest = word.partition(" ")
    stem = verb
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        stem = verb[:-1]
    elif _doubles(verb):
        stem = verb + verb[-1]
    if verb.endswith("y") and verb[-2] not in _VOWELS:
        third, past = verb[:-1] + "ies", verb[:-1] + "ied"
    else:
        third = verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")
        past = stem + "ed"
    return [f"{form} {rest}".rstrip() for form in (verb, third, past, stem + "ing")]


def _doubles(verb: str) -> bool:
    """Whether the last consonant doubles: one syllable that ends in consonant, vowel, consonant (run, but not roam)."""
    if len(verb) < 3 or len(re.findall(f"[{_VOWELS}]+", verb)) != 1:
        return False
    return verb[-3] not in _VOWELS and verb[-2] in _VOWELS and verb[-1] not in _VOWELS + "wxy"


@cache
def load_lexicon() -> Lexicon:
    """Reads lexicon.yaml, once. A word with two meanings of one kind is a mistake in the file: ValueError names it."""
    file = _LexiconFile.model_validate(read_yaml("lexicon.yaml"))
    entries: dict[str, Entry] = {}
    for word, role, value in _roles(file):
        key = _key(word)
        old = entries.get(key, _UNKNOWN)
        if role == "flags":
            value = old.flags | {value}
        elif getattr(old, role) not in (None, value):
            raise ValueError(f"lexicon.yaml: {word!r} has two meanings as {role}: {getattr(old, role)} and {value}")
        entries[key] = replace(old, **{role: value})
    _add_dictionary(entries)
    tight = {_key(word) for ways in file.directions.values() for word in ways.tight}
    return Lexicon(
        entries={key: replace(entry, is_tight=key in tight) for key, entry in entries.items()},
        moves=file.moves,
        phrases=file.phrases,
        folding={pair[0]: pair[1] for line in file.traditional for pair in line.split()},
        writing={pair[0]: pair[1] for pair in file.write_traditional.split()},
    )


def _add_dictionary(entries: dict[str, Entry]) -> None:
    """How much movement the verbs of translation.yaml are, and its longer words, so that nothing inside them counts."""
    dictionary = load_dictionary()
    for word, roles in dictionary.words.items():
        if len(word) < 2 or not has_hanzi(word):
            continue
        old = entries.get(_key(word), _UNKNOWN)
        if old == _UNKNOWN and "manner" in roles:
            entries[_key(word)] = _MANNER
            continue
        has_no_role = old.flags <= {"neutral"} and replace(old, flags=frozenset()) == _UNKNOWN
        if has_no_role and not _is_of_camera(word, entries):
            entries[_key(word)] = Entry(flags=frozenset({"neutral"}), action=dictionary.actions.get(word))


def _is_of_camera(word: str, entries: Mapping[str, Entry]) -> bool:
    """Whether every character is a way or a move by itself, as in 上移."""
    parts = [entries.get(mark, _UNKNOWN) for mark in word]
    return all(part.verb or part.direction for part in parts)


def _roles(file: _LexiconFile) -> Iterator[tuple[str, str, Any]]:
    """Every (word, role, value) of the file; English verbs in all their forms."""
    for flag, words in file.words.items():
        yield from ((word, "flags", flag) for word in words)
    for direction, ways in file.directions.items():
        yield from ((word, "direction", direction) for word in ways.loose + ways.tight)
    for listed in file.verbs:
        verb = Verb(kind=listed.kind, strength=listed.strength, direction=listed.direction)
        yield from ((form, "verb", verb) for word in listed.words for form in english_forms(word))
    for pace, words in file.pace.items():
        yield from ((word, "pace", pace) for word in words)
    for speed, words in file.footage.items():
        yield from ((word, "footage", speed) for word in words)
    for amount, words in file.amount.items():
        yield from ((word, "amount", amount) for word in words)
    for intensity, words in file.actions.items():
        yield from ((form, "action", intensity) for word in words for form in english_forms(word))
