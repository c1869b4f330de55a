"""The ways to carry out a run: what lies on the device when, and that the frames do not depend on it."""

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_models import ALL, I2VGEN, WAN_5B, WAN_21, WAN_A14B, picture_for, request_for  # noqa: E402

from i2v_pipeline.engines import load_engine  # noqa: E402
from i2v_pipeline.engines.loading import Parts  # noqa: E402
from i2v_pipeline.engines.notes import (  # noqa: E402
    DECODED_IN_HALF,
    FP8_LEVELS,
    FP8_WEIGHTS,
    HALF_LEVELS,
    TILED_LEVELS,
    decoded_in_tiles,
)
from i2v_pipeline.errors import Cancelled  # noqa: E402
from i2v_pipeline.planning.modes import CPU_LADDER, LADDER, mode_called  # noqa: E402
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
@pytest.mark.parametrize("mode", ["resident", "swapped", "streamed"])
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

    def changing(original):
        def changed(parts, name):
            module = original(parts, name)
            if hasattr(module, "tile_latent_min_size"):
                module.tile_latent_min_size, module.tile_sample_min_size = 32, 256
            return module

        return changed

    for way in ("get", "look"):
        monkeypatch.setattr(Parts, way, changing(getattr(Parts, way)))


@pytest.mark.parametrize("engine_id", ALL)
def test_frames_decoded_in_tiles_differ_within_what_the_finding_tells(run, seen, large_tiles, engine_id):
    shape = {"width": 320, "frames": 5, "steps": 1}
    plain, _ = run(engine_id, "staged", **shape)
    seen.clear()
    tiled, engine = run(engine_id, "swapped-tiled", **shape)
    assert all(len(each) == 1 for each in seen)
    assert tiled.shape == plain.shape and not np.array_equal(tiled, plain)
    assert np.abs(tiled.astype(int) - plain).mean() <= TILED_LEVELS + HALF_LEVELS
    assert engine.facts()["tile_side"] == 256 and decoded_in_tiles(256) in engine.findings()


@pytest.mark.parametrize("engine_id", ALL)
def test_frames_that_need_no_tiles_are_those_of_a_decoder_in_bf16(run, large_tiles, engine_id):
    half, _ = run(engine_id, "swapped-half")
    frames, engine = run(engine_id, "swapped-tiled")
    assert engine.facts()["tile_side"] is None and decoded_in_tiles(256) not in engine.findings()
    assert np.array_equal(frames, half)


@pytest.mark.parametrize("engine_id", ALL)
def test_the_passes_of_guidance_in_turn_give_the_same_frames_but_for_rounding(run, engine_id):
    plain, _ = run(engine_id, "staged")
    frames, engine = run(engine_id, "swapped-alone")
    # Wan always computes the two passes of guidance in turn; I2VGen-XL's batch of two sums in another order.
    assert np.abs(frames.astype(int) - plain).max() <= (1 if engine_id == I2VGEN else 0)
    if engine_id == I2VGEN:
        assert engine.facts()["guidance_passes"] == "one after the other"


@pytest.mark.parametrize("engine_id", ALL)
def test_a_decoder_in_bf16_changes_the_frames_within_what_the_finding_tells_and_no_latent(run, engine_id):
    plain, engine = run(engine_id, "swapped-alone")
    inputs, precisions = engine.facts()["inputs"], engine.facts()["precisions"]
    assert precisions["vae"] == "float32" and DECODED_IN_HALF not in engine.findings()
    half, engine = run(engine_id, "swapped-half")
    assert not np.array_equal(half, plain)
    assert np.abs(half.astype(int) - plain).mean() <= HALF_LEVELS
    assert DECODED_IN_HALF in engine.findings() and engine.facts()["inputs"] == inputs
    assert engine.facts()["precisions"] == {**precisions, "vae": "float32, decoder bfloat16"}
    again, _ = run(engine_id, "swapped-alone")
    assert np.array_equal(again, plain)


def test_who_asks_for_fp32_gets_a_decoder_in_fp32(run):
    plain, _ = run(WAN_5B, "staged", precision="fp32")
    frames, engine = run(WAN_5B, "swapped-half", precision="fp32")
    assert np.array_equal(frames, plain) and DECODED_IN_HALF not in engine.findings()


