"""Makes the pictures of the page in docs/ from the real studio: `python tests/make_screenshots.py`. Tests nothing."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright
from running_studio import (
    PATIENCE_MS,
    ROOT,
    RunningStudio,
    choose_example,
    launch_chromium,
    open_page,
    running_studio,
    submit,
    wait_for_state,
)

DOCS = ROOT / "docs"
SETTLE_MS = 1500
"""Until the video plays and its controls are gone."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture. The last of `examples` is shown, the others fill the history."""

    name: str
    locale: str
    theme: Literal["light", "dark"]
    width: int
    height: int
    examples: tuple[str, ...]


SHOTS = (
    Shot(
        name="page-desktop-zh-dark", locale="zh-CN", theme="dark", width=1440, height=1390,
        examples=("seeding.jpg", "cat.jpg", "sunset.jpg", "flower.jpg", "stream.jpg", "pagoda.jpg"),
    ),
    Shot(
        name="page-desktop-en-light", locale="en-GB", theme="light", width=1440, height=1390,
        examples=("astronaut.jpg", "dogs.jpg", "rocket.jpg", "coffee.jpg", "cat.jpg", "mountains.jpg"),
    ),
    Shot(name="page-390", locale="zh-CN", theme="light", width=390, height=844, examples=("flower.jpg",)),
)  # fmt: skip


def take(shot: Shot, browser: Browser, studio: RunningStudio) -> Path:
    """The picture as a file."""
    context = browser.new_context(
        locale=shot.locale, color_scheme=shot.theme, viewport={"width": shot.width, "height": shot.height}
    )
    context.set_default_timeout(PATIENCE_MS)
    page: Page = open_page(context.new_page(), studio.url)
    for example in shot.examples:
        choose_example(page, example)
        wait_for_state(page, submit(page), "done")
    page.wait_for_function("document.querySelector('video').currentTime > 0.5")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    if shot.width < 800:
        page.evaluate("document.getElementById('right').scrollIntoView()")
    page.mouse.move(2, 2)
    page.wait_for_timeout(SETTLE_MS)
    path = DOCS / f"{shot.name}.png"
    page.screenshot(path=path)
    context.close()
    return path


def main() -> None:
    DOCS.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_studio(Path(folder) / "data") as studio,
        sync_playwright() as p,
    ):
        browser = launch_chromium(p)
        for shot in SHOTS:
            take(shot, browser, studio)
        browser.close()


if __name__ == "__main__":
    main()
