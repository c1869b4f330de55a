"""A comparison to take along: the grid's video frame by frame, the table cell by cell, and what is the best."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_store import REQUEST

from i2v_pipeline.errors import InputError
from i2v_pipeline.video import probe_video, read_frames, write_video
from studio import comparison_files
from studio.comparison_files import MAX_SIZE, CellResult, Grid, describe_shape, grid_shape, table_csv, write_grid
from studio.jobs.comparisons import Axis
from studio.measures import METRICS, best_of, measures_of


def report_of(width: int, height: int, frames: int, fps: float, **quality: Any) -> dict[str, Any]:
    motion = {"label": "pan_left", "pan_px": -2.0, "tilt_px": 0.0, "zoom_percent": 0.0, "roll_deg": 0.0,
              "subject_px": 0.5, "smoothness": 0.9}  # fmt: skip
    measured = {
        "fps": fps, "size": [width, height], "motion": motion, "flags": [], "first_frame": {"ssim": 0.9, "delta_e": 1},
        "asked": {"pan_left": True}, "broken": False, "verdict": "Good.", "verdict_zh": "好。",
    }  # fmt: skip
    return {
        "output": {"width": width, "height": height, "frames": frames, "fps": fps},
        "measured": {"wall_seconds": 2.0},
        "quality": measured | quality,
    }


def cell(folder: Path, name: str, size: tuple[int, int], frames: int, fps: int) -> CellResult:
    """A video whose grey grows by 20 a frame, so that any frame of it can be told."""
    path = folder / f"{name}.mp4"
    greys = np.arange(frames, dtype=np.uint8) * 20 + 40
    pixels = np.broadcast_to(greys[:, None, None, None], (frames, size[1], size[0], 3))
    write_video([pixels], path, width=size[0], height=size[1], fps=fps)
    return CellResult(name=name, state="done", request=REQUEST, report=report_of(*size, frames, fps), video=path)


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    """Three videos that differ in size, length and frame rate, and one that was cancelled."""
    return Grid(
        x=Axis(field="guidance", values=("5", "7")),
        y=Axis(field="prompt", values=("猫", "=1+1")),
        cells=(
            cell(tmp_path, "a", (96, 64), 4, 8),
            cell(tmp_path, "b", (64, 96), 8, 8),
            cell(tmp_path, "c", (96, 64), 8, 4),
            CellResult(name="d", state="cancelled", request=REQUEST),
        ),
    )


def test_each_video_stands_in_its_place_at_its_own_time_and_holds_its_end(grid: Grid, tmp_path: Path) -> None:
    write_grid(grid, tmp_path / "grid.mp4")
    info, shape = probe_video(tmp_path / "grid.mp4"), grid_shape(grid)
    assert (info.codec, info.width, info.height, info.fps) == ("h264", *shape.size, 8.0)
    # The longest takes two seconds at four frames per second.
    assert info.frames == 16
    frames = np.concatenate(list(read_frames(tmp_path / "grid.mp4")))

    def grey(number: int, place: int) -> int:
        left, top = shape.corner(place)
        middle = frames[number, top + shape.strip + shape.box[1] // 2, left + shape.box[0] // 2]
        return round((float(middle.mean()) - 40) / 20)

    assert [grey(number, 0) for number in (0, 1, 3, 4, 15)] == [0, 1, 3, 3, 3]
    assert [grey(number, 1) for number in (0, 7, 8, 15)] == [0, 7, 7, 7]
    assert [grey(number, 2) for number in (0, 1, 2, 14, 15)] == [0, 0, 1, 7, 7]
    left, top = shape.corner(3)
    empty = frames[5, top + shape.strip : top + shape.strip + shape.box[1], left : left + shape.box[0]]
    assert empty.mean() < 40 and empty.max() > 90, "the word on a dark ground"


def test_headings_are_drawn_above_each_video_and_differ_where_the_values_do(grid: Grid, tmp_path: Path) -> None:
    write_grid(grid, tmp_path / "grid.mp4")
    shape, first = grid_shape(grid), next(read_frames(tmp_path / "grid.mp4"))[0]

    def strip(place: int) -> np.ndarray:
        left, top = shape.corner(place)
        return first[top : top + shape.strip, left : left + shape.box[0]].astype(int)

    assert all(strip(place).max() > 200 for place in range(4))
    line = shape.strip // 2
    assert np.abs(strip(0)[:line] - strip(2)[:line]).mean() < 3 < np.abs(strip(0)[:line] - strip(1)[:line]).max()
    assert np.abs(strip(0)[line:] - strip(2)[line:]).max() > 60


def test_what_differs_and_what_is_scaled_is_said(grid: Grid) -> None:
    told = " ".join(text.en for text in describe_shape(grid, grid_shape(grid)))
    assert all(words in told for words in ("sizes differ", "lengths differ", "frame rates differ"))
    alike = replace(grid, cells=(grid.cells[0],) * 4)
    assert describe_shape(alike, grid_shape(alike)) == []
    large = CellResult(name="e", state="done", report=report_of(1920, 1080, 4, 8))
    many = replace(grid, cells=(large,) * 4)
    shape = grid_shape(many)
    assert shape.size[0] <= MAX_SIZE[0] and shape.size[1] <= MAX_SIZE[1]
    assert "scaled to" in describe_shape(many, shape)[0].en


def test_a_heading_that_no_font_can_draw_is_numbered_instead(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison_files, "FONTS", ())
    write_grid(grid, tmp_path / "grid.mp4")
    assert comparison_files._numbered(grid, 2, 1) == "prompt 2 (see the table)"


def test_a_comparison_without_a_done_video_has_no_grid(grid: Grid, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No video of this comparison is done"):
        write_grid(replace(grid, cells=(grid.cells[3],) * 4), tmp_path / "grid.mp4")
    assert not (tmp_path / "grid.mp4").exists()


def test_the_table_has_a_row_for_each_cell_with_settings_measures_and_what_is_best(grid: Grid) -> None:
    better = report_of(96, 64, 8, 4, first_frame={"ssim": 0.95, "delta_e": 0.5}, asked={})
    broken = report_of(96, 64, 8, 4, first_frame={"ssim": 0.99, "delta_e": 0.1}, broken=True)
    cells = (grid.cells[0], replace(grid.cells[1], report=broken), replace(grid.cells[2], report=better), grid.cells[3])
    content = table_csv(replace(grid, cells=cells))
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    assert [(row["x"], row["y"], row["state"]) for row in rows] == [
        ("guidance = 5", "prompt = 猫", "done"), ("guidance = 7", "prompt = 猫", "done"),
        ("guidance = 5", "prompt = =1+1", "done"), ("guidance = 7", "prompt = =1+1", "cancelled"),
    ]  # fmt: skip
    assert [row["first_frame_ssim"] for row in rows] == ["0.9", "0.99", "0.95", ""]
    assert rows[0]["seed"] == str(REQUEST.seed)
    assert ["first_frame" in row["best"].split() for row in rows] == [False, False, True, False]
    # Two pixels of 96 a frame, eight frames a second.
    assert float(rows[0]["camera_percent_per_s"]) == pytest.approx(2 / 96 * 8 * 100, abs=1e-3)


def test_the_best_is_the_most_or_the_least_by_the_metric_and_several_where_they_are_equal() -> None:
    measures = [measures_of(report_of(96, 64, 8, 8, first_frame={"ssim": s, "delta_e": 1})) for s in (0.5, 0.9, 0.9)]
    assert best_of(METRICS["first_frame"], [*measures, None]) == {1, 2}
    assert best_of(METRICS["first_frame"], [measures[0], None]) == frozenset()
    quick = replace(measures[0], wall_seconds=1.0)
    assert best_of(METRICS["seconds"], [measures[1], quick]) == {1}
    flagged = replace(measures[1], flags=("flash",))
    assert best_of(METRICS["defects"], [flagged, measures[0]]) == {1}


def test_a_video_that_nobody_inspected_is_measured_by_its_time_alone() -> None:
    report = report_of(96, 64, 8, 8) | {"quality": {}}
    measured = measures_of(report)
    assert [name for name, metric in METRICS.items() if metric.read(measured) is not None] == ["seconds"]
