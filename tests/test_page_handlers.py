"""The page's handlers on a real store, without a browser: names stand for the components that they read and fill."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from page_handlers import CAT, FIELDS, FORM, REQUEST, Studio, opening, page

from i2v_pipeline.planning.devices import find_device
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.types import Text
from studio.jobs.store import JobStore
from studio.jobs.types import Job, JobProgress
from studio.page import notes, status
from studio.page.text import label


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path)


async def until(updates: AsyncIterator[dict[str, Any]], words: str, place: str = "status") -> list[dict[str, Any]]:
    """What comes up to the status, or another place, with these words."""
    found = []
    while not found or words not in found[-1].get(place, ""):
        found.append(await asyncio.wait_for(anext(updates), 10))
    return found


def running(store: JobStore) -> Job:
    store.submit(REQUEST, "me")
    job = store.claim(1)
    assert job is not None
    return job


def test_an_older_form_never_replaces_the_plan_of_a_newer_one(store: JobStore) -> None:
    studio = Studio.on(store)
    data, request = {**FORM, "planned": 0, "count": 5}, studio.open()
    newer = studio.form.plan(data, request)
    assert newer["planned"] == 5
    assert "96 帧" in newer["plan"]
    older = studio.form.plan({**data, "frames": 12, "planned": 5, "count": 4}, request)
    assert older == {"plan": gr.skip()}


def small_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this machine had a card of 24 GiB."""
    machine = Machine(gpu=find_device("RTX 4090"), cores=8, free_vram_gib=24.0, free_ram_gib=64.0, free_disk_gib=500.0)
    monkeypatch.setattr("studio.plans.machine_now", lambda: machine)


