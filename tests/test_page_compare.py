"""Comparisons on the page: chosen, started, watched, played together, one cell cancelled, found again, taken along."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from running_studio import PATIENCE_MS, RUN_MS, RunningStudio, choose_example, open_page
from test_page_lists import idle_workers
from test_page_looks import AXE_PATH, expect_no_scrolling_sideways, violations

from i2v_pipeline.video import probe_video
from studio.jobs.store import JobStore

pytestmark = pytest.mark.browser

PATIENCE = {"timeout": PATIENCE_MS}
CELLS = "#comparison td"
TOGETHER_S = 0.05
LOOKS = 8
# A look takes all the places in one go. Only looks at which everything plays count, and they must follow each other.
PLAY_TOGETHER = """([limit, looks, patience]) => new Promise((resolve, reject) => {
  const spreads = [], begun = performance.now();
  const look = () => {
    const videos = [...document.querySelectorAll('#comparison video')];
    const places = videos.map((video) => video.currentTime);
    if (videos.every((video) => !video.paused && !video.seeking && !video.ended)) {
      const spread = Math.max(...places) - Math.min(...places);
      spread < limit ? spreads.push(spread) : spreads.splice(0);
    }
    if (spreads.length >= looks) resolve(spreads);
    else if (performance.now() - begun > patience) reject(new Error('never together: ' + places.join(' ')));
    else requestAnimationFrame(look);
  };
  look();
})"""


def set_up(page: Page, studio: RunningStudio, **chosen: str) -> None:
    """The form at a size that takes no time worth waiting for, and the fold of the comparison open."""
    open_page(page, studio.url)
    choose_example(page, "cat.jpg", "镜头慢慢推近")
    page.click("[data-fold=advanced]")
    page.fill("#resolution input", chosen.pop("size", "160x96"))
    page.press("#resolution input", "Enter")
    for field, value in chosen.items():
        page.fill(f"#{field} input[type=number]", value)
        page.press(f"#{field} input[type=number]", "Tab")
    page.click("[data-fold=advanced]")
    page.click("[data-fold=compare]")


def choose_axis(page: Page, axis: str, word: str, values: str | None = None) -> None:
    page.click(f"#{axis}-field input")
    page.click(f"#{axis}-field [role=option]:has-text('{word}')")
    expect(page.locator(f"#{axis}-values textarea")).not_to_have_value("", **PATIENCE)
    if values is not None:
        page.fill(f"#{axis}-values textarea", values)


def test_three_by_three_with_one_cell_cancelled_play_together_are_found_again_and_taken_along(
    page: Page, studio: RunningStudio, tmp_path: Path
) -> None:
    set_up(page, studio, frames="16", fps="8")
    page.check("#compare-mode input[value=grid]")
    choose_axis(page, "x", "随机种子")
    seeds = [seed.strip() for seed in page.input_value("#x-values textarea").split(",")]
    assert len(set(seeds)) == 3 and all(seed.isdigit() for seed in seeds)
    choose_axis(page, "y", "提示词", "镜头慢慢推近\n镜头向左摇\n镜头向上摇")
    expect(page.locator("#compare-plan")).to_contain_text("9 个视频", **PATIENCE)
    expect(page.locator("#compare-plan .compare-total")).to_contain_text("总共约需")

    # Started while nothing is taken from the queue: one cell is cancelled before its turn, however fast the machine is.
    with idle_workers(studio):
        page.click("#compare")
        expect(page.locator(CELLS)).to_have_count(9, **PATIENCE)
        expect(page.locator("#comparison th[scope=col]")).to_contain_text(seeds)
        page.locator(CELLS).nth(4).get_by_role("button", name="取消").click()
        expect(page.locator(f"{CELLS} .state.cancelled")).to_have_count(1, **PATIENCE)
    expect(page.locator(f"{CELLS} .state.done")).to_have_count(8, timeout=RUN_MS)
    expect(page.locator(CELLS).nth(4).locator(".state")).to_contain_text("已取消")
    expect(page.locator(CELLS).nth(3).locator(".verdict")).to_contain_text("镜头向左摇")

    # All players as one
    page.click("#comparison [data-play]")
    assert len(page.evaluate(PLAY_TOGETHER, [TOGETHER_S, LOOKS, PATIENCE_MS])) == LOOKS
    page.click("#comparison [data-play]")
    page.locator("#comparison [data-seek]").fill("500")
    page.wait_for_function(
        "[...document.querySelectorAll('#comparison video')].every("
        "(video) => video.paused && !video.seeking && Math.abs(video.currentTime - 1) < 0.01)",
        **PATIENCE,
    )

    # Best by another metric
    page.locator("#comparison .metrics label", has_text="镜头运动最大").click()
    expect(page.locator("#comparison .best:visible")).not_to_have_count(0)
    best = page.locator("td:has(.best:visible)").first.get_attribute("data-best")
    assert best is not None and "camera" in best.split()

    # Found again, with what was cancelled, and one that is deleted is told
    shown = page.url
    page.reload()
    expect(page.locator(f"{CELLS} video")).to_have_count(8, **PATIENCE)
    expect(page.locator(f"{CELLS} .state.cancelled")).to_have_count(1)
    assert "compare=" in shown and page.url == shown
    page.evaluate(AXE_PATH.read_text(encoding="utf-8"))
    assert violations(page) == []
    gone = page.locator(CELLS).first.get_attribute("data-cell")
    JobStore(studio.data).delete(gone)
    expect(page.locator(f"{CELLS}.gone")).to_have_count(1, **PATIENCE)

    # Taken along
    with page.expect_download() as downloaded:
        page.click("#comparison a[href$='table.csv']")
    rows = list(csv.DictReader(io.StringIO(downloaded.value.path().read_text(encoding="utf-8-sig"))))
    assert [row["state"] for row in rows] == ["deleted", *["done"] * 3, "cancelled", *["done"] * 4]
    assert [row["seed"] for row in rows[1:]] == (seeds * 3)[1:]
    with page.expect_download() as downloaded:
        page.click("#comparison a[href$='grid.mp4']")
    downloaded.value.save_as(tmp_path / "grid.mp4")
    info = probe_video(tmp_path / "grid.mp4")
    assert (info.codec, info.frames, info.fps) == ("h264", 16, 8.0)
    assert info.width > 3 * 160 and info.height > 3 * 96

    page.locator("#comparison button", has_text="从列表移除").click()
    expect(page.locator("#comparison .compare")).to_have_count(0, **PATIENCE)
    expect(page.locator("#history li")).to_have_count(8)


def test_a_shorter_video_holds_its_end_until_all_begin_again(page: Page, studio: RunningStudio) -> None:
    set_up(page, studio, frames="24")
    page.check("#compare-mode input[value=grid]")
    choose_axis(page, "x", "预设", "preview, standard")
    expect(page.locator("#compare-plan")).to_contain_text("24 帧 · 24 帧/秒 · 1.0 秒", **PATIENCE)
    expect(page.locator("#compare-plan")).to_contain_text("24 帧 · 16 帧/秒 · 1.5 秒")
    page.click("#compare")
    expect(page.locator(f"{CELLS} video")).to_have_count(2, timeout=RUN_MS)
    expect(page.locator("#comparison .taken")).to_contain_text(["时长不同", "帧率不同"])
    page.click("#comparison [data-play]")
    long, short = (f"document.querySelectorAll('#comparison video')[{place}]" for place in (0, 1))
    page.wait_for_function(f"{long}.currentTime > 1.1 && !{long}.paused && {short}.currentTime > 0.9", **PATIENCE)
    page.wait_for_function(f"[{long}, {short}].every((video) => video.currentTime < 0.9 && !video.paused)", **PATIENCE)
    assert len(page.evaluate(PLAY_TOGETHER, [TOGETHER_S, LOOKS, PATIENCE_MS])) == LOOKS


def test_drafts_are_made_first_and_one_becomes_the_final_with_its_seed(
    new_page: Callable[..., Page], studio: RunningStudio
) -> None:
    page = new_page(locale="en-US", viewport={"width": 390, "height": 844}, color_scheme="dark")
    set_up(page, studio, size="1280x720", frames="8")
    page.check("#compare-mode input[value=steps]")
    expect(page.locator("#compare-plan .problem")).to_contain_text(
        "nothing that would make these settings quicker", **PATIENCE
    )
    page.check("#compare-mode input[value=preview]")
    page.fill("#draft-count input[type=number]", "2")
    page.press("#draft-count input[type=number]", "Tab")
    expect(page.locator("#compare-plan")).to_contain_text("2 drafts", **PATIENCE)
    expect(page.locator("#compare-plan")).to_contain_text("Final: 1280 × 720")
    page.click("#compare")
    expect(page.locator(f"{CELLS} .state.done")).to_have_count(2, timeout=RUN_MS)
    draft = page.locator(CELLS).nth(1)
    draft.get_by_role("button", name="Make the final").click()
    expect(draft.locator(".final .state.done")).to_be_visible(timeout=RUN_MS)
    expect_no_scrolling_sideways(page)
    store = JobStore(studio.data)
    made = store.get(draft.get_attribute("data-cell"))
    (final,) = [job for job in store.list(made.owner) if job.request.width == 1280]
    assert final.request.seed == made.request.seed
    assert made.request.width < 1280
    assert final.request.images[0].read_bytes() == made.request.images[0].read_bytes()
