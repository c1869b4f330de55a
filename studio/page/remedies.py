"""What of a remedy can be set: in words, as a button, and as values of the form. Knows no component."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Finding, Text
from studio.page.form import preset_values
from studio.page.text import LABELS, both, escape

Changes = Mapping[str, Any]
"""New values by the field of the request, as they stand in a report; a seed of None is drawn anew."""

SIZE_AND_LENGTH = ("resolution", "frames", "fps")
NEW_SEED = Text("a new one", "重新随机")


def changes_of(finding: Finding) -> Changes:
    """The changes of one finding."""
    return {change.field: change.value for change in finding.changes}


def form_values(spec: EngineSpec, changes: Changes) -> dict[str, Any]:
    """What the changes write into the form; a preset brings its own settings, which the others then overrule.

    Size and length stay what they are: they are not what a preset is advised for.
    """
    preset = changes.get("preset")
    own = preset_values(spec, preset) if preset else {}
    values = {field: value for field, value in own.items() if field not in SIZE_AND_LENGTH}
    return {**values, **{field: "" if value is None else value for field, value in changes.items()}}


def changes_words(changes: Changes) -> Text:
    """`Frames: 81 · Seed: a new one`."""
    told = [(LABELS[field], _shown(field, value)) for field, value in changes.items()]
    return Text(
        " · ".join(f"{name.en}: {value.en}" for name, value in told),
        " · ".join(f"{name.zh}：{value.zh}" for name, value in told),
    )


def warning_html(finding: Finding) -> str:
    """A finding before the run with what to do, and a button where that can be set."""
    remedy = finding.remedy or Text("", "")
    words = Text(f"{finding.message.en} {remedy.en}".strip(), f"{finding.message.zh}{remedy.zh}")
    return f'<p class="{finding.severity}"><span>{both(words)}</span>{"".join(_button(finding))}</p>'


def _button(finding: Finding) -> Iterator[str]:
    if finding.changes:
        words = changes_words(changes_of(finding))
        told = Text(f"Set {words.en}", f"设为 {words.zh}")
        yield f'<button type="button" data-remedy="{escape(finding.code)}">{both(told)}</button>'


def _shown(field: str, value: Any) -> Text:  # noqa: ANN401 - a form's value
    if value is None:
        return NEW_SEED
    if value is True:
        return Text("yes", "是")
    if field in ("preset", "fit"):
        return LABELS[f"{field}_{value}"]
    text = f"{value:g}" if isinstance(value, int | float) else str(value)
    return Text(text, text)