def test_a_run_that_does_not_fit_is_told_with_buttons_that_make_it_fit(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_card(monkeypatch)
    studio = Studio.on(store)
    request = studio.open()
    large = {**FORM, "engine": "i2vgen-xl", "resolution": "1024x1024", "frames": 64, "steps": 50, "guidance": 9}
    card = studio.form.plan({**large, "planned": 0, "count": 1}, request)["plan"]
    assert 'class="misfit"' in card
    assert re.search(r"去噪时需要 \d+\.\d GiB 显存，可用 23\.0 GiB", card)
    offers = re.findall(r'data-engine="([^"]+)" data-size="([^"]+)" data-frames="([^"]+)"', card)
    assert [engine for engine, _, _ in offers] == ["i2vgen-xl", "i2vgen-xl", "camera"]
    for engine, size, frames in offers:
        event = SimpleNamespace(engine=engine, size=size, frames=frames)
        taken = studio.form.take_offer(large, event)
        given = {name: value for name, value in taken.items() if name in FIELDS}
        plain = {
            name: value.get("value", large[name]) if isinstance(value, dict) else value for name, value in given.items()
        }
        assert plain["engine"] == engine if engine == "camera" else plain["resolution"] == size
        again = studio.form.plan({**large, **plain, "planned": 0, "count": 1}, request)["plan"]
        assert 'class="plan-numbers"' in again and "misfit" not in again


def test_the_plan_of_a_model_tells_memory_stages_card_and_reason(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_card(monkeypatch)
    studio = Studio.on(store)
    request = studio.open()
    form = {**FORM, "engine": "i2vgen-xl", "resolution": "512p", "frames": 16, "steps": 50, "guidance": 9}
    card = studio.form.plan({**form, "planned": 0, "count": 1}, request)["plan"]
    for words in ("Graphics memory ", "RAM ", "denoise ", "NVIDIA GeForce RTX 4090", "It fits: ", "About "):
        assert words in card
    slower = studio.form.plan({**form, "steps": 100, "planned": 0, "count": 1}, request)["plan"]
    assert slower != card


def test_a_page_opens_the_job_of_its_address_else_one_that_runs_else_the_newest(store: JobStore) -> None:
    studio = Studio.on(store)
    assert opening(studio)["shown"] is None
    first = running(store)
    store.finish(first.id, "failed", Text("no", "不"))
    newest = store.submit(REQUEST, "me")
    store.cancel(newest.id)
    assert opening(studio)["shown"] == newest.id
    going = running(store)
    last = store.submit(REQUEST, "me")
    store.cancel(last.id)
    assert opening(studio)["shown"] == going.id
    assert opening(studio, job=first.id)["shown"] == first.id


def test_a_job_is_of_whoever_asked_for_it_and_nobody_else_finds_it(store: JobStore) -> None:
    studio = Studio.on(store)
    job = store.get(studio.form.generate(FORM, studio.open())["shown"])
    assert job is not None
    assert job.owner == "me"
    assert studio.services.find_job(job.id, "me") == job
    assert studio.services.find_job(job.id, "somebody") is None
    store.delete(job.id)
    assert studio.services.find_job(job.id, "me") is None


def test_a_page_of_somebody_else_can_do_nothing_with_my_job(store: JobStore) -> None:
    studio = Studio.on(store)
    job = store.submit(REQUEST, "me")
    for press in (studio.form.again, studio.form.retry, studio.form.cancel, studio.reuse.reuse):
        with pytest.raises(gr.Error, match="不存在"):
            press({"shown": job.id}, page(owner="somebody"))
    assert store.get(job.id) == job


def test_a_browser_that_an_earlier_version_knew_keeps_its_history(store: JobStore) -> None:
    former = "Zm9ybWVyLWNsaWVudC1uYW"
    job = store.submit(REQUEST, former)
    studio = Studio.on(store)
    # Whoever names another owner outright gets nothing.
    store.submit(REQUEST, "key:0123456789abcdef")
    assert opening(studio, client="key:0123456789abcdef")["shown"] is None
    updates = opening(studio, client=former)
    assert updates["shown"] == job.id
    assert updates["client"] is None


def test_a_browser_without_cookies_is_told_so(store: JobStore) -> None:
    studio = Studio.on(store)
    with pytest.raises(gr.Error, match="Cookie"):
        studio.form.generate(FORM, page(owner=None))
    assert store.list("") == []


def test_generate_submits_what_the_plan_told(store: JobStore) -> None:
    studio = Studio.on(store)
    request = studio.open()
    told = studio.form.plan({**FORM, "planned": 0, "count": 1}, request)["plan"]
    job = store.get(studio.form.generate(FORM, request)["shown"])
    assert job is not None
    assert f"{job.request.width} × {job.request.height} · {job.request.frames} 帧" in told
    assert job.request.prompt == FORM["prompt"]
    assert job.request.images[0].read_bytes() == CAT.read_bytes()


def test_again_is_a_new_job_with_a_new_seed_and_retry_the_same_job_as_it_was(store: JobStore) -> None:
    studio = Studio.on(store)
    job = running(store)
    store.finish(job.id, "failed", Text("No room.", "空间不足。"))
    request = studio.open()
    again = store.get(studio.form.again({"shown": job.id}, request)["shown"])
    assert again is not None
    assert again.id != job.id
    assert again.request.seed != job.request.seed
    assert {**vars(again.request), "images": None, "seed": 7} == {**vars(job.request), "images": None}
    assert studio.form.retry({"shown": job.id}, request)["shown"] == job.id
    retried = store.get(job.id)
    assert retried is not None
    assert retried.state == "queued"
    assert retried.request == job.request


def test_a_page_is_sent_what_changed_and_stays_alive_after_the_job(store: JobStore) -> None:
    studio = Studio.on(store)

    async def follow() -> None:
        job = running(store)
        updates = studio.live({"client": None, "draft": None}, page())
        assert (await anext(updates))["shown"] == job.id
        (first,) = await until(updates, "生成中")
        assert set(first) >= {"status", "screen", "cancel", "report"}
        (lists,) = await until(updates, "history none", "history")
        assert set(lists) >= {"queue", "history", "note"}
        store.set_progress(job.id, JobProgress(stage="decode", step=3, steps=9))
        second = (await until(updates, "3/9"))[-1]
        assert set(second) == {"status", "announcer"}
        store.finish(job.id, "failed", Text("No room.", "空间不足。"))
        last = (await until(updates, "空间不足"))[-1]
        assert last["retry"] == gr.update(visible=True)
        await until(updates, job.id, "history")
        # Another job of the same page, from a button.
        studio.form.retry({"shown": job.id}, page())
        await until(updates, "即将开始")
        waiting = (await until(updates, job.id, "queue"))[-1]
        assert job.id not in waiting["history"]
        await updates.aclose()

    asyncio.run(follow())


def test_who_edits_a_job_hears_when_it_starts(store: JobStore) -> None:
    studio = Studio.on(store)

    async def follow() -> None:
        job = store.submit(REQUEST, "me")
        updates = studio.live({"client": None, "draft": None}, page())
        await anext(updates)
        studio.desk.change(page(), editing=job.id, note=notes.editing(job))
        held = (await until(updates, "正在修改", "note"))[-1]
        assert held["generate"] == gr.update(value=label("save_changes"))
        store.claim(1)
        await until(updates, "已经开始", "note")
        await updates.aclose()

    asyncio.run(follow())


def test_two_pages_each_follow_their_own_job(store: JobStore) -> None:
    studio = Studio.on(store)

    async def follow() -> None:
        jobs = [running(store), running(store)]
        pages = [studio.live({"client": None, "draft": None}, page(job.id, job=job.id)) for job in jobs]
        for updates in pages:
            await anext(updates)
            await until(updates, "生成中")
        store.finish(jobs[0].id, "failed", Text("First.", "第一个。"))
        store.finish(jobs[1].id, "failed", Text("Second.", "第二个。"))
        for updates, words in zip(pages, ("第一个。", "第二个。"), strict=True):
            await until(updates, words)
            await updates.aclose()

    asyncio.run(follow())


def test_a_preview_is_shown_while_there_is_one(store: JobStore) -> None:
    job = running(store)
    assert "/input" in status.screen_html(job)
    job.preview_path.write_bytes(b"\xff\xd8")
    assert "data:image/jpeg;base64,/9g=" in status.screen_html(job)


def test_what_is_pressed_for_a_job_that_is_gone_is_answered_in_words(store: JobStore) -> None:
    studio = Studio.on(store)
    data = {"shown": "20200101-000000-00000000"}
    for press in (studio.form.again, studio.form.retry, studio.form.cancel, studio.reuse.reuse):
        with pytest.raises(gr.Error, match="不存在"):
            press(data, page())
