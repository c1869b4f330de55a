"""I2VGen-XL over diffusers' components. Knows no loop, no page and no file but the checkpoint.

The arithmetic is that of diffusers' `I2VGenXLPipeline`, which is no longer maintained: it fails with transformers from
5.6 on and draws from PyTorch's global random state. Ours reads the penultimate layer of CLIP as the model was trained
to, and draws everything from the request's seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLUNet
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPTextModel, CLIPVisionModelWithProjection

from i2v_pipeline.denoise import to_uint8
from i2v_pipeline.engines.cache import ConditioningCache
from i2v_pipeline.engines.family import Inputs, noise, to_signed
from i2v_pipeline.engines.loading import Parts
from i2v_pipeline.engines.passes import Pass
from i2v_pipeline.engines.preview_factors import STABLE_DIFFUSION_1
from i2v_pipeline.guidance import is_ever_guided
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Expert, GenerationRequest, U8Frames, U8Image

KINDS: Mapping[str, Any] = {
    "text_encoder": CLIPTextModel,
    "image_encoder": CLIPVisionModelWithProjection,
    "vae": AutoencoderKL,
    "unet": I2VGenXLUNet,
}
IN_FP32 = ()
ENCODERS = ("text_encoder", "image_encoder")


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What steers a run, on the device. `picture` is (1, 4, frames, height, width) in latent sizes."""

    prompt: Tensor
    negative: Tensor | None
    image: Tensor
    picture: Tensor
    fps: Tensor


