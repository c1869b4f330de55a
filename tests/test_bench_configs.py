"""The full-size architectures of the GPU measurement, and the program itself with tiny models on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from i2v_pipeline.errors import ModelError, OutOfMemory
from i2v_pipeline.presets import load_presets

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "bench" / "engines_gpu.py"
ENGINES = [spec.id for spec in load_presets().values() if spec.diffusion is not None]
KALEIDO = "kaleido-14b-s2v"
TOLERANCE = 0.001
"""presets.yaml rounds its counts."""

pytestmark = pytest.mark.diffusion


@pytest.mark.parametrize("engine_id", ENGINES)
def test_every_component_has_as_many_parameters_as_the_presets_say(engine_id: str) -> None:
    from bench.engines_gpu import CONFIGS, build_empty, kinds_of

    spec = load_presets()[engine_id]
    assert spec.diffusion is not None
    assert set(CONFIGS[engine_id]) == set(spec.diffusion.components)
    for name, kind in kinds_of(spec).items():
        model = build_empty(kind, CONFIGS[engine_id][name])
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
        count = sum(parameter.numel() for parameter in model.parameters())
        assert count == pytest.approx(spec.diffusion.components[name].parameters, rel=TOLERANCE), name


def test_made_weights_have_the_types_of_loaded_ones_and_shared_ones_stay_shared(tiny_checkpoint) -> None:
    import torch

    from bench.engines_gpu import RandomWeights, kinds_of

    folder = tiny_checkpoint("wan2.2-ti2v-5b")
    for name, kind in kinds_of(load_presets()["wan2.2-ti2v-5b"]).items():
        made = RandomWeights(kind, torch.device("cpu"), torch.device("cpu"), []).from_pretrained(
            folder, subfolder=name, dtype=torch.bfloat16
        )
        loaded = kind.from_pretrained(folder, subfolder=name, dtype=torch.bfloat16)
        expected = {path: (value.shape, value.dtype) for path, value in loaded.named_parameters()}
        assert {path: (value.shape, value.dtype) for path, value in made.named_parameters()} == expected
        assert all(bool(value.abs().max() > 0) for value in made.parameters())
        buffers = dict(made.named_buffers())
        assert all(torch.equal(buffers[path], value) for path, value in loaded.named_buffers())


def test_the_program_runs_tiny_on_the_cpu_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, str(PROGRAM), "--tiny", "--steps", "2", "--engine", "wan2.2-ti2v-5b", "--out", str(out)]
    for number in (1, 2):
        subprocess.run([*command, "--cases", "1"], check=True, capture_output=True, timeout=240)
        result = json.loads(out.read_text(encoding="utf-8"))
        assert len(result["runs"]) == number
    assert "Not measured on a GPU" in result["what"]
    first, second = result["runs"].values()
    assert (first["frames_made"], second["frames_made"]) == (5, 9)
    assert set(first["seconds_by_stage"]) == {"load", "encode", "denoise", "decode"}
    assert len(first["seconds_per_step"]["each"]) == 2 and first["seconds_per_step"]["median_after_first"] > 0
    assert (first["learned_from_runs"], second["learned_from_runs"]) == (0, 1)
    assert first["learned_seconds"] is None and second["learned_seconds"] > 0
    assert result["summary"]["cases_left"] == 14 and first["reserved_vram_gib"] is None


def test_the_grid_has_two_sizes_two_lengths_and_three_modes_of_each_engine_and_capped_runs() -> None:
    from bench.engines_grid import cases

    wanted = list(cases(is_tiny=False, caps=True))
    assert len({case.id for case in wanted}) == len(wanted)
    for engine in {case.engine for case in wanted if case.mode == "resident"}:
        plain = [case for case in wanted if case.engine == engine and case.cap_gib is None]
        assert len({(case.width, case.height) for case in plain}) == len({case.frames for case in plain}) == 2
        assert len({case.mode for case in plain}) == 3 and len(plain) == 12
        assert {case.cap_gib for case in wanted if case.engine == engine} >= {12.0, 16.0, 24.0, 48.0}
    step, compiled, kaleido, vace = wanted[:4]
    assert (step.engine, step.width, step.height, step.frames) == ("wan2.1-i2v-14b-480p", 832, 480, 81)
    assert compiled == replace(step, compiled=True) and not step.compiled
    assert [(case.engine, case.references) for case in (kaleido, vace)] == [(KALEIDO, 3), ("wan2.1-vace-1.3b", 3)]


def test_references_go_through_the_program_with_the_mode_that_the_plan_takes() -> None:
    from bench.engines_gpu import measure
    from bench.engines_grid import cases
    from i2v_pipeline.planning.learned import History

    case = next(case for case in cases(is_tiny=True, caps=False) if case.engine == KALEIDO)
    row, past = measure(case, History(), steps=2, is_tiny=True)
    assert past is not None and row["frames_made"] == case.frames and row["mode"] == row["planned_mode"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OutOfMemory("denoise", "vram"), {"ran_out": "vram in denoise", "is_as_planned": False}),
        (ModelError("It is not here.", "不在"), {"failed": "ModelError: It is not here."}),
        (RuntimeError("CUDA error: misaligned\nand more"), {"failed": "RuntimeError: CUDA error: misaligned"}),
    ],
)
def test_a_run_that_ends_badly_is_a_row_too(monkeypatch: pytest.MonkeyPatch, error: Exception, told: dict) -> None:
    from bench import engines_gpu
    from bench.engines_grid import cases, summary
    from i2v_pipeline.planning.learned import History

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(engines_gpu, "run_case", fail)
    row, past = engines_gpu.measure(next(cases(is_tiny=True, caps=False)), History(), steps=2, is_tiny=True)
    assert past is None and told.items() <= row.items()
    assert summary({"it": row})["failed"] == (["it"] if "failed" in told else [])


def test_errors_are_parts_of_what_was_measured_and_one_run_is_learned_from() -> None:
    from bench.engines_grid import compared, past_of, summary
    from i2v_pipeline.planning.costs import Cost
    from i2v_pipeline.planning.learned import History
    from i2v_pipeline.planning.modes import LADDER
    from i2v_pipeline.types import StagePlan

    stage = StagePlan(name="denoise", weights_gib=1, activations_gib=1, seconds=9.0, later_seconds=8.0)
    cost = Cost(mode=LADDER[0], stages=(stage,), vram_gib=11.0, ram_gib=2.0)
    past = past_of(cost, {"denoise": 10.0}, 9.4)
    counted, learned = compared(past, History()), compared(past, History(runs=(past,)))
    assert (counted["counted_error"], counted["learned_error"]) == (pytest.approx(-0.2), None)
    assert (learned["learned_error"], learned["peak_gib"]) == (pytest.approx(0), 10.0)
    assert counted["counted_peak_error"] == pytest.approx(0.1)
    told = summary({"a": {**counted, "cap_gib": None}, "b": {**learned, "cap_gib": 12.0, "is_as_planned": True}})
    assert told["seconds_after_one_run"]["within_goal"] == "1 of 1" and told["peak"]["within_goal"] == "0 of 2"
    assert told["capped_runs_as_planned"] == "1 of 1"


def test_without_a_cuda_device_the_program_says_so_and_ends(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--out", str(tmp_path / "result.json")]
    hidden = {"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=hidden)
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines()[-1].startswith("PyTorch sees no CUDA device here")
    assert not list(tmp_path.iterdir())
