"""A job as HTML: where it stands, what it looks like, what came out. Knows the store's types, no component."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from i2v_pipeline.types import Text
from studio.jobs.types import POSTER_NAME, REPORT_NAME, VIDEO_NAME, Job
from studio.page.chain import chain_html
from studio.page.plan import numbers_of
from studio.page.quality import WARNING, is_broken, quality_html, warning_html
from studio.page.remedies import changes_words
from studio.page.text import both, duration, escape
from studio.page.words import STAGES, STATES

MEDIA = "studio/media"
DOWNLOADS = {
    VIDEO_NAME: Text("Download video", "下载视频"),
    REPORT_NAME: Text("Download report", "下载报告"),
}
CODECS = {"h264": "H.264"}

GONE = Text("This job is not here (any more).", "这个任务已不存在。")
EMPTY = (
    Text("Drop in a picture, or take an example", "放入一张图像，或选一张示例"),
    Text("Say how the camera should move", "说明镜头怎么运动"),
    Text("Generate: the video and its report appear here", "点击“生成视频”，视频与报告会出现在这里"),
)
ADVICE = "advice_"
"""Findings whose code begins like this say what to change after what was measured."""
KEPT = Text("Nothing of the video was kept; the settings were.", "视频没有保留，设置已保留。")


def status_html(job: Job | None, now: float) -> str:
    """State, stage, step, elapsed and left, in one card; empty without a job. `now`: seconds since 1970."""
    if job is None:
        return ""
    badge = f'<span class="state {job.state}">{both(STATES[job.state])}</span>'
    if job.state == "queued":
        waited = duration(now - job.created)
        times = both(Text(f"{waited.en} so far", f"已等 {waited.zh}"))
        inside = f'{both(_queue_words(job))} <span class="times">{times}</span>'
    elif job.state == "running":
        inside = _running_html(job, now)
    elif job.state == "done":
        took = duration((job.finished or now) - (job.started or now))
        inside = both(Text(f"took {took.en}", f"用时 {took.zh}"))
        if is_broken(job):
            badge += f" {warning_html()}"
    else:
        inside = both(job.message or KEPT)
    again = [job.message if not job.over else None, _note_of(job)]
    said = "".join(f'<p class="quiet">{both(words)}</p>' for words in again if words)
    return f'<div class="status" data-of="{job.id}">{badge} {inside}{said}</div>'


def gone_html() -> str:
    """In place of a job that is not there."""
    return f'<div class="status">{both(GONE)}</div>'


def announcement(job: Job | None) -> str:
    """What a screen reader is told: changes with the state and the stage only, never with each step."""
    if job is None:
        return ""
    if job.state == "running" and job.progress is not None:
        return both(STAGES[job.progress.stage])
    said = both(STATES[job.state])
    if is_broken(job):
        return f"{said} {both(WARNING)}"
    return f"{said} {both(job.message)}" if job.message else said


def screen_html(job: Job | None) -> str:
    """The large picture: what to do, the live preview, or the video."""
    if job is None:
        return empty_html()
    ratio = f'style="aspect-ratio:{job.request.width}/{job.request.height}"'
    if job.state == "done":
        url = f"{MEDIA}/{job.id}"
        return (
            f'<div class="screen" {ratio}><video id="video" src="{url}/{VIDEO_NAME}" poster="{url}/{POSTER_NAME}"'
            f' aria-label="{escape(job.request.prompt or "video")}"'
            " controls autoplay muted loop playsinline></video></div>"
        )
    preview = preview_of(job)
    if preview:
        return f'<div class="screen live" {ratio}><img src="{preview}" alt=""></div>'
    return f'<div class="screen waiting {job.state}" {ratio}><img src="{MEDIA}/{job.id}/input" alt=""></div>'


def empty_html() -> str:
    """The result column before the first run."""
    steps = "".join(f"<li><span>{both(step)}</span></li>" for step in EMPTY)
    return f'<div class="screen empty"><div class="empty-art" aria-hidden="true"></div><ol>{steps}</ol></div>'


def details_html(job: Job | None, report: Mapping[str, Any] | None) -> str:
    """Under the video: what it is, what was sent, what the run has to say, and the files."""
    if job is None or report is None:
        return ""
    output, parameters = report["output"], report["parameters"]
    facts = [
        both(numbers_of(job.request)),
        f"{both(Text('seed', '种子'))} <code>{escape(parameters['seed'])}</code>",
        f"{escape(CODECS.get(output['codec'], output['codec']))} · {output['bytes'] / 1e6:.1f} MB",
    ]
    links = "".join(
        f'<a href="{MEDIA}/{job.id}/{name}?download=1" download>{both(words)}</a>' for name, words in DOWNLOADS.items()
    )
    words = both(Text("Sent:", "实际发送："))
    sent = f'<p class="sent"><span class="quiet">{words}</span> {escape(report["prompt"]["sent"])}</p>'
    chips = "".join(f'<span class="chip">{fact}</span>' for fact in facts)
    advice = [finding for finding in report["findings"] if finding["code"].startswith(ADVICE)]
    others = [finding for finding in report["findings"] if not finding["code"].startswith(ADVICE)]
    return (
        f'<div class="details"><p class="chips">{chips}</p>{sent}{chain_html(report)}{quality_html(report)}'
        f'{_advice_html(advice)}{findings_html(others)}<p class="links">{links}</p></div>'
    )


def _advice_html(findings: list[Mapping[str, Any]]) -> str:
    if not findings:
        return ""
    title, changes = both(Text("What to change", "调整建议")), advised(findings)
    button = ""
    if changes:
        words = changes_words(changes)
        told = Text(f"Try again with {words.en}", f"改用 {words.zh} 再试")
        button = f'<button type="button" data-advice>{both(told)}</button>'
    return f'<section class="changes"><h3>{title}</h3>{findings_html(findings)}{button}</section>'


def advised(findings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All that the advice in a report would set, by the request's field; reports of earlier versions set nothing.

    No two pieces of advice set one field differently.
    """
    of_advice = (finding for finding in findings if finding["code"].startswith(ADVICE))
    return {field: value for finding in of_advice for field, value in finding.get("changes", {}).items()}


