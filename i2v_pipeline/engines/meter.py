"""What stands between a run and whoever hears its progress: loads within other stages, and the card's memory by stage.

Knows no model.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from i2v_pipeline.types import OnProgress, Progress, StageName

GIB = 2**30


class LoadTeller:
    """Tells of each load as the stage `load`, and once it is over of the stage that waited for it again.

    `parts` is how many loads there are at most. `seconds` is how long each component's last load took, `spent_s` all.
    """

    def __init__(self, on_progress: OnProgress, parts: int) -> None:
        self.seconds: dict[str, float] = {}
        self.spent_s = 0.0
        self._on_progress = on_progress
        self._parts = parts
        self._loads = 0
        self._waits = Progress(stage="load", step=0, steps=parts)
        self._began = ("", 0.0)

    def __call__(self, progress: Progress) -> None:
        self._waits = replace(progress, preview=None)
        self._on_progress(progress)

    def on_load(self, name: str | None) -> None:
        if name is None:
            loaded, began = self._began
            self.seconds[loaded] = time.monotonic() - began
            self.spent_s += self.seconds[loaded]
            self._loads += 1
            self._on_progress(self._waits)
        else:
            self._on_progress(replace(self._waits, stage="load", step=self._loads, steps=self._parts))
            self._began = (name, time.monotonic())


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
