"""One request, top-down: check, prepare, plan, load, generate, write, read back, report. Knows no queue and no page."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from i2v_pipeline.advice import training_findings
from i2v_pipeline.aftercare.care import as_made, care_for, facts_of
from i2v_pipeline.aftercare.length import length_of
from i2v_pipeline.attempts import carry_out
from i2v_pipeline.chain import Told
from i2v_pipeline.checks import check_request
from i2v_pipeline.continuation import Joining, open_joining
from i2v_pipeline.engines import load_engine
from i2v_pipeline.hub import as_here
from i2v_pipeline.images import Picture, open_picture, prepare
from i2v_pipeline.inspection.advise import advise
from i2v_pipeline.inspection.judge import Inspection, asked_and_seen, inspect_frames, quality_of
from i2v_pipeline.inspection.motion import summarise
from i2v_pipeline.inspection.preflight import picture_findings, request_findings, without_repeats
from i2v_pipeline.planning import learn, plan_run
from i2v_pipeline.planning.costs import CUDA_CONTEXT_GIB
from i2v_pipeline.planning.job import DENOISERS
from i2v_pipeline.planning.learned import EMPTY, Amounts, read_book
from i2v_pipeline.planning.machine import Machine, held_bytes, this_machine
from i2v_pipeline.presets import find_engine
from i2v_pipeline.report import Measured, OutputFacts, Run, build_report
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.subjects import open_references
from i2v_pipeline.types import (
    Aftercare,
    Engine,
    Finding,
    GenerationRequest,
    OnProgress,
    Prepared,
    Progress,
    StageName,
    U8Frames,
    U8Image,
)
from i2v_pipeline.video import (
    VideoInfo,
    WrittenVideo,
    finish_video,
    probe_video,
    read_frames,
    write_poster,
    write_video,
)

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where the results go. `shown_path` is what the report calls the video; nobody else's paths belong in it.

    In the file `state` an engine keeps what a later run can go on from; None keeps nothing. It stays when the run ends.
    From the file `learned` the plan knows what past runs took, and this run is added to it; None does neither.
    """

    video: Path
    report: Path
    shown_path: str
    first_frame: Path | None = None
    poster: Path | None = None
    state: Path | None = None
    learned: Path | None = None


class EngineCache:
    """Holds the engine that ran last, so that the next run of the same one need not load it again."""

    def __init__(self) -> None:
        self._spec: EngineSpec | None = None
        self._engine: Engine | None = None

    def get(self, spec: EngineSpec) -> Engine:
        """The engine that `spec` describes; any other one is closed first."""
        if self._engine is None or self._spec != spec:
            self.close()
            self._engine, self._spec = load_engine(spec), spec
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = self._spec = None


