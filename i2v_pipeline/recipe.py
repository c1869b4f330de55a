"""What a finished video or its report gives back: the request that it was made from, and the pictures.

Runs nothing and compares nothing; trusts no byte of what it reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, get_args

from pydantic import ValidationError

from i2v_pipeline.checks import check_request
from i2v_pipeline.errors import InputError, RecipeError
from i2v_pipeline.presets import find_engine
from i2v_pipeline.report import SCHEMA
from i2v_pipeline.report_parts import KnownAddition, KnownRecipe, KnownReport, KnownSchedule, PictureFormat, Strength
from i2v_pipeline.types import (
    AddedElement,
    Aftercare,
    Continuation,
    Finding,
    GenerationRequest,
    Guidance,
    GuidanceSchedule,
    LoraRef,
    Motion,
    PromptOrigin,
    Subject,
    Text,
)
from i2v_pipeline.video import read_comment, read_last_picture, read_picture, read_references

MAX_REPORT_BYTES = 8 * 2**20
"""A report takes 10 to 100 KB; the longest lists in it grow with the frames and the steps."""
MAX_DEPTH = 32
"""A report is 7 levels deep."""
_TOLD_MISTAKES = 6

StoredPicture = tuple[str, bytes]
"""The name of a format, a `PictureFormat`, and the file's bytes as they were given."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A report that this studio can use, and the pictures that stood in the same file, None where they did not.

    Of a video that was made of references `picture` is the first, and `references` are the further ones: all, or none.
    """

    report: dict[str, Any]
    is_video: bool
    picture: StoredPicture | None = field(default=None, repr=False)
    last_picture: StoredPicture | None = field(default=None, repr=False)
    references: tuple[StoredPicture, ...] = field(default=(), repr=False)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_recipe(path: Path) -> Recipe:
    """The report in a report's file or inside an MP4, told apart by their first bytes, and the pictures beside it.

    Raises `RecipeError`, whose sentences name no path, for everything that is no whole and usable report of ours.
    """
    is_mp4 = _first_bytes(path)[4:8] == b"ftyp"
    report = _parse(_comment_of(path) if is_mp4 else _text_of(path), is_mp4=is_mp4)
    known = known_report(report)
    if not is_mp4:
        return Recipe(report=report, is_video=False)
    try:
        picture, last_picture, references = read_picture(path), read_last_picture(path), read_references(path)
    except InputError as error:
        raise RecipeError(
            "The picture inside this video cannot be read: the file is cut short or damaged. Take a whole copy of it.",
            "无法读取该视频中的图片：文件不完整或已损坏。请使用完整的副本。",
        ) from error
    _check_stored(picture, first_recipe(known).image.sha256)
    _check_stored(last_picture, known.image.last.sha256 if known.image.last else None)
    further = known.references[1:]
    if references and len(references) != len(further):
        raise _changed()
    for reference, told in zip(references, further, strict=False):
        _check_stored(reference, told.sha256)
    return Recipe(report=report, is_video=True, picture=picture, last_picture=last_picture, references=references)


def request_from_report(
    report: dict[str, Any],
    picture: Path,
    *,
    references: Sequence[Path] = (),
    last_picture: Path | None = None,
    checkpoint: Path | None = None,
    continued_video: Path | None = None,
) -> GenerationRequest:
    """The request that the report was made from, with the files that a report does not hold.

    `references` are those after `picture`. Of a chain it is the last clip's request; without the video that it
    continued, one that begins anew from `picture`. Whether a file is missing is `missing_parts`' to say; it is then
    left out here, or for a reference has no name. Raises `RecipeError` for a report
    that cannot be used, and other `InputError`s for an engine or a setting that this studio does not have.
    """
    known = known_report(report)
    settings, prompt, motion = known.parameters, known.prompt, known.prompt.motion
    unnamed = (Path(),) * (len(settings.subjects) - 1 - len(references))
    request = GenerationRequest(
        engine=known.engine.id,
        images=(picture, *references, *unnamed),
        prompt=prompt.sent,
        origin=PromptOrigin(
            typed=prompt.typed,
            refined=prompt.refined,
            source=prompt.source,
            provider=prompt.provider,
            model=prompt.model,
            added_elements=_elements(prompt.added_elements),
            struck_out=_elements(prompt.struck_out),
            edited=prompt.edited,
        ),
        motion=Motion(**{**motion.model_dump(), "camera": tuple(motion.camera)}),
        resolution=settings.resolution,
        width=settings.width,
        height=settings.height,
        fit=settings.fit,
        frames=settings.frames,
        fps=settings.fps,
        seed=settings.seed,
        negative_prompt=settings.negative_prompt,
        preset=settings.preset,
        steps=settings.steps,
        guidance=_guidance(settings.guidance),
        embed_source=settings.embed_source,
        scheduler=settings.scheduler,
        flow_shift=settings.flow_shift,
        loras=tuple(LoraRef(**lora.model_dump()) for lora in settings.loras),
        last_image=last_picture,
        subjects=tuple(Subject(**subject.model_dump()) for subject in settings.subjects),
        checkpoint=checkpoint,
        device=settings.device,
        precision=settings.precision,
        aftercare=Aftercare(**settings.aftercare.model_dump()),
        continues=None if continued_video is None else _continuation(known, continued_video),
        attention=settings.attention,
        cache=settings.cache,
        compiled=settings.compiled,
    )
    check_request(find_engine(request.engine), request)
    return request


def first_recipe(known: KnownReport) -> KnownRecipe:
    """The recipe of the clip that a video begins with: its own, or that of the chain's first."""
    first = None if known.continuation is None else known.continuation.clips[0].recipe
    return known if first is None else first


