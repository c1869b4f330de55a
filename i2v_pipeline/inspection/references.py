"""What is worth knowing of a reference picture before a run. Warns, and refuses nothing.

Knows no request; what the networks found in it is handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from i2v_pipeline.images import Picture
from i2v_pipeline.inspection.preflight import MUCH_ENLARGED, picture_findings
from i2v_pipeline.inspection.subjects import Found, subject_findings
from i2v_pipeline.types import Finding, Severity, Text

_SAID_OF_A_REFERENCE = frozenset(
    {
        *("picture_animated", "picture_exif_unreadable", "picture_profile_unreadable", "picture_print_colours"),
        *("picture_small", "picture_dark", "blurry", "picture_blocky"),
    }
)
"""What is true of a reference as of any picture. The rest speaks of a picture that moves."""


def reference_findings(
    picture: Picture, name: Text, size: tuple[int, int], found: Found | None = None
) -> tuple[Finding, ...]:
    """What `picture` shows, each sentence beginning with `name`; of its subject only where `found` is given.

    `size` is the video's width and height.
    """
    return named(findings_of(picture, size, found), name)


def findings_of(picture: Picture, size: tuple[int, int], found: Found | None = None) -> tuple[Finding, ...]:
    """The same without the name; each sentence begins in the middle, for `named`."""
    general = (*picture.notes, *picture_findings(picture.pixels))
    return (
        *(finding for finding in general if finding.code in _SAID_OF_A_REFERENCE),
        *_own_findings(picture, size),
        *(_found_findings(found) if found is not None else ()),
    )


def named(findings: Iterable[Finding], name: Text) -> tuple[Finding, ...]:
    """The findings, each sentence beginning with `name`."""
    return tuple(
        replace(finding, message=Text(f"{name.en}: {finding.message.en}", f"{name.zh}：{finding.message.zh}"))
        for finding in findings
    )


def _own_findings(picture: Picture, size: tuple[int, int]) -> Iterator[Finding]:
    if any(note.code == "picture_transparent" for note in picture.notes):
        yield _finding(
            "reference_transparent",
            "transparent parts become white, as the model expects.",
            "透明部分将变为白色，符合模型的要求。",
            severity="info",
        )
    enlarged = min(size[0] / picture.width, size[1] / picture.height)
    if enlarged > MUCH_ENLARGED:
        yield _finding(
            "reference_enlarged",
            f"the picture is enlarged {enlarged:.1f} times: the subject will lack detail.",
            f"图片将放大 {enlarged:.1f} 倍，主体会缺少细节。",
            remedy=Text("Take a larger copy of it.", "请换用更大的原图。"),
        )


def _found_findings(found: Found) -> Iterator[Finding]:
    codes = {finding.code for finding in subject_findings(found)}
    if "no_subject" in codes:
        yield _finding(
            "reference_no_subject",
            "no clear subject stands out, so the model may take up the whole scene.",
            "没有突出的主体，模型可能会把整个场景当作参考。",
            remedy=Text("Crop closer to the subject, or take another picture.", "请裁剪得离主体更近，或换一张图片。"),
        )
    if "multiple_subjects" in codes:
        yield _finding(
            "reference_several_subjects",
            "there are several subjects in it; the model expects one in each reference.",
            "图中有多个主体；模型要求每张参考图只有一个主体。",
            remedy=Text(
                "Crop to one of them; give the others as references of their own.", "请裁剪到其中一个，其余另作参考图。"
            ),
        )
    if "tiny_subject" in codes:
        yield _finding(
            "reference_tiny_subject",
            f"the subject fills {100 * found.subject.area_share:.1f} % of it: the model sees little of how it looks.",
            f"主体只占 {100 * found.subject.area_share:.1f}%：模型看不清其外观。",
            remedy=Text("Crop closer to it.", "请裁剪得离主体更近。"),
        )


def _finding(code: str, en: str, zh: str, *, remedy: Text | None = None, severity: Severity = "warn") -> Finding:
    return Finding(code=code, severity=severity, message=Text(en, zh), remedy=remedy)
