"""The visible refine step: what was typed, what was proposed, by whom, and what the person made of it.

Knows no component; asks the refiner and renders HTML.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from i2v_pipeline.types import EngineSpec, GenerationRequest, Motion, PromptOrigin, Text
from prompt_refiner import RefineResult, refine
from studio.page.services import Services
from studio.page.text import LABELS, both, escape
from studio.page.words import MATCH, WARNINGS, motion_words
from studio.recipe import motion_of, origin_of, style_of

_TOKEN = re.compile(r"[\u3400-\u9fff]|\w+|\s+|[^\w\s]")
REWRITTEN_BELOW = 0.35
"""Texts less alike than this are shown one above the other: a diff of two languages only confuses."""

WORKING = Text("Refining …", "正在优化 …")
UNCHANGED = Text("Nothing was changed.", "文字没有改动。")


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One refinement and what became of it. `is_used` once the refined prompt stands in the prompt box.

    `notices` say what the refiner did not do and why; `remarks` what it thinks of picture and prompt.
    """

    origin: PromptOrigin
    motion: Motion
    notices: tuple[Text, ...] = ()
    remarks: tuple[Text, ...] = ()
    is_used: bool = False


_PROPOSAL = TypeAdapter(Proposal)


def propose(
    typed: str, spec: EngineSpec, services: Services, picture: bytes | None, is_gone: Callable[[], bool]
) -> Proposal:
    """Asks the refiner; falls back to its offline rules by itself and says so in `notices`. May take its deadline,
    unless `is_gone` says that nobody waits any more."""
    result = refine(
        typed, style=style_of(spec), settings=services.refiner, mode="auto", picture=picture, cancelled=is_gone
    )
    return Proposal(
        origin=origin_of(typed, result),
        motion=motion_of(result),
        notices=tuple(Text(notice.en, notice.zh) for notice in result.notices),
        remarks=tuple(remarks_of(result)),
    )


def remarks_of(result: RefineResult) -> Iterator[Text]:
    """What the refiner found out about picture and prompt, and what it would choose."""
    match = result.image_text_match
    if match.verdict != "unknown":
        verdict = MATCH[match.verdict]
        conflicts = "; ".join(match.conflicts)
        reason = " ".join(part for part in (match.reason, conflicts) if part)
        yield Text(f"{verdict.en} {reason}".strip(), f"{verdict.zh}{reason}")
    yield from (WARNINGS[code] for code in result.warnings)
    if result.suggestion is not None:
        preset, why = LABELS[f"preset_{result.suggestion.preset}"], result.suggestion.why
        yield Text(f"Suggested preset: {preset.en}. {why}".strip(), f"建议预设：{preset.zh}。{why}")


def origin_for(prompt: str, proposal: Proposal | None) -> PromptOrigin:
    """Where the prompt in the box comes from: from the refiner only if its proposal was taken."""
    if proposal is not None and proposal.is_used:
        return proposal.origin
    return origin_of(prompt, None)


def motion_for(prompt: str, proposal: Proposal | None, spec: EngineSpec, services: Services) -> Motion:
    """The movement in the prompt: as the refiner read it if its text stands there unchanged, else by the rules."""
    if proposal is not None and proposal.is_used and prompt == proposal.origin.refined:
        return proposal.motion
    return motion_of(read_offline(prompt, spec, services))


def read_offline(prompt: str, spec: EngineSpec, services: Services) -> RefineResult:
    """What the rules read from the prompt; no request leaves."""
    return refine(prompt, style=style_of(spec), settings=services.refiner, mode="offline")


def to_json(proposal: Proposal | None) -> Any:  # noqa: ANN401 - any JSON value
    """For the draft that the browser keeps."""
    return None if proposal is None else _PROPOSAL.dump_python(proposal, mode="json")


