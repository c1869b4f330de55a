"""The engines as this machine has them: what is here, what it takes, which is best. Downloads and loads nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from i2v_pipeline.errors import InputError, ModelError
from i2v_pipeline.hub import GB, cache_folder, find_checkpoint, free_bytes, is_here
from i2v_pipeline.planning.devices import find_device
from i2v_pipeline.planning.learned import EMPTY, Book
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Plan, Text
from studio.plans import plan_here, shaped
from studio.recipe import Choice

_ROOMY = Machine(gpu=find_device("any card"), cores=1, free_vram_gib=math.inf, free_ram_gib=None, free_disk_gib=None)
"""Everything fits it, so its plan keeps everything at hand."""
_CRAMPED = replace(_ROOMY, free_vram_gib=0.0)
"""Nothing fits it, so its plan is the most frugal one."""


def best_engine(engines: Mapping[str, EngineSpec], machine: Machine) -> EngineSpec:
    """The largest model that is here and fits as its standard preset, the first of equals; else the built-in one.

    Without a GPU it is the built-in one: a diffusion model takes hours on a CPU.
    """
    built_in = next(spec for spec in engines.values() if spec.diffusion is None)
    fitting = [
        spec
        for spec in engines.values()
        if spec.diffusion is not None
        and machine.gpu is not None
        and is_here(spec)
        and standard_plan(spec, machine).fits
    ]
    return max(fitting, key=_parameters, default=built_in)


def state_of(spec: EngineSpec) -> Text:
    """Whether the engine could run now, from which folder and how large it is, or what to type to get it."""
    if spec.diffusion is None:
        return Text("built in, nothing to download", "内置，无需下载")
    try:
        folder = find_checkpoint(spec, None).folder
    except ModelError:
        size, free = spec.diffusion.disk_bytes / GB, free_bytes(cache_folder()) / GB
        command = f"python app.py models download {spec.id}"
        return Text(
            f"not here: about {size:.0f} GB to download, {free:.0f} GB free; type: {command}",
            f"未下载：约 {size:.0f} GB，剩余空间 {free:.0f} GB；请执行：{command}",
        )
    except InputError as error:
        return error.text
    size = _bytes_below(folder) / GB
    return Text(f"here, {size:.1f} GB: {folder}", f"已在本机，{size:.1f} GB：{folder}")


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


def _parameters(spec: EngineSpec) -> int:
    assert spec.diffusion is not None
    return sum(component.parameters for component in spec.diffusion.components.values())


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
