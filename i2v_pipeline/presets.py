"""presets.yaml becomes `EngineSpec`s, or one error that lists every mistake with its path. Loads no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from i2v_pipeline.errors import InputError, PresetsError
from i2v_pipeline.specs import (
    Capabilities,
    Component,
    DiffusionSpec,
    EngineSpec,
    Grid,
    Preset,
    PromptStyle,
    ReferenceSpec,
)
from i2v_pipeline.types import Expert, FeatureCache, Intensity, LoraRef, Precision, PresetName, SchedulerName, Text

PRESETS_PATH = Path(__file__).resolve().parent.parent / "presets.yaml"
REQUIRED_PRESETS: tuple[PresetName, ...] = ("preview", "standard", "high_motion", "creative")

T = TypeVar("T")
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
_Pair = Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Text(_Strict):
    en: Annotated[str, Field(min_length=1)]
    zh: Annotated[str, Field(min_length=1)]


class _Grid(_Strict):
    pixel_multiple: PositiveInt
    min_side: PositiveInt
    max_side: PositiveInt
    max_pixels: PositiveInt
    frame_step: PositiveInt
    min_frames: PositiveInt
    max_frames: PositiveInt
    min_fps: PositiveInt
    max_fps: PositiveInt

    @model_validator(mode="after")
    def _limits_in_order(self) -> _Grid:
        for low, high in (("min_side", "max_side"), ("min_frames", "max_frames"), ("min_fps", "max_fps")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} is above {high}")
        return self


class _Lora(_Strict):
    source: Annotated[str, Field(pattern=r"^hf://[^/]+/[^/]+/.+\.safetensors$")]
    expert: Expert | None = None


class _Preset(_Strict):
    resolution: str
    frames: PositiveInt
    fps: PositiveInt
    intensity: Intensity | None = None
    steps: PositiveInt | None = None
    guidance: Annotated[float, Field(ge=1.0)] | None = None
    scheduler: SchedulerName | None = None
    flow_shift: PositiveFloat | None = None
    loras: list[_Lora] = []


class _PromptStyle(_Strict):
    name: str
    encoder: str | None
    token_limit: PositiveInt | None
    languages: Annotated[list[Literal["zh", "en"]], Field(min_length=1)]


class _Capabilities(_Strict):
    negative_prompt: bool
    steps: bool
    guidance: bool
    moves_subject: bool
    last_image: bool = False
    loras: bool = False
    attention: bool = False
    caches: list[FeatureCache] = []
    compiled: bool = False
    references: Annotated[int, Field(ge=0)] = 0


class _References(_Strict):
    placement: Literal["before", "after"]
    rotary_shift: _Pair | None
    slots: Annotated[int, Field(ge=0)]
    guidance: Annotated[float, Field(ge=1.0)] | None


class _Component(_Strict):
    parameters: PositiveInt
    disk_bytes: PositiveInt


class _Diffusion(_Strict):
    repo: Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")]
    revision: str
    variant: Literal["fp16"] | None
    components: Annotated[dict[str, _Component], Field(min_length=1)]
    schedulers: Annotated[list[SchedulerName], Field(min_length=1)]
    flow_shift: PositiveFloat | None
    boundary: Annotated[float, Field(gt=0.0, lt=1.0)] | None
    per_token_timesteps: bool
    trained_sizes: Annotated[list[_Pair], Field(min_length=1)]
    sizes_are_exact: bool
    trained_frames: PositiveInt
    condition_fps: PositiveInt | None
    precision: Precision
    negative_prompt: str
    stillness_words: list[str]
    references: _References | None = None
    is_converted: bool = False

    @model_validator(mode="after")
    def _holds_together(self) -> _Diffusion:
        if (self.boundary is not None) != ("transformer_2" in self.components):
            raise ValueError("boundary: must stand here exactly when there is a transformer_2")
        unknown = [word for word in self.stillness_words if word not in self.negative_prompt]
        if unknown:
            raise ValueError(f"stillness_words: {unknown} do not stand in negative_prompt")
        return self


class _Engine(_Strict):
    family: Literal["camera", "i2vgen_xl", "wan", "references", "vace"]
    title: _Text
    description: _Text
    licence: str
    grid: _Grid
    resolutions: Annotated[dict[str, _Pair], Field(min_length=1)]
    presets: dict[PresetName, _Preset]
    prompt_style: _PromptStyle
    takes: _Capabilities
    sources: dict[str, str]
    diffusion: _Diffusion | None = None

    @model_validator(mode="after")
    def _presets_fit_the_engine(self) -> _Engine:
        mistakes = [f"presets.{name}: missing" for name in REQUIRED_PRESETS if name not in self.presets]
        if (self.diffusion is None) != (self.family == "camera"):
            mistakes.append("diffusion: must stand here for every family but camera")
        if (self.takes.references > 0) != (self.family in ("references", "vace")):
            mistakes.append("takes.references: must stand here exactly for the families references and vace")
        if self.diffusion is not None and (self.diffusion.references is not None) != (self.family == "references"):
            mistakes.append("diffusion.references: must stand here exactly for the family references")
        for name, preset in self.presets.items():
            mistakes += [f"presets.{name}.{mistake}" for mistake in self._mistakes_of(preset)]
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def _mistakes_of(self, preset: _Preset) -> list[str]:
        grid = self.grid
        mistakes: list[str] = []
        if preset.resolution not in self.resolutions:
            mistakes.append(f"resolution: {preset.resolution!r} is none of {', '.join(self.resolutions)}")
        if (preset.frames - 1) % grid.frame_step or not grid.min_frames <= preset.frames <= grid.max_frames:
            mistakes.append(f"frames: {preset.frames} is not on the grid")
        if not grid.min_fps <= preset.fps <= grid.max_fps:
            mistakes.append(f"fps: {preset.fps} is outside {grid.min_fps} to {grid.max_fps}")
        for setting in ("steps", "guidance"):
            if (getattr(preset, setting) is not None) != getattr(self.takes, setting):
                mistakes.append(f"{setting}: must stand here exactly when takes.{setting} is true")
        if preset.loras and not self.takes.loras:
            mistakes.append("loras: takes.loras is false")
        if preset.scheduler and not (self.diffusion and preset.scheduler in self.diffusion.schedulers):
            mistakes.append(f"scheduler: {preset.scheduler!r} is none of diffusion.schedulers")
        return mistakes


class _File(_Strict):
    engines: Annotated[dict[str, _Engine], Field(min_length=1)]


def parse_presets(text: str) -> Mapping[str, EngineSpec]:
    """Engines by id, in the file's order. Raises `PresetsError` with every mistake and its path."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _presets_error([str(error)]) from error
    try:
        parsed = _File.model_validate(data)
    except ValidationError as error:
        raise _presets_error(
            [f"{'.'.join(str(part) for part in item['loc']) or 'file'}: {item['msg']}" for item in error.errors()]
        ) from error
    return {engine_id: _spec(engine_id, engine) for engine_id, engine in parsed.engines.items()}


