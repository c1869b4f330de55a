"""A model whose layers pass through the device: that they move, how many are there, that the frames are the same."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from tiny_models import ALL, I2VGEN, VACE, WAN_21, WAN_A14B, picture_for, request_for  # noqa: E402
from torch import nn  # noqa: E402

from i2v_pipeline.engines import load_engine  # noqa: E402
from i2v_pipeline.engines.streaming import PLACES, LayerStream, layers_of  # noqa: E402
from i2v_pipeline.errors import Paused  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402
from i2v_pipeline.types import LoraRef  # noqa: E402

pytestmark = pytest.mark.diffusion
CPU = torch.device("cpu")


class Net(nn.Module):
    """Layers of three sizes and two types, around them what stays."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, wide), nn.Linear(wide, 8)) for wide in (4, 16, 5, 9)])
        self.blocks[2].to(torch.float64)
        self.last = nn.Linear(8, 3)

    def forward(self, given):
        hidden = self.first(given)
        for block in self.blocks:
            hidden = hidden + block(hidden.to(block[0].weight.dtype)).to(hidden.dtype)
        return self.last(hidden)


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Net().eval()


def waiting(module):
    return all(parameter.numel() == 0 for parameter in module.parameters())


def test_layers_come_for_their_turn_alone_and_the_result_is_the_same_to_the_last_bit(net):
    given = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = net(given)
    stream = LayerStream(net, CPU)
    assert all(waiting(block) for block in net.blocks) and not waiting(net.first)
    stream.work()
    seen = []
    for index, block in enumerate(net.blocks):
        block.register_forward_pre_hook(lambda *_, index=index: seen.append((index, stream.on_device)))
        block.register_forward_pre_hook(
            lambda *_, index=index: seen.append([other for other, each in enumerate(net.blocks) if not waiting(each)])
        )
    for _ in range(3):
        with torch.inference_mode():
            assert torch.equal(net(given), expected)
    assert [each for each in seen if isinstance(each, list)] == [[index] for index in range(4)] * 3
    turns = [each for each in seen if isinstance(each, tuple)]
    assert all(index in held and len(held) <= PLACES for index, held in turns)
    # Known from the first round, the next layer is on its way while one computes; after the last comes the first.
    assert all(following in held for (_, held), (following, _) in pairwise(turns[4:]))
    assert all(waiting(block) for block in net.blocks)
    assert not any(parameter.is_inference() for parameter in net.parameters())


def test_another_order_than_before_is_right_too(net):
    order = [0, 1, 2, 3]
    blocks = list(net.blocks)

    def forward(given):
        hidden = net.first(given)
        for index in order:
            hidden = hidden + blocks[index](hidden.to(net_dtypes[index])).to(hidden.dtype)
        return net.last(hidden)

    net_dtypes = [block[0].weight.dtype for block in blocks]
    given = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    orders = [[0, 1, 2, 3], [3, 1, 0, 2], [2, 2, 0], [1, 3, 0, 2], [0]]
    with torch.inference_mode():
        expected = []
        for order in orders:  # noqa: B007 - read by `forward`
            expected.append(forward(given))
        LayerStream(net, CPU).work()
        for order, result in zip(orders, expected, strict=True):  # noqa: B007
            assert torch.equal(forward(given), result)


def test_at_rest_nothing_is_on_the_device_and_it_comes_back_as_it_was(net):
    given = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = net(given)
        stream = LayerStream(net, CPU)
        for _ in range(2):
            stream.work()
            assert torch.equal(net(given), expected)
            stream.rest()
            assert stream.on_device == [] and stream._places == []


def test_the_layers_of_a_block_of_blocks_pass_one_by_one():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3)])

    model = nn.ModuleDict({"down": nn.ModuleList([Block(), Block()]), "out": nn.Linear(3, 3)})
    assert [layer.out_features for layer in layers_of(model)] == [2, 3, 2, 3]


