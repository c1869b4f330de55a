"""What after-care adds to a plan: seconds of writing, memory and disk. Knows no engine."""

from __future__ import annotations

from dataclasses import replace

from i2v_pipeline.aftercare.length import length_of, pairs_at_once
from i2v_pipeline.planning.costs import GIB, VIDEO_BYTES_PER_PIXEL, WRITE_S_PER_MP
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.types import Aftercare, GenerationRequest, Plan, Text

BETWEEN_S_PER_MP = 0.25
"""Seconds of one core for a frame between two others: bench/interpolation.py."""
PAIR_BYTES_PER_PIXEL = 170
DOUBLING_BYTES_PER_PIXEL = 40
"""What doubling takes at its fullest, for each pair that is worked on and beside them: measured at 1280 x 720."""
RGB_BYTES = 3


def with_aftercare(plan: Plan, request: GenerationRequest, machine: Machine) -> Plan:
    """`plan`, which is for the engine's frames alone, with what the request has done to them."""
    care, written, pixels = request.aftercare, length_of(request), request.width * request.height
    if care == Aftercare():
        return plan
    more = written.frames - request.frames
    seconds = WRITE_S_PER_MP * more * pixels / 1e6
    ram_bytes, disk_bytes = RGB_BYTES * 2 * written.faded * pixels, VIDEO_BYTES_PER_PIXEL * more * pixels
    if care.double_rate:
        at_once = pairs_at_once(machine.cores)
        seconds += BETWEEN_S_PER_MP * (request.frames - 1) * pixels / 1e6 / at_once
        ram_bytes += (DOUBLING_BYTES_PER_PIXEL + PAIR_BYTES_PER_PIXEL * at_once) * pixels
    if care.ending == "boomerang":
        # The frames wait on the disk for their way back.
        disk_bytes += RGB_BYTES * (written.frames // 2 + 1) * pixels
    more_care = replace(
        plan,
        peak_ram_gib=round(plan.peak_ram_gib + ram_bytes / GIB, 3),
        disk_gib=round(plan.disk_gib + disk_bytes / GIB, 3),
        stages=tuple(
            replace(stage, seconds=round(max(0.0, stage.seconds + seconds), 3)) if stage.name == "write" else stage
            for stage in plan.stages
        ),
    )
    return _judged(more_care, machine) if plan.fits else more_care


def _judged(plan: Plan, machine: Machine) -> Plan:
    lacks = [
        Text(
            f"{needed:.1f} GiB of {en} are needed, {free:.1f} are free",
            f"需要 {needed:.1f} GiB {zh}，空闲 {free:.1f} GiB",
        )
        for en, zh, needed, free in (
            ("RAM", "内存", plan.peak_ram_gib, machine.free_ram_gib),
            ("disk", "磁盘空间", plan.disk_gib, machine.free_disk_gib),
        )
        if free is not None and needed > free
    ]
    if not lacks:
        return plan
    reason = Text(
        f"With its after-care it does not fit: {'; '.join(lack.en for lack in lacks)}.",
        f"加上后期处理放不下：{'；'.join(lack.zh for lack in lacks)}。",
    )
    return replace(plan, fits=False, reason=reason)
