"""Measures every diffusion engine at full size with random weights on a CUDA card, beside what the plan predicts.

Knows no real weights and asks nobody over the network: time and memory depend on shapes and types alone. The random
weights are made on the card itself, so they need no room elsewhere; the time for that is told apart. Writes
bench/results/engines_gpu.json after each engine. `--tiny` goes the same way with tiny models on the CPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import ModelMixin
from transformers import CLIPImageProcessorPil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# Run as a file, this program finds the project only now.
import tiny_models  # noqa: E402  # pyright: ignore[reportMissingImports]

from bench.full_size_configs import CONFIGS, WAN_21  # noqa: E402
from i2v_pipeline.engines import i2vgen_xl, vace, wan  # noqa: E402
from i2v_pipeline.engines.diffusion import DiffusionEngine  # noqa: E402
from i2v_pipeline.planning.costs import cost_of, job_of, step_seconds  # noqa: E402
from i2v_pipeline.planning.devices import find_device  # noqa: E402
from i2v_pipeline.planning.modes import mode_called  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402
from i2v_pipeline.specs import EngineSpec  # noqa: E402
from i2v_pipeline.types import GenerationRequest, Progress  # noqa: E402

RESULT_PATH = ROOT / "bench" / "results" / "engines_gpu.json"
GIB = 2**30
VERSIONS_OF = ("torch", "diffusers", "transformers", "accelerate", "numpy")
STANDARD_DEVIATION = 0.02
MODE = mode_called("staged")
STARTS = {("encode", 0): "encode", ("encode", 1): "load", ("denoise", 0): "denoise", ("decode", 0): "decode"}
"""The progress with which a stage begins, and with which the one before it ends."""


class RandomWeights:
    """Stands where a component's class does, and instead of reading a file fills the architecture with small values."""

    def __init__(self, kind: Any, device: torch.device, seconds: list[float]) -> None:  # noqa: ANN401
        self._kind = kind
        self._device = device
        self._seconds = seconds

    def from_pretrained(self, folder: Path, *, subfolder: str, dtype: torch.dtype, **_: object) -> torch.nn.Module:
        started = time.perf_counter()
        config = json.loads((folder / subfolder / "config.json").read_text(encoding="utf-8"))
        model = build_empty(self._kind, config)
        fill(model, self._device, dtype)
        synchronize(self._device)
        self._seconds.append(time.perf_counter() - started)
        return model


def kinds_of(spec: EngineSpec) -> dict[str, Any]:
    """The classes of the components that the engine has."""
    assert spec.diffusion is not None
    kinds = {"i2vgen_xl": i2vgen_xl.KINDS, "vace": vace.KINDS}.get(spec.family, wan.KINDS)
    return {name: kinds[name] for name in spec.diffusion.components}


def build_empty(kind: Any, config: Any) -> torch.nn.Module:  # noqa: ANN401
    """The architecture; its parameters have no memory, its buffers have their values."""
    with init_empty_weights(include_buffers=False):
        if issubclass(kind, ModelMixin):
            return kind.from_config(config)  # pyright: ignore[reportAttributeAccessIssue]
        model = kind(kind.config_class.from_dict(dict(config)))
    # Emptied one by one, parameters that two layers share are no longer one.
    model.tie_weights()
    return model


