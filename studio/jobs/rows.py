"""Rows of the job list as values, and the order in which the waiting ones are taken. Opens and changes nothing."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from pydantic import TypeAdapter

from i2v_pipeline.types import GenerationRequest, Text
from studio.jobs.folders import with_paths
from studio.jobs.types import Job, JobProgress

REQUEST = TypeAdapter(GenerationRequest)
PROGRESS = TypeAdapter(JobProgress)

_ORDER = """
WITH waiting AS (
    SELECT id, owner, place, started IS NOT NULL AS begun,
        row_number() OVER (PARTITION BY owner, started IS NOT NULL ORDER BY place, id) AS nth,
        min(place) OVER (PARTITION BY owner) AS first_place
    FROM jobs WHERE state = 'queued' AND held = 0 AND deleted IS NULL
)
SELECT id FROM waiting LEFT JOIN turns USING (owner)
ORDER BY begun DESC, nth, coalesce(turn, 0), first_place, id
"""


def order_of(db: sqlite3.Connection) -> list[str]:
    """The ids of the waiting jobs in the order in which they are taken.

    A job that was begun and put back comes first. Then the owners take turns, the one whose last turn is longest ago
    first, and within an owner the jobs follow their places.
    """
    return [row["id"] for row in db.execute(_ORDER)]


def text_as_json(text: Text | None) -> str | None:
    return None if text is None else json.dumps(text._asdict(), ensure_ascii=False)


def jobs_of(rows: list[sqlite3.Row], db: sqlite3.Connection, jobs_folder: Path) -> list[Job]:
    """The jobs of these rows, with what is ahead of the waiting ones."""
    ahead: dict[str, int] = {}
    if any(row["state"] == "queued" for row in rows):
        (running,) = db.execute("SELECT count(*) FROM jobs WHERE state = 'running'").fetchone()
        ahead = {job_id: running + index for index, job_id in enumerate(order_of(db))}
    return [_job_of(row, jobs_folder / row["id"], ahead.get(row["id"], 0)) for row in rows]


def _job_of(row: sqlite3.Row, folder: Path, ahead: int) -> Job:
    return Job(
        id=row["id"],
        owner=row["owner"],
        state=row["state"],
        request=with_paths(REQUEST.validate_json(row["request"]), folder),
        folder=folder,
        created=row["created"],
        started=row["started"],
        finished=row["finished"],
        cancel_asked=bool(row["cancel"]),
        progress=PROGRESS.validate_json(row["progress"]) if row["progress"] else None,
        message=Text(**json.loads(row["message"])) if row["message"] else None,
        version=row["version"],
        ahead=ahead,
        place=row["place"],
        held=bool(row["held"]),
        attempts=row["attempts"],
        favourite=bool(row["favourite"]),
        deleted=row["deleted"],
    )
