"""Facts about engines as presets.yaml states them: what each can make, takes and was trained on.

Knows no file format, no model and no page. Everything here is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from i2v_pipeline.types import FeatureCache, Fit, Intensity, LoraRef, Precision, PresetName, SchedulerName, Text


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The sizes, frame counts and frame rates that an engine can really make.

    Sides are multiples of `pixel_multiple` in pixels; frames are `frame_step * n + 1` with n >= 0
    (a step of 1 allows every count); both within their limits, ends included.
    """

    pixel_multiple: int
    min_side: int
    max_side: int
    max_pixels: int
    frame_step: int
    min_frames: int
    max_frames: int
    min_fps: int
    max_fps: int


@dataclass(frozen=True, kw_only=True)
class PromptStyle:
    """How prompts for an engine family are written: plain data that the refiner understands too.

    `token_limit` counts usable tokens of `encoder`; None where the engine reads motion tags and no text.
    """

    name: str
    encoder: str | None
    token_limit: int | None
    languages: tuple[Literal["zh", "en"], ...]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One of the four named settings of an engine. A field is None where the engine has no such setting."""

    resolution: str
    frames: int
    fps: int
    intensity: Intensity | None = None
    steps: int | None = None
    guidance: float | None = None
    scheduler: SchedulerName | None = None
    flow_shift: float | None = None
    loras: tuple[LoraRef, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an engine takes. The page hides and `check_request` refuses what it does not.

    `attention`: whether another kernel than PyTorch's own can compute it. `caches` are the feature caches beside none.
    `compiled`: whether its denoiser is made of equal blocks, of which one is compiled for all.
    `references` is the most pictures of subjects that it takes; 0 marks an engine that takes a first picture instead.
    """

    negative_prompt: bool
    steps: bool
    guidance: bool
    moves_subject: bool
    last_image: bool = False
    loras: bool = False
    attention: bool = False
    caches: tuple[FeatureCache, ...] = ()
    compiled: bool = False
    references: int = 0

    @property
    def fits(self) -> tuple[Fit, ...]:
        """The ways of bringing a picture to the video's size, the usual one first."""
        return ("white",) if self.references else ("crop", "pad", "stretch")


@dataclass(frozen=True, kw_only=True)
class Component:
    """One part of a model: its parameters, and the bytes that its weights take in the repository."""

    parameters: int
    disk_bytes: int


@dataclass(frozen=True, kw_only=True)
class PackedLayers:
    """Weights as a GGUF file keeps them: those that stay packed in memory, and those that do not."""

    packed_bytes: int
    plain_parameters: int

    def bytes(self, width: int) -> int:
        """In memory, where what is not packed takes `width` bytes each."""
        return self.packed_bytes + self.plain_parameters * width


@dataclass(frozen=True, kw_only=True)
class PackedWeights:
    """A denoiser in GGUF. `kinds` are its parameters by kind, most first; `widest` those of its largest packed tensor.

    `layers` are what can pass through a card one after another, `outside` is the rest.
    """

    kinds: Mapping[str, int]
    file_bytes: int
    layers: tuple[PackedLayers, ...]
    outside: PackedLayers
    widest: int

    @property
    def kind(self) -> str:
        """Of most values."""
        return next(iter(self.kinds))

    @property
    def bits(self) -> float:
        """Of the file, for each parameter."""
        return 8 * self.file_bytes / sum(self.kinds.values())

    def bytes(self, width: int) -> int:
        """In memory, where what is not packed takes `width` bytes each."""
        return sum(part.bytes(width) for part in (*self.layers, self.outside))

    def largest_layer_bytes(self, width: int) -> int:
        return max(layer.bytes(width) for layer in self.layers)

    def in_words(self) -> str:
        """`GGUF Q4_K 87 %, Q6_K 11 %, F16 2 %`."""
        whole = sum(self.kinds.values())
        return "GGUF " + ", ".join(f"{kind} {100 * count / whole:.3g} %" for kind, count in self.kinds.items())


@dataclass(frozen=True, kw_only=True)
class ReferenceSpec:
    """How the latents of reference pictures stand among those of the video, for models that read them as frames.

    `rotary_shift` is how many tokens (down, across) the positions of references are moved away from the video's, each
    reference with a time of its own from 0 on; None: they go on in time as if they were frames. Latents of zero fill up
    `slots` where there are fewer references. `guidance` is the strength of the references where that is guided apart
    from the text's; None: the passes with and without the prompt see the same references.
    """

    placement: Literal["before", "after"]
    rotary_shift: tuple[int, int] | None
    slots: int
    guidance: float | None

    def frames_for(self, pictures: int) -> int:
        """The latent frames that this many references take, empty slots among them."""
        return max(self.slots, pictures)


@dataclass(frozen=True, kw_only=True)
class DiffusionSpec:
    """Facts about a diffusion model and its checkpoint.

    `variant` is the suffix of half-precision files in the repository. `schedulers` are the ones that it may run with,
    the usual one first; `flow_shift` is None for a model that has none. `boundary` is the part of the training steps
    from which on the high-noise expert works; None for one expert. `per_token_timesteps` marks a model that keeps the
    first latent frame clean instead of reading the picture through extra channels. `trained_sizes` are (width, height);
    where `sizes_are_exact` is false a size stands for its area. `condition_fps` is what the model is told about the
    frame rate, None where it is told nothing. `precision` is the denoiser's on CUDA. `stillness_words` are the entries
    of `negative_prompt` that speak against stillness. `references` is None for a model that reads none as frames.
    `is_converted` marks a repository that is not in diffusers' layout: `models convert` makes the engine's own folder.
    `packed` are the components that are in GGUF here; presets.yaml knows of none.
    """

    repo: str
    revision: str
    variant: str | None
    components: Mapping[str, Component]
    schedulers: tuple[SchedulerName, ...]
    flow_shift: float | None
    boundary: float | None
    per_token_timesteps: bool
    trained_sizes: tuple[tuple[int, int], ...]
    sizes_are_exact: bool
    trained_frames: int
    condition_fps: int | None
    precision: Precision
    negative_prompt: str
    stillness_words: tuple[str, ...]
    references: ReferenceSpec | None = None
    is_converted: bool = False
    packed: Mapping[str, PackedWeights] = field(default_factory=dict[str, PackedWeights])

    @property
    def disk_bytes(self) -> int:
        """Bytes of all weights in the repository, or here where they are packed."""
        return sum(self.disk_bytes_of(name) for name in self.components)

    def disk_bytes_of(self, name: str) -> int:
        """Of one component."""
        return self.packed[name].file_bytes if name in self.packed else self.components[name].disk_bytes


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """Facts about one engine, from presets.yaml.

    `resolutions` maps a name such as `512p` to the number of pixels it stands for (a width and a height whose
    product is the budget); the aspect comes from the picture. `sources` names where each number was found.
    """

    id: str
    family: str
    title: Text
    description: Text
    licence: str
    grid: Grid
    resolutions: Mapping[str, tuple[int, int]]
    presets: Mapping[PresetName, Preset]
    prompt_style: PromptStyle
    takes: Capabilities
    sources: Mapping[str, str]
    diffusion: DiffusionSpec | None = None
