"""Kaleido's checkpoint into diffusers' layout: every form of source, bounded memory, whole or not at all."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from diffusers import WanPipeline, WanTransformer3DModel  # noqa: E402
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers  # noqa: E402
from kaleido_checkpoint import PREFIX, TINY, as_published, save_merged, tiny_transformer  # noqa: E402
from loopback_hub import Hub, running_hub  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_models import KALEIDO, WAN_5B, WAN_21, frames_of, request_for  # noqa: E402

from i2v_pipeline.engines import load_engine  # noqa: E402
from i2v_pipeline.errors import InputError, ModelError  # noqa: E402
from i2v_pipeline.hub import missing_components  # noqa: E402
from i2v_pipeline.kaleido.companions import REPO  # noqa: E402
from i2v_pipeline.kaleido.convert import convert  # noqa: E402
from i2v_pipeline.kaleido.keys import KEPT_IN_FP32  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402
from studio.cli import main  # noqa: E402

pytestmark = pytest.mark.diffusion

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tiny():
    return tiny_transformer()


@pytest.fixture
def wan(tiny_checkpoint):
    """A folder of Wan 2.1: text encoder, tokenizer, VAE and scheduler."""
    return tiny_checkpoint(WAN_21)


@pytest.fixture
def merged(tmp_path, tiny):
    return save_merged(as_published(tiny), tmp_path / "kaleido.pt")


def converted(source, target, wan, **options):
    return convert(source, target, wan=wan, on_bytes=options.pop("on_bytes", lambda *_: None), **options)


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_converted_checkpoint_makes_a_video_of_references(merged, wan, tmp_path):
    target = tmp_path / "kaleido"
    converted(merged, target, wan)
    engine = load_engine(load_presets()[KALEIDO])
    frames = frames_of(engine, request_for(KALEIDO, target, steps=1, frames=5))
    engine.close()
    assert frames.shape == (5, 64, 96, 3)


# --- every form of source ---------------------------------------------------------------------------------------------


def merged_file(tiny, folder):
    return save_merged(as_published(tiny), folder / "kaleido.pt")


def folder_with_latest(tiny, folder):
    save_merged(as_published(tiny), folder / "model" / "1" / "mp_rank_00_model_states.pt")
    (folder / "model" / "latest").write_text("1\n")
    return folder / "model"


def flat_shards(tiny, folder):
    tensors = list(as_published(tiny, prefix="").items())
    for part in range(3):
        torch.save(dict(tensors[part::3]), folder / f"part-{part}.pt")
    return folder


def safetensors_shards(tiny, folder):
    tensors = list(as_published(tiny).items())
    save_file(dict(tensors[:20]), folder / "a.safetensors")
    torch.save({"module": dict(tensors[20:])}, folder / "b.pt")
    return folder


def with_other_sections(tiny, folder):
    others = {"conditioner.ids": torch.arange(3), "first_stage_model.w": torch.ones(2)}
    return save_merged({**as_published(tiny), **others}, folder / "kaleido.pt")


def as_diffusers(tiny, folder):
    save_file(dict(tiny.state_dict()), folder / "kaleido.safetensors")
    return folder / "kaleido.safetensors"


def as_the_wan_code(tiny, folder):
    """The names that diffusers' own conversion of the published Wan code turns into its own."""
    theirs = {
        "scale_shift_table": "head.modulation", "proj_out": "head.head",
        "condition_embedder.text_embedder.linear_1": "text_embedding.0",
        "condition_embedder.text_embedder.linear_2": "text_embedding.2",
        "condition_embedder.time_embedder.linear_1": "time_embedding.0",
        "condition_embedder.time_embedder.linear_2": "time_embedding.2",
        "condition_embedder.time_proj": "time_projection.1", "patch_embedding": "patch_embedding",
    }  # fmt: skip
    in_blocks = {
        "attn1": "self_attn", "attn2": "cross_attn", "to_q": "q", "to_k": "k", "to_v": "v", "norm2": "norm3",
        "scale_shift_table": "modulation",
    }  # fmt: skip
    tensors = {}
    for name, tensor in tiny.state_dict().items():
        if name.startswith("blocks."):
            short = name.replace("to_out.0", "o").replace("ffn.net.0.proj", "ffn.0").replace("ffn.net.2", "ffn.2")
            tensors[".".join(in_blocks.get(part, part) for part in short.split("."))] = tensor
        else:
            module = next(module for module in theirs if name.startswith(module))
            tensors[name.replace(module, theirs[module])] = tensor
    assert convert_wan_transformer_to_diffusers(dict(tensors)).keys() == tiny.state_dict().keys()
    save_file({PREFIX + name: tensor for name, tensor in tensors.items()}, folder / "wan.safetensors")
    return folder / "wan.safetensors"


