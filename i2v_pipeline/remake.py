"""The video that a chain's last clip went on from, for making that clip again: found, or made again from its recipes.

Knows no comparison of the whole; says only which of the clips before came out otherwise than then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from i2v_pipeline.continuation import read_frame
from i2v_pipeline.errors import InputError
from i2v_pipeline.recipe import Recipe, known_report
from i2v_pipeline.report import SCHEMA
from i2v_pipeline.report_parts import KnownClip, KnownRecipe
from i2v_pipeline.types import Continuation

MakeAgain = Callable[[Recipe, Path | None, Continuation | None, Path], str]
"""Makes a clip's recipe again, with this picture in place of its own and from this video on, into this file; returns
the `frames_sha256` of what was made."""


@dataclass(frozen=True, kw_only=True)
class Remade:
    """What the last clip goes on from, and its first picture. `otherwise` are the clips, from 0, that were made again
    and have other frames: (clip, then, now)."""

    continues: Continuation
    picture: Path
    otherwise: tuple[tuple[int, str, str], ...] = ()


def find_continued(recipe: Recipe, given: Path | None, folder: Path) -> Path | None:
    """The video that the recipe's last clip went on from: the given file, else one in `folder`, else None.

    It is known by its bytes. Raises `InputError` for a given file that is another one.
    """
    clip = _clips_before(recipe)[-1]
    if given is not None:
        if not _is_that(given, clip):
            raise InputError(
                f"--video {given.name}: this is not the video that was continued, or it was changed since. Give that "
                "one, or leave it out: it is then made again.",
                f"--video {given.name}：这不是被续写的视频，或已被改动。请提供原视频，或去掉该选项以重新生成。",
            )
        return given
    try:
        return next((path for path in sorted(folder.glob("*.mp4")) if _is_that(path, clip)), None)
    except OSError:
        return None


def continue_again(recipe: Recipe, video: Path | None, folder: Path, make_again: MakeAgain) -> Remade:
    """What the last clip goes on from: `video`, or where it is None the clips before, made again one after another."""
    clips, otherwise = _clips_before(recipe), []
    if video is not None:
        return _goes_on(clips[-1], video, folder)
    remade: Remade | None = None
    for number, clip in enumerate(clips):
        made = folder / f"clip-{number}.mp4"
        part = Recipe(
            report=_report_of(clip),
            is_video=False,
            picture=recipe.picture if remade is None else None,
        )
        if number and clip.recipe is not None and clip.recipe.parameters.last_image:
            raise InputError(
                f"Clip {number + 1} of the chain ended with a picture that is not in this file. Give the video that "
                "was continued with --video.",
                f"第 {number + 1} 段以一张图片结尾，而该文件中没有它。请用 --video 提供被续写的视频。",
            )
        picture, continues = (None, None) if remade is None else (remade.picture, remade.continues)
        now = make_again(part, picture, continues, made)
        if now != clip.frames_sha256:
            otherwise.append((number, str(clip.frames_sha256), now))
        remade = _goes_on(clip, made, folder)
    assert remade is not None, "a chain has a clip before its last"
    return Remade(continues=remade.continues, picture=remade.picture, otherwise=tuple(otherwise))


def is_chain(recipe: Recipe) -> bool:
    """Whether the video was made longer, so that there are clips before its last."""
    return known_report(recipe.report).continuation is not None


def _clips_before(recipe: Recipe) -> list[KnownClip]:
    chain = known_report(recipe.report).continuation
    return [] if chain is None else chain.clips[:-1]


def _goes_on(clip: KnownClip, video: Path, folder: Path) -> Remade:
    frame = clip.continued_at or 0
    picture = folder / f"{video.stem}-{frame}.png"
    Image.fromarray(read_frame(video, frame)).save(picture)
    return Remade(continues=Continuation(video=video, frame=frame), picture=picture)


def _report_of(clip: KnownClip) -> dict[str, Any]:
    assert isinstance(clip.recipe, KnownRecipe), "the model asks for it in every clip but the last"
    return {"schema": SCHEMA, "job": clip.job, "created": clip.created, **clip.recipe.model_dump(mode="json")}


def _is_that(path: Path, clip: KnownClip) -> bool:
    if not path.is_file() or path.stat().st_size != clip.video_bytes:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == clip.video_sha256
