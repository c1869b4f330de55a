"""What this machine can do and what is missing, without loading an engine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from i2v_pipeline.hub import GB, cache_folder, is_here
from i2v_pipeline.planning.learned import EMPTY, Book
from i2v_pipeline.planning.machine import Card, Machine, find_card, this_machine
from i2v_pipeline.planning.tuning import faster_here
from i2v_pipeline.presets import load_presets
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import PresetName, Text
from prompt_refiner import check_connection, load_settings
from studio.models import BEGIN_WITHIN_S, model_to_begin_with, standard_plan, state_of
from studio.plans import duration, plan_here, shaped, takes
from studio.recipe import Choice

GIB = 2**30
MIN_PYTHON = (3, 10)
CONNECTION_WAIT_S = 10.0
PYTORCH_WAIT_S = 120.0
QUICK_PRESETS: tuple[PresetName, ...] = ("preview", "fast")
_ASK_PYTORCH = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"


def diagnose(*, connect: bool = True, book: Book = EMPTY) -> dict[str, Any]:
    """`ready` and `missing` are lists of {name, detail}; `device` and `refiner` say what would be used.

    `engines` has for each one how a standard clip would run here: whether it fits, the mode and why, the seconds of the
    first run and of later ones as counted or as `book` has learned them, presets that are quicker, what to download,
    and what would make it faster on this card. `advice` is what to begin with. `connect`: the LLM that is set up, if
    any, is asked for a word, which may take CONNECTION_WAIT_S.
    """
    machine, card = this_machine(cache_folder()), find_card()
    checks = [_python(), _ffmpeg(), *([] if card is None else [_pytorch(card)]), *_engines(), _disk()]
    advice = advice_for(machine)
    return {
        "ready": [{"name": name, "detail": detail} for name, is_ready, detail in checks if is_ready],
        "missing": [{"name": name, "detail": detail} for name, is_ready, detail in checks if not is_ready],
        "engines": [_run_of(spec, machine, book) for spec in load_presets().values()],
        "advice": {"message": advice.en, "message_zh": advice.zh},
        "device": _device(card, machine),
        "refiner": _refiner(connect=connect),
    }


def run_line(run: Mapping[str, Any]) -> Text:
    """One of `engines` as a line: the clip, whether it fits, how long it takes, what to download."""
    seconds = takes(run["seconds"], run["later_seconds"])
    fits = Text("fits", "可行") if run["fits"] else Text("does not fit", "放不下")
    fetch = Text("", "")
    if run["download_gb"]:
        fetch = Text(f"; {run['download_gb']:.0f} GB to download first", f"；需先下载 {run['download_gb']:.0f} GB")
    quicker = Text("", "")
    if run["quicker"]:
        told = [(each["preset"], duration(each["seconds"])) for each in run["quicker"]]
        quicker = Text(
            f"; {', '.join(f'--preset {name} about {took.en}' for name, took in told)}",
            f"；{'，'.join(f'--preset {name} 约 {took.zh}' for name, took in told)}",
        )
    return Text(
        f"{run['id']}: {run['clip']}: {fits.en}, about {seconds.en}{quicker.en}{fetch.en}",
        f"{run['id']}：{run['clip_zh']}：{fits.zh}，约 {seconds.zh}{quicker.zh}{fetch.zh}",
    )


def advice_for(machine: Machine) -> Text:
    """What to begin with on this machine: the models, and of their downloads that of the first."""
    if machine.gpu is None:
        return Text(
            "No NVIDIA card was found: `nvidia-smi` does not answer. The camera engine needs none; the models would "
            "take days on the processor. Where there is a card, install NVIDIA's driver.",
            "未发现 NVIDIA 显卡：nvidia-smi 没有响应。运镜引擎无需显卡；模型在处理器上需要数天。"
            "若装有显卡，请安装 NVIDIA 驱动。",
        )
    best, subjects = (model_to_begin_with(load_presets(), machine, with_references=each) for each in (False, True))
    if best is None:
        return Text(
            "No model fits this machine with its standard settings; the lines of each say what is lacking. The camera "
            "engine needs none of it.",
            "没有模型能以标准设置在本机运行，缺少什么见上。运镜引擎不受影响。",
        )
    more = Text("", "")
    if subjects is not None:
        more = Text(f" For pictures of subjects: {subjects.id}.", f"用参考图生成：{subjects.id}。")
    clip_s = standard_plan(best, machine).later_seconds
    why = Text(
        "the largest model that makes its standard clip here within an hour", "它是本机一小时内能生成标准视频的最大模型"
    )
    if clip_s > BEGIN_WITHIN_S:
        why = Text(
            f"the quickest model that fits this machine, though a clip takes {duration(clip_s).en}",
            f"它是本机放得下的最快模型，但一个视频需 {duration(clip_s).zh}",
        )
    return Text(
        f"Begin with {best.id}, {why.en} ({state_of(best).en}).{more.en}",
        f"建议先用 {best.id}，{why.zh}（{state_of(best).zh}）。{more.zh}",
    )


def _refiner(*, connect: bool) -> dict[str, Any]:
    """`connection` is None where nothing was asked."""
    settings = load_settings()
    connection = None
    if connect and settings.configured:
        found = check_connection(settings, deadline_s=CONNECTION_WAIT_S)
        sentence = {"en": found.notice.en, "zh": found.notice.zh}
        connection = {"ok": found.ok, "cause": found.notice.cause, "sees_pictures": found.sees_pictures, **sentence}
    return {**settings.describe(), "connection": connection}


def _python() -> tuple[str, bool, str]:
    wanted = ".".join(str(part) for part in MIN_PYTHON)
    return "python", sys.version_info >= MIN_PYTHON, f"{platform.python_version()} (needs {wanted} or newer)"


def _ffmpeg() -> tuple[str, bool, str]:
    import imageio_ffmpeg

    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
        encoders = subprocess.run(
            [program, "-hide_banner", "-encoders"], capture_output=True, text=True, check=True, timeout=30
        ).stdout
    except (RuntimeError, OSError, subprocess.SubprocessError):
        return "ffmpeg", False, "does not run; install the requirements again: ./start_app.sh"
    if "libx264" not in encoders:
        return (
            "ffmpeg",
            False,
            "has no libx264; unset IMAGEIO_FFMPEG_EXE to use the one that is installed with the studio",
        )
    return "ffmpeg", True, f"{imageio_ffmpeg.get_ffmpeg_version()} with libx264"


def _pytorch(card: Card) -> tuple[str, bool, str]:
    """Whether PyTorch can use the card, asked in a process of its own, since loading it takes seconds and memory."""
    try:
        asked = [sys.executable, "-c", _ASK_PYTORCH]
        answer = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=PYTORCH_WAIT_S).stdout
        version, cuda, is_available = answer.split()
    except (OSError, subprocess.SubprocessError, ValueError):
        return "pytorch", False, "does not start; install the requirements again: ./start_app.sh"
    if is_available == "True":
        return "pytorch", True, f"{version} uses the {card.name} (CUDA {cuda})"
    if cuda == "None":
        return (
            "pytorch",
            False,
            f"{version} is built for the processor alone, so the {card.name} lies idle; install a CUDA build of it",
        )
    return "pytorch", False, f"{version} (CUDA {cuda}) cannot use the {card.name}; update NVIDIA's driver"


def _engines() -> list[tuple[str, bool, str]]:
    return [_engine(spec) for spec in load_presets().values()]


def _engine(spec: EngineSpec) -> tuple[str, bool, str]:
    is_ready = spec.diffusion is None or is_here(spec)
    return f"engine {spec.id}", is_ready, state_of(spec).en


def _quicker(spec: EngineSpec, machine: Machine, book: Book, seconds: float) -> list[dict[str, Any]]:
    """Presets that fit and take less than the standard one, for an engine that takes minutes."""
    found = []
    for name in QUICK_PRESETS if spec.diffusion is not None else ():
        if name in spec.presets:
            plan = plan_here(spec, shaped(spec, Choice(preset=name)), machine, book)
            if plan.fits and plan.seconds < seconds:
                found.append({"preset": name, "seconds": round(plan.seconds)})
    return found


def _run_of(spec: EngineSpec, machine: Machine, book: Book) -> dict[str, Any]:
    plan, preset = standard_plan(spec, machine, book), spec.presets["standard"]
    # What has to be converted is got by hand; the line of what is missing says how.
    needs_download = spec.diffusion is not None and not spec.diffusion.is_converted and not is_here(spec)
    return {
        "id": spec.id,
        "fits": plan.fits,
        "mode": plan.mode,
        "reason": plan.reason.en,
        "reason_zh": plan.reason.zh,
        "clip": f"{preset.resolution}, {preset.frames} frames",
        "clip_zh": f"{preset.resolution}，{preset.frames} 帧",
        "seconds": round(plan.seconds),
        "later_seconds": round(plan.later_seconds),
        "quicker": _quicker(spec, machine, book, plan.seconds),
        "learned_runs": plan.learned_runs,
        "attention": plan.attention,
        "faster": [
            {"message": each.en, "message_zh": each.zh}
            for each in faster_here(spec, machine.device(on_cpu=False), machine.kernels)
        ],
        "peak_vram_gib": plan.peak_vram_gib,
        "peak_ram_gib": plan.peak_ram_gib,
        "download_gb": round(spec.diffusion.disk_bytes / GB, 1) if spec.diffusion and needs_download else 0.0,
        "download": f"python app.py models download {spec.id}" if needs_download else None,
    }


def _disk() -> tuple[str, bool, str]:
    free_gib = shutil.disk_usage(Path(__file__).parent).free / GIB
    return "disk", free_gib >= 1, f"{free_gib:.1f} GiB free (a video takes a few MB)"


def _device(card: Card | None, machine: Machine) -> dict[str, Any]:
    return {
        "name": "cpu" if card is None else card.name,
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "ram_gib": round(psutil.virtual_memory().total / GIB, 1),
        "vram_gib": None if card is None else card.vram_gib,
        "free_vram_gib": None if card is None else card.free_gib,
        "free_ram_gib": None if machine.free_ram_gib is None else round(machine.free_ram_gib, 1),
        "free_disk_gib": None if machine.free_disk_gib is None else round(machine.free_disk_gib, 1),
    }
