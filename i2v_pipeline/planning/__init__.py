"""Memory and time of a run, before it. Pure arithmetic: loads nothing and measures nothing."""

from __future__ import annotations

from i2v_pipeline.planning.camera import plan_camera
from i2v_pipeline.planning.diffusion import plan_diffusion
from i2v_pipeline.types import EngineSpec, GenerationRequest, Plan


def plan_run(spec: EngineSpec, request: GenerationRequest) -> Plan:
    """What `request` is expected to take on this machine."""
    if spec.family == "camera":
        return plan_camera(request)
    if spec.diffusion is not None:
        return plan_diffusion(spec, spec.diffusion, request)
    raise AssertionError(f"no cost model for the family {spec.family!r}")
