"""A run that was stopped in the middle and goes on in another process ends with the frames of one that was not."""

import logging
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from i2v_pipeline.engines import state as state_module
from i2v_pipeline.engines.diffusion import DiffusionEngine
from i2v_pipeline.engines.state import StateKeeper
from i2v_pipeline.errors import OutOfMemory, Paused
from i2v_pipeline.pipeline import EngineCache, Outputs, run
from i2v_pipeline.presets import load_presets
from tests.tiny_models import ALL, I2VGEN, WAN_5B, WAN_A14B, picture_for, request_for

pytestmark = pytest.mark.diffusion
STEPS = 5


@pytest.fixture
def engine_for():
    """Fresh engines, as a new process has them; closed at the end."""
    made = []

    def make(engine_id):
        made.append(DiffusionEngine(load_presets()[engine_id]))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def request_of(tiny_checkpoint):
    return lambda engine_id, **changes: request_for(engine_id, tiny_checkpoint(engine_id), steps=STEPS, **changes)


def frames_of(engine, request, state_path=None, on_progress=lambda _: None):
    return np.concatenate(list(engine.generate(request, picture_for(request), on_progress, state_path)))


def stop_at(stage, step):
    def on_progress(progress):
        if (progress.stage, progress.step) == (stage, step):
            raise Paused

    return on_progress


def stopped(engine, request, state_path, stage, step):
    with suppress(Paused):
        frames_of(engine, request, state_path, stop_at(stage, step))
        raise AssertionError("it was not stopped")


@pytest.mark.parametrize(
    ("engine_id", "changes"),
    [*((engine_id, {}) for engine_id in ALL), (WAN_5B, {"scheduler": "euler", "guidance": 1.0})],
    ids=[*ALL, "euler"],
)
def test_a_run_stopped_after_any_step_ends_with_the_same_frames(engine_for, request_of, tmp_path, engine_id, changes):
    request = request_of(engine_id, **changes)
    first = engine_for(engine_id)
    whole = frames_of(first, request)
    strengths = first.facts()["strengths"]
    for step in range(1, STEPS + 1):
        state = tmp_path / f"{step}.safetensors"
        stopped(first, request, state, "denoise", step)
        second = engine_for(engine_id)
        assert np.array_equal(frames_of(second, request, state), whole)
        assert (second.facts()["resumed_at_step"], second.facts()["runs"]) == (step, 2)
        assert second.facts()["strengths"] == strengths


def test_a_run_stopped_again_and_again_gets_there(engine_for, request_of, tmp_path):
    request, state = request_of(WAN_A14B), tmp_path / "state.safetensors"
    whole = frames_of(engine_for(WAN_A14B), request)
    for step in range(1, STEPS):
        stopped(engine_for(WAN_A14B), request, state, "denoise", step)
    last = engine_for(WAN_A14B)
    assert np.array_equal(frames_of(last, request, state), whole)
    assert (last.facts()["resumed_at_step"], last.facts()["runs"]) == (STEPS - 1, STEPS)


@pytest.mark.parametrize("engine_id", [WAN_5B, I2VGEN])
def test_a_run_that_broke_while_decoding_denoises_nothing_again(engine_for, request_of, tmp_path, engine_id):
    request, state = request_of(engine_id), tmp_path / "state.safetensors"
    whole = frames_of(engine_for(engine_id), request)

    def crash(progress):
        if progress.stage == "decode" and progress.step > 0:
            raise MemoryError

    with suppress(OutOfMemory):
        frames_of(engine_for(engine_id), request, state, crash)
    second, seen = engine_for(engine_id), []
    frames = frames_of(second, request, state, lambda progress: seen.append(progress))
    assert np.array_equal(frames, whole)
    assert second.facts()["resumed_at_step"] == STEPS
    assert not {"transformer", "unet"} & set(second.facts()["loaded"])
    assert {progress.step for progress in seen if progress.stage == "denoise"} == {STEPS}
    assert {progress.saved_step for progress in seen if progress.stage == "decode"} == {STEPS}


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def of_nobody(path):
    path.write_bytes(b"\x02\0\0\0\0\0\0\0{}")


@pytest.mark.parametrize("spoil", [cut_short, flip_a_bit, empty, of_nobody])
def test_a_damaged_state_is_told_and_the_run_begins_again(engine_for, request_of, tmp_path, spoil, caplog):
    request, state = request_of(WAN_5B), tmp_path / "state.safetensors"
    whole = frames_of(engine_for(WAN_5B), request)
    stopped(engine_for(WAN_5B), request, state, "denoise", 3)
    spoil(state)
    engine = engine_for(WAN_5B)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(frames_of(engine, request, state), whole)
    assert "resumed_at_step" not in engine.facts()
    assert "state_not_used" in [finding.code for finding in engine.findings()]
    assert "damaged" in caplog.text


