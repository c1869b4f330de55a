"""The jobs on disk: one SQLite file and one folder a job. Knows no page, no engine and no process.

Every method opens its own short transaction, so any thread and any process may use a `JobStore` at any time.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from i2v_pipeline.types import GenerationRequest, StageName, Text

JobState = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
OVER: frozenset[JobState] = frozenset({"done", "failed", "cancelled", "interrupted"})

VIDEO_NAME = "video.mp4"
REPORT_NAME = "report.json"
POSTER_NAME = "poster.jpg"
PREVIEW_NAME = "preview.jpg"
FIRST_FRAME_NAME = "first_frame.png"

_REQUEST = TypeAdapter(GenerationRequest)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
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
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, created);
CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner, created);
"""


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """Where a running job stands; `previews` counts the previews written so far to `preview.jpg`."""

    stage: StageName
    step: int
    steps: int
    seconds_left: float | None = None
    previews: int = 0


_PROGRESS = TypeAdapter(JobProgress)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row. Times are seconds since 1970; `version` grows with every change, so a watcher sees each one.

    `message` says, once the job is over, why it failed or was interrupted; None for done and cancelled jobs.
    `ahead` is the number of jobs that will run before this one; 0 unless it is queued.
    """

    id: str
    owner: str
    state: JobState
    request: GenerationRequest
    folder: Path
    created: float
    started: float | None
    finished: float | None
    cancel_asked: bool
    progress: JobProgress | None
    message: Text | None
    version: int
    ahead: int = 0

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def video_path(self) -> Path:
        return self.folder / VIDEO_NAME

    @property
    def report_path(self) -> Path:
        return self.folder / REPORT_NAME

    @property
    def poster_path(self) -> Path:
        return self.folder / POSTER_NAME

    @property
    def preview_path(self) -> Path:
        return self.folder / PREVIEW_NAME


class JobStore:
    """The jobs below the folder `data`, which is made when it is not there."""

    def __init__(self, data: Path) -> None:
        self.data = data.resolve()
        self.jobs_folder = self.data / "jobs"
        self.jobs_folder.mkdir(parents=True, exist_ok=True)
        with self._transaction() as db:
            db.executescript(_SCHEMA)

    def submit(self, request: GenerationRequest, owner: str) -> Job:
        """Copies the request's pictures into a new job folder and queues the job. The pictures may go away after."""
        job_id = time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(4)
        folder = self.jobs_folder / job_id
        folder.mkdir()
        try:
            kept = []
            for index, image in enumerate(request.images):
                name = f"input{index or ''}{image.suffix.lower()}"
                shutil.copyfile(image, folder / name)
                kept.append(Path(name))
            last = request.last_image
            if last is not None:
                shutil.copyfile(last, folder / f"input-last{last.suffix.lower()}")
                last = Path(f"input-last{last.suffix.lower()}")
            recipe = _REQUEST.dump_json(replace(request, images=tuple(kept), last_image=last)).decode()
            with self._transaction() as db:
                db.execute(
                    "INSERT INTO jobs (id, owner, state, request, created) VALUES (?, ?, 'queued', ?, ?)",
                    (job_id, owner, recipe, time.time()),
                )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return self._existing(job_id)

    def get(self, job_id: str) -> Job | None:
        with self._transaction() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            return self._job(row, db) if row else None

    def list(self, owner: str, *, limit: int = 60) -> list[Job]:
        """The owner's jobs, newest first."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT * FROM jobs WHERE owner = ? ORDER BY created DESC, id DESC LIMIT ?", (owner, limit)
            ).fetchall()
            return [self._job(row, db) for row in rows]

    def page(self, owner: str, *, limit: int, after: str | None, is_oldest_first: bool) -> list[Job]:
        """The owner's jobs from the one behind the job `after` on, by the time of their creation."""
        order, beyond = ("ASC", ">") if is_oldest_first else ("DESC", "<")
        start = "" if after is None else f" AND (created, id) {beyond} (SELECT created, id FROM jobs WHERE id = ?)"
        values = (owner, limit) if after is None else (owner, after, limit)
        with self._transaction() as db:
            rows = db.execute(
                f"SELECT * FROM jobs WHERE owner = ?{start} ORDER BY created {order}, id {order} LIMIT ?", values
            ).fetchall()
            return [self._job(row, db) for row in rows]

    def count_unfinished(self, owner: str) -> int:
        """The owner's jobs that wait or run."""
        over = ", ".join(f"'{state}'" for state in sorted(OVER))
        with self._transaction() as db:
            query = f"SELECT count(*) FROM jobs WHERE owner = ? AND state NOT IN ({over})"
            return db.execute(query, (owner,)).fetchone()[0]

    def adopt(self, former: str, owner: str) -> None:
        """Gives all jobs of the owner `former` to `owner`."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET owner = ?, version = version + 1 WHERE owner = ?", (owner, former))

    def delete(self, job_id: str) -> bool:
        """Removes a job that is over with everything in its folder; False, and nothing removed, for one that is not."""
        over = ", ".join(f"'{state}'" for state in sorted(OVER))
        with self._transaction() as db:
            if db.execute(f"SELECT 1 FROM jobs WHERE id = ? AND state NOT IN ({over})", (job_id,)).fetchone():
                return False
            db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        shutil.rmtree(self.jobs_folder / job_id, ignore_errors=True)
        return True

    def cancel(self, job_id: str) -> Job:
        """A queued job is cancelled at once; a running one between its next two steps; any other stays as it is."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ?, version = version + 1"
                " WHERE id = ? AND state = 'queued'",
                (time.time(), job_id),
            )
            db.execute(
                "UPDATE jobs SET cancel = 1, version = version + 1 WHERE id = ? AND state = 'running'", (job_id,)
            )
        return self._existing(job_id)

    def is_cancel_asked(self, job_id: str) -> bool:
        with self._transaction() as db:
            row = db.execute("SELECT cancel FROM jobs WHERE id = ?", (job_id,)).fetchone()
            return bool(row and row["cancel"])

    def claim(self, worker: int) -> Job | None:
        """Takes the oldest queued job for the process `worker`; no two workers ever get the same one."""
        with self._transaction() as db:
            row = db.execute(
                "UPDATE jobs SET state = 'running', worker = ?, started = ?, version = version + 1 WHERE id ="
                " (SELECT id FROM jobs WHERE state = 'queued' ORDER BY created, id LIMIT 1) RETURNING *",
                (worker, time.time()),
            ).fetchone()
            return self._job(row, db) if row else None

    def set_progress(self, job_id: str, progress: JobProgress) -> None:
        self._update_running(job_id, progress=_PROGRESS.dump_json(progress).decode())

    def finish(self, job_id: str, state: JobState, message: Text | None = None) -> bool:
        """Ends a running job; False when it was over already.

        Everything that belongs to a done job must stand in its folder before this call.
        """
        return self._update_running(
            job_id,
            state=state,
            finished=time.time(),
            worker=None,
            message=None if message is None else json.dumps(message._asdict(), ensure_ascii=False),
        )

    def interrupt(self, job_id: str, message: Text) -> None:
        """Ends a running job whose worker is gone and removes what was half-made of it; its pictures stay."""
        if not self.finish(job_id, "interrupted", message):
            return
        folder = self.jobs_folder / job_id
        for path in folder.iterdir() if folder.is_dir() else ():
            if not path.name.startswith("input"):
                path.unlink(missing_ok=True)

    def running_jobs(self) -> dict[str, int]:
        """Process numbers of the workers by the id of the job each is running."""
        with self._transaction() as db:
            rows = db.execute("SELECT id, worker FROM jobs WHERE state = 'running'").fetchall()
            return {row["id"]: row["worker"] for row in rows}

    def _update_running(self, job_id: str, **values: Any) -> bool:  # noqa: ANN401 - SQLite's own value types
        columns = ", ".join(f"{name} = ?" for name in values)
        with self._transaction() as db:
            changed = db.execute(
                f"UPDATE jobs SET {columns}, version = version + 1 WHERE id = ? AND state = 'running'",
                (*values.values(), job_id),
            )
            return changed.rowcount == 1

    def _existing(self, job_id: str) -> Job:
        job = self.get(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

    def _job(self, row: sqlite3.Row, db: sqlite3.Connection) -> Job:
        folder = self.jobs_folder / row["id"]
        recipe = _REQUEST.validate_json(row["request"])
        ahead = 0
        if row["state"] == "queued":
            (ahead,) = db.execute(
                "SELECT count(*) FROM jobs WHERE state = 'running' OR (state = 'queued' AND (created, id) < (?, ?))",
                (row["created"], row["id"]),
            ).fetchone()
        return Job(
            id=row["id"],
            owner=row["owner"],
            state=row["state"],
            request=replace(
                recipe,
                images=tuple(folder / image for image in recipe.images),
                last_image=recipe.last_image and folder / recipe.last_image,
            ),
            folder=folder,
            created=row["created"],
            started=row["started"],
            finished=row["finished"],
            cancel_asked=bool(row["cancel"]),
            progress=_PROGRESS.validate_json(row["progress"]) if row["progress"] else None,
            message=Text(**json.loads(row["message"])) if row["message"] else None,
            version=row["version"],
            ahead=ahead,
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.data / "studio.sqlite3", timeout=30)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            # WAL with NORMAL may lose the last commits at a power cut; a job that was accepted must not be lost.
            db.execute("PRAGMA synchronous = FULL")
            with db:
                yield db
        finally:
            db.close()
