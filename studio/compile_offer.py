"""The offer to compile, where the plan says that it pays. Nobody compiles unasked: it is a sentence and a setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from i2v_pipeline.planning.compiling import Compiling, compiling_of
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.types import Change, Finding, GenerationRequest, Plan, Text
from studio.plans import duration


def compile_offer(
    requests: Sequence[GenerationRequest], machine: Machine, plan_of: Callable[[GenerationRequest], Plan]
) -> Finding | None:
    """What compiling would take and save, with the setting; None where it does not pay or is not possible."""
    found = compiling_of(requests, machine, plan_of)
    if found is None or not found.pays:
        return None
    return Finding(
        code="compiling_pays",
        severity="info",
        message=_words(found),
        changes=(Change(field="compiled", value=True),),
    )


def _words(found: Compiling) -> Text:
    takes, saves, less = (duration(each) for each in (found.compile_s, found.saved_s, found.saved_s - found.compile_s))
    once = Text("once", "一次")
    if found.shapes > 1:
        once = Text(f"once for each of {found.shapes} sizes and lengths", f"{found.shapes} 种尺寸和时长各一次")
    videos = Text("this video", "这个视频")
    if found.videos > 1:
        videos = Text(f"these {found.videos} videos", f"这 {found.videos} 个视频")
    return Text(
        f"Compiling takes about {takes.en}, {once.en}, and saves about {saves.en} of {videos.en}: {less.en} less in "
        "all. The frames may differ in the last bit.",
        f"编译约需 {takes.zh}（{once.zh}），可为{videos.zh}节省约 {saves.zh}，共少用 {less.zh}。"
        "画面的末位数值可能略有不同。",
    )