def from_json(value: Any) -> Proposal | None:  # noqa: ANN401
    """A proposal from the browser's draft; None for anything else."""
    try:
        return _PROPOSAL.validate_python(value)
    except ValidationError:
        return None


def used(proposal: Proposal) -> Proposal:
    """The proposal, taken."""
    return replace(proposal, is_used=True)


def proposal_of(request: GenerationRequest) -> Proposal | None:
    """The refinement that a request of before was made with; None where its prompt was typed."""
    if request.origin.source == "typed":
        return None
    return Proposal(origin=request.origin, motion=request.motion, is_used=True)


def panel(proposal: Proposal | None) -> str:
    """The refine step as HTML; empty where there is nothing to show."""
    if proposal is None:
        return ""
    origin = proposal.origin
    who = f'<span class="badge">{both(by_whom(origin))}</span>'
    if proposal.is_used:
        typed = both(Text("You typed:", "原文："))
        return (
            f'<div class="refine-panel used"><p>{who} {both(Text("stands in the box.", "的结果已填入提示词。"))}</p>'
            f'<p class="quiet">{typed} {escape(origin.typed)}</p></div>'
        )
    words = "".join(f'<span class="chip">{both(word)}</span>' for word in motion_words(proposal.motion))
    parts = [
        f'<div class="panel-head"><strong>{both(Text("Proposal", "优化建议"))}</strong>{who}</div>',
        _comparison(origin.typed, origin.refined),
        f'<p class="chips">{words}</p>',
        _added(origin),
        *(f'<p class="remark">{both(remark)}</p>' for remark in proposal.remarks),
        *(f'<p class="notice">{both(notice)}</p>' for notice in proposal.notices),
    ]
    return f'<div class="refine-panel">{"".join(parts)}</div>'


def working_panel() -> str:
    """While the refiner thinks."""
    return f'<div class="refine-panel"><p class="working">{both(WORKING)}</p></div>'


def by_whom(origin: PromptOrigin) -> Text:
    """Who proposed the refined prompt."""
    if origin.source == "llm":
        name = " · ".join(part for part in (origin.provider, origin.model) if part)
        return Text(f"Refined by {name}", f"由 {name} 优化")
    return Text("Offline rules, no LLM", "离线规则，未使用大模型")


def diff_html(typed: str, refined: str) -> str:
    """`refined` with what was added in <ins>, and what was taken away from `typed` in <del>."""
    before, after = _TOKEN.findall(typed), _TOKEN.findall(refined)
    parts = []
    for kind, low, high, new_low, new_high in difflib.SequenceMatcher(
        None, before, after, autojunk=False
    ).get_opcodes():
        old, new = escape("".join(before[low:high])), escape("".join(after[new_low:new_high]))
        if kind == "equal":
            parts.append(new)
            continue
        parts.append(f"<del>{old}</del>" if old else "")
        parts.append(f"<ins>{new}</ins>" if new else "")
    return "".join(parts)


def _comparison(typed: str, refined: str) -> str:
    if typed == refined:
        return f'<p class="diff">{escape(typed)}</p><p class="quiet">{both(UNCHANGED)}</p>'
    alike = difflib.SequenceMatcher(None, _TOKEN.findall(typed), _TOKEN.findall(refined), autojunk=False).ratio()
    if alike < REWRITTEN_BELOW:
        return (
            f'<p class="diff"><del>{escape(typed)}</del></p>'
            f'<p class="diff"><ins>{escape(refined)}</ins></p>'
        )  # fmt: skip
    return f'<p class="diff">{diff_html(typed, refined)}</p>'


def _added(origin: PromptOrigin) -> str:
    if not origin.added_elements:
        return ""
    items = "".join(
        f"<li><strong>{escape(added.element)}</strong> <span class='quiet'>{escape(added.why)}</span></li>"
        for added in origin.added_elements
    )
    return f'<p class="quiet">{both(Text("Added, not typed by you:", "新增内容（并非你输入）："))}</p><ul>{items}</ul>'
