"""Holds the inspection against clips whose movement and defects are known, and measures what it costs.

Knows nothing of how the inspection works. Half of the photographs were looked at while its thresholds were set; the
figures that count are those of the other half. Prints a summary and writes bench/results/inspection.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Run as a file, this program finds the project only now.
from bench.synthetic_clips import Clip, label_of, make, photos, sample  # noqa: E402
from i2v_pipeline.inspection.judge import Inspection, inspect_frames  # noqa: E402
from i2v_pipeline.types import U8Image  # noqa: E402
from i2v_pipeline.video import read_frames, write_video  # noqa: E402

RESULT_PATH = ROOT / "bench" / "results" / "inspection.json"
TUNED_ON = photos()[::2]
HELD_OUT = photos()[1::2]
AMOUNT_TOLERANCE = 0.10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=260, help="clips of each half")
    parser.add_argument("--seed", type=int, default=2026)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    halves = {
        name: score(sample(arguments.seed + place, arguments.clips, names))
        for place, (name, names) in enumerate((("held_out", HELD_OUT), ("tuned_on", TUNED_ON)))
    }
    result = {
        "command": f"python bench/inspection.py --clips {arguments.clips} --seed {arguments.seed}",
        "photos": {"held_out": HELD_OUT, "tuned_on": TUNED_ON},
        "machine": f"{platform.processor() or platform.machine()}, one thread, OpenCV {cv2.__version__}",
        **halves,
    }
    RESULT_PATH.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, half in halves.items():
        print(name, json.dumps({key: value for key, value in half.items() if key not in ("confusion", "wrong")}))
    return 0


def score(clips: list[Clip]) -> dict[str, Any]:
    """Labels, amounts and defects of all clips against the truth, and milliseconds a frame."""
    confusion: Counter[str] = Counter()
    planted, found, false_alarms = Counter[str](), Counter[str](), Counter[str]()
    errors: list[float] = []
    wrong: list[str] = []
    clean_clips, seconds, frames, labelled, right = 0, 0.0, 0, 0, 0
    for clip in clips:
        video, first = coded(clip)
        started = time.perf_counter()
        inspection = inspect_frames([video], fps=clip.fps, picture=first)
        seconds += time.perf_counter() - started
        frames += clip.frames
        codes = {flag.code for flag in inspection.flags}
        planted.update(clip.defects)
        found.update(codes & set(clip.defects))
        false_alarms.update(codes - set(clip.defects))
        clean_clips += not clip.defects
        if codes != set(clip.defects):
            wrong.append(f"{clip}: {sorted(codes)}")
        # A picture that jumps back has no single movement to be named.
        if "snap_back" in clip.defects:
            continue
        wanted, got = label_of(clip), inspection.motion.label
        confusion[f"{wanted} -> {got}"] += 1
        labelled, right = labelled + 1, right + (wanted == got)
        if wanted != got:
            wrong.append(f"{clip}: {got}")
        errors += amount_errors(clip, inspection)
    return {
        "clips": len(clips),
        "label_accuracy": round(right / labelled, 4),
        "amounts": len(errors),
        "amounts_within_10_percent": round(float(np.mean(np.array(errors) <= AMOUNT_TOLERANCE)), 4),
        "amount_error_median": round(float(np.median(errors)), 4),
        "defects_planted": dict(planted),
        "defects_found_share": round(found.total() / planted.total(), 4),
        "defects_found": dict(found),
        "false_alarms": dict(false_alarms),
        "false_alarm_share_of_clips": round(false_alarms.total() / len(clips), 4),
        "clean_clips": clean_clips,
        "ms_per_frame": round(1000 * seconds / frames, 2),
        "confusion": dict(sorted(confusion.items())),
        "wrong": wrong,
    }


def coded(clip: Clip) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], U8Image]:
    """The clip as H.264 gives it back, and the picture that it begins with."""
    made = make(clip)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video([made.frames], path, width=clip.width, height=clip.height, fps=clip.fps, crf=clip.crf)
        return np.concatenate(list(read_frames(path))), made.first


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
