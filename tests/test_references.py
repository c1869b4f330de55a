"""Engines that take references: Kaleido against what is known of it, VACE against diffusers' own pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanVACEPipeline
from PIL import Image
from tiny_models import KALEIDO, VACE, frames_of, picture_for, request_for

from i2v_pipeline.engines import load_engine
from i2v_pipeline.presets import load_presets

pytestmark = pytest.mark.diffusion


@pytest.mark.parametrize("count", [1, 3])
def test_vace_makes_the_frames_of_diffusers_own_pipeline(tiny_checkpoint, count):
    request = request_for(VACE, tiny_checkpoint(VACE))
    request = request_for(
        VACE, tiny_checkpoint(VACE), images=request.images[:1] * count, subjects=request.subjects[:1] * count
    )
    pipeline = WanVACEPipeline.from_pretrained(request.checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config, flow_shift=request.flow_shift)
    made = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        reference_images=[Image.fromarray(each.pixels) for each in picture_for(request).references],
        width=request.width,
        height=request.height,
        num_frames=request.frames,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        output_type="pt",
    ).frames[0]
    expected = (made.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(frames_of(load_engine(load_presets()[VACE]), request), expected)


def test_kaleido_makes_frames(tiny_checkpoint):
    request = request_for(KALEIDO, tiny_checkpoint(KALEIDO))
    frames = frames_of(load_engine(load_presets()[KALEIDO]), request)
    assert frames.shape == (9, 64, 96, 3)
