"""Weights that pass through the device: a model's layers come one after another, the rest of it stays.

Knows no model family and no loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PLACES = 2
"""Layers on the device at once: the one that computes and the one that arrives."""
_ALIGNED_BYTES = 256
"""Where a tensor may begin: the strictest that CUDA's libraries ask for."""
_CHUNK_BYTES = 64 * 2**20
"""PyTorch rounds pinned memory up to a power of two, so a layer lies in pieces of that size."""


def layers_of(model: nn.Module) -> list[nn.Module]:
    """What passes through: the members of the model's outermost module lists, or of their own such lists."""
    layers: list[nn.Module] = []
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            for member in child:
                has_lists = any(isinstance(each, nn.ModuleList) for each in member.children())
                layers += layers_of(member) if has_lists else [member]
        else:
            layers += layers_of(child)
    return [layer for layer in layers if next(layer.parameters(), None) is not None]


@dataclass(frozen=True, kw_only=True)
class _Weight:
    """One parameter and where its bytes lie in its layer's."""

    parameter: nn.Parameter
    dtype: torch.dtype
    shape: torch.Size
    begin: int
    end: int

    def seen_in(self, layer: Tensor) -> Tensor:
        return layer[self.begin : self.end].view(self.dtype).view(self.shape)


class _Layer:
    """A layer's weights in the host's memory. Where it does not compute, its parameters are empty."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.weights: list[_Weight] = []
        end = 0
        for parameter in module.parameters():
            size = parameter.numel() * parameter.element_size()
            self.weights.append(
                _Weight(
                    parameter=parameter, dtype=parameter.dtype, shape=parameter.shape, begin=end, end=end + size
                )
            )  # fmt: skip
            end += -(-size // _ALIGNED_BYTES) * _ALIGNED_BYTES
        self.bytes = end
        self.empty = {weight.dtype: torch.empty(0, dtype=weight.dtype, device=device) for weight in self.weights}
        whole = torch.empty(end, dtype=torch.uint8)
        for weight in self.weights:
            weight.seen_in(whole).copy_(weight.parameter.data)
        is_pinned = device.type == "cuda"
        self.pieces = [piece.pin_memory() for piece in whole.split(_CHUNK_BYTES)] if is_pinned else [whole]
        self.leave()

    def enter(self, place: Tensor) -> None:
        for weight in self.weights:
            weight.parameter.data = weight.seen_in(place)

    def leave(self) -> None:
        for weight in self.weights:
            weight.parameter.data = self.empty[weight.dtype]


class LayerStream:
    """Holds a model's layers in the host's memory and brings each to the device for the time that it computes.

    While one layer computes, the one that followed it the last time is copied on a CUDA stream of its own. On the CPU
    the same copies are made one after another. The model belongs to the stream for good: load it anew to be without.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        modules = layers_of(model)
        self._layers = [_Layer(module, device) for module in modules]
        self._places: list[Tensor] = []
        self._held: list[int | None] = [None] * PLACES
        self._arrived: list[Any] = [None] * PLACES
        self._computed: list[Any] = [None] * PLACES
        self._follower: dict[int, int] = {}
        self._latest: int | None = None
        for index, module in enumerate(modules):
            module.register_forward_pre_hook(lambda *_, index=index: self._enter(index))
            module.register_forward_hook(lambda *_, index=index: self._leave(index))

    @property
    def on_device(self) -> list[int]:
        """The layers that lie on the device now, or are on their way there."""
        return [index for index in self._held if index is not None]

    def work(self) -> None:
        """Takes the places on the device, and brings what is not in any layer."""
        with _plain():
            self._model.to(self._device)
            largest = max(layer.bytes for layer in self._layers)
            self._places = [torch.empty(largest, dtype=torch.uint8, device=self._device) for _ in range(PLACES)]
        if self._copies is not None:
            # The memory may still be in use by what was computed there before.
            self._copies.wait_stream(torch.cuda.current_stream(self._device))

    def rest(self) -> None:
        """Gives the places back; the model waits in the host's memory."""
        if self._copies is not None:
            self._copies.synchronize()
        self._places, self._latest = [], None
        self._held, self._arrived, self._computed = [None] * PLACES, [None] * PLACES, [None] * PLACES
        with _plain():
            self._model.to("cpu")

    def _enter(self, index: int) -> None:
        with _plain():
            if index not in self._held:
                self._fetch(index, place=0 if self._held[0] != self._latest else 1)
            place = self._held.index(index)
            if self._copies is not None:
                torch.cuda.current_stream(self._device).wait_event(self._arrived[place])
            self._layers[index].enter(self._places[place])
            if self._latest is not None:
                self._follower[self._latest] = index
            self._latest = index
            following = self._follower.get(index)
            if following is not None and following not in self._held:
                self._fetch(following, place=1 - place)

    def _leave(self, index: int) -> None:
        with _plain():
            if self._copies is not None:
                self._computed[self._held.index(index)] = torch.cuda.current_stream(self._device).record_event()
            self._layers[index].leave()

    def _fetch(self, index: int, *, place: int) -> None:
        self._held[place] = index
        for begin, piece in self._pieces(index):
            target = self._places[place][begin : begin + len(piece)]
            if self._copies is None:
                target.copy_(piece)
                continue
            with torch.cuda.stream(self._copies):
                if begin == 0 and self._computed[place] is not None:
                    self._copies.wait_event(self._computed[place])
                target.copy_(piece, non_blocking=True)
        if self._copies is not None:
            self._arrived[place] = self._copies.record_event()

    def _pieces(self, index: int) -> Iterator[tuple[int, Tensor]]:
        begin = 0
        for piece in self._layers[index].pieces:
            yield begin, piece
            begin += len(piece)


def _plain() -> torch.inference_mode:
    """Outside of inference mode, where weights that are moved would become inference tensors for good."""
    return torch.inference_mode(False)
