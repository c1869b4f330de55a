"""The pictures that a command was given: one to begin with, or references with names. Opens none of them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from i2v_pipeline.errors import InputError, RequestError
from i2v_pipeline.presets import find_engine, load_presets
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Subject, Text
from studio.models import best_engine, best_reference_engine
from studio.plans import machine_now

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Given:
    """The prompt and the pictures in their order; `subjects` has one for each, and is empty without references."""

    prompt: str
    images: tuple[Path, ...]
    subjects: tuple[Subject, ...]


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """`[IMAGE] PROMPT` and the options of references; `given_by` reads them."""
    # One positional that takes both: argparse gives an optional one to whatever comes first.
    parser.add_argument("image", metavar="IMAGE", help="the picture; leave it out where references are given")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="what happens, in English or Chinese")
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="[NAME=]IMAGE",
        help="a picture of a subject, for engines that take references; repeatable, in order",
    )
    parser.add_argument(
        "--remove-background",
        metavar="all|N,N",
        help="of all references, or of those with these numbers from 1 on: the subject alone, on white",
    )


def given_by(arguments: argparse.Namespace) -> Given:
    """What stands in `arguments`. A picture beside references is the first of them. Raises `InputError`."""
    words = [word for word in (arguments.image, arguments.prompt) if word is not None]
    named = [_named(text) for text in arguments.reference]
    if len(words) == 1 and not named:
        raise InputError(
            "A picture and a prompt are needed: one of them is missing. Give both, or the prompt and --reference.",
            "需要图片和提示词：缺少其一。请同时给出，或给出提示词和 --reference。",
        )
    first = [("", Path(word)) for word in words[:-1]]
    pictures = [*first, *named]
    without = _numbers(arguments.remove_background, len(pictures))
    subjects = tuple(
        Subject(name=name, remove_background=place in without) for place, (name, _) in enumerate(pictures, 1)
    )
    has_references = bool(named) or arguments.remove_background is not None
    return Given(
        prompt=words[-1],
        images=tuple(path for _, path in pictures),
        subjects=subjects if has_references else (),
    )


def engine_for(given: Given, engine_id: str) -> EngineSpec:
    """The engine of that id; for `auto` the best one that is here and takes such pictures.

    Raises `RequestError` for references that it does not take.
    """
    engines = load_presets()
    if engine_id == "auto":
        best = best_reference_engine if given.subjects else best_engine
        return best(engines, machine_now())
    spec = find_engine(engine_id)
    if given.subjects and not spec.takes.references:
        those = ", ".join(engine.id for engine in engines.values() if engine.takes.references)
        raise RequestError(
            f"The engine {spec.id} begins with one picture and takes no references. Engines that take them: {those}. "
            "Choose one with --engine.",
            f"引擎 {spec.id} 以一张图片作为开头，不支持参考图。支持的引擎：{those}。请用 --engine 选择。",
        )
    return spec


def references_in_plan(spec: EngineSpec, count: int | None) -> int:
    """How many pictures are planned with. Raises `RequestError` for a number that `spec` does not take."""
    most = spec.takes.references
    if count is not None and not 1 <= count <= most:
        allowed = (
            Text(f"1 to {most} are allowed", f"允许 1 到 {most}") if most else Text("it takes none", "不支持参考图")
        )
        raise RequestError(
            f"--references {count}: {spec.id}: {allowed.en}. Choose another number or engine.",
            f"--references {count}：{spec.id}：{allowed.zh}。请更换数量或引擎。",
        )
    return count or 1


def _named(text: str) -> tuple[str, Path]:
    """`NAME=IMAGE`, unless there is a file of that very name."""
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return "", Path(text)
    return name.strip(), Path(path)


def _numbers(text: str | None, count: int) -> frozenset[int]:
    if text is None:
        return frozenset()
    if text == ALL:
        return frozenset(range(1, count + 1))
    words = text.split(",")
    if not all(word.strip().isdecimal() and 1 <= int(word) <= count for word in words):
        raise InputError(
            f"--remove-background {text}: all, or numbers from 1 to {count} with commas are allowed. Choose some.",
            f"--remove-background {text}：可用 all，或以逗号分隔的 1 到 {count} 的编号。请重新选择。",
        )
    return frozenset(int(word) for word in words)
