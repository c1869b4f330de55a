"""One sentence becomes the prompt that a video model understands. Knows no video code and no page."""

from prompt_refiner.checks import check_text
from prompt_refiner.connection import check_connection
from prompt_refiner.refiner import refine
from prompt_refiner.settings import RefinerSettings, load_settings
from prompt_refiner.types import CheckedText, Connection, Fidelity, Notice, RefineResult, Style

__all__ = [
    "CheckedText",
    "Connection",
    "Fidelity",
    "Notice",
    "RefineResult",
    "RefinerSettings",
    "Style",
    "check_connection",
    "check_text",
    "load_settings",
    "refine",
]
