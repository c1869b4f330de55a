"""Two texts compared word by word, as HTML. Knows no refiner's result and no component."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple

from prompt_refiner.lexicon import load_lexicon
from studio.page.text import escape

_PIECE = re.compile(r"\s+|[^\W㐀-䶿一-鿿]+|.", re.DOTALL)
_WORD = re.compile(r"\w")
REWRITTEN_BELOW = 0.35
"""Texts less alike than this are two texts: marking words in two languages only confuses."""

Span = tuple[int, int]
Kind = Literal["kept", "new", "added", "gone"]


class Run(NamedTuple):
    """A piece of a text: `new` was not in the other, `added` also names something of its own, `gone` is only there."""

    kind: Kind
    text: str


def words_of(text: str) -> list[str]:
    """The text in pieces that stand or fall as a whole; together they are the text. Chinese by the words we know."""
    known = {token.start: token.end for token in load_lexicon().scan(text) if not token.is_latin}
    pieces: list[str] = []
    place = 0
    while place < len(text):
        found = _PIECE.match(text, place)
        end = known.get(place) or (found.end() if found else place + 1)
        pieces.append(text[place:end])
        place = end
    return pieces


def likeness(one: str, other: str) -> float:
    """How much of two texts is the same words: 0 for none, 1 for all."""
    return difflib.SequenceMatcher(None, _words(one), _words(other), autojunk=False).ratio()


def share_left(before: str, after: str) -> float:
    """How many of the words of `before` still stand in `after`, in their order: 0 for none, 1 for all."""
    words = _words(before)
    blocks = difflib.SequenceMatcher(None, words, _words(after), autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / len(words) if words else float(before == after)


def _words(text: str) -> list[str]:
    return [word for word in words_of(text) if _WORD.search(word)]


def compare(before: str, after: str, added: Collection[Span] = ()) -> list[Run]:
    """Both texts as one sequence. `added` are places in `after`, which stand out wherever they are."""
    runs: list[Run] = []
    place = 0
    for old, new in _changes(words_of(before), words_of(after)):
        if old == new:
            runs += _marked("kept", new, place, added)
        else:
            runs += [Run("gone", old)] if old else []
            runs += _marked("new", new, place, added) if new else []
        place += len(new)
    return runs


def marked(text: str, added: Collection[Span]) -> list[Run]:
    """A text with `added` places standing out."""
    return list(_marked("kept", text, 0, added))


def as_html(runs: list[Run], *, hide: Kind | None = None) -> str:
    """The runs of a comparison; those of one kind can be left out, which leaves one of the two texts."""
    tags = {"new": ("<ins>", "</ins>"), "added": ('<ins class="added">', "</ins>"), "gone": ("<del>", "</del>")}
    parts = []
    for kind, text in runs:
        before, after = tags.get(kind, ("", ""))
        parts.append("" if kind == hide else f"{before}{escape(text)}{after}")
    return "".join(parts)


def _changes(before: list[str], after: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of what stood and what stands. Two changes with nothing but space or punctuation between are one."""
    old = new = between = ""
    for kind, low, high, new_low, new_high in difflib.SequenceMatcher(
        None, before, after, autojunk=False
    ).get_opcodes():
        was, now = "".join(before[low:high]), "".join(after[new_low:new_high])
        if kind != "equal":
            old, new, between = old + between + was, new + between + now, ""
        elif (old or new) and not _WORD.search(now):
            between += now
        else:
            yield from ((old, new), (between, between), (was, now))
            old = new = between = ""
    yield from ((old, new), (between, between))


def _marked(kind: Kind, text: str, place: int, added: Collection[Span]) -> Iterator[Run]:
    """`text`, which begins at `place`, cut where an addition begins and ends."""
    begin = 0
    while begin < len(text):
        inside = any(low <= place + begin < high for low, high in added)
        end = begin
        while end < len(text) and any(low <= place + end < high for low, high in added) == inside:
            end += 1
        yield Run("added" if inside else kind, text[begin:end])
        begin = end
