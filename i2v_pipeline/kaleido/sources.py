"""The files of a checkpoint to convert: found, opened without being read, refused where they are no tensors.

Knows no names of tensors and no other format than .pt and .safetensors.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from i2v_pipeline.errors import InputError, ModelError

_STATES = "mp_rank_00_model_states.pt"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The tensors of a checkpoint by key: the file that each stands in, its shape, its type as torch names it.

    `beside` names what stood beside the weights in a training program's file and is not read.
    """

    files: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, str]
    beside: tuple[str, ...]


def open_source(path: Path) -> Source:
    """The checkpoint at `path`: a file, a folder with `latest`, or a folder of shards. Reads no values.

    Raises `InputError` for what cannot be read or holds a key twice, `ModelError` for a pickle of anything but tensors.
    """
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, str] = {}
    beside: list[str] = []
    for file in _files_at(path):
        tensors, others = _open(file)
        beside += others
        for key, tensor in tensors.items():
            if key in files:
                raise InputError(
                    f"{key} stands in {files[key].name} and in {file.name}: it is not sure which holds. "
                    "Give a folder with one checkpoint alone.",
                    f"{key} 同时存在于 {files[key].name} 与 {file.name}，无法确定用哪一个。"
                    "请提供只含一个模型的文件夹。",
                )
            files[key], shapes[key] = file, tuple(tensor.shape)
            types[key] = str(tensor.dtype).removeprefix("torch.")
    return Source(files=files, shapes=shapes, types=types, beside=tuple(beside))


def open_tensors(file: Path) -> Mapping[str, Tensor]:
    """The tensors of one file, mapped into memory: only what is used is read, and it is given back with the last."""
    return _open(file)[0]


def _files_at(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix in (".pt", ".safetensors"):
            return [path]
        raise InputError(
            f"{path.name}: a checkpoint is .pt or .safetensors. Give the merged file, or merge the parts first "
            "(merge_kaleido.py, which comes with the weights).",
            f"{path.name}：模型文件应为 .pt 或 .safetensors。请提供合并后的文件，或先合并分块"
            "（使用随权重提供的 merge_kaleido.py）。",
        )
    if not path.is_dir():
        raise InputError(
            f"{path}: no such file or folder. Check its name.", f"{path}：文件或文件夹不存在。请检查名称。"
        )
    if (path / "latest").is_file():
        return [_latest(path)]
    shards = sorted(file for ending in ("*.pt", "*.safetensors") for file in path.glob(ending) if file.is_file())
    if not shards:
        raise InputError(
            f"{path} holds neither `latest` nor .pt or .safetensors files. Give the folder in which they lie, or merge "
            "the parts first (merge_kaleido.py, which comes with the weights).",
            f"{path} 中既没有 latest，也没有 .pt 或 .safetensors 文件。请给出它们所在的文件夹，或先合并分块"
            "（使用随权重提供的 merge_kaleido.py）。",
        )
    return shards


def _latest(folder: Path) -> Path:
    iteration = (folder / "latest").read_text(encoding="utf-8", errors="replace").strip()
    file = folder / iteration / _STATES
    if not re.fullmatch(r"\w[\w.-]*", iteration) or not file.is_file():
        raise InputError(
            f"{folder / 'latest'} names {iteration[:40]!r}, and {_STATES} is not there. Merge the parts first "
            "(merge_kaleido.py, which comes with the weights), or give the .pt file itself.",
            f"{folder / 'latest'} 指向 {iteration[:40]!r}，但其中没有 {_STATES}。请先合并分块"
            "（使用随权重提供的 merge_kaleido.py），或直接给出 .pt 文件。",
        )
    return file


def _open(file: Path) -> tuple[Mapping[str, Tensor], list[str]]:
    """The file's tensors, and the names of what stands beside the section `module`."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file), []
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file.name} holds more than tensors, and such a pickle can run any program when it is read: it is "
            "refused. Give a checkpoint of tensors alone.",
            f"{file.name} 中不只有张量，读取这样的 pickle 可能执行任意程序，已拒绝。请提供只含张量的模型文件。",
        ) from error
    except (RuntimeError, SafetensorError, OSError, EOFError) as error:
        raise InputError(
            f"{file.name} cannot be read: it is cut short, or not of the kind that PyTorch 1.6 and newer write. "
            "Download or merge it anew.",
            f"{file.name} 无法读取：文件不完整，或不是 PyTorch 1.6 及更新版本所写的格式。请重新下载或合并。",
        ) from error
    section = content.get("module") if isinstance(content, dict) else None
    if isinstance(section, dict):
        return _checked(file, section), sorted(str(key) for key in content if key != "module")
    return _checked(file, content), []


def _checked(file: Path, tensors: object) -> Mapping[str, Tensor]:
    if not isinstance(tensors, dict):
        raise _no_tensors(file, type(tensors).__name__)
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise _no_tensors(file, f"{str(key)[:80]}: {type(value).__name__}")
    return tensors


def _no_tensors(file: Path, what: str) -> InputError:
    return InputError(
        f"{file.name} should hold tensors by their names, and holds {what}. Give Kaleido's checkpoint.",
        f"{file.name} 应只包含带名称的张量，却含有 {what}。请提供 Kaleido 的模型文件。",
    )
