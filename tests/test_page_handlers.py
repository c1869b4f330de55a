"""The page's handlers on a real store, without a browser: names stand for the components that they read and fill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from starlette.datastructures import Headers

from i2v_pipeline.presets import load_presets
from i2v_pipeline.types import GenerationRequest, Motion, PromptOrigin, Text
from prompt_refiner import RefinerSettings
from studio.jobs.store import Job, JobProgress, JobStore
from studio.owners import OWNER_HEADER
from studio.page import status
from studio.page.events import Handlers
from studio.page.services import Services, load_examples

CAT = Path(__file__).resolve().parents[1] / "examples" / "cat.jpg"
FIELDS = (
    "image", "prompt", "engine", "preset", "resolution", "frames", "fps", "steps", "guidance", "seed", "fit",
    "negative_prompt",
)  # fmt: skip
VIEW = (
    "shown", "client", "draft", "proposal", "planned", "count", "plan", "refine_panel", "use_refined", "keep_mine",
    "undo_refine", "status", "announcer", "screen", "details", "report", "report_box", "history", "cancel", "again",
    "reuse", "retry",
)  # fmt: skip
FORM = {
    "image": {"path": str(CAT)}, "prompt": "镜头向左摇", "engine": "camera", "preset": "standard", "resolution": "720p",
    "frames": 96, "fps": 24, "steps": 10, "guidance": 1, "seed": "", "fit": "crop", "negative_prompt": "",
}  # fmt: skip
REQUEST = GenerationRequest(
    engine="camera", images=(CAT,), prompt="镜头向左摇", motion=Motion(), resolution="720p", width=1280, height=720,
    origin=PromptOrigin(typed="镜头向左摇", refined="镜头向左摇", source="typed"), fit="crop", frames=9, fps=3, seed=7,
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path)


def handlers_on(store: JobStore) -> Handlers:
    services = Services(store=store, engines=load_presets(), refiner=RefinerSettings(), examples=load_examples())
    return Handlers(services, {name: name for name in FIELDS}, {name: name for name in VIEW})


def page(session: str = "page", owner: str | None = "me", **query: str) -> Any:
    headers = Headers({} if owner is None else {OWNER_HEADER: owner})
    return SimpleNamespace(session_hash=session, query_params=query, headers=headers)


def opening(handlers: Handlers, client: str | None = None, **query: str) -> dict[str, Any]:
    """What a page that is opened gets first; `client` is what an earlier version left in the browser's storage."""

    async def first() -> dict[str, Any]:
        updates = handlers.live({"client": client, "draft": None}, page(**query))
        try:
            return await anext(updates)
        finally:
            await updates.aclose()

    return asyncio.run(first())


