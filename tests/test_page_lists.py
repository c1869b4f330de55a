"""The queue and the history as a person uses them, in a real Chromium on the real studio."""

from __future__ import annotations

import base64
import json
import sqlite3
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect
from running_studio import (
    PATIENCE_MS,
    ROOT,
    RunningStudio,
    choose_example,
    choose_preset,
    held_back,
    open_page,
    submit,
    wait_for_state,
)
from test_page_looks import AXE_PATH, violations

from i2v_pipeline.recipe import read_recipe
from studio.jobs.database import NAME

pytestmark = pytest.mark.browser

RESTORE = "input[type=file]:has(+ #restore)"
PATIENCE = {"timeout": PATIENCE_MS}


@contextmanager
def idle_workers(studio: RunningStudio) -> Iterator[None]:
    """Nothing is taken from the queue meanwhile, however fast or slow the machine is."""
    while not (workers := studio.workers()):
        time.sleep(0.05)
    try:
        while True:
            for worker in workers:
                worker.suspend()
            if can_be_written(studio.data / NAME):
                break
            # Stopped in the middle of looking for a job, it would keep everybody else out.
            for worker in workers:
                worker.resume()
            time.sleep(0.05)
        yield
    finally:
        for worker in workers:
            worker.resume()


def can_be_written(database: Path) -> bool:
    with closing(sqlite3.connect(database, timeout=2, isolation_level=None)) as db, suppress(sqlite3.OperationalError):
        db.execute("BEGIN IMMEDIATE")
        db.execute("ROLLBACK")
        return True
    return False


def make_short(page: Page) -> None:
    """The fewest frames, so that a video takes no time worth waiting for."""
    choose_preset(page, "preview")
    if page.get_attribute("[data-fold=advanced]", "aria-expanded") != "true":
        page.click("[data-fold=advanced]")
    page.fill("#frames input[type=number]", "4")
    page.press("#frames input[type=number]", "Tab")
    expect(page.locator("#plan .plan-numbers").first).to_contain_text("· 4 帧 ·", **PATIENCE)


def make_video(page: Page, example: str, prompt: str) -> str:
    choose_example(page, example, prompt)
    if page.input_value("#frames input[type=number]") != "4":
        make_short(page)
    job = submit(page)
    wait_for_state(page, job, "done")
    return job


def waiting(page: Page) -> list[str]:
    """The prompts in the queue, in their order."""
    return page.locator("#queue .caption").all_inner_texts()


def row(page: Page, prompt: str) -> Locator:
    return page.locator("#queue li", has_text=prompt)


def expect_queue(page: Page, prompts: list[str]) -> None:
    expect(page.locator("#queue .caption")).to_have_text(prompts, **PATIENCE)


def report_of(studio: RunningStudio, job: str) -> dict[str, Any]:
    return json.loads((studio.data / "jobs" / job / "report.json").read_text(encoding="utf-8"))


def drop(page: Page, name: str, content: bytes) -> None:
    """Lets a file fall somewhere on the page."""
    page.evaluate(
        """([name, content]) => {
          const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name));
          const event = new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: transfer});
          document.querySelector('#screen').dispatchEvent(event);
        }""",
        [name, base64.b64encode(content).decode()],
    )


