"""The SQLite file: its schema, its upgrades, its transactions, and its failures in words. Knows no job."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from i2v_pipeline.errors import StudioError
from i2v_pipeline.types import Text

NAME = "studio.sqlite3"
SCHEMA = 3
LOCK_WAIT_S = 10.0
NOTE_WAIT_S = 0.1
"""A note that the next one replaces is not worth a longer wait."""

_JOBS_1 = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    request TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    worker INTEGER,
    cancel INTEGER NOT NULL DEFAULT 0,
    progress TEXT,
    message TEXT,
    version INTEGER NOT NULL DEFAULT 0
)
"""
_FROM_1_TO_2 = (
    "ALTER TABLE jobs ADD COLUMN place REAL NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN held INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN saved_step INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN lease TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN beats INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN favourite INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE jobs ADD COLUMN deleted REAL",
    """UPDATE jobs SET place =
        (SELECT count(*) FROM jobs AS older WHERE (older.created, older.id) <= (jobs.created, jobs.id))""",
    "CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, created)",
    "CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner, created)",
    # The turn at which each owner's last job was started for the first time; turns count all starts.
    "CREATE TABLE turns (owner TEXT PRIMARY KEY, turn INTEGER NOT NULL)",
)
_FROM_2_TO_3 = (
    # `recipe` holds the axes and the ids of the jobs, `finals` the job that was made of each draft.
    """CREATE TABLE comparisons (id TEXT PRIMARY KEY, owner TEXT NOT NULL, created REAL NOT NULL, recipe TEXT NOT NULL,
        finals TEXT NOT NULL DEFAULT '{}')""",
    "CREATE INDEX comparisons_by_owner ON comparisons (owner, created)",
)

LOCKED = Text(
    f"Another program has held the job list ({NAME}) for more than {LOCK_WAIT_S:.0f} s. Close the program that has it "
    "open (a backup, a database browser), then try again.",
    f"任务列表（{NAME}）被其他程序占用超过 {LOCK_WAIT_S:.0f} 秒。"
    "请关闭占用它的程序（备份或数据库查看工具），然后重试。",
)
FULL = Text(
    "The disk with the data folder is full, or its limit for one file is reached; nothing was changed. Free some "
    "space, then try again.",
    "数据文件夹所在的磁盘已满（或达到单个文件的大小上限），未做任何更改。请清理空间后重试。",
)
DAMAGED = Text(
    f"The job list ({NAME} in the data folder) is damaged, so it was left as it is. The videos in the folder jobs are "
    "not affected. Restore the file from a backup, or move it away to begin an empty list.",
    f"任务列表（数据文件夹中的 {NAME}）已损坏，未对它做任何改动。jobs 文件夹中的视频不受影响。"
    "请从备份恢复该文件，或将它移走以新建空列表。",
)
READ_ONLY = Text(
    "The data folder cannot be written to. Check its permissions and its disk, or choose another one with --data DIR.",
    "无法写入数据文件夹。请检查其权限和所在磁盘，或用 --data 目录 指定其他位置。",
)
_BY_MESSAGE = (
    (("database is locked",), LOCKED),
    (("disk is full",), FULL),
    (("malformed", "not a database"), DAMAGED),
    (("readonly", "unable to open", "disk I/O error"), READ_ONLY),
)
"""SQLite's own sentences: its codes can be read from Python 3.11 on."""
_BY_ERRNO = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR), READ_ONLY),
}


class DataError(StudioError):
    """The data folder or its job list cannot be used."""


class Database:
    """The file in the folder `data`. Each transaction has its own connection, so any thread may ask for one."""

    def __init__(self, data: Path) -> None:
        self._path = data / NAME

    def open(self) -> None:
        """Makes the file, or brings an older one up to this schema in place.

        Raises `DataError` for a file that is damaged, cannot be written or was made by a newer version.
        """
        with told():
            db = self._connect(LOCK_WAIT_S)
            try:
                (sound,) = db.execute("PRAGMA quick_check(1)").fetchone()
                if sound != "ok":
                    raise sqlite3.DatabaseError("malformed")
                # Stays with the file. A reader never waits for a writer, and a commit is one write at the end of a log.
                db.execute("PRAGMA journal_mode = WAL")
            finally:
                db.close()
        with self.write() as db:
            _upgrade(db)

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the data."""
        with self._transaction("BEGIN") as db:
            yield db

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Changes that happen whole or not at all, and outlive a power cut."""
        with self._transaction("BEGIN IMMEDIATE") as db:
            yield db

    @contextmanager
    def note(self) -> Iterator[sqlite3.Connection]:
        """Changes that may be lost at a power cut, and fail at once where another program holds the file."""
        with self._transaction("BEGIN IMMEDIATE", synchronous="NORMAL", wait_s=NOTE_WAIT_S) as db:
            yield db

    @contextmanager
    def _transaction(
        self, begin: str, *, synchronous: str = "FULL", wait_s: float | None = None
    ) -> Iterator[sqlite3.Connection]:
        with told():
            db = self._connect(LOCK_WAIT_S if wait_s is None else wait_s)
            try:
                db.execute(f"PRAGMA synchronous = {synchronous}")
                db.execute(begin)
                try:
                    yield db
                except BaseException:
                    db.rollback()
                    raise
                db.commit()
            finally:
                db.close()

    def _connect(self, wait_s: float) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=wait_s, isolation_level=None)
        db.row_factory = sqlite3.Row
        db.create_function("casefold", 1, str.casefold, deterministic=True)
        return db


@contextmanager
def told() -> Iterator[None]:
    """Failures of SQLite and of the folder come out as `DataError`; faults of ours stay what they are."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        for marks, text in _BY_MESSAGE:
            if any(mark in str(error) for mark in marks):
                raise DataError(*text) from error
        raise
    except OSError as error:
        if error.errno in _BY_ERRNO:
            raise DataError(*_BY_ERRNO[error.errno]) from error
        raise


def _upgrade(db: sqlite3.Connection) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA:
        raise DataError(
            f"The data folder belongs to a newer version of the studio (job list {version}, this version reads up to "
            f"{SCHEMA}). Start that version, or choose another folder with --data DIR.",
            f"该数据文件夹属于更新版本的工作室（任务列表版本 {version}，本版本最高支持 {SCHEMA}）。"
            "请使用新版本启动，或用 --data 目录 指定其他文件夹。",
        )
    if version == SCHEMA:
        return
    # The first schema did not number itself.
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone():
        db.execute(_JOBS_1)
    for change in (*(_FROM_1_TO_2 if version < 2 else ()), *_FROM_2_TO_3):
        db.execute(change)
    db.execute(f"PRAGMA user_version = {SCHEMA}")
