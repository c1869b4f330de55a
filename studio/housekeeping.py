"""Takes deleted jobs off the disk once nobody can want them back. Knows no page."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from i2v_pipeline.errors import StudioError
from studio.jobs.erasing import purge
from studio.jobs.store import JobStore

log = logging.getLogger("studio.housekeeping")

KEEP_DELETED_S = 86400.0
"""A deleted job can be brought back for a day; the page says so."""
LOOK_EVERY_S = 3600.0


class Housekeeping:
    """Sweeps `store` at once and then every hour. Use as a context manager."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="housekeeping", daemon=True)

    def __enter__(self) -> Housekeeping:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            sweep(self._store, time.time())
            if self._stop.wait(LOOK_EVERY_S):
                return


def sweep(store: JobStore, now: float) -> None:
    """Removes what was deleted long enough before `now`; what cannot be removed is tried again the next time."""
    try:
        freed = purge(store, now - KEEP_DELETED_S)
    except (StudioError, OSError):
        log.exception("Deleted jobs could not be taken off the disk")
        return
    if freed:
        log.info("Deleted jobs were taken off the disk: %.1f MB", freed / 1e6)
