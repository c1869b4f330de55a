"""Scores a refiner on evals/*.yaml: what it understood, what it kept, translated and made up, and how long it took.

Knows nothing of how a prompt is refined; compares results with what people meant. Without arguments: the offline rules.
With `--mode llm`: the LLM of this environment, whose answers cost money. Writes bench/results/refiner.json, or
refiner-<model>.json for an LLM, refiner-<label>.json with `--label`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from prompt_refiner import RefineResult, RefinerSettings, Style, load_settings, refine  # noqa: E402 - found by its path
from prompt_refiner.ledger import stem  # noqa: E402
from prompt_refiner.lexicon import load_lexicon  # noqa: E402
from prompt_refiner.text import unquoted  # noqa: E402
from prompt_refiner.translation import meanings  # noqa: E402
from prompt_refiner.types import CAMERA_TAGS, Intensity, Language, Speed  # noqa: E402

ROWS = {"tuned": ROOT / "evals" / "refiner.yaml", "heldout": ROOT / "evals" / "refiner_heldout.yaml"}
"""The rules were written with the first in sight and without the second."""
RESULTS = ROOT / "bench" / "results"
WAN = Style(name="wan", encoder="umT5-XXL", token_limit=512, languages=("zh", "en"))
I2VGEN = Style(name="i2vgen_xl", encoder="CLIP ViT-H", token_limit=75, languages=("en",))
GOALS = {"camera_precision": 0.98, "camera_recall": 0.95, "intensity": 0.9, "invented_elements": 0}
_HANZI = re.compile(r"[㐀-䶿一-鿿]")
_WORD = re.compile(r"[^\W\d_㐀-䶿一-鿿]+|[㐀-䶿一-鿿]|\d+")
_GRAMMAR_WORDS = frozenset(
    ("a", "an", "the", "is", "are", "am", "and", "or", "not", "then", "of", "on", "in", "to", "one", "s")
)
"""What English has and Chinese does without."""
_PACE_WORDS = frozenset(("slowly", "quickly", "and", "the", "camera", *"缓慢緩快速镜头鏡頭"))


class Row(BaseModel):
    """One text and what it means; see the head of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    text: str
    camera: list[str]
    intensity: Intensity | None = None
    speed: Speed = "normal"
    refuses: bool = False
    keep: list[str] = []
    english: list[str] = []
    seen: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One row, refined for a family that reads both languages and for one that reads English only."""

    language: Language
    row: Row
    wan: RefineResult
    english: RefineResult


def load_rows(name: str = "tuned") -> Iterator[tuple[Language, Row]]:
    """The tuned or the held-out rows; a held-out row that was seen after all counts as tuned."""
    for file, path in ROWS.items():
        groups: dict[Language, list[Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
        for language, rows in groups.items():
            for row in map(Row.model_validate, rows):
                unknown = {tag for tags in row.camera for tag in tags.split("|")} - set(CAMERA_TAGS)
                if unknown:
                    raise ValueError(f"{row.text}: no camera tag is called {', '.join(sorted(unknown))}")
                if name == ("tuned" if row.seen else file):
                    yield language, row


def run(mode: Literal["llm", "offline"], settings: RefinerSettings, name: str = "tuned") -> list[Outcome]:
    return [
        Outcome(
            language=language,
            row=row,
            wan=refine(row.text, style=WAN, settings=settings, mode=mode, deadline_s=60),
            english=refine(row.text, style=I2VGEN, settings=settings, mode=mode, deadline_s=60),
        )
        for language, row in load_rows(name)
    ]


def camera_counts(outcome: Outcome) -> tuple[int, int, int]:
    """Right, invented and missed tags."""
    left: list[str] = list(outcome.wan.camera_motion)
    missed = 0
    for asked in outcome.row.camera:
        found = next((tag for tag in left if tag in asked.split("|")), None)
        if found is None:
            missed += 1
        else:
            left.remove(found)
    return len(outcome.wan.camera_motion) - len(left), len(left), missed


def invented_words(typed: str, result: RefineResult) -> list[str]:
    """Words of the refined prompt that were neither typed nor mean a typed word nor say a camera move asked for."""
    lexicon = load_lexicon()
    refused = lexicon.phrases if any(token.has("negator") for token in lexicon.scan(typed)) else {}
    phrases = [lexicon.phrases[tag] for tag in (*result.camera_motion, *refused)]
    ours = " ".join(text for each in phrases for text in (each.zh, each.en, each.en_ing, each.zh_alone, each.en_alone))
    known = {word.lower() for word in _WORD.findall(f"{typed} {ours}")} | _PACE_WORDS
    traditional = lexicon.in_traditional(ours)
    known |= set(_WORD.findall(traditional))
    if _HANZI.search(typed):
        known |= _GRAMMAR_WORDS | ({"shaking"} if refused else set())
    stems = {stem(word) for word in (known | meanings(typed, lexicon.fold(typed)))}
    return [word for word in _WORD.findall(result.refined_prompt.lower()) if stem(word) not in stems]


def english_missing(outcome: Outcome) -> list[str]:
    """What a faithful English prompt would hold and the one for the English-only engine does not."""
    prompt = outcome.english.refined_prompt.lower()
    return [piece for piece in outcome.row.english if not any(each.lower() in prompt for each in piece.split("|"))]


def faults(outcome: Outcome) -> list[str]:
    """What is wrong with one row, in words."""
    row, result = outcome.row, outcome.wan
    _, invented, missed = camera_counts(outcome)
    found: list[str] = []
    if invented or missed:
        found.append(f"camera {list(result.camera_motion)}, asked {row.camera}")
    if row.intensity not in (None, result.motion_intensity):
        found.append(f"intensity {result.motion_intensity}, is {row.intensity}")
    if row.speed != result.speed:
        found.append(f"speed {result.speed}, is {row.speed}")
    if outcome.language != result.language_in:
        found.append(f"language {result.language_in}")
    if gone := [word for word in row.keep if word.lower() not in result.refined_prompt.lower()]:
        found.append(f"lost {gone} in {result.refined_prompt!r}")
    for each in (outcome.wan, outcome.english):
        if made_up := invented_words(row.text, each):
            found.append(f"made up {made_up} in {each.refined_prompt!r}")
    return [*found, *english_faults(outcome)]


def english_faults(outcome: Outcome) -> list[str]:
    """What is wrong with the prompt for the engine that reads English only, or with the length of either."""
    prompt = outcome.english.refined_prompt
    missing = english_missing(outcome)
    faults = (
        (not budget_held(outcome), "too long, and not told"),
        (not language_held(outcome), f"not in English, and not told: {prompt!r}"),
        (bool(missing), f"no {missing} in {prompt!r}"),
    )
    return [fault for is_wrong, fault in faults if is_wrong]


def budget_held(outcome: Outcome) -> bool:
    """Within the engine's limit, or told that it is not."""
    return all(
        (result.token_count or 0) <= (style.token_limit or 0) or any(note.code == "too_long" for note in result.notices)
        for result, style in ((outcome.wan, WAN), (outcome.english, I2VGEN))
    )


