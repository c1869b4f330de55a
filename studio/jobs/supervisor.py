"""Keeps the worker processes alive and tells the truth about the jobs of dead ones. Runs nothing itself."""

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
from studio.jobs.store import JobStore

log = logging.getLogger("studio.supervisor")

WATCH_EVERY_S = 0.2
RESTART_WAIT_S = 2.0
"""A worker that dies at once is started again no faster than this."""
STOP_WAIT_S = 5.0
"""How long a worker may take to finish its step when the studio stops."""

WORKER_DIED = Text(
    en="The worker process ended in the middle of this job (out of memory, or it was stopped). Nothing of the video "
    "was kept; the settings were. Try again.",
    zh="工作进程在任务途中退出（内存不足或被终止）。视频没有保留，设置已保留。请重试。",
)
STUDIO_STOPPED = Text(
    en="The studio was stopped in the middle of this job. Nothing of the video was kept; the settings were. Try again.",
    zh="任务途中工作室被关闭。视频没有保留，设置已保留。请重试。",
)

_ROOT = Path(__file__).resolve().parent.parent.parent


class Supervisor:
    """Starts `workers` processes on `store` and starts each again when it dies. Use as a context manager."""

    def __init__(self, store: JobStore, workers: int = 1) -> None:
        self._store = store
        self._slots: list[_Slot] = [_Slot(store.data) for _ in range(workers)]
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
        """Tells the jobs of workers that are gone as interrupted, then starts the workers."""
        self._interrupt_orphans(WORKER_DIED)
        self._thread.start()

    def stop(self) -> None:
        """Lets running jobs finish their step, for a few seconds at most, and tells them as interrupted."""
        self._stop.set()
        self._thread.join()
        for slot in self._slots:
            slot.end()
        self._interrupt_orphans(STUDIO_STOPPED)

    def _watch(self) -> None:
        while not self._stop.is_set():
            for slot in self._slots:
                if slot.has_died():
                    self._interrupt_orphans(WORKER_DIED)
                slot.start_if_due()
            self._stop.wait(WATCH_EVERY_S)

    def _interrupt_orphans(self, message: Text) -> None:
        for lease in self._store.leases():
            if not _is_worker(lease.worker):
                log.warning("Job %s goes back into the queue: its worker %s is gone", lease.job_id, lease.worker)
                self._store.put_back(lease, message, died=message is WORKER_DIED)


class _Slot:
    """One place for a worker process."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = -RESTART_WAIT_S

    def has_died(self) -> bool:
        if self._process is None or self._process.poll() is None:
            return False
        log.warning("Worker %s ended with code %s", self._process.pid, self._process.returncode)
        self._process = None
        return True

    def start_if_due(self) -> None:
        if self._process is None and time.monotonic() - self._started_at >= RESTART_WAIT_S:
            self._started_at = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "studio.jobs.worker", str(self._data)],
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _is_worker(pid: int | None) -> bool:
    """Whether `pid` is a live worker of ours; process numbers are used again after a restart of the machine."""
    if pid is None:
        return False
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "studio.jobs.worker" in process.cmdline()
    except psutil.Error:
        return False
