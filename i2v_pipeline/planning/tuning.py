"""How fast the same operations run: the attention kernel, and whether the blocks are compiled. Loads no kernel.

Which kernels work on a card is found out where they run; here stands which one would be taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from i2v_pipeline.planning.architectures import Transformer, load_architectures
from i2v_pipeline.planning.devices import AttentionKernel, Device
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Attention, GenerationRequest, Text

FUSED = 0.35
"""Of the element-wise traffic, what is left when a compiler or hand-written kernels join the operations."""
COMPILE_S = 30.0
"""Compiling one kind of block for all, once for each size and length: Hugging Face's post on regional compilation."""
RATES: Mapping[Attention, AttentionKernel] = {"sdpa": "sdpa", "flash": "sdpa", "flash3": "fa3", "sage": "sage2"}
"""The rate that a kernel reaches; PyTorch's own attention runs FlashAttention 2 where that can."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What changes how fast the same operations run. `compile_s` passes before the first step of a first run."""

    attention: AttentionKernel = "sdpa"
    elementwise_share: float = 1.0
    compile_s: float = 0.0


EAGER = Tuning()


def tuning_of(spec: EngineSpec, request: GenerationRequest, device: Device, installed: frozenset[Attention]) -> Tuning:
    """What `request` means on `device`. What a feature cache saves only a run can tell: nothing is counted for it."""
    return Tuning(
        attention=RATES[attention_for(spec, request, device, installed)],
        elementwise_share=FUSED if request.compiled else 1.0,
        compile_s=COMPILE_S * _kinds_of_block(spec) if request.compiled else 0.0,
    )


def _kinds_of_block(spec: EngineSpec) -> int:
    """How many differ in what they compute. VACE's second branch has two: its first block also reads the video."""
    denoiser = load_architectures()[spec.id].denoiser
    return 3 if isinstance(denoiser, Transformer) and denoiser.control_layers else 1


def attention_for(
    spec: EngineSpec, request: GenerationRequest, device: Device, installed: frozenset[Attention]
) -> Attention:
    """The kernel that is asked for; unasked, the fastest of those that round no more than PyTorch's own."""
    if request.attention != "auto":
        return request.attention
    is_half = not device.is_cpu and request.precision != "fp32"
    has_flash3 = "fa3" in device.attention_flops and "flash3" in installed
    return "flash3" if spec.takes.attention and is_half and has_flash3 else "sdpa"


def faster_here(spec: EngineSpec, device: Device, installed: frozenset[Attention]) -> tuple[Text, ...]:
    """What to install for more speed on this card, and what it costs the picture. Nothing that would not help there."""
    if device.is_cpu or not spec.takes.attention:
        return ()
    told: list[Text] = []
    own = device.attention_flops["sdpa"]
    if "fa3" in device.attention_flops and "flash3" not in installed and device.attention_flops["fa3"] > own:
        told.append(
            Text(
                f"FlashAttention 3 (build its `hopper` folder from source) computes attention "
                f"{device.attention_flops['fa3'] / own:.1f} times as fast on this card, and as exactly.",
                f"FlashAttention 3（需从源码的 hopper 目录编译）在该显卡上使注意力计算快 "
                f"{device.attention_flops['fa3'] / own:.1f} 倍，精度不变。",
            )
        )
    if "sage2" in device.attention_flops:
        gain = device.attention_flops["sage2"] / own
        install = (
            ("", "")
            if "sage" in installed
            else ("pip install sageattention, then ", "先 pip install sageattention，再用 ")
        )
        told.append(
            Text(
                f"{install[0]}--attention sage computes attention up to {gain:.1f} times as fast on this card; "
                "it rounds to 8 bits, so the frames change a little.",
                f"{install[1]}--attention sage 使该显卡上的注意力计算最多快 {gain:.1f} 倍；"
                "它按 8 位取整，画面会略有变化。",
            )
        )
    return tuple(told)
