"""Where a model's files are: a local folder or the hub's cache; which are needed, which are missing. Loads no weights.

Imports neither torch nor diffusers, so the page may use it, and asks nobody over the network.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from i2v_pipeline import gguf_files
from i2v_pipeline.errors import InputError, ModelError
from i2v_pipeline.specs import DiffusionSpec, EngineSpec
from i2v_pipeline.types import Text

GB = 10**9
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SUPPORT_FILES = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*.json",
    "tokenizer/*.txt",
    "tokenizer/*.model",
    "image_processor/*.json",
    "feature_extractor/*.json",
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
_ROOT = Path(__file__).resolve().parents[1]
_MAX_HEADER_BYTES = 100_000_000
"""The limit that the format itself sets."""
_SAMPLES, _SAMPLE_BYTES = 16, 2**16


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder in diffusers' layout with everything that an engine needs. `revision` is None for a local folder."""

    folder: Path
    variant: str | None
    revision: str | None


def find_checkpoint(spec: EngineSpec, folder: Path | None) -> Checkpoint:
    """`folder`, or the engine's own folder below `models_folder`, or its files in the hub's cache.

    Raises `InputError` for a folder that is none, lacks a component or has a GGUF file that cannot be used, and
    `ModelError` for a model that is not here.
    """
    diffusion = _diffusion_of(spec)
    own = models_folder() / spec.id
    if folder is None and own.is_dir():
        folder = own
    if folder is None:
        snapshot = None if diffusion.is_converted else cached_snapshot(diffusion)
        if snapshot is None:
            raise missing_model(spec)
        return Checkpoint(folder=snapshot, variant=_variant_in(snapshot, diffusion), revision=snapshot.name)
    if not folder.is_dir():
        raise InputError(
            f"--checkpoint {folder}: no such folder. Give a folder in diffusers' layout.",
            f"--checkpoint {folder}：文件夹不存在。请给出 diffusers 格式的模型文件夹。",
        )
    refuse_pickles(folder, diffusion.components)
    missing = missing_components(folder, diffusion.components)
    if missing:
        raise InputError(
            f"{folder} has no weights (.safetensors) for {', '.join(missing)}, which {spec.id} needs. "
            "Give another folder or engine.",
            f"{folder} 中缺少 {spec.id} 所需的权重（.safetensors）：{'、'.join(missing)}。请换文件夹或引擎。",
        )
    for file in _gguf_files(folder, diffusion).values():
        gguf_files.packed_weights(file)
    return Checkpoint(folder=folder, variant=_variant_in(folder, diffusion), revision=None)


