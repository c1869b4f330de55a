"""The command `compare`: a grid of videos in this very process, as files in a folder. Knows no store.

What is varied, and every rule about it, stands in `studio.axes` and `studio.compare`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2v_pipeline.errors import Cancelled, InputError, StudioError
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import GenerationRequest, Text
from studio.given_pictures import Given
from studio.jobs.comparisons import Axis, AxisField
from studio.printing import print_json, print_line, say
from studio.recipe import Choice, motion_of, origin_of, style_of

if TYPE_CHECKING:
    from studio.compare import Total

AS_TYPED, AS_REFINED = "typed", "refined"
"""Values of the prompt axis that mean the command's own prompt, without and with the refiner."""


def add_compare(
    commands: Any,  # noqa: ANN401 - argparse does not export the type of its sub-parsers
    add_request_options: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], None],
) -> None:
    """`compare IMAGE PROMPT --x FIELD=VALUES [--y FIELD=VALUES]`."""
    parser = commands.add_parser(
        "compare", help="a grid of videos that differ in one or two things, side by side and measured"
    )
    add_request_options(parser)
    parser.add_argument(
        "--x",
        required=True,
        metavar="FIELD=VALUES",
        help="what differs from column to column: seed, steps, guidance, flow_shift, engine, preset, prompt or "
        'lora_weight, such as guidance=5,7,9 or "prompt=typed|refined|another sentence"; values that hold a comma '
        "are separated by ;",
    )
    parser.add_argument("--y", metavar="FIELD=VALUES", help="likewise, from row to row")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the videos, reports, grid.mp4 and table.csv")
    parser.add_argument("--json", action="store_true", help="print the files, the reports and what could not be made")
    parser.set_defaults(run=run)


def compare(arguments: argparse.Namespace, spec: EngineSpec, given: Given, choice: Choice) -> None:
    """Makes every cell, then the grid's video and its table. A cell that fails does not keep the others from it.

    Raises `InputError` for what cannot be compared, and `StudioError` at the end where a cell failed.
    """
    from i2v_pipeline.images import open_picture
    from studio.compare import Base, check_models, left_out, make_sketch, plan_total
    from studio.comparison_files import Grid, describe_shape, grid_shape, table_csv, write_grid

    # 1. What will be made, and what it takes
    x = _axis(arguments.x, "--x")
    y = None if arguments.y is None else _axis(arguments.y, "--y")
    picture, *_ = [open_picture(image) for image in given.images]
    base = Base(
        engine=spec.id,
        choice=choice,
        prompt=given.prompt,
        image=given.images[0],
        image_size=(picture.width, picture.height),
    )
    sketch = make_sketch(base, x, y, _Reader(arguments, given.prompt))
    check_models(sketch.requests)
    total = plan_total(sketch)
    for text in (*total_words(len(sketch.requests), total), *left_out(base, sketch), *total.misfits):
        say(text)

    # 2. The cells, in the order that shares most
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = arguments.out or Path("outputs") / f"{stamp}-compare"
    cells = _make_cells(sketch.requests, sketch.order, folder, len(x.values), stamp)

    # 3. Side by side
    grid = Grid(x=x, y=y, cells=tuple(cells[place] for place in range(len(sketch.requests))))
    table, video = folder / "table.csv", folder / "grid.mp4"
    table.write_bytes(table_csv(grid))
    if any(cell.video is not None for cell in grid.cells):
        for text in describe_shape(grid, grid_shape(grid)):
            say(text)
        write_grid(grid, video)
    if arguments.json:
        told = [{"name": cell.name, "state": cell.state, "report": cell.report} for cell in grid.cells]
        files = {"folder": str(folder), "grid": str(video) if video.exists() else None, "table": str(table)}
        print_json({**files, "x": arguments.x, "y": arguments.y, "cells": told})
    else:
        print_line(str(folder))
    failed = [cell.name for cell in grid.cells if cell.state == "failed"]
    if failed and arguments.json:
        # The object above says which; a second one would not be JSON any more.
        raise SystemExit(1)
    if failed:
        raise StudioError(
            f"{len(failed)} of {len(grid.cells)} videos could not be made: {', '.join(failed)}. The lines above say "
            "why; the others are there.",
            f"{len(grid.cells)} 个视频中有 {len(failed)} 个未能生成：{'、'.join(failed)}。原因见上；其余已生成。",
        )


