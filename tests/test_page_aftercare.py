"""After-care on the page: what it makes is said before, done, reported, and comes back from the file. In Chromium."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from running_studio import PATIENCE_MS, RunningStudio, choose_example, open_page, submit, wait_for_state
from test_page_lists import drop, make_short, report_of

from i2v_pipeline.video import probe_video

pytestmark = pytest.mark.browser
PATIENCE = {"timeout": PATIENCE_MS}


def test_a_doubled_boomerang_is_told_before_made_and_brought_back_by_its_file(
    new_page: Callable[..., Page], studio: RunningStudio
) -> None:
    page = open_page(new_page(), studio.url)
    choose_example(page, "cat.jpg", "固定镜头")
    make_short(page)
    page.check("#double-rate input")
    page.locator("#ending label", has_text="往返").click()
    expect(page.locator("#plan .plan-numbers")).to_contain_text(
        "4 帧（16 帧/秒）→ 12 帧（32 帧/秒）· 0.4 秒", **PATIENCE
    )
    job = submit(page)
    wait_for_state(page, job, "done")
    expect(page.locator("#details")).to_contain_text("→ 12 帧（32 帧/秒）", **PATIENCE)
    report, video = report_of(studio, job), studio.data / "jobs" / job / "video.mp4"
    assert report["parameters"]["aftercare"] == {"double_rate": True, "ending": "boomerang"}
    assert (probe_video(video).frames, probe_video(video).fps) == (12, 32)

    # Somebody else has nothing but the file.
    other = open_page(new_page(), studio.url)
    drop(other, "from-a-friend.mp4", video.read_bytes())
    expect(other.locator("#plan .plan-numbers")).to_contain_text("→ 12 帧（32 帧/秒）", **PATIENCE)
    other.click("[data-fold=advanced]")
    expect(other.locator("#double-rate input")).to_be_checked()
    expect(other.locator("#ending input[value=boomerang]")).to_be_checked()

    # What would be too many frames a second is refused in words, and nothing is made.
    other.fill("#fps input[type=number]", "40")
    other.press("#fps input[type=number]", "Tab")
    expect(other.locator("#plan .problem")).to_contain_text("翻倍后为 80 帧", **PATIENCE)
