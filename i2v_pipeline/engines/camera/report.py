"""What a run of the camera engine says about itself: findings for people and facts for the report.

Decides nothing; reads what was planned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from i2v_pipeline.camera_moves import name_phases
from i2v_pipeline.engines.camera.layers import Stage
from i2v_pipeline.engines.camera.path import Axis, Moves
from i2v_pipeline.engines.camera.shot import Shot
from i2v_pipeline.engines.camera.subject import NETWORK_SHA256, Subject
from i2v_pipeline.types import Finding, Motion, Text

NOTICEABLE_CROP = 0.995


def find_remarks(
    moves: Moves, subject: Subject | None, stage: Stage | None, shot: Shot | None, *, own_choice: bool
) -> tuple[Finding, ...]:
    """Choices that the engine made and what it did not do. Without subject, stage and shot: a still camera."""
    remarks = [
        _info(
            "camera_moves_only",
            "Only the camera moves; nothing in the picture itself does. This engine reads the camera move, its speed "
            "and its strength, and nothing else of the sentence.",
            "只有镜头在动，画面中的主体不会动。此引擎只读取镜头运动、速度和强度，不使用提示词的其余内容。",
        )
    ]
    if own_choice:
        chosen = _info(
            "camera_move_chosen",
            "No camera move was named; the engine chose a gentle push-in.",
            "提示词没有指定镜头运动，引擎选择了缓慢推近。",
        )
        remedy = Text(en="Name one, such as “pan left” or “static”.", zh="可写明镜头运动，例如“镜头左摇”或“固定镜头”。")
        remarks.append(replace(chosen, remedy=remedy))
    if moves.in_sequence:
        order = name_phases(moves.phases)
        remarks.append(
            _info(
                "camera_moves_in_sequence",
                f"Some camera moves contradict each other, so they follow one another in equal parts: {order.en}.",
                f"部分镜头运动互相矛盾，因此按顺序平分时长依次执行：{order.zh}。",
            )
        )
    if subject and stage and not (subject.found and stage.depth_kind != "ground"):
        remarks.append(
            _info(
                "no_subject",
                "No clear subject was found: nothing is cut out, and any depth is guessed from the ground alone.",
                "未找到明确的主体：不做抠图，景深仅按地面推测。",
            )
        )
    if shot and shot.widest_share < NOTICEABLE_CROP:
        percent = math.floor(shot.widest_share * 100)
        remarks.append(
            _info(
                "camera_crop_in",
                f"To have room to move, the camera shows at most {percent} % of the picture's width and height.",
                f"为了给镜头运动留出余地，任一时刻最多显示原图宽和高的 {percent}%。",
            )
        )
    if shot and shot.reduced:
        remarks.append(
            _info(
                "camera_moves_reduced",
                "Together these camera moves would leave too little of the picture; each was made smaller.",
                "这些镜头运动叠加后会使可见画面过小，因此每个运动的幅度都已减小。",
            )
        )
    return tuple(remarks)


def _info(code: str, en: str, zh: str) -> Finding:
    return Finding(code=code, severity="info", message=Text(en=en, zh=zh))


def describe_run(
    motion: Motion, moves: Moves, subject: Subject | None, stage: Stage | None, shot: Shot | None, *, own_choice: bool
) -> Mapping[str, Any]:
    """JSON values: what was carried out, how far, and with what. Without subject, stage and shot: a still camera."""
    return {
        "camera": [list(phase) for phase in moves.phases],
        "camera_chosen_by": "engine" if own_choice else "request",
        "speed": motion.speed,
        "intensity": motion.intensity,
        "path": _path_amounts(moves, stage, shot),
        "crop_in": round(shot.crop_in, 4) if shot else 1.0,
        "widest_share": round(shot.widest_share, 4) if shot else 1.0,
        "subject": None
        if subject is None
        else {
            "found": subject.found,
            "area_share": round(subject.area_share, 4),
            "confidence": round(subject.confidence, 4),
        },
        "depth": stage.depth_kind if stage else "flat",
        "network_sha256": NETWORK_SHA256,
        "opencv": cv2.__version__,
    }


def _path_amounts(moves: Moves, stage: Stage | None, shot: Shot | None) -> Mapping[str, float]:
    """How far each axis goes in all. Pixels are the video's; truck, crane, orbit and dolly at the nearest depth."""
    if stage is None or shot is None:
        return {}
    wide, high = shot.lens.width * shot.crop_in, shot.lens.height * shot.crop_in
    near_wide, near_high = wide * stage.nearest, high * stage.nearest
    pixels: Mapping[Axis, float] = {
        "pan": wide, "tilt": high, "truck": near_wide, "crane": near_high, "orbit": near_wide,
    }  # fmt: skip
    amounts: dict[str, float] = {}
    for axis, curve in moves.axes.items():
        span = float(np.ptp(curve))
        if axis in pixels:
            amounts[f"{axis}_px"] = round(span * pixels[axis], 2)
        elif axis == "roll":
            amounts["roll_deg"] = round(math.degrees(span), 3)
        elif axis == "dolly":
            amounts["dolly_factor"] = round(1 / (1 - (1 - math.exp(-span)) * stage.nearest), 4)
        else:
            amounts["zoom_factor"] = round(math.exp(span), 4)
    if moves.hand.any():
        amounts["handheld_px"] = round(float(np.ptp(moves.hand[:, 0])) * wide, 2)
    return amounts
