"""What an attacker tries: another person's job, another path, another site, a bomb, markup. The real studio."""

from __future__ import annotations

import http.client
import io
import json
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin

import httpx2
import pytest
from api_clients import ENDLESS, STILL, TINY, ask, client_of, data_url, error_in, http_client, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page, expect
from running_studio import ROOT, RunningStudio, open_page, running_studio

from i2v_pipeline.images import MAX_BYTES
from studio.jobs.store import JobStore
from studio.login import FREE_GUESSES
from studio.owners import COOKIE, OWNER_HEADER, key_owner, new_token

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
CANARY = "canary-that-nobody-may-read"
FILES = ("video.mp4", "report.json", "poster.jpg", "input", "preview.jpg")


@dataclass(frozen=True)
class Victim:
    """Somebody's finished job and one that is still to be made."""

    done: str
    unfinished: str


@pytest.fixture(scope="module")
def victim(studio: RunningStudio) -> Iterator[Victim]:
    with client_of(studio, "victim") as client:
        order = {"prompt": f"{STILL} {CANARY}", "input_reference": picture()}
        done = client.videos.poll(client.videos.create(**order, **TINY).id, poll_interval_ms=100)
        unfinished = client.videos.create(**order, **ENDLESS)
        # The others need the worker.
        JobStore(studio.data).hold(unfinished.id)
        (studio.data / "jobs" / done.id / "state.safetensors").write_text(CANARY)
        yield Victim(done=done.id, unfinished=unfinished.id)
        client.videos.delete(unfinished.id)


STRANGERS = {
    "another key": {"Authorization": "Bearer attacker"},
    "nothing": {},
    "another browser": {"Cookie": f"{COOKIE}={new_token()}"},
    "the owner's name": {OWNER_HEADER.title(): key_owner("victim")},
    "the owner's name as a key": {"Authorization": f"Bearer {key_owner('victim')}"},
    "a name beside a key": {"Authorization": "Bearer attacker", OWNER_HEADER: key_owner("victim")},
    "the key as a login": {"Authorization": "Basic dmljdGltOg=="},
}


@pytest.mark.parametrize("who", STRANGERS)
def test_nobody_sees_downloads_or_deletes_another_ones_job(studio: RunningStudio, victim: Victim, who: str) -> None:
    headers = STRANGERS[who]
    for job in (victim.done, victim.unfinished):
        reads = [f"/studio/media/{job}/{name}{more}" for name in FILES for more in ("", "?download=1")]
        reads += [f"/v1/videos/{job}", f"/v1/videos?after={job}"]
        reads += [f"/v1/videos/{job}/content?variant={variant}" for variant in ("video", "thumbnail", "report")]
        for path in reads:
            status, _, body = ask(studio, path, **headers)
            assert status in (401, 404), path
            assert CANARY.encode() not in body
        assert ask(studio, f"/v1/videos/{job}", "DELETE", **headers)[0] in (401, 404)
    assert job not in ask(studio, "/v1/videos", **headers)[2].decode()

    mine = {"Authorization": "Bearer victim"}
    assert ask(studio, f"/v1/videos/{victim.done}/content", **mine)[0] == 200
    assert json.loads(ask(studio, f"/v1/videos/{victim.unfinished}", **mine)[2])["status"] in ("queued", "in_progress")
    for name in ("video.mp4", "report.json", "poster.jpg", "input"):
        assert ask(studio, f"/studio/media/{victim.done}/{name}", **mine)[0] == 200


def test_an_answer_does_not_tell_whether_there_is_such_a_job_of_somebody_else(
    studio: RunningStudio, victim: Victim
) -> None:
    stranger = {"Authorization": "Bearer attacker"}
    for path in ("/v1/videos/{}", "/v1/videos/{}/content", "/studio/media/{}/video.mp4", "/v1/videos?after={}"):
        there, not_there = (ask(studio, path.format(job), **stranger) for job in (victim.done, "20200101-000000-0"))
        assert (there[0], there[2]) == (not_there[0], not_there[2])


