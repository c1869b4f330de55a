"""What holds for all tests: with CI=true a skipped test is a failure. And the studio and the browser they drive."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from running_studio import PATIENCE_MS, RunningStudio, launch_chromium, running_studio

IS_CI = os.environ.get("CI") == "true"
# What Gradio says about its own open streams when a page is left.
PARTING_WORDS = (
    "AbortError", "Connection errored out", "ERR_ABORTED", "ERR_CONNECTION", "ERR_INCOMPLETE", "network error",
    "Unexpected error 404: Not Found",
)  # fmt: skip

expect.set_options(timeout=PATIENCE_MS)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What thousands of collected tests consist of never is garbage, and engines look for garbage as they close."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if IS_CI and exitstatus == 0 and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if IS_CI:
        for skipped in terminalreporter.stats.get("skipped", ()):
            terminalreporter.write_line(f"FAILED {skipped.nodeid}: skipped, and with CI=true nothing may be")


@pytest.fixture(scope="session", autouse=True)
def data_folder_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What runs of the command line take is noted here, and not beside the program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDIO_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a checkpoint with tiny random weights for an engine's id; each is built once."""
    import tiny_models  # torch and diffusers take seconds to import, and few tests need them
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoints")

    def build(engine_id: str) -> Path:
        if not (folder / engine_id).exists():
            tiny_models.save_checkpoint(engine_id, folder / engine_id)
        return folder / engine_id

    return build


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    """The real studio, one for all tests of a module; each page of `open_context` is another person to it."""
    with running_studio(tmp_path_factory.mktemp("studio") / "data") as started:
        yield started


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser for the tests of one module. Its driver is a child process and holds an event loop, and both would
    stand in the way of modules that count children or run a loop of their own."""
    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Makes pages in fresh contexts (`locale`, `color_scheme`, `viewport` ...). None may complain on its console or
    ask a foreign host, unless a test takes it out of `page.complaints`."""
    complaints: list[str] = []
    contexts = []

    def make(**options: object) -> Page:
        context = chromium.new_context(**{"locale": "zh-CN", "viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        watch(page, complaints)
        return page

    make.complaints = complaints  # type: ignore[attr-defined]
    yield make
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Page:
    """A Chinese browser on a desktop."""
    return new_page()


def watch(page: Page, complaints: list[str]) -> None:
    own = ("http://127.0.0.1:", "data:", "blob:")

    def hear(said: str) -> None:
        if not any(words in said for words in PARTING_WORDS):
            complaints.append(said)

    page.on("console", lambda said: hear(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: hear(str(error)))
    page.on("request", lambda request: None if request.url.startswith(own) else complaints.append(request.url))
