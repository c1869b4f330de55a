"""How strong the guidance is at each step: one number, a schedule, or one for each expert. Knows no model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from i2v_pipeline.errors import RequestError
from i2v_pipeline.types import Expert, Guidance, GuidanceSchedule, Text

NO_GUIDANCE = 1.0
_NUMBER = r"\d+(?:\.\d+)?"
_ONE = re.compile(rf"({_NUMBER})(?:\.\.({_NUMBER}))?(?:@({_NUMBER})-({_NUMBER}))?")


def strength_at(guidance: Guidance, step: int, steps: int, expert: Expert) -> float:
    """The strength at `step` (the first is 0) of `steps` while `expert` works; 1 means no guidance."""
    if isinstance(guidance, tuple):
        guidance = guidance[0] if expert == "high" else guidance[1]
    if not isinstance(guidance, GuidanceSchedule):
        return guidance
    if not guidance.begin * steps <= step < guidance.end * steps:
        return NO_GUIDANCE
    if guidance.first == guidance.last or steps == 1:
        return guidance.first
    return guidance.first + (guidance.last - guidance.first) * step / (steps - 1)


def is_ever_guided(guidance: Guidance) -> bool:
    """Whether any step can need the unconditional pass, and with it the negative prompt."""
    return any(
        max(part.first, part.last) > NO_GUIDANCE if isinstance(part, GuidanceSchedule) else part > NO_GUIDANCE
        for part in (guidance if isinstance(guidance, tuple) else (guidance,))
    )


def guidance_mistakes(guidance: Guidance, *, experts: int) -> Iterator[Text]:
    """What is wrong with it: a strength below 1, an empty interval, or two strengths for one expert."""
    parts = guidance if isinstance(guidance, tuple) else (guidance,)
    if len(parts) == 2 and experts == 1:
        yield Text(
            "Two guidances were given: this engine has one expert. Give one number.",
            "给出了两个引导强度，但此引擎只有一个专家模型。请只给一个数值。",
        )
    for part in parts:
        schedule = part if isinstance(part, GuidanceSchedule) else GuidanceSchedule(first=part, last=part)
        for strength in dict.fromkeys((schedule.first, schedule.last)):
            if not NO_GUIDANCE <= strength < math.inf:
                yield Text(
                    f"Guidance {strength:g}: numbers from 1, which means none, are allowed. Choose one of these.",
                    f"引导强度 {strength:g}：应为不小于 1 的数（1 表示不使用引导）。请重新选择。",
                )
        if not 0.0 <= schedule.begin < schedule.end <= 1.0:
            yield Text(
                f"Guidance from {schedule.begin:g} to {schedule.end:g} of the steps: both stand between 0 and 1, the "
                "first below the second. Choose such an interval.",
                f"引导区间 {schedule.begin:g} 到 {schedule.end:g}：须在 0 到 1 之间，且前者小于后者。请重新选择。",
            )


def parse_guidance(text: str) -> Guidance:
    """`5`, a ramp `9..6`, an interval `5@0-0.6` (fractions of the steps), or two with a comma, one for each expert.

    Raises `RequestError` for anything else.
    """
    found = [_ONE.fullmatch(part.strip()) for part in text.split(",")]
    if len(found) > 2 or not all(found):
        raise RequestError(
            f"Guidance {text!r} cannot be read. Give a number (5), a ramp (9..6), an interval of the steps (5@0-0.6), "
            "or two of these with a comma, one for each expert (3.5,1).",
            f"无法识别引导强度 {text!r}。请给出数值（5）、渐变（9..6）、步骤区间（5@0-0.6），"
            "或用逗号分隔的两个值，对应两个专家模型（3.5,1）。",
        )
    parts = [_part(match) for match in found if match]
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def guidance_as_text(guidance: Guidance) -> str:
    """The guidance as `parse_guidance` reads it."""
    if isinstance(guidance, tuple):
        return ",".join(guidance_as_text(part) for part in guidance)
    if not isinstance(guidance, GuidanceSchedule):
        return _number(guidance)
    first, last, begin, end = map(_number, (guidance.first, guidance.last, guidance.begin, guidance.end))
    return f"{first}..{last}@{begin}-{end}"


def guidance_as_json(guidance: Guidance | None) -> Any:  # noqa: ANN401 - any JSON value
    """The guidance in JSON values, for the report: a number, a schedule's fields, or a list of two of these."""
    if isinstance(guidance, tuple):
        return [guidance_as_json(part) for part in guidance]
    return asdict(guidance) if isinstance(guidance, GuidanceSchedule) else guidance


def _number(value: float) -> str:
    """Every digit of it, so that the same number is read back."""
    return repr(float(value)).removesuffix(".0")


def _part(match: re.Match[str]) -> float | GuidanceSchedule:
    first, last, begin, end = match.groups()
    if last is None and begin is None:
        return float(first)
    return GuidanceSchedule(
        first=float(first),
        last=float(first if last is None else last),
        begin=0.0 if begin is None else float(begin),
        end=1.0 if end is None else float(end),
    )
