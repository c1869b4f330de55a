"""Engines that take references: Kaleido against what is known of it, VACE against diffusers' own pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from diffusers import (  # noqa: E402
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
)
from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tiny_models import KALEIDO, SKYREELS, VACE, WAN_5B, frames_of, picture_for, request_for  # noqa: E402

from i2v_pipeline.engines.diffusion import DiffusionEngine  # noqa: E402
from i2v_pipeline.engines.family import Inputs  # noqa: E402
from i2v_pipeline.engines.references import ReferenceRotary  # noqa: E402
from i2v_pipeline.errors import InputError, Paused  # noqa: E402
from i2v_pipeline.planning.modes import mode_called  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402
from i2v_pipeline.specs import ReferenceSpec  # noqa: E402
from i2v_pipeline.types import LoraRef  # noqa: E402

pytestmark = pytest.mark.diffusion
SIDES = {"A": (4, 24), "B": (24, 4)}
"""Of a LoRA of rank 4 on a tiny transformer, 24 wide."""
HEAD = 128
"""As in the real model: 44 values of a head turn with the time, 42 with the row, 42 with the column."""


def spec_with(**changes: Any):
    """Kaleido's facts with another way of placing references."""
    spec = load_presets()[KALEIDO]
    assert spec.diffusion is not None and spec.diffusion.references is not None
    references = replace(spec.diffusion.references, **changes)
    return replace(spec, diffusion=replace(spec.diffusion, references=references))


@pytest.fixture
def make():
    """Engines, closed at the end: `make(spec)`."""
    engines = []

    def build(spec):
        engines.append(DiffusionEngine(spec))
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


@pytest.fixture
def kaleido(tiny_checkpoint):
    return lambda **changes: request_for(KALEIDO, tiny_checkpoint(KALEIDO), **changes)


@pytest.fixture
def family_of(make, kaleido):
    """The family itself with its transformer loaded, and the conditioning of the usual request."""

    def build(spec, **changes):
        request = kaleido(**changes)
        engine = make(spec)
        loaded = engine._load(request, mode_called("resident"))
        family, loaded.parts.adapt = loaded.family, loaded.adapt
        pictures = [each.pixels for each in picture_for(request).references]
        inputs = Inputs(request=request, first=pictures[0], last=None, others=tuple(pictures[1:]))
        conditioning = family.encode(inputs)
        family.load_denoisers()
        return family, conditioning

    return build


@pytest.fixture
def seen(monkeypatch):
    """What the transformer was given each time, and its rotary angles."""
    calls = []
    forward = WanTransformer3DModel.forward

    def watched(model, *arguments, **given):
        calls.append((given["hidden_states"], given["encoder_hidden_states"], model.rope(given["hidden_states"])))
        return forward(model, *arguments, **given)

    monkeypatch.setattr(WanTransformer3DModel, "forward", watched)
    return calls


# --- where references stand -------------------------------------------------------------------------------------------


def positions(cosines, sines):
    """(time, row, column) of each token, from its first angle in each part of the head: its frequency is 1."""
    angles = torch.atan2(sines[0, :, 0], cosines[0, :, 0]) % (2 * torch.pi)
    return [tuple(row) for row in angles[:, [0, 44, 86]].tolist()]


def test_references_have_their_own_time_and_are_80_rows_and_columns_away():
    model = WanTransformer3DModel(num_attention_heads=1, attention_head_dim=HEAD, num_layers=1, ffn_dim=8, text_dim=8)
    rotary = ReferenceRotary(model.rope, (80, 80))
    rotary.references = 2
    # Two references and two latent frames of 2 x 3 tokens.
    found = positions(*rotary(torch.zeros(1, 16, 4, 4, 6)))
    grid = [(row, column) for row in (0, 1) for column in (0, 1, 2)]
    expected = [(time, 80 + row, 80 + column) for time in (0, 1) for row, column in grid]
    expected += [(time, row, column) for time in (0, 1) for row, column in grid]
    assert expected[:2] == [(0, 80, 80), (0, 80, 81)] and expected[12:14] == [(0, 0, 0), (0, 0, 1)]
    assert np.allclose(found, np.array(expected) % (2 * np.pi), atol=1e-4)
    rotary.references = 0
    for ours, plain in zip(rotary(torch.zeros(1, 16, 4, 4, 6)), model.rope(torch.zeros(1, 16, 4, 4, 6)), strict=True):
        assert torch.equal(ours, plain)


