"""What the server answers and what it refuses: hosts, origins, logins, files. The real server, without a browser."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from api_clients import ask
from running_studio import ROOT, RunningStudio
from starlette.types import Receive, Scope, Send

from i2v_pipeline.errors import InputError
from i2v_pipeline.types import GenerationRequest, Motion, PromptOrigin
from studio.jobs.store import JobStore
from studio.jobs.types import Job
from studio.login import Login
from studio.owners import key_owner
from studio.server import allowed_hosts, take_address
from studio.shell import SECURITY_HEADERS, Shell

MINE = {"Authorization": "Bearer mine"}
HEAVY = ("torch", "diffusers", "transformers")


@pytest.fixture
def finished(studio: RunningStudio) -> Job:
    """A job that no worker will touch any more, with files of its own."""
    store = JobStore(studio.data)
    request = GenerationRequest(
        engine="camera",
        images=(ROOT / "examples" / "cat.jpg",),
        prompt="镜头向左摇",
        origin=PromptOrigin(typed="镜头向左摇", refined="镜头向左摇", source="typed"),
        motion=Motion(),
        resolution="256p",
        width=256,
        height=256,
        fit="crop",
        frames=2,
        fps=2,
        seed=1,
    )
    job = store.submit(request, key_owner("mine"))
    while store.cancel(job.id).state != "cancelled":
        # A worker was faster.
        job = store.submit(request, key_owner("mine"))
    job.video_path.write_bytes(bytes(range(200)))
    job.report_path.write_text("{}", encoding="utf-8")
    (job.folder / "state.safetensors").write_bytes(b"secret")
    return job


def test_health_is_told(studio: RunningStudio) -> None:
    status, _, body = ask(studio, "/studio/health")
    assert (status, json.loads(body)) == (200, {"ok": True})


@pytest.mark.parametrize(
    "path", ["/", "/studio/health", "/config", "/theme.css", "/studio/media/x/y", "/gradio_api/info"]
)
def test_every_answer_carries_the_security_headers(studio: RunningStudio, path: str) -> None:
    _, headers, _ = ask(studio, path)
    assert {name.lower(): value for name, value in SECURITY_HEADERS.items()}.items() <= headers.items()
    assert not [name for name in headers if name.startswith("access-control-")]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "[::2]"])
def test_a_foreign_host_name_is_refused(studio: RunningStudio, host: str) -> None:
    assert ask(studio, "/", Host=host)[0] == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:7860", "[::1]:7860"])
def test_the_own_host_names_are_answered(studio: RunningStudio, host: str) -> None:
    assert ask(studio, "/studio/health", Host=host)[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/run/predict"])
def test_another_site_cannot_write(studio: RunningStudio, origin: str, path: str) -> None:
    assert ask(studio, path, "POST", b"{}", Origin=origin)[0] == 403


def test_another_site_cannot_read(studio: RunningStudio) -> None:
    _, headers, _ = ask(studio, "/config", Origin="https://evil.example")
    assert "access-control-allow-origin" not in headers
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_the_own_page_can_write(studio: RunningStudio) -> None:
    status, _, _ = ask(
        studio, "/gradio_api/queue/join", "POST", b"{}", Origin=studio.url, Content_Type="application/json"
    )
    assert status == 422


def test_the_server_fetches_no_address_for_anybody(studio: RunningStudio) -> None:
    for path in (
        "/gradio_api/file=http://127.0.0.1:1/x",
        "/gradio_api/file=https://example.org/",
        "/gradio_api/proxy=x",
    ):
        assert ask(studio, path)[0] == 404


def test_a_job_hands_out_its_named_files_and_parts_of_them(studio: RunningStudio, finished: Job) -> None:
    base = f"/studio/media/{finished.id}"
    status, headers, body = ask(studio, f"{base}/video.mp4", **MINE)
    assert (status, headers["content-type"], body) == (200, "video/mp4", bytes(range(200)))
    status, headers, body = ask(studio, f"{base}/video.mp4", Range="bytes=10-19", **MINE)
    assert (status, headers["content-range"], body) == (206, "bytes 10-19/200", bytes(range(10, 20)))
    status, headers, body = ask(studio, f"{base}/input", **MINE)
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert body == (ROOT / "examples" / "cat.jpg").read_bytes()
    status, headers, _ = ask(studio, f"{base}/report.json?download=1", **MINE)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert headers["content-disposition"] == f'attachment; filename="{finished.id}.json"'


def test_nothing_else_is_handed_out_and_no_path_is_told(studio: RunningStudio, finished: Job) -> None:
    outside = (
        "../../studio.sqlite3",
        "..%2f..%2fstudio.sqlite3",
        "%2e%2e/%2e%2e/studio.sqlite3",
        "..\\..\\studio.sqlite3",
    )
    names = ("state.safetensors", "input.jpg", ".", "", "video.mp4/", "poster.jpg", "preview.jpg", *outside)
    paths = [f"/studio/media/{finished.id}/{name}" for name in names]
    paths += [f"/studio/media/{job}/video.mp4" for job in ("..", "%2e%2e", "x", "%00", "../jobs/" + finished.id)]
    paths += [f"/studio/examples/{name}" for name in ("CREDITS.md", "../presets.yaml", "..%2fpresets.yaml", "x")]
    paths += [f"/gradio_api/file={path}" for path in (studio.data / "studio.sqlite3", "/etc/passwd", ROOT / "app.py")]
    for path in paths:
        status, _, body = ask(studio, path, **MINE)
        assert status in (403, 404), path
        assert b"Traceback" not in body
        # Gradio repeats a path that it was asked for.
        assert str(studio.data).encode() not in body.replace(path.partition("file=")[2].encode() or b"-", b""), path


def test_the_page_process_holds_nothing_heavy_and_no_engine(studio: RunningStudio) -> None:
    code = (
        "import sys, studio.server as s\n"
        "from pathlib import Path\n"
        "from studio.jobs.store import JobStore\n"
        "data = Path(sys.argv[1]); s.prepare_environment(data)\n"
        "s.make_app(JobStore(data), host='127.0.0.1', port=7860, auth=None)\n"
        f"held = [n for n in sys.modules if n.split('.')[0] in {HEAVY!r} or n.startswith('i2v_pipeline.engines')]\n"
        "print(held)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(studio.data.parent / "other")],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert found.stdout.strip() == "[]"


def test_uploads_lie_in_a_private_folder_of_the_data(studio: RunningStudio) -> None:
    assert (studio.data / "uploads").stat().st_mode & 0o777 == 0o700


def test_the_page_process_opens_no_connection_to_anybody_else(studio: RunningStudio) -> None:
    ask(studio, "/config")
    connections = [c for c in studio.process().net_connections("inet") if c.raddr]
    assert [c.raddr for c in connections if c.raddr.ip not in ("127.0.0.1", "::1")] == []


def test_an_open_address_needs_a_login() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.org"):
        with pytest.raises(InputError, match="--auth"):
            take_address(host, 7860, None)


def test_a_taken_port_is_told_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"Port {port} .*--port {port + 1}") as told:
            take_address("127.0.0.1", port, None)
    assert f"--port {port + 1}" in told.value.text.zh


@pytest.mark.parametrize("port", [0, -1, 65536, 80000])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(InputError, match="1 to 65535"):
        take_address("127.0.0.1", port, None)


def test_the_hosts_are_the_loopback_the_address_itself_and_those_that_were_named() -> None:
    assert set(allowed_hosts("127.0.0.1", "")) == {"127.0.0.1", "localhost", "::1"}
    assert {"192.0.2.7", "studio.example"} <= set(allowed_hosts("192.0.2.7", " studio.example ,"))
    assert socket.gethostname() in allowed_hosts("0.0.0.0", "")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": b"<html><head></head></html>"})


def through_shell(shell: Shell, path: str = "/x", **headers: str) -> tuple[int, bytes]:
    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    async def receive() -> dict:
        return {"type": "http.request"}

    raw = [(name.encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": raw, "query_string": b""}
    asyncio.run(shell(scope, receive, send))  # type: ignore[arg-type]
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def login(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_with_a_login_every_path_asks_for_it() -> None:
    shell = Shell(echo, hosts=["localhost"], login=Login("me", "geheim:ü"), early_head="")
    for path in ("/", "/theme.css", "/studio/health", "/gradio_api/startup-events", "/v1/videos", "/v1/openapi.json"):
        assert through_shell(shell, path)[0] == 401
    for right in (login("me", "geheim:ü"), "Bearer geheim:ü", "Bearer me:geheim:ü", "bearer  geheim:ü"):
        assert through_shell(shell, authorization=right)[0] == 200
    for authorization in (login("me", "geheim"), "Basic ???", "Basic geheim:ü", "Bearer me", "Digest geheim:ü"):
        assert through_shell(shell, authorization=authorization)[0] == 401


def test_a_server_that_stops_ends_its_streams_whole() -> None:
    sent: list[dict] = []

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1", "more_body": True})
        await asyncio.Event().wait()

    async def note(message: dict) -> None:
        sent.append(message)

    async def stop_it() -> None:
        shell = Shell(endless, hosts=None, login=None, early_head="")
        scope = {"type": "http", "method": "GET", "path": "/x", "headers": [], "query_string": b""}
        stream = asyncio.create_task(shell(scope, None, note))  # type: ignore[arg-type]
        while len(sent) < 2:
            await asyncio.sleep(0)
        shell.end_streams()
        await asyncio.wait_for(stream, 1)

    asyncio.run(stop_it())
    assert not sent[-1].get("more_body", False)


@pytest.mark.parametrize("fault", [KeyError, RuntimeError])
def test_a_fault_of_a_stream_is_one_only_while_somebody_listens(fault: type[Exception]) -> None:
    """Gradio looks for the session of a page that has left, and does not always find it."""

    async def forgets(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await receive()
        raise fault("session")

    async def serve(said: str) -> None:
        async def receive() -> dict[str, str]:
            return {"type": said}

        async def send(message: object) -> None:
            pass

        shell = Shell(forgets, hosts=None, login=None, early_head="")
        await shell({"type": "http", "path": "/stream", "method": "GET", "headers": []}, receive, send)

    asyncio.run(serve("http.disconnect"))
    with pytest.raises(fault):
        asyncio.run(serve("http.request"))


def test_the_early_head_comes_before_everything_else() -> None:
    shell = Shell(echo, hosts=None, login=None, early_head="<script>1</script>")
    assert through_shell(shell, "/")[1] == b"<html><head><script>1</script></head></html>"
    assert through_shell(shell, "/other")[1] == b"<html><head></head></html>"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_server_and_workers_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    own = RunningStudio(tmp_path / "data")
    own.start()
    process = own.process()
    deadline = time.monotonic() + 20
    while not own.workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = own.workers()
    assert workers
    assert own.stop(number) == 0
    psutil.wait_procs(workers, timeout=5)
    assert not any(worker.is_running() for worker in workers)
    assert not process.is_running()
    assert "Traceback" not in own.log()
