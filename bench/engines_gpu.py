"""Measures diffusion engines at full size with random weights on a CUDA card, beside what the plan predicts.

Knows no real weights and asks nobody over the network: time and memory depend on shapes and types alone. The random
weights are made on the card itself, and lie where the mode has them; the time for that is left out. One command, called
again until no case is left: it writes bench/results/engines_gpu.json after each case, and goes on from there. `--tiny`
goes the same way with tiny models on the CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# Run as a file, this program finds the project only now.
from studio.allocation import allocator_settings  # noqa: E402

if __name__ == "__main__":
    # As in every process of the studio that generates; PyTorch reads it when it starts.
    os.environ.update(allocator_settings(os.environ))

import tiny_models  # noqa: E402  # pyright: ignore[reportMissingImports]
import torch  # noqa: E402
from accelerate import init_empty_weights  # noqa: E402
from diffusers.models.modeling_utils import ModelMixin  # noqa: E402
from transformers import CLIPImageProcessorPil  # noqa: E402

from bench.engines_grid import (  # noqa: E402
    PUBLISHED_STEP,
    WAN_21,
    Case,
    cases,
    compared,
    past_of,
    summary,
)
from bench.full_size_configs import CONFIGS  # noqa: E402
from bench.full_size_configs import WAN_21 as WAN_21_CONFIG  # noqa: E402
from i2v_pipeline.engines import i2vgen_xl, vace, wan  # noqa: E402
from i2v_pipeline.engines.diffusion import DiffusionEngine  # noqa: E402
from i2v_pipeline.engines.loading import HOST  # noqa: E402
from i2v_pipeline.errors import OutOfMemory, StudioError  # noqa: E402
from i2v_pipeline.planning import plan_run  # noqa: E402
from i2v_pipeline.planning.costs import cost_of  # noqa: E402
from i2v_pipeline.planning.devices import find_device  # noqa: E402
from i2v_pipeline.planning.job import job_of  # noqa: E402
from i2v_pipeline.planning.learned import History, Past  # noqa: E402
from i2v_pipeline.planning.machine import Machine, installed_kernels  # noqa: E402
from i2v_pipeline.planning.modes import mode_called  # noqa: E402
from i2v_pipeline.planning.tuning import tuning_of  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402
from i2v_pipeline.specs import EngineSpec  # noqa: E402
from i2v_pipeline.types import GenerationRequest, Progress, StageName  # noqa: E402

RESULT_PATH = ROOT / "bench" / "results" / "engines_gpu.json"
GIB = 2**30
VERSIONS_OF = ("torch", "diffusers", "transformers", "accelerate", "numpy")
STANDARD_DEVIATION = 0.02
PIECE = 2**26
"""Values made on the card at once for weights that lie elsewhere: they must not count as what the run holds there."""
TOLD = ("seconds", "counted_error", "learned_error", "counted_peak_error", "ran_out", "failed", "is_as_planned")


class RandomWeights:
    """Stands where a component's class does, and instead of reading a file fills the architecture with small values.

    They are made on `device` and lie at `home`: where the engine would have what it has just read.
    """

    def __init__(self, kind: Any, device: torch.device, home: torch.device, seconds: list[float]) -> None:  # noqa: ANN401
        self._kind = kind
        self._device = device
        self._home = home
        self._seconds = seconds

    def from_pretrained(self, folder: Path, *, subfolder: str, dtype: torch.dtype, **_: object) -> torch.nn.Module:
        started = time.perf_counter()
        config = json.loads((folder / subfolder / "config.json").read_text(encoding="utf-8"))
        model = build_empty(self._kind, config)
        fill(model, self._device, self._home, dtype)
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


def fill(model: torch.nn.Module, device: torch.device, home: torch.device, dtype: torch.dtype) -> None:
    """Gives every parameter memory at `home` and small normal values, in the type that a load would give it."""
    # transformers' lists of this name speak of fp16 alone, and of no model here that is loaded so.
    in_fp32 = set(getattr(model, "_keep_in_fp32_modules", None) or ()) if isinstance(model, ModelMixin) else set()
    made: dict[int, torch.nn.Parameter] = {}
    # The list keeps the empty parameters alive, so that no two of them have the same id.
    for path, empty in list(model.named_parameters(remove_duplicate=False)):
        if id(empty) not in made:
            own = torch.float32 if in_fp32.intersection(path.split(".")) else dtype
            values = torch.empty(empty.shape, device=home, dtype=own)
            for piece in values.view(-1).split(PIECE):
                piece.copy_(torch.empty_like(piece, device=device).normal_(std=STANDARD_DEVIATION))
            made[id(empty)] = torch.nn.Parameter(values)
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, made[id(empty)])


class Watch:
    """Listens to the progress of a run: seconds of each stage without the making of weights, seconds of each step."""

    def __init__(self, device: torch.device, filling: list[float]) -> None:
        self.seconds: dict[StageName, float] = {}
        self._steps: list[float] = []
        self._device = device
        self._filling = filling
        self._stage: StageName | None = None
        self._started = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self.end()
            self._stage, self._started = progress.stage, time.perf_counter()
        if progress.stage == "denoise":
            synchronize(self._device)
            self._steps.append(time.perf_counter())

    def end(self) -> None:
        """Closes the stage that runs. A stage that is entered again goes on."""
        synchronize(self._device)
        if self._stage is not None:
            taken = time.perf_counter() - self._started - sum(self._filling)
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + max(taken, 0.0)
        self._stage = None
        self._filling.clear()

    def seconds_per_step(self) -> list[float]:
        return [round(later - earlier, 4) for earlier, later in pairwise(self._steps)]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def save_architecture(engine_id: str, folder: Path, *, is_tiny: bool) -> Path:
    """A checkpoint whose configs, tokenizer and scheduler are read; its weights are tiny ones that nobody reads."""
    # Both sizes of Wan 2.1 are one architecture.
    tiny_models.save_checkpoint(tiny_models.WAN_21 if CONFIGS[engine_id] is WAN_21_CONFIG else engine_id, folder)
    if not is_tiny:
        for name, config in CONFIGS[engine_id].items():
            (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
        for name in ("image_processor", "feature_extractor"):
            if (folder / name).is_dir():
                CLIPImageProcessorPil().save_pretrained(folder / name)
    return folder


def request_of(spec: EngineSpec, case: Case, checkpoint: Path, *, steps: int, is_tiny: bool) -> GenerationRequest:
    """The case with the standard preset's guidance in `steps` steps."""
    preset = spec.presets["standard"]
    size = f"{case.width}x{case.height}"
    shape = {"resolution": size, "width": case.width, "height": case.height, "frames": case.frames}
    more: dict[str, Any] = {"compiled": case.compiled} if is_tiny else {
        "compiled": case.compiled, "device": "cuda", "fps": preset.fps
    }  # fmt: skip
    if case.references:
        more["images"] = tuple(Path(f"{number}.png") for number in range(case.references))
    return tiny_models.request_for(spec.id, checkpoint, steps=steps, guidance=preset.guidance, **shape, **more)


