"""What is pressed in queue and history, without a browser: what it does to the store, and what the person is told."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from page_handlers import CAT, FORM, REQUEST, Studio, opening, page
from PIL import Image

from i2v_pipeline.errors import RequestError
from i2v_pipeline.pipeline import EngineCache
from i2v_pipeline.presets import load_presets
from i2v_pipeline.types import Aftercare, GuidanceSchedule, LoraRef, Motion
from studio.jobs.store import JobStore
from studio.jobs.types import MAX_WAITING, Job
from studio.jobs.worker import run_job
from studio.page import notes
from studio.page.desk import PAGE_OF_JOBS
from studio.page.form import (
    engine_updates,
    read_choice,
    request_values,
    what_the_form_lacks,
    with_what_the_form_lacks,
)
from studio.page.history import history_html, listing
from studio.page.queue import queue_html
from studio.page.subjects import FIELDS as SUBJECT_FIELDS
from studio.page.text import both
from studio.recipe import compose

FLOWER = CAT.with_name("flower.jpg")


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "data")


@pytest.fixture
def studio(store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return Studio.on(store)


def event(act: str, **data: Any) -> Any:
    return SimpleNamespace(act=act, **data)


def existing(store: JobStore, job: Job) -> Job:
    found = store.get(job.id)
    assert found is not None
    return found


def over(store: JobStore, owner: str = "me", **changes: Any) -> Job:
    """A job that is over, without having run."""
    job = store.submit(replace(REQUEST, **changes), owner)
    return store.cancel(job.id)


def form_of(updates: dict[Any, Any]) -> dict[str, Any]:
    """What an answer puts into the form's fields."""
    return {
        name: update["value"] if isinstance(update, dict) and "value" in update else update
        for name, update in updates.items()
        if name in FORM
    }


def edit(studio: Studio, job: Job, request: Any, **typed: Any) -> dict[str, Any]:
    """The form after a waiting job's settings were put into it."""
    updates = studio.queue.act_on_job({**FORM, **typed}, event("edit", job=job.id), request)
    held = form_of(updates)
    return {**FORM, **typed, **held, "image": {"path": held["image"]}}


# The queue


def test_an_edited_job_gets_the_new_settings_and_the_form_is_as_it_was_before(studio: Studio, store: JobStore) -> None:
    job, request = store.submit(REQUEST, "me"), studio.open()
    held = edit(studio, job, request, prompt="noch nicht fertig")
    assert held["prompt"] == REQUEST.prompt
    assert held["seed"] == str(REQUEST.seed)
    assert existing(store, job) == job
    updates = studio.form.generate({**held, "prompt": "镜头推近"}, request)
    assert form_of(updates)["prompt"] == "noch nicht fertig"
    assert existing(store, job).request.prompt == "镜头推近"
    assert existing(store, job).request.seed == REQUEST.seed
    assert existing(store, job).request.images[0].read_bytes() == CAT.read_bytes()
    assert [each.id for each in store.unfinished("me")] == [job.id]
    assert studio.opened().editing is None


def test_a_job_that_has_started_meanwhile_is_told_and_what_was_typed_stays(studio: Studio, store: JobStore) -> None:
    job, request = store.submit(REQUEST, "me"), studio.open()
    held = edit(studio, job, request)
    store.claim(1)
    updates = studio.form.generate({**held, "prompt": "镜头推近"}, request)
    assert form_of(updates) == {}
    assert both(notes.STARTED) in studio.opened().note
    assert existing(store, job).request == job.request
    assert len(store.list("me")) == 1
    # The same press once more is a new job with what was typed.
    new = studio.form.generate({**held, "prompt": "镜头推近"}, request)["shown"]
    assert new != job.id
    assert len(store.list("me")) == 2