WORDS = (
    "..", "...", ".", "%2e%2e", "%252e%252e", "%2f", "%5c", "\\", "%00", "~", "jobs", "data", "studio.sqlite3",
    "studio.sqlite3-wal", "state.safetensors", "input.png", "etc", "passwd", "proc", "self", "environ", "app.py",
    "presets.yaml", "uploads", "video.mp4", "C:", "file:", "{done}", "{data}", "{root}",
)  # fmt: skip
ROUTES = (
    "/studio/media/", "/studio/media/{done}/", "/studio/examples/", "/v1/videos/", "/v1/videos/{done}/content/",
    "/v1/videos/{done}/content?variant=", "/v1/videos?after=", "/gradio_api/file=", "/gradio_api/file/", "/static/",
    "/assets/", "/svelte/", "/gradio_api/custom_component/", "/gradio_api/stream/", "/gradio_api/proxy=", "/",
    "/gradio_api/upload_progress?upload_id=", "/?job=", "/pwa_icon/",
)  # fmt: skip


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    route=st.sampled_from(ROUTES),
    words=st.lists(st.sampled_from(WORDS) | st.text(max_size=6), min_size=1, max_size=7),
    between=st.sampled_from(["/", "//", "%2f", "\\", "%5c", "/./"]),
)
def test_no_path_leads_to_another_file(
    studio: RunningStudio, victim: Victim, route: str, words: list[str], between: str
) -> None:
    names = {"{done}": victim.done, "{data}": str(studio.data), "{root}": str(ROOT)}
    path = route + between.join(names.get(word, quote(word, safe="/%\\~:.")) for word in words)
    path = path.replace("{done}", victim.done)
    for key in ({}, {"Authorization": "Bearer attacker"}):
        status, headers, body = ask(studio, path, **key)
        assert status < 500, path
        for secret in (CANARY.encode(), b"SQLite format 3", b"root:x:0", b"engines:\n  camera", b"/usr/bin/env python"):
            assert secret not in body, path
        assert urljoin(f"{studio.url}/", headers.get("location", "")).startswith(f"{studio.url}/"), path


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH"])
@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/{}", "/gradio_api/upload", "/gradio_api/call/generate"])
def test_another_site_cannot_write_even_with_the_persons_own_cookie(
    studio: RunningStudio, victim: Victim, method: str, path: str
) -> None:
    path = path.format(victim.unfinished)
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{studio.port + 1}", "http://localhost"):
        assert ask(studio, path, method, b"{}", Origin=origin, Authorization="Bearer victim")[0] == 403
    assert ask(studio, path, method, b"{}", Host="evil.example", Authorization="Bearer victim")[0] == 400


def test_the_cookie_is_for_no_script_and_no_other_site_and_one_person_keeps_it(studio: RunningStudio) -> None:
    _, headers, _ = ask(studio, "/")
    value, *attributes = headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(attributes)
    assert ask(studio, "/", Cookie=value)[1]["set-cookie"].startswith(f"{value};")
    assert not ask(studio, "/")[1]["set-cookie"].startswith(value)
    assert not ask(studio, "/", Cookie=f"{COOKIE}=admin")[1]["set-cookie"].startswith(f"{COOKIE}=admin")
    for path in ("/studio/health", "/v1/openapi.json", "/config"):
        assert "set-cookie" not in ask(studio, path)[1]


# --- too much ---------------------------------------------------------------------------------------------------------


