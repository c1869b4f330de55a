"""Comparisons in the job list: started whole, found again, told apart by owner, unhurt by what becomes of a job."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from test_store import REQUEST

from studio.jobs.comparisons import Axis, Comparisons, Sketch
from studio.jobs.database import SCHEMA
from studio.jobs.erasing import erase
from studio.jobs.store import JobStore
from studio.jobs.types import MAX_WAITING, QueueFull


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "data")


@pytest.fixture
def sketch(tmp_path: Path) -> Sketch:
    """Two seeds by two prompts; the prompts' cells run together, which is not the order in which they stand."""
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"bytes of a picture")
    request = replace(REQUEST, images=(picture,))
    return Sketch(
        x=Axis(field="prompt", values=("a", "b")),
        y=Axis(field="seed", values=("1", "2")),
        requests=tuple(replace(request, prompt=text, seed=seed) for seed in (1, 2) for text in "ab"),
        order=(0, 2, 1, 3),
    )


def test_the_cells_are_jobs_that_run_in_the_sketchs_order_and_stand_row_by_row(store: JobStore, sketch: Sketch) -> None:
    comparison = Comparisons(store).submit(sketch, "me")
    cells = Comparisons(store).cells(comparison)
    assert [(cell.request.prompt, cell.request.seed) for cell in cells] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    taken = [store.claim(1).request for _ in range(4)]
    assert [(each.prompt, each.seed) for each in taken] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_a_comparison_survives_a_restart_and_is_its_owners_alone(store: JobStore, sketch: Sketch) -> None:
    comparison = Comparisons(store).submit(sketch, "me")
    again = Comparisons(JobStore(store.data))
    assert again.newest("me") == [comparison]
    assert again.get(comparison.id, "me") == comparison
    assert again.get(comparison.id, "you") is None
    assert again.newest("you") == []
    assert again.jobs(comparison.jobs, "you") == [None] * 4
    store.adopt("me", "you")
    assert [found.jobs for found in again.newest("you")] == [comparison.jobs]


def test_a_deleted_cell_is_gone_and_back_when_the_delete_is_undone(store: JobStore, sketch: Sketch) -> None:
    comparisons = Comparisons(store)
    comparison = comparisons.submit(sketch, "me")
    store.delete(comparison.jobs[1])
    assert [cell is None for cell in comparisons.cells(comparison)] == [False, True, False, False]
    store.restore(comparison.jobs[1])
    assert None not in comparisons.cells(comparison)
    store.delete(comparison.jobs[0])
    assert erase(store, comparison.jobs[0])
    assert [cell is None for cell in comparisons.cells(comparison)] == [True, False, False, False]


def test_a_comparison_that_has_no_room_in_the_queue_leaves_neither_jobs_nor_itself(
    store: JobStore, sketch: Sketch
) -> None:
    store.submit_many([sketch.requests[0]] * (MAX_WAITING - 3), "me")
    with pytest.raises(QueueFull):
        Comparisons(store).submit(sketch, "me")
    assert Comparisons(store).newest("me") == []
    assert len(list(store.jobs_folder.iterdir())) == MAX_WAITING - 3


def test_a_comparison_that_is_forgotten_leaves_its_jobs(store: JobStore, sketch: Sketch) -> None:
    comparisons = Comparisons(store)
    comparison = comparisons.submit(sketch, "me")
    comparisons.forget(comparison)
    assert comparisons.newest("me") == []
    assert len(store.unfinished("me")) == 4


def test_a_final_has_its_drafts_seed_and_picture_and_is_made_once(store: JobStore, sketch: Sketch) -> None:
    final = replace(sketch.requests[0], seed=0, width=1024, images=(Path("/gone.png"),))
    drafts = Comparisons(store).submit(replace(sketch, final=final), "me")
    comparisons = Comparisons(JobStore(store.data))
    draft = store.get(drafts.jobs[3])
    made = comparisons.make_final(drafts, draft)
    assert (made.request.seed, made.request.width, made.request.prompt) == (2, 1024, final.prompt)
    assert made.request.images[0].read_bytes() == b"bytes of a picture"
    known = comparisons.get(drafts.id, "me")
    assert known.finals == {draft.id: made.id}
    assert comparisons.make_final(known, draft) == made
    store.delete(made.id)
    assert comparisons.make_final(known, draft).id != made.id


def test_a_job_list_of_the_version_before_gets_comparisons_and_keeps_its_jobs(store: JobStore, sketch: Sketch) -> None:
    job = store.submit(sketch.requests[0], "me")
    with closing(sqlite3.connect(store.data / "studio.sqlite3")) as db, db:
        db.execute("DROP TABLE comparisons")
        db.execute("PRAGMA user_version = 2")
    again = JobStore(store.data)
    assert again.get(job.id) == job
    assert Comparisons(again).submit(sketch, "me").rows == 2
    with closing(sqlite3.connect(store.data / "studio.sqlite3")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
