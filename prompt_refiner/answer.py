"""What the model wrote becomes data: the JSON object in it, its values made regular, then typed strictly.

Knows no service and no style. Values that cannot be understood are left out; only a missing prompt is a failure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from prompt_refiner.failures import LlmFailure
from prompt_refiner.reading import read
from prompt_refiner.text import clean
from prompt_refiner.types import (
    CAMERA_TAGS,
    INTENSITIES,
    SPEEDS,
    CameraTag,
    Intensity,
    Speed,
    SuggestedDuration,
    SuggestedPreset,
    Verdict,
    Warned,
)

MAX_PROMPT_CHARACTERS = 1200
"""Twice what the model is asked to keep to; more is an answer gone wrong."""
_MAX_ANSWER_CHARACTERS = 65536
_MAX_STARTS = 50
_MAX_LIST = 24

_THOUGHT_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_UNFINISHED_THOUGHT = re.compile(r"<think(?:ing)?>.*", re.DOTALL | re.IGNORECASE)
_BOX = re.compile(r"<\|(?:begin|end)_of_box\|>")
_DECODER = json.JSONDecoder()

_INTENSITY_WORDS: dict[str, Intensity] = {
    "低": "low", "弱": "low", "小": "low", "slight": "low", "subtle": "low", "gentle": "low", "weak": "low",
    "中": "medium", "中等": "medium", "moderate": "medium", "normal": "medium", "mid": "medium",
    "高": "high", "强": "high", "大": "high", "strong": "high", "intense": "high", "very_high": "high",
}  # fmt: skip
_WARNINGS: tuple[str, ...] = get_args(Warned)
_VERDICTS: tuple[str, ...] = get_args(Verdict)
_PRESETS: tuple[str, ...] = get_args(SuggestedPreset)
_DURATIONS: tuple[str, ...] = get_args(SuggestedDuration)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Added(_Strict):
    element: str
    kind: str
    why: str


class Match(_Strict):
    verdict: Verdict
    score: int | None
    conflicts: list[str]
    reason: str


class Suggested(_Strict):
    preset: SuggestedPreset
    duration: SuggestedDuration
    why: str


class Answer(_Strict):
    """The model's part of the result. Language, request for a camera move and source are not its to say."""

    subject: str
    action: str
    manner: str
    environment: str
    camera_motion: list[CameraTag]
    speed: Speed
    motion_intensity: Intensity
    compound: bool
    refined_prompt: str
    negative_prompt: str
    added_elements: list[Added]
    image_elements: list[str]
    image_text_match: Match
    warnings: list[Warned]
    suggestion: Suggested | None


def parse_answer(text: str) -> Answer:
    """The answer in the model's text. LlmFailure `unusable_answer` where there is none or its prompt is missing."""
    found = find_object(text)
    if found is None:
        raise LlmFailure("unusable_answer", "no JSON object")
    try:
        answer = Answer.model_validate(_regular(found))
    except ValidationError as error:
        raise LlmFailure("unusable_answer", f"{error.error_count()} invalid fields") from error
    if not 0 < len(answer.refined_prompt) <= MAX_PROMPT_CHARACTERS:
        raise LlmFailure("unusable_answer", f"refined_prompt of {len(answer.refined_prompt)} characters")
    return answer


def find_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in the text that is complete, past thinking, code fences and prose. Never raises."""
    thought_end = max((found.end() for found in _THOUGHT_END.finditer(text)), default=0)
    text = _UNFINISHED_THOUGHT.sub("", text[thought_end:])
    text = _BOX.sub("", text)[:_MAX_ANSWER_CHARACTERS]
    start = -1
    for _ in range(_MAX_STARTS):
        start = text.find("{", start + 1)
        if start < 0:
            return None
        try:
            found, _end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and found:
            return found
    return None


def _regular(found: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of `Answer`, from whatever the model put there."""
    return {
        "subject": _text(found.get("subject")),
        "action": _text(found.get("action")),
        "manner": _text(found.get("manner")),
        "environment": _text(found.get("environment")),
        "camera_motion": list(dict.fromkeys(tag for item in _list(found.get("camera_motion")) for tag in _tags(item))),
        "speed": _speed(found.get("speed")),
        "motion_intensity": _intensity(found.get("motion_intensity")),
        "compound": found.get("compound") in (True, 1, "true", "True", "yes", "是"),
        "refined_prompt": _text(found.get("refined_prompt")),
        "negative_prompt": _text(found.get("negative_prompt")),
        "added_elements": [added for item in _list(found.get("added_elements")) if (added := _added(item))],
        "image_elements": [word for item in _list(found.get("image_elements")) if (word := _text(item))],
        "image_text_match": _match(found.get("image_text_match")),
        "warnings": [word for item in _list(found.get("warnings")) if (word := _name(item)) in _WARNINGS],
        "suggestion": _suggestion(found.get("suggestion")),
    }


def _text(value: Any) -> str:  # noqa: ANN401 - any JSON value, here and below
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return ", ".join(filter(None, map(_text, value)))
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def _list(value: Any) -> list[Any]:  # noqa: ANN401
    if value is None or value == "":
        return []
    return value[:_MAX_LIST] if isinstance(value, list) else [value]


def _name(value: Any) -> str:  # noqa: ANN401
    return re.sub(r"[\s-]+", "_", _text(value).lower())


def _tags(value: Any) -> tuple[CameraTag, ...]:  # noqa: ANN401
    """`zoom_in`, "Zoom in", 推近 or "left": what is no tag is read as a sentence about the camera."""
    name = _name(value)
    exact: tuple[CameraTag, ...] = tuple(tag for tag in CAMERA_TAGS if tag == name)
    return exact or read(_text(value)).camera_motion or read(f"camera {name.replace('_', ' ')}").camera_motion


def _speed(value: Any) -> Speed:  # noqa: ANN401
    name = _name(value)
    exact: Speed | None = next((speed for speed in SPEEDS if speed == name), None)
    return exact or read(_text(value)).speed


def _intensity(value: Any) -> Intensity:  # noqa: ANN401
    name = _name(value)
    exact: Intensity | None = next((intensity for intensity in INTENSITIES if intensity == name), None)
    return exact or _INTENSITY_WORDS.get(name, "medium")


def _added(value: Any) -> dict[str, str] | None:  # noqa: ANN401
    if not isinstance(value, dict):
        return {"element": _text(value), "kind": "other", "why": ""} if _text(value) else None
    element = _text(value.get("element"))
    return (
        {"element": element, "kind": _name(value.get("kind")) or "other", "why": _text(value.get("why"))}
        if element
        else None
    )


def _match(value: Any) -> dict[str, Any]:  # noqa: ANN401
    given = value if isinstance(value, dict) else {"verdict": value}
    verdict = _name(given.get("verdict"))
    return {
        "verdict": verdict if verdict in _VERDICTS else "unknown",
        "score": _score(given.get("score")),
        "conflicts": [word for item in _list(given.get("conflicts")) if (word := _text(item))],
        "reason": _text(given.get("reason")),
    }


def _score(value: Any) -> int | None:  # noqa: ANN401
    try:
        score = float(_text(value).rstrip("%"))
    except ValueError:
        return None
    return round(score) if 0 <= score <= 100 else None


def _suggestion(value: Any) -> dict[str, str] | None:  # noqa: ANN401
    if not isinstance(value, dict):
        return None
    preset, duration = _name(value.get("preset")), _name(value.get("duration"))
    if preset not in _PRESETS or duration not in _DURATIONS:
        return None
    return {"preset": preset, "duration": duration, "why": _text(value.get("why"))}
