"""The tensors of a Kaleido checkpoint: their names in three spellings, their shapes, and where each belongs.

Kaleido is Wan 2.1 T2V 14B parameter for parameter, trained in another framework (SwissArmyTransformer) that names its
tensors otherwise and keeps query, key and value in one. Knows no file and no torch: names and shapes in and out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from i2v_pipeline.errors import InputError

Shape = tuple[int, ...]

HEAD_WIDTH = 128
"""Of every Wan model. No tensor's shape tells it."""
KEPT_IN_FP32 = frozenset({"time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"})
"""Parts of a name; `_keep_in_fp32_modules` of diffusers' WanTransformer3DModel, less what has no tensors."""
_FOREIGN = ("conditioner.", "first_stage_model.")
"""The text encoder and the VAE, where a training run saved them along."""
_PREFIX = re.compile(r"(?:module\.)*(?:model\.)?(?:diffusion_model\.)?")
_LAYER = re.compile(r"(?:transformer\.layers|mixins\.adaln_layer\.\w+|blocks)\.(\d+)(?:\.|$)")
_NAMED = 5
"""So many keys of a kind are named in an error; the rest is counted."""

_W, _WB, _WHOLE = (".weight",), (".weight", ".bias"), ("",)
_SAT_ONCE = (
    ("mixins.patch_embed.proj", ("patch_embedding",), _WB),
    ("text_embedding.0", ("condition_embedder.text_embedder.linear_1",), _WB),
    ("text_embedding.2", ("condition_embedder.text_embedder.linear_2",), _WB),
    ("time_embed.0", ("condition_embedder.time_embedder.linear_1",), _WB),
    ("time_embed.2", ("condition_embedder.time_embedder.linear_2",), _WB),
    ("adaln_projection.1", ("condition_embedder.time_proj",), _WB),
)
_SAT_LAST = (
    ("mixins.final_layer.adaLN_modulation", ("scale_shift_table",), _WHOLE),
    ("mixins.final_layer.linear", ("proj_out",), _WB),
)
_SAT_LAYER = (
    ("mixins.adaln_layer.adaLN_modulations.{}", ("scale_shift_table",), _WHOLE),
    ("transformer.layers.{}.attention.query_key_value", ("attn1.to_q", "attn1.to_k", "attn1.to_v"), _WB),
    ("transformer.layers.{}.attention.dense", ("attn1.to_out.0",), _WB),
    ("mixins.adaln_layer.query_layernorm_list.{}", ("attn1.norm_q",), _W),
    ("mixins.adaln_layer.key_layernorm_list.{}", ("attn1.norm_k",), _W),
    ("transformer.layers.{}.cross_attention.query", ("attn2.to_q",), _WB),
    ("transformer.layers.{}.cross_attention.key_value", ("attn2.to_k", "attn2.to_v"), _WB),
    ("transformer.layers.{}.cross_attention.dense", ("attn2.to_out.0",), _WB),
    ("mixins.adaln_layer.cross_query_layernorm_list.{}", ("attn2.norm_q",), _W),
    ("mixins.adaln_layer.cross_key_layernorm_list.{}", ("attn2.norm_k",), _W),
    ("transformer.layers.{}.post_cross_attention_layernorm", ("norm2",), _WB),
    ("transformer.layers.{}.mlp.dense_h_to_4h", ("ffn.net.0.proj",), _WB),
    ("transformer.layers.{}.mlp.dense_4h_to_h", ("ffn.net.2",), _WB),
)
_PUBLISHED = (
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    ("proj_out.", "head.head."),
    (".scale_shift_table", ".modulation"),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".o."),
    (".norm2.", ".norm3."),
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
)
"""From diffusers' names to those of the published Wan code, in which Kaleido was repacked for ComfyUI."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The sizes of a Wan transformer; as they stand here, those of Kaleido and of Wan 2.1 T2V 14B."""

    width: int = 5120
    layers: int = 40
    ffn: int = 13_824
    text: int = 4096
    frequencies: int = 256
    channels_in: int = 16
    channels_out: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)

    @property
    def heads(self) -> int:
        return self.width // HEAD_WIDTH


