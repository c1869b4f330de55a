"""What a job is: its row as a frozen value, the names of its files, and the errors of the queue. Knows no database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from i2v_pipeline.errors import StudioError
from i2v_pipeline.types import GenerationRequest, StageName, Text

JobState = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
"""No job becomes `interrupted` any more: its worker's end puts it back into the queue. Rows of before keep it."""
OVER: frozenset[JobState] = frozenset({"done", "failed", "cancelled", "interrupted"})
Wish = Literal["go_on", "cancel", "pause"]
"""What a worker shall do with the job that it runs; `pause` also where the job is no longer its own."""

MAX_WAITING = 100
"""Jobs that one owner may have in the queue; far beyond a batch of pictures, far below what fills a disk."""

FOLDER_GONE = Text(
    en="The folder of this job was removed from the data folder, and its picture with it. Make a new job.",
    zh="该任务的文件夹（包括图片）已从数据文件夹中删除。请新建任务。",
)

VIDEO_NAME = "video.mp4"
REPORT_NAME = "report.json"
POSTER_NAME = "poster.jpg"
PREVIEW_NAME = "preview.jpg"
FIRST_FRAME_NAME = "first_frame.png"


class JobError(StudioError):
    """Something was asked of a job that it cannot do in its state."""


class QueueFull(JobError):  # noqa: N818 - it names the state, as `queue.Full` does
    """The owner has as many waiting jobs as are allowed."""

    def __init__(self, waiting: int, more: int) -> None:
        super().__init__(
            f"{more} more job(s), and {waiting} are waiting: {MAX_WAITING} may wait at a time. Remove some, or wait.",
            f"要加入 {more} 个任务，已有 {waiting} 个在排队：最多可排 {MAX_WAITING} 个。请移除一些，或稍后再试。",
        )


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """Where a running job stands; `previews` counts the previews written so far to `preview.jpg`.

    `saved_step` is the step from which the job would go on if its worker died now; 0 where it would begin again. `note`
    is what its owner should know of the run meanwhile. `furthest` are stage, step and steps where the run was furthest
    so far: a part of a model is loaded in the midst of later stages too. None where it is there now.
    """

    stage: StageName
    step: int
    steps: int
    seconds_left: float | None = None
    previews: int = 0
    saved_step: int = 0
    note: Text | None = None
    furthest: tuple[StageName, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row. Times are seconds since 1970; `version` grows with every change, so a watcher sees each one.

    `started` is when it was taken for the first time. `message` says why a job failed, or why one that was running
    waits again; None for done and cancelled jobs. `place` is its order among its owner's waiting jobs, smallest first;
    `held` keeps it from being taken. `ahead` is the number of jobs that will run before this one; 0 unless it is
    queued and not held. `attempts` counts the workers that died under it without getting further than the one before.
    `deleted` is when its owner removed it, None for a job that is there.
    """

    id: str
    owner: str
    state: JobState
    request: GenerationRequest
    folder: Path
    created: float
    started: float | None
    finished: float | None
    cancel_asked: bool
    progress: JobProgress | None
    message: Text | None
    version: int
    ahead: int = 0
    place: float = 0.0
    held: bool = False
    attempts: int = 0
    favourite: bool = False
    deleted: float | None = None

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def video_path(self) -> Path:
        return self.folder / VIDEO_NAME

    @property
    def report_path(self) -> Path:
        return self.folder / REPORT_NAME

    @property
    def poster_path(self) -> Path:
        return self.folder / POSTER_NAME

    @property
    def preview_path(self) -> Path:
        return self.folder / PREVIEW_NAME


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A worker's right to a running job: its process number, a token that no other lease has, and its sign of life.

    `beats` grows while the worker lives.
    """

    job_id: str
    worker: int
    token: str
    beats: int
