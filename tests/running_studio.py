"""The real studio as a process of its own, and the few gestures that the browser tests share. Knows no assertion."""

from __future__ import annotations

import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, Playwright, Route

from i2v_pipeline.presets import load_presets
from i2v_pipeline.types import PresetName
from studio.page.services import load_examples

ROOT = Path(__file__).resolve().parents[1]
START_S = STOP_S = 180
PATIENCE_MS = 120_000
"""For whatever comes by itself sooner or later: nothing is right or wrong for being slow."""
RUN_MS = 300_000
"""For a run that loads a model, or for many videos."""
OWN_PORTS = range(20_000, 32_000)
"""Below those that the system gives to connections: of these one may be taken while a studio is away for a moment."""
LONG_SIZE = "2560x1440"
JOB_IN_ADDRESS = "new URL(location.href).searchParams.get('job')"
LAUNCH_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


class RunningStudio:
    """`app.py serve` on a free port with its own data folder. No LLM is configured but by `environment`."""

    def __init__(self, data: Path, *options: str, **environment: str) -> None:
        self.data = data
        self._options = options
        self._environment = environment
        self.log_path = data.parent / f"{data.name}.log"
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not _is_setting(name)}
        with self.log_path.open("ab") as log:
            command = [str(ROOT / "app.py"), "serve", "--port", str(self.port), "--data", str(self.data)]
            self._process = subprocess.Popen(
                [sys.executable, *command, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data.parent,
                env={**environment, **self._environment},
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._answers():
                return
            time.sleep(0.1)
        raise RuntimeError(f"the studio did not start:\n{self.log()}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Stops it as Ctrl+C does, or by another signal, and returns its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def process(self) -> psutil.Process:
        """The process that serves the page."""
        if self._process is None:
            raise RuntimeError("the studio does not run")
        return psutil.Process(self._process.pid)

    def workers(self) -> list[psutil.Process]:
        """The worker processes that are alive."""
        workers = []
        for child in self.process().children():
            with suppress(psutil.NoSuchProcess):
                workers += [child] if "studio.jobs.worker" in child.cmdline() else []
        return workers

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/studio/health")
            # With a login the studio asks for it, and stands.
            return connection.getresponse().status in (200, 401)
        except OSError:
            return False
        finally:
            connection.close()


@contextmanager
def running_studio(data: Path, *options: str, **environment: str) -> Iterator[RunningStudio]:
    """A started studio; stopped at the end."""
    studio = RunningStudio(data, *options, **environment)
    try:
        studio.start()
        yield studio
    finally:
        studio.stop()


def launch_chromium(playwright: Playwright) -> Browser:
    """The system's Chromium, or the one that CHROMIUM names."""
    program = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if program is None:
        raise RuntimeError("Chromium was not found. Install it, or name it: CHROMIUM=/path/to/chromium")
    return playwright.chromium.launch(executable_path=program, args=list(LAUNCH_ARGUMENTS))


def open_page(page: Page, url: str) -> Page:
    """Opens the studio and waits until it can be used: the history comes last, after the draft and the job."""
    page.goto(url)
    page.wait_for_selector("#history .history")
    return page


def choose_example(page: Page, name: str, prompt: str | None = None) -> None:
    """Fills the form from an example, and waits until picture and prompt are there and the plan can be made."""
    (words,) = [example.prompt for example in load_examples() if example.path.name == name]
    page.click(f"[data-example='{name}']")
    page.wait_for_selector(f"#image img[src*='{name}']")
    page.wait_for_function("words => words.includes(document.querySelector('#prompt textarea').value)", arg=[*words])
    page.wait_for_selector("#plan .plan-numbers")
    if prompt is not None:
        page.fill("#prompt textarea", prompt)


def choose_preset(page: Page, name: PresetName) -> None:
    """One of the built-in engine's, which brings frames and more."""
    frames = load_presets()["camera"].presets[name].frames
    page.check(f"#preset input[value='{name}']")
    page.wait_for_function(
        "frames => Number(document.querySelector('#frames input[type=number]').value) === frames", arg=frames
    )


@contextmanager
def held_back(page: Page) -> Iterator[None]:
    """What the page asks of the studio meanwhile arrives there at the end, in its order; no answer comes before."""
    asked: list[Route] = []
    is_over = False
    page.route("**/queue/join**", lambda route: route.continue_() if is_over else asked.append(route))
    try:
        yield
    finally:
        is_over = True
        for route in asked:
            route.fulfill(response=route.fetch())
        page.unroute("**/queue/join**")


def submit(page: Page, button: str = "#generate") -> str:
    """Presses a button that makes a job, and returns the job's id."""
    before = page.evaluate(JOB_IN_ADDRESS)
    page.click(button)
    return wait_for_job(page, before)


def wait_for_job(page: Page, before: str | None = None) -> str:
    """The id of the job that the page shows, once it is another one than `before`."""
    found = page.wait_for_function(
        f"before => {{ const job = {JOB_IN_ADDRESS}; return job !== before && job; }}", arg=before
    )
    return found.json_value()


def start_long_job(page: Page) -> str:
    """A job that runs for minutes, so that it never ends by itself, and is running when this returns its id."""
    choose_example(page, "coffee.jpg")
    page.click("[data-fold=advanced]")
    page.fill("#resolution input", LONG_SIZE)
    page.press("#resolution input", "Enter")
    page.fill("#frames input[type=number]", "600")
    page.press("#frames input[type=number]", "Tab")
    page.wait_for_selector("#plan .plan-numbers:has-text('600')")
    job = submit(page)
    wait_for_frames(page, job)
    return job


def wait_for_frames(page: Page, job: str) -> None:
    """Waits until frames of the long job are being made."""
    page.wait_for_selector(f".status[data-of='{job}'] .step:has-text('/600')")


def wait_for_state(page: Page, job: str, state: str) -> None:
    page.wait_for_selector(f".status[data-of='{job}'] .state.{state}")


def _is_setting(name: str) -> bool:
    """Whether the variable would configure the studio or an LLM, or send its requests elsewhere."""
    return name.startswith(("I2V_", "STUDIO_", "GRADIO_")) or name.endswith(("_API_KEY", "_PROXY", "_proxy"))


def _free_port() -> int:
    for port in random.sample(OWN_PORTS, len(OWN_PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")
