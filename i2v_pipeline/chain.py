"""What is told of a video that was made longer: its clips, how they were joined, how far it has drifted.

Knows no file: the clips of before come as the report of the continued video has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from i2v_pipeline.colour_match import SPACE, ColourMatch
from i2v_pipeline.inspection.drift import ClipDrift, Range
from i2v_pipeline.types import Finding, GenerationRequest, Text

LIKE_SSIM = 0.7
"""Below this the new clip's first frame is not the chosen one, and the join jumps. A coded frame reaches 0.9; a picture
that is moved by a few pixels stays below 0.6."""


@dataclass(frozen=True, kw_only=True)
class Join:
    """How the new clip's first frame compares with the chosen one, and the match that all its frames got."""

    ssim: float
    delta_e: float
    match: ColourMatch | None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The last frame that was kept, how many after it were cut away, and how many the new clip brings."""

    frame: int
    cut: int
    new: int


@dataclass(frozen=True, kw_only=True)
class Told:
    """The `continuation` section of the report, and what it says in sentences; None and none for a clip alone."""

    section: Mapping[str, Any] | None = None
    findings: tuple[Finding, ...] = ()


def own_clip(
    request: GenerationRequest, join: Join | None, frames: Range, *, job_id: str, created: datetime
) -> dict[str, Any]:
    """The clip that was just made, as the last one of the chain."""
    return {
        "job": job_id,
        "created": created.isoformat(timespec="seconds"),
        "seed": request.seed,
        "prompt": request.prompt,
        "frames": list(frames),
        "encoded": 1,
        "join": _join_as_json(join),
        **dict.fromkeys(("continued_at", "video_sha256", "video_bytes", "frames_sha256", "recipe")),
    }


def ranges_of(clips: Sequence[Mapping[str, Any]]) -> list[Range]:
    """First and last frame of each clip that has any in the video."""
    return [(clip["frames"][0], clip["frames"][1]) for clip in clips if clip["frames"] is not None]


def section_of(clips: Sequence[Mapping[str, Any]], drift: Sequence[ClipDrift]) -> dict[str, Any]:
    """The `continuation` section of the report: the chain, and how far each clip has drifted from the first."""
    told = [
        {
            "frames": clip["frames"],
            "colour_delta_e": round(each.colour, 2),
            "sharpness": round(each.sharpness, 3),
            "followed": None
            if each.followed_colour is None or each.followed_sharpness is None
            else {"colour_delta_e": round(each.followed_colour, 2), "sharpness": round(each.followed_sharpness, 3)},
        }
        for clip, each in zip((clip for clip in clips if clip["frames"] is not None), drift, strict=True)
    ]
    return {"clips": list(clips), "drift": {"clips": told, "far": drift[-1].is_far}}


def findings_of(kept: Kept, join: Join | None, drift: ClipDrift) -> tuple[Finding, ...]:
    """What is to say about the join, and about how far the whole has drifted."""
    return (_told_kept(kept), *([] if join is None else _told_join(join)), _told_drift(drift))


def _join_as_json(join: Join | None) -> dict[str, Any] | None:
    if join is None:
        return None
    match = join.match
    return {
        "ssim": round(join.ssim, 4),
        "delta_e": round(join.delta_e, 2),
        "colour": None if match is None else {"space": SPACE, **_rounded(match), "applied": match.is_applied},
    }


def _rounded(match: ColourMatch) -> dict[str, Any]:
    values = asdict(match)
    return {
        name: round(value, 3) if isinstance(value, float) else [round(each, 5) for each in value]
        for name, value in values.items()
    }


def _told_kept(kept: Kept) -> Finding:
    frame, cut, new = kept.frame, kept.cut, kept.new
    return Finding(
        code="continuation_kept",
        severity="info",
        message=Text(
            f"Frames 0 to {frame} are those of the video that was continued, decoded from its MP4 and coded once more; "
            f"{cut} after them were cut away. The new clip brings {new}: its first shows frame {frame} again and was "
            "left out.",
            f"第 0 到 {frame} 帧来自被续写的视频（由其 MP4 解码后重新编码），其后 {cut} 帧已裁去。新片段带来 {new} 帧："
            f"它的首帧与第 {frame} 帧重复，已略去。",
        ),
    )


def _told_join(join: Join) -> Iterator[Finding]:
    if join.ssim < LIKE_SSIM:
        yield Finding(
            code="continuation_jump",
            severity="warn",
            message=Text(
                f"The new clip does not begin with the frame that it was given (similarity {join.ssim:.2f} of 1), so "
                "the picture jumps at the join.",
                f"新片段的首帧与所给的帧不同（相似度 {join.ssim:.2f}，满分 1），拼接处画面会跳动。",
            ),
            remedy=Text(
                "Ask for a camera move that begins with the whole picture, such as a push-in, or take another seed.",
                "请改用从完整画面开始的运镜（例如推近），或换一个种子。",
            ),
        )
    match = join.match
    if match is None:
        message = Text(
            "The new clip's first frame shows another place than the frame that it was given, so its colours could not "
            "be matched.",
            "新片段的首帧与所给的帧不是同一画面，无法匹配颜色。",
        )
    elif not match.is_applied:
        message = Text(
            f"At the join the colours agree (CIE76 {match.before:.1f}): the new clip's were left as they are.",
            f"拼接处颜色一致（CIE76 {match.before:.1f}）：新片段的颜色未作改动。",
        )
    else:
        message = Text(
            f"The new clip's colours were moved by {match.moved_by:.1f} (CIE76, in L*a*b*), the same in each of its "
            f"frames, to those of the video: at the join they were off by {match.before:.1f} and are by "
            f"{match.after:.1f}.",
            f"新片段的颜色在 L*a*b* 中整体调整了 {match.moved_by:.1f}（CIE76，各帧相同）以与原视频一致：拼接处的色差由 "
            f"{match.before:.1f} 变为 {match.after:.1f}。",
        )
    yield Finding(code="continuation_colour", severity="info" if match else "warn", message=message)


def _told_drift(drift: ClipDrift) -> Finding:
    is_followed = drift.followed_colour is not None and drift.followed_sharpness is not None
    colour = drift.followed_colour if drift.followed_colour is not None else drift.colour
    sharpness = drift.followed_sharpness if drift.followed_sharpness is not None else drift.sharpness
    how = (
        Text("in the same places", "在相同位置")
        if is_followed
        else Text(
            "over whole clips, since the places of the beginning are lost", "按整段比较（开头的位置已不在画面中）"
        )
    )
    return Finding(
        code="continuation_drift",
        severity="warn" if drift.is_far else "info",
        message=Text(
            f"From its beginning to its end the video has drifted by {colour:.1f} in colour (CIE76) and has "
            f"{sharpness:.0%} of the sharpness, measured {how.en}.",
            f"从开头到结尾，颜色漂移 {colour:.1f}（CIE76），清晰度为开头的 {sharpness:.0%}，{how.zh}测得。",
        ),
        remedy=Text(
            "The next clip would begin with this: go on from an earlier frame, or take another seed.",
            "下一段会从这里开始：请从更早的帧续写，或换一个种子。",
        )
        if drift.is_far
        else None,
    )
