"""Operations and memory of every part of a diffusion model, from its size. Knows no weights, no card and no clock.

The numbers stand in architectures.yaml, with where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field

ARCHITECTURES_PATH = Path(__file__).with_name("architectures.yaml")

Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One pass of one part: FLOPs outside attention and within, bytes moved element by element, bytes alive at most."""

    flops: float
    attention_flops: float
    elementwise_bytes: float
    activation_bytes: float

    def times(self, passes: float) -> Work:
        """The same `passes` times, one after another."""
        return Work(
            flops=self.flops * passes,
            attention_flops=self.attention_flops * passes,
            elementwise_bytes=self.elementwise_bytes * passes,
            activation_bytes=self.activation_bytes,
        )

    def beside(self, other: Work) -> Work:
        """This and `other` in one, both in memory at the same time."""
        return Work(
            flops=self.flops + other.flops,
            attention_flops=self.attention_flops + other.attention_flops,
            elementwise_bytes=self.elementwise_bytes + other.elementwise_bytes,
            activation_bytes=self.activation_bytes + other.activation_bytes,
        )

    def then(self, other: Work) -> Work:
        """This and then `other`, when nothing of this is left."""
        return Work(
            flops=self.flops + other.flops,
            attention_flops=self.attention_flops + other.attention_flops,
            elementwise_bytes=self.elementwise_bytes + other.elementwise_bytes,
            activation_bytes=max(self.activation_bytes, other.activation_bytes),
        )


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Streaming(_Strict):
    """What of a part lies on the card while its layers pass through: parameters outside of them, and the largest.

    `kept_in_fp8` are those that stay as they are where the rest is kept in fp8.
    """

    outside: Count
    largest_layer: Count
    kept_in_fp8: Count = 0


class Encoder(_Strict):
    """Reads one prompt or one picture."""

    streaming: Streaming
    flops: Amount
    attention_flops: Amount
    elementwise: Amount
    activations: Amount

    def work(self) -> Work:
        return Work(
            flops=self.flops,
            attention_flops=self.attention_flops,
            elementwise_bytes=self.elementwise,
            activation_bytes=self.activations,
        )


class _Chunk(_Strict):
    flops: Amount
    elementwise: Amount
    activations: Amount


