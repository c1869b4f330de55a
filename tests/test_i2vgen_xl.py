"""I2VGen-XL: our frames are those of diffusers' pipeline where that is right, and the seed decides everything."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from diffusers import I2VGenXLPipeline, I2VGenXLUNet  # noqa: E402
from PIL import Image  # noqa: E402
from tiny_models import I2VGEN, frames_of, picture_for, request_for  # noqa: E402
from transformers import CLIPTextModel  # noqa: E402

from i2v_pipeline.engines import load_engine  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402
from i2v_pipeline.types import GuidanceSchedule  # noqa: E402

pytestmark = pytest.mark.diffusion


@pytest.fixture
def engine():
    engine = load_engine(load_presets()[I2VGEN])
    yield engine
    engine.close()


@pytest.fixture
def request_of(tiny_checkpoint):
    return lambda **changes: request_for(I2VGEN, tiny_checkpoint(I2VGEN), **changes)


@pytest.fixture
def bare_frames(monkeypatch):
    """The frames of diffusers' own pipeline, made to run: it looks for an attribute that transformers gave up in 5.6.

    It draws the picture's latents from the global random state, so that is seeded too.
    """
    if not hasattr(CLIPTextModel, "text_model"):
        monkeypatch.setattr(CLIPTextModel, "text_model", property(lambda self: self), raising=False)

    def make(request):
        pipeline = I2VGenXLPipeline.from_pretrained(request.checkpoint)
        pipeline.set_progress_bar_config(disable=True)
        with torch.random.fork_rng():
            torch.manual_seed(request.seed)
            video = pipeline(
                image=Image.fromarray(picture_for(request).pixels),
                prompt=request.prompt,
                negative_prompt=request.negative_prompt,
                height=request.height,
                width=request.width,
                num_frames=request.frames,
                num_inference_steps=request.steps,
                guidance_scale=request.guidance,
                generator=torch.Generator().manual_seed(request.seed),
                output_type="np",
            ).frames[0]
        return (video * 255).round().astype(np.uint8)

    return make


@pytest.mark.parametrize(
    "changes",
    [{}, {"frames": 1}, {"frames": 4, "width": 64, "height": 104, "seed": 5}, {"guidance": 1.0}, {"guidance": 9.0}],
    ids=["landscape", "one frame", "portrait", "no guidance", "strong guidance"],
)
def test_the_frames_are_those_of_the_bare_pipeline_to_the_last_bit(engine, request_of, bare_frames, changes):
    request = request_of(**changes)
    assert np.array_equal(frames_of(engine, request), bare_frames(request))


def test_neither_does_the_global_random_state_change_the_frames_nor_do_they_change_it(engine, request_of):
    torch.manual_seed(1)
    first = frames_of(engine, request_of())
    state = torch.get_rng_state()
    torch.manual_seed(2)
    engine.close()
    second = frames_of(engine, request_of())
    torch.manual_seed(1)
    assert np.array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_loads_nothing_encodes_nothing_and_equals_the_uncached_run(engine, request_of):
    request = request_of()
    frames_of(engine, request)
    assert set(engine.facts()["loaded"]) == {"text_encoder", "image_encoder", "vae", "unet"}
    again = frames_of(engine, replace(request, seed=99))
    assert (engine.facts()["loaded"], set(engine.facts()["reused"])) == ([], {"text", "image", "picture"})
    engine.close()
    assert np.array_equal(again, frames_of(engine, replace(request, seed=99)))


def test_an_unguided_step_computes_a_batch_of_one(engine, request_of, monkeypatch):
    batches = []
    original = I2VGenXLUNet.forward

    def counted(unet, sample, *arguments, **named):
        batches.append(sample.shape[0])
        return original(unet, sample, *arguments, **named)

    monkeypatch.setattr(I2VGenXLUNet, "forward", counted)
    interval = GuidanceSchedule(first=9.0, last=9.0, begin=0.25, end=0.75)
    frames_of(engine, request_of(frames=2, steps=4, guidance=interval))
    assert batches == [1, 2, 2, 1]


def test_a_prompt_of_a_hundred_words_is_told_with_what_clip_does_not_read(engine, request_of):
    # The tiny tokenizer has a token for each letter: "word " is 4, and 18 of them leave 3 of the 75 that are read.
    frames_of(engine, request_of(frames=1, prompt="word " * 100))
    (finding,) = engine.findings()
    assert (finding.code, finding.severity) == ("prompt_cut", "warn")
    assert "400 tokens; CLIP reads 75" in finding.message.en
    assert "Not read: “d word word" in finding.message.en


def test_the_report_names_what_was_really_used(engine, request_of):
    frames_of(engine, request_of())
    facts = engine.facts()
    assert facts["scheduler"]["class"] == "DDIMScheduler"
    assert facts["scheduler"]["config"]["prediction_type"] == "v_prediction"
    assert (facts["condition_fps"], facts["eta"], facts["precision"], facts["device"]) == (16, 0.0, "fp32", "cpu")
    assert facts["checkpoint"] == I2VGEN and facts["repo"] is None
