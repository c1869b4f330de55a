"""LoRAs on Wan: three ways of naming keys, pairs, weights, and what is refused. diffusers' own loader is the oracle."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from diffusers import WanImageToVideoPipeline, WanTransformer3DModel  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tiny_models import WAN_5B, WAN_21, WAN_A14B, frames_of, request_for  # noqa: E402

from i2v_pipeline.engines import load_engine  # noqa: E402
from i2v_pipeline.engines.lora import fusion_of, open_loras  # noqa: E402
from i2v_pipeline.errors import InputError, ModelError  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402
from i2v_pipeline.types import LoraRef  # noqa: E402

pytestmark = pytest.mark.diffusion
CPU = torch.device("cpu")

RANK, ALPHA = 4, 2.0
PARTS = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o"}
LAYERS = {
    f"blocks.{block}.{ours}.{part}": f"blocks.{block}.{theirs}.{PARTS[part]}"
    for block in range(2)
    for ours, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"))
    for part in PARTS
} | {
    f"blocks.{block}.ffn.net.{ours}": f"blocks.{block}.ffn.{theirs}"
    for block in range(2)
    for ours, theirs in (("0.proj", 0), ("2", 2))
}
"""Names of the layers in diffusers and in the published code."""


def fuse(model, loras, expert, device):
    """Adds them into every part of the model; what is to say about them."""
    fusion = fusion_of(model, loras, expert)
    for name, part in model.named_modules():
        fusion.apply(name, part, device)
    return list(fusion.findings)


def matrices(transformer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name in LAYERS:
        out, inside = transformer.get_submodule(name).weight.shape
        made[name] = (
            torch.randn(RANK, inside, generator=generator) * 0.3,
            torch.randn(out, RANK, generator=generator) * 0.3,
        )
    return made


def file_of(folder, style, made, name="lora.safetensors"):
    """The same LoRA in one of three styles; only diffusers' own has no alpha, so it goes into the matrix there."""
    tensors = {}
    for layer, (down, up) in made.items():
        published = LAYERS[layer]
        if style == "diffusers":
            tensors[f"transformer.{layer}.lora_A.weight"] = down * (ALPHA / RANK)
            tensors[f"transformer.{layer}.lora_B.weight"] = up
            continue
        stem = f"diffusion_model.{published}" if style == "lightx2v" else f"lora_unet_{published.replace('.', '_')}"
        tensors[f"{stem}.lora_down.weight"] = down
        tensors[f"{stem}.lora_up.weight"] = up
        tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)
    return folder / name


@pytest.fixture
def transformer(tiny_checkpoint):
    return lambda engine_id, name="transformer": WanTransformer3DModel.from_pretrained(
        tiny_checkpoint(engine_id), subfolder=name
    )


