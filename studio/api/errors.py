"""An error as programs get it: one JSON object with a status, a code and a sentence. Knows no route."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse, Response

from i2v_pipeline.errors import InputError, ModelError, PictureError, StudioError
from i2v_pipeline.types import Text
from studio.jobs.types import JobError, QueueFull

_CODES = {
    HTTPStatus.BAD_REQUEST: "invalid_request",
    HTTPStatus.UNAUTHORIZED: "invalid_api_key",
    HTTPStatus.FORBIDDEN: "foreign_origin",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.CONFLICT: "not_ready",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "unsupported_media_type",
    HTTPStatus.UNPROCESSABLE_ENTITY: "picture_refused",
    HTTPStatus.TOO_MANY_REQUESTS: "too_many",
    HTTPStatus.INTERNAL_SERVER_ERROR: "server_error",
}
_TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.INTERNAL_SERVER_ERROR: "server_error",
}


QUEUE_WAIT_S = 5
"""When a program with too many jobs may ask again."""


class ApiError(StudioError):
    """A refusal with its HTTP status; `param` is the field of the request that it is about."""

    def __init__(self, status: HTTPStatus, en: str, zh: str, *, param: str | None = None) -> None:
        super().__init__(en, zh)
        self.status = status
        self.param = param


def error_response(
    status: int, text: Text, *, param: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """`{"error": {message, message_zh, type, code, param}}`, as the clients of the wire format read it."""
    known = HTTPStatus(status)
    error = {
        "message": text.en,
        "message_zh": text.zh,
        "type": _TYPES.get(known, "invalid_request_error"),
        "code": _CODES.get(known, known.phrase.lower().replace(" ", "_")),
        "param": param,
    }
    # Clients repeat some refused requests by themselves; only a wait for a turn gets better by it.
    should_retry = "true" if known == HTTPStatus.TOO_MANY_REQUESTS else "false"
    return JSONResponse({"error": error}, status, {"x-should-retry": should_retry, **(headers or {})})


def response_of(error: StudioError) -> Response:
    """The answer to a request that ended in `error`."""
    if isinstance(error, ApiError):
        return error_response(error.status, error.text, param=error.param)
    if isinstance(error, QueueFull):
        return error_response(HTTPStatus.TOO_MANY_REQUESTS, error.text, headers={"Retry-After": str(QUEUE_WAIT_S)})
    if isinstance(error, PictureError):
        return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, error.text, param="input_reference")
    if isinstance(error, InputError):
        return error_response(HTTPStatus.BAD_REQUEST, error.text)
    if isinstance(error, ModelError | JobError):
        return error_response(HTTPStatus.CONFLICT, error.text)
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, error.text)
