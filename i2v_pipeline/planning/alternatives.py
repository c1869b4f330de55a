"""What to change about a run that does not fit, so that it does: least loss to the picture first.

Fewer pixels come before fewer frames, both before another engine. Judges nothing itself: the caller tries each one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from i2v_pipeline.images import fit_size, legal_frames
from i2v_pipeline.planning.costs import Cost
from i2v_pipeline.presets import load_presets
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Alternative, GenerationRequest


@dataclass(frozen=True, kw_only=True)
class Try:
    """How a changed run came out."""

    fits: bool
    cost: Cost


Attempt = Callable[[EngineSpec, GenerationRequest], Try]


def alternatives_to(spec: EngineSpec, request: GenerationRequest, attempt: Attempt) -> tuple[Alternative, ...]:
    """Every one fits: the largest size, the most frames, both together where neither is enough, smaller engines."""
    smaller = list(_smaller_sizes(spec, request))
    found = [_first(spec, smaller, attempt, "resolution"), _longest(spec, request, attempt, "frames")]
    if not any(found):
        both = (_longest(spec, size, attempt, "both") for size in smaller)
        found.append(next((each for each in both if each is not None), None))
    found += [_first(other, [standard_request(other, request)], attempt, "engine") for other in _smaller_engines(spec)]
    return tuple(each for each in found if each is not None)


Loss = Literal["resolution", "frames", "both", "engine"]


def _first(spec: EngineSpec, wanted: list[GenerationRequest], attempt: Attempt, loses: Loss) -> Alternative | None:
    for request in wanted:
        tried = attempt(spec, request)
        if tried.fits:
            return _alternative(spec, request, tried.cost, loses)
    return None


def _longest(spec: EngineSpec, request: GenerationRequest, attempt: Attempt, loses: Loss) -> Alternative | None:
    """The most frames that fit, halving the counts that are left: more frames never need less."""
    counts = [count for count in legal_frames(spec.grid) if count < request.frames]
    best: Alternative | None = None
    low, high = 0, len(counts)
    while low < high:
        middle = (low + high) // 2
        shorter = replace(request, frames=counts[middle])
        tried = attempt(spec, shorter)
        if tried.fits:
            best, low = _alternative(spec, shorter, tried.cost, loses), middle + 1
        else:
            high = middle
    return best


def _smaller_sizes(spec: EngineSpec, request: GenerationRequest) -> Iterator[GenerationRequest]:
    """The engine's own resolutions below this one, largest first, in the request's shape."""
    if spec.diffusion is not None and spec.diffusion.sizes_are_exact:
        return
    pixels = request.width * request.height
    budgets = [budget for budget in spec.resolutions.values() if budget[0] * budget[1] < pixels]
    for budget in sorted(budgets, key=lambda budget: -budget[0] * budget[1]):
        size = fit_size(spec.grid, budget, request.width, request.height)
        if size.width * size.height < pixels:
            yield replace(request, resolution=f"{size.width}x{size.height}", width=size.width, height=size.height)


def _smaller_engines(spec: EngineSpec) -> list[EngineSpec]:
    """Models with fewer parameters that take the same kind of pictures, the largest first."""
    alike = [other for other in load_presets().values() if bool(other.takes.references) == bool(spec.takes.references)]
    others = [other for other in alike if 0 < _parameters(other) < _parameters(spec)]
    return sorted(others, key=_parameters, reverse=True)


def _parameters(spec: EngineSpec) -> int:
    if spec.diffusion is None:
        return 0
    return sum(component.parameters for component in spec.diffusion.components.values())


def standard_request(spec: EngineSpec, request: GenerationRequest) -> GenerationRequest:
    """The engine's standard preset in the request's shape."""
    preset, facts = spec.presets["standard"], spec.diffusion
    size = fit_size(spec.grid, spec.resolutions[preset.resolution], request.width, request.height)
    width, height = size.width, size.height
    if facts is not None and facts.sizes_are_exact:
        aspect = request.width / request.height
        width, height = min(facts.trained_sizes, key=lambda each: abs(each[0] / each[1] / aspect - 1))
    return replace(
        request,
        engine=spec.id,
        resolution=preset.resolution,
        width=width,
        height=height,
        frames=preset.frames,
        fps=preset.fps,
        steps=preset.steps,
        guidance=preset.guidance,
        scheduler=None if facts is None else facts.schedulers[0],
        flow_shift=None if facts is None else facts.flow_shift,
        loras=(),
        attention="auto",
        cache="off",
        compiled=False,
    )


def _alternative(spec: EngineSpec, request: GenerationRequest, cost: Cost, loses: Loss) -> Alternative:
    return Alternative(
        loses=loses,
        engine=spec.id,
        width=request.width,
        height=request.height,
        frames=request.frames,
        mode=cost.mode.id,
        peak_vram_gib=cost.vram_gib,
        peak_ram_gib=cost.ram_gib,
        seconds=round(cost.seconds, 1),
    )
