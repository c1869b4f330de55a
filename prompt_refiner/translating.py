"""A reading becomes an English prompt for an engine that reads nothing else, clause by clause.

Knows no network. What the rules cannot put into English stays as typed and is named; nothing is added or left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from prompt_refiner.camera import read_camera
from prompt_refiner.english import Clause as English
from prompt_refiner.english import translate
from prompt_refiner.lexicon import BREAKS, Token, load_lexicon
from prompt_refiner.reading import Clause, Reading, not_refused, subject_of
from prompt_refiner.text import has_hanzi, quoted_spans
from prompt_refiner.translation import load_dictionary
from prompt_refiner.types import CameraTag
from prompt_refiner.writing import ORDER, WITHOUT_PACE

_AIMS: dict[str, str] = {
    "zoom_in": "on", "dolly_in": "toward", "orbit_left": "around", "orbit_right": "around", "follow": "",
}  # fmt: skip
"""How a move is aimed, by its tag ..."""
_VERB_AIMS = {
    "穿过": "through", "穿越": "through", "飞越": "over", "掠过": "past", "扫过": "across", "横扫": "across",
}  # fmt: skip
"""... unless the verb says it."""
_ASIDE = frozenset(("让", "用", "以", "由", "起", "把", "将"))
_TOWARD = ("到", "至", "向")
_WAYS = frozenset(("到", "至", "向", "往", "朝", "在", "从", "沿着", "顺着"))
_GAP = re.compile(r"(?<=[㐀-䶿一-鿿])\s+(?=[㐀-䶿一-鿿])")
_CHINESE = re.compile(r"[㐀-䶿一-鿿]+")


@dataclass(frozen=True, kw_only=True)
class Translated:
    """`clauses` stand in the prompt as typed because their order is too involved, `words` because they are unknown."""

    prompt: str
    clauses: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Piece:
    text: str
    has_subject: bool = True
    is_camera: bool = False
    is_untranslated: bool = False
    behind: str = ""
    """The camera move of a clause that stays as typed: said again at the end, in English."""


def needs_english(reading: Reading, languages: Sequence[str]) -> bool:
    """Whether there is Chinese in the text that the engine cannot read; Japanese and others are not ours to guess."""
    return "zh" not in languages and reading.language in ("zh", "mixed") and has_hanzi(reading.text)


def in_english(reading: Reading, *, locked: Iterable[str] = ()) -> Translated:
    """The prompt in English. Quotations and `locked` words stand as typed."""
    kept = _kept(reading.text, locked)
    pieces: list[_Piece] = []
    end = 0
    for clause in reading.clauses:
        pieces += _symbols(reading.text[end : clause.start])
        pieces.append(_piece(clause, reading.text, kept))
        end = clause.end
    pieces += _symbols(reading.text[end:])
    typed = tuple(piece.text for piece in pieces if piece.is_untranslated)
    prompt = _joined(_camera_last(pieces, reading))
    rest = prompt
    for clause_text in typed:
        rest = rest.replace(clause_text, " ", 1)
    words = [text for start, stop in quoted_spans(rest) if has_hanzi(text := rest[start:stop])]
    for word in words:
        rest = rest.replace(word, " ", 1)
    return Translated(prompt=prompt, clauses=typed, words=tuple(dict.fromkeys((*words, *_CHINESE.findall(rest)))))


def as_typed(reading: Reading, prompt: str) -> Translated:
    """Nothing translated: `prompt` with every Chinese clause named."""
    clauses = tuple(clause.text for clause in reading.clauses if has_hanzi(clause.text) and clause.text in prompt)
    return Translated(prompt=prompt, clauses=clauses or tuple(_CHINESE.findall(prompt)), words=())


def _kept(text: str, locked: Iterable[str]) -> list[tuple[int, int]]:
    spans = list(quoted_spans(text))
    for word in locked:
        spans += [found.span() for found in re.finditer(re.escape(word), text)] if word else []
    return sorted(spans)


def _symbols(gap: str) -> list[_Piece]:
    """Signs between two clauses that part nothing, such as an emoji by itself."""
    left = "".join(mark for mark in gap if mark not in BREAKS and not mark.isspace() and mark != "、")
    return [_Piece(text=left)] if left else []


def _piece(clause: Clause, text: str, kept: Sequence[tuple[int, int]]) -> _Piece:
    inside = [(start - clause.start, end - clause.start) for start, end in kept if clause.start <= start < clause.end]
    bare = _without(clause.text, inside)
    if not has_hanzi(bare):
        return _Piece(text=clause.text, has_subject=subject_of(clause) is not None, is_camera=bool(clause.camera.tags))
    as_typed = _Piece(text=clause.text, is_untranslated=True, behind=_phrase(clause.camera.tags, clause))
    if clause.camera.is_unclear:
        return as_typed
    if clause.camera.tags:
        camera = _camera(clause, text)
        said = camera and f"{camera} {_signs(clause)}".rstrip()
        return _Piece(text=said, has_subject=False, is_camera=True) if said else as_typed
    if refused := _refused(clause):
        return _Piece(text=f"{refused} {_signs(clause)}".rstrip(), has_subject=False, is_camera=True)
    parts: list[English] = []
    for start, end in _parted(clause.text):
        part = _translated(clause.text[start:end], [(left - start, right - start) for left, right in inside])
        if part is None:
            return as_typed
        parts.append(part)
    return _Piece(text=", ".join(part.english for part in parts), has_subject=parts[0].has_subject)


def _parted(text: str) -> list[tuple[int, int]]:
    """Pieces between white space among Chinese words, which stands for a comma."""
    ends = [found.span() for found in _GAP.finditer(text)]
    return list(zip([0, *(end for _, end in ends)], [*(start for start, _ in ends), len(text)], strict=True))


def _signs(clause: Clause) -> str:
    """What stands in the clause and is no word, such as an emoji."""
    inside = [(token.start - clause.start, token.end - clause.start) for token in clause.tokens]
    bare = _without(clause.text, inside)
    return "".join(mark for mark in bare if not mark.isspace() and mark not in "、-·")


def _without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    for start, end in reversed(spans):
        text = text[:start] + " " + text[end:]
    return text


def _translated(text: str, kept: Sequence[tuple[int, int]] = ()) -> English | None:
    words = load_dictionary().cut(text, load_lexicon().fold(text), kept=kept)
    unknown = sum(len(word.text) for word in words if word.can("unknown"))
    known = sum(len(word.text) for word in words if not word.can("unknown", "foreign", "symbol"))
    return translate(words) if known > unknown else None


# The camera


def _phrase(tags: Sequence[CameraTag], clause: Clause) -> str:
    """ "camera slowly zooming in"; empty without tags. A pace that changes on the way is left out."""
    if not tags:
        return ""
    lexicon = load_lexicon()
    paces = {token.entry.pace for token in not_refused(clause.tokens) if token.entry.pace}
    only = next(iter(paces)) if len(paces) == 1 and WITHOUT_PACE.isdisjoint(tags) else None
    pace = {"slow": "slowly ", "fast": "quickly "}.get(only or "", "")
    alone = lexicon.phrases[tags[0]].en_alone if len(tags) == 1 else ""
    return alone or f"camera {pace}" + " and ".join(lexicon.phrases[tag].en_ing for tag in tags)


def _camera(clause: Clause, text: str) -> str | None:
    """The moves of the clause, what they aim at and how they go; None where it says more than that."""
    paces = {token.entry.pace for token in not_refused(clause.tokens) if token.entry.pace}
    if len(paces) > 1 or (paces and not WITHOUT_PACE.isdisjoint(clause.camera.tags)):
        return None
    if any(token.has("negator") for token in clause.tokens) and clause.camera.tags != ("static",):
        return None
    phrase = _phrase(clause.camera.tags, clause)
    targets = 0
    for run in _left_over(clause):
        english = _translated(text[run[0].start : run[-1].end])
        if english is None:
            return None
        if english.is_way:
            phrase += f" {english.english}"
            continue
        aim = _aim(clause)
        is_aim = english.is_target or clause.camera.tags[-1] == "follow"
        targets += 1
        if aim is None or not is_aim or targets > 1:
            return None
        phrase += f" {aim} {english.english}".replace("  ", " ")
    joint = next((token for token in clause.tokens[:1] if token.has("then")), None)
    return f"then {phrase}" if joint is not None else phrase


def _aim(clause: Clause) -> str | None:
    """The word between the move and its aim: "on" the eye, "through" the hall. None where there is none."""
    verbs = [clause.tokens[index] for index in sorted(clause.camera.used) if clause.tokens[index].entry.verb]
    last = verbs[-1].word if verbs else ""
    if own := _VERB_AIMS.get(last):
        return own
    aim = _AIMS.get(clause.camera.tags[-1])
    return "to" if aim is None and last.endswith(_TOWARD) else aim


def _left_over(clause: Clause) -> list[list[Token]]:
    """Runs of words that are not about the camera's move itself."""
    runs: list[list[Token]] = []
    run: list[Token] = []
    waiting: list[Token] = []
    refuses = any(token.has("negator") for token in clause.tokens)
    for index, token in enumerate(clause.tokens):
        if index in clause.camera.used or token.word in ORDER or token.has("manner"):
            runs += [run] if run else []
            run, waiting = [], []
            runs += [[token]] if token.has("manner") and index not in clause.camera.used else []
        elif token.word in _WAYS:
            waiting.append(token)
        elif _is_of_the_move(token) or (refuses and (token.entry.verb or token.has("noun", "movement"))):
            waiting = [*waiting, token] if run else []
        else:
            run, waiting = [*run, *waiting, token], []
    return runs + ([run] if run else [])


