"""What a video or its report gives back: the whole request, or one clear sentence; never anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_frames import moving

from i2v_pipeline import mp4
from i2v_pipeline.errors import InputError, RecipeError
from i2v_pipeline.presets import find_engine
from i2v_pipeline.recipe import MAX_REPORT_BYTES, missing_parts, read_recipe, request_from_report, save_picture
from i2v_pipeline.report import Measured, OutputFacts, Run, build_report
from i2v_pipeline.types import (
    AddedElement,
    Aftercare,
    Continuation,
    GenerationRequest,
    GuidanceSchedule,
    LoraRef,
    Motion,
    Plan,
    Prepared,
    PromptOrigin,
    Subject,
    Text,
)
from i2v_pipeline.video import finish_video, write_video

PICTURE, LAST, BEFORE = Path("first.png"), Path("last.webp"), Path("before.mp4")
REQUEST = GenerationRequest(
    engine="wan2.2-i2v-a14b",
    images=(PICTURE,),
    prompt="a rose opens, 慢慢地",
    origin=PromptOrigin(
        typed="玫瑰",
        refined="a rose opens",
        source="llm",
        provider="someone",
        model="a model",
        added_elements=(AddedElement(element="dew", kind="detail", why="morning"),),
        struck_out=(AddedElement(element="bee", kind="animal", why="life"),),
        edited=True,
    ),
    motion=Motion(camera=("pan_left", "zoom_in"), requested=True, speed="slow_motion", intensity="high"),
    resolution="480p",
    width=832,
    height=480,
    fit="pad",
    frames=33,
    fps=24,
    seed=2**32 - 1,
    negative_prompt="blurry",
    preset="creative",
    steps=12,
    guidance=(GuidanceSchedule(first=5.0, last=3.0, begin=0.1, end=0.75), 1.5),
    embed_source=False,
    scheduler="euler",
    flow_shift=3.5,
    loras=(LoraRef(source="loras/slow.safetensors", weight=-0.5, expert="low"), LoraRef(source="b.safetensors")),
    last_image=LAST,
    checkpoint=Path("models/mine"),
    device="cpu",
    precision="bf16",
    attention="sdpa",
    cache="first_block",
    continues=Continuation(video=BEFORE, frame=20),
)
"""Every field differs from its default, but for what an engine with a first picture has not, what a longer video has
not, and `compiled`, which goes with no cache."""
COMPILED = replace(REQUEST, cache="off", compiled=True)
OTHER = Path("second.jpg")
WITH_AFTERCARE = replace(REQUEST, aftercare=Aftercare(double_rate=True, ending="boomerang"), continues=None)
OF_REFERENCES = replace(
    REQUEST,
    engine="kaleido-14b-s2v",
    images=(PICTURE, OTHER),
    subjects=(Subject(name="the cat", remove_background=True), Subject(name="花")),
    fit="white",
    width=896,
    height=512,
    guidance=6.0,
    loras=(),
    last_image=None,
    continues=None,
    cache="off",
)


def picture(content: bytes = b"first", last: Prepared | None = None) -> Prepared:
    return Prepared(
        pixels=np.zeros((4, 4, 3), np.uint8),
        source=content,
        source_format="PNG",
        source_width=4,
        source_height=4,
        fitted=Text("", ""),
        last=last,
    )


def report_of(request: GenerationRequest) -> dict[str, Any]:
    """The report of a run of `request` as it comes back from a file."""
    run = Run(
        job_id="1",
        created=datetime.now(timezone.utc),
        request=request,
        spec=find_engine(request.engine),
        prepared=replace(
            picture(last=picture(b"last") if request.last_image else None),
            others=tuple(picture(image.name.encode()) for image in request.images[1:]),
        ),
        engine_facts={},
        findings=(),
        plan=Plan(
            fits=True,
            mode="",
            reason=Text("", ""),
            device="",
            peak_vram_gib=0,
            peak_ram_gib=0,
            disk_gib=0,
            stages=(),
            bound_seconds=0,
        ),
        measured=Measured(
            stage_seconds={}, wall_seconds=1, peak_ram_gib=1, ram_before_gib=1, ram_after_gib=1, attempts=[]
        ),
        output=OutputFacts(
            width=832, height=480, frames=33, fps=24, codec="h264", frames_sha256="0" * 64, aftercare={}
        ),
        quality={},
        shown_path="v.mp4",
        continuation=chain_of(request) if request.continues else None,
    )
    return json.loads(json.dumps(build_report(run, 100)))


def chain_of(request: GenerationRequest) -> dict[str, Any]:
    """Two clips: one like the request, and the request's own."""
    recipe = report_of(replace(request, continues=None))
    clip = {"created": "", "seed": 1, "prompt": "", "encoded": 1, "join": None}
    before = {"continued_at": 20, "video_sha256": "0" * 64, "video_bytes": 1, "frames_sha256": "0" * 64}
    own = dict.fromkeys((*before, "recipe"))
    return {
        "clips": [
            {**clip, **before, "job": "0", "frames": [0, 20], "recipe": recipe},
            {**clip, **own, "job": "1", "frames": [21, 52]},
        ]
    }


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("draft") / "draft.mp4"
    write_video([moving(66, 50, 4)], path, width=66, height=50, fps=8)
    return path


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[bytes], str]:
    """Reads a file with these bytes and gives the sentence that refuses it."""

    def refuse(data: bytes) -> str:
        (tmp_path / "given").write_bytes(data)
        with pytest.raises(RecipeError) as refusal:
            read_recipe(tmp_path / "given")
        return told(refusal.value)

    return refuse


