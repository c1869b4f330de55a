"""What happens to a job when the page, the connection, the worker or the whole studio goes away under it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from running_studio import (
    PATIENCE_MS,
    RunningStudio,
    choose_example,
    choose_preset,
    open_page,
    running_studio,
    start_long_job,
    submit,
    wait_for_frames,
    wait_for_job,
    wait_for_state,
)

from studio.jobs.store import JobStore

pytestmark = pytest.mark.browser

# Keeps a page that has just been made so busy that several answers arrive before it looks at the first.
BUSY = """
const work = (over) => {
  for (const end = performance.now() + 1200; performance.now() < end;);
  if (performance.now() < over) setTimeout(work, 30, over);
};
const waiting = setInterval(() => {
  if (!document.querySelector('#generate')) return;
  clearInterval(waiting);
  work(performance.now() + 9000);
}, 5);
"""


def step_of(page: Page, job: str) -> int:
    return int(page.inner_text(f".status[data-of='{job}'] .step").partition("/")[0])


def files_of(studio: RunningStudio, job: str) -> set[str]:
    return {path.name for path in (studio.data / "jobs" / job).iterdir()}


def run_short_job(page: Page, example: str = "cat.jpg") -> str:
    choose_example(page, example)
    choose_preset(page, "preview")
    page.wait_for_selector("#plan .plan-numbers:has-text('16')", timeout=PATIENCE_MS)
    job = submit(page)
    wait_for_state(page, job, "done")
    return job


def cancel(page: Page, job: str) -> None:
    page.click("#cancel")
    wait_for_state(page, job, "cancelled")


def test_a_reload_in_the_middle_finds_the_same_run_going_on_and_the_form_as_it_was(
    page: Page, studio: RunningStudio
) -> None:
    open_page(page, studio.url)
    job = start_long_job(page)
    page.fill("#prompt textarea", "镜头慢慢推近，一杯热咖啡")
    expect(page.locator("#plan .chips")).to_contain_text("推近")
    before = step_of(page, job)
    page.reload()
    wait_for_frames(page, job)
    assert step_of(page, job) >= before
    expect(page.locator("#prompt textarea")).to_have_value("镜头慢慢推近，一杯热咖啡")
    expect(page.locator("#image img")).to_be_visible()
    expect(page.locator("#plan .plan-numbers")).to_contain_text("600")
    assert wait_for_job(page) == job

    other = page.context.new_page()
    open_page(other, studio.url)
    wait_for_state(other, job, "running")
    cancel(page, job)
    wait_for_state(other, job, "cancelled")


def test_a_live_preview_and_the_time_left_are_shown_while_a_job_runs(page: Page, studio: RunningStudio) -> None:
    open_page(page, studio.url)
    job = start_long_job(page)
    page.wait_for_selector("#screen .live img[src^='data:image/jpeg']", timeout=PATIENCE_MS)
    expect(page.locator(".status .times")).to_contain_text("约剩", timeout=PATIENCE_MS)
    first = step_of(page, job)
    page.wait_for_function(
        "first => parseInt(document.querySelector('.status .step')?.textContent) > first",
        arg=first,
        timeout=PATIENCE_MS,
    )
    cancel(page, job)


def test_a_page_that_is_slow_loses_nothing_of_answers_that_follow_each_other(page: Page, studio: RunningStudio) -> None:
    open_page(page, studio.url)
    job = run_short_job(page)
    page.add_init_script(BUSY)
    page.reload()
    wait_for_state(page, job, "done")
    for name in ("again", "longer", "last-frame", "reuse", "parts", "delete", "report-box"):
        expect(page.locator(f"#{name}")).to_be_visible()


def test_a_page_that_stood_idle_does_not_load_itself_anew_before_a_new_jobs_status_is_there(
    page: Page, studio: RunningStudio
) -> None:
    page.add_init_script("const now = Date.now; window.idle = 0; Date.now = () => now() + window.idle;")
    open_page(page, studio.url)
    page.evaluate("idle = 60000; isSame = true; studio.showJob('20200101-000000-00000000')")
    for _ in range(2):
        page.wait_for_event("response", lambda answer: answer.url.endswith("/studio/health"))
    assert page.evaluate("window.isSame") is True


def test_cancel_ends_a_run_in_the_middle_and_leaves_no_video(page: Page, studio: RunningStudio) -> None:
    open_page(page, studio.url)
    job = start_long_job(page)
    page.wait_for_selector("#screen .live img", timeout=PATIENCE_MS)
    cancel(page, job)
    assert {name for name in files_of(studio, job) if not name.startswith("input")} == set()
    expect(page.locator("#cancel")).to_be_hidden()
    expect(page.locator("#retry")).to_be_visible()
    run_short_job(page)


def test_a_waiting_job_says_how_many_are_before_it_and_can_be_cancelled(
    new_page: Callable[..., Page], studio: RunningStudio
) -> None:
    one, other = new_page(), new_page()
    open_page(one, studio.url)
    open_page(other, studio.url)
    running = start_long_job(one)
    choose_example(other, "cat.jpg")
    waiting = submit(other)
    wait_for_state(other, waiting, "queued")
    expect(other.locator("#status")).to_contain_text("1 个任务")
    cancel(other, waiting)
    cancel(one, running)


def test_a_killed_worker_is_told_and_its_job_goes_on_by_itself(page: Page, studio: RunningStudio) -> None:
    open_page(page, studio.url)
    job = start_long_job(page)
    (worker,) = studio.workers()
    worker.kill()
    expect(page.locator("#status")).to_contain_text("工作进程在任务途中退出", timeout=PATIENCE_MS)
    wait_for_state(page, job, "running")
    wait_for_frames(page, job)
    assert studio.workers() != [worker]
    cancel(page, job)
    assert {name for name in files_of(studio, job) if not name.startswith("input")} == set()
    run_short_job(page)


def test_a_job_of_another_person_is_not_in_my_history(new_page: Callable[..., Page], studio: RunningStudio) -> None:
    mine = open_page(new_page(), studio.url)
    run_short_job(mine)
    stranger = open_page(new_page(), studio.url)
    expect(stranger.locator("#history li")).to_have_count(0)
    expect(stranger.locator("#screen .empty")).to_be_visible()


def test_an_address_of_a_job_that_is_gone_says_so(page: Page, studio: RunningStudio) -> None:
    open_page(page, f"{studio.url}/?job=20200101-000000-00000000")
    expect(page.locator("#status")).to_contain_text("不存在")


def test_a_restart_of_the_studio_keeps_the_history_and_goes_on_with_the_job_that_was_running(
    new_page: Callable[..., Page], tmp_path: Path
) -> None:
    with running_studio(tmp_path / "data") as own:
        page = new_page()
        open_page(page, own.url)
        done = run_short_job(page)
        running = start_long_job(page)
        assert own.stop() == 0
        expect(page.locator("#lost")).to_be_visible(timeout=PATIENCE_MS)
        own.start()
        wait_for_frames(page, running)
        expect(page.locator("#lost")).to_be_hidden()
        expect(page.locator("#status")).to_contain_text("任务途中工作室被关闭")
        JobStore(own.data).cancel(running)
        wait_for_state(page, running, "cancelled")
        expect(page.locator("#history li")).to_have_count(2)
        page.click(f"#history [data-job='{done}']")
        wait_for_state(page, done, "done")
        page.wait_for_function("document.querySelector('video')?.videoWidth > 0", timeout=PATIENCE_MS)
        page.context.close()
        # What Gradio said while there was nobody to answer.
        new_page.complaints.clear()  # type: ignore[attr-defined]
        assert "Traceback" not in own.log()
