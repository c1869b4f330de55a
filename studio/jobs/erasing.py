"""Jobs taken off the disk for good, row and folder. Takes none that was not deleted before."""

from __future__ import annotations

import shutil
import time

from studio.jobs import folders
from studio.jobs.database import told
from studio.jobs.store import JobStore

ORPHAN_AFTER_S = 3600.0
"""A folder without a row is one that a crash left while a job was being submitted, once it is as old as this."""


def erase(store: JobStore, job_id: str) -> bool:
    """Removes a deleted job for good, with its folder; False for one that still runs or is not deleted."""
    with told(), store.database.write() as db:
        gone = db.execute(
            "DELETE FROM jobs WHERE id = ? AND deleted IS NOT NULL AND state != 'running'", (job_id,)
        ).rowcount
        if gone:
            folder = store.jobs_folder / job_id
            shutil.rmtree(folder, ignore_errors=not folder.exists())
    return bool(gone)


def purge(store: JobStore, deleted_before: float) -> int:
    """Removes for good the jobs that were deleted before that time, and folders that belong to no job.

    Returns how many bytes that freed.
    """
    with store.database.read() as db:
        rows = db.execute("SELECT id FROM jobs WHERE deleted < ? AND state != 'running'", (deleted_before,)).fetchall()
        known = {row["id"] for row in db.execute("SELECT id FROM jobs")}
    gone = [row["id"] for row in rows]
    for folder in store.jobs_folder.iterdir():
        if folder.is_dir() and folder.name not in known and folder.stat().st_mtime < time.time() - ORPHAN_AFTER_S:
            gone.append(folder.name)
    freed = 0
    for job_id in gone:
        folder = store.jobs_folder / job_id
        freed += folders.bytes_of(folder)
        if folder.exists():
            with told():
                shutil.rmtree(folder)
        with store.database.write() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
    return freed
