"""Checkpoints of every diffusion family with tiny random weights, built offline, and diffusers' own pipelines on them.

The weights mean nothing; the classes, the files and the arithmetic are the real ones.
"""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    I2VGenXLPipeline,
    I2VGenXLUNet,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from i2v_pipeline.presets import load_presets
from i2v_pipeline.types import GenerationRequest, Motion, Prepared, PromptOrigin, Subject, Text

WAN_21, WAN_A14B, WAN_5B, I2VGEN = "wan2.1-i2v-14b-480p", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b", "i2vgen-xl"
WANS = (WAN_21, WAN_A14B, WAN_5B)
KALEIDO, SKYREELS, VACE, VACE_14B = "kaleido-14b-s2v", "skyreels-v3-r2v-14b", "wan2.1-vace-1.3b", "wan2.1-vace-14b"
ALL = (*WANS, I2VGEN, KALEIDO, SKYREELS, VACE)
WORDS = ("a", "rose", "opens", "slowly", "cat", "turns", "its", "head", "water", "blurry", "static", "camera")
CLIP_SIDE = 32


def save_checkpoint(engine_id: str, folder: Path) -> Path:
    """A checkpoint for `engine_id` in diffusers' layout; the same bytes every time."""
    with torch.random.fork_rng():
        torch.manual_seed(len(engine_id))
        makers = {I2VGEN: _i2vgen_xl, KALEIDO: _t2v, SKYREELS: _t2v, VACE: _vace, VACE_14B: _vace}
        pipeline = makers[engine_id]() if engine_id in makers else _wan(engine_id)
    pipeline.save_pretrained(folder)
    return folder


def request_for(engine_id: str, checkpoint: Path | None, **changes) -> GenerationRequest:
    """Nine frames of 96 x 64 in three steps on the CPU, everything else as the engine's own facts say.

    Of an engine that takes references there are two, or as many as there are `images` among the changes.
    """
    spec = load_presets()[engine_id]
    diffusion = spec.diffusion
    request = GenerationRequest(
        engine=engine_id,
        images=(Path("picture.png"),),
        prompt="a rose opens slowly",
        origin=PromptOrigin(typed="a rose opens slowly", refined="a rose opens slowly", source="typed"),
        motion=Motion(),
        resolution="96x64",
        width=96,
        height=64,
        fit=spec.takes.fits[0],
        frames=9,
        fps=16,
        seed=7,
        negative_prompt="blurry",
        steps=3,
        guidance=5.0,
        scheduler=diffusion.schedulers[0],
        flow_shift=diffusion.flow_shift,
        checkpoint=checkpoint,
        device="cpu",
    )
    if spec.takes.references:
        images = changes.get("images", (Path("a.png"), Path("b.png")))
        request = replace(request, images=images, subjects=(Subject(),) * len(images))
    return replace(request, **changes)


def picture_for(request: GenerationRequest, seed: int = 0) -> Prepared:
    """A picture of random pixels at the request's size, with further ones where the request has references."""
    first, *others = (_noise_picture(request, seed + index) for index in range(len(request.images)))
    return replace(first, others=tuple(others))


def _noise_picture(request: GenerationRequest, seed: int) -> Prepared:
    shape = (request.height, request.width, 3)
    return Prepared(
        pixels=np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8),
        source=b"",
        source_format="PNG",
        source_width=request.width,
        source_height=request.height,
        fitted=Text("", ""),
    )


def frames_of(engine, request: GenerationRequest, on_progress=lambda _: None) -> np.ndarray:
    """All frames that the engine makes of the request and the picture that belongs to it."""
    return np.concatenate(list(engine.generate(request, picture_for(request), on_progress)))


def umt5_tokenizer() -> T5Tokenizer:
    """Whole words of `WORDS`, single ASCII characters for all else; a trained vocabulary would differ each time."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(chr(code), -4.0) for code in range(33, 127)]
    pieces += [(f"▁{word}", -5.0) for word in WORDS if len(word) > 1]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_tokenizer() -> CLIPTokenizer:
    """Letters alone, so a word has as many tokens as letters; 77 in all as the real one."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=77)


