"""The architecture of every diffusion engine at full size, component by component. Knows no weights and no file.

The numbers are those of the published models; a default of diffusers' class is left out where it is the published one.
Their check is the count of parameters in presets.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

# umT5-XXL, which every Wan model reads its prompt with.
_UMT5_XXL: Config = {
    "vocab_size": 256_384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10_240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
# OpenCLIP ViT-H/14.
_VIT_H: Config = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}
_VIT_H_TEXT: Config = {
    "vocab_size": 49_408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}
_STABLE_DIFFUSION_VAE: Config = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
_WAN_VAE_21: Config = {"base_dim": 96, "z_dim": 16}
_WAN_VAE_22: Config = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    # One for each channel; their values mean nothing to random weights.
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
# 40 layers of 40 heads of 128; noise, mask and picture are 16 + 4 + 16 channels.
_WAN_14B: Config = {
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "ffn_dim": 13_824,
    "num_layers": 40,
    "in_channels": 36,
    "out_channels": 16,
}
# References are further latent frames, so there is nothing beside the noise.
_WAN_T2V_14B: Config = {**_WAN_14B, "in_channels": 16}
_WAN_5B: Config = {
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "ffn_dim": 14_336,
    "num_layers": 30,
    "in_channels": 48,
    "out_channels": 48,
}
# A second branch beside every fifth or every second layer; what it reads is 2 x 16 + 64 channels.
_VACE_14B: Config = {
    **_WAN_14B,
    "in_channels": 16,
    "vace_layers": list(range(0, 40, 5)),
    "vace_in_channels": 96,
}
_VACE_1B: Config = {
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "ffn_dim": 8960,
    "num_layers": 30,
    "in_channels": 16,
    "out_channels": 16,
    "vace_layers": list(range(0, 30, 2)),
    "vace_in_channels": 96,
}
WAN_21: Mapping[str, Config] = {
    "transformer": {**_WAN_14B, "image_dim": 1280, "added_kv_proj_dim": 5120},
    "text_encoder": _UMT5_XXL,
    "image_encoder": _VIT_H,
    "vae": _WAN_VAE_21,
}

CONFIGS: Mapping[str, Mapping[str, Config]] = {
    "i2vgen-xl": {
        "unet": {
            "block_out_channels": [320, 640, 1280, 1280],
            "layers_per_block": 2,
            "cross_attention_dim": 1024,
            "attention_head_dim": 64,
        },
        "text_encoder": _VIT_H_TEXT,
        "image_encoder": _VIT_H,
        "vae": _STABLE_DIFFUSION_VAE,
    },
    "wan2.1-i2v-14b-480p": WAN_21,
    "wan2.1-i2v-14b-720p": WAN_21,
    "wan2.2-i2v-a14b": {
        "transformer": _WAN_14B,
        "transformer_2": _WAN_14B,
        "text_encoder": _UMT5_XXL,
        "vae": _WAN_VAE_21,
    },
    "wan2.2-ti2v-5b": {"transformer": _WAN_5B, "text_encoder": _UMT5_XXL, "vae": _WAN_VAE_22},
    "kaleido-14b-s2v": {"transformer": _WAN_T2V_14B, "text_encoder": _UMT5_XXL, "vae": _WAN_VAE_21},
    "skyreels-v3-r2v-14b": {"transformer": _WAN_T2V_14B, "text_encoder": _UMT5_XXL, "vae": _WAN_VAE_21},
    "wan2.1-vace-1.3b": {"transformer": _VACE_1B, "text_encoder": _UMT5_XXL, "vae": _WAN_VAE_21},
    "wan2.1-vace-14b": {"transformer": _VACE_14B, "text_encoder": _UMT5_XXL, "vae": _WAN_VAE_21},
}
"""Engine, component, the arguments of its config."""