def test_editing_that_is_given_up_changes_no_job_and_brings_the_form_back(studio: Studio, store: JobStore) -> None:
    jobs, request = [store.submit(REQUEST, "me") for _ in range(2)], studio.open()
    held = edit(studio, jobs[0], request, prompt="mein Satz")
    # From one job to the next: what comes back is what was typed before both.
    studio.queue.act_on_job(held, event("edit", job=jobs[1].id), request)
    assert form_of(studio.queue.stop_editing(request))["prompt"] == "mein Satz"
    assert [existing(store, job) for job in jobs] == jobs
    assert studio.opened().editing is None


def test_a_running_job_is_not_edited(studio: Studio, store: JobStore) -> None:
    job, request = store.submit(REQUEST, "me"), studio.open()
    store.claim(1)
    with pytest.raises(gr.Error, match="已经开始"):
        studio.queue.act_on_job(FORM, event("edit", job=job.id), request)


def test_what_the_form_has_no_field_for_survives_an_edit_and_is_named_on_reuse() -> None:
    rich = replace(
        REQUEST, loras=(LoraRef(source="own.safetensors"),), checkpoint=Path("own"), device="cpu",
    )  # fmt: skip
    assert with_what_the_form_lacks(replace(REQUEST, prompt="other"), rich) == replace(rich, prompt="other")
    assert with_what_the_form_lacks(replace(REQUEST, engine="i2vgen-xl"), rich).loras == ()
    told = " ".join(text.en for text in what_the_form_lacks(rich))
    for word in ("LoRA", "model folder"):
        assert word in told
    assert what_the_form_lacks(REQUEST) == []


