"""What a diffusion engine takes in memory, stage by stage. Knows no machine, so it gives no seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from i2v_pipeline.types import DiffusionSpec, EngineSpec, GenerationRequest, Plan, StageName, StagePlan, Text

GIB = 2**30
LIBRARIES_GIB = 1.0
"""The process with torch and diffusers, or the CUDA context."""
_ENCODERS = ("text_encoder", "image_encoder")
_DENOISERS = ("transformer", "transformer_2", "unet")


@dataclass(frozen=True, kw_only=True)
class _Activations:
    """Peak activations, counted operation by operation on tensors without memory, in half precision but for Wan's VAE.

    `denoise` is in bytes per token (Wan) or per pixel and frame (I2VGen-XL, guided); the VAE's are bytes per pixel.
    """

    denoise: float
    vae_encode: float
    vae_decode: float


_WAN_14B = _Activations(denoise=113_600, vae_encode=15_100, vae_decode=20_450)
_WAN_5B = _Activations(denoise=199_600, vae_encode=1_900, vae_decode=23_000)
_I2VGEN_XL = _Activations(denoise=663, vae_encode=1_275, vae_decode=1_918)


def plan_diffusion(spec: EngineSpec, diffusion: DiffusionSpec, request: GenerationRequest) -> Plan:
    """Encoders come and go; the denoiser and the VAE stay. On the CPU everything is fp32."""
    on_cpu = request.device == "cpu"
    is_wan = spec.family == "wan"
    width = 4 if on_cpu or request.precision == "fp32" else 2
    vae_width = 4 if is_wan else width
    weights = _weights_gib(diffusion, width, vae_width)
    known = (_WAN_5B if diffusion.per_token_timesteps else _WAN_14B) if is_wan else _I2VGEN_XL
    pixels = request.width * request.height
    per_pixel = pixels / GIB * (1.0 if is_wan else width / 2)
    encoder = max(weights.get(name, 0.0) for name in _ENCODERS)
    denoiser = sum(weights.get(name, 0.0) for name in _DENOISERS)
    resident = denoiser + weights["vae"]
    stages = (
        _stage("encode", encoder + weights["vae"], known.vae_encode * per_pixel),
        _stage("denoise", resident, known.denoise * _units(spec, diffusion, request) / GIB * width / 2),
        _stage("decode", resident, known.vae_decode * per_pixel),
    )
    peak = max(stage.weights_gib + stage.activations_gib for stage in stages) + LIBRARIES_GIB
    largest = max(weights.values()) + LIBRARIES_GIB
    return Plan(
        mode="cpu" if on_cpu else "resident",
        reason=Text(
            "The encoders leave the memory once they have encoded; the denoiser and the VAE stay for the next run.",
            "编码器用完即从内存中释放；去噪模型和 VAE 会保留给下一次生成。",
        ),
        peak_vram_gib=0.0 if on_cpu else round(peak, 1),
        peak_ram_gib=round(peak if on_cpu else largest, 1),
        disk_gib=0.0,
        stages=stages,
    )


def _weights_gib(diffusion: DiffusionSpec, width: int, vae_width: int) -> Mapping[str, float]:
    widths = {"vae": vae_width, "image_encoder": vae_width}
    return {
        name: component.parameters * widths.get(name, width) / GIB for name, component in diffusion.components.items()
    }


def _units(spec: EngineSpec, diffusion: DiffusionSpec, request: GenerationRequest) -> float:
    """Tokens of Wan's transformer; pixels times frames for I2VGen-XL."""
    if spec.family != "wan":
        return request.width * request.height * request.frames
    side = 32 if diffusion.per_token_timesteps else 16
    return ((request.frames - 1) // 4 + 1) * (request.width // side) * (request.height // side)


def _stage(name: StageName, weights_gib: float, activations_gib: float) -> StagePlan:
    return StagePlan(
        name=name, weights_gib=round(weights_gib, 2), activations_gib=round(activations_gib, 2), seconds=None
    )