@pytest.mark.parametrize(
    "changes", [{"seed": 8}, {"prompt": "a cat turns"}, {"guidance": 4.0}, {"flow_shift": 4.0}, {"steps": STEPS + 1}]
)
def test_the_state_of_another_request_is_never_gone_on_with(engine_for, request_of, tmp_path, changes):
    request, state = request_of(WAN_5B), tmp_path / "state.safetensors"
    other = replace(request, **changes)
    stopped(engine_for(WAN_5B), request, state, "denoise", 3)
    engine = engine_for(WAN_5B)
    assert np.array_equal(frames_of(engine, other, state), frames_of(engine_for(WAN_5B), other))
    assert "resumed_at_step" not in engine.facts()


IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from tests.test_resume import *
torch.set_num_threads(int(sys.argv[3]))
engine = DiffusionEngine(load_presets()[WAN_5B])
stopped(engine, request_for(WAN_5B, Path(sys.argv[1]), steps=STEPS), Path(sys.argv[2]), "denoise", 2)
"""


def test_what_one_process_saved_is_gone_on_with_in_another(engine_for, request_of, tmp_path):
    """Sets and hashes have another order in each process; what a state belongs to must not depend on it."""
    request, state = request_of(WAN_5B), tmp_path / "state.safetensors"
    subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, str(request.checkpoint), str(state), f"{torch.get_num_threads()}"],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "PYTHONHASHSEED": "12"},
        check=True,
    )
    engine = engine_for(WAN_5B)
    frames = frames_of(engine, request, state)
    assert engine.facts()["resumed_at_step"] == 2
    assert np.array_equal(frames, frames_of(engine_for(WAN_5B), request))


def test_nor_is_that_of_other_code(engine_for, request_of, tmp_path, monkeypatch):
    request, state = request_of(WAN_5B), tmp_path / "state.safetensors"
    stopped(engine_for(WAN_5B), request, state, "denoise", 3)
    monkeypatch.setattr("i2v_pipeline.engines.loaded.sources_digest", lambda: "another")
    engine = engine_for(WAN_5B)
    frames_of(engine, request, state)
    assert "state_not_used" in [finding.code for finding in engine.findings()]


def test_a_state_that_cannot_be_written_is_told_and_ends_no_run(engine_for, request_of, tmp_path, caplog):
    request, engine = request_of(WAN_5B), engine_for(WAN_5B)
    frames = frames_of(engine, request, tmp_path / "no-such-folder" / "state.safetensors")
    assert len(frames) == request.frames
    assert "state_not_saved" in [finding.code for finding in engine.findings()]
    assert "could not be saved" in caplog.text


def test_a_state_that_takes_long_to_write_is_saved_at_the_first_step_at_the_expert_switch_and_at_the_end(
    engine_for, request_of, tmp_path, monkeypatch
):
    monkeypatch.setattr(state_module, "MIN_EVERY_S", 1e9)
    monkeypatch.setattr(state_module, "MAX_EVERY_S", 1e9)
    written, saved = StateKeeper._write, []

    def write(keeper, path, tensors, meta):
        written(keeper, path, tensors, meta)
        saved.append(meta["step"])

    monkeypatch.setattr(StateKeeper, "_write", write)
    engine = engine_for(WAN_A14B)
    frames_of(engine, request_of(WAN_A14B), tmp_path / "state.safetensors")
    switch = sum(timestep >= 900 for timestep in engine.facts()["scheduler"]["timesteps"])
    assert saved == [1, switch, STEPS]
    assert 1 < switch < STEPS


def test_the_report_says_where_the_run_went_on(tiny_checkpoint, tmp_path):
    from PIL import Image

    picture = tmp_path / "picture.png"
    Image.fromarray(picture_for(request_for(WAN_5B, None)).pixels).save(picture)
    request = replace(request_for(WAN_5B, tiny_checkpoint(WAN_5B)), images=(picture,), steps=STEPS)

    def outputs(name):
        return Outputs(
            video=tmp_path / f"{name}.mp4", report=tmp_path / f"{name}.json", shown_path=name, state=tmp_path / "state"
        )

    with suppress(Paused):
        run(request, EngineCache(), outputs("one"), stop_at("denoise", 2), job_id="one")
    resumed = run(request, EngineCache(), outputs("two"), lambda _: None, job_id="two")
    assert resumed["engine"]["mode"] == resumed["plan"]["mode"]
    (tmp_path / "state").unlink()
    whole = run(request, EngineCache(), outputs("three"), lambda _: None, job_id="three")
    assert (resumed["measured"]["resumed_at_step"], resumed["measured"]["runs"]) == (2, 2)
    assert (whole["measured"]["resumed_at_step"], whole["measured"]["runs"]) == (None, 1)
    assert resumed["output"]["frames_sha256"] == whole["output"]["frames_sha256"]
    assert "resumed_at_step" not in resumed["engine"]


def test_a_state_on_the_disk_is_whole_at_any_time(engine_for, request_of, tmp_path):
    """Whatever the moment: what stands under the state's name can be read, since it is renamed there when finished."""
    request, state = request_of(WAN_5B), tmp_path / "state.safetensors"

    def look(progress):
        if state.exists():
            with suppress(FileNotFoundError):
                content = state.read_bytes()
                (tmp_path / "copy").write_bytes(content)
                from safetensors.torch import load_file

                assert load_file(tmp_path / "copy")["latents"].dtype == torch.float32

    frames_of(engine_for(WAN_5B), request, state, look)
    assert state.exists()
