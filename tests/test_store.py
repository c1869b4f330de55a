"""The job store: a job is accepted whole, taken once, and ended once."""

import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from i2v_pipeline.types import AddedElement, GenerationRequest, Motion, PromptOrigin, Text
from studio.jobs.database import DataError
from studio.jobs.erasing import purge
from studio.jobs.store import JobStore
from studio.jobs.types import MAX_WAITING, JobError, JobProgress, QueueFull

BACK = Text("died", "已退出")
TYPED = PromptOrigin(typed="", refined="", source="typed")
GONE = '{"en": "gone", "zh": "没了"}'
FIRST_SCHEMA = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, request TEXT NOT NULL, created REAL NOT NULL,
    started REAL, finished REAL, worker INTEGER, cancel INTEGER NOT NULL DEFAULT 0, progress TEXT, message TEXT,
    version INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jobs_by_state ON jobs (state, created);
CREATE INDEX jobs_by_owner ON jobs (owner, created);
"""

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


def test_owners_take_turns_and_what_is_ahead_is_told_as_it_will_be(store, request_with_picture):
    mine = store.submit_many([request_with_picture] * 4, "me")
    assert store.claim(1).id == mine[0].id
    yours, theirs = store.submit_many([request_with_picture] * 2, "you"), store.submit(request_with_picture, "them")
    expected = [yours[0], theirs, mine[1], yours[1], mine[2], mine[3]]
    assert [store.get(job.id).ahead for job in expected] == list(range(1, 7))
    taken = []
    while (job := store.claim(1)) is not None:
        taken.append(job.id)
        left = [store.get(job.id) for job in expected if job.id not in taken]
        assert [job.ahead for job in left] == list(range(len(taken) + 1, 7))
    assert taken == [job.id for job in expected]


def test_an_owner_whose_turn_is_longest_ago_comes_first_though_it_has_no_job_left_from_then(
    store, request_with_picture
):
    for owner in ("me", "you"):
        job = store.submit(request_with_picture, owner)
        store.claim(1)
        store.finish(job.id, "done")
        store.delete(job.id)
    purge(store, time.time() + 1)
    assert store.list("me") == store.list("you") == []
    late, early = store.submit(request_with_picture, "you"), store.submit(request_with_picture, "me")
    assert [store.claim(1).id, store.claim(1).id] == [early.id, late.id]


def test_moving_a_job_changes_the_order_of_its_owner_alone(store, request_with_picture):
    first, second, third = store.submit_many([request_with_picture] * 3, "me")
    other = store.submit(request_with_picture, "you")
    store.move_up(third.id)
    store.move_up(third.id)
    store.move_up(third.id)
    store.move_down(first.id)
    store.move_down(first.id)
    mine = sorted(store.list("me"), key=lambda job: job.place)
    assert [job.id for job in mine] == [third.id, second.id, first.id]
    taken = [store.claim(1).id for _ in range(4)]
    assert taken == [third.id, other.id, second.id, first.id] or taken == [other.id, third.id, second.id, first.id]
    with pytest.raises(JobError, match="no longer waiting"):
        store.move_up(first.id)


def test_a_held_job_waits_until_it_is_released(store, request_with_picture):
    first, second = store.submit_many([request_with_picture] * 2, "me")
    assert store.hold(first.id).held
    assert store.get(second.id).ahead == 0
    assert store.claim(1).id == second.id
    assert store.claim(1) is None
    assert not store.release(first.id).held
    assert store.claim(1).id == first.id


def test_a_waiting_job_is_edited_with_its_own_or_another_picture(store, request_with_picture, tmp_path):
    job = store.submit(request_with_picture, "me")
    (job.folder / "state.safetensors").write_bytes(b"of the recipe before")
    edited = store.edit(job.id, replace(job.request, prompt="镜头拉远", seed=8))
    assert edited.request == replace(job.request, prompt="镜头拉远", seed=8)
    assert (edited.place, edited.version) == (job.place, job.version + 1)
    assert [path.name for path in job.folder.iterdir()] == ["input.png"]
    other = tmp_path / "other.png"
    other.write_bytes(b"another picture")
    edited = store.edit(job.id, replace(edited.request, images=(other,), last_image=job.request.images[0]))
    assert edited.request.images[0].read_bytes() == b"another picture"
    assert edited.request.last_image.read_bytes() == b"bytes of a picture"
    assert len(list(job.folder.iterdir())) == 2


def test_a_job_that_was_taken_is_not_edited_and_keeps_its_picture(store, request_with_picture, tmp_path):
    job = store.submit(request_with_picture, "me")
    store.claim(1)
    other = tmp_path / "other.png"
    other.write_bytes(b"another picture")
    with pytest.raises(JobError, match="no longer waiting"):
        store.edit(job.id, replace(job.request, images=(other,)))
    assert store.get(job.id).request == job.request
    assert [path.name for path in job.folder.iterdir()] == ["input.png"]


def test_several_jobs_are_queued_together_or_not_at_all(store, request_with_picture, tmp_path):
    prompts = ["推近", "拉远", "左移"]
    jobs = store.submit_many([replace(request_with_picture, prompt=prompt) for prompt in prompts], "me")
    assert [job.request.prompt for job in sorted(jobs, key=lambda job: job.ahead)] == prompts
    with pytest.raises(FileNotFoundError):
        store.submit_many([request_with_picture, replace(REQUEST, images=(tmp_path / "gone.png",))], "me")
    assert len(store.list("me")) == len(list(store.jobs_folder.iterdir())) == 3


def test_an_owner_may_have_so_many_waiting_jobs_and_no_more(store, request_with_picture):
    store.submit_many([request_with_picture] * (MAX_WAITING - 1), "me")
    with pytest.raises(QueueFull, match=f"{MAX_WAITING - 1} are waiting: {MAX_WAITING} may"):
        store.submit_many([request_with_picture] * 2, "me")
    store.submit(request_with_picture, "me")
    assert len(list(store.jobs_folder.iterdir())) == MAX_WAITING
    store.submit(request_with_picture, "you")
    store.claim(1)
    store.claim(1)
    store.submit(request_with_picture, "me")


@pytest.mark.parametrize("part", ["100% sure_", "镜头", "STRASSE", "été"])
def test_the_search_finds_a_part_of_the_prompt_as_it_is_written(store, request_with_picture, part):
    texts = ["it is 100% sure_thing", "it is 100x sureXthing", "镜头推近", "Straße im ÉTÉ"]
    jobs = store.submit_many([replace(request_with_picture, prompt=text, origin=TYPED) for text in texts], "me")
    expected = [job.id for job, text in zip(jobs, texts, strict=True) if part.casefold() in text.casefold()]
    assert len(expected) == 1
    assert [job.id for job in store.list("me", search=part)] == expected


def test_the_search_looks_at_what_was_typed_too(store, request_with_picture):
    job = store.submit(replace(request_with_picture, prompt="sent", origin=replace(TYPED, typed="as typed")), "me")
    assert store.list("me", search="as typed") == [job]
    assert store.list("me", search="nowhere") == []


def test_the_list_is_filtered_and_turned_page_by_page(store, request_with_picture):
    jobs = store.submit_many([request_with_picture, replace(request_with_picture, engine="wan")] * 3, "me")
    assert [job.request.engine for job in store.list("me", engine="wan")] == ["wan"] * 3
    store.set_favourite(jobs[3].id, True)
    store.set_favourite(jobs[4].id, True)
    assert not store.set_favourite(jobs[4].id, False).favourite
    assert [job.id for job in store.list("me", favourites=True)] == [jobs[3].id]
    pages = [store.list("me", limit=2, offset=offset) for offset in (0, 2, 4, 6)]
    assert [job.id for page in pages for job in page] == [job.id for job in store.list("me")]
    assert len(pages[-1]) == 0


def test_a_deleted_job_is_hidden_not_taken_and_can_come_back(store, request_with_picture):
    first, second = store.submit_many([request_with_picture] * 2, "me")
    assert store.delete(first.id).deleted is not None
    assert [job.id for job in store.list("me")] == [second.id]
    assert store.get(second.id).ahead == 0
    store.restore(first.id)
    assert store.claim(1).id == first.id
    assert store.claim(1).id == second.id


def test_a_running_job_that_is_deleted_is_cancelled(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    store.claim(1)
    store.delete(job.id)
    assert store.wish_for(store.lease_of(job.id)) == "cancel"
    assert purge(store, time.time() + 1) == 0
    store.finish(job.id, "cancelled")
    assert store.restore(job.id).state == "cancelled"


def test_a_purge_removes_what_was_deleted_long_enough_ago_and_says_how_much(store, request_with_picture):
    old, new, kept = store.submit_many([request_with_picture] * 3, "me")
    store.delete(old.id)
    between = store.get(old.id).deleted + 1e-6
    while time.time() <= between:
        pass
    store.delete(new.id)
    orphan = store.jobs_folder / "orphan"
    orphan.mkdir()
    (orphan / "input.png").write_bytes(b"123")
    assert purge(store, between) == len(b"bytes of a picture")
    assert store.get(old.id) is None
    assert not old.folder.exists()
    assert store.get(new.id).folder.exists() and store.get(kept.id).folder.exists()
    os.utime(orphan, (0, 0))
    assert purge(store, 0) == 3
    assert not orphan.exists()


def test_a_failed_job_can_be_tried_again_and_goes_to_the_end(store, request_with_picture):
    first, second = store.submit_many([request_with_picture] * 2, "me")
    store.claim(1)
    with pytest.raises(JobError):
        store.requeue(first.id)
    store.finish(first.id, "failed", BACK)
    again = store.requeue(first.id)
    assert (again.state, again.message, again.started, again.ahead) == ("queued", None, None, 1)
    assert [store.claim(1).id, store.claim(1).id] == [second.id, first.id]


def test_what_is_asked_of_a_job_that_never_was_is_a_key_error(store):
    for ask in (store.cancel, store.move_up, store.hold, store.release, store.requeue, store.delete, store.restore):
        with pytest.raises(KeyError):
            ask("no-such-job")


def test_a_list_of_the_first_version_is_brought_up_to_date_in_place(tmp_path, request_with_picture):
    """The schema as it stood before it was numbered, with a job of each kind."""
    data = tmp_path / "old"
    data.mkdir()
    recipe = TypeAdapter(GenerationRequest).dump_json(replace(REQUEST, images=(Path("input.png"),))).decode()
    with closing(sqlite3.connect(data / "studio.sqlite3")) as db, db:
        db.executescript(FIRST_SCHEMA)
        for number, state in enumerate(("done", "interrupted", "running", "queued", "queued")):
            db.execute(
                "INSERT INTO jobs (id, owner, state, request, created, message) VALUES (?, 'me', ?, ?, ?, ?)",
                (
                    f"job{number}",
                    state,
                    recipe,
                    100.0 + number,
                    '{"en": "gone", "zh": "没了"}' if number == 1 else None,
                ),
            )
    for _ in range(2):
        store = JobStore(data)
        jobs = store.list("me")
        assert [job.id for job in jobs] == ["job4", "job3", "job2", "job1", "job0"]
        assert [job.state for job in jobs] == ["queued", "queued", "running", "interrupted", "done"]
        assert jobs[3].message == Text("gone", "没了")
        assert [job.ahead for job in jobs[:2]] == [2, 1]
        assert not any(job.held or job.favourite or job.deleted for job in jobs)
    store.put_back(store.lease_of("job2"), BACK, died=True)
    assert [store.claim(1).id for _ in range(3)] == ["job2", "job3", "job4"]


def test_a_list_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path):
    JobStore(tmp_path)
    path = tmp_path / "studio.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 7")
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"newer version of the studio \(job list 7"):
        JobStore(tmp_path)
    assert path.read_bytes() == before


def test_a_queued_job_is_cancelled_at_once_and_never_taken(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    assert store.cancel(job.id).state == "cancelled"
    assert store.claim(1) is None


def test_a_running_job_is_asked_to_stop_and_ends_when_its_worker_says_so(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    store.claim(1)
    lease = store.lease_of(job.id)
    assert store.wish_for(lease) == "go_on"
    assert store.cancel(job.id).state == "running"
    assert store.wish_for(lease) == "cancel"
    assert store.finish(job.id, "cancelled")
    assert store.get(job.id).over


def test_a_job_ends_only_once(store, request_with_picture):
    job = store.submit(request_with_picture, "me")
    store.claim(1)
    lease = store.lease_of(job.id)
    (job.folder / "video.mp4").write_bytes(b"video")
    assert store.finish(job.id, "done")
    assert not store.put_back(lease, BACK, died=True)
    assert not store.finish(job.id, "failed", BACK)
    store.cancel(job.id)
    ended = store.get(job.id)
    assert ended.state == "done"
    assert ended.message is None
    assert ended.video_path.exists()


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