def chunks(total: int) -> Iterator[bytes]:
    """A form whose length nobody told beforehand."""
    yield b'--x\r\nContent-Disposition: form-data; name="input_reference"; filename="a.png"\r\n\r\n'
    for _ in range(total // 2**20):
        yield b"\0" * 2**20
    yield b"\r\n--x--\r\n"


@pytest.mark.parametrize("megabytes", [33, 200])
def test_too_large_an_upload_is_refused_by_the_api(studio: RunningStudio, megabytes: int) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    with http_client(studio, "large") as http:
        try:
            answer = http.post("/v1/videos", content=chunks(megabytes * 2**20), headers=form)
        except httpx2.WriteError:
            # It answered and closed before everything was sent.
            assert megabytes * 2**20 > MAX_BYTES
        else:
            assert answer.status_code in (400, 413), answer.text
        told = http.post("/v1/videos", files={"input_reference": b"\0" * (MAX_BYTES + 1)}, data={"prompt": "x"})
        assert told.status_code == 413
        assert "32 MB" in error_in(told.content)["message"]
        assert http.get("/v1/videos").json()["data"] == []


def test_too_large_an_upload_is_refused_by_the_page(studio: RunningStudio) -> None:
    before = {path for path in (studio.data / "uploads").rglob("*") if path.is_file()}
    with http_client(studio, None) as http:
        answer = http.post("/gradio_api/upload", files={"files": ("a.png", b"\0" * (MAX_BYTES + 2**20))})
    assert answer.status_code == 413
    assert {path for path in (studio.data / "uploads").rglob("*") if path.is_file()} == before


def test_a_form_of_countless_fields_or_files_is_refused(studio: RunningStudio) -> None:
    with http_client(studio, "forms") as http:
        fields = http.post("/v1/videos", data={f"field{number}": "x" for number in range(5000)}, files={"a": b""})
        files = http.post("/v1/videos", files=[("input_reference", picture()) for _ in range(50)])
    for answer in (fields, files):
        assert answer.status_code == 400
        assert "Too many" in error_in(answer.content)["message"]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + png_chunk(b"IEND", b"")


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"\0" * 10_000_000)
    return buffer.getvalue()


NOTHING = zlib.compress(b"\0" * 100_000_000, 9)
BOMBS = {
    "a png of many pixels": png(60_000, 60_000, png_chunk(b"IDAT", NOTHING)),
    "a png whose text unpacks": png(64, 64, png_chunk(b"zTXt", b"a\0\0" + NOTHING), png_chunk(b"IDAT", b"")),
    "a png whose profile unpacks": png(64, 64, png_chunk(b"iCCP", b"a\0\0" + NOTHING), png_chunk(b"IDAT", b"")),
    "a gif of many pixels": b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0;",
    "a bmp of many pixels": b"BM" + struct.pack("<IHHIIiiHH24x", 0, 0, 0, 54, 40, 60000, 60000, 1, 24),
    "a webp of many pixels": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff",
    "a zip": zipped(),
    "a page": b"<html><script>alert(1)</script></html>",
    "a drawing": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_in_words(studio: RunningStudio, bomb: str) -> None:
    with http_client(studio, "bomber") as http:
        answer = http.post("/v1/videos", json={"prompt": STILL, "input_reference": data_url(BOMBS[bomb])})
        error = error_in(answer.content)
        assert (answer.status_code, error["code"]) == (422, "picture_refused"), error
        assert http.get("/v1/videos").json()["data"] == []


# --- the page's own events, called by hand ----------------------------------------------------------------------------


def event_answer(http: httpx2.Client, path: str, body: dict[str, Any], stream: str) -> str:
    """What an event that is called past the page says in its stream."""
    joined = http.post(path, json=body)
    if joined.status_code != 200:
        return joined.text
    with http.stream("GET", stream.format(joined.json()["event_id"])) as answer:
        said = ""
        for line in answer.iter_lines():
            said += line
            if "process_completed" in line or "event: error" in line or "event: complete" in line:
                break
        return said


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
@pytest.mark.parametrize("target", ["/etc/passwd", str(ROOT / "examples" / "cat.jpg")])
def test_no_picture_is_taken_from_the_servers_own_disk(
    studio: RunningStudio, target: str, meta: dict[str, Any]
) -> None:
    with http_client(studio, "reader") as http:
        named = {"data": [{"path": target, **meta}, STILL, "camera", "preview", "off", {}]}
        said = event_answer(http, "/gradio_api/call/generate", named, "/gradio_api/call/generate/{}")
        assert "error" in said.lower()
        config = http.get("/config").json()
        components = {part["id"]: part["props"] for part in config["components"]}
        button = next(key for key, props in components.items() if props.get("elem_id") == "generate")
        event = next(each for each in config["dependencies"] if [button, "click"] in each["targets"])
        filled = {"image": {"path": target, **meta}, "prompt": STILL, "engine": "camera", "preset": "preview"}
        values = [filled.get(components[key].get("elem_id"), components[key].get("value")) for key in event["inputs"]]
        body = {"data": values, "fn_index": event["id"], "session_hash": "attacker", "trigger_id": button}
        said = event_answer(http, "/gradio_api/queue/join", body, "/gradio_api/queue/data?session_hash=attacker")
        assert '"success":false' in said.replace(" ", ""), said
        assert http.get("/v1/videos").json()["data"] == []


# --- markup -----------------------------------------------------------------------------------------------------------

MARKUP = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


@pytest.mark.browser
def test_markup_in_prompt_and_file_name_is_shown_and_not_run_and_a_stranger_sees_none_of_it(
    new_page: Callable[..., Page], studio: RunningStudio
) -> None:
    page = open_page(new_page(), studio.url)
    cookie = next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == COOKIE)
    assert COOKIE not in page.evaluate("document.cookie")
    with httpx2.Client(base_url=studio.url, cookies={COOKIE: cookie}, timeout=60) as http:
        files = {"input_reference": (f"../../{MARKUP}.html", picture(), "text/html")}
        fields = {"prompt": f"{MARKUP} {STILL}", "size": "64x64", "frames": "2", "fps": "2", "refine": "off"}
        job = http.post("/v1/videos", files=files, data=fields).json()["id"]
    assert {path.name for path in (studio.data / "jobs" / job).iterdir() if "input" in path.name} == {"input.png"}

    open_page(page, studio.url)
    page.wait_for_selector(f".status[data-of='{job}'] .state.done")
    expect(page.locator("#history .caption")).to_have_text(f"{MARKUP} {STILL}")
    expect(page.locator(".sent")).to_contain_text(MARKUP)
    assert page.evaluate("window.hacked") is None

    stranger = open_page(new_page(), f"{studio.url}/?job={job}")
    expect(stranger.locator("#status")).to_contain_text("不存在")
    expect(stranger.locator("#history li")).to_have_count(0)
    expect(stranger.locator("#cancel")).to_be_hidden()
    assert stranger.evaluate(f"fetch('/studio/media/{job}/input').then(answer => answer.status)") == 404
    new_page.complaints.clear()  # type: ignore[attr-defined]


