"""Wan's transformer where the first latent frame has another timestep than all others: two embeddings, not one a token.

Knows no loop. The operations are those of diffusers' `WanTransformer3DModel`, whose layers hold six vectors for each
token in fp32 where two times six are enough. A product of two rows may sum in another order than one of thousands, so
the last bit may differ; `TOLERANCE` is what a test holds.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor

TOLERANCE = 1e-5
"""Largest difference of the output over its largest value, in fp32."""


def use_two_timesteps(model: Any) -> None:  # noqa: ANN401 - a WanTransformer3DModel
    """From now on `model` takes timesteps of shape (1, 2): of the first latent frame, and of all others.

    Before hooks are put around its layers, which take what they find for the layers' own.
    """
    model.forward = MethodType(_forward, model)
    for block in model.blocks:
        block.forward = MethodType(_block_forward, block)


def _forward(
    model: Any,  # noqa: ANN401
    hidden_states: Tensor,
    timestep: Tensor,
    encoder_hidden_states: Tensor,
    encoder_hidden_states_image: Tensor | None = None,
    return_dict: bool = False,
) -> tuple[Tensor]:
    assert not return_dict and encoder_hidden_states_image is None and timestep.shape == (1, 2)
    # 1. Patches and places
    patch = model.config.patch_size
    frames, height, width = (side // part for side, part in zip(hidden_states.shape[2:], patch, strict=True))
    rotary = model.rope(hidden_states)
    hidden = model.patch_embedding(hidden_states).flatten(2).transpose(1, 2).contiguous()

    # 2. Both timesteps and the prompt
    embedded, projected, text, _ = model.condition_embedder(
        timestep.flatten(), encoder_hidden_states, None, timestep_seq_len=timestep.shape[1]
    )
    projected = projected.unflatten(2, (6, -1))

    # 3. The layers
    for block in model.blocks:
        hidden = block(hidden, text, projected, rotary, height * width)

    # 4. Back to pixels of latents
    shift, scale = (model.scale_shift_table.unsqueeze(0) + embedded.unsqueeze(2)).chunk(2, dim=2)
    normed = _modulated(model.norm_out(hidden.float()), scale, shift, height * width).type_as(hidden)
    patches = model.proj_out(normed).reshape(1, frames, height, width, *patch, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return (patches.flatten(6, 7).flatten(4, 5).flatten(2, 3),)


def _block_forward(
    block: Any,  # noqa: ANN401 - a WanTransformerBlock
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    temb: Tensor,
    rotary_emb: tuple[Tensor, Tensor],
    first: int,
) -> Tensor:
    """`temb` is (1, 2, 6, width); the `first` tokens belong to the first of the two timesteps."""
    hidden = hidden_states
    shift, scale, gate, later_shift, later_scale, later_gate = (
        block.scale_shift_table.unsqueeze(0) + temb.float()
    ).chunk(6, dim=2)
    normed = _modulated(block.norm1(hidden.float()), scale, shift, first).type_as(hidden)
    attended = block.attn1(normed, None, None, rotary_emb)
    hidden = (hidden.float() + _scaled(attended.float(), gate, first)).type_as(hidden)

    normed = block.norm2(hidden.float()).type_as(hidden)
    hidden = hidden + block.attn2(normed, encoder_hidden_states, None, None)

    normed = _modulated(block.norm3(hidden.float()), later_scale, later_shift, first).type_as(hidden)
    forwarded = block.ffn(normed)
    return (hidden.float() + _scaled(forwarded.float(), later_gate, first)).type_as(hidden)


def _modulated(values: Tensor, scale: Tensor, shift: Tensor, first: int) -> Tensor:
    """values * (1 + scale) + shift, in place, the first tokens with the first row and the others with the second."""
    for row, tokens in enumerate((values[:, :first], values[:, first:])):
        tokens.mul_(1 + scale[:, row]).add_(shift[:, row])
    return values


def _scaled(values: Tensor, gate: Tensor, first: int) -> Tensor:
    """values * gate in place, in the same two parts."""
    values[:, :first].mul_(gate[:, 0])
    values[:, first:].mul_(gate[:, 1])
    return values
