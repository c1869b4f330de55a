"""LoRAs added into a transformer's weights, or put beside those that are packed: found, read, matched, summed.

Knows the names of Wan's parts and no loop.

Three ways of naming the parts are in use: diffusers' own (`blocks.0.attn1.to_q`), that of the published Wan code
(`blocks.0.self_attn.q`, as LightX2V and ComfyUI write it) and kohya's (`lora_unet_blocks_0_self_attn_q`).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from i2v_pipeline.engines.gguf_weights import PackedLinear
from i2v_pipeline.engines.wan_names import published_part
from i2v_pipeline.errors import InputError, ModelError
from i2v_pipeline.hub import PICKLES
from i2v_pipeline.types import Expert, Finding, LoraRef, Text

_READ_BYTES = 2**20
_PREFIXES = ("base_model.model.", "diffusion_model.", "transformer.", "transformer_2.", "lora_unet_")
_DOWN = (".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight")
_UP = (".lora_B.weight", ".lora_B.default.weight", ".lora_up.weight")
_ALPHA, _WEIGHT_DIFF, _BIAS_DIFFS = ".alpha", ".diff", (".diff_b", ".lora_B.bias")
_ENDINGS = (*_DOWN, *_UP, _ALPHA, _WEIGHT_DIFF, *_BIAS_DIFFS)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA file that is there and can be read."""

    ref: LoraRef
    path: Path
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name


def open_loras(refs: Sequence[LoraRef]) -> tuple[Lora, ...]:
    """The files behind `refs`. Raises `InputError` for one that is none, `ModelError` for a pickle or a missing one."""
    return tuple(_open(ref) for ref in refs)


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """What LoRAs add to the parts of one model, by the part's name, and what of them it has no place for."""

    changes: Mapping[str, Sequence[tuple[Lora, Mapping[str, str]]]]
    findings: tuple[Finding, ...]

    def apply(self, name: str, module: Any, device: torch.device) -> None:  # noqa: ANN401 - a linear, convolution or norm
        """Adds to that part in place what belongs to it, summed in float32 and rounded once.

        The sum is made on `device`, wherever the part lies: it is the same to the last bit then. Raises `InputError`
        for a LoRA of another model.
        """
        if name in self.changes:
            _change(module, name, self.changes[name], device)


def fusion_of(model: nn.Module, loras: Sequence[Lora], expert: Expert) -> Fusion:
    """Every LoRA that is meant for `expert`, matched to the parts of `model`, whose weights are not looked at.

    Raises `InputError` for one that fits nowhere.
    """
    meant = [lora for lora in loras if lora.ref.expert in (None, expert)]
    modules = {name: each for name, each in model.named_modules() if isinstance(getattr(each, "weight", None), Tensor)}
    spellings = {spelling: name for name in modules for spelling in _spellings(name)}
    findings: list[Finding] = []
    changes: dict[str, list[tuple[Lora, Mapping[str, str]]]] = defaultdict(list)
    for lora in meant:
        places, unknown = _places(lora, spellings)
        if not places:
            raise InputError(
                f"{lora.name} fits no part of this model: its keys look like {unknown[0]}. "
                "Choose a LoRA that was made for this model.",
                f"{lora.name} 与此模型的任何部分都不匹配（键名形如 {unknown[0]}）。请选择为此模型制作的 LoRA。",
            )
        if unknown:
            findings.append(_partly_unknown(lora, unknown))
        for name, keys in places.items():
            changes[name].append((lora, keys))
    return Fusion(changes=changes, findings=tuple(findings))


def _open(ref: LoraRef) -> Lora:
    path = _cached_file(ref) if ref.source.startswith("hf://") else Path(ref.source)
    if path.suffix in PICKLES:
        raise ModelError(
            f"{path.name} is a pickle, which can run any program when it is read: a LoRA must be .safetensors.",
            f"{path.name} 是 pickle 文件，读取时可能执行任意程序：LoRA 必须是 .safetensors。",
        )
    if not path.is_file():
        raise InputError(
            f"LoRA {ref.source}: no such file. Check its name.", f"LoRA {ref.source}：文件不存在。请检查名称。"
        )
    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        raise InputError(
            f"LoRA {path.name} is no safetensors file ({error}). Download it anew.",
            f"LoRA {path.name} 不是有效的 safetensors 文件（{error}）。请重新下载。",
        ) from error
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return Lora(ref=ref, path=path, sha256=digest.hexdigest())


def _cached_file(ref: LoraRef) -> Path:
    from huggingface_hub import try_to_load_from_cache

    owner, name, file = ref.source.removeprefix("hf://").split("/", 2)
    path = try_to_load_from_cache(f"{owner}/{name}", file)
    if not isinstance(path, str):
        raise ModelError(
            f"The LoRA {ref.source} is not on this machine. `python app.py models download` of the engine fetches it.",
            f"本机没有 LoRA {ref.source}。对该引擎执行 `python app.py models download` 即可下载。",
        )
    return Path(path)


