"""Encoded prompts and pictures, kept so that the next run with the same ones need not encode them. Knows no encoder."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

ENTRIES = 24
"""At 720p the largest entry, Wan's condition latents, takes 24 MB; an encoded prompt takes 4 MB."""


class ConditioningCache:
    """Tensors in host memory by content, model and precision; the ones used longest ago leave first.

    `reused` lists the kinds that were found here since the list was last cleared.
    """

    def __init__(self, entries: int = ENTRIES) -> None:
        self.reused: list[str] = []
        self._entries = entries
        self._tensors: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, kind: str, key: tuple[str | bytes, ...], make: Callable[[], Tensor]) -> Tensor:
        """The tensor of this kind for `key`, which names everything that it depends on, made if it is not here."""
        digest = hashlib.sha256(repr((kind, key)).encode()).hexdigest()
        if digest in self._tensors:
            self._tensors.move_to_end(digest)
            self.reused.append(kind)
            return self._tensors[digest]
        tensor = make().cpu()
        self._tensors[digest] = tensor
        while len(self._tensors) > self._entries:
            self._tensors.popitem(last=False)
        return tensor

    def clear(self) -> None:
        self._tensors.clear()
