"""Several references in one order over HTTP: files of a form, data URLs in JSON, what is kept of them and refused."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from api_clients import data_url, picture
from page_handlers import Studio
from tiny_models import KALEIDO, VACE

from i2v_pipeline.pipeline import EngineCache
from i2v_pipeline.types import Subject
from i2v_pipeline.video import read_references
from studio.api.routes import make_api
from studio.jobs.store import JobStore
from studio.jobs.types import Job
from studio.jobs.worker import run_job
from studio.owners import OWNER_HEADER

pytestmark = pytest.mark.diffusion
FIRST, SECOND = picture(1), picture(2)
SMALL = {"prompt": "a rose opens", "size": "96x64", "frames": 5, "steps": 1, "refine": "off", "seed": 7}
SUBJECTS = [{"name": "the rose", "remove_background": False}, {"name": "the cat"}]


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "data")


@pytest.fixture
def post(
    store: JobStore, tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., httpx2.Response]:
    """Posts an order to the application itself; the models are here."""
    for engine_id in (KALEIDO, VACE):
        monkeypatch.setenv("STUDIO_MODELS", str(tiny_checkpoint(engine_id).parent))
    api = make_api(Studio.on(store).services)

    def send(**body: Any) -> httpx2.Response:
        async def once() -> httpx2.Response:
            transport = httpx2.ASGITransport(app=api)
            async with httpx2.AsyncClient(transport=transport, base_url="http://studio") as client:
                return await client.post("/videos", headers={OWNER_HEADER: "me"}, **body)

        return asyncio.run(once())

    return send


def kept(store: JobStore, answer: httpx2.Response) -> Job:
    assert answer.status_code == 200, answer.text
    job = store.get(answer.json()["id"])
    assert job is not None
    return job


def form_of(**fields: object) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in {**SMALL, **fields}.items()}


def test_the_files_of_a_form_are_the_references_in_their_order_and_are_made_into_a_video(store, post) -> None:
    files = [("input_reference", (name, data, "image/png")) for name, data in (("a.png", FIRST), ("b.png", SECOND))]
    job = kept(store, post(data=form_of(model=VACE, subjects=SUBJECTS), files=files))
    assert [image.name for image in job.request.images] == ["input.png", "input1.png"]
    assert [image.read_bytes() for image in job.request.images] == [FIRST, SECOND]
    assert job.request.subjects == (Subject(name="the rose"), Subject(name="the cat"))
    claimed = store.claim(1)
    assert claimed is not None and claimed.id == job.id
    run_job(store, claimed, store.lease_of(job.id), EngineCache(), threading.Event())
    done = store.get(job.id)
    assert done is not None and done.state == "done", done
    assert read_references(done.video_path) == (("PNG", SECOND),)
    names = {path.name for path in done.folder.iterdir()}
    assert {"input.png", "input1.png", "video.mp4", "report.json", "poster.jpg"} <= names
    assert "first_frame.png" not in names


def test_json_takes_a_list_of_data_urls_and_one_alone(store, post) -> None:
    urls = [data_url(FIRST), {"image_url": data_url(SECOND)}]
    job = kept(store, post(json={**SMALL, "model": KALEIDO, "input_reference": urls}))
    assert [image.read_bytes() for image in job.request.images] == [FIRST, SECOND]
    assert job.request.subjects == (Subject(), Subject()) and job.request.fit == "white"
    alone = kept(store, post(json={**SMALL, "model": KALEIDO, "input_reference": urls[0]}))
    assert len(alone.request.images) == len(alone.request.subjects) == 1


@pytest.mark.parametrize(
    ("changes", "told", "param"),
    [
        ({"input_reference": [data_url(FIRST)] * 4}, "4 reference pictures: 1 to 3 are allowed", None),
        ({"input_reference": []}, "There is no picture", "input_reference"),
        ({"subjects": [{"nickname": "x"}]}, "subjects.0.nickname", "subjects"),
        ({"subjects": [{"name": "one"}, {"name": "two"}]}, "2 subjects for 1 reference", None),
        ({"fit": "crop"}, "Fit 'crop': white are allowed", None),
        ({"model": "camera", "input_reference": [data_url(FIRST)] * 2}, "2 pictures: this engine takes exactly", None),
        ({"model": "camera", "subjects": [{"name": "x"}]}, "has no such setting", None),
    ],
)
def test_wrong_references_are_refused_with_what_is_allowed(store, post, changes, told, param) -> None:
    plain = {"prompt": "a cat", "refine": "off", "model": KALEIDO, "input_reference": data_url(FIRST)}
    answer = post(json={**plain, **changes})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert told in error["message"] and error["param"] == param
    assert store.page("me", limit=9, after=None, is_oldest_first=False) == []


def test_subjects_of_a_form_that_are_no_json_are_refused(post) -> None:
    files = [("input_reference", ("a.png", FIRST, "image/png"))]
    error = post(data=form_of(model=KALEIDO, subjects="the cat"), files=files).json()["error"]
    assert "a list in JSON is needed" in error["message"] and error["param"] == "subjects"
