"""The objects of the wire format, and how a job looks in them. Knows no route and no store."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from i2v_pipeline.aftercare.length import length_of
from i2v_pipeline.types import StageName, Text
from studio.jobs.types import Job

Status = Literal["queued", "in_progress", "completed", "failed"]
Variant = Literal["video", "thumbnail", "report"]

# Percent of a run at which each stage begins: most of a run is denoising, and with the camera engine decoding.
# The furthest place of a run counts, so the number never goes back.
_BEGINS = {"load": 0, "encode": 5, "denoise": 10, "decode": 60, "write": 95}
_ENDS = {"load": 5, "encode": 10, "denoise": 60, "decode": 95, "write": 99}


class VideoError(BaseModel):
    """Why there is no video: `failed`, `cancelled` or `interrupted`, and the sentence for it."""

    code: str
    message: str
    message_zh: str


class ErrorFacts(BaseModel):
    """What was wrong, in both languages; `param` is the field that it is about."""

    message: str
    message_zh: str
    type: str
    code: str
    param: str | None


class ErrorAnswer(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorFacts


class Video(BaseModel):
    """A job. Up to `error` as every video server has it; the rest is the studio's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    object: Literal["video"] = "video"
    status: Status
    progress: int = Field(description="Percent, over all stages; 100 only once the video stands there whole.")
    created_at: int
    completed_at: int | None
    expires_at: int | None = Field(default=None, description="Videos do not expire.")
    model: str
    prompt: str = Field(description="As it is sent to the engine.")
    seconds: str
    size: str
    remixed_from_video_id: str | None = None
    error: VideoError | None = None

    state: str = Field(description="The job's own state, finer than status.")
    stage: StageName | None = None
    step: int | None = None
    steps_of_stage: int | None = None
    seconds_left: float | None = None
    ahead: int = Field(default=0, description="Jobs that will run before this one.")
    typed_prompt: str
    preset: str | None
    frames: int
    fps: int
    seed: int
    continues_at_frame: int | None = Field(
        default=None, description="The last frame of an earlier video that this one keeps; what follows is new."
    )
    notices: list[str] = Field(
        default=[], description="What was not done as asked, and why; in the answer to create only."
    )


class VideoPage(BaseModel):
    """One page of a list; `last_id` is where the next one goes on."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(BaseModel):
    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


def video_of(job: Job, notices: tuple[Text, ...] = ()) -> Video:
    """The job as it stands now."""
    request, progress = job.request, job.progress if job.state == "running" else None
    written = length_of(request)
    return Video(
        id=job.id,
        status=status_of(job),
        progress=percent_of(job),
        created_at=int(job.created),
        completed_at=int(job.finished) if job.state == "done" and job.finished is not None else None,
        model=request.engine,
        prompt=request.prompt,
        seconds=f"{written.seconds:.3f}".rstrip("0").rstrip("."),
        size=f"{request.width}x{request.height}",
        error=_error_of(job),
        state="paused" if job.held and job.state == "queued" else job.state,
        stage=progress and progress.stage,
        step=progress and progress.step,
        steps_of_stage=progress and progress.steps,
        seconds_left=progress and progress.seconds_left,
        ahead=job.ahead,
        typed_prompt=request.origin.typed,
        preset=request.preset,
        frames=written.frames,
        continues_at_frame=request.continues and request.continues.frame,
        fps=written.fps,
        seed=request.seed,
        notices=[notice.en for notice in notices],
    )


def status_of(job: Job) -> Status:
    if job.state == "done":
        return "completed"
    if job.over:
        return "failed"
    return "in_progress" if job.state == "running" else "queued"


def percent_of(job: Job) -> int:
    """How far the whole run is; within a stage by its steps."""
    if job.state == "done":
        return 100
    if job.progress is None or job.state != "running":
        return 0
    progress = job.progress
    stage, step, steps = progress.furthest or (progress.stage, progress.step, progress.steps)
    begin, end = _BEGINS[stage], _ENDS[stage]
    part = min(1.0, step / steps) if steps else 0.0
    return int(begin + part * (end - begin))


def _error_of(job: Job) -> VideoError | None:
    if status_of(job) != "failed":
        return None
    said = job.message or Text("The job was cancelled.", "任务已取消。")
    return VideoError(code=job.state, message=said.en, message_zh=said.zh)
