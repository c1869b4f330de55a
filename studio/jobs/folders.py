"""The folder of a job: its pictures, a video it continues, its saved state, its results. Knows no row and no queue."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from i2v_pipeline.types import GenerationRequest
from studio.jobs.types import FIRST_FRAME_NAME, POSTER_NAME, REPORT_NAME, VIDEO_NAME

STATE_NAME = "state.safetensors"
RESULTS = frozenset({VIDEO_NAME, REPORT_NAME, POSTER_NAME, FIRST_FRAME_NAME})
"""What stands in the folder of a done job beside its pictures."""


def keep_inputs(request: GenerationRequest, folder: Path, *, mark: str = "") -> GenerationRequest:
    """Copies the request's pictures, and the video that it continues, into `folder`, on the disk when this returns;
    gives the request with the names.

    A file that lies in `folder` already stays as it is. `mark` keeps the copies apart from those that are there.
    """

    def keep(file: Path, place: str) -> Path:
        if file.parent == folder:
            return Path(file.name)
        target = folder / f"input{mark}{place}{file.suffix.lower()}"
        with file.open("rb") as source, target.open("xb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        return Path(target.name)

    kept = replace(
        request,
        images=tuple(keep(image, f"{index or ''}") for index, image in enumerate(request.images)),
        last_image=request.last_image and keep(request.last_image, "-last"),
        continues=request.continues and replace(request.continues, video=keep(request.continues.video, "-continued")),
    )
    sync_folder(folder)
    return kept


def with_paths(request: GenerationRequest, folder: Path) -> GenerationRequest:
    """The request that `keep_inputs` gave, with names turned into paths again."""
    return replace(
        request,
        images=tuple(folder / image for image in request.images),
        last_image=request.last_image and folder / request.last_image,
        continues=request.continues and replace(request.continues, video=folder / request.continues.video),
    )


def keep_only(folder: Path, names: frozenset[str]) -> None:
    """Removes everything in `folder` but these names; nothing happens where the folder is gone."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name in names:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def names_of_inputs(request: GenerationRequest) -> frozenset[str]:
    """The names of the files that hold the request's pictures, and the video that it continues."""
    video = None if request.continues is None else request.continues.video
    return frozenset(path.name for path in (*request.images, request.last_image, video) if path is not None)


def sync_files(folder: Path) -> None:
    """Makes the contents of the files in `folder` outlive a power cut."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def take_results(made: Path, folder: Path) -> None:
    """Moves the files of the folder `made` into `folder`; on the disk when this returns."""
    for path in made.iterdir():
        path.replace(folder / path.name)
    made.rmdir()
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` outlive a power cut. Windows does so by itself and cannot open folders."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def bytes_of(folder: Path) -> int:
    """The bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
