"""Memory and seconds of a job in a mode on a device. Pure arithmetic: chooses nothing and asks nobody.

seconds = overhead * (FLOPs / rate + attention FLOPs / attention's rate + element-wise bytes / bandwidth)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from i2v_pipeline.planning.architectures import Work
from i2v_pipeline.planning.devices import Device
from i2v_pipeline.planning.job import DENOISERS, HALF_WIDTH, Job
from i2v_pipeline.planning.modes import Mode
from i2v_pipeline.planning.tuning import EAGER, Tuning
from i2v_pipeline.types import StageName, StagePlan

GIB = 2**30
OVERHEAD = 1.10
"""Seconds of a step beside those of its operations, launches and copies among them: the mean over the published timings
of bench/results/plan.json that were used for it."""
CONVOLUTION_SHARE = 0.5
"""Of the rate of large products, what a VAE's convolutions reach."""
ALLOCATOR_SHARE = 1.08
"""Memory taken over memory in use: fragments and the workspaces of convolutions."""
CUDA_CONTEXT_GIB = 0.6
LIBRARIES_GIB = 1.5
"""The process with torch, diffusers and transformers, before it has loaded anything."""
READ_BYTES_PER_S = 1e9
"""Reading weights: an NVMe drive and several threads. vllm-omni tells 1.2e9 for A14B with four, 0.25e9 with one."""
WRITE_S_PER_MP = 0.020
"""Encoding one frame and reading it back, per megapixel, on two cores of an AMD EPYC."""
VIDEO_BYTES_PER_PIXEL = 0.03
"""A generous size of the file: per pixel of each frame the example pictures took 0.005 (cat) to 0.025 (mountains)."""
TILED_FLOPS = 1.63
"""Tiles of 256 pixels every 192 overlap."""
STREAMED_LAYERS = 2
"""On the card at once: the one that computes and the one that arrives."""
STREAMED_FP8_LAYERS = 3
"""What was widened to compute is narrowed again beside where it came from."""
PINNED_PIECE = 64 * 2**20
"""Bytes: a layer that streams lies in pieces of that size."""
CAST_BYTES = 6
"""Moved for each weight in fp8 in each pass: read and widened before it computes, read and narrowed after."""
_ENCODERS = ("text_encoder", "image_encoder")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a job takes in one mode. Where there is no GPU, `vram_gib` is 0 and everything stands in `ram_gib`."""

    mode: Mode
    stages: tuple[StagePlan, ...]
    vram_gib: float
    ram_gib: float

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)


def cost_of(job: Job, mode: Mode, device: Device, tuning: Tuning = EAGER) -> Cost:
    """What `job` takes in `mode` on `device`. Weights of a stage count what stays from a run before it."""
    held = _held_by_stage(job, mode)
    later = _stage_seconds(job, mode, device, tuning)
    only_first: dict[StageName, float] = {"load": _first_read(job, mode) - later["load"]}
    if mode.waits == "disk":
        # What is read anew has to be compiled anew.
        later["denoise"] += tuning.compile_s
    else:
        only_first["denoise"] = tuning.compile_s
    stages = tuple(
        StagePlan(
            name=name,
            weights_gib=round(held[name].weights / GIB, 3) if name in held else 0.0,
            activations_gib=round(held[name].activations / GIB, 3) if name in held else 0.0,
            seconds=round(seconds + only_first.get(name, 0.0), 3),
            later_seconds=round(seconds, 3),
        )
        for name, seconds in later.items()
    )
    peak = max(each.total for each in held.values()) / GIB * ALLOCATOR_SHARE
    if device.is_cpu:
        return Cost(mode=mode, stages=stages, vram_gib=0.0, ram_gib=round(LIBRARIES_GIB + peak, 2))
    return Cost(
        mode=mode,
        stages=stages,
        vram_gib=round(CUDA_CONTEXT_GIB + peak, 2),
        ram_gib=round(LIBRARIES_GIB + _ram(job, mode) / GIB, 2),
    )


def bound_seconds(job: Job, device: Device) -> float:
    """No program can be faster: every operation at the device's rate for large products, and nothing else."""
    return job.flops / device.half_flops


def step_seconds(job: Job, device: Device, tuning: Tuning = EAGER) -> float:
    """One guided step."""
    return 2 * _seconds(job.forward, _denoise_rate(job, device), device, tuning)