def _wan(engine_id: str) -> WanImageToVideoPipeline:
    is_5b, is_21 = engine_id == WAN_5B, engine_id == WAN_21
    return WanImageToVideoPipeline(
        **_text_parts(),
        vae=_vae_22() if is_5b else _vae_21(),
        # Shift 3 as converted checkpoints say, so that a test can see it overridden.
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        image_processor=_image_processor() if is_21 else None,
        image_encoder=CLIPVisionModel(_vision()) if is_21 else None,
        transformer=_wan_transformer(engine_id),
        transformer_2=_wan_transformer(engine_id) if engine_id == WAN_A14B else None,
        boundary_ratio=0.9 if engine_id == WAN_A14B else None,
        expand_timesteps=is_5b,
    )


def _text_parts() -> dict[str, object]:
    tokenizer = umt5_tokenizer()
    text_encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4, pad_token_id=0,
            eos_token_id=1,
        )
    )  # fmt: skip
    return {"tokenizer": tokenizer, "text_encoder": text_encoder}


def _t2v() -> WanPipeline:
    return WanPipeline(
        **_text_parts(),
        vae=_vae_21(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        # Kaleido's references have positions from 80 on.
        transformer=WanTransformer3DModel(**_SMALL, rope_max_seq_len=128).eval(),
    )


def _vace() -> WanVACEPipeline:
    return WanVACEPipeline(
        **_text_parts(),
        vae=_vae_21(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
        transformer=WanVACETransformer3DModel(**_SMALL, rope_max_seq_len=32, vace_layers=[0, 1]).eval(),
    )


_SMALL = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16, "out_channels": 16, "text_dim": 32,
    "freq_dim": 32, "ffn_dim": 48, "num_layers": 2,
}  # fmt: skip


def _wan_transformer(engine_id: str) -> WanTransformer3DModel:
    is_5b, is_21 = engine_id == WAN_5B, engine_id == WAN_21
    channels = 48 if is_5b else 16
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels if is_5b else 2 * channels + 4,
        out_channels=channels,
        text_dim=32,
        freq_dim=32,
        ffn_dim=48,
        num_layers=2,
        image_dim=32 if is_21 else None,
        added_kv_proj_dim=24 if is_21 else None,
        rope_max_seq_len=32,
    ).eval()


def _vae_21() -> AutoencoderKLWan:
    return AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()


def _vae_22() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=3,
        decoder_base_dim=3,
        z_dim=48,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=[0.01 * index for index in range(48)],
        latents_std=[0.5 + 0.01 * index for index in range(48)],
    ).eval()


def _vision() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32, projection_dim=16, num_hidden_layers=3, num_attention_heads=4, image_size=CLIP_SIDE,
        intermediate_size=37, patch_size=8,
    )  # fmt: skip


def _image_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(crop_size={"width": CLIP_SIDE, "height": CLIP_SIDE}, size={"shortest_edge": CLIP_SIDE})


def _i2vgen_xl() -> I2VGenXLPipeline:
    tokenizer = clip_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=37, num_hidden_layers=3,
            num_attention_heads=4, bos_token_id=0, eos_token_id=1, pad_token_id=1, max_position_embeddings=77,
        )
    )  # fmt: skip
    return I2VGenXLPipeline(
        unet=I2VGenXLUNet(
            sample_size=8,
            block_out_channels=(4, 8),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            num_attention_heads=None,
            norm_num_groups=2,
        ).eval(),
        vae=AutoencoderKL(
            block_out_channels=(4, 4, 4, 4),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=2,
            sample_size=32,
        ).eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        image_encoder=CLIPVisionModelWithProjection(_vision()).eval(),
        feature_extractor=_image_processor(),
        scheduler=DDIMScheduler(
            beta_schedule="squaredcos_cap_v2", clip_sample=False, prediction_type="v_prediction",
            rescale_betas_zero_snr=True, set_alpha_to_one=True, steps_offset=1, timestep_spacing="leading",
        ),
    )  # fmt: skip