def _continuation(known: KnownReport, video: Path) -> Continuation | None:
    frame = None if known.continuation is None else known.continuation.clips[-2].continued_at
    return None if frame is None else Continuation(video=video, frame=frame)


def _elements(given: list[KnownAddition]) -> tuple[AddedElement, ...]:
    return tuple(AddedElement(**each.model_dump()) for each in given)


def missing_parts(recipe: Recipe) -> tuple[Finding, ...]:
    """The files that the video was made from and that are not in the recipe.

    Their codes: `picture`, `references`, `last_picture`, `checkpoint`.
    Raises `RecipeError` for a report that cannot be used.
    """
    known = known_report(recipe.report)
    missing: list[Finding] = []
    if recipe.picture is None:
        missing.append(
            _missing(
                "picture",
                Text("The picture is not in this file.", "该文件中没有源图片。"),
                Text("Give the picture itself too.", "请另外提供源图片。"),
            )
        )
    if len(known.parameters.subjects) - 1 > len(recipe.references):
        missing.append(
            _missing(
                "references",
                Text("The further reference pictures are not in this file.", "该文件中没有其余参考图。"),
                Text("Give the reference pictures too.", "请另外提供参考图。"),
            )
        )
    if known.parameters.last_image and recipe.last_picture is None:
        missing.append(
            _missing(
                "last_picture",
                Text("The picture that the video ends with is not in this file.", "该文件中没有结尾图片。"),
                Text("Give the last picture too.", "请另外提供结尾图片。"),
            )
        )
    if known.parameters.checkpoint is not None:
        name = known.parameters.checkpoint
        missing.append(
            _missing(
                "checkpoint",
                Text(
                    f"The video was made with a model from the folder {name!r}, not with the engine's own.",
                    f"该视频使用的是文件夹 {name!r} 中的模型，而不是引擎自带的模型。",
                ),
                Text("Give that folder too.", "请另外提供该文件夹。"),
            )
        )
    return tuple(missing)


def save_picture(picture: StoredPicture, folder: Path, name: str) -> Path:
    """Writes the picture's bytes into `folder` under `name` and the ending of its format, and returns the path."""
    path = folder / f"{name}.{picture[0].lower()}"
    path.write_bytes(picture[1])
    return path


# --- parts ------------------------------------------------------------------------------------------------------------


def _first_bytes(path: Path) -> bytes:
    return _read(path, 12)


def _text_of(path: Path) -> bytes:
    return _read(path, MAX_REPORT_BYTES + 1)


def _read(path: Path, count: int) -> bytes:
    if not path.is_file():
        raise RecipeError(
            "There is no such file. Check the name and the folder.", "找不到该文件。请检查文件名和文件夹。"
        )
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise RecipeError(
            "The file cannot be read. Check that you may open it.", "无法读取该文件。请检查是否有权限打开。"
        ) from error


