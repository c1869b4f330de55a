"""Moves and a stage become a shot: where the camera is at each frame, and how far it must close in to see no edge.

Knows no tags and renders nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from i2v_pipeline.engines.camera.layers import Stage
from i2v_pipeline.engines.camera.lens import Lens, Pose
from i2v_pipeline.engines.camera.path import Moves
from i2v_pipeline.engines.camera.sampling import F32

FOCUS_PULL = 0.8
"""Share of the way from the picture's centre to the subject at which a zoom or dolly aims: it keeps the composition."""
MAX_CROP_IN = 1.8
"""More than this magnifies the picture so much that it looks soft."""
BEYOND_ANY_CROP = 2 * MAX_CROP_IN
REDUCTION = 0.85
BORDER_POINTS = 25
EDGE_TOLERANCE_PX = 0.25


@dataclass(frozen=True, kw_only=True)
class Shot:
    """`moves` are carried out `reduced` or not. `crop_in` is the constant magnification that gives the camera room."""

    moves: Moves
    reduced: bool
    lens: Lens
    poses: tuple[Pose, ...]
    crop_in: float

    @property
    def widest_share(self) -> float:
        """Share of the picture's width and height that is seen where most of it is seen."""
        return 1 / min(pose.zoom for pose in self.poses)


def plan_shot(moves: Moves, stage: Stage, *, width: int, height: int, frames: int) -> Shot:
    """Poses for every frame, closed in by the smallest factor that keeps every view inside the picture.

    Moves that would need more than `MAX_CROP_IN`, as many at once do, are made smaller until they do not.
    """
    lens = Lens(width=width, height=height, aim_px=_aim(moves, stage, width, height))
    fitting = moves
    while True:
        poses = tuple(_pose(fitting, stage, lens, index) for index in range(frames))
        crop_in = _crop_in(lens, poses, stage)
        if crop_in <= MAX_CROP_IN:
            break
        fitting = fitting.reduced(REDUCTION)
    closer = tuple(replace(pose, zoom=pose.zoom * crop_in) for pose in poses)
    return Shot(moves=fitting, reduced=fitting is not moves, lens=lens, poses=closer, crop_in=crop_in)


def _aim(moves: Moves, stage: Stage, width: int, height: int) -> tuple[float, float]:
    centre = ((width - 1) / 2, (height - 1) / 2)
    aim = [
        middle + FOCUS_PULL * (focus - middle) + wander * side
        for middle, focus, wander, side in zip(centre, stage.focus_px, moves.wander, (width, height), strict=True)
    ]
    sideways = {"pan", "truck", "orbit", "roll"} & moves.axes.keys()
    upward = {"tilt", "crane", "roll"} & moves.axes.keys()
    x = centre[0] if sideways else min(max(aim[0], 0.15 * width), 0.85 * width)
    y = centre[1] if upward else min(max(aim[1], 0.15 * height), 0.85 * height)
    return x, y


def _pose(moves: Moves, stage: Stage, lens: Lens, index: int) -> Pose:
    amount = {axis: float(curve[index]) for axis, curve in moves.axes.items()}
    pan, tilt, roll, truck, crane = (float(value) for value in moves.hand[index])
    wide, high = lens.width / lens.focal_px, lens.height / lens.focal_px
    pan, tilt, roll = pan + amount.get("pan", 0), tilt + amount.get("tilt", 0), roll + amount.get("roll", 0)
    truck, crane = truck + amount.get("truck", 0), crane + amount.get("crane", 0)
    arc = amount.get("orbit", 0) * wide
    forward = 1 - math.exp(-amount.get("dolly", 0))
    towards = [(aim - middle) / lens.focal_px for aim, middle in zip(lens.aim_px, lens.centre_px, strict=True)]
    return Pose(
        zoom=math.exp(amount.get("zoom", 0)),
        yaw=math.atan(pan * wide) - math.atan(arc * stage.pivot),
        pitch=math.atan(tilt * high),
        roll=roll,
        x=truck * wide + arc + towards[0] * forward,
        y=-crane * high + towards[1] * forward,
        z=forward,
    )


def _crop_in(lens: Lens, poses: tuple[Pose, ...], stage: Stage) -> float:
    """The smallest factor at which no frame looks past the picture's edge in either layer, up to `BEYOND_ANY_CROP`."""
    across = np.linspace(0, lens.width - 1, BORDER_POINTS, dtype=np.float32)
    down = np.linspace(0, lens.height - 1, BORDER_POINTS, dtype=np.float32)
    border: F32 = np.concatenate(
        [np.stack((across, np.full_like(across, edge)), axis=1) for edge in (0, lens.height - 1)]
        + [np.stack((np.full_like(down, edge), down), axis=1) for edge in (0, lens.width - 1)]
    )[None]
    depths = [stage.depth] + ([stage.subject.depth] if stage.subject else [])
    far_corner = np.array((lens.width - 1, lens.height - 1)) + EDGE_TOLERANCE_PX

    def inside(pose: Pose, factor: float) -> bool:
        closer = replace(pose, zoom=pose.zoom * factor)
        for depth in depths:
            seen = lens.shown(border, closer, depth)
            if (seen < -EDGE_TOLERANCE_PX).any() or (seen > far_corner).any():
                return False
        return True

    needed = 1.0
    # The ends of a move need the most room: begun there, few frames raise the factor again.
    for index in sorted(range(len(poses)), key=lambda index: -abs(2 * index - len(poses) + 1)):
        if inside(poses[index], needed):
            continue
        low, high = needed, BEYOND_ANY_CROP
        while high - low > 5e-4:
            middle = (low + high) / 2
            low, high = (low, middle) if inside(poses[index], middle) else (middle, high)
        needed = high
    return needed
