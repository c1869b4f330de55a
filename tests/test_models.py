"""What is here, which engine is best, and downloads from a small real hub: the right files, cut, full, refused."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from loopback_hub import COMMIT, Hub, running_hub

from i2v_pipeline import hub as model_files
from i2v_pipeline.download import sources_of
from i2v_pipeline.errors import InputError, ModelError, RequestError
from i2v_pipeline.planning.devices import find_device
from i2v_pipeline.planning.machine import Card, Machine
from i2v_pipeline.presets import load_presets
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import LoraRef
from studio.cli import main
from studio.doctor import diagnose
from studio.models import best_engine, needs_of, state_of
from studio.recipe import parse_lora

ROOT = Path(__file__).resolve().parents[1]
I2VGEN, A14B, TI2V = "i2vgen-xl", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"
SHARDS = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
LORAS = "Wan2.2-I2V-A14B-4steps-lora-rank64-Seko-V1"


def content(name: str, size: int = 2000) -> bytes:
    """Bytes that no other file has: equal files are fetched once."""
    return random.Random(name).randbytes(size)


def repository_of(spec: EngineSpec) -> dict[str, bytes]:
    """The files that a repository of this model has, those that nobody needs among them."""
    assert spec.diffusion is not None
    half = spec.diffusion.variant is not None
    files = {
        name: content(name)
        for name in ("README.md", "model_index.json", "tokenizer/tokenizer.json", "legacy.safetensors")
    }
    for name in spec.diffusion.components:
        endings = ("config.json", "model.bin", "model.safetensors", *(["model.fp16.safetensors"] if half else []))
        files |= {f"{name}/{ending}": content(f"{name}/{ending}") for ending in endings}
    return files


@pytest.fixture
def spec() -> EngineSpec:
    return load_presets()[TI2V]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty cache and an empty models folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("STUDIO_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    return tmp_path


def download(hub: Hub, folder: Path, engine_id: str = TI2V, **variables: str) -> subprocess.CompletedProcess[str]:
    """`models download` as a person runs it, against the small hub."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "STUDIO_"))},
        "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(folder / "hub"), "HF_HOME": str(folder / "home"),
        "STUDIO_MODELS": str(folder / "models"), "LC_ALL": "C.UTF-8", "NO_PROXY": "127.0.0.1", **variables,
    }  # fmt: skip
    command = [sys.executable, str(ROOT / "app.py"), "models", "download", engine_id]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_only_the_needed_files_come_with_their_size_told_before_and_then_the_model_is_here(here, spec):
    files = repository_of(spec)
    with running_hub(Hub({spec.diffusion.repo: files})) as hub:
        done = download(hub, here)
        assert done.returncode == 0, done.stderr
        again = download(hub, here)
        assert again.returncode == 0, again.stderr
    folder = Path(done.stdout.strip())
    wanted = set(files) - {"README.md", "legacy.safetensors"} - {name for name in files if name.endswith(".bin")}
    assert files_below(folder) == wanted
    assert sorted(name for name, _ in hub.sent) == sorted(wanted)
    assert (folder / "vae/model.safetensors").read_bytes() == content("vae/model.safetensors")
    assert "Apache-2.0" in done.stderr and "8 files, 0.0 GB; 0.0 GB to download" in done.stderr
    assert "Traceback" not in done.stderr and "HTTP Request" not in done.stderr
    found = model_files.find_checkpoint(spec, None)
    assert (found.folder, found.revision) == (folder, COMMIT)
    assert state_of(spec).en.startswith("here, 0.0 GB: ")


def test_half_precision_files_are_taken_where_the_repository_has_them(here):
    spec = load_presets()[I2VGEN]
    with running_hub(Hub({spec.diffusion.repo: repository_of(spec)})) as hub:
        done = download(hub, here, I2VGEN)
    assert done.returncode == 0, done.stderr
    weights = {name for name in files_below(Path(done.stdout.strip())) if name.endswith(".safetensors")}
    assert weights == {f"{name}/model.fp16.safetensors" for name in spec.diffusion.components}


