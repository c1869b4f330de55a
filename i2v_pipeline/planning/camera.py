"""What the camera engine takes: seconds and memory grow with pixels and frames. Knows no other engine."""

from __future__ import annotations

from i2v_pipeline.planning.costs import GIB, VIDEO_BYTES_PER_PIXEL, WRITE_S_PER_MP
from i2v_pipeline.planning.learned import EMPTY, Book, kind_of
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.types import GenerationRequest, Plan, StageName, StagePlan, Text

NETWORK_S = 0.6
"""Loading the subject network and finding the subject; the picture is scaled to 320 x 320 for it whatever its size."""
LAYERS_S_PER_MP = 0.9
"""Cutting out the subject, filling in behind it and estimating depth, per megapixel of the video's size."""
RENDER_S_PER_MP = 0.016
"""One frame, per megapixel: two layers, each resampled once."""
BASE_RAM_GIB = 0.28
RAM_GIB_PER_MP = 0.16
"""The process with its libraries and the network, and the layers at more than the picture's resolution.

All of these, and the writing, for two cores of an AMD EPYC on which other programs run too: `generate` at 1280 x 720
with 96 frames took 4.2 to 4.8 s and 0.43 GiB there, and 4.7 s and 0.43 GiB are predicted. Alone it is faster:
bench/camera.py.
"""
NETWORK_GIB = 0.02
BYTES_PER_PIXEL = 3
_FITS = Text(
    en="The camera engine runs on the processor and holds a few frames at a time, so it needs no graphics card.",
    zh="运镜引擎在处理器上运行，内存中只保留几帧画面，不需要显卡。",
)


def plan_camera(request: GenerationRequest, machine: Machine, book: Book = EMPTY) -> Plan:
    """Predicted for a camera that changes its place past a subject, the slowest case.

    Its bound is the memory's: each pixel goes through it once as it is drawn and once as it is written.
    """
    megapixels = request.width * request.height / 1e6
    device = machine.device(on_cpu=True)
    history = book.of(kind_of(device.title, request, "cpu", "sdpa"))
    ram_gib = history.ram_gib(BASE_RAM_GIB + RAM_GIB_PER_MP * megapixels)
    fits = machine.free_ram_gib is None or ram_gib <= machine.free_ram_gib
    layers_gib = RAM_GIB_PER_MP * megapixels
    return Plan(
        fits=fits,
        mode="cpu",
        reason=_FITS
        if fits
        else Text(
            f"It does not fit: {ram_gib:.1f} GiB of RAM are needed, {machine.free_ram_gib:.1f} are free.",
            f"放不下：需要 {ram_gib:.1f} GiB 内存，空闲 {machine.free_ram_gib:.1f} GiB。",
        ),
        device=device.title,
        peak_vram_gib=0.0,
        peak_ram_gib=round(ram_gib, 3),
        bound_seconds=round(2 * BYTES_PER_PIXEL * megapixels * 1e6 * request.frames / device.bandwidth, 4),
        disk_gib=round(megapixels * request.frames * VIDEO_BYTES_PER_PIXEL * 1e6 / GIB, 4),
        stages=history.corrected(
            (
                _stage("load", seconds=0.1, activations_gib=0.0),
                _stage("encode", seconds=NETWORK_S + LAYERS_S_PER_MP * megapixels, activations_gib=layers_gib),
                _stage("decode", seconds=RENDER_S_PER_MP * megapixels * request.frames, activations_gib=layers_gib),
                _stage("write", seconds=WRITE_S_PER_MP * megapixels * request.frames, activations_gib=layers_gib),
            )
        ),
        learned_runs=len(history.runs),
    )


def _stage(name: StageName, *, seconds: float, activations_gib: float) -> StagePlan:
    return StagePlan(
        name=name,
        weights_gib=NETWORK_GIB,
        activations_gib=round(activations_gib, 3),
        seconds=round(seconds, 2),
        later_seconds=round(seconds, 2),
    )
