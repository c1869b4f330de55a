"""Twice the frame rate: a new frame between any two. Knows neither rates nor files, only frames in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

import numpy as np

from i2v_pipeline.aftercare.between import Halfway
from i2v_pipeline.aftercare.length import pairs_at_once
from i2v_pipeline.types import U8Frames


def doubled(chunks: Iterable[U8Frames], on_cut: Callable[[int], None]) -> Iterator[U8Frames]:
    """2 n - 1 frames for n: the given ones as they are, and between each two the picture half way.

    `chunks` are uint8 (frames, height, width, 3) of any length; a few frames are held at a time. Over a cut nothing is
    mixed: the frame before it stands twice, and `on_cut` gets its number among the given frames.
    """
    frames = chain.from_iterable(chunks)
    first = list(islice(frames, 1))
    if not first:
        return
    known = np.stack(first)
    yield known
    finders = [Halfway(*known.shape[1:3]) for _ in range(pairs_at_once(os.cpu_count()))]
    given = 0
    with ThreadPoolExecutor(len(finders)) as pool:
        while batch := list(islice(frames, len(finders))):
            known = np.stack([known[-1], *batch])
            made = np.empty((2 * len(batch), *known.shape[1:]), np.uint8)
            made[1::2] = known[1:]
            # Each finder gets one pair; what comes out does not depend on how many there are.
            for place, found in enumerate(pool.map(Halfway.__call__, finders, known[:-1], known[1:])):
                made[2 * place] = found.picture
                if found.is_cut:
                    on_cut(given + place)
            given += len(batch)
            yield made