async def until(updates: AsyncIterator[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """What comes up to the status with these words."""
    found = []
    while not found or words not in found[-1].get("status", ""):
        found.append(await asyncio.wait_for(anext(updates), 10))
    return found


def running(store: JobStore) -> Job:
    store.submit(REQUEST, "me")
    job = store.claim(1)
    assert job is not None
    return job


def test_an_older_form_never_replaces_the_plan_of_a_newer_one(store: JobStore) -> None:
    handlers = handlers_on(store)
    data = {**FORM, "proposal": None, "planned": 0, "count": 5}
    newer = handlers.plan(data)
    assert newer["planned"] == 5
    assert "96 帧" in newer["plan"]
    older = handlers.plan({**data, "frames": 12, "planned": 5, "count": 4})
    assert older == {"plan": gr.skip()}


def test_a_page_opens_the_job_of_its_address_else_one_that_runs_else_the_newest(store: JobStore) -> None:
    handlers = handlers_on(store)
    assert opening(handlers)["shown"] is None
    first = running(store)
    store.finish(first.id, "failed", Text("no", "不"))
    newest = store.submit(REQUEST, "me")
    store.cancel(newest.id)
    assert opening(handlers)["shown"] == newest.id
    going = running(store)
    last = store.submit(REQUEST, "me")
    store.cancel(last.id)
    assert opening(handlers)["shown"] == going.id
    assert opening(handlers, job=first.id)["shown"] == first.id


def test_a_job_is_of_whoever_asked_for_it_and_nobody_else_finds_it(store: JobStore) -> None:
    handlers = handlers_on(store)
    job = store.get(handlers.generate({**FORM, "proposal": None}, page(owner="me"))["shown"])
    assert job is not None
    assert job.owner == "me"
    assert handlers.services.find_job(job.id, "me") == job
    assert handlers.services.find_job(job.id, "somebody") is None
    store.delete(job.id)
    assert handlers.services.find_job(job.id, "me") is None


def test_a_page_of_somebody_else_can_do_nothing_with_my_job(store: JobStore) -> None:
    handlers = handlers_on(store)
    job = store.submit(REQUEST, "me")
    for press in (handlers.again, handlers.retry, handlers.cancel, handlers.reuse):
        with pytest.raises(gr.Error, match="不存在"):
            press({"shown": job.id}, page(owner="somebody"))
    assert store.get(job.id) == job


def test_a_browser_that_an_earlier_version_knew_keeps_its_history(store: JobStore) -> None:
    former = "Zm9ybWVyLWNsaWVudC1uYW"
    job = store.submit(REQUEST, former)
    handlers = handlers_on(store)
    # Whoever names another owner outright gets nothing.
    store.submit(REQUEST, "key:0123456789abcdef")
    assert opening(handlers, client="key:0123456789abcdef")["shown"] is None
    updates = opening(handlers, client=former)
    assert updates["shown"] == job.id
    assert updates["client"] is None


def test_a_browser_without_cookies_is_told_so(store: JobStore) -> None:
    handlers = handlers_on(store)
    with pytest.raises(gr.Error, match="Cookie"):
        handlers.generate({**FORM, "proposal": None}, page(owner=None))
    assert store.list("") == []


def test_generate_submits_what_the_plan_told(store: JobStore) -> None:
    handlers = handlers_on(store)
    told = handlers.plan({**FORM, "proposal": None, "planned": 0, "count": 1})["plan"]
    job = store.get(handlers.generate({**FORM, "proposal": None}, page())["shown"])
    assert job is not None
    assert f"{job.request.width} × {job.request.height} · {job.request.frames} 帧" in told
    assert job.request.prompt == FORM["prompt"]
    assert job.request.images[0].read_bytes() == CAT.read_bytes()


def test_again_changes_the_seed_alone_and_retry_nothing(store: JobStore) -> None:
    handlers = handlers_on(store)
    job = store.submit(REQUEST, "me")
    data = {"shown": job.id}
    again, retry = (store.get(press(data, page())["shown"]) for press in (handlers.again, handlers.retry))
    assert again is not None
    assert retry is not None

    def recipe(job: Job) -> dict[str, Any]:
        return {**vars(job.request), "images": None}

    assert recipe(retry) == recipe(job)
    assert again.request.seed != job.request.seed
    assert {**recipe(again), "seed": 7} == recipe(job)


def test_a_page_is_sent_what_changed_and_stays_alive_after_the_job(store: JobStore) -> None:
    handlers = handlers_on(store)

    async def follow() -> None:
        job = running(store)
        updates = handlers.live({"client": None, "draft": None}, page())
        assert (await anext(updates))["shown"] == job.id
        (first,) = await until(updates, "生成中")
        assert set(first) >= {"status", "screen", "history", "cancel", "report"}
        store.set_progress(job.id, JobProgress(stage="decode", step=3, steps=9))
        second = (await until(updates, "3/9"))[-1]
        assert set(second) == {"status", "announcer"}
        store.finish(job.id, "failed", Text("No room.", "空间不足。"))
        last = (await until(updates, "空间不足"))[-1]
        assert last["retry"] == gr.update(visible=True)
        # Another job of the same page, from a button.
        handlers.retry({"shown": job.id}, page())
        assert last["history"] != (await until(updates, "即将开始"))[-1]["history"]
        await updates.aclose()

    asyncio.run(follow())


def test_two_pages_each_follow_their_own_job(store: JobStore) -> None:
    handlers = handlers_on(store)

    async def follow() -> None:
        jobs = [running(store), running(store)]
        pages = [handlers.live({"client": None, "draft": None}, page(job.id, job=job.id)) for job in jobs]
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
    handlers = handlers_on(store)
    data = {"shown": "20200101-000000-00000000"}
    for press in (handlers.again, handlers.retry, handlers.cancel, handlers.reuse):
        with pytest.raises(gr.Error, match="不存在"):
            press(data, page())