def test_the_engine_of_the_presets_is_kaleido():
    diffusion = load_presets()[KALEIDO].diffusion
    assert diffusion is not None
    assert diffusion.references == ReferenceSpec(placement="before", rotary_shift=(80, 80), slots=0, guidance=None)
    standard = load_presets()[KALEIDO].presets["standard"]
    assert (standard.steps, standard.guidance, standard.frames, standard.fps) == (50, 6.0, 81, 16)
    assert (diffusion.flow_shift, diffusion.schedulers) == (7.0, ("euler",))
    assert diffusion.trained_sizes == ((896, 512), (512, 896))
    assert "画得不好的脸部" not in diffusion.negative_prompt and "画得不好的手部" in diffusion.negative_prompt


def test_the_references_stand_before_the_video_in_both_passes(family_of, kaleido, seen):
    family, conditioning = family_of(load_presets()[KALEIDO])
    latents = family.latents(kaleido(), torch.Generator().manual_seed(1))
    output = family.predict(latents, torch.tensor(500.0), conditioning, 6.0)
    assert output.shape == latents.shape
    assert len(seen) == 2
    for hidden, _, _ in seen:
        assert torch.equal(hidden[:, :, :2], conditioning.references)
        assert torch.equal(hidden[:, :, 2:], latents)
    assert torch.equal(seen[0][1], conditioning.prompt) and torch.equal(seen[1][1], conditioning.negative)


def test_a_guided_step_is_the_negative_pass_and_six_times_the_difference(family_of, kaleido):
    family, conditioning = family_of(load_presets()[KALEIDO])
    latents, timestep = family.latents(kaleido(), torch.Generator().manual_seed(1)), torch.tensor(500.0)
    positive = family.predict(latents, timestep, conditioning, 1.0)
    negative = family.predict(latents, timestep, replace(conditioning, prompt=conditioning.negative), 1.0)
    guided = family.predict(latents, timestep, conditioning, 6.0)
    assert torch.equal(guided, negative + 6.0 * (positive - negative))


@pytest.mark.parametrize("shift", [(79, 80), (80, 81), (0, 0), None])
def test_other_positions_give_other_frames(make, kaleido, shift):
    right = frames_of(make(load_presets()[KALEIDO]), kaleido())
    assert not np.array_equal(right, frames_of(make(spec_with(rotary_shift=shift)), kaleido()))


def test_the_order_of_the_references_counts_and_so_does_each_of_them(make, kaleido):
    engine, request = make(load_presets()[KALEIDO]), kaleido()
    picture = picture_for(request)
    swapped = replace(picture.others[0], others=(replace(picture, others=()),))
    videos = [
        np.concatenate(list(engine.generate(request, each, lambda _: None)))
        for each in (picture, swapped, replace(picture, others=()))
    ]
    assert not np.array_equal(videos[0], videos[1]) and not np.array_equal(videos[0], videos[2])


