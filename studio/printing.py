"""How the command line speaks: a sentence in the terminal's language, or one JSON object. Knows no command."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from i2v_pipeline.types import Text


def pick(text: Text) -> str:
    """The sentence in the language of the terminal."""
    language = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    return text.zh if language.lower().startswith("zh") else text.en


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """The one object on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_line(text: str) -> None:
    """A result in one line on standard output."""
    print(text)


def say(text: Text) -> None:
    """What is no result: on standard error."""
    print(pick(text), file=sys.stderr)