def test_a_source_picture_that_is_left_out_is_in_no_file_that_is_given_away(studio: RunningStudio) -> None:
    marked = picture(seed=3)
    with client_of(studio, "private") as client:
        fields = {**TINY["extra_body"], "embed_source": False}
        video = client.videos.create(prompt=STILL, input_reference=marked, size="64x64", extra_body=fields)
        client.videos.poll(video.id, poll_interval_ms=100)
        for variant in ("video", "report"):
            content = client.videos.download_content(video.id, variant=variant).content  # type: ignore[arg-type]
            assert marked[60:200] not in content
            assert str(studio.data).encode() not in content


# --- with a login -----------------------------------------------------------------------------------------------------


def guess(studio: RunningStudio, source: str, authorization: str, path: str = "/v1/videos") -> tuple[int, Any, bytes]:
    """One request from another address of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=30, source_address=(source, 0))
    try:
        connection.request("GET", path, headers={"Authorization": authorization})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def has_second_loopback() -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.2", 0))
        except OSError:
            return False
    return True


def test_with_a_login_the_key_is_its_password_and_a_guesser_waits_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with running_studio(tmp_path_factory.mktemp("login") / "data", "--auth", "me:geheim") as studio:
        for path in ("/", "/v1/videos", "/v1/openapi.json", "/studio/health", "/gradio_api/info", "/config"):
            assert ask(studio, path)[0] == 401
        for key in ("geheim", "me:geheim"):
            with client_of(studio, key) as client:
                video = client.videos.create(prompt=STILL, input_reference=picture(), **TINY)
                assert client.videos.retrieve(video.id).id == video.id
        assert {job.owner for job in JobStore(studio.data).list("me")} == {"me"}

        answers = []
        while not answers or answers[-1][0] == 401:
            answers.append(guess(studio, "127.0.0.1", f"Bearer guess{len(answers)}"))
            assert len(answers) < 20
        assert answers[-1][0] == 429
        assert len(answers) > FREE_GUESSES
        assert error_in(answers[0][2])["code"] == "invalid_api_key"
        assert int({name.lower(): value for name, value in answers[-1][1].items()}["retry-after"]) >= 1
        if has_second_loopback():
            assert guess(studio, "127.0.0.2", "Bearer geheim")[0] == 200