@dataclass(frozen=True, kw_only=True)
class _Held:
    """Bytes in memory at the fullest moment of a stage."""

    weights: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.activations


def _held_by_stage(job: Job, mode: Mode) -> dict[StageName, _Held]:
    """What a stage needs at most; of the moments of a stage the fullest."""
    batch = 2 if job.is_batched and job.guided_steps and not mode.alone else 1
    wider = 0.5 if _halves_vae(job, mode) else 1.0
    decode = job.decode.activation_bytes * wider
    if mode.tiled:
        # The tiles of the whole video, put together and clamped, in floats.
        decode = min(decode, (job.tile.activation_bytes + 3 * job.pixels * job.frames * 12) * wider)
    load, words, picture, denoise, kept = _weights(job, mode)
    encoding = (
        _Held(weights=words, activations=job.encode.activation_bytes),
        _Held(weights=picture, activations=job.vae_encode.activation_bytes),
    )
    return {
        "load": _Held(weights=load, activations=0.0),
        "encode": max(encoding, key=lambda held: held.total),
        "denoise": _Held(weights=denoise, activations=batch * job.forward.activation_bytes),
        "decode": _Held(weights=kept, activations=decode),
    }


def _halves_vae(job: Job, mode: Mode) -> bool:
    return mode.half and job.may_halve_vae


def _is_fp8(job: Job, mode: Mode) -> bool:
    return mode.fp8 or job.is_fp8


def _weights_in(job: Job, mode: Mode) -> dict[str, float]:
    """Bytes of each part as the mode keeps it."""
    weights = dict(job.weights)
    if _is_fp8(job, mode):
        for name in weights.keys() & set(DENOISERS):
            parameters = job.weights[name] / (HALF_WIDTH if job.is_half else 2 * HALF_WIDTH)
            kept = job.streams[name].kept_in_fp8
            weights[name] = parameters - kept + kept * job.weights[name] / parameters
    return weights


def _ram(job: Job, mode: Mode) -> float:
    """Bytes of weights in the host's memory at most, beside a card."""
    weights = _weights_in(job, mode)
    # What goes to the card goes there piece by piece.
    pieces = {name: min(weights[name], _piece(job, name)) for name in weights}
    match mode.placement:
        case "resident" | "staged":
            return max(pieces.values())
        case "swapped":
            return max(pieces.values()) if mode.waits == "disk" else sum(weights.values())
        case "streamed":
            pinned = {name: _pinned(job, mode, name, weights[name]) for name in weights.keys() & job.streams.keys()}
            copied = {name: whole + _copies(job, name) for name, whole in pinned.items()}
            if mode.waits == "disk":
                return max((pieces | copied).values())
            waiting = sum((weights | pinned).values())
            return waiting + max(copied[name] - pinned[name] for name in pinned)


def _piece(job: Job, name: str) -> float:
    """What of a part is read before it goes on to the card: at most a layer, and what lies outside of all layers."""
    if name not in job.streams:
        return job.weights[name]
    stream = job.streams[name]
    return (stream.largest_layer + stream.outside) * _width(job, name)


def _pinned(job: Job, mode: Mode, name: str, whole: float) -> float:
    """A part whose layers lie pinned, each in pieces of which the last is rounded up to a power of two."""
    stream = job.streams[name]
    width = HALF_WIDTH / 2 if name in DENOISERS and _is_fp8(job, mode) else _width(job, name)
    layer = stream.largest_layer * width
    rest = layer % PINNED_PIECE
    rounded = layer - rest + (2 ** math.ceil(math.log2(rest)) if rest else 0)
    return whole + max(0.0, whole - stream.outside * _width(job, name)) * (rounded / layer - 1)


def _copies(job: Job, name: str) -> float:
    """While a layer is pinned it is there twice more: as it was read, and whole in its new order."""
    return 2 * job.streams[name].largest_layer * _width(job, name)


def _width(job: Job, name: str) -> int:
    """Bytes of a number of what computes."""
    if name == "image_encoder" and job.may_halve_vae:
        return 2 * HALF_WIDTH
    return HALF_WIDTH if job.is_half else 2 * HALF_WIDTH