# --- in the engines ---------------------------------------------------------------------------------------------------


@pytest.fixture
def frames(tiny_checkpoint):
    """`frames(engine_id, mode, state=, hear=, **changes)` from an engine made anew, and its facts."""

    def make(engine_id, mode, state=None, hear=lambda _: None, **changes):
        engine, request = load_engine(load_presets()[engine_id]), request_for(
            engine_id, tiny_checkpoint(engine_id), **changes
        )  # fmt: skip
        try:
            return np.concatenate(
                list(engine.generate(request, picture_for(request), hear, state, mode))
            ), engine.facts()
        finally:
            engine.close()

    return make


@pytest.mark.parametrize("engine_id", ALL)
def test_of_encoders_and_denoisers_few_layers_are_on_the_device_at_a_time(frames, monkeypatch, engine_id):
    seen = []
    enter = LayerStream._enter

    def watched(stream, index):
        enter(stream, index)
        held = [number for number, layer in enumerate(stream._layers) if layer.weights[0].parameter.numel()]
        seen.append((type(stream._model).__name__, held, len(stream.on_device)))
        assert held == [index]

    monkeypatch.setattr(LayerStream, "_enter", watched)
    frames(engine_id, "streamed")
    assert max(places for _, _, places in seen) == PLACES
    names = {name for name, _, _ in seen}
    expected = {"CLIPTextModel", "CLIPVisionModelWithProjection", "I2VGenXLUNet"}
    if engine_id != I2VGEN:
        expected = {"UMT5EncoderModel", "WanTransformer3DModel"}
    if engine_id == WAN_21:
        expected |= {"CLIPVisionModel"}
    if engine_id == VACE:
        expected = {"UMT5EncoderModel", "WanVACETransformer3DModel"}
    assert names == expected


def test_a_lora_and_two_experts_give_the_same_frames_to_the_last_bit(frames, tmp_path):
    generator = torch.Generator().manual_seed(2)
    name = "transformer.blocks.1.ffn.net.0.proj"
    save_file(
        {
            f"{name}.lora_A.weight": torch.randn(2, 24, generator=generator),
            f"{name}.lora_B.weight": torch.randn(48, 2, generator=generator),
        },
        tmp_path / "style.safetensors",
    )
    loras = (LoraRef(source=str(tmp_path / "style.safetensors"), weight=0.5),)
    plain, _ = frames(WAN_A14B, "staged", steps=4)
    fused, _ = frames(WAN_A14B, "staged", steps=4, loras=loras)
    streamed, facts = frames(WAN_A14B, "streamed", steps=4, loras=loras)
    assert np.array_equal(streamed, fused) and not np.array_equal(fused, plain)
    assert "few layers" in facts["offload"]


@pytest.mark.parametrize(("first", "second"), [("staged", "streamed"), ("streamed", "swapped-half")])
def test_what_one_mode_saved_another_goes_on_with(frames, tmp_path, first, second):
    whole, _ = frames(WAN_A14B, second, steps=4)

    def stop(progress):
        if (progress.stage, progress.step) == ("denoise", 2):
            raise Paused

    with pytest.raises(Paused):
        frames(WAN_A14B, first, state=tmp_path / "state", hear=stop, steps=4)
    resumed, facts = frames(WAN_A14B, second, state=tmp_path / "state", steps=4)
    assert facts["resumed_at_step"] == 2 and np.array_equal(resumed, whole)


def test_weights_in_fp8_begin_again_from_a_state_that_full_weights_saved(frames, tmp_path):
    def stop(progress):
        if (progress.stage, progress.step) == ("denoise", 2):
            raise Paused

    with pytest.raises(Paused):
        frames(WAN_A14B, "swapped", state=tmp_path / "state", hear=stop, steps=4)
    _, facts = frames(WAN_A14B, "fp8-swapped", state=tmp_path / "state", steps=4)
    assert "resumed_at_step" not in facts
