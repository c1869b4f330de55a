"""Keeps the worker processes alive, and puts the jobs of dead ones back into the queue. Runs nothing itself."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import psutil

from i2v_pipeline.types import Text
from studio.allocation import allocator_settings
from studio.jobs.database import DataError
from studio.jobs.leases import BEAT_EVERY_S, STOPPED
from studio.jobs.store import JobStore
from studio.jobs.types import Lease

log = logging.getLogger("studio.supervisor")

WATCH_EVERY_S = 0.2
RESTART_WAIT_S = 2.0
"""A worker that dies at once is started again no faster than this."""
STOP_WAIT_S = 5.0
"""How long a worker may take to finish its step and save it when the studio stops."""
SILENCE_S = 30 * BEAT_EVERY_S
"""A worker that gave no sign of life for so long hangs as a whole: even a step of minutes leaves its pulse alone."""

WORKER_DIED = Text(
    en="The worker process ended in the middle of this job (out of memory, or it was stopped). The job is in the "
    "queue again and goes on from what was saved of it; what was not saved is made again.",
    zh="工作进程在任务途中退出（内存不足或被终止）。任务已回到队列，将从已保存的进度继续；未保存的部分会重新生成。",
)

_ROOT = Path(__file__).resolve().parent.parent.parent


class Supervisor:
    """Starts `workers` processes on `store` and starts each again when it dies. Use as a context manager."""

    def __init__(self, store: JobStore, workers: int = 1) -> None:
        self._store = store
        self._slots: list[_Slot] = [_Slot(store.data) for _ in range(workers)]
        self._heard: dict[str, tuple[int, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Puts the jobs of workers that are gone back into the queue, then starts the workers."""
        self._put_back_orphans(WORKER_DIED, died=True)
        self._thread.start()

    def stop(self) -> None:
        """Lets running jobs finish and save their step, for a few seconds at most; they go on at the next start."""
        self._stop.set()
        self._thread.join()
        for slot in self._slots:
            slot.ask_to_end()
        deadline = time.monotonic() + STOP_WAIT_S
        for slot in self._slots:
            slot.end(deadline)
        self._put_back_orphans(STOPPED, died=False)

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_EVERY_S):
            for slot in self._slots:
                slot.start_if_due()
            self._put_back_orphans(WORKER_DIED, died=True)

    def _put_back_orphans(self, message: Text, *, died: bool) -> None:
        """Whatever is running without a live worker waits again. Where the list cannot be written, the next look does.

        A worker that hangs loses its job first and is ended then, so it never ends in the middle of being heard.
        """
        try:
            leases = self._store.leases()
            self._heard = {lease.token: self._heard_of(lease) for lease in leases}
            for lease in leases:
                is_alive = is_worker(lease.worker, self._store.data)
                if is_alive and time.monotonic() - self._heard[lease.token][1] < SILENCE_S:
                    continue
                if self._store.put_back(lease, message, died=died):
                    log.warning("Worker %s of job %s is gone; the job waits again", lease.worker, lease.job_id)
                    if is_alive:
                        psutil.Process(lease.worker).kill()
        except (DataError, psutil.Error) as error:
            log.error("The jobs of dead workers could not be looked after: %s", error)

    def _heard_of(self, lease: Lease) -> tuple[int, float]:
        """The beats of a lease and when they were new, on a clock that stands still while the machine sleeps."""
        before = self._heard.get(lease.token)
        return before if before and before[0] == lease.beats else (lease.beats, time.monotonic())


class _Slot:
    """One place for a worker process."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = -RESTART_WAIT_S

    def start_if_due(self) -> None:
        """Starts a process where there is none alive; not too soon after the last."""
        if self._process is not None and self._process.poll() is not None:
            log.warning("Worker %s ended with code %s", self._process.pid, self._process.returncode)
            self._process = None
        if self._process is None and time.monotonic() - self._started_at >= RESTART_WAIT_S:
            self._started_at = time.monotonic()
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "studio.jobs.worker", str(self._data)],
                    cwd=_ROOT,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **allocator_settings(os.environ), "PYTHONUNBUFFERED": "1"},
                )
            except OSError as error:
                log.error("No worker can be started now: %s", error)

    def ask_to_end(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def end(self, deadline: float) -> None:
        """Waits for the process until `deadline`, in seconds of the monotonic clock, then ends it by force."""
        if self._process is None:
            return
        try:
            self._process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            log.warning("Worker %s is in a long step; what it had saved before is gone on with", self._process.pid)
            self._process.kill()
            self._process.wait()


def is_worker(pid: int | None, data: Path) -> bool:
    """Whether `pid` is a live worker on the folder `data`; numbers of processes are used again after a restart."""
    if pid is None:
        return False
    try:
        process = psutil.Process(pid)
        command = process.cmdline()
        return process.status() != psutil.STATUS_ZOMBIE and "studio.jobs.worker" in command and str(data) in command
    except psutil.Error:
        return False
