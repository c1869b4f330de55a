"""Kaleido's checkpoint as published -> a folder in diffusers' layout, in bounded memory, whole or not at all.

Knows no command line and downloads nothing. Kaleido and Wan 2.1 T2V 14B have the same tensors, so it cannot tell
which of the two it converts.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from i2v_pipeline.download import DISK_RESERVE_BYTES
from i2v_pipeline.errors import InputError, ModelError
from i2v_pipeline.hub import GB, free_bytes
from i2v_pipeline.kaleido.companions import Companions, copy, find_companions, link
from i2v_pipeline.kaleido.keys import HEAD_WIDTH, KEPT_IN_FP32, Geometry, KeyPlan, Place, plan_keys
from i2v_pipeline.kaleido.shards import Entry, index_of, shard_name, split, write_shard
from i2v_pipeline.kaleido.sources import Source, open_source, open_tensors

SHARD_BYTES = 2 * 2**30
"""Also the memory that the mapped source may take at a time, twice over where it is float32."""

_CONVERTED = ("float32", "float16", "bfloat16")

OnBytes = Callable[[int, int], None]
"""Called with the bytes that are written and those of all. May raise, which ends the conversion and leaves nothing."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What was made. `types` counts the source's tensors by type; `skipped` and `beside` say what was not taken.

    `linked_bytes` are shared with the Wan folder on the disk, `copied_bytes` are not.
    """

    folder: Path
    geometry: Geometry
    tensors: int
    parameters: int
    weights_bytes: int
    types: Mapping[str, int]
    skipped: Mapping[str, int]
    beside: Sequence[str]
    companions: Path
    linked_bytes: int
    copied_bytes: int


def convert(
    source: Path, target: Path, *, wan: Path | None, on_bytes: OnBytes, shard_bytes: int = SHARD_BYTES
) -> Converted:
    """Makes the new folder `target` from the checkpoint `source` and the parts of Wan 2.1 in `wan` or the hub's cache.

    bfloat16, float32 where diffusers keeps it. Until everything is on the disk it stands in a folder beside `target`,
    `.NAME.unfinished`, that leaves with an error and that the next conversion clears away after a crash.
    Raises `InputError` and `ModelError`; see `plan_keys`, `open_source` and `find_companions`.
    """
    # 1. Everything is looked at before anything is written
    target = target.absolute()
    _refuse_existing(target)
    opened = open_source(source)
    plan = plan_keys(opened.shapes)
    types = _count_types(opened, plan)
    companions = find_companions(wan, plan.geometry)
    shards = split((_entry(name, place) for name, place in plan.places.items()), shard_bytes)
    weights_bytes = sum(entry.nbytes for shard in shards for entry in shard)

    with _unfinished(target) as folder:
        # 2. What can be linked takes no room; the rest must fit
        to_copy = link(companions, folder)
        copied_bytes = sum(file.stat().st_size for file in to_copy)
        all_bytes = weights_bytes + copied_bytes
        _check_room(all_bytes, folder)

        # 3. The parts of Wan, then the transformer
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            on_bytes(done, all_bytes)

        for file in to_copy:
            copy(file, folder / file.relative_to(companions.folder), advance)
        _write_transformer(folder / "transformer", opened, plan, shards, advance)
        _write_json(folder / "model_index.json", _model_index(companions))

        # 4. Under its name only now
        folder.rename(target)
    return Converted(
        folder=target,
        geometry=plan.geometry,
        tensors=len(plan.places),
        parameters=plan.parameters,
        weights_bytes=weights_bytes,
        types=types,
        skipped=plan.skipped,
        beside=opened.beside,
        companions=companions.folder,
        linked_bytes=sum(file.stat().st_size for file in set(companions.files) - set(to_copy)),
        copied_bytes=copied_bytes,
    )


def _write_transformer(
    folder: Path, source: Source, plan: KeyPlan, shards: Sequence[Sequence[Entry]], advance: Callable[[int], None]
) -> None:
    folder.mkdir()
    for index, entries in enumerate(shards):
        # Opened anew for each shard: the pages of a mapped file count as memory until it is closed.
        needed = {source.files[plan.places[entry.name].key] for entry in entries}
        tensors = {file: open_tensors(file) for file in needed}

        def read(entry: Entry, tensors: Mapping[Path, Mapping[str, Tensor]] = tensors) -> Tensor:
            place = plan.places[entry.name]
            whole = tensors[source.files[place.key]][place.key]
            return whole.tensor_split(place.parts)[place.part].to(entry.dtype)

        write_shard(folder / shard_name(index, len(shards)), entries, read, advance)
    name, content = index_of(shards)
    _write_json(folder / name, content)
    _write_json(folder / "config.json", _config(plan.geometry))


def _count_types(source: Source, plan: KeyPlan) -> dict[str, int]:
    """How many tensors of the transformer have each type. Raises `InputError` for one that is no plain number."""
    types = {place.key: source.types[place.key] for place in plan.places.values()}
    for key, kind in types.items():
        if kind not in _CONVERTED:
            raise InputError(
                f"{key} is {kind}: {', '.join(_CONVERTED)} are converted, no quantised weights. "
                "Give the published checkpoint.",
                f"{key} 的类型为 {kind}：只转换 {'、'.join(_CONVERTED)}，不支持量化权重。请提供官方发布的模型文件。",
            )
    return dict(Counter(types.values()))


def _entry(name: str, place: Place) -> Entry:
    is_exact = not KEPT_IN_FP32.isdisjoint(name.split("."))
    return Entry(name=name, shape=place.shape, dtype=torch.float32 if is_exact else torch.bfloat16)


def _config(geometry: Geometry) -> dict[str, object]:
    """What diffusers' WanTransformer3DModel is made of."""
    return {
        "_class_name": "WanTransformer3DModel",
        "_diffusers_version": metadata.version("diffusers"),
        "added_kv_proj_dim": None,
        "attention_head_dim": HEAD_WIDTH,
        "cross_attn_norm": True,
        "eps": 1e-06,
        "ffn_dim": geometry.ffn,
        "freq_dim": geometry.frequencies,
        "image_dim": None,
        "in_channels": geometry.channels_in,
        "num_attention_heads": geometry.heads,
        "num_layers": geometry.layers,
        "out_channels": geometry.channels_out,
        "patch_size": geometry.patch,
        "pos_embed_seq_len": None,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        "text_dim": geometry.text,
    }


