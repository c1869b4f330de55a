"""How fast a card or a processor is, by its name. Asks no driver: `machine.py` does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

DEVICES_PATH = Path(__file__).with_name("devices.yaml")

AttentionKernel = Literal["sdpa", "fa3", "sage2"]
Rate = Annotated[float, Field(gt=0)]
_OTHER_CARDS = r"[\s-]*(?:ti|super|laptop|mobile|max-q)\b"
"""After a card's name: an RTX 3060 Ti and a laptop's RTX 4090 are not what the table has."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """Sustained rates, in operations and bytes per second. `is_known` is false for a guess at a card not in the table.

    `half_flops` is what half precision reaches, `tf32_flops` a convolution in fp32, `fp32_flops` a product in fp32.
    """

    title: str
    is_cpu: bool
    is_known: bool
    vram_gib: float
    half_flops: float
    tf32_flops: float
    fp32_flops: float
    attention_flops: Mapping[AttentionKernel, float]
    bandwidth: float
    pcie_bandwidth: float


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Device(_Strict):
    title: str
    names: list[str]
    vram_gib: Rate
    bf16: Rate
    fp32: Rate
    attention: dict[AttentionKernel, Rate]
    bandwidth: Rate
    pcie_gb_per_s: Rate
    source: str


class _Core(_Strict):
    tflops: Rate
    attention_tflops: Rate
    bandwidth_of_all: Rate
    source: str


class _File(_Strict):
    devices: dict[str, _Device]
    unknown: _Device
    cpu_core: _Core


def find_device(name: str) -> Device:
    """The card that a driver or a person calls `name`; a guess, told as one, where the table has it not."""
    known = [(alias.lower(), entry) for entry in _file().devices.values() for alias in entry.names]
    # The longest name first: an RTX 4090 D is no RTX 4090.
    for alias, entry in sorted(known, key=lambda pair: -len(pair[0])):
        series = r"[\s-]*".join(re.escape(word) for word in alias.split())
        is_named = re.search(rf"(?<![a-z0-9]){series}(?![a-z0-9])(?!{_OTHER_CARDS})", name.lower())
        if is_named or name.lower().strip() == alias.removeprefix("rtx "):
            return _device(entry, title=entry.title, is_known=True)
    return _device(_file().unknown, title=name, is_known=False)


def known_devices() -> tuple[str, ...]:
    """The ids of the cards in the table."""
    return tuple(_file().devices)


def processor(cores: int) -> Device:
    """A CPU of so many cores, on which everything is fp32."""
    core = _file().cpu_core
    flops = cores * core.tflops * 1e12
    return Device(
        title=f"CPU, {cores} cores",
        is_cpu=True,
        is_known=False,
        vram_gib=0.0,
        half_flops=flops,
        tf32_flops=flops,
        fp32_flops=flops,
        attention_flops={"sdpa": cores * core.attention_tflops * 1e12},
        bandwidth=core.bandwidth_of_all * 1e12,
        pcie_bandwidth=core.bandwidth_of_all * 1e12,
    )


@cache
def _file() -> _File:
    return _File.model_validate(yaml.safe_load(DEVICES_PATH.read_text(encoding="utf-8")))


def _device(entry: _Device, *, title: str, is_known: bool) -> Device:
    return Device(
        title=title,
        is_cpu=False,
        is_known=is_known,
        vram_gib=entry.vram_gib,
        half_flops=entry.bf16 * 1e12,
        tf32_flops=entry.bf16 / 2 * 1e12,
        fp32_flops=entry.fp32 * 1e12,
        attention_flops={kernel: rate * 1e12 for kernel, rate in entry.attention.items()},
        bandwidth=entry.bandwidth * 1e12,
        pcie_bandwidth=entry.pcie_gb_per_s * 1e9,
    )
