"""Camera tags, speed, intensity and a seed become curves: how much of each movement is done at each frame.

Knows no picture, no pixels and no projection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from i2v_pipeline.camera_moves import MOVES, Axis, plan_phases
from i2v_pipeline.types import CameraTag, Intensity, Motion, Speed

Curve = npt.NDArray[np.float64]

LATERAL: tuple[Axis, ...] = ("pan", "tilt", "truck", "crane", "orbit")
FORWARD: tuple[Axis, ...] = ("zoom", "dolly")
PARALLAX: tuple[Axis, ...] = ("dolly", "truck", "crane", "orbit")

AMOUNTS: Mapping[Axis, tuple[float, float]] = {
    "pan": (0.12, 0.30),
    "tilt": (0.13, 0.30),
    "roll": (math.radians(6), math.radians(14)),
    "zoom": (math.log(1.28), math.log(2.2)),
    "dolly": (math.log(1.30), math.log(1.9)),
    "truck": (0.08, 0.16),
    "crane": (0.09, 0.18),
    "orbit": (0.11, 0.19),
}
"""Amount at medium intensity, normal speed and 4 seconds, and the amount that is approached but never passed.

Pan, truck and orbit are shares of the picture's width, tilt and crane of its height (truck, crane and orbit at the
nearest depth), roll is in radians, zoom and dolly are natural logarithms of a magnification (dolly at the nearest
depth). Chosen by eye on portraits, animals and landscapes.
"""

INTENSITY: Mapping[Intensity, float] = {"low": 0.55, "medium": 1.0, "high": 1.6}
SPEED: Mapping[Speed, float] = {"slow_motion": 0.55, "normal": 1.0, "fast": 1.5, "timelapse": 2.1}

HANDHELD_HZ = (0.31, 0.53, 0.83, 1.27, 1.9)
"""Frequencies of a hand that holds a camera at normal speed; higher ones read as shaking, not as breathing."""
CUT_IN_SPEED = 0.2
"""Share of full speed at which a move begins and ends: a move from rest would repeat its first frames."""


@dataclass(frozen=True, kw_only=True)
class Moves:
    """Curves over the frames, in the units of `AMOUNTS`; a lateral axis is 0 where the camera looks straight on.

    `hand` holds the unrest of a hand as (frames, 5): pan, tilt, roll, truck and crane.
    """

    axes: Mapping[Axis, Curve]
    hand: Curve
    phases: tuple[tuple[CameraTag, ...], ...]
    wander: tuple[float, float]
    """Where this take aims, beside the focus: shares of width and height."""

    @property
    def still(self) -> bool:
        return not self.axes and not self.hand.any()

    @property
    def parallax(self) -> bool:
        """Whether the camera changes its place, so that near things move against far ones."""
        return any(axis in self.axes for axis in PARALLAX) or bool(self.hand.any())

    def reduced(self, factor: float) -> Moves:
        """The same moves, each that needs a margin made smaller."""
        axes = {axis: curve if axis in FORWARD else curve * factor for axis, curve in self.axes.items()}
        return replace(self, axes=axes, hand=self.hand * factor)

    @property
    def in_sequence(self) -> bool:
        """Whether the tags contradict each other, so that they are carried out one after another."""
        return len(self.phases) > 1


def plan_moves(motion: Motion, *, frames: int, fps: int, seed: int) -> Moves:
    """The curves of one take. The same arguments give the same curves; another seed another take of the same shot."""
    rng = np.random.default_rng(seed)
    phases = plan_phases(motion.camera)
    strength = INTENSITY[motion.intensity] * SPEED[motion.speed] * _length_factor(frames / fps)
    time = np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1)
    axes: dict[Axis, Curve] = {}
    steadiness = np.zeros(frames)
    for index, phase in enumerate(phases):
        local = np.clip(time * len(phases) - index, 0.0, 1.0)
        ends = (CUT_IN_SPEED * (index == 0), CUT_IN_SPEED * (index == len(phases) - 1))
        eased = _ease(local, ramp=rng.uniform(0.24, 0.38), ends=ends)
        for axis, share in _shares(phase, side=rng.choice((-1.0, 1.0))).items():
            base, limit = AMOUNTS[axis]
            amount = limit * math.tanh(base * abs(share) * strength * rng.uniform(0.91, 1.09) / limit)
            axes[axis] = axes.get(axis, np.zeros(frames)) + math.copysign(amount, share) * eased
        if "handheld" in phase:
            steadiness += np.sin(np.pi * local) ** 2 if len(phases) > 1 else 1.0
    hand = _hand(time * frames / fps * SPEED[motion.speed], rng) * INTENSITY[motion.intensity] * steadiness[:, None]
    wander = (float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.03, 0.03)))
    return Moves(axes=_anchored(axes), hand=hand, phases=phases, wander=wander)


def _length_factor(seconds: float) -> float:
    """A longer video goes further, but not in proportion: it also goes more slowly."""
    return math.sqrt(min(max(seconds / 4.0, 0.25), 2.0))


def _shares(phase: tuple[CameraTag, ...], *, side: float) -> dict[Axis, float]:
    """Sums the tags of a phase. `follow` drifts to the side that another tag of the phase names, else to `side`."""
    total: dict[Axis, float] = {}
    for tag in phase:
        for axis, share in MOVES[tag].items():
            total[axis] = total.get(axis, 0.0) + share
    if "follow" in phase:
        others = [MOVES[tag].get(axis, 0.0) for tag in phase if tag != "follow" for axis in ("orbit", "truck", "pan")]
        side = next((math.copysign(1.0, share) for share in others if share), side)
        named = sum(MOVES[tag].get("orbit", 0.0) for tag in phase if tag != "follow")
        total["orbit"] = named + side * MOVES["follow"]["orbit"]
    return {axis: share for axis, share in total.items() if share}


def _ease(time: Curve, *, ramp: float, ends: tuple[float, float]) -> Curve:
    """Way done at `time`, both 0 to 1: speed rises as a raised cosine over `ramp`, is even, and falls the same way."""
    fine = np.linspace(0.0, 1.0, 2001)
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip(fine / ramp, 0, 1))
    first, last = ends
    speed = (first + (1 - first) * rise) * (last + (1 - last) * rise[::-1])
    way = np.concatenate(([0.0], np.cumsum((speed[1:] + speed[:-1]) / 2)))
    return np.interp(time, fine, way / way[-1])


def _hand(seconds: Curve, rng: np.random.Generator) -> Curve:
    """Smooth unrest of a hand-held camera: (frames, 5) as in `Moves.hand`, about 1 standard deviation of its size."""
    size = np.array([0.006, 0.007, math.radians(0.3), 0.005, 0.005])
    waves = np.zeros((len(seconds), len(size)))
    for hz in HANDHELD_HZ:
        phase = rng.uniform(0, 2 * np.pi, len(size))
        waves += np.sin(2 * np.pi * hz * seconds[:, None] + phase) / (1 + hz)
    return waves * size


def _anchored(axes: Mapping[Axis, Curve]) -> dict[Axis, Curve]:
    """Shifts each curve to where it needs the least margin.

    Nothing is ever smaller than the full picture, so a zoom or dolly begins (in) or ends (out) there. A lateral move
    then shares that end; alone it passes from one side of the picture to the other.
    """
    nearer = sum(float(axes[axis][-1] - axes[axis][0]) for axis in FORWARD if axis in axes)
    anchored: dict[Axis, Curve] = {}
    for axis, curve in axes.items():
        if axis in FORWARD:
            anchored[axis] = curve - curve.min()
        elif axis in LATERAL:
            middle = (curve.min() + curve.max()) / 2
            anchored[axis] = curve - (curve[0] if nearer > 0 else curve[-1] if nearer < 0 else middle)
        else:
            anchored[axis] = curve
    return anchored
