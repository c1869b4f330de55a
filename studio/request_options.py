"""The options that say what a video is made of, alike for every command that makes or plans one. Runs nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from i2v_pipeline.types import Aftercare, Attention, FeatureCache, PresetName
from studio.given_pictures import Given, add_pictures
from studio.recipe import SEED_LIMIT, Choice, parse_lora


def add_request_options(generate: argparse.ArgumentParser) -> None:
    """What a video is made of, for every command that makes one."""
    add_pictures(generate)
    generate.add_argument("--engine", default="auto", metavar="ID", help="see `models list`; auto: the best one here")
    generate.add_argument("--preset", default="standard", choices=get_args(PresetName))
    generate.add_argument("--resolution", metavar="256p|480p|512p|720p|768p|1024p|WxH")
    generate.add_argument("--fit", choices=("crop", "pad", "stretch"), help="what happens to another aspect")
    generate.add_argument("--frames", type=int)
    generate.add_argument("--fps", type=int)
    generate.add_argument("--steps", type=int)
    generate.add_argument("--guidance", metavar="G", help="5, a ramp 9..6, an interval 5@0-0.6; two: 3.5,1")
    generate.add_argument("--flow-shift", type=float, metavar="S", help="of the Wan models' time steps")
    generate.add_argument("--negative", metavar="TEXT", help="in place of the engine's own negative prompt")
    generate.add_argument("--seed", type=int, help=f"0 to {SEED_LIMIT - 1}; drawn and reported when it is not given")
    generate.add_argument("--refine", default="auto", choices=("auto", "llm", "offline", "off"))
    generate.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:WEIGHT][@high|@low]",
        help="a .safetensors file; repeatable",
    )
    generate.add_argument("--checkpoint", type=Path, metavar="DIR", help="a local diffusers folder")
    generate.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    generate.add_argument("--precision", default="auto", choices=("auto", "fp32", "fp16", "bf16", "fp8"))
    add_speed(generate)
    generate.add_argument("--last-image", type=Path, metavar="IMAGE", help="the picture that the video ends with")
    generate.add_argument("--double-rate", action="store_true", help="put a frame between any two: twice the fps")
    ending = generate.add_mutually_exclusive_group()
    for name, what in (("loop", "the end dissolves into the start"), ("boomerang", "back the way that it came")):
        ending.add_argument(f"--{name}", dest="ending", action="store_const", const=name, default="plain", help=what)
    generate.add_argument("--no-source", action="store_true", help="leave the source picture out of the MP4")


def add_speed(command: argparse.ArgumentParser) -> None:
    """What makes a run faster. Off, or chosen without loss, unless it is named."""
    command.add_argument(
        "--attention", default="auto", choices=get_args(Attention), help="sage is fast and rounds to 8 bits"
    )
    command.add_argument(
        "--cache", default="off", choices=get_args(FeatureCache), help="faster, with less fine motion and detail"
    )
    command.add_argument("--compile", action="store_true", help="pays when several videos of one size are made")


def choice_of(arguments: argparse.Namespace, given: Given) -> Choice:
    """What the options of `add_request_options` choose."""
    from i2v_pipeline.guidance import parse_guidance

    return Choice(
        preset=arguments.preset,
        resolution=arguments.resolution,
        frames=arguments.frames,
        fps=arguments.fps,
        steps=arguments.steps,
        guidance=None if arguments.guidance is None else parse_guidance(arguments.guidance),
        negative_prompt=arguments.negative,
        seed=arguments.seed,
        fit=arguments.fit,
        embed_source=not arguments.no_source,
        flow_shift=arguments.flow_shift,
        loras=tuple(parse_lora(text) for text in arguments.lora),
        last_image=arguments.last_image,
        further_images=given.images[1:],
        subjects=given.subjects,
        checkpoint=arguments.checkpoint,
        device=arguments.device,
        precision=arguments.precision,
        aftercare=Aftercare(double_rate=arguments.double_rate, ending=arguments.ending),
        **speed_of(arguments),
    )


def speed_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Choice` for what makes a run faster."""
    return {"attention": arguments.attention, "cache": arguments.cache, "compiled": arguments.compile}
