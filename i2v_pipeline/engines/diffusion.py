"""The engine of every diffusion family: load what is needed, encode, denoise, decode. Knows no single model."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from traceback import format_exception
from typing import Any

import torch
from torch import Tensor

from i2v_pipeline.denoise import denoise, first_state, preview
from i2v_pipeline.engines import memory
from i2v_pipeline.engines.cache import ConditioningCache
from i2v_pipeline.engines.families import family_of
from i2v_pipeline.engines.family import Family, Inputs, TileDone
from i2v_pipeline.engines.levers import CACHE_NOT_RESUMED, Levers
from i2v_pipeline.engines.loaded import Loaded
from i2v_pipeline.engines.loading import DENOISERS, Parts, load_tokenizer
from i2v_pipeline.engines.lora import open_loras
from i2v_pipeline.engines.meter import LoadTeller, VramMeter
from i2v_pipeline.engines.notes import STATE_NOT_SAVED, STATE_NOT_USED, mode_notes, packed_weights_used, prompt_notes
from i2v_pipeline.engines.runtime import DTYPES, choose_device, choose_precision, runtime_facts
from i2v_pipeline.engines.state import Saved, StateKeeper, StateUnusable
from i2v_pipeline.errors import OutOfMemory, Paused
from i2v_pipeline.hub import checkpoint_sha256, find_checkpoint
from i2v_pipeline.planning.modes import Mode, mode_called
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Finding, GenerationRequest, OnProgress, Prepared, Progress, StageName, U8Frames

log = logging.getLogger("studio.diffusion")

PREVIEW_EVERY_S = 0.5


class DiffusionEngine:
    """An `Engine` for every family but `camera`. What stays loaded between runs, and where, the mode says."""

    def __init__(self, spec: EngineSpec) -> None:
        assert spec.diffusion is not None
        self._spec = spec
        self._diffusion = spec.diffusion
        self._cache = ConditioningCache()
        self._loaded: Loaded | None = None
        self._findings: list[Finding] = []
        self._facts: dict[str, Any] = {}
        self._decode_seconds_per_value = 0.0
        self._stage: StageName = "load"

    def generate(
        self,
        request: GenerationRequest,
        picture: Prepared,
        on_progress: OnProgress,
        state_path: Path | None = None,
        mode: str = "staged",
    ) -> Iterator[U8Frames]:
        fallen: OutOfMemory | None = None
        try:
            yield from self._generate(request, picture, on_progress, state_path, mode)
        except (RuntimeError, MemoryError, OSError) as error:
            kind = memory.ran_out(error)
            if kind is None:
                raise
            is_loading = self._loaded is not None and self._loaded.parts.loading is not None
            fallen = OutOfMemory("load" if is_loading else self._stage, kind)
            # As text: a record with the error in it would hold what the run had on the card.
            log.warning("Mode %s fell in stage %s:\n%s", mode, fallen.stage, "".join(format_exception(error)))
        if fallen is not None:
            # Only now, without the error, does nobody hold what the run had on the card.
            self.close()
            raise fallen

    def _generate(
        self, request: GenerationRequest, picture: Prepared, on_progress: OnProgress, state_path: Path | None, mode: str
    ) -> Iterator[U8Frames]:
        self._findings, self._facts, self._stage = [], {}, "load"
        last = None if picture.last is None else picture.last.pixels
        others = tuple(other.pixels for other in picture.others)
        inputs = Inputs(request=request, first=picture.pixels, last=last, others=others)

        # 1. Load the tokenizer and say what it will not read, before anything large is touched
        # Where parts wait on the disk the VAE is loaded at both ends of a run.
        loads = len(self._diffusion.components) + (mode_called(mode).waits == "disk")
        on_progress(Progress(stage="load", step=0, steps=loads))
        loaded = self._load(request, mode_called(mode))
        parts, family = loaded.parts, loaded.family
        meter = VramMeter(on_progress, parts.device)
        on_progress = teller = LoadTeller(meter, loads)
        parts.on_load, parts.adapt = teller.on_load, loaded.adapt
        if parts.device.type == "cuda":
            self._facts["vram_before_gib"] = memory.held_gib(parts.device)
        loaded.change_loras(open_loras(request.loras))
        parts.loaded.clear()
        self._cache.reused.clear()
        findings, facts = prompt_notes(self._spec.prompt_style, family.read_text, loaded.tokenizer, request)
        self._findings += findings
        self._facts |= facts

        # 2. Encode what is not cached
        self._stage = "encode"
        on_progress(Progress(stage="encode", step=0, steps=1))
        conditioning = family.encode(inputs)
        on_progress(Progress(stage="encode", step=1, steps=1))

        scheduler = family.scheduler(request)
        self._facts["inputs"] = _hashes_of(conditioning)
        if request.cache != "off":
            state_path = None
            self._findings.append(CACHE_NOT_RESUMED)
        with contextlib.closing(StateKeeper(state_path, loaded.state_key(inputs, scheduler))) as keeper:
            # 3. Denoise, from the start or from what an earlier run has saved
            self._stage = "denoise"
            start = self._start(family, scheduler, request, keeper, parts.device)
            if start.state.step < len(scheduler.timesteps) or loaded.loras:
                family.load_denoisers()
            levers = Levers(self._spec, parts)
            with levers.pulled(request):
                self._facts |= loaded.facts(request, scheduler)
                latents = self._denoise(loaded, conditioning, scheduler, request, teller, keeper, start)
            self._facts |= levers.facts
            self._findings += [*loaded.lora_findings, *levers.findings]

            # 4. Decode, a few frames at a time
            self._stage = "decode"
            self._facts["tile_side"] = side = family.tile_side(latents)
            self._findings += [packed_weights_used(weights) for weights in parts.packed()]
            self._findings += mode_notes(is_fp8=parts.has_fp8, is_half=parts.decodes_in_half, tile_side=side)
            chunks = family.decode(latents, conditioning)
            yield from self._decode(chunks, request, latents.numel(), on_progress, keeper)
        if keeper.failure is not None:
            self._findings.append(STATE_NOT_SAVED)
        self._facts |= {**meter.facts(), "loaded": list(parts.loaded), "reused": list(self._cache.reused)}
        if parts.device.type == "cuda":
            self._facts["vram_after_gib"] = memory.held_gib(parts.device)

    def findings(self) -> tuple[Finding, ...]:
        return tuple(self._findings)

    def facts(self) -> Mapping[str, Any]:
        return self._facts

    def close(self) -> None:
        if self._loaded is not None:
            device = self._loaded.parts.device
            self._loaded.parts.close()
            self._loaded = None
            self._cache.clear()
            memory.free(device, thoroughly=True)

    # --- the stages ---------------------------------------------------------------------------------------------------

    def _load(self, request: GenerationRequest, mode: Mode) -> Loaded:
        device = choose_device(request.device)
        precision = choose_precision(request.precision, self._diffusion.precision, device)
        key = (request.checkpoint, device, request.precision)
        if self._loaded is not None and self._loaded.key != key:
            self.close()
        if self._loaded is None:
            memory.limit(device)
            kinds, in_fp32, make_family = family_of(self._spec)
            checkpoint = find_checkpoint(self._spec, request.checkpoint)
            dtypes = {name: torch.float32 if name in in_fp32 else DTYPES[precision] for name in kinds}
            parts = Parts(checkpoint, kinds=kinds, dtypes=dtypes, device=device, precision=request.precision, mode=mode)
            tokenizer = load_tokenizer(checkpoint.folder)
            self._loaded = Loaded(
                key=key,
                diffusion=self._diffusion,
                precision=precision,
                parts=parts,
                tokenizer=tokenizer,
                family=make_family(self._spec, parts, self._cache, tokenizer),
                checkpoint_sha256=checkpoint_sha256(checkpoint, self._diffusion),
                runtime=runtime_facts(device),
            )
        self._loaded.parts.use(mode)
        return self._loaded

    def _start(
        self,
        family: Family[Any],
        scheduler: Any,  # noqa: ANN401
        request: GenerationRequest,
        keeper: StateKeeper,
        device: torch.device,
    ) -> Saved:
        generator = torch.Generator("cpu").manual_seed(request.seed)
        fresh = first_state(scheduler, family.latents(request, generator), generator)
        self._facts["inputs"]["noise"] = _sha256_of(fresh.latents)
        try:
            saved = keeper.read(device)
        except StateUnusable as error:
            log.warning("The saved state is %s; denoising begins again", error)
            self._findings.append(STATE_NOT_USED)
            saved = None
        if saved is not None:
            log.info("Denoising goes on after step %d of %d", saved.state.step, len(scheduler.timesteps))
            self._facts |= {"resumed_at_step": saved.state.step, "runs": saved.runs + 1}
            return replace(saved, runs=saved.runs + 1)
        return Saved(state=fresh, strengths=(), runs=1)

    def _denoise(
        self,
        loaded: Loaded,
        conditioning: Any,  # noqa: ANN401 - only the family looks into it
        scheduler: Any,  # noqa: ANN401
        request: GenerationRequest,
        on_progress: LoadTeller,
        keeper: StateKeeper,
        saved: Saved,
    ) -> Tensor:
        family = loaded.family
        begun, steps = saved.state.step, len(scheduler.timesteps)
        decode_seconds = self._decode_seconds_per_value * saved.state.latents.numel()
        on_progress(Progress(stage="denoise", step=begun, steps=steps, saved_step=keeper.saved_step))
        started = shown = time.monotonic()
        loading_s = on_progress.spent_s
        assert request.guidance is not None
        generator = torch.Generator("cpu")
        loop = denoise(family, conditioning, scheduler, saved.state, guidance=request.guidance, generator=generator)
        for step in loop:
            done = step.state.step
            saved = replace(saved, state=step.state, strengths=(*saved.strengths, step.strength))
            keeper.offer(saved, important=done == steps or _changes_expert(family, scheduler, done))
            now, picture = time.monotonic(), None
            if now - shown >= PREVIEW_EVERY_S:
                picture, shown = preview(step.clean(), family.preview_factors()), now
            denoising_s = now - started - (on_progress.spent_s - loading_s)
            left = denoising_s / (done - begun) * (steps - done) + decode_seconds
            if loaded.parts.mode.waits == "disk":
                left += _reading_ahead(family, scheduler, done, on_progress.seconds)
            progress = Progress(
                stage="denoise",
                step=done,
                steps=steps,
                seconds_left=left,
                preview=picture,
                saved_step=keeper.saved_step,
            )
            try:
                on_progress(progress)
            except Paused:
                keeper.offer(saved, important=True)
                raise
        self._facts |= {"strengths": list(saved.strengths), "steps": saved.state.step}
        return saved.state.latents

    def _decode(
        self,
        chunks: Iterator[U8Frames | TileDone],
        request: GenerationRequest,
        values: int,
        on_progress: OnProgress,
        keeper: StateKeeper,
    ) -> Iterator[U8Frames]:
        seconds, done = 0.0, 0
        on_progress(Progress(stage="decode", step=0, steps=request.frames, saved_step=keeper.saved_step))
        while True:
            started = time.monotonic()
            chunk = next(chunks, None)
            if chunk is None:
                break
            seconds += time.monotonic() - started
            if isinstance(chunk, TileDone):
                on_progress(
                    Progress(stage="decode", step=chunk.tile, steps=chunk.tiles, saved_step=keeper.saved_step,
                             seconds_left=seconds / chunk.tile * (chunk.tiles - chunk.tile))
                )  # fmt: skip
                continue
            done += len(chunk)
            left = seconds / done * (request.frames - done)
            on_progress(
                Progress(
                    stage="decode", step=done, steps=request.frames, seconds_left=left, saved_step=keeper.saved_step
                )
            )
            yield chunk
        self._decode_seconds_per_value = seconds / values


def _changes_expert(family: Family[Any], scheduler: Any, step: int) -> bool:  # noqa: ANN401
    """Whether another expert works after `step` steps than before: its model has to come first."""
    before, after = scheduler.timesteps[step - 1], scheduler.timesteps[min(step, len(scheduler.timesteps) - 1)]
    return family.expert_at(before) != family.expert_at(after)


def _reading_ahead(family: Family[Any], scheduler: Any, step: int, seconds: Mapping[str, float]) -> float:  # noqa: ANN401
    """Seconds of reading after `step` steps, where parts wait on the disk: another expert, then the VAE."""
    now, last = (family.expert_at(scheduler.timesteps[index]) for index in (step - 1, -1))
    expert = max((seconds.get(name, 0.0) for name in DENOISERS), default=0.0) if now != last else 0.0
    return expert + seconds.get("vae", 0.0)


def _hashes_of(conditioning: Any) -> dict[str, str]:  # noqa: ANN401 - each family has its own dataclass of tensors
    """The hash of every tensor that steers the run, as the denoiser gets it."""
    tensors = {each.name: getattr(conditioning, each.name) for each in fields(conditioning)}
    return {name: _sha256_of(tensor) for name, tensor in tensors.items() if tensor is not None}


def _sha256_of(tensor: Tensor) -> str:
    """A hash of the tensor's values, in its own type and in the order of its dimensions."""
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(values.data).hexdigest()
