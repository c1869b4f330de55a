"""The body of a request to create a video: JSON or a form, its fields and its picture. Knows no job.

Nothing is read beyond the limit, and an address is never fetched.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.types import Message, Receive

from i2v_pipeline.images import MAX_BYTES
from studio.api.errors import ApiError
from studio.orders import Order, mistakes_in

MAX_BODY = MAX_BYTES * 3 // 2
"""In bytes: the largest picture takes a third more as base64, and there are the other fields."""
MAX_FIELDS = 64
MAX_FILES = 16
"""More than any engine takes, so that the engine itself can say how many it does."""
_PICTURE = "input_reference"
_URL_IN_FORM = f"{_PICTURE}[image_url]"
_MIB = 2**20


class ImageReference(BaseModel):
    """`file_id` is part of the wire format; this studio keeps no files beside its jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    image_url: str = Field(description="A data URL: data:image/png;base64,... Addresses are not fetched.")


class CreateVideo(Order):
    """The fields of an order, and the picture or the references."""

    input_reference: Annotated[
        ImageReference | str | list[ImageReference | str] | None,
        Field(description="A data URL, alone or in an object; for several references a list of them, in order."),
    ] = None


async def read_body(request: Request) -> tuple[Order, list[bytes]]:
    """The order and the bytes of each picture, of one at least.

    Raises `ApiError` that says which field is wrong and what is allowed.
    """
    request = Request(request.scope, _limited(request))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        created = _read_json(await request.body())
        return _order_of(created), [_picture_in_url(url) for url in _urls_in(created.input_reference)]
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return await _read_form(request)
    raise ApiError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"Content type {kind or 'none'!r}: multipart/form-data and application/json are allowed. Send one of these.",
        f"内容类型 {kind or 'none'!r}：只接受 multipart/form-data 和 application/json。",
    )


def _limited(request: Request) -> Receive:
    """The request's body, which ends in an `ApiError` as soon as it is known to be too long."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_BODY:
        raise _too_large()
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY:
            raise _too_large()
        return message

    return receive


def _read_json(body: bytes) -> CreateVideo:
    try:
        return CreateVideo.model_validate_json(body)
    except ValidationError as error:
        raise _mistakes(error) from None


async def _read_form(request: Request) -> tuple[Order, list[bytes]]:
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_BODY) as form:
        texts = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
        unknown = sorted({name for name, _ in files} - {_PICTURE})
        url = texts.pop(_URL_IN_FORM, None) or texts.pop(_PICTURE, None)
        if unknown:
            raise ApiError(
                HTTPStatus.BAD_REQUEST,
                f"A file as {', '.join(unknown)!r}: pictures are the only files. Send them as {_PICTURE}.",
                f"文件字段 {', '.join(unknown)!r}：只接受图片文件，请放在 {_PICTURE} 中。",
            )
        order = _read_texts(texts)
        return order, [await file.read() for _, file in files] or [_picture_in_url(url)]


def _read_texts(texts: Mapping[str, str]) -> Order:
    """A form has no types of its own: each text is read as its field is, and `null` stands for nothing.

    `subjects` is JSON.
    """
    given = {name: value for name, value in texts.items() if value != "null"}
    subjects = given.pop("subjects", None)
    try:
        order = Order.model_validate_strings(given)
        if subjects is None:
            return order
        return Order.model_validate({**order.model_dump(), "subjects": json.loads(subjects)})
    except json.JSONDecodeError:
        raise ApiError(
            HTTPStatus.BAD_REQUEST,
            'subjects: a list in JSON is needed, such as [{"name": "the cat"}]. Send it so.',
            'subjects：需要 JSON 列表，例如 [{"name": "the cat"}]。',
            param="subjects",
        ) from None
    except ValidationError as error:
        raise _mistakes(error) from None


def _order_of(created: CreateVideo) -> Order:
    return Order(**{name: getattr(created, name) for name in Order.model_fields})


def _urls_in(given: ImageReference | str | list[ImageReference | str] | None) -> list[ImageReference | str | None]:
    """One for each picture; an empty list is no picture, as none is."""
    return [*given] or [None] if isinstance(given, list) else [given]


def _picture_in_url(reference: ImageReference | str | None) -> bytes:
    url = reference.image_url if isinstance(reference, ImageReference) else reference
    if not url:
        raise ApiError(
            HTTPStatus.BAD_REQUEST,
            f"There is no picture: this studio makes a video of one. Send a file or a data URL as {_PICTURE}.",
            f"没有图片：工作室由图片生成视频。请在 {_PICTURE} 中发送文件或 data URL。",
            param=_PICTURE,
        )
    head, comma, payload = url.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise ApiError(
            HTTPStatus.BAD_REQUEST,
            "That is no data URL: data:image/png;base64,... is allowed, and no address is fetched. Send the picture.",
            "不是 data URL：只接受 data:image/png;base64,...，不会访问任何网址。请直接发送图片。",
            param=_PICTURE,
        )
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(
            HTTPStatus.BAD_REQUEST,
            "The data URL is damaged: what follows the comma is not base64. Encode the picture again.",
            "data URL 已损坏：逗号后不是 base64。请重新编码图片。",
            param=_PICTURE,
        ) from None


def _too_large() -> ApiError:
    return ApiError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The request is too large: {MAX_BYTES // _MIB} MB are allowed for the picture. Send a smaller one.",
        f"请求过大：图片最大 {MAX_BYTES // _MIB} MB。请换一张较小的。",
        param=_PICTURE,
    )


def _mistakes(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]["loc"]
    return ApiError(HTTPStatus.BAD_REQUEST, *mistakes_in(error), param=str(first[0]) if first else None)
