"""The jobs on disk: one SQLite file and one folder a job. Knows no page, no engine and no process.

Every method opens its own short transaction, so any thread and any process may use a `JobStore` at any time. All of
them raise `DataError` where the data folder or its job list cannot be used, and `KeyError` for a job that is not there.
"""

from __future__ import annotations

import builtins
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from i2v_pipeline.types import GenerationRequest, Text
from studio.jobs import folders, leases
from studio.jobs.database import Database, told
from studio.jobs.rows import PROGRESS, REQUEST, jobs_of
from studio.jobs.types import (
    FOLDER_GONE,
    MAX_WAITING,
    Job,
    JobError,
    JobProgress,
    JobState,
    Lease,
    QueueFull,
    Wish,
)

_NOT_WAITING = Text(
    "This job is no longer waiting: only a waiting job can be moved or edited. Cancel it, or make a new one.",
    "该任务已不在排队：只有排队中的任务可以移动或编辑。请取消它，或新建一个任务。",
)
_NOT_POSSIBLE = Text(
    "The job's state has changed meanwhile, so this can no longer be done. Look at what it says now.",
    "任务状态已发生变化，无法再执行此操作。请查看其当前状态。",
)


class JobStore:
    """The jobs below the folder `data`, which is made when it is not there."""

    def __init__(self, data: Path) -> None:
        self.data = data.resolve()
        self.jobs_folder = self.data / "jobs"
        with told():
            self.jobs_folder.mkdir(parents=True, exist_ok=True)
        self._database = Database(self.data)
        self._database.open()

    @property
    def database(self) -> Database:
        """For whatever else works on the same file."""
        return self._database

    # --- what people do with jobs -------------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest, owner: str) -> Job:
        """Copies the request's pictures into a new job folder and queues the job. The pictures may go away after."""
        return self.submit_many([request], owner)[0]

    def submit_many(
        self,
        requests: Sequence[GenerationRequest],
        owner: str,
        *,
        beside: Callable[[sqlite3.Connection, builtins.list[str]], None] = lambda db, ids: None,
    ) -> builtins.list[Job]:
        """Queues a job for each request, in their order: all or none. Raises `QueueFull` when they are too many.

        `beside` gets the transaction and the new ids: what it writes is there with the jobs or not at all.
        """
        ids = [time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(4) for _ in requests]
        try:
            with told():
                kept = [self._keep(request, job_id) for request, job_id in zip(requests, ids, strict=True)]
                folders.sync_folder(self.jobs_folder)
            with self._database.write() as db:
                _check_room(db, owner, len(ids))
                for job_id, request in zip(ids, kept, strict=True):
                    db.execute(
                        "INSERT INTO jobs (id, owner, state, request, created, place) VALUES (?, ?, 'queued', ?, ?,"
                        " (SELECT coalesce(max(place), 0) + 1 FROM jobs))",
                        (job_id, owner, REQUEST.dump_json(request).decode(), time.time()),
                    )
                beside(db, ids)
        except BaseException:
            for job_id in ids:
                shutil.rmtree(self.jobs_folder / job_id, ignore_errors=True)
            raise
        return [self._existing(job_id) for job_id in ids]

    def get(self, job_id: str) -> Job | None:
        with self._database.read() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            return jobs_of([row], db, self.jobs_folder)[0] if row else None

    def list(
        self,
        owner: str,
        *,
        limit: int = 60,
        offset: int = 0,
        search: str = "",
        engine: str | None = None,
        favourites: bool = False,
    ) -> builtins.list[Job]:
        """The owner's jobs that are not deleted, newest first.

        `search` is a part of the typed, the refined or the sent prompt; upper and lower case are the same to it.
        """
        where, values = ["owner = ?", "deleted IS NULL"], [owner]
        if search:
            fields = ("$.prompt", "$.origin.typed", "$.origin.refined")
            found = " OR ".join(f"instr(casefold(json_extract(request, '{field}')), ?)" for field in fields)
            where.append(f"({found})")
            values += [search.casefold()] * len(fields)
        if engine is not None:
            where.append("json_extract(request, '$.engine') = ?")
            values.append(engine)
        if favourites:
            where.append("favourite = 1")
        with self._database.read() as db:
            rows = db.execute(
                f"SELECT * FROM jobs WHERE {' AND '.join(where)} ORDER BY created DESC, id DESC LIMIT ? OFFSET ?",
                (*values, limit, offset),
            ).fetchall()
            return jobs_of(rows, db, self.jobs_folder)

    def page(self, owner: str, *, limit: int, after: str | None, is_oldest_first: bool) -> builtins.list[Job]:
        """The owner's jobs that are not deleted by the time of their creation, from behind the job `after` on."""
        order, beyond = ("ASC", ">") if is_oldest_first else ("DESC", "<")
        start = "" if after is None else f" AND (created, id) {beyond} (SELECT created, id FROM jobs WHERE id = ?)"
        values = (owner, limit) if after is None else (owner, after, limit)
        with self._database.read() as db:
            rows = db.execute(
                f"SELECT * FROM jobs WHERE owner = ? AND deleted IS NULL{start}"
                f" ORDER BY created {order}, id {order} LIMIT ?",
                values,
            ).fetchall()
            return jobs_of(rows, db, self.jobs_folder)

    def adopt(self, former: str, owner: str) -> None:
        """Gives all jobs of the owner `former` to `owner`."""
        with self._database.write() as db:
            db.execute("UPDATE jobs SET owner = ?, version = version + 1 WHERE owner = ?", (owner, former))
            db.execute("UPDATE comparisons SET owner = ? WHERE owner = ?", (owner, former))

    def unfinished(self, owner: str) -> builtins.list[Job]:
        """The owner's jobs that run, then those that wait, in the order of their places."""
        with self._database.read() as db:
            rows = db.execute(
                "SELECT * FROM jobs WHERE owner = ? AND state IN ('running', 'queued') AND deleted IS NULL"
                " ORDER BY state = 'queued', place, id",
                (owner,),
            ).fetchall()
            return jobs_of(rows, db, self.jobs_folder)

    def mark_of(self, owner: str) -> tuple[object, ...]:
        """Another value whenever the owner's queue or history changed; the steps of a running job change nothing."""
        with self._database.read() as db:
            return tuple(
                db.execute(
                    "SELECT count(*), sum(version) FILTER (WHERE state != 'running'), group_concat(id || cancel ||"
                    " held || favourite) FILTER (WHERE state = 'running') FROM jobs"
                    " WHERE owner = ? AND deleted IS NULL",
                    (owner,),
                ).fetchone()
            )

    def cancel(self, job_id: str) -> Job:
        """A queued job is cancelled at once; a running one between its next two steps; any other stays as it is."""
        with self._database.write() as db:
            if leases.cancel(db, job_id):
                self._clear(db, job_id)
        return self._existing(job_id)

    def move_up(self, job_id: str) -> Job:
        """Lets a waiting job run before the one that its owner has before it; the first one stays where it is."""
        return self._move(job_id, "place < ? ORDER BY place DESC")

    def move_down(self, job_id: str) -> Job:
        """Lets a waiting job run after the one that its owner has after it; the last one stays where it is."""
        return self._move(job_id, "place > ? ORDER BY place")

    def hold(self, job_id: str) -> Job:
        """Keeps a waiting job from being taken; a running one goes back into the queue after its step and waits there.

        Raises `JobError` for a job that is over.
        """
        return self._change(job_id, "held = 1", "state IN ('queued', 'running')")

    def release(self, job_id: str) -> Job:
        """Undoes `hold`. Raises `JobError` for a job that is over."""
        return self._change(job_id, "held = 0", "state IN ('queued', 'running')")

    def edit(self, job_id: str, request: GenerationRequest) -> Job:
        """Gives a waiting job another recipe; what an earlier run had computed for it is dropped.

        Its pictures may be the job's own or others, which are copied. Raises `JobError` once the job has been taken.
        """
        folder = self._existing(job_id).folder
        if not folder.is_dir():
            raise JobError(*FOLDER_GONE)
        mark = f"-{secrets.token_hex(4)}"
        kept = request
        try:
            with told():
                kept = folders.keep_inputs(request, folder, mark=mark)
            with self._database.write() as db:
                changed = db.execute(
                    "UPDATE jobs SET request = ?, started = NULL, message = NULL, progress = NULL, attempts = 0,"
                    " saved_step = 0, version = version + 1 WHERE id = ? AND state = 'queued'",
                    (REQUEST.dump_json(kept).decode(), job_id),
                )
                if not changed.rowcount:
                    raise _refusal(db, job_id, _NOT_WAITING)
                folders.keep_only(folder, folders.names_of_inputs(kept))
        except BaseException:
            for path in folder.glob(f"input{mark}*"):
                path.unlink(missing_ok=True)
            raise
        return self._existing(job_id)

    def requeue(self, job_id: str) -> Job:
        """Puts a job that failed or was cancelled at the end of its owner's queue.

        A failed one goes on from what was saved of it, where something was.
        Raises `JobError` for a job in any other state, and `QueueFull`.
        """
        job = self._existing(job_id)
        with self._database.write() as db:
            _check_room(db, job.owner, 1)
            return self._change_in(
                db,
                job_id,
                "state = 'queued', started = NULL, finished = NULL, cancel = 0, held = 0, attempts = 0, message = NULL,"
                " progress = NULL, place = (SELECT max(place) + 1 FROM jobs)",
                "state IN ('failed', 'cancelled', 'interrupted')",
            )

    def set_favourite(self, job_id: str, favourite: bool) -> Job:
        return self._change(job_id, f"favourite = {int(favourite)}")

    def delete(self, job_id: str) -> Job:
        """Takes the job out of every list and out of the queue; a running one is cancelled. `restore` undoes it."""
        with self._database.write() as db:
            db.execute("UPDATE jobs SET cancel = 1 WHERE id = ? AND state = 'running'", (job_id,))
            return self._change_in(db, job_id, f"deleted = {time.time()!r}")

    def restore(self, job_id: str) -> Job:
        """Undoes `delete`: a job that was waiting waits again at its place."""
        return self._change(job_id, "deleted = NULL")

    # --- what workers and supervisors do ------------------------------------------------------------------------------

    def claim(self, worker: int) -> Job | None:
        """Takes the next job for the process `worker`; no two workers ever get the same one."""
        with self._database.write() as db:
            row = leases.claim(db, worker)
            return jobs_of([row], db, self.jobs_folder)[0] if row else None

    def lease_of(self, job_id: str) -> Lease | None:
        """The lease on a running job, None for any other."""
        return next((lease for lease in self.leases() if lease.job_id == job_id), None)

    def leases(self) -> builtins.list[Lease]:
        """The leases on all running jobs."""
        with self._database.read() as db:
            return leases.held(db)

    def renew(self, lease: Lease) -> bool:
        """A sign of life of the worker that holds `lease`; False when the job is no longer its own."""
        with self._database.note() as db:
            return leases.renew(db, lease)

    def wish_for(self, lease: Lease) -> Wish:
        """What the worker that holds `lease` shall do with its job."""
        with self._database.read() as db:
            return leases.wish_for(db, lease)

    def set_progress(self, job_id: str, progress: JobProgress, lease: Lease | None = None) -> None:
        """Notes where a running job stands; nothing happens where `lease` is given and no longer holds."""
        with self._database.note() as db:
            leases.update(db, job_id, lease, progress=PROGRESS.dump_json(progress).decode())

    def finish(self, job_id: str, state: JobState, message: Text | None = None, lease: Lease | None = None) -> bool:
        """Ends a running job; False when it was over already, or where `lease` is given and no longer holds.

        Everything that belongs to a done job must stand in its folder before this call. What is half-made of any other
        is removed; the state of a failed one is kept.
        """
        with self._database.write() as db:
            ended = leases.finish(db, job_id, state, message, lease)
            if ended and state != "done":
                self._clear(db, job_id)
        return ended

    def deliver(self, lease: Lease, made: Path) -> bool:
        """Moves the files in the folder `made` into the job's and ends it as done, both or neither.

        False when the lease no longer holds; nothing is moved then.
        """
        with told():
            folders.sync_files(made)
        with told(), self._database.write() as db:
            # While this transaction stands nobody else can take the job, so nobody else writes into its folder.
            if not leases.finish(db, lease.job_id, "done", None, lease):
                return False
            self._clear(db, lease.job_id, kept=made.name)
            folders.take_results(made, self.jobs_folder / lease.job_id)
            return True

    def put_back(self, lease: Lease, message: Text, *, died: bool) -> bool:
        """Puts a running job back into the queue, where it comes first; False when the lease no longer holds.

        `died` counts an attempt: the third one that got no further than the one before ends the job as failed. A job
        that was to be cancelled ends as cancelled.
        """
        with self._database.write() as db:
            is_back = leases.put_back(db, lease, message, died=died)
            if is_back:
                self._clear(db, lease.job_id)
        return is_back

    def _clear(self, db: sqlite3.Connection, job_id: str, *, kept: str = "") -> None:
        """Leaves the pictures, `kept`, and the state of a job that may go on. The transaction keeps others out."""
        row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        job = jobs_of([row], db, self.jobs_folder)[0]
        names = folders.names_of_inputs(job.request) | {kept}
        folders.keep_only(job.folder, names | {folders.STATE_NAME} if job.state in ("queued", "failed") else names)

    # --- shared -------------------------------------------------------------------------------------------------------

    def _keep(self, request: GenerationRequest, job_id: str) -> GenerationRequest:
        folder = self.jobs_folder / job_id
        folder.mkdir()
        return folders.keep_inputs(request, folder)

    def _move(self, job_id: str, beyond: str) -> Job:
        with self._database.write() as db:
            moved = db.execute(
                "SELECT owner, place FROM jobs WHERE id = ? AND state = 'queued' AND deleted IS NULL", (job_id,)
            ).fetchone()
            if moved is None:
                raise _refusal(db, job_id, _NOT_WAITING)
            other = db.execute(
                "SELECT id, place FROM jobs WHERE owner = ? AND state = 'queued' AND deleted IS NULL"
                f" AND {beyond} LIMIT 1",
                tuple(moved),
            ).fetchone()
            if other is not None:
                for target, place in ((job_id, other["place"]), (other["id"], moved["place"])):
                    db.execute("UPDATE jobs SET place = ?, version = version + 1 WHERE id = ?", (place, target))
        return self._existing(job_id)

    def _change(self, job_id: str, changes: str, condition: str = "true") -> Job:
        with self._database.write() as db:
            return self._change_in(db, job_id, changes, condition)

    def _change_in(self, db: sqlite3.Connection, job_id: str, changes: str, condition: str = "true") -> Job:
        row = db.execute(
            f"UPDATE jobs SET {changes}, version = version + 1 WHERE id = ? AND {condition} RETURNING *", (job_id,)
        ).fetchone()
        if row is None:
            raise _refusal(db, job_id, _NOT_POSSIBLE)
        return jobs_of([row], db, self.jobs_folder)[0]

    def _existing(self, job_id: str) -> Job:
        job = self.get(job_id)
        if job is None:
            raise KeyError(job_id)
        return job


def _check_room(db: sqlite3.Connection, owner: str, more: int) -> None:
    (waiting,) = db.execute(
        "SELECT count(*) FROM jobs WHERE owner = ? AND state = 'queued' AND deleted IS NULL", (owner,)
    ).fetchone()
    if waiting + more > MAX_WAITING:
        raise QueueFull(waiting, more)


def _refusal(db: sqlite3.Connection, job_id: str, text: Text) -> Exception:
    there = db.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return JobError(*text) if there else KeyError(job_id)