@cache
def load_presets(path: Path = PRESETS_PATH) -> Mapping[str, EngineSpec]:
    """The engines of the file at `path`, read once."""
    return parse_presets(path.read_text(encoding="utf-8"))


def find_engine(engine_id: str) -> EngineSpec:
    """The engine called `engine_id`. Raises `InputError`."""
    engines = load_presets()
    if engine_id not in engines:
        raise InputError(
            f"Engine {engine_id!r} is unknown: there is {', '.join(engines)}. Choose one of these, or auto.",
            f"没有名为 {engine_id!r} 的引擎：可用的有 {'、'.join(engines)}。请选择其中之一，或 auto。",
        )
    return engines[engine_id]


def _presets_error(mistakes: list[str]) -> PresetsError:
    lines = "\n".join(f"  {mistake}" for mistake in mistakes)
    return PresetsError(
        f"presets.yaml has {len(mistakes)} mistake(s):\n{lines}\nCorrect these lines and start again.",
        f"presets.yaml 中有 {len(mistakes)} 处错误：\n{lines}\n请改正后重新启动。",
    )


def _spec(engine_id: str, engine: _Engine) -> EngineSpec:
    return EngineSpec(
        id=engine_id,
        family=engine.family,
        title=Text(engine.title.en, engine.title.zh),
        description=Text(engine.description.en, engine.description.zh),
        licence=engine.licence,
        grid=_plain(Grid, engine.grid),
        resolutions={name: (width, height) for name, (width, height) in engine.resolutions.items()},
        presets={name: _preset(preset) for name, preset in engine.presets.items()},
        prompt_style=PromptStyle(
            name=engine.prompt_style.name,
            encoder=engine.prompt_style.encoder,
            token_limit=engine.prompt_style.token_limit,
            languages=tuple(engine.prompt_style.languages),
        ),
        takes=replace(_plain(Capabilities, engine.takes), caches=tuple(engine.takes.caches)),
        sources=engine.sources,
        diffusion=None if engine.diffusion is None else _diffusion(engine.diffusion),
    )


def _preset(preset: _Preset) -> Preset:
    loras = tuple(_plain(LoraRef, lora) for lora in preset.loras)
    return replace(_plain(Preset, preset), loras=loras)


def _diffusion(diffusion: _Diffusion) -> DiffusionSpec:
    return replace(
        _plain(DiffusionSpec, diffusion),
        components={name: _plain(Component, component) for name, component in diffusion.components.items()},
        schedulers=tuple(diffusion.schedulers),
        trained_sizes=tuple((width, height) for width, height in diffusion.trained_sizes),
        stillness_words=tuple(diffusion.stillness_words),
        references=None if diffusion.references is None else _references(diffusion.references),
    )


def _references(references: _References) -> ReferenceSpec:
    shift = references.rotary_shift
    return replace(_plain(ReferenceSpec, references), rotary_shift=None if shift is None else (shift[0], shift[1]))


def _plain(kind: type[T], model: BaseModel) -> T:
    """A dataclass with the same fields as `model`."""
    return kind(**{name: getattr(model, name) for name in type(model).model_fields})