@pytest.mark.parametrize("engine_id", ALL)
def test_weights_in_fp8_change_the_frames_within_what_the_finding_tells(run, engine_id):
    own = "fp16" if engine_id == I2VGEN else "bf16"
    plain, _ = run(engine_id, "staged", precision=own)
    asked, engine = run(engine_id, "staged", precision="fp8")
    assert not np.array_equal(asked, plain) and np.abs(asked.astype(int) - plain).mean() <= FP8_LEVELS
    assert FP8_WEIGHTS in engine.findings() and engine.facts()["precision"] == "fp8"
    stored = {name: kept for name, kept in engine.facts()["precisions"].items() if "float8" in kept}
    assert set(stored) == components_of(engine_id) - ENCODERS - {"vae"}
    streamed, _ = run(engine_id, "streamed", precision="fp8")
    assert np.array_equal(streamed, asked)


@pytest.mark.parametrize("engine_id", [WAN_A14B, I2VGEN])
def test_weights_in_fp8_are_as_diffusers_keeps_them(run, tiny_checkpoint, engine_id):
    _, engine = run(engine_id, "staged", precision="fp8")
    parts = engine._loaded.parts
    name = "unet" if engine_id == I2VGEN else "transformer_2"
    ours = {key: weight.dtype for key, weight in parts.look(name).named_parameters()}
    whole = parts._kinds[name].from_pretrained(tiny_checkpoint(engine_id), subfolder=name, dtype=parts.dtypes[name])
    whole.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=parts.dtypes[name])
    assert ours == {key: weight.dtype for key, weight in whole.named_parameters()}
    assert {torch.float8_e4m3fn, parts.dtypes[name]} <= set(ours.values())


def test_a_plan_may_choose_fp8_and_the_next_run_has_the_full_weights_again(run):
    plain, _ = run(WAN_A14B, "staged")
    narrowed, engine = run(WAN_A14B, "fp8-swapped")
    assert FP8_WEIGHTS in engine.findings() and not np.array_equal(narrowed, plain)
    again, engine = run(WAN_A14B, "swapped")
    assert np.array_equal(again, plain) and FP8_WEIGHTS not in engine.findings()
    assert set(engine.facts()["loaded"]) >= {"transformer", "transformer_2"}


# --- tiles, one after another -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine_id", [WAN_21, WAN_5B])
def test_the_tiles_are_those_of_diffusers(run, engine_id):
    from i2v_pipeline.denoise import to_uint8
    from i2v_pipeline.engines.wan_tiles import decode_in_tiles

    _, engine = run(engine_id, "staged")
    vae = engine._loaded.parts.look("vae")
    # Two tiles each way, the second ones narrow.
    sides = [264 // vae.config.scale_factor_spatial + 1] * 2
    latents = torch.randn(1, vae.config.z_dim, 2, *sides, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = to_uint8(vae.tiled_decode(latents).sample[0])
    ours = list(decode_in_tiles(vae, latents))
    told = [each for each in ours if not isinstance(each, np.ndarray)]
    assert [each.tile for each in told] == list(range(1, told[0].tiles + 1)) and told[0].tiles > 3
    assert np.array_equal(np.concatenate([each for each in ours if isinstance(each, np.ndarray)]), theirs)


def test_a_wish_to_stop_is_heard_between_two_tiles(run, tiny_checkpoint):
    run(WAN_21, "staged")
    engine = load_engine(load_presets()[WAN_21])
    request = request_for(WAN_21, tiny_checkpoint(WAN_21), width=320, frames=5, steps=1)
    heard = []

    def hear(progress):
        if progress.stage == "decode" and progress.step > 0:
            heard.append((progress.step, progress.steps))
            raise Cancelled

    with pytest.raises(Cancelled):
        list(engine.generate(request, picture_for(request), hear, None, "swapped-tiled"))
    engine.close()
    assert heard == [(1, 2)]


def test_every_mode_has_a_name_of_its_own_and_another_is_refused():
    names = [mode.id for mode in (*CPU_LADDER, *LADDER)]
    assert len(set(names)) == len(names)
    assert [mode_called(name).id for name in names] == names
    with pytest.raises(KeyError):
        mode_called("levitating")