def run_case(spec: EngineSpec, request: GenerationRequest, mode: str) -> dict[str, Any]:
    """One run from the request to the last frame: its seconds, by stage and step, and the engine's own facts."""
    device = torch.device(request.device)
    filling: list[float] = []
    watch = Watch(device, filling)
    engine = DiffusionEngine(spec)
    try:
        # The engine keeps what it has loaded for one checkpoint; only where the weights come from is exchanged.
        parts = engine._load(request, mode_called(mode)).parts
        waits = {name: parts._form(name).streamed or parts._form(name).fp8 for name in kinds_of(spec)}
        parts._kinds = {
            name: RandomWeights(kind, device, HOST if waits[name] else device, filling)
            for name, kind in kinds_of(spec).items()
        }
        chunks = engine.generate(request, tiny_models.picture_for(request), watch, mode=mode)
        frames = sum(len(chunk) for chunk in chunks)
        watch.end()
        facts = dict(engine.facts())
    finally:
        engine.close()
    per_step = watch.seconds_per_step()
    compiling = None
    if request.compiled and len(per_step) > 1:
        # Counted as what it is, and not as denoising.
        compiling = max(0.0, per_step[0] - statistics.median(per_step[1:]))
        watch.seconds["denoise"] -= compiling
    return {
        "frames_made": frames,
        "compile_seconds": compiling,
        "seconds_by_stage": watch.seconds,
        "seconds_per_step": {"each": per_step, "median_after_first": median_after_first(per_step)},
        **{name: facts.get(name) for name in ("mode", "attention", "compiled", "stage_peaks_gib", "reserved_vram_gib")},
    }


def measure(case: Case, history: History, *, steps: int, is_tiny: bool) -> tuple[dict[str, Any], Past | None]:
    """The row of `case`, and what is to be remembered of it; nothing where memory ran out."""
    spec = load_presets()[case.engine]
    assert spec.diffusion is not None
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_architecture(case.engine, Path(folder) / case.engine, is_tiny=is_tiny)
        request = request_of(spec, case, checkpoint, steps=steps, is_tiny=is_tiny)
        device = find_device("cpu" if is_tiny else torch.cuda.get_device_name(0))
        mode, fits = (case.mode, True) if case.mode is not None else _planned(spec, request, case.cap_gib)
        row = {"cap_gib": case.cap_gib, "planned_mode": mode, "planned_to_fit": fits}
        try:
            with capped(None if is_tiny else case.cap_gib):
                taken = run_case(spec, request, mode)
        except OutOfMemory as error:
            return {**row, "ran_out": f"{error.memory} in {error.stage}", "is_as_planned": not fits}, None
        except (StudioError, RuntimeError) as error:
            return {**row, "failed": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}, None
    tuning = tuning_of(spec, request, device, installed_kernels())
    cost = cost_of(job_of(spec, spec.diffusion, request, on_cpu=False), mode_called(mode), device, tuning)
    seconds = {name: value for name, value in taken["seconds_by_stage"].items() if name != "load"}
    past = past_of(cost, seconds, taken["reserved_vram_gib"])
    return {**row, **taken, **compared(past, history), "is_as_planned": fits}, past


