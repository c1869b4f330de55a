"""Holds the inspection against clips whose movement and defects are known, and measures what it costs.

Knows nothing of how the inspection works. Clips with a planted movement and planted defects are made of photographs of
which some were looked at while thresholds were set (`seen`) and others never (`held_out`); real films and the camera
engine's own videos are clean. Each part is written to bench/results/inspection.json as soon as it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Run as a file, this program finds the project only now.
from bench.pictures import labelled, open_film, picture_path  # noqa: E402
from bench.synthetic_clips import EXAMPLES, Clip, label_of, make, photos, sample  # noqa: E402
from i2v_pipeline.engines.camera import CameraEngine  # noqa: E402
from i2v_pipeline.images import open_picture, prepare  # noqa: E402
from i2v_pipeline.inspection.judge import Inspection, inspect_frames  # noqa: E402
from i2v_pipeline.types import CameraTag, GenerationRequest, Motion, PromptOrigin, U8Frames, U8Image  # noqa: E402
from i2v_pipeline.video import read_frames, write_video  # noqa: E402

RESULT_PATH = ROOT / "bench" / "results" / "inspection.json"
SEEN = (*photos(), *(each.name for each in labelled().pictures if each.clips == "seen"))
HELD_OUT = tuple(each.name for each in labelled().pictures if each.clips == "held_out")
PARTS = ("held_out", "seen", "films", "camera_engine", "times")
AMOUNT_TOLERANCE = 0.10
ENGINE_SIZE, ENGINE_FRAMES, ENGINE_FPS = (640, 360), 48, 24


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=260, help="clips of held-out photographs")
    parser.add_argument("--seen-clips", type=int, default=104, help="clips of the photographs that were looked at")
    parser.add_argument("--seed", type=int, default=2027)
    parser.add_argument("--only", choices=PARTS, action="append", help="measures this part again; may be repeated")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    parts = {
        "held_out": lambda: score(sample(arguments.seed, arguments.clips, HELD_OUT)),
        "seen": lambda: score(sample(arguments.seed + 1, arguments.seen_clips, SEEN)),
        "films": judge_films,
        "camera_engine": lambda: judge_camera_engine((photos()[0], *HELD_OUT[::9])),
        "times": lambda: measure_times(arguments.seed),
    }
    for name in arguments.only or parts:
        load = os.getloadavg()[0]
        part = {"programs_waiting_for_a_core": round(load, 1), **parts[name]()}
        told = {key: value for key, value in part.items() if key not in ("confusion", "wrong", "labels")}
        print(name, json.dumps(told), flush=True)
        write(name, part)
    return 0


def write(name: str, part: dict[str, Any]) -> None:
    """Puts a part into the result file and leaves the others as they were measured."""
    found = json.loads(RESULT_PATH.read_text(encoding="utf-8")) if RESULT_PATH.exists() else {}
    found = {key: value for key, value in found.items() if key in PARTS} | {name: part}
    result = {
        "command": "python bench/inspection.py",
        "photographs": {"held_out": HELD_OUT, "seen": SEEN},
        "machine": f"{platform.processor() or platform.machine()}, one thread, OpenCV {cv2.__version__}",
        "clean": clean_share(found) if {"held_out", "films", "camera_engine"} <= set(found) else None,
        **{key: found[key] for key in PARTS if key in found},
    }
    RESULT_PATH.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def clean_share(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """False alarms on clean clips that nothing was set on: held-out photographs, films, the camera engine's videos."""
    parts = [found[name] for name in ("held_out", "films", "camera_engine")]
    clips, alarms = (sum(part[key] for part in parts) for key in ("clean_clips", "clean_clips_with_an_alarm"))
    return {"clips": clips, "with_an_alarm": alarms, "share": round(alarms / clips, 4)}


def score(clips: Sequence[Clip]) -> dict[str, Any]:
    """Labels, amounts and defects of all clips against the truth, and milliseconds of CPU a frame."""
    confusion: Counter[str] = Counter()
    planted, found, others = Counter[str](), Counter[str](), Counter[str]()
    errors: list[float] = []
    wrong: list[str] = []
    clean, alarmed, seconds, frames, labelled_clips, right = 0, 0, 0.0, 0, 0, 0
    for clip in clips:
        video, first = coded(clip)
        started = time.process_time()
        inspection = inspect_frames([video], fps=clip.fps, picture=first)
        seconds += time.process_time() - started
        frames += clip.frames
        codes = {flag.code for flag in inspection.flags}
        planted.update(clip.defects)
        found.update(codes & set(clip.defects))
        others.update(codes - set(clip.defects))
        clean += not clip.defects
        alarmed += not clip.defects and bool(codes)
        if codes != set(clip.defects):
            wrong.append(f"{clip}: {sorted(codes)}")
        # A picture that jumps back has no single movement to be named.
        if "snap_back" in clip.defects:
            continue
        wanted, got = label_of(clip), inspection.motion.label
        confusion[f"{wanted} -> {got}"] += 1
        labelled_clips, right = labelled_clips + 1, right + (wanted == got)
        if wanted != got:
            wrong.append(f"{clip}: {got}")
        missed = amount_errors(clip, inspection)
        errors += missed
        if any(error > AMOUNT_TOLERANCE for error in missed):
            wrong.append(f"{clip}: amounts off by {', '.join(f'{error:.0%}' for error in missed)}")
    return {
        "clips": len(clips),
        "label_accuracy": round(right / labelled_clips, 4),
        "amounts": len(errors),
        "amounts_within_10_percent": round(float(np.mean(np.array(errors) <= AMOUNT_TOLERANCE)), 4),
        "amount_error_median": round(float(np.median(errors)), 4),
        "defects_planted": dict(planted),
        "defects_found": dict(found),
        "defects_found_share": round(found.total() / planted.total(), 4),
        "clean_clips": clean,
        "clean_clips_with_an_alarm": alarmed,
        "other_flags": dict(others),
        "ms_per_frame": round(1000 * seconds / frames, 2),
        "confusion": dict(sorted(confusion.items())),
        "wrong": wrong,
    }


