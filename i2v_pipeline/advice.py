"""What an engine can make and was not trained for. Refuses nothing and knows no prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from i2v_pipeline.images import fit_size
from i2v_pipeline.specs import DiffusionSpec, EngineSpec
from i2v_pipeline.types import Change, Finding, GenerationRequest, Text

AREA_TOLERANCE = 1.25
"""A size whose area is within this factor of a trained one counts as trained for; the aspect is the picture's."""


def training_findings(spec: EngineSpec, request: GenerationRequest) -> Iterator[Finding]:
    """Warnings for a size or a length that the model was not trained for; nothing for an engine without a model."""
    diffusion = spec.diffusion
    if diffusion is None:
        return
    if not _is_trained_size(diffusion, request.width, request.height):
        sizes = " or ".join(f"{width} × {height}" for width, height in diffusion.trained_sizes)
        sizes_zh = "或 ".join(f"{width} × {height} " for width, height in diffusion.trained_sizes)
        changes = other_resolution(spec, request, lambda width, height: _is_trained_size(diffusion, width, height))
        meant = Text("", "") if diffusion.sizes_are_exact else Text(", or any shape of that area", "或相同面积")
        yield Finding(
            code="untrained_size",
            severity="warn",
            message=Text(
                f"{request.width} × {request.height} is not what {spec.id} was trained for: {sizes}{meant.en}. "
                "Expect less detail or strange shapes.",
                f"{request.width} × {request.height} 不是 {spec.id} 训练时的尺寸（{sizes_zh.strip()}{meant.zh}），"
                "画面细节可能变差或变形。",
            ),
            remedy=Text(f"Choose {changes[0].value}.", f"请选择 {changes[0].value}。") if changes else None,
            changes=changes,
        )
    if request.frames > diffusion.trained_frames:
        yield Finding(
            code="untrained_length",
            severity="warn",
            message=Text(
                f"{request.frames} frames: {spec.id} was trained for {diffusion.trained_frames}. Longer clips "
                "tend to flicker or to jump back to the first picture.",
                f"{request.frames} 帧：{spec.id} 训练时为 {diffusion.trained_frames} 帧，"
                "更长的视频容易闪烁或跳回首帧。",
            ),
            remedy=Text(
                f"Choose {diffusion.trained_frames} frames or fewer.",
                f"请选择不超过 {diffusion.trained_frames} 帧。",
            ),
            changes=(Change(field="frames", value=diffusion.trained_frames),),
        )


def other_resolution(
    spec: EngineSpec,
    request: GenerationRequest,
    is_good: Callable[[int, int], bool],
    shape: tuple[int, int] | None = None,
) -> tuple[Change, ...]:
    """The resolution of the engine nearest to the request's that gives a good width and height; empty where none does.

    `shape` is the picture's width and height; without one its shape is that of the request.
    """
    source = shape or (request.width, request.height)
    wanted = math.log(request.width * request.height)
    if spec.diffusion is not None and spec.diffusion.sizes_are_exact:
        # Each of its names stands for the trained size whose shape is nearest.
        aspect = math.log(source[0] / source[1])
        exact = min(spec.diffusion.trained_sizes, key=lambda size: abs(math.log(size[0] / size[1]) - aspect))
        sizes = dict.fromkeys(spec.resolutions, exact)
    else:
        fitted = {name: fit_size(spec.grid, budget, *source) for name, budget in spec.resolutions.items()}
        sizes = {name: (size.width, size.height) for name, size in fitted.items()}
    good = {name: size for name, size in sizes.items() if is_good(*size)}
    if not good:
        return ()
    nearest = min(good, key=lambda name: abs(math.log(good[name][0] * good[name][1]) - wanted))
    return (Change(field="resolution", value=nearest),)


def _is_trained_size(diffusion: DiffusionSpec, width: int, height: int) -> bool:
    if diffusion.sizes_are_exact:
        return (width, height) in diffusion.trained_sizes
    areas = (trained_width * trained_height for trained_width, trained_height in diffusion.trained_sizes)
    return any(1 / AREA_TOLERANCE <= width * height / area <= AREA_TOLERANCE for area in areas)
