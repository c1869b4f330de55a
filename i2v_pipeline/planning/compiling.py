"""Whether compiling pays for some videos: what it takes once against what it saves of each. Compiles nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from i2v_pipeline.planning.costs import cost_of
from i2v_pipeline.planning.job import job_of
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.planning.modes import mode_called
from i2v_pipeline.planning.tuning import tuning_of
from i2v_pipeline.presets import find_engine, load_presets
from i2v_pipeline.types import GenerationRequest, Plan


@dataclass(frozen=True, kw_only=True)
class Compiling:
    """What it would take in all, once for each of `shapes`, and save of `videos` together."""

    videos: int
    shapes: int
    compile_s: float
    saved_s: float

    @property
    def pays(self) -> bool:
        return self.saved_s > self.compile_s

    @property
    def pays_from_videos(self) -> int:
        """The fewest videos like these that it would pay for."""
        return math.floor(self.compile_s * self.videos / self.saved_s) + 1


def compiling_of(
    requests: Sequence[GenerationRequest], machine: Machine, plan_of: Callable[[GenerationRequest], Plan]
) -> Compiling | None:
    """None where one of the runs may not be compiled, or none of them has anything of it.

    What is saved is a share of the denoising that `plan_of` tells, which past runs may have corrected; the share itself
    is counted. A run whose layers stream or are kept in fp8 goes on as it would, without being compiled.
    """
    is_possible = machine.gpu is not None and machine.can_compile and all(may_compile(each) for each in requests)
    if not is_possible:
        return None
    shapes: dict[tuple[object, ...], float] = {}
    saved_s, videos = 0.0, 0
    for request in requests:
        plan = plan_of(request)
        mode = mode_called(plan.mode)
        if mode.placement == "streamed" or mode.fp8:
            continue
        spec, device = find_engine(request.engine), machine.device(on_cpu=False)
        assert spec.diffusion is not None
        job = job_of(spec, spec.diffusion, request, on_cpu=False)
        tunings = [
            tuning_of(spec, replace(request, compiled=compiled), device, machine.kernels) for compiled in (False, True)
        ]
        eager, compiled = (
            next(stage.later_seconds for stage in cost_of(job, mode, device, tuning).stages if stage.name == "denoise")
            for tuning in tunings
        )
        planned = next(stage.later_seconds for stage in plan.stages if stage.name == "denoise")
        shapes[shape_of(request)] = tunings[1].compile_s
        saved_s += planned * (1 - compiled / eager)
        videos += 1
    if saved_s <= 0:
        return None
    return Compiling(videos=videos, shapes=len(shapes), compile_s=sum(shapes.values()), saved_s=saved_s)


def may_compile(request: GenerationRequest) -> bool:
    """Whether somebody could still choose it for this run."""
    spec = load_presets().get(request.engine)
    is_free = not request.compiled and request.cache == "off"
    return (
        is_free
        and spec is not None
        and spec.takes.compiled
        and request.device != "cpu"
        and (request.precision != "fp8")
    )


def shape_of(request: GenerationRequest) -> tuple[object, ...]:
    """What has to be alike for two runs to share what was compiled."""
    size = (request.width, request.height, request.frames, len(request.images))
    return (request.engine, request.checkpoint, request.precision, *size)
