"""Reference pictures on the page without a browser: from the form to the request and back, and what is said of them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from gradio.utils import get_upload_folder
from loopback_llm import KEY, Service, answer, serving
from page_handlers import CAT, FORM, Studio
from PIL import Image

from i2v_pipeline.errors import PictureError, RequestError
from i2v_pipeline.images import open_picture
from i2v_pipeline.presets import find_engine, load_presets
from i2v_pipeline.subjects import prepare_reference
from i2v_pipeline.types import GenerationRequest, Subject
from prompt_refiner import RefinerSettings
from studio.jobs.store import JobStore
from studio.page import draft
from studio.page.form import read_values, request_values, what_the_form_lacks
from studio.page.plan import plan_html
from studio.page.series import Series, read_series, request_of, requests_of
from studio.page.services import Services, load_examples
from studio.page.subjects import FIELDS, PICTURES, subject_updates, subjects_html

VACE = find_engine("wan2.1-vace-1.3b")
FLOWER, DOGS = CAT.with_name("flower.jpg"), CAT.with_name("dogs.jpg")
SUBJECTS = (Subject(name="the cat", remove_background=True), Subject(), Subject(name="花"))


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return Studio.on(JobStore(tmp_path / "data"))


def form(**changes: Any) -> dict[str, Any]:
    """The form as an event brings it: two references, one with a name, 96 x 64."""
    given = {
        "engine": VACE.id, "resolution": "96x64", "frames": 5, "fps": 16, "steps": 2, "guidance": 5,
        "prompt": "a cat sniffs at a flower", "image_2": {"path": str(FLOWER)}, "subject_1": " the cat ", "seed": "7",
    }  # fmt: skip
    return {**FORM, **given, **changes}


def values_of(**changes: Any) -> dict[str, Any]:
    return read_values(
        {name: name for name in FORM if name not in ("pictures", "each_line", "proposal")}, form(**changes)
    )


def plain(updates: dict[str, Any]) -> dict[str, Any]:
    """The values among updates."""
    return {
        name: update["value"] if isinstance(update, dict) and "__type__" in update else update
        for name, update in updates.items()
        if not isinstance(update, dict) or "value" in update
    }


def bytes_of(picture: Any) -> bytes | None:
    return None if picture is None else Path(picture).read_bytes()


def saved(folder: Path, name: str, pixels: Any) -> dict[str, str]:
    path = folder / name
    Image.fromarray(pixels).save(path)
    return {"path": str(path)}


def noise(side: int = 128) -> Any:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_every_engine_has_room_for_all_its_references() -> None:
    assert max(spec.takes.references for spec in load_presets().values()) == len(PICTURES)


def test_references_go_into_the_request_in_their_order_with_what_belongs_to_each(studio: Studio) -> None:
    request = request_of(values_of(alone_1=True), None, studio.services)
    assert request.images == (CAT, FLOWER)
    assert request.subjects == (Subject(name="the cat", remove_background=True), Subject())
    assert (request.fit, request.width, request.height) == ("white", 96, 64)
    # An empty place is no reference, and what stands beside it belongs to none.
    gap = request_of(values_of(image=None, subject_2="花"), None, studio.services)
    assert (gap.images, gap.subjects) == ((FLOWER,), (Subject(name="花"),))
    # An engine that begins with one picture knows nothing of the others.
    camera = request_of(values_of(engine="camera", resolution="480p", fps=24, frames=24), None, studio.services)
    assert (camera.images, camera.subjects, camera.fit) == ((CAT,), (), "crop")


def test_a_form_without_a_reference_is_refused_in_words(studio: Studio) -> None:
    with pytest.raises(PictureError, match="no picture yet"):
        request_of(values_of(image=None, image_2=None), None, studio.services)


def three(studio: Studio) -> GenerationRequest:
    request = request_of(values_of(image_3={"path": str(DOGS)}), None, studio.services)
    return replace(request, subjects=SUBJECTS)


def test_a_request_of_before_comes_back_with_all_references_names_and_switches(studio: Studio) -> None:
    request = three(studio)
    values = {**values_of(), **request_values(request), "image": str(request.images[0])}
    again = request_of(values, None, studio.services)
    assert (again.images, again.subjects) == (request.images, request.subjects)
    assert what_the_form_lacks(request) == []
    # One of fewer leaves nothing of the form's own behind.
    fewer = request_values(replace(request, images=request.images[:1], subjects=SUBJECTS[:1]))
    assert [fewer[field] for field in FIELDS[1:]] == [None, None, "the cat", "", "", True, False, False]


def test_the_draft_keeps_every_reference_and_no_file_that_is_none_of_the_uploads(studio: Studio) -> None:
    uploads = [studio.desk.cached(path) for path in (CAT, FLOWER, DOGS)]
    values = {**values_of(alone_3=True, subject_2="花"), **dict(zip(PICTURES, uploads, strict=True))}
    kept = draft.read(json.loads(json.dumps(draft.write(values, None))), studio.services)
    assert kept is not None
    assert {field: kept.values[field] for field in FIELDS} == {field: values[field] for field in FIELDS}
    foreign = draft.read(draft.write({**values, "image_2": str(FLOWER)}, None), studio.services)
    assert foreign is not None
    assert foreign.values["image_2"] is None
    assert draft.read(draft.write({**values, "subject_2": 5}, None), studio.services) is None


def test_a_waiting_job_is_edited_with_all_its_references(studio: Studio) -> None:
    store, request = studio.services.store, studio.open()
    job = store.submit(three(studio), "me")
    filled = plain(studio.queue.act_on_job(FORM, SimpleNamespace(act="edit", job=job.id), request))
    assert [bytes_of(filled[field]) for field in PICTURES] == [path.read_bytes() for path in (CAT, FLOWER, DOGS)]
    assert all(Path(filled[field]).is_relative_to(Path(get_upload_folder()).resolve()) for field in PICTURES)
    assert [filled[field] for field in FIELDS[3:]] == ["the cat", "", "花", True, False, False]
    # Taken out and named anew: the job has that, and nothing of what it had.
    changed = {**FORM, **filled, "image_3": None, "subject_1": "Mimi", "alone_1": False}
    changed |= {field: {"path": filled[field]} for field in PICTURES[:2]}
    changed["last_image"] = None
    edited = request_of(read_values({name: name for name in values_of()}, changed), None, studio.services)
    assert [path.read_bytes() for path in edited.images] == [CAT.read_bytes(), FLOWER.read_bytes()]
    assert edited.subjects == (Subject(name="Mimi"), Subject())


def test_a_job_lends_its_references_without_its_settings(studio: Studio) -> None:
    store = studio.services.store
    job = store.submit(three(studio), "me")
    request = studio.open(job=job.id)
    filled = plain(studio.reuse.reuse({**form(engine="camera"), "shown": job.id, "parts": ["picture"]}, request))
    assert bytes_of(filled["image_3"]) == DOGS.read_bytes()
    assert (filled["subject_3"], filled["alone_1"]) == ("花", True)
    assert "engine" not in filled


def test_moving_a_reference_takes_along_what_belongs_to_it_and_moving_it_back_undoes_it(studio: Studio) -> None:
    before = form(alone_1=True, subject_2="花")
    there = studio.form.move_reference(before, SimpleNamespace(slot="0", to="1"))
    assert there == {
        "image": str(FLOWER), "image_2": str(CAT), "subject_1": "花", "subject_2": " the cat ",
        "alone_1": False, "alone_2": True,
    }  # fmt: skip
    pictures = {field: {"path": there[field]} for field in PICTURES[:2]}
    back = studio.form.move_reference({**before, **there, **pictures}, SimpleNamespace(slot="1", to="0"))
    assert back == {**{field: before[field] for field in there}, "image": str(CAT), "image_2": str(FLOWER)}


def test_each_line_makes_a_video_of_all_references_and_more_pictures_are_refused(studio: Studio) -> None:
    values = values_of(prompt="a cat sleeps\na cat wakes")
    series = read_series(VACE, values, None, is_each_line=True)
    assert series.videos == 2
    assert [each.images for each in requests_of(values, None, series, studio.services)] == [(CAT, FLOWER)] * 2
    with pytest.raises(RequestError, match="one video of all its references"):
        requests_of(values, None, Series(pictures=(("dogs.jpg", DOGS),)), studio.services)


def test_the_preview_is_what_the_model_gets_and_follows_size_and_switch() -> None:
    def shown(**changes: Any) -> tuple[str, np.ndarray]:
        html = subjects_html(VACE, values_of(image_2=None, **changes))
        (data,) = re.findall(r"base64,([\w+/=]+)", html)
        return html, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))

    for alone, size in ((False, (96, 64)), (True, (96, 64)), (False, (64, 160))):
        html, pixels = shown(alone_1=alone, resolution="{}x{}".format(*size))
        wanted = prepare_reference(open_picture(CAT), Subject(remove_background=alone), *size).pixels
        assert pixels.shape == wanted.shape
        assert np.abs(pixels.astype(int) - wanted).mean() < 3
        assert "the cat" in html
        assert ("The background was removed" in html) is alone
    assert pixels[0, 0].min() > 250  # white above a wide picture in a tall video
    assert subjects_html(VACE, values_of(resolution="99999x99999")) == ""
    assert subjects_html(find_engine("camera"), values_of()) == ""


def test_the_card_says_white_and_no_crop_and_warns_of_what_does_not_suit(studio: Studio, tmp_path: Path) -> None:
    series = Series()
    told = plan_html(values_of(alone_1=True), None, studio.services, series)
    assert "The 2 reference pictures are each put whole on white at 96 × 64" in told
    assert "without its background: Reference 1 (the cat)" in told
    small = saved(tmp_path, "small.png", noise(20))
    warned = plan_html(values_of(image_2=small, subject_2="<i>", resolution="832x480"), None, studio.services, series)
    assert re.search(r"Reference 2 \(&lt;i&gt;\): the picture is enlarged 24\.0 times", warned)
    assert "Reference 2 (&lt;i&gt;): no clear subject stands out" in warned


def test_a_background_that_cannot_be_removed_is_refused_before_a_job_and_names_its_reference(
    studio: Studio, tmp_path: Path
) -> None:
    texture = saved(tmp_path, "texture.png", noise())
    values = values_of(image_2=texture, alone_2=True)
    with pytest.raises(PictureError, match="Reference 2: No clear subject stands out"):
        request_of(values, None, studio.services)
    shown = subjects_html(VACE, values)
    assert shown.count("<img") == 1
    assert "the background cannot be removed" in shown
    with pytest.raises(gr.Error, match="Reference 2"):
        studio.form.generate(form(image_2=texture, alone_2=True), studio.open())
    assert studio.services.store.unfinished("me") == []


def test_a_name_too_long_is_refused_in_words(studio: Studio) -> None:
    with pytest.raises(RequestError, match="name of reference 2"):
        request_of(values_of(subject_2="x" * 81), None, studio.services)


def test_an_engine_shows_the_places_that_it_takes() -> None:
    camera, vace = subject_updates(find_engine("camera")), subject_updates(VACE)
    assert [camera[field]["visible"] for field in FIELDS] == [True, *[False] * 8]
    assert all(vace[field]["visible"] for field in FIELDS)
    assert (camera["fit"]["visible"], vace["fit"]["visible"]) == (True, False)


@pytest.fixture
def llm() -> Iterator[Service]:
    with serving() as service:
        service.says(answer())
        yield service


def refined(llm: Service, data: Path, asked: dict[str, Any], act: str | None = None) -> list[dict[str, Any]]:
    """What the page shows after the refine button, or after an answer to its question."""
    url = llm.url.replace("127.0.0.1", "0.0.0.0")
    settings = RefinerSettings(provider="custom", base_url=f"{url}/v1", model="m", api_key=KEY)
    services = Services(store=JobStore(data), engines=load_presets(), refiner=settings, examples=load_examples())
    handlers = Studio(services).desk.refining

    async def run() -> list[dict[str, Any]]:
        stream = handlers.refine(asked) if act is None else handlers.answer(asked, SimpleNamespace(what=act))
        return [updates async for updates in stream]

    return asyncio.run(run())


def test_the_llm_gets_the_names_and_only_after_consent_all_the_pictures(llm: Service, tmp_path: Path) -> None:
    asked = form(subject_2="花", show_picture=False, fidelity="balanced")
    (question,) = refined(llm, tmp_path, asked)
    assert "Show all 2 pictures to the LLM" in question["refine_panel"]
    assert llm.requests == []
    refined(llm, tmp_path, asked, "no")
    refined(llm, tmp_path, asked, "yes")
    without, shown = (request.body["messages"][1]["content"] for request in llm.requests)
    assert (json.loads(without)["picture"], json.loads(without)["subjects"]) == ("none", ["the cat", "花"])
    assert json.loads(shown[0]["text"])["subjects"] == ["the cat", "花"]
    sent = [Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].split(",")[1]))) for part in shown[1:]]
    for picture, path in zip(sent, (CAT, FLOWER), strict=True):
        given = open_picture(path)
        assert abs(picture.width / picture.height - given.width / given.height) < 0.02
