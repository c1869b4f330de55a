"""The form of the answer as a JSON schema, for services that can hold a model to one.

Knows no service. It keeps to what the narrowest decoder takes: an object at the root, every field required, no
`const`, `oneOf`, `pattern` or default.
"""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

from prompt_refiner.types import (
    CAMERA_TAGS,
    INTENSITIES,
    SPEEDS,
    SuggestedDuration,
    SuggestedPreset,
    Verdict,
    Warned,
)

_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_KINDS = ("object", "person", "animal", "body_part", "light", "weather", "place", "style", "text", "sound", "other")


@cache
def answer_schema() -> dict[str, Any]:
    """In the order in which the fields are best thought of: what is seen, what was asked, the prompt, its additions."""
    return _object(
        image_elements=_TEXTS,
        subject=_TEXT,
        action=_TEXT,
        manner=_TEXT,
        environment=_TEXT,
        camera_motion={"type": "array", "items": _one_of(CAMERA_TAGS)},
        speed=_one_of(SPEEDS),
        motion_intensity=_one_of(INTENSITIES),
        compound={"type": "boolean"},
        refined_prompt=_TEXT,
        negative_prompt=_TEXT,
        added_elements={"type": "array", "items": _object(element=_TEXT, kind=_one_of(_KINDS), why=_TEXT)},
        image_text_match=_object(
            verdict=_one_of(get_args(Verdict)),
            score={"anyOf": [{"type": "integer"}, {"type": "null"}]},
            conflicts=_TEXTS,
            reason=_TEXT,
        ),
        warnings={"type": "array", "items": _one_of(get_args(Warned))},
        suggestion=_object(
            preset=_one_of(get_args(SuggestedPreset)), duration=_one_of(get_args(SuggestedDuration)), why=_TEXT
        ),
    )


def _object(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _one_of(names: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "string", "enum": list(names)}
