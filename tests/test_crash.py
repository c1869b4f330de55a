"""The crash program in its short form: workers and pages are killed at random moments, and nothing is lost by it."""

import json

import pytest

from bench import crash


@pytest.fixture
def studio(tmp_path):
    (tmp_path / "data").mkdir()
    started = crash.Studio(tmp_path / "data")
    started.start()
    yield started
    started.close()


@pytest.mark.slow
@pytest.mark.diffusion
def test_ten_kills_at_random_moments_lose_no_job_and_change_no_frame(studio, tmp_path):
    recipes = crash.camera_recipes() | crash.diffusion_recipes(tmp_path, steps=40)
    found = crash.crash(studio, recipes, kills=10, seed=3)
    assert found["faults"] == []
    assert sum(found["kills"].values()) == 10
    assert found["jobs"] >= crash.WAITING


def test_the_figures_of_the_long_form_stand_in_the_results_without_a_fault():
    figures = json.loads(crash.RESULT_PATH.read_text(encoding="utf-8"))
    assert figures["faults"] == []
    assert sum(figures["kills"].values()) >= 200
    assert figures["resumed_within_denoising"] > 0


def test_the_check_sees_a_file_that_is_missing_and_frames_that_differ(studio):
    """What finds no fault must be able to find one."""
    recipes = crash.camera_recipes()
    expected = crash.hashes_of_whole_runs(studio, recipes)
    assert len(set(expected.values())) == len(recipes)
    job = studio.store.list(crash.OWNERS[0])[0]
    (name,) = (name for name, request in recipes.items() if request.seed == job.request.seed)
    assert crash.faults_of(job, expected[name]) == []
    assert "other frames" in crash.faults_of(job, "another")[0]
    job.poster_path.unlink()
    assert "holds" in crash.faults_of(job, expected[name])[0]
