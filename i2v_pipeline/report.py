"""The JSON report of a finished run: what was asked, what was done, what came out. Reads nothing back from a model.

Schema 1. The first three keys are the ones that users of the original tool know.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from i2v_pipeline.aftercare.length import length_of
from i2v_pipeline.guidance import guidance_as_json
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Finding, GenerationRequest, Plan, Prepared, StageName, StagePlan

SCHEMA = 1
_VERSIONS_OF = (
    "torch", "diffusers", "transformers", "tokenizers", "safetensors", "numpy", "opencv-python-headless", "pillow",
    "imageio-ffmpeg",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the run took. Seconds by stage as the clock saw them; RAM is this process's, sampled between steps,
    without the pages of mapped files.

    `stage_ram_gib` and, with a GPU, `stage_vram_gib` are the peaks by stage; `reserved_vram_gib` counts the allocator's
    fragments too. `is_first` where the model had to be loaded. `resumed_at_step` is where it went on from what an
    earlier run had saved, None for a run from the start; `runs` counts the runs that took part. Seconds and memory are
    those of the last one alone. `attempts` are the modes that were tried, each with the stage in which its memory ran
    out; the last one's is None. Before and after the run counts what this process holds, with what it keeps for the
    next one; on the card, what its tensors hold.
    """

    stage_seconds: Mapping[StageName, float]
    wall_seconds: float
    peak_ram_gib: float
    ram_before_gib: float
    ram_after_gib: float
    attempts: list[dict[str, Any]]
    is_first: bool = False
    stage_ram_gib: Mapping[StageName, float] = field(default_factory=dict)
    stage_vram_gib: Mapping[StageName, float] = field(default_factory=dict)
    peak_vram_gib: float | None = None
    reserved_vram_gib: float | None = None
    vram_before_gib: float | None = None
    vram_after_gib: float | None = None
    resumed_at_step: int | None = None
    runs: int = 1


