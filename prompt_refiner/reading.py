"""What a sentence asks for, by rules: camera moves, speed, amount of movement, who does what.

Knows no style and writes no prompt. The same text gives the same reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prompt_refiner.camera import CameraReading, read_camera
from prompt_refiner.lexicon import Lexicon, Token, load_lexicon
from prompt_refiner.text import has_hanzi, language_of
from prompt_refiner.types import INTENSITIES, CameraTag, Intensity, Language, Speed

_LONGEST_CLAUSE = 120
"""In words. Nobody writes one; the bound keeps the time for a text without punctuation linear in its length."""


@dataclass(frozen=True, kw_only=True)
class Clause:
    """A piece of the text that is read by itself. It begins with the word that joins it to the one before, if any."""

    text: str
    start: int
    end: int
    tokens: tuple[Token, ...]
    camera: CameraReading

    @property
    def is_about_camera(self) -> bool:
        return bool(self.camera.used) or self.camera.is_unclear

    def acts(self) -> Iterator[Token]:
        """What the subject does: verbs of movement that are not the camera's and not refused."""
        is_refused = False
        for index, token in enumerate(self.tokens):
            is_refused = is_refused or token.has("negator")
            if token.entry.action and index not in self.camera.used and not is_refused:
                yield token


@dataclass(frozen=True, kw_only=True)
class Reading:
    """`unclear` are the clauses that ask for something of the camera that the rules cannot name."""

    text: str
    language: Language
    clauses: tuple[Clause, ...]
    camera_motion: tuple[CameraTag, ...]
    chosen: tuple[CameraTag, ...]
    unclear: tuple[str, ...]
    speed: Speed
    intensity: Intensity
    compound: bool
    subject: str
    action: str
    manner: str

    @property
    def camera_requested(self) -> bool:
        return bool(self.camera_motion or self.unclear)


def read(text: str) -> Reading:
    """Reads a cleaned text (see `text.clean`)."""
    lexicon = load_lexicon()
    clauses = tuple(_clauses(text, lexicon))
    tags: tuple[CameraTag, ...] = tuple(dict.fromkeys(tag for clause in clauses for tag in clause.camera.tags))
    acts = [token for clause in clauses for token in clause.acts()]
    subject, action, manner = _who_does_what(text, clauses)
    return Reading(
        text=text,
        language=language_of(text),
        clauses=clauses,
        camera_motion=tags,
        chosen=tuple(dict.fromkeys(tag for clause in clauses for tag in clause.camera.chosen)),
        unclear=tuple(clause.text for clause in clauses if clause.camera.is_unclear),
        speed=_speed(clauses),
        intensity=_intensity(clauses),
        compound=bool(acts) and any(tag != "static" for tag in tags),
        subject=subject,
        action=action,
        manner=manner,
    )


def _clauses(text: str, lexicon: Lexicon) -> Iterator[Clause]:
    topic = False
    start = 0
    tokens: list[Token] = []

    def clause(end: int) -> Clause:
        piece = text[start:end]
        left = start + len(piece) - len(piece.lstrip())
        camera = read_camera(tokens, lexicon, topic=topic)
        return Clause(
            text=piece.strip(), start=left, end=left + len(piece.strip()), tokens=tuple(tokens), camera=camera
        )

    words = lexicon.scan(text)
    for index, token in enumerate(words):
        continues = len(tokens) < _LONGEST_CLAUSE and not (tokens and _opens_clause(words, index))
        if not token.is_break and continues:
            tokens.append(token)
            continue
        if tokens:
            found = clause(token.start)
            yield found
            topic = found.camera.is_topic
        tokens = [] if token.is_break else [token]
        start = token.end if token.is_break else token.start
    if tokens:
        yield clause(len(text))


def _opens_clause(words: Sequence[Token], index: int) -> bool:
    """然后, "while"; the camera after a space; "and" before a new subject; "with" before camera (not "a camera")."""
    token = words[index]
    if token.has("then", "while") or (token.after_gap and token.has("noun")):
        return True
    following = index + 1
    while following < len(words) and (words[following].has("determiner") or words[following].entry.amount):
        following += 1
    is_camera = following < len(words) and words[following].has("noun", "weak_noun")
    if token.word == "with":
        return is_camera and words[index + 1].word not in ("a", "an")
    return token.word == "and" and (is_camera or following > index + 1)


def _speed(clauses: Sequence[Clause]) -> Speed:
    """Words for time itself count wherever they stand; "slowly" counts where it is about the camera or about all."""
    for clause in clauses:
        for token in not_refused(clause.tokens):
            if token.entry.footage:
                return token.entry.footage
    for clause in clauses:
        if not clause.is_about_camera and any(token.is_content for token in clause.tokens):
            continue
        for token in not_refused(clause.tokens):
            if token.entry.pace:
                return "slow_motion" if token.entry.pace == "slow" else "fast"
    return "normal"


def not_refused(tokens: Sequence[Token]) -> Iterator[Token]:
    """The words before the first "not"."""
    for token in tokens:
        if token.has("negator"):
            return
        yield token


def _intensity(clauses: Sequence[Clause]) -> Intensity:
    """The strongest clause. A clause is its strongest verb, moved one step by "gently", "wildly", "slowly", "fast"."""
    levels = [level for clause in clauses if (level := _clause_level(clause)) is not None]
    return INTENSITIES[max(levels)] if levels else "medium"


def _clause_level(clause: Clause) -> int | None:
    acts = [INTENSITIES.index(token.entry.action) for token in clause.acts() if token.entry.action]
    is_subject = any(token.is_content for token in clause.tokens) and not clause.is_about_camera
    change = 0
    for token in not_refused(clause.tokens):
        if token.entry.amount == "strong" or (is_subject and token.entry.pace == "fast"):
            change = 1
        elif token.entry.amount == "weak" or (is_subject and token.entry.pace == "slow"):
            change = -1
    if acts:
        return min(max(max(acts) + change, 0), len(INTENSITIES) - 1)
    return INTENSITIES.index("medium") + change if change and not is_subject else None


def _who_does_what(text: str, clauses: Sequence[Clause]) -> tuple[str, str, str]:
    """Subject, action and manner in the person's own words. What the rules cannot take apart is all action."""
    subject = ""
    actions: list[str] = []
    manner: list[str] = []
    for clause in clauses:
        if clause.is_about_camera or not any(token.is_content for token in clause.tokens):
            continue
        opening = clause.tokens[0]
        begins = opening.end if opening.has("then", "while") else clause.start
        if not subject and (found := subject_of(clause)) is not None:
            subject, begins = text[found[0] : found[1]], found[1]
        actions.append(text[begins : clause.end].strip())
        manner += [
            text[word.start : word.end] for word in not_refused(clause.tokens) if word.entry.pace or word.entry.amount
        ]
    joiner = "，" if has_hanzi(text) else ", "
    return subject, joiner.join(actions), joiner.join(manner)


def subject_of(clause: Clause) -> tuple[int, int] | None:
    """Start and end of what stands before the first verb of movement, without the words that join or colour it."""
    first = next(clause.acts(), None)
    before = [token for token in clause.tokens if first is not None and token.start < first.start]
    while before and (before[0].has("then", "while") or _colours(before[0])):
        before = before[1:]
    while before and (_colours(before[-1]) or before[-1].has("preposition")):
        before = before[:-1]
    if not any(token.is_content for token in before):
        return None
    return before[0].start, before[-1].end


def _colours(token: Token) -> bool:
    entry = token.entry
    return bool(entry.pace or entry.amount or (entry.direction and not entry.is_tight)) or token.has(
        "function", "manner"
    )
