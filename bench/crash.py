"""Kills the worker, the page's process or both at random moments, and looks at what became of the jobs.

Knows the studio by its command, its job store and its files. Ends with 1 when a job was lost or doubled, a file is not
whole, or a video is not the one of an uninterrupted run. Prints the figures and writes them to
bench/results/crash.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# Run as a file, this program finds the project only now.
from i2v_pipeline.types import GenerationRequest, Motion, PromptOrigin  # noqa: E402
from i2v_pipeline.video import probe_video, read_report  # noqa: E402
from studio.jobs.folders import RESULTS, names_of_inputs  # noqa: E402
from studio.jobs.leases import GAVE_UP  # noqa: E402
from studio.jobs.store import JobStore  # noqa: E402
from studio.jobs.supervisor import is_worker  # noqa: E402
from studio.jobs.types import Job  # noqa: E402

RESULT_PATH = ROOT / "bench" / "results" / "crash.json"
OWNERS = ("ann", "bob")
TARGETS = {"worker": 0.7, "page": 0.15, "both": 0.15}
SHARES = {"camera dolly": 4, "camera orbit": 4, "wan2.2-ti2v-5b": 1, "wan2.2-i2v-a14b": 1}
"""How often each recipe is chosen. A worker takes long to import torch, and would be struck there most of the time."""
WAITING = 3
"""So many jobs are kept in the queue while the killing goes on."""
LATEST_S = 2.0
"""A blow falls up to so long after the one before, or after a job was seen being made."""
PATIENCE_S = 300.0
BEING_MADE = ("denoise", "decode", "write")
VERSIONS_OF = ("torch", "diffusers", "transformers", "numpy", "opencv-python-headless", "gradio")
T = TypeVar("T")


class Studio:
    """`app.py serve` on a data folder, as a process that may be killed and started again at any time."""

    def __init__(self, data: Path) -> None:
        self.store = JobStore(data)
        self._log = (data / "studio.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py"), "serve", "--port", str(port), "--data", str(self.store.data)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # One thread each, so that a measurement in the background leaves the machine to others.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def workers(self) -> list[psutil.Process]:
        """The live workers on this data folder, those that a killed page left behind included."""
        return [process for process in psutil.process_iter() if is_worker(process.pid, self.store.data)]

    def strike(self, target: str) -> None:
        """`kill -9`; the page is started again at once, as a service manager would."""
        assert self._process is not None
        if target != "page":
            for worker in wait_for(self.workers, "a worker"):
                worker.kill()
        if target != "worker":
            self._process.kill()
            self._process.wait()
            self.start()

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        self._log.close()


def wait_for(condition: Callable[[], T], what: str) -> T:
    """What `condition` gives once it is true. Raises `TimeoutError` after a long while."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise TimeoutError(f"waited {PATIENCE_S:.0f} s for {what}")


def camera_recipes() -> dict[str, GenerationRequest]:
    """Short videos of the engine that saves no state."""
    request = GenerationRequest(
        engine="camera",
        images=(ROOT / "examples" / "cat.jpg",),
        prompt="push in slowly",
        origin=PromptOrigin(typed="push in slowly", refined="push in slowly", source="typed"),
        motion=Motion(camera=("dolly_in",), requested=True),
        resolution="320x240",
        width=320,
        height=240,
        fit="crop",
        frames=48,
        fps=16,
        seed=7,
    )
    orbit = replace(request, motion=Motion(camera=("orbit_left",), requested=True), seed=8)
    return {"camera dolly": request, "camera orbit": orbit}


def diffusion_recipes(folder: Path, steps: int) -> dict[str, GenerationRequest]:
    """Wan with tiny random weights, one expert and two, in so many steps that a run takes a few seconds."""
    import tiny_models  # type: ignore[import-not-found]  # torch takes seconds to import, and few runs need it

    recipes: dict[str, GenerationRequest] = {}
    for engine_id in (tiny_models.WAN_5B, tiny_models.WAN_A14B):
        checkpoint = tiny_models.save_checkpoint(engine_id, folder / engine_id)
        request = tiny_models.request_for(engine_id, checkpoint, steps=steps)
        picture = folder / f"{engine_id}.png"
        Image.fromarray(tiny_models.picture_for(request).pixels).save(picture)
        recipes[engine_id] = replace(request, images=(picture,))
    return recipes


def hashes_of_whole_runs(studio: Studio, recipes: Mapping[str, GenerationRequest]) -> dict[str, str]:
    """`frames_sha256` of each recipe, made without interruption."""
    jobs = {name: studio.store.submit(request, OWNERS[0]) for name, request in recipes.items()}
    wait_for(lambda: all(current(studio, job.id).over for job in jobs.values()), "the uninterrupted runs")
    return {name: report_of(current(studio, job.id))["output"]["frames_sha256"] for name, job in jobs.items()}