def fill(model: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Gives every parameter memory on `device` and small normal values, in the type that a load would give it."""
    # transformers' lists of this name speak of fp16 alone, and of no model here that is loaded so.
    in_fp32 = set(getattr(model, "_keep_in_fp32_modules", None) or ()) if isinstance(model, ModelMixin) else set()
    made: dict[int, torch.nn.Parameter] = {}
    # The list keeps the empty parameters alive, so that no two of them have the same id.
    for path, empty in list(model.named_parameters(remove_duplicate=False)):
        if id(empty) not in made:
            own = torch.float32 if in_fp32.intersection(path.split(".")) else dtype
            values = torch.empty(empty.shape, device=device, dtype=own).normal_(std=STANDARD_DEVIATION)
            made[id(empty)] = torch.nn.Parameter(values)
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, made[id(empty)])


class Watch:
    """Listens to the progress of a run: seconds and peak memory of each stage, seconds of each step."""

    def __init__(self, device: torch.device, filling: list[float]) -> None:
        self.stages: dict[str, dict[str, float | None]] = {}
        self._steps: list[float] = []
        self._device = device
        self._filling = filling
        self._stage, self._started = "", 0.0

    def __call__(self, progress: Progress) -> None:
        stage = STARTS.get((progress.stage, progress.step))
        if stage is not None:
            self.end()
            self._stage, self._started = stage, time.perf_counter()
        if progress.stage == "denoise":
            synchronize(self._device)
            self._steps.append(time.perf_counter())

    def end(self) -> None:
        """Closes the stage that runs."""
        synchronize(self._device)
        is_cuda = self._device.type == "cuda"
        if self._stage:
            filling = sum(self._filling, 0.0)
            self.stages[self._stage] = {
                "seconds": round(time.perf_counter() - self._started - filling, 4),
                "seconds_making_weights": round(filling, 4),
                "peak_vram_gib": round(torch.cuda.max_memory_allocated(self._device) / GIB, 3) if is_cuda else None,
            }
        self._filling.clear()
        if is_cuda:
            torch.cuda.reset_peak_memory_stats(self._device)

    def seconds_per_step(self) -> list[float]:
        return [round(later - earlier, 4) for earlier, later in pairwise(self._steps)]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def save_architecture(engine_id: str, folder: Path, *, is_tiny: bool) -> Path:
    """A checkpoint whose configs, tokenizer and scheduler are read; its weights are tiny ones that nobody reads."""
    # Both sizes of Wan 2.1 are one architecture.
    tiny_models.save_checkpoint(tiny_models.WAN_21 if CONFIGS[engine_id] is WAN_21 else engine_id, folder)
    if not is_tiny:
        for name, config in CONFIGS[engine_id].items():
            (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
        for name in ("image_processor", "feature_extractor"):
            if (folder / name).is_dir():
                CLIPImageProcessorPil().save_pretrained(folder / name)
    return folder


def request_of(spec: EngineSpec, checkpoint: Path, *, steps: int, is_tiny: bool) -> GenerationRequest:
    """The standard preset in `steps` steps; tiny, its guidance alone."""
    preset = spec.presets["standard"]
    width, height = spec.resolutions[preset.resolution]
    size = {"resolution": preset.resolution, "width": width, "height": height, "frames": preset.frames}
    changes: dict[str, Any] = {} if is_tiny else {**size, "fps": preset.fps, "device": "cuda"}
    return tiny_models.request_for(spec.id, checkpoint, steps=steps, guidance=preset.guidance, **changes)


def measure(spec: EngineSpec, folder: Path, *, steps: int, is_tiny: bool) -> dict[str, Any]:
    """One run from the request to the last frame."""
    request = request_of(spec, save_architecture(spec.id, folder, is_tiny=is_tiny), steps=steps, is_tiny=is_tiny)
    device = torch.device(request.device)
    filling: list[float] = []
    watch = Watch(device, filling)
    engine = DiffusionEngine(spec)
    # The engine keeps what it has loaded for one checkpoint; only where the weights come from is exchanged.
    parts = engine._load(request, MODE).parts
    parts._kinds = {name: RandomWeights(kind, device, filling) for name, kind in kinds_of(spec).items()}
    chunks = engine.generate(request, tiny_models.picture_for(request), watch, mode=MODE.id)
    frames = sum(len(chunk) for chunk in chunks)
    watch.end()
    precisions = engine.facts()["precisions"]
    engine.close()
    per_step = watch.seconds_per_step()
    peaks = [stage["peak_vram_gib"] for stage in watch.stages.values() if stage["peak_vram_gib"] is not None]
    return {
        "request": {
            "width": request.width, "height": request.height, "frames": request.frames, "steps": request.steps,
            "guidance": request.guidance, "scheduler": request.scheduler,
        },
        "precisions": precisions,
        "frames_made": frames,
        "seconds_per_step": {"each": per_step, "median_after_first": median_after_first(per_step)},
        "stages": watch.stages,
        "peak_vram_gib": max(peaks, default=None),
        "predicted": None if is_tiny else predicted(spec, request),
    }  # fmt: skip


def median_after_first(seconds: Sequence[float]) -> float | None:
    """The first step also chooses kernels; None where there is no other."""
    return round(statistics.median(seconds[1:]), 4) if len(seconds) > 1 else None


def predicted(spec: EngineSpec, request: GenerationRequest) -> dict[str, Any]:
    """GiB of each stage without, and of the whole run with, what the libraries and the allocator take; seconds.

    The plan is for any run: while it encodes it counts what stays from a run before, which a first run has not.
    """
    assert spec.diffusion is not None
    job, device = job_of(spec, spec.diffusion, request, on_cpu=False), find_device(torch.cuda.get_device_name(0))
    cost = cost_of(job, MODE, device)
    return {
        "stages_vram_gib": {stage.name: round(stage.weights_gib + stage.activations_gib, 2) for stage in cost.stages},
        "stages_seconds": {stage.name: stage.seconds for stage in cost.stages},
        "seconds_per_guided_step": round(step_seconds(job, device), 3),
        "peak_vram_gib": cost.vram_gib,
        "card_is_known": device.is_known,
    }


def describe_device(*, is_tiny: bool) -> dict[str, Any]:
    if is_tiny:
        return {"name": platform.processor() or platform.machine(), "driver": None, "memory_gib": None}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    has_tool = shutil.which(query[0]) is not None
    driver = subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()[0] if has_tool else None
    memory = torch.cuda.get_device_properties(0).total_memory
    return {"name": torch.cuda.get_device_name(0), "driver": driver, "memory_gib": round(memory / GIB, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", action="append", choices=tuple(CONFIGS), help="may be given again; default: all")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU: whether this program works")
    parser.add_argument("--out", type=Path, default=RESULT_PATH)
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        print("PyTorch sees no CUDA device here; run this where there is one, or try it with --tiny.", file=sys.stderr)
        sys.exit(2)
    torch.manual_seed(0)
    result: dict[str, Any] = {
        "what": "Random weights of tiny size on the CPU: only shows that the program works. Not measured on a GPU."
        if arguments.tiny
        else "Random weights of full size; standard preset but for the steps. One run each, nothing warmed up.",
        "command": " ".join(["python", *sys.argv]),
        "device": describe_device(is_tiny=arguments.tiny),
        "versions": {
            "python": platform.python_version(),
            "cuda": torch.version.cuda,
            **{name: metadata.version(name) for name in VERSIONS_OF},
        },
        "engines": {},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for engine_id in arguments.engine or CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(
                load_presets()[engine_id], Path(folder) / engine_id, steps=arguments.steps, is_tiny=arguments.tiny
            )
        result["engines"][engine_id] = measured
        arguments.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(json.dumps({engine_id: measured}, indent=2, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
