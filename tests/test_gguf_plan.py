"""What a denoiser in GGUF takes before a run: bytes of its files, widening, modes; and the folder made of links."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from packed_models import K_VALUES, save_full, save_packed  # noqa: E402
from test_costs import request_for  # noqa: E402
from tiny_models import KALEIDO, VACE, WAN_5B, WAN_21, WAN_A14B, picture_for  # noqa: E402
from tiny_models import request_for as tiny_request_for  # noqa: E402

from bench.counting import META, count  # noqa: E402
from i2v_pipeline import hub  # noqa: E402
from i2v_pipeline.checks import request_mistakes  # noqa: E402
from i2v_pipeline.download import sources_of  # noqa: E402
from i2v_pipeline.engines import load_engine  # noqa: E402
from i2v_pipeline.engines.gguf_weights import packing_of  # noqa: E402
from i2v_pipeline.errors import InputError, ModelError  # noqa: E402
from i2v_pipeline.gguf_files import NO_FP8, PACKED_KINDS  # noqa: E402
from i2v_pipeline.gguf_folder import make_folder, without_denoisers  # noqa: E402
from i2v_pipeline.planning import plan_run  # noqa: E402
from i2v_pipeline.planning.costs import cost_of  # noqa: E402
from i2v_pipeline.planning.devices import find_device  # noqa: E402
from i2v_pipeline.planning.diffusion import frugal_mode, unlearned  # noqa: E402
from i2v_pipeline.planning.job import job_of  # noqa: E402
from i2v_pipeline.planning.machine import Machine  # noqa: E402
from i2v_pipeline.planning.modes import LADDER, mode_called  # noqa: E402
from i2v_pipeline.planning.packed import BITS, SCRATCH_BYTES, WIDEN_BYTES, WIDENED_AT_ONCE, as_if_packed  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402
from i2v_pipeline.specs import PackedLayers, PackedWeights  # noqa: E402
from i2v_pipeline.types import LoraRef  # noqa: E402
from studio.cli import main  # noqa: E402
from studio.models import kinds_of, state_of  # noqa: E402
from studio.page.plan import engine_html  # noqa: E402

pytestmark = pytest.mark.diffusion
GIB = 2**30
Q4_K_BITS = 4.5
LAYER, OUTSIDE = 351_394_304, 233_129_024
"""Parameters of a layer of A14B and around them: architectures.yaml."""


def packed_a14b() -> PackedWeights:
    """An expert of A14B with every matrix of its layers in Q4_K."""
    layer = PackedLayers(packed_bytes=int(LAYER * Q4_K_BITS / 8), plain_parameters=0)
    whole = 40 * layer.packed_bytes + 2 * OUTSIDE
    return PackedWeights(
        kinds={"Q4_K": 40 * LAYER, "F16": OUTSIDE},
        file_bytes=whole,
        layers=(layer,) * 40,
        outside=PackedLayers(packed_bytes=0, plain_parameters=OUTSIDE),
        widest=13_824 * 5120,
    )


def in_gguf(engine_id=WAN_A14B):
    spec = load_presets()[engine_id]
    packed = {name: packed_a14b() for name in ("transformer", "transformer_2") if name in spec.diffusion.components}
    return replace(spec, diffusion=replace(spec.diffusion, packed=packed))


def machine_of(vram_gib, ram_gib=None):
    return Machine(gpu=find_device("4090"), cores=8, free_vram_gib=vram_gib, free_ram_gib=ram_gib, free_disk_gib=None)


@pytest.mark.parametrize("kind", PACKED_KINDS)
def test_what_widening_moves_and_holds_is_what_was_counted_on_the_real_operations(kind):
    packing, rows, columns = packing_of(kind), 13_824, 5120
    packed = torch.empty(rows, columns // packing.values * packing.size, dtype=torch.uint8, device=META)
    counted = count(lambda: packing.widen(packed, torch.bfloat16))
    values = rows * columns
    assert counted.elementwise_bytes / values == pytest.approx(WIDEN_BYTES[kind], rel=0.01)
    assert (counted.peak_bytes - 2 * values) / WIDENED_AT_ONCE <= SCRATCH_BYTES


def test_the_plan_counts_the_bytes_of_the_files_and_widening_them():
    spec, full = in_gguf(), load_presets()[WAN_A14B]
    request, device = request_for(WAN_A14B), find_device("4090")
    jobs = [job_of(each, each.diffusion, request, on_cpu=False) for each in (spec, full)]
    packed, whole = (cost_of(job, mode_called("swapped"), device) for job in jobs)
    assert jobs[0].weights["transformer"] == packed_a14b().file_bytes
    assert jobs[0].weights["text_encoder"] == jobs[1].weights["text_encoder"]
    saved = 2 * (jobs[1].weights["transformer"] - packed_a14b().file_bytes) / GIB
    assert whole.ram_gib - packed.ram_gib == pytest.approx(saved, abs=0.02)
    denoise = [next(stage for stage in cost.stages if stage.name == "denoise") for cost in (packed, whole)]
    scratch = 13_824 * 5120 * 2 + WIDENED_AT_ONCE * SCRATCH_BYTES
    assert (denoise[0].activations_gib - denoise[1].activations_gib) * GIB == pytest.approx(scratch, rel=0.01)
    forwards = jobs[0].passes * 1.10 * 40 * LAYER * WIDEN_BYTES["Q4_K"] / device.bandwidth
    moved = (sum(jobs[1].weights.values()) - sum(jobs[0].weights.values())) / device.pcie_bandwidth
    assert denoise[0].seconds - denoise[1].seconds == pytest.approx(forwards - moved, rel=0.01)


def test_less_of_it_passes_through_the_card_and_less_goes_through_the_bus():
    spec, full = in_gguf(), load_presets()[WAN_A14B]
    request, device = request_for(WAN_A14B), find_device("4090")
    packed, whole = (
        cost_of(job_of(each, each.diffusion, request, on_cpu=False), mode_called("streamed"), device)
        for each in (spec, full)
    )
    held = [next(stage for stage in cost.stages if stage.name == "denoise").weights_gib for cost in (packed, whole)]
    assert held[0] * GIB == pytest.approx(2 * LAYER * Q4_K_BITS / 8 + 2 * OUTSIDE, rel=0.01)
    assert held[1] * GIB == pytest.approx(2 * (2 * LAYER + OUTSIDE), rel=0.01)


def test_loras_lie_beside_packed_weights_and_add_nothing_to_full_ones():
    loras = (LoraRef(source="a", weight=1.0, expert="high"), LoraRef(source="b", weight=1.0))
    for spec, expected in ((in_gguf(), [2, 1]), (load_presets()[WAN_A14B], [0, 0])):
        jobs = [job_of(spec, spec.diffusion, request_for(WAN_A14B, loras=each), on_cpu=False) for each in ((), loras)]
        # A rank of 64, of eight matrices of 5120 x 5120 and two of 5120 x 13824 in each of 40 layers, in bf16.
        one = 40 * 64 * 2 * (8 * 2 * 5120 + 2 * (5120 + 13_824))
        for name, count_of_them in zip(("transformer", "transformer_2"), expected, strict=True):
            assert jobs[1].weights[name] - jobs[0].weights[name] == count_of_them * one


@pytest.mark.parametrize("vram", [4, 6, 8, 12, 24, 80])
def test_fp8_is_never_chosen_for_what_is_packed_and_refused_where_it_is_asked_for(vram):
    spec, request = in_gguf(), request_for(WAN_A14B)
    for ram in (16.0, 32.0, 64.0):
        assert "fp8" not in plan_run(spec, request, machine_of(vram, ram)).mode
    mode, seen = "resident", []
    while mode is not None:
        seen.append(mode)
        mode = frugal_mode(spec, request, machine_of(vram), mode, "denoise", "vram")
    assert not any("fp8" in each for each in seen)
    asked = replace(request, precision="fp8")
    assert NO_FP8 in request_mistakes(spec, asked)
    assert NO_FP8 not in request_mistakes(load_presets()[WAN_A14B], asked)


def test_packed_weights_fit_where_full_ones_do_not():
    request, machine = request_for(WAN_A14B), machine_of(24, 64.0)
    packed = plan_run(in_gguf(), request, machine)
    full = plan_run(load_presets()[WAN_A14B], replace(request, precision="bf16"), machine)
    assert packed.fits and packed.peak_ram_gib < full.peak_ram_gib


def test_what_was_learned_of_packed_weights_says_nothing_of_full_ones():
    kinds = {
        unlearned(spec, spec.diffusion, request_for(WAN_A14B), machine_of(24), mode_called("swapped"))[1]
        for spec in (in_gguf(), load_presets()[WAN_A14B])
    }
    assert len(kinds) == 2 and sum("Q4_K" in kind for kind in kinds) == 1


@pytest.mark.parametrize("mode", [mode.id for mode in LADDER if not mode.fp8])
def test_every_mode_has_a_cost_that_is_no_more_than_that_of_full_weights(mode):
    request, device = request_for(WAN_A14B), find_device("3060")
    packed, full = (
        cost_of(job_of(spec, spec.diffusion, request, on_cpu=False), mode_called(mode), device)
        for spec in (in_gguf(), load_presets()[WAN_A14B])
    )
    assert 0 < packed.vram_gib <= full.vram_gib + 0.5 and 0 < packed.ram_gib <= full.ram_gib


@pytest.mark.parametrize("kind", PACKED_KINDS)
def test_bits_are_those_of_the_blocks(kind):
    packing = packing_of(kind)
    assert BITS[kind] == 8 * packing.size / packing.values


@pytest.mark.parametrize("engine_id", [*(each for each in load_presets() if each.startswith(("wan", "kaleido")))])
def test_a_plan_may_be_asked_without_any_file_by_kind_or_by_size(engine_id):
    spec = load_presets()[engine_id]
    by_kind = as_if_packed(spec, "Q5_K")
    packed = by_kind.diffusion.packed
    assert set(packed) == {name for name in spec.diffusion.components if name.startswith("transformer")}
    one = packed["transformer"]
    assert sum(one.kinds.values()) == spec.diffusion.components["transformer"].parameters
    assert one.bytes(2) == pytest.approx(one.file_bytes, rel=1e-6)
    by_size = as_if_packed(spec, f"{one.file_bytes / 1e9:.6f}GB").diffusion.packed["transformer"]
    assert by_size.file_bytes == pytest.approx(one.file_bytes, rel=1e-5)
    assert by_size.largest_layer_bytes(2) == pytest.approx(one.largest_layer_bytes(2), rel=1e-3)
    assert hub.as_here(by_kind) is by_kind


def test_the_command_plans_for_gguf(capsys):
    def planned(*options):
        main(["plan", "--engine", WAN_A14B, "--gpu", "4090", "--vram", "140", "--json", *options])
        return json.loads(capsys.readouterr().out)

    full, packed, larger = planned(), planned("--gguf", "Q4_K"), planned("--gguf", "9.65GB")
    assert {each["mode"] for each in (full, packed, larger)} == {"resident"}
    assert packed["peak_vram_gib"] < larger["peak_vram_gib"] < full["peak_vram_gib"]
    for wanted in ("Q4_K_M", "0.3GB", "40GB", "nan", "Q9"):
        assert main(["plan", "--engine", WAN_A14B, "--gguf", wanted]) == 2
        assert f"--gguf {wanted}: one of Q4_0" in capsys.readouterr().err
    assert main(["plan", "--engine", "i2vgen-xl", "--gguf", "Q4_K"]) == 2
    assert "i2vgen-xl has no denoiser that could be in GGUF" in capsys.readouterr().err


# --- the folder -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """`models(engine_id)`: a tiny model in full, and the GGUF files of its denoisers."""
    folder = tmp_path_factory.mktemp("models")

    def build(engine_id):
        here = folder / engine_id
        if not here.exists():
            full = save_full(engine_id, here / "full", width=K_VALUES)
            save_packed(full, here / "packed", "Q8_0")
        return here / "full", sorted((here / "packed").glob("transformer*/*.gguf"))

    return build


@pytest.mark.parametrize("engine_id", [WAN_A14B, WAN_21])
def test_a_folder_of_links_makes_videos_and_is_told_as_gguf(models, tmp_path, monkeypatch, engine_id):
    monkeypatch.setenv("STUDIO_MODELS", str(tmp_path))
    full, files = models(engine_id)
    spec, source = load_presets()[engine_id], tmp_path / "source"
    source.mkdir()
    for place in full.iterdir():
        if not place.name.startswith("transformer"):
            (source / place.name).symlink_to(place)
    made = make_folder(spec, files, source, tmp_path / engine_id)
    assert all(path.is_symlink() for path in made.rglob("*") if not path.is_dir())
    assert [path.name for path in sorted(made.glob("transformer*/*"))] == [file.name for file in files]
    assert kinds_of(spec) == "GGUF Q8_0" and "GGUF Q8_0" in engine_html(spec)
    size = sum(file.stat().st_size for file in hub.files_of(hub.find_checkpoint(spec, None), spec.diffusion))
    assert f"{size / 1e9:.1f} GB, GGUF Q8_0: {made}" in state_of(spec).en
    engine, request = load_engine(spec), tiny_request_for(engine_id, None, frames=5, steps=1)
    list(engine.generate(request, picture_for(request), lambda _: None))
    assert all(
        engine.facts()["precisions"][name].startswith("GGUF Q8_0") for name in spec.diffusion.components
        if name.startswith("transformer")
    )  # fmt: skip
    engine.close()


def test_a_folder_is_whole_or_not_there(models, tmp_path, monkeypatch):
    monkeypatch.setattr("i2v_pipeline.gguf_folder.cached_snapshot", lambda _: None)
    spec, target = load_presets()[WAN_A14B], tmp_path / "target"
    full, files = models(WAN_A14B)
    _, others = models(KALEIDO)
    short = tmp_path / "short.gguf"
    short.write_bytes(files[0].read_bytes()[:-1000])
    (tmp_path / "empty").mkdir()
    refused = (
        (files[:1], full, r"takes 2 GGUF file\(s\), 1 are given.*high noise first"),
        ([files[0], others[0]], full, "is of another model: it takes 16 channels, wan2.2-i2v-a14b takes 36 channels"),
        ([files[0], short], full, "short.gguf cannot be read"),
        ([files[0], tmp_path / "none.gguf"], full, "none.gguf: no such file"),
        (files, tmp_path / "empty", "empty lacks text_encoder, vae, tokenizer"),
    )
    for given, source, told in refused:
        with pytest.raises(InputError, match=told):
            make_folder(spec, given, source, target)
    with pytest.raises(ModelError, match=r"models download wan2\.2-i2v-a14b --without-denoiser"):
        make_folder(spec, files, None, target)
    assert [path.name for path in tmp_path.iterdir() if "target" in path.name] == []
    make_folder(spec, files, full, target)
    with pytest.raises(InputError, match="is there already"):
        make_folder(spec, files, full, target)


def test_an_engine_without_a_transformer_has_no_such_folder():
    with pytest.raises(InputError, match="i2vgen-xl has no denoiser that could be in GGUF"):
        without_denoisers(load_presets()["i2vgen-xl"])


@pytest.mark.parametrize("engine_id", [WAN_A14B, WAN_5B, VACE])
def test_a_download_without_the_denoiser_takes_everything_else(engine_id):
    spec = load_presets()[engine_id]
    own, rest = sources_of(spec), sources_of(without_denoisers(spec))
    left_out = set(own[0].patterns) - set(rest[0].patterns)
    assert left_out and all(pattern.startswith("transformer") for pattern in left_out) and own[1:] == rest[1:]
