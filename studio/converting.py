"""A conversion told: how far it is, what it made, what it left out. Converts nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from i2v_pipeline.hub import GB
from i2v_pipeline.kaleido.keys import KALEIDO
from i2v_pipeline.types import Text
from studio.foreground import ProgressBar

if TYPE_CHECKING:
    from i2v_pipeline.kaleido.convert import Converted  # brings torch, which takes seconds


def told(converted: Converted) -> list[Text]:
    """Tensors, types and sizes; what was skipped; where the other parts come from."""
    types = ", ".join(f"{count} {kind}" for kind, count in sorted(converted.types.items()))
    tensors = sum(converted.types.values())
    linked, copied = converted.linked_bytes / GB, converted.copied_bytes / GB
    lines = [
        Text(
            f"{tensors} tensors read ({types}), {converted.tensors} written: "
            f"{converted.parameters:,} parameters, {converted.weights_bytes / GB:.2f} GB, bfloat16 but for the few "
            "parts that are kept in float32.",
            f"读取 {tensors} 个张量（{types}），写入 {converted.tensors} 个：共 "
            f"{converted.parameters:,} 个参数，{converted.weights_bytes / GB:.2f} GB；除少数部分保留 float32 外均为 "
            "bfloat16。",
        ),
        Text(
            f"Text encoder, tokenizer, VAE and scheduler: from {converted.companions}, {linked:.2f} GB hard-linked, "
            f"{copied:.2f} GB copied.",
            f"文本编码器、分词器、VAE 与调度器来自 {converted.companions}：{linked:.2f} GB 为硬链接，"
            f"{copied:.2f} GB 为复制。",
        ),
    ]
    if converted.geometry != KALEIDO:
        size, layers, width = f"{converted.geometry.layers}", f"{KALEIDO.layers}", KALEIDO.width
        lines.append(
            Text(
                f"This is a small model, not Kaleido itself: {size} layers {converted.geometry.width} wide, where "
                f"Kaleido has {layers} of {width}.",
                f"这是小型模型而非 Kaleido 本身：{size} 层、宽度 {converted.geometry.width}，"
                f"Kaleido 为 {layers} 层、宽度 {width}。",
            )
        )
    skipped = [f"{section} ({count})" for section, count in sorted(converted.skipped.items())]
    if left_out := ", ".join((*skipped, *converted.beside)):
        lines.append(
            Text(f"Not of the transformer and left out: {left_out}.", f"不属于 Transformer，未转换：{left_out}。")
        )
    return lines


def reporter(bar: ProgressBar) -> Callable[[int, int], None]:
    """Shows bytes done of all on the bar; where there is no terminal, writes a line at every tenth of them."""
    written = -1

    def report(done: int, total: int) -> None:
        nonlocal written
        told = f"{done / GB:.1f}/{total / GB:.1f} GB"
        if bar.is_shown:
            bar.show("convert", done / total, told)
        elif 10 * done // total > written:
            written = 10 * done // total
            sys.stderr.write(f"convert {told}\n")

    return report
