"""What runs on this machine took beside what was predicted for them, and what the next plan makes of it.

A small file beside the jobs; knows no engine and no card. A file that cannot be read is taken for an empty one: what it
held is learned again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from i2v_pipeline.types import GenerationRequest, StageName, StagePlan

log = logging.getLogger("studio.learned")

FORMAT = 1
RUNS_KEPT = 8
"""Of each kind, the newest: drivers, libraries and cards' clocks change."""
KINDS_KEPT = 64
MAX_BYTES = 2**20
"""All that is kept takes a fifth of this."""
LEAST_S = 0.001
"""Shorter stages weigh as this: a relative error of nothing means nothing."""
SAME_SIZE = 1.25
"""Runs whose largest prediction is below this times their smallest say nothing about how the time grows."""

_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Amounts(BaseModel):
    """Seconds by stage and peaks of memory of one run: as predicted for it, or as measured.

    Of a prediction `seconds` are those of the run it was: with or without loading. `vram_gib` is None without a GPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    seconds: Mapping[StageName, _Amount]
    vram_gib: _Amount | None
    ram_gib: _Amount


class Past(BaseModel):
    """One run that came to its end. `is_first` where the model had to be loaded for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    is_first: bool
    predicted: Amounts
    measured: Amounts


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
    kinds: dict[str, list[Past]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """seconds = `offset_s` + `slope` * predicted seconds. Both are at least 0, so more work never takes less."""

    offset_s: float = 0.0
    slope: float = 1.0

    def at(self, predicted_s: float) -> float:
        return self.offset_s + self.slope * predicted_s


@dataclass(frozen=True, kw_only=True)
class History:
    """The past runs of one kind."""

    runs: tuple[Past, ...] = ()

    def seconds(self, stage: StageName, predicted_s: float, *, is_first: bool) -> float:
        """What the stage is expected to take in a run that loads the model, or in one that finds it loaded.

        The other sort of run stands in where there was none of this one, but not for the load itself.
        """
        alike = [run for run in self.runs if run.is_first == is_first]
        runs = alike or ([] if stage == "load" else self.runs)
        pairs = [(run.predicted.seconds[stage], run.measured.seconds.get(stage, 0.0)) for run in runs
                 if stage in run.predicted.seconds]  # fmt: skip
        return fit_line(pairs).at(predicted_s)

    def vram_gib(self, predicted: float) -> float:
        return _peak(predicted, [(run.predicted.vram_gib, run.measured.vram_gib) for run in self.runs])

    def ram_gib(self, predicted: float) -> float:
        return _peak(predicted, [(run.predicted.ram_gib, run.measured.ram_gib) for run in self.runs])

    def corrected(self, stages: Sequence[StagePlan]) -> tuple[StagePlan, ...]:
        """The stages with the seconds that this history makes of them.

        Where the model is read anew in every run there is one sort of runs, those that load it.
        """
        reads_again = any(stage.name == "load" and stage.seconds == stage.later_seconds > 0 for stage in stages)
        return tuple(
            StagePlan(
                name=stage.name,
                weights_gib=stage.weights_gib,
                activations_gib=stage.activations_gib,
                seconds=round(self.seconds(stage.name, stage.seconds, is_first=True), 3),
                later_seconds=round(self.seconds(stage.name, stage.later_seconds, is_first=reads_again), 3),
            )
            for stage in stages
        )


NOTHING = History()


@dataclass(frozen=True, kw_only=True)
class Book:
    """All histories, by kind of run."""

    kinds: Mapping[str, History] = field(default_factory=dict[str, History])

    def of(self, kind: str) -> History:
        return self.kinds.get(kind, NOTHING)


EMPTY = Book()


def kind_of(device: str, request: GenerationRequest, mode: str, attention: str) -> str:
    """The name of all that runs have in common whose times tell something about each other's."""
    own = "" if request.checkpoint is None else hashlib.sha256(str(request.checkpoint.resolve()).encode()).hexdigest()
    parts = (device, request.engine, own[:16], mode, request.precision, attention, request.cache,
             "compiled" if request.compiled else "eager")  # fmt: skip
    return " | ".join(parts)


def read_book(path: Path) -> Book:
    """What was learned so far; nothing, and a word in the log, where the file is damaged or of another version."""
    return Book(kinds={kind: History(runs=tuple(runs)) for kind, runs in _read(path).items()})


def note_run(path: Path, kind: str, past: Past) -> None:
    """Adds a run to the file, which is written whole or not at all. A disk that refuses is a word in the log.

    Where two processes note at once, one of the two notes may be lost.
    """
    kinds = _read(path)
    runs = [*kinds.pop(kind, []), past][-RUNS_KEPT:]
    # The kind that ran last stands last; those that ran longest ago leave first.
    kept = dict([*kinds.items(), (kind, runs)][-KINDS_KEPT:])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(_File(format=FORMAT, kinds=kept).model_dump_json(indent=1), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        log.warning("What this run took could not be noted: %s", error)
        with contextlib.suppress(OSError):
            temporary.unlink()


def fit_line(pairs: Sequence[tuple[float, float]]) -> Line:
    """The line through (predicted, measured) seconds with the least relative errors.

    Runs of about one size fix the slope alone, by their geometric mean.
    """
    known = [(predicted, max(measured, LEAST_S)) for predicted, measured in pairs]
    if not known:
        return Line()
    if min(predicted for predicted, _ in known) < LEAST_S:
        # Next to nothing was predicted for one of them, so there is nothing that could be multiplied.
        return Line(offset_s=max(0.0, sum(measured - predicted for predicted, measured in known) / len(known)))
    smallest, largest = min(known)[0], max(known)[0]
    if largest < SAME_SIZE * smallest:
        return Line(slope=math.exp(sum(math.log(measured / predicted) for predicted, measured in known) / len(known)))
    # Least squares of (offset + slope * predicted) / measured - 1.
    ones = sum(1 / measured**2 for _, measured in known)
    cross = sum(predicted / measured**2 for predicted, measured in known)
    squares = sum((predicted / measured) ** 2 for predicted, measured in known)
    left, right = sum(1 / measured for _, measured in known), sum(predicted / measured for predicted, measured in known)
    determinant = ones * squares - cross**2
    offset, slope = left * squares - right * cross, ones * right - cross * left
    if offset <= 0 or determinant <= 0:
        return Line(slope=right / squares)
    if slope <= 0:
        return Line(offset_s=left / ones, slope=0.0)
    return Line(offset_s=offset / determinant, slope=slope / determinant)


def _peak(predicted: float, pairs: Iterable[tuple[float | None, float | None]]) -> float:
    """The prediction times the worst ratio that was seen; a smaller peak counts only up to the largest run so far."""
    known = [(told, taken) for told, taken in pairs if told and taken]
    if not known:
        return predicted
    worst = max(taken / told for told, taken in known)
    is_within = predicted <= max(told for told, _ in known)
    return predicted * (worst if is_within else max(1.0, worst))


def _read(path: Path) -> dict[str, list[Past]]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError("it is too large")
        return dict(_File.model_validate_json(content).kinds)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, ValidationError) as error:
        log.warning("What was learned from earlier runs cannot be read and is learned again: %s", error)
        return {}
