"""The process that generates: takes one job after another from the store. Knows no page; `python -m` starts it.

Everything heavy lives here, so a fault or an out-of-memory kill ends this process and not the page.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from PIL import Image

from i2v_pipeline.errors import Cancelled, Paused, StudioError
from i2v_pipeline.pipeline import EngineCache, Outputs, run
from i2v_pipeline.types import Progress, StageName, Text, U8Image
from studio.jobs import folders
from studio.jobs.database import DataError, told
from studio.jobs.leases import BEAT_EVERY_S, STOPPED
from studio.jobs.store import JobStore
from studio.jobs.types import (
    FIRST_FRAME_NAME,
    FOLDER_GONE,
    POSTER_NAME,
    REPORT_NAME,
    VIDEO_NAME,
    Job,
    JobProgress,
    Lease,
)
from studio.plans import LEARNED_NAME

log = logging.getLogger("studio.worker")

IDLE_WAIT_S = 0.1
"""How often an idle worker looks for a job."""
REPORT_EVERY_S = 0.15
"""How often a running job's progress is written; a cancel mark is looked for as often."""

RETRY_EVERY_S = 1.0
"""How often the store is tried again while the data folder cannot be written."""

OUR_FAULT = Text(
    en="Something in the studio failed. The log has the details; the settings are kept, so you can try again.",
    zh="工作室内部出错。详情已写入日志；设置已保留，可以重试。",
)
HELD = Text(
    en="Paused. What was computed is saved where the engine can go on from it; the rest is made again.",
    zh="已暂停。引擎能够续跑的进度已保存，其余部分会重新生成。",
)


class Reporter:
    """Carries a run's progress into the store, and out of it the person's wish to cancel or the studio's to stop."""

    def __init__(self, store: JobStore, job: Job, lease: Lease, stop: threading.Event) -> None:
        self._store = store
        self._job = job
        self._lease = lease
        self._stop = stop
        self._written_at = 0.0
        self._stage = ""
        self._saved_step = 0
        self._previews = 0
        self._furthest = Progress(stage="load", step=0, steps=1)

    def __call__(self, progress: Progress) -> None:
        if self._stop.is_set():
            raise Paused
        if progress.preview is not None:
            self._write_preview(progress.preview)
        if _place(progress) >= _place(self._furthest):
            self._furthest = progress
        now = time.monotonic()
        news = (progress.stage, progress.saved_step) != (self._stage, self._saved_step)
        if not news and now - self._written_at < REPORT_EVERY_S:
            return
        self._stage, self._saved_step, self._written_at = progress.stage, progress.saved_step, now
        told_progress = JobProgress(
            stage=progress.stage,
            step=progress.step,
            steps=progress.steps,
            seconds_left=progress.seconds_left,
            previews=self._previews,
            saved_step=progress.saved_step,
            note=progress.note,
            furthest=None
            if self._furthest is progress
            else (self._furthest.stage, self._furthest.step, self._furthest.steps),
        )
        try:
            wish = self._store.wish_for(self._lease)
            self._store.set_progress(self._job.id, told_progress, self._lease)
        except DataError as error:
            # A video is worth more than the word on how far it is.
            log.warning("The progress of job %s cannot be written: %s", self._job.id, error)
            return
        if wish != "go_on":
            raise Cancelled if wish == "cancel" else Paused

    def _write_preview(self, pixels: U8Image) -> None:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=72)
        path = self._job.preview_path
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
        self._previews += 1


def _place(progress: Progress) -> tuple[int, float]:
    """How far a run is: its stage, and the part of it that is done."""
    return get_args(StageName).index(progress.stage), progress.step / max(progress.steps, 1)


class Pulse:
    """The signs of life of a worker, from a thread of its own: a step may take minutes."""

    def __init__(self, store: JobStore, stop: threading.Event) -> None:
        self._store = store
        self._stop = stop
        self._parent = os.getppid()
        self._lease: Lease | None = None
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def keep(self, lease: Lease | None) -> None:
        """Renews this lease from now on; None for none."""
        self._lease = lease

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_EVERY_S):
            if os.getppid() != self._parent:
                log.warning("The studio is gone; this worker finishes its step and ends")
                self._stop.set()
            lease = self._lease
            try:
                if lease is not None and not self._store.renew(lease):
                    log.warning("Job %s is no longer this worker's", lease.job_id)
            except DataError as error:
                log.warning("No sign of life could be written: %s", error)


def run_job(store: JobStore, job: Job, lease: Lease, engines: EngineCache, stop: threading.Event) -> None:
    """Runs one claimed job to its end, or until it is paused or `stop` is set; it then goes back into the queue.

    The results are made in a folder of their own and moved into the job's when all of them are there, so nothing
    half-made ever stands in it.
    """
    end = _make(store, job, lease, engines, stop)
    if end is not None:
        _insist(end, stop)


def work(store: JobStore, stop: threading.Event) -> None:
    """Takes jobs until `stop` is set."""
    engines, pulse = EngineCache(), Pulse(store, stop)
    while not stop.is_set():
        try:
            job = store.claim(os.getpid())
            lease = store.lease_of(job.id) if job else None
        except DataError as error:
            log.error("No job can be taken: %s", error)
            stop.wait(RETRY_EVERY_S)
            continue
        if job is None or lease is None:
            stop.wait(IDLE_WAIT_S)
            continue
        log.info("Job %s: %s", job.id, job.request.engine)
        pulse.keep(lease)
        run_job(store, job, lease, engines, stop)
        pulse.keep(None)
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


def _make(
    store: JobStore, job: Job, lease: Lease, engines: EngineCache, stop: threading.Event
) -> Callable[[], bool] | None:
    """Makes and delivers the video. Returns what is left to be said to the store, None where nothing is."""
    made = job.folder / f"unfinished-{lease.token}"
    outputs = Outputs(
        video=made / VIDEO_NAME,
        report=made / REPORT_NAME,
        first_frame=made / FIRST_FRAME_NAME,
        poster=made / POSTER_NAME,
        state=job.folder / folders.STATE_NAME,
        learned=store.data / LEARNED_NAME,
        shown_path=f"jobs/{job.id}/{VIDEO_NAME}",
    )
    try:
        with told():
            made.mkdir()
            run(job.request, engines, outputs, Reporter(store, job, lease, stop), job_id=job.id)
        _insist(lambda: store.deliver(lease, made), stop)
        return None
    except Paused:
        message = STOPPED if stop.is_set() else HELD
        log.info("Job %s goes back into the queue", job.id)
        return lambda: store.put_back(lease, message, died=False)
    except Cancelled:
        return lambda: store.finish(job.id, "cancelled", lease=lease)
    except StudioError as error:
        log.warning("Job %s failed: %s", job.id, error)
        message = error.text
    except Exception:
        log.exception("Job %s failed unexpectedly", job.id)
        message = OUR_FAULT
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if not job.folder.is_dir():
        message = FOLDER_GONE
    return lambda: store.finish(job.id, "failed", message, lease)


def _insist(change: Callable[[], bool], stop: threading.Event) -> None:
    """Tells the store until it could be written: what was made must not be lost to a disk that is full for a while.

    Gives up once `stop` is set; the job is then found as one whose worker is gone.
    """
    while True:
        try:
            change()
            return
        except DataError as error:
            log.error("The end of a job cannot be written yet: %s", error)
            if stop.wait(RETRY_EVERY_S):
                return


if __name__ == "__main__":
    main()
