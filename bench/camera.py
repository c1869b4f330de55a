"""Measures the camera engine from a picture to a finished H.264 file: frames per second, and which stage takes what.

Knows the engine and the video writer only through what they offer to everybody. Prints the figures and writes them to
bench/results/camera.json; ends with 1 when 1280 x 720 at 24 frames per second is not faster than real time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Run as a file, this program finds the project only now.
from i2v_pipeline.engines.camera import CameraEngine  # noqa: E402
from i2v_pipeline.images import open_picture, prepare  # noqa: E402
from i2v_pipeline.types import (  # noqa: E402
    CameraTag,
    GenerationRequest,
    Motion,
    Prepared,
    Progress,
    PromptOrigin,
    U8Frames,
)
from i2v_pipeline.video import CRF, PRESET, write_video  # noqa: E402

RESULT_PATH = ROOT / "bench" / "results" / "camera.json"
SIZES = ((512, 512), (1280, 720))
MOVES: tuple[CameraTag, ...] = ("pan_left", "dolly_in", "truck_left")
"""One move that needs no layers, the engine's own choice, and the one that shows most of both layers."""
FRAMES, FPS = 96, 24
GIB = 2**30


class StageClock:
    """Splits the seconds of a run: the engine's by its progress, and those outside of it, which are the encoder's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"mask": 0.0, "layers": 0.0, "render": 0.0, "encode": 0.0}
        self._stage = "mask"
        self._since = time.perf_counter()

    def on_progress(self, progress: Progress) -> None:
        if (progress.stage, progress.step) == ("encode", 1):
            self.enter("layers")
        elif (progress.stage, progress.step) == ("encode", 2):
            self.enter("render")

    def enter(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now

    def watch(self, chunks: Iterator[U8Frames]) -> Iterator[U8Frames]:
        for chunk in chunks:
            self.enter("encode")
            yield chunk
            self.enter("render")


def measure(picture: Prepared, move: CameraTag) -> dict[str, Any]:
    """One cold run, network loading included, into a file that is thrown away. Seconds, and shares of them."""
    height, width = picture.pixels.shape[:2]
    request = GenerationRequest(
        engine="camera",
        images=(Path("picture"),),
        prompt="",
        origin=PromptOrigin(typed="", refined="", source="typed"),
        motion=Motion(camera=(move,), requested=True),
        resolution=f"{width}x{height}",
        width=width,
        height=height,
        fit="crop",
        frames=FRAMES,
        fps=FPS,
        seed=1,
    )
    cpu_before_s = cpu_seconds()
    with tempfile.TemporaryDirectory() as folder:
        clock, engine = StageClock(), CameraEngine()
        chunks = clock.watch(engine.generate(request, picture, clock.on_progress))
        write_video(chunks, Path(folder) / "video.mp4", width=width, height=height, fps=FPS)
        clock.enter("encode")
    total_s = sum(clock.seconds.values())
    return {
        "size": f"{width}x{height}",
        "move": move,
        "seconds": total_s,
        "frames_per_second": FRAMES / total_s,
        "times_real_time": FRAMES / FPS / total_s,
        "cpu_seconds": cpu_seconds() - cpu_before_s,
        "stage_seconds": clock.seconds,
        "stage_share": {stage: seconds / total_s for stage, seconds in clock.seconds.items()},
    }


def cpu_seconds() -> float:
    """Of this process and of the encoders that it has waited for; unlike seconds, hardly longer on a busy machine."""
    return sum(os.times()[:4])


def median_run(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]


def rounded(value: Any) -> Any:  # noqa: ANN401 - walks JSON of any shape
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return value


def device() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "system": platform.platform(),
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "ram_gib": round(psutil.virtual_memory().total / GIB, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--picture", type=Path, default=ROOT / "examples" / "cat.jpg")
    arguments = parser.parse_args()
    opened = open_picture(arguments.picture)
    results = [
        median_run([measure(prepare(opened, width, height, "crop"), move) for _ in range(arguments.runs)])
        for width, height in SIZES
        for move in MOVES
    ]
    report = {
        "command": f"python bench/camera.py --runs {arguments.runs}",
        "measured": time.strftime("%Y-%m-%d"),
        "picture": arguments.picture.name,
        "frames": FRAMES,
        "fps": FPS,
        "encoder": f"libx264, crf {CRF}, preset {PRESET}",
        "device": device(),
        "versions": {
            "python": platform.python_version(),
            "opencv": cv2.__version__,
            "numpy": np.__version__,
            "ffmpeg": imageio_ffmpeg.get_ffmpeg_version(),
        },
        "median_of_runs": [rounded(result) for result in results],
    }
    RESULT_PATH.parent.mkdir(exist_ok=True)
    RESULT_PATH.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(
        f"{'size':10} {'move':11} {'fps':>6} {'x real time':>12} {'cpu s':>6}   share of mask, layers, render, encode"
    )
    for result in results:
        shares = "  ".join(f"{share:4.0%}" for share in result["stage_share"].values())
        print(
            f"{result['size']:10} {result['move']:11} {result['frames_per_second']:6.1f} "
            f"{result['times_real_time']:12.2f} {result['cpu_seconds']:6.2f}   {shares}"
        )
    slowest = min(result["times_real_time"] for result in results if result["size"] == "1280x720")
    return 0 if slowest > 1 else 1


if __name__ == "__main__":
    sys.exit(main())
