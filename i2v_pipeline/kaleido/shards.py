"""A transformer's weights as .safetensors files of bounded size, written tensor by tensor, and their index.

Holds one tensor at a time. Knows no names but those that it is given, and not where the values come from.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}
_STEM = "diffusion_pytorch_model"
"""The name under which diffusers looks for the weights of a component."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def split(entries: Iterable[Entry], max_bytes: int) -> list[list[Entry]]:
    """The entries in their order, cut where a file would grow beyond `max_bytes`; a larger tensor has its own file."""
    shards: list[list[Entry]] = []
    size = 0
    for entry in entries:
        if not shards or size + entry.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.nbytes
    return shards


def shard_name(index: int, count: int) -> str:
    """As diffusers counts them: from 1."""
    return f"{_STEM}-{index + 1:05d}-of-{count:05d}.safetensors"


def write_shard(
    path: Path, entries: Sequence[Entry], read: Callable[[Entry], Tensor], on_bytes: Callable[[int], None]
) -> None:
    """Writes one file and waits until it is on the disk. `read` gives a tensor with the entry's shape and type,
    `on_bytes` hears of each that is written, and may raise.

    Layout: the header's length in 8 bytes, the header (JSON), the values in little-endian order without gaps
    (the format's own description, github.com/huggingface/safetensors).
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": _TYPES[entry.dtype],
            "shape": entry.shape,
            "data_offsets": [end, end + entry.nbytes],
        }
        end += entry.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for entry in entries:
            tensor = read(entry)
            assert (tuple(tensor.shape), tensor.dtype) == (entry.shape, entry.dtype)
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            on_bytes(entry.nbytes)
        file.flush()
        os.fsync(file.fileno())


def index_of(shards: Sequence[Sequence[Entry]]) -> tuple[str, Mapping[str, object]]:
    """The index's file name, and what stands in it: which tensor is in which file."""
    weight_map = {
        entry.name: shard_name(index, len(shards)) for index, entries in enumerate(shards) for entry in entries
    }
    total = sum(entry.nbytes for entries in shards for entry in entries)
    return f"{_STEM}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
