"""Which program computes attention: tried on this device before it is believed. Knows no model family and no loop."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

from i2v_pipeline.errors import InputError
from i2v_pipeline.planning.machine import installed_kernels
from i2v_pipeline.types import Attention, Finding, Text

HOPPER = (9, 0)
_PROBE_SHAPE = (1, 1000, 4)
"""One clip of 1000 tokens, which no block of a kernel divides, and four heads."""
TITLES: Mapping[Attention, str] = {
    "sdpa": "torch scaled_dot_product_attention",
    "flash": "FlashAttention 2",
    "flash3": "FlashAttention 3",
    "sage": "SageAttention",
}
_BACKENDS: Mapping[Attention, str] = {"sdpa": "native", "flash": "flash", "flash3": "_flash_3", "sage": "sage"}
# On Hopper the package takes a kernel of 8-bit floats by itself, which turns Wan 2.2 into confetti (diffusers' issue
# 12783).
_ON_HOPPER: Mapping[Attention, str] = {**_BACKENDS, "sage": "_sage_qk_int8_pv_fp16_cuda"}
_ALLOWED_ERROR: Mapping[Attention, float] = {"flash": 0.02, "flash3": 0.02, "sage": 0.10}
"""Mean error over the mean size of PyTorch's result for normal noise: rounding to bf16, and to 8 bits."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a trial of one kernel found. `error` is None where it gave no result, `why` where it works."""

    kernel: Attention
    error: float | None = None
    why: str | None = None

    @property
    def works(self) -> bool:
        return self.why is None


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The kernel that is used, and the trial that decided it; None where there was nothing to try."""

    kernel: Attention
    probe: Probe | None = None

    def facts(self) -> dict[str, Any]:
        return {
            "attention": TITLES[self.kernel],
            "attention_probe": None if self.probe is None else asdict(self.probe),
        }


def choose_attention(wanted: Attention, device: torch.device, dtype: torch.dtype, head_size: int) -> Chosen:
    """What is asked for where it works here; unasked, FlashAttention 3 on the cards it is made for, else PyTorch's own.

    Nothing that rounds more than PyTorch's own is taken unasked. Raises `InputError` where what is asked for does not
    work here.
    """
    if wanted == "auto":
        if not _is_hopper(device) or "flash3" not in installed_kernels():
            return Chosen(kernel="sdpa")
        probe = try_kernel("flash3", device, dtype, head_size)
        return Chosen(kernel="flash3" if probe.works else "sdpa", probe=probe)
    if wanted == "sdpa":
        return Chosen(kernel="sdpa")
    probe = try_kernel(wanted, device, dtype, head_size)
    if not probe.works:
        raise InputError(
            f"Attention {wanted}: it does not work here: {probe.why}. Choose auto or sdpa, or install what is missing.",
            f"注意力内核 {wanted}：在此无法使用：{probe.why}。请选择 auto 或 sdpa，或安装所缺的组件。",
        )
    return Chosen(kernel=wanted, probe=probe)


def use_attention(model: Any, kernel: Attention, device: torch.device) -> None:  # noqa: ANN401
    """Has this model compute attention so.

    diffusers' own `set_attention_backend` would change the choice of every other model in the process, for good.
    """
    for module in model.modules():
        processor = getattr(module, "processor", None)
        if hasattr(processor, "_attention_backend"):
            setattr(processor, "_attention_backend", backend_of(kernel, device))  # noqa: B010 - no class declares it


def backend_of(kernel: Attention, device: torch.device) -> AttentionBackendName:
    """diffusers' name for the kernel on this device."""
    return AttentionBackendName((_ON_HOPPER if _is_hopper(device) else _BACKENDS)[kernel])


@functools.cache
def try_kernel(kernel: Attention, device: torch.device, dtype: torch.dtype, head_size: int) -> Probe:
    """Whether it gives what PyTorch's own attention gives for random values, as far as its rounding allows."""
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (*_PROBE_SHAPE, head_size)
    query, key, value = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
    with torch.inference_mode():
        expected = dispatch_attention_fn(query, key, value, backend=AttentionBackendName.NATIVE).float()
        try:
            result = dispatch_attention_fn(query, key, value, backend=backend_of(kernel, device)).float()
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError, ImportError) as error:
            return Probe(kernel=kernel, why=_reason(kernel, error))
    error = float((result - expected).abs().mean() / expected.abs().mean())
    # A value that is not a number is in no range.
    if not error <= _ALLOWED_ERROR[kernel]:
        return Probe(kernel=kernel, error=error, why=f"its result is {error:.0%} off")
    return Probe(kernel=kernel, error=round(error, 5))


def rounded_attention(probe: Probe) -> Finding:
    """Told where the kernel that was asked for rounds to 8 bits."""
    return Finding(
        code="attention_rounded",
        severity="info",
        message=Text(
            f"SageAttention computed attention in 8 bits, as was asked: in a trial on this card its result was "
            f"{probe.error or 0:.1%} off PyTorch's. The frames differ a little from those of exact attention.",
            f"按要求由 SageAttention 以 8 位计算注意力：在本机显卡上试算，与 PyTorch 的结果相差 "
            f"{probe.error or 0:.1%}。画面与精确计算略有不同。",
        ),
    )


def fell_back(probe: Probe) -> Finding:
    """Told where an installed kernel would have been taken and does not work."""
    return Finding(
        code="attention_fell_back",
        severity="info",
        message=Text(
            f"{TITLES[probe.kernel]} is installed but does not work here ({probe.why}), so PyTorch's own attention was "
            "used. The run took longer than it could have.",
            f"已安装 {TITLES[probe.kernel]}，但在此无法使用（{probe.why}），因此使用 PyTorch 自带的注意力，耗时较长。",
        ),
    )


def _reason(kernel: Attention, error: Exception) -> str:
    if kernel not in installed_kernels():
        return f"{TITLES[kernel]} is not installed"
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"[:200]


def _is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == HOPPER
