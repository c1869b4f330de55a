"""Wan 2.1 and 2.2 image-to-video over diffusers' components. Knows no loop, no page and no file but the checkpoint.

Three kinds: 2.1 reads the picture through extra channels and a CLIP encoder, 2.2 A14B through extra channels with two
experts, 2.2 TI2V-5B keeps the first latent frame clean and gives every token its own timestep. The arithmetic is that
of diffusers' `WanImageToVideoPipeline`, operation by operation, so that the frames are equal to the last bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, unpatchify
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPVisionModel, UMT5EncoderModel

from i2v_pipeline.denoise import to_uint8
from i2v_pipeline.engines.cache import ConditioningCache
from i2v_pipeline.engines.family import Inputs, TileDone, noise, to_signed
from i2v_pipeline.engines.loading import Parts
from i2v_pipeline.engines.passes import Pass
from i2v_pipeline.engines.preview_factors import WAN_21, WAN_22
from i2v_pipeline.engines.two_timesteps import use_two_timesteps
from i2v_pipeline.engines.wan_tiles import decode_in_tiles
from i2v_pipeline.errors import InputError
from i2v_pipeline.guidance import is_ever_guided
from i2v_pipeline.prompts import clean_prompt
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Expert, GenerationRequest, U8Frames, U8Image

KINDS: Mapping[str, Any] = {
    "text_encoder": UMT5EncoderModel,
    "image_encoder": CLIPVisionModel,
    "vae": AutoencoderKLWan,
    "transformer": WanTransformer3DModel,
    "transformer_2": WanTransformer3DModel,
}
IN_FP32 = ("vae", "image_encoder")
"""What diffusers' own examples keep in fp32 whatever the transformer's precision."""
ENCODERS = ("text_encoder", "image_encoder")
DENOISERS = ("transformer", "transformer_2")
TRAIN_TIMESTEPS = 1000
_CHANNELS_21 = 16
"""Of Wan 2.1's latents; what text-to-video reads, and with it every model that takes references."""
_MASK_CHANNELS = 4
"""One for each frame that a latent frame stands for."""


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What steers a run, on the device. `condition` is (1, channels, frames, height, width) in latent sizes.

    `mask` is 1 where there is noise and 0 where the first picture stands, for per-token timesteps; else None.
    """

    prompt: Tensor
    negative: Tensor | None
    image: Tensor | None
    condition: Tensor
    mask: Tensor | None


class Wan:
    """One Wan checkpoint as a family: encode, predict, decode."""

    def __init__(self, spec: EngineSpec, parts: Parts, cache: ConditioningCache, tokenizer: Any) -> None:  # noqa: ANN401
        assert spec.diffusion is not None
        self._spec = spec
        self._facts = spec.diffusion
        self._parts = parts
        self._cache = cache
        self._tokenizer = tokenizer
        self._boundary = None if self._facts.boundary is None else self._facts.boundary * TRAIN_TIMESTEPS

    @property
    def has_two_timesteps(self) -> bool:
        """Whether a clean first frame's embedding is shared by its tokens: on a GPU. The CPU has the memory, and so
        the frames of diffusers' own pipeline to the last bit."""
        return self._facts.per_token_timesteps and self._parts.device.type == "cuda"

    def read_text(self, text: str) -> str:
        return clean_prompt(text)

    # --- before the loop ----------------------------------------------------------------------------------------------

    def encode(self, inputs: Inputs) -> Conditioning:
        """The prompts and the pictures as the transformer reads them; an encoder loads only for what is not cached."""
        request = inputs.request
        prompt, negative = self.prompts(request)
        image = self._image(inputs) if "image_encoder" in self._facts.components else None
        self._parts.leave(*ENCODERS)
        encoded = self._picture_latents(inputs)
        if self._facts.per_token_timesteps:
            frames = self._latent_frames(request.frames)
            mask = torch.ones(1, 1, frames, *encoded.shape[3:])
            mask[:, :, 0] = 0
            condition = encoded
        else:
            mask = None
            condition = torch.cat([_channel_mask(encoded, has_last=inputs.last is not None), encoded], dim=1)
        device, dtype = self._parts.device, self._parts.dtypes["transformer"]
        return Conditioning(
            prompt=prompt,
            negative=negative,
            image=None if image is None else image.to(device, dtype),
            condition=condition.to(device),
            mask=None if mask is None else mask.to(device),
        )

    def prompts(self, request: GenerationRequest) -> tuple[Tensor, Tensor | None]:
        """The prompt and, where a step is guided, the negative one, as the transformer reads them, on the device."""
        prompt = self._text(request.prompt)
        negative = self._text(request.negative_prompt) if is_ever_guided(request.guidance or 1.0) else None
        if "image_encoder" not in self._facts.components:
            self._parts.leave(*ENCODERS)
        device, dtype = self._parts.device, self._parts.dtypes["transformer"]
        return prompt.to(device, dtype), None if negative is None else negative.to(device, dtype)

    def still_latents(self, pictures: Sequence[U8Image]) -> Tensor:
        """Each picture as one normalised latent frame, in order: float32 (1, channels, pictures, height, width)."""
        latents = [self._still_latent(picture) for picture in pictures]
        return torch.cat(latents, dim=2)

    def empty_latents(self, request: GenerationRequest) -> Tensor:
        """A video of middle grey as normalised latents, float32 (1, channels, frames, height, width)."""
        shape = (1, 3, request.frames, request.height, request.width)
        key = (*self._identity("vae"), str(shape))
        return self._cache.get("empty", key, lambda: self._encoded(torch.zeros(shape)))

    def load_denoisers(self) -> None:
        """Both experts, or the one. Raises `InputError` for a wrong model."""
        self._check_branches()
        for name in self._denoisers():
            self._check(self._parts.config(name))
        if self._parts.mode.waits == "ram":
            # The one that works first comes last: where they take turns, it is on the device when the loop begins.
            for name in reversed(self._denoisers()):
                self._parts.get(name)

    def adapt(self, name: str, model: Any) -> None:  # noqa: ANN401
        if self.has_two_timesteps and name in DENOISERS:
            use_two_timesteps(model)

    def release_denoisers(self) -> None:
        self._parts.release(*DENOISERS)

    def denoisers(self) -> Mapping[str, Any]:
        return self._parts.loaded_of(*DENOISERS)

    def latents(self, request: GenerationRequest, generator: torch.Generator) -> Tensor:
        """The noise that the loop begins with."""
        return noise((1, *self.latent_shape(request)), generator, self._parts.device)

    def latent_shape(self, request: GenerationRequest) -> tuple[int, int, int, int]:
        """Channels, frames, height and width of the video's latents."""
        vae = self._parts.look("vae").config
        return (
            vae.z_dim,
            self._latent_frames(request.frames),
            request.height // vae.scale_factor_spatial,
            request.width // vae.scale_factor_spatial,
        )

    def scheduler(self, request: GenerationRequest) -> Any:  # noqa: ANN401 - diffusers gives its schedulers no common type
        """The scheduler with its timesteps set. Every setting is ours: converted checkpoints carry other shifts."""
        assert request.steps is not None and request.flow_shift is not None
        if request.scheduler == "euler":
            scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TRAIN_TIMESTEPS, shift=request.flow_shift)
            # Distilled models are trained at the sigmas k/n; the scheduler's own spacing would end elsewhere.
            sigmas = [1 - step / request.steps for step in range(request.steps)]
            scheduler.set_timesteps(sigmas=sigmas, device=self._parts.device)
        else:
            scheduler = UniPCMultistepScheduler(
                num_train_timesteps=TRAIN_TIMESTEPS,
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                flow_shift=request.flow_shift,
            )
            scheduler.set_timesteps(request.steps, device=self._parts.device)
        return scheduler

    # --- inside the loop ----------------------------------------------------------------------------------------------

    def expert_at(self, timestep: Tensor) -> Expert:
        return "high" if self._boundary is None or bool(timestep >= self._boundary) else "low"

    def predict(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, strength: float) -> Tensor:
        names = self._denoisers()
        model = self._parts.get(names[0] if self.expert_at(timestep) == "high" else names[-1])
        dtype = self._parts.dtypes["transformer"]
        if conditioning.mask is None:
            hidden = torch.cat([latents, conditioning.condition], dim=1).to(dtype)
            timesteps = timestep.expand(1)
        else:
            hidden = _with_first_frame(latents, conditioning).to(dtype)
            timesteps = self._timesteps(conditioning.mask, timestep)

        def forward(text: Tensor, which: Pass) -> Tensor:
            return self._parts.passes.run(
                model,
                which,
                hidden_states=hidden,
                timestep=timesteps,
                encoder_hidden_states=text,
                encoder_hidden_states_image=conditioning.image,
            )

        guided = forward(conditioning.prompt, "guided")
        if strength == 1.0:
            return guided
        assert conditioning.negative is not None
        unguided = forward(conditioning.negative, "unguided")
        return unguided + strength * (guided - unguided)

    def _timesteps(self, mask: Tensor, timestep: Tensor) -> Tensor:
        """0 where the first picture stands: for the first latent frame, or for each patch of 2 x 2 of it."""
        if self.has_two_timesteps:
            return torch.stack([torch.zeros_like(timestep), timestep]).float().unsqueeze(0)
        return (mask[0][0][:, ::2, ::2] * timestep).flatten().unsqueeze(0)

    def preview_factors(self) -> Tensor:
        return WAN_22 if self._facts.per_token_timesteps else WAN_21

    # --- after the loop -----------------------------------------------------------------------------------------------

    def tile_side(self, latents: Tensor) -> int | None:
        vae = self._parts.look("vae")
        side = vae.tile_sample_min_height
        is_larger = max(latents.shape[3:]) * vae.config.scale_factor_spatial > side
        return side if self._parts.mode.tiled and is_larger else None

    def decode(self, latents: Tensor, conditioning: Conditioning) -> Iterator[U8Frames | TileDone]:
        return self.decode_latents(latents if conditioning.mask is None else _with_first_frame(latents, conditioning))

    def decode_latents(self, latents: Tensor) -> Iterator[U8Frames | TileDone]:
        """One frame, then four at a time: the VAE is causal, so each latent frame is decoded as it would be in a row.

        The same operations as `AutoencoderKLWan.decode` without tiling, which would hold the whole video in floats. In
        tiles it is held so: each tile is decoded from the first frame to the last.
        """
        tile_side = self.tile_side(latents)
        vae = self._parts.get("vae")
        mean, scale = _statistics(vae, latents.device, self._parts.dtypes["vae"])
        latents = (latents.to(self._parts.dtypes["vae"]) / scale + mean).to(vae.post_quant_conv.weight.dtype)
        vae.clear_cache()
        try:
            if tile_side is not None:
                yield from decode_in_tiles(vae, latents)
                return
            with torch.inference_mode():
                hidden = vae.post_quant_conv(latents)
            for index in range(hidden.shape[2]):
                with torch.inference_mode():
                    vae._conv_idx = [0]
                    frames = vae.decoder(
                        hidden[:, :, index : index + 1],
                        feat_cache=vae._feat_map,
                        feat_idx=vae._conv_idx,
                        first_chunk=index == 0,
                    )
                    if vae.config.patch_size is not None:
                        frames = unpatchify(frames, patch_size=vae.config.patch_size)
                    pixels = to_uint8(frames[0])
                yield pixels
        finally:
            vae.clear_cache()

    def facts(self, request: GenerationRequest) -> dict[str, Any]:
        return {"boundary": self._facts.boundary, "flow_shift": request.flow_shift}

    # --- parts --------------------------------------------------------------------------------------------------------

    def _denoisers(self) -> list[str]:
        return [name for name in DENOISERS if name in self._facts.components]

    def _latent_frames(self, frames: int) -> int:
        return (frames - 1) // self._parts.look("vae").config.scale_factor_temporal + 1

    def _text(self, text: str) -> Tensor:
        cleaned = clean_prompt(text)
        length = (self._spec.prompt_style.token_limit or 0) + 1

        def make() -> Tensor:
            encoder = self._parts.get("text_encoder")
            read = self._tokenizer(
                cleaned, padding="max_length", max_length=length, truncation=True, return_attention_mask=True,
                return_tensors="pt",
            )  # fmt: skip
            used = int(read.attention_mask.sum())
            with torch.inference_mode():
                hidden = encoder(
                    read.input_ids.to(self._parts.device), read.attention_mask.to(self._parts.device)
                ).last_hidden_state
            # Past the end of the text the transformer was trained on zeros.
            hidden = hidden.clone()
            hidden[:, used:] = 0
            return hidden

        return self._cache.get("text", (*self._identity("text_encoder"), cleaned), make)

    def _image(self, inputs: Inputs) -> Tensor:
        def make() -> Tensor:
            encoder = self._parts.get("image_encoder")
            folder = self._parts.checkpoint.folder / "image_processor"
            processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
            pixels = processor(images=Image.fromarray(inputs.first), return_tensors="pt").pixel_values
            with torch.inference_mode():
                return encoder(pixels.to(self._parts.device), output_hidden_states=True).hidden_states[-2]

        return self._cache.get("image", (*self._identity("image_encoder"), _hash(inputs.first.tobytes())), make)

    def _picture_latents(self, inputs: Inputs) -> Tensor:
        frames = 1 if self._facts.per_token_timesteps else inputs.request.frames

        def make() -> Tensor:
            first = to_signed(inputs.first).unsqueeze(2)
            video = first.new_zeros(1, 3, frames, *first.shape[3:])
            video[:, :, :1] = first
            if inputs.last is not None:
                video[:, :, -1:] = to_signed(inputs.last).unsqueeze(2)
            return self._encoded(video)

        shape = f"{frames}x{inputs.request.height}x{inputs.request.width}"
        last = "" if inputs.last is None else _hash(inputs.last.tobytes())
        return self._cache.get("picture", (*self._identity("vae"), shape, _hash(inputs.first.tobytes()), last), make)

    def _still_latent(self, picture: U8Image) -> Tensor:
        key = (*self._identity("vae"), str(picture.shape), _hash(picture.tobytes()))
        return self._cache.get("still", key, lambda: self._encoded(to_signed(picture).contiguous().unsqueeze(2)))

    def _encoded(self, video: Tensor) -> Tensor:
        """The normalised mean of what the VAE makes of a video (1, 3, frames, height, width) in -1..1."""
        vae = self._parts.get("vae")
        with torch.inference_mode():
            encoded = vae.encode(video.to(self._parts.device, vae.dtype)).latent_dist.mode().float()
            mean, scale = _statistics(vae, encoded.device, encoded.dtype)
            return (encoded - mean) * scale

    def _identity(self, name: str) -> tuple[str, ...]:
        return self._parts.fingerprint(name), str(self._parts.dtypes[name]), self._parts.device.type

    def _check_branches(self) -> None:
        """A class reads any checkpoint: what it lacks would be made up, and what is left over dropped in silence."""
        has_branch = "vace_layers" in self._parts.config("transformer")
        if has_branch != (self._spec.family == "vace"):
            raise InputError(
                f"This checkpoint is no {self._spec.id}: its transformer has {'a' if has_branch else 'no'} second "
                "branch (VACE). Choose the engine that it belongs to.",
                f"此模型不是 {self._spec.id}：其 transformer {'带有' if has_branch else '没有'} VACE 分支。"
                "请选择对应的引擎。",
            )

    def _check(self, config: Mapping[str, Any]) -> None:
        channels = self._parts.look("vae").config.z_dim
        expected = channels if self._facts.per_token_timesteps else 2 * channels + _MASK_CHANNELS
        if self._spec.takes.references:
            expected = _CHANNELS_21
        has_image, channels_in = config.get("image_dim") is not None, config.get("in_channels", _CHANNELS_21)
        if channels_in != expected or has_image != ("image_encoder" in self._facts.components):
            raise InputError(
                f"This checkpoint is no {self._spec.id}: its transformer takes {channels_in} channels and "
                f"{'an' if has_image else 'no'} encoded picture. Choose the engine that it belongs to.",
                f"此模型不是 {self._spec.id}：其 transformer 输入 {channels_in} 通道，"
                f"{'需要' if has_image else '不需要'}图像编码。请选择对应的引擎。",
            )


def _with_first_frame(latents: Tensor, conditioning: Conditioning) -> Tensor:
    assert conditioning.mask is not None
    return (1 - conditioning.mask) * conditioning.condition + conditioning.mask * latents


def _channel_mask(encoded: Tensor, *, has_last: bool) -> Tensor:
    """(1, 4, frames, height, width): 1 for each pixel frame that is given, four of them to a latent frame."""
    mask = encoded.new_zeros(1, _MASK_CHANNELS, *encoded.shape[2:])
    mask[:, :, 0] = 1
    if has_last:
        mask[:, -1, -1] = 1
    return mask


def _statistics(vae: Any, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Mean, and one over the standard deviation, of the VAE's latents: (1, channels, 1, 1, 1) each."""
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1).to(device, dtype)
    return mean, 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1).to(device, dtype)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