def judge_films() -> dict[str, Any]:
    """Real films: what is said of them and not so, what is so and not said, the camera where it is beyond doubt."""
    wrong, alarmed, found, labels, right = [], 0, 0, {}, 0
    films = labelled().clips
    for film in films:
        frames, fps = open_film(film)
        inspection = inspect_frames([frames], fps=fps)
        codes = {flag.code for flag in inspection.flags}
        alarmed += not film.shows and bool(codes)
        found += len(codes & set(film.shows))
        if codes != set(film.shows):
            wrong.append(f"{film.name}: {sorted(codes)}")
        labels[film.name] = inspection.motion.label
        right += film.label == inspection.motion.label
    return {
        "clean_clips": sum(not film.shows for film in films),
        "clean_clips_with_an_alarm": alarmed,
        "defects": sum(len(film.shows) for film in films),
        "defects_found": found,
        "labelled": sum(film.label is not None for film in films),
        "labelled_right": right,
        "labels": labels,
        "wrong": wrong,
    }


def judge_camera_engine(names: Sequence[str]) -> dict[str, Any]:
    """The built-in engine's video of each camera move on each photograph: asked, measured, and what is found wrong."""
    wrong, alarmed, measurable, shown = [], 0, 0, 0
    tags: tuple[CameraTag, ...] = get_args(CameraTag)
    for name in names:
        path = picture_path(name) if "/" in name else EXAMPLES / f"{name}.jpg"
        for tag in tags:
            inspection = inspect_engine(path, tag)
            codes = {flag.code for flag in inspection.flags} - ({"static"} if tag == "static" else set())
            alarmed += bool(codes)
            measurable += inspection.asked[tag] is not None
            shown += inspection.asked[tag] is True
            if codes or inspection.asked[tag] is False:
                wrong.append(f"{name} {tag}: {inspection.motion.label}, {sorted(codes)}")
    return {
        "photos": names,
        "clean_clips": len(names) * len(tags),
        "clean_clips_with_an_alarm": alarmed,
        "measurable": measurable,
        "asked_and_measured": shown,
        "wrong": wrong,
    }


def measure_times(seed: int) -> dict[str, Any]:
    """Seconds for a video of 81 frames of 832 x 480 as it comes back from its file, decoding included."""
    clip = Clip(photo=photos()[0], width=832, height=480, frames=81, fps=16, pan=0.002, grain=2.0, seed=seed)
    made = make(clip)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video([made.frames], path, width=clip.width, height=clip.height, fps=clip.fps)
        measured = []
        for _ in range(3):
            begun, begun_cpu = time.perf_counter(), time.process_time()
            inspect_frames(read_frames(path), fps=clip.fps, picture=made.first)
            measured.append((time.process_time() - begun_cpu, time.perf_counter() - begun))
    cpu, wall = min(measured)
    return {"frames": clip.frames, "size": [832, 480], "processor_seconds": round(cpu, 2), "seconds": round(wall, 2)}


def inspect_engine(path: Path, tag: CameraTag) -> Inspection:
    """What is measured on the camera engine's video of one move, as it comes back from its file."""
    width, height = ENGINE_SIZE
    prepared = prepare(open_picture(path), width, height, "crop")
    request = GenerationRequest(
        engine="camera",
        images=(path,),
        prompt="",
        origin=PromptOrigin(typed="", refined="", source="typed"),
        motion=Motion(camera=(tag,), requested=True),
        resolution=f"{width}x{height}",
        width=width,
        height=height,
        fit="crop",
        frames=ENGINE_FRAMES,
        fps=ENGINE_FPS,
        seed=1,
    )
    frames = np.concatenate(list(CameraEngine().generate(request, prepared, lambda _: None)))
    return inspect_frames(
        [through_a_file(frames, fps=ENGINE_FPS)], fps=ENGINE_FPS, picture=prepared.pixels, asked=[tag]
    )


def coded(clip: Clip) -> tuple[U8Frames, U8Image]:
    """The clip as H.264 gives it back, and the picture that it begins with."""
    made = make(clip)
    return through_a_file(made.frames, fps=clip.fps, crf=clip.crf), made.first


def through_a_file(frames: U8Frames, *, fps: int, crf: int = 16) -> U8Frames:
    """The frames as H.264 gives them back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video([frames], path, width=frames.shape[2], height=frames.shape[1], fps=fps, crf=crf)
        return np.concatenate(list(read_frames(path)))


def amount_errors(clip: Clip, inspection: Inspection) -> list[float]:
    """By how much each amount that was asked for is missed, as a share of it."""
    motion = inspection.motion
    amounts = (
        (clip.pan * clip.width, motion.pan_px),
        (clip.tilt * clip.height, motion.tilt_px),
        (clip.zoom * 100, motion.zoom_percent),
        (clip.roll, motion.roll_deg),
    )
    return [abs(got - wanted) / abs(wanted) for wanted, got in amounts if wanted]


if __name__ == "__main__":
    sys.exit(main())