def _spellings(name: str) -> Iterator[str]:
    for dotted in (name, published_part(name)):
        yield dotted
        yield dotted.replace(".", "_")


def _places(lora: Lora, spellings: Mapping[str, str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """For each part of the model the file's keys by their ending, and the keys that belong nowhere."""
    places: dict[str, dict[str, str]] = defaultdict(dict)
    unknown: list[str] = []
    with safe_open(lora.path, framework="pt") as file:
        keys = list(file.keys())
    for key in keys:
        ending = next((each for each in _ENDINGS if key.endswith(each)), None)
        name = key.removesuffix(ending or "")
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        if ending is None or name not in spellings:
            unknown.append(key)
        else:
            places[spellings[name]][ending] = key
    return places, unknown


def _change(
    module: Any,  # noqa: ANN401 - a linear, convolution or norm
    name: str,
    parts: Sequence[tuple[Lora, Mapping[str, str]]],
    device: torch.device,
) -> None:
    is_packed = isinstance(module, PackedLinear)
    weight = None if is_packed else module.weight.data.to(device).float()
    bias = None if getattr(module, "bias", None) is None else module.bias.data.to(device).float()
    for lora, keys in parts:
        with safe_open(lora.path, framework="pt", device=str(device)) as file:
            tensors = {ending: file.get_tensor(key).float() for ending, key in keys.items()}
        if is_packed:
            _put_beside(module, name, lora, tensors)
        delta = None if is_packed else _weight_delta(tensors)
        for target, change in ((weight, delta), (bias, _bias_delta(tensors))):
            if change is None:
                continue
            if target is None or change.numel() != target.numel():
                raise _for_another(lora, name, change.numel(), 0 if target is None else target.numel())
            target += lora.ref.weight * change.view_as(target)
    if weight is not None:
        module.weight.data.copy_(weight)
    if bias is not None:
        module.bias.data.copy_(bias)


def _put_beside(module: PackedLinear, name: str, lora: Lora, tensors: Mapping[str, Tensor]) -> None:
    """What is packed cannot be added to without unpacking it for good, so the two narrow matrices compute beside it."""
    matrices = _matrices(tensors)
    if matrices is None and _WEIGHT_DIFF not in tensors:
        return
    if matrices is None:
        raise InputError(
            f"{lora.name} changes all of {name}, whose weights are packed (GGUF): beside them only low-rank LoRAs can "
            "stand. Leave the LoRA out, or use full weights.",
            f"{lora.name} 整体修改 {name}，而其权重为 GGUF 压缩格式，只能附加低秩 LoRA。"
            "请去掉该 LoRA，或使用完整权重。",
        )
    down, up, scale = matrices
    if down.shape[1] != module.in_features or up.shape[0] != module.out_features:
        raise _for_another(lora, name, up.shape[0] * down.shape[1], module.in_features * module.out_features)
    module.put_beside(down, lora.ref.weight * scale * up)


def _for_another(lora: Lora, name: str, values: int, expected: int) -> InputError:
    return InputError(
        f"{lora.name} is for another model: its {name} has {values} values, the model's {expected}. Choose a LoRA that "
        "was made for this model.",
        f"{lora.name} 属于其他模型：{name} 的大小不符。请选择为此模型制作的 LoRA。",
    )


def _weight_delta(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """What one LoRA adds to a weight: up @ down * alpha / rank, or the difference itself."""
    matrices = _matrices(tensors)
    if matrices is None:
        return tensors.get(_WEIGHT_DIFF)
    down, up, scale = matrices
    return scale * (up @ down)


def _bias_delta(tensors: Mapping[str, Tensor]) -> Tensor | None:
    return next((tensors[ending] for ending in _BIAS_DIFFS if ending in tensors), None)


def _matrices(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, float] | None:
    """(rank, in) and (out, rank) of a low-rank change, and alpha / rank; None of another change."""
    down = next((tensors[ending] for ending in _DOWN if ending in tensors), None)
    up = next((tensors[ending] for ending in _UP if ending in tensors), None)
    if down is None or up is None:
        return None
    rank = down.shape[0]
    return down.flatten(1), up.flatten(1), float(tensors[_ALPHA]) / rank if _ALPHA in tensors else 1.0


def _partly_unknown(lora: Lora, unknown: Sequence[str]) -> Finding:
    return Finding(
        code="lora_partly_unknown",
        severity="warn",
        message=Text(
            f"{lora.name} has {len(unknown)} keys that this model has no place for, such as {unknown[0]}; they were "
            "left out.",
            f"{lora.name} 中有 {len(unknown)} 个键在此模型中没有对应位置（例如 {unknown[0]}），未被使用。",
        ),
    )
