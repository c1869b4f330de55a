"""The few small drawings on buttons, as inline SVG in the colour of the text around them."""

from __future__ import annotations

# Paths on a field of 16 × 16, drawn as lines.
_PATHS = {
    "up": "M8 13V3M3.5 7.5 8 3l4.5 4.5",
    "down": "M8 3v10M3.5 8.5 8 13l4.5-4.5",
    "left": "M13 8H3M7.5 3.5 3 8l4.5 4.5",
    "right": "M3 8h10M8.5 3.5 13 8l-4.5 4.5",
    "pause": "M5.5 3.5v9M10.5 3.5v9",
    "play": "M5 3.5v9l7.5-4.5z",
    "edit": "M3 13l.7-3L11 2.7l2.3 2.3L6 12.3zM9.3 4.4l2.3 2.3",
    "remove": "M4 4l8 8M12 4l-8 8",
    "star": "M8 1.9l1.9 3.9 4.3.6-3.1 3 .7 4.3L8 11.7l-3.8 2 .7-4.3-3.1-3 4.3-.6z",
}


def icon(name: str) -> str:
    """The drawing as HTML; hidden from screen readers, since its button has words."""
    return f'<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d="{_PATHS[name]}"></path></svg>'