def checkpoint_sha256(checkpoint: Checkpoint, diffusion: DiffusionSpec) -> str:
    """A fingerprint of the checkpoint's content: the files that the engine reads, without reading gigabytes.

    Over each file's name and size, and its bytes; of weights the header and `_SAMPLES` blocks spread over the rest,
    which training changes everywhere. Weights that differ in a few values alone may pass as equal.
    """
    digest = hashlib.sha256()
    for path in files_of(checkpoint, diffusion):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(checkpoint.folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            if path.suffix == ".safetensors":
                # The header's length in 8 bytes, the header (JSON), the values.
                length = file.read(8)
                digest.update(length + file.read(min(int.from_bytes(length, "little"), _MAX_HEADER_BYTES)))
            elif path.suffix == ".gguf":
                digest.update(file.read(gguf_files.read_gguf(path).header_bytes))
            else:
                digest.update(file.read())
                continue
            values = file.tell()
            for sample in range(_SAMPLES):
                file.seek(values + max(size - values - _SAMPLE_BYTES, 0) * sample // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def files_of(checkpoint: Checkpoint, diffusion: DiffusionSpec) -> list[Path]:
    """The files that the engine reads, in the order of their names."""
    patterns = needed_files(replace(diffusion, variant=checkpoint.variant))
    found = {path for pattern in patterns for path in checkpoint.folder.glob(pattern) if path.is_file()}
    return sorted(found.union(_gguf_files(checkpoint.folder, diffusion).values()))


def as_here(spec: EngineSpec, folder: Path | None = None) -> EngineSpec:
    """The engine with what the files here keep packed: `find_checkpoint`'s, and as it is where that finds none.

    So is one that is told packed already.
    """
    if spec.diffusion is None or spec.diffusion.packed:
        return spec
    try:
        found = find_checkpoint(spec, folder).folder
    except (InputError, ModelError):
        return spec
    packed = {name: gguf_files.packed_weights(file) for name, file in _gguf_files(found, spec.diffusion).items()}
    return replace(spec, diffusion=replace(spec.diffusion, packed=packed)) if packed else spec


def models_folder() -> Path:
    """Where a person puts models by hand, one folder for each engine: STUDIO_MODELS, or `models` beside app.py."""
    return Path(os.environ.get("STUDIO_MODELS") or _ROOT / "models")


def local_loras() -> tuple[Path, ...]:
    """The LoRA files that a person has put into `loras` below `models_folder`, by name."""
    return tuple(sorted((models_folder() / "loras").glob("*.safetensors")))


def tokenizer_folder(spec: EngineSpec) -> Path | None:
    """Where the tokenizer of the engine's own model is; None where the model is not here."""
    if spec.diffusion is None:
        return None
    own = models_folder() / spec.id
    folder = own if own.is_dir() else None if spec.diffusion.is_converted else cached_snapshot(spec.diffusion)
    return None if folder is None else folder / "tokenizer"


def check_model(spec: EngineSpec, folder: Path | None = None) -> None:
    """Raises what `find_checkpoint` does; nothing for an engine without a model."""
    if spec.diffusion is not None:
        find_checkpoint(spec, folder)


def is_here(spec: EngineSpec) -> bool:
    """Whether the engine could load now."""
    try:
        check_model(spec)
    except (InputError, ModelError):
        return False
    return True


def cached_snapshot(diffusion: DiffusionSpec) -> Path | None:
    """The model's folder in the hub's cache, if all of its weights are there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # Without the patterns the library would miss the files that this program never downloads.
        snapshot = snapshot_download(
            diffusion.repo,
            revision=diffusion.revision,
            local_files_only=True,
            allow_patterns=needed_files(diffusion),
            cache_dir=cache_folder(),
        )
    except LocalEntryNotFoundError:
        return None
    folder = Path(snapshot)
    return None if missing_components(folder, diffusion.components) else folder


def missing_components(folder: Path, components: Iterable[str]) -> list[str]:
    """Those of `components` whose weights do not stand whole below `folder`, shards counted by their index.

    A denoiser may be one .gguf instead. Raises `InputError` where it is not clear which weights are meant.
    """
    return [name for name in components if gguf_of(folder, name) is None and not _has_weights(folder / name)]


def gguf_of(folder: Path, component: str) -> Path | None:
    """The component's weights where they are in GGUF. Raises as `gguf_in` does."""
    return gguf_files.gguf_in(folder / component) if component in gguf_files.COMPONENTS else None


def refuse_pickles(folder: Path, components: Iterable[str]) -> None:
    """Raises `ModelError` where weights are there as a pickle alone: reading one can run any program."""
    for name in components:
        files = sorted(path for path in (folder / name).glob("*") if path.is_file())
        pickles = [path.name for path in files if path.suffix in PICKLES]
        if pickles and not any(path.suffix in (".safetensors", ".gguf") for path in files):
            raise ModelError(
                f"{name}/{pickles[0]} is a pickle, which can run any program when it is read: only .safetensors are "
                "loaded. Convert it, or download the model anew.",
                f"{name}/{pickles[0]} 是 pickle 文件，读取时可能执行任意程序：只加载 .safetensors。"
                "请转换格式，或重新下载模型。",
            )


def missing_model(spec: EngineSpec) -> ModelError:
    """The error that names the size, the free disk and the command to type."""
    if _diffusion_of(spec).is_converted:
        way = conversion_of(spec)
        return ModelError(
            f"The model of {spec.id} is not on this machine. {way.en}", f"本机没有 {spec.id} 的模型。{way.zh}"
        )
    need, free = _diffusion_of(spec).disk_bytes / GB, free_bytes(cache_folder()) / GB
    return ModelError(
        f"The model of {spec.id} is not on this machine: about {need:.0f} GB to download, {free:.0f} GB are free. "
        f"Type: python app.py models download {spec.id}",
        f"本机没有 {spec.id} 的模型：需下载约 {need:.0f} GB，剩余空间 {free:.0f} GB。"
        f"请执行：python app.py models download {spec.id}",
    )


def conversion_of(spec: EngineSpec) -> Text:
    """How a person gets a model whose repository is not in diffusers' layout. The page says it too: it has no path."""
    place = "$STUDIO_MODELS" if os.environ.get("STUDIO_MODELS") else "models"
    repo, target = _diffusion_of(spec).repo, f"{place}/{spec.id}"
    return Text(
        f"Its weights ({repo}) are not in diffusers' layout, so they cannot be used as they are: download them by "
        f"hand, then type: python app.py models convert kaleido SOURCE {target}",
        f"其权重（{repo}）不是 diffusers 格式，不能直接使用：请先手动下载，"
        f"再执行：python app.py models convert kaleido SOURCE {target}",
    )


def cache_folder() -> Path:
    """Where the hub's library keeps models (HF_HOME and HF_HUB_CACHE move it)."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk where `folder` is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def needed_files(diffusion: DiffusionSpec) -> list[str]:
    """Patterns of the repository's files that the engine reads, and no others: weights of one kind, configurations."""
    weights = f"*.{diffusion.variant}*.safetensors" if diffusion.variant else "*.safetensors"
    return [
        *_SUPPORT_FILES,
        *(f"{name}/{pattern}" for name in diffusion.components for pattern in (weights, "*.json")),
    ]


def _gguf_files(folder: Path, diffusion: DiffusionSpec) -> dict[str, Path]:
    found = {name: gguf_of(folder, name) for name in diffusion.components}
    return {name: file for name, file in found.items() if file is not None}


def _has_weights(folder: Path) -> bool:
    weights = [path.name for path in folder.glob("*.safetensors")]
    shards: set[str] = set()
    for index in folder.glob("*.safetensors.index*.json"):
        shards.update(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    if shards:
        return shards <= set(weights)
    return bool(weights) and not any(_SHARD.search(name) for name in weights)


def _variant_in(folder: Path, diffusion: DiffusionSpec) -> str | None:
    """The variant, where every component has its files."""
    if diffusion.variant is None:
        return None
    has_all = all(any((folder / name).glob(f"*.{diffusion.variant}*.safetensors")) for name in diffusion.components)
    return diffusion.variant if has_all else None


def _diffusion_of(spec: EngineSpec) -> DiffusionSpec:
    assert spec.diffusion is not None, f"{spec.id} has no model to look for"
    return spec.diffusion
