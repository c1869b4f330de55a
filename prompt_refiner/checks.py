"""Rules that every refined prompt is held against, whoever wrote it.

Knows the prompt and its style; not how the prompt came to be.
"""

from __future__ import annotations

from collections.abc import Iterable

from prompt_refiner.failures import Sentence
from prompt_refiner.ledger import additions, lost
from prompt_refiner.text import clean, estimate_tokens, excerpt, has_hanzi, language_of
from prompt_refiner.types import AddedElement, Check, CheckedText, Notice, Style


def fits_language(prompt: str, style: Style) -> bool:
    """Whether the encoder of this style can read all of the prompt."""
    written = language_of(prompt)
    if written == "mixed":
        return set(style.languages) >= {"zh", "en"}
    return written in style.languages or not any(mark.isalpha() for mark in prompt)


def count_tokens(prompt: str, style: Style) -> int | None:
    """By the encoder's own tokenizer where the style has it, else an estimate; None without a text encoder."""
    if style.encoder is None:
        return None
    return estimate_tokens(prompt) if style.count is None else style.count(prompt)


def _about(style: Style) -> Sentence:
    return Sentence("", "有") if style.counts_exactly else Sentence("about ", "约")


def check_prompt(prompt: str, style: Style) -> tuple[Check, ...]:
    """The language, and the length; an estimated one may differ from the encoder's own by a few tokens."""
    languages = " or ".join(style.languages)
    checks = [Check(name="language", passed=fits_language(prompt, style), detail=f"reads {languages}")]
    tokens = count_tokens(prompt, style)
    if tokens is not None and style.token_limit is not None:
        checks.append(
            Check(
                name="token_budget" if style.counts_exactly else "token_budget_estimated",
                passed=tokens <= style.token_limit,
                detail=f"{_about(style).en}{tokens} of {style.token_limit} tokens of {style.encoder}",
            )
        )
    return tuple(checks)


def check_text(
    typed: str, edited: str, style: Style, *, locked: Iterable[str] = (), seen: Iterable[str] = ()
) -> CheckedText:
    """Holds a text that the person edited against the rules and against what they first typed. Refuses nothing.

    `locked` are words that must stay, such as a LoRA's trigger words; `seen` are things known to be in the picture.
    """
    typed, edited = clean(typed), clean(edited)
    found = additions(typed, edited, seen=seen)
    return CheckedText(
        checks=(*check_prompt(edited, style), locked_check(typed, edited, locked)),
        additions=tuple(
            AddedElement(element=each.element, kind=each.kind, why="not in the typed text") for each in found
        ),
        token_count=count_tokens(edited, style),
        token_count_is_exact=style.counts_exactly,
        notices=(*language_notice(edited, style), *length_notice(edited, style)),
    )


def locked_check(typed: str, refined: str, locked: Iterable[str]) -> Check:
    """Quotations, numbers and trigger words stand in the refined text as they were typed."""
    gone = lost(typed, refined, locked=locked)
    return Check(
        name="kept_verbatim", passed=not gone, detail=excerpt(f"missing: {', '.join(gone)}") if gone else "all"
    )


def length_notice(prompt: str, style: Style) -> tuple[Notice, ...]:
    """Says that the end of a long prompt will not be read. Nothing is cut here."""
    tokens = count_tokens(prompt, style)
    if tokens is None or style.token_limit is None or tokens <= style.token_limit:
        return ()
    about = _about(style)
    return (
        Notice(
            code="too_long",
            severity="warn",
            en=f"The prompt has {about.en}{tokens} tokens: this engine reads {style.token_limit}, the rest has no "
            "effect. Shorten it.",
            zh=f"提示词{about.zh} {tokens} 个词元：该引擎只读取 {style.token_limit} 个，其余部分不起作用。请缩短。",
        ),
    )


def language_notice(prompt: str, style: Style) -> tuple[Notice, ...]:
    """Names what the engine will not understand."""
    if fits_language(prompt, style):
        return ()
    if "zh" not in style.languages and has_hanzi(prompt):
        return (
            Notice(
                code="untranslated",
                severity="warn",
                en="This engine reads English only, and without an LLM nothing but camera words can be translated. "
                f"Left as typed: {excerpt(prompt)}. Write it in English, or set up an LLM.",
                zh=f"该引擎只懂英文；没有大模型时只能翻译镜头用语，其余原样保留：{excerpt(prompt)}。请改用英文，或配置大模型。",
            ),
        )
    return (
        Notice(
            code="language_unread",
            severity="warn",
            en="The prompt is in a language that this engine or the offline rules do not read; it stays as typed. "
            "Write it in " + (" or ".join("Chinese" if each == "zh" else "English" for each in style.languages)) + ".",
            zh="提示词所用的语言该引擎或离线规则无法理解，已原样保留。请改用"
            + "或".join("中文" if each == "zh" else "英文" for each in style.languages)
            + "。",
        ),
    )