KALEIDO = Geometry()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one tensor of diffusers' model comes from: part `part` of `parts` equal ones along the first dimension."""

    key: str
    part: int
    parts: int
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class KeyPlan:
    """The way of every tensor. `places` are by diffusers' names, in the order of the model.

    `skipped` counts the tensors of sections that are no part of the transformer.
    """

    geometry: Geometry
    places: Mapping[str, Place]
    skipped: Mapping[str, int]

    @property
    def parameters(self) -> int:
        return sum(math.prod(place.shape) for place in self.places.values())


def sat_names(layers: int) -> dict[str, tuple[str, ...]]:
    """Each tensor of a checkpoint as published, and the names in diffusers' model that its parts get."""
    names: dict[str, tuple[str, ...]] = {}
    for rows, prefix, index in (
        (_SAT_ONCE, "", 0),
        *((_SAT_LAYER, f"blocks.{layer}.", layer) for layer in range(layers)),
        (_SAT_LAST, "", 0),
    ):
        for name, targets, endings in rows:
            for ending in endings:
                names[name.format(index) + ending] = tuple(f"{prefix}{target}{ending}" for target in targets)
    return names


def shapes_of(geometry: Geometry) -> dict[str, Shape]:
    """The shape of every tensor of diffusers' WanTransformer3DModel, in the order of its layers."""
    width, ffn = geometry.width, geometry.ffn
    matrices: dict[str, Shape] = {
        "patch_embedding": (width, geometry.channels_in, *geometry.patch),
        "condition_embedder.text_embedder.linear_1": (width, geometry.text),
        "condition_embedder.time_embedder.linear_1": (width, geometry.frequencies),
        "condition_embedder.time_proj": (6 * width, width),
        "proj_out": (geometry.channels_out * math.prod(geometry.patch), width),
        "ffn.net.0.proj": (ffn, width),
        "ffn.net.2": (width, ffn),
    }
    shapes: dict[str, Shape] = {}
    for targets in sat_names(geometry.layers).values():
        for name in targets:
            module, _, ending = re.sub(r"^blocks\.\d+\.", "", name).rpartition(".")
            matrix = matrices.get(module, (width, width))
            if ending == "scale_shift_table":
                shapes[name] = (1, 6 if name.startswith("blocks.") else 2, width)
            elif "norm" in module:
                shapes[name] = (width,)
            else:
                shapes[name] = matrix if ending == "weight" else matrix[:1]
    return shapes


def plan_keys(shapes: Mapping[str, Shape]) -> KeyPlan:
    """Where each of the checkpoint's tensors goes, by their names and shapes alone.

    A checkpoint of Kaleido's width must be Kaleido whole. Another width is taken as a small model of the same kind,
    with the sizes that its tensors have. Raises `InputError` that names what is missing, unknown, there twice or of
    another shape.
    """
    # 1. Without the prefixes of the programs that saved it, and without the other sections
    keys: dict[str, str] = {}
    skipped: Counter[str] = Counter()
    twice: list[str] = []
    for key in shapes:
        name = key[_PREFIX.match(key).end() :]  # type: ignore[union-attr] - it matches nothing, too
        if name.startswith(_FOREIGN):
            skipped[name.partition(".")[0]] += 1
        elif name in keys:
            twice.append(key)
        else:
            keys[name] = key

    # 2. The sizes, and the spelling that knows most of the names
    layers = len({found[1] for name in keys if (found := _LAYER.match(name))})
    hits = [len(keys.keys() & names.keys()) for names in _spellings(layers)]
    if not any(hits):
        raise _foreign_checkpoint(list(shapes))
    spelling = hits.index(max(hits))
    known = _spellings(layers)[spelling]
    geometry = _geometry({known[name][0]: shapes[key] for name, key in keys.items() if name in known}, layers)
    names, expected = _spellings(geometry.layers)[spelling], shapes_of(geometry)

    # 3. Every name on either side accounted for
    misshapen = []
    for name, targets in names.items():
        first, *rest = expected[targets[0]]
        whole = (first * len(targets), *rest)
        if name in keys and shapes[keys[name]] != whole:
            misshapen.append(f"{keys[name]} {_times(shapes[keys[name]])}, expected {_times(whole)}")
    _refuse(
        missing=[name for name in names if name not in keys],
        unknown=[key for name, key in keys.items() if name not in names],
        twice=twice,
        misshapen=misshapen,
    )
    places = {
        target: Place(key=keys[name], part=part, parts=len(targets), shape=expected[target])
        for name, targets in names.items()
        for part, target in enumerate(targets)
    }
    return KeyPlan(geometry=geometry, places={name: places[name] for name in expected}, skipped=dict(skipped))


