"""The commands on files: `check` before a run, `inspect`, `rerun`, `strip` after it, `convert` for models. Does no
work of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from i2v_pipeline.errors import InputError
from studio.given_pictures import add_pictures, engine_for, given_by
from studio.plans import default_data
from studio.printing import pick, print_json


def add_check(commands: Any) -> None:  # noqa: ANN401 - argparse does not export the type of its sub-parsers
    """`check IMAGE PROMPT`: before anything is made."""
    check = commands.add_parser("check", help="what is worth knowing before a run: of picture, prompt and settings")
    add_pictures(check)
    check.add_argument("--engine", default="auto", metavar="ID", help="see `models list`; auto: the best one here")
    check.add_argument("--json", action="store_true")
    check.set_defaults(run=_check)


def add_inspect(commands: Any) -> None:  # noqa: ANN401
    """`inspect VIDEO`: what the video is really like."""
    inspect = commands.add_parser("inspect", help="measure a video: its movement, its defects, its first frame")
    inspect.add_argument("video", type=Path)
    inspect.add_argument("--image", type=Path, help="the picture that the video should begin with")
    inspect.add_argument("--asked", default="", metavar="TAG,TAG", help="camera tags that the video should show")
    inspect.add_argument("--json", action="store_true")
    inspect.set_defaults(run=_inspect)


def add_rerun(commands: Any) -> None:  # noqa: ANN401
    """`rerun REPORT|VIDEO`: the video made again and compared."""
    rerun = commands.add_parser("rerun", help="make a video again from its report, and compare the frames")
    rerun.add_argument("original", type=Path, metavar="REPORT.json|VIDEO.mp4")
    rerun.add_argument("--image", type=Path, help="the picture, where neither the video nor the folder holds it")
    rerun.add_argument(
        "--reference",
        type=Path,
        action="append",
        default=[],
        metavar="IMAGE",
        help="likewise, a reference picture; all of them, in order",
    )
    rerun.add_argument(
        "--last-image", type=Path, metavar="IMAGE", help="likewise, the picture that the video ends with"
    )
    rerun.add_argument("--checkpoint", type=Path, metavar="DIR", help="the local diffusers folder, where one was used")
    rerun.add_argument(
        "--lora",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a LoRA that is not where it was, known by its hash or its name; repeatable",
    )
    rerun.add_argument("--out", type=Path, metavar="FILE.mp4", help="the new video; its report goes beside it")
    rerun.add_argument("--json", action="store_true", help="print the comparison and the new report")
    rerun.set_defaults(run=_rerun)


def add_strip(commands: Any) -> None:  # noqa: ANN401
    """`strip VIDEO`: a copy that tells nothing."""
    strip = commands.add_parser("strip", help="copy a video without its report, pictures and tags")
    strip.add_argument("video", type=Path)
    strip.add_argument("--out", type=Path, required=True, metavar="FILE.mp4")
    strip.set_defaults(run=_strip)


def add_convert(actions: Any) -> None:  # noqa: ANN401
    """`models convert kaleido SOURCE TARGET`: a published checkpoint into a folder that --checkpoint takes."""
    convert = actions.add_parser("convert", help="a published checkpoint into a folder that --checkpoint takes")
    convert.add_argument("kind", choices=("kaleido",))
    convert.add_argument("source", type=Path, metavar="SOURCE", help="the merged .pt, its folder, or one of shards")
    convert.add_argument("target", type=Path, metavar="TARGET", help="the folder to make; it must not exist")
    convert.add_argument(
        "--wan",
        type=Path,
        metavar="FOLDER",
        help="of Wan 2.1 in diffusers' layout, for text encoder, tokenizer and VAE; else the hub's cache",
    )
    convert.set_defaults(run=_convert)


def check_out(out: Path | None) -> None:
    """Raises `InputError` for a name that no MP4 has."""
    if out and out.suffix.lower() != ".mp4":
        raise InputError(
            f"--out {out.name}: the video is an MP4. Give a name that ends in .mp4.",
            f"--out {out.name}：视频格式为 MP4。请使用以 .mp4 结尾的文件名。",
        )


def _check(arguments: argparse.Namespace) -> None:
    from i2v_pipeline.report import finding_of
    from studio.checking import find_findings

    given = given_by(arguments)
    spec = engine_for(given, arguments.engine)
    findings = find_findings(given.images, given.prompt, spec, given.subjects)
    if arguments.json:
        print_json({"engine": spec.id, "findings": [finding_of(finding) for finding in findings]})
        return
    for finding in findings:
        remedy = f" {pick(finding.remedy)}" if finding.remedy else ""
        print(f"{finding.severity}: {pick(finding.message)}{remedy}")


def _inspect(arguments: argparse.Namespace) -> None:
    from i2v_pipeline.inspection.judge import quality_of
    from studio.inspecting import inspect_file, inspection_lines

    inspection = inspect_file(arguments.video, image=arguments.image, asked=arguments.asked)
    if arguments.json:
        print_json(quality_of(inspection))
        return
    for line in inspection_lines(inspection):
        print(line)


def _rerun(arguments: argparse.Namespace) -> None:
    from i2v_pipeline.rerun import Given, as_json, describe, find_original, rerun
    from studio.foreground import outputs_at, running

    check_out(arguments.out)
    original = find_original(arguments.original)
    given = Given(
        image=arguments.image,
        references=tuple(arguments.reference),
        last_image=arguments.last_image,
        checkpoint=arguments.checkpoint,
        loras=tuple(arguments.lora),
    )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    made = arguments.out or Path("outputs") / f"{stamp}-rerun-{arguments.original.stem}.mp4"
    outputs = outputs_at(made, default_data())
    with running() as (engines, bar):
        result = rerun(original, given, engines, outputs, bar, job_id=f"{stamp}-rerun")
    if arguments.json:
        print_json(as_json(result))
        return
    for line in describe(result):
        print(pick(line))
    print(outputs.video)


def _strip(arguments: argparse.Namespace) -> None:
    from i2v_pipeline.video import strip_video

    check_out(arguments.out)
    strip_video(arguments.video, arguments.out)
    print(arguments.out)


def _convert(arguments: argparse.Namespace) -> None:
    from i2v_pipeline.kaleido.convert import convert
    from studio.converting import reporter, told
    from studio.foreground import stoppable

    with stoppable() as bar:
        converted = convert(arguments.source, arguments.target, wan=arguments.wan, on_bytes=reporter(bar))
    for line in told(converted):
        print(pick(line), file=sys.stderr)
    print(arguments.target)
