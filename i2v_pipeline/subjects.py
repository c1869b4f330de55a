"""Reference pictures as a model sees them: whole, in the middle of white, without their background where that is asked.

Knows no model and no prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from i2v_pipeline.errors import PictureError
from i2v_pipeline.images import Picture, open_picture, prepare
from i2v_pipeline.inspection.references import reference_findings
from i2v_pipeline.types import Finding, Prepared, Subject, Text, U8Image


def open_references(
    images: Sequence[Path], subjects: Sequence[Subject], width: int, height: int
) -> tuple[Prepared, tuple[Finding, ...]]:
    """The references at this size, the further ones as `others` of the first, and what is to say about them.

    Raises `PictureError`, which names the reference, for one that cannot be used.
    """
    prepared: list[Prepared] = []
    findings: list[Finding] = []
    for place, (image, subject) in enumerate(zip(images, subjects, strict=True), 1):
        try:
            picture = open_picture(image)
            prepared.append(prepare_reference(picture, subject, width, height))
        except PictureError as error:
            called = name_of(place, subject)
            raise PictureError(f"{called.en}: {error.text.en}", f"{called.zh}：{error.text.zh}") from error
        findings += reference_findings(picture, name_of(place, subject), (width, height))
    return replace(prepared[0], others=tuple(prepared[1:])), tuple(findings)


def prepare_reference(picture: Picture, subject: Subject, width: int, height: int) -> Prepared:
    """One reference exactly as the model will see it. Raises `PictureError` where there is no subject to cut out."""
    if not subject.remove_background:
        return prepare(picture, width, height, "white")
    alone = prepare(replace(picture, pixels=put_on_white(picture.pixels)), width, height, "white")
    return replace(
        alone,
        fitted=Text(
            f"The background was removed. {alone.fitted.en}",
            f"已去除背景。{alone.fitted.zh}",
        ),
    )


def put_on_white(pixels: U8Image) -> U8Image:
    """The subject that stands out, alone on white. Raises `PictureError` where none does."""
    # The page asks this of few pictures, and loads no engine before it does.
    from i2v_pipeline.engines.camera.cutout import cut_out
    from i2v_pipeline.engines.camera.subject import SubjectNetwork

    subject = SubjectNetwork().find(pixels)
    cut = cut_out(pixels, subject.mask, lambda: None, has_fringe=False) if subject.found else None
    if cut is None:
        raise PictureError(
            "No clear subject stands out, so the background cannot be removed. Keep the background, crop closer to the "
            "subject, or cut it out in an image program and save it as PNG.",
            "没有突出的主体，无法去除背景。请保留背景、裁剪得离主体更近，或用图像软件抠图后存为 PNG。",
        )
    white = np.full(pixels.shape, 255, np.uint8)
    (left, top), (height, width) = cut.offset_px, cut.rgba.shape[:2]
    # The cut-out's colours are multiplied by their cover already.
    white[top : top + height, left : left + width] = cut.rgba[..., :3] + (255 - cut.rgba[..., 3:])
    return white


def name_of(place: int, subject: Subject) -> Text:
    """`Reference 2 (the cat)`; `place` counts from 1."""
    called = Text(f" ({subject.name})", f"（{subject.name}）") if subject.name else Text("", "")
    return Text(f"Reference {place}{called.en}", f"参考图 {place}{called.zh}")
