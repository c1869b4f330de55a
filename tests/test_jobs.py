"""Supervisor and worker, as real processes: every job ends once, whatever happens to the process that runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from i2v_pipeline.video import probe_video, read_report
from studio.jobs.leases import BEAT_EVERY_S, STOPPED
from studio.jobs.store import JobStore
from studio.jobs.supervisor import WORKER_DIED, Supervisor, is_worker
from studio.jobs.types import FOLDER_GONE
from tests.test_store import REQUEST

ROOT = Path(__file__).resolve().parents[1]
CAT = ROOT / "examples" / "cat.jpg"
SHORT = replace(REQUEST, images=(CAT,), width=160, height=120, frames=8, fps=8)
LONG = replace(SHORT, width=1920, height=1440, frames=600)
"""Takes minutes, so that it never ends by itself while a test looks at it."""
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
    """The process number of the worker that runs the job now, None where none does."""
    lease = store.lease_of(job.id)
    return lease and lease.worker


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


def test_a_killed_worker_s_job_goes_on_by_itself_and_is_told_why_it_waited(store, supervisor):
    job = store.submit(LONG, "me")
    rendering(store, job)
    first = worker_of(store, job)
    os.kill(first, signal.SIGKILL)
    again = wait_for(lambda: worker_of(store, job) not in (None, first) and store.get(job.id), "another worker")
    assert (again.attempts, again.message) == (1, WORKER_DIED)
    rendering(store, job)
    store.cancel(job.id)
    assert ended(store, job).state == "cancelled"
    assert [path.name for path in job.folder.iterdir()] == ["input.jpg"]


def test_a_job_that_kills_its_worker_each_time_is_given_up_and_the_next_one_runs(store, supervisor):
    deadly, following = store.submit(LONG, "me"), store.submit(SHORT, "me")
    killed = {None}
    for _ in range(3):
        worker = wait_for(lambda: worker_of(store, deadly) not in killed and worker_of(store, deadly), "a new worker")
        rendering(store, deadly)
        os.kill(worker, signal.SIGKILL)
        killed.add(worker)
    told = ended(store, deadly)
    assert told.state == "failed"
    assert "ended 3 times" in told.message.en
    assert ended(store, following).state == "done"


def test_a_worker_that_hangs_loses_its_job_and_its_life(store, monkeypatch):
    monkeypatch.setattr("studio.jobs.supervisor.SILENCE_S", 2 * BEAT_EVERY_S)
    with Supervisor(store):
        job = store.submit(LONG, "me")
        rendering(store, job)
        hanging = worker_of(store, job)
        os.kill(hanging, signal.SIGSTOP)
        wait_for(lambda: worker_of(store, job) not in (None, hanging), "another worker")
        wait_for(lambda: not psutil.pid_exists(hanging), "the end of the worker that hangs")
        store.cancel(job.id)
        assert ended(store, job).state == "cancelled"


def test_a_worker_whose_studio_is_gone_gives_its_job_back(store, tmp_path):
    """The worker's parent is a shell that is killed, as a studio is by `kill -9`."""
    job = store.submit(LONG, "me")
    shell = subprocess.Popen(
        ["/bin/sh", "-c", f'"{sys.executable}" -m studio.jobs.worker "{store.data}"; true'], cwd=ROOT
    )
    rendering(store, job)
    worker = worker_of(store, job)
    shell.kill()
    shell.wait()
    back = wait_for(lambda: (now := store.get(job.id)).state == "queued" and now, "the job to wait again")
    assert (back.attempts, back.message) == (0, STOPPED)
    wait_for(lambda: not is_worker(worker, store.data), "the end of the worker")


def test_a_machine_that_can_start_no_process_for_a_while_only_delays_the_jobs(store, monkeypatch):
    start, refused = subprocess.Popen, []

    def refuse_once(*arguments, **named):
        if not refused:
            refused.append(1)
            raise BlockingIOError("no more processes")
        return start(*arguments, **named)

    monkeypatch.setattr(subprocess, "Popen", refuse_once)
    with Supervisor(store):
        assert ended(store, store.submit(SHORT, "me")).state == "done"
    assert refused


def test_two_workers_never_run_the_same_job(store):
    with Supervisor(store, workers=2):
        one, other = store.submit(LONG, "me"), store.submit(LONG, "me")
        rendering(store, one)
        rendering(store, other)
        assert worker_of(store, one) != worker_of(store, other)
        for job in (one, other):
            store.cancel(job.id)
            ended(store, job)


def test_a_running_job_is_paused_and_goes_on_when_it_is_released(store, supervisor):
    job, other = store.submit(LONG, "me"), store.submit(SHORT, "me")
    rendering(store, job)
    store.hold(job.id)
    assert ended(store, other).state == "done"
    paused = store.get(job.id)
    assert (paused.state, paused.held, paused.attempts) == ("queued", True, 0)
    store.release(job.id)
    rendering(store, job)
    store.cancel(job.id)
    ended(store, job)


def test_a_cancelled_job_ends_in_the_middle_and_leaves_only_its_picture(store, supervisor):
    job = store.submit(LONG, "me")
    rendering(store, job)
    store.cancel(job.id)
    cancelled = ended(store, job)
    assert cancelled.state == "cancelled"
    assert cancelled.progress.step < LONG.frames
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
    (spoiled.folder / "preview.tmp").mkdir()
    store.cancel(blocker.id)
    told = ended(store, spoiled)
    assert told.state == "failed"
    assert "log" in told.message.en
    assert "Error" not in told.message.en
    assert ended(store, store.submit(SHORT, "me")).state == "done"


def test_a_folder_that_was_removed_is_told_and_the_next_job_runs(store, supervisor):
    running, waiting, following = (store.submit(request, "me") for request in (LONG, SHORT, SHORT))
    rendering(store, running)
    for job in (waiting, running):
        shutil.rmtree(job.folder)
    for job in (running, waiting):
        told = ended(store, job)
        assert (told.state, told.message) == ("failed", FOLDER_GONE)
    assert ended(store, following).state == "done"


def test_stopping_the_studio_puts_the_running_job_back_and_the_next_start_goes_on_with_it_first(store):
    with Supervisor(store):
        running, waiting = store.submit(LONG, "me"), store.submit(SHORT, "me")
        rendering(store, running)
        worker = worker_of(store, running)
    back = store.get(running.id)
    assert (back.state, back.message, back.attempts) == ("queued", STOPPED, 0)
    assert [path.name for path in back.folder.iterdir()] == ["input.jpg"]
    assert store.get(waiting.id).state == "queued"
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    with Supervisor(store):
        rendering(store, running)
        store.cancel(running.id)
        assert ended(store, waiting).state == "done"
