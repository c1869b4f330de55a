"""Wan's VAE in tiles, one after another. Knows no loop and no mode.

The arithmetic is that of diffusers' `tiled_decode`, whose one call may take minutes and hears no wish to stop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from torch import Tensor

from i2v_pipeline.denoise import to_uint8
from i2v_pipeline.engines.family import TileDone
from i2v_pipeline.types import U8Frames


def decode_in_tiles(vae: Any, latents: Tensor) -> Iterator[U8Frames | TileDone]:  # noqa: ANN401 - diffusers' class
    """After each tile its number; then the frames, one at a time. `latents` are as the VAE wants them."""
    grid = _grid_of(vae)
    rows = range(0, latents.shape[3], grid.latent_stride[0])
    columns = range(0, latents.shape[4], grid.latent_stride[1])
    tiles: list[list[Tensor]] = []
    for row in rows:
        tiles.append([])
        for column in columns:
            height, width = grid.latent_side
            tiles[-1].append(_decode_tile(vae, latents[:, :, :, row : row + height, column : column + width]))
            yield TileDone(tile=sum(map(len, tiles)), tiles=len(rows) * len(columns))
    patch = vae.config.patch_size or 1
    height, width = (side * vae.spatial_compression_ratio // patch for side in latents.shape[3:])
    with torch.inference_mode():
        video = _put_together(vae, tiles, grid)[:, :, :, :height, :width]
    del tiles
    for index in range(video.shape[2]):
        with torch.inference_mode():
            frame = video[:, :, index : index + 1]
            frame = unpatchify(frame, patch_size=patch) if patch > 1 else frame
            pixels = to_uint8(torch.clamp(frame, min=-1.0, max=1.0)[0])
        yield pixels


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Sides (height, width) of a tile and of the steps between tiles, in latents; the rest in the decoder's pixels."""

    latent_side: tuple[int, int]
    latent_stride: tuple[int, int]
    stride: tuple[int, int]
    blended: tuple[int, int]


def _grid_of(vae: Any) -> _Grid:  # noqa: ANN401
    patch, ratio = vae.config.patch_size or 1, vae.spatial_compression_ratio
    sides = (vae.tile_sample_min_height, vae.tile_sample_min_width)
    strides = (vae.tile_sample_stride_height, vae.tile_sample_stride_width)
    stride = (strides[0] // patch, strides[1] // patch)
    # diffusers divides the side alone where the decoder's pixels are patches.
    blended = (sides[0] // patch - stride[0], sides[1] // patch - stride[1])
    return _Grid(
        latent_side=(sides[0] // ratio, sides[1] // ratio),
        latent_stride=(strides[0] // ratio, strides[1] // ratio),
        stride=stride,
        blended=blended,
    )


def _decode_tile(vae: Any, latents: Tensor) -> Tensor:  # noqa: ANN401
    """From the first frame to the last: the VAE is causal and remembers what came before."""
    vae.clear_cache()
    frames: list[Tensor] = []
    with torch.inference_mode():
        for index in range(latents.shape[2]):
            vae._conv_idx = [0]
            hidden = vae.post_quant_conv(latents[:, :, index : index + 1])
            frames.append(vae.decoder(hidden, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=index == 0))
    vae.clear_cache()
    return torch.cat(frames, dim=2)


def _put_together(vae: Any, tiles: list[list[Tensor]], grid: _Grid) -> Tensor:  # noqa: ANN401
    """Each tile fades into the one above it and the one to its left, where they overlap."""
    rows: list[Tensor] = []
    for row, line in enumerate(tiles):
        shown: list[Tensor] = []
        for column, tile in enumerate(line):
            if row > 0:
                tile = vae.blend_v(tiles[row - 1][column], tile, grid.blended[0])
            if column > 0:
                tile = vae.blend_h(line[column - 1], tile, grid.blended[1])
            shown.append(tile[:, :, :, : grid.stride[0], : grid.stride[1]])
        rows.append(torch.cat(shown, dim=-1))
    return torch.cat(rows, dim=3)