def _comment_of(path: Path) -> bytes:
    try:
        comment = read_comment(path)
    except InputError as error:
        raise RecipeError(*error.text) from error
    if not comment:
        raise RecipeError(
            "This video has no report inside: only videos made by this studio do, as long as no other program has "
            "rewritten them. Give the original file, or its report.",
            "该视频里没有报告：只有本工作室生成、且未被其他程序改写过的视频才有。请提供原始文件或它的报告。",
        )
    return comment


def _parse(text: bytes, *, is_mp4: bool) -> dict[str, Any]:
    if len(text) > MAX_REPORT_BYTES:
        raise RecipeError(
            f"The file is too large for a report: at most {MAX_REPORT_BYTES // 2**20} MiB are read. "
            "Give the report of one video, or the video itself.",
            f"文件太大，不像是报告：最多读取 {MAX_REPORT_BYTES // 2**20} MiB。请提供某个视频的报告，或视频本身。",
        )
    try:
        report = json.loads(text, parse_constant=_refuse_constant)
        too_deep = _is_deeper_than(report, MAX_DEPTH)
    except (ValueError, RecursionError) as error:
        if is_mp4:
            raise _foreign() from error
        raise RecipeError(
            "This file is neither a report (JSON) nor an MP4 video, or it is damaged. "
            "Give a video made by this studio, or its report.",
            "该文件既不是报告（JSON）也不是 MP4 视频，或已损坏。请提供由本工作室生成的视频或它的报告。",
        ) from error
    if too_deep or not isinstance(report, dict) or type(report.get("schema")) is not int:
        raise _foreign()
    return report


def known_report(report: Mapping[str, Any]) -> KnownReport:
    """What of a report its video is made from. Raises `RecipeError` for one that cannot be used."""
    schema = report.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise RecipeError(
            f"This report has schema {_shortly(schema)}, so a newer studio wrote it: this one reads schema {SCHEMA}. "
            "Update the studio.",
            f"该报告的格式版本是 {_shortly(schema)}，由更新版本的工作室写成；此版本只能读取 {SCHEMA}。请更新工作室。",
        )
    if schema != SCHEMA:
        raise _foreign()
    try:
        return KnownReport.model_validate(report)
    except ValidationError as error:
        places = dict.fromkeys(".".join(str(part) for part in item["loc"][:2]) for item in error.errors())
        told = ", ".join(list(places)[:_TOLD_MISTAKES]) + (", …" if len(places) > _TOLD_MISTAKES else "")
        raise RecipeError(
            f"The report is damaged or was edited: what it says of {told} is missing or makes no sense. "
            "Give the original one.",
            f"报告已损坏或被改动过：{told} 缺失或不合理。请提供原始报告。",
        ) from error


def _check_stored(picture: StoredPicture | None, sha256: str | None) -> None:
    if picture is None:
        return
    if picture[0] not in get_args(PictureFormat) or hashlib.sha256(picture[1]).hexdigest() != sha256:
        raise _changed()


def _guidance(given: Strength | list[Strength] | None) -> Guidance | None:
    if isinstance(given, list):
        return (_strength(given[0]), _strength(given[1]))
    return None if given is None else _strength(given)


def _strength(given: Strength) -> float | GuidanceSchedule:
    return GuidanceSchedule(**given.model_dump()) if isinstance(given, KnownSchedule) else given


def _is_deeper_than(value: Any, depth: int) -> bool:  # noqa: ANN401 - any JSON value
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _shortly(number: int) -> str:
    return str(number) if number < 10**6 else "…"


def _missing(code: str, message: Text, remedy: Text) -> Finding:
    return Finding(code=code, severity="warn", message=message, remedy=remedy)


def _changed() -> RecipeError:
    return RecipeError(
        "The picture inside this video is not the one that its report names: another program has changed the "
        "file. Give the original file.",
        "该视频中的图片与报告所记录的不一致：文件被其他程序改动过。请提供原始文件。",
    )


def _foreign() -> RecipeError:
    return RecipeError(
        "What stands in this file was written by another program and is no report of this studio. "
        "Give a video made by this studio, or its report.",
        "该文件中的内容由其他程序写入，不是本工作室的报告。请提供由本工作室生成的视频或它的报告。",
    )
