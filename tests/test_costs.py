"""The cost model's numbers against new counts on the real classes at full size, made on tensors without memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from i2v_pipeline.planning.architectures import Transformer, Work, load_architectures
from i2v_pipeline.planning.job import job_of
from i2v_pipeline.presets import load_presets
from i2v_pipeline.types import GenerationRequest, Motion, PromptOrigin

FLOPS_TOLERANCE = 0.02
ACTIVATIONS_TOLERANCE = 0.10
TRAFFIC_TOLERANCE = 0.05
XL, W21, A14B, TI2V = "i2vgen-xl", "wan2.1-i2v-14b-480p", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"
KALEIDO, SKYREELS, VACE, VACE_14B = "kaleido-14b-s2v", "skyreels-v3-r2v-14b", "wan2.1-vace-1.3b", "wan2.1-vace-14b"

pytestmark = pytest.mark.diffusion


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Tests of other modules count what is alive."""
    yield
    from bench.counting import component

    component.cache_clear()
    gc.collect()


def request_for(engine_id: str, width: int = 832, height: int = 480, frames: int = 81, **settings: Any):
    """A request of that shape; nothing else of it has a cost."""
    facts = load_presets()[engine_id].diffusion
    assert facts is not None
    values = {"steps": 40, "guidance": 5.0, "scheduler": facts.schedulers[0], "flow_shift": facts.flow_shift}
    values["images"] = (Path("picture.png"),)
    return GenerationRequest(
        engine=engine_id, prompt="", motion=Motion(), fit="crop", fps=16, seed=0,
        origin=PromptOrigin(typed="", refined="", source="typed"), resolution=f"{width}x{height}", width=width,
        height=height, frames=frames, **{**values, **settings},
    )  # fmt: skip


def job_for(engine_id: str, *, on_cpu: bool = False, **settings: Any):
    spec = load_presets()[engine_id]
    assert spec.diffusion is not None
    return job_of(spec, spec.diffusion, request_for(engine_id, **settings), on_cpu=on_cpu)


def assert_agrees(predicted: Work, counted: Any, *, batch: int = 1) -> None:
    predicted = predicted.times(batch)
    total = counted.flops + counted.attention_flops
    assert predicted.flops + predicted.attention_flops == pytest.approx(total, rel=FLOPS_TOLERANCE)
    assert predicted.attention_flops == pytest.approx(counted.attention_flops, rel=FLOPS_TOLERANCE)
    assert predicted.elementwise_bytes == pytest.approx(counted.elementwise_bytes, rel=TRAFFIC_TOLERANCE)
    assert predicted.activation_bytes * batch == pytest.approx(counted.peak_bytes, rel=ACTIVATIONS_TOLERANCE)


@pytest.mark.parametrize("engine_id", [W21, A14B, TI2V])
@pytest.mark.parametrize(("width", "height", "frames"), [(256, 256, 5), (832, 480, 49), (1280, 704, 121)])
def test_a_pass_of_a_transformer_costs_what_was_counted(engine_id, width, height, frames):
    from bench.counting import count_step

    denoiser = load_architectures()[engine_id].denoiser
    assert isinstance(denoiser, Transformer)
    assert_agrees(denoiser.work(width, height, frames), count_step(engine_id, width, height, frames))


@pytest.mark.parametrize("engine_id", [KALEIDO, SKYREELS, VACE, VACE_14B])
@pytest.mark.parametrize(("width", "height", "frames", "references"), [(256, 256, 5, 1), (896, 512, 81, 3)])
def test_a_pass_with_references_costs_what_was_counted(engine_id, width, height, frames, references):
    from bench.counting import count_step

    denoiser = load_architectures()[engine_id].denoiser
    counted = count_step(engine_id, width, height, frames, references=references)
    assert_agrees(denoiser.work(width, height, frames, references), counted)


def test_a_reference_has_the_tokens_of_one_latent_frame():
    denoiser = load_architectures()[KALEIDO].denoiser
    assert isinstance(denoiser, Transformer)
    assert denoiser.tokens(896, 512, 81) == 37_632
    assert denoiser.tokens(896, 512, 81, references=3) == 37_632 + 3 * 1_792


def test_empty_slots_for_references_are_computed_like_references():
    from i2v_pipeline.types import Subject

    def forward(engine_id: str, count: int) -> float:
        pictures = {"images": (Path("a"),) * count, "subjects": (Subject(),) * count}
        return job_for(engine_id, width=896, height=512, frames=81, **pictures).forward.flops

    assert forward(SKYREELS, 1) == forward(SKYREELS, 3) > forward(KALEIDO, 3) > forward(KALEIDO, 1)


def test_what_the_vae_encodes_is_each_reference_and_for_vace_an_empty_video_too():
    from i2v_pipeline.types import Subject

    def encoded(engine_id: str, count: int) -> float:
        pictures = {"images": (Path("a"),) * count, "subjects": (Subject(),) * count}
        return job_for(engine_id, width=896, height=512, **pictures).vae_encode.flops

    vae, pixels = load_architectures()[KALEIDO].vae, 896 * 512
    still, video = vae.encode_work(pixels, 1).flops, vae.encode_work(pixels, 81).flops
    assert encoded(KALEIDO, 3) == 3 * still
    assert encoded(VACE, 2) == 2 * still + video