def run(
    request: GenerationRequest, engines: EngineCache, outputs: Outputs, on_progress: OnProgress, *, job_id: str
) -> dict[str, Any]:
    """Makes the video and its report, both or neither, and returns the report.

    Where memory runs out, a mode that needs less is tried, and `on_progress` and the report say so.

    Raises `InputError` for a request or a picture that cannot be used, `Cancelled` when `on_progress` did, and
    `StudioError` for any failure that has a sentence for the person. After any of them no file is left but the state.
    """
    created, clock = datetime.now(timezone.utc), _Clock(on_progress)

    # 1. Check and prepare
    spec = as_here(find_engine(request.engine), request.checkpoint)
    check_request(spec, request)
    prepared, notes = _open_pictures(spec, request)
    joining = open_joining(request, prepared.pixels)
    before = (
        *notes,
        *request_findings(spec, request, source_size=(prepared.source_width, prepared.source_height)),
        *training_findings(spec, request),
    )
    folder = outputs.video.parent
    machine, book = this_machine(folder), EMPTY if outputs.learned is None else read_book(outputs.learned)
    plan = plan_run(spec, request, machine, book=book)

    # 2. Generate and write, frame by frame; in a mode that needs less where memory runs out
    engine, length = engines.get(spec), length_of(request)
    unfinished = outputs.video.with_name(f".{outputs.video.stem}.unfinished.mp4")

    def generate(mode: str, hear: OnProgress) -> tuple[WrittenVideo, list[int]]:
        made = engine.generate(request, prepared, hear, outputs.state, mode)
        cared = care_for(request, clock.watch(made if joining is None else joining.frames(made)), folder)
        written = write_video(cared.frames, unfinished, width=request.width, height=request.height, fps=length.fps)
        return written, cared.cuts

    try:
        (written, cuts), attempts = carry_out(spec, request, lambda: this_machine(folder), plan, generate, clock)

        # 3. Read back what was really written
        clock(Progress(stage="write", step=length.frames, steps=length.frames, seconds_left=0.0, note=attempts.note))
        info = probe_video(unfinished)
        # No frame of it is meant to be a reference.
        shown = None if spec.takes.references else prepared.pixels
        inspection = _inspect(unfinished, request, shown, joining)
        told = Told() if joining is None else joining.told(unfinished, request, inspection, job_id, created)

        # 4. Report: inside the video and beside it
        engine_facts = dict(engine.facts())
        measured = clock.measured(engine_facts, attempts.as_json())
        facts = Run(
            job_id=job_id,
            created=created,
            request=request,
            spec=spec,
            prepared=prepared,
            measured=measured,
            engine_facts=engine_facts,
            findings=(
                *without_repeats(before, engine.findings()),
                *attempts.findings(measured.resumed_at_step),
                *told.findings,
                *advise(inspection, spec, request),
            ),
            plan=plan,
            output=_output_of(info, written, facts_of(request, cuts)),
            quality=quality_of(inspection),
            shown_path=outputs.shown_path,
            continuation=told.section,
        )
        report = _finish(unfinished, outputs, facts, _stored(prepared) if joining is None else joining.stored_picture)
    finally:
        unfinished.unlink(missing_ok=True)
    _write_beside(outputs, report, begins_with=shown, poster=written.first_frame)
    if outputs.learned is not None and engine_facts.get("mode", plan.mode) == plan.mode:
        _learn(outputs.learned, facts, machine)
    return report


def _inspect(
    video: Path, request: GenerationRequest, begins_with: U8Image | None, joining: Joining | None
) -> Inspection:
    """What the video is really like; whether it shows what was asked is looked for in the new clip alone."""
    asked = request.motion.camera if request.motion.requested else ()
    picture = begins_with if joining is None else joining.first_picture
    fps = float(request.fps)
    inspection = inspect_frames(as_made(request, read_frames(video)), fps=fps, picture=picture, asked=asked)
    if joining is None:
        return inspection
    size = {"width": inspection.width, "height": inspection.height}
    pairs = inspection.pairs[joining.first_new :]
    return replace(inspection, asked=asked_and_seen(asked, summarise(pairs, fps=fps, **size), pairs, **size))


def _output_of(info: VideoInfo, written: WrittenVideo, aftercare: dict[str, Any]) -> OutputFacts:
    """The file as it was read back, and what was done to the frames in it."""
    return OutputFacts(
        width=info.width,
        height=info.height,
        frames=info.frames,
        fps=info.fps,
        codec=info.codec,
        frames_sha256=written.frames_sha256,
        aftercare=aftercare,
    )


def _learn(path: Path, run: Run, machine: Machine) -> None:
    """Notes what the run took, unless only a part of it was done here or it went on another device than planned.

    What is done to finished frames is counted apart from the engine, so a run with it teaches nothing.
    """
    if run.request.aftercare != Aftercare() or run.request.continues is not None:
        return
    measured, is_on_gpu = run.measured, run.plan.peak_vram_gib > 0
    if measured.resumed_at_step is not None or is_on_gpu != (measured.reserved_vram_gib is not None):
        return
    vram = None if measured.reserved_vram_gib is None else measured.reserved_vram_gib + CUDA_CONTEXT_GIB
    taken = Amounts(seconds=dict(measured.stage_seconds), vram_gib=vram, ram_gib=measured.peak_ram_gib)
    learn(path, run.spec, run.request, machine, run.plan, taken, is_first=measured.is_first)


