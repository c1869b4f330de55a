"""Denoisers in GGUF: read as the format's reference reads them, the same frames in every mode, what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace

import gguf
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers  # noqa: E402
from gguf import GGMLQuantizationType  # noqa: E402
from packed_models import (  # noqa: E402
    K_VALUES,
    random_blocks,
    save_full,
    save_packed,
    save_widened,
    weights_in,
    write_gguf,
)
from safetensors.torch import save_file  # noqa: E402
from tiny_models import (  # noqa: E402
    KALEIDO,
    VACE,
    VACE_14B,
    WAN_5B,
    WAN_A14B,
    WANS,
    picture_for,
    request_for,
)

from bench.full_size_configs import CONFIGS  # noqa: E402
from i2v_pipeline import hub  # noqa: E402
from i2v_pipeline.engines import gguf_weights, levers, load_engine  # noqa: E402
from i2v_pipeline.engines.families import family_of  # noqa: E402
from i2v_pipeline.engines.gguf_weights import PackedLinear, packing_of  # noqa: E402
from i2v_pipeline.engines.loading import Parts  # noqa: E402
from i2v_pipeline.engines.wan_names import published_tensor  # noqa: E402
from i2v_pipeline.errors import InputError, Paused  # noqa: E402
from i2v_pipeline.gguf_files import (  # noqa: E402
    PACKED_KINDS,
    GgufFile,
    GgufTensor,
    config_of,
    packed_weights,
    read_gguf,
)
from i2v_pipeline.presets import load_presets  # noqa: E402
from i2v_pipeline.types import LoraRef  # noqa: E402

pytestmark = pytest.mark.diffusion
CPU = torch.device("cpu")
LORA_LEVELS = 1.0
"""Mean difference of 255 levels between a LoRA beside packed weights and one added to the widened ones, in fp32."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """`checkpoint(engine_id, kind)`: the folder in GGUF, and the one with exactly those weights in full."""
    folder = tmp_path_factory.mktemp("packed")

    def build(engine_id, kind="Q8_0", width=64):
        here = folder / f"{engine_id}-{kind}-{width}"
        if not here.exists():
            full = save_full(engine_id, here / "full", width=width)
            # Heads of 128 are every Wan model's, so the file alone says what it is.
            packed = save_packed(full, here / "packed", kind, with_config=width != K_VALUES)
            save_widened(full, packed, here / "widened")
        return here / "packed", here / "widened"

    return build


@pytest.fixture
def aligned(monkeypatch):
    """Weights of .safetensors begin where PyTorch's own do: a product of one row has other last bits elsewhere."""
    read = Parts._open

    def moved(parts, *given):
        model = read(parts, *given)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        return model

    monkeypatch.setattr(Parts, "_open", moved)


def run(engine_id, folder, mode="staged", state=None, hear=lambda _: None, **changes):
    """The frames that an engine makes of the checkpoint, five in two steps, and the engine, closed."""
    changes = {"frames": 5, "steps": 2} | changes
    engine, request = load_engine(load_presets()[engine_id]), request_for(engine_id, folder, **changes)
    try:
        return np.concatenate(list(engine.generate(request, picture_for(request), hear, state, mode))), engine
    finally:
        engine.close()


# --- the format -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PACKED_KINDS)
@pytest.mark.parametrize("at_once", [512, 2**23])
def test_blocks_are_widened_as_the_reference_of_the_format_does_to_the_last_bit(monkeypatch, kind, at_once):
    monkeypatch.setattr(gguf_weights, "WIDENED_AT_ONCE", at_once)
    known = GGMLQuantizationType[kind]
    blocks = random_blocks(known, 7, 512)
    expected = torch.from_numpy(gguf.quants.dequantize(blocks, known))
    assert expected.std() > 0.001
    assert torch.equal(packing_of(kind).widen(torch.from_numpy(blocks), torch.float32), expected)
    assert torch.equal(packing_of(kind).widen(torch.from_numpy(blocks), torch.bfloat16), expected.bfloat16())


