"""Checkpoints as Kaleido's are published, made from a tiny random Wan transformer. The names stand here once more, as
text, so that the tests do not ask the code under test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

PREFIX = "model.diffusion_model."
TINY = {
    "num_attention_heads": 1, "attention_head_dim": 128, "text_dim": 32, "freq_dim": 32, "ffn_dim": 160,
    "num_layers": 2,
}  # fmt: skip
ONCE = {
    "mixins.patch_embed.proj": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embed.0": "condition_embedder.time_embedder.linear_1",
    "time_embed.2": "condition_embedder.time_embedder.linear_2",
    "adaln_projection.1": "condition_embedder.time_proj",
    "mixins.final_layer.linear": "proj_out",
}
LAYER = {
    "attention.query_key_value": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attention.dense": ("attn1.to_out.0",),
    "cross_attention.query": ("attn2.to_q",),
    "cross_attention.key_value": ("attn2.to_k", "attn2.to_v"),
    "cross_attention.dense": ("attn2.to_out.0",),
    "post_cross_attention_layernorm": ("norm2",),
    "mlp.dense_h_to_4h": ("ffn.net.0.proj",),
    "mlp.dense_4h_to_h": ("ffn.net.2",),
}
NORMS = {
    "query_layernorm_list": "attn1.norm_q",
    "key_layernorm_list": "attn1.norm_k",
    "cross_query_layernorm_list": "attn2.norm_q",
    "cross_key_layernorm_list": "attn2.norm_k",
}


def tiny_transformer(seed: int = 0) -> WanTransformer3DModel:
    """Every value random, the norms' and tables' among them, so that no two tensors are alike."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WanTransformer3DModel(**TINY).eval()
        for tensor in model.state_dict().values():
            tensor.normal_()
    return model


def as_published(model: WanTransformer3DModel, prefix: str = PREFIX) -> dict[str, Tensor]:
    """The model's tensors under the names of the published checkpoint, query, key and value in one."""
    ours = model.state_dict()
    theirs = {"mixins.final_layer.adaLN_modulation": ours["scale_shift_table"]}
    for sat, name in ONCE.items():
        for ending in ("weight", "bias"):
            theirs[f"{sat}.{ending}"] = ours[f"{name}.{ending}"]
    for i in range(model.config.num_layers):
        theirs[f"mixins.adaln_layer.adaLN_modulations.{i}"] = ours[f"blocks.{i}.scale_shift_table"]
        for sat, name in NORMS.items():
            theirs[f"mixins.adaln_layer.{sat}.{i}.weight"] = ours[f"blocks.{i}.{name}.weight"]
        for sat, names in LAYER.items():
            for ending in ("weight", "bias"):
                parts = [ours[f"blocks.{i}.{name}.{ending}"] for name in names]
                theirs[f"transformer.layers.{i}.{sat}.{ending}"] = torch.cat(parts)
    return {prefix + name: tensor for name, tensor in theirs.items()}


def save_merged(tensors: Mapping[str, Tensor], file: Path) -> Path:
    """As a training program saves it: the weights in a section, a number beside it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"module": dict(tensors), "iteration": 1}, file)
    return file