def _planned(spec: EngineSpec, request: GenerationRequest, cap_gib: float | None) -> tuple[str, bool]:
    """The mode that a plan takes where the card has so much or is empty, and whether it says that it fits."""
    card = find_device(torch.cuda.get_device_name(0) if torch.cuda.is_available() else "unknown")
    free_gib = card_gib() or card.vram_gib if cap_gib is None else cap_gib
    machine = Machine(gpu=card, cores=8, free_vram_gib=free_gib, free_ram_gib=None, free_disk_gib=None)
    plan = plan_run(spec, replace(request, device="cuda", checkpoint=None), machine)
    return plan.mode, plan.fits


@contextmanager
def capped(cap_gib: float | None) -> Iterator[None]:
    """Within it the engine takes no more of the card than STUDIO_VRAM_CAP says, as for a person who sets it."""
    if cap_gib is None:
        yield
        return
    torch.cuda.empty_cache()
    os.environ["STUDIO_VRAM_CAP"] = str(cap_gib)
    try:
        yield
    finally:
        del os.environ["STUDIO_VRAM_CAP"]
        torch.cuda.set_per_process_memory_fraction(1.0)


def card_gib() -> float | None:
    """The memory of the card; None where there is none."""
    return torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else None


def median_after_first(seconds: Sequence[float]) -> float | None:
    """The first step also chooses kernels; None where there is no other."""
    return round(statistics.median(seconds[1:]), 4) if len(seconds) > 1 else None


def describe_device(*, is_tiny: bool) -> dict[str, Any]:
    if is_tiny:
        return {"name": platform.processor() or platform.machine(), "driver": None, "memory_gib": None}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    has_tool = shutil.which(query[0]) is not None
    driver = subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()[0] if has_tool else None
    return {"name": torch.cuda.get_device_name(0), "driver": driver, "memory_gib": round(card_gib() or 0.0, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", action="append", choices=tuple(CONFIGS), help="may be given again; default: all")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no case after so many; call again to go on")
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="end after so many")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU: whether this program works")
    parser.add_argument("--out", type=Path, default=RESULT_PATH, help="what stands there is gone on with")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        print("PyTorch sees no CUDA device here; run this where there is one, or try it with --tiny.", file=sys.stderr)
        sys.exit(2)
    torch.manual_seed(0)
    result = go_on(arguments.out, is_tiny=arguments.tiny)
    until = time.monotonic() + 60 * arguments.minutes
    largest = math.inf if arguments.tiny else card_gib() or 0.0
    wanted = [
        case
        for case in cases(is_tiny=arguments.tiny, caps=True)
        if case.engine in (arguments.engine or CONFIGS) and (case.cap_gib or 0.0) <= largest
    ]
    left = [case for case in wanted if case.id not in result["runs"]]
    for case in tuple(left[: arguments.cases]):
        if time.monotonic() > until:
            break
        left.remove(case)
        # A kind of run is told by its engine, mode and compiling: everything else is the same here.
        kind = f"{case.engine} {case.mode}{' compiled' * case.compiled}"
        history = History(runs=tuple(Past.model_validate(each) for each in result["learned"].get(kind, ())))
        row, past = measure(case, history, steps=arguments.steps, is_tiny=arguments.tiny)
        result["runs"][case.id] = row
        if past is not None and case.cap_gib is None:
            result["learned"].setdefault(kind, []).append(past.model_dump())
        per_step = row.get("seconds_per_step", {}).get("median_after_first")
        if case.engine == WAN_21:
            ours = {"ours, compiled" if case.compiled else "ours": per_step}
            result["published_step"] = {**result.get("published_step", {}), **ours, **PUBLISHED_STEP}
        result["summary"] = {**summary(result["runs"]), "cases_left": len(left)}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(case.id, json.dumps({name: row.get(name) for name in TOLD}), flush=True)
        if "failed" in row:
            # After a fault of the card nothing more of this process can be believed; the next one goes on.
            sys.exit(1)
    print(json.dumps(result.get("summary"), indent=2))


def go_on(path: Path, *, is_tiny: bool) -> dict[str, Any]:
    """What the file holds of runs on this very device with these versions; else an empty result."""
    fresh: dict[str, Any] = {
        "what": "Random weights of tiny size on the CPU: only shows that the program works. Not measured on a GPU."
        if is_tiny
        else "Random weights of full size, a few steps. Each run loads anew, which is not counted.",
        "device": describe_device(is_tiny=is_tiny),
        "versions": {
            "python": platform.python_version(),
            "cuda": torch.version.cuda,
            **{name: metadata.version(name) for name in VERSIONS_OF},
        },
        "runs": {},
        "learned": {},
    }
    if not path.exists():
        return fresh
    kept = json.loads(path.read_text(encoding="utf-8"))
    is_same = all(kept.get(name) == fresh[name] for name in ("what", "device", "versions"))
    return kept if is_same and "runs" in kept else fresh


if __name__ == "__main__":
    main()
