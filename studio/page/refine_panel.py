"""The refine step as HTML: typed and refined side by side, what was added, what the refiner thinks. Knows no form."""

from __future__ import annotations

from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import PromptOrigin, Text
from prompt_refiner import Connection
from prompt_refiner.ledger import NOT_DECLARED, lost
from prompt_refiner.providers import CUSTOM
from prompt_refiner.striking import places_of
from studio.page.diff import REWRITTEN_BELOW, Run, as_html, compare, likeness, marked
from studio.page.refine import Fate, Proposal, check_edited, is_own_text
from studio.page.text import both, escape
from studio.page.words import MATCH, motion_words

WORKING = Text(
    "Refining … Generate works meanwhile, with the prompt as it stands.", "正在优化 … 期间可直接按当前文字生成。"
)
UNCHANGED = Text("Nothing was changed.", "文字没有改动。")
ADDED = Text("Added, not typed by you. A click strikes it out:", "以下内容并非你输入，点击即可去掉：")
WHY = {
    NOT_DECLARED: Text("found by comparison; the LLM did not mention it", "比对发现，大模型未说明"),
}
FATES: dict[Fate, Text] = {
    "stands": Text("strike out", "去掉"),
    "struck": Text("put back", "恢复"),
    "gone": Text("went along with it", "已随之去掉"),
    "paraphrased": Text("only in other words: edit the text", "仅为意译，请直接修改文字"),
}
OWN_TEXT = Text(
    "This is a text of your own again: the refinement does not count any more.",
    "这已是你自己的文字，优化结果不再计入。",
)


def panel(proposal: Proposal | None) -> str:
    """The whole step; empty where there is nothing to show."""
    if proposal is None:
        return ""
    head = Text("In the prompt box", "已填入提示词") if proposal.is_used else Text("Proposal", "优化建议")
    who, facts = both(by_whom(proposal.origin)), f'<span class="facts quiet">{_facts(proposal)}</span>'
    parts = [
        f'<div class="panel-head"><strong>{both(head)}</strong><span class="badge">{who}</span>{facts}</div>',
        _typed(proposal.origin) if proposal.is_used else _sides(proposal),
        _added(proposal),
        "" if proposal.is_used else _tags(proposal),
        _match(proposal),
        *(f'<p class="remark">{both(remark)}</p>' for remark in proposal.remarks),
        *(f'<p class="notice">{both(notice)}</p>' for notice in proposal.notices),
    ]
    return f'<div class="refine-panel{" used" if proposal.is_used else ""}">{"".join(parts)}</div>'


def working_panel() -> str:
    """While the refiner thinks."""
    return f'<div class="refine-panel"><p class="working" role="status">{both(WORKING)}</p></div>'


def edited_html(prompt: str, proposal: Proposal | None, spec: EngineSpec) -> str:
    """What the person changed in the text that was taken, checked anew; empty where nothing was."""
    if proposal is None or not proposal.is_used or prompt == proposal.text:
        return ""
    if is_own_text(prompt, proposal):
        return f'<div class="edited"><p>{both(OWN_TEXT)}</p></div>'
    checked, text = check_edited(prompt, proposal, spec), proposal.text
    known = {each.element.lower() for each in check_edited(text, proposal, spec).additions}
    new = dict.fromkeys(each.element for each in checked.additions if each.element.lower() not in known)
    told = []
    if gone := lost(proposal.origin.typed, prompt):
        names = ", ".join(gone)
        told.append(Text(f"You had typed this and it is gone: {names}.", f"你输入过、现已缺失：{names}。"))
    if new:
        told.append(
            Text(f"New beside what you first typed: {', '.join(new)}.", f"与最初输入相比新增：{'、'.join(new)}。")
        )
    title = both(Text("You changed it", "你已修改"))
    tokens = _tokens(checked.token_count, spec.prompt_style.token_limit, is_exact=checked.token_count_is_exact)
    return (
        f'<div class="edited"><p class="panel-head"><strong>{title}</strong>'
        f'<span class="facts quiet">{both(tokens) if tokens else ""}</span></p>'
        f'<p class="diff">{as_html(compare(text, prompt))}</p>'
        + "".join(f'<p class="quiet">{both(each)}</p>' for each in told)
        + "".join(f'<p class="notice">{both(Text(each.en, each.zh))}</p>' for each in checked.notices)
        + "</div>"
    )


