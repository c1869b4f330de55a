"""A plan for what a person names: this machine as it is now, or a card by its name. Loads no model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from i2v_pipeline.advice import AREA_TOLERANCE
from i2v_pipeline.checks import check_request
from i2v_pipeline.errors import RequestError
from i2v_pipeline.hub import as_here, cache_folder, is_here
from i2v_pipeline.images import fit_frames, fit_size
from i2v_pipeline.planning import plan_run
from i2v_pipeline.planning.compiling import compiling_of
from i2v_pipeline.planning.devices import find_device
from i2v_pipeline.planning.learned import EMPTY, Book, read_book
from i2v_pipeline.planning.machine import Machine, margin_from_environment, this_machine
from i2v_pipeline.presets import load_presets
from i2v_pipeline.report import plan_of
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Alternative, GenerationRequest, Motion, Plan, PromptOrigin, Text
from studio.recipe import Choice, compose, preset_of

ASK_EVERY_S = 3
"""How long an answer of the driver holds while somebody moves sliders."""
LEARNED_NAME = "learned.json"
"""In the data folder: what past runs took. The studio and the command line share it where they share the folder."""
_CPU_NAMES = ("cpu", "none")
_NOBODY = PromptOrigin(typed="", refined="", source="typed")


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """Another machine than this one; None means as here, and nothing held against RAM and disk of another card."""

    gpu: str | None = None
    vram_gib: float | None = None
    ram_gib: float | None = None


def machine_now() -> Machine:
    """This machine; asked anew every few seconds."""
    return _machine_at(int(time.monotonic() // ASK_EVERY_S))


def default_data() -> Path:
    """The folder of jobs and videos: STUDIO_DATA, or `data` beside app.py."""
    return Path(os.environ.get("STUDIO_DATA") or Path(__file__).resolve().parent.parent / "data")


def learned_in(data: Path) -> Book:
    """What runs have taught that keep their jobs in the folder `data`; read again when another one has."""
    path = data / LEARNED_NAME
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return EMPTY
    return _book_at(path, changed)


def plan_here(spec: EngineSpec, request: GenerationRequest, machine: Machine | None = None, book: Book = EMPTY) -> Plan:
    """The plan of `request` on this machine, a download that is still needed included."""
    fetches = spec.diffusion is not None and request.checkpoint is None and not is_here(spec)
    to_fetch = spec.diffusion.disk_bytes if spec.diffusion is not None and fetches else 0
    here = as_here(spec, request.checkpoint)
    return plan_run(here, request, machine or machine_now(), book=book, to_fetch_bytes=to_fetch)


def once_for_each_kind(plan: Callable[[GenerationRequest], Plan]) -> Callable[[GenerationRequest], Plan]:
    """`plan`, asked once for all requests that differ in nothing but words, seed and what the pictures show."""
    known: dict[GenerationRequest, Plan] = {}

    def ask(request: GenerationRequest) -> Plan:
        pictures = (Path("picture"),) * len(request.images)
        kind = replace(request, images=pictures, seed=0, prompt="", origin=_NOBODY)
        if kind not in known:
            known[kind] = plan(kind)
        return known[kind]

    return ask


def machine_like(wanted: Hypothesis) -> Machine:
    """The machine that is meant. Raises `RequestError` for memory that is no amount."""
    for option, value in (("--vram", wanted.vram_gib), ("--ram", wanted.ram_gib)):
        if value is not None and not 0 <= value < float("inf"):
            raise RequestError(
                f"{option} {value:g}: a number of GiB from 0 on is needed. Choose one.",
                f"{option} {value:g}：应为不小于 0 的 GiB 数。请重新选择。",
            )
    machine = this_machine(cache_folder())
    if wanted.gpu is not None and wanted.gpu.lower() in _CPU_NAMES:
        machine = replace(machine, gpu=None, free_vram_gib=0.0)
    elif wanted.gpu is not None or (wanted.vram_gib is not None and machine.gpu is None):
        card = find_device(wanted.gpu or "unknown GPU")
        machine = Machine(
            gpu=card,
            cores=machine.cores,
            free_vram_gib=card.vram_gib,
            free_ram_gib=None,
            free_disk_gib=None,
            margin_gib=margin_from_environment(),
        )
    return replace(
        machine,
        free_vram_gib=machine.free_vram_gib if wanted.vram_gib is None else wanted.vram_gib,
        free_ram_gib=machine.free_ram_gib if wanted.ram_gib is None else wanted.ram_gib,
    )


def plan_choice(spec: EngineSpec, choice: Choice, machine: Machine, book: Book = EMPTY) -> dict[str, Any]:
    """The JSON of the `plan` command. What the engine cannot make does not fit, and the reason is the check's."""
    request = shaped(spec, choice)
    plan = plan_here(spec, request, machine, book)
    try:
        check_request(spec, request)
    except RequestError as error:
        if request.frames < 1 or (spec.takes.steps and (request.steps or 0) < 1):
            raise
        plan = replace(plan, fits=False, reason=error.text, alternatives=_nearest_length(spec, request, machine, book))
    names = ("width", "height", "frames", "fps", "steps")
    shape = {name: getattr(request, name) for name in names}
    return {"engine": spec.id, **shape, **plan_of(plan), "compiling": _compiling(request, plan, machine)}


