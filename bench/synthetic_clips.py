"""Clips with a known movement and known defects, made from real photographs: what the inspection is held against.

Knows nothing of how a video is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.pictures import open_package_photo
from i2v_pipeline.types import U8Frames, U8Image

Defect = Literal[
    "static", "flash", "strobe", "flicker", "duplicate_frames", "black", "blur", "color_drift", "snap_back"
]

Values = npt.NDArray[np.float32]

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What a clip shows. Movements are the camera's, per frame and signed as in the inspection's result.

    `pan` and `tilt` are shares of the picture's width and height, `zoom` the share by which the picture grows, `roll`
    degrees. `shake` is the standard deviation of the hand's unrest in pixels. `subject` is the speed of something
    that moves through the picture, as a share of the width; `grain` the noise in levels.
    """

    photo: str
    width: int
    height: int
    frames: int
    fps: int
    pan: float = 0.0
    tilt: float = 0.0
    zoom: float = 0.0
    roll: float = 0.0
    shake: float = 0.0
    subject: float = 0.0
    grain: float = 0.0
    defects: tuple[Defect, ...] = ()
    seed: int = 0
    crf: int = 16


@dataclass(frozen=True, kw_only=True)
class Made:
    """The frames, the picture that the clip begins with, and the numbers of the frames that each defect touches."""

    frames: U8Frames
    first: U8Image
    touched: dict[Defect, tuple[int, ...]] = field(default_factory=dict)


def photos() -> tuple[str, ...]:
    """The photographs that travel with the project, by name."""
    return tuple(sorted(path.stem for path in EXAMPLES.glob("*.jpg")))


def make(clip: Clip) -> Made:
    """Films the photograph as `clip` says, sampled from the photograph itself: a zoom shows more detail, not blur."""
    random = np.random.default_rng(clip.seed)
    source = open_photo(clip.photo)
    shake = np.cumsum(random.normal(0, clip.shake, (clip.frames, 2)), axis=0)
    # A hand comes back to where it began.
    shake -= np.linspace(0, 1, clip.frames)[:, None] * shake[-1]
    patch = _patch(clip, random) if clip.subject else None
    frames = []
    for index in range(clip.frames):
        frame = _view(source, clip, index, (float(shake[index, 0]), float(shake[index, 1])))
        frames.append(frame if patch is None else _with_patch(frame, patch, clip, index))
    first = frames[0].copy()
    made, touched = _with_defects(np.stack(frames), clip, random)
    if clip.grain:
        noise = random.normal(0, clip.grain, made.shape).astype(np.float32)
        made = np.clip(made + noise, 0, 255).round().astype(np.uint8)
        for index in touched.get("duplicate_frames", ()):
            made[index] = made[index - 1]
        if "static" in touched:
            made[:] = made[0]
    return Made(frames=made, first=first, touched=touched)


def open_photo(name: str) -> U8Image:
    """An example photograph, or `package/file` of one in a package, as uint8 (height, width, 3)."""
    if "/" in name:
        return open_package_photo(name)
    with Image.open(EXAMPLES / f"{name}.jpg") as opened:
        return np.asarray(opened.convert("RGB"))