@pytest.mark.parametrize(
    ("width", "height", "frames", "batch"), [(256, 256, 4, 1), (512, 512, 24, 2), (1280, 704, 16, 2)]
)
def test_a_pass_of_the_unet_costs_what_was_counted(width, height, frames, batch):
    from bench.counting import count_step

    predicted = load_architectures()[XL].denoiser.work(width, height, frames)
    assert_agrees(predicted, count_step(XL, width, height, frames, batch=batch), batch=batch)


@pytest.mark.parametrize("engine_id", [XL, A14B, TI2V])
@pytest.mark.parametrize(("width", "height", "frames"), [(320, 256, 1), (832, 480, 25), (704, 1280, 9)])
def test_each_way_of_a_vae_costs_what_was_counted(engine_id, width, height, frames):
    from bench.counting import count_vae_decode, count_vae_encode

    vae = load_architectures()[engine_id].vae
    shown = frames if engine_id == A14B else 1
    assert_agrees(vae.encode_work(width * height, shown), count_vae_encode(engine_id, width, height, shown))
    assert_agrees(vae.decode_work(width * height, frames), count_vae_decode(engine_id, width, height, frames))


@pytest.mark.parametrize("engine_id", [XL, W21])
def test_the_encoders_cost_what_was_counted(engine_id):
    from bench.counting import count_image, count_text

    architecture = load_architectures()[engine_id]
    assert_agrees(architecture.text_encoder.work(), count_text(engine_id))
    assert architecture.image_encoder is not None
    assert_agrees(architecture.image_encoder.work(), count_image(engine_id))


@pytest.mark.parametrize("engine_id", [XL, W21, A14B, TI2V, KALEIDO, VACE])
def test_the_weights_take_what_they_take_in_the_types_of_the_engine(engine_id):
    from bench.counting import weight_bytes

    for name, predicted in job_for(engine_id).weights.items():
        assert predicted == pytest.approx(weight_bytes(engine_id, name), rel=FLOPS_TOLERANCE), name


@pytest.mark.parametrize("engine_id", [spec.id for spec in load_presets().values() if spec.diffusion is not None])
def test_what_streams_and_what_fp8_leaves_is_counted_on_the_classes(engine_id):
    from bench.counting import cast_parameters, component
    from i2v_pipeline.engines.streaming import layers_of

    for name, streaming in job_for(engine_id).streams.items():
        if name not in job_for(engine_id).weights:
            continue
        model = component(engine_id, name)
        layers = [sum(each.numel() for each in layer.parameters()) for layer in layers_of(model)]
        whole = sum(each.numel() for each in model.parameters())
        assert (streaming.outside, streaming.largest_layer) == (whole - sum(layers), max(layers)), name
        if streaming.kept_in_fp8:
            assert streaming.kept_in_fp8 == whole - cast_parameters(model)


@pytest.mark.parametrize(("scheduler", "steps"), [("unipc", 40), ("unipc", 13), ("euler", 4), ("euler", 9)])
@pytest.mark.parametrize("flow_shift", [3.0, 5.0])
def test_each_expert_has_the_steps_that_its_scheduler_gives_it(scheduler, steps, flow_shift):
    from i2v_pipeline.engines.wan import TRAIN_TIMESTEPS, Wan

    request = request_for(A14B, steps=steps, scheduler=scheduler, flow_shift=flow_shift, guidance=(3.5, 1.0))
    spec = load_presets()[A14B]
    assert spec.diffusion is not None and spec.diffusion.boundary is not None

    class Parts:
        device = "cpu"

    timesteps = Wan(spec, Parts(), None, None).scheduler(request).timesteps  # pyright: ignore[reportArgumentType]
    high = sum(float(timestep) >= spec.diffusion.boundary * TRAIN_TIMESTEPS for timestep in timesteps)
    assert 0 < high < steps
    assert job_of(spec, spec.diffusion, request, on_cpu=False).guided_steps == high


def test_the_meter_counts_what_lives_at_once_and_no_view():
    import torch

    from bench.counting import count

    def work() -> None:
        one = torch.zeros(1000)
        two = one.view(10, 100).t() * 2
        del one
        (two + 1).sum()

    counted = count(work)
    # zeros writes 4000 bytes; the product and the sum with 1 read and write 4000 each; the last reads 4000, writes 4.
    assert counted.elementwise_bytes == 4000 + 8000 + 8000 + 4004
    assert counted.peak_bytes == 8004
    assert counted.flops == counted.attention_flops == 0


def test_the_meter_counts_products_and_keeps_no_scores_of_attention():
    import torch

    from bench.counting import META, count

    def work() -> None:
        query = torch.empty(1, 2, 50, 8, device=META)
        key = torch.empty(1, 2, 70, 8, device=META)
        result = torch.nn.functional.scaled_dot_product_attention(query, key, key)
        result.reshape(100, 8) @ torch.empty(8, 3, device=META)

    counted = count(work)
    assert counted.attention_flops == 4 * 2 * 50 * 70 * 8
    assert counted.flops == 2 * 100 * 8 * 3
    assert counted.peak_bytes == 4 * (800 + 1120 + 800 + 24 + 300)
