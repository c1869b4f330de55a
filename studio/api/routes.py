"""`/v1/videos` and its document: programs create, follow, list, fetch and delete videos. Makes none itself.

Whose videos these are is the shell's to know; a video of somebody else is answered like one that never was.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from i2v_pipeline.continuation import open_source
from i2v_pipeline.errors import StudioError
from i2v_pipeline.images import MAX_BYTES, open_picture
from i2v_pipeline.types import Text
from studio.api.body import CreateVideo, read_body, read_extension_body
from studio.api.errors import ApiError, error_response, response_of
from studio.api.wire import DeletedVideo, ErrorAnswer, Variant, Video, VideoPage, video_of
from studio.continuing import request_of_sent_video
from studio.jobs.erasing import erase
from studio.jobs.types import POSTER_NAME, REPORT_NAME, VIDEO_NAME, Job
from studio.orders import Extension, Order, Ordered, read_extension, read_order
from studio.owners import owner_of
from studio.page.services import Services

CREATING_AT_ONCE = 8
"""Orders that are read and refined at the same time: each is a thread, and open pages share the interpreter with it."""
STOP_WAIT_S = 30.0
"""How long a deletion waits for a running job to stop between two of its steps."""
LOOK_EVERY_S = 0.1
LIST_LIMIT = 100

_FILES: dict[Variant, tuple[str, str]] = {
    "video": (VIDEO_NAME, "video/mp4"),
    "thumbnail": (POSTER_NAME, "image/jpeg"),
    "report": (REPORT_NAME, "application/json"),
}
_OUR_FAULT = Text("Something in the studio failed. Its log has the details.", "工作室内部出错。详情已写入日志。")
_DESCRIPTION = (
    "One picture and one sentence become a video. With a login the key is its password, or USER:PASS; without one any "
    "key is taken, and tells whose videos these are."
)


def make_api(services: Services) -> FastAPI:
    """The application below `/v1`."""
    api = FastAPI(
        title="Image-to-Video Studio",
        version="1",
        description=_DESCRIPTION,
        servers=[{"url": "/v1"}],
        root_path_in_servers=False,
        docs_url=None,
        redoc_url=None,
    )
    api.include_router(_videos(services))
    for kind in (StudioError, HTTPException, RequestValidationError, Exception):
        api.add_exception_handler(kind, _tell)
    return api


def _videos(services: Services) -> APIRouter:
    refusals: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}}
    router = APIRouter(prefix="/videos", tags=["videos"], responses=refusals)

    turn = asyncio.Semaphore(CREATING_AT_ONCE)

    @router.post("", operation_id="create_video", openapi_extra=_CREATE_BODY)
    async def create(request: Request) -> Video:
        """Queues a video and returns at once; it is made in the order of the queue."""
        owner = _owner(request)
        order, pictures = await read_body(request)
        async with turn:
            job, notices = await asyncio.to_thread(_place, order, pictures, owner, services)
        return video_of(job, notices)

    @router.post("/extensions", operation_id="extend_video", openapi_extra=_EXTEND_BODY)
    async def extend(request: Request) -> Video:
        """Queues a video that keeps a completed one up to one of its late frames and goes on from there."""
        owner = _owner(request)
        extension, video = await read_extension_body(request)
        async with turn:
            job, notices = await asyncio.to_thread(_place_extension, extension, video, owner, services)
        return video_of(job, notices)

    @router.get("", operation_id="list_videos")
    def list_videos(
        request: Request,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=LIST_LIMIT)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoPage:
        """Your videos by the time of their creation, `after` the one of that id."""
        owner = _owner(request)
        if after is not None:
            _job(after, owner, services)
        jobs = services.store.page(owner, limit=limit + 1, after=after, is_oldest_first=order == "asc")
        videos = [video_of(job) for job in jobs[:limit]]
        return VideoPage(
            data=videos,
            first_id=videos[0].id if videos else None,
            last_id=videos[-1].id if videos else None,
            has_more=len(jobs) > limit,
        )

    @router.get("/{video_id}", operation_id="retrieve_video")
    def retrieve(request: Request, video_id: str) -> Video:
        """How far a video is."""
        return video_of(_job(video_id, _owner(request), services))

    @router.get("/{video_id}/content", operation_id="download_video", response_class=FileResponse)
    def content(request: Request, video_id: str, variant: Variant = "video") -> Response:
        """The finished MP4, its poster, or its report. Takes a Range header."""
        job = _job(video_id, _owner(request), services)
        name, media_type = _FILES[variant]
        path = job.folder / name
        if job.state != "done" or not path.is_file():
            raise _not_ready(job)
        filename = f"{job.id}{path.suffix}"
        return FileResponse(path, media_type=media_type, filename=filename, headers={"Cache-Control": "private"})

    @router.delete("/{video_id}", operation_id="delete_video")
    async def delete(request: Request, video_id: str) -> DeletedVideo:
        """Stops the video where it is being made, and removes everything of it."""
        owner = _owner(request)
        await asyncio.to_thread(_job, video_id, owner, services)
        await _remove(video_id, services)
        return DeletedVideo(id=video_id)

    return router


def _place(order: Order, pictures: list[bytes], owner: str, services: Services) -> tuple[Job, tuple[Text, ...]]:
    """Checks the order and queues it."""
    for picture in pictures:
        _check_bytes(picture)
    opened = [open_picture(picture) for picture in pictures]
    with tempfile.TemporaryDirectory() as folder:
        # Never by the name that its sender gave it.
        paths = [Path(folder) / f"picture{index}.{each.format.lower()}" for index, each in enumerate(opened)]
        for path, picture in zip(paths, pictures, strict=True):
            path.write_bytes(picture)
        ordered: Ordered = read_order(order, list(zip(opened, paths, strict=True)), services)
        return services.store.submit(ordered.request, owner), ordered.notices


def _check_bytes(picture: bytes) -> None:
    if len(picture) > MAX_BYTES:
        raise ApiError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The picture has {len(picture) / 2**20:.1f} MB: {MAX_BYTES // 2**20} MB are allowed. Send a smaller one.",
            f"图片大小为 {len(picture) / 2**20:.1f} MB：最大 {MAX_BYTES // 2**20} MB。请换一张较小的。",
            param="input_reference",
        )


def _place_extension(
    extension: Extension, content: bytes | None, owner: str, services: Services
) -> tuple[Job, tuple[Text, ...]]:
    """Checks what is asked of a continuation and queues it. `content` is a video that is none of the owner's jobs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if content is None:
            job = _job(extension.video.id if extension.video else "", owner, services)
            if job.state != "done" or not job.video_path.is_file():
                raise _not_ready(job)
            before, video = job.request, job.video_path
        else:
            video = folder / VIDEO_NAME
            video.write_bytes(content)
            before = request_of_sent_video(open_source(video).recipe)
        ordered = read_extension(extension, before, video, folder, services)
        return services.store.submit(ordered.request, owner), ordered.notices


