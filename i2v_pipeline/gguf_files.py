"""Denoisers' weights in GGUF: which file, what its header says, whose transformer it is. Loads no weights, no torch.

Values of a packed tensor lie in blocks: a few bits each, and what they are multiplied by.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from i2v_pipeline.errors import InputError
from i2v_pipeline.kaleido.keys import HEAD_WIDTH
from i2v_pipeline.specs import PackedLayers, PackedWeights
from i2v_pipeline.types import Text

PLAIN_KINDS = ("F32", "F16", "BF16")
PACKED_KINDS = (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
)  # fmt: skip
"""What diffusers can widen."""
COMPONENTS = ("transformer", "transformer_2")
"""Those that may be in GGUF."""
NO_FP8 = Text(
    "Precision fp8: the denoiser's weights are in GGUF and have fewer bits already. Choose auto.",
    "精度 fp8：去噪模型的权重为 GGUF 格式，已经低于 8 位浮点。请选择 auto。",
)
_PREFIX = "model.diffusion_model."
_LAYER = re.compile(r"(?:vace_)?blocks\.(\d+)\.")
_WIDENED_AT_ONCE = re.compile(r"time_embed")
"""Computes in fp32, so it is kept so."""

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """One tensor of a file, its values mapped and not read: uint8 (..., bytes of a row) where `is_packed`."""

    name: str
    kind: str
    shape: Shape
    values: Any

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def is_packed(self) -> bool:
        return self.kind not in PLAIN_KINDS

    @property
    def stays_packed(self) -> bool:
        """Whether it lies in memory as in the file: matrices do, and are widened each time that they compute."""
        is_matrix = len(self.shape) == 2 and self.name.endswith(".weight")
        return self.is_packed and is_matrix and not _WIDENED_AT_ONCE.search(self.name)


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """A file's tensors, by their names without the prefix of ComfyUI, and where their values begin."""

    path: Path
    tensors: Mapping[str, GgufTensor]
    header_bytes: int

    def shape(self, *spellings: str) -> Shape | None:
        """Of the tensor that is called by one of these names; None where none is."""
        return next((self.tensors[name].shape for name in spellings if name in self.tensors), None)


def gguf_in(folder: Path) -> Path | None:
    """The GGUF file in a component's folder; None where there is none.

    Raises `InputError` where it is not clear which weights are meant.
    """
    found = sorted(path.name for path in folder.glob("*.gguf"))
    others = sorted(path.name for path in folder.glob("*.safetensors")) if found else []
    if len(found) + len(others) > 1:
        names = [*found, *others]
        raise InputError(
            f"{folder.name} has more than one kind of weights: {', '.join(names[:3])}. Keep one .gguf, or the "
            ".safetensors alone.",
            f"{folder.name} 中有多份权重：{'、'.join(names[:3])}。请只保留一个 .gguf 文件，或只保留 .safetensors。",
        )
    return folder / found[0] if found else None


def read_gguf(path: Path) -> GgufFile:
    """The header, and the values where they lie. Raises `InputError` for a file that is none, is cut short or has
    tensors of a kind that cannot be widened."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise InputError(
            f"{path.name} cannot be read: it is no GGUF file, cut short, or has weights of a kind that is not known "
            f"here ({error}). Download it anew.",
            f"无法读取 {path.name}：不是 GGUF 文件、不完整，或其类型未知（{error}）。请重新下载。",
        ) from error
    tensors: dict[str, GgufTensor] = {}
    for each in reader.tensors:
        shape = tuple(int(side) for side in reversed(each.shape))
        name = each.name.removeprefix(_PREFIX)
        tensors[name] = GgufTensor(name=name, kind=each.tensor_type.name, shape=shape, values=each.data)
    foreign = {each.kind: each.name for each in tensors.values() if each.kind not in (*PLAIN_KINDS, *PACKED_KINDS)}
    if foreign:
        kind, name = next(iter(foreign.items()))
        raise InputError(
            f"{path.name} has weights of the kind {kind} ({name}), which cannot be widened here. These can: "
            f"{', '.join((*PLAIN_KINDS, *PACKED_KINDS))}. Choose a file of one of them.",
            f"{path.name} 含有 {kind} 类型的权重（{name}），此处无法展开。支持的类型："
            f"{'、'.join((*PLAIN_KINDS, *PACKED_KINDS))}。请换用其中之一的文件。",
        )
    return GgufFile(path=path, tensors=tensors, header_bytes=int(reader.data_offset))


def packed_weights(path: Path) -> PackedWeights:
    """What the file's weights take. Raises as `read_gguf` does; reads the header again only where the file changed."""
    stat = path.stat()
    return _packed_weights(path, stat.st_size, stat.st_mtime_ns)


