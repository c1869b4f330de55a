"""One run of the camera engine: choose the move, find the subject, build the stage, plan the shot, draw the frames.

Knows no pixels and no projection; says afterwards what it chose and what it did not do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from i2v_pipeline.engines.camera.layers import Stage, build_flat_stage, build_stage
from i2v_pipeline.engines.camera.path import plan_moves
from i2v_pipeline.engines.camera.render import render_frames
from i2v_pipeline.engines.camera.report import describe_run, find_remarks
from i2v_pipeline.engines.camera.shot import plan_shot
from i2v_pipeline.engines.camera.subject import Subject, SubjectNetwork
from i2v_pipeline.types import Finding, GenerationRequest, Motion, OnProgress, Prepared, Progress, U8Frames, U8Image

OWN_CHOICE = Motion(camera=("dolly_in",), intensity="low")
"""What the engine does where nobody named a camera move: a gentle push-in."""

PREVIEW_SIDE_PX = 480
PREVIEW_EVERY_S = 0.2
NETWORK_S = 0.5
"""About what the subject network takes on two cores; only for the first guess of the time left."""


class CameraEngine:
    """Implements `Engine`. Yields one frame a chunk, so that a run holds a few pictures and never the whole video.

    `clock` gives seconds; only progress uses it, never the frames.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._network: SubjectNetwork | None = None
        self._findings: tuple[Finding, ...] = ()
        self._facts: Mapping[str, Any] = {}

    def generate(
        self,
        request: GenerationRequest,
        picture: Prepared,
        on_progress: OnProgress,
        state_path: Path | None = None,
        mode: str = "cpu",
    ) -> Iterator[U8Frames]:
        """Saves no state: it is deterministic and takes seconds, so it begins again.

        Raises `StudioError` where the subject network is missing or damaged.
        """
        # 1. The move: as asked, or a gentle push-in.
        own_choice = not request.motion.camera
        motion = replace(OWN_CHOICE, speed=request.motion.speed) if own_choice else request.motion
        moves = plan_moves(motion, frames=request.frames, fps=request.fps, seed=request.seed)
        # 2. The stage and the shot; a camera that stands still needs neither.
        subject, stage, shot = None, None, None
        if not moves.still:
            subject = self._find_subject(picture.pixels, on_progress)
            stage = self._build_stage(picture.pixels, subject, moves.parallax, on_progress)
            shot = plan_shot(moves, stage, width=request.width, height=request.height, frames=request.frames)
            on_progress(Progress(stage="encode", step=2, steps=2))
        self._findings = find_remarks(moves, subject, stage, shot, own_choice=own_choice)
        self._facts = describe_run(motion, shot.moves if shot else moves, subject, stage, shot, own_choice=own_choice)
        # 3. The frames.
        frames = _still_frames(picture.pixels, request.frames) if not (stage and shot) else render_frames(stage, shot)
        yield from self._watched(frames, request.frames, on_progress)

    def findings(self) -> tuple[Finding, ...]:
        return self._findings

    def facts(self) -> Mapping[str, Any]:
        return self._facts

    def close(self) -> None:
        self._network = None

    def _find_subject(self, pixels: U8Image, on_progress: OnProgress) -> Subject:
        if self._network is None:
            on_progress(Progress(stage="load", step=0, steps=1, seconds_left=2 * NETWORK_S))
            self._network = SubjectNetwork()
            on_progress(Progress(stage="load", step=1, steps=1))
        on_progress(Progress(stage="encode", step=0, steps=2, seconds_left=NETWORK_S))
        subject = self._network.find(pixels)
        on_progress(Progress(stage="encode", step=1, steps=2))
        return subject

    def _build_stage(self, pixels: U8Image, subject: Subject, parallax: bool, on_progress: OnProgress) -> Stage:
        if not parallax:
            return build_flat_stage(pixels, subject)
        return build_stage(pixels, subject, on_step=lambda: on_progress(Progress(stage="encode", step=1, steps=2)))

    def _watched(self, frames: Iterator[U8Image], count: int, on_progress: OnProgress) -> Iterator[U8Frames]:
        """Tells the progress of every frame before it is given away; a preview goes along now and then."""
        begun, shown = self._clock(), -PREVIEW_EVERY_S
        for step, frame in enumerate(frames, start=1):
            now = self._clock() - begun
            due = now - shown >= PREVIEW_EVERY_S
            shown = now if due else shown
            on_progress(
                Progress(
                    stage="decode",
                    step=step,
                    steps=count,
                    seconds_left=now / step * (count - step),
                    preview=_preview(frame) if due else None,
                )
            )
            yield frame[None]


def _still_frames(pixels: U8Image, count: int) -> Iterator[U8Image]:
    for _ in range(count):
        yield pixels


def _preview(frame: U8Image) -> U8Image:
    height, width = frame.shape[:2]
    scale = min(1.0, PREVIEW_SIDE_PX / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
