"""How the page looks and speaks: languages, themes, a phone, keyboard, screen reader; pictures that it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from running_studio import PATIENCE_MS, RunningStudio, choose_example, choose_preset, open_page, submit, wait_for_state

pytestmark = pytest.mark.browser

AXE_PATH = Path(__file__).parent / "vendor" / "axe.min.js"
# Rules that Gradio's own markup breaks, with the part that does.
OF_GRADIO = {"label-content-name-mismatch": "upload-container"}
CUT_JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
HEIC_HEADER = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00heicmif1" + bytes(64)


def upload(page: Page, name: str, mime: str, content: bytes) -> None:
    page.set_input_files("#image input[type=file]", {"name": name, "mimeType": mime, "buffer": content})


def expect_ground(page: Page, scheme: str) -> None:
    """The ground that a person sees is darker than grey in the dark, and lighter otherwise."""
    page.wait_for_function(
        """isDark => {
          const parts = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number);
          return (parts.reduce((sum, part) => sum + part) < 3 * 128) === isDark;
        }""",
        arg=scheme == "dark",
    )


def expect_no_scrolling_sideways(page: Page) -> None:
    page.wait_for_function("document.documentElement.scrollWidth === document.documentElement.clientWidth")


@pytest.mark.parametrize(
    ("locale", "word"),
    [
        ("zh-CN", "生成视频"),
        ("zh", "生成视频"),
        ("zh-TW", "生成视频"),
        ("en-GB", "Generate video"),
        ("de-DE", "Generate video"),
    ],
)
def test_the_page_speaks_the_browsers_language(
    new_page: Callable[..., Page], studio: RunningStudio, locale: str, word: str
) -> None:
    page = open_page(new_page(locale=locale), studio.url)
    expect(page.locator("#generate")).to_have_text(word)
    is_chinese = word == "生成视频"
    for place in ("header h1", "#plan h2", "#screen li >> nth=0", "#engine-note p"):
        shown = page.locator(place).inner_text()
        assert any("\u4e00" <= letter <= "\u9fff" for letter in shown) == is_chinese, shown


def test_the_switches_change_language_and_theme_and_are_remembered(page: Page, studio: RunningStudio) -> None:
    open_page(page, studio.url)
    page.fill("#prompt textarea", "镜头向左摇")
    expect(page.locator("#plan .chips")).to_contain_text("左摇")
    page.click("[data-switch=lang]")
    expect(page.locator("#generate")).to_have_text("Generate video", timeout=PATIENCE_MS)
    expect(page.locator("#prompt textarea")).to_have_value("镜头向左摇")
    expect_ground(page, "light")
    page.click("[data-switch=theme]")
    expect_ground(page, "dark")
    page.goto("about:blank")
    open_page(page, studio.url)
    expect(page.locator("#generate")).to_have_text("Generate video")
    expect_ground(page, "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_paint_already_has_the_systems_theme_and_the_language(
    new_page: Callable[..., Page], studio: RunningStudio, scheme: str
) -> None:
    page = new_page(color_scheme=scheme)
    page.route("**/assets/**", lambda route: route.abort())
    page.goto(studio.url, wait_until="commit")
    page.wait_for_function("document.body")
    expect_ground(page, scheme)
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    new_page.complaints.clear()  # type: ignore[attr-defined]


@pytest.mark.parametrize("locale", ["zh-CN", "en"])
def test_a_phone_needs_no_scrolling_sideways(new_page: Callable[..., Page], studio: RunningStudio, locale: str) -> None:
    page = open_page(new_page(locale=locale, viewport={"width": 390, "height": 844}), studio.url)
    expect_no_scrolling_sideways(page)
    choose_example(page, "cat.jpg")
    choose_preset(page, "preview")
    page.click("[data-fold=advanced]")
    page.click("#refine")
    expect(page.locator("#keep-mine")).to_be_visible()
    expect_no_scrolling_sideways(page)
    wait_for_state(page, submit(page), "done")
    expect(page.locator("#screen video")).to_be_in_viewport()
    page.click("#report-box button")
    expect(page.locator("#report")).to_contain_text("frames_sha256")
    expect_no_scrolling_sideways(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_is_ours(new_page: Callable[..., Page], studio: RunningStudio, scheme: str) -> None:
    page = open_page(new_page(color_scheme=scheme), studio.url)
    page.evaluate(AXE_PATH.read_text(encoding="utf-8"))
    assert violations(page) == []
    choose_example(page, "cat.jpg")
    choose_preset(page, "preview")
    page.click("[data-fold=advanced]")
    page.click("#refine")
    expect(page.locator("#keep-mine")).to_be_visible()
    wait_for_state(page, submit(page), "done")
    expect(page.locator("#details .chips")).to_be_visible()
    expect(page.get_by_role("img", name="运动随时间变化")).to_be_visible()
    assert violations(page) == []


def violations(page: Page) -> list[str]:
    # A colour in the middle of a change is neither the one nor the other.
    page.wait_for_function("document.getAnimations().every((each) => each.effect.getTiming().iterations === Infinity)")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{rule['id']}: {node['html'][:160]}"
        for rule in found
        for node in rule["nodes"]
        if rule["id"] not in OF_GRADIO or OF_GRADIO[rule["id"]] not in node["html"]
    ]


def test_the_keyboard_alone_is_enough_and_shows_where_it_is(page: Page, studio: RunningStudio) -> None:
    open_page(page, studio.url)
    page.focus("[data-example='cat.jpg']")
    page.keyboard.press("Enter")
    expect(page.locator("#prompt textarea")).to_have_value("猫转头，镜头向左摇")
    expect(page.locator("#plan .plan-numbers")).to_be_visible()
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        here = page.evaluate(
            """(() => {
              const here = document.activeElement;
              const isOutlined = (place) => place && getComputedStyle(place).outlineStyle !== 'none';
              const frames = ['.segmented label', '.wrap:has(> .wrap-inner)'].map((frame) => here.closest(frame));
              return [here.closest('[id]')?.id ?? here.tagName, [here, ...frames].some(isOutlined)];
            })()"""
        )
        reached.append(here)
        if here[0] == "generate":
            break
    names = [name for name, _ in reached]
    assert {"refine", "engine", "preset", "generate"} <= set(names), names
    assert [name for name, is_seen in reached if not is_seen] == []
    page.keyboard.press("Enter")
    page.wait_for_selector("#status .state", timeout=PATIENCE_MS)


def test_a_screen_reader_hears_each_state_once(page: Page, studio: RunningStudio) -> None:
    open_page(page, studio.url)
    choose_example(page, "cat.jpg")
    choose_preset(page, "preview")
    region = page.locator("#announcer [aria-live=polite], #announcer[aria-live=polite]")
    expect(region).to_have_count(1)
    wait_for_state(page, submit(page), "done")
    expect(region).to_contain_text("已完成")


@pytest.mark.parametrize(
    ("name", "mime", "content", "sentence"),
    [
        ("notes.png", "image/png", b"these are words and no picture at all", "文本文件"),
        ("notes.txt", "text/plain", b"these are words and no picture at all", "文本文件"),
        ("holiday.heic", "image/heic", HEIC_HEADER, "HEIC"),
        ("cut.jpg", "image/jpeg", CUT_JPEG, "无法解码"),
    ],
    ids=["renamed", "text", "heic", "cut"],
)
def test_a_picture_that_cannot_be_used_is_refused_in_words_and_nothing_else_is_lost(
    page: Page, studio: RunningStudio, name: str, mime: str, content: bytes, sentence: str
) -> None:
    open_page(page, studio.url)
    page.fill("#prompt textarea", "镜头向左摇")
    upload(page, name, mime, content)
    # Read at once, since it goes by itself.
    find = """word => [...document.querySelectorAll('.toast-body')]
      .map((toast) => toast.innerText).find((said) => said.includes(word))"""
    said = page.wait_for_function(find, arg=sentence).json_value()
    assert str(studio.data) not in said
    assert not any(word in said for word in ("/", "\\", "Error:", "Traceback"))
    expect(page.locator("#image img")).to_have_count(0)
    expect(page.locator("#plan")).to_contain_text("选择图像后")
    expect(page.locator("#prompt textarea")).to_have_value("镜头向左摇")
