"""One sentence becomes the prompt that a video model understands. Knows no video code and no page."""

from prompt_refiner.refiner import refine
from prompt_refiner.settings import RefinerSettings, load_settings
from prompt_refiner.types import Notice, RefineResult, Style

__all__ = ["Notice", "RefineResult", "RefinerSettings", "Style", "load_settings", "refine"]
