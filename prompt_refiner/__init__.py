"""One sentence becomes the prompt that a video model understands. Knows no video code and no page."""
