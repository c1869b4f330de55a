"""A pinhole camera before a picture that has depth: which point of the picture does each pixel of a frame show?

Knows no tags, no time and no colours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from i2v_pipeline.engines.camera.sampling import F32, sample

FOCAL_LENGTHS = 1.1
"""Focal length in longer sides of the picture: a field of view of 49 degrees, that of a normal lens."""
INVERSION_ROUNDS = 4
"""Depth is at most 1 and changes slowly, so each round shrinks the error at least tenfold."""


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the camera stands and looks. Angles in radians: yaw right, pitch up, roll clockwise.

    `x` (right), `y` (down) and `z` (forward) are translations in units in which the nearest depth is 1, so that a
    point of inverse depth `d` moves by `x * d` focal lengths.
    """

    zoom: float
    yaw: float
    pitch: float
    roll: float
    x: float
    y: float
    z: float


@dataclass(frozen=True, kw_only=True)
class Lens:
    """The picture's size in pixels and the point `aim_px` that the crop and the zoom leave where it is."""

    width: int
    height: int
    aim_px: tuple[float, float]

    @property
    def focal_px(self) -> float:
        return FOCAL_LENGTHS * max(self.width, self.height)

    @property
    def centre_px(self) -> tuple[float, float]:
        return (self.width - 1) / 2, (self.height - 1) / 2

    def shown(self, pixels: F32, pose: Pose, depth: F32) -> F32:
        """Points (n, m, 2) of the picture, in pixels, that `pixels` (n, m, 2) of the frame show.

        `depth` is inverse depth in 0 to 1 over the whole picture at any resolution. A point X seen from the moved
        camera along the ray u is X = d t + (1 - d t_z) u / u_z in coordinates of one focal length; as d depends
        on X this is solved by iteration.
        """
        centre, aim, focal = _f32(self.centre_px), _f32(self.aim_px), np.float32(self.focal_px)
        turn = _rotation(pose)
        rays = (aim + (pixels - aim) / np.float32(pose.zoom) - centre) / focal
        turned = rays @ turn[:, :2].T + turn[:, 2]
        straight = turned[..., :2] / turned[..., 2:]
        shift = _f32((pose.x, pose.y))
        found = straight
        for _ in range(INVERSION_ROUNDS if pose.x or pose.y or pose.z else 0):
            near = self._sample(depth, found * focal + centre)[..., None]
            found = near * shift + (1 - near * np.float32(pose.z)) * straight
        return found * focal + centre

    def _sample(self, depth: F32, points: F32) -> F32:
        rows, columns = depth.shape
        scale = _f32((columns / self.width, rows / self.height))
        cells = (points + np.float32(0.5)) * scale - np.float32(0.5)
        return sample(depth, cells, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)


def _f32(pair: tuple[float, float]) -> F32:
    return np.array(pair, np.float32)


def _rotation(pose: Pose) -> F32:
    """Camera to picture: roll first, then pitch, then yaw; x right, y down, z forward."""
    sin, cos = math.sin, math.cos
    yaw = np.array([[cos(pose.yaw), 0, sin(pose.yaw)], [0, 1, 0], [-sin(pose.yaw), 0, cos(pose.yaw)]])
    pitch = np.array([[1, 0, 0], [0, cos(pose.pitch), -sin(pose.pitch)], [0, sin(pose.pitch), cos(pose.pitch)]])
    roll = np.array([[cos(pose.roll), -sin(pose.roll), 0], [sin(pose.roll), cos(pose.roll), 0], [0, 0, 1]])
    return (yaw @ pitch @ roll).astype(np.float32)
