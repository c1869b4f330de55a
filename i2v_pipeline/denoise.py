"""The denoising loop over a diffusers scheduler. Knows no model, no page and no file: a family predicts for it.

The loop is a generator of steps, so that whoever consumes it reports, cancels and saves between two steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from i2v_pipeline.errors import StudioError
from i2v_pipeline.guidance import strength_at
from i2v_pipeline.types import Expert, Guidance, U8Frames, U8Image

C = TypeVar("C", contravariant=True)

_SCHEDULER_MEMORY = (
    "model_outputs", "timestep_list", "lower_order_nums", "this_order", "last_sample", "_step_index", "_begin_index",
)  # fmt: skip
"""What the schedulers in use remember from step to step; timesteps and sigmas follow from the settings."""


class Predictor(Protocol[C]):
    """What a model family supplies to the loop."""

    def expert_at(self, timestep: Tensor) -> Expert:
        """The expert that works at `timestep`."""
        ...

    def predict(self, latents: Tensor, timestep: Tensor, conditioning: C, strength: float) -> Tensor:
        """The model's output for `latents`, guided with `strength`; at strength 1 without an unconditional pass."""
        ...


@dataclass(frozen=True, kw_only=True)
class DenoiseState:
    """All that the loop needs to go on after `step` steps: tensors and plain values only.

    `latents` are float32 (1, channels, frames, height, width); `random` is the state of the CPU generator.
    """

    step: int
    latents: Tensor
    scheduler: Mapping[str, Any]
    random: Tensor


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step done. `clean()` computes what the model takes the finished latents to be, for a preview."""

    state: DenoiseState
    strength: float
    clean: Callable[[], Tensor]


def first_state(scheduler: Any, latents: Tensor, generator: torch.Generator) -> DenoiseState:  # noqa: ANN401 - diffusers gives its schedulers no common type
    """The state before the first step, for a scheduler whose timesteps are set."""
    return DenoiseState(
        step=0,
        latents=latents * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else latents,
        scheduler=_memory_of(scheduler),
        random=generator.get_state(),
    )


def denoise(
    predictor: Predictor[C],
    conditioning: C,
    scheduler: Any,  # noqa: ANN401
    state: DenoiseState,
    *,
    guidance: Guidance,
    generator: torch.Generator,
) -> Iterator[Step]:
    """Goes on from `state` to the last of the scheduler's timesteps; the last step's latents are the result.

    Raises `StudioError` as soon as a value is not finite.
    """
    for name, value in state.scheduler.items():
        setattr(scheduler, name, list(value) if isinstance(value, tuple) else value)
    generator.set_state(state.random)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    step_options = {"generator": generator} if takes_generator else {}
    steps = len(scheduler.timesteps)
    latents = state.latents
    for step in range(state.step, steps):
        timestep = scheduler.timesteps[step]
        strength = strength_at(guidance, step, steps, predictor.expert_at(timestep))
        with torch.inference_mode():
            output = predictor.predict(latents, timestep, conditioning, strength)
            result = scheduler.step(output, timestep, latents, **step_options)
            if not bool(torch.isfinite(result.prev_sample).all()):
                raise not_finite(f"Step {step + 1} of {steps}", f"第 {step + 1}/{steps} 步")
        clean = _clean_estimate(scheduler, step, latents, output, result)
        latents = result.prev_sample
        yield Step(
            state=DenoiseState(
                step=step + 1, latents=latents, scheduler=_memory_of(scheduler), random=generator.get_state()
            ),
            strength=strength,
            clean=clean,
        )


def not_finite(where_en: str, where_zh: str) -> StudioError:
    """The error for values that are not numbers."""
    return StudioError(
        f"{where_en} gave values that are not numbers. A LoRA with too much weight, a damaged checkpoint or a "
        "precision that is too small does this. Lower the LoRA's weight, or try --precision bf16 or fp32.",
        f"{where_zh}得到了非数值结果。常见原因是 LoRA 权重过大、模型文件损坏或计算精度过低。"
        "请降低 LoRA 权重，或改用 --precision bf16 或 fp32。",
    )


def to_uint8(video: Tensor) -> U8Frames:
    """Frames from a tensor (channels, frames, height, width) in -1..1: uint8 = round(clamp(x / 2 + 1/2, 0, 1) * 255).

    Computed where the tensor is, so no float video reaches the host. Raises `StudioError` for values not finite.
    """
    video = video.float()
    if not bool(torch.isfinite(video).all()):
        raise not_finite("Decoding the frames", "解码画面时")
    pixels = (video * 0.5 + 0.5).clamp_(0, 1).mul_(255).round_().to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def preview(latents: Tensor, factors: Tensor) -> U8Image:
    """A small picture of the middle frame of `latents` (1, channels, frames, height, width).

    `factors` is (channels + 1, 3): the RGB that each channel adds, in -1..1, and the offset in the last row.
    """
    middle = latents[0, :, latents.shape[2] // 2].float().cpu()
    rgb = torch.einsum("chw,cr->hwr", middle, factors[:-1]) + factors[-1]
    return ((rgb * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy().astype(np.uint8)


def _memory_of(scheduler: Any) -> dict[str, Any]:  # noqa: ANN401
    memory = {name: getattr(scheduler, name) for name in _SCHEDULER_MEMORY if hasattr(scheduler, name)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in memory.items()}


def _clean_estimate(scheduler: Any, step: int, before: Tensor, output: Tensor, result: Any) -> Callable[[], Tensor]:  # noqa: ANN401
    known = getattr(result, "pred_original_sample", None)
    if known is not None:
        return lambda: known
    # Flow matching: the model's output is noise minus data, and x = (1 - sigma) data + sigma noise.
    return lambda: before - float(scheduler.sigmas[step]) * output
