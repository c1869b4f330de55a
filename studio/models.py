"""The engines as this machine has them: what is here, what it takes, which is best. Downloads and loads nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from i2v_pipeline.errors import InputError, ModelError, RequestError
from i2v_pipeline.hub import (
    GB,
    as_here,
    cache_folder,
    conversion_of,
    files_of,
    find_checkpoint,
    free_bytes,
    is_here,
)
from i2v_pipeline.planning.devices import find_device
from i2v_pipeline.planning.learned import EMPTY, Book
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Plan, Text
from studio.plans import plan_here, shaped
from studio.recipe import Choice

BEGIN_WITHIN_S = 3600
"""Somebody's first clip: who waits longer for one does not find out what to change."""

_ROOMY = Machine(gpu=find_device("any card"), cores=1, free_vram_gib=math.inf, free_ram_gib=None, free_disk_gib=None)
"""Everything fits it, so its plan keeps everything at hand."""
_CRAMPED = replace(_ROOMY, free_vram_gib=0.0)
"""Nothing fits it, so its plan is the most frugal one."""


def best_engine(engines: Mapping[str, EngineSpec], machine: Machine) -> EngineSpec:
    """Of those that begin with a picture the largest model that is here and fits as its standard preset.

    Of equals it is the first, and the built-in one where there is none: a diffusion model takes hours on a CPU.
    """
    built_in = next(spec for spec in engines.values() if spec.diffusion is None)
    return max(_fitting(engines, machine, with_references=False), key=_parameters, default=built_in)


def best_reference_engine(engines: Mapping[str, EngineSpec], machine: Machine) -> EngineSpec:
    """As `best_engine`, of those that take references. Raises `RequestError` where none of them could run here."""
    fitting = list(_fitting(engines, machine, with_references=True))
    if not fitting:
        those = ", ".join(spec.id for spec in engines.values() if spec.takes.references)
        raise RequestError(
            f"References: no engine that takes them is here and fits this machine. There are {those}; "
            "`python app.py models list` tells what each takes. Name one with its model's folder, or get one first.",
            f"参考图：本机没有可用的支持引擎。可选引擎：{those}；`python app.py models list` 会列出各自的要求。"
            "请指定引擎和模型文件夹，或先获取模型。",
        )
    return max(fitting, key=_parameters)


def model_to_begin_with(
    engines: Mapping[str, EngineSpec], machine: Machine, *, with_references: bool
) -> EngineSpec | None:
    """What to begin with, downloaded or not: the largest model whose standard preset fits and takes an hour at most.

    The quickest of those that fit where each takes longer; None where none fits.
    """
    plans = [(spec, standard_plan(spec, machine)) for spec in _meant(engines, with_references=with_references)]
    fitting = {spec.id: plan.later_seconds for spec, plan in plans if plan.fits}
    if not fitting:
        return None
    quick = [spec for spec, _ in plans if fitting.get(spec.id, math.inf) <= BEGIN_WITHIN_S]
    return max(quick, key=_parameters) if quick else engines[min(fitting, key=lambda engine_id: fitting[engine_id])]


def state_of(spec: EngineSpec) -> Text:
    """Whether the engine could run now, from which folder and how large it is, or what to type to get it."""
    if spec.diffusion is None:
        return Text("built in, nothing to download", "内置，无需下载")
    try:
        found = find_checkpoint(spec, None)
    except ModelError:
        if spec.diffusion.is_converted:
            way = conversion_of(spec)
            return Text(f"not here. {way.en}", f"本机没有。{way.zh}")
        size, free = spec.diffusion.disk_bytes / GB, free_bytes(cache_folder()) / GB
        command = f"python app.py models download {spec.id}"
        return Text(
            f"not here: about {size:.0f} GB to download, {free:.0f} GB free; type: {command}",
            f"未下载：约 {size:.0f} GB，剩余空间 {free:.0f} GB；请执行：{command}",
        )
    except InputError as error:
        return error.text
    size = sum(file.stat().st_size for file in files_of(found, spec.diffusion)) / GB
    kinds = kinds_of(spec)
    return Text(
        f"here, {size:.1f} GB{kinds and f', {kinds}'}: {found.folder}",
        f"已在本机，{size:.1f} GB{kinds and f'，{kinds}'}：{found.folder}",
    )


def kinds_of(spec: EngineSpec) -> str:
    """Which GGUF the denoiser here is in, such as `GGUF Q4_K`; empty where its weights are full."""
    here = as_here(spec).diffusion
    packed = () if here is None else dict.fromkeys(each.kind for each in here.packed.values())
    return f"GGUF {', '.join(packed)}" if packed else ""


def needs_of(spec: EngineSpec) -> Text:
    """What the standard preset makes, and the memory that it takes: in the most frugal mode, and with all at hand."""
    preset = spec.presets["standard"]
    makes = Text(
        f"{preset.resolution}, {preset.frames} frames, {preset.fps} fps",
        f"{preset.resolution}，{preset.frames} 帧，{preset.fps} 帧/秒",
    )
    if spec.diffusion is None:
        return makes
    least, most = (standard_plan(spec, machine).peak_vram_gib for machine in (_CRAMPED, _ROOMY))
    return Text(
        f"{makes.en}; {least:.0f} to {most:.0f} GiB of GPU memory", f"{makes.zh}；需 {least:.0f} 至 {most:.0f} GiB 显存"
    )


def standard_plan(spec: EngineSpec, machine: Machine, book: Book = EMPTY) -> Plan:
    """Of the standard preset on a picture of its own shape."""
    return plan_here(spec, shaped(spec, Choice()), machine, book)


def _fitting(engines: Mapping[str, EngineSpec], machine: Machine, *, with_references: bool) -> Iterator[EngineSpec]:
    if machine.gpu is None:
        return
    for spec in _meant(engines, with_references=with_references):
        if is_here(spec) and standard_plan(spec, machine).fits:
            yield spec


def _meant(engines: Mapping[str, EngineSpec], *, with_references: bool) -> list[EngineSpec]:
    """The models that take references, or those that begin with a picture."""
    return [
        spec
        for spec in engines.values()
        if spec.diffusion is not None and bool(spec.takes.references) == with_references
    ]


def _parameters(spec: EngineSpec) -> int:
    assert spec.diffusion is not None
    return sum(component.parameters for component in spec.diffusion.components.values())
