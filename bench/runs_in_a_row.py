"""Measures many runs of one tiny model in one worker process: what memory they leave behind, and what each takes.

Knows the studio through its store and its worker alone. Each run is another job: another prompt, another seed. Writes
bench/results/runs_in_a_row.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# Run as a file, this program finds the project only now.
import tiny_models  # noqa: E402  # pyright: ignore[reportMissingImports]

from i2v_pipeline.pipeline import EngineCache  # noqa: E402
from studio.jobs.store import JobStore  # noqa: E402
from studio.jobs.worker import run_job  # noqa: E402

RESULT_PATH = ROOT / "bench" / "results" / "runs_in_a_row.json"
MIB = 2**20
SETTLED = 5
"""Runs after which what is made once has been made: kernels chosen, caches of the libraries filled, arenas grown."""
GOAL_MIB_PER_RUN = 1.0
"""Runs leave an encoded prompt of 0.06 MiB each, the last 24 of them; what the process holds is seen in whole pages."""
VERSIONS_OF = ("torch", "diffusers", "transformers", "numpy")


def measure(runs: int, folder: Path, engine_id: str = tiny_models.WAN_A14B) -> list[dict[str, Any]]:
    """One row a run: resident memory after it in MiB, its seconds by stage, and what it had to load."""
    checkpoint = tiny_models.save_checkpoint(engine_id, folder / "checkpoint")
    picture = folder / "picture.png"
    Image.effect_noise((96, 64), 60).convert("RGB").save(picture)
    store, engines, stop = JobStore(folder / "data"), EngineCache(), threading.Event()
    rows: list[dict[str, Any]] = []
    for number in range(runs):
        request = tiny_models.request_for(
            engine_id, checkpoint, images=(picture,), seed=number, prompt=f"a rose opens slowly {number}"
        )
        submitted = store.submit(request, "bench")
        job = store.claim(os.getpid())
        lease = store.lease_of(submitted.id)
        assert job is not None and lease is not None
        run_job(store, job, lease, engines, stop)
        done = store.get(submitted.id)
        assert done is not None and done.state == "done", done and done.message
        report = json.loads(done.report_path.read_text(encoding="utf-8"))
        measured = report["measured"]
        rows.append(
            {
                "rss_mib": round(psutil.Process().memory_info().rss / MIB, 2),
                "seconds": measured["wall_seconds"],
                "denoise_seconds": measured["stages"]["denoise"],
                "load_seconds": measured["stages"].get("load", 0.0),
                "loaded": report["engine"]["loaded"],
            }
        )
    engines.close()
    return rows


def slope(values: Sequence[float]) -> float:
    """What each value adds to the one before, by the median of all pairs (Theil and Sen): single jumps weigh little."""
    pairs = [
        (values[later] - values[earlier]) / (later - earlier)
        for earlier in range(len(values))
        for later in range(earlier + 1, len(values))
    ]
    return statistics.median(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULT_PATH)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(arguments.runs, Path(folder))
    settled = [row["rss_mib"] for row in rows[SETTLED:]]
    later = statistics.median(row["seconds"] - row["load_seconds"] for row in rows[1:])
    first = rows[0]["seconds"] - rows[0]["load_seconds"]
    result = {
        "what": "CPU, one thread; tiny model, random weights, through the store and the worker. Not measured on a GPU.",
        "command": " ".join(["python", *sys.argv]),
        "device": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS_OF}},
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "memory": {
            "slope_mib_per_run": round(slope(settled), 3),
            "after_run": SETTLED,
            "first_and_last_mib": [settled[0], settled[-1]],
            "goal_mib_per_run": GOAL_MIB_PER_RUN,
            "reached": slope(settled) <= GOAL_MIB_PER_RUN,
        },
        "seconds_without_loading": {
            "first": round(first, 3),
            "later_median": round(later, 3),
            "reached": later <= first,
        },
        "runs": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name != "runs"}, indent=2))


if __name__ == "__main__":
    main()
