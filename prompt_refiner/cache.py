"""Answers of LLMs that could be used, kept for a while in one SQLite file, so that the same question costs nothing.

Knows no service and no person: a key is a hash of everything that the answer depends on. What was kept is read and
believed anew each time. A file that cannot be used is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_refiner.deadline import Deadline

_log = logging.getLogger("prompt_refiner")
KEEP_S = 30 * 24 * 3600.0
MAX_CHARACTERS = 8_000_000
_TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, kept_at REAL, with_picture INTEGER, text TEXT)"
_FIT = """DELETE FROM answers WHERE key IN (SELECT key FROM (
    SELECT key, SUM(LENGTH(text)) OVER (ORDER BY kept_at DESC, key) AS total FROM answers) WHERE total > ?)"""
_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What the model wrote, and whether it saw the picture."""

    text: str
    with_picture: bool


def key_of(parts: Sequence[Any]) -> str:
    """`parts` are JSON values: all that the answer depends on."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode("ascii")).hexdigest()


class AnswerCache:
    """One file. Safe for several threads and programs at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str, *, now: float | None = None) -> Kept | None:
        """What was kept under `key` and is not too old."""
        oldest = (time.time() if now is None else now) - KEEP_S
        try:
            if not self._path.exists():
                return None
            with self._open() as file:
                row = file.execute(
                    "SELECT text, with_picture FROM answers WHERE key = ? AND kept_at > ?", (key, oldest)
                ).fetchone()
        except (sqlite3.Error, OSError) as error:
            _log.warning("the refiner's cache cannot be read: %s", error)
            return None
        return None if row is None else Kept(text=row[0], with_picture=bool(row[1]))

    def put(self, key: str, kept: Kept, *, now: float | None = None) -> None:
        """Keeps it, and lets go of what is too old or too much."""
        time_s = time.time() if now is None else now
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            with self._open() as file:
                file.execute(
                    "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (key, time_s, kept.with_picture, kept.text)
                )
                file.execute("DELETE FROM answers WHERE kept_at <= ?", (time_s - KEEP_S,))
                file.execute(_FIT, (MAX_CHARACTERS,))
        except (sqlite3.Error, OSError) as error:
            _log.warning("the refiner's cache cannot be written: %s", error)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=1.0)) as file, file:
            file.execute(_TABLE)
            yield file


class _Flights:
    """Who is asking what just now: the second to ask the same waits for the first one's answer."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        self._guard = threading.Lock()

    @contextlib.contextmanager
    def alone(self, key: str, deadline: Deadline) -> Iterator[None]:
        """LlmFailure `timeout` where the turn does not come in time."""
        with self._guard:
            lock, waiting = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = (lock, waiting + 1)
        try:
            while not lock.acquire(timeout=_POLL_S):
                deadline.check()
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._guard:
                lock, waiting = self._locks.pop(key)
                if waiting > 1:
                    self._locks[key] = (lock, waiting - 1)


FLIGHTS = _Flights()