def _model_index(companions: Companions) -> dict[str, object]:
    return {
        "_class_name": "WanPipeline",
        "_diffusers_version": metadata.version("diffusers"),
        **companions.classes,
        "transformer": ("diffusers", "WanTransformer3DModel"),
    }


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise InputError(
            f"{target} is there already, and nothing is overwritten. Give another name, or move it away.",
            f"{target} 已存在，不会覆盖。请换一个名称，或先移走它。",
        )


def _check_room(needed: int, folder: Path) -> None:
    free = free_bytes(folder)
    if needed + DISK_RESERVE_BYTES > free:
        raise ModelError(
            f"The converted model needs {(needed + DISK_RESERVE_BYTES) / GB:.1f} GB on the disk, 1 GB of it to stay "
            f"free: {free / GB:.1f} GB are free in {folder.parent}. Make room, or give a TARGET on a larger disk.",
            f"转换后的模型需要 {(needed + DISK_RESERVE_BYTES) / GB:.1f} GB 磁盘空间（其中保留 1 GB）：{folder.parent} "
            f"只剩 {free / GB:.1f} GB。请清理空间，或把 TARGET 放到更大的磁盘上。",
        )


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, which nobody else writes into. It goes with any exception."""
    folder = target.with_name(f".{target.name}.unfinished")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            try:
                for left in folder.iterdir():
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                yield folder
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ModelError(
            f"{target} could not be made: {error.strerror}. {'Make room' if is_full else 'Give another TARGET'}, and "
            "convert again.",
            f"无法生成 {target}：{error.strerror}。请{'清理空间' if is_full else '换一个 TARGET'}后重新转换。",
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder for this process alone; the lock ends with the process. Raises `InputError` where it is held."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(handle, folder):
            name = folder.name[1:].removesuffix(".unfinished")
            raise InputError(
                f"Another conversion to {name} is at work. Wait for it, or give another TARGET.",
                f"另一个到 {name} 的转换正在进行。请等待，或换一个 TARGET。",
            )
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one who held it may have given the folder its final name since it was opened.
        return os.path.samestat(os.fstat(handle), folder.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
