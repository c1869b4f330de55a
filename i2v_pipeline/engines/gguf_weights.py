"""A denoiser whose matrices stay packed as a GGUF file has them, and are widened one at a time as they compute.

Everything else (biases, norms, what computes in fp32) is widened as it is loaded. Knows no mode, no plan and no loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers.quantizers.gguf.utils import dequantize_functions
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import Tensor, nn
from torch.nn import functional

from i2v_pipeline.engines.wan_names import published_tensor
from i2v_pipeline.errors import InputError
from i2v_pipeline.gguf_files import GgufFile, GgufTensor, foreign, read_gguf
from i2v_pipeline.planning.packed import WIDENED_AT_ONCE

_NAMED = 5
"""So many tensors of a sort are named in an error; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a kind of GGUF lies: `values` in each block of `size` bytes, and what makes float32 of blocks (n, size)."""

    kind: str
    values: int
    size: int
    read: Callable[..., Tensor]

    def widen(self, packed: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 (rows, bytes) to (rows, columns), computed in float32 and rounded once, some rows at a time."""
        columns = packed.shape[1] // self.size * self.values
        wide = torch.empty(packed.shape[0], columns, dtype=dtype, device=packed.device)
        rows = max(1, WIDENED_AT_ONCE // columns)
        for some, target in zip(packed.split(rows), wide.split(rows), strict=True):
            blocks = some.reshape(-1, self.size)
            target.copy_(self.read(blocks, self.values, self.size, dtype=torch.float32).reshape(-1, columns))
        return wide


def packing_of(kind: str) -> Packing:
    """The packing that is called `kind`, such as Q4_K."""
    known = GGMLQuantizationType[kind]
    values, size = GGML_QUANT_SIZES[known]
    return Packing(kind=kind, values=values, size=size, read=dequantize_functions[known])


class PackedLinear(nn.Module):
    """`nn.Linear` over a packed matrix, and LoRAs beside it: y = widened x + bias + up (down x).

    `weight` is uint8 (rows, bytes). `down` (rank, in) and `up` (out, rank) are None without a LoRA. All are parameters,
    so what moves a model's parameters moves them.
    """

    down: nn.Parameter | None
    up: nn.Parameter | None

    def __init__(self, tensor: GgufTensor, bias: nn.Parameter | None, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.out_features, self.in_features = tensor.shape
        self.packing = packing_of(tensor.kind)
        self.dtype = dtype
        self.weight = _kept(_read(tensor).to(device))
        self.bias = bias
        self.register_parameter("down", None)
        self.register_parameter("up", None)

    def forward(self, given: Tensor) -> Tensor:
        result = functional.linear(given, self.packing.widen(self.weight, self.dtype), self.bias)
        if self.down is not None and self.up is not None:
            narrow = functional.linear(given, self.down)
            result.flatten(0, -2).addmm_(narrow.flatten(0, -2), self.up.t())
        return result

    def put_beside(self, down: Tensor, up: Tensor) -> None:
        """Adds a LoRA, float32 (rank, in) and (out, rank) with its strength in `up`; each is rounded once."""
        device = self.weight.device
        down, up = down.to(device, self.dtype), up.to(device, self.dtype)
        self.down = _kept(down if self.down is None else torch.cat([self.down, down]))
        self.up = _kept(up if self.up is None else torch.cat([self.up, up], dim=1))


def load_packed(kind: Any, config: Mapping[str, Any], path: Path, dtype: torch.dtype, device: torch.device) -> Any:  # noqa: ANN401 - a class of diffusers
    """A model of the class `kind` with the weights of the file, on `device`; computes in `dtype`.

    What diffusers keeps in fp32 of such a model is so here. The file is mapped and read tensor by tensor, so no more
    than one lies in memory twice. Raises `InputError` for a file of another architecture, and names the tensors that
    are missing, unknown or of another shape.
    """
    file = read_gguf(path)
    with init_empty_weights():
        model = kind.from_config(dict(config))
    places = _places(file, {name: tuple(value.shape) for name, value in model.state_dict().items()})
    for name, tensor in places.items():
        owner, _, ending = name.rpartition(".")
        module = model.get_submodule(owner)
        if tensor.stays_packed:
            _replace(model, owner, PackedLinear(tensor, module.bias, dtype, device))
            continue
        is_fp32 = not set(name.split(".")).isdisjoint(model._keep_in_fp32_modules)
        # requires_grad as diffusers loads it: PyTorch's matmul chooses its path, and with it the last bit, by it.
        value = _plain(tensor).to(device, torch.float32 if is_fp32 else dtype)
        module._parameters[ending] = nn.Parameter(value.reshape(module._parameters[ending].shape))
    for name, buffer in model.named_buffers():
        owner, _, ending = name.rpartition(".")
        model.get_submodule(owner)._buffers[ending] = buffer.to(device)
    return model


def _places(file: GgufFile, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, GgufTensor]:
    """The file's tensor for each parameter of the model, biases after the matrices that they belong to."""
    published = {name: published_tensor(name) for name in shapes}
    is_published = len(file.tensors.keys() & set(published.values())) > len(file.tensors.keys() & shapes.keys())
    names = published if is_published else {name: name for name in shapes}
    found = {name: file.tensors[theirs] for name, theirs in names.items() if theirs in file.tensors}
    if not found:
        raise foreign(file)
    _refuse(
        file.path,
        missing=[theirs for name, theirs in names.items() if name not in found],
        unknown=sorted(file.tensors.keys() - set(names.values())),
        misshapen=[
            f"{tensor.name} {_times(tensor.shape)}, expected {_times(shapes[name])}"
            for name, tensor in found.items()
            if _without_ones(tensor.shape) != _without_ones(shapes[name])
        ],
    )
    return dict(sorted(found.items(), key=lambda item: not item[1].stays_packed))


def _refuse(path: Path, *, missing: Sequence[str], unknown: Sequence[str], misshapen: Sequence[str]) -> None:
    """Raises `InputError` where a tensor is not accounted for."""
    kinds = (("missing", "缺少", missing), ("unknown", "未知", unknown), ("of another shape", "形状不符", misshapen))
    wrong = [(en, zh, names) for en, zh, names in kinds if names]
    if wrong:
        en = "; ".join(f"{len(names)} {kind} ({_named(names)})" for kind, _, names in wrong)
        zh = "；".join(f"{kind} {len(names)} 个（{_named(names)}）" for _, kind, names in wrong)
        raise InputError(
            f"The tensors of {path.name} are not those of the engine's transformer: {en}. Choose a file of its model, "
            "or download it anew.",
            f"{path.name} 的张量与该引擎的 transformer 不符：{zh}。请选择对应模型的文件，或重新下载。",
        )


def _named(names: Sequence[str]) -> str:
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """llama.cpp, which most files come from, leaves out sides of 1 that stand first."""
    first = next((index for index, side in enumerate(shape) if side != 1), len(shape))
    return tuple(shape[first:])


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, ending = name.rpartition(".")
    model.get_submodule(owner)._modules[ending] = module


def _plain(tensor: GgufTensor) -> Tensor:
    """The tensor's values as they are, or widened to float32."""
    if tensor.kind == "BF16":
        return _read(tensor).view(torch.bfloat16).reshape(tensor.shape)
    if not tensor.is_packed:
        return _read(tensor).reshape(tensor.shape)
    rows = _read(tensor).flatten(0, -2) if len(tensor.shape) > 1 else _read(tensor).unsqueeze(0)
    return packing_of(tensor.kind).widen(rows, torch.float32).reshape(tensor.shape)


def _read(tensor: GgufTensor) -> Tensor:
    """The values as they lie in the file, copied out of it: what is mapped would change with the file.

    Into memory of PyTorch's own, since products choose their path, and with it the last bit, by where it begins.
    """
    return torch.tensor(np.asarray(tensor.values))


def _kept(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
