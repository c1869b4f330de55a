"""What a text encoder really reads of a prompt: cleaned, counted, and what would be cut. Knows no model's weights."""

from __future__ import annotations

import html
import unicodedata
from typing import Any

import ftfy

from i2v_pipeline.specs import PromptStyle
from i2v_pipeline.types import Finding, Text

_SHOWN_CHARACTERS = 200


def clean_prompt(text: str) -> str:
    """The text as the Wan models were given theirs: broken Unicode mended, HTML entities resolved, one space at most.

    Source: `prompt_clean` of diffusers' Wan pipelines, twice unescaped as there.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def cleaning_finding(text: str, cleaned: str, name: Text) -> Finding | None:
    """Says that the encoder gets other characters than were sent, where more than their width changed."""
    if unicodedata.normalize("NFKC", text) == unicodedata.normalize("NFKC", cleaned):
        return None
    return Finding(
        code="prompt_cleaned",
        severity="info",
        message=Text(
            f"The {name.en} was cleaned for the text encoder; it reads: {cleaned}",
            f"{name.zh}在编码前经过清理，实际读取的是：{cleaned}",
        ),
    )


def count_tokens(tokenizer: Any, text: str) -> int:  # noqa: ANN401 - transformers gives its tokenizers no narrow type
    """Tokens of `text`, without the marks of begin and end."""
    return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def length_finding(tokenizer: Any, text: str, style: PromptStyle, name: Text) -> Finding | None:  # noqa: ANN401
    """Says what the encoder does not see of `text`, where it is longer than the encoder's limit."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    count = len(encoded.input_ids)
    if style.token_limit is None or count <= style.token_limit:
        return None
    cut = text[encoded.offset_mapping[style.token_limit][0] :].strip()
    shown = cut if len(cut) <= _SHOWN_CHARACTERS else f"{cut[:_SHOWN_CHARACTERS]}…"
    return Finding(
        code="prompt_cut",
        severity="warn",
        message=Text(
            f"The {name.en} has {count} tokens; {style.encoder} reads {style.token_limit}. Not read: “{shown}”",
            f"{name.zh}有 {count} 个词元，{style.encoder} 只读取前 {style.token_limit} 个。未读取的部分：“{shown}”",
        ),
        remedy=Text("Shorten it so that what matters comes first.", "请缩短内容，把重要的部分放在前面。"),
    )