def test_the_loras_of_the_fast_preset_come_along(here):
    spec = load_presets()[A14B]
    loras = {f"{LORAS}/{name}.safetensors": content(name) for name in ("high_noise_model", "low_noise_model", "other")}
    with running_hub(Hub({spec.diffusion.repo: repository_of(spec), "lightx2v/Wan2.2-Lightning": loras})) as hub:
        done = download(hub, here, A14B)
    assert done.returncode == 0, done.stderr
    taken = {name for name, _ in hub.sent}
    assert {f"{LORAS}/high_noise_model.safetensors", f"{LORAS}/low_noise_model.safetensors"} < taken
    assert f"{LORAS}/other.safetensors" not in taken


def test_a_file_that_is_cut_goes_on_where_it_ended(here, spec):
    files = repository_of(spec) | {"transformer/model.safetensors": content("large", 24_000_000)}
    with running_hub(Hub({spec.diffusion.repo: files}, cut={"transformer/model.safetensors": 22_000_000})) as hub:
        done = download(hub, here)
    assert done.returncode == 0, done.stderr
    asked = [asked for name, asked in hub.sent if name == "transformer/model.safetensors"]
    assert asked[0] is None and len(asked) == 2
    assert 0 < int(asked[1].removeprefix("bytes=").split("-")[0]) <= 22_000_000
    assert (Path(done.stdout.strip()) / "transformer/model.safetensors").read_bytes() == content("large", 24_000_000)


def test_after_a_broken_download_the_model_is_not_here_and_the_next_one_fetches_only_the_rest(here, spec):
    files = repository_of(spec)
    short = {**files, "vae/model.safetensors": b""}
    with running_hub(Hub({spec.diffusion.repo: {name: short[name] for name in files if name[:3] != "vae"}})) as hub:
        broken = download(hub, here)
    assert broken.returncode == 1
    assert broken.stderr.splitlines()[-1].startswith(f"{spec.diffusion.repo} was downloaded and still lacks weights")
    assert not model_files.is_here(spec)
    for tree in (here / "hub").rglob("trees/*.json"):
        tree.unlink()
    with running_hub(Hub({spec.diffusion.repo: files})) as hub:
        done = download(hub, here)
    assert done.returncode == 0, done.stderr
    assert {name for name, _ in hub.sent} == {"vae/config.json", "vae/model.safetensors"}


def test_a_disk_that_is_too_small_is_told_before_anything_comes(here, spec):
    with running_hub(Hub({spec.diffusion.repo: repository_of(spec)})) as hub:
        hub.claimed_bytes["transformer/model.safetensors"] = 10**15
        done = download(hub, here)
    assert done.returncode == 1 and done.stdout == "" and hub.sent == []
    assert "needs 1000001.0 GB on the disk, 1 GB of it to stay free:" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("status", "told"), [(404, "answered 404"), (401, "answered 401"), (500, "answered 500")])
def test_what_the_hub_refuses_is_one_sentence(here, spec, status, told):
    with running_hub(Hub({spec.diffusion.repo: repository_of(spec)}, status=status)) as hub:
        done = download(hub, here)
    assert done.returncode == 1
    assert told in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_network_and_a_switched_off_hub_are_one_sentence_each(here, spec):
    nowhere = download(Hub({}, url="http://127.0.0.1:9"), here)
    assert nowhere.returncode == 1 and len(nowhere.stderr.splitlines()) == 1
    assert "could not be downloaded from http://127.0.0.1:9 (ConnectError)" in nowhere.stderr
    offline = download(Hub({}, url="http://127.0.0.1:9"), here, HF_HUB_OFFLINE="1")
    assert offline.returncode == 1 and "HF_HUB_OFFLINE is set" in offline.stderr


def test_the_built_in_engine_has_nothing_to_download():
    with pytest.raises(InputError, match="camera is built in and needs no model"):
        sources_of(load_presets()["camera"])


