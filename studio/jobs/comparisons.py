"""Comparisons in the job list: which jobs are the cells of which grid. Knows no engine and decides no value.

The cells are jobs like all others. What happens to one happens in the job store; a comparison only names them.
"""

from __future__ import annotations

import functools
import json
import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import TypeAdapter

from i2v_pipeline.types import GenerationRequest
from studio.jobs.rows import jobs_of
from studio.jobs.store import JobStore
from studio.jobs.types import Job

AxisField = Literal["seed", "steps", "guidance", "flow_shift", "engine", "preset", "prompt", "lora_weight"]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One thing that differs, and its values as they are read by people, in their order."""

    field: AxisField
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A comparison before it is started. `requests` stand row by row: one for each value of `x`, then the next of `y`.

    `order` are their places in the order in which they shall run. `final` is what a draft becomes once it was chosen:
    complete but for its pictures and its seed, which are the draft's; None where the cells are no drafts.
    """

    x: Axis
    y: Axis | None
    requests: tuple[GenerationRequest, ...]
    order: tuple[int, ...]
    final: GenerationRequest | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison that was started: `jobs` are the ids of its cells, row by row.

    `finals` has, by the id of a draft, that of the job which was made of it.
    """

    id: str
    owner: str
    created: float
    x: Axis
    y: Axis | None
    jobs: tuple[str, ...]
    final: GenerationRequest | None
    finals: Mapping[str, str]

    @property
    def columns(self) -> int:
        return len(self.x.values)

    @property
    def rows(self) -> int:
        return 1 if self.y is None else len(self.y.values)


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    x: Axis
    y: Axis | None
    jobs: tuple[str, ...]
    final: GenerationRequest | None


_RECIPE = TypeAdapter(_Recipe)


class Comparisons:
    """The comparisons in the job list of `store`. Raises `DataError` as the store does."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._database = store.database

    def submit(self, sketch: Sketch, owner: str) -> Comparison:
        """Queues a job for each cell and keeps the comparison, all or nothing. Raises `QueueFull`."""
        comparison_id = time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(4)

        def keep(db: sqlite3.Connection, ids: Sequence[str]) -> None:
            by_cell = dict(zip(sketch.order, ids, strict=True))
            final = sketch.final and replace(sketch.final, images=(), last_image=None)
            jobs = tuple(by_cell[cell] for cell in range(len(sketch.requests)))
            recipe = _Recipe(x=sketch.x, y=sketch.y, jobs=jobs, final=final)
            db.execute(
                "INSERT INTO comparisons (id, owner, created, recipe) VALUES (?, ?, ?, ?)",
                (comparison_id, owner, time.time(), _RECIPE.dump_json(recipe).decode()),
            )

        self._store.submit_many([sketch.requests[cell] for cell in sketch.order], owner, beside=keep)
        return self._existing(comparison_id)

    def get(self, comparison_id: str, owner: str) -> Comparison | None:
        """The comparison with that id, if there is one and it is the owner's."""
        with self._database.read() as db:
            row = db.execute("SELECT * FROM comparisons WHERE id = ? AND owner = ?", (comparison_id, owner)).fetchone()
        return None if row is None else _comparison_of(row)

    def newest(self, owner: str, *, limit: int = 60) -> list[Comparison]:
        """The owner's comparisons, newest first."""
        with self._database.read() as db:
            rows = db.execute(
                "SELECT * FROM comparisons WHERE owner = ? ORDER BY created DESC, id DESC LIMIT ?", (owner, limit)
            ).fetchall()
        return [_comparison_of(row) for row in rows]

    def cells(self, comparison: Comparison) -> list[Job | None]:
        """The job of each cell, row by row; None for one that was deleted."""
        return self.jobs(comparison.jobs, comparison.owner)

    def jobs(self, ids: Sequence[str], owner: str) -> list[Job | None]:
        """The owner's jobs with these ids, None for one that was deleted."""
        marks = ", ".join("?" * len(ids))
        with self._database.read() as db:
            rows = db.execute(
                f"SELECT * FROM jobs WHERE id IN ({marks}) AND owner = ? AND deleted IS NULL", (*ids, owner)
            ).fetchall()
            found = {job.id: job for job in jobs_of(rows, db, self._store.jobs_folder)}
        return [found.get(job_id) for job_id in ids]

    def make_final(self, comparison: Comparison, draft: Job) -> Job:
        """Queues the final of this draft and notes whose it is; the one that is there already where it still is.

        Raises `QueueFull`.
        """
        assert comparison.final is not None
        (before,) = self.jobs([comparison.finals.get(draft.id, "")], comparison.owner)
        if before is not None:
            return before
        request = replace(
            comparison.final,
            images=draft.request.images,
            last_image=draft.request.last_image,
            seed=draft.request.seed,
        )

        def note(db: sqlite3.Connection, ids: Sequence[str]) -> None:
            row = db.execute("SELECT finals FROM comparisons WHERE id = ?", (comparison.id,)).fetchone()
            finals = {**json.loads(row["finals"]), draft.id: ids[0]}
            db.execute("UPDATE comparisons SET finals = ? WHERE id = ?", (json.dumps(finals), comparison.id))

        return self._store.submit_many([request], comparison.owner, beside=note)[0]

    def forget(self, comparison: Comparison) -> None:
        """Takes the comparison out of the list; its jobs stay."""
        with self._database.write() as db:
            db.execute("DELETE FROM comparisons WHERE id = ?", (comparison.id,))

    def _existing(self, comparison_id: str) -> Comparison:
        with self._database.read() as db:
            return _comparison_of(db.execute("SELECT * FROM comparisons WHERE id = ?", (comparison_id,)).fetchone())


def _comparison_of(row: sqlite3.Row) -> Comparison:
    return _parsed(*(row[name] for name in ("id", "owner", "created", "recipe", "finals")))


@functools.lru_cache(maxsize=1024)
def _parsed(comparison_id: str, owner: str, created: float, recipe_json: str, finals: str) -> Comparison:
    """Parsed once for each state of the row: every open page asks for its list again and again."""
    recipe = _RECIPE.validate_json(recipe_json)
    return Comparison(
        id=comparison_id,
        owner=owner,
        created=created,
        x=recipe.x,
        y=recipe.y,
        jobs=recipe.jobs,
        final=recipe.final,
        finals=json.loads(finals),
    )