def _view(source: U8Image, clip: Clip, index: int, offset: tuple[float, float]) -> U8Image:
    """What the camera sees at frame `index`: a window that moves, grows and turns over the photograph."""
    travel = clip.frames - 1
    # The window is as large as its whole way allows without leaving the photograph.
    turned = abs(math.radians(clip.roll)) * travel / 2
    room = 0.96 / (math.cos(turned) + math.sin(turned) * max(clip.width / clip.height, clip.height / clip.width))
    room /= 1 + max(abs(clip.pan), abs(clip.tilt)) * travel
    largest = max(1.0, (1 + clip.zoom) ** -travel)
    scale = room * min(source.shape[1] / clip.width, source.shape[0] / clip.height) / largest
    scale *= (1 + clip.zoom) ** -index
    middle = index - travel / 2
    angle = -math.radians(clip.roll) * middle
    centre_x = source.shape[1] / 2 + (clip.pan * middle * clip.width + offset[0]) * scale
    centre_y = source.shape[0] / 2 + (-clip.tilt * middle * clip.height + offset[1]) * scale
    cos, sin = math.cos(-angle) * scale, math.sin(-angle) * scale
    matrix = np.array(
        [
            [cos, -sin, centre_x - cos * clip.width / 2 + sin * clip.height / 2],
            [sin, cos, centre_y - sin * clip.width / 2 - cos * clip.height / 2],
        ]
    )
    # Shrinking without a filter would flicker by itself.
    blurred = cv2.GaussianBlur(source, (0, 0), 0.45 * scale) if scale > 1 else source
    seen = cv2.warpAffine(
        blurred,
        matrix,
        (clip.width, clip.height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return seen.astype(np.uint8)


def _patch(clip: Clip, random: np.random.Generator) -> U8Image:
    others = [name for name in photos() if name != clip.photo]
    source = open_photo(others[int(random.integers(len(others)))])
    side = clip.height // 3
    return cv2.resize(source, (side, side), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _with_patch(frame: U8Image, patch: U8Image, clip: Clip, index: int) -> U8Image:
    """Something round that moves through the picture, whatever the camera does."""
    side = patch.shape[0]
    x = clip.width / 2 + clip.subject * clip.width * (index - (clip.frames - 1) / 2) - side / 2
    y = clip.height * 0.55 - side / 2
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
    rows, columns = np.mgrid[0:side, 0:side] - (side - 1) / 2
    disk = np.clip(side / 2 - np.hypot(rows, columns), 0, 1).astype(np.float32)
    size = (clip.width, clip.height)
    alpha = cv2.warpAffine(disk, matrix, size)[..., None]
    moved = cv2.warpAffine(patch, matrix, size)
    return (frame * (1 - alpha) + moved * alpha).round().astype(np.uint8)


def _with_defects(
    frames: U8Frames, clip: Clip, random: np.random.Generator
) -> tuple[U8Frames, dict[Defect, tuple[int, ...]]]:
    values = frames.astype(np.float32)
    touched: dict[Defect, tuple[int, ...]] = {defect: _PLANTED[defect](values, random) for defect in clip.defects}
    made: U8Frames = np.clip(values, 0, 255).round().astype(np.uint8)
    return made, touched


def _middle(values: Values, random: np.random.Generator) -> int:
    return int(random.integers(len(values) // 3, 2 * len(values) // 3))


def _static(values: Values, _: np.random.Generator) -> tuple[int, ...]:
    values[:] = values[0]
    return tuple(range(1, len(values)))


def _flash(values: Values, random: np.random.Generator) -> tuple[int, ...]:
    middle = _middle(values, random)
    values[middle] = values[middle] * 1.3 + 45
    return (middle,)


def _strobe(values: Values, random: np.random.Generator) -> tuple[int, ...]:
    start = max(_middle(values, random) - 6, 1)
    chosen = tuple(range(start, min(start + 12, len(values) - 1), 2))
    values[list(chosen)] = values[list(chosen)] * 1.2 + 30
    return chosen


def _flicker(values: Values, random: np.random.Generator) -> tuple[int, ...]:
    values *= (1 + random.normal(0, 0.05, len(values))).astype(np.float32)[:, None, None, None]
    return tuple(range(len(values)))


def _duplicates(values: Values, random: np.random.Generator) -> tuple[int, ...]:
    places = np.arange(3, len(values) - 2, 2)
    chosen = tuple(sorted(int(each) for each in random.choice(places, 4, replace=False)))
    for index in chosen:
        values[index] = values[index - 1]
    return chosen


def _black(values: Values, random: np.random.Generator) -> tuple[int, ...]:
    middle = _middle(values, random)
    values[middle : middle + 3] = 4
    return tuple(range(middle, middle + 3))


def _blur(values: Values, _: np.random.Generator) -> tuple[int, ...]:
    last = len(values) - 1
    for index in range(last + 1):
        sigma_px = 4.0 * (index / last - 0.3)
        if sigma_px > 0.2:
            values[index] = cv2.GaussianBlur(values[index], (0, 0), sigma_px)
    return tuple(range(2 * last // 3, last + 1))


def _color_drift(values: Values, _: np.random.Generator) -> tuple[int, ...]:
    last = len(values) - 1
    for index in range(last + 1):
        values[index] *= 1 + index / last * np.array([0.18, -0.02, -0.22], np.float32)
    return tuple(range(2 * last // 3, last + 1))


def _snap_back(values: Values, _: np.random.Generator) -> tuple[int, ...]:
    start = 2 * len(values) // 3
    values[start:] = values[: len(values) - start].copy()
    return (start,)


_PLANTED: Mapping[Defect, Callable[[Values, np.random.Generator], tuple[int, ...]]] = {
    "static": _static,
    "flash": _flash,
    "strobe": _strobe,
    "flicker": _flicker,
    "duplicate_frames": _duplicates,
    "black": _black,
    "blur": _blur,
    "color_drift": _color_drift,
    "snap_back": _snap_back,
}


def label_of(clip: Clip) -> str:
    """The name that the camera's movement has to be given; `mixed` for what has no single one."""
    if clip.roll or clip.shake or (clip.pan and clip.tilt):
        return "mixed"
    if clip.pan:
        return "pan_right" if clip.pan > 0 else "pan_left"
    if clip.tilt:
        return "tilt_up" if clip.tilt > 0 else "tilt_down"
    if clip.zoom:
        return "zoom_in" if clip.zoom > 0 else "zoom_out"
    return "static"


def sample(seed: int, count: int, names: Sequence[str]) -> list[Clip]:
    """`count` clips over the photographs `names`: moves, unmoved cameras, subjects, grain, compression and defects."""
    random = np.random.default_rng(seed)
    sizes = ((832, 480), (480, 832), (640, 640), (512, 320))
    moves = ("pan", "tilt", "zoom", "roll", "still", "shake", "subject", "pan+tilt")
    defects: tuple[Defect | None, ...] = (
        None, None, None, None, "static", "flash", "strobe", "flicker", "duplicate_frames", "black", "blur",
        "color_drift", "snap_back",
    )  # fmt: skip
    clips = []
    for index in range(count):
        width, height = sizes[int(random.integers(len(sizes)))]
        fps = int(random.choice([8, 16, 24]))
        frames = int(random.choice([17, 25, 49]))
        defect = defects[index % len(defects)]
        # A defect that only shows on moving pictures gets a camera that moves.
        move = moves[index % len(moves)]
        if defect in ("duplicate_frames", "snap_back") and move in ("still", "shake", "subject"):
            move = "pan"
        if defect == "static":
            move = "still"
        grain, crf = float(random.choice([0, 0, 2, 5])), int(random.choice([16, 23, 30]))
        if defect in (None, "blur") and move == "still":
            # Without grain, or with grain that the encoder takes away, nothing would tell it from a frozen picture,
            # which a clip that blurs later still is at its start.
            grain, crf = max(grain, 2.0), 16
        # Shares per second, so that a clip at 8 fps moves as far as one at 24.
        speed = float(random.uniform(0.015, 0.12)) / fps * float(random.choice([-1, 1]))
        travel = abs(speed) * (frames - 1)
        if travel > 0.3:
            speed *= 0.3 / travel
        amounts = {
            "pan": {"pan": speed},
            "tilt": {"tilt": speed},
            "zoom": {"zoom": speed * 1.2},
            "roll": {"roll": math.degrees(speed * 1.2)},
            "still": {},
            "shake": {"shake": float(random.uniform(0.8, 2.0))},
            "subject": {"subject": abs(speed) * 2 + 0.004},
            "pan+tilt": {"pan": speed, "tilt": speed},
        }[move]
        clips.append(
            Clip(
                photo=names[int(random.integers(len(names)))],
                width=width,
                height=height,
                frames=frames,
                fps=fps,
                grain=grain,
                crf=crf,
                defects=() if defect is None else (defect,),
                seed=int(random.integers(2**31)),
                **amounts,
            )
        )
    return clips
