"""The engines as this machine has them: what is here, what it takes, which is best. Downloads and loads nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from i2v_pipeline.errors import InputError, ModelError
from i2v_pipeline.hub import GB, cache_folder, find_checkpoint, free_bytes, is_here
from i2v_pipeline.planning import plan_run
from i2v_pipeline.types import EngineSpec, Motion, PromptOrigin, Text
from studio.recipe import Choice, compose

MIB_IN_GIB = 1024


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A graphics card as its driver names it."""

    name: str
    vram_gib: float


def find_gpu() -> Gpu | None:
    """The first NVIDIA card, asked from its driver's own program, so that no process needs torch to know."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
        name, _, memory_mib = answer.splitlines()[0].rpartition(",")
        return Gpu(name=name.strip(), vram_gib=round(int(memory_mib) / MIB_IN_GIB, 1))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def best_engine(engines: Mapping[str, EngineSpec], gpu: Gpu | None) -> EngineSpec:
    """The largest model that is here and fits `gpu` as its standard preset, the first of equals; else the built-in one.

    Without a GPU it is the built-in one: a diffusion model takes hours on a CPU.
    """
    built_in = next(spec for spec in engines.values() if spec.diffusion is None)
    fitting = [
        spec
        for spec in engines.values()
        if spec.diffusion is not None and gpu is not None and _vram_gib(spec) <= gpu.vram_gib and is_here(spec)
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
    """What the standard preset makes, and the memory that it takes."""
    preset = spec.presets["standard"]
    makes = Text(
        f"{preset.resolution}, {preset.frames} frames, {preset.fps} fps",
        f"{preset.resolution}，{preset.frames} 帧，{preset.fps} 帧/秒",
    )
    if spec.diffusion is None:
        return makes
    vram = _vram_gib(spec)
    return Text(f"{makes.en}; about {vram:.0f} GiB of GPU memory", f"{makes.zh}；约需 {vram:.0f} GiB 显存")


def _vram_gib(spec: EngineSpec) -> float:
    """Predicted for the standard preset on a picture of its own shape."""
    request = compose(
        spec,
        Choice(seed=0),
        image=Path(),
        image_size=spec.resolutions[spec.presets["standard"].resolution],
        prompt="",
        origin=PromptOrigin(typed="", refined="", source="typed"),
        motion=Motion(),
    )
    return plan_run(spec, request).peak_vram_gib


def _parameters(spec: EngineSpec) -> int:
    assert spec.diffusion is not None
    return sum(component.parameters for component in spec.diffusion.components.values())


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
