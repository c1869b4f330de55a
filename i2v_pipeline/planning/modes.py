"""The ways to carry out a run, from the hungriest to the most frugal. Knows no engine's code and no card.

A mode says what lies on the card in each stage, and what it gives up for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from i2v_pipeline.types import Precision, Text

Placement = Literal["resident", "staged", "swapped", "streamed"]
"""Everything stays on the card; encoders leave once they have encoded; one part at a time; a few layers at a time."""
Waits = Literal["ram", "disk"]
"""Where a part that is not at work is: whole in the host's memory, or nowhere, and is read from its files again."""


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One way.

    `waits` says where a part is between its turns, where one part at a time is on the card. `alone` computes the two
    passes of guidance one after the other, `half` decodes in bf16 what the VAE else decodes in fp32, `tiled` decodes in
    tiles, `fp8` keeps the denoiser's weights in fp8. `what` goes on after "…, so ".
    """

    id: str
    placement: Placement
    waits: Waits = "ram"
    alone: bool = False
    half: bool = False
    tiled: bool = False
    fp8: bool = False
    what: Text


CPU = Mode(
    id="cpu",
    placement="staged",
    what=Text("everything is computed on the processor", "全部在处理器上计算"),
)
CPU_LADDER: tuple[Mode, ...] = (
    CPU,
    Mode(
        id="cpu-tiled",
        placement="staged",
        alone=True,
        tiled=True,
        what=Text(
            "everything is computed on the processor and the frames are decoded in tiles",
            "全部在处理器上计算，并分块解码画面",
        ),
    ),
)

_PLACEMENTS: tuple[tuple[Placement, Text], ...] = (
    ("swapped", Text("one part at a time is on the card", "每次只有一个部件在显卡上")),
    (
        "streamed",
        Text("the layers of the large parts pass through the card one after another", "大部件的各层逐一流经显卡"),
    ),
)
_WAITS: tuple[tuple[Waits, Text], ...] = (
    ("ram", Text("", "")),
    ("disk", Text(" and each part is read from the disk for its turn", "，各部件轮到时才从磁盘读取")),
)


def _saving(fp8: bool, placement: Placement, waits: Waits, words: Text) -> tuple[Mode, ...]:
    """One placement in four modes, each of which gives up more."""
    prefix, given_up = "fp8-" if fp8 else "", Text("", "")
    if waits == "disk":
        prefix += "disk-"
    if fp8:
        given_up = Text("the denoiser's weights are kept in fp8, ", "去噪模型的权重以 fp8 保存，")
    more = (
        ("", Text("", "")),
        ("-alone", Text(", and the two passes of guidance are computed in turn", "，引导的两次推理依次进行")),
        ("-half", Text(", and the frames are decoded in bf16", "，并以 bf16 解码画面")),
        ("-tiled", Text(", and the frames are decoded in tiles", "，并分块解码画面")),
    )
    return tuple(
        Mode(
            id=f"{prefix}{placement}{suffix}",
            placement=placement,
            waits=waits,
            alone=level >= 1,
            half=level >= 2,
            tiled=level >= 3,
            fp8=fp8,
            what=Text(f"{given_up.en}{words.en}{what.en}", f"{given_up.zh}{words.zh}{what.zh}"),
        )
        for level, (suffix, what) in enumerate(more)
    )


def _by_loss() -> tuple[Mode, ...]:
    """What costs the picture less comes first: moving and reading weights costs it nothing, fp8 is the last resort.

    Of one loss reading from the disk comes last: it takes longest.
    """
    ladder: list[Mode] = []
    for fp8 in (False, True):
        columns = [
            _saving(fp8, placement, waits, Text(f"{words.en}{also.en}", f"{words.zh}{also.zh}"))
            for waits, also in _WAITS
            for placement, words in _PLACEMENTS
        ]
        ladder += [mode for level in zip(*columns, strict=True) for mode in level]
    return tuple(ladder)


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
    *_by_loss(),
)
"""In the order in which they are preferred: the first that fits is taken, so less memory never gives a hungrier one."""


def modes_for(precision: Precision | Literal["auto"], *, on_cpu: bool) -> tuple[Mode, ...]:
    """The modes that may carry out a request of this precision. Only `auto` lets the plan choose fp8.

    Weights that are asked for in fp8 are so in every mode.
    """
    if on_cpu:
        return CPU_LADDER
    return tuple(mode for mode in LADDER if precision == "auto" or not mode.fp8)


def mode_called(mode_id: str) -> Mode:
    """The mode that a plan names. Raises `KeyError` for one that there is not."""
    return {mode.id: mode for mode in (*CPU_LADDER, *LADDER)}[mode_id]
