"""Measures our denoising loop against the bare diffusers pipeline on one tiny model, and a second run against a first.

Knows the engine only through what it offers to everybody. Takes processor seconds of one thread, so that other programs
disturb little; both loops run in turns. Prints the figures and writes them to bench/results/engines.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# Run as a file, this program finds the project only now.
import tiny_models  # noqa: E402  # pyright: ignore[reportMissingImports]

from i2v_pipeline.engines import load_engine  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402
from i2v_pipeline.types import Engine, GenerationRequest, Progress  # noqa: E402

RESULT_PATH = ROOT / "bench" / "results" / "engines.json"
WIDTH, HEIGHT, FRAMES = 320, 256, 17
GOAL = 1.02
VERSIONS_OF = ("torch", "diffusers", "transformers", "numpy")


def steps_of_ours(engine: Engine, request: GenerationRequest) -> list[float]:
    """Processor seconds of each denoising step but the first, all that happens between two steps included."""
    marks: list[float] = []

    def mark(progress: Progress) -> None:
        if progress.stage == "denoise" and progress.step > 0:
            marks.append(time.process_time())

    for _ in engine.generate(request, tiny_models.picture_for(request), mark):
        break
    return differences(marks)


def steps_of_diffusers(pipeline: Any, request: GenerationRequest) -> list[float]:  # noqa: ANN401
    """The same of diffusers' pipeline, told by its own callback."""
    marks: list[float] = []

    def mark(_pipeline: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
        marks.append(time.process_time())
        return values

    pipeline(
        image=Image.fromarray(tiny_models.picture_for(request).pixels),
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        height=request.height,
        width=request.width,
        num_frames=request.frames,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="latent",
        callback_on_step_end=mark,
    )
    return differences(marks)


def compare_loops(request: GenerationRequest, repeats: int) -> dict[str, Any]:
    """Both loops in turns; each pair of neighbours gives one ratio of their median steps."""
    engine = load_engine(load_presets()[request.engine])
    pipeline: Any = WanImageToVideoPipeline.from_pretrained(str(request.checkpoint))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=request.flow_shift)
    loops: tuple[Callable[[], list[float]], ...] = (
        lambda: steps_of_ours(engine, request),
        lambda: steps_of_diffusers(pipeline, request),
    )
    for loop in loops:
        loop()
    ours, theirs, ratios = [], [], []
    for repeat in range(repeats):
        gc.collect()
        # Each goes first as often as the other.
        order = loops if repeat % 2 == 0 else loops[::-1]
        medians = {loop: statistics.median(loop()) for loop in order}
        ours.append(medians[loops[0]])
        theirs.append(medians[loops[1]])
        ratios.append(ours[-1] / theirs[-1])
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "step_ms_ours": round(1000 * statistics.median(ours), 2),
        "step_ms_diffusers": round(1000 * statistics.median(theirs), 2),
        "ratio": {
            "median": round(middle, 4),
            "quartiles": [round(low, 4), round(high, 4)],
            "range": [round(min(ratios), 4), round(max(ratios), 4)],
        },
        "repeats": repeats,
        "steps_each": request.steps,
        "goal": GOAL,
        "reached": middle <= GOAL,
    }


def compare_runs(request: GenerationRequest, repeats: int) -> dict[str, Any]:
    """Processor seconds from the request to the first step: of a new engine, and of its next run with another seed."""
    first, second = [], []
    for repeat in range(repeats):
        engine = load_engine(load_presets()[request.engine])
        first.append(seconds_before_denoising(engine, request))
        second.append(seconds_before_denoising(engine, replace(request, seed=request.seed + repeat + 1)))
        engine.close()
    return {
        "before_first_step_s_first_run": round(statistics.median(first), 4),
        "before_first_step_s_second_run": round(statistics.median(second), 4),
        "ratio": round(statistics.median(second) / statistics.median(first), 4),
        "repeats": repeats,
    }


def seconds_before_denoising(engine: Engine, request: GenerationRequest) -> float:
    started, ended = time.process_time(), 0.0

    def mark(progress: Progress) -> None:
        nonlocal ended
        if (progress.stage, progress.step) == ("denoise", 0):
            ended = time.process_time()

    for _ in engine.generate(request, tiny_models.picture_for(request), mark):
        pass
    return ended - started


def differences(marks: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(marks)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default=tiny_models.WAN_A14B, choices=tiny_models.WANS)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", type=Path, default=RESULT_PATH)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = tiny_models.save_checkpoint(arguments.engine, Path(folder) / arguments.engine)
        request = tiny_models.request_for(
            arguments.engine, checkpoint, width=WIDTH, height=HEIGHT, frames=FRAMES, steps=arguments.steps
        )
        result = {
            "what": "CPU, one thread, fp32; tiny model, random weights; processor seconds. Not measured on a GPU.",
            "command": " ".join(["python", *sys.argv]),
            "device": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS_OF}},
            "load_average": [round(load, 1) for load in os.getloadavg()],
            "request": {"engine": request.engine, "width": WIDTH, "height": HEIGHT, "frames": FRAMES, "guidance": 5.0},
            "loop": compare_loops(request, arguments.repeats),
            "second_run": compare_runs(replace(request, steps=1), max(3, arguments.repeats // 4)),
        }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
