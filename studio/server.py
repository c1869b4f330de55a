"""Serves the page: checks the address, starts the workers' supervisor, runs until it is told to stop.

Never imports an engine: what is heavy runs in the worker processes, so the page stands within seconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn

from i2v_pipeline.errors import InputError
from i2v_pipeline.presets import load_presets
from i2v_pipeline.types import Text
from prompt_refiner import load_settings
from studio.housekeeping import Housekeeping
from studio.jobs.database import told
from studio.jobs.store import JobStore
from studio.jobs.supervisor import Supervisor
from studio.login import Login
from studio.shell import Shell

log = logging.getLogger("studio.server")

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANY_ADDRESS = ("0.0.0.0", "::")
HOSTS_VARIABLE = "STUDIO_HOSTS"
MAX_PORT = 65535
MAX_UPLOAD = "32mb"
CLOSE_WAIT_S = 1
"""Open streams to browsers never end by themselves; they get this long when the server stops."""

MAX_THREADS = 64
"""What waits for the disk or for a language model waits in these; Python's own number, the cores and four, is so small
that a few slow answers would hold up every open page."""
SWITCH_EVERY_S = 0.0005
"""How long a thread that computes may hold the interpreter while others wait. An event of the page takes it many
times, and each time Python's own 5 ms would count for every thread that reads an order."""

ASSETS = Path(__file__).resolve().parent / "page" / "assets"


def serve(*, host: str, port: int, auth: tuple[str, str] | None, data: Path, workers: int) -> None:
    """Serves the page until SIGINT or SIGTERM. Raises `InputError` for an address that cannot be used."""
    address = take_address(host, port, auth)
    _say(Text("Starting the studio …", "正在启动 …"))
    prepare_environment(data)
    store = JobStore(data)
    app = make_app(store, host=host, port=port, auth=auth)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    with Supervisor(store, workers), Housekeeping(store):
        try:
            _Server(host, port, app).run([address])
        finally:
            _say(
                Text(
                    "Stopping; a running job finishes its step, is saved, and goes on at the next start.",
                    "正在停止；运行中的任务会做完并保存当前一步，下次启动后继续。",
                )
            )


def take_address(host: str, port: int, auth: tuple[str, str] | None) -> socket.socket:
    """The port, held from now on. Raises `InputError` for one that is taken and for an open address without a login."""
    if host not in LOOPBACK and auth is None:
        raise InputError(
            f"--host {host}: other machines could use the studio, so a login is needed. Add --auth USER:PASS.",
            f"--host {host}：其他机器将能访问，必须设置登录。请加上 --auth 用户名:密码。",
        )
    if not 1 <= port <= MAX_PORT:
        raise InputError(
            f"--port {port}: allowed are 1 to {MAX_PORT}. Choose one of these.",
            f"--port {port}：允许 1 到 {MAX_PORT}。请选择其中之一。",
        )
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
        except OSError:
            taken.close()
            raise
    except OSError as error:
        other = port + 1 if port < MAX_PORT else port - 1
        raise InputError(
            f"Port {port} on {host} cannot be used: {error.strerror}. Choose another one: --port {other}.",
            f"无法使用 {host} 的端口 {port}：{error.strerror}。请换一个：--port {other}。",
        ) from error
    return taken


def prepare_environment(data: Path) -> None:
    """Before the page's library is imported: its files go into the data folder, and it asks nobody for news.

    Raises `DataError` where the data folder cannot be written.
    """
    uploads = data.resolve() / "uploads"
    with told():
        uploads.mkdir(parents=True, exist_ok=True)
        uploads.chmod(0o700)
    os.environ.update(
        GRADIO_TEMP_DIR=str(uploads),
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_SHARE="False",
        GRADIO_MCP_SERVER="False",
        HF_HUB_DISABLE_TELEMETRY="1",
    )


def make_app(store: JobStore, *, host: str, port: int, auth: tuple[str, str] | None) -> Shell:
    """The whole application: the page, the files' routes, and the shell around both."""
    # Takes seconds to import, and reads the environment while it does.
    import gradio as gr
    from fastapi import FastAPI

    from studio.api.routes import make_api
    from studio.comparison_routes import comparison_routes
    from studio.media import media_routes
    from studio.page.build import build
    from studio.page.services import Services, load_examples
    from studio.page.text import translations
    from studio.page.theme import make_theme

    services = Services(
        store=store,
        engines=load_presets(),
        refiner=load_settings(),
        examples=load_examples(),
    )
    app = FastAPI(routes=[*media_routes(services), *comparison_routes(services)], openapi_url=None)
    app.mount("/v1", make_api(services))
    gr.mount_gradio_app(
        app,
        build(services),
        path="/",
        server_name=host,
        server_port=port,
        allowed_paths=[],
        show_error=False,
        max_file_size=MAX_UPLOAD,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        footer_links=[],
        i18n=translations(services.engines.values()),
        theme=make_theme(),
        css_paths=[ASSETS / "style.css"],
        favicon_path=str(ASSETS / "favicon.png"),
    )
    return Shell(
        app,
        hosts=allowed_hosts(host, os.environ.get(HOSTS_VARIABLE, "")),
        login=Login(*auth) if auth else None,
        early_head=(ASSETS / "early.html").read_text(encoding="utf-8"),
    )


def allowed_hosts(host: str, more: str) -> Sequence[str]:
    """The names that a browser may call the studio by; against a foreign name that is made to point here."""
    hosts = [*LOOPBACK, host, *(name.strip() for name in more.split(",") if name.strip())]
    if host in ANY_ADDRESS:
        import psutil

        hosts += [socket.gethostname(), f"{socket.gethostname()}.local"]
        hosts += [address.address.partition("%")[0] for all_of in psutil.net_if_addrs().values() for address in all_of]
    return hosts


class _Server(uvicorn.Server):
    """Says where it is as soon as it answers there, and leaves no page waiting when it stops."""

    def __init__(self, host: str, port: int, app: Shell) -> None:
        self._shell = app
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=CLOSE_WAIT_S,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="wait"))
        sys.setswitchinterval(SWITCH_EVERY_S)
        await super().startup(sockets)
        if self.started:
            shown = "127.0.0.1" if self.config.host in ANY_ADDRESS else self.config.host
            url = f"http://[{shown}]:{self.config.port}" if ":" in shown else f"http://{shown}:{self.config.port}"
            _say(Text(f"Ready: {url}", f"已就绪：{url}"))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._shell.end_streams()
        await super().shutdown(sockets)


def _leave(*_: object) -> None:
    sys.exit(0)


def _say(text: Text) -> None:
    log.info("%s / %s", text.en, text.zh)