def total_words(videos: int, total: Total) -> Iterator[Text]:
    """What all cells take, and what would make that less."""
    from studio.plans import duration

    took = duration(total.seconds)
    yield Text(
        f"{videos} videos, about {took.en} in all, {total.disk_bytes / 1e6:.1f} MB.",
        f"{videos} 个视频，总共约需 {took.zh}，{total.disk_bytes / 1e6:.1f} MB。",
    )
    if total.offer is not None:
        offered = total.offer.message
        yield Text(f"{offered.en} --compile does it.", f"{offered.zh}加上 --compile 即可。")


class _Reader:
    """What a prompt of the axis, or the command's own, means: refined as `--refine` says, once for each style."""

    def __init__(self, arguments: argparse.Namespace, prompt: str) -> None:
        self._arguments = arguments
        self._prompt = prompt
        self._known: dict[tuple[str, str, bool], Any] = {}
        self._told: list[Any] = []

    def __call__(self, text: str, spec: EngineSpec) -> Any:  # noqa: ANN401 - its type is imported with the command alone
        from studio.compare import Sentence

        is_refined = self._arguments.refine != "off"
        if text in (AS_TYPED, AS_REFINED):
            text, is_refined = self._prompt, text == AS_REFINED
        key = (text, spec.id, is_refined)
        if key not in self._known:
            result = self._refined(text, spec, is_refined=is_refined)
            self._known[key] = Sentence(
                text=result.refined_prompt if is_refined else text,
                origin=origin_of(text, result if is_refined else None),
                motion=motion_of(result),
            )
        return self._known[key]

    def _refined(self, text: str, spec: EngineSpec, *, is_refined: bool) -> Any:  # noqa: ANN401
        from prompt_refiner import load_settings, refine

        asked = "auto" if self._arguments.refine == "off" else self._arguments.refine
        result = refine(
            text,
            style=style_of(spec, self._arguments.checkpoint),
            settings=load_settings(),
            mode=asked if is_refined else "offline",
        )
        for notice in result.notices if is_refined else ():
            if notice not in self._told:
                self._told.append(notice)
                say(Text(notice.en, notice.zh))
        return result


def _make_cells(
    requests: tuple[GenerationRequest, ...], order: tuple[int, ...], folder: Path, columns: int, stamp: str
) -> Mapping[int, Any]:
    """The results by their place. A cell that fails is told and noted; Ctrl+C ends all."""
    from i2v_pipeline.pipeline import run
    from studio.comparison_files import CellResult
    from studio.foreground import outputs_at, running

    cells: dict[int, CellResult] = {}
    with running() as (engines, bar):
        for number, place in enumerate(order, start=1):
            row, column = divmod(place, columns)
            name = f"row{row + 1}-column{column + 1}"
            outputs = outputs_at(folder / f"{name}.mp4")
            say(Text(f"{number} of {len(order)}: {name}", f"第 {number}/{len(order)} 个：{name}"))
            try:
                report = run(requests[place], engines, outputs, bar, job_id=f"{stamp}-{name}")
            except Cancelled:
                raise
            except StudioError as error:
                say(error.text)
                cells[place] = CellResult(name=name, state="failed", request=requests[place])
                continue
            cells[place] = CellResult(
                name=name, state="done", request=requests[place], report=report, video=outputs.video
            )
    return cells


def _axis(text: str, option: str) -> Axis:
    """`guidance=5,7,9`. Raises `InputError` for a field that there is not."""
    from studio.axes import FIELDS, split_values

    field, _, values = text.partition("=")
    known: AxisField | None = next((each for each in FIELDS if each == field.strip()), None)
    if known is None:
        raise InputError(
            f"{option} {text!r}: what can differ is {', '.join(FIELDS)}. Give one of these, as in guidance=5,7,9.",
            f"{option} {text!r}：可对比的有 {'、'.join(FIELDS)}。请给出其一，例如 guidance=5,7,9。",
        )
    return Axis(field=known, values=split_values(known, values))
