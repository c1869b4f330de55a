"""Where a run computes and in which type, and what of the machine can change the last bit. Knows no model."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

import torch

from i2v_pipeline.errors import InputError
from i2v_pipeline.types import Device, Precision

DTYPES: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def choose_device(wanted: Device | str) -> torch.device:
    """CUDA where there is one, else the CPU. Raises `InputError` for CUDA on a machine without it."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: PyTorch sees no CUDA device here. Choose cpu or auto, or install a CUDA build of PyTorch.",
            "--device cuda：PyTorch 未检测到 CUDA 设备。请选择 cpu 或 auto，或安装 CUDA 版 PyTorch。",
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def choose_precision(wanted: Precision | str, on_cuda: Precision, device: torch.device) -> Precision:
    """What is computed in: `wanted`, or for `auto` the model's own on CUDA and fp32 on the CPU, where half is slower.

    Weights in fp8 are widened to the model's own, on either device.
    """
    for name in DTYPES:
        if wanted == name:
            return name
    return on_cuda if device.type == "cuda" or wanted == "fp8" else "fp32"


def runtime_facts(device: torch.device) -> dict[str, Any]:
    """Where the arithmetic is done: what can change the last bit of a sum."""
    facts: dict[str, Any] = {
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device.type == "cuda":
        facts |= {
            "device": torch.cuda.get_device_name(device),
            "driver": _driver_version(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    return facts


def _driver_version() -> str | None:
    """The NVIDIA driver's, asked from its own program: PyTorch does not tell it. None where the program is missing."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.partition("\n")[0].strip() or None
