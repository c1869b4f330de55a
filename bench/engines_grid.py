"""The cases that engines_gpu.py measures, and what it makes of them: predicted, learned and measured side by side.

Knows no weights and no clock: a case goes out, what it took comes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from i2v_pipeline.planning.costs import CUDA_CONTEXT_GIB, Cost
from i2v_pipeline.planning.learned import Amounts, History, Past
from i2v_pipeline.types import StageName

GOALS = {"peak": 0.05, "seconds_after_one_run": 0.15}
WAN_21, A14B, TI2V, XL = "wan2.1-i2v-14b-480p", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b", "i2vgen-xl"
KALEIDO, VACE = "kaleido-14b-s2v", "wan2.1-vace-1.3b"
MODES = ("resident", "staged", "swapped")
_SHAPES: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    TI2V: ((832, 480, 49), (832, 480, 121), (1280, 704, 49), (1280, 704, 121)),
    XL: ((512, 512, 16), (512, 512, 32), (1280, 704, 16), (1280, 704, 32)),
    A14B: ((832, 480, 49), (832, 480, 81), (1280, 720, 49), (1280, 720, 81)),
}
"""Two sizes and two lengths of each, the cheapest first."""
CAPS_GIB = (12.0, 16.0, 24.0, 48.0)
CAPPED = ((TI2V, (1280, 704, 121)), (A14B, (832, 480, 81)), (XL, (1280, 704, 16)))
PUBLISHED_STEP = {"diffusers on an H100": 9.77, "LightX2V on an H100": 5.18, "bound in bf16 on an H100": 4.24}
"""Seconds of one guided step of Wan 2.1 I2V 14B, 832 x 480, 81 frames: LightX2V's README of 2025-12-01; the last is the
operations of two forwards at 790 TFLOP/s."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run. With `cap_gib` the card may give no more. Where `mode` is None the plan chooses it, for what there is.

    `references` are the pictures of subjects, for an engine that takes them.
    """

    engine: str
    width: int
    height: int
    frames: int
    mode: str | None
    cap_gib: float | None = None
    references: int = 0
    compiled: bool = False

    @property
    def id(self) -> str:
        how = self.mode or "as planned" if self.cap_gib is None else f"{self.cap_gib:g} GiB"
        shown = f" {self.references} references" if self.references else ""
        return f"{self.engine} {self.width}x{self.height}x{self.frames}{shown} {how}{' compiled' * self.compiled}"


def cases(*, is_tiny: bool, caps: bool) -> Iterator[Case]:
    """First the step that others have published, eager and compiled, and three references; then each engine and mode;
    runs with capped memory last."""
    tiny = ((64, 64, 5), (64, 64, 9), (96, 64, 5), (96, 64, 9))
    if not is_tiny:
        for compiled in (False, True):
            yield Case(engine=WAN_21, width=832, height=480, frames=81, mode=None, compiled=compiled)
    for engine, shape in ((KALEIDO, (896, 512, 81)), (VACE, (832, 480, 81))):
        width, height, frames = tiny[0] if is_tiny else shape
        yield Case(engine=engine, width=width, height=height, frames=frames, mode=None, references=3)
    for engine, shapes in _SHAPES.items():
        for mode in MODES:
            for width, height, frames in tiny if is_tiny else shapes:
                yield Case(engine=engine, width=width, height=height, frames=frames, mode=mode)
    for engine, shape in CAPPED if caps else ():
        for cap in CAPS_GIB:
            width, height, frames = tiny[0] if is_tiny else shape
            yield Case(engine=engine, width=width, height=height, frames=frames, mode=None, cap_gib=cap)


def past_of(cost: Cost, seconds: Mapping[StageName, float], reserved_gib: float | None) -> Past:
    """The run as the studio would remember it, had it found the model loaded."""
    predicted: dict[StageName, float] = {
        stage.name: stage.later_seconds for stage in cost.stages if stage.name in seconds
    }
    peak = None if reserved_gib is None else reserved_gib + CUDA_CONTEXT_GIB
    return Past(
        is_first=False,
        predicted=Amounts(seconds=predicted, vram_gib=cost.vram_gib or None, ram_gib=cost.ram_gib),
        measured=Amounts(seconds=dict(seconds), vram_gib=peak, ram_gib=cost.ram_gib),
    )


def compared(run: Past, before: History) -> dict[str, Any]:
    """Seconds and peak as counted, as `before` had learned them, and as measured; errors as parts of the measured."""
    measured = sum(run.measured.seconds.values())
    counted = sum(run.predicted.seconds.values())
    learned = sum(before.seconds(name, told, is_first=False) for name, told in run.predicted.seconds.items())
    row: dict[str, Any] = {
        "seconds": round(measured, 3),
        "counted_seconds": round(counted, 3),
        "counted_error": round(counted / measured - 1, 4),
        "learned_from_runs": len(before.runs),
        "learned_seconds": round(learned, 3) if before.runs else None,
        "learned_error": round(learned / measured - 1, 4) if before.runs else None,
    }
    if run.predicted.vram_gib and run.measured.vram_gib:
        row |= {
            "peak_gib": round(run.measured.vram_gib, 3),
            "counted_peak_gib": run.predicted.vram_gib,
            "counted_peak_error": round(run.predicted.vram_gib / run.measured.vram_gib - 1, 4),
            "learned_peak_gib": round(before.vram_gib(run.predicted.vram_gib), 3) if before.runs else None,
        }
    return row


def summary(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How many of the rows reach each goal, and the worst."""
    after = [abs(row["learned_error"]) for row in rows.values() if row.get("learned_error") is not None]
    peaks = [abs(row["counted_peak_error"]) for row in rows.values() if row.get("counted_peak_error") is not None]
    capped = [row for row in rows.values() if row.get("cap_gib") is not None and "failed" not in row]
    return {
        "goals": GOALS,
        "seconds_after_one_run": _within(after, GOALS["seconds_after_one_run"]),
        "peak": _within(peaks, GOALS["peak"]),
        "capped_runs_as_planned": f"{sum(row['is_as_planned'] for row in capped)} of {len(capped)}",
        "failed": [name for name, row in rows.items() if "failed" in row],
    }


def _within(errors: list[float], goal: float) -> dict[str, Any]:
    return {
        "within_goal": f"{sum(error <= goal for error in errors)} of {len(errors)}",
        "worst": max(errors, default=None),
    }
