"""The plan of a diffusion engine: the first mode that fits, its cost and its reason, or what would fit instead."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from i2v_pipeline.planning.alternatives import Try, alternatives_to
from i2v_pipeline.planning.costs import GIB, VIDEO_BYTES_PER_PIXEL, Cost, bound_seconds, cost_of
from i2v_pipeline.planning.devices import Device
from i2v_pipeline.planning.job import Job, job_of
from i2v_pipeline.planning.learned import EMPTY, Book, History, kind_of
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.planning.modes import Mode, mode_called, modes_for
from i2v_pipeline.planning.tuning import attention_for, tuning_of
from i2v_pipeline.specs import DiffusionSpec, EngineSpec
from i2v_pipeline.types import Attention, GenerationRequest, MemoryKind, Plan, StageName, StagePlan, Text

_STAGE_WORDS = {
    "load": Text("loading", "加载时"),
    "encode": Text("encoding", "编码时"),
    "denoise": Text("denoising", "去噪时"),
    "decode": Text("decoding", "解码时"),
}


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """A run in the mode that was chosen for it, and what it lacks there."""

    cost: Cost
    ways: _Ways
    lacks: tuple[Text, ...]


@dataclass(frozen=True, kw_only=True)
class _Ways:
    """One request on one device: what it takes in each mode, past runs of the same kind considered."""

    spec: EngineSpec
    request: GenerationRequest
    job: Job
    device: Device
    machine: Machine
    book: Book

    def cost(self, mode: Mode) -> Cost:
        tuning = tuning_of(self.spec, self.request, self.device, self.machine.kernels)
        cost, history = cost_of(self.job, mode, self.device, tuning), self.history(mode)
        if not history.runs:
            return cost
        return replace(
            cost,
            stages=history.corrected(cost.stages),
            vram_gib=round(history.vram_gib(cost.vram_gib), 2),
            ram_gib=round(history.ram_gib(cost.ram_gib), 2),
        )

    def history(self, mode: Mode) -> History:
        return self.book.of(self.kind(mode))

    def kind(self, mode: Mode) -> str:
        assert self.spec.diffusion is not None
        packed = next(iter(self.spec.diffusion.packed.values()), None)
        weights = "" if packed is None else f" {packed.kind}"
        return kind_of(self.device.title, self.request, mode.id + weights, self.attention)

    @property
    def attention(self) -> Attention:
        return attention_for(self.spec, self.request, self.device, self.machine.kernels)

    def chosen(self, modes: tuple[Mode, ...]) -> Cost:
        """The first mode that fits; where none does, the first of those that lack least of the card, then of RAM."""
        tried: list[Cost] = []
        for mode in modes:
            tried.append(self.cost(mode))
            if _fits(tried[-1], self.machine):
                return tried[-1]
        return min(tried, key=lambda cost: _missing(cost, self.machine))


def plan_diffusion(
    spec: EngineSpec,
    diffusion: DiffusionSpec,
    request: GenerationRequest,
    machine: Machine,
    book: Book,
    to_fetch_bytes: int,
) -> Plan:
    """Where nothing fits, the mode that needs least of the card, with alternatives that do fit."""
    on_cpu = request.device == "cpu" or machine.gpu is None
    disk_gib = (to_fetch_bytes + request.width * request.height * request.frames * VIDEO_BYTES_PER_PIXEL) / GIB
    verdict = _judge(spec, diffusion, request, machine, book, on_cpu=on_cpu)
    ways = verdict.ways
    lacks = (*verdict.lacks, *_disk_lack(disk_gib, machine))

    def attempt(other: EngineSpec, wanted: GenerationRequest) -> Try:
        assert other.diffusion is not None
        tried = _judge(other, other.diffusion, wanted, machine, book, on_cpu=on_cpu)
        return Try(fits=not tried.lacks, cost=tried.cost)

    cost = verdict.cost
    return Plan(
        fits=not lacks,
        mode=cost.mode.id,
        reason=_reason(verdict, lacks, machine),
        device=ways.device.title,
        peak_vram_gib=cost.vram_gib,
        peak_ram_gib=cost.ram_gib,
        disk_gib=round(disk_gib, 3),
        bound_seconds=round(bound_seconds(ways.job, ways.device), 3),
        stages=cost.stages,
        alternatives=alternatives_to(spec, request, attempt) if verdict.lacks else (),
        attention=ways.attention,
        learned_runs=len(ways.history(cost.mode).runs),
    )


def unlearned(
    spec: EngineSpec, diffusion: DiffusionSpec, request: GenerationRequest, machine: Machine, mode: Mode
) -> tuple[Cost, str]:
    """What `mode` is expected to take as far as counting alone goes, and the kind of run that it is."""
    on_cpu = mode in _modes(diffusion, request, on_cpu=True)
    job, device = job_of(spec, diffusion, request, on_cpu=on_cpu), machine.device(on_cpu=on_cpu)
    ways = _Ways(spec=spec, request=request, job=job, device=device, machine=machine, book=EMPTY)
    return ways.cost(mode), ways.kind(mode)


def _judge(
    spec: EngineSpec,
    diffusion: DiffusionSpec,
    request: GenerationRequest,
    machine: Machine,
    book: Book,
    *,
    on_cpu: bool,
) -> _Verdict:
    job, device = job_of(spec, diffusion, request, on_cpu=on_cpu), machine.device(on_cpu=on_cpu)
    ways = _Ways(spec=spec, request=request, job=job, device=device, machine=machine, book=book)
    cost = ways.chosen(_modes(diffusion, request, on_cpu=on_cpu))
    return _Verdict(cost=cost, ways=ways, lacks=_lacks(cost, machine))


def _modes(diffusion: DiffusionSpec, request: GenerationRequest, *, on_cpu: bool) -> tuple[Mode, ...]:
    """What is in GGUF has fewer bits than fp8 or about as many, and is no longer cast."""
    modes = modes_for(request.precision, on_cpu=on_cpu)
    return tuple(mode for mode in modes if not (mode.fp8 and diffusion.packed))


def _missing(cost: Cost, machine: Machine) -> tuple[float, float]:
    """GiB of the card and of RAM that the machine lacks for it."""
    ram = math.inf if machine.free_ram_gib is None else machine.free_ram_gib
    return max(0.0, cost.vram_gib - _usable(machine)), max(0.0, cost.ram_gib - ram)


def _fits(cost: Cost, machine: Machine) -> bool:
    return not any(_missing(cost, machine))


def _usable(machine: Machine) -> float:
    """GiB of the card."""
    return max(0.0, machine.free_vram_gib - machine.margin_gib)


def frugal_mode(
    spec: EngineSpec, request: GenerationRequest, machine: Machine, mode_id: str, stage: StageName, memory: MemoryKind
) -> str | None:
    """The next mode after `mode_id` that needs less of `memory` in `stage`, in which that one ran out of it.

    None where there is no such mode. One that the machine does not carry, by the memory that did not run out, is passed
    over.
    """
    assert spec.diffusion is not None
    before = mode_called(mode_id)
    on_cpu = before in _modes(spec.diffusion, request, on_cpu=True)
    job, device = job_of(spec, spec.diffusion, request, on_cpu=on_cpu), machine.device(on_cpu=on_cpu)
    modes = _modes(spec.diffusion, request, on_cpu=on_cpu)
    fallen = cost_of(job, before, device)

    def helps(cost: Cost) -> bool:
        short_of_vram, short_of_ram = _missing(cost, machine)
        if memory == "ram":
            is_carried = on_cpu or not short_of_vram or cost.vram_gib <= fallen.vram_gib
        else:
            is_carried = not short_of_ram
        needed, before = (_needed(each, stage, memory, on_cpu=on_cpu) for each in (cost, fallen))
        return is_carried and needed < before

    return next((mode.id for mode in modes[modes.index(before) + 1 :] if helps(cost_of(job, mode, device))), None)


def _needed(cost: Cost, stage: StageName, memory: MemoryKind, *, on_cpu: bool) -> float:
    """GiB: of the card in that stage, which on a processor is its RAM; of the RAM in the whole run."""
    if memory == "ram" and not on_cpu:
        return cost.ram_gib
    return next(_held(each) for each in cost.stages if each.name == stage)


def _lacks(cost: Cost, machine: Machine) -> tuple[Text, ...]:
    """What there is too little of."""
    lacks: list[Text] = []
    usable = _usable(machine)
    if cost.vram_gib > usable:
        lacks.append(
            Text(
                f"{cost.vram_gib:.1f} GiB of graphics memory are needed{_where(cost).en}, {usable:.1f} can be used "
                f"({machine.free_vram_gib:.1f} are free, {machine.margin_gib:g} stay so)",
                f"{_where(cost).zh}需要 {cost.vram_gib:.1f} GiB 显存，可用 {usable:.1f} GiB"
                f"（空闲 {machine.free_vram_gib:.1f} GiB，保留 {machine.margin_gib:g} GiB）",
            )
        )
    if machine.free_ram_gib is not None and cost.ram_gib > machine.free_ram_gib:
        lacks.append(
            Text(
                f"{cost.ram_gib:.1f} GiB of RAM are needed, {machine.free_ram_gib:.1f} are free",
                f"需要 {cost.ram_gib:.1f} GiB 内存，空闲 {machine.free_ram_gib:.1f} GiB",
            )
        )
    return tuple(lacks)


def _disk_lack(disk_gib: float, machine: Machine) -> tuple[Text, ...]:
    if machine.free_disk_gib is None or disk_gib <= machine.free_disk_gib:
        return ()
    return (
        Text(
            f"{disk_gib:.1f} GiB of disk are needed, {machine.free_disk_gib:.1f} are free",
            f"需要 {disk_gib:.1f} GiB 磁盘空间，剩余 {machine.free_disk_gib:.1f} GiB",
        ),
    )


def _reason(verdict: _Verdict, lacks: tuple[Text, ...], machine: Machine) -> Text:
    cost, device = verdict.cost, verdict.ways.device
    runs = len(verdict.ways.history(cost.mode).runs)
    if lacks:
        reason = Text(
            f"It does not fit: {'; '.join(lack.en for lack in lacks)}.",
            f"放不下：{'；'.join(lack.zh for lack in lacks)}。",
        )
    elif device.is_cpu:
        reason = Text(
            f"There is no graphics card to use, so {cost.mode.what.en}: expect a long wait.",
            f"没有可用的显卡，因此{cost.mode.what.zh}，耗时会很长。",
        )
    else:
        usable = machine.free_vram_gib - machine.margin_gib
        reason = Text(
            f"It fits: {cost.vram_gib:.1f} of {usable:.1f} GiB{_where(cost).en}, so {cost.mode.what.en}.",
            f"放得下：{_where(cost).zh}用 {cost.vram_gib:.1f} / {usable:.1f} GiB，因此{cost.mode.what.zh}。",
        )
    if runs:
        return Text(
            f"{reason.en} Seconds and memory are learned from runs like it here: {runs} so far.",
            f"{reason.zh}时间和内存已按本机同类生成的实测修正（目前 {runs} 次）。",
        )
    if not device.is_cpu and not device.is_known:
        return Text(
            f"{reason.en} The seconds are a guess: the studio has no figures of this card.",
            f"{reason.zh}时间仅为粗略估计：尚无该显卡的数据。",
        )
    return reason


def _where(cost: Cost) -> Text:
    """The stage that needs most, as `, most of them while decoding` would say it."""
    stages = [stage for stage in cost.stages if stage.name in _STAGE_WORDS]
    word = _STAGE_WORDS[max(stages, key=_held).name]
    return Text(f" while {word.en}", word.zh)


def _held(stage: StagePlan) -> float:
    return stage.weights_gib + stage.activations_gib
