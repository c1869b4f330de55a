"""A worker's right to a job: what becomes of the job when the worker dies, is stopped, or comes back too late."""

from dataclasses import replace

import pytest

from i2v_pipeline.types import Text
from studio.jobs.store import JobStore
from studio.jobs.types import JobError, JobProgress
from tests.test_store import REQUEST

BACK = Text("died", "已退出")


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path / "data")


@pytest.fixture
def request_with_picture(tmp_path):
    picture = tmp_path / "cat.PNG"
    picture.write_bytes(b"bytes of a picture")
    return replace(REQUEST, images=(picture,))


def test_a_running_job_that_is_held_goes_back_and_stays_there(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    store.claim(1)
    lease = store.lease_of(job.id)
    store.hold(job.id)
    assert store.wish_for(lease) == "pause"
    store.put_back(lease, BACK, died=False)
    assert store.claim(1) is None
    store.release(job.id)
    assert store.claim(1).id == job.id
    store.finish(job.id, "done")
    with pytest.raises(JobError):
        store.hold(job.id)


def test_a_job_that_is_put_back_keeps_its_picture_and_its_state_and_nothing_half_made(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    store.claim(1)
    (job.folder / "half").mkdir()
    (job.folder / "half" / "video.mp4").write_bytes(b"half")
    (job.folder / "preview.jpg").write_bytes(b"old")
    (job.folder / "state.safetensors").write_bytes(b"state")
    assert store.put_back(store.lease_of(job.id), BACK, died=False)
    back = store.get(job.id)
    assert (back.state, back.message, back.attempts) == ("queued", BACK, 0)
    assert sorted(path.name for path in back.folder.iterdir()) == ["input.png", "state.safetensors"]


def test_a_job_that_is_put_back_is_the_next_one_taken(store, request_with_picture):
    first, _ = store.submit(request_with_picture, "me"), store.submit(request_with_picture, "you")
    store.claim(1)
    store.put_back(store.lease_of(first.id), BACK, died=False)
    assert store.get(first.id).ahead == 0
    assert store.claim(1).id == first.id


def test_a_job_under_which_three_workers_died_at_the_same_place_is_told_as_failed(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    (job.folder / "state.safetensors").write_bytes(b"state")
    for saved_step in (0, 4, 4, 4):
        store.claim(1)
        store.set_progress(job.id, JobProgress(stage="denoise", step=5, steps=9, saved_step=saved_step))
        assert store.get(job.id).state == "running"
        store.put_back(store.lease_of(job.id), BACK, died=True)
    failed = store.get(job.id)
    assert failed.state == "failed"
    assert "3 times" in failed.message.en
    assert (failed.folder / "state.safetensors").exists()


def test_a_job_that_gets_further_each_time_is_never_given_up(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    for saved_step in range(1, 9):
        store.claim(1)
        store.set_progress(job.id, JobProgress(stage="denoise", step=9, steps=9, saved_step=saved_step))
        store.put_back(store.lease_of(job.id), BACK, died=True)
        assert (store.get(job.id).state, store.get(job.id).attempts) == ("queued", 1)


def test_a_stopped_studio_is_no_attempt(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    for _ in range(5):
        store.claim(1)
        store.put_back(store.lease_of(job.id), BACK, died=False)
    assert (store.get(job.id).state, store.get(job.id).attempts) == ("queued", 0)


def test_a_job_that_was_to_be_cancelled_when_its_worker_died_is_cancelled(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    store.claim(1)
    (job.folder / "state.safetensors").write_bytes(b"state")
    store.cancel(job.id)
    store.put_back(store.lease_of(job.id), BACK, died=True)
    assert store.get(job.id).state == "cancelled"
    assert [path.name for path in job.folder.iterdir()] == ["input.png"]


def test_a_worker_that_lost_its_lease_changes_nothing_any_more(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    store.claim(1)
    lost = store.lease_of(job.id)
    assert store.renew(lost)
    store.put_back(lost, BACK, died=True)
    store.claim(2)
    before = store.get(job.id)
    made = job.folder / "made"
    made.mkdir()
    (made / "video.mp4").write_bytes(b"too late")
    assert not store.renew(lost)
    assert store.wish_for(lost) == "pause"
    assert not store.deliver(lost, made)
    assert not store.finish(job.id, "done", lease=lost)
    assert not store.put_back(lost, BACK, died=True)
    store.set_progress(job.id, JobProgress(stage="decode", step=3, steps=24), lost)
    assert store.get(job.id) == before
    assert not before.video_path.exists()


def test_results_are_delivered_together_with_the_end_of_the_job(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    store.claim(1)
    made = job.folder / "made"
    made.mkdir()
    (made / "video.mp4").write_bytes(b"video")
    assert store.deliver(store.lease_of(job.id), made)
    assert store.get(job.id).state == "done"
    assert sorted(path.name for path in job.folder.iterdir()) == ["input.png", "video.mp4"]


def test_results_that_cannot_be_moved_end_nothing(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    store.claim(1)
    with pytest.raises(FileNotFoundError):
        store.deliver(store.lease_of(job.id), job.folder / "gone")
    assert store.get(job.id).state == "running"
