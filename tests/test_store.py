"""The job store: a job is accepted whole, taken once, and ended once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from i2v_pipeline.types import AddedElement, GenerationRequest, Motion, PromptOrigin, Text
from studio.jobs.store import JobProgress, JobStore

REQUEST = GenerationRequest(
    engine="camera",
    images=(),
    prompt="镜头慢慢推近",
    origin=PromptOrigin(
        typed="慢慢推近",
        refined="镜头慢慢推近",
        source="offline",
        added_elements=(AddedElement(element="镜头", kind="camera", why="canonical"),),
    ),
    motion=Motion(camera=("zoom_in",), requested=True, speed="slow_motion"),
    resolution="512p",
    width=512,
    height=512,
    fit="crop",
    frames=24,
    fps=24,
    seed=7,
)


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path / "data")


@pytest.fixture
def request_with_picture(tmp_path):
    picture = tmp_path / "给猫拍照.PNG"
    picture.write_bytes(b"bytes of a picture")
    return replace(REQUEST, images=(picture,))


def test_a_job_keeps_its_own_copy_of_the_picture_and_the_whole_request(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    request_with_picture.images[0].unlink()
    kept = store.get(job.id)
    assert kept == job
    assert kept.request == replace(request_with_picture, images=(job.folder / "input.png",))
    assert kept.request.images[0].read_bytes() == b"bytes of a picture"


def test_a_job_whose_picture_cannot_be_copied_leaves_nothing(store, tmp_path):
    with pytest.raises(FileNotFoundError):
        store.submit(replace(REQUEST, images=(tmp_path / "gone.png",)), "me")
    assert store.list("me") == []
    assert list(store.jobs_folder.iterdir()) == []


def test_jobs_survive_a_new_store_on_the_same_folder(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    assert JobStore(store.data).get(job.id) == job


def test_the_oldest_job_is_taken_first_and_each_only_once(store, request_with_picture):
    jobs = [store.submit(request_with_picture, "me") for _ in range(40)]
    assert [store.get(job.id).ahead for job in jobs] == list(range(40))
    first = store.claim(1)
    assert first.id == jobs[0].id

    barrier = threading.Barrier(4)

    def take_all(worker):
        barrier.wait()
        taken = []
        while (job := store.claim(worker)) is not None:
            taken.append(job.id)
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [job_id for ids in pool.map(take_all, range(4)) for job_id in ids]
    assert sorted(taken) == sorted(job.id for job in jobs[1:])


def test_a_queued_job_is_cancelled_at_once_and_never_taken(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    assert store.cancel(job.id).state == "cancelled"
    assert store.claim(1) is None


def test_a_running_job_is_asked_to_stop_and_ends_when_its_worker_says_so(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    store.claim(1)
    assert not store.is_cancel_asked(job.id)
    assert store.cancel(job.id).state == "running"
    assert store.is_cancel_asked(job.id)
    assert store.finish(job.id, "cancelled")
    assert store.get(job.id).over


def test_a_job_ends_only_once(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    store.claim(1)
    (job.folder / "video.mp4").write_bytes(b"video")
    assert store.finish(job.id, "done")
    store.interrupt(job.id, Text("died", "已退出"))
    store.cancel(job.id)
    ended = store.get(job.id)
    assert ended.state == "done"
    assert ended.message is None
    assert ended.video_path.exists()


def test_an_interrupted_job_keeps_its_picture_and_nothing_half_made(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    store.claim(1)
    (job.folder / ".video.unfinished.mp4").write_bytes(b"half")
    store.interrupt(job.id, Text("died", "已退出"))
    ended = store.get(job.id)
    assert (ended.state, ended.message) == ("interrupted", Text("died", "已退出"))
    assert [path.name for path in ended.folder.iterdir()] == ["input.png"]


def test_every_change_raises_the_version_that_watchers_compare(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    versions = [job.version]
    store.claim(1)
    versions.append(store.get(job.id).version)
    store.set_progress(job.id, JobProgress(stage="decode", step=3, steps=24, seconds_left=1.5))
    versions.append(store.get(job.id).version)
    store.finish(job.id, "failed", Text("no", "不"))
    versions.append(store.get(job.id).version)
    assert versions == sorted(set(versions))


def test_progress_after_the_end_changes_nothing(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    store.claim(1)
    store.finish(job.id, "cancelled")
    before = store.get(job.id)
    store.set_progress(job.id, JobProgress(stage="decode", step=3, steps=24))
    assert store.get(job.id) == before


def test_one_owner_never_lists_the_jobs_of_another(store, request_with_picture):
    mine, yours = store.submit(request_with_picture, "me"), store.submit(request_with_picture, "you")
    assert [job.id for job in store.list("me")] == [mine.id]
    assert [job.id for job in store.list("you")] == [yours.id]


def test_an_unknown_job_is_none(store):
    assert store.get("no-such-job") is None
