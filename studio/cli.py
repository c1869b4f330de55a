"""The command line: parse, resolve, construct, run, print. Does no work of its own.

Results go to standard output (with --json exactly one JSON object), everything else to standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from i2v_pipeline.errors import Cancelled, InputError, RequestError, StudioError
from i2v_pipeline.planning.devices import known_devices
from i2v_pipeline.planning.learned import EMPTY
from i2v_pipeline.planning.packed import as_if_packed
from i2v_pipeline.presets import find_engine, load_presets
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Motion, PresetName, Text
from studio.compare_command import add_compare
from studio.doctor import diagnose, run_line
from studio.file_commands import (
    add_check,
    add_continue,
    add_convert,
    add_gguf,
    add_inspect,
    add_rerun,
    add_strip,
    check_out,
)
from studio.given_pictures import engine_for, given_by, references_in_plan
from studio.models import best_engine, needs_of, state_of
from studio.plans import Hypothesis, default_data, learned_in, machine_like, machine_now, plan_choice, told
from studio.printing import pick, print_json
from studio.recipe import SEED_LIMIT, Choice, compose, motion_of, origin_of, style_of
from studio.request_options import add_request_options, add_speed, choice_of, speed_of

log = logging.getLogger("studio.cli")

DEFAULT_PORT = 7860
OUR_FAULT = Text(
    en="Something in the studio failed; the lines above say where. Please report it with them.",
    zh="工作室内部出错，具体位置见上方日志。请附上日志反馈。",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 wrong input, 130 cancelled."""
    arguments = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except (StudioError, KeyboardInterrupt) as error:
        told = Cancelled() if isinstance(error, KeyboardInterrupt) else error
        return _tell(told.text, told.exit_code, as_json=getattr(arguments, "json", False))
    except BrokenPipeError:
        # Whoever reads the results has enough of them, as `head` does; the rest goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception:
        log.exception("%s failed unexpectedly", arguments.command)
        return _tell(OUR_FAULT, 1, as_json=getattr(arguments, "json", False))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command line."""
    parser = build_parser()
    # Before Python 3.13 argparse leaves over the PROMPT of `IMAGE --option VALUE PROMPT`, since it may be missing.
    arguments, left = parser.parse_known_args(argv)
    if left and "prompt" in arguments and arguments.prompt is None and not left[0].startswith("-"):
        arguments.prompt = left.pop(0)
    if left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(prog="app.py", description="One picture and one sentence become a video.")
    commands = parser.add_subparsers(dest="command", required=True)
    adders = (
        *(_add_serve, _add_generate, _add_refine, _add_plan, _add_models, _add_doctor),
        *(add_check, add_inspect, add_continue, add_rerun, add_strip),
    )
    for add in adders:
        add(commands)
    add_compare(commands, add_request_options, _compare)
    return parser


def _add_serve(commands: Any) -> None:  # noqa: ANN401 - argparse does not export the type of its sub-parsers
    serve = commands.add_parser("serve", help="start the page")
    serve.add_argument("--host", default="127.0.0.1", help="any other address than this machine's own needs --auth")
    serve.add_argument("--port", type=int, default=DEFAULT_PORT)
    serve.add_argument("--auth", metavar="USER:PASS")
    serve.add_argument("--data", type=Path, default=default_data(), help="where jobs and videos are kept")
    serve.add_argument("--workers", type=int, default=1)
    serve.set_defaults(run=_serve)


def _add_generate(commands: Any) -> None:  # noqa: ANN401
    generate = commands.add_parser("generate", help="make a video from a picture and a sentence")
    add_request_options(generate)
    generate.add_argument("--out", type=Path, metavar="FILE.mp4", help="the report goes beside it, as FILE.json")
    generate.add_argument("--json", action="store_true", help="print the report")
    generate.set_defaults(run=_generate)


def _add_refine(commands: Any) -> None:  # noqa: ANN401
    refine = commands.add_parser("refine", help="show what the prompt refiner makes of a sentence")
    refine.add_argument("prompt")
    refine.add_argument(
        "--image",
        type=Path,
        help="sent to the LLM that is set up, scaled down and without metadata: naming it here allows it this time; "
        "without --image no picture leaves this machine",
    )
    refine.add_argument("--engine", default="auto", metavar="ID")
    refine.add_argument("--mode", default="auto", choices=("auto", "llm", "offline"))
    refine.add_argument("--json", action="store_true")
    refine.set_defaults(run=_refine)


def _add_plan(commands: Any) -> None:  # noqa: ANN401
    plan = commands.add_parser("plan", help="memory and time of a run, on this machine or another")
    plan.add_argument("--engine", default="auto", metavar="ID")
    plan.add_argument("--preset", default="standard", choices=get_args(PresetName))
    plan.add_argument("--resolution", metavar="256p|480p|512p|720p|768p|1024p|WxH")
    plan.add_argument("--frames", type=int)
    plan.add_argument("--steps", type=int)
    add_speed(plan)
    plan.add_argument("--references", type=int, metavar="N", help="reference pictures, for engines that take them")
    plan.add_argument("--gpu", metavar="NAME", help=f"another card: {', '.join(known_devices())}, or cpu")
    plan.add_argument("--gguf", metavar="KIND|SIZE", help="as if the denoiser were in it: Q4_K, or one file's 9.6GB")
    plan.add_argument("--vram", type=float, metavar="GIB", help="graphics memory that is free")
    plan.add_argument("--ram", type=float, metavar="GIB", help="RAM that is free")
    plan.add_argument("--json", action="store_true")
    plan.set_defaults(run=_plan)


def _add_models(commands: Any) -> None:  # noqa: ANN401
    models = commands.add_parser("models", help="the engines and what they take")
    actions = models.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="what is here, and what the rest takes").set_defaults(run=_models_list)
    download = actions.add_parser("download", help="fetch what is missing of an engine's model")
    download.add_argument("engine", metavar="ID", help="see `models list`")
    download.add_argument(
        "--without-denoiser", action="store_true", help="for who has its weights in GGUF; see `models gguf`"
    )
    download.set_defaults(run=_models_download)
    add_convert(actions)
    add_gguf(actions)


def _add_doctor(commands: Any) -> None:  # noqa: ANN401
    doctor = commands.add_parser("doctor", help="what this machine can do, and what is missing")
    doctor.add_argument("--no-connect", action="store_true", help="do not ask the LLM that is set up for a word")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(run=_doctor)


def _serve(arguments: argparse.Namespace) -> None:
    from studio.server import serve  # the page's library takes seconds to import

    user, colon, password = (arguments.auth or "").partition(":")
    if arguments.auth and not (user and colon and password):
        raise InputError(
            "--auth needs a name and a password with a colon between them, such as --auth me:secret.",
            "--auth 需要用户名和密码，中间用冒号隔开，例如 --auth me:secret。",
        )
    serve(
        host=arguments.host,
        port=arguments.port,
        auth=(user, password) if arguments.auth else None,
        data=arguments.data,
        workers=arguments.workers,
    )


def _generate(arguments: argparse.Namespace) -> None:
    from i2v_pipeline.checks import check_request
    from i2v_pipeline.images import open_picture
    from i2v_pipeline.pipeline import run
    from prompt_refiner import load_settings, refine
    from studio.foreground import outputs_at, running

    # 1. What will be made: refused before anybody waits for a refiner
    given = given_by(arguments)
    spec = engine_for(given, arguments.engine)
    _refuse_what_the_engine_lacks(spec, arguments)
    check_out(arguments.out)
    picture, *_ = [open_picture(image) for image in given.images]
    choice = replace(choice_of(arguments, given), seed=_seed_of(arguments))
    request_for = partial(compose, spec, choice, image=given.images[0], image_size=(picture.width, picture.height))
    typed = given.prompt
    check_request(spec, request_for(prompt=typed, origin=origin_of(typed, None), motion=Motion()))

    # 2. The prompt
    is_refined = arguments.refine != "off"
    result = refine(
        typed,
        style=style_of(spec, choice.checkpoint),
        settings=load_settings(),
        mode=arguments.refine if is_refined else "offline",
    )
    request = request_for(
        prompt=result.refined_prompt if is_refined else typed,
        origin=origin_of(typed, result if is_refined else None),
        motion=motion_of(result),
    )
    for notice in result.notices if is_refined else ():
        _say(Text(notice.en, notice.zh))
    _say(Text(f"Prompt sent: {request.prompt}", f"实际发送的提示词：{request.prompt}"))

    # 3. Make it
    stamp = time.strftime("%Y%m%d-%H%M%S")
    outputs = outputs_at(arguments.out or Path("outputs") / f"{stamp}-{spec.id}-{request.seed}.mp4", default_data())
    with running() as (engines, bar):
        report = run(request, engines, outputs, bar, job_id=f"{stamp}-{request.seed}")

    # 4. Say what was made
    for finding in report["findings"]:
        _say(Text(finding["message"], finding["message_zh"]))
    if arguments.json:
        print_json(report)
    else:
        print(outputs.video)


def _compare(arguments: argparse.Namespace) -> None:
    from studio.compare_command import compare

    given = given_by(arguments)
    spec = engine_for(given, arguments.engine)
    _refuse_what_the_engine_lacks(spec, arguments)
    compare(arguments, spec, given, choice_of(arguments, given))


def _seed_of(arguments: argparse.Namespace) -> int:
    return secrets.randbelow(SEED_LIMIT) if arguments.seed is None else arguments.seed


def _refuse_what_the_engine_lacks(spec: EngineSpec, arguments: argparse.Namespace) -> None:
    """The built-in engine loads no checkpoint and runs on the CPU in fp32."""
    is_built_in = spec.diffusion is None
    given = {
        "--checkpoint": is_built_in and arguments.checkpoint is not None,
        "--fit": bool(spec.takes.references) and arguments.fit is not None,
        "--device cuda": is_built_in and arguments.device == "cuda",
        "--precision": is_built_in and arguments.precision != "auto",
    }
    refused = [option for option, is_given in given.items() if is_given]
    if refused:
        options = ", ".join(refused)
        raise RequestError(
            f"The engine {spec.id} has nothing that {options} could set. Leave it out, or choose another engine.",
            f"引擎 {spec.id} 不支持 {options}。请去掉该选项，或换一个引擎。",
        )


def _refine(arguments: argparse.Namespace) -> None:
    from i2v_pipeline.images import open_picture
    from prompt_refiner import load_settings, refine

    spec = _engine_called(arguments.engine)
    picture = open_picture(arguments.image).source if arguments.image else None
    result = refine(
        arguments.prompt, style=style_of(spec), settings=load_settings(), mode=arguments.mode, picture=picture
    )
    if arguments.json:
        print_json(result.to_dict())
        return
    print(result.refined_prompt)
    _say(Text(f"Camera: {', '.join(result.camera_motion) or 'not asked for'}; speed: {result.speed}",
              f"镜头：{'、'.join(result.camera_motion) or '未要求'}；速度：{result.speed}"))  # fmt: skip
    _say(Text(f"By: {result.source}", f"来源：{result.source}"))
    for notice in result.notices:
        _say(Text(notice.en, notice.zh))


def _plan(arguments: argparse.Namespace) -> None:
    machine = machine_like(Hypothesis(gpu=arguments.gpu, vram_gib=arguments.vram, ram_gib=arguments.ram))
    spec = best_engine(load_presets(), machine) if arguments.engine == "auto" else find_engine(arguments.engine)
    if arguments.gguf is not None:
        spec = as_if_packed(spec, arguments.gguf)
    count = references_in_plan(spec, arguments.references)
    choice = Choice(
        preset=arguments.preset,
        resolution=arguments.resolution,
        frames=arguments.frames,
        steps=arguments.steps,
        **speed_of(arguments),
        further_images=(Path("reference"),) * (count - 1),
    )
    # What was learned here says nothing about another card.
    book = EMPTY if arguments.gpu is not None else learned_in(default_data())
    answer = plan_choice(spec, choice, machine, book)
    if arguments.json:
        print_json(answer)
        return
    for line in told(answer):
        print(pick(line))


def _engine_called(engine_id: str) -> EngineSpec:
    """The engine of that id; for `auto` the best one that is here already."""
    return best_engine(load_presets(), machine_now()) if engine_id == "auto" else find_engine(engine_id)


def _models_list(_: argparse.Namespace) -> None:
    for spec in load_presets().values():
        print(f"{spec.id}\t{pick(spec.title)}")
        for line in (pick(state_of(spec)), pick(needs_of(spec)), pick(spec.description), spec.licence):
            print(f"\t{line}")


def _models_download(arguments: argparse.Namespace) -> None:
    from i2v_pipeline.download import check_disk, fetch, plan_download
    from i2v_pipeline.gguf_folder import without_denoisers
    from i2v_pipeline.hub import GB, cache_folder, find_checkpoint

    # One line for each request would drown the progress.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    spec = find_engine(arguments.engine)
    if arguments.without_denoiser:
        spec = without_denoisers(spec)
    download = plan_download(spec)
    total, missing, free = (
        f"{count / GB:.1f} GB" for count in (download.total_bytes, download.missing_bytes, download.free_bytes)
    )
    repos = ", ".join(source.repo for source in download.sources)
    _say(Text(f"{spec.id}: {repos}; licence: {spec.licence}", f"{spec.id}：{repos}；许可：{spec.licence}"))
    _say(
        Text(
            f"{download.files} files, {total}; {missing} to download into {cache_folder()}, {free} free.",
            f"{download.files} 个文件，共 {total}；还需下载 {missing} 到 {cache_folder()}，剩余空间 {free}。",
        )
    )
    check_disk(spec, download)
    fetch(spec, download)
    print(find_checkpoint(spec, None).folder)


def _doctor(arguments: argparse.Namespace) -> None:
    # The sentence below says what each request would.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    diagnosis = diagnose(connect=not arguments.no_connect, book=learned_in(default_data()))
    if arguments.json:
        print_json(diagnosis)
        return
    for part in diagnosis["ready"]:
        print(f"ready    {part['name']}: {part['detail']}")
    for part in diagnosis["missing"]:
        print(f"missing  {part['name']}: {part['detail']}")
    for run in diagnosis["engines"]:
        print(f"runs     {pick(run_line(run))}")
        print(f"         {pick(Text(run['reason'], run['reason_zh']))}")
    for faster in dict.fromkeys(Text(*each.values()) for run in diagnosis["engines"] for each in run["faster"]):
        print(f"faster   {pick(faster)}")
    print(f"advice   {pick(Text(*diagnosis['advice'].values()))}")
    device, refiner = diagnosis["device"], diagnosis["refiner"]
    print(f"device   {device['name']}, {device['cores']} cores, {device['ram_gib']} GiB RAM")
    print(f"refiner  {refiner['provider'] or 'offline rules'} {refiner['model'] or ''}".rstrip())
    found = refiner["connection"] or refiner["problem"]
    if found:
        print(f"         {pick(Text(found['en'], found['zh']))}")


def _tell(text: Text, exit_code: int, *, as_json: bool) -> int:
    _say(text)
    if as_json:
        print_json({"error": {"message": text.en, "message_zh": text.zh, "exit_code": exit_code}})
    return exit_code


def _say(text: Text) -> None:
    print(pick(text), file=sys.stderr)
