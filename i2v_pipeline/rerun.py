"""Makes a finished video again from its report, and says whether the frames are the same and what else is not.

Knows no page and no queue. The report may come from anybody, so it is read through `recipe` alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from i2v_pipeline.errors import InputError, RecipeError, StudioError
from i2v_pipeline.pipeline import EngineCache, Outputs, run
from i2v_pipeline.recipe import Recipe, StoredPicture, missing_parts, read_recipe, request_from_report, save_picture
from i2v_pipeline.types import GenerationRequest, LoraRef, OnProgress, Text, U8Frames
from i2v_pipeline.video import read_frames

COMPARED: Mapping[str, tuple[str, ...] | None] = {
    "parameters": None,
    "prompt": ("sent", "negative_sent", "tokens", "motion"),
    "image": None,
    "references": None,
    "engine": None,
    "environment": None,
    "output": ("width", "height", "frames", "fps", "codec"),
}
"""The sections of the report that can explain other frames, and which of their fields; None: all."""
NOT_COMPARED = frozenset(
    {
        # Asked for, not used: what was used stands in `engine` and `environment`.
        "parameters.device", "parameters.precision", "parameters.checkpoint",
        # Where a file lay, and whether the picture goes into the video, change no frame.
        "parameters.loras", "parameters.embed_source",
        # What an earlier run had left in memory.
        "engine.loaded", "engine.reused",
        # Sentences that follow from the numbers.
        "image.fitted", "image.fitted_zh", "image.last.fitted", "image.last.fitted_zh",
        "references.fitted", "references.fitted_zh",
    }
)  # fmt: skip
TOLD_CHARACTERS = 100


@dataclass(frozen=True, kw_only=True)
class Given:
    """Files that a report cannot hold, or that take the place of what it holds. A LoRA is known by hash or name.

    `references` are all of them in their order, the first included.
    """

    image: Path | None = None
    references: tuple[Path, ...] = ()
    last_image: Path | None = None
    checkpoint: Path | None = None
    loras: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Original:
    """The file that was read, its recipe, and the video that it belongs to, None where that is not at hand."""

    path: Path
    recipe: Recipe
    video: Path | None

    @property
    def frames_sha256(self) -> str:
        return self.recipe.report["output"]["frames_sha256"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A field of the report with another value than then; `field` is its place, with dots."""

    field: str
    then: Any
    now: Any


@dataclass(frozen=True, kw_only=True)
class Psnr:
    """Peak signal-to-noise ratio in dB: of the worst frame, and of the mean squared error of all; None when equal."""

    min_db: float | None
    mean_db: float | None


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """What came of it. `note` says what `psnr` was measured on, or why it could not be; both None for equal frames."""

    report: dict[str, Any]
    frames_sha256_then: str
    differences: tuple[Difference, ...]
    psnr: Psnr | None
    note: Text | None

    @property
    def is_equal(self) -> bool:
        return self.report["output"]["frames_sha256"] == self.frames_sha256_then


def find_original(path: Path) -> Original:
    """Reads a report or a video; beside a report the video is looked for, and the pictures by their hash.

    Raises `RecipeError`.
    """
    recipe = read_recipe(path)
    if recipe.is_video:
        return Original(path=path, recipe=recipe, video=path)
    beside = _video_beside(path, recipe.report)
    inside = recipe if beside is None else beside.recipe
    image = recipe.report["image"]
    further = [_picture_beside(path, reference) for reference in recipe.report.get("references", [])[1:]]
    beside_it = tuple(reference for reference in further if reference is not None)
    pictures = {
        "picture": inside.picture or _picture_beside(path, image),
        "last_picture": inside.last_picture or _picture_beside(path, image.get("last")),
    }
    references = inside.references or (beside_it if len(beside_it) == len(further) else ())
    found = replace(recipe, **pictures, references=references)
    return Original(path=path, recipe=found, video=beside and beside.path)


def rerun(
    original: Original, given: Given, engines: EngineCache, outputs: Outputs, on_progress: OnProgress, *, job_id: str
) -> Rerun:
    """Makes the video again and compares. The original stays as it is.

    Raises `InputError` where a file is missing that only a person can give, and whatever `pipeline.run` does.
    """
    kept = [file for file in (original.path, original.video) if file is not None]
    if any(new.exists() and new.samefile(old) for new in (outputs.video, outputs.report) for old in kept):
        raise InputError(
            "The new video or its report would overwrite the one that it is compared with. Choose another name for it.",
            "新视频或其报告会覆盖用于比较的原文件。请换一个文件名。",
        )
    with tempfile.TemporaryDirectory() as folder:
        request = request_of(original.recipe, given, Path(folder))
        report = run(request, engines, outputs, on_progress, job_id=job_id)
    is_equal = report["output"]["frames_sha256"] == original.frames_sha256
    psnr, note = (None, None) if is_equal else _compare_videos(original.video, outputs.video)
    return Rerun(
        report=report,
        frames_sha256_then=original.frames_sha256,
        differences=tuple(find_differences(original.recipe.report, report)),
        psnr=psnr,
        note=note,
    )


