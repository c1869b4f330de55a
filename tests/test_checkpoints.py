"""Where models are found, what is missing, what is refused. The hub's cache is laid out by hand; nothing is fetched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from diffusers import WanTransformer3DModel  # noqa: E402
from tiny_models import I2VGEN, WAN_5B, WAN_A14B, frames_of, request_for  # noqa: E402

from i2v_pipeline import hub  # noqa: E402
from i2v_pipeline.engines import load_engine  # noqa: E402
from i2v_pipeline.engines.runtime import choose_device, choose_precision  # noqa: E402
from i2v_pipeline.errors import InputError, ModelError  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402

pytestmark = pytest.mark.diffusion

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and a network that must not be touched."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put_into(cache, engine_id, folder):
    """Lays `folder` out in the cache as a download would."""
    repo = cache / f"models--{load_presets()[engine_id].diffusion.repo.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(REVISION)
    return shutil.copytree(folder, repo / "snapshots" / REVISION)


def test_a_model_that_is_not_here_is_told_with_its_size_the_free_disk_and_what_to_type(cache):
    engine = load_engine(load_presets()[WAN_A14B])
    with pytest.raises(ModelError) as caught:
        frames_of(engine, request_for(WAN_A14B, None))
    free = shutil.disk_usage(cache.parent).free / 1e9
    assert f"about 126 GB to download, {free:.0f} GB are free" in str(caught.value)
    assert str(caught.value).endswith("Type: python app.py models download wan2.2-i2v-a14b")


def test_a_model_in_the_hubs_cache_is_used_and_its_revision_reported(cache, tiny_checkpoint):
    put_into(cache, WAN_5B, tiny_checkpoint(WAN_5B))
    engine = load_engine(load_presets()[WAN_5B])
    frames = frames_of(engine, request_for(WAN_5B, None))
    assert engine.facts()["repo"] == "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
    assert engine.facts()["revision"] == REVISION
    assert np.array_equal(frames, frames_of(engine, request_for(WAN_5B, tiny_checkpoint(WAN_5B))))


def test_a_download_that_is_not_whole_counts_as_not_here(cache, tiny_checkpoint):
    snapshot = put_into(cache, WAN_5B, tiny_checkpoint(WAN_5B))
    spec = load_presets()[WAN_5B]
    assert hub.cached_snapshot(spec.diffusion) == snapshot
    weights = snapshot / "transformer" / "diffusion_pytorch_model.safetensors"
    index = {"weight_map": {"a": "diffusion_pytorch_model-1.safetensors", "b": "diffusion_pytorch_model-2.safetensors"}}
    weights.rename(weights.with_name("diffusion_pytorch_model-1.safetensors"))
    weights.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert hub.missing_components(snapshot, spec.diffusion.components) == ["transformer"]
    assert hub.cached_snapshot(spec.diffusion) is None


def test_weights_as_a_pickle_are_refused(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint(WAN_5B), tmp_path / "pickled")
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    engine = load_engine(load_presets()[WAN_5B])
    with pytest.raises(ModelError, match=r"vae/diffusion_pytorch_model\.bin is a pickle.*only \.safetensors"):
        frames_of(engine, request_for(WAN_5B, folder))


def test_a_folder_that_is_none_or_empty_is_refused(tmp_path):
    engine = load_engine(load_presets()[WAN_5B])
    with pytest.raises(InputError, match="no such folder"):
        frames_of(engine, request_for(WAN_5B, tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"no weights \(\.safetensors\) for transformer, text_encoder, vae"):
        frames_of(engine, request_for(WAN_5B, tmp_path))


def test_half_precision_files_are_taken_where_the_repository_has_them(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint(I2VGEN), tmp_path / "half")
    for weights in folder.rglob("*.safetensors"):
        weights.rename(weights.with_name(weights.name.replace(".safetensors", ".fp16.safetensors")))
    engine = load_engine(load_presets()[I2VGEN])
    frames = frames_of(engine, request_for(I2VGEN, folder))
    assert engine.facts()["variant"] == "fp16"
    assert np.array_equal(frames, frames_of(engine, request_for(I2VGEN, tiny_checkpoint(I2VGEN))))
    assert engine.facts()["variant"] is None


@pytest.mark.parametrize("engine_id", [WAN_A14B, I2VGEN])
def test_only_the_files_that_are_needed_are_fetched(engine_id):
    from fnmatch import fnmatch

    diffusion = load_presets()[engine_id].diffusion
    half = ".fp16" if diffusion.variant else ""
    repository = [
        "README.md", "assets/demo.mp4", "model_index.json", "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json", "tokenizer/merges.txt", "tokenizer/spiece.model", "models/legacy.pth",
    ]  # fmt: skip
    wanted = set(repository[2:7])
    for name in diffusion.components:
        wanted |= {f"{name}/config.json", f"{name}/model{half}.safetensors", f"{name}/model-1-of-2{half}.safetensors"}
        repository += [f"{name}/model.bin", f"{name}/model.fp16.bin", *(["x.safetensors"] if half else [])]
        repository += [f"{name}/model.safetensors"] if half else []
    patterns = hub.needed_files(diffusion)
    taken = {file for file in (*repository, *wanted) if any(fnmatch(file, pattern) for pattern in patterns)}
    assert taken == wanted


def test_cuda_is_refused_where_there_is_none_and_the_cpu_works_in_fp32():
    cpu = torch.device("cpu")
    assert choose_precision("auto", "bf16", cpu) == "fp32"
    assert choose_precision("auto", "bf16", torch.device("cuda")) == "bf16"
    assert choose_precision("fp16", "bf16", cpu) == "fp16"
    if not torch.cuda.is_available():
        assert choose_device("auto") == cpu
        with pytest.raises(InputError, match="no CUDA device here"):
            choose_device("cuda")


def test_a_change_of_checkpoint_or_precision_loads_anew(tiny_checkpoint):
    engine = load_engine(load_presets()[WAN_5B])
    request = request_for(WAN_5B, tiny_checkpoint(WAN_5B))
    exact = frames_of(engine, request)
    rough = frames_of(engine, request_for(WAN_5B, tiny_checkpoint(WAN_5B), precision="bf16"))
    assert engine.facts()["precision"] == "bf16"
    assert engine.facts()["precisions"] == {"transformer": "bfloat16", "text_encoder": "bfloat16", "vae": "float32"}
    assert engine.facts()["loaded"] != []
    assert np.abs(exact.astype(int) - rough.astype(int)).mean() < 12
    assert np.array_equal(exact, frames_of(engine, request))


_LOAD = """
import logging, pathlib, sys
from i2v_pipeline.engines import load_engine
from i2v_pipeline.planning.modes import mode_called
from i2v_pipeline.presets import load_presets

