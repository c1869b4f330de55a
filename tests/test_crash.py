"""The crash program in its short form: workers and pages are killed at random moments, and nothing is lost by it."""

import json
import os
import threading

import pytest

from bench import crash
from i2v_pipeline.pipeline import EngineCache
from studio.jobs.store import JobStore
from studio.jobs.worker import run_job


@pytest.mark.slow
@pytest.mark.diffusion
def test_ten_kills_at_random_moments_lose_no_job_and_change_no_frame(tmp_path):
    recipes = crash.camera_recipes() | crash.diffusion_recipes(tmp_path, steps=40)
    few = {name: recipes[name] for name in ("camera dolly", "wan2.2-ti2v-5b")}
    (tmp_path / "data").mkdir()
    studio = crash.Studio(tmp_path / "data")
    try:
        studio.start()
        found = crash.crash(studio, few, kills=10, seed=3)
    finally:
        studio.close()
    assert found["faults"] == []
    assert sum(found["kills"].values()) == 10
    assert found["jobs"] >= crash.WAITING


def test_the_figures_of_the_long_form_stand_in_the_results_without_a_fault():
    figures = json.loads(crash.RESULT_PATH.read_text(encoding="utf-8"))
    assert figures["faults"] == []
    assert sum(figures["kills"].values()) >= 200
    assert figures["resumed_within_denoising"] > 0


def test_the_check_sees_a_job_that_is_not_done_a_file_that_is_missing_and_frames_that_differ(tmp_path):
    """What finds no fault must be able to find one."""
    store = JobStore(tmp_path)
    job = store.submit(crash.camera_recipes()["camera dolly"], crash.OWNERS[0])
    store.claim(os.getpid())
    assert "is running" in crash.faults_of(store.get(job.id), "any")[0]
    run_job(store, job, store.lease_of(job.id), EngineCache(), threading.Event())
    done = store.get(job.id)
    sha256 = crash.report_of(done)["output"]["frames_sha256"]
    assert crash.faults_of(done, sha256) == []
    assert "other frames" in crash.faults_of(done, "another")[0]
    job.poster_path.unlink()
    assert "holds" in crash.faults_of(done, sha256)[0]
