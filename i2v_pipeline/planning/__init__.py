"""Memory and time of a run, before it. Pure arithmetic: loads nothing and measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from i2v_pipeline.planning.aftercare import with_aftercare
from i2v_pipeline.planning.alternatives import standard_request
from i2v_pipeline.planning.camera import plan_camera
from i2v_pipeline.planning.diffusion import plan_diffusion, unlearned
from i2v_pipeline.planning.learned import EMPTY, Amounts, Book, Past, kind_of, note_run
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.planning.modes import mode_called
from i2v_pipeline.presets import load_presets
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Alternative, GenerationRequest, Plan, StageName


def plan_run(
    spec: EngineSpec, request: GenerationRequest, machine: Machine, *, book: Book = EMPTY, to_fetch_bytes: int = 0
) -> Plan:
    """What `request` is expected to take on `machine`, where `to_fetch_bytes` of the model are not there yet.

    `book` is what was learned from runs on this very machine.
    """
    if spec.diffusion is None:
        return with_aftercare(plan_camera(request, machine, book), request, machine)
    plan = plan_diffusion(spec, spec.diffusion, request, machine, book, to_fetch_bytes)
    plan = with_aftercare(plan, request, machine)
    if plan.fits or spec.takes.references:
        # A camera that moves through one picture is no way to bring the subjects of several together.
        return plan
    return replace(plan, alternatives=(*plan.alternatives, *_built_in(request, machine, book)))


def learn(
    path: Path,
    spec: EngineSpec,
    request: GenerationRequest,
    machine: Machine,
    plan: Plan,
    measured: Amounts,
    *,
    is_first: bool,
) -> None:
    """Notes in the file `path` what a run that was carried out as `plan` says took, beside what counting predicts."""
    if spec.diffusion is None:
        counted = plan_camera(request, machine)
        stages, vram, ram = counted.stages, None, counted.peak_ram_gib
        kind = kind_of(counted.device, request, counted.mode, "sdpa")
    else:
        cost, kind = unlearned(spec, spec.diffusion, request, machine, mode_called(plan.mode))
        stages, vram, ram = cost.stages, cost.vram_gib or None, cost.ram_gib
    seconds: Mapping[StageName, float] = {
        stage.name: stage.seconds if is_first else stage.later_seconds for stage in stages
    }
    predicted = Amounts(seconds=seconds, vram_gib=vram, ram_gib=ram)
    note_run(path, kind, Past(is_first=is_first, predicted=predicted, measured=measured))


def _built_in(request: GenerationRequest, machine: Machine, book: Book) -> tuple[Alternative, ...]:
    """The engine that needs no card: the last resort, since the subject itself does not move."""
    spec = next(spec for spec in load_presets().values() if spec.diffusion is None)
    wanted = standard_request(spec, request)
    plan = plan_camera(wanted, machine, book)
    if not plan.fits:
        return ()
    return (
        Alternative(
            loses="engine",
            engine=spec.id,
            width=wanted.width,
            height=wanted.height,
            frames=wanted.frames,
            mode=plan.mode,
            peak_vram_gib=plan.peak_vram_gib,
            peak_ram_gib=plan.peak_ram_gib,
            seconds=round(plan.seconds, 1),
        ),
    )
