"""What a diffusion run says about itself: its findings, and how its prompts were read. Knows no tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from i2v_pipeline.guidance import is_ever_guided
from i2v_pipeline.prompts import cleaning_finding, count_tokens, length_finding
from i2v_pipeline.specs import PromptStyle
from i2v_pipeline.types import Finding, GenerationRequest, Text

TILED_LEVELS = 4.0
"""Mean difference of frames decoded in tiles, at most: measured on random weights, where no context is smooth."""
_PROMPT = Text("prompt", "提示词")
_NEGATIVE = Text("negative prompt", "反向提示词")


def prompt_notes(
    style: PromptStyle,
    read_text: Callable[[str], str],
    tokenizer: Any,  # noqa: ANN401 - transformers chooses the class
    request: GenerationRequest,
) -> tuple[list[Finding], dict[str, Any]]:
    """What to say about the prompts before the run, and the facts: the texts as read, and the prompt's tokens.

    `read_text` gives a text as the tokenizer gets it.
    """
    assert request.guidance is not None
    findings: list[Finding] = []
    texts = [(request.prompt, _PROMPT)]
    if is_ever_guided(request.guidance):
        texts.append((request.negative_prompt, _NEGATIVE))
    elif request.negative_prompt:
        findings.append(NEGATIVE_UNUSED)
    for text, name in texts:
        read = read_text(text)
        found = (cleaning_finding(text, read, name), length_finding(tokenizer, read, style, name))
        findings += [finding for finding in found if finding is not None]
    facts = {
        "text_read": {name.en: read_text(text) for text, name in texts},
        "tokens": count_tokens(tokenizer, read_text(request.prompt)),
    }
    return findings, facts


def decoded_in_tiles(side: int) -> Finding:
    """Told with what was measured: see `TILED_LEVELS`."""
    return Finding(
        code="decoded_in_tiles",
        severity="info",
        message=Text(
            f"To fit on the card, the frames were decoded in overlapping tiles of {side} x {side} pixels. They "
            f"differ a little from frames that are decoded whole: with test weights by {TILED_LEVELS:g} of 255 levels "
            "on average at most. Tile edges may show in flat areas.",
            f"为放入显存，画面以 {side} x {side} 像素的重叠分块解码，与整幅解码略有差异："
            f"用测试权重测得平均不超过 {TILED_LEVELS:g}/255 级。平坦区域可能看到块边缘。",
        ),
    )


NEGATIVE_UNUSED = Finding(
    code="negative_unused",
    severity="info",
    message=Text(
        "At guidance 1 there is no unconditional pass, so the negative prompt has no effect.",
        "引导强度为 1 时不做无条件推理，反向提示词不起作用。",
    ),
)


STATE_NOT_USED = Finding(
    code="state_not_used",
    severity="info",
    message=Text(
        "What an earlier run of this job had saved is damaged or was made by other settings, files or versions, so "
        "denoising began again. The video is the same.",
        "该任务上次保存的进度已损坏，或来自不同的设置、文件或版本，因此去噪从头开始。生成的视频相同。",
    ),
)
STATE_NOT_SAVED = Finding(
    code="state_not_saved",
    severity="warn",
    message=Text(
        "The state of the run could not be saved to the disk, so after a crash it would have begun again.",
        "运行进度未能写入磁盘；如果中途崩溃，只能从头开始。",
    ),
    remedy=Text("Free some space on the disk of the data folder.", "请清理数据文件夹所在磁盘的空间。"),
)
