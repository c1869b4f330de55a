"""Answers that arrive as they were sent, however slowly the page draws. Knows no component."""

from __future__ import annotations

from typing import Any

import gradio as gr


class WholeAnswers(gr.Blocks):
    """A page whose answers do not change one another.

    Of an event that answers many times Gradio sends the difference to the answer before, and its browser side writes it
    into that one, which the page may not have read yet: a button that was just shown would be gone again, for good.
    """

    def handle_streaming_diffs(
        self,
        block_fn: Any,  # noqa: ANN401 - Gradio's own
        data: list[Any],
        session_hash: str | None,
        run: str | None,
        final: bool,
        simple_format: bool = False,
    ) -> list[Any]:
        """What changed of an answer, each value whole."""
        values = list(data)
        sent = super().handle_streaming_diffs(block_fn, data, session_hash, run, final, simple_format)
        if final or simple_format:
            return sent
        # The first answer of an event is no difference yet.
        return [
            each if each is value or not each else [["replace", [], value]]
            for each, value in zip(sent, values, strict=True)
        ]