def told(error: InputError) -> str:
    assert not any(word in error.text.en for word in ("Traceback", "Errno", "/", "b'", "pydantic"))
    assert any("\u4e00" <= character <= "\u9fff" for character in error.text.zh)
    return error.text.en


def as_bytes(report: Any) -> bytes:
    return json.dumps(report).encode()


# --- the way back ---


def test_every_field_of_a_request_comes_back_from_its_report() -> None:
    default_free = {each.name for each in fields(GenerationRequest)} - {"engine", "images", "subjects"}
    plain = GenerationRequest(
        engine=REQUEST.engine, images=REQUEST.images, prompt="", motion=Motion(), resolution="", width=0, height=0,
        origin=PromptOrigin(typed="", refined="", source="typed"), fit="crop", frames=0, fps=0, seed=0,
    )  # fmt: skip
    files = {"last_picture": REQUEST.last_image, "checkpoint": REQUEST.checkpoint, "continued_video": BEFORE}
    for request, usual in ((REQUEST, "compiled"), (COMPILED, "cache")):
        changed = {name for name in default_free if getattr(request, name) != getattr(plain, name)}
        assert changed == default_free - {"aftercare", usual}
        assert request_from_report(report_of(request), PICTURE, **files) == request
    del files["continued_video"]
    assert request_from_report(report_of(WITH_AFTERCARE), PICTURE, **files) == WITH_AFTERCARE != REQUEST
    assert (
        request_from_report(report_of(OF_REFERENCES), PICTURE, references=[OTHER], checkpoint=REQUEST.checkpoint)
        == OF_REFERENCES
    )


@pytest.mark.parametrize(
    "guidance",
    [1.0, 4, GuidanceSchedule(first=9.0, last=6.0), (3.5, 1.0), (2.0, GuidanceSchedule(first=2.0, last=2.0, end=0.5))],
)
def test_every_kind_of_guidance_comes_back(guidance: Any) -> None:
    request = replace(REQUEST, guidance=guidance, continues=None)
    back = request_from_report(report_of(request), PICTURE, last_picture=LAST, checkpoint=REQUEST.checkpoint)
    assert back == request


def test_a_request_of_the_camera_engine_comes_back() -> None:
    request = GenerationRequest(
        engine="camera", images=(PICTURE,), prompt="pan left", motion=Motion(camera=("pan_left",), requested=True),
        origin=PromptOrigin(typed="pan left", refined="pan left", source="typed"), resolution="160x120", width=160,
        height=120, fit="crop", frames=8, fps=8, seed=3,
    )  # fmt: skip
    assert request_from_report(report_of(request), PICTURE) == request


def test_the_pictures_come_back_from_a_video_as_they_were_given(draft: Path, tmp_path: Path) -> None:
    report = report_of(REQUEST)
    path = tmp_path / "v.mp4"
    finish_video(draft, path, make_report=lambda _: report, picture=("PNG", b"first"), last_picture=("PNG", b"last"))
    recipe = read_recipe(path)
    assert (recipe.report, recipe.picture, recipe.last_picture) == (report, ("PNG", b"first"), ("PNG", b"last"))
    assert save_picture(("PNG", b"first"), tmp_path, "input") == tmp_path / "input.png"
    assert (tmp_path / "input.png").read_bytes() == b"first"


