"""A run that has too little memory is tried again in a mode that needs less. Knows no engine, no file and no page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from i2v_pipeline.errors import OutOfMemory, StudioError
from i2v_pipeline.planning.diffusion import frugal_mode
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.planning.modes import mode_called
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Finding, GenerationRequest, MemoryKind, OnProgress, Plan, Progress, StageName, Text

log = logging.getLogger("studio.attempts")
T = TypeVar("T")

MOST_FALLS = 2
"""How often another mode is tried: whoever waits wants to hear soon that it does not work."""
_STAGES = {
    "load": Text("loading", "加载"),
    "encode": Text("encoding", "编码"),
    "denoise": Text("denoising", "去噪"),
    "decode": Text("decoding", "解码"),
    "write": Text("writing", "写入"),
}
_MEMORIES = {"vram": Text("graphics memory", "显存"), "ram": Text("memory", "内存")}
_REMEDIES = {
    "vram": Text(
        "Set STUDIO_VRAM_MARGIN higher, so that a mode that fits is chosen at once, or end what else uses the card.",
        "提高 STUDIO_VRAM_MARGIN 可一开始就选到放得下的模式，或关闭占用显存的其他程序。",
    ),
    "ram": Text("End other programs that use the memory.", "请关闭占用内存的其他程序。"),
}


@dataclass(frozen=True, kw_only=True)
class Fall:
    """That the run had too little of `memory` in `stage` of `mode`."""

    mode: str
    stage: StageName
    memory: MemoryKind


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """The modes that fell, first one first, and the one that did not."""

    falls: tuple[Fall, ...]
    mode: str

    @property
    def note(self) -> Text | None:
        """What the person hears meanwhile; None where none fell."""
        return _note(self.falls, self.mode) if self.falls else None

    def findings(self, resumed_at_step: int | None) -> tuple[Finding, ...]:
        """What to say about them; `resumed_at_step` is where the last one went on."""
        if not self.falls:
            return ()
        told, last = _sentence(self.falls), mode_called(self.mode)
        if resumed_at_step is None:
            begun = Text("It began again from the start.", "从头重新开始。")
        else:
            begun = Text(f"It went on after step {resumed_at_step}.", f"从第 {resumed_at_step} 步之后继续。")
        return (
            Finding(
                code="out_of_memory",
                severity="warn",
                message=Text(
                    f"{told.en} The run was made in the mode {last.id}, in which {last.what.en}. {begun.en}",
                    f"{told.zh}最终以 {last.id} 模式完成：{last.what.zh}。{begun.zh}",
                ),
                remedy=_REMEDIES[self.falls[-1].memory],
            ),
        )

    def as_json(self) -> list[dict[str, Any]]:
        """For the report: each mode that was tried, and the stage in which it fell, None for the last."""
        rows = [{"mode": fall.mode, "stage": fall.stage, "memory": fall.memory} for fall in self.falls]
        return [*rows, {"mode": self.mode, "stage": None, "memory": None}]


def carry_out(
    spec: EngineSpec,
    request: GenerationRequest,
    machine: Callable[[], Machine],
    plan: Plan,
    attempt: Callable[[str, OnProgress], T],
    on_progress: OnProgress,
) -> tuple[T, Attempts]:
    """What `attempt` makes in the plan's mode, or in the next that needs less where that one ran out of memory.

    `attempt` is called with a mode and with what hears its progress, which then says why it is tried again. `machine`
    is asked after each fall. Raises `StudioError` where no mode is left, or too many have fallen.
    """
    falls: list[Fall] = []
    mode, hear = plan.mode, on_progress
    while True:
        try:
            return attempt(mode, hear), Attempts(falls=tuple(falls), mode=mode)
        except OutOfMemory as error:
            falls.append(Fall(mode=mode, stage=error.stage, memory=error.memory))
        fall = falls[-1]
        following = None
        if spec.diffusion is not None and len(falls) <= MOST_FALLS:
            following = frugal_mode(spec, request, machine(), mode, fall.stage, fall.memory)
        if following is None:
            raise _exhausted(falls, plan)
        log.warning("Mode %s fell in stage %s; %s is tried", mode, fall.stage, following)
        mode, hear = following, _telling(on_progress, _note(falls, following))
        hear(Progress(stage="load", step=0, steps=1))


def _telling(on_progress: OnProgress, note: Text) -> OnProgress:
    return lambda progress: on_progress(replace(progress, note=note))


def _note(falls: Sequence[Fall], following: str) -> Text:
    told, what = _sentence(falls), mode_called(following).what
    return Text(f"{told.en} Tried again so that {what.en}.", f"{told.zh}改为{what.zh}，正在重试。")


def _sentence(falls: Sequence[Fall]) -> Text:
    """`The graphics memory ran out while decoding (mode swapped), then while decoding (mode swapped-half).`"""
    name = _MEMORIES[falls[0].memory]
    en = ", then ".join(f"while {_STAGES[fall.stage].en} (mode {fall.mode})" for fall in falls)
    zh = "，随后".join(f"在{_STAGES[fall.stage].zh}时（模式 {fall.mode}）" for fall in falls)
    return Text(f"The {name.en} ran out {en}.", f"{name.zh}{zh}不足。")


def _exhausted(falls: Sequence[Fall], plan: Plan) -> StudioError:
    """With what to change: what the plan knows to fit, else the ways that always lessen the need."""
    told = _sentence(falls)
    if plan.alternatives:
        fits = [
            f"{each.engine} {each.width} × {each.height}, {each.frames}"
            for each in plan.alternatives
        ]  # fmt: skip
        advice = Text(f"By the plan this fits: {'; '.join(f'{each} frames' for each in fits)}.",
                      f"按计划以下方案放得下：{'；'.join(f'{each} 帧' for each in fits)}。")  # fmt: skip
    else:
        advice = Text(
            "Choose a smaller size, fewer frames or a smaller model, or end what else uses the card.",
            "请选择更小的尺寸、更少的帧数或更小的模型，或关闭占用显存的其他程序。",
        )
    return StudioError(
        f"{told.en} No mode that needs less is left to try. {advice.en}",
        f"{told.zh}没有更省内存的模式可再尝试。{advice.zh}",
    )
