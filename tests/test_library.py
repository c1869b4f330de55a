"""What is done with many finished jobs: a zip of them, clean-up, a video's last frame, and who may take them along."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from page_handlers import REQUEST, Studio
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient
from video_frames import moving

from i2v_pipeline.video import read_frames, write_video
from studio.housekeeping import KEEP_DELETED_S, sweep
from studio.jobs.store import JobStore
from studio.jobs.types import Job
from studio.library import DAY_S, bytes_of, clean_up_by_age, clean_up_by_size, file_stem, last_frame_png, zip_chunks
from studio.media import media_routes
from studio.owners import OWNER_HEADER

NOW = 1_700_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path)


def done(store: JobStore, prompt: str = "猫", *, video: bytes = b"\0" * 1000, days_old: float = 0) -> Job:
    """A finished job whose files hold this and whose age is that."""
    job = store.submit(replace(REQUEST, prompt=prompt), "me")
    assert store.claim(1) is not None
    job.video_path.write_bytes(video)
    job.report_path.write_text(json.dumps({"job": job.id}), encoding="utf-8")
    store.finish(job.id, "done")
    found = store.get(job.id)
    assert found is not None
    return replace(found, created=NOW - days_old * DAY_S)


def test_a_zip_holds_each_video_and_report_byte_for_byte(store: JobStore) -> None:
    large = np.random.default_rng(0).bytes(3_000_000)
    jobs = [done(store, "镜头推近", video=large), done(store, "second")]
    with zipfile.ZipFile(io.BytesIO(b"".join(zip_chunks(jobs)))) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 4
        for job in jobs:
            assert archive.read(f"{file_stem(job)}.mp4") == job.video_path.read_bytes()
            assert archive.read(f"{file_stem(job)}.json") == job.report_path.read_bytes()


def test_a_zip_is_made_piece_by_piece_and_never_ends_whole_without_one_of_its_files(store: JobStore) -> None:
    jobs = [done(store, video=b"\1" * 5_000_000), done(store)]
    jobs[1].report_path.unlink()
    chunks = zip_chunks(jobs)
    assert max(len(chunk) for chunk in (next(chunks) for _ in range(4))) < 2_000_000
    with pytest.raises(FileNotFoundError):
        list(chunks)


@pytest.mark.parametrize(
    "prompt", ["../../etc/passwd", 'a\\b:c*d?e"f<g>h|i', "猫 \n\t 狗\0", "x" * 5000, "", "...", "CON"]
)
def test_a_name_in_a_zip_is_one_plain_name_on_every_system(store: JobStore, prompt: str) -> None:
    job = done(store, prompt)
    stem = file_stem(job)
    assert stem.startswith(job.id)
    assert not set(stem) & set('/\\:*?"<>|\0\n\t ')
    assert ".." not in stem
    assert len(stem) < 80


def test_clean_up_by_age_takes_what_is_older_and_no_favourite_and_nothing_unfinished(store: JobStore) -> None:
    old, young = done(store, days_old=31), done(store, days_old=29)
    liked = replace(done(store, days_old=400), favourite=True)
    waiting = replace(store.submit(REQUEST, "me"), created=NOW - 400 * DAY_S)
    jobs = [old, young, liked, waiting]
    found = clean_up_by_age(jobs, days=30, now=NOW)
    assert found.jobs == (old,)
    assert found.freed_bytes == bytes_of(old) > 1000
    assert found.freed_bytes + found.kept_bytes == sum(bytes_of(job) for job in jobs)


def test_clean_up_by_size_takes_the_oldest_first_and_no_more_than_it_must(store: JobStore) -> None:
    jobs = [done(store, video=b"\0" * 1_000_000, days_old=age) for age in (1, 4, 2, 3)]
    oldest = [jobs[1], jobs[3]]
    assert clean_up_by_size(jobs, max_bytes=2_500_000).jobs == tuple(oldest)
    assert clean_up_by_size(jobs, max_bytes=10**9).jobs == ()
    liked = [replace(job, favourite=True) for job in jobs]
    nothing = clean_up_by_size(liked, max_bytes=0)
    assert nothing.jobs == ()
    assert nothing.kept_bytes > 4_000_000


def test_a_deleted_job_leaves_the_disk_after_a_day_and_not_before(store: JobStore) -> None:
    gone, kept, back = done(store), done(store), done(store)
    for job in (gone, back):
        store.delete(job.id)
    store.restore(back.id)
    sweep(store, time.time() + KEEP_DELETED_S - 60)
    assert gone.folder.is_dir()
    sweep(store, time.time() + KEEP_DELETED_S + 60)
    assert not gone.folder.exists()
    assert store.get(gone.id) is None
    assert kept.video_path.is_file()
    assert back.video_path.is_file()


def test_a_job_whose_folder_is_gone_takes_no_room(store: JobStore) -> None:
    job = done(store)
    for path in job.folder.iterdir():
        path.unlink()
    job.folder.rmdir()
    assert bytes_of(job) == 0


def test_the_last_frame_is_the_last_one_that_the_video_shows_to_the_bit(tmp_path: Path) -> None:
    frames = moving(64, 48, 7)
    write_video([frames], tmp_path / "video.mp4", width=64, height=48, fps=8)
    shown = [frame[0] for frame in read_frames(tmp_path / "video.mp4")]
    last = np.asarray(Image.open(io.BytesIO(last_frame_png(tmp_path / "video.mp4"))))
    assert np.array_equal(last, shown[-1])
    assert not np.array_equal(last, shown[0])


@pytest.fixture
def client(store: JobStore) -> Iterator[TestClient]:
    with TestClient(Starlette(routes=media_routes(Studio.on(store).services))) as client:
        yield client


def test_only_the_owner_takes_finished_jobs_along_and_all_of_them_or_none(store: JobStore, client: TestClient) -> None:
    mine = done(store, "猫")
    theirs = store.submit(REQUEST, "somebody")
    waiting = store.submit(REQUEST, "me")

    def asked(*ids: str, owner: str | None = "me") -> int:
        headers = {} if owner is None else {OWNER_HEADER: owner}
        return client.get("/studio/export.zip", params={"jobs": ",".join(ids)}, headers=headers).status_code

    assert asked(mine.id) == 200
    for ids in ((), (mine.id, theirs.id), (mine.id, waiting.id), (mine.id, "../../etc"), (f"{mine.id}/..",)):
        assert asked(*ids) == 404, ids
    assert asked(mine.id, owner="somebody") == 404
    assert asked(mine.id, owner=None) == 404
    store.delete(mine.id)
    assert asked(mine.id) == 404


def test_a_zip_comes_as_a_download_that_can_be_opened(store: JobStore, client: TestClient) -> None:
    jobs = [done(store, "猫"), done(store, "狗")]
    ids = [job.id for job in jobs]
    answer = client.get("/studio/export.zip", params={"jobs": ",".join([*ids, ids[0]])}, headers={OWNER_HEADER: "me"})
    assert answer.headers["content-disposition"] == 'attachment; filename="image-to-video-2.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert len(archive.namelist()) == 4
