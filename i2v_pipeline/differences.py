"""What of two runs' reports differs, and how far their frames are apart. Makes no video and knows no recipe."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from i2v_pipeline.errors import StudioError
from i2v_pipeline.types import Text, U8Frames
from i2v_pipeline.video import read_frames

COMPARED: Mapping[str, tuple[str, ...] | None] = {
    "parameters": None,
    "prompt": ("sent", "negative_sent", "tokens", "motion"),
    "image": None,
    "references": None,
    "engine": None,
    "environment": None,
    "output": ("width", "height", "frames", "fps", "codec"),
}
"""The sections of the report that can explain other frames, and which of their fields; None: all."""
NOT_COMPARED = frozenset(
    {
        # Asked for, not used: what was used stands in `engine` and `environment`.
        "parameters.device", "parameters.precision", "parameters.checkpoint",
        # Where a file lay, and whether the picture goes into the video, change no frame.
        "parameters.loras", "parameters.embed_source",
        # What an earlier run had left in memory.
        "engine.loaded", "engine.reused",
        # Sentences that follow from the numbers.
        "image.fitted", "image.fitted_zh", "image.last.fitted", "image.last.fitted_zh",
        "references.fitted", "references.fitted_zh",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A field of the report with another value than then; `field` is its place, with dots."""

    field: str
    then: Any
    now: Any


@dataclass(frozen=True, kw_only=True)
class Psnr:
    """Peak signal-to-noise ratio in dB: of the worst frame, and of the mean squared error of all; None when equal."""

    min_db: float | None
    mean_db: float | None


def find_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """The fields of `COMPARED` that differ between two reports. What the older one does not speak of is left out."""
    for section, names in COMPARED.items():
        old, new = then.get(section), now.get(section)
        if isinstance(old, list):
            yield from _differences(section, old, new)
        if not isinstance(old, dict) or not isinstance(new, dict):
            continue
        for name in old if names is None else [name for name in names if name in old]:
            yield from _differences(f"{section}.{name}", old[name], new.get(name))


def measure_psnr(one: Iterator[U8Frames], other: Iterator[U8Frames]) -> Psnr | None:
    """Frame by frame over two videos; None where they differ in size or number of frames."""
    errors: list[float] = []
    for a, b in zip_longest(one, other):
        if a is None or b is None or a.shape != b.shape:
            return None
        errors.append(float(np.mean(np.square(a.astype(np.float32) - b), dtype=np.float64)))
    return Psnr(min_db=_db(max(errors)), mean_db=_db(sum(errors) / len(errors))) if errors else None


def _differences(place: str, then: Any, now: Any) -> Iterator[Difference]:  # noqa: ANN401 - any JSON values
    if re.sub(r"\.\d+", "", place) in NOT_COMPARED or then == now:
        return
    if isinstance(then, dict) and isinstance(now, dict):
        for name, value in then.items():
            yield from _differences(f"{place}.{name}", value, now.get(name))
    elif _are_lists_of_parts(then, now):
        for index, (old, new) in enumerate(zip(then, now, strict=True)):
            yield from _differences(f"{place}.{index}", old, new)
    else:
        yield Difference(field=place, then=then, now=now)


def _are_lists_of_parts(*values: Any) -> bool:  # noqa: ANN401
    are_lists = all(isinstance(value, list) and all(isinstance(part, dict) for part in value) for value in values)
    return are_lists and len({len(value) for value in values}) == 1


def compare_videos(then: Path | None, now: Path) -> tuple[Psnr | None, Text]:
    if then is None:
        return None, Text(
            "The first video is not beside its report, so there is nothing to measure the PSNR on.",
            "报告旁没有原视频，无法计算 PSNR。",
        )
    try:
        psnr = measure_psnr(read_frames(then), read_frames(now))
    except StudioError as error:
        return None, error.text
    if psnr is None:
        return None, Text(
            "The videos differ in size or number of frames, so there is no PSNR.",
            "两个视频的尺寸或帧数不同，无法计算 PSNR。",
        )
    return psnr, Text(
        "Measured on both videos as they are decoded: the frames before encoding are not kept, so the loss of H.264 is "
        "in both.",
        "PSNR 由两个视频解码后的画面计算：编码前的帧没有保存，因此双方都含 H.264 的压缩损失。",
    )


def _db(mean_squared_error: float) -> float | None:
    return None if mean_squared_error == 0 else round(10 * math.log10(255**2 / mean_squared_error), 2)
