"""How PyTorch hands out graphics memory in a process that generates. Knows no torch, which reads it when it starts."""

from __future__ import annotations

from collections.abc import Mapping

_NAME = "PYTORCH_ALLOC_CONF"
_OLD_NAME = "PYTORCH_CUDA_ALLOC_CONF"
_GROWING = "expandable_segments:True"


def allocator_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to `environment`, nothing where the person has set it.

    Segments that grow leave no holes that are too small when a run of another size comes.
    """
    return {} if _NAME in environment or _OLD_NAME in environment else {_NAME: _GROWING}