# --- what is here -----------------------------------------------------------------------------------------------------


def put(folder: Path, spec: EngineSpec) -> Path:
    """A model's folder as a person lays it out by hand."""
    for name, bytes_ in repository_of(spec).items():
        (folder / spec.id / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / spec.id / name).write_bytes(bytes_)
    return folder / spec.id


def test_a_folder_below_models_is_used_before_the_hubs_cache(here, spec):
    assert not model_files.is_here(spec)
    with pytest.raises(ModelError, match=f"Type: python app.py models download {TI2V}"):
        model_files.check_model(spec)
    folder = put(here / "models", spec)
    found = model_files.find_checkpoint(spec, None)
    assert (found.folder, found.revision) == (folder, None)
    assert state_of(spec).en == f"here, 0.0 GB: {folder}"
    assert needs_of(spec).en == "704p, 121 frames, 24 fps; 6 to 44 GiB of GPU memory"


def test_a_folder_below_models_that_is_not_whole_is_told_and_not_passed_over(here, spec):
    folder = put(here / "models", spec)
    (folder / "transformer" / "model.safetensors").rename(folder / "transformer" / "model-00001-of-00002.safetensors")
    assert not model_files.is_here(spec)
    with pytest.raises(InputError, match=r"has no weights .* for transformer, which"):
        model_files.check_model(spec)
    (folder / "transformer" / "model.safetensors.index.json").write_text(json.dumps(SHARDS))
    assert not model_files.is_here(spec)
    (folder / "transformer" / "model-00002-of-00002.safetensors").write_bytes(b"")
    assert model_files.is_here(spec)


def machine_with(vram_gib: float | None) -> Machine:
    """A machine with a card of that memory, or without one."""
    return Machine(
        gpu=None if vram_gib is None else find_device("RTX 4090"),
        cores=8,
        free_vram_gib=vram_gib or 0.0,
        free_ram_gib=64.0,
        free_disk_gib=100.0,
    )


def test_auto_is_the_largest_model_that_is_here_and_fits_the_machine_else_the_built_in_one(here):
    engines = load_presets()
    assert best_engine(engines, machine_with(140.0)).id == "camera"
    put(here / "models", engines[I2VGEN])
    put(here / "models", engines[A14B])
    assert best_engine(engines, machine_with(140.0)).id == A14B
    assert best_engine(engines, machine_with(16.0)).id == A14B
    assert best_engine(engines, machine_with(7.5)).id == I2VGEN
    assert best_engine(engines, machine_with(2.0)).id == "camera"
    assert best_engine(engines, machine_with(None)).id == "camera"
    assert best_engine(engines, replace(machine_with(11.0), free_ram_gib=12.0)).id == I2VGEN


def test_doctor_says_of_every_engine_how_a_standard_clip_would_run_here(here):
    put(here / "models", load_presets()[I2VGEN])
    runs = {run["id"]: run for run in diagnose(connect=False)["engines"]}
    assert set(runs) == set(load_presets())
    assert runs["camera"]["fits"] and runs["camera"]["download_gb"] == runs[I2VGEN]["download_gb"] == 0
    assert runs[TI2V]["download_gb"] == 34.2 and runs[TI2V]["clip"] == "704p, 121 frames"
    assert all(run["seconds"] > 0 and run["reason"] and run["reason_zh"] for run in runs.values())
    assert runs[TI2V]["download"] == f"python app.py models download {TI2V}" and runs[I2VGEN]["download"] is None


def test_doctor_tells_first_and_later_runs_apart_and_what_would_be_faster_on_this_card(here, monkeypatch, capsys):
    monkeypatch.setattr("studio.doctor.this_machine", lambda _: machine_with(80.0))
    assert main(["doctor", "--no-connect", "--json"]) == 0
    runs = {run["id"]: run for run in json.loads(capsys.readouterr().out)["engines"]}
    assert runs[A14B]["later_seconds"] < runs[A14B]["seconds"] and runs[A14B]["mode"] == "resident"
    assert "sageattention" in runs[A14B]["faster"][0]["message"] and runs[I2VGEN]["faster"] == []
    for language, words in (("C", ("the first time", "faster   ")), ("zh_CN.UTF-8", ("首次", "注意力计算最多快"))):
        monkeypatch.setenv("LC_ALL", language)
        assert main(["doctor", "--no-connect"]) == 0
        lines = capsys.readouterr().out
        assert all(word in lines for word in words) and lines.count("pip install sageattention") == 1


