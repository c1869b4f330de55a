"""A worker's right to a job, in SQL: taken, renewed, given back, and lost. Knows no folder and no process."""

from __future__ import annotations

import secrets
import sqlite3
import time
from typing import Any

from i2v_pipeline.types import Text
from studio.jobs.rows import PROGRESS, order_of, text_as_json
from studio.jobs.types import JobState, Lease, Wish

MAX_ATTEMPTS = 3
"""After so many workers that died under a job without getting further, the job itself is taken for the reason."""
GAVE_UP = Text(
    en=f"The process that makes the video ended {MAX_ATTEMPTS} times at the same place of this job, most likely for "
    "lack of memory. What was computed before that place is kept. Choose a smaller size or fewer frames, or free "
    "memory and try again.",
    zh=f"生成视频的进程在该任务的同一位置退出了 {MAX_ATTEMPTS} 次，很可能是内存不足。此前已计算的部分已保留。"
    "请减小尺寸或帧数，或释放内存后重试。",
)

_HELD = "id = ? AND state = 'running' AND lease = ?"


def claim(db: sqlite3.Connection, worker: int) -> sqlite3.Row | None:
    """Gives the next job to the process `worker`; None where none waits."""
    following = order_of(db)
    if not following:
        return None
    now = time.time()
    row = db.execute(
        "UPDATE jobs SET state = 'running', worker = ?, lease = ?, started = coalesce(started, ?), progress = NULL,"
        " version = version + 1 WHERE id = ? RETURNING *",
        (worker, secrets.token_hex(8), now, following[0]),
    ).fetchone()
    if row["started"] == now:
        db.execute(
            "INSERT INTO turns SELECT ?, coalesce(max(turn), 0) + 1 FROM turns WHERE true"
            " ON CONFLICT (owner) DO UPDATE SET turn = excluded.turn",
            (row["owner"],),
        )
    return row


def held(db: sqlite3.Connection) -> list[Lease]:
    """The leases on all running jobs."""
    rows = db.execute("SELECT id, worker, lease, beats FROM jobs WHERE state = 'running'")
    return [Lease(job_id=row["id"], worker=row["worker"], token=row["lease"], beats=row["beats"]) for row in rows]


def renew(db: sqlite3.Connection, lease: Lease) -> bool:
    beaten = db.execute(f"UPDATE jobs SET beats = beats + 1 WHERE {_HELD}", (lease.job_id, lease.token))
    return beaten.rowcount == 1


def wish_for(db: sqlite3.Connection, lease: Lease) -> Wish:
    row = db.execute(f"SELECT cancel, held FROM jobs WHERE {_HELD}", (lease.job_id, lease.token)).fetchone()
    if row is None or (row["held"] and not row["cancel"]):
        return "pause"
    return "cancel" if row["cancel"] else "go_on"


def finish(db: sqlite3.Connection, job_id: str, state: JobState, message: Text | None, lease: Lease | None) -> bool:
    return update(db, job_id, lease, state=state, finished=time.time(), worker=None, message=text_as_json(message))


def put_back(db: sqlite3.Connection, lease: Lease, message: Text, *, died: bool) -> sqlite3.Row | None:
    """The job's row afterwards: queued, cancelled or failed. None where the lease no longer holds."""
    row = db.execute(f"SELECT * FROM jobs WHERE {_HELD}", (lease.job_id, lease.token)).fetchone()
    if row is None:
        return None
    saved_step = PROGRESS.validate_json(row["progress"]).saved_step if row["progress"] else 0
    attempts = row["attempts"]
    if died:
        attempts = 1 if saved_step > row["saved_step"] else attempts + 1
    if row["cancel"]:
        finish(db, lease.job_id, "cancelled", None, lease)
    else:
        values = {"attempts": attempts, "saved_step": max(saved_step, row["saved_step"])}
        if attempts >= MAX_ATTEMPTS:
            update(db, lease.job_id, lease, **values)
            finish(db, lease.job_id, "failed", GAVE_UP, lease)
        else:
            back = {"state": "queued", "worker": None, "progress": None, "message": text_as_json(message)}
            update(db, lease.job_id, lease, **values, **back)
    return db.execute("SELECT * FROM jobs WHERE id = ?", (lease.job_id,)).fetchone()


def update(db: sqlite3.Connection, job_id: str, lease: Lease | None, **values: Any) -> bool:  # noqa: ANN401 - SQLite's own value types
    """Sets columns of a running job; False when it is over, or where `lease` is given and no longer holds."""
    columns = ", ".join(f"{name} = ?" for name in values)
    changed = db.execute(
        f"UPDATE jobs SET {columns}, version = version + 1"
        " WHERE id = ? AND state = 'running' AND coalesce(?, lease) = lease",
        (*values.values(), job_id, lease and lease.token),
    )
    return changed.rowcount == 1