def language_held(outcome: Outcome) -> bool:
    """English for the engine that reads English only, or told what is left as it was typed."""
    told = any(note.code in ("untranslated", "language_unread") for note in outcome.english.notices)
    return told or not _HANZI.search(outcome.english.refined_prompt)


def score(outcomes: Sequence[Outcome]) -> dict[str, float | int]:
    counts = [camera_counts(outcome) for outcome in outcomes]
    right, invented, missed = (sum(each[place] for each in counts) for place in range(3))
    unasked = [outcome for outcome in outcomes if not outcome.row.camera]
    judged = [outcome for outcome in outcomes if outcome.row.intensity is not None]
    refusals = [outcome for outcome in outcomes if outcome.row.refuses]
    named = [outcome for outcome in outcomes if outcome.row.keep]
    hanzi = [outcome for outcome in outcomes if _HANZI.search(outcome.row.text)]
    typed, left = (
        sum(len(_HANZI.findall(unquoted(text))) for text in texts)
        for texts in ([each.row.text for each in hanzi], [each.english.refined_prompt for each in hanzi])
    )
    wanted = sum(len(outcome.row.english) for outcome in outcomes)
    times = [result.latency_s * 1000 for outcome in outcomes for result in (outcome.wan, outcome.english)]
    return {
        "rows": len(outcomes),
        "camera_precision": ratio(right, right + invented),
        "camera_recall": ratio(right, right + missed),
        "no_camera_invented": share(not outcome.wan.camera_motion for outcome in unasked),
        "negation": share(camera_counts(outcome)[1:] == (0, 0) for outcome in refusals),
        "intensity": share(outcome.wan.motion_intensity == outcome.row.intensity for outcome in judged),
        "speed": share(outcome.wan.speed == outcome.row.speed for outcome in outcomes),
        "language_in": share(outcome.wan.language_in == outcome.language for outcome in outcomes),
        "words_kept": share(
            all(word.lower() in outcome.wan.refined_prompt.lower() for word in outcome.row.keep) for outcome in named
        ),
        "invented_elements": sum(
            len(invented_words(outcome.row.text, result))
            for outcome in outcomes
            for result in (outcome.wan, outcome.english)
        ),
        "english_or_told": share(language_held(outcome) for outcome in outcomes),
        "sentences_translated": share(not _HANZI.search(unquoted(each.english.refined_prompt)) for each in hanzi),
        "hanzi_translated": ratio(typed - left, typed),
        "english_as_expected": ratio(wanted - sum(len(english_missing(outcome)) for outcome in outcomes), wanted),
        "budget_held_or_told": share(budget_held(outcome) for outcome in outcomes),
        "by_llm": share(outcome.wan.source == "llm" for outcome in outcomes),
        "median_ms": round(statistics.median(times)),
        "slowest_ms": round(max(times)),
    }


