"""What camera tags mean: which axes each moves, and which of them one camera can do at once. Knows no engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from i2v_pipeline.types import CameraTag

Axis = Literal["pan", "tilt", "roll", "zoom", "dolly", "truck", "crane", "orbit"]

MOVES: Mapping[CameraTag, Mapping[Axis, float]] = {
    "static": {},
    "handheld": {},
    "pan_left": {"pan": -1},
    "pan_right": {"pan": 1},
    "tilt_down": {"tilt": -1},
    "tilt_up": {"tilt": 1},
    "zoom_out": {"zoom": -1},
    "zoom_in": {"zoom": 1},
    "dolly_out": {"dolly": -1},
    "dolly_in": {"dolly": 1},
    "truck_left": {"truck": -1},
    "truck_right": {"truck": 1},
    "crane_down": {"crane": -1},
    "crane_up": {"crane": 1},
    "orbit_left": {"orbit": -1},
    "orbit_right": {"orbit": 1},
    "roll_ccw": {"roll": -1},
    "roll_cw": {"roll": 1},
    # The subject is held in the frame while the camera drifts past it and draws a little nearer.
    "follow": {"orbit": 0.8, "dolly": 0.4},
}
"""What each tag does, as shares of an engine's own amounts. The drift of `follow` takes its side from the seed."""


def plan_phases(tags: tuple[CameraTag, ...]) -> tuple[tuple[CameraTag, ...], ...]:
    """Puts the tags together that one camera can do at once; the rest follow in the order given.

    `handheld` is a manner: it colours every phase that is not `static`.
    """
    phases: list[list[CameraTag]] = []
    for tag in dict.fromkeys(tags):
        if tag == "handheld":
            continue
        if phases and not any(_contradict(tag, other) for other in phases[-1]):
            phases[-1].append(tag)
        else:
            phases.append([tag])
    moving = [phase for phase in phases if "static" not in phase]
    if "handheld" in tags and not moving:
        phases.append(["handheld"])
    elif "handheld" in tags:
        for phase in moving:
            phase.append("handheld")
    return tuple(tuple(phase) for phase in phases)


def _contradict(one: CameraTag, other: CameraTag) -> bool:
    if "static" in (one, other) or "follow" in (one, other):
        return "static" in (one, other)
    return any(MOVES[one][axis] * MOVES[other].get(axis, 0.0) < 0 for axis in MOVES[one])
