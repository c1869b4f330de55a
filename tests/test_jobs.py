"""Supervisor and worker, as real processes: every job ends once, whatever happens to the process that runs it."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from i2v_pipeline.video import probe_video, read_report
from studio.jobs.store import JobStore
from studio.jobs.supervisor import Supervisor
from tests.test_store import REQUEST

CAT = Path(__file__).parent.parent / "examples" / "cat.jpg"
SHORT = replace(REQUEST, images=(CAT,), width=160, height=120, frames=8, fps=8)
LONG = replace(SHORT, width=640, height=480, frames=600)
WAIT_S = 60.0


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path / "data with spaces")


@pytest.fixture
def supervisor(store):
    with Supervisor(store) as running:
        yield running


def wait_for(condition, what):
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {WAIT_S:.0f} s in vain for: {what}")


def ended(store, job):
    return wait_for(lambda: (now := store.get(job.id)).over and now, f"the end of job {job.id}")


def rendering(store, job):
    """The job, once its frames are being made."""

    def is_rendering():
        now = store.get(job.id)
        assert not now.over, now.message
        return now.progress and now.progress.stage == "decode" and now.progress.step > 0 and now

    return wait_for(is_rendering, f"job {job.id} to render")


def worker_of(store, job):
    return store.running_jobs()[job.id]


def test_a_job_becomes_a_video_and_a_report_that_stands_inside_it_too(store, supervisor):
    job = ended(store, store.submit(SHORT, "me"))
    assert job.state == "done", job.message
    report = json.loads(job.report_path.read_text(encoding="utf-8"))
    assert report == read_report(job.video_path)
    assert report["job"] == job.id
    assert report["output_path"] == f"jobs/{job.id}/video.mp4"
    assert probe_video(job.video_path).frames == 8
    names = sorted(path.name for path in job.folder.iterdir())
    assert names == ["first_frame.png", "input.jpg", "poster.jpg", "report.json", "video.mp4"]


def test_a_killed_worker_s_job_is_told_as_interrupted_and_the_next_one_runs(store, supervisor):
    killed, following = store.submit(LONG, "me"), store.submit(SHORT, "me")
    rendering(store, killed)
    os.kill(worker_of(store, killed), signal.SIGKILL)
    told = ended(store, killed)
    assert told.state == "interrupted"
    assert told.message is not None
    assert [path.name for path in told.folder.iterdir()] == ["input.jpg"]
    assert ended(store, following).state == "done"


def test_a_cancelled_job_ends_within_a_second_and_leaves_only_its_picture(store, supervisor):
    job = store.submit(LONG, "me")
    rendering(store, job)
    asked = time.monotonic()
    store.cancel(job.id)
    assert ended(store, job).state == "cancelled"
    assert time.monotonic() - asked < 1.0
    assert [path.name for path in job.folder.iterdir()] == ["input.jpg"]


def test_a_running_job_shows_its_stage_its_step_and_a_preview(store, supervisor):
    job = store.submit(LONG, "me")
    rendering(store, job)
    seen = wait_for(lambda: (now := store.get(job.id)).progress.previews > 0 and now, "a preview")
    assert seen.progress.steps == LONG.frames
    assert seen.preview_path.read_bytes().startswith(b"\xff\xd8")
    store.cancel(job.id)


def test_a_picture_that_cannot_be_read_fails_with_its_sentence(store, supervisor, tmp_path):
    text = tmp_path / "note.png"
    text.write_text("this is no picture")
    job = ended(store, store.submit(replace(SHORT, images=(text,)), "me"))
    assert job.state == "failed"
    assert str(tmp_path) not in job.message.en + job.message.zh


def test_a_fault_of_ours_is_one_plain_sentence_and_the_next_job_runs(store, supervisor):
    blocker, spoiled = store.submit(LONG, "me"), store.submit(SHORT, "me")
    (spoiled.folder / "report.json").mkdir()
    store.cancel(blocker.id)
    told = ended(store, spoiled)
    assert told.state == "failed"
    assert "log" in told.message.en
    assert "Error" not in told.message.en
    assert ended(store, store.submit(SHORT, "me")).state == "done"


def test_stopping_the_studio_tells_the_running_job_and_keeps_the_waiting_one(store):
    with Supervisor(store):
        running, waiting = store.submit(LONG, "me"), store.submit(SHORT, "me")
        rendering(store, running)
        worker = worker_of(store, running)
    assert store.get(running.id).state == "interrupted"
    assert store.get(waiting.id).state == "queued"
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    with Supervisor(store):
        assert ended(store, waiting).state == "done"
