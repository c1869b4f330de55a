"""What a finished video is really like: its movement, its defects, its first frame, and what was asked against it.

Knows no request and no engine: whoever asks gives the picture that the video should begin with and the camera tags.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from i2v_pipeline.camera_moves import MOVE_NAMES
from i2v_pipeline.inspection.defects import Flag, FlagCode, Seen, find_flags, see
from i2v_pipeline.inspection.likeness import delta_e, luma_ssim, ssim
from i2v_pipeline.inspection.motion import (
    CLEAR,
    MATCHED_SHARE,
    CameraMotion,
    PairMotion,
    luma_for_work,
    matrix_of,
    measure_pair,
    summarise,
    ways_of,
)
from i2v_pipeline.types import CameraTag, Text, U8Frames, U8Image

AXES = ("pan", "tilt", "zoom", "roll")
_SHOWS: Mapping[CameraTag, tuple[str, int]] = {
    "pan_left": ("pan", -1), "pan_right": ("pan", 1), "truck_left": ("pan", -1), "truck_right": ("pan", 1),
    "tilt_up": ("tilt", 1), "tilt_down": ("tilt", -1), "crane_up": ("tilt", 1), "crane_down": ("tilt", -1),
    "zoom_in": ("zoom", 1), "zoom_out": ("zoom", -1), "dolly_in": ("zoom", 1), "dolly_out": ("zoom", -1),
    "roll_cw": ("roll", 1), "roll_ccw": ("roll", -1),
}  # fmt: skip
"""What a move looks like on the picture: a truck slides it as a pan does, a dolly makes it grow as a zoom does."""
UNLIKE_SSIM = 0.5
"""A first frame less like the picture than this, where both show the same, is another picture; a coded one reaches
0.9."""
UNREST_SHARE = 0.6
"""A hand goes to and fro: less than this share of its way is left in the end."""

_MOVES: Mapping[str, Text] = {
    "pan_left": Text("the camera pans left", "镜头向左摇"),
    "pan_right": Text("the camera pans right", "镜头向右摇"),
    "tilt_up": Text("the camera tilts up", "镜头向上摇"),
    "tilt_down": Text("the camera tilts down", "镜头向下摇"),
    "zoom_in": Text("the picture comes nearer", "画面推近"),
    "zoom_out": Text("the picture goes away", "画面拉远"),
    "static": Text("the camera stands still", "镜头静止"),
    "roll": Text("the camera rolls", "镜头旋转"),
    "mixed": Text("the camera moves in more than one way", "镜头有多种运动"),
}
_UNKNOWN_MOVE = Text(
    "how the camera moves cannot be told from this picture", "画面中没有可追踪的内容，无法判断镜头运动"
)
_WRONG: Mapping[FlagCode, Text] = {
    "static": Text("nothing moves at all", "画面完全没有动"),
    "black": Text("there are black or one-coloured frames", "有黑帧或单色帧"),
    "strobe": Text("the light strobes", "画面频闪"),
    "flash": Text("the light flashes", "画面闪光"),
    "flicker": Text("the light flickers", "亮度抖动"),
    "snap_back": Text("the picture jumps back to the start", "画面跳回开头"),
    "blur": Text("the picture grows blurred", "画面逐渐模糊"),
    "color_drift": Text("the colours drift", "颜色逐渐偏移"),
    "duplicate_frames": Text("frames are repeated", "有重复帧"),
}
"""Worst first."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was measured. `first_frame` is (SSIM, CIE76 colour difference) against the picture, None without one.

    A camera that begins closer up shows a part of the picture: `same_place_ssim` compares that part alone, and is 0
    where the first frame shows none of it. `found_again` is the share of the picture's points that the first frame has
    too: 0 for each of 110 pairs of unlike photographs, 0.85 and 0.91 for two starts of a truck to the left. `asked`
    says of each camera tag whether the video shows it; None where
    that cannot be seen on a video.
    """

    frames: int
    width: int
    height: int
    fps: float
    motion: CameraMotion
    pairs: tuple[PairMotion, ...]
    flags: tuple[Flag, ...]
    first_frame: tuple[float, float] | None
    same_place_ssim: float | None
    found_again: float | None
    asked: Mapping[CameraTag, bool | None]

    @property
    def is_broken(self) -> bool:
        """Whether nobody would call this the video that was wanted."""
        codes = {flag.code for flag in self.flags}
        return self.is_other_picture or "black" in codes or ("static" in codes and not self.asked.get("static"))

    @property
    def is_other_picture(self) -> bool:
        """Whether the first frame does not show the picture that the video should begin with."""
        if self.same_place_ssim is None or self.found_again is None:
            return False
        # A camera that starts off to the side moves near and far apart: fine texture is then in other places.
        return self.found_again < MATCHED_SHARE and self.same_place_ssim < UNLIKE_SSIM

    @property
    def verdict(self) -> Text:
        """The whole inspection in one sentence."""
        codes = [flag.code for flag in self.flags]
        move = _MOVES["roll" if _rolls(self.motion, self.width) else self.motion.label]
        if self.pairs and all(pair.matched < MATCHED_SHARE for pair in self.pairs):
            move = _UNKNOWN_MOVE
        said = [] if {"static", "black"} & set(codes) else [move]
        is_wanted_still = self.asked.get("static") is True
        wrong = [_WRONG[code] for code in _WRONG if code in codes and not (code == "static" and is_wanted_still)]
        if "static" in codes and is_wanted_still:
            said = [_MOVES["static"]]
        if self.is_other_picture:
            wrong.insert(0, Text("the first frame is not the picture", "首帧与输入图像不符"))
        missed = [tag for tag, is_shown in self.asked.items() if is_shown is False]
        if missed:
            names = [MOVE_NAMES[tag] for tag in missed]
            in_english, in_chinese = ", ".join(name.en for name in names), "、".join(name.zh for name in names)
            wrong.append(Text(f"asked for and not seen: {in_english}", f"要求但未出现：{in_chinese}"))
        if not wrong:
            said.append(Text("no defect was found", "未发现缺陷"))
        parts = [*said, *wrong]
        return Text(_sentence("; ".join(part.en for part in parts)), "；".join(part.zh for part in parts) + "。")


def inspect_frames(
    chunks: Iterable[U8Frames],
    *,
    fps: float,
    picture: U8Image | None = None,
    asked: Sequence[CameraTag] = (),
) -> Inspection:
    """Measures decoded frames, uint8 (frames, height, width, 3) RGB in chunks of any length.

    `picture` is what the first frame should show, at the video's size. Raises `ValueError` when there is no frame.
    """
    seen: list[Seen] = []
    pairs: list[PairMotion] = []
    first: U8Image | None = None
    for frame in itertools.chain.from_iterable(chunks):
        first = frame if first is None else first
        luma = luma_for_work(frame)
        if seen:
            pairs.append(measure_pair(seen[-1].luma, luma, scale=frame.shape[1] / luma.shape[1]))
        seen.append(see(frame, luma, seen[-1] if seen else None))
    if first is None:
        raise ValueError("the video has no frame")
    height, width = first.shape[:2]
    motion = summarise(pairs, width=width, height=height, fps=fps)
    return Inspection(
        frames=len(seen),
        width=width,
        height=height,
        fps=fps,
        motion=motion,
        pairs=tuple(pairs),
        flags=find_flags(seen, pairs, fps=fps, width=width, height=height),
        first_frame=None if picture is None else (ssim(first, picture), delta_e(first, picture)),
        same_place_ssim=None if picture is None else same_place_ssim(first, picture),
        found_again=None if picture is None else found_again(first, picture),
        asked=asked_and_seen(asked, motion, pairs, width=width, height=height),
    )


def asked_and_seen(
    asked: Sequence[CameraTag], motion: CameraMotion, pairs: Sequence[PairMotion], *, width: int, height: int
) -> dict[CameraTag, bool | None]:
    """Whether each tag that was asked for can be seen in the movement; None for one that no video shows for sure."""
    known = [pair for pair in pairs if pair.matched >= MATCHED_SHARE]
    net = ways_of(known, width, height).sum(axis=0) if known else np.zeros(len(AXES))
    travelled = float(np.abs(ways_of(known, width, height)).sum(axis=0).max()) if known else 0.0
    found: dict[CameraTag, bool | None] = {}
    for tag in asked:
        if tag == "static":
            found[tag] = motion.label == "static"
        elif tag == "handheld":
            found[tag] = motion.label == "mixed" and float(np.abs(net).max()) < UNREST_SHARE * travelled
        elif tag not in _SHOWS:
            found[tag] = None
        else:
            axis, sign = _SHOWS[tag]
            way = sign * float(net[AXES.index(axis)])
            found[tag] = motion.label != "static" and way > CLEAR * float(np.abs(net).max())
    return found


def quality_of(inspection: Inspection) -> dict[str, Any]:
    """The `quality` section of the report, which is what the `inspect` command prints."""
    motion, pairs = inspection.motion, inspection.pairs
    first = inspection.first_frame
    return {
        "frames": inspection.frames,
        "fps": inspection.fps,
        "size": [inspection.width, inspection.height],
        "motion": {
            "label": motion.label,
            "pan_px": round(motion.pan_px, 3),
            "tilt_px": round(motion.tilt_px, 3),
            "zoom_percent": round(motion.zoom_percent, 4),
            "roll_deg": round(motion.roll_deg, 4),
            "subject_px": round(motion.subject_px, 3),
            "smoothness": round(motion.smoothness, 3),
            "per_frame": {
                "pan_px": [round(pair.pan_px, 2) for pair in pairs],
                "tilt_px": [round(pair.tilt_px, 2) for pair in pairs],
                "zoom_percent": [round(pair.zoom_percent, 3) for pair in pairs],
                "roll_deg": [round(pair.roll_deg, 3) for pair in pairs],
                "subject_px": [round(pair.subject_px, 2) for pair in pairs],
            },
        },
        "flags": [{"code": flag.code, "frames": list(flag.frames)} for flag in inspection.flags],
        "first_frame": None
        if first is None
        else {
            "ssim": round(first[0], 4),
            "delta_e": round(first[1], 2),
            "same_place_ssim": round(inspection.same_place_ssim or 0.0, 4),
        },
        "asked": dict(inspection.asked),
        "broken": inspection.is_broken,
        "verdict": inspection.verdict.en,
        "verdict_zh": inspection.verdict.zh,
    }


def found_again(first: U8Image, picture: U8Image) -> float:
    """The share of points of `picture` that can be followed into the first frame and back."""
    return measure_pair(luma_for_work(picture), luma_for_work(first), scale=1.0).matched


def same_place_ssim(first: U8Image, picture: U8Image) -> float:
    """SSIM of the first frame and the part of `picture` that it shows; 0 where it shows none of it."""
    ours, theirs = luma_for_work(first), luma_for_work(picture)
    pair = measure_pair(theirs, ours, scale=1.0)
    if pair.matched < MATCHED_SHARE:
        return max(ssim(first, picture), 0.0)
    size = (ours.shape[1], ours.shape[0])
    moved = cv2.warpAffine(theirs, matrix_of(pair, ours.shape)[:2], size, flags=cv2.INTER_CUBIC)
    inside = cv2.warpAffine(np.full_like(theirs, 255), matrix_of(pair, ours.shape)[:2], size) == 255
    shown = np.where(inside, moved, ours)
    return luma_ssim(ours.astype(np.float32), shown.astype(np.float32))


def _rolls(motion: CameraMotion, width: int) -> bool:
    """Whether the camera turns about its own axis and hardly does anything else."""
    roll = abs(motion.roll_deg) * np.pi / 180 * width / 3
    others = max(abs(motion.pan_px), abs(motion.tilt_px), abs(motion.zoom_percent) / 100 * width / 3)
    return motion.label == "mixed" and others < CLEAR * roll


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
