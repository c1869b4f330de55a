"""What of a report is needed to make its video again, as models that every byte of it must fit.

Knows no file and no request.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from i2v_pipeline.images import MAX_BYTES
from i2v_pipeline.mp4 import MAX_PICTURES
from i2v_pipeline.types import (
    Attention,
    CameraTag,
    Device,
    Ending,
    Expert,
    FeatureCache,
    Fit,
    Intensity,
    Precision,
    PresetName,
    PromptSource,
    SchedulerName,
    Speed,
)

PictureFormat = Literal["PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF"]


class _Part(BaseModel):
    """Strict in what it needs, indifferent to the rest: a report says much more than its recipe."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


_Count = Annotated[int, Field(gt=0, le=1_000_000)]
_Word = Annotated[str, Field(max_length=200)]
_Prose = Annotated[str, Field(max_length=200_000)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class KnownSchedule(_Part):
    first: float
    last: float
    begin: float
    end: float


Strength = float | KnownSchedule


class _Lora(_Part):
    source: Annotated[str, Field(min_length=1, max_length=4096)]
    weight: float
    expert: Expert | None


class _Aftercare(_Part):
    double_rate: bool = False
    ending: Ending = "plain"


class _Subject(_Part):
    name: _Word
    remove_background: bool


class _Parameters(_Part):
    resolution: _Word
    width: _Count
    height: _Count
    frames: _Count
    fps: _Count
    seed: Annotated[int, Field(ge=0)]
    steps: _Count | None
    guidance: Strength | Annotated[list[Strength], Field(min_length=2, max_length=2)] | None
    fit: Fit
    preset: PresetName | None
    scheduler: SchedulerName | None
    flow_shift: float | None
    loras: Annotated[list[_Lora], Field(max_length=100)]
    last_image: bool
    # Reports of earlier versions do not have this one.
    subjects: Annotated[list[_Subject], Field(max_length=MAX_PICTURES)] = []
    negative_prompt: _Prose
    embed_source: bool
    checkpoint: _Word | None = None
    # Reports of earlier versions do not have it.
    aftercare: _Aftercare = _Aftercare()
    device: Device | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    attention: Attention = "auto"
    cache: FeatureCache = "off"
    compiled: bool = False


class KnownAddition(_Part):
    element: _Prose
    kind: _Prose
    why: _Prose


class _Motion(_Part):
    camera: Annotated[list[CameraTag], Field(max_length=100)]
    requested: bool
    speed: Speed
    intensity: Intensity


class _Prompt(_Part):
    typed: _Prose
    refined: _Prose
    sent: _Prose
    source: PromptSource
    provider: _Word | None
    model: _Word | None
    added_elements: Annotated[list[KnownAddition], Field(max_length=1000)]
    # Reports of earlier versions do not have these two.
    struck_out: Annotated[list[KnownAddition], Field(max_length=1000)] = []
    edited: bool = False
    motion: _Motion


class _UsedLora(_Part):
    sha256: _Sha256 | None = None


class _Engine(_Part):
    id: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]
    precision: Precision | None = None
    loras: list[_UsedLora] = []


class _LastImage(_Part):
    sha256: _Sha256
    format: PictureFormat
    bytes: Annotated[int, Field(ge=0, le=MAX_BYTES)] | None = None


class _Image(_LastImage):
    last: _LastImage | None = None


class _Environment(_Part):
    device: str | None = None


class _Output(_Part):
    frames_sha256: _Sha256


class KnownRecipe(_Part):
    """The sections that one clip is made again from."""

    parameters: _Parameters
    prompt: _Prompt
    engine: _Engine
    image: _Image
    references: Annotated[list[_LastImage], Field(max_length=MAX_PICTURES)] = []
    environment: _Environment
    output: _Output


_Frame = Annotated[int, Field(ge=0, le=1_000_000)]


class _Colour(_Part):
    space: _Word
    gain: Annotated[list[float], Field(min_length=3, max_length=3)]
    offset: Annotated[list[float], Field(min_length=3, max_length=3)]
    moved_by: float
    before: float
    after: float
    applied: bool


class _Join(_Part):
    ssim: float
    delta_e: float
    colour: _Colour | None


class KnownClip(_Part):
    """A clip of a chain. All but the last have the video that they ended, and where the next one went on from it.

    `frames` are its first and last frame in the whole video, None where nothing of it is left; `encoded` counts how
    often they went through the encoder.
    """

    job: _Word
    created: _Word
    seed: Annotated[int, Field(ge=0)]
    prompt: _Prose
    frames: Annotated[list[_Frame], Field(min_length=2, max_length=2)] | None
    encoded: _Count
    join: _Join | None
    continued_at: _Frame | None
    video_sha256: _Sha256 | None
    video_bytes: Annotated[int, Field(ge=0)] | None
    frames_sha256: _Sha256 | None
    recipe: KnownRecipe | None


class KnownChain(_Part):
    clips: Annotated[list[KnownClip], Field(min_length=2, max_length=1000)]

    @model_validator(mode="after")
    def _each_goes_on(self) -> KnownChain:
        for clip in self.clips[:-1]:
            if None in (clip.continued_at, clip.video_sha256, clip.video_bytes, clip.frames_sha256, clip.recipe):
                raise ValueError("a clip does not say how it went on")
        return self


class KnownReport(KnownRecipe):
    job: _Word
    created: _Word
    continuation: KnownChain | None = None
