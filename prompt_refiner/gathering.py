"""Chinese words become phrases with their English: counted, coloured and held nouns, places and ways.

Knows no sentence: what a phrase does in it is read from their order elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from prompt_refiner.inflection import adverb, indefinite, plural
from prompt_refiner.phrases import ALIVE, GOALS, Kind, Phrase, TooInvolvedError, place_noun
from prompt_refiner.text import has_hanzi
from prompt_refiner.translation import Role, Word

_HELD = frozenset(("body", "clothes"))
_PROGRESSIVE = frozenset(("在", "于"))
_AND = frozenset(("和", "与", "、", "及"))
_KINDS: tuple[tuple[Role, Kind], ...] = (
    ("verb", "verb"), ("auxiliary", "auxiliary"), ("negator", "not"), ("time", "around"), ("manner", "adverb"),
    ("preposition", "preposition"), ("join", "join"), ("object", "object"), ("degree", "degree"),
    ("silent", "silent"), ("complement", "silent"), ("symbol", "symbol"),
)  # fmt: skip


class Gathering:
    """Words become phrases: counted and coloured nouns, ways and places."""

    def __init__(self, words: Sequence[Word], *, doing: Callable[[Sequence[Phrase]], str]) -> None:
        """`doing` writes what somebody does: "wearing a red skirt"."""
        self.words = words
        self.doing = doing
        self.done: list[Phrase] = []

    def gathered(self) -> list[Phrase]:
        index = 0
        while index < len(self.words):
            index = self._take(index)
        self._close_preposition()
        if self.done and self.done[-1].kind == "of":
            self.done.pop()
        if any(phrase.kind in ("of", "preposition", "localizer") for phrase in self.done):
            raise TooInvolvedError
        return [phrase for phrase in self.done if phrase.kind != "silent"]

    def _at(self, index: int) -> Word | None:
        return self.words[index] if 0 <= index < len(self.words) else None

    def _last(self, back: int = 1) -> Phrase | None:
        return self.done[-back] if len(self.done) >= back else None

    def _take(self, index: int) -> int:
        """Takes the word at `index`, and all that belong to its noun; gives the next index."""
        word, last = self.words[index], self._last()
        following = self._at(index + 1)
        if word.can("localizer") and last is not None and last.kind in ("noun", "place"):
            self._localize(word)
        elif word.can("number") and not (word.can("silent") and following is None):
            return self._take_count(index)
        elif word.can("of"):
            self._take_of(index)
        elif word.can("complement") and last is not None and last.kind == "verb":
            self.done[-1] = replace(last, text=_with_complement(last.text, word.roles["complement"]))
        elif self._is_noun(index) or (word.can("place") and last is not None and last.kind == "count"):
            return self._take_noun(index)
        else:
            self._take_other(word, following)
        return index + 1

    def _is_noun(self, index: int) -> bool:
        word, following, last = self.words[index], self._at(index + 1), self._last()
        if word.can("pronoun", "foreign", "unknown") or word.noun:
            return not (word.can("verb", "measure") and last is not None and last.kind == "noun")
        if not word.can("adjective"):
            return False
        return not word.can("verb") or (following is not None and (bool(following.noun) or following.can("of")))

    def _take_other(self, word: Word, following: Word | None) -> None:
        if word.can("place"):
            self._push_place(word, following)
            return
        if word.can("and"):
            self._push(Phrase(kind="preposition", text="and", typed="、"))
            return
        for role, kind in _KINDS:
            if word.can(role):
                text = word.text if role == "symbol" else word.roles[role]
                seen_as: Role = "existential" if role == "verb" and word.can("existential") else role
                self._push(Phrase(kind=kind, text=text, typed=word.key, role=seen_as))
                return
        raise TooInvolvedError

    # Nouns

    def _take_count(self, index: int) -> int:
        count = self.words[index].roles["number"]
        following = self._at(index + 1)
        if following is None or not following.can("measure"):
            self._push(Phrase(kind="count", text=count))
            return index + 1
        beyond = self._at(index + 2)
        if following.noun and (beyond is None or not (beyond.noun or beyond.can("adjective", "foreign", "unknown"))):
            self._push(Phrase(kind="count", text=count))
            return index + 1
        self._push(Phrase(kind="count", text=count, typed=following.roles["measure"]))
        return index + 2

    def _take_noun(self, index: int) -> int:
        """Adjectives and nouns side by side; 毛茸茸的 before a noun is an adjective too."""
        before: list[str] = []
        while (word := self._at(index)) is not None and word.can("adjective") and self._is_noun(index):
            following, beyond = self._at(index + 1), self._at(index + 2)
            before.append(word.roles["adjective"])
            index += 1
            if following is not None and following.can("of"):
                if beyond is None or not self._is_noun(index + 1):
                    break
                index += 1
            elif following is not None and following.key == "地":
                self._push(Phrase(kind="adverb", text=adverb(before.pop()), role="manner"))
                return index + 1
        word = self._at(index)
        if word is not None and word.can("place"):
            self._push_noun(self._noun(word, tuple(before)))
            return index + 1
        if word is None or not self._is_noun(index) or word.can("adjective"):
            self._push(Phrase(kind="adjective", text=" and ".join(before)))
            return index
        found = self._noun(word, tuple(before))
        index += 1
        while (word := self._at(index)) is not None and self._is_noun(index) and not word.can("adjective"):
            found = self._with_next(found, word)
            index += 1
        if (word := self._at(index)) is not None and word.key == "们":
            found, index = replace(found, is_plural=True), index + 1
        self._push_noun(found)
        return index

    def _noun(self, word: Word, before: tuple[str, ...]) -> Phrase:
        if word.can("pronoun"):
            subject, other, holder = word.roles["pronoun"].split(" ", 2)
            return Phrase(kind="noun", role="pronoun", forms=(subject, other, holder), before=before)
        role = word.noun
        if role is None and word.can("place"):
            return Phrase(kind="noun", text=place_noun(word.roles["place"]), role="place", before=before)
        if role is None:
            return Phrase(kind="noun", text=word.text, role="foreign", before=before)
        return Phrase(kind="noun", text=word.roles[role], role=role, before=before)

    def _with_next(self, found: Phrase, word: Word) -> Phrase:
        following = self._noun(word, ())
        # What is unknown between two nouns may be what one does to the other.
        if following.forms[1] or found.after:
            raise TooInvolvedError
        if found.forms[1]:
            if following.role == "foreign":
                raise TooInvolvedError
            return replace(following, holder=found.forms[2])
        if following.role == "foreign" and found.role != "foreign":
            return replace(found, after=(*found.after, following.text))
        if found.role in ALIVE and following.role in _HELD:
            return replace(following, holder=self._counted_off(found) + "'s")
        if found.role in ALIVE and following.role in ALIVE:
            raise TooInvolvedError
        role = following.role if found.role != "foreign" else "foreign"
        before = (*found.before, _compound(found.text))
        return replace(following, before=before, after=found.after, holder=found.holder, role=role)

    def _counted_off(self, found: Phrase) -> str:
        last = self._last()
        if last is not None and last.kind == "count":
            self.done.pop()
            return _counted(found, last).written()
        return found.written("the")

    def _push_noun(self, found: Phrase) -> None:
        last = self._last()
        if last is not None and last.kind == "count":
            self.done.pop()
            found = _counted(found, last)
            last = self._last()
        if last is not None and last.kind == "of":
            self.done.pop()
            self._push_noun(self._held(found))
            return
        if last is not None and last.kind == "noun" and not self._follows_preposition():
            if last.forms[1] and not found.forms[1]:
                self.done[-1] = replace(found, holder=last.forms[2])
                return
            raise TooInvolvedError
        self._push(found)

    def _follows_preposition(self) -> bool:
        before = self._last(2)
        return before is not None and before.kind == "preposition"

    # Ways and places

    def _push_place(self, word: Word, following: Word | None) -> None:
        last, english = self._last(), word.roles["place"]
        if last is not None and last.kind == "noun" and has_hanzi(last.text + "".join(last.after)):
            raise TooInvolvedError
        if following is not None and following.can("localizer", "of"):
            self._push_noun(Phrase(kind="noun", text=place_noun(english), role="place", typed=english))
            return
        if last is not None and last.kind == "of":
            self.done.pop()
            self._push_noun(self._held(Phrase(kind="noun", text=place_noun(english), role="place")))
            return
        if last is not None and last.kind == "preposition":
            self.done.pop()
            given = english if last.typed in _PROGRESSIVE else f"{last.text} {place_noun(english)}"
            self._push(Phrase(kind="around", text=given, is_given=True))
            return
        self._push(Phrase(kind="place", text=english))

    def _localize(self, word: Word) -> None:
        """桌子 + 上 is "on the table", with what stands before it: 从桌子上 is "from the table"."""
        noun = self.done.pop()
        if any(has_hanzi(part) for part in noun.before):
            raise TooInvolvedError
        last = self._last()
        here = noun.written("the") if noun.kind == "noun" else place_noun(noun.text)
        way = word.roles["localizer"]
        text = f"{way} {here}"
        is_given = last is not None and last.kind == "preposition"
        if last is not None and is_given:
            self.done.pop()
            if last.text == "and":
                raise TooInvolvedError
            if last.typed not in (*_PROGRESSIVE, "到"):
                text = f"{last.text} {here if way in ('on', 'in') else text}"
        self._push(Phrase(kind="around", text=text, role="localizer", is_given=is_given))

    def _close_preposition(self) -> None:
        """A noun that a word like 从 or 对着 was waiting for, now that nothing more can hang on it."""
        noun, last = self._last(), self._last(2)
        if noun is None or last is None or noun.kind != "noun" or last.kind != "preposition":
            return
        before = self._last(3)
        if last.typed in _AND and before is not None and before.kind == "noun":
            del self.done[-3:]
            both = f"{before.forms[0] or before.written()} and {noun.written()}"
            self.done.append(Phrase(kind="noun", text="~" + both, role="things"))
            return
        del self.done[-2:]
        way = "in" if last.typed in _PROGRESSIVE else last.text
        self.done.append(Phrase(kind="around", text=f"{way} {noun.written()}", is_given=True))

    def _push(self, phrase: Phrase) -> None:
        if phrase.kind not in ("of", "count"):
            self._close_preposition()
        last = self._last()
        if (
            last is not None
            and last.kind == "preposition"
            and phrase.kind not in ("noun", "count", "preposition", "of")
        ):
            self.done.pop()
            if last.typed not in _PROGRESSIVE:
                raise TooInvolvedError
        self.done.append(phrase)

    # 的

    def _take_of(self, index: int) -> None:
        last = self._last()
        if last is None:
            return
        if last.kind == "adverb" and (following := self._at(index + 1)) is not None and following.can("verb"):
            return
        self.done.append(Phrase(kind="of"))

    def _held(self, noun: Phrase) -> Phrase:
        """The noun behind 的 with what stands before it."""
        last = self.done.pop() if self.done else None
        if last is None:
            raise TooInvolvedError
        if last.kind == "noun" and last.forms[1]:
            return replace(noun, holder=last.forms[2])
        if last.kind == "noun" and self._is_done_to(last, noun):
            return self._counted_before(self._doing(noun, last))
        if last.kind == "noun" and last.role in ALIVE:
            return replace(noun, holder=last.written("the") + "'s")
        if last.kind == "noun" and last.role == "foreign":
            return replace(noun, before=(last.bare, *noun.before))
        if last.kind == "noun" and last.role == "place" and last.typed and not last.before:
            return replace(noun, after=(*noun.after, last.typed))
        if last.kind == "noun":
            return replace(noun, after=(*noun.after, f"of {last.written('the')}"))
        if last.kind in ("around", "place"):
            return self._counted_before(replace(noun, after=(*noun.after, last.text)))
        if last.kind == "adjective":
            return replace(noun, before=(last.text, *noun.before))
        return self._counted_before(self._doing(noun, last))

    def _is_done_to(self, last: Phrase, noun: Phrase) -> bool:
        """骑自行车的男孩 does something with the bicycle; it does not own him."""
        verb, before = self._last(), self._last(2)
        if verb is None or verb.kind != "verb" or noun.role not in ALIVE or last.role in ALIVE:
            return False
        return before is None or before.kind != "noun"

    def _counted_before(self, noun: Phrase) -> Phrase:
        last = self._last()
        if last is not None and last.kind == "count" and not noun.count:
            self.done.pop()
            return _counted(noun, last)
        return noun

    def _doing(self, noun: Phrase, last: Phrase) -> Phrase:
        """穿红裙的女孩 is "a girl wearing a red skirt"."""
        clause = [last]
        while self.done and clause[0].kind != "verb":
            clause.insert(0, self.done.pop())
        while self.done and self.done[-1].kind in ("adverb", "around"):
            clause.insert(0, self.done.pop())
        if self.done and self.done[-1].kind == "noun":
            raise TooInvolvedError
        if clause[0].kind == "count":
            raise TooInvolvedError
        return replace(noun, after=(*noun.after, self.doing(clause)))


def _counted(noun: Phrase, count: Phrase) -> Phrase:
    """两只猫 is "two cats", 一杯咖啡 "a cup of coffee", 一群鸟 "a group of birds"."""
    is_many = count.text not in ("a", "this", "that", "every", "1")
    if noun.forms[1]:
        raise TooInvolvedError
    if count.typed:
        measure, _, of = count.typed.partition(" ")
        if of != "of":
            raise TooInvolvedError
        inner = replace(noun, is_plural=noun.role not in ("food",)).written("")
        text = f"{plural(measure) if is_many else measure} of {inner}"
        return Phrase(kind="noun", text=text, role=noun.role, count=count.text if is_many else indefinite(text))
    if noun.role == "body" and noun.text.endswith("s") and not is_many:
        raise TooInvolvedError
    if count.text == "a" and noun.text.startswith(("~", "the ")):
        return noun
    is_plural = is_many and not (noun.role == "body" and noun.text.endswith(("s", "feet", "hair", "fur")))
    return replace(noun, count=indefinite(noun.bare) if count.text == "a" else count.text, is_plural=is_plural)


def _compound(text: str) -> str:
    return text.partition("/")[0].removeprefix("~").removeprefix("the ")


def _with_complement(verb: str, complement: str) -> str:
    if not complement or "|" in verb or verb.rpartition(" ")[2] in (*GOALS, complement):
        return verb
    first, _, rest = verb.partition(" ")
    return f"{first} {complement} {rest}".rstrip()