def share(truths: Iterable[bool]) -> float:
    all_of = list(truths)
    return ratio(sum(all_of), len(all_of))


def ratio(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mode", choices=("offline", "llm"), default="offline")
    parser.add_argument("--faults", action="store_true", help="also print every tuned row that is not right")
    parser.add_argument("--label", help="the end of the name of the file of results")
    arguments = parser.parse_args()
    settings = load_settings() if arguments.mode == "llm" else RefinerSettings()
    judged = {name: run(arguments.mode, settings, name) for name in ROWS}
    cards = {name: score(outcomes) for name, outcomes in judged.items()}
    for measure in cards["tuned"]:
        goal = f"   (goal {GOALS[measure]})" if measure in GOALS and arguments.mode == "offline" else ""
        print(f"{measure:22}" + "".join(f"{card[measure]:>10}" for card in cards.values()) + goal)
    wrong = {
        name: {outcome.row.text: found for outcome in outcomes if (found := faults(outcome))}
        for name, outcomes in judged.items()
    }
    if arguments.faults:
        for text, found in wrong["tuned"].items():
            print(f"{text}\n    " + "\n    ".join(found))
    label = arguments.label or ("" if arguments.mode == "offline" else settings.model or "none")
    file_name = "-".join(part for part in ("refiner", re.sub(r"[^\w.-]", "-", label)) if part)
    RESULTS.mkdir(exist_ok=True)
    written = {"mode": arguments.mode, "model": settings.model, "scores": cards, "faults": wrong}
    (RESULTS / f"{file_name}.json").write_text(
        json.dumps(written, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    card = cards["tuned"]
    missed = [name for name, goal in GOALS.items() if (card[name] > goal if goal == 0 else card[name] < goal)]
    return 1 if missed and arguments.mode == "offline" else 0


if __name__ == "__main__":
    raise SystemExit(main())
