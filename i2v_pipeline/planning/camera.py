"""What the camera engine takes: seconds and memory grow with pixels and frames. Knows no other engine."""

from __future__ import annotations

from i2v_pipeline.types import GenerationRequest, Plan, StageName, StagePlan, Text

NETWORK_S = 0.6
"""Loading the subject network and finding the subject; the picture is scaled to 320 x 320 for it whatever its size."""
LAYERS_S_PER_MP = 0.9
"""Cutting out the subject, filling in behind it and estimating depth, per megapixel of the video's size."""
RENDER_S_PER_MP = 0.016
"""One frame, per megapixel: two layers, each resampled once."""
WRITE_S_PER_MP = 0.020
"""Encoding one frame and reading it back, per megapixel."""
BASE_RAM_GIB = 0.28
RAM_GIB_PER_MP = 0.16
"""The process with its libraries and the network, and the layers at more than the picture's resolution.

All six for two cores of an AMD EPYC on which other programs run too: `generate` at 1280 x 720 with 96 frames took
4.2 to 4.8 s and 0.43 GiB there, and 4.7 s and 0.43 GiB are predicted. Alone it is faster: bench/camera.py.
"""
NETWORK_GIB = 0.02
VIDEO_BYTES_PER_PIXEL = 0.03
"""A generous size of the file: per pixel of each frame the example pictures took 0.005 (cat) to 0.025 (mountains)."""


def plan_camera(request: GenerationRequest) -> Plan:
    """Predicted for a camera that changes its place past a subject, the slowest case."""
    megapixels = request.width * request.height / 1e6
    layers_gib = RAM_GIB_PER_MP * megapixels
    return Plan(
        mode="cpu",
        reason=Text(
            en="The camera engine runs on the processor and holds a few frames at a time, so it fits every machine.",
            zh="运镜引擎在处理器上运行，内存中只保留几帧画面，任何机器都能运行。",
        ),
        peak_vram_gib=0.0,
        peak_ram_gib=round(BASE_RAM_GIB + layers_gib, 3),
        disk_gib=round(megapixels * request.frames * VIDEO_BYTES_PER_PIXEL * 1e6 / 2**30, 4),
        stages=(
            _stage("load", seconds=0.1, activations_gib=0.0),
            _stage("encode", seconds=NETWORK_S + LAYERS_S_PER_MP * megapixels, activations_gib=layers_gib),
            _stage("decode", seconds=RENDER_S_PER_MP * megapixels * request.frames, activations_gib=layers_gib),
            _stage("write", seconds=WRITE_S_PER_MP * megapixels * request.frames, activations_gib=layers_gib),
        ),
    )


def _stage(name: StageName, *, seconds: float, activations_gib: float) -> StagePlan:
    return StagePlan(
        name=name, weights_gib=NETWORK_GIB, activations_gib=round(activations_gib, 3), seconds=round(seconds, 2)
    )