class I2VGenXL:
    """An I2VGen-XL checkpoint as a family: encode, predict, decode."""

    def __init__(self, spec: EngineSpec, parts: Parts, cache: ConditioningCache, tokenizer: Any) -> None:  # noqa: ANN401
        assert spec.diffusion is not None
        self._facts = spec.diffusion
        self._parts = parts
        self._cache = cache
        self._tokenizer = tokenizer

    def read_text(self, text: str) -> str:
        return text

    # --- before the loop ----------------------------------------------------------------------------------------------

    def encode(self, inputs: Inputs) -> Conditioning:
        """The prompts and the picture as the UNet reads them; an encoder loads only for what is not cached."""
        request = inputs.request
        prompt = self._text(request.prompt)
        negative = self._text(request.negative_prompt) if is_ever_guided(request.guidance or 1.0) else None
        image = self._image(inputs.first)
        self._parts.leave(*ENCODERS)
        picture = self._picture_latents(inputs)
        device, dtype = self._parts.device, self._parts.dtypes["unet"]
        return Conditioning(
            prompt=prompt.to(device, dtype),
            negative=None if negative is None else negative.to(device, dtype),
            image=image.to(device, dtype),
            picture=picture.to(device, dtype),
            fps=torch.tensor([self._facts.condition_fps], device=device),
        )

    def load_denoisers(self) -> None:
        if self._parts.mode.waits == "ram":
            self._parts.get("unet")

    def adapt(self, name: str, model: Any) -> None:  # noqa: ANN401
        """Nothing: the UNet works as it is."""

    def release_denoisers(self) -> None:
        self._parts.release("unet")

    def denoisers(self) -> Mapping[str, Any]:
        return self._parts.loaded_of("unet")

    def latents(self, request: GenerationRequest, generator: torch.Generator) -> Tensor:
        """The noise that the loop begins with."""
        factor = self._factor()
        shape = (1, self._channels(), request.frames, request.height // factor, request.width // factor)
        return noise(shape, generator, self._parts.device)

    def scheduler(self, request: GenerationRequest) -> Any:  # noqa: ANN401 - diffusers gives its schedulers no common type
        """DDIM without added noise (eta 0) as the checkpoint configures it, with its timesteps set."""
        folder = self._parts.checkpoint.folder
        assert request.steps is not None
        scheduler: Any = DDIMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
        scheduler.set_timesteps(request.steps, device=self._parts.device)
        return scheduler

    # --- inside the loop ----------------------------------------------------------------------------------------------

    def expert_at(self, timestep: Tensor) -> Expert:
        return "high"

    def predict(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning, strength: float) -> Tensor:
        """With guidance, one forward of a batch of two: unguided and guided. `alone` makes two forwards of it."""
        image = conditioning.image

        def forward(text: Tensor, image: Tensor, which: Pass) -> Tensor:
            batch = text.shape[0]
            return self._parts.passes.run(
                self._parts.get("unet"),
                which,
                sample=latents.to(self._parts.dtypes["unet"]).repeat(batch, 1, 1, 1, 1),
                timestep=timestep,
                encoder_hidden_states=text,
                fps=conditioning.fps.repeat(batch),
                image_latents=conditioning.picture.repeat(batch, 1, 1, 1, 1),
                image_embeddings=image,
            )

        if strength == 1.0:
            return forward(conditioning.prompt, image, "guided")
        assert conditioning.negative is not None
        texts, images = (conditioning.negative, conditioning.prompt), (torch.zeros_like(image), image)
        if self._parts.mode.alone:
            given = zip(texts, images, ("unguided", "guided"), strict=True)
            unguided, guided = (forward(text, image, which) for text, image, which in given)
        else:
            unguided, guided = forward(torch.cat(texts), torch.cat(images), "both").chunk(2)
        return unguided + strength * (guided - unguided)

    def preview_factors(self) -> Tensor:
        return STABLE_DIFFUSION_1

    # --- after the loop -----------------------------------------------------------------------------------------------

    def tile_side(self, latents: Tensor) -> int | None:
        vae = self._parts.look("vae")
        is_larger = max(latents.shape[3:]) > vae.tile_latent_min_size
        return vae.tile_sample_min_size if self._parts.mode.tiled and is_larger else None

    def decode(self, latents: Tensor, conditioning: Conditioning) -> Iterator[U8Frames]:
        """Frame by frame: the VAE knows no time."""
        vae = self._parts.get("vae")
        decode = vae.decode if self.tile_side(latents) is None else vae.tiled_decode
        latents = (1 / vae.config.scaling_factor * latents).to(vae.post_quant_conv.weight.dtype)
        for index in range(latents.shape[2]):
            with torch.inference_mode():
                pixels = to_uint8(decode(latents[:, :, index].contiguous()).sample[0].unsqueeze(1))
            yield pixels

    def facts(self, request: GenerationRequest) -> dict[str, Any]:
        passes = "one after the other" if self._parts.mode.alone else "a batch of two"
        return {"condition_fps": self._facts.condition_fps, "eta": 0.0, "guidance_passes": passes}

    # --- parts --------------------------------------------------------------------------------------------------------

    def _factor(self) -> int:
        return 2 ** (len(self._parts.look("vae").config.block_out_channels) - 1)

    def _channels(self) -> int:
        return self._parts.look("vae").config.latent_channels

    def _text(self, text: str) -> Tensor:
        def make() -> Tensor:
            encoder = self._parts.get("text_encoder")
            length = self._tokenizer.model_max_length
            read = self._tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                hidden = encoder(read.input_ids.to(self._parts.device), output_hidden_states=True).hidden_states[-2]
                # transformers moved the layers of the text model up in 5.6; both places are looked at.
                return getattr(encoder, "text_model", encoder).final_layer_norm(hidden)

        return self._cache.get("text", (*self._identity("text_encoder"), text), make)

    def _image(self, pixels: U8Image) -> Tensor:
        def make() -> Tensor:
            encoder = self._parts.get("image_encoder")
            folder = self._parts.checkpoint.folder / "feature_extractor"
            extractor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
            size = (extractor.crop_size["width"], extractor.crop_size["height"])
            square = _centre_square(Image.fromarray(pixels)).resize(size, Image.Resampling.BILINEAR)
            values = torch.from_numpy(np.asarray(square, dtype=np.float32)[np.newaxis] / 255.0).permute(0, 3, 1, 2)
            values = extractor(
                images=values, do_normalize=True, do_center_crop=False, do_resize=False, do_rescale=False,
                return_tensors="pt",
            ).pixel_values  # fmt: skip
            with torch.inference_mode():
                embeds = encoder(values.to(self._parts.device, self._parts.dtypes["image_encoder"])).image_embeds
            return embeds.unsqueeze(1)

        return self._cache.get("image", (*self._identity("image_encoder"), _hash(pixels)), make)

    def _picture_latents(self, inputs: Inputs) -> Tensor:
        """The first picture's latents, and for each later frame its place in time from 0 to 1 in every channel."""

        def make() -> Tensor:
            vae = self._parts.get("vae")
            pixels = to_signed(inputs.first).to(self._parts.device, self._parts.dtypes["vae"])
            with torch.inference_mode():
                return vae.encode(pixels).latent_dist.parameters

        key = (*self._identity("vae"), str(inputs.first.shape), _hash(inputs.first))
        # The distribution is kept, not the sample, which depends on the seed.
        distribution = DiagonalGaussianDistribution(self._cache.get("picture", key, make).float())
        generator = torch.Generator("cpu").manual_seed(inputs.request.seed)
        first = (distribution.sample(generator) * self._parts.look("vae").config.scaling_factor).unsqueeze(2)
        frames = inputs.request.frames
        later = [torch.full_like(first, index / (frames - 1)) for index in range(1, frames)]
        return torch.cat([first, *later], dim=2)

    def _identity(self, name: str) -> tuple[str, ...]:
        return self._parts.fingerprint(name), str(self._parts.dtypes[name]), self._parts.device.type


def _centre_square(picture: Image.Image) -> Image.Image:
    """The square that CLIP is shown: as wide as the picture; a wide picture is first enlarged to that height.

    The rule of the original inference code, resizing with a box filter as diffusers does.
    """
    side = picture.width
    scale = min(1.0, picture.height / side)
    scaled = picture.resize((round(picture.width // scale), round(picture.height // scale)), Image.Resampling.BOX)
    left, top = (scaled.width - side) // 2, (scaled.height - side) // 2
    return scaled.crop((left, top, left + side, top + side))


def _hash(pixels: U8Image) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()