def _first_read(job: Job, mode: Mode) -> float:
    """Seconds of reading in a run that finds nothing loaded."""
    return (sum(job.disk_bytes.values()) + _read_again(job, mode)) / READ_BYTES_PER_S


def _read_again(job: Job, mode: Mode) -> int:
    """Bytes: what comes from the disk, the VAE works at both ends of a run."""
    return job.disk_bytes["vae"] if mode.waits == "disk" else 0


def _later_read(job: Job, mode: Mode) -> float:
    """Seconds of reading in a run with another prompt and picture that finds loaded what the mode keeps."""
    if mode.waits == "disk":
        return _first_read(job, mode)
    if mode.placement == "staged":
        return sum(job.disk_bytes.get(name, 0) for name in _ENCODERS) / READ_BYTES_PER_S
    return 0.0


def _weights(job: Job, mode: Mode) -> tuple[float, float, float, float, float]:
    """On the card at the end of loading, as the encoders encode, as the VAE encodes, as it is denoised and decoded."""
    weights = _weights_in(job, mode)
    if mode.placement == "streamed":
        weights |= {name: _streamed(job, mode, name, weights[name]) for name in weights.keys() & job.streams.keys()}
    vae = weights["vae"]
    encoders = [weights[name] for name in _ENCODERS if name in weights]
    denoisers = [weights[name] for name in DENOISERS if name in weights]
    kept = sum(denoisers) + vae
    match mode.placement:
        case "resident":
            whole = sum(encoders) + kept
            return whole, whole, whole, whole, whole
        case "staged":
            return kept, sum(encoders) + kept, kept, kept, kept
        case "swapped" | "streamed":
            return max(weights.values()), max(encoders), vae, max(denoisers), vae


def _streamed(job: Job, mode: Mode, name: str, whole: float) -> float:
    """What of a part lies on the card at most while its layers pass through."""
    stream, is_fp8 = job.streams[name], name in DENOISERS and _is_fp8(job, mode)
    width = _width(job, name)
    layers = STREAMED_FP8_LAYERS * stream.largest_layer if is_fp8 else STREAMED_LAYERS * stream.largest_layer * width
    return min(whole, layers + stream.outside * width)


def _stage_seconds(job: Job, mode: Mode, device: Device, tuning: Tuning) -> dict[StageName, float]:
    """Of a run that finds the model loaded, as far as the mode keeps it: where encoders leave, they come back."""
    half = _denoise_rate(job, device)
    is_half_vae = job.is_half_vae or _halves_vae(job, mode)
    weights = _weights_in(job, mode)
    denoiser = max(weights.get(name, 0.0) for name in DENOISERS)
    forward = _seconds(job.forward, half, device, tuning)
    if _is_fp8(job, mode):
        forward += CAST_BYTES * denoiser / device.bandwidth
    if mode.placement == "streamed":
        forward = max(forward, denoiser / device.pcie_bandwidth)
    # What comes back to the card in every run: the parts one after another, each expert once.
    comes_back = mode.placement == "swapped" and mode.waits == "ram"
    moved = sum(weights.values()) / device.pcie_bandwidth if comes_back else 0.0
    encode, decode = (
        (device.half_flops if is_half else device.tf32_flops) * CONVOLUTION_SHARE
        for is_half in (job.is_half_vae, is_half_vae)
    )
    return {
        "load": _later_read(job, mode),
        # The denoiser alone gets another kernel of attention or is compiled.
        "encode": _seconds(job.encode, half, device, EAGER) + _seconds(job.vae_encode, encode, device, EAGER),
        "denoise": job.passes * forward + moved,
        "decode": _seconds(job.decode, decode, device, EAGER) * (TILED_FLOPS if mode.tiled else 1.0),
        "write": WRITE_S_PER_MP * job.pixels * job.frames / 1e6,
    }


def _seconds(work: Work, rate: float, device: Device, tuning: Tuning) -> float:
    attention = device.attention_flops.get(tuning.attention, device.attention_flops["sdpa"])
    operations = work.flops / rate + work.attention_flops / attention
    return OVERHEAD * (operations + tuning.elementwise_share * work.elementwise_bytes / device.bandwidth)


def _denoise_rate(job: Job, device: Device) -> float:
    return device.half_flops if job.is_half else device.fp32_flops
