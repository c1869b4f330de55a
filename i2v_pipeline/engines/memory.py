"""Memory as this process uses it: its limit, what it holds, whether an error says that it ran out. Knows no model."""

from __future__ import annotations

import gc

import torch

from i2v_pipeline.planning.costs import CUDA_CONTEXT_GIB
from i2v_pipeline.planning.machine import cap_from_environment
from i2v_pipeline.types import MemoryKind

GIB = 2**30
_SAYS_VRAM = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
_SAYS_RAM = ("DefaultCPUAllocator", "unable to mmap", "Cannot allocate memory")


def ran_out(error: BaseException) -> MemoryKind | None:
    """Which memory ran out, where that is what `error` says; None for any other error."""
    if isinstance(error, torch.OutOfMemoryError):
        return "vram"
    if isinstance(error, MemoryError):
        return "ram"
    # PyTorch has no class of its own for these.
    if isinstance(error, RuntimeError | OSError):
        said = str(error)
        if any(words in said for words in _SAYS_VRAM):
            return "vram"
        if any(words in said for words in _SAYS_RAM):
            return "ram"
    return None


def limit(device: torch.device) -> None:
    """Holds this process to STUDIO_VRAM_CAP, where that is set; CUDA's own share is not the allocator's to count."""
    cap_gib = cap_from_environment()
    if device.type != "cuda" or cap_gib is None:
        return
    total_gib = torch.cuda.get_device_properties(device).total_memory / GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, cap_gib - CUDA_CONTEXT_GIB) / total_gib), device)


def held_gib(device: torch.device) -> float | None:
    """What tensors of this process hold on the card; None where there is none."""
    return gib(torch.cuda.memory_allocated(device)) if device.type == "cuda" else None


def gib(size_bytes: int) -> float:
    return round(size_bytes / GIB, 3)


def free(device: torch.device, *, thoroughly: bool = False) -> None:
    """Gives back what nobody refers to any more, `thoroughly` also what refers to itself, as after an error."""
    if thoroughly:
        gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        # What streamed was pinned in the host's memory, which PyTorch keeps as well.
        torch.accelerator.empty_host_cache()
