"""Takes single additions out of a refined prompt, with the small words that only belong to them.

Knows no grammar beyond what the lexicon says of a word. Nothing that stays is reworded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from prompt_refiner.ledger import clauses_of, content_words, stem
from prompt_refiner.lexicon import Token, load_lexicon
from prompt_refiner.reading import read
from prompt_refiner.text import has_hanzi

_WORD = re.compile(r"[a-z]{2,}")
_JOINTS = ",，;；、:："
_STOPS = ".。!！?？"
_JOINERS = frozenset(("and", "or"))
_MOST_MODIFIERS = 3
_NOUNS_IN_ING = frozenset(("morning", "evening", "building", "ceiling", "clothing", "lighting", "lightning", "spring"))
_ZH_BEFORE = re.compile(r"(?:在|从|于|沿着|伴着|伴随着?|随着|带着|穿着|戴着)?(?:[^\W\da-zA-Z在从于着是]{1,2}的)*$")
_ZH_DANGLING = ("是", "有", "为", "像", "着")
_ZH_PLACE = re.compile(r"(?:之|里|下|中|上|旁|边|前|后|间|外|内)?(?:面|边|方|下|中)?")

Span = tuple[int, int]


def places_of(element: str, text: str, *, typed: str) -> tuple[Span, ...]:
    """Where `element` stands in `text`: as it is written, else its words one by one, in any form.

    Words that were typed belong to the person and are no part of an addition. Empty where the text only paraphrases it.
    """
    lexicon = load_lexicon()
    folded, wanted = lexicon.fold(text), lexicon.fold(element).strip()
    if not wanted:
        return ()
    before, after = (r"(?<![a-z0-9])", r"(?![a-z0-9])") if wanted.isascii() else ("", "")
    whole = tuple(found.span() for found in re.finditer(before + re.escape(wanted) + after, folded))
    if whole:
        return whole
    stems = content_words(element) - frozenset(map(stem, _WORD.findall(lexicon.fold(typed))))
    return tuple(found.span() for found in _WORD.finditer(folded) if stem(found.group()) in stems)


def strike_out(refined: str, elements: Iterable[str], *, typed: str) -> str:
    """`refined` without `elements`, one after the other. A clause that says nothing without one goes with it.

    An element that is not there, or is all there is, changes nothing.
    """
    text = refined
    for element in elements:
        shorter = text
        while spans := places_of(element, shorter, typed=typed):
            shorter = _without(shorter, spans[-1], typed)
        if any(mark.isalnum() for mark in shorter):
            text = shorter
    return text


def _without(text: str, span: Span, typed: str) -> str:
    start, end = span
    clause_start, clause_end = next(
        ((first, last) for first, last in clauses_of(text) if first <= start < last), (start, end)
    )
    clause_end = max(clause_end, end)
    words = [
        word for word in load_lexicon().scan(text) if clause_start <= word.start < clause_end and not word.is_break
    ]
    is_zh = has_hanzi(text[start:end])
    low, high = _phrase_zh(text, start, end, typed) if is_zh else _phrase_en(words, start, end, typed)
    low = max(low, clause_start)
    leads = not text[clause_start:low].strip() and not _is_only_attribute(text, words, end, high, is_zh)
    rest = text[clause_start:low] + " " + text[high:clause_end]
    is_broken = leads or rest.rstrip(_JOINTS + _STOPS + " ").endswith(_ZH_DANGLING)
    if not _says_anything(rest) or (is_broken and clause_start > 0 and not _is_owned(rest, typed)):
        low, high = clause_start, clause_end
    return _joined(text, low, high)


def _phrase_en(words: Sequence[Token], start: int, end: int, typed: str) -> Span:
    """The element with its articles and adjectives, and the preposition before them."""
    inside = [index for index, word in enumerate(words) if word.start < end and word.end > start]
    if not inside:
        return start, end
    first, last = inside[0], inside[-1]
    following = words[last + 1] if last + 1 < len(words) else None
    if following is not None and _is_thing(following):
        return start, following.start
    before = _first_of_phrase(words, first, typed)
    if before > 0 and words[before - 1].word in _JOINERS:
        return words[before - 1].start, end
    if following is not None and following.word in _JOINERS and last + 2 < len(words):
        return words[before].start, words[last + 2].start
    if before > 0 and words[before - 1].has("preposition"):
        return words[before - 1].start, end
    return (words[before].start if before == 0 else words[_after_articles(words, first)].start), end


def _first_of_phrase(words: Sequence[Token], first: int, typed: str) -> int:
    """Where the noun phrase that ends in the element begins: articles and adjectives that nobody typed."""
    own = frozenset(map(stem, _WORD.findall(load_lexicon().fold(typed))))
    begin = first
    while begin > 0 and first - begin < _MOST_MODIFIERS:
        word = words[begin - 1]
        is_attribute = word.has("determiner") or word.word == "soft" or _is_thing(word) or word.entry.pace == "slow"
        if not word.is_latin or word.has("preposition") or not is_attribute or stem(word.word) in own:
            break
        begin -= 1
    return begin


def _after_articles(words: Sequence[Token], first: int) -> int:
    while first > 0 and words[first - 1].has("determiner"):
        first -= 1
    return first


def _is_thing(word: Token) -> bool:
    """A word that can be a noun or an adjective: no verb of movement, no participle, no small word."""
    is_participle = word.word.endswith(("ing", "ed")) and word.word not in _NOUNS_IN_ING
    return word.is_latin and word.is_content and not word.entry.action and not is_participle


def _phrase_zh(text: str, start: int, end: int, typed: str) -> Span:
    """The element with 在 … 下 around it, its own attributes before it, and the 的 that ties it to the next word."""
    if text[end : end + 1] == "的":
        return start, end + 1
    before = _ZH_BEFORE.search(text, 0, start)
    own = set(typed) - set("在从于的")
    low = before.start() if before and not set(text[before.start() : start]) & own else start
    place = _ZH_PLACE.match(text, end)
    is_place = low < start or start == 0 or text[start - 1] in _JOINTS + _STOPS
    high = place.end() if place and is_place else end
    return low, high + (1 if text[high : high + 1] == "的" else 0)


def _is_only_attribute(text: str, words: Sequence[Token], end: int, high: int, is_zh: bool) -> bool:
    """Whether the element only describes the word after it: ocean waves, 金色的麦田."""
    if is_zh:
        return text[high - 1 : high] == "的"
    following = next((word for word in words if word.start >= end), None)
    return following is not None and _is_thing(following)


def _says_anything(rest: str) -> bool:
    return (
        bool(content_words(rest)) or read(rest.strip()).camera_requested or has_hanzi(rest.strip("的了着地在和与并又"))
    )


def _is_owned(rest: str, typed: str) -> bool:
    """Whether a clause without its beginning still holds the person's words or a camera move."""
    if read(rest.strip()).camera_requested:
        return True
    hanzi = set(re.findall(r"[㐀-䶿一-鿿]", typed)) - set("的了着地在和与并又是一")
    return bool(content_words(rest) & content_words(typed)) or bool(hanzi & set(rest))


def _joined(text: str, low: int, high: int) -> str:
    """`text` without what stands from `low` to `high`, and without the comma, space or article that is left over."""
    left, right = text[:low].rstrip(), text[high:].lstrip()
    if not left:
        right = right.lstrip(_JOINTS + " ")
        return right[:1].upper() + right[1:] if text[:1].isupper() else right
    if not right or right[0] in _STOPS:
        stop = text.rstrip()[-1] if text.rstrip()[-1] in ".。" and not right else ""
        left = left.rstrip(_JOINTS + " ")
        return left + right if right else left + ("" if left[-1:] in _STOPS else stop)
    if right[0] in _JOINTS:
        return left.rstrip(_JOINTS + " ") + right
    if re.search(r"\ban?$", left, re.IGNORECASE):
        left = re.sub(r"\b([Aa])n?$", r"\1n" if right[0] in "aeiouAEIOU" else r"\1", left)
    is_spaced = text[low - 1].isspace() or text[high : high + 1].isspace()
    return left + (" " if is_spaced else "") + right
