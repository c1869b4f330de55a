"""A video that can be played again and again without a jump: as a loop, or forward and back. Knows no rates."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from io import BufferedRandom
from itertools import chain, islice
from pathlib import Path

import numpy as np

from i2v_pipeline.types import U8Frames, U8Image
from i2v_pipeline.video import unwritten


def looped(chunks: Iterable[U8Frames], faded: int) -> Iterator[U8Frames]:
    """n - `faded` frames for n: the last `faded` ones dissolve into the first, so that the end runs into the start.

    The first frame is the given one number `faded`: those before it are what the end dissolves into. Needs more than
    twice `faded` frames, of which it holds as many.
    """
    frames = chain.from_iterable(chunks)
    start = list(islice(frames, faded))
    end: deque[U8Image] = deque()
    for frame in frames:
        end.append(frame)
        if len(end) > faded:
            yield end.popleft()[None]
    if len(start) < faded or len(end) < faded:
        raise ValueError(f"there are too few frames to dissolve {faded}")
    for place, (last, first) in enumerate(zip(end, start, strict=True), start=1):
        # In whole numbers, so that every machine rounds alike.
        share, whole = np.uint32(place), np.uint32(faded + 1)
        yield ((last * (whole - share) + first * share + whole // 2) // whole).astype(np.uint8)[None]


def there_and_back(chunks: Iterable[U8Frames], folder: Path) -> Iterator[U8Frames]:
    """2 n - 2 frames for n: forward, then back to the second. Neither end is shown twice when it is played again.

    The frames wait for their way back in a nameless file in `folder`, not in memory. Raises `VideoError` when it cannot
    be written. One frame stays one.
    """
    with _nameless_file(folder) as waiting:
        shape, count = (0, 0, 0), 0
        for frame in chain.from_iterable(chunks):
            yield frame[None]
            _keep(waiting, frame)
            shape, count = frame.shape, count + 1
        for number in range(count - 2, 0, -1):
            back = np.empty((1, *shape), np.uint8)
            waiting.seek(number * back.nbytes)
            waiting.readinto(back.data)
            yield back


def _nameless_file(folder: Path) -> BufferedRandom:
    try:
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        raise unwritten(error) from error


def _keep(waiting: BufferedRandom, frame: U8Image) -> None:
    try:
        waiting.write(np.ascontiguousarray(frame).data)
        waiting.flush()
    except OSError as error:
        raise unwritten(error) from error