def test_all_references_come_back_from_the_video_alone(draft: Path, tmp_path: Path) -> None:
    report, path = report_of(OF_REFERENCES), tmp_path / "v.mp4"
    second = ("PNG", OTHER.name.encode())
    finish_video(draft, path, make_report=lambda _: report, picture=("PNG", b"first"), references=[second])
    recipe = read_recipe(path)
    assert (recipe.picture, recipe.references) == (("PNG", b"first"), (second,))
    assert [missing.code for missing in missing_parts(recipe)] == ["checkpoint"]
    assert [told["name"] for told in report["references"]] == ["the cat", "花"]
    assert report["references"][0]["sha256"] == report["image"]["sha256"] != report["references"][1]["sha256"]
    (tmp_path / "r.json").write_bytes(as_bytes(report))
    assert [each.code for each in missing_parts(read_recipe(tmp_path / "r.json"))] == [
        "picture", "references", "checkpoint",
    ]  # fmt: skip


def test_references_that_are_not_the_reports_own_are_told(
    draft: Path, tmp_path: Path, refused: Callable[[bytes], str]
) -> None:
    for further in ([("PNG", b"another")], [("PNG", OTHER.name.encode())] * 2):
        finish_video(
            draft,
            tmp_path / "v.mp4",
            make_report=lambda _: report_of(OF_REFERENCES),
            picture=("PNG", b"first"),
            references=further,
        )
        assert "not the one that its report names" in refused((tmp_path / "v.mp4").read_bytes())


def test_what_a_report_does_not_hold_is_named(draft: Path, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(as_bytes(report_of(REQUEST)))
    recipe = read_recipe(tmp_path / "r.json")
    assert [missing.code for missing in missing_parts(recipe)] == ["picture", "last_picture", "checkpoint"]
    whole = replace(REQUEST, last_image=None, checkpoint=None)
    finish_video(draft, tmp_path / "v.mp4", make_report=lambda _: report_of(whole), picture=("PNG", b"first"))
    assert missing_parts(read_recipe(tmp_path / "v.mp4")) == ()


# --- what is refused ---


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"{", b'{"schema": 1', b"\xff\xfe\xfa", b'{"a": NaN}', b"[" * 100_000, b"9" * 5000, b"\x89PNG\r\n"],
)
def test_a_file_that_is_neither_json_nor_mp4_is_told(refused: Callable[[bytes], str], data: bytes) -> None:
    assert "neither a report (JSON) nor an MP4 video" in refused(data)


@pytest.mark.parametrize(
    "report", [None, 7, "text", [], {}, {"schema": "1"}, {"schema": True}, {"schema": 0}, {"prompt": {"3": {}}}]
)
def test_json_of_another_program_is_told(refused: Callable[[bytes], str], report: Any) -> None:
    assert "written by another program" in refused(as_bytes(report))


@pytest.mark.parametrize("schema", [2, 10**4000])
def test_a_report_of_a_newer_studio_is_told_as_such(refused: Callable[[bytes], str], schema: int) -> None:
    said = refused(as_bytes({"schema": schema, "recipe": "of another kind"}))
    assert "newer studio" in said
    assert len(said) < 200
    assert ("schema 2," in said) == (schema == 2)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("parameters",), None),
        (("parameters", "steps"), "12"),
        (("parameters", "steps"), 0),
        (("parameters", "width"), 10**300),
        (("parameters", "frames"), 1.5),
        (("parameters", "seed"), -1),
        (("parameters", "guidance"), [1, 2, 3]),
        (("parameters", "loras"), [{"source": 7}]),
        (("parameters", "device"), "tpu"),
        (("prompt", "sent"), 3),
        (("prompt", "motion", "camera"), ["backflip"]),
        (("engine", "id"), "../../etc"),
        (("image", "sha256"), "abc"),
        (("output", "frames_sha256"), None),
        (("continuation", "clips"), [{}]),
    ],
)
def test_a_value_that_makes_no_sense_is_told_with_its_place(
    refused: Callable[[bytes], str], place: tuple[str, ...], value: Any
) -> None:
    report = report_of(REQUEST)
    part = report
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    assert ".".join(place[:2]) in refused(as_bytes(report))
    del part[place[-1]]
    if place[-1] != "device":
        assert ".".join(place[:2]) in refused(as_bytes(report))


