"""Refining by rules: no network, no model, the same answer every time.

Knows nothing of providers. It says what it did not understand and what it chose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from prompt_refiner.checks import check_prompt, count_tokens, language_notice, length_notice, locked_check
from prompt_refiner.ledger import lost
from prompt_refiner.lexicon import load_lexicon
from prompt_refiner.reading import Reading
from prompt_refiner.text import excerpt
from prompt_refiner.types import ImageTextMatch, Notice, RefineResult, Style, Suggestion, Warned
from prompt_refiner.writing import write

_CHINESE = re.compile(r"[㐀-䶿一-鿿](?:[^A-Za-z]*[㐀-䶿一-鿿])?")


def refine_offline(reading: Reading, *, style: Style, locked: Iterable[str] = ()) -> RefineResult:
    """The result of the rules alone. `latency_s` is 0: whoever times the call sets it."""
    locked = tuple(locked)
    prompt = write(reading, style)
    if lost(reading.text, prompt, locked=locked):
        prompt = reading.text
    return RefineResult(
        language_in=reading.language,
        subject=reading.subject,
        action=reading.action,
        manner=reading.manner,
        environment="",
        camera_motion=reading.camera_motion,
        camera_requested=reading.camera_requested,
        speed=reading.speed,
        motion_intensity=reading.intensity,
        compound=reading.compound,
        refined_prompt=prompt,
        negative_prompt="",
        added_elements=(),
        image_elements=(),
        image_text_match=ImageTextMatch(),
        warnings=_warnings(reading),
        suggestion=_suggestion(reading),
        source="offline",
        provider=None,
        model=None,
        latency_s=0.0,
        usage=None,
        checks=(*check_prompt(prompt, style), locked_check(reading.text, prompt, locked)),
        token_count=count_tokens(prompt, style),
        token_count_is_exact=style.counts_exactly,
        notices=_notices(reading, prompt, style),
    )


def _warnings(reading: Reading) -> tuple[Warned, ...]:
    """What can be told from the words alone."""
    warned: list[Warned] = []
    tokens = [token for clause in reading.clauses for token in clause.tokens]
    acts = any(True for clause in reading.clauses for _ in clause.acts())
    if any(token.has("abstract") for token in tokens) and not acts and not reading.camera_requested:
        warned.append("abstract_prompt")
    if reading.compound and reading.intensity == "high":
        warned.append("camera_subject_conflict")
    return tuple(warned)


def _suggestion(reading: Reading) -> Suggestion | None:
    """By the amount of movement that was read; none where none was. Subject and camera together count as much."""
    acts = any(True for clause in reading.clauses for _ in clause.acts())
    if not acts and not reading.camera_motion:
        return None
    much = reading.intensity == "high" or reading.compound
    joins = sum(token.has("then") for clause in reading.clauses for token in clause.tokens)
    in_steps = joins > 0 or len(reading.camera_motion) > 1
    chinese = reading.language in ("zh", "mixed")
    amount = (
        ("动作幅度大，需要更强的引导" if chinese else "much movement needs stronger guidance")
        if much
        else ("动作平缓，标准设置即可" if chinese else "calm movement needs no more than the standard")
    )
    steps = ("；动作分步进行，需要更长时间" if chinese else "; several steps need more time") if in_steps else ""
    return Suggestion(
        preset="high_motion" if much else "standard", duration="long" if in_steps else "normal", why=amount + steps
    )


def _notices(reading: Reading, prompt: str, style: Style) -> tuple[Notice, ...]:
    if not reading.text:
        return (
            Notice(
                code="empty_prompt",
                en="The prompt is empty: nothing was asked for. Describe a movement, or let the engine choose.",
                zh="提示词为空：没有提出任何要求。请描述一个动作，或交给引擎决定。",
            ),
        )
    foreign = "; ".join(_CHINESE.findall(prompt)) if "zh" not in style.languages else ""
    return (
        *camera_notices(reading),
        *language_notice(foreign or prompt, style),
        *length_notice(prompt, style),
    )


def camera_notices(reading: Reading) -> tuple[Notice, ...]:
    """What was asked of the camera and not understood, and the directions that were chosen for the person."""
    notices = [
        Notice(
            code="camera_not_understood",
            severity="warn",
            en=f"A camera move was asked for that the rules do not know: “{excerpt(clause)}”. Name it plainly, such as "
            "“the camera pans left” or “zoom in”.",
            zh=f"有一个镜头要求规则未能理解：“{excerpt(clause)}”。请用常见说法，例如“镜头向左摇”“镜头推近”。",
        )
        for clause in reading.unclear
    ]
    phrases = load_lexicon().phrases
    notices += [
        Notice(
            code="direction_chosen",
            en=f"No direction was given: the camera {phrases[tag].en}. Write another direction to change it.",
            zh=f"未说明方向：镜头将{phrases[tag].zh}。如需其他方向，请写明。",
        )
        for tag in reading.chosen
    ]
    return tuple(notices)
