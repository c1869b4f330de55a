"""What a denoiser in GGUF takes: packed in memory, and widened matrix by matrix to compute. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from i2v_pipeline.planning.architectures import Streaming, Transformer, Unet, Work
from i2v_pipeline.specs import PackedWeights
from i2v_pipeline.types import LoraRef

WIDENED_AT_ONCE = 2**23
"""Values that are widened in one go; more would take more memory beside the result, fewer more launches."""
WIDEN_BYTES: Mapping[str, float] = {
    "Q4_0": 20.8, "Q4_1": 25.1, "Q5_0": 45.4, "Q5_1": 49.8, "Q8_0": 13.3, "Q2_K": 25.7, "Q3_K": 32.0, "Q4_K": 25.6,
    "Q5_K": 33.7, "Q6_K": 29.9, "IQ4_NL": 40.8, "IQ4_XS": 41.8,
}  # fmt: skip
"""Moved for each value in each pass, to two bytes: counted operation by operation (bench/counting.py)."""
SCRATCH_BYTES = 12.3
"""Alive at most for each value that is being widened, beside the result: counted likewise, of the kind that takes most.
"""
LORA_RANK = 64
"""Of the published LoRAs for few steps. Beside packed weights a LoRA lies in memory; what others take differs."""
HALF_WIDTH = 2


def widening(packed: Mapping[str, PackedWeights], width: int) -> Work:
    """What each pass does before it multiplies, in numbers of `width` bytes; of two experts one has the pass."""
    wider = width - HALF_WIDTH
    traffic = (
        sum(count * (WIDEN_BYTES[kind] + wider) for kind, count in each.kinds.items() if kind in WIDEN_BYTES)
        for each in packed.values()
    )
    scratch = (each.widest * width + min(each.widest, WIDENED_AT_ONCE) * SCRATCH_BYTES for each in packed.values())
    return Work(
        flops=0.0,
        attention_flops=0.0,
        elementwise_bytes=max(traffic, default=0.0),
        activation_bytes=max(scratch, default=0.0),
    )


def streaming_of(packed: PackedWeights, beside_bytes: int, width: int) -> Streaming:
    """As if it were all numbers of `width` bytes, with `beside_bytes` more in each layer."""
    return Streaming(
        outside=-(-packed.outside.bytes(width) // width),
        largest_layer=-(-(packed.largest_layer_bytes(width) + beside_bytes) // width),
    )


def lora_bytes(denoiser: Transformer | Unet, loras: Sequence[LoraRef], component: str, width: int) -> int:
    """Of one layer's part of those that are meant for the component."""
    if not isinstance(denoiser, Transformer):
        return 0
    expert = "low" if component == "transformer_2" else "high"
    meant = sum(lora.expert in (None, expert) for lora in loras)
    # Eight matrices of attention, two of the feed-forward net; each gets a row and a column for each rank.
    return meant * LORA_RANK * (16 * denoiser.width + 2 * (denoiser.width + denoiser.inner_width)) * width
