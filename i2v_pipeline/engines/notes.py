"""What a diffusion run says about itself: its findings, and how its prompts were read. Knows no tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from i2v_pipeline.guidance import is_ever_guided
from i2v_pipeline.planning.modes import Mode, Placement, Waits
from i2v_pipeline.prompts import cleaning_finding, count_tokens, length_finding
from i2v_pipeline.specs import PackedWeights, PromptStyle
from i2v_pipeline.types import Finding, GenerationRequest, Text

TILED_LEVELS = 4.0
"""Mean difference of frames decoded in tiles, at most: measured on random weights, where no context is smooth."""
HALF_LEVELS = 4.0
"""The same for a decoder in bf16."""
FP8_LEVELS = 4.0
"""The same for weights in fp8, against the same type that computes."""
_OFFLOAD: Mapping[Placement, str] = {
    "resident": "none: every part stays on the device",
    "staged": "encoders are released after encoding",
    "swapped": "one part at a time is on the device",
    "streamed": "one part at a time is on the device, but for the VAE a few layers of it at a time",
}
_WAITING: Mapping[Waits, str] = {
    "ram": "the others wait in the host's memory",
    "disk": "each is read from the disk for its turn, and the others take no memory",
}
_PROMPT = Text("prompt", "提示词")
_NEGATIVE = Text("negative prompt", "反向提示词")


def offload_words(mode: Mode) -> str:
    """What lies where, for the report."""
    words = _OFFLOAD[mode.placement]
    return f"{words}; {_WAITING[mode.waits]}" if mode.placement in ("swapped", "streamed") else words


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


def mode_notes(*, is_fp8: bool, is_half: bool, tile_side: int | None) -> list[Finding]:
    """What the mode, or the precision that was asked for, gave up of the picture; nothing where it gave up nothing."""
    findings = [FP8_WEIGHTS] if is_fp8 else []
    if is_half:
        findings.append(DECODED_IN_HALF)
    if tile_side is not None:
        findings.append(decoded_in_tiles(tile_side))
    return findings


def packed_weights_used(packed: PackedWeights) -> Finding:
    """What is lost there was lost as the file was made, so nothing was measured here."""
    return Finding(
        code="packed_weights",
        severity="info",
        message=Text(
            f"The weights of the denoiser were packed ({packed.in_words()}; {packed.bits:.1f} bits each on average) "
            "and widened to compute. The video is not the one that the full weights make: the fewer bits, the more "
            "detail and movement may differ.",
            f"去噪模型使用压缩权重（{packed.in_words()}；平均每个 {packed.bits:.1f} 位），计算时展开。"
            "视频与完整权重的结果不同：位数越少，细节和运动的差异可能越大。",
        ),
        remedy=Text(
            "A file of more bits, such as Q8_0, or the full weights, where the memory allows it.",
            "内存允许时，可换用位数更多的文件（如 Q8_0）或完整权重。",
        ),
    )


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


FP8_WEIGHTS = Finding(
    code="fp8_weights",
    severity="info",
    message=Text(
        "The weights of the denoiser were kept in fp8 and widened to compute, which takes half the memory. The video "
        "is not quite the one that the full weights make: with test weights its frames differ by "
        f"{FP8_LEVELS:g} of 255 levels on average at most; with a real model the movement may differ visibly.",
        f"去噪模型的权重以 fp8 保存、计算时展开，内存减半。视频与完整权重的结果略有不同：用测试权重测得平均不超过 "
        f"{FP8_LEVELS:g}/255 级；真实模型的运动可能有可见差异。",
    ),
    remedy=Text(
        "--precision bf16 keeps the full weights, where the memory allows it.",
        "内存允许时，--precision bf16 使用完整权重。",
    ),
)
DECODED_IN_HALF = Finding(
    code="decoded_in_half",
    severity="info",
    message=Text(
        "To fit on the card, the frames were decoded in bf16 instead of fp32. With test weights they differ by "
        f"{HALF_LEVELS:g} of 255 levels on average at most.",
        f"为放入显存，画面以 bf16（而非 fp32）解码。用测试权重测得平均相差不超过 {HALF_LEVELS:g}/255 级。",
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
