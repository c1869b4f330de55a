"""The parts of a Wan 2.1 model that go with Kaleido's transformer: text encoder, tokenizer, VAE, scheduler.

Knows where they are and whether they fit; loads no weights and asks nobody over the network.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from i2v_pipeline.errors import InputError, ModelError
from i2v_pipeline.hub import cache_folder, missing_components, refuse_pickles
from i2v_pipeline.kaleido.keys import Geometry

REPO = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
_WEIGHTS = ("text_encoder", "vae")
_PATTERNS = (
    "text_encoder/*.safetensors",
    "text_encoder/*.json",
    "vae/*.safetensors",
    "vae/*.json",
    "tokenizer/*.json",
    "tokenizer/*.txt",
    "tokenizer/*.model",
    "scheduler/*.json",
)
_BLOCK_BYTES = 2**24


class _Read(BaseModel):
    """A part of a JSON file; the rest of it is not looked at."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class _Index(_Read):
    text_encoder: tuple[str, str]
    tokenizer: tuple[str, str]
    vae: tuple[str, str]
    scheduler: tuple[str, str]


class _TextEncoder(_Read):
    d_model: int


class _Vae(_Read):
    z_dim: int


_Config = TypeVar("_Config", bound=_Read)


@dataclass(frozen=True, kw_only=True)
class Companions:
    """The files below `folder` that a converted model needs besides its transformer, and the classes they are for."""

    folder: Path
    files: tuple[Path, ...]
    classes: dict[str, tuple[str, str]]


def find_companions(folder: Path | None, geometry: Geometry) -> Companions:
    """In `folder`, or where that is None in the hub's cache.

    Raises `ModelError` where the cache has none or the weights are pickles, `InputError` where a part is missing or
    belongs to another model than one with that geometry.
    """
    found = folder or _cached()
    if not found.is_dir():
        raise InputError(
            f"--wan {found}: no such folder. Give a folder of Wan 2.1 in diffusers' layout.",
            f"--wan {found}：文件夹不存在。请给出 diffusers 格式的 Wan 2.1 文件夹。",
        )
    refuse_pickles(found, _WEIGHTS)
    missing = missing_components(found, _WEIGHTS)
    missing += [name for name in ("tokenizer", "scheduler") if not any((found / name).glob("*.json"))]
    if missing:
        raise InputError(
            f"{found} lacks {', '.join(missing)}. Give a folder of Wan 2.1 in diffusers' layout, such as {REPO}'s.",
            f"{found} 缺少 {'、'.join(missing)}。请给出 diffusers 格式的 Wan 2.1 文件夹，例如 {REPO}。",
        )
    index = _read(found / "model_index.json", _Index)
    width, channels = (
        _read(found / "text_encoder" / "config.json", _TextEncoder).d_model,
        _read(found / "vae" / "config.json", _Vae).z_dim,
    )
    if (width, channels) != (geometry.text, geometry.channels_in):
        raise InputError(
            f"{found} is of another model: its text encoder gives {width} numbers a token and its VAE {channels} "
            f"channels; this transformer takes {geometry.text} and {geometry.channels_in}. Give a folder of {REPO}.",
            f"{found} 属于其他模型：其文本编码器每个词元输出 {width} 维、VAE 为 {channels} 通道，"
            f"而该 Transformer 需要 {geometry.text} 与 {geometry.channels_in}。请给出 {REPO} 的文件夹。",
        )
    return Companions(
        folder=found,
        files=tuple(sorted({path for pattern in _PATTERNS for path in found.glob(pattern) if path.is_file()})),
        classes=index.model_dump(),
    )


def link(companions: Companions, folder: Path) -> list[Path]:
    """Hard-links the weights into `folder`, so that they take no room twice. Returns the files that must be copied.

    Those are weights on another disk or on one without links, and the small files, which people edit.
    """
    to_copy = []
    for file in companions.files:
        place = folder / file.relative_to(companions.folder)
        place.parent.mkdir(exist_ok=True)
        if file.suffix != ".safetensors":
            to_copy.append(file)
            continue
        try:
            # The hub's cache holds links to its files; what is wanted is the file.
            os.link(file.resolve(), place)
        except OSError:
            to_copy.append(file)
    return to_copy


def copy(file: Path, place: Path, on_bytes: Callable[[int], None]) -> None:
    """Copies one file and waits until it is on the disk. `on_bytes` hears of every block, and may raise."""
    with file.open("rb") as source, place.open("xb") as target:
        while block := source.read(_BLOCK_BYTES):
            target.write(block)
            on_bytes(len(block))
        target.flush()
        os.fsync(target.fileno())


def _cached() -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        patterns = ["model_index.json", *_PATTERNS]
        folder = Path(snapshot_download(REPO, local_files_only=True, allow_patterns=patterns, cache_dir=cache_folder()))
    except LocalEntryNotFoundError:
        raise _not_here() from None
    if missing_components(folder, _WEIGHTS):
        raise _not_here()
    return folder


def _not_here() -> ModelError:
    included = ("model_index.json", '"text_encoder/*"', '"tokenizer/*"', '"vae/*"', '"scheduler/*"')
    command = " ".join((f"hf download {REPO}", *(f"--include {pattern}" for pattern in included)))
    return ModelError(
        "Kaleido's text encoder, tokenizer and VAE are those of Wan 2.1, and they are not on this machine. Type the "
        f"following and convert again, or name a folder that has them (--wan FOLDER): {command}",
        "Kaleido 使用 Wan 2.1 的文本编码器、分词器和 VAE，而本机没有。"
        f"请执行以下命令后重新转换，或用 --wan 指定已有的文件夹：{command}",
    )


def _read(file: Path, kind: type[_Config]) -> _Config:
    try:
        return kind.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        fields = ", ".join(kind.model_fields)
        raise InputError(
            f"{file}: not there, or without {fields}. Give a folder of Wan 2.1 in diffusers' layout.",
            f"{file}：文件不存在，或缺少 {fields}。请给出 diffusers 格式的 Wan 2.1 文件夹。",
        ) from error
