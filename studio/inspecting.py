"""Measures a video file, against a picture and camera tags where they are given. Prints nothing."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from i2v_pipeline.errors import InputError
from i2v_pipeline.images import open_picture, prepare
from i2v_pipeline.inspection.judge import Inspection, inspect_frames
from i2v_pipeline.types import CameraTag
from i2v_pipeline.video import probe_video, read_frames
from studio.printing import pick

CAMERA_TAGS: tuple[CameraTag, ...] = get_args(CameraTag)


def inspect_file(video: Path, *, image: Path | None = None, asked: str = "") -> Inspection:
    """Reads the video through once. `asked` is a comma-separated list of camera tags.

    Raises `InputError` for a tag that is none, and what opening the video and the picture raises.
    """
    tags = parse_tags(asked)
    info = probe_video(video)
    picture = None
    if image is not None:
        picture = prepare(open_picture(image), info.width, info.height, "crop").pixels
    return inspect_frames(read_frames(video), fps=info.fps, picture=picture, asked=tags)


def parse_tags(text: str) -> tuple[CameraTag, ...]:
    """The camera tags in a comma-separated list. Raises `InputError` for any other word."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    tags: list[CameraTag] = [tag for word in words for tag in CAMERA_TAGS if tag == word]
    unknown = ", ".join(word for word in words if word not in CAMERA_TAGS)
    if unknown:
        allowed = ", ".join(CAMERA_TAGS)
        raise InputError(
            f"--asked {unknown}: camera tags are {allowed}. Choose among these.",
            f"--asked {unknown}：可用的镜头标签有 {allowed}。请从中选择。",
        )
    return tuple(tags)


def inspection_lines(inspection: Inspection) -> tuple[str, ...]:
    """The inspection for a terminal: the verdict first, then the numbers and the flags."""
    motion = inspection.motion
    lines = [
        pick(inspection.verdict),
        f"{inspection.frames} frames, {inspection.width} × {inspection.height}, {inspection.fps:g} fps",
        f"camera: {motion.label}",
        f"per frame: pan {motion.pan_px:+.2f} px, tilt {motion.tilt_px:+.2f} px",
        f"and: zoom {motion.zoom_percent:+.3f} %, roll {motion.roll_deg:+.3f}°, subject {motion.subject_px:.1f} px",
    ]
    lines += [f"{flag.code}: frames {_ranges(flag.frames)}" for flag in inspection.flags]
    if inspection.first_frame is not None:
        lines.append(
            f"first frame: SSIM {inspection.first_frame[0]:.3f}, colour difference {inspection.first_frame[1]:.1f}"
        )
    shown = {True: "seen", False: "not seen", None: "cannot be measured"}
    lines += [f"asked {tag}: {shown[is_shown]}" for tag, is_shown in inspection.asked.items()]
    return tuple(lines)


def _ranges(frames: tuple[int, ...]) -> str:
    """Frame numbers with runs put together: 3, 7-12."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][-1] + 1:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
