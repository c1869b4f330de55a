"""Counts what a stage of a diffusion engine does, operation by operation, on tensors that have no memory.

Knows the real classes at full size and no clock: floating-point operations, bytes that element-wise operations move,
and the most bytes that live at once beside the weights. Attention counts as one operation that keeps no matrix of
scores, as every CUDA backend of PyTorch for it does.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# Run as a file, a program that counts finds the project only now.
from bench.engines_gpu import CONFIGS, build_empty, fill, kinds_of  # noqa: E402
from i2v_pipeline.engines import i2vgen_xl, wan  # noqa: E402
from i2v_pipeline.engines.runtime import DTYPES  # noqa: E402
from i2v_pipeline.engines.two_timesteps import use_two_timesteps  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402

META = torch.device("meta")
TEXT_TOKENS = 512
CLIP_TOKENS = 257
"""Of a picture of 224 pixels in patches of 14, and one for the whole."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """FLOPs outside attention and within, bytes that element-wise operations move, bytes alive at the peak."""

    flops: float
    attention_flops: float
    elementwise_bytes: float
    peak_bytes: float


class Meter(TorchDispatchMode):
    """Follows the memory of every tensor that is made while it is on, and the traffic of what is not a multiplication.

    Memory that existed before, such as weights, does not count; a view moves nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.elementwise_bytes = 0
        self.peak_bytes = 0
        self._live_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        given = {tensor.untyped_storage()._cdata for tensor in read}
        new = [tensor for tensor in made if tensor.untyped_storage()._cdata not in given]
        for tensor in new:
            self._follow(tensor.untyped_storage())
        moves = bool(new) or func._schema.is_mutable
        if moves and func._overloadpacket not in flop_registry and "empty" not in func.name():
            self.elementwise_bytes += sum(_bytes_of(tensor) for tensor in (*read, *made))
        return result

    def _follow(self, storage: Any) -> None:  # noqa: ANN401
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live_bytes -= size


def _bytes_of(tensor: Tensor) -> int:
    """What reading or writing it moves: an expanded tensor is read once from where it really stands."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


@contextmanager
def _as_on_cuda(flops: list[float], moved: list[int]) -> Iterator[None]:
    """Two operations that are one kernel on CUDA and many on tensors without memory: each makes its result alone.

    Attention's two products are counted in `flops`; what the norm reads and writes in `moved`.
    """

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> Tensor:
        flops.append(2 * prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1]))
        return query.new_empty(*query.shape[:-1], value.shape[-1])

    def normalise(given: Tensor, *_: object, **__: object) -> Tensor:
        moved.append(2 * _bytes_of(given))
        return torch.empty_like(given)

    functional = "torch.nn.functional"
    one, other = f"{functional}.scaled_dot_product_attention", f"{functional}.rms_norm"
    with mock.patch(one, attend), mock.patch(other, normalise):
        yield


def count(work: Callable[[], object]) -> Counted:
    """What `work` does; it must make its own inputs for them to count."""
    attention: list[float] = []
    moved: list[int] = []
    meter = Meter()
    with torch.no_grad(), _as_on_cuda(attention, moved), FlopCounterMode(display=False) as counter, meter:
        work()
    return Counted(
        flops=float(counter.get_total_flops()),
        attention_flops=float(sum(attention)),
        elementwise_bytes=float(meter.elementwise_bytes + sum(moved)),
        peak_bytes=float(meter.peak_bytes),
    )


@cache
def component(engine_id: str, name: str) -> Any:  # noqa: ANN401
    """The component at full size without memory, in the types that the engine loads it in on a GPU."""
    spec = load_presets()[engine_id]
    assert spec.diffusion is not None
    in_fp32 = i2vgen_xl.IN_FP32 if spec.family == "i2vgen_xl" else wan.IN_FP32
    model = build_empty(kinds_of(spec)[name], CONFIGS[engine_id][name])
    fill(model, META, META, torch.float32 if name in in_fp32 else DTYPES[spec.diffusion.precision])
    if name == "transformer" and spec.diffusion.per_token_timesteps:
        use_two_timesteps(model)
    return model.to(META).eval()


def weight_bytes(engine_id: str, name: str) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in component(engine_id, name).parameters())


def _made(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, device=META, dtype=dtype)


def count_text(engine_id: str) -> Counted:
    """One prompt, padded to the encoder's length."""
    model = component(engine_id, "text_encoder")
    length = 77 if engine_id == "i2vgen-xl" else TEXT_TOKENS
    return count(lambda: model(_made(1, length, dtype=torch.long)))


