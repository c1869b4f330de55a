"""Memory and seconds of a request in a mode on a device. Pure arithmetic: chooses nothing and asks nobody.

seconds = overhead * (FLOPs / rate + attention FLOPs / attention's rate + element-wise bytes / bandwidth)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from i2v_pipeline.guidance import NO_GUIDANCE, strength_at
from i2v_pipeline.planning.architectures import Architecture, Streaming, Unet, Work, load_architectures
from i2v_pipeline.planning.devices import Device
from i2v_pipeline.planning.modes import Mode
from i2v_pipeline.planning.packed import lora_bytes, streaming_of, widening
from i2v_pipeline.planning.tuning import EAGER, Tuning
from i2v_pipeline.specs import DiffusionSpec, EngineSpec
from i2v_pipeline.types import GenerationRequest, StageName, StagePlan

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
TILE_PIXELS = 256 * 256
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
HALF_WIDTH = 2
"""Bytes of a number in fp16 or bf16; one in fp8 takes half of that."""
_ENCODERS = ("text_encoder", "image_encoder")
DENOISERS = frozenset({"transformer", "transformer_2", "unet"})


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the request computes: each part's work, how often, and by component the weights in bytes and those on disk.

    `streams` are the parts whose layers can pass through the card. `is_fp8` where fp8 was asked for.
    """

    encode: Work
    vae_encode: Work
    forward: Work
    passes: int
    guided_steps: int
    steps: int
    decode: Work
    weights: Mapping[str, float]
    streams: Mapping[str, Streaming]
    disk_bytes: Mapping[str, int]
    tile: Work
    is_batched: bool
    is_half: bool
    is_fp8: bool
    is_half_vae: bool
    may_halve_vae: bool
    pixels: int
    frames: int

    @property
    def flops(self) -> float:
        """Of the whole run, attention included."""
        works = (self.encode, self.vae_encode, self.forward.times(self.passes), self.decode)
        return sum(work.flops + work.attention_flops for work in works)


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


def job_of(spec: EngineSpec, diffusion: DiffusionSpec, request: GenerationRequest, *, on_cpu: bool) -> Job:
    """The work and the weights of `request`, in the types that the engine would use."""
    architecture = load_architectures()[spec.id]
    precision = "fp32" if on_cpu and request.precision == "auto" else request.precision
    is_half = (diffusion.precision if precision == "auto" else precision) != "fp32"
    denoiser = architecture.denoiser.streaming
    is_unet = isinstance(architecture.denoiser, Unet)
    width, vae_width = (2 if is_half else 4), (2 if is_half and is_unet else 4)
    widths = {"vae": vae_width, "image_encoder": vae_width}
    # The counts of activations and traffic are those of half precision where the engine uses it on a GPU.
    wider, vae_wider = width / 2, (vae_width / 2 if is_unet else 1.0)
    pixels, guided = request.width * request.height, _guided_steps(diffusion, request)
    shape = (request.width, request.height, request.frames)
    steps, references = request.steps or 0, len(request.images) if spec.takes.references else 0
    further = 1
    if diffusion.references is not None:
        references = diffusion.references.frames_for(references)
        # Where references are guided apart from the prompt a guided step is three passes.
        further = 2 if diffusion.references.guidance is not None else 1
    weights = {
        name: float(component.parameters * widths.get(name, width)) for name, component in diffusion.components.items()
    }
    streams = {
        "text_encoder": architecture.text_encoder.streaming,
        **({} if architecture.image_encoder is None else {"image_encoder": architecture.image_encoder.streaming}),
        **dict.fromkeys(DENOISERS, denoiser),
    }
    for name, packed in diffusion.packed.items():
        beside = lora_bytes(architecture.denoiser, request.loras, name, width)
        weights[name] = float(packed.bytes(width) + len(packed.layers) * beside)
        streams[name] = streaming_of(packed, beside, width)
    return Job(
        encode=_encoders_work(architecture, prompts=2 if guided else 1, wider=wider),
        vae_encode=_wider(_pictures_work(spec, architecture, request), vae_wider),
        forward=_wider(architecture.denoiser.work(*shape, references, apart=on_cpu), wider).beside(
            widening(diffusion.packed, width)
        ),
        passes=steps + further * guided,
        guided_steps=guided,
        steps=steps,
        decode=_wider(architecture.vae.decode_work(pixels, request.frames), vae_wider),
        weights=weights,
        streams=streams,
        disk_bytes={name: diffusion.disk_bytes_of(name) for name in diffusion.components},
        tile=_wider(architecture.vae.decode_work(min(pixels, TILE_PIXELS), request.frames), vae_wider),
        is_batched=is_unet,
        is_half=is_half,
        is_fp8=request.precision == "fp8",
        is_half_vae=vae_width == HALF_WIDTH,
        may_halve_vae=vae_width != HALF_WIDTH and request.precision != "fp32",
        pixels=pixels,
        frames=request.frames,
    )


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


def _encoders_work(architecture: Architecture, *, prompts: int, wider: float) -> Work:
    text = architecture.text_encoder.work().times(prompts)
    image = architecture.image_encoder.work() if architecture.image_encoder else text.times(0)
    return Work(
        flops=text.flops + image.flops,
        attention_flops=text.attention_flops + image.attention_flops,
        elementwise_bytes=(text.elementwise_bytes + image.elementwise_bytes) * wider,
        activation_bytes=max(text.activation_bytes, image.activation_bytes) * wider,
    )


def _pictures_work(spec: EngineSpec, architecture: Architecture, request: GenerationRequest) -> Work:
    """What the VAE encodes: the first picture, alone or before a video of empty frames, or each reference."""
    pixels, vae = request.width * request.height, architecture.vae
    still, video = vae.encode_work(pixels, 1), vae.encode_work(pixels, request.frames)
    references = still.times(len(request.images))
    match spec.family:
        case "references":
            return references
        case "vace":
            return references.then(video)
        case "wan" if spec.diffusion is not None and not spec.diffusion.per_token_timesteps:
            return video
        case _:
            return still


def _wider(work: Work, factor: float) -> Work:
    return Work(
        flops=work.flops,
        attention_flops=work.attention_flops,
        elementwise_bytes=work.elementwise_bytes * factor,
        activation_bytes=work.activation_bytes * factor,
    )


def _guided_steps(diffusion: DiffusionSpec, request: GenerationRequest) -> int:
    """Steps that compute an unconditional pass too."""
    if request.guidance is None or request.steps is None:
        return 0
    strengths = (
        strength_at(request.guidance, step, request.steps, "high" if _is_high(diffusion, request, step) else "low")
        for step in range(request.steps)
    )
    return sum(strength != NO_GUIDANCE for strength in strengths)


def _is_high(diffusion: DiffusionSpec, request: GenerationRequest, step: int) -> bool:
    """Whether the high-noise expert has the step: its noise, after the flow shift, is above the boundary."""
    if diffusion.boundary is None or request.steps is None:
        return True
    shift, even = request.flow_shift or 1.0, 1 - step / request.steps
    return shift * even / (1 + (shift - 1) * even) >= diffusion.boundary or math.isclose(even, 1.0)