def request_of(recipe: Recipe, given: Given, folder: Path) -> GenerationRequest:
    """The recipe's request; given files go before those that it holds, whose pictures are written to `folder`.

    What ran on the processor runs there again, since a GPU sums in another order. Raises `InputError` that names the
    option for each file that is missing.
    """
    report = recipe.report
    subjects = len(report["parameters"].get("subjects", []))
    _check_references(given, subjects)
    first, *others = given.references or (given.image,)
    options = {
        "picture": ("--reference" if subjects else "--image", first),
        "references": ("--reference", given.references or None),
        "last_picture": ("--last-image", given.last_image),
        "checkpoint": ("--checkpoint", given.checkpoint),
    }
    wanted = [(part, options[part.code][0]) for part in missing_parts(recipe) if options[part.code][1] is None]
    if wanted:
        raise InputError(
            " ".join(f"{part.message.en} Give it with {option}." for part, option in wanted),
            "".join(f"{part.message.zh}请用 {option} 提供。" for part, option in wanted),
        )
    request = request_from_report(
        report,
        first or _saved(recipe.picture, folder, "image"),
        references=others or [_saved(each, folder, f"image{index}") for index, each in enumerate(recipe.references, 1)],
        last_picture=given.last_image or (recipe.last_picture and _saved(recipe.last_picture, folder, "last-image")),
        checkpoint=given.checkpoint,
    )
    request = replace(request, loras=_find_loras(request.loras, report["engine"].get("loras", []), given.loras))
    precision = report["engine"].get("precision")
    is_same = report["environment"].get("device") == "cpu" and precision is not None
    return replace(request, device="cpu", precision=precision) if is_same else request


def find_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """The fields of `COMPARED` that differ between two reports. What the older one does not speak of is left out."""
    for section, names in COMPARED.items():
        old, new = then.get(section), now.get(section)
        if isinstance(old, list):
            yield from _differences(section, old, new)
        if not isinstance(old, dict) or not isinstance(new, dict):
            continue
        for name in old if names is None else [name for name in names if name in old]:
            yield from _differences(f"{section}.{name}", old[name], new.get(name))


def describe(result: Rerun) -> Iterator[Text]:
    """The result in sentences, one a line."""
    now = result.report["output"]["frames_sha256"]
    if result.is_equal:
        yield Text(f"The frames are equal, to the last bit: {now}", f"所有帧逐位相同：{now}")
    else:
        then = result.frames_sha256_then
        yield Text(f"The frames differ: {then} then, {now} now.", f"帧不相同：原为 {then}，现为 {now}。")
    if result.psnr is not None:
        worst, mean = (_decibel(value) for value in (result.psnr.min_db, result.psnr.mean_db))
        yield Text(
            f"PSNR: {mean.en} over all frames, {worst.en} in the worst.", f"PSNR：总体 {mean.zh}，最差帧 {worst.zh}。"
        )
    if result.note is not None:
        yield result.note
    for each in result.differences:
        change = f"{each.field}: {_shown(each.then)} → {_shown(each.now)}"
        yield Text(f"Differs: {change}", f"不同：{change}")
    if not result.differences:
        yield Text(
            "Nothing else that the report says of settings, model, libraries and machine differs.",
            "报告中关于设置、模型、软件库和机器的其他内容均相同。",
        )


def as_json(result: Rerun) -> dict[str, Any]:
    """The result as JSON values; a PSNR of None stands for equal frames."""
    return {
        "equal": result.is_equal,
        "frames_sha256": {"then": result.frames_sha256_then, "now": result.report["output"]["frames_sha256"]},
        "psnr": None if result.psnr is None else {"min_db": result.psnr.min_db, "mean_db": result.psnr.mean_db},
        "note": result.note and result.note.en,
        "note_zh": result.note and result.note.zh,
        "differences": [{"field": each.field, "then": each.then, "now": each.now} for each in result.differences],
        "output_path": result.report["output_path"],
        "report": result.report,
    }


def measure_psnr(one: Iterator[U8Frames], other: Iterator[U8Frames]) -> Psnr | None:
    """Frame by frame over two videos; None where they differ in size or number of frames."""
    errors: list[float] = []
    for a, b in zip_longest(one, other):
        if a is None or b is None or a.shape != b.shape:
            return None
        errors.append(float(np.mean(np.square(a.astype(np.float32) - b), dtype=np.float64)))
    return Psnr(min_db=_db(max(errors)), mean_db=_db(sum(errors) / len(errors))) if errors else None


# --- finding what belongs to a report ---------------------------------------------------------------------------------


def _video_beside(path: Path, report: Mapping[str, Any]) -> Original | None:
    """The video of this report under the name that it tells, in the report's own folder."""
    video = path.parent / Path(str(report.get("output_path"))).name
    try:
        found = Original(path=video, recipe=read_recipe(video), video=video)
    except RecipeError:
        return None
    return found if found.recipe.is_video and found.frames_sha256 == report["output"]["frames_sha256"] else None


