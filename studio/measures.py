"""What was measured on finished videos, as numbers that can be set side by side, and which of several is the best.

Knows the report's sections and that older videos have no inspection; no job and no page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from i2v_pipeline.types import Text


@dataclass(frozen=True, kw_only=True)
class Measures:
    """One video. Movements are in percent of the picture's width per second, so that sizes and frame rates compare.

    `asked` are camera tags and whether they are seen (None: no video shows it for sure). None stands for what nobody
    measured. `wall_seconds` is what the run took.
    """

    wall_seconds: float
    ssim: float | None = None
    delta_e: float | None = None
    camera: str | None = None
    camera_speed: float | None = None
    subject_speed: float | None = None
    smoothness: float | None = None
    flags: tuple[str, ...] = ()
    asked: Mapping[str, bool | None]
    is_broken: bool = False
    verdict: Text | None = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number by which videos are ranked. `read` gives None where it was not measured."""

    words: Text
    more_is_better: bool
    read: Callable[[Measures], float | None]


METRICS: Mapping[str, Metric] = {
    "first_frame": Metric(
        words=Text("first frame most like the picture", "首帧最像原图"),
        more_is_better=True,
        read=lambda measures: measures.ssim,
    ),
    "camera": Metric(
        words=Text("most camera movement", "镜头运动最大"),
        more_is_better=True,
        read=lambda measures: measures.camera_speed,
    ),
    "subject": Metric(
        words=Text("most movement of the subject", "主体动作最大"),
        more_is_better=True,
        read=lambda measures: measures.subject_speed,
    ),
    "smooth": Metric(words=Text("smoothest", "最平滑"), more_is_better=True, read=lambda measures: measures.smoothness),
    "defects": Metric(
        words=Text("fewest defects", "缺陷最少"),
        more_is_better=False,
        read=lambda measures: None if measures.camera is None else len(measures.flags),
    ),
    "asked": Metric(
        words=Text("most of what was asked is seen", "最符合要求"),
        more_is_better=True,
        read=lambda measures: _share_seen(measures.asked),
    ),
    "seconds": Metric(
        words=Text("quickest", "用时最短"), more_is_better=False, read=lambda measures: measures.wall_seconds
    ),
}


def measures_of(report: Mapping[str, Any]) -> Measures:
    """The measures in a report."""
    wall = report["measured"]["wall_seconds"]
    quality = report.get("quality") or {}
    if "verdict" not in quality:
        return Measures(wall_seconds=wall, asked={})
    motion, first = quality["motion"], quality["first_frame"] or {}
    width, height = quality["size"]
    per_second = quality["fps"] / width * 100
    # A turn and a zoom move a point by its distance from the centre, which is sqrt((w² + h²) / 12) on average.
    radius = math.sqrt((width**2 + height**2) / 12)
    camera_px = math.hypot(
        motion["pan_px"],
        motion["tilt_px"],
        motion["zoom_percent"] / 100 * radius,
        math.radians(motion["roll_deg"]) * radius,
    )
    is_still_wanted = quality["asked"].get("static") is True
    return Measures(
        wall_seconds=wall,
        ssim=first.get("ssim"),
        delta_e=first.get("delta_e"),
        camera=motion["label"],
        camera_speed=camera_px * per_second,
        subject_speed=motion["subject_px"] * per_second,
        smoothness=motion["smoothness"],
        flags=tuple(flag["code"] for flag in quality["flags"] if not (flag["code"] == "static" and is_still_wanted)),
        asked=quality["asked"],
        is_broken=quality["broken"],
        verdict=Text(quality["verdict"], quality["verdict_zh"]),
    )


def best_of(metric: Metric, all_measures: Sequence[Measures | None]) -> frozenset[int]:
    """The places of the best, several where they are equal; none of fewer than two, and no broken video."""
    found = {
        place: value
        for place, measures in enumerate(all_measures)
        if measures is not None and not measures.is_broken and (value := metric.read(measures)) is not None
    }
    if len(found) < 2:
        return frozenset()
    best = (max if metric.more_is_better else min)(found.values())
    return frozenset(place for place, value in found.items() if value == best)


def _share_seen(asked: Mapping[str, bool | None]) -> float | None:
    known = [is_seen for is_seen in asked.values() if is_seen is not None]
    return sum(known) / len(known) if known else None