def config_of(file: GgufFile) -> dict[str, Any]:
    """The arguments of diffusers' class, from the shapes of the tensors, in either spelling.

    Raises `InputError` for a file of another architecture.
    """
    patch = file.shape("patch_embedding.weight")
    feed = file.shape("blocks.0.ffn.0.weight", "blocks.0.ffn.net.0.proj.weight")
    text = file.shape("text_embedding.0.weight", "condition_embedder.text_embedder.linear_1.weight")
    time = file.shape("time_embedding.0.weight", "condition_embedder.time_embedder.linear_1.weight")
    head = file.shape("head.head.weight", "proj_out.weight")
    if not (patch and feed and text and time and head) or len(patch) != 5 or patch[0] % HEAD_WIDTH:
        raise foreign(file)
    width = patch[0]
    config: dict[str, Any] = {
        "patch_size": list(patch[2:]),
        "num_attention_heads": width // HEAD_WIDTH,
        "attention_head_dim": HEAD_WIDTH,
        "in_channels": patch[1],
        "out_channels": head[0] // math.prod(patch[2:]),
        "text_dim": text[1],
        "freq_dim": time[1],
        "ffn_dim": feed[0],
        "num_layers": _layers(file, "blocks."),
    }
    image = file.shape("img_emb.proj.1.weight", "condition_embedder.image_embedder.ff.net.0.proj.weight")
    if image:
        config |= {"image_dim": image[1], "added_kv_proj_dim": width}
    control = file.shape("vace_patch_embedding.weight")
    if control:
        every = config["num_layers"] // max(_layers(file, "vace_blocks."), 1)
        config |= {"vace_layers": list(range(0, config["num_layers"], every)), "vace_in_channels": control[1]}
    return config


def foreign(file: GgufFile) -> InputError:
    """The error that a file is of another architecture."""
    looks = next(iter(file.tensors), "")
    return InputError(
        f"{file.path.name} is no Wan transformer: its tensors are called {looks} and the like. Choose a file of the "
        "engine's own model.",
        f"{file.path.name} 不是 Wan 的 transformer（张量名形如 {looks}）。请选择该引擎对应模型的文件。",
    )


@lru_cache(maxsize=16)
def _packed_weights(path: Path, size: int, _: int) -> PackedWeights:
    file = read_gguf(path)
    layers: dict[str, list[GgufTensor]] = {}
    for tensor in file.tensors.values():
        found = _LAYER.match(tensor.name)
        layers.setdefault(found[0] if found else "", []).append(tensor)
    outside = _sum_of(layers.pop("", []))
    sums = [_sum_of(each) for each in layers.values()] or [_sum_of([])]
    packed = [tensor for tensor in file.tensors.values() if tensor.stays_packed]
    kinds: Counter[str] = Counter()
    for tensor in file.tensors.values():
        kinds[tensor.kind] += tensor.parameters
    return PackedWeights(
        kinds=dict(kinds.most_common()),
        file_bytes=size,
        layers=tuple(sums),
        outside=outside,
        widest=max((tensor.parameters for tensor in packed), default=0),
    )


def _sum_of(tensors: list[GgufTensor]) -> PackedLayers:
    packed = [tensor for tensor in tensors if tensor.stays_packed]
    return PackedLayers(
        packed_bytes=sum(int(tensor.values.nbytes) for tensor in packed),
        plain_parameters=sum(tensor.parameters for tensor in tensors if not tensor.stays_packed),
    )


def _layers(file: GgufFile, prefix: str) -> int:
    return len({name.split(".")[1] for name in file.tensors if name.startswith(prefix)})
