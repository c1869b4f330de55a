"""The forms that English words take: article, plural, adverb. Knows spelling, not meaning."""

from __future__ import annotations

_VOWELS = tuple("aeiou")
_NOT_VOWELS = ("uni", "eu", "one", "use")


def indefinite(phrase: str) -> str:
    """ "a" or "an", whichever goes before `phrase`."""
    low = phrase.lower()
    return "an" if low.startswith(_VOWELS) and not low.startswith(_NOT_VOWELS) else "a"


def plural(noun: str) -> str:
    """Several of `noun`, one that follows the rule."""
    if noun.endswith("y") and noun[-2:-1] not in _VOWELS:
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s")


def adverb(adjective: str) -> str:
    """The way that `adjective` describes: "slowly", or "in a relaxed way" where the word has no adverb."""
    if " " in adjective or adjective.endswith(("ed", "ing", "ly")):
        return f"in a {adjective} way"
    if adjective.endswith("y"):
        return adjective[:-1] + "ily"
    return adjective[:-1] + "y" if adjective.endswith("le") else adjective + "ly"
