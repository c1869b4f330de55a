"""The axes of a comparison: what people call each, how its values are read, which are refused and which proposed.

Composes no request.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

from i2v_pipeline.checks import MAX_SEED
from i2v_pipeline.errors import InputError
from i2v_pipeline.guidance import parse_guidance
from i2v_pipeline.hub import is_here
from i2v_pipeline.presets import find_engine, load_presets
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Text
from studio.jobs.comparisons import Axis, AxisField
from studio.recipe import SEED_LIMIT, Choice, preset_of

MAX_CELLS = 25
"""Five by five: a quarter of what one person may have in the queue, and as many players as a screen can hold."""
PROPOSED = 3

FIELDS: tuple[AxisField, ...] = get_args(AxisField)
WORDS: Mapping[AxisField, Text] = {
    "seed": Text("Seed", "随机种子"),
    "steps": Text("Steps", "推理步数"),
    "guidance": Text("Guidance", "引导系数"),
    "flow_shift": Text("Flow shift", "流偏移 (flow shift)"),
    "engine": Text("Engine", "引擎"),
    "preset": Text("Preset", "预设"),
    "prompt": Text("Prompt", "提示词"),
    "lora_weight": Text("LoRA weight", "LoRA 权重"),
}
"""What people call each axis."""


def split_values(field: AxisField, text: str) -> tuple[str, ...]:
    """The values in `text`: prompts by lines or `|`; anything else by commas, or by `;` and lines where it has any."""
    if field == "prompt":
        parts = re.split(r"[|\n]", text)
    else:
        text = text.translate(str.maketrans("，；、", ",;,"))
        # A guidance for two experts has a comma of its own.
        parts = re.split(r"[;\n]", text) if re.search(r"[;\n]", text.strip()) else text.split(",")
    return tuple(part.strip() for part in parts if part.strip())


def axes_mistakes(axes: Sequence[Axis]) -> Iterator[Text]:
    """What is wrong with the axes before any value is read: none, double or too many, or both alike."""
    cells = 1
    for axis in axes:
        name, cells = WORDS[axis.field], cells * max(1, len(axis.values))
        if not axis.values:
            yield Text(f"{name.en}: no value was given. Give one or more.", f"{name.zh}：没有给出值。请至少给出一个。")
        for value in dict.fromkeys(axis.values):
            if axis.values.count(value) > 1:
                yield Text(
                    f"{name.en} {value}: it stands there twice. Give each value once.",
                    f"{name.zh} {value}：重复出现。每个值请只给一次。",
                )
    if len({axis.field for axis in axes}) < len(axes):
        name = WORDS[axes[0].field]
        yield Text(
            f"Both axes are {name.en}: one thing can only differ along one of them. Choose another one.",
            f"两个对比项都是{name.zh}：请选择另一个。",
        )
    if cells > MAX_CELLS:
        yield Text(
            f"{cells} videos: a comparison has at most {MAX_CELLS}. Give fewer values.",
            f"{cells} 个视频：一次对比最多 {MAX_CELLS} 个。请减少取值。",
        )


def parse_values(axis: Axis, mistakes: list[Text]) -> list[Any]:
    """The values as what they mean; what cannot be read goes to `mistakes`."""
    values: list[Any] = []
    for value in axis.values:
        try:
            values.append(_READERS[axis.field](value))
        except InputError as error:
            mistakes.append(error.text)
        except ValueError:
            name, what = WORDS[axis.field], _ALLOWED[axis.field]
            mistakes.append(
                Text(
                    f"{name.en} {value}: {what.en}. Change it.",
                    f"{name.zh} {value}：{what.zh}。请修改。",
                )
            )
    return values


def propose_values(field: AxisField, spec: EngineSpec, choice: Choice) -> tuple[str, ...]:
    """Values worth a look: seeds drawn now, numbers around the preset's own; empty where the engine has no such axis.

    Of a prompt nothing is proposed: only its author knows another one.
    """
    preset = preset_of(spec, choice.preset)
    shift = choice.flow_shift or preset.flow_shift or (spec.diffusion.flow_shift if spec.diffusion else None)
    steps = choice.steps or preset.steps
    guidance = choice.guidance if isinstance(choice.guidance, int | float) else preset.guidance
    if field == "seed":
        own = [] if choice.seed is None else [choice.seed]
        return tuple(str(seed) for seed in [*own, *(secrets.randbelow(SEED_LIMIT) for _ in range(PROPOSED))][:PROPOSED])
    if field == "steps" and steps is not None:
        return _numbers(max(1, round(steps * 0.6)), steps, round(steps * 1.4) + (steps < 2))
    if field == "guidance" and guidance is not None:
        span = 2.0 if guidance >= 6 else 1.0
        return _numbers(max(1.0, guidance - span), guidance, guidance + span)
    if field == "flow_shift" and shift is not None:
        return _numbers(max(1.0, shift - 2), shift, shift + 3)
    if field == "engine":
        others = [each.id for each in load_presets().values() if each.id != spec.id and is_here(each)]
        return tuple([spec.id, *others][:PROPOSED])
    if field == "preset":
        return tuple(name for name in spec.presets if name != "fast")[:PROPOSED]
    if field == "lora_weight" and (preset.loras or choice.loras):
        return ("0.5", "0.75", "1")
    return ()


def _seed(text: str) -> int:
    # Python reads 1_000 and a leading plus, too.
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > MAX_SEED:
        raise ValueError(text)
    return int(text)


def _whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise ValueError(text)
    return int(text)


def _decimal(text: str) -> float:
    if not re.fullmatch(r"-?[0-9]{1,4}(\.[0-9]{1,6})?", text):
        raise ValueError(text)
    return float(text)


_READERS: Mapping[AxisField, Callable[[str], Any]] = {
    "seed": _seed,
    "steps": _whole,
    "guidance": parse_guidance,
    "flow_shift": _decimal,
    "engine": lambda text: find_engine(text).id,
    "preset": str,
    "prompt": str,
    "lora_weight": _decimal,
}
_ALLOWED: Mapping[AxisField, Text] = {
    "seed": Text(f"whole numbers from 0 to {MAX_SEED} are allowed", f"允许 0 到 {MAX_SEED} 的整数"),
    "steps": Text("a whole number is needed", "应为整数"),
    "flow_shift": Text("a number is needed", "应为数字"),
    "lora_weight": Text("a number such as 0.8 is needed", "应为数字，例如 0.8"),
}


def _numbers(*values: float) -> tuple[str, ...]:
    return tuple(f"{value:g}" for value in dict.fromkeys(values))
