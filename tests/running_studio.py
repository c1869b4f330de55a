"""The real studio as a process of its own, and the few gestures that the browser tests share. Knows no assertion."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, Playwright

ROOT = Path(__file__).resolve().parents[1]
START_S = 60
PATIENCE_MS = 40_000
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
            return process.wait(30)
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
        children = self.process().children(recursive=True)
        return [child for child in children if "studio.jobs.worker" in child.cmdline()]

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
    page.wait_for_selector("#history .history", timeout=PATIENCE_MS)
    return page


def choose_example(page: Page, name: str, prompt: str | None = None) -> None:
    """Fills the form from an example, and waits until the plan speaks of it."""
    page.click(f"[data-example='{name}']")
    page.wait_for_selector("#plan .plan-numbers", timeout=PATIENCE_MS)
    if prompt is not None:
        page.fill("#prompt textarea", prompt)


def choose_preset(page: Page, name: str) -> None:
    page.check(f"#preset input[value='{name}']")


def submit(page: Page, button: str = "#generate") -> str:
    """Presses a button that makes a job, and returns the job's id."""
    before = page.evaluate(JOB_IN_ADDRESS)
    page.click(button)
    return wait_for_job(page, before)


def wait_for_job(page: Page, before: str | None = None) -> str:
    """The id of the job that the page shows, once it is another one than `before`."""
    found = page.wait_for_function(
        f"before => {{ const job = {JOB_IN_ADDRESS}; return job !== before && job; }}", arg=before, timeout=PATIENCE_MS
    )
    return found.json_value()


def start_long_job(page: Page) -> str:
    """A job that runs long enough to be interrupted, and is running when this returns its id."""
    choose_example(page, "coffee.jpg")
    page.click("[data-fold=advanced]")
    page.fill("#frames input[type=number]", "600")
    page.press("#frames input[type=number]", "Tab")
    page.wait_for_selector("#plan .plan-numbers:has-text('600')", timeout=PATIENCE_MS)
    job = submit(page)
    wait_for_frames(page, job)
    return job


def wait_for_frames(page: Page, job: str) -> None:
    """Waits until frames of the long job are being made."""
    page.wait_for_selector(f".status[data-of='{job}'] .step:has-text('/600')", timeout=PATIENCE_MS)


def wait_for_state(page: Page, job: str, state: str) -> None:
    page.wait_for_selector(f".status[data-of='{job}'] .state.{state}", timeout=PATIENCE_MS)


def _is_setting(name: str) -> bool:
    """Whether the variable would configure the studio or an LLM, or send its requests elsewhere."""
    return name.startswith(("I2V_", "STUDIO_", "GRADIO_")) or name.endswith(("_API_KEY", "_PROXY", "_proxy"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
