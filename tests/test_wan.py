"""Wan 2.1, 2.2 A14B and 2.2 TI2V-5B: our frames are those of diffusers' pipeline, and what ours can do beyond it."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tiny_models  # noqa: E402
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline  # noqa: E402
from PIL import Image  # noqa: E402
from tiny_models import WAN_5B, WAN_21, WAN_A14B, WANS, frames_of, picture_for, request_for  # noqa: E402

from i2v_pipeline.engines import load_engine  # noqa: E402
from i2v_pipeline.errors import Cancelled, InputError, StudioError  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402
from i2v_pipeline.types import GuidanceSchedule  # noqa: E402

pytestmark = pytest.mark.diffusion


@pytest.fixture
def make(tiny_checkpoint):
    """Engines on tiny checkpoints, closed at the end: `make(engine_id)`."""
    engines = []

    def build(engine_id):
        tiny_checkpoint(engine_id)
        engines.append(load_engine(load_presets()[engine_id]))
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


@pytest.fixture
def request_of(tiny_checkpoint):
    return lambda engine_id, **changes: request_for(engine_id, tiny_checkpoint(engine_id), **changes)


def bare_frames(request, **options):
    """The frames of diffusers' own pipeline on the same files, inputs and seed."""
    pipeline = WanImageToVideoPipeline.from_pretrained(request.checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=request.flow_shift)
    video = pipeline(
        image=Image.fromarray(picture_for(request).pixels),
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        height=request.height,
        width=request.width,
        num_frames=request.frames,
        num_inference_steps=request.steps,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
        **{"guidance_scale": request.guidance, **options},
    ).frames[0]
    return (video * 255).round().astype(np.uint8)


class Forwards:
    """Counts the forwards of each expert, step by step."""

    def __init__(self, monkeypatch):
        from diffusers import WanTransformer3DModel

        self.calls = []
        original = WanTransformer3DModel.forward

        def counted(model, *arguments, **named):
            self.calls.append((id(model), int(named["timestep"].max())))
            return original(model, *arguments, **named)

        monkeypatch.setattr(WanTransformer3DModel, "forward", counted)

    @property
    def by_model(self):
        models = dict.fromkeys(model for model, _ in self.calls)
        return [sum(1 for each, _ in self.calls if each == model) for model in models]


# --- the same frames as diffusers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine_id", WANS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"frames": 1}, {"width": 64, "height": 128, "seed": 1234}, {"prompt": "猫 & a cat", "guidance": 1.0}],
    ids=["landscape", "one frame", "portrait", "no guidance"],
)
def test_the_frames_are_those_of_the_bare_pipeline_to_the_last_bit(make, request_of, engine_id, changes):
    request = request_of(engine_id, **changes)
    assert np.array_equal(frames_of(make(engine_id), request), bare_frames(request))


def test_a_last_picture_gives_the_frames_of_the_bare_pipeline(make, request_of):
    request = request_of(WAN_A14B)
    last = picture_for(request, seed=5)
    picture = replace(picture_for(request), last=last)
    ours = np.concatenate(list(make(WAN_A14B).generate(request, picture, lambda _: None)))
    assert np.array_equal(ours, bare_frames(request, last_image=Image.fromarray(last.pixels)))
    assert not np.array_equal(ours, bare_frames(request))


def test_each_expert_gets_its_own_guidance_as_in_the_bare_pipeline(make, request_of):
    engine, request = make(WAN_A14B), request_of(WAN_A14B, guidance=(4.0, 2.0), steps=6)
    assert np.array_equal(frames_of(engine, request), bare_frames(request, guidance_scale=4.0, guidance_scale_2=2.0))
    timesteps = engine.facts()["scheduler"]["timesteps"]
    assert engine.facts()["strengths"] == [4.0 if timestep >= 900 else 2.0 for timestep in timesteps]
    assert {4.0, 2.0} == set(engine.facts()["strengths"])


# --- guidance, experts, schedule --------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine_id", WANS)
def test_a_constant_schedule_gives_the_frames_of_the_plain_number(make, request_of, engine_id):
    engine = make(engine_id)
    plain = frames_of(engine, request_of(engine_id, guidance=4.0))
    constant = frames_of(engine, request_of(engine_id, guidance=GuidanceSchedule(first=4.0, last=4.0)))
    ramp = frames_of(engine, request_of(engine_id, guidance=GuidanceSchedule(first=9.0, last=1.5)))
    assert np.array_equal(plain, constant)
    assert not np.array_equal(plain, ramp)


@pytest.mark.parametrize(
    ("guidance", "forwards"),
    [
        (5.0, 20),
        (1.0, 10),
        (GuidanceSchedule(first=5.0, last=5.0, begin=0.0, end=0.6), 16),
        (GuidanceSchedule(first=5.0, last=5.0, begin=0.2, end=0.5), 13),
    ],
)
def test_unguided_steps_compute_no_second_pass(make, request_of, monkeypatch, guidance, forwards):
    counted = Forwards(monkeypatch)
    frames_of(make(WAN_5B), request_of(WAN_5B, steps=10, frames=5, guidance=guidance))
    assert sum(counted.by_model) == forwards