@pytest.mark.parametrize("engine_id", [*WANS, KALEIDO, VACE, VACE_14B])
def test_names_and_settings_of_every_model_at_full_size_follow_from_its_tensors(tmp_path, engine_id):
    kinds, *_ = family_of(load_presets()[engine_id])
    settings = CONFIGS[engine_id]["transformer"]
    with torch.device("meta"):
        model = kinds["transformer"](**settings)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    back = convert_wan_transformer_to_diffusers({published_tensor(name): name for name in shapes})
    assert back == {name: name for name in shapes}

    def settings_of(made):
        own = {name: value for name, value in made.config.items() if not name.startswith("_")}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}

    for spell in (published_tensor, str):
        tensors = {
            spell(name): GgufTensor(name=spell(name), kind="F32", shape=shape, values=None)
            for name, shape in shapes.items()
        }
        found = config_of(GgufFile(path=tmp_path, tensors=tensors, header_bytes=0))
        with torch.device("meta"):
            assert settings_of(kinds["transformer"](**found)) == settings_of(model)


# --- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine_id", [*WANS, KALEIDO, VACE])
@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_the_frames_are_those_of_the_same_weights_in_full_to_the_last_bit(checkpoint, aligned, engine_id, precision):
    packed, widened = checkpoint(engine_id)
    frames, engine = run(engine_id, packed, precision=precision)
    expected, _ = run(engine_id, widened, precision=precision)
    assert np.array_equal(frames, expected)
    computes = "float32" if precision == "auto" else "bfloat16"
    told = engine.facts()["precisions"]["transformer"]
    assert told.startswith("GGUF Q8_0 ") and told.endswith(f"(tiny-transformer-Q8_0.gguf), computes in {computes}")
    assert [each.code for each in engine.findings()].count("packed_weights") == 1


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "BF16"])
def test_every_kind_makes_the_frames_of_its_own_weights(checkpoint, aligned, kind):
    packed, widened = checkpoint(WAN_5B, kind, K_VALUES)
    frames, engine = run(WAN_5B, packed)
    expected, _ = run(WAN_5B, widened)
    assert np.array_equal(frames, expected)
    assert f"GGUF {kind} " in engine.facts()["precisions"]["transformer"]


@pytest.mark.parametrize(
    ("engine_id", "mode"),
    [*((WAN_A14B, mode) for mode in ("resident", "swapped", "streamed", "streamed-tiled", "cpu")), (VACE, "streamed")],
)
def test_every_mode_makes_the_same_frames(checkpoint, engine_id, mode):
    packed, _ = checkpoint(engine_id)
    plain, _ = run(engine_id, packed, precision="fp32")
    frames, engine = run(engine_id, packed, mode, precision="fp32")
    assert np.array_equal(frames, plain) and engine.facts()["mode"] == mode


def test_compiled_blocks_widen_within_their_graph(checkpoint, monkeypatch):
    # Captured as for the compiler that the studio uses, which takes minutes, and run as it stands.
    monkeypatch.setattr(levers, "COMPILER", "eager")
    packed, _ = checkpoint(WAN_5B)
    plain, _ = run(WAN_5B, packed)
    frames, engine = run(WAN_5B, packed, compiled=True)
    assert engine.facts()["compiled"] is True and np.abs(frames.astype(int) - plain).max() <= 1


def test_weights_stay_packed_while_they_wait_and_after_they_came_and_went(checkpoint):
    packed, _ = checkpoint(WAN_A14B, "Q4_0")
    sizes = {}
    for mode in ("swapped", "streamed"):
        engine = load_engine(load_presets()[WAN_A14B])
        request = request_for(WAN_A14B, packed, frames=5, steps=2)
        first, again = (
            np.concatenate(list(engine.generate(request, picture_for(request), lambda _: None, None, mode)))
            for _ in range(2)
        )
        assert np.array_equal(first, again)
        model = engine._loaded.parts.look("transformer")
        linears = [module for module in model.modules() if isinstance(module, PackedLinear)]
        assert len(linears) == 24 and {linear.weight.dtype for linear in linears} == {torch.uint8}
        streams = engine._loaded.parts._streams
        sizes[mode] = sum(layer.bytes for layer in streams["transformer"]._layers) if streams else None
        engine.close()
    file = next((packed / "transformer").glob("*.gguf"))
    kept = packed_weights(file)
    # Each tensor of a layer begins at a multiple of 256 bytes.
    assert sum(layer.bytes(4) for layer in kept.layers) <= sizes["streamed"] <= kept.bytes(4) + 2 * 30 * 256


