"""The ways to carry out a run, from the hungriest to the most frugal. Knows no engine's code and no card.

A mode says what lies on the card in each stage; `EXECUTABLE` names those that the engines carry out today. The others
are planned too, so that a person hears what would be possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from i2v_pipeline.types import Text

Placement = Literal["resident", "staged", "swapped", "streamed"]
"""Everything stays on the card; encoders leave once they have encoded; one part at a time; a few layers at a time."""


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One way. `tiled` decodes the frames in tiles; `alone` computes the two passes of guidance one after the other.

    `what` goes on after "…, so " in a sentence.
    """

    id: str
    placement: Placement
    tiled: bool = False
    alone: bool = False
    what: Text


CPU = Mode(
    id="cpu",
    placement="staged",
    what=Text("everything is computed on the processor", "全部在处理器上计算"),
)

LADDER: tuple[Mode, ...] = (
    Mode(id="resident", placement="resident", what=Text("every part stays on the card", "所有部件都留在显卡上")),
    Mode(
        id="staged",
        placement="staged",
        what=Text(
            "the encoders leave the card once they have encoded, and the denoiser and the VAE stay for the next run",
            "编码器用完即离开显卡，去噪模型和 VAE 留给下一次生成",
        ),
    ),
    Mode(
        id="swapped",
        placement="swapped",
        what=Text("one part at a time is on the card", "每次只有一个部件在显卡上"),
    ),
    Mode(
        id="swapped-tiled",
        placement="swapped",
        tiled=True,
        alone=True,
        what=Text(
            "one part at a time is on the card and the frames are decoded in tiles",
            "每次只有一个部件在显卡上，并分块解码画面",
        ),
    ),
    Mode(
        id="streamed-tiled",
        placement="streamed",
        tiled=True,
        alone=True,
        what=Text(
            "the denoiser's layers pass through the card one after another and the frames are decoded in tiles",
            "去噪模型逐层流经显卡，并分块解码画面",
        ),
    ),
)
"""Hungriest first; each needs no more of the card than the one before. A test holds that."""

EXECUTABLE: frozenset[str] = frozenset({"resident", "staged", "swapped", "swapped-tiled"})
"""Modes of `LADDER` that the engines carry out."""


def mode_called(mode_id: str) -> Mode:
    """The mode that a plan names. Raises `KeyError` for one that no engine carries out."""
    return {mode.id: mode for mode in (CPU, *LADDER) if mode is CPU or mode.id in EXECUTABLE}[mode_id]
