"""The page's edge: whatever a handler raises becomes one sentence in a toast. Knows no handler."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr

from i2v_pipeline.errors import StudioError
from i2v_pipeline.types import Text
from studio.page.text import both

log = logging.getLogger("studio.page")

OUR_FAULT = Text(
    en="Something in the studio failed. The log has the details; nothing you entered is lost.",
    zh="工作室内部出错。详情已写入日志；你填写的内容都还在。",
)

Handler = Callable[..., Any]


def at_edge(handler: Handler) -> Handler:
    """The same handler, which raises nothing but `gr.Error` with a sentence in both languages.

    Gradio looks at the kind of function, so a function, an async function and an async generator each stay one.
    """
    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def stream(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - a handler's values are Gradio's
            try:
                async for value in handler(*arguments, **named):
                    yield value
            except Exception as error:  # noqa: BLE001 - the page's edge; logged whole
                raise _told(error) from None

        return stream

    @functools.wraps(handler)
    def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        try:
            return handler(*arguments, **named)
        except Exception as error:  # noqa: BLE001
            raise _told(error) from None

    return call


def _told(error: Exception) -> gr.Error:
    if isinstance(error, StudioError):
        return gr.Error(both(error.text), print_exception=False)
    log.error("A handler of the page failed", exc_info=error)
    return gr.Error(both(OUR_FAULT), print_exception=False)