def test_loading_holds_no_second_copy_of_the_weights(tmp_path):
    """What PyTorch allocates while it loads, watched tensor by tensor."""
    from bench.counting import Meter

    class Real(Meter):
        def _follow(self, storage):
            if storage.device.type != "meta":
                super()._follow(storage)

    full = save_full(WAN_5B, tmp_path / "full", width=K_VALUES)
    packed = save_packed(full, tmp_path / "packed", "Q8_0")
    file = next((packed / "transformer").glob("*.gguf"))
    kinds, *_ = family_of(load_presets()[WAN_5B])
    # The table of positions is made in float64 and has nothing to do with the weights.
    config = {**kinds["transformer"].load_config(packed / "transformer"), "rope_max_seq_len": 8}
    with Real() as meter:
        model = gguf_weights.load_packed(kinds["transformer"], config, file, torch.bfloat16, CPU)
    weights, buffers = (
        sum(value.numel() * value.element_size() for value in values)
        for values in (model.parameters(), model.buffers())
    )
    held, largest = weights + buffers, max(tensor.values.nbytes for tensor in read_gguf(file).tensors.values())
    assert weights < 0.65 * 2 * sum(packed_weights(file).kinds.values())
    assert meter.peak_bytes < held + 3 * largest


# --- a run that goes on, and one that is made again -------------------------------------------------------------------


def test_a_run_goes_on_where_it_was_and_begins_again_when_the_file_is_another(checkpoint, tmp_path):
    packed = shutil.copytree(checkpoint(WAN_A14B, "Q4_0")[0], tmp_path / "here", symlinks=True)
    whole, _ = run(WAN_A14B, packed, steps=4)

    def stop(progress):
        if (progress.stage, progress.step) == ("denoise", 2):
            raise Paused

    for _ in range(2):
        with pytest.raises(Paused):
            run(WAN_A14B, packed, "streamed", tmp_path / "state", stop, steps=4)
    resumed, engine = run(WAN_A14B, packed, "swapped", tmp_path / "state", steps=4)
    assert engine.facts()["resumed_at_step"] == 2 and np.array_equal(resumed, whole)
    shutil.copy(
        next((checkpoint(WAN_A14B)[0] / "transformer").glob("*.gguf")),
        next((packed / "transformer").glob("*.gguf")),
    )
    other, engine = run(WAN_A14B, packed, "swapped", tmp_path / "state", steps=4)
    assert "resumed_at_step" not in engine.facts() and not np.array_equal(other, whole)


def test_the_checkpoints_hash_changes_with_the_values_of_the_file(checkpoint, tmp_path):
    packed = shutil.copytree(checkpoint(WAN_5B)[0], tmp_path / "here", symlinks=True)
    spec = load_presets()[WAN_5B]
    found = hub.find_checkpoint(spec, packed)
    before = hub.checkpoint_sha256(found, spec.diffusion)
    file = next((packed / "transformer").glob("*.gguf"))
    assert file in hub.files_of(found, spec.diffusion)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert hub.checkpoint_sha256(found, spec.diffusion) != before


# --- LoRAs ------------------------------------------------------------------------------------------------------------


