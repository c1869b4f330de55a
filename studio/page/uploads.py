"""Which files an event may name: uploads, and nothing else of this machine or of the network. Knows no component."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from i2v_pipeline.types import Text

NOT_UPLOADED = Text(
    "That file was not uploaded to this studio (or is gone). Upload it again.",
    "该文件不是上传到本工作室的（或已被删除）。请重新上传。",
)


class UploadsOnly(gr.Blocks):
    """A page that hands its events no other files than uploads.

    Mounted in another application Gradio takes any file of the machine that an event names, and copies it to where it
    is served from; an address it would fetch.
    """

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **named: Any) -> Any:  # noqa: ANN401
        if any(own_upload(path) is None for path in _paths_in(inputs)):
            raise gr.Error("\n".join(NOT_UPLOADED), print_exception=False)
        return await super().preprocess_data(block_fn, inputs, *rest, **named)


def own_upload(path: Any) -> str | None:  # noqa: ANN401 - whatever a browser sent
    """The path of an uploaded file that is still there; None for any other file of this machine."""
    if not isinstance(path, str) or "\0" in path:
        return None
    resolved = Path(path).resolve()
    is_own = resolved.is_relative_to(Path(get_upload_folder()).resolve())
    return str(resolved) if is_own and resolved.is_file() else None


def _paths_in(value: Any) -> Iterator[Any]:  # noqa: ANN401 - any JSON value
    """What stands as `path` anywhere in it: so does every file, with or without Gradio's mark of one."""
    if isinstance(value, dict):
        if isinstance(value.get("path"), str):
            yield value["path"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _paths_in(each)
