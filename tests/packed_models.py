"""Tiny Wan checkpoints whose transformers are in GGUF, and the same with exactly those weights in full.

GGUF packs rows of 32 or 256 values, so the transformers are a little wider than those of `tiny_models`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import numpy as np
import torch
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel
from gguf import GGMLQuantizationType
from tiny_models import KALEIDO, VACE, WAN_5B, WAN_21, save_checkpoint

from i2v_pipeline.engines.wan_names import published_tensor

K_VALUES = 256


def save_full(engine_id: str, folder: Path, *, width: int = 64) -> Path:
    """A checkpoint for `engine_id` whose transformers have heads of 32 (or 128 for a `width` of 256)."""
    save_checkpoint(engine_id, folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for place in sorted(folder.glob("transformer*")):
            shutil.rmtree(place)
            _transformer(engine_id, width).save_pretrained(place)
    return folder


def save_packed(full: Path, folder: Path, kind: str, *, with_config: bool = True) -> Path:
    """The checkpoint `full` with its transformers in GGUF of that kind; what is left are links."""
    for place in sorted(full.iterdir()):
        (folder / place.name).parent.mkdir(parents=True, exist_ok=True)
        if not place.name.startswith("transformer"):
            (folder / place.name).symlink_to(place)
            continue
        (folder / place.name).mkdir()
        if with_config:
            (folder / place.name / "config.json").symlink_to(place / "config.json")
        write_gguf(weights_in(place), folder / place.name / f"tiny-{place.name}-{kind}.gguf", kind)
    return folder


def save_widened(full: Path, packed: Path, folder: Path) -> Path:
    """The checkpoint `full` with the values that the GGUF files of `packed` stand for, by the format's reference."""
    shutil.copytree(full, folder)
    for place in sorted(folder.glob("transformer*")):
        model = _model_in(place)
        published = read_values(next((packed / place.name).glob("*.gguf")))
        state = {name: published[published_tensor(name)].view_as(own) for name, own in model.state_dict().items()}
        model.load_state_dict(state)
        model.save_pretrained(place)
    return folder


def weights_in(place: Path) -> dict[str, np.ndarray]:
    """The transformer's values in `place` by their published names, float32."""
    return {published_tensor(name): value.numpy() for name, value in _model_in(place).state_dict().items()}


def write_gguf(weights: dict[str, np.ndarray], path: Path, kind: str, *, architecture: str = "wan") -> Path:
    """Matrices in `kind`, where their rows are whole blocks of it; the patches in F16, all else in F32.

    As in files that llama.cpp has written sides of 1 that stand first are left out.
    """
    writer = gguf.GGUFWriter(path, architecture)
    for name, values in weights.items():
        wanted = GGMLQuantizationType[kind]
        if values.shape[0] == 1:
            writer.add_tensor(name, values[0])
        elif values.ndim == 2 and values.shape[1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0:
            writer.add_tensor(name, packed_values(values, wanted), raw_dtype=wanted)
        elif values.ndim > 2:
            writer.add_tensor(name, values.astype(np.float16))
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def packed_values(values: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """`values` in that kind; of kinds that the package cannot write random blocks of about the same size."""
    try:
        return gguf.quants.quantize(values, kind)
    except NotImplementedError:
        rows, columns = values.shape
        return random_blocks(kind, rows, columns, scale=float(np.abs(values).max()))


def random_blocks(kind: GGMLQuantizationType, rows: int, columns: int, scale: float = 0.1) -> np.ndarray:
    """Any bytes are a block but for its scales, which are half floats: these are made small."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(rows * columns).integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    for place in SCALES[kind.name]:
        halves = np.full(len(blocks), scale / LARGEST[kind.name], np.float16) * np.linspace(0.5, 1, len(blocks))
        blocks[:, place : place + 2] = halves.astype(np.float16)[:, None].view(np.uint8)
    return blocks.reshape(rows, -1)


SCALES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip
"""Where the half floats stand in a block."""
LARGEST = {
    "Q4_0": 8, "Q4_1": 15, "Q5_0": 16, "Q5_1": 31, "Q8_0": 128, "Q2_K": 45, "Q3_K": 128, "Q4_K": 945, "Q5_K": 1953,
    "Q6_K": 4096, "IQ4_NL": 127, "IQ4_XS": 4064,
}  # fmt: skip
"""The largest value in units of the scale."""


def read_values(path: Path) -> dict[str, torch.Tensor]:
    """All values of a file in float32, by the reference implementation of the format."""
    read = {}
    for tensor in gguf.GGUFReader(path).tensors:
        wide = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        read[tensor.name] = torch.from_numpy(wide.reshape([int(side) for side in reversed(tensor.shape)]))
    return read


def _model_in(place: Path) -> WanTransformer3DModel | WanVACETransformer3DModel:
    is_vace = "vace_layers" in (place / "config.json").read_text(encoding="utf-8")
    return (WanVACETransformer3DModel if is_vace else WanTransformer3DModel).from_pretrained(place)


def _transformer(engine_id: str, width: int) -> WanTransformer3DModel | WanVACETransformer3DModel:
    channels = 48 if engine_id == WAN_5B else 16
    is_plain = engine_id in (WAN_5B, KALEIDO, VACE)
    sizes = {
        "num_attention_heads": 2, "attention_head_dim": width // 2, "text_dim": 32, "freq_dim": 32,
        "ffn_dim": 2 * width, "num_layers": 2, "out_channels": channels,
        "in_channels": channels if is_plain else 2 * channels + 4,
        "rope_max_seq_len": 1024 if width == K_VALUES else 128,
    }  # fmt: skip
    if engine_id == VACE:
        return WanVACETransformer3DModel(**sizes, vace_layers=[0, 1]).eval()
    if engine_id == WAN_21:
        sizes |= {"image_dim": 32, "added_kv_proj_dim": width}
    return WanTransformer3DModel(**sizes).eval()