def test_doctor_says_what_to_begin_with_on_this_machine_and_which_presets_are_quicker(here, monkeypatch, capsys):
    def told(machine):
        monkeypatch.setattr("studio.doctor.this_machine", lambda _: machine)
        assert main(["doctor", "--no-connect", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    small = replace(machine_with(11.6), gpu=find_device("RTX 3060"), free_ram_gib=28.0)
    diagnosis = told(small)
    # A larger one fits, and takes more than two hours.
    assert "Begin with wan2.2-ti2v-5b, the largest model that makes its" in diagnosis["advice"]["message"]
    assert f"python app.py models download {TI2V}" in diagnosis["advice"]["message"]
    assert "pictures of subjects: wan2.1-vace-1.3b" in diagnosis["advice"]["message"]
    runs = {run["id"]: run for run in diagnosis["engines"]}
    (quick,) = runs[TI2V]["quicker"]
    assert quick["preset"] == "preview" and quick["seconds"] < runs[TI2V]["seconds"] / 3
    assert "pip install sageattention" in runs[TI2V]["faster"][0]["message"]
    # What is quicker and does not fit either is no advice.
    assert runs[A14B]["quicker"] == runs["camera"]["quicker"] == []
    monkeypatch.setenv("LC_ALL", "C")
    assert main(["doctor", "--no-connect"]) == 0
    assert "; --preset preview about " in capsys.readouterr().out
    assert "No model fits this machine" in told(replace(small, free_ram_gib=1.0))["advice"]["message"]
    slow = told(replace(small, gpu=replace(small.gpu, half_flops=small.gpu.half_flops / 100)))
    assert "Begin with i2vgen-xl, the quickest model that fits this machine, though" in slow["advice"]["message"]
    assert "`nvidia-smi` does not answer" in told(machine_with(None))["advice"]["message"]


def test_doctor_says_where_pytorch_cannot_use_the_card_that_is_there(here, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("studio.doctor.find_card", lambda: Card(name="RTX 3060", vram_gib=12.0, free_gib=11.6))
    (detail,) = [part["detail"] for part in diagnose(connect=False)["missing"] if part["name"] == "pytorch"]
    assert "RTX 3060" in detail and ("install a CUDA build" in detail or "update NVIDIA's driver" in detail)
    monkeypatch.setattr("studio.doctor.find_card", lambda: None)
    diagnosis = diagnose(connect=False)
    assert not any(part["name"] == "pytorch" for part in (*diagnosis["ready"], *diagnosis["missing"]))


@pytest.mark.parametrize(
    ("text", "lora"),
    [
        ("a.safetensors", LoraRef(source="a.safetensors")),
        ("my loras/a.safetensors:0.8", LoraRef(source="my loras/a.safetensors", weight=0.8)),
        ("a.safetensors:-1@high", LoraRef(source="a.safetensors", weight=-1.0, expert="high")),
        ("hf://o/r/f.safetensors@low", LoraRef(source="hf://o/r/f.safetensors", expert="low")),
    ],
)
def test_a_lora_is_read_with_its_weight_and_expert(text, lora):
    assert parse_lora(text) == lora
    assert replace(parse_lora(text), weight=1.0, expert=None).source == lora.source


@pytest.mark.parametrize("text", ["", "a.safetensors@both", "@high"])
def test_a_lora_that_cannot_be_read_is_refused_with_the_form_that_can(text):
    with pytest.raises(RequestError, match="FILE:WEIGHT"):
        parse_lora(text)
