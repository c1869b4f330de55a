"""A model that stays loaded between runs, its LoRAs, and what a run with it is known by. Runs nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from i2v_pipeline.engines.family import Family, Inputs
from i2v_pipeline.engines.loading import DENOISERS, Change, Parts, nothing
from i2v_pipeline.engines.lora import Lora, fusion_of
from i2v_pipeline.engines.notes import offload_words
from i2v_pipeline.engines.state import sources_digest
from i2v_pipeline.guidance import guidance_as_json
from i2v_pipeline.planning.machine import installed_kernels
from i2v_pipeline.specs import DiffusionSpec
from i2v_pipeline.types import Aftercare, Finding, GenerationRequest, Precision


@dataclass(kw_only=True)
class Loaded:
    """What stays between runs; it holds for one checkpoint, device and precision."""

    key: tuple[Path | None, torch.device, Precision | str]
    diffusion: DiffusionSpec
    precision: Precision
    parts: Parts
    tokenizer: Any
    family: Family[Any]
    checkpoint_sha256: str
    runtime: Mapping[str, Any]
    loras: tuple[Lora, ...] = ()
    lora_findings: list[Finding] = field(default_factory=list)

    def change_loras(self, loras: tuple[Lora, ...]) -> None:
        """Other LoRAs need the weights as they were: what was added and taken away again would leave its rounding."""
        if loras != self.loras:
            self.family.release_denoisers()
            self.loras, self.lora_findings = loras, []

    def adapt(self, name: str, model: Any) -> Change:  # noqa: ANN401 - the class depends on the name
        """How every component that is loaded gets to work as the family and the LoRAs want."""
        self.family.adapt(name, model)
        if not self.loras or name not in DENOISERS:
            return nothing
        fusion = fusion_of(model, self.loras, "low" if name == "transformer_2" else "high")
        # It may have been loaded before.
        self.lora_findings += [finding for finding in fusion.findings if finding not in self.lora_findings]
        return lambda each, part: fusion.apply(each, part, self.parts.device)

    def state_key(self, inputs: Inputs, scheduler: Any) -> str:  # noqa: ANN401
        """A hash of everything that the latents depend on: a saved state of anything else is not gone on with."""
        parts, request = self.parts, inputs.request
        facts = (
            replace(request, images=(), last_image=None, subjects=(), checkpoint=None, aftercare=Aftercare()),
            [hashlib.sha256(picture.tobytes()).hexdigest() for picture in inputs.pictures],
            None if inputs.last is None else hashlib.sha256(inputs.last.tobytes()).hexdigest(),
            [(name, parts.fingerprint(name), *parts.computes(name)) for name in self.diffusion.components],
            [lora.sha256 for lora in self.loras],
            sorted(self.family.facts(request).items()),
            # What is taken unasked depends on these.
            (sorted(installed_kernels()), request.compiled and parts.mode.placement),
            (type(scheduler).__name__, sorted(_settings_of(scheduler).items()), scheduler.timesteps.tolist()),
            # How many threads share a sum decides its last bit.
            (self.runtime["device"], torch.get_num_threads(), torch.__version__, metadata.version("diffusers")),
            sources_digest(),
        )
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def facts(self, request: GenerationRequest, scheduler: Any) -> dict[str, Any]:  # noqa: ANN401
        """What the report says of the model and how it is run."""
        parts = self.parts
        is_local = parts.checkpoint.revision is None
        return {
            "repo": None if is_local else self.diffusion.repo,
            "revision": parts.checkpoint.revision,
            "checkpoint": parts.checkpoint.folder.name if is_local else None,
            "checkpoint_sha256": self.checkpoint_sha256,
            "variant": parts.checkpoint.variant,
            "device": self.runtime["device"],
            "runtime": self.runtime,
            "precision": "fp8" if parts.has_fp8 else self.precision,
            "precisions": {name: parts.stored(name) for name in self.diffusion.components},
            "mode": parts.mode.id,
            "offload": offload_words(parts.mode),
            "scheduler": {
                "class": type(scheduler).__name__,
                "config": _settings_of(scheduler),
                "timesteps": [round(float(timestep), 3) for timestep in scheduler.timesteps],
            },
            "guidance": guidance_as_json(request.guidance),
            "loras": [
                {"file": lora.name, "sha256": lora.sha256, "weight": lora.ref.weight, "expert": lora.ref.expert}
                for lora in self.loras
            ],
            **self.family.facts(request),
        }


def _settings_of(scheduler: Any) -> dict[str, Any]:  # noqa: ANN401
    """The effective settings, without diffusers' own notes, whose order changes from process to process."""
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
