"""The commands on files: `check` before a run, `inspect`, `continue`, `rerun`, `strip` after it, `convert` for models.
Does no work of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from i2v_pipeline.errors import InputError
from i2v_pipeline.types import Text
from studio.given_pictures import add_pictures, engine_for, given_by
from studio.plans import default_data
from studio.printing import pick, print_json

MAX_TIMES = 20
"""Clips in one command: far more than a picture stays itself over."""


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


def add_continue(commands: Any) -> None:  # noqa: ANN401
    """`continue VIDEO [PROMPT]`: the video made longer."""
    longer = commands.add_parser("continue", help="make a video longer, from one of its late frames on")
    longer.add_argument("video", type=Path, metavar="VIDEO.mp4", help="made by this studio, its report inside")
    longer.add_argument("prompt", nargs="?", help="what happens next; without it the same as before")
    longer.add_argument("--frame", type=int, metavar="N", help="go on from it, counted from 0; else a late sharp one")
    longer.add_argument("--frames", type=int, metavar="N", help="of each new clip; without it as before")
    longer.add_argument("--seed", type=int, metavar="N", help="of each new clip; else drawn and reported")
    longer.add_argument("--times", type=int, default=1, metavar="K", help="so many clips, one after the other")
    longer.add_argument("--refine", default="auto", choices=("auto", "llm", "offline", "off"))
    longer.add_argument("--checkpoint", type=Path, metavar="DIR", help="the local diffusers folder, where one was used")
    longer.add_argument("--out", type=Path, metavar="FILE.mp4", help="the longer video; its report goes beside it")
    longer.add_argument("--json", action="store_true", help="print the report")
    longer.set_defaults(run=_continue)


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
    rerun.add_argument("--video", type=Path, metavar="FILE.mp4", help="the video that was continued, where it was one")
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


def add_gguf(actions: Any) -> None:  # noqa: ANN401
    """`models gguf ID FILE [FILE]`: a folder with the denoiser in GGUF."""
    packed = actions.add_parser("gguf", help="make a model's folder of GGUF files; all in it are links")
    packed.add_argument("engine", metavar="ID", help="see `models list`")
    packed.add_argument("files", type=Path, nargs="+", metavar="FILE.gguf", help="of two experts high noise first")
    packed.add_argument(
        "--from",
        type=Path,
        dest="source",
        metavar="FOLDER",
        help="of the model in diffusers' layout, for text encoder, tokenizer and VAE; else the hub's cache",
    )
    packed.add_argument("--to", type=Path, metavar="FOLDER", help="else where the engine looks by itself: models/ID")
    packed.set_defaults(run=_gguf)


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


def _continue(arguments: argparse.Namespace) -> None:
    from i2v_pipeline.continuation import open_source
    from i2v_pipeline.pipeline import run
    from prompt_refiner import load_settings
    from studio.continuing import Wish, request_of_video, request_to_continue
    from studio.foreground import outputs_at, running

    # 1. What is continued
    check_out(arguments.out)
    video = arguments.video
    _check_times(arguments.times)
    before = request_of_video(open_source(video).recipe, arguments.checkpoint)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = arguments.out or Path("outputs") / f"{stamp}-longer-{video.stem}.mp4"
    if out.exists() and out.samefile(video):
        raise InputError(
            "The longer video would overwrite the one that it continues. Choose another name for it.",
            "续写后的视频会覆盖原视频。请换一个文件名。",
        )
    outputs = outputs_at(out)
    wish = Wish(
        frame=arguments.frame,
        prompt=arguments.prompt,
        seed=arguments.seed,
        frames=arguments.frames,
        refine=arguments.refine,
    )

    # 2. One clip after the other, each time the whole so far under the same name: a failure leaves what there is
    report: dict[str, Any] = {}
    with running() as (engines, bar), tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.times):
            longer = request_to_continue(before, video, wish, Path(folder), load_settings())
            for notice in longer.notices:
                print(pick(notice), file=sys.stderr)
            report = run(longer.request, engines, outputs, bar, job_id=f"{stamp}-{longer.request.seed}")
            video, before, wish = out, longer.request, replace(wish, frame=None, prompt=None)
            for finding in report["findings"]:
                print(pick(Text(finding["message"], finding["message_zh"])), file=sys.stderr)

    # 3. Say what was made
    if arguments.json:
        print_json(report)
    else:
        print(out)


def _check_times(times: int) -> None:
    if not 1 <= times <= MAX_TIMES:
        raise InputError(
            f"--times {times}: 1 to {MAX_TIMES} clips are allowed. Choose one of these.",
            f"--times {times}：允许 1 到 {MAX_TIMES} 段。请在此范围内选择。",
        )


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
        video=arguments.video,
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


def _gguf(arguments: argparse.Namespace) -> None:
    from i2v_pipeline.gguf_folder import make_folder
    from i2v_pipeline.hub import models_folder
    from i2v_pipeline.presets import find_engine

    spec = find_engine(arguments.engine)
    print(make_folder(spec, arguments.files, arguments.source, arguments.to or models_folder() / spec.id))