def _spellings(layers: int) -> tuple[dict[str, tuple[str, ...]], ...]:
    """The names as published, as in the published Wan code, and diffusers' own, each with its targets."""
    sat = sat_names(layers)
    targets = [target for each in sat.values() for target in each]
    return sat, {_published(target): (target,) for target in targets}, {target: (target,) for target in targets}


def _published(name: str) -> str:
    if name == "scale_shift_table":
        return "head.modulation"
    for ours, theirs in _PUBLISHED:
        name = name.replace(ours, theirs)
    return name


def _geometry(shapes: Mapping[str, Shape], layers: int) -> Geometry:
    """The sizes that these tensors (by diffusers' names, the first of joined ones) have. Raises `InputError`."""

    def size(name: str, axis: int, otherwise: int) -> int:
        shape = shapes.get(name, ())
        return shape[axis] if len(shape) > axis else otherwise

    width = size("patch_embedding.weight", 0, KALEIDO.width)
    if width == KALEIDO.width:
        return KALEIDO
    if width < HEAD_WIDTH or width % HEAD_WIDTH:
        raise InputError(
            f"The transformer is {width} wide: a Wan model's width is a multiple of {HEAD_WIDTH}, {KALEIDO.width} for "
            "Kaleido. Give Kaleido's checkpoint.",
            f"该 Transformer 的宽度为 {width}：Wan 模型的宽度是 {HEAD_WIDTH} 的倍数，Kaleido 为 {KALEIDO.width}。"
            "请提供 Kaleido 的模型文件。",
        )
    patch = shapes["patch_embedding.weight"][2:]
    per_patch = max(math.prod(patch), 1)
    return Geometry(
        width=width,
        layers=layers,
        ffn=size("blocks.0.ffn.net.0.proj.weight", 0, KALEIDO.ffn),
        text=size("condition_embedder.text_embedder.linear_1.weight", 1, KALEIDO.text),
        frequencies=size("condition_embedder.time_embedder.linear_1.weight", 1, KALEIDO.frequencies),
        channels_in=size("patch_embedding.weight", 1, KALEIDO.channels_in),
        channels_out=size("proj_out.weight", 0, KALEIDO.channels_out * per_patch) // per_patch,
        patch=(patch[0], patch[1], patch[2]) if len(patch) == 3 else KALEIDO.patch,
    )


def _foreign_checkpoint(keys: Sequence[str]) -> InputError:
    looks = f"its keys look like {keys[0]}" if keys else "it is empty"
    looks_zh = f"键名形如 {keys[0]}" if keys else "内容为空"
    return InputError(
        f"This is no Kaleido checkpoint: {looks}. Give the merged file, whose keys look like "
        "model.diffusion_model.transformer.layers.0.attention.dense.weight.",
        f"这不是 Kaleido 的模型文件：{looks_zh}。请提供合并后的文件，其键名形如 "
        "model.diffusion_model.transformer.layers.0.attention.dense.weight。",
    )


def _refuse(*, missing: Sequence[str], unknown: Sequence[str], twice: Sequence[str], misshapen: Sequence[str]) -> None:
    """Raises `InputError` where a key is not accounted for."""
    kinds = (
        ("missing", "缺少", missing),
        ("unknown", "未知", unknown),
        ("there twice", "重复", twice),
        ("of another shape", "形状不符", misshapen),
    )
    wrong = [(en, zh, keys) for en, zh, keys in kinds if keys]
    if wrong:
        en = "; ".join(f"{len(keys)} {kind} ({_named(keys)})" for kind, _, keys in wrong)
        zh = "；".join(f"{kind} {len(keys)} 个（{_named(keys)}）" for _, kind, keys in wrong)
        raise InputError(
            f"The checkpoint's tensors are not Kaleido's: {en}. Nothing was written. Give all of its files, or "
            "download it anew.",
            f"模型文件中的张量与 Kaleido 不符：{zh}。未写入任何内容。请提供全部文件，或重新下载。",
        )


def _named(keys: Sequence[str]) -> str:
    more = f", and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"