def question_html(host: str, count: int = 1) -> str:
    """Whether the pictures, `count` of them now, may leave this machine, with a button for each answer."""
    what = Text("the picture", "图像") if count == 1 else Text(f"all {count} pictures", f"全部 {count} 张图像")
    asked = Text(f"Show {what.en} to the LLM at {host}?", f"允许把{what.zh}发送给 {host} 的大模型吗？")
    one = "It leaves this machine as a JPEG" if count == 1 else "Each leaves this machine as a JPEG"
    how = Text(
        f"{one} of at most 1024 pixels, without metadata. Your answer is kept for this host, "
        "and the box below takes it back.",
        "图像会缩小到 1024 像素以内、去除元数据后以 JPEG 离开本机。你的回答会为该服务保留，可随时用下方选项撤回。",
    )
    yes, no = Text("Show it", "允许"), Text("Text only", "仅发送文字")
    return (
        f'<div class="refine-panel question" role="group"><p><strong>{both(asked)}</strong></p>'
        f'<p class="quiet">{both(how)}</p><p class="answers">'
        f'<button type="button" data-consent="yes">{both(yes)}</button>'
        f'<button type="button" data-consent="no">{both(no)}</button></p></div>'
    )


def connection_html(found: Connection) -> str:
    """The one sentence of a connection test."""
    kind = "ok" if found.ok else "notice"
    return f'<p class="{kind}" role="status">{both(Text(found.notice.en, found.notice.zh))}</p>'


def note_html(text: Text) -> str:
    """A quiet line under the buttons."""
    return f'<p class="quiet" role="status">{both(text)}</p>'


def taken_back(host: str) -> Text:
    """What withdrawing the consent means."""
    return Text(f"Taken back: no picture goes to {host}.", f"已撤回：不再向 {host} 发送图像。")


def by_whom(origin: PromptOrigin) -> Text:
    """Who proposed the refined prompt."""
    if origin.source == "llm":
        name = " · ".join(part for part in (origin.provider, origin.model) if part and part != CUSTOM)
        return Text(f"Refined by {name}", f"由 {name} 优化")
    return Text("Offline rules, no LLM", "离线规则，未使用大模型")


def _facts(proposal: Proposal) -> str:
    facts = []
    if proposal.origin.source == "llm":
        facts.append(Text(f"{proposal.latency_s:.1f} s", f"{proposal.latency_s:.1f} 秒"))
    if tokens := _tokens(proposal.tokens, proposal.token_limit, is_exact=proposal.tokens_are_exact):
        facts.append(tokens)
    return " · ".join(both(fact) for fact in facts)


def _tokens(count: int | None, limit: int | None, *, is_exact: bool) -> Text | None:
    if count is None or limit is None:
        return None
    about = Text("", "") if is_exact else Text("about ", "约 ")
    return Text(f"{about.en}{count} of {limit} tokens", f"{about.zh}{count} / {limit} 词元")


def _typed(origin: PromptOrigin) -> str:
    return f'<p class="quiet">{both(Text("You typed:", "原文："))} {escape(origin.typed)}</p>'


def _sides(proposal: Proposal) -> str:
    typed, text = proposal.origin.typed, proposal.text
    if typed == text:
        return f'<p class="diff">{escape(typed)}</p><p class="quiet">{both(UNCHANGED)}</p>'
    places = [
        place
        for element, fate in proposal.fates().items()
        if fate == "stands"
        for place in places_of(element, text, typed=typed)
    ]
    if likeness(typed, text) < REWRITTEN_BELOW:
        left, right = [Run("kept", typed)], marked(text, places)
    else:
        left, right = compare(typed, text), compare(typed, text, places)
    return (
        '<div class="sides">'
        f'<div class="typed"><h2>{both(Text("You typed", "你的输入"))}</h2>'
        f'<p class="diff">{as_html(left, hide="new")}</p></div>'
        f'<div class="refined"><h2>{both(Text("Refined", "优化后"))}</h2>'
        f'<p class="diff">{as_html(right, hide="gone")}</p></div></div>'
    )


def _added(proposal: Proposal) -> str:
    fates = proposal.fates()
    if not fates:
        return ""
    items = []
    for index, added in enumerate(proposal.origin.added_elements):
        fate = fates[added.element]
        why = both(WHY[added.why]) if added.why in WHY else escape(added.why)
        name, deed = escape(added.element), both(FATES[fate])
        if fate in ("stands", "struck"):
            act = "strike" if fate == "stands" else "restore"
            head = (
                f'<button type="button" class="chip {fate}" data-{act}="{index}"><span>{name}</span>'
                f'<span class="sign" aria-hidden="true"></span><span class="sr-only">{deed}</span></button>'
            )
        else:
            head = f'<span class="chip {fate}"><span>{name}</span></span>'
            why = deed
        items.append(f'<li>{head}<span class="why quiet">{why}</span></li>')
    return f'<p class="quiet">{both(ADDED)}</p><ul class="added">{"".join(items)}</ul>'


def _match(proposal: Proposal) -> str:
    match = proposal.match
    reason = " · ".join(part for part in (match.reason, *match.conflicts) if part)
    return f'<p class="match {match.verdict}"><span>{both(MATCH[match.verdict])} {escape(reason)}</span></p>'


def _tags(proposal: Proposal) -> str:
    words = "".join(f'<span class="chip">{both(word)}</span>' for word in motion_words(proposal.motion))
    return f'<p class="chips">{words}</p>'