def findings_html(findings: list[Mapping[str, Any]]) -> str:
    """What the picture, the request and the engine had to say; empty where nothing was said."""
    items = []
    for finding in findings:
        remedy = ""
        if finding["remedy"]:
            remedy = f' <span class="quiet">{both(Text(finding["remedy"], finding["remedy_zh"]))}</span>'
        words = both(Text(finding["message"], finding["message_zh"]))
        items.append(f'<li class="{escape(finding["severity"])}">{words}{remedy}</li>')
    return f'<ul class="findings">{"".join(items)}</ul>' if items else ""


def _queue_words(job: Job) -> Text:
    if job.held:
        return Text("paused", "已暂停")
    if job.ahead == 0:
        return Text("next in the queue", "即将开始")
    return Text(f"{job.ahead} before this one", f"前面还有 {job.ahead} 个任务")


def _running_html(job: Job, now: float) -> str:
    if job.cancel_asked:
        return both(Text("stopping …", "正在停止 …"))
    elapsed = duration(now - (job.started or now))
    times = [both(Text(f"{elapsed.en} so far", f"已用 {elapsed.zh}"))]
    progress = job.progress
    if progress is None:
        return times[0]
    if progress.seconds_left is not None:
        left = duration(progress.seconds_left)
        times.append(both(Text(f"about {left.en} left", f"约剩 {left.zh}")))
    percent = 100 * progress.step / max(progress.steps, 1)
    return (
        f'{both(STAGES[progress.stage])} <span class="step">{progress.step}/{progress.steps}</span>'
        f'<span class="times">{" · ".join(times)}</span>'
        f'<div class="bar" role="progressbar" aria-label="progress" aria-valuemin="0" aria-valuemax="100"'
        f' aria-valuenow="{percent:.0f}"><span style="width:{percent:.1f}%"></span></div>'
    )


def _note_of(job: Job) -> Text | None:
    return job.progress.note if job.state == "running" and job.progress is not None else None


def preview_of(job: Job) -> str | None:
    """The newest preview as a data URL: an <img> with one never shows an empty frame between two previews."""
    try:
        return "data:image/jpeg;base64," + base64.b64encode(job.preview_path.read_bytes()).decode()
    except FileNotFoundError:
        return None