engine = load_engine(load_presets()[sys.argv[1]])
import diffusers
import torch
diffusers.utils.logging.set_verbosity_info()
logging.getLogger("diffusers").addHandler(logging.StreamHandler(sys.stdout))
sys.path.insert(0, "tests")
from tiny_models import request_for
request = request_for(sys.argv[1], pathlib.Path(sys.argv[2]))
model = engine._load(request, mode_called("staged")).parts.get("transformer")
torch.save(dict(model.state_dict()), sys.argv[3])
"""


def test_the_shards_of_a_denoiser_are_read_by_several_threads_and_none_is_lost(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint(WAN_5B), tmp_path / WAN_5B)
    model = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer")
    shutil.rmtree(folder / "transformer")
    model.save_pretrained(folder / "transformer", max_shard_size="40KB")
    shards = len(list((folder / "transformer").glob("*.safetensors")))
    assert shards > 2
    # A process of its own: diffusers has been imported here before the studio could ask for it.
    environment = {name: value for name, value in os.environ.items() if name != "HF_ENABLE_PARALLEL_LOADING"}
    command = [sys.executable, "-c", _LOAD, WAN_5B, str(folder), str(tmp_path / "loaded.pt")]
    root = Path(__file__).resolve().parents[1]
    told = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout
    assert f"Loading model weights in parallel with {min(shards, 8)} workers" in told
    loaded = torch.load(tmp_path / "loaded.pt", weights_only=True)
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
