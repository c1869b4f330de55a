"""What a person types while an answer is on its way is newer than the answer, and stays. Knows no handler."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component


def typed_into(components: Iterable[Component]) -> list[Component]:
    """Those of the components that are boxes to type in: texts and numbers."""
    return [each for each in components if isinstance(each, gr.Textbox | gr.Slider)]


def fill(
    listen: Callable[..., Any],
    handler: Callable[..., Any],
    inputs: set[Component] | None,
    outputs: Sequence[Component],
    **options: Any,  # noqa: ANN401 - Gradio's own
) -> Any:  # noqa: ANN401 - Gradio's Dependency has no public type
    """Wires `handler` to what `listen` hears. What is typed into one of `outputs` before its answer is there stays.

    The browser keeps count (`early.html`): an answer arrives as a whole, so what it overwrote is put back after it.
    """
    boxes = typed_into(outputs)
    name = json.dumps(handler.__qualname__)
    ask = f"(...values) => window.studio.ask({name}, values)"
    keep = f"() => window.studio.keep({name}, {json.dumps([box.elem_id for box in boxes])})"
    asked = listen(handler, inputs, outputs, js=ask, **options)
    quiet = {option: value for option, value in options.items() if option not in ("concurrency_limit", "trigger_mode")}
    asked.success(None, None, boxes, js=keep, **quiet)
    return asked