def weights_of(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("style", ["diffusers", "lightx2v", "kohya"])
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_every_style_adds_what_the_formula_says(transformer, tmp_path, style, weight):
    model = transformer(WAN_5B)
    made, before = matrices(model), weights_of(model)
    path = file_of(tmp_path, style, made)
    assert fuse(model, open_loras([LoraRef(source=str(path), weight=weight)]), "high", CPU) == []
    for name, after in weights_of(model).items():
        layer = name.removesuffix(".weight")
        change = weight * ALPHA / RANK * (made[layer][1] @ made[layer][0]) if layer in made else 0
        assert torch.allclose(after, before[name] + change, atol=1e-6), name


@pytest.mark.parametrize("style", ["diffusers", "lightx2v", "kohya"])
def test_the_fused_weights_are_those_of_diffusers_own_loader(tiny_checkpoint, transformer, tmp_path, style):
    path = file_of(tmp_path, style, matrices(transformer(WAN_5B)))
    pipeline = WanImageToVideoPipeline.from_pretrained(tiny_checkpoint(WAN_5B))
    pipeline.load_lora_weights(str(path), adapter_name="one", use_safetensors=True)
    pipeline.set_adapters(["one"], [0.8])
    pipeline.fuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    model = transformer(WAN_5B)
    fuse(model, open_loras([LoraRef(source=str(path), weight=0.8)]), "high", CPU)
    theirs = pipeline.transformer.state_dict()
    for name, ours in model.state_dict().items():
        assert torch.allclose(ours, theirs[name], atol=1e-6), name


def test_several_loras_add_up_and_their_order_does_not_matter(transformer, tmp_path):
    models = [transformer(WAN_5B), transformer(WAN_5B)]
    refs = [
        LoraRef(source=str(file_of(tmp_path, style, matrices(models[0], seed), f"{seed}.safetensors")), weight=weight)
        for seed, (style, weight) in enumerate((("diffusers", 0.7), ("kohya", -0.4)))
    ]
    fuse(models[0], open_loras(refs), "high", CPU)
    fuse(models[1], open_loras(refs[::-1]), "high", CPU)
    for ours, theirs in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_biases_and_whole_differences_are_added_too(transformer, tmp_path):
    model = transformer(WAN_5B)
    before = weights_of(model)
    bias = torch.full((24,), 0.25)
    weight = torch.full((24,), 0.5)
    stem = "diffusion_model.blocks.1"
    tensors = {f"{stem}.self_attn.q.diff_b": bias, f"{stem}.norm3.diff": weight, f"{stem}.norm3.diff_b": bias.clone()}
    save_file(tensors, tmp_path / "diff.safetensors")
    fuse(model, open_loras([LoraRef(source=str(tmp_path / "diff.safetensors"), weight=2.0)]), "high", CPU)
    expected = {"attn1.to_q.bias": 0.5, "norm2.weight": 1.0, "norm2.bias": 0.5}
    for name, after in weights_of(model).items():
        assert torch.allclose(after, before[name] + expected.get(name.removeprefix("blocks.1."), 0.0))


def test_a_pair_goes_to_its_experts_and_the_report_has_its_hashes(tiny_checkpoint, transformer, tmp_path):
    made = matrices(transformer(WAN_A14B))
    high, low = (file_of(tmp_path, "lightx2v", made, f"{name}.safetensors") for name in ("high", "low"))
    engine = load_engine(load_presets()[WAN_A14B])

    def frames(*loras):
        return frames_of(engine, request_for(WAN_A14B, tiny_checkpoint(WAN_A14B), steps=6, loras=loras))

    plain = frames()
    only_high = frames(LoraRef(source=str(high), expert="high"))
    only_low = frames(LoraRef(source=str(low), expert="low", weight=0.5))
    pair = frames(LoraRef(source=str(high), expert="high"), LoraRef(source=str(low), expert="low"))
    assert engine.facts()["loras"] == [
        {"file": f"{name}.safetensors", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "weight": 1.0,
         "expert": name}
        for name, path in (("high", high), ("low", low))
    ]  # fmt: skip
    both = frames(LoraRef(source=str(high)))
    assert np.array_equal(pair, both)
    made_frames = [plain, only_high, only_low, pair]
    for index, one in enumerate(made_frames):
        assert not any(np.array_equal(one, other) for other in made_frames[index + 1 :])
    assert np.array_equal(frames(), plain)
    assert engine.facts()["loras"] == []


def test_another_seed_with_the_same_loras_loads_nothing(tiny_checkpoint, transformer, tmp_path):
    path = file_of(tmp_path, "kohya", matrices(transformer(WAN_5B)))
    engine = load_engine(load_presets()[WAN_5B])
    request = request_for(WAN_5B, tiny_checkpoint(WAN_5B), loras=(LoraRef(source=str(path)),))
    frames_of(engine, request)
    frames_of(engine, request)
    assert engine.facts()["loaded"] == []


def test_a_lora_that_fits_nowhere_is_refused(tiny_checkpoint, tmp_path):
    save_file({"unet.down_blocks.0.lora_A.weight": torch.zeros(4, 4)}, tmp_path / "sd.safetensors")
    engine = load_engine(load_presets()[WAN_5B])
    loras = (LoraRef(source=str(tmp_path / "sd.safetensors")),)
    with pytest.raises(InputError, match=r"sd\.safetensors fits no part of this model.*unet\.down_blocks"):
        frames_of(engine, request_for(WAN_5B, tiny_checkpoint(WAN_5B), loras=loras))


def test_a_lora_for_a_larger_model_is_refused(transformer, tmp_path):
    made = {layer: (torch.zeros(4, 40), torch.zeros(40, 4)) for layer in LAYERS}
    path = file_of(tmp_path, "lightx2v", made)
    with pytest.raises(InputError, match=r"is for another model: its blocks\.0\."):
        fuse(transformer(WAN_5B), open_loras([LoraRef(source=str(path))]), "high", CPU)


def test_keys_without_a_place_are_counted_and_told(transformer, tmp_path):
    model = transformer(WAN_21)
    stem = "diffusion_model.blocks.0.cross_attn"
    tensors = {f"{stem}.{part}.lora_down.weight": torch.ones(2, 24) for part in ("k_img", "nowhere")}
    tensors |= {f"{stem}.{part}.lora_up.weight": torch.ones(24, 2) for part in ("k_img", "nowhere")}
    save_file(tensors, tmp_path / "part.safetensors")
    (finding,) = fuse(model, open_loras([LoraRef(source=str(tmp_path / "part.safetensors"))]), "high", CPU)
    assert (finding.code, finding.severity) == ("lora_partly_unknown", "warn")
    assert "2 keys" in finding.message.en and "cross_attn.nowhere" in finding.message.en


@pytest.mark.parametrize(
    ("name", "content", "error", "told"),
    [
        ("a.pt", b"x", ModelError, "is a pickle"),
        ("a.safetensors", b"not at all", InputError, "is no safetensors file"),
        ("a.safetensors", None, InputError, "no such file"),
    ],
)
def test_a_file_that_is_no_lora_is_refused(tmp_path, name, content, error, told):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=told):
        open_loras([LoraRef(source=str(tmp_path / name))])


def test_a_lora_of_the_hub_that_is_not_here_is_told_with_what_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    ref = load_presets()[WAN_A14B].presets["fast"].loras[0]
    with pytest.raises(ModelError, match=r"high_noise_model\.safetensors is not on this machine.*models download"):
        open_loras([ref])
    repo = tmp_path / "models--lightx2v--Wan2.2-Lightning"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    file = repo / "snapshots" / "abc" / ref.source.split("/", 4)[4]
    file.parent.mkdir(parents=True)
    save_file({"x": torch.zeros(1)}, file)
    assert Path(open_loras([ref])[0].path) == file