def test_an_expert_without_guidance_computes_no_second_pass_and_the_other_does(make, request_of, monkeypatch):
    engine, counted = make(WAN_A14B), Forwards(monkeypatch)
    frames_of(engine, request_of(WAN_A14B, steps=10, frames=5, guidance=(3.5, 1.0)))
    high = sum(1 for timestep in engine.facts()["scheduler"]["timesteps"] if timestep >= 900)
    assert 0 < high < 10
    assert counted.by_model == [2 * high, 10 - high]
    counted.calls.clear()
    frames_of(engine, request_of(WAN_A14B, steps=10, frames=5, guidance=(1.0, 3.5)))
    assert counted.by_model == [high, 2 * (10 - high)]


def test_the_high_noise_expert_works_from_the_boundary_on_up(make, request_of, monkeypatch):
    counted = Forwards(monkeypatch)
    frames_of(make(WAN_A14B), request_of(WAN_A14B, steps=12, frames=5))
    first = counted.calls[0][0]
    for model, timestep in counted.calls:
        assert (model == first) == (timestep >= 900), timestep


@pytest.mark.parametrize("shift", [3.0, 5.0, 12.0])
def test_the_flow_shift_of_the_request_reaches_the_sigmas(make, request_of, shift):
    engine = make(WAN_5B)
    frames_of(engine, request_of(WAN_5B, steps=8, frames=1, flow_shift=shift))
    plain = np.linspace(1, 1 / 1000, 9)[:-1]
    shifted = shift * plain / (1 + (shift - 1) * plain)
    scheduler = engine.facts()["scheduler"]
    assert scheduler["class"] == "UniPCMultistepScheduler"
    assert scheduler["config"]["flow_shift"] == shift
    assert scheduler["timesteps"] == [int(1000 * min(sigma, 1 - 1e-6)) for sigma in shifted]


def test_four_euler_steps_stand_where_the_distilled_models_were_trained(make, request_of):
    engine = make(WAN_A14B)
    frames_of(engine, request_of(WAN_A14B, steps=4, frames=5, scheduler="euler", guidance=1.0))
    assert engine.facts()["scheduler"]["config"]["shift"] == 5.0
    assert engine.facts()["scheduler"]["timesteps"] == pytest.approx([1000.0, 937.5, 833.333, 625.0])


def test_the_seed_alone_decides_the_noise_and_a_preview_or_another_run_between_changes_nothing(make, request_of):
    engine, request = make(WAN_21), request_of(WAN_21)
    first = frames_of(engine, request)
    assert not np.array_equal(first, frames_of(engine, replace(request, seed=8)))
    torch.manual_seed(99)
    assert np.array_equal(first, frames_of(engine, request))


# --- reuse ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine_id", WANS)
def test_another_seed_loads_nothing_encodes_nothing_and_equals_the_uncached_run(make, request_of, engine_id):
    engine, request = make(engine_id), request_of(engine_id)
    frames_of(engine, request)
    assert set(engine.facts()["loaded"]) == set(load_presets()[engine_id].diffusion.components)
    again = frames_of(engine, replace(request, seed=99))
    assert engine.facts()["loaded"] == []
    assert set(engine.facts()["reused"]) >= {"text", "picture"}
    assert np.array_equal(again, frames_of(make(engine_id), replace(request, seed=99)))


@pytest.mark.parametrize("changes", [{"prompt": "a cat turns"}, {"negative_prompt": "static"}, {"frames": 5}])
def test_what_changes_is_encoded_anew(make, request_of, changes):
    engine, request = make(WAN_21), request_of(WAN_21)
    frames_of(engine, request)
    changed = frames_of(engine, replace(request, **changes))
    assert np.array_equal(changed, frames_of(make(WAN_21), replace(request, **changes)))


def test_another_picture_is_encoded_anew(make, request_of):
    engine, request = make(WAN_5B), request_of(WAN_5B)
    frames = [
        np.concatenate(list(engine.generate(request, picture_for(request, seed), lambda _: None))) for seed in (0, 1, 0)
    ]
    assert np.array_equal(frames[0], frames[2])
    assert not np.array_equal(frames[0], frames[1])


# --- progress, cancel, failure ----------------------------------------------------------------------------------------


def test_progress_tells_every_stage_and_step_in_order(make, request_of):
    told = []
    frames_of(make(WAN_A14B), request_of(WAN_A14B, steps=4), told.append)
    assert [progress.step for progress in told if progress.stage == "denoise"] == [0, 1, 2, 3, 4]
    assert [progress.step for progress in told if progress.stage == "decode"] == [0, 1, 5, 9]
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages == ["load", "encode", "denoise", "decode"]
    left = [progress.seconds_left for progress in told if progress.stage == "denoise"]
    assert left[0] is None and all(seconds >= 0 for seconds in left[1:])