@pytest.mark.parametrize(
    "form",
    [
        merged_file, folder_with_latest, flat_shards, safetensors_shards, with_other_sections, as_diffusers,
        as_the_wan_code,
    ],
)  # fmt: skip
def test_every_form_of_source_becomes_the_model_that_it_was_made_of(tiny, tmp_path, wan, form):
    (tmp_path / "source").mkdir()
    source, target = form(tiny, tmp_path / "source"), tmp_path / "new" / "kaleido"
    done = converted(source, target, wan, shard_bytes=500_000)
    assert done.tensors == len(tiny.state_dict()) and left_in(target.parent) == {"kaleido"}
    assert missing_components(target, ("transformer", "text_encoder", "vae")) == []
    shards = sorted((target / "transformer").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0].name == f"diffusion_pytorch_model-00001-of-{len(shards):05d}.safetensors"
    assert all(shard.stat().st_size < 600_000 for shard in shards)
    stored = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    model, told = WanTransformer3DModel.from_pretrained(target, subfolder="transformer", output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert {key: value for key, value in model.config.items() if key in TINY} == TINY
    for name, tensor in tiny.state_dict().items():
        kept = not KEPT_IN_FP32.isdisjoint(name.split("."))
        assert stored[name].dtype == (torch.float32 if kept else torch.bfloat16)
        assert torch.equal(stored[name], tensor.to(stored[name].dtype)), name
        assert torch.equal(model.state_dict()[name], stored[name].float()), name


def test_the_folder_is_a_whole_model_that_makes_frames(merged, tmp_path, wan):
    converted(merged, tmp_path / "out", wan)
    pipeline = WanPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline(
        prompt="a rose", height=32, width=32, num_frames=5, num_inference_steps=1, guidance_scale=1.0, output_type="np"
    ).frames
    assert frames.shape == (1, 5, 32, 32, 3)
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["_class_name"] == "WanPipeline" and "image_encoder" not in index


def test_weights_of_wan_are_shared_on_the_disk_and_the_small_files_are_copies(merged, tmp_path, wan):
    here = shutil.copytree(wan, tmp_path / "wan")
    done = converted(merged, tmp_path / "out", here)
    weights = {"text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"}
    for name in weights:
        assert (tmp_path / "out" / name).samefile(here / name)
    assert done.linked_bytes == sum((here / name).stat().st_size for name in weights)
    assert not (tmp_path / "out" / "vae" / "config.json").samefile(here / "vae" / "config.json")
    assert done.copied_bytes > 0
    shutil.rmtree(here)
    WanPipeline.from_pretrained(tmp_path / "out", local_files_only=True)


def test_without_a_folder_the_hubs_cache_is_used_and_the_command_that_fills_it_is_told(
    merged, tmp_path, wan, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        converted(merged, tmp_path / "out", None)
    program, *words = shlex.split(str(caught.value).partition("(--wan FOLDER): ")[2])
    files = {path.relative_to(wan).as_posix(): path.read_bytes() for path in wan.rglob("*") if path.is_file()}
    with running_hub(Hub({REPO: files | {"transformer/large.safetensors": b"not wanted"}})) as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HOME": str(tmp_path), "NO_PROXY": "*",
        }  # fmt: skip
        subprocess.run([Path(sys.executable).with_name(program), *words], env=environment, check=True, timeout=100)
    assert {name.partition("/")[0] for name, _ in hub.sent} == {
        "model_index.json", "scheduler", "text_encoder", "tokenizer", "vae"
    }  # fmt: skip
    done = converted(merged, tmp_path / "out", None)
    assert done.companions.parent.name == "snapshots"
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    shutil.rmtree(tmp_path / "hub")
    WanPipeline.from_pretrained(tmp_path / "out", local_files_only=True)


# --- what is refused --------------------------------------------------------------------------------------------------


class Program:
    """What a pickle can do: here it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def byte_parts(folder, tiny):
    (folder / "source" / "model.pt.part-00").write_bytes(b"x")
    return "holds neither `latest` nor .pt or .safetensors files.*merge_kaleido.py"


def latest_that_leads_out(folder, tiny):
    save_merged({}, folder / "mp_rank_00_model_states.pt")
    (folder / "source" / "latest").write_text("..")
    return r"latest names '\.\.', and mp_rank_00_model_states.pt is not there"


def cut_short(folder, tiny):
    file = save_merged(as_published(tiny), folder / "source" / "kaleido.pt")
    file.write_bytes(file.read_bytes()[:100_000])
    return "kaleido.pt cannot be read: it is cut short"


def not_safetensors(folder, tiny):
    (folder / "source" / "kaleido.safetensors").write_bytes(b"hello" * 99)
    return "kaleido.safetensors cannot be read"


def written_by_an_old_pytorch(folder, tiny):
    torch.save(as_published(tiny), folder / "source" / "kaleido.pt", _use_new_zipfile_serialization=False)
    return "not of the kind that PyTorch 1.6 and newer write"


def numbers_for_tensors(folder, tiny):
    torch.save({"module": {**as_published(tiny), "x": 3}}, folder / "source" / "kaleido.pt")
    return "should hold tensors by their names, and holds x: int"


def a_list(folder, tiny):
    torch.save([torch.ones(1)], folder / "source" / "kaleido.pt")
    return "should hold tensors by their names, and holds list"


def a_key_in_two_files(folder, tiny):
    tensors = as_published(tiny)
    torch.save(tensors, folder / "source" / "a.pt")
    torch.save(dict([*tensors.items()][:1]), folder / "source" / "b.pt")
    return f"{next(iter(tensors))} stands in a.pt and in b.pt"


def quantised(folder, tiny):
    save_merged({key: t.to(torch.float8_e4m3fn) for key, t in as_published(tiny).items()}, folder / "source" / "k.pt")
    return "patch_embed.proj.weight is float8_e4m3fn|adaLN_modulation is float8_e4m3fn"


@pytest.mark.parametrize(
    "case",
    [
        byte_parts, latest_that_leads_out, cut_short, not_safetensors, written_by_an_old_pytorch, numbers_for_tensors,
        a_list, a_key_in_two_files, quantised,
    ],
)  # fmt: skip
def test_a_source_that_cannot_be_used_is_one_sentence_and_nothing_is_written(tmp_path, tiny, wan, case):
    (tmp_path / "source").mkdir()
    told = case(tmp_path, tiny)
    before = left_in(tmp_path)
    with pytest.raises(InputError, match=told):
        converted(tmp_path / "source", tmp_path / "out", wan)
    assert left_in(tmp_path) == before


def test_a_pickle_that_would_run_a_program_is_refused_and_does_not_run(tmp_path, tiny, wan):
    torch.save({"module": as_published(tiny), "args": Program(tmp_path / "ran")}, tmp_path / "kaleido.pt")
    with pytest.raises(ModelError, match=r"kaleido\.pt holds more than tensors"):
        converted(tmp_path / "kaleido.pt", tmp_path / "out", wan)
    assert left_in(tmp_path) == {"kaleido.pt"}


def test_a_wan_folder_that_does_not_fit_is_refused(merged, tmp_path, wan, tiny_checkpoint):
    with pytest.raises(InputError, match=r"gives 32 numbers a token and its VAE 48 channels; .* takes 32 and 16"):
        converted(merged, tmp_path / "out", tiny_checkpoint(WAN_5B))
    with pytest.raises(InputError, match="no such folder"):
        converted(merged, tmp_path / "out", tmp_path / "nowhere")
    lacking = shutil.copytree(wan, tmp_path / "wan")
    shutil.rmtree(lacking / "tokenizer")
    with pytest.raises(InputError, match="lacks tokenizer"):
        converted(merged, tmp_path / "out", lacking)
    (lacking / "vae" / "diffusion_pytorch_model.safetensors").rename(lacking / "vae" / "model.bin")
    with pytest.raises(ModelError, match=r"model\.bin is a pickle"):
        converted(merged, tmp_path / "out", lacking)


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path, tiny, wan):
    # One number on the disk, 10**12 rows of it in the model: 40 petabytes to write.
    rows = {
        key: torch.zeros(1).expand(*(10**12 if size == 160 else size for size in tensor.shape))
        for key, tensor in as_published(tiny).items()
    }
    source = save_merged(rows, tmp_path / "kaleido.pt")
    with pytest.raises(ModelError, match=r"needs 10\d{5}\.\d GB on the disk, 1 GB of it to stay free: [\d.]+ GB"):
        converted(source, tmp_path / "out", wan)
    assert left_in(tmp_path) == {"kaleido.pt"}


# --- whole or not at all ----------------------------------------------------------------------------------------------


def python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300)


def test_a_stopped_conversion_leaves_nothing(merged, tmp_path, wan):
    def stop(done, total):
        assert left_in(tmp_path) == {"kaleido.pt", ".out.unfinished"}
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converted(merged, tmp_path / "out", wan, on_bytes=stop)
    assert left_in(tmp_path) == {"kaleido.pt"}


def test_a_killed_conversion_leaves_no_target_and_the_next_one_clears_up(merged, tmp_path, wan):
    program = """
import os, signal, sys
from pathlib import Path
from i2v_pipeline.kaleido.convert import convert

def die(done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)

convert(Path(sys.argv[1]), Path(sys.argv[2]), wan=Path(sys.argv[3]), on_bytes=die, shard_bytes=300_000)
"""
    killed = python(program, merged, tmp_path / "out", wan)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert left_in(tmp_path) == {"kaleido.pt", ".out.unfinished"}
    (tmp_path / ".out.unfinished" / "stranger").write_text("from another time")
    converted(merged, tmp_path / "out", wan)
    assert left_in(tmp_path) == {"kaleido.pt", "out"}
    assert left_in(tmp_path / "out") == {
        "model_index.json", "scheduler", "text_encoder", "tokenizer", "transformer", "vae"
    }  # fmt: skip


def test_two_conversions_to_one_target_do_not_meet(merged, tmp_path, wan):
    refused = []

    def begin_another(done, total):
        if not refused:
            with pytest.raises(InputError, match="Another conversion to out is at work") as caught:
                converted(merged, tmp_path / "out", wan)
            refused.append(caught)

    converted(merged, tmp_path / "out", wan, on_bytes=begin_another)
    assert refused and left_in(tmp_path) == {"kaleido.pt", "out"}


def test_progress_counts_every_byte_once_and_ends_with_all(merged, tmp_path, wan):
    heard = []
    done = converted(merged, tmp_path / "out", wan, on_bytes=lambda *now: heard.append(now))
    counts = [count for count, _ in heard]
    assert counts == sorted(counts)
    assert {total for _, total in heard} == {counts[-1]} == {done.weights_bytes + done.copied_bytes}


def test_memory_stays_far_below_the_size_of_the_checkpoint(tmp_path, wan):
    # 12 layers 512 wide in float32; shards of 16 MiB.
    with torch.device("meta"):
        large = WanTransformer3DModel(**{**TINY, "num_attention_heads": 4, "ffn_dim": 2048, "num_layers": 12})
    tensors = {name: torch.ones(tensor.shape) for name, tensor in as_published(large).items()}
    source = save_merged(tensors, tmp_path / "kaleido.pt")
    checkpoint_mib = source.stat().st_size / 2**20
    assert checkpoint_mib > 200
    program = """
import sys
from pathlib import Path
import torch
from i2v_pipeline.kaleido.convert import convert

def mib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

torch.set_num_threads(1)
source, target, wan, tiny = map(Path, sys.argv[1:])
convert(tiny, target / "tiny", wan=wan, on_bytes=lambda *_: None)
before = mib("VmRSS:")
convert(source, target / "large", wan=wan, on_bytes=lambda *_: None, shard_bytes=16 * 2**20)
print(mib("VmHWM:") - before)
"""
    small = save_merged(as_published(tiny_transformer()), tmp_path / "tiny.pt")
    ended = python(program, source, tmp_path, wan, small)
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) < checkpoint_mib / 3


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_folder_and_tells_the_rest_beside_it(tiny, tmp_path, wan, capsys, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    source, target = with_other_sections(tiny, tmp_path), tmp_path / "out"
    assert main(["models", "convert", "kaleido", str(source), str(target), "--wan", str(wan)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{target}\n"
    assert "57 tensors read (57 float32), 69 written" in printed.err
    assert "2 layers 128 wide, where Kaleido has 40 of 5120" in printed.err
    assert "left out: conditioner (1), first_stage_model (1), iteration" in printed.err
    assert "convert 0.0/0.0 GB" in printed.err
    assert main(["models", "convert", "kaleido", str(source), str(target), "--wan", str(wan)]) == 2
    assert "is there already, and nothing is overwritten" in capsys.readouterr().err
    assert main(["models", "convert", "kaleido", str(tmp_path / "none.pt"), str(tmp_path / "b")]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_the_command_fails_with_1_where_wan_is_not_here(merged, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert main(["models", "convert", "kaleido", str(merged), str(tmp_path / "out")]) == 1
    assert f"hf download {REPO}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
