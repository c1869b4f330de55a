"""The routes that hand out a job's files to its owner and the examples' pictures, by name from a list. Knows no page.

Nothing else of the data folder can be asked for, and no answer names a path.
"""

from __future__ import annotations

import secrets

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from studio.jobs.types import POSTER_NAME, PREVIEW_NAME, REPORT_NAME, VIDEO_NAME
from studio.library import zip_chunks
from studio.owners import owner_of
from studio.page.services import Services, example_thumbnail

INPUT_NAME = "input"
FILE_TYPES = {
    VIDEO_NAME: "video/mp4",
    POSTER_NAME: "image/jpeg",
    PREVIEW_NAME: "image/jpeg",
    REPORT_NAME: "application/json",
}
# By the ending of the upload, which its sender chose: anything else is no type that a browser would run.
INPUT_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
}
RUN_HEADER = "X-Studio-Run"
NOT_HERE = "There is no such file.\n"


def media_routes(services: Services) -> list[BaseRoute]:
    """`/studio/health`, `/studio/media/{job}/{name}`, `/studio/export.zip?jobs=ID,ID` and `/studio/examples/{name}`."""
    examples = {example.path.name: example.path for example in services.examples}
    # A page that is left open sees by it that the studio was started anew.
    run = secrets.token_hex(4)

    def health(_: Request) -> Response:
        return JSONResponse({"ok": True}, headers={RUN_HEADER: run, "Cache-Control": "no-store"})

    def job_file(request: Request) -> Response:
        owner = owner_of(request.headers)
        job = None if owner is None else services.find_job(request.path_params["job"], owner)
        name = request.path_params["name"]
        if job is None or (name not in FILE_TYPES and name != INPUT_NAME):
            return PlainTextResponse(NOT_HERE, 404)
        path = job.request.images[0] if name == INPUT_NAME else job.folder / name
        if not path.is_file():
            return PlainTextResponse(NOT_HERE, 404)
        media_type = FILE_TYPES.get(name) or INPUT_TYPES.get(path.suffix, "application/octet-stream")
        filename = f"{job.id}{path.suffix}" if "download" in request.query_params else None
        # The bytes of a finished job never change; a preview's do.
        caching = "no-store" if name == PREVIEW_NAME else "private, max-age=86400"
        return FileResponse(path, media_type=media_type, filename=filename, headers={"Cache-Control": caching})

    def example(request: Request) -> Response:
        path = examples.get(request.path_params["name"])
        if path is None:
            return PlainTextResponse(NOT_HERE, 404)
        return Response(
            example_thumbnail(path), media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"}
        )

    def export(request: Request) -> Response:
        owner = owner_of(request.headers)
        ids = request.query_params.get("jobs", "").split(",")
        jobs = [None if owner is None else services.find_job(job_id, owner) for job_id in dict.fromkeys(ids)]
        done = [job for job in jobs if job is not None and job.state == "done"]
        if len(done) < len(jobs):
            return PlainTextResponse(NOT_HERE, 404)
        name = f"image-to-video-{len(done)}.zip"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return StreamingResponse(zip_chunks(done), media_type="application/zip", headers=headers)

    return [
        Route("/studio/health", health),
        Route("/studio/export.zip", export),
        Route("/studio/media/{job}/{name}", job_file),
        Route("/studio/examples/{name}", example),
    ]
