"""What the page says above the form: where its content comes from, and what happens to it. Knows no component."""

from __future__ import annotations

import time
from collections.abc import Sequence

from i2v_pipeline.types import Text
from studio.jobs.types import Job
from studio.page.text import both

NEW_SEED = ("new_seed", Text("A new seed instead", "改用新种子"))
STOP_EDITING = ("stop_editing", Text("Leave it as it is", "放弃修改"))

STARTED = Text(
    "The job has started meanwhile, with the settings it had. Your changes stand in the form: Generate makes a new "
    "job of them.",
    "该任务已经开始，使用的是原来的参数。你的修改还在表单里：点击“生成视频”会按它们新建任务。",
)
SAVED = Text(
    "The waiting job has its new settings; the form is as it was before.",
    "修改已保存到排队任务；表单已恢复原来的内容。",
)
CONTINUES = Text(
    "This job continues a video, so its picture and size are that video's. Remove it, and continue the video anew.",
    "该任务是续写某个视频，其图像和尺寸由原视频决定。请移除它，再重新续写。",
)
FRESH_SEED = Text("The seed is empty: a new one is drawn.", "种子已清空：将随机选取。")
SAME_SEED = Text("With the same seed the same video comes out.", "种子相同，生成的视频也相同。")


def html(text: Text, *buttons: tuple[str, Text], kind: str = "") -> str:
    """One note with its buttons, each the name of an act and its words; it can always be put away."""
    acts = "".join(f'<button type="button" data-act="{act}">{both(words)}</button>' for act, words in buttons)
    away = f'<span class="sr-only">{both(Text("Put this note away", "收起提示"))}</span>'
    close = "" if kind == "editing" else f'<button type="button" class="away" data-act="put_away">×{away}</button>'
    return f'<div class="note {kind}" role="status"><p>{both(text)}</p>{acts}{close}</div>'


def compiled(jobs: int) -> Text:
    """After waiting jobs were given compiling."""
    return Text(
        f"{jobs} waiting {'video' if jobs == 1 else 'videos'} will be compiled. Each can still be changed.",
        f"{jobs} 个排队的视频将使用编译，仍可逐个修改。",
    )


def editing(job: Job) -> str:
    """While a waiting job's settings stand in the form."""
    name = name_of(job)
    words = Text(
        f"You are changing the waiting job {name.en}. Until you save, it keeps the settings that it has.",
        f"正在修改排队任务 {name.zh}。保存之前，它仍使用原来的参数。",
    )
    return html(words, STOP_EDITING, kind="editing")


def editing_too_late() -> str:
    """While the settings of a job stand in the form that has started meanwhile."""
    words = Text(
        "The job has started meanwhile, with the settings it had. Save is no longer possible; your changes stay here.",
        "该任务已经开始，使用的是原来的参数，无法再保存；你的修改仍保留在这里。",
    )
    return html(words, STOP_EDITING, kind="editing")


def used(job: Job, lacks: Sequence[Text], *, with_seed: bool) -> str:
    """After a job's settings were put into the form; `lacks` is what the form has no field for."""
    name = name_of(job)
    words = [Text(f"These are the settings of {name.en}.", f"已填入 {name.zh} 的参数。"), *_left_out(lacks)]
    return html(_joined([*words, SAME_SEED]), NEW_SEED) if with_seed and not lacks else html(_joined(words))


def advised(job: Job, changes: Text, lacks: Sequence[Text]) -> str:
    """After a job's settings were put into the form as the advice would have them."""
    name = name_of(job)
    words = Text(
        f"These are the settings of {name.en}, changed as advised: {changes.en}. Generate makes a new video of them.",
        f"已填入 {name.zh} 的参数，并按建议修改：{changes.zh}。点击“生成视频”即可按此重新生成。",
    )
    return html(_joined([words, *_left_out(lacks)]))


def restored(told: Sequence[Text], lacks: Sequence[Text]) -> str:
    """After a file's settings were put into the form; `told` says what is not in the file."""
    words = [Text("These are the settings that stand in the file.", "已填入文件中的参数。"), *told, *_left_out(lacks)]
    return html(_joined(words if told or lacks else [*words, SAME_SEED]), NEW_SEED)


def last_frame(job: Job) -> str:
    """After a video's last frame became the picture."""
    name = name_of(job)
    return html(Text(f"The picture is the last frame of {name.en}.", f"输入图像是 {name.zh} 的最后一帧。"))


def name_of(job: Job) -> Text:
    """`“The cat turns its …” (11-22 18:42)`."""
    prompt, limit = job.request.prompt.strip(), 40
    shown = prompt if len(prompt) <= limit else prompt[:limit] + "…"
    made = time.strftime("%m-%d %H:%M", time.localtime(job.created))
    return Text(f"“{shown}” ({made})" if shown else made, f"“{shown}”（{made}）" if shown else made)


def _left_out(lacks: Sequence[Text]) -> list[Text]:
    """What was not put into the form, since it has no field for it."""
    if not lacks:
        return []
    return [
        Text(
            f"The form has no field for {', '.join(each.en for each in lacks)}: the video will be another one.",
            f"表单没有对应的字段：{'、'.join(each.zh for each in lacks)}，生成的视频会不同。",
        )
    ]


def _joined(sentences: Sequence[Text]) -> Text:
    return Text(" ".join(each.en for each in sentences), "".join(each.zh for each in sentences))