def shaped(spec: EngineSpec, choice: Choice) -> GenerationRequest:
    """The request for a picture of the resolution's own shape. A name that the engine has not is taken as an area.

    Raises `RequestError` for a resolution that is none.
    """
    name = choice.resolution or preset_of(spec, choice.preset).resolution
    budget = spec.resolutions.get(name) or _budgets().get(name)
    if name not in spec.resolutions and budget is not None:
        width, height = _size_like(spec, budget)
        name = f"{width}x{height}"
    return compose(
        spec,
        replace(choice, resolution=name, seed=0 if choice.seed is None else choice.seed),
        image=Path("picture"),
        image_size=budget or (1, 1),
        prompt="",
        origin=_NOBODY,
        motion=Motion(),
    )


def told(answer: Mapping[str, Any]) -> list[Text]:
    """The plan's answer in sentences."""
    seconds, bound = answer["seconds"], answer["bound_seconds"]
    size = f"{answer['width']} × {answer['height']}"
    lines = [
        Text(
            f"{answer['engine']}: {size}, {answer['frames']} frames on {answer['device']}",
            f"{answer['engine']}：{size}，{answer['frames']} 帧，{answer['device']}",
        ),
        Text(answer["reason"], answer["reason_zh"]),
        Text(
            f"Graphics memory {answer['peak_vram_gib']:.1f} GiB, RAM {answer['peak_ram_gib']:.1f} GiB, "
            f"disk {answer['disk_gib']:.1f} GiB",
            f"显存 {answer['peak_vram_gib']:.1f} GiB，内存 {answer['peak_ram_gib']:.1f} GiB，"
            f"磁盘 {answer['disk_gib']:.1f} GiB",
        ),
        Text(
            f"About {takes(seconds, answer['later_seconds']).en}; the hardware's bound is {duration(bound).en}",
            f"约 {takes(seconds, answer['later_seconds']).zh}；硬件极限为 {duration(bound).zh}",
        ),
    ]
    if answer["compiling"] is not None:
        lines.append(_compiling_words(answer["compiling"]))
    for stage in answer["stages"]:
        line = f"  {stage['name']:8} {stage['weights_gib']:7.2f} + {stage['activations_gib']:6.2f} GiB"
        lines.append(Text(f"{line}  {duration(stage['seconds']).en}", f"{line}  {duration(stage['seconds']).zh}"))
    for each in answer["alternatives"]:
        shape = f"{each['engine']}, {each['width']} × {each['height']}, {each['frames']}"
        memory = f"{each['peak_vram_gib'] or each['peak_ram_gib']:.1f} GiB"
        lines.append(
            Text(
                f"Fits: {shape} frames: {memory}, about {duration(each['seconds']).en}",
                f"可行：{shape} 帧：{memory}，约 {duration(each['seconds']).zh}",
            )
        )
    return lines