async def _remove(job_id: str, services: Services) -> None:
    """Out of every list at once; the files go as soon as a running job has stopped, however long its step takes."""
    await asyncio.to_thread(services.store.delete, job_id)
    deadline = time.monotonic() + STOP_WAIT_S
    while not await asyncio.to_thread(erase, services.store, job_id) and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_EVERY_S)


def _owner(request: Request) -> str:
    owner = owner_of(request.headers)
    if owner is None:
        raise ApiError(
            HTTPStatus.UNAUTHORIZED,
            "There is no key: it tells whose videos these are. Send one of your choice as Authorization: Bearer KEY.",
            "没有密钥：密钥用来区分视频属于谁。请自选一个，以 Authorization: Bearer KEY 发送。",
        )
    return owner


def _job(video_id: str, owner: str, services: Services) -> Job:
    job = services.find_job(video_id, owner)
    if job is None:
        raise ApiError(
            HTTPStatus.NOT_FOUND,
            "There is no such video (any more). The list has those that are yours.",
            "这个视频不存在（或已删除）。列表中有你的视频。",
        )
    return job


def _not_ready(job: Job) -> ApiError:
    said = video_of(job)
    if said.error is not None:
        return ApiError(
            HTTPStatus.CONFLICT,
            f"There is no file: {said.error.message}",
            f"没有文件：{said.error.message_zh}",
        )
    return ApiError(
        HTTPStatus.CONFLICT,
        f"The video is not finished: {said.status}, {said.progress} %. Retrieve it until its status is completed.",
        f"视频尚未完成：{said.status}，{said.progress} %。请等状态变为 completed。",
    )


async def _tell(_: Request, error: Exception) -> Response:
    """Whatever a route raised, as one error object; what is not meant for people goes on into the server's log."""
    if isinstance(error, StudioError):
        return response_of(error)
    if isinstance(error, HTTPException):
        said = str(error.detail).rstrip(".")
        return error_response(error.status_code, Text(f"{said}.", f"{said}。"), headers=error.headers)
    if isinstance(error, RequestValidationError):
        wrong = [f"{each['loc'][-1]} {each['input']!r}: {each['msg']}." for each in error.errors()]
        said = " ".join(wrong)
        return error_response(400, Text(said, f"请求有误：{said}"), param=str(error.errors()[0]["loc"][-1]))
    return error_response(500, _OUR_FAULT)


def _create_body() -> dict[str, Any]:
    """The document of the body, which is read by hand since it may be a form or JSON."""
    schema = CreateVideo.model_json_schema(ref_template="#/components/schemas/{model}")
    inner = schema.pop("$defs")
    for name, definition in inner.items():
        _inline(schema, f"#/components/schemas/{name}", definition)
    form = {**schema, "properties": {**schema["properties"], "input_reference": {"type": "string", "format": "binary"}}}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}},
        }
    }


def _inline(schema: Any, reference: str, definition: dict[str, Any]) -> None:  # noqa: ANN401 - any JSON value
    """Puts a definition where it is referred to: FastAPI knows only the models that it reads itself."""
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        if isinstance(value, dict) and value.get("$ref") == reference:
            value.clear()
            value.update(definition)
        else:
            _inline(value, reference, definition)


def _extend_body() -> dict[str, Any]:
    """The same for what is asked of a continuation."""
    schema = Extension.model_json_schema(ref_template="#/components/schemas/{model}")
    inner = schema.pop("$defs")
    for name, definition in inner.items():
        _inline(schema, f"#/components/schemas/{name}", definition)
    form = {**schema, "properties": {**schema["properties"], "video": {"type": "string", "format": "binary"}}}
    kinds = {"application/json": schema, "multipart/form-data": form}
    return {"requestBody": {"required": True, "content": {kind: {"schema": each} for kind, each in kinds.items()}}}


_CREATE_BODY = _create_body()
_EXTEND_BODY = _extend_body()
