"""How the studio bears many programs at once: fifty official clients, and a page's light events meanwhile.

    python -m bench.clients [--clients 50]      writes bench/results/clients.json

Each client has a key of its own, creates one tiny video of the camera engine, waits for it and downloads it. Meanwhile
another program asks for what an open page asks: its address, its list of jobs, and the refiner's rules.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "bench" / "results" / "clients.json"
PAUSE_S = 0.05
"""Between two light events."""
START_S = 60
FIELDS: dict[str, Any] = {"size": "64x64", "frames": 8, "fps": 8, "refine": "offline"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    arguments, before = parser.parse_args(), machine()
    warnings.filterwarnings("ignore", "The Sora API", DeprecationWarning)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        studio, url = start(Path(folder) / "data", log)
        try:
            measured = asyncio.run(measure(url, arguments.clients))
        finally:
            studio.terminate()
            studio.wait()
        made = Counter(re.findall(r"studio\.worker: Job (\S+): camera", log.read_text(encoding="utf-8")))
    measured["jobs_made_more_than_once"] = sum(count > 1 for count in made.values())
    measured["jobs_made"] = len(made)
    RESULT.write_text(json.dumps({**measured, "machine": before}, indent=2) + "\n", encoding="utf-8")
    print(RESULT.read_text(encoding="utf-8"))


def start(data: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The real studio on a free port, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "app.py"), "serve", "--port", str(port), "--data", str(data)]
    studio = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log.open("wb"))
    deadline = time.monotonic() + START_S
    url = f"http://127.0.0.1:{port}"
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/studio/health", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return studio, url
    raise RuntimeError("the studio did not start")


async def measure(url: str, clients: int) -> dict[str, Any]:
    """Seconds of the crowd, and of the light events beside it and before it."""
    async with httpx2.AsyncClient(base_url=url, timeout=300, limits=httpx2.Limits(max_connections=None)) as http:
        alone = await light_events(http, stop_after(3))
        crowd = asyncio.create_task(all_clients(http, clients))
        began = time.monotonic()
        beside = await light_events(http, crowd.done)
        seconds = time.monotonic() - began
        statuses = Counter(await crowd)
    return {
        "clients": clients,
        "ended_as": dict(statuses),
        "seconds": round(seconds, 2),
        "light_event_seconds_alone": alone,
        "light_event_seconds_beside_the_crowd": beside,
    }


def stop_after(seconds: float) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() > deadline


async def all_clients(http: httpx2.AsyncClient, clients: int) -> list[str]:
    return await asyncio.gather(*(one_client(http, number) for number in range(clients)))


async def one_client(http: httpx2.AsyncClient, number: int) -> str:
    """Creates, follows and fetches one video; gives its status in the end."""
    client = openai.AsyncOpenAI(base_url=http.base_url.join("/v1/"), api_key=f"client {number}", http_client=http)
    video = await client.videos.create(
        prompt="static camera", model="camera", input_reference=picture(number), extra_body=FIELDS
    )
    video = await client.videos.poll(video.id, poll_interval_ms=500)
    content = (await client.videos.download_content(video.id)).content
    return video.status if content[4:8] == b"ftyp" else "no video"


async def light_events(http: httpx2.AsyncClient, is_over: Callable[[], bool]) -> dict[str, dict[str, float]]:
    """What an open page asks, one after another until `is_over`: median and longest seconds of each."""
    events: dict[str, Callable[[], Awaitable[Any]]] = {
        "page": lambda: http.get("/"),
        "list": lambda: http.get("/v1/videos", headers={"Authorization": "Bearer client 0"}),
        "rules": lambda: rules(http),
    }
    seconds: dict[str, list[float]] = {name: [] for name in events}
    while not is_over():
        for name, event in events.items():
            began = time.monotonic()
            await event()
            seconds[name].append(time.monotonic() - began)
            await asyncio.sleep(PAUSE_S)
    return {
        name: {
            "events": len(taken),
            "median": round(statistics.median(taken), 4),
            "p95": round(sorted(taken)[int(0.95 * (len(taken) - 1))], 4),
            "longest": round(max(taken), 4),
        }
        for name, taken in seconds.items()
    }


async def rules(http: httpx2.AsyncClient) -> None:
    """An event through Gradio's queue and back, as each of the page's is."""
    called = await http.post("/gradio_api/call/refine", json={"data": ["pan left", "camera", "offline"]})
    async with http.stream("GET", f"/gradio_api/call/refine/{called.json()['event_id']}") as answer:
        async for line in answer.aiter_lines():
            if line == "event: complete":
                return
    raise RuntimeError("the refiner's rules did not answer")


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: version(name) for name in ("gradio", "openai", "starlette", "uvicorn")},
    }


if __name__ == "__main__":
    main()
