"""Pictures are read as a person sees them and fitted as was said; a request is refused with all mistakes at once."""

from __future__ import annotations

import io
import math
import re
import struct
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from i2v_pipeline.checks import MAX_SEED, check_request
from i2v_pipeline.errors import PictureError, RequestError
from i2v_pipeline.images import (
    MAX_PIXELS,
    MIN_SIDE,
    Picture,
    Proposed,
    describe_fit,
    fit_frames,
    fit_size,
    legal_frames,
    legal_sides,
    open_picture,
    prepare,
)
from i2v_pipeline.presets import load_presets
from i2v_pipeline.specs import Capabilities, EngineSpec, Grid
from i2v_pipeline.types import GenerationRequest, Motion, PromptOrigin, U8Image

WAN = Grid(
    pixel_multiple=16, min_side=256, max_side=1280, max_pixels=1280 * 720, frame_step=4, min_frames=5, max_frames=81,
    min_fps=8, max_fps=24,
)  # fmt: skip
ANY_EVEN = replace(WAN, pixel_multiple=1, min_side=63, max_side=3841, max_pixels=3840 * 2160, frame_step=1)
BUDGETS = [(512, 512), (832, 480), (1280, 720)]


def png(image: Image.Image | U8Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def picture_of(pixels: U8Image) -> Picture:
    return open_picture(png(pixels))


def photo_like(width: int, height: int) -> U8Image:
    """Smooth colours with some grain, the same at every call."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = np.stack([np.sin(5 * x + 3 * y), np.cos(4 * y - x), np.sin(7 * x * y)], axis=2)
    grain = np.random.default_rng(0).normal(0, 3, (height, width, 1))
    return np.clip(128 + 100 * waves + grain, 0, 255).astype(np.uint8)


# --- what is noted about a picture ---


def codes(picture: Picture) -> set[str]:
    return {note.code for note in picture.notes}


def test_a_plain_picture_has_nothing_to_note() -> None:
    assert picture_of(photo_like(40, 30)).notes == ()


def test_alpha_is_noted_only_where_something_is_transparent() -> None:
    rgba = np.dstack([photo_like(40, 30), np.full((30, 40), 255, np.uint8)])
    assert "picture_transparent" not in codes(picture_of(rgba))
    rgba[0, 0, 3] = 254
    assert "picture_transparent" in codes(picture_of(rgba))


def test_half_transparent_becomes_half_white() -> None:
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[..., 3] = 128
    assert set(np.unique(picture_of(rgba).pixels)) == {127}


def test_an_animated_picture_is_noted() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    assert codes(open_picture(png(frames[0], save_all=True, append_images=frames[1:]))) == {"picture_animated"}


def test_an_unreadable_colour_profile_is_noted() -> None:
    assert codes(open_picture(png(photo_like(20, 20), icc_profile=b"garbage" * 40))) == {"picture_profile_unreadable"}


def test_a_profile_for_rgb_in_a_grey_picture_is_nothing_to_note() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert open_picture(png(Image.new("L", (20, 20)), icc_profile=profile)).notes == ()


def test_unreadable_exif_is_noted_and_other_exif_is_not() -> None:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    whole = exif.tobytes()
    assert open_picture(png(photo_like(20, 20), exif=whole)).notes == ()
    for broken in (whole[:12], b"Exif\0\0" + b"garbage" * 9):
        assert codes(open_picture(png(photo_like(20, 20), exif=broken))) == {"picture_exif_unreadable"}


def test_print_colours_without_a_profile_are_noted() -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (20, 20)).save(buffer, "JPEG")
    assert codes(open_picture(buffer.getvalue())) == {"picture_print_colours"}


def cmyk_profile() -> bytes:
    """A press that prints red where the key plate has ink, as no computation without the profile would guess.

    An ICC version 2 input profile with one 8-bit table to L*a*b* (ICC.1:2001-04, 6.5.7).
    """
    identity = bytes(range(256))
    # The key is the last, fastest varying of the four inks. L* = 136 of 255, a* = 208 - 128, b* = 195 - 128: sRGB red.
    paper, red, black = bytes([255, 128, 128]), bytes([136, 208, 195]), bytes([40, 128, 128])
    corners = paper + red + black * 14
    unit = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + unit + identity * 4 + corners + identity * 3
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    body, entries = b"", b""
    for tag, content in ((b"A2B1", table), (b"desc", name), (b"wtpt", white)):
        entries += struct.pack(">4sII", tag, 128 + 4 + 36 + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = 128 + 4 + 36 + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02400000, b"scnr", b"CMYK", b"Lab ") + bytes(12) + b"acsp"
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", 3) + entries + body


def test_print_colours_with_a_profile_are_converted_by_it() -> None:
    key = np.zeros((32, 48, 4), np.uint8)
    key[:, 16:32, 3] = 255
    key[:, 32:] = 255
    buffer = io.BytesIO()
    Image.fromarray(key, "CMYK").save(buffer, "JPEG", quality=100, icc_profile=cmyk_profile())

    picture = open_picture(buffer.getvalue())

    assert picture.notes == ()
    assert np.abs(picture.pixels[:, :8].astype(int) - 255).max() <= 2
    assert np.abs(picture.pixels[:, 24].astype(int) - (255, 0, 0)).max() <= 16
    # The darkest ink of the press, L* = 16, becomes the darkest the screen has.
    assert picture.pixels[:, 40:].max() <= 2


def test_a_picture_at_the_limit_opens_and_one_row_more_does_not() -> None:
    width, height = 8000, MAX_PIXELS // 8000
    assert open_picture(png(Image.new("1", (width, height)))).width == width
    with pytest.raises(PictureError, match="64 million"):
        open_picture(png(Image.new("1", (width, height + 1))))
    assert open_picture(png(Image.new("L", (MIN_SIDE, MIN_SIDE)))).height == MIN_SIDE


def test_pictures_are_opened_in_several_threads_at_once(recwarn: pytest.WarningsRecorder) -> None:
    data, results = png(photo_like(300, 200), exif=b"Exif\0\0garbage"), []
    threads = [threading.Thread(target=lambda: results.append(open_picture(data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert not recwarn.list


# --- the size that is proposed ---

sizes = st.integers(MIN_SIDE, 6000)


@given(width=sizes, height=sizes, budget=st.sampled_from(BUDGETS), grid=st.sampled_from([WAN, ANY_EVEN]))
@settings(max_examples=60, deadline=None)
def test_a_proposed_size_is_always_legal(width: int, height: int, budget: tuple[int, int], grid: Grid) -> None:
    proposed = fit_size(grid, budget, width, height)
    for side in (proposed.width, proposed.height):
        assert side in legal_sides(grid)
        assert side % grid.pixel_multiple == 0
        assert side % 2 == 0
        assert grid.min_side <= side <= grid.max_side
    assert proposed.width * proposed.height <= grid.max_pixels
    assert fit_size(grid, budget, width, height) == proposed


@given(width=st.integers(400, 6000), height=st.integers(400, 6000), budget=st.sampled_from(BUDGETS[:2]))
@settings(max_examples=60, deadline=None)
def test_a_proposed_size_keeps_aspect_and_budget(width: int, height: int, budget: tuple[int, int]) -> None:
    assume(0.5 <= width / height <= 2)
    proposed = fit_size(WAN, budget, width, height)
    assert abs(proposed.width * proposed.height / math.prod(budget) - 1) < 0.2
    # Half a step of the grid on the shorter side is the worst that has to be lost.
    assert sum(vars(proposed.crop).values()) <= 100 * 16 / min(proposed.width, proposed.height)


@pytest.mark.parametrize(
    ("budget", "source", "expected"),
    [
        ((512, 512), (4000, 4000), (512, 512)),
        ((1280, 720), (3840, 2160), (1280, 720)),
        ((1280, 720), (2160, 3840), (720, 1280)),
        ((832, 480), (1248, 720), (832, 480)),
        ((832, 480), (3000, 2000), (768, 512)),
    ],
)
def test_a_picture_of_the_right_aspect_loses_nothing(
    budget: tuple[int, int], source: tuple[int, int], expected: tuple[int, int]
) -> None:
    proposed = fit_size(WAN, budget, *source)
    assert (proposed.width, proposed.height) == expected
    assert losses(proposed) == [0] * 9


def losses(proposed: Proposed) -> list[float]:
    return [*vars(proposed.crop).values(), *vars(proposed.pad).values(), proposed.stretch_percent]


def test_a_panorama_is_proposed_at_the_edge_of_the_grid_and_its_loss_is_told() -> None:
    proposed = fit_size(WAN, (832, 480), 10_000, 1000)
    assert (proposed.width, proposed.height) == (1280, 256)
    assert proposed.crop.left == proposed.crop.right == pytest.approx(25)
    assert proposed.pad.top == proposed.pad.bottom == pytest.approx(25)
    assert proposed.stretch_percent == pytest.approx(-100)
    assert (proposed.crop.top, proposed.pad.left) == (0, 0)


def test_a_proposal_takes_no_time_worth_waiting_for() -> None:
    import time

    started = time.perf_counter()
    fit_size(ANY_EVEN, (1280, 720), 3001, 1999)
    assert time.perf_counter() - started < 0.2


@given(frames=st.integers(-10, 2000))
def test_the_nearest_legal_frame_count_is_nearest(frames: int) -> None:
    nearest = fit_frames(WAN, frames)
    assert nearest in legal_frames(WAN)
    assert (nearest - 1) % 4 == 0
    assert abs(nearest - frames) == min(abs(n * 4 + 1 - frames) for n in range(1, 21))


def test_of_two_equally_near_frame_counts_the_longer_is_proposed() -> None:
    assert fit_frames(WAN, 79) == 81
    assert fit_frames(WAN, 81) == 81
    assert list(legal_frames(replace(WAN, min_frames=2, max_frames=10))) == [5, 9]


# --- what is said about fitting, and what is done ---


@pytest.mark.parametrize(
    ("fit", "size", "source", "en", "zh"),
    [
        ("crop", (800, 400), (1000, 400), "10.0 % of its width is cut off at the left", "左右各裁去 10.0 %"),
        ("crop", (400, 800), (400, 1000), "10.0 % of its height is cut off at the top", "上下各裁去 10.0 %"),
        ("crop", (800, 400), (1600, 800), "scaled to 800 × 400; nothing is cut", "缩放为 800 × 400，没有裁切"),
        ("crop", (800, 400), (800, 400), "keeps its size, 800 × 400; nothing is cut", "保持原尺寸 800 × 400，没有裁切"),
        ("crop", (900, 400), (300, 200), "enlarged 3.0 times, to 900 × 400", "放大 3.0 倍至 900 × 400"),
        ("pad", (900, 400), (300, 200), "enlarged 2.0 times, to 900 × 400", "放大 2.0 倍至 900 × 400"),
        ("stretch", (800, 200), (200, 200), "enlarged 2.0 times, to 800 × 200", "放大 2.0 倍至 800 × 200"),
        ("crop", (1000, 1000), (4001, 4000), "under 0.1 % of its width", "各裁去不到 0.1 %"),
        ("pad", (800, 400), (300, 200), "12.5 % of the width is added at the left and", "左右各加 12.5 %"),
        ("pad", (800, 400), (400, 100), "25.0 % of the height is added at the top and", "上下各加 25.0 %"),
        ("stretch", (800, 400), (100, 100), "everything looks 100.0 % wider than it is", "看起来宽了 100.0 %"),
        ("stretch", (400, 800), (100, 100), "everything looks 100.0 % taller than it is", "看起来高了 100.0 %"),
        ("stretch", (800, 400), (200, 100), "nothing is cut, added or stretched", "没有裁切、填充或拉伸"),
    ],
)  # fmt: skip
def test_the_fit_is_told_in_percent(fit, size: tuple[int, int], source: tuple[int, int], en: str, zh: str) -> None:
    told = describe_fit(fit, *size, *source)
    assert en in told.en
    assert zh in told.zh


def test_a_picture_of_the_right_size_is_taken_pixel_for_pixel() -> None:
    pixels = photo_like(96, 64)
    for fit in ("crop", "pad", "stretch"):
        assert np.array_equal(prepare(picture_of(pixels), 96, 64, fit).pixels, pixels)


@given(
    width=st.integers(MIN_SIDE, 90), height=st.integers(MIN_SIDE, 90),
    out_width=st.integers(8, 45), out_height=st.integers(8, 45), fit=st.sampled_from(["crop", "pad", "stretch"]),
)  # fmt: skip
@example(width=90, height=16, out_width=16, out_height=90, fit="pad")
@example(width=61, height=16, out_width=40, out_height=8, fit="pad")
@settings(max_examples=80, deadline=None)
def test_the_prepared_picture_has_the_size_that_was_asked_for(width, height, out_width, out_height, fit) -> None:
    picture = picture_of(np.full((height, width, 3), (200, 90, 17), np.uint8))
    prepared = prepare(picture, 2 * out_width, 2 * out_height, fit)
    assert prepared.pixels.shape == (2 * out_height, 2 * out_width, 3)
    assert prepared.pixels.dtype == np.uint8
    # One colour stays one colour: no black border, no overshoot at the edges.
    assert np.abs(prepared.pixels.astype(int) - (200, 90, 17)).max() <= 1


def test_cropping_keeps_the_middle_and_loses_as_much_as_it_says() -> None:
    """A ramp from 0 to 1 in x: its ends after the crop say what was cut."""
    ramp = np.repeat(np.tile(np.linspace(0, 255, 1000), (100, 1))[..., None], 3, axis=2).astype(np.uint8)
    prepared = prepare(picture_of(ramp), 200, 100, "crop")
    assert "40.0 % of its width" in prepared.fitted.en
    assert prepared.pixels[:, 0].mean() == pytest.approx(0.4 * 255, abs=1.5)
    assert prepared.pixels[:, -1].mean() == pytest.approx(0.6 * 255, abs=1.5)


def test_padding_shows_the_whole_picture_in_the_middle() -> None:
    pixels = photo_like(100, 100)
    prepared = prepare(picture_of(pixels), 200, 100, "pad")
    assert np.array_equal(prepared.pixels[:, 50:150], pixels)
    assert prepared.pixels.min() > 0


def test_a_hard_edge_rings_by_a_little_and_never_wraps_around() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = 255
    fitted = prepare(picture_of(pixels), 200, 200, "crop").pixels
    assert fitted[:, :80].max() < 40
    assert fitted[:, 120:].min() > 215


def test_preparing_is_deterministic_and_tells_where_it_came_from() -> None:
    data = png(photo_like(123, 77))
    for fit in ("crop", "pad", "stretch"):
        one, two = (prepare(open_picture(data), 64, 96, fit) for _ in range(2))
        assert np.array_equal(one.pixels, two.pixels)
        assert (one.source, one.source_format, one.source_width, one.source_height) == (data, "PNG", 123, 77)
        assert one.fitted == describe_fit(fit, 64, 96, 123, 77)


# --- requests ---


def spec(**takes: bool) -> EngineSpec:
    camera = load_presets()["camera"]
    none = Capabilities(negative_prompt=False, steps=False, guidance=False, moves_subject=False)
    return replace(camera, grid=WAN, takes=replace(none, **takes))


def request(**changes: object) -> GenerationRequest:
    plain = GenerationRequest(
        engine="camera", images=(Path("cat.png"),), prompt="a cat", motion=Motion(camera=("pan_left",)),
        origin=PromptOrigin(typed="a cat", refined="a cat", source="typed"),
        resolution="480p", width=832, height=480, fit="crop", frames=81, fps=16, seed=0,
    )  # fmt: skip
    return replace(plain, **changes)


def complaint(of: EngineSpec, /, **changes: object) -> tuple[str, str]:
    with pytest.raises(RequestError) as refusal:
        check_request(of, request(**changes))
    return refusal.value.text


def test_a_legal_request_passes() -> None:
    check_request(spec(), request())
    check_request(spec(), request(width=256, height=1280, frames=5, fps=8, seed=MAX_SEED, preset="standard"))
    check_request(
        spec(steps=True, guidance=True, negative_prompt=True), request(steps=1, guidance=1, negative_prompt="x")
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"width": 833}, "Width 833: multiples of 16 from 256 to 1280 are allowed. Choose 832 or 848."),
        ({"height": 10}, "Height 10: multiples of 16 from 256 to 1280 are allowed. Choose 256."),
        ({"width": 4000, "height": 256}, "Choose 1280."),
        ({"width": 1280, "height": 1280}, "1280 × 1280: at most 921600 pixels are allowed."),
        ({"frames": 80}, "80 frames: 4 n + 1 from 5 to 81 are allowed. Choose 77 or 81."),
        ({"frames": 1000}, "Choose 81."),
        ({"frames": 0}, "Choose 5."),
        ({"fps": 60}, "60 frames per second: 8 to 24 are allowed."),
        ({"seed": -1}, "Seed -1: 0 to 4294967295 are allowed."),
        ({"seed": 2**32}, "Seed 4294967296"),
        ({"steps": 30}, "Steps 30: the engine camera has no such setting."),
        ({"guidance": 7.5}, "Guidance 7.5: the engine camera has no such setting."),
        ({"negative_prompt": "blurry"}, "A negative prompt: the engine camera has no such setting."),
        ({"motion": Motion(camera=("pan_up",))}, "Camera move 'pan_up': pan_left, pan_right"),  # type: ignore[arg-type]
        ({"motion": Motion(speed="warp")}, "Speed 'warp': slow_motion, normal"),  # type: ignore[arg-type]
        ({"fit": "squeeze"}, "Fit 'squeeze': crop, pad, stretch are allowed."),
        ({"preset": "best"}, "Preset 'best': preview, standard, high_motion, creative are allowed."),
        ({"images": ()}, "0 pictures: this engine takes exactly one."),
        ({"images": (Path("a"), Path("b"))}, "2 pictures: this engine takes exactly one."),
        ({"engine": "wan"}, "The request is for the engine wan: this is camera."),
    ],
)
def test_a_mistake_is_told_with_what_is_allowed_and_what_to_choose(changes: dict[str, object], says: str) -> None:
    en, zh = complaint(spec(), **changes)
    assert says in en
    assert set(re.findall(r"\d+", en)) == set(re.findall(r"\d+", zh)) or "exactly one" in en


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": None},
        {"steps": 0},
        {"guidance": None},
        {"guidance": math.nan},
        {"guidance": math.inf},
        {"guidance": -1},
    ],
)
def test_an_engine_that_needs_a_setting_refuses_to_go_without_it(changes: dict[str, object]) -> None:
    engine = spec(steps=True, guidance=True)
    legal = {"steps": 30, "guidance": 5.0}
    check_request(engine, request(**legal))
    assert complaint(engine, **(legal | changes))[0].startswith(next(iter(changes)).capitalize())


def test_all_mistakes_are_told_at_once() -> None:
    en, zh = complaint(spec(), width=7, height=9, frames=2, fps=0, seed=-5, steps=3, guidance=1.0, negative_prompt="x")
    for word in (
        "Width 7",
        "Height 9",
        "2 frames",
        "0 frames per second",
        "Seed -5",
        "Steps 3",
        "Guidance 1.0",
        "negative",
    ):
        assert word in en
    assert zh.count("。") >= 8


def test_odd_sides_are_refused_where_the_grid_would_take_them() -> None:
    engine = replace(spec(), grid=ANY_EVEN)
    check_request(engine, request(width=64, height=98))
    assert "Choose 64 or 66." in complaint(engine, width=65)[0]


@given(frames=st.integers(-5, 200), width=st.integers(1, 1400), height=st.integers(1, 1400))
@settings(max_examples=200)
def test_what_is_proposed_is_legal_and_what_is_legal_is_proposed(frames: int, width: int, height: int) -> None:
    legal = fit_frames(WAN, frames)
    size = fit_size(WAN, (832, 480), width, height)
    check_request(spec(), request(frames=legal, width=size.width, height=size.height))
    if frames != legal:
        complaint(spec(), frames=frames)