def test_a_queue_of_five_is_edited_moved_and_shortened_and_two_reloads_change_nothing(
    page: Page, studio: RunningStudio
) -> None:
    open_page(page, studio.url)
    with idle_workers(studio):
        # Two pictures and two prompts at once are four jobs, and that is said before.
        choose_example(page, "cat.jpg", "镜头向左摇\n镜头向右摇")
        make_short(page)
        page.click("[data-fold=several]")
        page.set_input_files("#pictures input[type=file]", ROOT / "examples" / "flower.jpg")
        page.check("#each-line input")
        expect(page.locator("#plan .plan-count")).to_contain_text("4 个视频：2 张图像 × 2 条提示词", **PATIENCE)
        expect(page.locator("#generate")).to_have_text("全部生成")
        submit(page)
        pans = ["镜头向左摇", "镜头向右摇"] * 2
        expect_queue(page, pans)

        page.reload()
        expect_queue(page, pans)
        page.fill("#prompt textarea", "镜头慢慢推近")
        expect(page.locator("#plan .chips")).to_contain_text("推近", **PATIENCE)
        last = submit(page)
        expect_queue(page, [*pans, "镜头慢慢推近"])

        # One is edited: until it is saved nothing changes, and then the form is as it was.
        page.fill("#prompt textarea", "还没写完的话")
        expect(page.locator("#plan .chips")).to_contain_text("未指定", **PATIENCE)
        row(page, "镜头慢慢推近").locator("[data-act=edit]").click()
        expect(page.locator("#note .editing")).to_contain_text("镜头慢慢推近", **PATIENCE)
        expect(page.locator("#generate")).to_have_text("保存修改")
        expect(page.locator("#prompt textarea")).to_have_value("镜头慢慢推近")
        page.fill("#prompt textarea", "镜头向上摇")
        assert waiting(page) == [*pans, "镜头慢慢推近"]
        page.click("#generate")
        expect_queue(page, [*pans, "镜头向上摇"])
        expect(page.locator("#prompt textarea")).to_have_value("还没写完的话")
        expect(page.locator("#generate")).to_have_text("生成视频")

        # One is moved by the keyboard, which stays on its button; one is removed.
        row(page, "镜头向上摇").locator("[data-act=up]").focus()
        for place in (4, 3):
            page.keyboard.press("Enter")
            expect(row(page, "镜头向上摇").locator(".place")).to_have_text(str(place), **PATIENCE)
            expect(row(page, "镜头向上摇").locator("[data-act=up]")).to_be_focused()
        expect_queue(page, ["镜头向左摇", "镜头向右摇", "镜头向上摇", "镜头向左摇", "镜头向右摇"])
        # And one pauses, pressed before the first answer is there.
        with held_back(page):
            page.locator("#queue li").first.locator("[data-act=remove]").click()
            page.locator("#queue li").last.locator("[data-act=hold]").click()
        left = ["镜头向右摇", "镜头向上摇", "镜头向左摇", "镜头向右摇"]
        expect_queue(page, left)
        expect(page.locator("#queue li").last.locator(".state")).to_contain_text("已暂停", **PATIENCE)

        page.evaluate(AXE_PATH.read_text(encoding="utf-8"))
        assert violations(page) == []

        page.reload()
        expect_queue(page, left)
        expect(page.locator("#queue .state.held")).to_have_count(1)
        expect(page.locator("#history .state.cancelled")).to_have_count(1)

    # Everything but the paused one is made.
    expect(page.locator("#history li")).to_have_count(4, timeout=3 * PATIENCE_MS)
    expect_queue(page, ["镜头向右摇"])
    assert report_of(studio, last)["prompt"]["sent"] == "镜头向上摇"
    page.click("#queue [data-act=release]")
    expect(page.locator("#history li")).to_have_count(5, **PATIENCE)
    expect(page.locator("#queue .queue")).to_have_count(0)


