"""A video is made longer as a job, over the API, on the command line and on the page; nothing of it is ever lost."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from api_clients import STILL, TINY, client_of, http_client, picture
from page_handlers import CAT, REQUEST
from page_handlers import Studio as Handlers
from playwright.sync_api import Page, expect
from running_studio import RunningStudio, choose_example, open_page, submit, wait_for_state

from i2v_pipeline.checks import check_request
from i2v_pipeline.errors import InputError, StudioError
from i2v_pipeline.pipeline import EngineCache
from i2v_pipeline.presets import find_engine
from i2v_pipeline.types import Continuation, Motion
from i2v_pipeline.video import probe_video, strip_video
from prompt_refiner import RefinerSettings
from studio.cli import main
from studio.continuing import Wish, request_to_continue
from studio.jobs.erasing import erase
from studio.jobs.store import JobStore
from studio.jobs.types import Job
from studio.jobs.worker import run_job

SMALL = replace(
    REQUEST, images=(CAT,), prompt="hold still", width=160, height=120, resolution="160x120", frames=6, fps=8,
    motion=Motion(camera=("static",), requested=True),
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "data")


def finish(store: JobStore, job: Job) -> Job:
    """The job after a worker took it."""
    claimed = store.claim(1)
    assert claimed is not None and claimed.id == job.id
    lease = store.lease_of(job.id)
    assert lease is not None
    run_job(store, claimed, lease, EngineCache(), threading.Event())
    return existing(store, job)


def existing(store: JobStore, job: Job) -> Job:
    found = store.get(job.id)
    assert found is not None
    return found


def longer(store: JobStore, job: Job, folder: Path, **wish: Any) -> Job:
    wanted = request_to_continue(job.request, job.video_path, Wish(**wish), folder, RefinerSettings())
    return store.submit(wanted.request, "me")


def report_of(job: Job) -> dict[str, Any]:
    return json.loads(job.report_path.read_text(encoding="utf-8"))


# --- as a job ---


def test_a_job_keeps_the_video_that_it_continues_and_runs_after_that_one_is_gone(store: JobStore, tmp_path) -> None:
    first = finish(store, store.submit(SMALL, "me"))
    digest = hashlib.sha256(first.video_path.read_bytes()).hexdigest()
    job = longer(store, first, tmp_path)
    assert job.request.continues == Continuation(video=job.folder / "input-continued.mp4", frame=5)
    assert job.request.video_frames == 11
    store.delete(first.id)
    erase(store, first.id)
    done = finish(store, job)
    assert done.state == "done", done.message
    clips = report_of(done)["continuation"]["clips"]
    assert [clip["job"] for clip in clips] == [first.id, job.id] and clips[0]["video_sha256"] == digest
    assert probe_video(done.video_path).frames == 11
    again = store.submit(replace(done.request, seed=9), "me")
    assert finish(store, again).state == "done"


def test_a_cancelled_and_a_failed_continuation_can_be_tried_again_and_the_first_video_stays(
    store: JobStore, tmp_path, monkeypatch
) -> None:
    first = finish(store, store.submit(SMALL, "me"))
    before = first.video_path.read_bytes()
    job = longer(store, first, tmp_path)
    store.cancel(job.id)
    names = sorted(path.name for path in job.folder.iterdir())
    assert names == ["input-continued.mp4", "input.png"]
    store.requeue(job.id)
    with monkeypatch.context() as broken:
        broken.setattr("i2v_pipeline.pipeline.write_video", fail)
        assert finish(store, job).state == "failed"
    assert sorted(path.name for path in job.folder.iterdir()) == names
    store.requeue(job.id)
    assert finish(store, job).state == "done"
    assert first.video_path.read_bytes() == before


def fail(*_: Any, **__: Any) -> None:
    raise StudioError("The disk is full.", "磁盘已满。")


def test_another_prompt_is_refined_as_asked_and_the_same_one_is_kept_whole(store: JobStore, tmp_path) -> None:
    first = finish(store, store.submit(SMALL, "me"))
    same = longer(store, first, tmp_path, seed=3).request
    assert (same.prompt, same.origin, same.motion, same.seed) == (SMALL.prompt, SMALL.origin, SMALL.motion, 3)
    other = longer(store, first, tmp_path, prompt="镜头向左摇", refine="offline", frame=3, frames=9).request
    assert other.origin.typed == "镜头向左摇" and other.origin.source == "offline"
    assert other.motion.camera == ("pan_left",) and other.video_frames == 12
    as_it_is = longer(store, first, tmp_path, prompt="镜头向左摇", refine="off").request
    assert as_it_is.prompt == "镜头向左摇" and as_it_is.origin.source == "typed"


def test_an_engine_that_takes_no_first_picture_refuses() -> None:
    spec = find_engine("wan2.1-vace-1.3b")
    with pytest.raises(InputError, match="begins with none of them"):
        check_request(spec, replace(SMALL, continues=Continuation(video=CAT, frame=3)))


# --- on the command line ---


def test_the_command_line_makes_a_video_longer_several_times(tmp_path, capsys, store) -> None:
    first = finish(store, store.submit(SMALL, "me")).video_path
    out = tmp_path / "longer.mp4"
    options = ["--frame", "4", "--times", "2", "--seed", "5", "--json", "--refine", "off"]
    assert main(["continue", str(first), "zoom in", *options, "--out", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["continuation"]["clips"][0]["frames"] == [0, 4]
    assert [clip["prompt"] for clip in report["continuation"]["clips"]] == ["hold still", "zoom in", "zoom in"]
    assert [clip["seed"] for clip in report["continuation"]["clips"]] == [7, 5, 5]
    assert probe_video(out).frames == report["output"]["frames"]
    assert json.loads(out.with_suffix(".json").read_text(encoding="utf-8")) == report


def test_what_the_command_line_cannot_continue_is_told(tmp_path, capsys, store) -> None:
    first = finish(store, store.submit(SMALL, "me")).video_path
    strip_video(first, tmp_path / "stripped.mp4")
    for arguments, said in (
        ([str(tmp_path / "stripped.mp4")], "no report inside"),
        ([str(CAT)], "neither a report"),
        ([str(first), "--frame", "6"], "frames 0 to 5"),
        ([str(first), "--times", "0"], "1 to 20"),
        ([str(first), "--frames", "1"], "Choose more"),
        ([str(first), "--out", str(first)], "overwrite"),
        ([str(tmp_path / "none.mp4")], "no such file"),
    ):
        assert main(["continue", *arguments]) == 2
        assert said in capsys.readouterr().err


# --- over the API ---


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_the_official_client_extends_a_video_and_what_is_wrong_is_told(studio: RunningStudio, tmp_path: Path) -> None:
    with client_of(studio) as client, http_client(studio) as http:
        made = client.videos.create(prompt=STILL, model="camera", input_reference=picture(), **TINY)
        client.videos.poll(made.id, poll_interval_ms=100)
        mp4 = client.videos.download_content(made.id).content
        extended = client.videos.extend(prompt=STILL, seconds="4", video=mp4, extra_body={"refine": "off"})
        done = client.videos.poll(extended.id, poll_interval_ms=100)
        assert (done.status, done.seconds) == ("completed", "4.5")
        client.videos.download_content(done.id).write_to_file(tmp_path / "v.mp4")
        assert probe_video(tmp_path / "v.mp4").frames == 9

        body = {"video": {"id": done.id}, "frames": 3, "frame": 2, "seed": 11}
        further = http.post("/v1/videos/extensions", json=body).json()
        assert (further["frames"], further["seed"], further["continues_at_frame"]) == (5, 11, 2)
        assert client.videos.poll(further["id"], poll_interval_ms=100).status == "completed"
        for wrong, said in (
            ({"video": {"id": "nothing"}}, "no such video"),
            ({"video": {"id": done.id}, "frame": 9}, "frames 0 to 8"),
            ({"video": {"id": done.id}, "frames": 3, "seconds": 2}, "Give one of them"),
            ({"video": {"id": done.id}, "steps": 3}, "video, prompt, seconds, frames, frame, seed, refine"),
            ({"prompt": "more"}, "one video to go on from"),
        ):
            answer = http.post("/v1/videos/extensions", json=wrong)
            assert answer.status_code in (400, 404) and said in answer.json()["error"]["message"]
        named = http.post("/v1/videos/extensions", data={"video[id]": done.id, "frames": "3", "prompt": "null"}).json()
        assert named["frames"] == 11 and named["prompt"] == done.prompt
        with http_client(studio, "another") as other:
            assert other.post("/v1/videos/extensions", json=body).status_code == 404
        with pytest.raises(openai.BadRequestError, match="neither a report"):
            client.videos.extend(prompt="x", seconds="4", video=picture())


# --- on the page ---


def test_a_waiting_continuation_is_not_edited(store: JobStore, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    job = longer(store, finish(store, store.submit(SMALL, "me")), tmp_path)
    handlers = Handlers.on(store)
    with pytest.raises(Exception, match="continues a video"):
        handlers.queue.act_on_job({}, type("Event", (), {"act": "edit", "job": job.id}), handlers.open())


@pytest.mark.browser
def test_a_finished_video_is_made_longer_on_the_page(new_page: Callable[..., Page], studio: RunningStudio) -> None:
    page = new_page(locale="en-US")
    open_page(page, studio.url)
    choose_example(page, "cat.jpg", "zoom in slowly")
    page.click("[data-fold=advanced]")
    for field, value in (("resolution", "320x240"), ("frames", "8"), ("fps", "8")):
        box = page.locator(f"#{field} input").first
        box.fill(value)
        box.press("Tab")
    expect(page.locator("#plan .plan-numbers")).to_contain_text("320 × 240 · 8 frames · 8 fps")
    job = submit(page)
    wait_for_state(page, job, "done")

    page.click("#longer")
    expect(page.locator("#longer-picture img")).to_be_visible()
    expect(page.locator("#longer-length")).to_contain_text("15 frames: 8 are kept, 0 cut away, 7 new")
    expect(page.locator("#longer-prompt textarea")).to_have_value("zoom in slowly")
    frame = page.locator("#longer-frame input[type=number]")
    frame.fill("6")
    frame.press("Tab")
    expect(page.locator("#longer-picture")).to_contain_text("begins with frame 6")
    expect(page.locator("#longer-length")).to_contain_text("14 frames: 7 are kept, 1 cut away, 7 new")
    page.fill("#longer-prompt textarea", "the camera holds still")
    made = submit(page, "#longer-make")
    assert made != job
    expect(page.locator("#longer-box")).to_be_hidden()
    wait_for_state(page, made, "done")
    expect(page.locator(".chain")).to_contain_text("Made of 2 clips")
    expect(page.locator(".chain li").nth(1)).to_contain_text("frames 7–13")
    expect(page.locator(".chain li").nth(1)).to_contain_text("the camera holds still")
    expect(page.locator(".details .chips")).to_contain_text("14 frames")