def _finish(unfinished: Path, outputs: Outputs, facts: Run, picture: tuple[str, bytes] | None) -> dict[str, Any]:
    """Puts the report and, unless the person opted out, the source pictures into the video; returns the report."""
    kept, last = facts.request.embed_source, facts.prepared.last
    return finish_video(
        unfinished,
        outputs.video,
        make_report=lambda video_bytes: build_report(facts, video_bytes),
        picture=picture if kept else None,
        last_picture=_stored(last) if kept and last else None,
        references=[_stored(other) for other in facts.prepared.others] if kept else (),
    )


def _write_beside(outputs: Outputs, report: dict[str, Any], *, begins_with: U8Image | None, poster: U8Image) -> None:
    """Writes what is wanted beside the video, the report last."""
    if outputs.first_frame and begins_with is not None:
        Image.fromarray(begins_with).save(outputs.first_frame, "PNG")
    if outputs.poster:
        write_poster(outputs.poster, poster)
    write_json(outputs.report, report)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes `value` to `path` whole or not at all."""
    temporary = path.with_name(f".{path.name}.unfinished")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _open_pictures(spec: EngineSpec, request: GenerationRequest) -> tuple[Prepared, tuple[Finding, ...]]:
    """The request's pictures at its size, and what is to say about them."""
    if spec.takes.references:
        return open_references(request.images, request.subjects, request.width, request.height)

    def fitted(picture: Picture) -> Prepared:
        return prepare(picture, request.width, request.height, request.fit)

    first = open_picture(request.images[0])
    found = (*first.notes, *picture_findings(first.pixels))
    if request.last_image is None:
        return fitted(first), found
    last = open_picture(request.last_image)
    return replace(fitted(first), last=fitted(last)), (*found, *last.notes)


def _stored(picture: Prepared) -> tuple[str, bytes]:
    return picture.source_format, picture.source


class _Clock:
    """Measures seconds by stage and the memory at each step, on the way of the progress to the caller."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._process = psutil.Process()
        self._started = self._switched = time.monotonic()
        self._stage: StageName = "load"
        self._seconds: dict[StageName, float] = defaultdict(float)
        self._before_bytes = held_bytes(self._process)
        self._peak_bytes: dict[StageName, int] = defaultdict(int)

    def __call__(self, progress: Progress) -> None:
        self._switch(progress.stage)
        self._peak_bytes[self._stage] = max(self._peak_bytes[self._stage], held_bytes(self._process))
        self._on_progress(progress)

    def watch(self, chunks: Iterator[U8Frames]) -> Iterator[U8Frames]:
        """The same chunks; what the consumer does with one counts as the stage `write`."""
        for chunk in chunks:
            making = self._stage
            self._switch("write")
            yield chunk
            self._switch(making)

    def measured(self, engine_facts: dict[str, Any], attempts: list[dict[str, Any]]) -> Measured:
        """What the run took; those of the engine's facts that belong here are taken out of them."""
        self._switch(self._stage)
        return Measured(
            stage_seconds=dict(self._seconds),
            wall_seconds=time.monotonic() - self._started,
            is_first=not DENOISERS.isdisjoint(engine_facts.get("loaded", ())),
            stage_ram_gib={name: peak / GIB for name, peak in self._peak_bytes.items()},
            stage_vram_gib=engine_facts.pop("stage_peaks_gib", {}),
            peak_ram_gib=max(self._before_bytes, *self._peak_bytes.values()) / GIB,
            ram_before_gib=self._before_bytes / GIB,
            ram_after_gib=held_bytes(self._process) / GIB,
            peak_vram_gib=engine_facts.pop("peak_vram_gib", None),
            reserved_vram_gib=engine_facts.pop("reserved_vram_gib", None),
            vram_before_gib=engine_facts.pop("vram_before_gib", None),
            vram_after_gib=engine_facts.pop("vram_after_gib", None),
            attempts=attempts,
            resumed_at_step=engine_facts.pop("resumed_at_step", None),
            runs=engine_facts.pop("runs", 1),
        )

    def _switch(self, stage: StageName) -> None:
        now = time.monotonic()
        self._seconds[self._stage] += now - self._switched
        self._stage, self._switched = stage, now