def test_a_number_beyond_all_numbers_is_told(refused: Callable[[bytes], str]) -> None:
    assert "parameters.loras" in refused(as_bytes(report_of(REQUEST)).replace(b'"weight": -0.5', b'"weight": 1e999'))


def test_a_setting_that_the_engine_does_not_take_is_told() -> None:
    report = report_of(REQUEST)
    report["parameters"]["width"] = 833
    with pytest.raises(InputError, match="Width 833"):
        request_from_report(report, PICTURE, last_picture=LAST)
    report["engine"]["id"] = "sora"
    with pytest.raises(InputError, match="'sora' is unknown"):
        request_from_report(report, PICTURE, last_picture=LAST)


def test_a_huge_file_and_a_deep_one_are_told(refused: Callable[[bytes], str]) -> None:
    assert "too large" in refused(b'{"schema": 1, "x": "' + b"x" * MAX_REPORT_BYTES)
    assert "another program" in refused(as_bytes({**report_of(REQUEST), "x": json.loads("[" * 500 + "]" * 500)}))


def test_an_mp4_without_a_report_or_with_another_programs_note_is_told(
    draft: Path, refused: Callable[[bytes], str]
) -> None:
    assert "no report inside" in refused(draft.read_bytes())
    for note in (b"Steps: 20, Sampler: Euler a", b'{"prompt": {"3": {"class_type": "KSampler"}}}'):
        assert "another program" in refused(with_comment(draft, note))


def test_an_mp4_that_is_cut_short_is_told(draft: Path, tmp_path: Path, refused: Callable[[bytes], str]) -> None:
    whole = finished(draft, tmp_path)
    for share in (0.01, 0.2, 0.5, 0.9, 0.999):
        said = refused(whole[: int(len(whole) * share)])
        assert "damaged" in said or "cut short" in said


def test_a_picture_that_is_not_the_reports_own_is_told(
    draft: Path, tmp_path: Path, refused: Callable[[bytes], str]
) -> None:
    assert "not the one that its report names" in refused(finished(draft, tmp_path, ("PNG", b"another")))
    assert "not the one that its report names" in refused(finished(draft, tmp_path, ("../../x", b"first")))


def test_a_missing_file_or_a_folder_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.mp4"):
        with pytest.raises(RecipeError, match="no such file"):
            read_recipe(path)


def with_comment(draft: Path, comment: bytes) -> bytes:
    target = draft.with_name("commented.mp4")
    with draft.open("rb") as source, target.open("wb") as file:
        mp4.embed(source, file, lambda _: comment, b"")
    return target.read_bytes()


def finished(draft: Path, folder: Path, stored: tuple[str, bytes] = ("PNG", b"first")) -> bytes:
    finish_video(draft, folder / "v.mp4", make_report=lambda _: report_of(REQUEST), picture=stored)
    return (folder / "v.mp4").read_bytes()


# --- any bytes at all ---


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def edited_reports(draw: st.DrawFn) -> Any:
    """A good report with some of its values, at any depth, taken away or replaced by anything."""
    report = report_of(REQUEST)
    for _ in range(draw(st.integers(1, 4))):
        part: Any = report
        while True:
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = part[key]
            if isinstance(inner, dict | list) and inner and draw(st.booleans()):
                part = inner
                continue
            part[key] = draw(json_values)
            break
    return report


def read_or_refuse(path: Path) -> None:
    try:
        recipe = read_recipe(path)
    except RecipeError as error:
        told(error)
        return
    missing_parts(recipe)
    try:
        request_from_report(recipe.report, PICTURE, last_picture=LAST, checkpoint=None)
    except InputError as error:
        assert error.text.zh


@given(data=st.binary(max_size=200) | json_values.map(as_bytes) | edited_reports().map(as_bytes))
@settings(max_examples=150, deadline=None)
def test_any_bytes_give_a_recipe_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(data)
    read_or_refuse(path)


@given(data=st.binary(max_size=100), report=json_values | edited_reports(), cut=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_any_note_in_any_mp4_gives_a_recipe_or_a_sentence(draft: Path, data: bytes, report: Any, cut: int) -> None:
    for comment in (data, as_bytes(report)):
        whole = with_comment(draft, comment)
        path = draft.with_name("any.mp4")
        path.write_bytes(whole)
        read_or_refuse(path)
        path.write_bytes(whole[: min(cut, len(whole))] + data)
        read_or_refuse(path)
