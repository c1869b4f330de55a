"""What a denoiser in GGUF takes: packed in memory, and widened matrix by matrix to compute. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from i2v_pipeline.errors import RequestError
from i2v_pipeline.gguf_files import COMPONENTS
from i2v_pipeline.planning.architectures import Streaming, Transformer, Unet, Work, load_architectures
from i2v_pipeline.specs import EngineSpec, PackedLayers, PackedWeights
from i2v_pipeline.types import LoraRef

WIDENED_AT_ONCE = 2**23
"""Values that are widened in one go; more would take more memory beside the result, fewer more launches."""
BITS: Mapping[str, float] = {
    "Q4_0": 4.5, "Q4_1": 5.0, "Q5_0": 5.5, "Q5_1": 6.0, "Q8_0": 8.5, "Q2_K": 2.625, "Q3_K": 3.4375, "Q4_K": 4.5,
    "Q5_K": 5.5, "Q6_K": 6.5625, "IQ4_NL": 4.5, "IQ4_XS": 4.25,
}  # fmt: skip
"""Of each value, by the layout of the blocks."""
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


def as_if_packed(spec: EngineSpec, wanted: str) -> EngineSpec:
    """The engine with the matrices of its denoiser's layers in the kind `wanted`, or with files of so many GB each.

    Raises `RequestError` for what is neither, and for an engine whose denoiser cannot be in GGUF.
    """
    denoiser = None if spec.diffusion is None else load_architectures()[spec.id].denoiser
    if spec.diffusion is None or not isinstance(denoiser, Transformer):
        raise RequestError(
            f"--gguf: {spec.id} has no denoiser that could be in GGUF. Choose one of the Wan engines.",
            f"--gguf：{spec.id} 没有可用 GGUF 的去噪模型。请选择 Wan 系列引擎。",
        )
    names = [name for name in COMPONENTS if name in spec.diffusion.components]
    packed = {name: _as_if(denoiser, spec.diffusion.components[name].parameters, wanted) for name in names}
    return replace(spec, diffusion=replace(spec.diffusion, packed=packed))


def _as_if(denoiser: Transformer, parameters: int, wanted: str) -> PackedWeights:
    outside = denoiser.streaming.outside
    inside, layers = parameters - outside, denoiser.layers + denoiser.control_layers
    bits = BITS.get(wanted)
    if bits is None:
        bits = 8 * (_gigabytes(wanted) * 1e9 - HALF_WIDTH * outside) / inside
    kind = min(BITS, key=lambda known: abs(BITS[known] - bits))
    if not min(BITS.values()) / 2 < bits <= 8 * HALF_WIDTH:
        raise _no_such_packing(wanted)
    # Layers differ where some read references too; the largest is known, and the rest is spread evenly.
    largest = denoiser.streaming.largest_layer
    sizes = [largest, *[(inside - largest) // (layers - 1)] * (layers - 1)]
    return PackedWeights(
        kinds={kind: inside, "F16": outside},
        file_bytes=int(inside * bits / 8) + HALF_WIDTH * outside,
        layers=tuple(PackedLayers(packed_bytes=int(size * bits / 8), plain_parameters=0) for size in sizes),
        outside=PackedLayers(packed_bytes=0, plain_parameters=outside),
        widest=denoiser.width * denoiser.inner_width,
    )


def _gigabytes(wanted: str) -> float:
    try:
        return float(wanted.upper().removesuffix("GB"))
    except ValueError:
        raise _no_such_packing(wanted) from None


def _no_such_packing(wanted: str) -> RequestError:
    return RequestError(
        f"--gguf {wanted}: one of {', '.join(BITS)} is meant, or the size of one file, such as 9.6GB. Files called "
        "Q4_K_M and the like mix several kinds, so only their size tells.",
        f"--gguf {wanted}：应为 {'、'.join(BITS)} 之一，或单个文件的大小（如 9.6GB）。"
        "名为 Q4_K_M 等的文件混合了多种类型，只能以大小计算。",
    )


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
