"""What the card holds at most in each stage of a run. Knows no model; on the CPU it has nothing to tell."""

from __future__ import annotations

from typing import Any

import torch

from i2v_pipeline.types import OnProgress, Progress, StageName

GIB = 2**30


class VramMeter:
    """Stands before the caller's `on_progress` and looks at the card's memory whenever a stage gives way to another."""

    def __init__(self, on_progress: OnProgress, device: torch.device) -> None:
        self._on_progress = on_progress
        self._device = device
        self._stage: StageName = "load"
        self._peaks: dict[StageName, int] = {}
        self._reserved = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self._close()
            self._stage = progress.stage
        self._on_progress(progress)

    def facts(self) -> dict[str, Any]:
        """`stage_peaks_gib`, `peak_vram_gib`: of tensors alone; `reserved_vram_gib`: with the fragments around them."""
        if self._device.type != "cuda":
            return {}
        self._close()
        return {
            "stage_peaks_gib": {name: round(peak / GIB, 3) for name, peak in self._peaks.items()},
            "peak_vram_gib": round(max(self._peaks.values()) / GIB, 3),
            "reserved_vram_gib": round(self._reserved / GIB, 3),
        }

    def _close(self) -> None:
        if self._device.type != "cuda":
            return
        peak = torch.cuda.max_memory_allocated(self._device)
        self._peaks[self._stage] = max(peak, self._peaks.get(self._stage, 0))
        self._reserved = max(self._reserved, torch.cuda.max_memory_reserved(self._device))
        torch.cuda.reset_peak_memory_stats(self._device)
