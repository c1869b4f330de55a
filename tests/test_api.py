"""`/v1/videos` as programs use it: the official client, the wire format, refusals that say what is allowed."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio_client
import openai
import pytest
from api_clients import ENDLESS, STILL, TINY, ask, client_of, data_url, error_in, http_client, picture
from gradio_client.exceptions import AppError
from hypothesis import given
from hypothesis import strategies as st
from running_studio import ROOT, RunningStudio

from i2v_pipeline.errors import InputError
from i2v_pipeline.images import open_picture
from i2v_pipeline.presets import load_presets
from i2v_pipeline.types import Aftercare, GenerationRequest, Motion, Progress, PromptOrigin, StageName
from i2v_pipeline.video import probe_video
from prompt_refiner import RefinerSettings
from studio.api.body import MAX_BODY, CreateVideo
from studio.api.wire import percent_of, status_of, video_of
from studio.jobs.store import JobStore
from studio.jobs.types import OVER, Job, JobProgress
from studio.jobs.worker import Reporter
from studio.orders import Extension, make_order, read_order
from studio.page.services import Services

# The client calls its own videos methods old; other servers speak them all the same.
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
STAGES: tuple[StageName, ...] = ("load", "encode", "denoise", "decode", "write")


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_official_client_creates_polls_downloads_and_deletes_a_video(studio: RunningStudio, tmp_path: Path) -> None:
    with client_of(studio) as client:
        created = client.videos.create(prompt=STILL, model="camera", input_reference=picture(), **TINY)
        assert (created.object, created.model, created.size, created.seconds) == ("video", "camera", "64x64", "1")
        video = client.videos.poll(created.id, poll_interval_ms=100)
        assert (video.status, video.progress, video.error) == ("completed", 100, None)
        assert video.completed_at is not None
        assert video.completed_at >= video.created_at == created.created_at

        assert video.id in [each.id for each in client.videos.list(limit=5)]
        path = tmp_path / "video.mp4"
        client.videos.download_content(video.id).write_to_file(path)
        assert probe_video(path).frames == 2
        assert client.videos.download_content(video.id, variant="thumbnail").content.startswith(b"\xff\xd8")
        report = json.loads(client.videos.download_content(video.id, variant="report").content)  # type: ignore[arg-type]
        assert report["prompt"]["sent"] == video.prompt
        assert report["parameters"]["seed"] == 7

        assert client.videos.delete(video.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.videos.retrieve(video.id)
    assert not (studio.data / "jobs" / video.id).exists()


def test_a_picture_may_come_as_a_data_url_in_a_form_and_in_json(studio: RunningStudio) -> None:
    url = data_url(picture())
    with client_of(studio) as client, http_client(studio) as http:
        form = client.videos.create(
            prompt=STILL, size="64x64", extra_body={**TINY["extra_body"], "input_reference": {"image_url": url}}
        )
        plain = {"prompt": STILL, "frames": 2, "fps": 2, "size": "64x64", "refine": "off", "guidance": None}
        answers = [
            http.post("/v1/videos", json={**plain, "input_reference": reference})
            for reference in (url, {"image_url": url})
        ]
        ids = [form.id, *(answer.json()["id"] for answer in answers)]
        for video_id in ids:
            kept = studio.data / "jobs" / video_id / "input.png"
            assert kept.read_bytes() == picture()
            client.videos.delete(video_id)


def test_a_list_goes_on_page_by_page_in_both_directions(studio: RunningStudio) -> None:
    with client_of(studio, "lister") as client:
        made = [client.videos.create(prompt=STILL, input_reference=picture(), **TINY).id for _ in range(5)]
        assert [each.id for each in client.videos.list(limit=2)] == made[::-1]
        assert [each.id for each in client.videos.list(limit=2, order="asc")] == made
        page = client.videos.list(limit=2, order="asc")
        assert (page.has_more, page.last_id) == (True, made[1])
        assert not client.videos.list(limit=5).has_more
        assert [each.id for each in client.videos.list(after=made[2], order="asc")] == made[3:]
        for video_id in made:
            client.videos.delete(video_id)
        assert client.videos.list().data == []


def test_deleting_a_running_video_stops_it_and_removes_everything(studio: RunningStudio) -> None:
    with client_of(studio) as client:
        running = client.videos.create(prompt="pan left", input_reference=picture(), **ENDLESS)
        until(lambda: client.videos.retrieve(running.id).status == "in_progress")
        waiting = client.videos.create(prompt="pan left", input_reference=picture(), **ENDLESS)
        assert waiting.status == "queued"
        for video in (waiting, running):
            assert client.videos.delete(video.id).deleted
            with pytest.raises(openai.NotFoundError):
                client.videos.retrieve(video.id)
            until(lambda video=video: not (studio.data / "jobs" / video.id).exists())
        # The worker goes on with the next one.
        after = client.videos.create(prompt=STILL, input_reference=picture(), **TINY)
        assert client.videos.poll(after.id, poll_interval_ms=100).status == "completed"


def test_a_video_that_is_not_there_yet_has_no_content_and_says_how_far_it_is(studio: RunningStudio) -> None:
    with client_of(studio) as client:
        video = client.videos.create(prompt="pan left", input_reference=picture(), **ENDLESS)
        with pytest.raises(openai.ConflictError, match="not finished"):
            client.videos.download_content(video.id)
        client.videos.delete(video.id)


def test_seconds_become_frames_and_what_could_not_be_met_exactly_is_told(studio: RunningStudio) -> None:
    with http_client(studio) as http:
        order = {"prompt": STILL, "size": "64x64", "fps": 3, "refine": "off", "input_reference": data_url(picture())}
        exact, near = (http.post("/v1/videos", json={**order, "seconds": s}).json() for s in ("2", 1.1))
        assert (exact["frames"], exact["seconds"], exact["notices"]) == (6, "2", [])
        assert (near["frames"], near["seconds"]) == (3, "1")
        assert "1.00 s, 3 frames" in near["notices"][0]
        for video in (exact, near):
            http.delete(f"/v1/videos/{video['id']}")


@pytest.mark.parametrize(
    ("fields", "status", "param", "allowed"),
    [
        ({"prompt": None}, 400, "prompt", "valid string"),
        ({"model": "sora-2"}, 400, None, "camera, i2vgen-xl"),
        ({"model": "i2vgen-xl"}, 409, None, "models download i2vgen-xl"),
        ({"size": "65x63"}, 400, None, "Choose 64 or 66"),
        ({"resolution": "999p"}, 400, None, "256p, 480p"),
        ({"size": "64x64", "resolution": "480p"}, 400, None, "one of them"),
        ({"seconds": "9999"}, 400, None, "0.04 to 25.00 s"),
        ({"seconds": 4, "frames": 8}, 400, None, "one of them"),
        ({"seconds": "soon"}, 400, "seconds", "valid number"),
        ({"frames": 601}, 400, None, "1 to 600"),
        ({"fps": 0}, 400, None, "1 to 60"),
        ({"fps": 0, "seconds": 1}, 400, None, "frames per second"),
        ({"steps": 20}, 400, None, "no such setting"),
        ({"guidance": "much"}, 400, None, "5@0-0.6"),
        ({"guidance": 5}, 400, None, "no such setting"),
        ({"seed": 2**32}, 400, None, "0 to 4294967295"),
        ({"preset": "best"}, 400, "preset", "'preview', 'standard'"),
        ({"preset": "fast"}, 400, None, "preview, standard"),
        ({"refine": "maybe"}, 400, "refine", "'auto', 'llm'"),
        ({"frames": "2", "seeds": 3, "fit": "round"}, 400, "frames", "seeds: there is no such field"),
        ({"prompt": "x" * 8001}, 400, "prompt", "8000"),
        ({"input_reference": None}, 400, "input_reference", "data URL"),
        ({"input_reference": "https://example.org/cat.png"}, 400, "input_reference", "no address is fetched"),
        ({"input_reference": {"file_id": "file-1"}}, 400, "input_reference", "file_id"),
        ({"input_reference": "data:image/png;base64,????"}, 400, "input_reference", "not base64"),
        ({"input_reference": data_url(b"%PDF-1.7")}, 422, "input_reference", "PNG, JPEG"),
        ({"input_reference": data_url(picture()[:200])}, 422, "input_reference", "damaged"),
    ],
)  # fmt: skip
def test_a_refused_request_says_what_is_allowed(
    studio: RunningStudio, fields: dict[str, Any], status: int, param: str | None, allowed: str
) -> None:
    order = {"prompt": STILL, "input_reference": data_url(picture()), **fields}
    with http_client(studio, "refused") as http:
        answer = http.post("/v1/videos", json=order)
        error = error_in(answer.content)
        assert (answer.status_code, error["param"]) == (status, param), error
        assert allowed in error["message"]
        assert not [path for path in (str(studio.data.parent), str(ROOT), "/tmp") if path in answer.text]
        assert http.get("/v1/videos").json()["data"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", "/v1/videos", b"{", {"Content_Type": "application/json"}, 400),
        ("POST", "/v1/videos", b"[" * 100_000, {"Content_Type": "application/json"}, 400),
        ("POST", "/v1/videos", b'{"prompt": "\\ud800"}', {"Content_Type": "application/json"}, 400),
        ("POST", "/v1/videos", b"--x\r\n", {"Content_Type": "multipart/form-data"}, 400),
        ("POST", "/v1/videos", b"--x\r\nnonsense", {"Content_Type": "multipart/form-data; boundary=x"}, 400),
        ("POST", "/v1/videos", b"prompt=x", {"Content_Type": "text/plain"}, 415),
        ("POST", "/v1/videos", b"", {}, 415),
        ("POST", "/v1/videos", b"", {"Content_Length": str(MAX_BODY + 1)}, 413),
        ("GET", "/v1/videos?limit=0", None, {}, 400),
        ("GET", "/v1/videos?order=up", None, {}, 400),
        ("GET", "/v1/videos?after=video_1", None, {}, 404),
        ("GET", "/v1/videos/nothing", None, {}, 404),
        ("GET", "/v1/videos/nothing/content", None, {}, 404),
        ("GET", "/v1/videos/nothing/content?variant=spritesheet", None, {}, 400),
        ("DELETE", "/v1/videos/nothing", None, {}, 404),
        ("PUT", "/v1/videos/nothing", None, {}, 405),
        ("GET", "/v1/images", None, {}, 404),
        ("GET", "/v1/", None, {}, 404),
    ],
)  # fmt: skip
def test_every_refusal_is_an_error_object(
    studio: RunningStudio, method: str, path: str, body: bytes | None, headers: dict[str, str], status: int
) -> None:
    found, answered, content = ask(studio, path, method, body, Authorization="Bearer refused", **headers)
    assert (found, error_in(content)["code"] != "") == (status, True)
    # The client would send it again by itself.
    assert answered["x-should-retry"] == "false"


def test_without_a_key_and_a_cookie_nobody_owns_anything(studio: RunningStudio) -> None:
    with http_client(studio, None) as http:
        answer = http.post("/v1/videos", json={"prompt": STILL, "input_reference": data_url(picture())})
        assert (answer.status_code, error_in(answer.content)["code"]) == (401, "invalid_api_key")


def test_the_document_tells_every_path_and_every_field(studio: RunningStudio) -> None:
    with http_client(studio, None) as http:
        document = http.get("/v1/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert document["servers"] == [{"url": "/v1"}]
    told = {path: set(methods) for path, methods in document["paths"].items()}
    assert told == {
        "/videos": {"get", "post"},
        "/videos/extensions": {"post"},
        "/videos/{video_id}": {"get", "delete"},
        "/videos/{video_id}/content": {"get"},
    }
    bodies = document["paths"]["/videos"]["post"]["requestBody"]["content"]
    for kind in ("application/json", "multipart/form-data"):
        assert set(bodies[kind]["schema"]["properties"]) == set(CreateVideo.model_fields)
    bodies = document["paths"]["/videos/extensions"]["post"]["requestBody"]["content"]
    for kind in ("application/json", "multipart/form-data"):
        assert set(bodies[kind]["schema"]["properties"]) == set(Extension.model_fields)
    answers = document["paths"]["/videos"]["post"]["responses"]
    assert set(answers) == {"200", "4XX", "5XX"}
    references = {part.partition('"')[0] for part in json.dumps(document).split('"$ref": "#/components/schemas/')[1:]}
    assert references <= set(document["components"]["schemas"])


def test_a_connection_that_ends_in_the_middle_of_a_picture_leaves_nothing(studio: RunningStudio) -> None:
    def broken() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\npan'
        raise RuntimeError

    form = {"Content-Type": "multipart/form-data; boundary=x"}
    with http_client(studio, "dropper") as http:
        with pytest.raises(RuntimeError):
            http.post("/v1/videos", content=broken(), headers=form)
        assert http.get("/v1/videos").json()["data"] == []


def test_the_readmes_program_runs_as_it_stands(
    studio: RunningStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    exec(program.replace("http://127.0.0.1:7860", studio.url), {})
    made = probe_video(tmp_path / "cat.mp4")
    assert (made.width, made.height, made.frames, made.fps) == (640, 426, 24, 12)


def test_the_readmes_curl_commands_are_answered(studio: RunningStudio) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    curl = argparse.ArgumentParser()
    curl.add_argument("url")
    curl.add_argument("-H", action="append")
    curl.add_argument("-F", action="append", default=[])
    answers = []
    for command in re.findall(r"^curl (.+)$", readme, flags=re.MULTILINE):
        asked = curl.parse_args(shlex.split(command))
        fields = dict(field.split("=", 1) for field in asked.F)
        files = {name: ROOT / value[1:] for name, value in fields.items() if value.startswith("@")}
        with http_client(studio, None) as http:
            answer = http.request(
                "POST" if fields else "GET",
                asked.url.replace("http://127.0.0.1:7860", ""),
                headers=dict(header.split(": ") for header in asked.H),
                data={name: value for name, value in fields.items() if name not in files} or None,
                files={name: path.read_bytes() for name, path in files.items()} or None,
            )
        assert answer.status_code == 200, answer.text
        answers.append(answer.json())
    created, listed = answers
    assert created["typed_prompt"] == "镜头向左摇"
    assert created["id"] in [video["id"] for video in listed["data"]]
    with client_of(studio, "me") as client:
        client.videos.delete(created["id"])


def test_gradios_client_makes_a_video_by_name_and_sees_nothing_else(studio: RunningStudio, tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(picture())
    client = gradio_client.Client(
        studio.url, headers={"Authorization": "Bearer gradio"}, verbose=False, download_files=str(tmp_path)
    )
    try:
        told = client.view_api(return_format="dict", print_info=False)
        assert set(told["named_endpoints"]) == {"/generate", "/refine", "/models"}  # type: ignore[index]
        settings = {"size": "64x64", "frames": 2, "fps": 2, "seed": 7}
        order = {
            "picture": gradio_client.handle_file(file),
            "prompt": STILL,
            "model": "camera",
            "api_name": "/generate",
        }
        video, report = client.predict(**order, refine="offline", settings=settings)
        assert probe_video(Path(video)).frames == 2
        assert report["parameters"]["seed"] == 7
        with http_client(studio, "gradio") as http:
            assert [each["id"] for each in http.get("/v1/videos").json()["data"]] == [report["job"]]

        refined = client.predict("镜头向左摇", api_name="/refine", mode="offline")
        assert refined["camera_motion"] == ["pan_left"]
        assert "camera" in [model["id"] for model in client.predict(api_name="/models")]
        with pytest.raises(AppError, match="Choose 64 or 66"):
            client.predict(**order, settings={"size": "65x64"})
        with pytest.raises(AppError, match="no such field"):
            client.predict(**order, settings={"job": "x"})
        with pytest.raises(AppError, match="auto, llm and offline"):
            client.predict("pan left", api_name="/refine", mode="off")
        text = gradio_client.handle_file(__file__)
        with pytest.raises(AppError, match="PNG, JPEG"):
            client.predict(**{**order, "picture": text})
    finally:
        client.close()


JOB = Job(
    id="x", owner="me", state="running", folder=Path("x"), created=1.0, started=2.0, finished=None, cancel_asked=False,
    progress=None, message=None, version=1,
    request=GenerationRequest(
        engine="camera", images=(), prompt="p", origin=PromptOrigin(typed="p", refined="p", source="typed"),
        motion=Motion(), resolution="64x64", width=64, height=64, fit="crop", frames=9, fps=8, seed=1,
    ),
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(range(len(STAGES))), st.integers(0, 50)), min_size=1))
def test_progress_never_goes_back_and_is_whole_only_when_the_video_is_done(moments: list[tuple[int, int]]) -> None:
    told = [
        percent_of(replace(JOB, progress=JobProgress(stage=STAGES[stage], step=step, steps=50)))
        for stage, step in sorted(moments)
    ]
    assert told == sorted(told)
    assert all(0 <= percent < 100 for percent in told)
    assert percent_of(replace(JOB, progress=JobProgress(stage="write", step=0, steps=0))) < 100
    assert percent_of(replace(JOB, state="done")) == 100


def test_a_part_of_a_model_that_is_read_between_two_steps_takes_no_progress_away(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job = store.submit(replace(JOB.request, images=(ROOT / "examples" / "cat.jpg",)), "me")
    assert store.claim(os.getpid()) is not None
    report, percents = Reporter(store, job, store.lease_of(job.id), threading.Event()), []
    moments = [("load", 0, 5), ("encode", 0, 1), ("load", 1, 5), ("encode", 1, 1), ("denoise", 3, 6), ("load", 3, 5),
               ("denoise", 3, 6), ("decode", 0, 9), ("load", 4, 5), ("decode", 1, 9)]  # fmt: skip
    for stage, step, steps in moments:
        report(Progress(stage=stage, step=step, steps=steps))
        running = store.get(job.id)
        assert running.progress is not None and running.progress.stage == stage
        percents.append(percent_of(running))
    assert percents == sorted(percents) and percents[0] < percents[4] == percents[5] < percents[-1]


def test_what_after_care_makes_of_a_video_is_what_is_told_of_it(tmp_path: Path) -> None:
    services = Services(store=JobStore(tmp_path), engines=load_presets(), refiner=RefinerSettings(), examples=())
    cat = ROOT / "examples" / "cat.jpg"
    fields = {"prompt": "p", "model": "camera", "frames": 9, "fps": 8, "refine": "off"}
    order = make_order({**fields, "double_rate": True, "ending": "boomerang"})
    request = read_order(order, [(open_picture(cat), cat)], services).request
    assert request.aftercare == Aftercare(double_rate=True, ending="boomerang")
    told = video_of(replace(JOB, request=request))
    assert (told.frames, told.fps, told.seconds) == (32, 16, "2")
    with pytest.raises(InputError, match="ending"):
        make_order({"prompt": "p", "ending": "spiral"})


@pytest.mark.parametrize("state", sorted(OVER - {"done"}))
def test_a_job_without_a_video_failed_and_says_why(state: Any) -> None:
    video = video_of(replace(JOB, state=state, finished=3.0))
    assert (video.status, video.completed_at) == ("failed", None)
    assert video.error is not None
    assert video.error.code == state
    assert video.error.message


def test_a_held_job_waits() -> None:
    held = replace(JOB, state="queued", held=True)
    assert (status_of(held), video_of(held).state) == ("queued", "paused")
