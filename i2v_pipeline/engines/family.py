"""What every diffusion family supplies and shares. Knows no single model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from i2v_pipeline.types import Expert, GenerationRequest, U8Frames, U8Image

C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A request with its pictures at the request's size: `first`, and `last` where the video ends in a given one.

    `others` are the references after the first, for an engine that takes references.
    """

    request: GenerationRequest
    first: U8Image
    last: U8Image | None
    others: tuple[U8Image, ...] = ()

    @property
    def pictures(self) -> tuple[U8Image, ...]:
        """All references in their order."""
        return (self.first, *self.others)


@dataclass(frozen=True, kw_only=True)
class TileDone:
    """That a tile is decoded, where frames come only once all of them are."""

    tile: int
    tiles: int


class Family(Protocol[C]):
    """A model family: encode, predict, decode. `C` is its conditioning, which only it looks into."""

    def read_text(self, text: str) -> str:
        """The text as the tokenizer gets it."""
        ...

    def encode(self, inputs: Inputs) -> C: ...

    def load_denoisers(self) -> None:
        """Loads those that stay; where parts wait on the disk each comes when it is needed.

        Raises `InputError` for a checkpoint of another model.
        """
        ...

    def adapt(self, name: str, model: Any) -> None:  # noqa: ANN401 - the class depends on the name
        """Changes how the component works that was just loaded, not its weights."""
        ...

    def release_denoisers(self) -> None: ...

    def denoisers(self) -> Mapping[str, Any]:
        """The denoisers that are loaded, by component, wherever they lie."""
        ...

    def latents(self, request: GenerationRequest, generator: torch.Generator) -> Tensor: ...

    def scheduler(self, request: GenerationRequest) -> Any: ...  # noqa: ANN401 - diffusers gives its schedulers no common type

    def expert_at(self, timestep: Tensor) -> Expert: ...

    def predict(self, latents: Tensor, timestep: Tensor, conditioning: C, strength: float) -> Tensor: ...

    def preview_factors(self) -> Tensor: ...

    def tile_side(self, latents: Tensor) -> int | None:
        """The side in pixels of the tiles that the mode has `latents` decoded in; None: they are decoded whole."""
        ...

    def decode(self, latents: Tensor, conditioning: C) -> Iterator[U8Frames | TileDone]: ...

    def facts(self, request: GenerationRequest) -> dict[str, Any]: ...


def to_signed(pixels: U8Image) -> Tensor:
    """A picture as float32 (1, 3, height, width) in -1..1, its channels innermost in memory.

    The layout is that of diffusers' own preprocessing: convolutions choose their kernel, and with it the last bit, by
    it.
    """
    return 2.0 * (torch.from_numpy(pixels[np.newaxis].copy()).permute(0, 3, 1, 2).float() / 255.0) - 1.0


def noise(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Normal noise, drawn in float32 on the CPU, so that a seed means the same on every device."""
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device)
