"""What camera tags mean: what people call each, which axes it moves, and what one camera can do at once.

Knows no engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from i2v_pipeline.types import CameraTag, Text

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

MOVE_NAMES: Mapping[str, Text] = {
    "pan_left": Text("pan left", "左摇"),
    "pan_right": Text("pan right", "右摇"),
    "tilt_up": Text("tilt up", "上摇"),
    "tilt_down": Text("tilt down", "下摇"),
    "zoom_in": Text("zoom in", "变焦推近"),
    "zoom_out": Text("zoom out", "变焦拉远"),
    "static": Text("still camera", "固定镜头"),
    "dolly_in": Text("push in", "推近"),
    "dolly_out": Text("pull back", "拉远"),
    "truck_left": Text("truck left", "左移"),
    "truck_right": Text("truck right", "右移"),
    "crane_up": Text("crane up", "升镜头"),
    "crane_down": Text("crane down", "降镜头"),
    "orbit_left": Text("orbit left", "向左环绕"),
    "orbit_right": Text("orbit right", "向右环绕"),
    "roll_cw": Text("roll clockwise", "顺时针旋转"),
    "roll_ccw": Text("roll counter-clockwise", "逆时针旋转"),
    "follow": Text("follow the subject", "跟随主体"),
    "handheld": Text("handheld", "手持晃动"),
}
"""What people call each move."""


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


def name_phases(phases: Sequence[Sequence[CameraTag]]) -> Text:
    """The phases in words, in their order: `pan left + tilt up, then pan right`."""
    named = [[MOVE_NAMES[tag] for tag in phase] for phase in phases]
    return Text(
        ", then ".join(" + ".join(name.en for name in phase) for phase in named),
        "，然后".join(" + ".join(name.zh for name in phase) for phase in named),
    )


def _contradict(one: CameraTag, other: CameraTag) -> bool:
    if "static" in (one, other) or "follow" in (one, other):
        return "static" in (one, other)
    return any(MOVES[one][axis] * MOVES[other].get(axis, 0.0) < 0 for axis in MOVES[one])
