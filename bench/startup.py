"""Measures how long `app.py serve` takes to its first HTTP answer and to a page that can be used.

Knows the page by its address and by one element, `#generate`. Prints the figures and writes them to
bench/results/startup.json; ends with 1 when torch is in the page's process. Needs Chromium (CHROMIUM, or on PATH).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
RESULT_PATH = ROOT / "bench" / "results" / "startup.json"
START_TIMEOUT_S = 120.0
MIB = 2**20
GIB = 2**30


def measure_start(browser: Browser) -> dict[str, Any]:
    """One start, in seconds since the process was started; memory in MiB. Nothing of it is left afterwards."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    with tempfile.TemporaryDirectory() as folder:
        started_at = time.monotonic()
        log_path = Path(folder) / "log"
        with log_path.open("wb") as log:
            studio = psutil.Popen(
                [sys.executable, "app.py", "serve", "--port", str(port), "--data", str(Path(folder) / "data")],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for_answer(url, studio, log_path)
            first_answer_s = time.monotonic() - started_at
            first_load_s = load_page(browser, url)
            usable_s = time.monotonic() - started_at
            return {
                "first_answer_s": first_answer_s,
                "usable_page_s": usable_s,
                "first_load_s": first_load_s,
                "second_load_s": load_page(browser, url),
                "page_process_mib": studio.memory_info().rss / MIB,
                "torch_libraries_in_page_process": torch_libraries(studio),
            }
        finally:
            studio.terminate()
            studio.wait(60)


def load_page(browser: Browser, url: str) -> float:
    """Seconds from the navigation of a new tab to a Generate button that can be pressed."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    started_at = time.monotonic()
    page.goto(url)
    page.wait_for_selector("#generate:enabled, #generate button:enabled", timeout=START_TIMEOUT_S * 1000)
    seconds = time.monotonic() - started_at
    page.close()
    return seconds


def wait_for_answer(url: str, studio: psutil.Popen, log_path: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if studio.poll() is not None:
            break
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit(f"The studio did not answer:\n{log_path.read_text(encoding='utf-8', errors='replace')}")


def torch_libraries(process: psutil.Process) -> list[str]:
    """The libraries of torch that are mapped into the process. Linux tells; elsewhere psutil raises."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return []
    folder = Path(torch.origin).resolve().parent
    return sorted({Path(m.path).name for m in process.memory_maps() if Path(m.path).is_relative_to(folder)})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(browser: Browser) -> dict[str, Any]:
    return {
        "device": {
            "system": platform.platform(),
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "ram_gib": round(psutil.virtual_memory().total / GIB, 1),
        },
        "load_average_before": round(os.getloadavg()[0], 2),
        "versions": {
            "python": platform.python_version(),
            "gradio": importlib.metadata.version("gradio"),
            "chromium": browser.version,
        },
        "torch_installed": importlib.util.find_spec("torch") is not None,
    }


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        conditions = environment(browser)
        starts = [measure_start(browser) for _ in range(runs)]
        result = {
            "command": f"python bench/startup.py --runs {runs}",
            "measured": time.strftime("%Y-%m-%d"),
            **conditions,
            "median": {
                name: round(statistics.median(start[name] for start in starts), 2)
                for name, value in starts[0].items()
                if isinstance(value, float)
            },
            "starts": [
                {name: round(value, 2) if isinstance(value, float) else value for name, value in start.items()}
                for start in starts
            ],
        }
        browser.close()
    RESULT_PATH.parent.mkdir(exist_ok=True)
    RESULT_PATH.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, value in result["median"].items():
        print(f"{name:20} {value}")
    libraries = sorted({library for start in starts for library in start["torch_libraries_in_page_process"]})
    print(f"torch in the page's process: {', '.join(libraries) or 'none'} (installed: {result['torch_installed']})")
    return 1 if libraries else 0


if __name__ == "__main__":
    sys.exit(main())