def lora(path, *, rank=4, seed=0, extra=None, size=0.1):
    """A LoRA in published names on three layers, a norm and a bias."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, rows, columns in (
        ("blocks.0.self_attn.q", 64, 64), ("blocks.1.ffn.0", 128, 64), ("blocks.1.cross_attn.o", 64, 64),
    ):  # fmt: skip
        tensors[f"diffusion_model.{name}.lora_down.weight"] = torch.randn(rank, columns, generator=generator)
        tensors[f"diffusion_model.{name}.lora_up.weight"] = torch.randn(rows, rank, generator=generator) * size
        tensors[f"diffusion_model.{name}.alpha"] = torch.tensor(2.0)
    tensors["diffusion_model.blocks.0.norm3.diff"] = torch.randn(64, generator=generator) * 0.1
    tensors["diffusion_model.blocks.0.self_attn.q.diff_b"] = torch.randn(64, generator=generator) * 0.1
    save_file(tensors | (extra or {}), path)
    return path


@pytest.mark.parametrize("mode", ["staged", "streamed"])
def test_loras_beside_packed_weights_make_the_frames_of_loras_in_the_widened_ones(checkpoint, aligned, tmp_path, mode):
    packed, widened = checkpoint(WAN_A14B, "Q4_0")
    loras = (
        LoraRef(source=str(lora(tmp_path / "one.safetensors")), weight=0.8, expert="high"),
        LoraRef(source=str(lora(tmp_path / "two.safetensors", rank=8, seed=1)), weight=1.0),
    )
    plain, _ = run(WAN_A14B, packed, mode)
    beside, engine = run(WAN_A14B, packed, mode, loras=loras)
    within, _ = run(WAN_A14B, widened, mode, loras=loras)
    apart = np.abs(beside.astype(int) - within)
    assert apart.mean() <= LORA_LEVELS / 100 and apart.max() <= LORA_LEVELS
    assert np.abs(beside.astype(int) - plain).mean() > 20 * LORA_LEVELS / 100
    assert [each["weight"] for each in engine.facts()["loras"]] == [0.8, 1.0]


def test_a_layer_with_loras_beside_it_computes_the_sum_of_all(tmp_path, checkpoint):
    packed, _ = checkpoint(WAN_A14B, "Q4_0")
    file = next((packed / "transformer").glob("*.gguf"))
    tensor = read_gguf(file).tensors["blocks.1.ffn.0.weight"]
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(2, 9, 64, generator=generator)
    layer = PackedLinear(tensor, torch.nn.Parameter(torch.randn(128, generator=generator)), torch.float32, CPU)
    expected = layer(given).detach()
    for rank in (2, 3):
        down, up = torch.randn(rank, 64, generator=generator), torch.randn(128, rank, generator=generator)
        layer.put_beside(down, up)
        expected = expected + given @ (up @ down).T
    assert torch.allclose(layer(given), expected, atol=1e-4) and layer.down.shape == (5, 64)


def test_a_lora_that_changes_packed_weights_as_a_whole_is_refused(checkpoint, tmp_path):
    packed, _ = checkpoint(WAN_A14B, "Q4_0")
    whole = {"diffusion_model.blocks.0.self_attn.k.diff": torch.zeros(64, 64)}
    path = lora(tmp_path / "whole.safetensors", extra=whole)
    with pytest.raises(InputError, match=r"whole\.safetensors changes all of blocks\.0\.attn1\.to_k.*low-rank"):
        run(WAN_A14B, packed, loras=(LoraRef(source=str(path), weight=1.0),))


def test_a_lora_of_another_size_is_refused(checkpoint, tmp_path):
    packed, _ = checkpoint(WAN_A14B, "Q4_0")
    name = "diffusion_model.blocks.0.self_attn.k"
    wide = {f"{name}.lora_down.weight": torch.zeros(4, 96), f"{name}.lora_up.weight": torch.zeros(64, 4)}
    path = lora(tmp_path / "wide.safetensors", extra=wide)
    with pytest.raises(InputError, match=r"wide\.safetensors is for another model.*6144 values, the model's 4096"):
        run(WAN_A14B, packed, loras=(LoraRef(source=str(path), weight=1.0),))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder_with(checkpoint, tmp_path):
    """`folder_with(change)`: the tiny A14B, the file of its first expert made of what `change` leaves."""

    def build(change=lambda weights: weights, kind="Q8_0"):
        packed, widened = checkpoint(WAN_A14B)
        here = shutil.copytree(packed, tmp_path / "changed", symlinks=True)
        file = next((here / "transformer").glob("*.gguf"))
        write_gguf(change(weights_in(widened / "transformer")), file, kind)
        return here, file

    return build


def without(*names):
    return lambda weights: {name: values for name, values in weights.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("blocks.1.ffn.2.weight"), r"1 missing \(blocks\.1\.ffn\.2\.weight\)"),
        (lambda weights: {**weights, "blocks.7.x": np.ones(3, np.float32)}, r"1 unknown \(blocks\.7\.x\)"),
        (
            lambda weights: {**weights, "blocks.0.ffn.0.bias": np.ones(3, np.float32)},
            r"1 of another shape \(blocks\.0\.ffn\.0\.bias 3, expected 128\)",
        ),
    ],
)
def test_tensors_that_are_not_the_transformers_are_named(folder_with, change, told):
    folder, _ = folder_with(change)
    with pytest.raises(InputError, match=told):
        run(WAN_A14B, folder)


def test_a_file_of_another_architecture_is_refused_in_one_sentence(folder_with):
    folder, file = folder_with()
    (folder / "transformer" / "config.json").unlink()
    write_gguf({"double_blocks.0.img_attn.qkv.weight": np.ones((32, 32), np.float32)}, file, "Q8_0")
    with pytest.raises(InputError, match=r"is no Wan transformer: its tensors are called double_blocks\.0\.img_attn"):
        run(WAN_A14B, folder)


def test_another_wan_model_is_refused_before_its_weights_are_read(checkpoint, tmp_path, monkeypatch):
    here = shutil.copytree(checkpoint(WAN_A14B, "Q4_0")[0], tmp_path / "here", symlinks=True)
    for place in (here / "transformer", here / "transformer_2"):
        shutil.rmtree(place)
        shutil.copytree(checkpoint(KALEIDO)[0] / "transformer", place, symlinks=True)
    monkeypatch.setattr("i2v_pipeline.engines.loading.load_packed", None)
    with pytest.raises(InputError, match="its transformer takes 16 channels"):
        run(WAN_A14B, here)


@pytest.mark.parametrize("kept", [0, 3, 20, 200, 5000, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_refused_and_counts_as_not_here(folder_with, kept):
    folder, file = folder_with()
    content = file.read_bytes()
    file.write_bytes(content[: kept if kept > 1 or not kept else int(kept * len(content))])
    with pytest.raises(InputError, match=f"{file.name} cannot be read: it is no GGUF file, cut short"):
        hub.find_checkpoint(load_presets()[WAN_A14B], folder)


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0", "MXFP4"])
def test_a_kind_that_cannot_be_widened_is_refused_by_its_name(tmp_path, kind):
    matrix = np.random.default_rng(0).normal(size=(4, K_VALUES)).astype(np.float32)
    path = write_gguf({"blocks.0.ffn.0.weight": matrix}, tmp_path / "odd.gguf", kind)
    with pytest.raises(InputError, match=rf"of the kind {kind} \(blocks\.0\.ffn\.0\.weight\).*Q4_K"):
        read_gguf(path)


def test_two_kinds_of_weights_in_one_folder_are_refused(folder_with):
    folder, file = folder_with()
    shutil.copy(file, file.with_name("second.gguf"))
    with pytest.raises(InputError, match="transformer has more than one kind of weights"):
        hub.find_checkpoint(load_presets()[WAN_A14B], folder)
    file.with_name("second.gguf").rename(file.with_name("model.safetensors"))
    with pytest.raises(InputError, match=r"transformer has more than one kind of weights: .*model\.safetensors"):
        hub.find_checkpoint(load_presets()[WAN_A14B], folder)


def test_fp8_and_gguf_are_refused_together(checkpoint):
    packed, _ = checkpoint(WAN_5B)
    for changes in ({"precision": "fp8"}, {"mode": "fp8-swapped"}):
        with pytest.raises(InputError, match="Precision fp8: the denoiser's weights are in GGUF"):
            run(WAN_5B, packed, **changes)


def test_what_is_here_in_gguf_is_known_by_its_bytes_and_what_is_not_is_as_it_was(checkpoint):
    spec = load_presets()[WAN_A14B]
    packed, widened = checkpoint(WAN_A14B)
    here = hub.as_here(spec, packed)
    assert set(here.diffusion.packed) == {"transformer", "transformer_2"}
    file = next((packed / "transformer").glob("*.gguf"))
    assert here.diffusion.packed["transformer"].file_bytes == file.stat().st_size
    others = spec.diffusion.components["vae"].disk_bytes + spec.diffusion.components["text_encoder"].disk_bytes
    assert here.diffusion.disk_bytes == others + 2 * file.stat().st_size
    assert replace(here, diffusion=replace(here.diffusion, packed={})) == spec
    assert hub.as_here(spec, widened) == spec == hub.as_here(spec, packed / "nowhere")
