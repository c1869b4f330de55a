"""One Chinese clause becomes an English one where its order is plain: who, does what, how, where.

Knows one clause at a time and nothing of engines. A clause whose order it does not know stays untranslated: None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from prompt_refiner.gathering import Gathering
from prompt_refiner.lexicon import english_forms
from prompt_refiner.phrases import ALIVE, GOALS, Phrase, TooInvolvedError, place_noun
from prompt_refiner.text import has_hanzi
from prompt_refiner.translation import Word

_SEEING = frozenset(("看", "看着", "望着", "注视", "凝视", "盯着", "听", "听着", "有"))
_PLAIN = frozenset(("on", "in", "at", "to", "by"))
_DANGLING = frozenset(("at", "to", "toward", "into", "onto", "of", "for", "with", "about"))
_CROSSED = frozenset(("leave", "enter", "cross", "approach", "pass", "reach", "cover", "clean"))
_TURNS = frozenset(("turn", "time", "step"))


@dataclass(frozen=True, kw_only=True)
class Clause:
    """A clause in English. `unknown` are the words that stand in it as they were typed."""

    english: str
    has_subject: bool
    is_target: bool
    """Nothing but a thing or a way: "the girl", "toward the door"."""
    is_way: bool
    unknown: tuple[str, ...]


def progressive(verb: str) -> str:
    """ "walking toward" of "walk toward"; a form of its own stands behind "|"."""
    plain, _, own = verb.partition("|")
    return own or english_forms(plain)[-1]


def translate(words: Sequence[Word]) -> Clause | None:
    """The clause in English, or None where its order is not plain."""
    try:
        phrases = Gathering(words, doing=_doing).gathered()
        english, has_subject = _Sentence(phrases).written()
    except TooInvolvedError:
        return None
    if not phrases:
        return None
    kinds = {phrase.kind for phrase in phrases}
    return Clause(
        english=english,
        has_subject=has_subject,
        is_target=kinds in ({"noun"}, {"place"}),
        is_way=kinds <= {"around", "place", "adverb"} and phrases[0].kind != "place",
        unknown=tuple(word.text for word in words if word.can("unknown")),
    )


def _doing(phrases: Sequence[Phrase]) -> str:
    english, has_subject = _Sentence([phrase for phrase in phrases if phrase.kind != "silent"]).written()
    if has_subject:
        raise TooInvolvedError
    return english


@dataclass(kw_only=True)
class _Act:
    """One verb with what belongs to it."""

    verb: Phrase
    is_refused: bool
    begins: str
    joint: str
    before: list[str]
    """Ways that were said before the verb; `ways` stood behind it."""
    thing: str = ""
    is_fronted: bool = False
    """The object came before the verb, with 把."""
    adverbs: list[str] = field(default_factory=list)
    ways: list[str] = field(default_factory=list)

    def written(self) -> str:
        verb = progressive(self.verb.text)
        if self.begins:
            verb = f"{progressive(self.begins)} {self.verb.text.partition('|')[0]}"
        ways, goal = list(self.ways), verb.rpartition(" ")[2]
        if goal in GOALS and not self.thing:
            if ways:
                verb, ways[0] = _toward(verb, goal, ways[0])
            elif goal in _DANGLING:
                verb = verb.removesuffix(" " + goal)
        thing = self.thing
        if " _ " in verb:
            verb, thing = " ".join(verb.replace("_", thing).split()), ""
        refused = "not" if self.is_refused else ""
        return " ".join(part for part in (refused, verb, thing, *self.adverbs, *ways, *self.before) if part)


def _toward(verb: str, goal: str, way: str) -> tuple[str, str]:
    """ "walk to" and "on the table" are "walk onto the table"; "fall on" and "on the table" need one "on"."""
    first, _, rest = way.partition(" ")
    stem = verb.removesuffix(" " + goal)
    if goal == "to" and first in ("on", "in"):
        return stem, f"{first}to {rest}"
    return (verb, rest) if first in _PLAIN else (stem, way)


class _Sentence:
    """Phrases in their Chinese order are written in the English one."""

    def __init__(self, phrases: Sequence[Phrase]) -> None:
        self.phrases = list(phrases)
        self.lead = ""
        self.subject: Phrase | None = None
        self.around: list[str] = []
        self.acts: list[_Act] = []
        self.states: list[str] = []
        self.symbols = ""
        self.adverbs: list[str] = []
        self.ways: list[str] = []
        self.object = ""
        self.is_refused = False
        self.begins = ""
        self.joint = ""
        self.waits_for_object = False
        self.waits_for_manner = False

    def written(self) -> tuple[str, bool]:
        """The clause and whether it has a subject."""
        self._turn_existential()
        for index, phrase in enumerate(self.phrases):
            self._take(index, phrase)
        if self.is_refused and self.adverbs and {phrase.kind for phrase in self.phrases} == {"not", "adverb"}:
            return " ".join(["not", *self.adverbs]), False
        if self.is_refused or self.begins or self.waits_for_object or self.waits_for_manner:
            raise TooInvolvedError
        return self._assembled(), self.subject is not None

    def _turn_existential(self) -> None:
        """天上飘着白云: the clouds drift in the sky."""
        kinds = [phrase.kind for phrase in self.phrases]
        verbs = [place for place, kind in enumerate(kinds) if kind == "verb"]
        if len(verbs) != 1 or self.phrases[verbs[0]].role != "existential" or "object" in kinds:
            return
        place = verbs[0]
        before, behind = self.phrases[:place], self.phrases[place + 1 :]
        if len(behind) != 1 or behind[0].kind != "noun" or not any(each.kind in ("around", "place") for each in before):
            return
        if any(each.kind in ("noun", "not") or each.is_given for each in before):
            return
        lead = [each for each in before if each.kind == "join"]
        rest = [replace(each, kind="around", is_given=True) if each.kind == "place" else each for each in before]
        self.phrases = [*lead, behind[0], *(each for each in rest if each.kind != "join"), self.phrases[place]]

    def _take(self, index: int, phrase: Phrase) -> None:  # noqa: C901 - one case per kind
        later = any(each.kind == "verb" for each in self.phrases[index + 1 :])
        match phrase.kind:
            case "noun":
                self._take_noun(phrase)
            case "verb":
                self._take_verb(phrase)
            case "adverb" if self.acts and not later:
                self.acts[-1].adverbs.append(phrase.text)
                self.waits_for_manner = False
            case "adverb":
                self.adverbs.append(phrase.text)
            case "around" | "place":
                self._take_way(index, phrase, later=later)
            case "count" if self.acts and phrase.typed in _TURNS:
                number = "one" if phrase.text == "a" else phrase.text
                self.acts[-1].adverbs.append(
                    f"{number} {phrase.typed if number in ('one', '1') else phrase.typed + 's'}"
                )
            case "not":
                self.is_refused = True
            case "auxiliary":
                self.begins = phrase.text
            case "join" if not self.acts and self.subject is None:
                self.lead = (
                    "" if phrase.text == "while" else " ".join(part for part in (self.lead, phrase.text) if part)
                )
            case "join":
                self.joint = phrase.text
            case "adjective" if not later and self.subject is not None and not self.acts:
                self.states.append(" ".join((*self.adverbs, phrase.text)))
                self.adverbs = []
            case "adjective" if len(self.phrases) == 1:
                self.states.append(phrase.text)
            case "object" if not self.waits_for_object and later:
                self.waits_for_object = True
            case "degree" if self.acts:
                self.waits_for_manner = True
            case "symbol":
                self.symbols += phrase.text
            case _:
                raise TooInvolvedError

    def _take_noun(self, noun: Phrase) -> None:
        if self.waits_for_object:
            self.object, self.waits_for_object = noun.written("the"), False
        elif not self.acts and self.subject is None and not (self.is_refused or self.begins):
            self.subject = noun
            # What was said before the subject is said of all.
            self.around, self.ways = [*self.ways, *self.around], []
        elif self.acts and self.acts[-1].is_fronted and (goal := self.acts[-1].verb.text.rpartition(" ")[2]) in GOALS:
            act = self.acts[-1]
            act.verb = replace(act.verb, text=act.verb.text.removesuffix(" " + goal))
            act.ways, act.is_fronted = [f"{goal} {noun.written('the')}"], False
        elif self.acts and self.acts[-1].before and has_hanzi(noun.written()):
            raise TooInvolvedError
        elif self.acts and not self.acts[-1].thing and not self.acts[-1].ways and not self.is_refused:
            self.acts[-1].thing = noun.written()
        else:
            raise TooInvolvedError

    def _take_verb(self, verb: Phrase) -> None:
        if verb.typed == "写着" and (self.subject is None or self.subject.role in (*ALIVE, "pronoun")):
            verb = replace(verb, text="write")  # A sign shows what is written on it.
        joint = self.joint or ("" if not self.acts else "and")
        if self.acts and self.acts[-1].verb.typed in _SEEING and self.acts[-1].thing and not self.joint:
            joint = ""
        self.acts.append(
            _Act(
                verb=verb, is_refused=self.is_refused, begins=self.begins, joint=joint,
                thing=self.object, is_fronted=bool(self.object),
                adverbs=self.adverbs, before=self.ways,
            )
        )  # fmt: skip
        self.is_refused, self.begins, self.joint, self.object = False, "", "", ""
        self.adverbs, self.ways = [], []

    def _take_way(self, index: int, phrase: Phrase, *, later: bool) -> None:
        before = self.phrases[index - 1] if index else None
        if phrase.kind == "place" and before is not None and before.kind == "verb":
            is_goal = before.text.rpartition(" ")[2] in GOALS and phrase.text.partition(" ")[0] in _PLAIN
            if is_goal or before.text in _CROSSED:
                self.acts[-1].thing = place_noun(phrase.text)
                return
        is_subject = phrase.kind == "place" and self.subject is None and not self.acts and not self._noun_follows(index)
        if is_subject and later and not phrase.is_given:
            self.subject = Phrase(kind="noun", text=place_noun(phrase.text), role="place")
        elif self.acts and (not later or (before is not None and before.kind == "verb" and phrase.role != "time")):
            self.acts[-1].ways.append(phrase.text)
        elif not self.acts and self.subject is None and not later:
            self.around.append(phrase.text)
        else:
            self.ways.append(phrase.text)

    def _noun_follows(self, index: int) -> bool:
        for phrase in self.phrases[index + 1 :]:
            if phrase.kind in ("noun", "verb"):
                return phrase.kind == "noun"
        return False

    def _assembled(self) -> str:
        subject = ""
        if self.subject is not None:
            subject = self.subject.forms[0] or self.subject.written()
        if self.adverbs or self.ways:
            if self.acts or (self.subject is not None and self.adverbs):
                raise TooInvolvedError
            self.around = [*self.adverbs, *self.ways, *self.around]
        acts = " ".join(part for act in self.acts for part in (act.joint, act.written()) if part)
        link = _link(self.subject, is_state=bool(self.states)) if (acts or self.states) else ""
        said = " ".join(part for part in (self.lead, subject, link, " and ".join(self.states), acts) if part)
        joint = ", " if self.acts or self.states else " "
        return joint.join(part for part in (said, *self.around) if part) + (" " + self.symbols if self.symbols else "")


def _link(subject: Phrase | None, *, is_state: bool) -> str:
    """ "she is dancing" and "the sky is blue", but "a girl dancing"."""
    if subject is None:
        return ""
    own = {"I": "am", "you": "are", "we": "are", "they": "are"}.get(subject.forms[0], "is")
    if subject.forms[0]:
        return own
    if not is_state:
        return ""
    return "are" if subject.is_plural or (subject.text.startswith("~") and subject.text.endswith("s")) else "is"
