"""What an engine can make and was not trained for. Refuses nothing and knows no prompt."""

from __future__ import annotations

from collections.abc import Iterator

from i2v_pipeline.specs import DiffusionSpec, EngineSpec
from i2v_pipeline.types import Finding, GenerationRequest, Text

AREA_TOLERANCE = 1.25
"""A size whose area is within this factor of a trained one counts as trained for; the aspect is the picture's."""


def training_findings(spec: EngineSpec, request: GenerationRequest) -> Iterator[Finding]:
    """Warnings for a size or a length that the model was not trained for; nothing for an engine without a model."""
    if spec.diffusion is None:
        return
    if not _is_trained_size(spec.diffusion, request.width, request.height):
        sizes = " or ".join(f"{width} × {height}" for width, height in spec.diffusion.trained_sizes)
        sizes_zh = "或 ".join(f"{width} × {height} " for width, height in spec.diffusion.trained_sizes)
        meant = Text("", "") if spec.diffusion.sizes_are_exact else Text(", or any shape of that area", "或相同面积")
        yield Finding(
            code="untrained_size",
            severity="warn",
            message=Text(
                f"{request.width} × {request.height} is not what {spec.id} was trained for: {sizes}{meant.en}. "
                "Expect less detail or strange shapes.",
                f"{request.width} × {request.height} 不是 {spec.id} 训练时的尺寸（{sizes_zh.strip()}{meant.zh}），"
                "画面细节可能变差或变形。",
            ),
        )
    if request.frames > spec.diffusion.trained_frames:
        yield Finding(
            code="untrained_length",
            severity="warn",
            message=Text(
                f"{request.frames} frames: {spec.id} was trained for {spec.diffusion.trained_frames}. Longer clips "
                "tend to flicker or to jump back to the first picture.",
                f"{request.frames} 帧：{spec.id} 训练时为 {spec.diffusion.trained_frames} 帧，"
                "更长的视频容易闪烁或跳回首帧。",
            ),
            remedy=Text(
                f"Choose {spec.diffusion.trained_frames} frames or fewer.",
                f"请选择不超过 {spec.diffusion.trained_frames} 帧。",
            ),
        )


def _is_trained_size(diffusion: DiffusionSpec, width: int, height: int) -> bool:
    if diffusion.sizes_are_exact:
        return (width, height) in diffusion.trained_sizes
    areas = (trained_width * trained_height for trained_width, trained_height in diffusion.trained_sizes)
    return any(1 / AREA_TOLERANCE <= width * height / area <= AREA_TOLERANCE for area in areas)