def test_without_references_it_is_wans_own_text_to_video(family_of, kaleido):
    """Ours, step by step, against diffusers' pipeline on the same noise and sigmas."""
    request = kaleido(steps=4, guidance=6.0)
    family, conditioning = family_of(load_presets()[KALEIDO])
    none = replace(conditioning, references=conditioning.references[:, :, :0])
    noise = family.latents(request, torch.Generator().manual_seed(3))
    scheduler, latents = family.scheduler(request), noise
    for timestep in scheduler.timesteps:
        with torch.inference_mode():
            output = family.predict(latents, timestep, none, 6.0)
            latents = scheduler.step(output, timestep, latents).prev_sample
    pipeline = WanPipeline.from_pretrained(request.checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    explicit = FlowMatchEulerDiscreteScheduler(shift=7.0)
    set_timesteps = explicit.set_timesteps
    explicit.set_timesteps = lambda steps, device: set_timesteps(
        sigmas=np.linspace(1, 0, steps + 1)[:-1], device=device
    )
    pipeline.scheduler = explicit
    expected = pipeline(
        prompt=request.prompt, negative_prompt=request.negative_prompt, width=request.width, height=request.height,
        num_frames=request.frames, num_inference_steps=4, guidance_scale=6.0, latents=noise, output_type="latent",
    ).frames  # fmt: skip
    assert torch.equal(latents, expected)


# --- the models that the same fields can express ----------------------------------------------------------------------


def test_references_after_the_video_go_on_in_time_and_empty_slots_are_zero(family_of, kaleido, seen):
    family, conditioning = family_of(spec_with(placement="after", rotary_shift=None, slots=4))
    latents = family.latents(kaleido(), torch.Generator().manual_seed(1))
    output = family.predict(latents, torch.tensor(500.0), conditioning, 1.0)
    ((hidden, _, rotary),) = seen
    assert output.shape == latents.shape and conditioning.references.shape[2] == 4
    assert torch.equal(hidden[:, :, :3], latents) and torch.equal(hidden[:, :, 3:], conditioning.references)
    assert conditioning.references[:, :, :2].abs().min() > 0 and not conditioning.references[:, :, 2:].any()
    model = WanTransformer3DModel.from_pretrained(kaleido().checkpoint, subfolder="transformer")
    assert torch.equal(rotary[0], model.rope(hidden)[0])


def test_references_after_the_video_with_positions_of_their_own_are_dropped_at_the_end(family_of, kaleido, seen):
    family, conditioning = family_of(spec_with(placement="after"))
    latents = family.latents(kaleido(), torch.Generator().manual_seed(1))
    whole = family.predict(latents, torch.tensor(500.0), conditioning, 1.0)
    before, _ = family_of(load_presets()[KALEIDO])
    # Attention knows places by their angles alone, so the order of the tokens changes nothing but rounding.
    assert torch.allclose(whole, before.predict(latents, torch.tensor(500.0), conditioning, 1.0), atol=1e-5)
    assert [call[0].shape[2] for call in seen] == [5, 5]


def test_references_that_are_guided_apart_take_a_third_pass_without_them(family_of, kaleido, seen):
    family, conditioning = family_of(spec_with(guidance=5.0))
    latents, timestep = family.latents(kaleido(), torch.Generator().manual_seed(1)), torch.tensor(500.0)
    guided = family.predict(latents, timestep, conditioning, 7.5)
    assert len(seen) == 3
    alone = {
        "text": conditioning,
        "shown": replace(conditioning, prompt=conditioning.negative),
        "bare": replace(
            conditioning, prompt=conditioning.negative, references=torch.zeros_like(conditioning.references)
        ),
    }
    text, shown, bare = (family.predict(latents, timestep, each, 1.0) for each in alone.values())
    assert torch.allclose(guided, bare + 5.0 * (shown - bare) + 7.5 * (text - shown), atol=1e-6)


# --- what goes in and comes out ---------------------------------------------------------------------------------------


def test_the_sigmas_are_those_of_the_published_sampler_and_the_naive_call_has_others(make, kaleido):
    request = kaleido(steps=50)
    scheduler = make(load_presets()[KALEIDO])._load(request, mode_called("staged")).family.scheduler(request)
    sigmas = scheduler.sigmas.numpy()
    # 7 u / (1 + 6 u) for u = 1, 0.98, 0.96 ... 0.02, 0
    assert np.allclose(sigmas[[0, 1, 2, 25, 49, 50]], [1.0, 0.9970930, 0.9940828, 0.875, 0.125, 0.0], atol=1e-6)
    assert np.allclose(scheduler.timesteps.numpy(), sigmas[:-1] * 1000, atol=1e-3)
    naive = FlowMatchEulerDiscreteScheduler(shift=7.0)
    naive.set_timesteps(50)
    assert np.abs(naive.sigmas.numpy() - sigmas).max() == pytest.approx(0.078, abs=0.002)


def test_each_reference_is_the_normalised_mean_of_what_the_vae_makes_of_one_frame(family_of, kaleido):
    _, conditioning = family_of(load_presets()[KALEIDO])
    vae = AutoencoderKLWan.from_pretrained(kaleido().checkpoint, subfolder="vae")
    mean, deviation = (
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    for index, picture in enumerate(picture_for(kaleido()).references):
        pixels = torch.from_numpy(picture.pixels / 127.5 - 1).float().permute(2, 0, 1)[None, :, None]
        with torch.inference_mode():
            expected = (vae.encode(pixels).latent_dist.mode() - mean) / deviation
        assert torch.allclose(conditioning.references[:, :, index : index + 1], expected, atol=1e-4)


def test_the_report_tells_how_references_were_placed_and_has_the_hash_of_their_latents(make, kaleido):
    engine = make(load_presets()[KALEIDO])
    assert len(frames_of(engine, kaleido())) == 9
    facts = engine.facts()
    assert facts["references"] == {"placement": "before", "rotary_shift": [80, 80], "slots": 0, "guidance": None}
    assert set(facts["inputs"]) == {"prompt", "negative", "references", "noise"}


@pytest.mark.parametrize("engine_id", [KALEIDO, VACE])
def test_a_lora_of_the_text_to_video_model_changes_the_frames_and_leaves_no_trace(
    make, tiny_checkpoint, tmp_path, engine_id
):
    layer = "transformer.blocks.0.attn1.to_q"
    generator = torch.Generator().manual_seed(0)
    pair = {f"{layer}.lora_{side}.weight": torch.randn(shape, generator=generator) for side, shape in SIDES.items()}
    save_file(pair, tmp_path / "style.safetensors")
    request = request_for(engine_id, tiny_checkpoint(engine_id))
    engine = make(load_presets()[engine_id])
    plain = frames_of(engine, request)
    styled = replace(request, loras=(LoraRef(source=str(tmp_path / "style.safetensors")),))
    assert not np.array_equal(plain, frames_of(engine, styled))
    assert np.array_equal(plain, frames_of(engine, request))


def test_a_saved_state_of_another_second_reference_is_not_gone_on_with(make, kaleido, tmp_path):
    engine, request, state = make(load_presets()[KALEIDO]), kaleido(), tmp_path / "state.safetensors"
    picture = picture_for(request)
    other = replace(picture, others=(picture_for(request, seed=9),))

    def stop(progress):
        if (progress.stage, progress.step) == ("denoise", 2):
            raise Paused

    with pytest.raises(Paused):
        list(engine.generate(request, picture, stop, state))
    fresh = np.concatenate(list(engine.generate(request, other, lambda _: None)))
    after = np.concatenate(list(engine.generate(request, other, lambda _: None, state)))
    assert np.array_equal(fresh, after) and "resumed_at_step" not in engine.facts()
    assert "state_not_used" in [finding.code for finding in engine.findings()]


# --- SkyReels ---------------------------------------------------------------------------------------------------------


def published_frames(request):
    """The frames of the published program's loop, over diffusers' parts: four slots after the video, three passes."""
    pipeline = WanPipeline.from_pretrained(request.checkpoint)
    vae, model = pipeline.vae, pipeline.transformer
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=5.0
    )
    scheduler.set_timesteps(request.steps)
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    scale = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    with torch.no_grad():
        prompt, negative = pipeline.encode_prompt(
            request.prompt, negative_prompt=request.negative_prompt, max_sequence_length=512, device="cpu"
        )
        slots = torch.zeros(1, vae.config.z_dim, 4, request.height // 8, request.width // 8)
        for index, picture in enumerate(picture_for(request).references):
            pixels = torch.from_numpy(picture.pixels.copy()).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
            slots[:, :, index : index + 1] = (vae.encode(pixels).latent_dist.mode() - mean) * scale
        shape = (1, vae.config.z_dim, (request.frames - 1) // 4 + 1, *slots.shape[3:])
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(request.seed))

        def look(text, shown):
            hidden = torch.cat([latents, shown], dim=2)
            output = model(hidden_states=hidden, timestep=timestep[None], encoder_hidden_states=text).sample
            return output[:, :, : shape[2]]

        for timestep in scheduler.timesteps:
            output = look(prompt, slots)
            if request.guidance > 1:
                unguided, bare = look(negative, slots), look(negative, torch.zeros_like(slots))
                output = bare + 5.0 * (unguided - bare) + request.guidance * (output - unguided)
            latents = scheduler.step(output, timestep, latents).prev_sample
        video = vae.decode(latents / scale + mean).sample
    return ((video[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("count", [1, 3])
def test_skyreels_makes_the_frames_of_the_published_loop_to_the_last_bit(make, tiny_checkpoint, count, guidance):
    request = request_for(SKYREELS, tiny_checkpoint(SKYREELS), guidance=guidance)
    request = replace(request, images=request.images[:1] * count, subjects=request.subjects[:1] * count)
    engine = make(load_presets()[SKYREELS])
    assert np.array_equal(frames_of(engine, request), published_frames(request))
    assert engine.facts()["passes"] == (3 if guidance == 1.0 else 9)


# --- VACE -------------------------------------------------------------------------------------------------------------


def bare_frames(request):
    """The frames of diffusers' own pipeline on the same files, references and seed."""
    pipeline = WanVACEPipeline.from_pretrained(request.checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=request.flow_shift)
    video = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        reference_images=[Image.fromarray(each.pixels) for each in picture_for(request).references],
        width=request.width,
        height=request.height,
        num_frames=request.frames,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    ).frames[0]
    return (video * 255).round().astype(np.uint8)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("changes", [{}, {"guidance": 1.0, "width": 64, "height": 128}], ids=["wide", "tall"])
def test_vace_makes_the_frames_of_the_bare_pipeline_to_the_last_bit(make, tiny_checkpoint, count, changes):
    request = request_for(VACE, tiny_checkpoint(VACE), **changes)
    request = replace(request, images=request.images[:1] * count, subjects=request.subjects[:1] * count)
    assert np.array_equal(frames_of(make(load_presets()[VACE]), request), bare_frames(request))


@pytest.mark.parametrize(("engine_id", "other"), [(VACE, KALEIDO), (KALEIDO, VACE), (KALEIDO, WAN_5B)])
def test_the_checkpoint_of_another_architecture_is_refused(make, tiny_checkpoint, engine_id, other):
    with pytest.raises(InputError, match=f"This checkpoint is no {engine_id}"):
        frames_of(make(load_presets()[engine_id]), request_for(engine_id, tiny_checkpoint(other)))