def _is_of_the_move(token: Token) -> bool:
    known = token.entry.pace or token.entry.direction or token.entry.footage or token.word in _ASIDE
    return bool(known) or token.has("determiner", "function", "while", "then", "negator", "degree")


def _refused(clause: Clause) -> str | None:
    """不要推近镜头 is "camera not zooming in"; None where nothing is refused, or more is said."""
    if not any(token.has("negator") for token in clause.tokens):
        return None
    asked = [token for token in clause.tokens if not token.has("negator")]
    camera = read_camera(asked, load_lexicon(), topic=clause.camera.is_topic and not clause.camera.used)
    if not camera.tags or "static" in camera.tags:
        return None
    if _left_over(replace(clause, tokens=tuple(asked), camera=camera)):
        return None
    moves = " or ".join("shaking" if tag == "handheld" else load_lexicon().phrases[tag].en_ing for tag in camera.tags)
    return f"camera not {moves}"


# The whole


def _camera_last(pieces: Sequence[_Piece], reading: Reading) -> list[_Piece]:
    """The camera's moves behind everything else, where nothing hangs on the order."""
    said = [_Piece(text=piece.behind, is_camera=True) for piece in pieces if piece.behind]
    ordered = any(token.has("then") or token.word in ORDER for clause in reading.clauses for token in clause.tokens)
    if ordered:
        return [*pieces, *said]
    first: list[_Piece] = []
    last: list[_Piece] = []
    for piece, following in zip_longest(pieces, pieces[1:]):
        holds_next = following is not None and not following.has_subject and not following.is_camera
        (last if piece.is_camera and not holds_next else first).append(piece)
    return [*first, *last, *said]


def _joined(pieces: Sequence[_Piece]) -> str:
    return ", ".join(piece.text for piece in pieces)
