"""The routes that hand out a comparison to its owner: all its videos as one, and its table. Knows no page."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from i2v_pipeline.errors import StudioError
from studio.comparison_files import CellResult, Grid, table_csv, write_grid
from studio.jobs.comparisons import Comparison, Comparisons
from studio.jobs.types import Job
from studio.media import NOT_HERE
from studio.owners import owner_of
from studio.page.services import Services

GRID_NAME, TABLE_NAME = "grid.mp4", "table.csv"


def comparison_routes(services: Services) -> list[BaseRoute]:
    """`/studio/comparisons/{comparison}/grid.mp4` and `.../table.csv`, made when they are asked for."""
    comparisons = Comparisons(services.store)
    # A grid takes seconds of the whole machine. Who waits for their turn here holds no thread that others need.
    turn = asyncio.Lock()
    makers = {GRID_NAME: _video, TABLE_NAME: _table}

    async def comparison_file(request: Request) -> Response:
        owner, name = owner_of(request.headers), request.path_params["name"]
        if owner is None or name not in makers:
            return PlainTextResponse(NOT_HERE, 404)
        comparison = await asyncio.to_thread(comparisons.get, request.path_params["comparison"], owner)
        if comparison is None:
            return PlainTextResponse(NOT_HERE, 404)
        filename = f"comparison-{comparison.id}{Path(name).suffix}"
        async with turn:
            grid = await asyncio.to_thread(lambda: grid_of(comparison, comparisons.cells(comparison)))
            return await asyncio.to_thread(makers[name], grid, filename)

    return [Route("/studio/comparisons/{comparison}/{name}", comparison_file)]


def grid_of(comparison: Comparison, cells: list[Job | None]) -> Grid:
    """The comparison as its files tell it."""
    return Grid(
        x=comparison.x,
        y=comparison.y,
        cells=tuple(_cell_of(job_id, job) for job_id, job in zip(comparison.jobs, cells, strict=True)),
    )


def _table(grid: Grid, filename: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{filename}"', "Cache-Control": "no-store"}
    return Response(table_csv(grid), media_type="text/csv; charset=utf-8", headers=headers)


def _video(grid: Grid, filename: str) -> Response:
    """The file goes when it has been sent: the cells may change until somebody asks again."""
    folder = tempfile.TemporaryDirectory(prefix="grid-")
    path = Path(folder.name) / GRID_NAME
    try:
        write_grid(grid, path)
    except StudioError as error:
        folder.cleanup()
        return PlainTextResponse(f"{error.text.en}\n{error.text.zh}\n", 409)
    return FileResponse(
        path,
        media_type="video/mp4",
        filename=filename,
        headers={"Cache-Control": "no-store"},
        background=BackgroundTask(folder.cleanup),
    )


def _cell_of(job_id: str, job: Job | None) -> CellResult:
    if job is None:
        return CellResult(name=job_id, state="deleted")
    if job.state != "done":
        return CellResult(name=job_id, state=job.state, request=job.request)
    report = json.loads(job.report_path.read_text(encoding="utf-8"))
    return CellResult(name=job_id, state=job.state, request=job.request, report=report, video=job.video_path)
