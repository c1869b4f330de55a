"""The clips that a longer video was made of, as HTML: which frames each brought, and how far it has drifted.

Knows the `continuation` section of a report, and that most videos have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from i2v_pipeline.types import Text
from studio.page.text import both, escape


def chain_html(report: Mapping[str, Any]) -> str:
    """One line a clip; empty for a video of one clip."""
    section = report.get("continuation")
    if not section:
        return ""
    drifts = iter(section["drift"]["clips"])
    lines = "".join(
        _line(number, clip, next(drifts) if clip["frames"] else None)
        for number, clip in enumerate(section["clips"], start=1)
    )
    count = len(section["clips"])
    title = both(Text(f"Made of {count} clips", f"由 {count} 段组成"))
    far = " far" if section["drift"]["far"] else ""
    return f'<section class="chain{far}"><h3>{title}</h3><ol>{lines}</ol></section>'


def _line(number: int, clip: Mapping[str, Any], drift: Mapping[str, Any] | None) -> str:
    if clip["frames"] is None or drift is None:
        where = Text("nothing of it is left", "已全部裁去")
    else:
        first, last = clip["frames"]
        where = Text(f"frames {first}–{last}", f"第 {first}–{last} 帧")
    facts = [both(where), f"{both(Text('seed', '种子'))} <code>{escape(clip['seed'])}</code>"]
    if drift is not None and number > 1:
        facts.append(both(_drift_words(drift)))
    prompt = f'<span class="quiet prompt">{escape(clip["prompt"])}</span>'
    return f'<li><span class="facts">{" · ".join(facts)}</span>{prompt}</li>'


def _drift_words(drift: Mapping[str, Any]) -> Text:
    measured = drift["followed"] or drift
    colour, sharpness = measured["colour_delta_e"], measured["sharpness"]
    how = Text("", "") if drift["followed"] else Text(" (whole clips)", "（按整段）")
    return Text(
        f"drift: colour {colour:.1f} ΔE, sharpness {sharpness:.0%}{how.en}",
        f"漂移：颜色 {colour:.1f} ΔE，清晰度 {sharpness:.0%}{how.zh}",
    )