class VaeWay(_Strict):
    """One of a VAE's two ways: pixels to latents, or back."""

    first: _Chunk
    later: _Chunk
    attention_per_square: Amount
    activations_per_frame: Amount

    def work(self, pixels: int, frames: int, frames_in_chunk: int) -> Work:
        """`frames` frames of `pixels` pixels each."""
        later = -(-(frames - 1) // frames_in_chunk)
        peak = self.later.activations if later else self.first.activations
        return Work(
            flops=pixels * (self.first.flops + later * self.later.flops),
            attention_flops=pixels**2 * (1 + later) * self.attention_per_square,
            elementwise_bytes=pixels * (self.first.elementwise + later * self.later.elementwise),
            activation_bytes=pixels * (peak + frames * self.activations_per_frame),
        )


class Vae(_Strict):
    """A VAE, chunk by chunk as the engines run it."""

    frames_in_chunk: Annotated[int, Field(gt=0)]
    encode: VaeWay
    decode: VaeWay

    def encode_work(self, pixels: int, frames: int) -> Work:
        return self.encode.work(pixels, frames, self.frames_in_chunk)

    def decode_work(self, pixels: int, frames: int) -> Work:
        return self.decode.work(pixels, frames, self.frames_in_chunk)


class Transformer(_Strict):
    """Wan's transformer: self-attention over all tokens, cross-attention to the prompt, a feed-forward net.

    VACE has `control_layers` more of the same kind, which read `control_channels` of their own.
    """

    streaming: Streaming
    width: Count
    inner_width: Count
    layers: Count
    channels_in: Count
    channels_out: Count
    pixels_in_token: Count
    text_tokens: Count
    text_width: Count
    image_tokens: Count
    image_width: Count
    timesteps: Count
    control_layers: Count = 0
    control_channels: Count = 0
    elementwise_per_token: Amount
    elementwise_once: Amount
    activations_per_token: Amount
    activations_once: Amount
    elementwise_apart: Amount = 0.0
    activations_apart: Amount = 0.0

    def tokens(self, width: int, height: int, frames: int, references: int = 0) -> int:
        """Each reference is as one latent frame more."""
        in_frame = (width // self.pixels_in_token) * (height // self.pixels_in_token)
        return ((frames - 1) // 4 + 1 + references) * in_frame

    def work(self, width: int, height: int, frames: int, references: int = 0, *, apart: bool = False) -> Work:
        """One forward. A matrix of a x b over n rows takes 2 n a b operations.

        `apart`: of several timesteps each token has its own embedding, instead of one that they share.
        """
        d, inner, tokens = self.width, self.inner_width, self.tokens(width, height, frames, references)
        layers = self.layers + self.control_layers
        context = self.text_tokens + self.image_tokens
        is_apart = apart and self.timesteps > 1
        rows = tokens if is_apart else self.timesteps
        elementwise = self.elementwise_per_token + (self.elementwise_apart if is_apart else 0)
        activations = self.activations_per_token + (self.activations_apart if is_apart else 0)
        blocks = layers * (tokens * (12 * d * d + 4 * d * inner) + 4 * context * d * d)
        # In and out of patches of 2 x 2; the prompt, the picture and the timestep become what the blocks read.
        around = 2 * tokens * 4 * (self.channels_in + self.channels_out) * d
        around += 2 * self.text_tokens * (self.text_width * d + d * d)
        around += 2 * self.image_tokens * (self.image_width**2 + self.image_width * d)
        around += 2 * rows * (256 * d + 7 * d * d)
        if self.control_layers:
            # Into tokens and into the first layer, and out of every one.
            around += 2 * tokens * (4 * self.control_channels * d + (1 + self.control_layers) * d * d)
        return Work(
            flops=float(blocks + around),
            attention_flops=float(layers * 4 * d * tokens * (tokens + context)),
            elementwise_bytes=elementwise * tokens + self.elementwise_once,
            activation_bytes=activations * tokens + self.activations_once,
        )


class _UnetFlops(_Strict):
    per_pixel_and_frame: Amount
    per_frame: Amount
    once: Amount


class _UnetAttention(_Strict):
    over_space: Amount
    over_time: Amount
    over_prompt: Amount


class Unet(_Strict):
    """I2VGen-XL's UNet: convolutions over space and time, attention over space, time and the prompt."""

    streaming: Streaming
    flops: _UnetFlops
    attention: _UnetAttention
    elementwise_per_pixel_and_frame: Amount
    elementwise_once: Amount
    activations_per_pixel_and_frame: Amount
    activations_once: Amount

    def work(self, width: int, height: int, frames: int, references: int = 0, *, apart: bool = False) -> Work:
        """One forward of a batch of one. Takes no references, and has one timestep, so nothing is `apart`."""
        pixels, volume = width * height, width * height * frames
        attention = self.attention
        along = attention.over_space * pixels + attention.over_time * frames + attention.over_prompt
        return Work(
            flops=self.flops.per_pixel_and_frame * volume + self.flops.per_frame * frames + self.flops.once,
            attention_flops=volume * along,
            elementwise_bytes=self.elementwise_per_pixel_and_frame * volume + self.elementwise_once,
            activation_bytes=self.activations_per_pixel_and_frame * volume + self.activations_once,
        )


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The parts of one engine."""

    text_encoder: Encoder
    image_encoder: Encoder | None
    vae: Vae
    denoiser: Transformer | Unet


class _Parts(_Strict):
    text_encoder: str
    image_encoder: str | None
    vae: str
    denoiser: str


class _File(_Strict):
    engines: dict[str, _Parts]
    encoders: dict[str, Encoder]
    vaes: dict[str, Vae]
    transformers: dict[str, Transformer]
    unets: dict[str, Unet]


@cache
def load_architectures() -> Mapping[str, Architecture]:
    """The architecture of each engine, by the engine's id."""
    file = _File.model_validate(yaml.safe_load(ARCHITECTURES_PATH.read_text(encoding="utf-8")))
    denoisers = {**file.transformers, **file.unets}
    return {
        engine_id: Architecture(
            text_encoder=file.encoders[parts.text_encoder],
            image_encoder=None if parts.image_encoder is None else file.encoders[parts.image_encoder],
            vae=file.vaes[parts.vae],
            denoiser=denoisers[parts.denoiser],
        )
        for engine_id, parts in file.engines.items()
    }
