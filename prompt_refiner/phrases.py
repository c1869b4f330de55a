"""The pieces of a clause with their English. Knows no Chinese: elsewhere words are gathered into these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prompt_refiner.inflection import indefinite, plural
from prompt_refiner.translation import Role

Kind = Literal[
    "noun", "around", "place", "adverb", "verb", "not", "auxiliary", "join", "count", "adjective", "preposition",
    "localizer", "of", "degree", "object", "silent", "symbol",
]  # fmt: skip
GOALS = frozenset(("to", "toward", "into", "onto", "past", "through", "over", "off", "of", "on", "in", "at"))
"""Prepositions that a verb can end in."""
ALIVE = frozenset(("people", "animals"))


class TooInvolvedError(Exception):
    """The order of the clause is none that the rules know."""


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """A piece of the clause. `text` is its English; nouns keep their parts until they are written."""

    kind: Kind
    text: str = ""
    typed: str = ""
    role: Role | None = None
    count: str = ""
    holder: str = ""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    is_plural: bool = False
    is_given: bool = False
    """Came with 在, so that it is no subject."""
    forms: tuple[str, str, str] = ("", "", "")
    """Of a pronoun: as subject, as object, as holder."""

    @property
    def bare(self) -> str:
        return " ".join((*self.before, self.text))

    def written(self, article: str = "a") -> str:
        """The noun with its article, counted or held, and what hangs on it."""
        if self.forms[1]:
            return self.forms[1]
        noun = self._plural() if self.is_plural else self.text.partition("/")[0]
        is_bare, is_the = noun.startswith("~"), noun.startswith("the ")
        phrase = " ".join((*self.before, noun.removeprefix("~" if is_bare else "the ")))
        is_the, phrase = is_the or phrase.startswith("the "), phrase.removeprefix("the ")
        first = indefinite(phrase) if article == "a" else article
        if self.count or self.holder:
            first = self.count or self.holder
        elif is_bare or self.role == "foreign" or (self.role == "place" and not is_the):
            first = ""
        elif is_the or self.role == "body":
            first = "the"
        elif self.is_plural:
            first = "the" if article == "the" else ""
        return " ".join(part for part in (first, phrase, *self.after) if part)

    def _plural(self) -> str:
        single, _, several = self.text.partition("/")
        return several or (single if single.startswith("~") or self.role == "foreign" else plural(single))


def place_noun(english: str) -> str:
    """ "the park" of "in the park"."""
    if english.startswith("in front of "):
        return english.removeprefix("in front of ")
    _, _, noun = english.partition(" ")
    return noun or english
