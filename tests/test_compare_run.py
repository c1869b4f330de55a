"""Whole comparisons: nine cells of a tiny model through a real worker, and the command with its folder of files."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from i2v_pipeline.presets import find_engine
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Motion
from i2v_pipeline.video import probe_video
from studio.cli import main
from studio.compare import Base, Sentence, make_sketch
from studio.comparison_files import grid_shape, table_csv, write_grid
from studio.comparison_routes import grid_of
from studio.jobs.comparisons import Axis, Comparison, Comparisons
from studio.jobs.store import JobStore
from studio.jobs.supervisor import Supervisor
from studio.jobs.types import Job
from studio.recipe import Choice, origin_of

CAT = Path(__file__).resolve().parents[1] / "examples" / "cat.jpg"
WAN = "wan2.1-i2v-14b-480p"
PATIENCE_S = 300.0
"""For nine runs and the import of everything that a model needs, on a machine that does other things, too."""


def read(text: str, spec: EngineSpec) -> Sentence:
    return Sentence(text=text, origin=origin_of(text, None), motion=Motion())


def ended(store: JobStore, comparison: Comparison) -> list[Job]:
    """The jobs of all cells, once they are over."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        jobs = [job for job in Comparisons(store).cells(comparison) if job is not None and job.over]
        if len(jobs) == len(comparison.jobs):
            return jobs
        time.sleep(0.1)
    raise AssertionError("the cells did not end")


@pytest.mark.diffusion
def test_nine_cells_of_a_model_load_it_once_encode_once_and_differ_in_what_the_axes_say(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    store = JobStore(tmp_path / "data")
    choice = Choice(checkpoint=tiny_checkpoint(WAN), device="cpu", resolution="96x64", frames=5, steps=2)
    base = Base(engine=WAN, choice=choice, prompt="a cat turns", image=CAT, image_size=(1200, 800))
    sketch = make_sketch(
        base, Axis(field="guidance", values=("1", "4", "7")), Axis(field="seed", values=("1", "2", "3")), read
    )
    comparison = Comparisons(store).submit(sketch, "me")
    with Supervisor(store):
        jobs = ended(store, comparison)
    assert [job.state for job in jobs] == ["done"] * 9, [job.message for job in jobs]
    reports = [json.loads(job.report_path.read_text(encoding="utf-8")) for job in jobs]
    assert len({report["output"]["frames_sha256"] for report in reports}) == 9
    assert [report["parameters"]["seed"] for report in reports] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [report["engine"]["guidance"] for report in reports] == [1.0, 4.0, 7.0] * 3
    # Guidance of 1 needs no negative prompt, so the second cell encodes that one; from then on all is there.
    first, second, *others = reports
    assert set(find_engine(WAN).diffusion.components) == set(first["engine"]["loaded"])
    assert second["engine"]["reused"]
    for report in others:
        assert report["engine"]["loaded"] == []
        assert len(report["engine"]["reused"]) >= len(second["engine"]["reused"])

    grid = grid_of(comparison, Comparisons(store).cells(comparison))
    write_grid(grid, tmp_path / "grid.mp4")
    info = probe_video(tmp_path / "grid.mp4")
    assert (info.width, info.height) == grid_shape(grid).size
    assert len(table_csv(grid).decode("utf-8-sig").splitlines()) == 10


def test_the_command_makes_every_cell_the_grid_and_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    options = ["--engine", "camera", "--resolution", "96x64", "--frames", "4", "--refine", "off", "--seed", "7"]
    axes = ["--x", "prompt=镜头向左摇|镜头向上摇", "--y", "preset=preview,high_motion"]
    folder = tmp_path / "compared"
    assert main(["compare", str(CAT), "猫", *options, *axes, "--out", str(folder), "--json"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert [cell["name"] for cell in told["cells"]] == [
        "row1-column1", "row1-column2", "row2-column1", "row2-column2",
    ]  # fmt: skip
    prompts = [cell["report"]["prompt"]["sent"] for cell in told["cells"]]
    assert prompts == ["镜头向左摇", "镜头向上摇"] * 2
    assert {cell["report"]["parameters"]["seed"] for cell in told["cells"]} == {7}
    assert "4 videos, about" in said.err and "The frame rates differ" in said.err
    assert probe_video(folder / "grid.mp4").frames == 6
    rows = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text(encoding="utf-8-sig"))))
    assert [row["preset"] for row in rows] == ["preview", "preview", "high_motion", "high_motion"]
    names = {f"row{row}-column{column}.{kind}" for row in (1, 2) for column in (1, 2) for kind in ("mp4", "json")}
    assert {path.name for path in folder.iterdir()} == {*names, "grid.mp4", "table.csv"}


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        (["--x", "colour=red"], "--x 'colour=red': what can differ is seed"),
        (["--x", "guidance=5,7", "--y", "steps=2,x"], "Steps x: a whole number is needed"),
        (["--x", "guidance=5,7"], "Guidance 5.0: the engine camera has no such setting"),
    ],
)
def test_the_command_refuses_what_cannot_be_compared_before_it_makes_anything(
    axes: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    folder = tmp_path / "compared"
    assert main(["compare", str(CAT), "猫", "--engine", "camera", *axes, "--out", str(folder)]) == 2
    assert told in capsys.readouterr().err
    assert not folder.exists()