class Siege:
    """Jobs come in and are struck at; `submitted` has the recipe of each by its id."""

    def __init__(self, studio: Studio, recipes: Mapping[str, GenerationRequest], chance: random.Random) -> None:
        self.studio = studio
        self.submitted: dict[str, str] = {}
        self.struck: Counter[str] = Counter()
        self.caught: Counter[str] = Counter()
        self.tried_again = 0
        self._recipes = recipes
        self._chance = chance

    def go_on(self, kills: int) -> None:
        """Strikes so often, half of the time while a job is being made, and lets the rest end in peace.

        Ctrl+C ends the striking earlier.
        """
        with contextlib.suppress(KeyboardInterrupt):
            self._strike(kills)
        wait_for(lambda: self._look_after() or self._open_jobs() == 0, "the last jobs")

    def _strike(self, kills: int) -> None:
        for number in range(1, kills + 1):
            self._look_after()
            while self._open_jobs() < WAITING:
                (name,) = self._chance.choices(list(self._recipes), [SHARES[name] for name in self._recipes])
                job = self.studio.store.submit(self._recipes[name], self._chance.choice(OWNERS))
                self.submitted[job.id] = name
            if self._chance.random() < 0.5:
                wait_for(lambda: self._look_after() or being_made(self.studio), "a job being made")
            time.sleep(self._chance.uniform(0, LATEST_S))
            target = self._chance.choices(list(TARGETS), list(TARGETS.values()))[0]
            self.caught[being_made(self.studio) or "between jobs, loading or encoding"] += 1
            self.studio.strike(target)
            self.struck[target] += 1
            if number % 10 == 0:
                print(f"{number} kills, {self._open_jobs()} of {len(self.submitted)} jobs are open", flush=True)

    def _open_jobs(self) -> int:
        return sum(not current(self.studio, job_id).over for job_id in self.submitted)

    def _look_after(self) -> None:
        """Presses "try again" on jobs that were given up, as a person would."""
        for job_id in self.submitted:
            if current(self.studio, job_id).message == GAVE_UP:
                self.studio.store.requeue(job_id)
                self.tried_again += 1


def crash(studio: Studio, recipes: Mapping[str, GenerationRequest], kills: int, seed: int) -> dict[str, Any]:
    """Strikes `kills` times, and says what was found when all jobs were over."""
    expected = hashes_of_whole_runs(studio, recipes)
    siege = Siege(studio, recipes, random.Random(seed))
    siege.go_on(kills)
    faults = []
    for job_id, name in siege.submitted.items():
        faults += faults_of(current(studio, job_id), expected[name])
    rows = {job.id for owner in OWNERS for job in studio.store.list(owner, limit=100_000)}
    folders = {folder.name for folder in studio.store.jobs_folder.iterdir()}
    if rows != folders or len(rows) != len(siege.submitted) + len(recipes):
        faults.append(f"{len(siege.submitted) + len(recipes)} jobs submitted, {len(rows)} rows, {len(folders)} folders")
    return {
        "kills": dict(siege.struck),
        "caught_in_stage": dict(siege.caught),
        "jobs": len(siege.submitted),
        "given_up_after_three_deaths_and_tried_again": siege.tried_again,
        **resumed(studio, siege.submitted),
        "faults": faults,
    }


def being_made(studio: Studio) -> str:
    """The stage of a running job whose frames or latents are being computed; empty where there is none."""
    jobs = [studio.store.get(lease.job_id) for lease in studio.store.leases()]
    stages = [job.progress.stage for job in jobs if job and job.progress and job.progress.step > 0]
    return next((stage for stage in stages if stage in BEING_MADE), "")


def faults_of(job: Job, expected_sha256: str) -> list[str]:
    """What is wrong with a job that should be done and whole."""
    if job.state != "done":
        return [f"{job.id} is {job.state}: {job.message and job.message.en}"]
    faults = []
    names = frozenset(path.name for path in job.folder.iterdir())
    if names != RESULTS | names_of_inputs(job.request):
        faults.append(f"{job.id} holds {sorted(names)}")
    report = report_of(job)
    if report != read_report(job.video_path) or report["job"] != job.id:
        faults.append(f"{job.id} has another report beside its video than inside")
    if probe_video(job.video_path).frames != job.request.frames:
        faults.append(f"{job.id} lacks frames")
    if report["output"]["frames_sha256"] != expected_sha256:
        faults.append(f"{job.id} has other frames than the uninterrupted run")
    return faults


def resumed(studio: Studio, submitted: Mapping[str, str]) -> dict[str, int]:
    """How many videos went on from a saved state, by what their reports say."""
    reports = [report_of(job) for job in (current(studio, job_id) for job_id in submitted) if job.state == "done"]
    steps = [(report["measured"]["resumed_at_step"], report["parameters"]["steps"]) for report in reports]
    return {
        "resumed_within_denoising": sum(at is not None and at < of for at, of in steps),
        "resumed_after_denoising": sum(at is not None and at == of for at, of in steps),
        "most_runs_for_one_video": max((report["measured"]["runs"] for report in reports), default=0),
    }


def report_of(job: Job) -> dict[str, Any]:
    return json.loads(job.report_path.read_text(encoding="utf-8"))


def current(studio: Studio, job_id: str) -> Job:
    job = studio.store.get(job_id)
    if job is None:
        raise LookupError(f"job {job_id} is lost")
    return job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100, help="denoising steps of the tiny Wan models")
    parser.add_argument("--out", type=Path, default=RESULT_PATH)
    arguments = parser.parse_args()
    # A shell starts what runs in the background with Ctrl+C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="crash-"))
    (folder / "data").mkdir()
    started = time.monotonic()
    studio = Studio(folder / "data")
    try:
        recipes = {**camera_recipes(), **diffusion_recipes(folder, arguments.steps)}
        studio.start()
        found = crash(studio, recipes, arguments.kills, arguments.seed)
    finally:
        studio.close()
    result = {
        "seed": arguments.seed,
        "steps_of_the_tiny_models": arguments.steps,
        **found,
        "seconds": round(time.monotonic() - started),
        "machine": {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS_OF}},
    }
    text = json.dumps(result, indent=2)
    print(text)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    if found["faults"]:
        sys.exit(f"Look at {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