@pytest.fixture
def loras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the page finds LoRAs, with two in it."""
    monkeypatch.setenv("STUDIO_MODELS", str(tmp_path))
    folder = tmp_path / "loras"
    folder.mkdir()
    for name in ("ink.safetensors", "slow.safetensors"):
        (folder / name).write_bytes(b"")
    return folder


def test_every_finer_setting_comes_back_into_the_form_as_it_was_chosen(loras: Path) -> None:
    spec = load_presets()["wan2.2-i2v-a14b"]
    chosen = {
        "guidance_schedule": "9..6.25@0-0.6,3.5", "scheduler": "euler", "flow_shift": "3.25", "embed_source": False,
        "loras": ["slow.safetensors:0.8@high", "ink.safetensors"], "last_image": str(FLOWER),
        "double_rate": True, "ending": "boomerang",
    }  # fmt: skip
    values = {**FORM, "image": str(CAT), "engine": spec.id, "frames": 81, "fps": 16, "resolution": "480p", **chosen}
    request = compose(
        spec, read_choice(spec, values), image=CAT, image_size=(451, 300), prompt="a cat", origin=REQUEST.origin,
        motion=Motion(),
    )  # fmt: skip
    assert request.guidance == (GuidanceSchedule(first=9, last=6.25, end=0.6), 3.5)
    assert (request.scheduler, request.flow_shift, request.embed_source) == ("euler", 3.25, False)
    assert request.aftercare == Aftercare(double_rate=True, ending="boomerang")
    assert request.loras == (
        LoraRef(source=str(loras / "slow.safetensors"), weight=0.8, expert="high"),
        LoraRef(source=str(loras / "ink.safetensors")),
    )
    shown = request_values(request)
    assert read_choice(spec, {**values, **shown, "last_image": str(shown["last_image"])}) == replace(
        read_choice(spec, values), seed=request.seed, resolution=request.resolution, guidance=request.guidance,
        negative_prompt=request.negative_prompt,
    )  # fmt: skip


def test_a_preset_takes_the_finer_settings_back_that_it_decides_itself(loras: Path) -> None:
    spec = load_presets()["wan2.2-i2v-a14b"]
    updates = engine_updates(spec, "standard")
    assert {updates[name]["value"] for name in ("guidance_schedule", "scheduler", "flow_shift")} == {""}
    assert updates["loras"]["choices"] == ["ink.safetensors", "slow.safetensors"]
    assert not engine_updates(load_presets()["camera"], "standard")["loras"]["visible"]


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [("loras", ["/etc/passwd"], "ink.safetensors, slow.safetensors"), ("flow_shift", "much", "above 0"),
     ("guidance_schedule", "9...6", "a ramp")],
)  # fmt: skip
def test_a_finer_setting_that_cannot_be_read_is_refused(loras: Path, field: str, value: object, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        read_choice(load_presets()["wan2.2-i2v-a14b"], {**FORM, "frames": 81, "fps": 16, field: value})


def test_jobs_are_moved_held_and_removed_and_only_by_their_owner(studio: Studio, store: JobStore) -> None:
    first, second = (store.submit(REQUEST, "me") for _ in range(2))
    stranger, request = studio.open("other", "somebody"), studio.open()

    def press(act: str, job: Job, by: Any = request) -> None:
        studio.queue.act_on_job(FORM, event(act, job=job.id), by)

    for act in ("up", "down", "hold", "release", "remove", "edit", "open"):
        with pytest.raises(gr.Error, match="不存在"):
            press(act, second, stranger)
    press("up", second)
    assert [job.id for job in store.unfinished("me")] == [second.id, first.id]
    press("down", second)
    assert [job.id for job in store.unfinished("me")] == [first.id, second.id]
    press("hold", first)
    assert existing(store, first).held
    assert "已暂停" in queue_html(store.unfinished("me"), studio.services, shown=None, editing=None)
    press("release", first)
    assert not existing(store, first).held
    press("remove", first)
    assert existing(store, first).state == "cancelled"


def test_a_queue_is_shown_unless_all_there_is_runs_on_the_screen(studio: Studio, store: JobStore) -> None:
    job = store.submit(replace(REQUEST, prompt="<b>"), "me")
    waiting = queue_html(store.unfinished("me"), studio.services, shown=job.id, editing=None)
    assert "&lt;b&gt;" in waiting
    assert waiting.count("aria-disabled=true") == 2
    store.claim(1)
    running = store.unfinished("me")
    assert queue_html(running, studio.services, shown=job.id, editing=None) == ""
    assert job.id in queue_html(running, studio.services, shown=None, editing=None)


# Several at once


def upload(path: Path, name: str) -> dict[str, str]:
    return {"path": str(path), "orig_name": name}


def test_pictures_and_lines_become_a_job_each_and_the_plan_counts_them_before(studio: Studio, store: JobStore) -> None:
    data = {**FORM, "pictures": [upload(FLOWER, "f.jpg")], "each_line": True, "prompt": "镜头左摇\n\n 镜头右摇 "}
    request = studio.open()
    told = studio.form.plan({**data, "planned": 0, "count": 1}, request)["plan"]
    assert "4 个视频：2 张图像 × 2 条提示词" in told
    assert studio.opened().videos == 4
    studio.form.generate(data, request)
    made = store.unfinished("me")
    assert [job.request.prompt for job in made] == ["镜头左摇", "镜头右摇"] * 2
    assert [job.request.images[0].stat().st_size for job in made] == [
        path.stat().st_size for path in (CAT, CAT, FLOWER, FLOWER)
    ]
    # What was said of size and camera holds for each.
    for job in made:
        assert f"{job.request.width} × {job.request.height}" in told
    assert len({job.request.seed for job in made}) == 4


def test_one_bad_picture_is_named_and_nothing_at_all_is_queued(studio: Studio, store: JobStore, tmp_path: Path) -> None:
    bad = tmp_path / "a1b2.jpg"
    bad.write_bytes(b"no picture")
    data = {**FORM, "pictures": [upload(FLOWER, "flower.jpg"), upload(bad, "holiday.jpg")]}
    with pytest.raises(gr.Error, match=r"holiday\.jpg"):
        studio.form.generate(data, studio.open())
    assert store.unfinished("me") == []


def test_more_than_may_wait_are_refused_with_both_numbers(studio: Studio, store: JobStore) -> None:
    data = {**FORM, "each_line": True, "prompt": "镜头左摇\n" * (MAX_WAITING + 1)}
    with pytest.raises(gr.Error, match=rf"{MAX_WAITING + 1}.*{MAX_WAITING}"):
        studio.form.generate(data, studio.open())
    assert store.unfinished("me") == []


# Using something again


def test_only_the_ticked_parts_of_a_job_come_into_the_form(studio: Studio, store: JobStore) -> None:
    job, request = over(store), studio.open()
    data = {**FORM, "shown": job.id, "prompt": "mein Satz", "seed": "5", "frames": 96}

    def reused(*parts: str) -> dict[str, Any]:
        return form_of(studio.reuse.reuse({**data, "parts": list(parts)}, request))

    assert reused("seed") == {"seed": "7"} | {"proposal": None}
    assert set(reused("picture")) == {*SUBJECT_FIELDS, "last_image", "proposal"}
    assert reused("prompt")["prompt"] == REQUEST.prompt
    parameters = reused("parameters")
    assert parameters["frames"] == REQUEST.frames
    assert not {"prompt", "seed", "image", "negative_prompt"} & set(parameters)
    everything = reused("prompt", "picture", "parameters", "seed")
    assert set(everything) >= {"prompt", "image", "frames", "seed"}
    assert "改用新种子" in studio.opened().note


def test_a_new_seed_empties_the_field(studio: Studio) -> None:
    assert studio.reuse.act_on_note(event("new_seed"), studio.open())["seed"] == ""


def made(store: JobStore) -> Job:
    """A small video that was really made."""
    still = Motion(camera=("static",), requested=True)
    job = store.submit(replace(REQUEST, width=64, height=64, resolution="64x64", frames=2, motion=still), "me")
    assert store.claim(1) is not None
    lease = store.lease_of(job.id)
    assert lease is not None
    run_job(store, job, lease, EngineCache(), threading.Event())
    assert existing(store, job).state == "done"
    return job


def test_a_report_brings_the_picture_of_the_persons_own_job_and_says_when_there_is_none(
    studio: Studio, store: JobStore
) -> None:
    job = made(store)

    def restored(path: Path, request: Any) -> dict[str, Any]:
        return form_of(studio.reuse.restore({**FORM, "restore": {"path": str(path)}}, request))

    mine = restored(job.report_path, studio.open())
    assert Path(mine["image"]).read_bytes() == CAT.read_bytes()
    assert (mine["seed"], mine["frames"], mine["resolution"]) == ("7", 2, "64x64")
    theirs = restored(job.report_path, studio.open("other", "somebody"))
    assert "image" not in theirs
    assert theirs["prompt"] == REQUEST.prompt
    assert "没有源图片" in studio.opened("other").note
    with_picture = restored(job.video_path, studio.open("other", "somebody"))
    assert Path(with_picture["image"]).read_bytes() == CAT.read_bytes()
    with pytest.raises(gr.Error, match="本工作室"):
        restored(CAT, studio.open())


def test_the_last_frame_becomes_the_picture_and_its_origin_is_told(studio: Studio, store: JobStore) -> None:
    job, request = made(store), studio.open()
    picture = Path(studio.reuse.last_frame({"shown": job.id}, request)["image"])
    assert job.id in picture.name
    with Image.open(picture) as frame:
        assert (frame.format, frame.size) == ("PNG", (64, 64))
    assert "最后一帧" in studio.opened().note


# The history


def test_a_history_longer_than_a_page_shows_more_on_request(studio: Studio, store: JobStore) -> None:
    ids = [over(store).id for _ in range(PAGE_OF_JOBS + 1)]
    waiting = store.submit(REQUEST, "me")
    request = studio.open()

    def html() -> str:
        return history_html(listing(studio.opened(), store, unfinished=1), studio.opened())

    assert html().count("<li>") == PAGE_OF_JOBS
    assert 'data-act="more"' in html()
    assert ids[0] not in html()
    studio.history.act_on_history(event("more", jobs=[]), request)
    assert ids[0] in html()
    assert 'data-act="more"' not in html()
    assert waiting.id not in html()


def test_a_search_an_engine_and_favourites_narrow_the_history(studio: Studio, store: JobStore) -> None:
    jobs = [over(store, prompt=prompt) for prompt in ("A Dahlia", "猫")]
    request = studio.open()

    def found(**chosen: Any) -> list[str]:
        studio.history.look({"search": "", "filter_engine": "all", "favourites": False, **chosen}, request)
        return [job.id for job in listing(studio.opened(), store, unfinished=0)]

    assert found(search=" dahlia ") == [jobs[0].id]
    assert found(filter_engine="i2vgen-xl") == []
    assert set(found(filter_engine="camera")) == {job.id for job in jobs}
    studio.history.act_on_history(event("star", jobs=[jobs[1].id]), request)
    assert found(favourites=True) == [jobs[1].id]
    studio.history.act_on_history(event("star", jobs=[jobs[1].id]), request)
    assert found(favourites=True) == []
    assert "没有符合条件" in history_html([], studio.opened())


def test_deleting_can_be_undone_and_a_running_job_is_not_deleted(studio: Studio, store: JobStore) -> None:
    jobs, request = [over(store) for _ in range(3)], studio.open()
    studio.history.act_on_history(event("open", jobs=[jobs[2].id]), request)
    gone = studio.history.act_on_history(event("delete_chosen", jobs=[job.id for job in jobs[1:]]), request)
    assert gone["shown"] == jobs[0].id
    assert [job.id for job in store.list("me")] == [jobs[0].id]
    assert "已删除 2 个任务" in history_html(store.list("me"), studio.opened())
    studio.history.act_on_history(event("undo", jobs=[]), request)
    assert len(store.list("me")) == 3
    running = store.submit(REQUEST, "me")
    store.claim(1)
    with pytest.raises(gr.Error, match="正在生成"):
        studio.history.delete({"shown": running.id}, request)
    with pytest.raises(gr.Error, match="不存在"):
        studio.history.act_on_history(event("delete_chosen", jobs=[jobs[0].id]), studio.open("other", "somebody"))
    assert len(store.list("me")) == 4


def test_a_clean_up_deletes_what_it_named_and_nothing_that_became_a_favourite_meanwhile(
    studio: Studio, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, liked, theirs = over(store), over(store), over(store, "somebody")
    request = studio.open()
    monkeypatch.setattr("studio.page.history.AGES_DAYS", {"older_7": -1})
    studio.history.look_at_clean_up({"clean_rule": "older_7"}, request)
    asked = studio.opened().clean_up
    assert asked is not None
    assert {job.id for job in asked.jobs} == {mine.id, liked.id}
    studio.history.act_on_disk(event("keep"), request)
    assert len(store.list("me")) == 2
    studio.history.look_at_clean_up({"clean_rule": "older_7"}, request)
    store.set_favourite(liked.id, True)
    later = over(store)
    studio.history.act_on_disk(event("clean_up"), request)
    assert {job.id for job in store.list("me")} == {liked.id, later.id}
    assert not mine.folder.exists()
    assert theirs.folder.is_dir()


def test_a_page_that_lost_its_connection_is_told_to_reload(studio: Studio) -> None:
    with pytest.raises(gr.Error, match="刷新"):
        studio.form.generate(FORM, page("unknown"))


def test_a_page_opens_with_its_running_job(studio: Studio, store: JobStore) -> None:
    waiting = store.submit(REQUEST, "me")
    over(store)
    assert opening(studio)["shown"] == waiting.id
