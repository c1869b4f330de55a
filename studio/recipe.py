"""What a person chose becomes a complete `GenerationRequest`. Shared by page, command line and API; draws nothing."""

from __future__ import annotations

import math
import re
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from i2v_pipeline.errors import RequestError
from i2v_pipeline.images import fit_size
from i2v_pipeline.specs import EngineSpec, Preset
from i2v_pipeline.tokens import token_counter
from i2v_pipeline.types import (
    AddedElement,
    Aftercare,
    Attention,
    Device,
    Expert,
    FeatureCache,
    Fit,
    GenerationRequest,
    Guidance,
    LoraRef,
    Motion,
    Precision,
    PresetName,
    PromptOrigin,
    SchedulerName,
    Subject,
)
from prompt_refiner import RefineResult, Style

SEED_LIMIT = 2**32
"""Seeds are below this: every random generator in use takes 32 bits."""
_LORA = re.compile(r"([^@]+?)(?::(-?\d+(?:\.\d+)?))?(?:@(high|low))?")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen on the page or the command line; None means: as the preset says (a seed: draw one).

    `loras` come after those that the preset brings. `further_images` are the references after the picture, and
    `subjects` speaks of all of them; left empty, nothing is known of them.
    """

    preset: PresetName = "standard"
    resolution: str | None = None
    frames: int | None = None
    fps: int | None = None
    steps: int | None = None
    guidance: Guidance | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    fit: Fit | None = None
    embed_source: bool = True
    scheduler: SchedulerName | None = None
    flow_shift: float | None = None
    loras: tuple[LoraRef, ...] = ()
    last_image: Path | None = None
    further_images: tuple[Path, ...] = ()
    subjects: tuple[Subject, ...] = ()
    checkpoint: Path | None = None
    device: Device | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    aftercare: Aftercare = field(default_factory=Aftercare)
    attention: Attention = "auto"
    cache: FeatureCache = "off"
    compiled: bool = False


def size_of(spec: EngineSpec, resolution: str, source_width: int, source_height: int) -> tuple[int, int]:
    """Width and height that `resolution` means for this picture: a name is a pixel budget, `WxH` is exact.

    A model that knows exact sizes only gets the one of these whose shape is nearest to the picture's. Where pictures
    are references their shape means nothing, and a name is a size.

    Raises `RequestError` for anything else. Whether an exact size is legal is `check_request`'s to say.
    """
    exact = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", resolution.strip())
    if exact:
        return int(exact[1]), int(exact[2])
    if resolution not in spec.resolutions:
        names = ", ".join(spec.resolutions)
        raise RequestError(
            f"Resolution {resolution!r}: allowed are {names}, or a width and a height such as 1280x720. Choose one.",
            f"分辨率 {resolution!r}：可用的有 {names}，或宽x高，例如 1280x720。请选择其一。",
        )
    if spec.takes.references:
        return spec.resolutions[resolution]
    if spec.diffusion is not None and spec.diffusion.sizes_are_exact:
        aspect = math.log(source_width / source_height)
        return min(spec.diffusion.trained_sizes, key=lambda size: abs(math.log(size[0] / size[1]) - aspect))
    proposed = fit_size(spec.grid, spec.resolutions[resolution], source_width, source_height)
    return proposed.width, proposed.height


def compose(
    spec: EngineSpec,
    choice: Choice,
    *,
    image: Path,
    image_size: tuple[int, int],
    prompt: str,
    origin: PromptOrigin,
    motion: Motion,
) -> GenerationRequest:
    """The recipe: the preset's numbers where nothing else was chosen, a seed drawn where none was given.

    Raises `RequestError` for a preset that the engine does not have, and for a resolution that is none.
    """
    preset = preset_of(spec, choice.preset)
    usual_scheduler = spec.diffusion.schedulers[0] if spec.diffusion else None
    usual_shift = spec.diffusion.flow_shift if spec.diffusion else None
    resolution = choice.resolution or preset.resolution
    width, height = size_of(spec, resolution, *image_size)
    images = (image, *choice.further_images)
    unknown = (Subject(),) * len(images) if spec.takes.references else ()
    return GenerationRequest(
        engine=spec.id,
        images=images,
        prompt=prompt,
        origin=origin,
        motion=motion if preset.intensity is None else replace(motion, intensity=preset.intensity),
        resolution=resolution,
        width=width,
        height=height,
        fit=choice.fit or spec.takes.fits[0],
        frames=preset.frames if choice.frames is None else choice.frames,
        fps=preset.fps if choice.fps is None else choice.fps,
        seed=fresh_seed() if choice.seed is None else choice.seed,
        negative_prompt=default_negative(spec, motion) if choice.negative_prompt is None else choice.negative_prompt,
        preset=choice.preset,
        steps=preset.steps if choice.steps is None else choice.steps,
        guidance=preset.guidance if choice.guidance is None else choice.guidance,
        embed_source=choice.embed_source,
        scheduler=choice.scheduler or preset.scheduler or usual_scheduler,
        flow_shift=next((shift for shift in (choice.flow_shift, preset.flow_shift) if shift is not None), usual_shift),
        loras=(*preset.loras, *choice.loras),
        last_image=choice.last_image,
        subjects=choice.subjects or unknown,
        checkpoint=choice.checkpoint,
        device=choice.device,
        precision=choice.precision,
        aftercare=choice.aftercare,
        attention=choice.attention,
        cache=choice.cache,
        compiled=choice.compiled,
    )


def fresh_seed() -> int:
    """A seed that nobody chose."""
    return secrets.randbelow(SEED_LIMIT)


def preset_of(spec: EngineSpec, name: PresetName) -> Preset:
    """The engine's preset of this name. Raises `RequestError` where it has none."""
    if name not in spec.presets:
        raise RequestError(
            f"Preset {name!r}: {spec.id} has {', '.join(spec.presets)}. Choose one of these.",
            f"预设 {name!r}：{spec.id} 只有 {'、'.join(spec.presets)}。请选择其一。",
        )
    return spec.presets[name]


