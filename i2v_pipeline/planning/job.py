"""What a request computes: the work of each part, how often, and the weights it needs. Knows no mode and no card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from i2v_pipeline.guidance import NO_GUIDANCE, strength_at
from i2v_pipeline.planning.architectures import Architecture, Streaming, Unet, Work, load_architectures
from i2v_pipeline.planning.packed import lora_bytes, streaming_of, widening
from i2v_pipeline.specs import DiffusionSpec, EngineSpec
from i2v_pipeline.types import GenerationRequest

TILE_PIXELS = 256 * 256
HALF_WIDTH = 2
"""Bytes of a number in fp16 or bf16; one in fp8 takes half of that."""
DENOISERS = frozenset({"transformer", "transformer_2", "unet"})


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the request computes: each part's work, how often, and by component the weights in bytes and those on disk.

    `streams` are the parts whose layers can pass through the card. `is_fp8` where fp8 was asked for.
    """

    encode: Work
    vae_encode: Work
    forward: Work
    passes: int
    guided_steps: int
    steps: int
    decode: Work
    weights: Mapping[str, float]
    streams: Mapping[str, Streaming]
    disk_bytes: Mapping[str, int]
    tile: Work
    is_batched: bool
    is_half: bool
    is_fp8: bool
    is_half_vae: bool
    may_halve_vae: bool
    pixels: int
    frames: int

    @property
    def flops(self) -> float:
        """Of the whole run, attention included."""
        works = (self.encode, self.vae_encode, self.forward.times(self.passes), self.decode)
        return sum(work.flops + work.attention_flops for work in works)


def job_of(spec: EngineSpec, diffusion: DiffusionSpec, request: GenerationRequest, *, on_cpu: bool) -> Job:
    """The work and the weights of `request`, in the types that the engine would use."""
    architecture = load_architectures()[spec.id]
    precision = "fp32" if on_cpu and request.precision == "auto" else request.precision
    is_half = (diffusion.precision if precision == "auto" else precision) != "fp32"
    denoiser = architecture.denoiser.streaming
    is_unet = isinstance(architecture.denoiser, Unet)
    width, vae_width = (2 if is_half else 4), (2 if is_half and is_unet else 4)
    widths = {"vae": vae_width, "image_encoder": vae_width}
    # The counts of activations and traffic are those of half precision where the engine uses it on a GPU.
    wider, vae_wider = width / 2, (vae_width / 2 if is_unet else 1.0)
    pixels, guided = request.width * request.height, _guided_steps(diffusion, request)
    shape = (request.width, request.height, request.frames)
    steps, references = request.steps or 0, len(request.images) if spec.takes.references else 0
    further = 1
    if diffusion.references is not None:
        references = diffusion.references.frames_for(references)
        # Where references are guided apart from the prompt a guided step is three passes.
        further = 2 if diffusion.references.guidance is not None else 1
    weights = {
        name: float(component.parameters * widths.get(name, width)) for name, component in diffusion.components.items()
    }
    streams = {
        "text_encoder": architecture.text_encoder.streaming,
        **({} if architecture.image_encoder is None else {"image_encoder": architecture.image_encoder.streaming}),
        **dict.fromkeys(DENOISERS, denoiser),
    }
    for name, packed in diffusion.packed.items():
        beside = lora_bytes(architecture.denoiser, request.loras, name, width)
        weights[name] = float(packed.bytes(width) + len(packed.layers) * beside)
        streams[name] = streaming_of(packed, beside, width)
    return Job(
        encode=_encoders_work(architecture, prompts=2 if guided else 1, wider=wider),
        vae_encode=_wider(_pictures_work(spec, architecture, request), vae_wider),
        forward=_wider(architecture.denoiser.work(*shape, references, apart=on_cpu), wider).beside(
            widening(diffusion.packed, width)
        ),
        passes=steps + further * guided,
        guided_steps=guided,
        steps=steps,
        decode=_wider(architecture.vae.decode_work(pixels, request.frames), vae_wider),
        weights=weights,
        streams=streams,
        disk_bytes={name: diffusion.disk_bytes_of(name) for name in diffusion.components},
        tile=_wider(architecture.vae.decode_work(min(pixels, TILE_PIXELS), request.frames), vae_wider),
        is_batched=is_unet,
        is_half=is_half,
        is_fp8=request.precision == "fp8",
        is_half_vae=vae_width == HALF_WIDTH,
        may_halve_vae=vae_width != HALF_WIDTH and request.precision != "fp32",
        pixels=pixels,
        frames=request.frames,
    )


def _encoders_work(architecture: Architecture, *, prompts: int, wider: float) -> Work:
    text = architecture.text_encoder.work().times(prompts)
    image = architecture.image_encoder.work() if architecture.image_encoder else text.times(0)
    return Work(
        flops=text.flops + image.flops,
        attention_flops=text.attention_flops + image.attention_flops,
        elementwise_bytes=(text.elementwise_bytes + image.elementwise_bytes) * wider,
        activation_bytes=max(text.activation_bytes, image.activation_bytes) * wider,
    )


def _pictures_work(spec: EngineSpec, architecture: Architecture, request: GenerationRequest) -> Work:
    """What the VAE encodes: the first picture, alone or before a video of empty frames, or each reference."""
    pixels, vae = request.width * request.height, architecture.vae
    still, video = vae.encode_work(pixels, 1), vae.encode_work(pixels, request.frames)
    references = still.times(len(request.images))
    match spec.family:
        case "references":
            return references
        case "vace":
            return references.then(video)
        case "wan" if spec.diffusion is not None and not spec.diffusion.per_token_timesteps:
            return video
        case _:
            return still


def _wider(work: Work, factor: float) -> Work:
    return Work(
        flops=work.flops,
        attention_flops=work.attention_flops,
        elementwise_bytes=work.elementwise_bytes * factor,
        activation_bytes=work.activation_bytes * factor,
    )


def _guided_steps(diffusion: DiffusionSpec, request: GenerationRequest) -> int:
    """Steps that compute an unconditional pass too."""
    if request.guidance is None or request.steps is None:
        return 0
    strengths = (
        strength_at(request.guidance, step, request.steps, "high" if _is_high(diffusion, request, step) else "low")
        for step in range(request.steps)
    )
    return sum(strength != NO_GUIDANCE for strength in strengths)


def _is_high(diffusion: DiffusionSpec, request: GenerationRequest, step: int) -> bool:
    """Whether the high-noise expert has the step: its noise, after the flow shift, is above the boundary."""
    if diffusion.boundary is None or request.steps is None:
        return True
    shift, even = request.flow_shift or 1.0, 1 - step / request.steps
    return shift * even / (1 + (shift - 1) * even) >= diffusion.boundary or math.isclose(even, 1.0)
