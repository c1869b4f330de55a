"""Memory and time of a run, before it. Pure arithmetic: loads nothing and measures nothing."""

from __future__ import annotations

from dataclasses import replace

from i2v_pipeline.planning.aftercare import with_aftercare
from i2v_pipeline.planning.alternatives import standard_request
from i2v_pipeline.planning.camera import plan_camera
from i2v_pipeline.planning.diffusion import plan_diffusion
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.presets import load_presets
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Alternative, GenerationRequest, Plan


def plan_run(spec: EngineSpec, request: GenerationRequest, machine: Machine, *, to_fetch_bytes: int = 0) -> Plan:
    """What `request` is expected to take on `machine`, where `to_fetch_bytes` of the model are not there yet."""
    if spec.diffusion is None:
        return with_aftercare(plan_camera(request, machine), request, machine)
    plan = with_aftercare(plan_diffusion(spec, spec.diffusion, request, machine, to_fetch_bytes), request, machine)
    if plan.fits or spec.takes.references:
        # A camera that moves through one picture is no way to bring the subjects of several together.
        return plan
    return replace(plan, alternatives=(*plan.alternatives, *_built_in(request, machine)))


def _built_in(request: GenerationRequest, machine: Machine) -> tuple[Alternative, ...]:
    """The engine that needs no card: the last resort, since the subject itself does not move."""
    spec = next(spec for spec in load_presets().values() if spec.diffusion is None)
    wanted = standard_request(spec, request)
    plan = plan_camera(wanted, machine)
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
