"""The data that travels through the core: requests, engine descriptions, plans, progress, frames.

Knows no file format, no model and no page. Everything here is frozen; change a value with `dataclasses.replace`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

CameraTag = Literal[
    "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "static",
    "dolly_in", "dolly_out", "truck_left", "truck_right", "crane_up", "crane_down",
    "orbit_left", "orbit_right", "roll_cw", "roll_ccw", "follow", "handheld",
]  # fmt: skip
"""Directions are the camera's: `pan_left` turns the camera left, so the picture's content moves right."""

Speed = Literal["slow_motion", "normal", "fast", "timelapse"]
Intensity = Literal["low", "medium", "high"]
Fit = Literal["crop", "pad", "stretch", "white"]
"""`white`: the whole picture in the middle of white, as the models that take references were trained."""
Severity = Literal["info", "warn", "error"]
PromptSource = Literal["llm", "offline", "typed"]
SettingName = Literal[
    "preset", "resolution", "frames", "fps", "steps", "guidance", "fit", "negative_prompt", "seed", "compiled"
]  # fmt: skip
PresetName = Literal["preview", "standard", "high_motion", "creative", "fast"]
"""The first four stand for every engine; `fast` where a distilled LoRA exists."""
Expert = Literal["high", "low"]
"""The halves of a model with two experts: high noise comes first. A model with one expert is all `high`."""
SchedulerName = Literal["ddim", "unipc", "euler"]
Precision = Literal["fp32", "fp16", "bf16", "fp8"]
"""In fp8 the denoiser's weights are kept alone; what computes with them is as wide as the engine's own."""
Device = Literal["cpu", "cuda"]
Ending = Literal["plain", "loop", "boomerang"]
"""How a video ends: as the engine made it, running into its own start, or back the way that it came."""
Attention = Literal["auto", "sdpa", "flash", "flash3", "sage"]
"""How attention is computed: by PyTorch itself, FlashAttention 2 or 3, or SageAttention, which rounds to 8 bits."""
FeatureCache = Literal["off", "first_block", "mag"]
"""What may stand in for most of a denoiser's layers in steps that hardly differ from the one before."""
StageName = Literal["load", "encode", "denoise", "decode", "write"]
MemoryKind = Literal["vram", "ram"]

U8Frames = npt.NDArray[np.uint8]
"""RGB pictures in order: uint8 (frames, height, width, 3)."""
U8Image = npt.NDArray[np.uint8]
"""One RGB picture: uint8 (height, width, 3)."""


class Text(NamedTuple):
    """One sentence for a person, in English and in Chinese."""

    en: str
    zh: str


