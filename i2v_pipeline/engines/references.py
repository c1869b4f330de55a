"""Wan's text-to-video transformer with the latents of reference pictures among those of the video. Knows no loop.

The references are further latent frames that are never noised; the transformer attends to them, and what it says about
them is dropped. Where they stand, at which positions and how they are guided is the engine's `ReferenceSpec`: Kaleido
puts them before the video, 80 tokens down and across from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from i2v_pipeline.engines.cache import ConditioningCache
from i2v_pipeline.engines.family import Inputs, TileDone
from i2v_pipeline.engines.loading import Parts
from i2v_pipeline.engines.passes import Pass
from i2v_pipeline.engines.wan import Wan
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Expert, GenerationRequest, U8Frames


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What steers a run, on the device. `references` is (1, channels, references, height, width) in latent sizes."""

    prompt: Tensor
    negative: Tensor | None
    references: Tensor


class References:
    """A checkpoint of Wan's text-to-video architecture that was trained with references, as a family."""

    def __init__(self, spec: EngineSpec, parts: Parts, cache: ConditioningCache, tokenizer: Any) -> None:  # noqa: ANN401
        assert spec.diffusion is not None and spec.diffusion.references is not None
        self._how = spec.diffusion.references
        self._parts = parts
        self._wan = Wan(spec, parts, cache, tokenizer)

    def read_text(self, text: str) -> str:
        return self._wan.read_text(text)

    def encode(self, inputs: Inputs) -> Conditioning:
        """The prompts, and one latent frame for each reference; latents of zero fill up the slots that are left."""
        prompt, negative = self._wan.prompts(inputs.request)
        references = self._wan.still_latents(inputs.pictures)
        missing = max(self._how.slots - references.shape[2], 0)
        empty = references.new_zeros(*references.shape[:2], missing, *references.shape[3:])
        references = torch.cat([references, empty], dim=2).to(self._parts.device)
        return Conditioning(prompt=prompt, negative=negative, references=references)

    def load_denoisers(self) -> None:
        self._wan.load_denoisers()

    def adapt(self, name: str, model: Any) -> None:  # noqa: ANN401
        if name == "transformer" and self._how.rotary_shift is not None:
            model.rope = ReferenceRotary(model.rope, self._how.rotary_shift)

    def release_denoisers(self) -> None:
        self._wan.release_denoisers()

    def denoisers(self) -> Mapping[str, Any]:
        return self._wan.denoisers()

    def latents(self, request: GenerationRequest, generator: torch.Generator) -> Tensor:
        return self._wan.latents(request, generator)

    def scheduler(self, request: GenerationRequest) -> Any:  # noqa: ANN401 - diffusers gives its schedulers no common type
        return self._wan.scheduler(request)

    def expert_at(self, timestep: Tensor) -> Expert:
        return self._wan.expert_at(timestep)

    def predict(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, strength: float) -> Tensor:
        model = self._parts.get("transformer")
        shown = conditioning.references

        def forward(text: Tensor, references: Tensor, which: Pass) -> Tensor:
            return self._without_references(
                self._parts.passes.run(
                    model,
                    which,
                    hidden_states=self._with_references(latents, references, model),
                    timestep=timestep.expand(1),
                    encoder_hidden_states=text,
                ),
                references.shape[2],
            )

        guided = forward(conditioning.prompt, shown, "guided")
        if strength == 1.0:
            return guided
        assert conditioning.negative is not None
        unguided = forward(conditioning.negative, shown, "unguided")
        if self._how.guidance is None:
            return unguided + strength * (guided - unguided)
        bare = forward(conditioning.negative, torch.zeros_like(shown), "bare")
        return bare + self._how.guidance * (unguided - bare) + strength * (guided - unguided)

    def preview_factors(self) -> Tensor:
        return self._wan.preview_factors()

    def tile_side(self, latents: Tensor) -> int | None:
        return self._wan.tile_side(latents)

    def decode(self, latents: Tensor, conditioning: Conditioning) -> Iterator[U8Frames | TileDone]:
        return self._wan.decode_latents(latents)

    def facts(self, request: GenerationRequest) -> dict[str, Any]:
        how = self._how
        return {
            **self._wan.facts(request),
            "references": {
                "placement": how.placement,
                "rotary_shift": None if how.rotary_shift is None else list(how.rotary_shift),
                "slots": how.slots,
                "guidance": how.guidance,
            },
        }

    def _with_references(self, latents: Tensor, references: Tensor, model: Any) -> Tensor:  # noqa: ANN401
        """What the transformer reads; its rotary embedding is told how many frames of it are references."""
        is_before = self._how.placement == "before"
        if self._how.rotary_shift is not None:
            model.rope.references, model.rope.is_before = references.shape[2], is_before
        frames = [references, latents] if is_before else [latents, references]
        return torch.cat(frames, dim=2).to(self._parts.dtypes["transformer"])

    def _without_references(self, output: Tensor, references: int) -> Tensor:
        frames = output.shape[2] - references
        return output[:, :, references:] if self._how.placement == "before" else output[:, :, :frames]


class ReferenceRotary(nn.Module):
    """Wan's rotary embedding with references at places of their own.

    Reference i has the time i and its rows and columns count from `shift` on; the video's positions stay as they are.
    `references` frames are references, at the beginning or the end.
    """

    def __init__(self, rotary: Any, shift: tuple[int, int]) -> None:  # noqa: ANN401 - diffusers' WanRotaryPosEmbed
        super().__init__()
        self.rotary = rotary
        self.shift = shift
        self.references = 0
        self.is_before = True

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, (1, tokens, 1, head) each, for latents (1, channels, frames, height, width)."""
        in_time, down, across = self.rotary.patch_size
        frames, height, width = (
            side // step for side, step in zip(hidden_states.shape[2:], (in_time, down, across), strict=True)
        )
        video = self._grid(frames - self.references, height, width, (0, 0))
        references = self._grid(self.references, height, width, self.shift)
        pair = (references, video) if self.is_before else (video, references)
        cosines, sines = (torch.cat(halves, dim=1) for halves in zip(*pair, strict=True))
        return cosines, sines

    def _grid(self, frames: int, height: int, width: int, corner: tuple[int, int]) -> tuple[Tensor, Tensor]:
        rotary = self.rotary
        sizes = [rotary.t_dim, rotary.h_dim, rotary.w_dim]

        def spread(table: Tensor) -> Tensor:
            in_time, down, across = table.split(sizes, dim=1)
            shape = (frames, height, width, -1)
            parts = (
                in_time[:frames].view(frames, 1, 1, sizes[0]),
                down[corner[0] : corner[0] + height].view(1, height, 1, sizes[1]),
                across[corner[1] : corner[1] + width].view(1, 1, width, sizes[2]),
            )
            grid = torch.cat([part.expand(shape) for part in parts], dim=-1)
            return grid.reshape(1, frames * height * width, 1, sum(sizes))

        return spread(rotary.freqs_cos), spread(rotary.freqs_sin)