def test_a_video_that_is_dropped_fills_the_form_and_is_made_again_with_a_new_seed(
    new_page: Callable[..., Page], studio: RunningStudio
) -> None:
    maker = open_page(new_page(), studio.url)
    job = make_video(maker, "stream.jpg", "镜头慢慢推近，溪水流淌")
    video, report = studio.data / "jobs" / job / "video.mp4", report_of(studio, job)

    # Somebody else has nothing but the file.
    page = open_page(new_page(), studio.url)
    drop(page, "from-a-friend.mp4", video.read_bytes())
    expect(page.locator("#note .note")).to_contain_text("文件中的参数", **PATIENCE)
    expect(page.locator("#prompt textarea")).to_have_value("镜头慢慢推近，溪水流淌")
    expect(page.locator("#image img")).to_be_visible()
    page.click("[data-fold=advanced]")
    expect(page.locator("#seed input")).to_have_value(str(report["parameters"]["seed"]))
    expect(page.locator("#plan .plan-numbers")).to_contain_text("· 4 帧 ·", **PATIENCE)
    page.click("#note [data-act=new_seed]")
    expect(page.locator("#seed input")).to_have_value("")
    again = submit(page)
    wait_for_state(page, again, "done")
    made = report_of(studio, again)
    assert made["parameters"].pop("seed") != report["parameters"].pop("seed")
    assert made["parameters"] == report["parameters"]
    assert made["image"] == report["image"]
    assert made["prompt"]["sent"] == report["prompt"]["sent"]

    # A report of another's job has no picture: it is said, and the form's own stays.
    page.set_input_files(RESTORE, video.with_name("report.json"))
    expect(page.locator("#note .note")).to_contain_text("没有源图片", **PATIENCE)
    expect(page.locator("#image img")).to_be_visible()

    # A foreign file is refused in words and changes nothing.
    page.fill("#prompt textarea", "别的话")
    drop(page, "foreign.json", b'{"schema": "none of ours"}')
    expect(page.locator(".toast-body")).to_contain_text("不是本工作室的报告", **PATIENCE)
    expect(page.locator("#prompt textarea")).to_have_value("别的话")


def test_the_history_is_searched_starred_taken_along_and_deleted_with_undo(
    page: Page, studio: RunningStudio, tmp_path: Path
) -> None:
    open_page(page, studio.url)
    jobs = [make_video(page, "cat.jpg", "镜头向左摇，猫"), make_video(page, "flower.jpg", "Zoom in on the DAHLIA")]
    items = page.locator("#history li")
    expect(items).to_have_count(2)

    page.fill("#search input, #search textarea", "dahlia")
    expect(items).to_have_count(1, **PATIENCE)
    expect(items.first).to_contain_text("DAHLIA")
    page.fill("#search input, #search textarea", "没有这样的")
    expect(page.locator("#history .none")).to_be_visible(**PATIENCE)
    page.fill("#search input, #search textarea", "")
    expect(items).to_have_count(2, **PATIENCE)

    items.last.hover()
    items.last.locator(".star").click()
    expect(items.last.locator(".star")).to_have_attribute("aria-pressed", "true", **PATIENCE)
    page.check("#favourites input")
    expect(items).to_have_count(1, **PATIENCE)
    page.uncheck("#favourites input")
    expect(items).to_have_count(2, **PATIENCE)

    for job in jobs:
        page.check(f"[data-choose='{job}']", force=True)
    page.click("#look-at-clean-up")
    expect(page.locator("#disk .note")).to_be_visible(**PATIENCE)
    page.evaluate(AXE_PATH.read_text(encoding="utf-8"))
    assert violations(page) == []
    with page.expect_download() as download:
        page.click("#history [data-zip]")
    download.value.save_as(tmp_path / "videos.zip")
    with zipfile.ZipFile(tmp_path / "videos.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    videos = sorted(tmp_path.glob("*.mp4"))
    assert [video.name[: len(job)] for video, job in zip(videos, sorted(jobs), strict=True)] == sorted(jobs)
    for video in videos:
        assert json.loads(video.with_suffix(".json").read_text(encoding="utf-8")) == read_recipe(video).report

    page.click("#history [data-act=choose_none]")
    page.click("#delete")
    expect(items).to_have_count(1, **PATIENCE)
    wait_for_state(page, jobs[0], "done")
    page.click("#history [data-act=undo]")
    expect(items).to_have_count(2, **PATIENCE)
    assert (studio.data / "jobs" / jobs[1] / "video.mp4").is_file()
