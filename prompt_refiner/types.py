"""What goes into a refinement and what comes out: the prompt style of an engine, the result, its notices and checks.

Knows no provider, no lexicon and no engine. Everything here is frozen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

CameraTag = Literal[
    "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "static",
    "dolly_in", "dolly_out", "truck_left", "truck_right", "crane_up", "crane_down",
    "orbit_left", "orbit_right", "roll_cw", "roll_ccw", "follow", "handheld",
]  # fmt: skip
"""Directions are the camera's: `pan_left` turns the camera left. Orbits: left is clockwise as seen from above."""

Language = Literal["zh", "en", "mixed", "other"]
Speed = Literal["slow_motion", "normal", "fast", "timelapse"]
Intensity = Literal["low", "medium", "high"]
Severity = Literal["info", "warn", "error"]
Mode = Literal["auto", "llm", "offline"]
Source = Literal["llm", "offline"]
Fidelity = Literal["strict", "balanced", "creative"]
"""How much an LLM may add: nothing, what the movement needs, or something of its own. Whatever it adds is listed."""
Verdict = Literal["match", "partial", "mismatch", "unknown"]
SuggestedPreset = Literal["preview", "standard", "high_motion", "creative"]
SuggestedDuration = Literal["short", "normal", "long"]
Warned = Literal[
    "multiple_subjects", "tiny_subject", "text_poster", "blurry", "action_not_possible", "abstract_prompt",
    "camera_subject_conflict",
]  # fmt: skip

CAMERA_TAGS: tuple[CameraTag, ...] = get_args(CameraTag)
SPEEDS: tuple[Speed, ...] = get_args(Speed)
INTENSITIES: tuple[Intensity, ...] = get_args(Intensity)
"""In rising order."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """How prompts for an engine family are written.

    `token_limit` counts usable tokens of the text `encoder`; both are None where the engine reads motion tags only.
    `count` gives the tokens of a text by the encoder's own tokenizer; without it they are estimated.
    """

    name: str
    encoder: str | None
    token_limit: int | None
    languages: tuple[Literal["zh", "en"], ...]
    count: Callable[[str], int] | None = field(default=None, repr=False, compare=False)

    @property
    def counts_exactly(self) -> bool:
        return self.encoder is not None and self.count is not None


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One sentence for the person, in English and Chinese. `code` and `cause` are stable; the sentences are not.

    `cause` tells the reasons of one code apart: an `llm_failed` has the cause `timeout`, `key_refused`, ...
    """

    code: str
    en: str
    zh: str
    severity: Severity = "info"
    cause: str = ""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """What became of asking the LLM service for one word. `notice` names the cause in one sentence, also of success.

    `host` and `model` are None where none is set up. `sees_pictures` is None where that could not be told.
    """

    ok: bool
    host: str | None
    model: str | None
    sees_pictures: bool | None
    notice: Notice


@dataclass(frozen=True, kw_only=True)
class AddedElement:
    """Something in the refined prompt that the person did not write, and why it is there."""

    element: str
    kind: str
    why: str


@dataclass(frozen=True, kw_only=True)
class ImageTextMatch:
    """Whether picture and text fit together; `unknown` and no score (0 to 100) where nobody looked."""

    verdict: Verdict = "unknown"
    score: int | None = None
    conflicts: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """What the LLM would choose. Names only: numbers for parameters come from code, never from a model."""

    preset: SuggestedPreset
    duration: SuggestedDuration
    why: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """One rule that the refined prompt was held against."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class CheckedText:
    """A text that the person edited, held against what they had typed before it was refined.

    `additions` are the elements that the typed text does not name: the person may well want them. `token_count` is an
    estimate unless `token_count_is_exact`.
    """

    checks: tuple[Check, ...]
    additions: tuple[AddedElement, ...]
    token_count: int | None
    notices: tuple[Notice, ...]
    token_count_is_exact: bool = False


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens as the provider counted them; None where it did not say."""

    input_tokens: int | None
    output_tokens: int | None


@dataclass(frozen=True, kw_only=True)
class RefineResult:
    """A refined prompt and everything known about it. The LLM and the offline rules fill the same fields.

    `camera_requested` is false when the typed text names no camera move; `camera_motion` is then empty.
    `token_count` is an estimate unless `token_count_is_exact`, and None where the style has no text encoder.
    `latency_s` is wall time.
    """

    language_in: Language
    subject: str
    action: str
    manner: str
    environment: str
    camera_motion: tuple[CameraTag, ...]
    camera_requested: bool
    speed: Speed
    motion_intensity: Intensity
    compound: bool
    refined_prompt: str
    negative_prompt: str
    added_elements: tuple[AddedElement, ...]
    image_elements: tuple[str, ...]
    image_text_match: ImageTextMatch
    warnings: tuple[Warned, ...]
    suggestion: Suggestion | None
    source: Source
    provider: str | None
    model: str | None
    latency_s: float
    usage: Usage | None
    checks: tuple[Check, ...]
    token_count: int | None
    notices: tuple[Notice, ...]
    token_count_is_exact: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values: what `json.loads(json.dumps(...))` gives back unchanged."""
        return _json_value(dataclasses.asdict(self))


def _json_value(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    return value
