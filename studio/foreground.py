"""A run in this very process, for the command line: where its files go, its progress, how it ends. Knows no command."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from i2v_pipeline.pipeline import EngineCache, Outputs
from i2v_pipeline.types import Progress
from studio.plans import LEARNED_NAME

BAR_WIDTH = 28


def outputs_at(video: Path, data: Path | None = None) -> Outputs:
    """The report goes beside the video; the folder is made. The plan learns from the folder `data`, if one is given."""
    video.parent.mkdir(parents=True, exist_ok=True)
    learned = None if data is None else data / LEARNED_NAME
    return Outputs(video=video, report=video.with_suffix(".json"), shown_path=str(video), learned=learned)


@contextmanager
def running() -> Iterator[tuple[EngineCache, ProgressBar]]:
    """What a run needs, closed at its end. SIGTERM cancels it as Ctrl+C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    engines, bar = EngineCache(), ProgressBar()
    try:
        yield engines, bar
    finally:
        bar.close()
        engines.close()
        signal.signal(signal.SIGTERM, before)


class ProgressBar:
    """One line on a terminal, nothing elsewhere. Call it with each `Progress`."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        if not self._is_shown:
            return
        done = round(BAR_WIDTH * progress.step / max(progress.steps, 1))
        left = "" if progress.seconds_left is None else f"  {progress.seconds_left:.0f} s left"
        bar = "█" * done + "░" * (BAR_WIDTH - done)
        sys.stderr.write(f"\r\x1b[K{progress.stage:8}{bar} {progress.step}/{progress.steps}{left}")
        sys.stderr.flush()

    def close(self) -> None:
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
