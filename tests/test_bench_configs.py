"""The full-size architectures of the GPU measurement, and the program itself with tiny models on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from i2v_pipeline.presets import load_presets

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "bench" / "engines_gpu.py"
ENGINES = [spec.id for spec in load_presets().values() if spec.diffusion is not None]
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
        made = RandomWeights(kind, torch.device("cpu"), []).from_pretrained(
            folder, subfolder=name, dtype=torch.bfloat16
        )
        loaded = kind.from_pretrained(folder, subfolder=name, dtype=torch.bfloat16)
        expected = {path: (value.shape, value.dtype) for path, value in loaded.named_parameters()}
        assert {path: (value.shape, value.dtype) for path, value in made.named_parameters()} == expected
        assert all(bool(value.abs().max() > 0) for value in made.parameters())
        buffers = dict(made.named_buffers())
        assert all(torch.equal(buffers[path], value) for path, value in loaded.named_buffers())


def test_the_program_runs_tiny_on_the_cpu_and_writes_every_field(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, str(PROGRAM), "--tiny", "--steps", "1", "--engine", "wan2.2-ti2v-5b", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    result = json.loads(out.read_text(encoding="utf-8"))
    assert set(result) == {"what", "command", "device", "versions", "engines"}
    assert "--tiny" in result["command"] and "Not measured on a GPU" in result["what"]
    (measured,) = result["engines"].values()
    assert measured["frames_made"] == measured["request"]["frames"] == 9
    assert len(measured["seconds_per_step"]["each"]) == measured["request"]["steps"] == 1
    assert list(measured["stages"]) == ["encode", "load", "denoise", "decode"]
    assert all(stage["seconds"] >= 0 for stage in measured["stages"].values())
    assert measured["stages"]["load"]["seconds_making_weights"] > 0
    assert measured["stages"]["denoise"]["seconds_making_weights"] == 0
    assert measured["peak_vram_gib"] is None and measured["predicted"] is None


def test_without_a_cuda_device_the_program_says_so_and_ends(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--out", str(tmp_path / "result.json")]
    hidden = {"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=hidden)
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines()[-1].startswith("PyTorch sees no CUDA device here")
    assert not list(tmp_path.iterdir())