def default_negative(spec: EngineSpec, motion: Motion) -> str:
    """The engine's own negative prompt, without its words against stillness where a still camera was asked for."""
    if spec.diffusion is None:
        return ""
    if not (motion.requested and motion.camera == ("static",)):
        return spec.diffusion.negative_prompt
    separator = "，" if "，" in spec.diffusion.negative_prompt else ", "
    words = spec.diffusion.negative_prompt.split(separator)
    return separator.join(word for word in words if word not in spec.diffusion.stillness_words)


def lora_as_text(lora: LoraRef) -> str:
    """The LoRA as `parse_lora` reads it, by its file's name alone."""
    weight = "" if lora.weight == 1 else f":{lora.weight:g}"
    return f"{Path(lora.source).name}{weight}{f'@{lora.expert}' if lora.expert else ''}"


def parse_lora(text: str) -> LoraRef:
    """`FILE`, `FILE:0.8`, `FILE@high` or `FILE:0.8@low`. Raises `RequestError` for anything else."""
    found = _LORA.fullmatch(text.strip())
    if found is None:
        raise RequestError(
            f"--lora {text!r} cannot be read. Give FILE, FILE:WEIGHT, or either with @high or @low at its end.",
            f"无法识别 --lora {text!r}。请给出 文件、文件:权重，并可在末尾加 @high 或 @low。",
        )
    source, weight, expert = found.groups()
    return LoraRef(
        source=source,
        weight=1.0 if weight is None else float(weight),
        expert=next((each for each in get_args(Expert) if each == expert), None),
    )


def style_of(spec: EngineSpec, checkpoint: Path | None = None) -> Style:
    """The engine's prompt style in the refiner's own terms, with the tokenizer of its model where that is here."""
    style = spec.prompt_style
    return Style(
        name=style.name,
        encoder=style.encoder,
        token_limit=style.token_limit,
        languages=style.languages,
        count=token_counter(spec, checkpoint),
    )


def motion_of(result: RefineResult) -> Motion:
    """The movement that the refiner read out of the sentence."""
    return Motion(
        camera=tuple(result.camera_motion),
        requested=result.camera_requested,
        speed=result.speed,
        intensity=result.motion_intensity,
    )


def origin_of(typed: str, result: RefineResult | None) -> PromptOrigin:
    """Where the prompt came from; without a refiner's result it is the person's own words."""
    if result is None:
        return PromptOrigin(typed=typed, refined=typed, source="typed")
    return PromptOrigin(
        typed=typed,
        refined=result.refined_prompt,
        source=result.source,
        provider=result.provider,
        model=result.model,
        added_elements=tuple(
            AddedElement(element=added.element, kind=added.kind, why=added.why) for added in result.added_elements
        ),
    )
