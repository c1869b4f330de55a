"""What the data folder does to the jobs when it is full, locked, damaged, read-only: a sentence, and nothing lost."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from i2v_pipeline.pipeline import EngineCache
from i2v_pipeline.types import Text
from studio.jobs import database, worker
from studio.jobs.database import DataError
from studio.jobs.erasing import purge
from studio.jobs.store import JobStore
from studio.jobs.types import JobError
from tests.test_store import REQUEST

ROOT = Path(__file__).resolve().parents[1]
CAT = ROOT / "examples" / "cat.jpg"
SHORT = replace(REQUEST, images=(CAT,), width=160, height=120, frames=8, fps=8)
PATIENCE_S = 60.0


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path / "data")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def list_of(store):
    return store.data / database.NAME


def claimed(store, request=SHORT):
    job = store.submit(request, "me")
    store.claim(os.getpid())
    return job, store.lease_of(job.id)


def run_here(store, job, lease, stop=None):
    worker.run_job(store, job, lease, EngineCache(), stop or threading.Event())


# --- locked -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(database, "LOCK_WAIT_S", 0.05)
    monkeypatch.setattr(worker, "RETRY_EVERY_S", 0.05)


def test_a_list_that_another_program_holds_is_told_and_nothing_is_left_behind(store, impatient):
    with closing(sqlite3.connect(list_of(store), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DataError, match="Another program"):
            store.submit(SHORT, "me")
        assert list(store.jobs_folder.iterdir()) == []
        assert store.list("me") == []
    assert store.submit(SHORT, "me").state == "queued"


def test_a_video_that_was_made_while_the_list_was_held_is_delivered_when_it_is_free(store, impatient, caplog):
    job, lease = claimed(store)
    with closing(sqlite3.connect(list_of(store), isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        running = threading.Thread(target=run_here, args=(store, job, lease))
        running.start()
        deadline = time.monotonic() + PATIENCE_S
        while "cannot be written yet" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "cannot be written yet" in caplog.text
        assert store.get(job.id).state == "running"
        assert not job.video_path.exists()
        other.execute("ROLLBACK")
    running.join(PATIENCE_S)
    assert store.get(job.id).state == "done"
    assert job.video_path.exists()


# --- full -------------------------------------------------------------------------------------------------------------

FULL_DISK = """
import resource, signal, sys
from dataclasses import replace
from pathlib import Path
from tests.test_trouble import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = JobStore(Path(sys.argv[1]))
"""
"""A file that may not grow beyond a limit fails as one on a full disk does, in ffmpeg and in SQLite too."""


def on_a_full_disk(data, program):
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK + program, str(data)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_picture_that_does_not_fit_on_the_disk_is_told_and_no_job_is_made(store):
    told = on_a_full_disk(
        store.data,
        """
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    store.submit(SHORT, "me")
except DataError as error:
    print(error)
""",
    )
    assert "full" in told
    assert store.list("me") == []
    assert list(store.jobs_folder.iterdir()) == []


@pytest.mark.parametrize("limit_bytes", [3_000, 35_000])
def test_a_video_that_does_not_fit_is_told_and_the_job_can_be_tried_again(store, limit_bytes):
    job = store.submit(SHORT, "me")
    on_a_full_disk(
        store.data,
        f"""
job = store.claim(os.getpid())
lease = store.lease_of(job.id)
store.set_progress = lambda *_: None
finish = store.finish
def room_again(*arguments, **named):
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return finish(*arguments, **named)
store.finish = room_again
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, resource.RLIM_INFINITY))
run_here(store, job, lease)
""",
    )
    failed = store.get(job.id)
    assert failed.state == "failed"
    assert "disk is full" in failed.message.en or "disk with the data folder is full" in failed.message.en
    assert [path.name for path in job.folder.iterdir()] == ["input.jpg"]
    store.requeue(job.id)
    store.claim(os.getpid())
    run_here(store, job, store.lease_of(job.id))
    assert store.get(job.id).state == "done"


# --- damaged, read-only, gone -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 4096])
def test_a_damaged_list_is_refused_and_neither_it_nor_a_video_is_touched(store, place):
    job, lease = claimed(store)
    run_here(store, job, lease)
    with closing(sqlite3.connect(list_of(store))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(list_of(store).read_bytes())
    content[place : place + 400] = b"x" * 400
    list_of(store).write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        JobStore(store.data)
    assert list_of(store).read_bytes() == content
    assert job.video_path.exists()


def test_a_data_folder_that_cannot_be_written_is_told(tmp_path):
    """A file stands where the folder should be: that holds for root too, whom permissions do not stop."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / database.NAME).mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        JobStore(tmp_path / "data")


def test_a_data_folder_that_is_no_folder_ends_the_start_with_a_sentence(tmp_path):
    (tmp_path / "data").write_text("a file")
    ended = subprocess.run(
        [sys.executable, str(ROOT / "app.py"), "serve", "--port", str(free_port()), "--data", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "The data folder cannot be written to" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_list_that_may_only_be_read_is_told(store, monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(
        database.sqlite3, "connect", lambda path, **named: connect(f"file:{path}?mode=ro", uri=True, **named)
    )
    with pytest.raises(DataError, match="cannot be written"):
        store.submit(SHORT, "me")
    assert list(store.jobs_folder.iterdir()) == []


def test_a_waiting_job_whose_folder_was_removed_says_so_whatever_is_asked(store):
    job = store.submit(SHORT, "me")
    shutil.rmtree(job.folder)
    with pytest.raises(JobError, match="was removed"):
        store.edit(job.id, SHORT)
    store.hold(job.id)
    store.release(job.id)
    assert store.cancel(job.id).state == "cancelled"
    store.delete(job.id)
    assert purge(store, time.time() + 1) == 0
    assert store.get(job.id) is None


def test_a_job_is_done_only_when_its_files_stand_in_its_folder_on_the_disk(store, monkeypatch):
    """Everything is made apart and synced, and the row and the names change together."""
    synced, job, lease = [], *claimed(store)
    fsync = os.fsync

    def note(handle):
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    seen = []
    deliver = JobStore.deliver

    def look(store, lease, made):
        seen.append(sorted(path.name for path in made.iterdir()))
        assert not job.video_path.exists()
        return deliver(store, lease, made)

    monkeypatch.setattr(JobStore, "deliver", look)
    run_here(store, job, lease)
    assert seen == [["first_frame.png", "poster.jpg", "report.json", "video.mp4"]]
    names = [path.removeprefix(str(job.folder)) for path in synced]
    for name in seen[0]:
        assert any(path.endswith(name) for path in names)
    assert names[-1] == ""
    assert store.get(job.id).state == "done"


def test_a_worker_that_lost_its_job_while_it_wrote_the_video_changes_nothing(store):
    """It was taken for dead; another one has the job now."""
    job, lost = claimed(store)
    store.put_back(lost, Text("died", "已退出"), died=True)
    store.claim(os.getpid())
    current = store.lease_of(job.id)
    run_here(store, job, lost)
    assert store.lease_of(job.id) == current
    assert [path.name for path in job.folder.iterdir()] == ["input.jpg"]
    run_here(store, job, current)
    assert store.get(job.id).state == "done"
