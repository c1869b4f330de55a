"""A comparison as HTML: its plan before it starts, the grid with its players, and the list of earlier ones.

Knows the jobs and their reports; no component and no event.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2v_pipeline.presets import load_presets
from i2v_pipeline.types import GenerationRequest, Text
from studio.axes import WORDS
from studio.compare import Total
from studio.comparison_files import CellResult, Grid, describe_shape, grid_shape
from studio.jobs.comparisons import Axis, AxisField, Comparison, Sketch
from studio.jobs.types import POSTER_NAME, VIDEO_NAME, Job
from studio.measures import METRICS, Measures, best_of, measures_of
from studio.page.plan import numbers_of
from studio.page.quality import warning_html
from studio.page.remedies import warning_html as offer_html
from studio.page.status import MEDIA, preview_of
from studio.page.text import LABELS, both, duration, escape, size
from studio.page.words import CAMERA, DEFECTS, STAGES, STATES

GONE = Text("This video was deleted.", "该视频已删除。")
MIXED = Text("several movements", "混合运动")
FIRST_METRIC = next(iter(METRICS))


def plan_html(sketch: Sketch, total: Total, notices: Sequence[Text], *, is_seed_drawn: bool) -> str:
    """What a start would make: the cells, their sizes, seconds and bytes in all, and what is to say about them."""
    first, took = sketch.requests[0], duration(total.seconds)
    lines = [f'<p class="plan-count">{both(_count_words(sketch))}</p>']
    lines += dict.fromkeys(f"<p>{both(_settings_of(each))}</p>" for each in sketch.requests)
    in_all = Text(
        f"About {took.en} in all on this machine, {size(total.disk_bytes)} on the disk.",
        f"在这台机器上总共约需 {took.zh}，占用磁盘 {size(total.disk_bytes)}。",
    )
    lines.append(f'<p class="compare-total">{both(in_all)}</p>')
    if "seed" not in (sketch.x.field, sketch.y and sketch.y.field):
        seed = (
            Text("One new seed is drawn, the same for all.", "随机选取一个种子，所有视频相同。")
            if is_seed_drawn
            else Text(f"Seed {first.seed} for all.", f"所有视频使用种子 {first.seed}。")
        )
        lines.append(f'<p class="quiet">{both(seed)}</p>')
    if sketch.final is not None:
        lines.append(f"<p>{both(draft_words(first, sketch.final))}</p>")
    lines += [f'<p class="warn">{both(text)}</p>' for text in (*notices, *total.misfits)]
    lines += [] if total.offer is None else [offer_html(total.offer)]
    return f'<div class="plan compare-plan">{"".join(lines)}</div>'


def hint_html(text: Text) -> str:
    """In place of the plan: what to do first."""
    return f'<p class="quiet">{both(text)}</p>'


def problem_html(text: Text) -> str:
    """In place of the plan: why it cannot be started."""
    return f'<div class="plan problem"><p>{both(text)}</p></div>'


def draft_words(draft: GenerationRequest, final: GenerationRequest) -> Text:
    """What a draft tells about the final and what it does not."""
    ours, theirs = _settings_of(draft), _settings_of(final)
    if load_presets()[draft.engine].diffusion is None:
        meaning = Text("The camera moves the same way at any size.", "镜头运动在任何尺寸下都相同。")
    elif (draft.width, draft.height, draft.frames) == (final.width, final.height, final.frames):
        meaning = Text(
            "The final begins with the same noise as its draft; details and movement may still differ.",
            "正式视频与草稿使用相同的初始噪声；细节和动作仍可能不同。",
        )
    else:
        meaning = Text(
            "At another size or length the same seed gives other noise: the final may be composed differently.",
            "尺寸或长度不同时，同一种子的噪声也不同：正式视频的构图可能与草稿不同。",
        )
    return Text(
        f"Draft: {ours.en}. Final: {theirs.en}. {meaning.en}",
        f"草稿：{ours.zh}。正式：{theirs.zh}。{meaning.zh}",
    )


def comparison_html(
    earlier: Sequence[Comparison],
    shown: Comparison | None,
    cells: Sequence[Job | None],
    finals: Sequence[Job | None],
) -> str:
    """The list of all comparisons, and the one that is open; empty where there is none.

    `cells` and `finals` belong to `shown`, row by row; both are empty without it.
    """
    if not earlier:
        return ""
    names = "".join(_earlier_html(each, is_shown=shown is not None and each.id == shown.id) for each in earlier)
    title = both(Text("Comparisons", "对比"))
    opened = "" if shown is None else _open_html(shown, cells, finals)
    return f'<section class="compare"><h2>{title}</h2><ul class="earlier">{names}</ul>{opened}</section>'


def _count_words(sketch: Sketch) -> Text:
    count, x, y = len(sketch.requests), len(sketch.x.values), sketch.y
    if sketch.final is not None:
        return Text(f"{count} drafts", f"{count} 个草稿")
    name = WORDS[sketch.x.field]
    if y is None:
        return Text(f"{count} videos: {name.en}", f"{count} 个视频：{name.zh}")
    other = WORDS[y.field]
    return Text(
        f"{count} videos: {x} × {name.en}, {len(y.values)} × {other.en}",
        f"{count} 个视频：{name.zh} × {x}，{other.zh} × {len(y.values)}",
    )


def _settings_of(request: GenerationRequest) -> Text:
    """`832 × 480 · 81 frames · 16 fps · 5.1 s · 20 steps`."""
    numbers = numbers_of(request)
    if request.steps is None:
        return numbers
    return Text(f"{numbers.en} · {request.steps} steps", f"{numbers.zh} · {request.steps} 步")


def _earlier_html(each: Comparison, *, is_shown: bool) -> str:
    made = time.strftime("%m-%d %H:%M", time.localtime(each.created))
    pressed = str(is_shown).lower()
    return (
        f'<li><button type="button" class="chip" data-act="{"close" if is_shown else "open"}"'
        f' data-comparison="{each.id}" data-key="comparison:{each.id}" aria-pressed="{pressed}">'
        f"{both(_name_of(each))} · {made}</button></li>"
    )


def _name_of(comparison: Comparison) -> Text:
    """`Guidance 3 × Seed 3`."""
    axes = [axis for axis in (comparison.x, comparison.y) if axis is not None]
    if comparison.final is not None:
        return Text(f"{len(comparison.jobs)} drafts", f"{len(comparison.jobs)} 个草稿")
    return Text(
        " × ".join(f"{WORDS[axis.field].en} {len(axis.values)}" for axis in axes),
        " × ".join(f"{WORDS[axis.field].zh} {len(axis.values)}" for axis in axes),
    )


def _open_html(comparison: Comparison, cells: Sequence[Job | None], finals: Sequence[Job | None]) -> str:
    seen = [_seen(job) for job in cells]
    measured = [None if each is None else each.measures for each in seen]
    best = {name: best_of(metric, measured) for name, metric in METRICS.items()}
    tools = _tools_html(comparison, seen) if any(seen) else ""
    rows = []
    for row in range(comparison.rows):
        places = range(row * comparison.columns, (row + 1) * comparison.columns)
        inside = "".join(
            _cell_html(
                cells[place],
                measured[place],
                [name for name in METRICS if place in best[name]],
                final=finals[place],
                is_draft=comparison.final is not None,
            )
            for place in places
        )
        heading = ""
        if comparison.y is not None:
            words = _heading(comparison.y, row)
            heading = f'<tr><th colspan="{comparison.columns}" scope="rowgroup">{words}</th></tr>'
        rows.append(f"<tbody>{heading}<tr>{inside}</tr></tbody>")
    columns = "".join(f'<th scope="col">{_heading(comparison.x, index)}</th>' for index in range(comparison.columns))
    first = next((job for job in cells if job is not None), None)
    about = ""
    if first is not None and "prompt" not in (comparison.x.field, comparison.y and comparison.y.field):
        about = f'<p class="quiet about">{escape(first.request.prompt) or "—"}</p>'
    if first is not None and comparison.final is not None:
        about += f'<p class="draft-words">{both(draft_words(first.request, comparison.final))}</p>'
    name = both(_name_of(comparison))
    return (
        f'<div class="opened" data-comparison="{comparison.id}"><h3>{name}</h3>{about}'
        f"{_progress_html(cells)}{tools}"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(_name_of(comparison).en)}">'
        f'<table style="--columns:{comparison.columns}"><thead><tr>{columns}</tr></thead>{"".join(rows)}</table></div>'
        f"{_end_html(comparison)}</div>"
    )


def _heading(axis: Axis, index: int) -> str:
    return f"{both(WORDS[axis.field])} {_value_html(axis.field, axis.values[index])}"


def _value_html(field: AxisField, value: str) -> str:
    if field == "engine" and value in load_presets():
        return f"<b>{both(load_presets()[value].title)}</b>"
    return f"<b>{both(LABELS[f'preset_{value}']) if field == 'preset' else escape(value)}</b>"


def _progress_html(cells: Sequence[Job | None]) -> str:
    """How many are done, what is left, and a button that stops all of it; nothing once all are over."""
    there = [job for job in cells if job is not None]
    left = [job for job in there if not job.over]
    done = sum(job.state == "done" for job in there)
    words = Text(f"{done} of {len(cells)} done", f"已完成 {done}/{len(cells)}")
    if not left:
        return f'<p class="compare-state" role="status">{both(words)}</p>'
    seconds = _seconds_left(there, left)
    if seconds is not None:
        told = duration(seconds)
        words = Text(f"{words.en} · about {told.en} left", f"{words.zh} · 约剩 {told.zh}")
    stop = _button("cancel_all", Text("Cancel all that is not done", "取消所有未完成的"))
    return f'<p class="compare-state" role="status">{both(words)}</p><p class="compare-acts">{stop}</p>'


def _seconds_left(there: Sequence[Job], left: Sequence[Job]) -> float | None:
    """From what the finished cells took; None while none has finished."""
    took = [job.finished - job.started for job in there if job.state == "done" and job.finished and job.started]
    if not took:
        return None
    usual = statistics.mean(took)
    return sum(
        job.progress.seconds_left if job.progress is not None and job.progress.seconds_left is not None else usual
        for job in left
    )


def _tools_html(comparison: Comparison, seen: Sequence[_Seen | None]) -> str:
    """The controls of all players at once, what counts as best, and the files to take along."""
    play = both(Text("Play all", "全部播放"))
    pause = both(Text("Pause all", "全部暂停"))
    metrics = "".join(
        f'<label class="chip"><input type="radio" name="compare-metric" value="{name}"'
        f"{' checked' if name == FIRST_METRIC else ''}>{both(metric.words)}</label>"
        for name, metric in METRICS.items()
    )
    url = f"studio/comparisons/{comparison.id}"
    files = (
        f'<a href="{url}/grid.mp4" download>{both(Text("All as one video", "导出合成视频"))}</a>'
        f'<a href="{url}/table.csv" download>{both(Text("Table (CSV)", "导出表格 (CSV)"))}</a>'
    )
    cells = tuple(CellResult(name="", state="", report=None if each is None else each.report) for each in seen)
    grid = Grid(x=comparison.x, y=comparison.y, cells=cells)
    taken = "".join(f'<p class="quiet taken">{both(text)}</p>' for text in describe_shape(grid, grid_shape(grid)))
    return (
        '<div class="players"><button type="button" data-play aria-pressed="false" data-key="play">'
        f'<span class="when-paused">{play}</span><span class="when-playing">{pause}</span></button>'
        f'<label class="seek"><span class="sr-only">{both(Text("Place in all videos", "所有视频的位置"))}</span>'
        '<input type="range" min="0" max="1000" step="1" data-seek></label><output data-clock>0.0 s</output>'
        f'<p class="links">{files}</p></div>{taken}'
        f'<fieldset class="metrics"><legend>{both(Text("Best by:", "按此评选："))}</legend>{metrics}</fieldset>'
    )


def _cell_html(
    job: Job | None, measured: Measures | None, best: Sequence[str], *, final: Job | None, is_draft: bool
) -> str:
    if job is None:
        return f'<td class="gone"><p class="slot">{both(GONE)}</p></td>'
    badge = f'<span class="state {job.state}">{both(STATES[job.state])}</span>'
    if measured is not None and measured.is_broken:
        badge += f" {warning_html()}"
    crown = f'<span class="best">{both(Text("best", "最佳"))}</span>' if best else ""
    return (
        f'<td data-cell="{job.id}" data-best="{" ".join(best)}">{_slot_html(job)}'
        f'<div class="cell-head">{badge}{crown}{_acts_html(job, final, is_draft=is_draft)}</div>'
        f"{_step_html(job)}{_measures_html(measured)}{_final_html(final, is_draft=is_draft)}</td>"
    )


def _slot_html(job: Job) -> str:
    ratio = f'style="aspect-ratio:{job.request.width}/{job.request.height}"'
    url = f"{MEDIA}/{job.id}"
    if job.state == "done":
        return (
            f'<div class="slot" {ratio}><video src="{url}/{VIDEO_NAME}" poster="{url}/{POSTER_NAME}" muted playsinline'
            f' preload="auto" aria-label="{escape(job.request.prompt[:80]) or "video"}"></video></div>'
        )
    preview = preview_of(job)
    dim = "" if preview else " dim"
    return f'<div class="slot{dim}" {ratio}><img src="{preview or f"{url}/input"}" alt=""></div>'


def _acts_html(job: Job, final: Job | None, *, is_draft: bool) -> str:
    acts = []
    if not job.over:
        acts.append(_button("cancel", Text("Cancel", "取消"), job))
    if job.state in ("failed", "cancelled", "interrupted"):
        acts.append(_button("retry", Text("Try again", "重试"), job))
    if job.state == "done" and is_draft and final is None:
        acts.append(_button("final", Text("Make the final", "生成正式视频"), job))
    acts.append(_button("show", Text("Open", "打开"), job))
    return f'<span class="acts">{"".join(acts)}</span>'


def _step_html(job: Job) -> str:
    """Where a running cell stands, or why one failed."""
    if job.state == "failed" and job.message is not None:
        return f'<p class="quiet">{both(job.message)}</p>'
    if job.state != "running" or job.progress is None:
        return ""
    if job.cancel_asked:
        return f'<p class="quiet">{both(Text("stopping …", "正在停止 …"))}</p>'
    progress = job.progress
    percent = 100 * progress.step / max(progress.steps, 1)
    return (
        f'<p class="quiet">{both(STAGES[progress.stage])} {progress.step}/{progress.steps}</p>'
        '<div class="bar" role="progressbar" aria-label="progress" aria-valuemin="0" aria-valuemax="100"'
        f' aria-valuenow="{percent:.0f}"><span style="width:{percent:.1f}%"></span></div>'
    )


def _measures_html(measured: Measures | None) -> str:
    """What was measured: one line of numbers, one of defects, and the verdict."""
    if measured is None:
        return ""
    numbers = [f"<li>{both(each)}</li>" for each in _numbers(measured)]
    flags = "".join(f'<li class="flag">⚠ {both(DEFECTS.get(code, Text(code, code)))}</li>' for code in measured.flags)
    verdict = "" if measured.verdict is None else f'<p class="verdict">{both(measured.verdict)}</p>'
    return f'<ul class="numbers">{"".join(numbers)}{flags}</ul>{verdict}'


def _numbers(measured: Measures) -> list[Text]:
    took = duration(measured.wall_seconds)
    told = [Text(f"made in {took.en}", f"用时 {took.zh}")]
    if measured.ssim is not None:
        told.append(Text(f"first frame: SSIM {measured.ssim:.2f}", f"首帧 SSIM {measured.ssim:.2f}"))
    if measured.camera is not None:
        name = CAMERA.get(measured.camera, MIXED)  # type: ignore[call-overload] - `mixed` is no tag
        told.append(
            Text(
                f"camera: {name.en}, {measured.camera_speed:.1f} %/s",
                f"镜头：{name.zh}，{measured.camera_speed:.1f}%/秒",
            )
        )
        told.append(Text(f"subject {measured.subject_speed:.1f} %/s", f"主体 {measured.subject_speed:.1f}%/秒"))
    known = [is_seen for is_seen in measured.asked.values() if is_seen is not None]
    if known:
        told.append(Text(f"asked and seen: {sum(known)} of {len(known)}", f"符合要求 {sum(known)}/{len(known)}"))
    return told


def _final_html(final: Job | None, *, is_draft: bool) -> str:
    """The final that was made of a draft, and what was measured of it, to be held against the draft."""
    if not is_draft or final is None:
        return ""
    seen = _seen(final)
    measured = None if seen is None else seen.measures
    numbers = (
        ""
        if measured is None
        else f'<ul class="numbers">{"".join(f"<li>{both(each)}</li>" for each in _numbers(measured))}</ul>'
    )
    return (
        f'<div class="final"><p>{both(Text("Final:", "正式视频："))}'
        f' <span class="state {final.state}">{both(STATES[final.state])}</span>'
        f"{_button('show', Text('Open', '打开'), final)}</p>{numbers}</div>"
    )


def _end_html(comparison: Comparison) -> str:
    words = Text("Take it off this list; the videos stay in the history", "从列表移除；视频保留在历史记录中")
    return f'<p class="compare-acts">{_button("forget", words)}</p>'


def _button(act: str, words: Text, job: Job | None = None) -> str:
    target = f' data-job="{job.id}"' if job is not None else ""
    key = f"{act}:{job.id}" if job is not None else act
    return f'<button type="button" data-act="{act}"{target} data-key="{key}">{both(words)}</button>'


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What the grid needs of a finished video's report; `report` has the section `output` alone."""

    measures: Measures
    report: Mapping[str, Any]


def _seen(job: Job | None) -> _Seen | None:
    if job is None or job.state != "done":
        return None
    try:
        return _read_seen(job.report_path, job.report_path.stat().st_mtime_ns)
    except FileNotFoundError:
        return None


@functools.lru_cache(maxsize=1024)
def _read_seen(report_path: Path, changed_ns: int) -> _Seen:
    """Read once for each state of the file: an open grid is drawn again and again."""
    report = json.loads(report_path.read_text(encoding="utf-8"))
    return _Seen(measures=measures_of(report), report={"output": report["output"]})
