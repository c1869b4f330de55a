"""Parts that wait on the disk: that the frames are the same, that one part at most is in memory, what is told of it."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_models import ALL, I2VGEN, WAN_A14B, picture_for, request_for  # noqa: E402

from bench import loading  # noqa: E402
from bench.loading import write_transformer  # noqa: E402
from i2v_pipeline.engines import levers, load_engine, passes  # noqa: E402
from i2v_pipeline.engines.loading import Parts  # noqa: E402
from i2v_pipeline.engines.meter import LoadTeller  # noqa: E402
from i2v_pipeline.errors import Cancelled, Paused  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402
from i2v_pipeline.types import Expert, LoraRef, Progress  # noqa: E402

pytestmark = pytest.mark.diffusion


@pytest.fixture
def run(tiny_checkpoint):
    """`run(engine_id, mode)`: the frames, and the engine; the same engine for the same id."""
    engines = {}

    def frames(engine_id, mode, hear=lambda _: None, state=None, **changes):
        if engine_id not in engines:
            engines[engine_id] = load_engine(load_presets()[engine_id])
        engine, request = engines[engine_id], request_for(engine_id, tiny_checkpoint(engine_id), **changes)
        return np.concatenate(list(engine.generate(request, picture_for(request), hear, state, mode))), engine

    yield frames
    for engine in engines.values():
        engine.close()


@pytest.fixture
def alive(monkeypatch):
    """For each load the parts that were there when it began, by whether anything still holds them."""
    known, found = [], []
    load = Parts._load

    def watched(parts, name):
        found.append((name, [other for other, module in known if module() is not None]))
        load(parts, name)
        known.append((name, weakref.ref(parts._modules[name])))

    monkeypatch.setattr(Parts, "_load", watched)
    return found


def parts_of(engine_id):
    diffusion = load_presets()[engine_id].diffusion
    assert diffusion is not None
    return set(diffusion.components)


@pytest.mark.parametrize("engine_id", ALL)
@pytest.mark.parametrize("mode", ["disk-swapped", "disk-streamed"])
def test_the_frames_are_those_of_the_plain_mode_and_one_part_at_a_time_is_in_memory(run, alive, engine_id, mode):
    plain, engine = run(engine_id, "staged")
    engine.close()
    alive.clear()
    frames, engine = run(engine_id, mode)
    assert np.array_equal(frames, plain)
    facts = engine.facts()
    assert [name for name, _ in alive] == facts["loaded"] and not any(others for _, others in alive)
    # Each once, and the VAE at both ends of the run.
    assert sorted(facts["loaded"]) == sorted([*parts_of(engine_id), "vae"])
    assert set(engine._loaded.parts._modules) == {"vae"}
    assert facts["mode"] == mode and "read from the disk for its turn" in facts["offload"]
    # What was encoded is kept, so neither an encoder nor, for the picture, the VAE is read for it again.
    again, engine = run(engine_id, mode)
    assert np.array_equal(again, plain)
    denoisers = {name for name in parts_of(engine_id) if name.startswith(("transformer", "unet"))}
    assert sorted(engine.facts()["loaded"]) == sorted([*denoisers, "vae"])


def test_from_waiting_in_memory_to_the_disk_and_back_nothing_is_left_behind(run, alive):
    plain, _ = run(WAN_A14B, "swapped")
    alive.clear()
    frames, engine = run(WAN_A14B, "disk-swapped", prompt="a cat turns")
    assert not any(set(others) - {"vae"} for _, others in alive)
    again, engine = run(WAN_A14B, "swapped")
    assert np.array_equal(plain, again) and not np.array_equal(plain, frames)
    assert set(engine._loaded.parts._modules) == {"transformer", "transformer_2", "vae"}


def test_each_expert_gets_its_loras_whenever_it_is_read(run, tmp_path):
    from safetensors.torch import save_file

    loras = []
    experts: tuple[Expert, ...] = ("high", "low")
    for seed, expert in enumerate(experts):
        down, up = (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) for shape in ((4, 24), (24, 4)))
        key, file = "blocks.0.attn1.to_q", tmp_path / f"{expert}.safetensors"
        save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, file)
        loras.append(LoraRef(source=str(file), weight=0.5, expert=expert))
    plain, _ = run(WAN_A14B, "staged")
    fused, engine = run(WAN_A14B, "staged", loras=tuple(loras))
    told = engine.findings()
    for mode in ("disk-swapped", "disk-streamed", "disk-swapped"):
        frames, engine = run(WAN_A14B, mode, loras=tuple(loras))
        assert np.array_equal(frames, fused) and engine.findings() == told
    assert not np.array_equal(plain, fused)
    assert np.array_equal(run(WAN_A14B, "disk-swapped")[0], plain)


@pytest.mark.parametrize("engine_id", [WAN_A14B, I2VGEN])
def test_weights_in_fp8_that_are_read_anew_are_the_same(run, engine_id):
    asked, _ = run(engine_id, "staged", precision="fp8")
    for mode in ("disk-swapped", "disk-streamed"):
        assert np.array_equal(run(engine_id, mode, precision="fp8")[0], asked)


def test_a_freshly_read_expert_runs_as_the_request_wants(run, monkeypatch):
    monkeypatch.setattr(passes, "FIRST_BLOCK_THRESHOLD", 0.5)
    monkeypatch.setattr(levers, "COMPILER", "eager")
    for changes in ({"cache": "first_block", "steps": 12}, {"compiled": True, "steps": 3}):
        plain, engine = run(WAN_A14B, "swapped", **changes)
        facts, told = engine.facts(), engine.findings()
        frames, engine = run(WAN_A14B, "disk-swapped", **changes)
        assert np.array_equal(frames, plain) and engine.findings() == told
        for name in ("cache", "compiled", "passes", "attention"):
            assert engine.facts()[name] == facts[name]
        assert facts["compiled"] or facts["cache"]["passes_reused"] > 0


def test_of_weights_in_fp8_the_full_ones_are_never_in_memory_together(tmp_path):
    write_transformer(tmp_path, layers=3, width=1024)
    program = [sys.executable, loading.__file__, "--one", str(tmp_path), "transformer", "fp8-swapped"]
    # In a process of its own: this one keeps memory that it has once had.
    said = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    measured = json.loads(said.splitlines()[-1])
    assert measured["part_mib"] > 0 and measured["beyond_mib"] < 0.6 * measured["part_mib"]


# --- what is told, and cancelling -------------------------------------------------------------------------------------


def test_reading_is_told_as_loading_also_between_two_steps_and_then_the_stage_goes_on(run, tmp_path):
    heard = []
    run(WAN_A14B, "disk-swapped", heard.append, state=tmp_path / "state", steps=6)
    stages = [progress.stage for progress in heard]
    turns = [stage for index, stage in enumerate(stages) if index == 0 or stages[index - 1] != stage]
    assert turns == ["load", "encode", "load", "encode", "load", "encode",
                     "denoise", "load", "denoise", "load", "denoise", "decode", "load", "decode"]  # fmt: skip
    loads = [(progress.step, progress.steps) for progress in heard if progress.stage == "load"]
    assert loads == [(0, 5), (0, 5), (1, 5), (2, 5), (3, 5), (4, 5)]
    switch = [index for index, stage in enumerate(stages) if stage == "load"][4]
    before, at, after = heard[switch - 1 : switch + 2]
    assert 0 < before.step == after.step < 6 and after.stage == "denoise"
    # Whoever reads of the job meanwhile learns what is saved, and how long it still takes.
    assert at.saved_step == before.saved_step and at.seconds_left == before.seconds_left is not None


def test_a_wish_to_stop_at_the_switch_is_heard_before_anything_is_read_and_leaves_nothing(run, alive, tmp_path):
    plain, _ = run(WAN_A14B, "disk-swapped", steps=6)

    def stop_with(error):
        def hear(progress):
            if progress.stage == "load" and [name for name, _ in alive][-1:] == ["transformer"]:
                raise error

        return hear

    for error in (Cancelled, Paused):
        alive.clear()
        state = tmp_path / error.__name__
        with pytest.raises(error):
            run(WAN_A14B, "disk-swapped", stop_with(error), state=state, steps=6)
        assert alive[-1][0] == "transformer"
    alive.clear()
    again, engine = run(WAN_A14B, "disk-swapped", state=state, steps=6)
    assert np.array_equal(again, plain)
    # It goes on at the switch: the first expert is not needed any more.
    assert engine.facts()["loaded"] == ["transformer_2", "vae"] and not any(others for _, others in alive)
    assert engine.facts()["resumed_at_step"] > 0


def test_the_seconds_of_a_load_are_known_and_are_none_of_the_steps():
    told = []
    teller = LoadTeller(told.append, 3)
    teller(Progress(stage="denoise", step=2, steps=9, saved_step=2, seconds_left=5.0))
    teller.on_load("transformer")
    teller.on_load(None)
    assert [progress.stage for progress in told] == ["denoise", "load", "denoise"] and told[0] == told[2]
    assert (told[1].step, told[1].steps, told[1].saved_step) == (0, 3, 2)
    assert teller.spent_s == teller.seconds["transformer"] > 0