@dataclass(frozen=True, kw_only=True)
class OutputFacts:
    """The video as it was read back from the file, and what was done to the engine's frames before they went there."""

    width: int
    height: int
    frames: int
    fps: float
    codec: str
    frames_sha256: str
    aftercare: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that the report of one run is made from."""

    job_id: str
    created: datetime
    request: GenerationRequest
    spec: EngineSpec
    prepared: Prepared
    engine_facts: Mapping[str, Any]
    findings: tuple[Finding, ...]
    plan: Plan
    measured: Measured
    output: OutputFacts
    quality: Mapping[str, Any]
    shown_path: str
    continuation: Mapping[str, Any] | None = None


def build_report(run: Run, video_bytes: int) -> dict[str, Any]:
    """The report as JSON values. `video_bytes` is the size of the finished file, this report inside it included."""
    request = run.request
    return {
        "refined_prompt": request.origin.refined,
        "parameters": parameters_of(request),
        "output_path": run.shown_path,
        "schema": SCHEMA,
        "job": run.job_id,
        "created": run.created.astimezone(timezone.utc).isoformat(timespec="seconds"),
        "engine": {
            "id": run.spec.id,
            "family": run.spec.family,
            "repo": None,
            "revision": None,
            "precision": None,
            "attention": None,
            "offload": None,
            "scheduler": None,
            "loras": [],
            **{name: value for name, value in run.engine_facts.items() if name != "runtime"},
        },
        "prompt": prompt_of(request, run.engine_facts.get("tokens")),
        "image": image_of(run.prepared),
        "references": references_of(request, run.prepared),
        "plan": plan_of(run.plan),
        "measured": measured_of(run.measured, run.plan),
        "findings": [finding_of(finding) for finding in run.findings],
        "quality": dict(run.quality),
        "continuation": run.continuation and dict(run.continuation),
        "environment": environment(run.engine_facts.get("runtime", {})),
        "output": {**asdict(run.output), "seconds": run.output.frames / run.output.fps, "bytes": video_bytes},
    }


def measured_of(measured: Measured, plan: Plan) -> dict[str, Any]:
    """What the run took, and in `compared` stage by stage beside the plan: its first run's seconds or a later one's.

    The plan's GiB of a stage are its weights and activations, without what the libraries and the allocator take.
    """
    told: dict[StageName, StagePlan] = {stage.name: stage for stage in plan.stages}
    predicted = {name: stage.seconds if measured.is_first else stage.later_seconds for name, stage in told.items()}
    names: dict[StageName, None] = dict.fromkeys((*told, *measured.stage_seconds))
    return {
        "stages": {name: round(seconds, 3) for name, seconds in measured.stage_seconds.items()},
        "wall_seconds": round(measured.wall_seconds, 3),
        "predicted_seconds": round(sum(predicted.values()), 3),
        "first_run": measured.is_first,
        "peak_ram_gib": round(measured.peak_ram_gib, 3),
        "ram_before_gib": round(measured.ram_before_gib, 3),
        "ram_after_gib": round(measured.ram_after_gib, 3),
        "peak_vram_gib": measured.peak_vram_gib,
        "reserved_vram_gib": measured.reserved_vram_gib,
        "vram_before_gib": measured.vram_before_gib,
        "vram_after_gib": measured.vram_after_gib,
        "attempts": measured.attempts,
        "resumed_at_step": measured.resumed_at_step,
        "runs": measured.runs,
        "compared": {
            name: {
                "predicted_seconds": predicted.get(name),
                "seconds": round(measured.stage_seconds.get(name, 0.0), 3),
                "predicted_gib": round(told[name].weights_gib + told[name].activations_gib, 3)
                if name in told
                else None,
                "vram_gib": measured.stage_vram_gib.get(name),
                "ram_gib": round(measured.stage_ram_gib[name], 3) if name in measured.stage_ram_gib else None,
            }
            for name in names
        },
    }


def parameters_of(request: GenerationRequest) -> dict[str, Any]:
    """The settings of the request; None stands for a setting that the engine does not have."""
    names = (
        "resolution", "width", "height", "frames", "fps", "steps", "seed", "fit", "preset", "scheduler", "flow_shift",
    )  # fmt: skip
    return {
        **{name: getattr(request, name) for name in names},
        "guidance": guidance_as_json(request.guidance),
        "loras": [asdict(lora) for lora in request.loras],
        "last_image": request.last_image is not None,
        "subjects": [asdict(subject) for subject in request.subjects],
        "checkpoint": None if request.checkpoint is None else request.checkpoint.name,
        "device": request.device,
        "precision": request.precision,
        "attention": request.attention,
        "cache": request.cache,
        "compiled": request.compiled,
        "aftercare": asdict(request.aftercare),
        "seconds": length_of(request).seconds,
        "negative_prompt": request.negative_prompt,
        "embed_source": request.embed_source,
    }


def prompt_of(request: GenerationRequest, tokens: int | None) -> dict[str, Any]:
    """The whole way from the typed sentence to the string that was sent; `tokens` None: the engine reads no text."""
    origin = request.origin
    return {
        "typed": origin.typed,
        "refined": origin.refined,
        "sent": request.prompt,
        "negative_sent": request.negative_prompt,
        "tokens": tokens,
        "source": origin.source,
        "provider": origin.provider,
        "model": origin.model,
        "added_elements": [asdict(added) for added in origin.added_elements],
        "struck_out": [asdict(struck) for struck in origin.struck_out],
        "edited": origin.edited,
        "motion": {**asdict(request.motion), "camera": list(request.motion.camera)},
    }


def image_of(prepared: Prepared) -> dict[str, Any]:
    """The picture as given and as the engine saw it, each with its hash; the one that the video ends with as `last`."""
    return {
        "sha256": hashlib.sha256(prepared.source).hexdigest(),
        "format": prepared.source_format,
        "bytes": len(prepared.source),
        "width": prepared.source_width,
        "height": prepared.source_height,
        "fitted": prepared.fitted.en,
        "fitted_zh": prepared.fitted.zh,
        "prepared_sha256": hashlib.sha256(prepared.pixels.tobytes()).hexdigest(),
        "last": None if prepared.last is None else image_of(prepared.last),
    }


def references_of(request: GenerationRequest, prepared: Prepared) -> list[dict[str, Any]]:
    """Every reference in its order, with what the person calls it; empty for an engine that takes a first picture."""
    pairs = zip(request.subjects, prepared.references, strict=True) if request.subjects else ()
    return [{**asdict(subject), **image_of(reference)} for subject, reference in pairs]


def plan_of(plan: Plan) -> dict[str, Any]:
    """A plan in the words of the `plan` command."""
    return {
        "fits": plan.fits,
        "mode": plan.mode,
        "reason": plan.reason.en,
        "reason_zh": plan.reason.zh,
        "device": plan.device,
        "peak_vram_gib": plan.peak_vram_gib,
        "peak_ram_gib": plan.peak_ram_gib,
        "disk_gib": plan.disk_gib,
        "seconds": round(plan.seconds, 3),
        "later_seconds": round(plan.later_seconds, 3),
        "learned_runs": plan.learned_runs,
        "attention": plan.attention,
        "bound_seconds": plan.bound_seconds,
        "stages": [asdict(stage) for stage in plan.stages],
        "alternatives": [asdict(alternative) for alternative in plan.alternatives],
    }


def finding_of(finding: Finding) -> dict[str, Any]:
    """A finding in both languages; `remedy` is None where nothing needs doing, `changes` what of it can be set."""
    return {
        "code": finding.code,
        "severity": finding.severity,
        "message": finding.message.en,
        "message_zh": finding.message.zh,
        "remedy": finding.remedy.en if finding.remedy else None,
        "remedy_zh": finding.remedy.zh if finding.remedy else None,
        "changes": {change.field: change.value for change in finding.changes},
    }


def environment(runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Versions and machine, and what the engine's own `runtime` says of where its arithmetic was done.

    A package that is not installed is None; nothing is imported to find out.
    """
    versions: dict[str, Any] = {"python": platform.python_version()}
    for name in _VERSIONS_OF:
        try:
            versions[name.replace("-", "_")] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name.replace("-", "_")] = None
    return {
        **versions,
        "driver": None,
        "device": "cpu",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "machine": platform.machine(),
        **runtime,
    }


def _cpu_name() -> str | None:
    """The processor's name as Linux tells it; elsewhere what Python knows, if anything."""
    try:
        told = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        told = None
    return told[1] if told else platform.processor() or None
