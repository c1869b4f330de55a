"""What was measured on a finished video, as HTML: the verdict, what was asked, the defects, the movement over time.

Knows the `quality` section of a report, and that videos of earlier versions have none or another one.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from i2v_pipeline.types import Text
from studio.jobs.types import Job
from studio.page.text import both
from studio.page.words import CAMERA, DEFECTS

WIDE, HIGH = 600, 80
"""The chart in units of its own; the browser stretches it."""
LEAST_PX = 1.0
"""The chart is at least as high as one pixel of the video per frame: noise never looks like movement."""
WARNING = Text("with a warning", "有警告")
_SEEN: Mapping[bool | None, tuple[str, str, Text]] = {
    True: ("seen", "✓", Text("seen", "已出现")),
    False: ("missed", "✗", Text("not seen", "未出现")),
    None: ("unknown", "?", Text("cannot be measured", "无法测量")),
}


def is_broken(job: Job) -> bool:
    """Whether the job is done and its video is not what anybody wanted; false where nobody measured it."""
    try:
        return job.state == "done" and _says_broken(job.report_path, job.report_path.stat().st_mtime_ns)
    except FileNotFoundError:
        return False


@functools.lru_cache(maxsize=4096)
def _says_broken(report_path: Path, changed_ns: int) -> bool:
    """Read once for each state of the file: the history asks for every video again and again."""
    report = json.loads(report_path.read_text(encoding="utf-8"))
    return bool((report.get("quality") or {}).get("broken"))


def warning_html() -> str:
    """What stands beside `done` when the video is broken."""
    return f'<span class="state warning">{both(WARNING)}</span>'


def quality_html(report: Mapping[str, Any]) -> str:
    """Everything that was measured; empty for a video that nobody measured like this."""
    quality = report.get("quality") or {}
    if "verdict" not in quality:
        return ""
    broken = " broken" if quality["broken"] else ""
    is_still_wanted = quality["asked"].get("static") is True
    flags = [flag for flag in quality["flags"] if not (flag["code"] == "static" and is_still_wanted)]
    verdict = both(Text(quality["verdict"], quality["verdict_zh"]))
    return (
        f'<section class="quality{broken}"><h3>{both(Text("Measured on the video", "视频实测"))}</h3>'
        f'<p class="verdict">{verdict}</p>{_asked_html(quality["asked"])}{_flags_html(flags)}'
        f"{_chart_html(quality, flags)}</section>"
    )


def _asked_html(asked: Mapping[str, bool | None]) -> str:
    chips = []
    for tag, is_shown in asked.items():
        kind, sign, words = _SEEN[is_shown]
        name = both(CAMERA.get(tag, Text(tag, tag)))
        chips.append(
            f'<li class="chip {kind}"><span aria-hidden="true">{sign}</span> {name}'
            f'<span class="said">{both(words)}</span></li>'
        )
    if not chips:
        return ""
    return (
        f'<div class="row"><span class="quiet">{both(Text("Asked:", "要求："))}</span><ul>{"".join(chips)}</ul></div>'
    )


def _flags_html(flags: Sequence[Mapping[str, Any]]) -> str:
    chips = []
    for flag in flags:
        name = both(DEFECTS.get(flag["code"], Text(flag["code"], flag["code"])))
        frames = _named(_runs(flag["frames"]))
        where = both(Text(f"frames {frames}" if len(flag["frames"]) > 1 else f"frame {frames}", f"第 {frames} 帧"))
        chips.append(
            f'<li class="chip flag"><span aria-hidden="true">⚠</span> {name}<span class="said">{where}</span></li>'
        )
    if not chips:
        return ""
    title = both(Text("Found:", "发现："))
    return f'<div class="row"><span class="quiet">{title}</span><ul>{"".join(chips)}</ul></div>'


def _chart_html(quality: Mapping[str, Any], flags: Sequence[Mapping[str, Any]]) -> str:
    """Camera and subject from frame to frame, flagged frames as bands; the same in words for a screen reader."""
    frames, per_frame = quality["frames"], quality["motion"]["per_frame"]
    subject = per_frame["subject_px"]
    if len(subject) < 2:
        return ""
    camera = _camera_speeds(per_frame, *quality["size"])
    top = max(*camera, *subject, LEAST_PX)
    odd = _runs(sorted({frame for flag in flags for frame in flag["frames"]}))
    bands = "".join(_band(first, last, frames) for first, last in odd)
    legend = [_key("camera", Text("camera", "镜头")), _key("subject", Text("subject", "主体"))]
    if bands:
        legend.append(_key("flagged", Text("frames with a defect", "有缺陷的帧")))
    name = Text("Movement over time", "运动随时间变化")
    per = Text(f"{top:.1f} px per frame", f"每帧 {top:.1f} 像素")
    seconds = frames / quality["fps"]
    line, wide = _line(camera, top), WIDE / frames
    return (
        f'<figure class="motion"><figcaption><span id="motion-name">{both(name)}</span>'
        f'<span class="keys">{"".join(legend)}</span></figcaption>'
        f'<p class="sr-only" id="motion-words">{both(_in_words(camera, subject, odd))}</p>'
        f'<svg viewBox="0 0 {WIDE} {HIGH}" preserveAspectRatio="none" role="img" aria-labelledby="motion-name"'
        f' aria-describedby="motion-words">{bands}'
        f'<path class="area" d="M{wide:.1f} {HIGH}L{line}L{WIDE - wide:.1f} {HIGH}Z"/>'
        f'<path class="subject" d="M{_line(subject, top)}"/><path class="camera" d="M{line}"/></svg>'
        f'<p class="axis quiet"><span>0 s</span><span>{both(Text("highest: ", "最高："))}{both(per)}</span>'
        f"<span>{seconds:.1f} s</span></p></figure>"
    )


def _camera_speeds(per_frame: Mapping[str, Sequence[float]], width: int, height: int) -> list[float]:
    """Pixels by which the camera moves an average point in each frame, all four movements together.

    A turn and a zoom move a point by its distance from the centre, which is sqrt((w² + h²) / 12) on average.
    """
    radius = math.sqrt((width**2 + height**2) / 12)
    names = ("pan_px", "tilt_px", "zoom_percent", "roll_deg")
    return [
        math.hypot(pan, tilt, zoom / 100 * radius, math.radians(roll) * radius)
        for pan, tilt, zoom, roll in zip(*(per_frame[name] for name in names), strict=True)
    ]


def _line(values: Sequence[float], top: float) -> str:
    """The points of a line. A frame takes an equal part of the width; a movement stands between its two frames."""
    wide = WIDE / (len(values) + 1)
    points = enumerate(values, start=1)
    return "L".join(f"{place * wide:.1f} {HIGH * (1 - 0.94 * value / top):.1f}" for place, value in points)


def _band(first: int, last: int, frames: int) -> str:
    wide = WIDE / frames
    return f'<rect x="{first * wide:.1f}" y="0" width="{(last - first + 1) * wide:.1f}" height="{HIGH}"/>'


def _key(kind: str, words: Text) -> str:
    return f'<span class="key {kind}">{both(words)}</span>'


def _in_words(camera: Sequence[float], subject: Sequence[float], odd: Sequence[tuple[int, int]]) -> Text:
    means = [sum(values) / len(values) for values in (camera, subject)]
    told = Text(
        f"Camera: {means[0]:.1f} pixels per frame on average, at most {max(camera):.1f}. "
        f"Subject: {means[1]:.1f} on average, at most {max(subject):.1f}.",
        f"镜头：平均每帧 {means[0]:.1f} 像素，最高 {max(camera):.1f}。"
        f"主体：平均 {means[1]:.1f}，最高 {max(subject):.1f}。",
    )
    if not odd:
        return told
    where = _named(odd)
    return Text(f"{told.en} Frames with a defect: {where}.", f"{told.zh}有缺陷的帧：{where}。")


def _named(runs: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{first}–{last}" if last > first else f"{first}" for first, last in runs)


def _runs(frames: Sequence[int]) -> list[tuple[int, int]]:
    """Frame numbers with runs put together, each as its first and its last."""
    runs: list[tuple[int, int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], frame)
        else:
            runs.append((frame, frame))
    return runs
