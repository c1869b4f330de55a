"""Wan VACE with reference pictures: a second branch of the transformer reads them. Knows no loop, no page and no file.

The arithmetic is that of diffusers' `WanVACEPipeline` without a video and a mask, operation by operation, so that the
frames are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from torch import Tensor

from i2v_pipeline.engines import wan
from i2v_pipeline.engines.cache import ConditioningCache
from i2v_pipeline.engines.family import Inputs, TileDone, noise
from i2v_pipeline.engines.loading import Parts
from i2v_pipeline.engines.passes import Pass
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Expert, GenerationRequest, U8Frames

KINDS: Mapping[str, Any] = {**wan.KINDS, "transformer": WanVACETransformer3DModel}
_MASK_CHANNELS = 64
"""One for each pixel that a latent pixel stands for, 8 x 8."""


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What steers a run, on the device. `references` is (1, channels, references, height, width) in latent sizes.

    `control` is what the second branch reads, (1, 96, references and frames, height, width).
    """

    prompt: Tensor
    negative: Tensor | None
    references: Tensor
    control: Tensor


class Vace:
    """A VACE checkpoint as a family: encode, predict, decode."""

    def __init__(self, spec: EngineSpec, parts: Parts, cache: ConditioningCache, tokenizer: Any) -> None:  # noqa: ANN401
        self._parts = parts
        self._wan = wan.Wan(spec, parts, cache, tokenizer)

    def read_text(self, text: str) -> str:
        return self._wan.read_text(text)

    def encode(self, inputs: Inputs) -> Conditioning:
        prompt, negative = self._wan.prompts(inputs.request)
        # The published code puts each further reference before those that are there.
        references = self._wan.still_latents(inputs.pictures).flip(2)
        control = _control(self._wan.empty_latents(inputs.request), references)
        device, dtype = self._parts.device, self._parts.dtypes["transformer"]
        return Conditioning(
            prompt=prompt, negative=negative, references=references.to(device), control=control.to(device, dtype)
        )

    def load_denoisers(self) -> None:
        self._wan.load_denoisers()

    def adapt(self, name: str, model: Any) -> None:  # noqa: ANN401
        self._wan.adapt(name, model)

    def release_denoisers(self) -> None:
        self._wan.release_denoisers()

    def denoisers(self) -> Mapping[str, Any]:
        return self._wan.denoisers()

    def latents(self, request: GenerationRequest, generator: torch.Generator) -> Tensor:
        """Noise for the references' frames too: the model denoises them along, and they are dropped in the end."""
        channels, frames, height, width = self._wan.latent_shape(request)
        return noise((1, channels, len(request.images) + frames, height, width), generator, self._parts.device)

    def scheduler(self, request: GenerationRequest) -> Any:  # noqa: ANN401 - diffusers gives its schedulers no common type
        return self._wan.scheduler(request)

    def expert_at(self, timestep: Tensor) -> Expert:
        return self._wan.expert_at(timestep)

    def predict(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, strength: float) -> Tensor:
        model = self._parts.get("transformer")
        hidden = latents.to(self._parts.dtypes["transformer"])

        def forward(text: Tensor, which: Pass) -> Tensor:
            return self._parts.passes.run(
                model,
                which,
                hidden_states=hidden,
                timestep=timestep.expand(1),
                encoder_hidden_states=text,
                control_hidden_states=conditioning.control,
            )

        guided = forward(conditioning.prompt, "guided")
        if strength == 1.0:
            return guided
        assert conditioning.negative is not None
        unguided = forward(conditioning.negative, "unguided")
        return unguided + strength * (guided - unguided)

    def preview_factors(self) -> Tensor:
        return self._wan.preview_factors()

    def tile_side(self, latents: Tensor) -> int | None:
        return self._wan.tile_side(latents)

    def decode(self, latents: Tensor, conditioning: Conditioning) -> Iterator[U8Frames | TileDone]:
        return self._wan.decode_latents(latents[:, :, conditioning.references.shape[2] :])

    def facts(self, request: GenerationRequest) -> dict[str, Any]:
        return self._wan.facts(request)


def _control(empty: Tensor, references: Tensor) -> Tensor:
    """The part to keep, the part to make and the mask, one above the other; all of the video is to be made."""
    video = torch.cat([empty, empty], dim=1)
    shown = torch.cat([references, torch.zeros_like(references)], dim=1)
    latents = torch.cat([shown, video], dim=2)
    mask = latents.new_ones(1, _MASK_CHANNELS, *latents.shape[2:])
    mask[:, :, : references.shape[2]] = 0
    return torch.cat([latents, mask], dim=1)
