"""The process that generates: takes one job after another from the store. Knows no page; `python -m` starts it.

Everything heavy lives here, so a fault or an out-of-memory kill ends this process and not the page.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import threading
import time
from pathlib import Path

from PIL import Image

from i2v_pipeline.errors import Cancelled, StudioError
from i2v_pipeline.pipeline import EngineCache, Outputs, run
from i2v_pipeline.types import Progress, Text, U8Image
from studio.jobs.store import (
    FIRST_FRAME_NAME,
    POSTER_NAME,
    REPORT_NAME,
    VIDEO_NAME,
    Job,
    JobProgress,
    JobStore,
)

log = logging.getLogger("studio.worker")

IDLE_WAIT_S = 0.1
"""How often an idle worker looks for a job."""
REPORT_EVERY_S = 0.15
"""How often a running job's progress is written; a cancel mark is looked for as often."""

OUR_FAULT = Text(
    en="Something in the studio failed. The log has the details; the settings are kept, so you can try again.",
    zh="工作室内部出错。详情已写入日志；设置已保留，可以重试。",
)


class Reporter:
    """Carries a run's progress into the store, and out of it the person's wish to cancel or the studio's to stop."""

    def __init__(self, store: JobStore, job: Job, stop: threading.Event) -> None:
        self._store = store
        self._job = job
        self._stop = stop
        self._written_at = 0.0
        self._stage = ""
        self._previews = 0

    def __call__(self, progress: Progress) -> None:
        if self._stop.is_set():
            raise Cancelled
        if progress.preview is not None:
            self._write_preview(progress.preview)
        now = time.monotonic()
        if progress.stage == self._stage and now - self._written_at < REPORT_EVERY_S:
            return
        self._stage, self._written_at = progress.stage, now
        lease = self._store.lease_of(self._job.id)
        if lease is None or self._store.wish_for(lease) != "go_on":
            raise Cancelled
        self._store.set_progress(
            self._job.id,
            JobProgress(
                stage=progress.stage,
                step=progress.step,
                steps=progress.steps,
                seconds_left=progress.seconds_left,
                previews=self._previews,
            ),
        )

    def _write_preview(self, pixels: U8Image) -> None:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=72)
        path = self._job.preview_path
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
        self._previews += 1


def run_job(store: JobStore, job: Job, engines: EngineCache, stop: threading.Event) -> None:
    """Runs one claimed job to its end, whatever that is. Nothing half-made is left in the folder.

    Once `stop` is set the run ends between two steps, and the supervisor, who knows why, says what became of the job.
    """
    outputs = Outputs(
        video=job.folder / VIDEO_NAME,
        report=job.folder / REPORT_NAME,
        first_frame=job.folder / FIRST_FRAME_NAME,
        poster=job.folder / POSTER_NAME,
        shown_path=f"jobs/{job.id}/{VIDEO_NAME}",
    )
    try:
        run(job.request, engines, outputs, Reporter(store, job, stop), job_id=job.id)
    except Cancelled:
        if not stop.is_set():
            store.finish(job.id, "cancelled")
    except StudioError as error:
        log.warning("Job %s failed: %s", job.id, error)
        store.finish(job.id, "failed", error.text)
    except Exception:
        log.exception("Job %s failed unexpectedly", job.id)
        store.finish(job.id, "failed", OUR_FAULT)
    else:
        store.finish(job.id, "done")
    finally:
        job.preview_path.unlink(missing_ok=True)


def work(store: JobStore, stop: threading.Event) -> None:
    """Takes jobs until `stop` is set or the process that started this one is gone."""
    parent = os.getppid()
    engines = EngineCache()
    while not stop.is_set() and os.getppid() == parent:
        job = store.claim(os.getpid())
        if job is None:
            stop.wait(IDLE_WAIT_S)
            continue
        log.info("Job %s: %s", job.id, job.request.engine)
        run_job(store, job, engines, stop)
    engines.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Take jobs from the store and generate them.")
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    # The supervisor decides: Ctrl+C reaches the whole process group, and the job must be told as what it was.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    work(JobStore(arguments.data), stop)


if __name__ == "__main__":
    main()
