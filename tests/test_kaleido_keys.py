"""The names of Kaleido's tensors against diffusers' model at full size, without memory; what is not accounted for."""

import re

import pytest

torch = pytest.importorskip("torch")

from diffusers import WanTransformer3DModel  # noqa: E402
from kaleido_checkpoint import PREFIX, as_published, tiny_transformer  # noqa: E402

from i2v_pipeline.errors import InputError  # noqa: E402
from i2v_pipeline.kaleido.keys import HEAD_WIDTH, KALEIDO, KEPT_IN_FP32, plan_keys, sat_names, shapes_of  # noqa: E402

pytestmark = pytest.mark.diffusion

LAYER_7 = PREFIX + "transformer.layers.7."


@pytest.fixture(scope="module")
def full_size():
    """Kaleido's transformer, without memory."""
    with torch.device("meta"):
        return WanTransformer3DModel()


@pytest.fixture(scope="module")
def published_shapes(full_size):
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in as_published(full_size).items()}


@pytest.fixture(scope="module")
def tiny():
    return as_published(tiny_transformer())


def test_the_855_tensors_of_the_checkpoint_become_the_1095_of_diffusers_model_shape_by_shape(
    full_size, published_shapes
):
    plan = plan_keys(published_shapes)
    assert len(published_shapes) == len(sat_names(40)) == 855
    assert len(plan.places) == 1095
    assert plan.parameters == 14_288_491_584
    assert plan.geometry == KALEIDO
    assert {name: place.shape for name, place in plan.places.items()} == {
        name: tuple(tensor.shape) for name, tensor in full_size.state_dict().items()
    }
    assert shapes_of(KALEIDO) == {name: place.shape for name, place in plan.places.items()}


def test_query_key_and_value_are_thirds_and_halves_of_their_joined_tensors(published_shapes):
    places = plan_keys(published_shapes).places
    joined = {
        f"blocks.7.{name}.bias": (places[f"blocks.7.{name}.bias"].part, places[f"blocks.7.{name}.bias"].parts)
        for name in ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_q", "attn2.to_k", "attn2.to_v")
    }
    assert list(joined.values()) == [(0, 3), (1, 3), (2, 3), (0, 1), (0, 2), (1, 2)]
    assert places["blocks.7.attn2.to_k.bias"].key == LAYER_7 + "cross_attention.key_value.bias"


def test_what_stays_in_fp32_is_what_diffusers_keeps_so(full_size):
    # `rope` holds tables that are counted anew, no weights.
    assert set(WanTransformer3DModel._keep_in_fp32_modules) == KEPT_IN_FP32 | {"rope"}
    assert not any("rope" in name.split(".") for name in full_size.state_dict())
    assert full_size.config.attention_head_dim == HEAD_WIDTH


@pytest.mark.parametrize("prefix", ["", "module.", "diffusion_model.", "model.diffusion_model.", "module.model.diffusion_model."])  # fmt: skip # noqa: E501
def test_the_prefixes_of_training_programs_are_known(published_shapes, prefix):
    shapes = {prefix + key.removeprefix(PREFIX): shape for key, shape in published_shapes.items()}
    assert len(plan_keys(shapes).places) == 1095


def test_other_sections_are_counted_and_not_taken(published_shapes):
    others = {"conditioner.embedders.0.weight": (3, 3), "module.conditioner.x": (), "first_stage_model.a.b": (1,)}
    plan = plan_keys({**published_shapes, **others})
    assert plan.skipped == {"conditioner": 2, "first_stage_model": 1}
    assert len(plan.places) == 1095


def test_missing_unknown_doubled_and_misshapen_tensors_are_all_named(published_shapes):
    shapes = dict(published_shapes)
    del shapes[LAYER_7 + "mlp.dense_4h_to_h.bias"]
    shapes[LAYER_7 + "mlp.scale_weight"] = ()
    shapes["module." + LAYER_7 + "attention.dense.bias"] = (5120,)
    shapes[LAYER_7 + "attention.query_key_value.weight"] = (15360, 2560)
    with pytest.raises(InputError) as caught:
        plan_keys(shapes)
    told = str(caught.value)
    # Named without the prefix, as the table of names has it.
    assert "1 missing (transformer.layers.7.mlp.dense_4h_to_h.bias)" in told
    assert f"1 unknown ({LAYER_7}mlp.scale_weight)" in told
    assert f"1 there twice (module.{LAYER_7}attention.dense.bias)" in told
    assert f"1 of another shape ({LAYER_7}attention.query_key_value.weight 15360x2560, expected 15360x5120)" in told


def test_a_checkpoint_of_kaleidos_width_that_lacks_its_last_layers_is_no_smaller_model(published_shapes):
    cut = {key: shape for key, shape in published_shapes.items() if "39" not in key.split(".")}
    with pytest.raises(InputError, match=r"21 missing \(.*, and 16 more\)"):
        plan_keys(cut)


def test_a_hole_among_the_layers_of_a_small_model_is_missing_and_not_closed(tiny):
    moved = {re.sub(r"(layers|list|modulations)\.1", r"\1.2", key): tuple(t.shape) for key, t in tiny.items()}
    with pytest.raises(InputError, match=r"21 missing \(mixins\.\w+\.\w+\.1, .*21 unknown \(.*\.2\.weight, "):
        plan_keys(moved)


def test_weights_of_an_image_to_video_model_are_refused_by_their_input_channels(published_shapes):
    name = PREFIX + "mixins.patch_embed.proj.weight"
    with pytest.raises(InputError, match=r"proj\.weight 5120x36x1x2x2, expected 5120x16x1x2x2"):
        plan_keys({**published_shapes, name: (5120, 36, 1, 2, 2)})


def test_something_else_entirely_is_refused_with_what_its_keys_look_like():
    with pytest.raises(InputError, match=r"no Kaleido checkpoint: its keys look like unet\.conv_in\.weight"):
        plan_keys({"unet.conv_in.weight": (320, 4, 3, 3)})
    with pytest.raises(InputError, match="it is empty"):
        plan_keys({})
    with pytest.raises(InputError, match="64 wide: a Wan model's width is a multiple of 128"):
        plan_keys({"patch_embedding.weight": (64, 16, 1, 2, 2)})
