"""Plain facts about a piece of text: cleaned, folded for matching, its language, its length in tokens.

Knows no word of the lexicon.
"""

from __future__ import annotations

import math
import re
import unicodedata

from prompt_refiner.types import Language

TOKENS_PER_WORD = 1.35
TOKENS_PER_HANZI = 2.7
"""Measured with CLIP's byte-pair encoding, punctuation included; multilingual encoders need fewer for Chinese."""

_HANZI = re.compile(r"[㐀-䶿一-鿿]")
_WORD = re.compile(r"[^\W_㐀-䶿一-鿿]+(?:['’][^\W\d_]+)?")
_LATIN_WORD = re.compile(r"[A-Za-z]{2,}|\b[aAI]\b")
_BREAK = re.compile(r"[^\S\n]*\n\s*")
_QUOTED = re.compile(r"“[^“”]*”|「[^「」]*」|『[^『』]*』|《[^《》]*》|\"[^\"]*\"")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[^\S\n]+")
_ENDS = "。！？；，、：.!?;,:"


def clean(text: str) -> str:
    """The text on one line: runs of white space are one space, a line break is a comma, no control characters.

    Characters that no encoder could write (lone surrogates) become U+FFFD. Every other character stays as typed.
    """
    text = _SURROGATE.sub("\ufffd", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(mark for mark in text if mark in "\n\t" or unicodedata.category(mark) != "Cc").strip()
    return _SPACE.sub(" ", _BREAK.sub(_comma_for_break, text))


def _comma_for_break(found: re.Match[str]) -> str:
    before = found.string[found.start() - 1]
    if before in _ENDS:
        return " "
    return "，" if _HANZI.match(before) else ", "


def has_hanzi(text: str) -> bool:
    return _HANZI.search(text) is not None


def language_of(text: str) -> Language:
    """By script alone: `en` is any text in Latin letters, `other` has letters of a third script, or no letters."""
    letters = [mark for mark in text if mark.isalpha() and not _HANZI.match(mark)]
    foreign = sum(not unicodedata.name(mark, "").startswith(("LATIN", "FULLWIDTH LATIN")) for mark in letters)
    if foreign:
        return "other"
    has_words = _LATIN_WORD.search(unicodedata.normalize("NFKC", text)) is not None
    if has_hanzi(text):
        return "mixed" if has_words else "zh"
    return "en" if letters else "other"


def estimate_tokens(text: str) -> int:
    """About how many tokens a text encoder sees, without its start and end marks."""
    words, hanzi = len(_WORD.findall(text)), len(_HANZI.findall(text))
    return math.ceil(TOKENS_PER_WORD * words + TOKENS_PER_HANZI * hanzi)


def excerpt(text: str, length: int = 80) -> str:
    """The text, or its beginning with an ellipsis, for use inside a sentence."""
    return text if len(text) <= length else text[: length - 1] + "…"


def quoted_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of what stands in quotation marks; none where the whole text does."""
    spans = [found.span() for found in _QUOTED.finditer(text)]
    return [] if any(text[start:end] == text.strip() for start, end in spans) else spans


def has_quotes(text: str) -> bool:
    return _QUOTED.search(text) is not None


def unquoted(text: str) -> str:
    return _QUOTED.sub("", text)
