"""A run in this very process, for the command line: where its files go, its progress, how it ends. Knows no command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from i2v_pipeline.pipeline import EngineCache, Outputs
from i2v_pipeline.types import Progress, Text
from studio.allocation import allocator_settings
from studio.plans import LEARNED_NAME
from studio.printing import pick

BAR_WIDTH = 28


def outputs_at(video: Path, data: Path | None = None) -> Outputs:
    """The report goes beside the video; the folder is made. The plan learns from the folder `data`, if one is given."""
    video.parent.mkdir(parents=True, exist_ok=True)
    learned = None if data is None else data / LEARNED_NAME
    return Outputs(video=video, report=video.with_suffix(".json"), shown_path=str(video), learned=learned)


@contextmanager
def running() -> Iterator[tuple[EngineCache, ProgressBar]]:
    """What a run needs, closed at its end. SIGTERM cancels it as Ctrl+C does."""
    added = allocator_settings(os.environ)
    os.environ.update(added)
    engines = EngineCache()
    with stoppable() as bar:
        try:
            yield engines, bar
        finally:
            engines.close()
            for name in added:
                del os.environ[name]


@contextmanager
def stoppable() -> Iterator[ProgressBar]:
    """Long work that SIGTERM cancels as Ctrl+C does, and its bar, gone at the end."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    bar = ProgressBar()
    try:
        yield bar
    finally:
        bar.close()
        signal.signal(signal.SIGTERM, before)


class ProgressBar:
    """One line on a terminal, elsewhere only notes. Call it with each `Progress`, or show other work with `show`."""

    def __init__(self) -> None:
        self.is_shown = sys.stderr.isatty()
        self._note: Text | None = None

    def __call__(self, progress: Progress) -> None:
        if progress.note is not None and progress.note != self._note:
            self._note = progress.note
            self.close()
            sys.stderr.write(f"{pick(progress.note)}\n")
        left = "" if progress.seconds_left is None else f"  {progress.seconds_left:.0f} s left"
        part = progress.step / max(progress.steps, 1)
        self.show(progress.stage, part, f"{progress.step}/{progress.steps}{left}")

    def show(self, name: str, part: float, told: str) -> None:
        """A bar filled by `part` (0 to 1), with a name before it and words behind it."""
        if not self.is_shown:
            return
        done = round(BAR_WIDTH * part)
        bar = "█" * done + "░" * (BAR_WIDTH - done)
        sys.stderr.write(f"\r\x1b[K{name:8}{bar} {told}")
        sys.stderr.flush()

    def close(self) -> None:
        if self.is_shown:
            sys.stderr.write("\r\x1b[K")