@dataclass(frozen=True, kw_only=True)
class Change:
    """A setting of a request, by its field, and the value that a remedy gives it; a seed of None is drawn anew.

    A preset brings its own settings, but for size and length.
    """

    field: SettingName
    value: str | float | int | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something worth knowing about a picture, a prompt or a run. `code` is stable; the sentences are not.

    `changes` are what of the remedy can be set; empty where a person has to do it.
    """

    code: str
    severity: Severity
    message: Text
    remedy: Text | None = None
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Motion:
    """The movement that was asked for. `requested` is false when nobody named a camera move."""

    camera: tuple[CameraTag, ...] = ()
    requested: bool = False
    speed: Speed = "normal"
    intensity: Intensity = "medium"


@dataclass(frozen=True, kw_only=True)
class AddedElement:
    """Something in the refined prompt that the person did not write, and why it is there."""

    element: str
    kind: str
    why: str


@dataclass(frozen=True, kw_only=True)
class PromptOrigin:
    """How the prompt that is sent came to be: what was typed, what the refiner proposed, and who proposed it.

    `refined` is what the refiner proposed (the typed text where it was not asked). The person may have struck out
    some of what it added, and `edited` the text by hand since, so the string that the engine gets is
    `GenerationRequest.prompt` alone. `added_elements` are those that still stand in it.
    """

    typed: str
    refined: str
    source: PromptSource
    provider: str | None = None
    model: str | None = None
    added_elements: tuple[AddedElement, ...] = ()
    struck_out: tuple[AddedElement, ...] = ()
    edited: bool = False


@dataclass(frozen=True, kw_only=True)
class GuidanceSchedule:
    """Guidance that changes over the denoising: in a line from `first` at the first step to `last` at the last.

    It holds for the steps from `begin` up to, not including, `end`, both fractions of all steps. Elsewhere the
    strength is 1: no guidance, and no unconditional pass is computed.
    """

    first: float
    last: float
    begin: float = 0.0
    end: float = 1.0


Guidance = float | GuidanceSchedule | tuple[float | GuidanceSchedule, float | GuidanceSchedule]
"""One number, a schedule, or one of these for each expert: (high noise, low noise). 1 means no guidance."""


@dataclass(frozen=True, kw_only=True)
class LoraRef:
    """A LoRA and how it is used. `source` is a local .safetensors file, or hf://OWNER/REPO/FILE in the hub's cache.

    `expert` None puts it into every expert of the model.
    """

    source: str
    weight: float = 1.0
    expert: Expert | None = None


@dataclass(frozen=True, kw_only=True)
class Aftercare:
    """What is done to the engine's frames before they are written. `double_rate` puts a frame between any two."""

    double_rate: bool = False
    ending: Ending = "plain"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a reference picture shows: what the person calls it, and whether it is put alone on white first."""

    name: str = ""
    remove_background: bool = False


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """A finished video that is made longer: it keeps its frames up to `frame`, counted from 0, and loses those after.

    The new clip begins with that frame, which is therefore the request's picture, and brings every frame but that.
    """

    video: Path
    frame: int


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """The complete recipe of one video: seed chosen, size and frames resolved. Nothing in it is a wish.

    `frames` and `fps` are the engine's; `aftercare` may make others of them.
    `images` are read once, when the run begins: the picture that the video begins with, or for an engine that takes
    references these in their order, with a `Subject` for each in `subjects`. `steps`, `guidance`, `scheduler` and
    `flow_shift` are None for an engine that has none. `checkpoint` is a local diffusers folder used in place of the
    engine's repository. `device`, `precision` and `attention` may be `auto`, since only the machine that runs the job
    knows its devices; the report has what was used. `compiled` has the denoiser's blocks compiled before the first
    step.
    """

    engine: str
    images: tuple[Path, ...]
    prompt: str
    origin: PromptOrigin
    motion: Motion
    resolution: str
    width: int
    height: int
    fit: Fit
    frames: int
    fps: int
    seed: int
    negative_prompt: str = ""
    preset: PresetName | None = None
    steps: int | None = None
    guidance: Guidance | None = None
    embed_source: bool = True
    scheduler: SchedulerName | None = None
    flow_shift: float | None = None
    loras: tuple[LoraRef, ...] = ()
    last_image: Path | None = None
    subjects: tuple[Subject, ...] = ()
    checkpoint: Path | None = None
    device: Device | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    attention: Attention = "auto"
    cache: FeatureCache = "off"
    compiled: bool = False
    aftercare: Aftercare = Aftercare()
    continues: Continuation | None = None

    @property
    def video_frames(self) -> int:
        """Frames of the whole video; `frames` are those of the clip that the engine makes."""
        return self.frames if self.continues is None else self.continues.frame + self.frames


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The picture as the engine sees it: `pixels` uint8 (height, width, 3) RGB at the request's size.

    `source` holds the bytes as given; `fitted` says in words what was cropped, padded or stretched. `last` is the
    picture that the video ends with, where one was given. Where the pictures are references this is the first, and
    `others` are the further ones in their order.
    """

    pixels: U8Image
    source: bytes
    source_format: str
    source_width: int
    source_height: int
    fitted: Text
    last: Prepared | None = None
    others: tuple[Prepared, ...] = ()

    @property
    def references(self) -> tuple[Prepared, ...]:
        """This picture and the further ones, for an engine that takes references."""
        return (self, *self.others)


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage of a run as predicted: weights in memory, what stays from a run before included, and activations.

    `seconds` are those of a run that has to load the model, `later_seconds` those of one that finds it loaded.
    """

    name: StageName
    weights_gib: float
    activations_gib: float
    seconds: float
    later_seconds: float


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A run that fits in place of one that does not. `loses` is what it costs the picture."""

    loses: Literal["resolution", "frames", "both", "engine"]
    engine: str
    width: int
    height: int
    frames: int
    mode: str
    peak_vram_gib: float
    peak_ram_gib: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is expected to take, before it starts. `mode` is how it will be carried out and `reason` why.

    `device` is what the seconds are for. `bound_seconds` is what that device would need if it did nothing but the
    run's operations at its highest rate. `disk_gib` is what is still to fetch, and the video. Where `fits` is false,
    `alternatives` do fit, those that cost the picture least first. `attention` is the kernel that the seconds are for.
    `learned_runs` is how many past runs on this machine have corrected the seconds and the peaks.
    """

    fits: bool
    mode: str
    reason: Text
    device: str
    peak_vram_gib: float
    peak_ram_gib: float
    disk_gib: float
    bound_seconds: float
    stages: tuple[StagePlan, ...]
    alternatives: tuple[Alternative, ...] = ()
    attention: str | None = None
    learned_runs: int = 0

    @property
    def seconds(self) -> float:
        """Seconds of the whole run, the load included."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def later_seconds(self) -> float:
        """Seconds of the next run, which finds the model loaded."""
        return sum(stage.later_seconds for stage in self.stages)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands. `step` of `steps` within `stage`; `seconds_left` of the whole run, None while unknown.

    `preview` is one small RGB picture, uint8 (height, width, 3), or None when there is nothing new to show.
    `saved_step` is the step of `denoise` from which another run would go on if this one ended here. `note` is what the
    person should know of the run meanwhile.
    """

    stage: StageName
    step: int
    steps: int
    seconds_left: float | None = None
    preview: U8Image | None = field(default=None, compare=False, repr=False)
    saved_step: int = 0
    note: Text | None = None


OnProgress = Callable[[Progress], None]
"""Called between steps, from the thread that generates. May raise `Cancelled`, which ends the run."""


class Engine(Protocol):
    """What turns a prepared picture into frames. Families share functions, not a base class."""

    def generate(
        self,
        request: GenerationRequest,
        picture: Prepared,
        on_progress: OnProgress,
        state_path: Path | None = None,
        mode: str = "staged",
    ) -> Iterator[U8Frames]:
        """Yields the frames in order, in chunks of any length; exactly `request.frames` in all, at the request's size.

        The work is done while the iterator is consumed, and `on_progress` is called from inside it. An engine whose
        runs are long keeps its state in the file `state_path` and goes on from what it finds there; the frames are
        the same. `mode` is the plan's: which parts lie on the card when. An engine without parts has nothing to do.

        Raises `OutOfMemory` once it has given back all that it held; called again, it begins anew.
        """
        ...

    def findings(self) -> tuple[Finding, ...]:
        """What the last run has to say about itself: choices the engine made, and what it did not do."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """What the last run really used, for the report's `engine` section; JSON values only.

        `peak_vram_gib`, `reserved_vram_gib`, `stage_peaks_gib`, `vram_before_gib` and `vram_after_gib` are there where
        the run had a GPU, `resumed_at_step` and `runs` where it went on from a saved state; they go to the report's
        `measured`. `loaded` names the parts that were loaded for it, `mode` how it was carried out. `runtime`, where
        the arithmetic was done, goes to its `environment`; `tokens`, of the prompt, also to its `prompt`.
        """
        ...

    def close(self) -> None:
        """Gives back memory. The engine may be used again; it then loads again."""
        ...