def test_a_slow_step_shows_a_small_picture_of_what_becomes(make, request_of, monkeypatch):
    monkeypatch.setattr("i2v_pipeline.engines.diffusion.PREVIEW_EVERY_S", 0.0)
    told = []
    frames_of(make(WAN_5B), request_of(WAN_5B), told.append)
    previews = [progress.preview for progress in told if progress.preview is not None]
    assert len(previews) == 3
    assert all(preview.shape == (4, 6, 3) and preview.dtype == np.uint8 for preview in previews)


@pytest.mark.parametrize("at", [("load", 0), ("load", 1), ("encode", 0), ("denoise", 1), ("decode", 1)])
def test_a_cancelled_run_stops_there_and_the_next_one_is_as_if_it_had_not_been(make, request_of, at):
    engine, request = make(WAN_A14B), request_of(WAN_A14B)

    def cancel(progress):
        if (progress.stage, progress.step) == at:
            raise Cancelled

    with pytest.raises(Cancelled):
        frames_of(engine, request, cancel)
    assert np.array_equal(frames_of(engine, request), frames_of(make(WAN_A14B), request))


@pytest.mark.parametrize("engine_id", WANS)
def test_closing_gives_back_every_component_at_once(make, request_of, engine_id):
    engine, request = make(engine_id), request_of(engine_id, frames=5)
    before = frames_of(engine, request)
    weights = [weakref.ref(each) for each in gc.get_objects() if type(each) is torch.nn.Parameter]
    assert weights
    gc.disable()
    try:
        engine.close()
        assert [weight() for weight in weights if weight() is not None] == []
    finally:
        gc.enable()
    assert np.array_equal(frames_of(engine, request), before)


def test_encoders_leave_the_memory_before_the_denoiser_comes(make, request_of):
    from transformers import UMT5EncoderModel

    alive_at_load = []
    engine = make(WAN_5B)

    def look(progress):
        if progress.stage == "denoise" and progress.step == 0:
            alive_at_load.extend(each for each in gc.get_objects() if type(each) is UMT5EncoderModel)

    gc.collect()
    frames_of(engine, request_of(WAN_5B, frames=1), look)
    assert alive_at_load == []


def test_weights_that_are_no_numbers_are_told_at_the_first_step(make, tmp_path):
    folder = tiny_models.save_checkpoint(WAN_5B, tmp_path / "broken")
    pipeline = WanImageToVideoPipeline.from_pretrained(folder)
    pipeline.transformer.proj_out.bias.data[0] = float("nan")
    pipeline.transformer.save_pretrained(folder / "transformer")
    with pytest.raises(StudioError, match="Step 1 of 3 gave values that are not numbers"):
        frames_of(make(WAN_5B), request_for(WAN_5B, folder))


def test_a_checkpoint_of_another_kind_is_refused(make, tiny_checkpoint):
    with pytest.raises(InputError, match=r"no wan2\.2-ti2v-5b: its transformer takes 36 channels"):
        frames_of(make(WAN_5B), request_for(WAN_5B, tiny_checkpoint(WAN_A14B)))
    with pytest.raises(InputError, match=r"has no weights .* for transformer_2"):
        frames_of(make(WAN_A14B), request_for(WAN_A14B, tiny_checkpoint(WAN_5B)))


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_a_prompt_beyond_the_limit_is_told_with_the_words_that_are_not_read(make, request_of):
    engine = make(WAN_5B)
    frames_of(engine, request_of(WAN_5B, frames=1, prompt="rose " * 511 + "cat turns"))
    (finding,) = engine.findings()
    assert (finding.code, finding.severity) == ("prompt_cut", "warn")
    assert "513 tokens; umT5 reads 511" in finding.message.en
    assert "“cat turns”" in finding.message.en and "“cat turns”" in finding.message.zh
    assert engine.facts()["tokens"] == 513


def test_a_prompt_within_the_limit_is_counted_and_leaves_no_finding(make, request_of):
    engine = make(WAN_5B)
    frames_of(engine, request_of(WAN_5B, frames=1, prompt="rose " * 509 + "cat turns"))
    assert engine.findings() == ()
    assert engine.facts()["tokens"] == 511


def test_characters_that_the_encoder_gets_cleaned_are_told(make, request_of):
    engine = make(WAN_5B)
    frames_of(engine, request_of(WAN_5B, frames=1, prompt="a  cat &amp; rose"))
    (finding,) = engine.findings()
    assert finding.code == "prompt_cleaned" and finding.message.en.endswith("a cat & rose")


def test_a_negative_prompt_without_guidance_is_told_to_have_no_effect(make, request_of):
    engine = make(WAN_5B)
    frames_of(engine, request_of(WAN_5B, frames=1, guidance=1.0))
    assert [finding.code for finding in engine.findings()] == ["negative_unused"]