def count_image(engine_id: str) -> Counted:
    model = component(engine_id, "image_encoder")
    return count(lambda: model(_made(1, 3, 224, 224, dtype=model.dtype)))


def count_step(engine_id: str, width: int, height: int, frames: int, *, batch: int = 1, references: int = 0) -> Counted:
    """One forward of the denoiser; I2VGen-XL's guided step is one forward of a batch of two."""
    if engine_id == "i2vgen-xl":
        unet = component(engine_id, "unet")
        return count(lambda: _forward_unet(unet, width, height, frames, batch))
    factor = CONFIGS[engine_id]["vae"].get("scale_factor_spatial", 8)
    latent = ((frames - 1) // 4 + 1 + references, height // factor, width // factor)
    model, spec = component(engine_id, "transformer"), load_presets()[engine_id]
    assert spec.diffusion is not None
    is_per_token = spec.diffusion.per_token_timesteps
    return count(lambda: _forward_wan(model, latent, is_per_token=is_per_token))


def _forward_wan(model: Any, latent: tuple[int, int, int], *, is_per_token: bool) -> None:  # noqa: ANN401
    if "vace_in_channels" in model.config:
        control = {"control_hidden_states": _made(1, model.config.vace_in_channels, *latent, dtype=model.dtype)}
    else:
        control = {}
    image = None if model.config.image_dim is None else _made(1, CLIP_TOKENS, 1280, dtype=model.dtype)
    model(
        hidden_states=_made(1, model.config.in_channels, *latent, dtype=model.dtype),
        timestep=_made(1, 2) if is_per_token else _made(1),
        encoder_hidden_states=_made(1, TEXT_TOKENS, 4096, dtype=model.dtype),
        encoder_hidden_states_image=image,
        return_dict=False,
        **control,
    )


def _forward_unet(model: Any, width: int, height: int, frames: int, batch: int) -> None:  # noqa: ANN401
    shape = (batch, 4, frames, height // 8, width // 8)
    model(
        _made(*shape, dtype=model.dtype),
        _made(1, dtype=torch.long),
        encoder_hidden_states=_made(batch, 77, 1024, dtype=model.dtype),
        fps=_made(batch, dtype=torch.long),
        image_latents=_made(*shape, dtype=model.dtype),
        image_embeddings=_made(batch, 1, 1024, dtype=model.dtype),
        return_dict=False,
    )


def count_vae_encode(engine_id: str, width: int, height: int, frames: int) -> Counted:
    """The given picture, followed by `frames` - 1 empty ones where the engine encodes a whole video."""
    vae = component(engine_id, "vae")
    if engine_id == "i2vgen-xl":
        return count(lambda: vae.encode(_made(1, 3, height, width, dtype=vae.dtype)))
    return count(lambda: vae.encode(_made(1, 3, frames, height, width)))


def count_vae_decode(engine_id: str, width: int, height: int, frames: int) -> Counted:
    """As the engine decodes: latent frame by latent frame, each turned into 8 bits before the next."""
    vae = component(engine_id, "vae")

    def work() -> None:
        if engine_id == "i2vgen-xl":
            for _ in range(frames):
                _to_8_bits(vae.decode(_made(1, 4, height // 8, width // 8, dtype=vae.dtype)).sample)
            return
        factor = vae.config.scale_factor_spatial
        latents = (frames - 1) // 4 + 1
        vae.clear_cache()
        hidden = vae.post_quant_conv(_made(1, vae.config.z_dim, latents, height // factor, width // factor))
        for index in range(latents):
            vae._conv_idx = [0]
            chunk = hidden[:, :, index : index + 1]
            made = vae.decoder(chunk, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=index == 0)
            if vae.config.patch_size is not None:
                made = wan.unpatchify(made, patch_size=vae.config.patch_size)
            _to_8_bits(made)
            del made
        vae.clear_cache()

    return count(work)


def _to_8_bits(video: Tensor) -> None:
    (video.float() * 0.5 + 0.5).clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def cast_parameters(model: Any) -> int:  # noqa: ANN401
    """The parameters that diffusers' layerwise casting narrows, asked from itself: what it would have cast."""
    cast: list[torch.nn.Module] = []
    hook = "diffusers.hooks.layerwise_casting.apply_layerwise_casting_hook"
    with mock.patch(hook, lambda module, *_: cast.append(module)):
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    return sum(parameter.numel() for module in cast for parameter in module.parameters())
