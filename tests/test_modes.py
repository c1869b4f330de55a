"""The ways to carry out a run: what lies on the device when, and that the frames do not depend on it."""

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_models import ALL, I2VGEN, WAN_A14B, picture_for, request_for  # noqa: E402

from i2v_pipeline.engines import load_engine  # noqa: E402
from i2v_pipeline.engines.loading import Parts  # noqa: E402
from i2v_pipeline.engines.notes import TILED_LEVELS, decoded_in_tiles  # noqa: E402
from i2v_pipeline.planning.modes import EXECUTABLE, mode_called  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402

pytestmark = pytest.mark.diffusion
ENCODERS = {"text_encoder", "image_encoder"}


def components_of(engine_id):
    diffusion = load_presets()[engine_id].diffusion
    assert diffusion is not None
    return set(diffusion.components)


@pytest.fixture
def run(tiny_checkpoint):
    """`run(engine_id, mode)`: the frames, and the engine; the same engine for the same id."""
    engines = {}

    def frames(engine_id, mode, **changes):
        if engine_id not in engines:
            engines[engine_id] = load_engine(load_presets()[engine_id])
        engine, request = engines[engine_id], request_for(engine_id, tiny_checkpoint(engine_id), **changes)
        chunks = list(engine.generate(request, picture_for(request), lambda _: None, None, mode))
        return np.concatenate(chunks), engine

    yield frames
    for engine in engines.values():
        engine.close()


@pytest.fixture
def seen(monkeypatch):
    """What was on the device each time that a part was asked for, in order."""
    held = []
    get = Parts.get

    def watched(parts, *given, **named):
        module = get(parts, *given, **named)
        held.append(parts.on_device)
        return module

    monkeypatch.setattr(Parts, "get", watched)
    return held


@pytest.mark.parametrize("engine_id", ALL)
@pytest.mark.parametrize("mode", ["resident", "swapped"])
def test_the_frames_are_those_of_the_plain_mode_to_the_last_bit_and_the_report_says_how(run, engine_id, mode):
    plain, _ = run(engine_id, "staged")
    frames, engine = run(engine_id, mode, seed=8)
    again, _ = run(engine_id, mode)
    assert np.array_equal(plain, again) and not np.array_equal(plain, frames)
    assert engine.facts()["mode"] == mode


@pytest.mark.parametrize("engine_id", ALL)
def test_swapped_has_one_part_on_the_device_at_a_time_and_loads_each_once(run, seen, engine_id):
    _, engine = run(engine_id, "swapped")
    components = components_of(engine_id)
    assert all(len(each) == 1 for each in seen)
    assert sorted(engine.facts()["loaded"]) == sorted(components)
    assert seen[-1] == {"vae"}
    run(engine_id, "swapped", prompt="a cat turns", seed=8)
    assert engine.facts()["loaded"] == []
    assert "one part at a time" in engine.facts()["offload"]
    assert all(len(each) == 1 for each in seen)


def test_the_first_expert_leaves_before_the_second_comes_and_each_comes_once_in_a_loop(run, seen):
    run(WAN_A14B, "swapped", steps=6)
    order = [next(iter(each)) for each in seen]
    turns = [order[0], *(after for before, after in pairwise(order) if before != after)]
    assert turns == ["text_encoder", "vae", "transformer_2", "transformer", "transformer_2", "vae"]


@pytest.mark.parametrize("engine_id", ALL)
def test_resident_keeps_every_part_on_the_device_and_staged_lets_the_encoders_go(run, seen, engine_id):
    components = components_of(engine_id)
    _, engine = run(engine_id, "resident")
    assert seen[-1] == components
    run(engine_id, "resident", prompt="a cat turns")
    assert engine.facts()["loaded"] == [] and seen[-1] == components
    run(engine_id, "staged", prompt="its head")
    assert seen[-1] == components - ENCODERS


def test_a_part_goes_to_the_hosts_memory_and_comes_back_with_weights_that_are_no_inference_tensors(run, monkeypatch):
    moves = []
    to = torch.nn.Module.to

    def watched(module, *given, **named):
        moves.append((type(module).__name__, torch.is_inference_mode_enabled()))
        return to(module, *given, **named)

    monkeypatch.setattr(torch.nn.Module, "to", watched)
    run(WAN_A14B, "swapped")
    assert {"WanTransformer3DModel", "UMT5EncoderModel", "AutoencoderKLWan"} <= {name for name, _ in moves}
    assert not any(in_inference for _, in_inference in moves)


@pytest.fixture
def large_tiles(monkeypatch):
    """Tiles of 256 pixels in I2VGen-XL's tiny VAE too, as Wan's has: its own of 32 are all edge."""
    get = Parts.get

    def changed(parts, name, *given, **named):
        module = get(parts, name, *given, **named)
        if hasattr(module, "tile_latent_min_size"):
            module.tile_latent_min_size, module.tile_sample_min_size = 32, 256
        return module

    monkeypatch.setattr(Parts, "get", changed)


@pytest.mark.parametrize("engine_id", ALL)
def test_frames_decoded_in_tiles_differ_within_what_the_finding_tells(run, seen, large_tiles, engine_id):
    shape = {"width": 320, "frames": 5, "steps": 1}
    plain, _ = run(engine_id, "staged", **shape)
    seen.clear()
    tiled, engine = run(engine_id, "swapped-tiled", **shape)
    assert all(len(each) == 1 for each in seen)
    assert tiled.shape == plain.shape and not np.array_equal(tiled, plain)
    assert np.abs(tiled.astype(int) - plain).mean() <= TILED_LEVELS
    assert engine.facts()["tile_side"] == 256 and decoded_in_tiles(256) in engine.findings()


@pytest.mark.parametrize("engine_id", ALL)
def test_frames_that_need_no_tiles_are_those_of_the_plain_mode_but_for_the_rounding_of_single_passes(
    run, large_tiles, engine_id
):
    plain, _ = run(engine_id, "staged")
    frames, engine = run(engine_id, "swapped-tiled")
    assert engine.facts()["tile_side"] is None and decoded_in_tiles(256) not in engine.findings()
    # Wan always computes the two passes of guidance in turn; I2VGen-XL's batch of two sums in another order.
    assert np.abs(frames.astype(int) - plain).max() <= (1 if engine_id == I2VGEN else 0)
    if engine_id == I2VGEN:
        assert engine.facts()["guidance_passes"] == "one after the other"


def test_a_mode_that_no_engine_carries_out_is_refused():
    assert {mode_called(mode_id).id for mode_id in EXECUTABLE} == EXECUTABLE
    with pytest.raises(KeyError):
        mode_called("streamed-tiled")