def _compiling(request: GenerationRequest, plan: Plan, machine: Machine) -> dict[str, Any] | None:
    """What compiling would take once and save of each video like this; None where it is not possible here."""
    found = compiling_of([request], machine, lambda _: plan)
    if found is None:
        return None
    return {
        "seconds": round(found.compile_s),
        "saved_seconds": round(found.saved_s, 1),
        "pays_from_videos": found.pays_from_videos,
    }


def _compiling_words(answer: Mapping[str, Any]) -> Text:
    once, each, videos = duration(answer["seconds"]), duration(answer["saved_seconds"]), answer["pays_from_videos"]
    since = (
        Text("with the first one", "生成第一个就划算")
        if videos == 1
        else Text(f"from {videos} videos on", f"生成 {videos} 个起划算")
    )
    return Text(
        f"Compiling (--compile) would take about {once.en} once for this size and length and save about {each.en} of "
        f"each video: it pays {since.en}",
        f"编译（--compile）：该尺寸和时长一次约需 {once.zh}，每个视频约节省 {each.zh}，{since.zh}",
    )


def takes(seconds: float, later_seconds: float) -> Text:
    """`40 s the first time, with the loading, then 22 s`; one time where they are the same to a second, or where the
    first was measured as quicker: loading costs nothing there, and the rest is chance."""
    first, later = duration(seconds), duration(later_seconds)
    if first == later or seconds < later_seconds:
        return later
    return Text(
        f"{first.en} the first time, with the loading, then {later.en}", f"首次 {first.zh}（含加载），之后 {later.zh}"
    )


def duration(seconds: float) -> Text:
    """`8 s`, `2 min 05 s`, `3 h 20 min`, `12 days`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return Text(f"{whole} s", f"{whole} 秒")
    if whole < 3600:
        return Text(f"{whole // 60} min {whole % 60:02d} s", f"{whole // 60} 分 {whole % 60:02d} 秒")
    if whole < 48 * 3600:
        hours, minutes = whole // 3600, whole % 3600 // 60
        return Text(f"{hours} h {minutes:02d} min", f"{hours} 小时 {minutes:02d} 分")
    return Text(f"{whole / 86400:.0f} days", f"{whole / 86400:.0f} 天")


def _size_like(spec: EngineSpec, budget: tuple[int, int]) -> tuple[int, int]:
    """The engine's size nearest to `budget`: one that it was trained for where that has about the same area."""
    size = fit_size(spec.grid, budget, *budget)
    if spec.diffusion is not None and spec.diffusion.sizes_are_exact:
        for width, height in spec.diffusion.trained_sizes:
            if 1 / AREA_TOLERANCE <= width * height / (budget[0] * budget[1]) <= AREA_TOLERANCE:
                return width, height
    return size.width, size.height


def _nearest_length(
    spec: EngineSpec, request: GenerationRequest, machine: Machine, book: Book
) -> tuple[Alternative, ...]:
    """The legal length nearest to the one that was asked, where it is all that was wrong, with what it then takes."""
    nearest = replace(request, frames=fit_frames(spec.grid, request.frames))
    try:
        check_request(spec, nearest)
    except RequestError:
        return ()
    plan = plan_here(spec, nearest, machine, book)
    if not plan.fits:
        return plan.alternatives
    return (
        Alternative(
            loses="frames",
            engine=spec.id,
            width=nearest.width,
            height=nearest.height,
            frames=nearest.frames,
            mode=plan.mode,
            peak_vram_gib=plan.peak_vram_gib,
            peak_ram_gib=plan.peak_ram_gib,
            seconds=round(plan.seconds, 1),
        ),
    )


@lru_cache(maxsize=1)
def _machine_at(_: int) -> Machine:
    return this_machine(cache_folder())


@lru_cache(maxsize=1)
def _book_at(path: Path, _: int) -> Book:
    return read_book(path)


@lru_cache(maxsize=1)
def _budgets() -> Mapping[str, tuple[int, int]]:
    """What each name of a resolution stands for, for engines that do not have it: the first engine's meaning."""
    budgets: dict[str, tuple[int, int]] = {}
    for spec in load_presets().values():
        budgets = {**spec.resolutions, **budgets}
    return budgets