def _picture_beside(path: Path, image: Mapping[str, Any] | None) -> StoredPicture | None:
    """A file in the report's folder with the picture's size and hash."""
    if image is None:
        return None
    # A folder that may not be listed, or a file that may not be read, is as good as none.
    with contextlib.suppress(OSError):
        for file in sorted(path.absolute().parent.iterdir()):
            if file.is_file() and file.stat().st_size == image.get("bytes"):
                content = file.read_bytes()
                if hashlib.sha256(content).hexdigest() == image["sha256"]:
                    return image["format"], content
    return None


def _saved(picture: StoredPicture | None, folder: Path, name: str) -> Path:
    assert picture is not None, "missing_parts would have told"
    return save_picture(picture, folder, name)


def _check_references(given: Given, subjects: int) -> None:
    count = len(given.references)
    if count and count != subjects:
        raise InputError(
            f"{count} reference pictures: this video was made of {subjects}. Give as many with --reference, in the "
            "same order.",
            f"给出了 {count} 张参考图：该视频使用了 {subjects} 张。请按相同顺序用 --reference 提供。",
        )
    if count and given.image is not None:
        raise InputError(
            "--image and --reference: both give the first picture. Leave out --image.",
            "--image 与 --reference 都指定了第一张图片。请去掉 --image。",
        )


def _find_loras(
    refs: tuple[LoraRef, ...], used: list[Mapping[str, Any]], given: tuple[Path, ...]
) -> tuple[LoraRef, ...]:
    """Each LoRA where it is now: among the given files by hash, then by name, else where it was."""
    hashes = {path: _sha256_of(path) for path in given}
    unused, found = set(given), []
    for index, ref in enumerate(refs):
        sha256 = used[index].get("sha256") if index < len(used) else None
        name = ref.source.rpartition("/")[2]
        by_hash = [path for path in given if sha256 is not None and hashes[path] == sha256]
        place = next(iter(by_hash or [path for path in given if path.name == name]), None)
        if place is not None:
            unused.discard(place)
            found.append(replace(ref, source=str(place)))
        elif ref.source.startswith("hf://") or Path(ref.source).is_file():
            found.append(ref)
        else:
            raise InputError(
                f"The LoRA {name} (SHA-256 {sha256 or 'unknown'}) is not where it was. Give the file with --lora.",
                f"LoRA {name}（SHA-256 {sha256 or '未知'}）不在原来的位置。请用 --lora 提供该文件。",
            )
    if unused:
        names = ", ".join(sorted(path.name for path in unused))
        raise InputError(
            f"--lora {names}: this video was made without it, by hash and by name. Leave it out.",
            f"--lora {names}：按哈希和文件名，该视频都没有使用它。请去掉。",
        )
    return tuple(found)


def _sha256_of(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"--lora {path}: no such file. Check its name.", f"--lora {path}：文件不存在。请检查名称。")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


# --- comparing --------------------------------------------------------------------------------------------------------


def _differences(place: str, then: Any, now: Any) -> Iterator[Difference]:  # noqa: ANN401 - any JSON values
    if re.sub(r"\.\d+", "", place) in NOT_COMPARED or then == now:
        return
    if isinstance(then, dict) and isinstance(now, dict):
        for name, value in then.items():
            yield from _differences(f"{place}.{name}", value, now.get(name))
    elif _are_lists_of_parts(then, now):
        for index, (old, new) in enumerate(zip(then, now, strict=True)):
            yield from _differences(f"{place}.{index}", old, new)
    else:
        yield Difference(field=place, then=then, now=now)


def _are_lists_of_parts(*values: Any) -> bool:  # noqa: ANN401
    are_lists = all(isinstance(value, list) and all(isinstance(part, dict) for part in value) for value in values)
    return are_lists and len({len(value) for value in values}) == 1


def _compare_videos(then: Path | None, now: Path) -> tuple[Psnr | None, Text]:
    if then is None:
        return None, Text(
            "The first video is not beside its report, so there is nothing to measure the PSNR on.",
            "报告旁没有原视频，无法计算 PSNR。",
        )
    try:
        psnr = measure_psnr(read_frames(then), read_frames(now))
    except StudioError as error:
        return None, error.text
    if psnr is None:
        return None, Text(
            "The videos differ in size or number of frames, so there is no PSNR.",
            "两个视频的尺寸或帧数不同，无法计算 PSNR。",
        )
    return psnr, Text(
        "Measured on both videos as they are decoded: the frames before encoding are not kept, so the loss of H.264 is "
        "in both.",
        "PSNR 由两个视频解码后的画面计算：编码前的帧没有保存，因此双方都含 H.264 的压缩损失。",
    )


def _db(mean_squared_error: float) -> float | None:
    return None if mean_squared_error == 0 else round(10 * math.log10(255**2 / mean_squared_error), 2)


def _decibel(value: float | None) -> Text:
    return Text("equal as decoded", "解码后相同") if value is None else Text(f"{value} dB", f"{value} dB")


def _shown(value: Any) -> str:  # noqa: ANN401
    """A value of a report that anybody may have written, for one line of a terminal."""
    text = "".join(character if character.isprintable() else "·" for character in str(value))
    return text if len(text) <= TOLD_CHARACTERS else f"{text[:TOLD_CHARACTERS]}…"
