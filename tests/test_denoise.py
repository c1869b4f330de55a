"""The denoising loop over diffusers' real schedulers and a predictor of a few lines."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler  # noqa: E402

from i2v_pipeline.denoise import DenoiseState, denoise, first_state, preview, to_uint8  # noqa: E402
from i2v_pipeline.engines.preview_factors import STABLE_DIFFUSION_1, WAN_21, WAN_22  # noqa: E402
from i2v_pipeline.errors import StudioError  # noqa: E402
from i2v_pipeline.types import GuidanceSchedule  # noqa: E402

pytestmark = pytest.mark.diffusion

STEPS = 6
SHAPE = (1, 16, 2, 4, 6)


class Predictor:
    """Pulls the latents towards the conditioning; the second expert works below timestep 500."""

    def __init__(self, broken_at=None):
        self.strengths = []
        self._broken_at = broken_at

    def expert_at(self, timestep):
        return "high" if timestep >= 500 else "low"

    def predict(self, latents, timestep, conditioning, strength):
        if len(self.strengths) == self._broken_at:
            latents = latents * float("nan")
        self.strengths.append(strength)
        return (latents - conditioning) * (1 + 0.01 * strength) * float(timestep) / 1000


def unipc():
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    scheduler.set_timesteps(STEPS)
    return scheduler


def euler():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    scheduler.set_timesteps(STEPS)
    return scheduler


def ddim():
    scheduler = DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    scheduler.set_timesteps(STEPS)
    return scheduler


def run(make_scheduler, state=None, guidance=3.0, predictor=None):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(SHAPE, generator=generator)
    scheduler = make_scheduler()
    state = state or first_state(scheduler, noise, generator)
    target = torch.linspace(-1, 1, noise.numel()).view(SHAPE)
    predictor = predictor or Predictor()
    return list(denoise(predictor, target, scheduler, state, guidance=guidance, generator=generator))


@pytest.mark.parametrize("make_scheduler", [unipc, euler, ddim])
@pytest.mark.parametrize("done", range(1, STEPS))
def test_going_on_from_any_step_ends_with_the_same_latents_to_the_last_bit(make_scheduler, done):
    whole = run(make_scheduler)
    saved = whole[done - 1].state
    rest = run(make_scheduler, state=saved)
    assert [step.state.step for step in rest] == list(range(done + 1, STEPS + 1))
    assert torch.equal(rest[-1].state.latents, whole[-1].state.latents)


@pytest.mark.parametrize("make_scheduler", [unipc, euler, ddim])
def test_a_state_is_not_changed_by_the_steps_after_it(make_scheduler):
    kept = []
    for step in run(make_scheduler):
        state = step.state
        kept.append((state, state.latents.clone(), {name: _copied(value) for name, value in state.scheduler.items()}))
    for state, latents, memory in kept:
        assert torch.equal(state.latents, latents)
        assert {name: _copied(value) for name, value in state.scheduler.items()} == memory


def _copied(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return [_copied(item) for item in value] if isinstance(value, tuple) else value


def test_a_state_holds_tensors_and_plain_values_alone():
    state = run(unipc)[2].state
    assert isinstance(state, DenoiseState)
    for value in state.scheduler.values():
        for item in value if isinstance(value, tuple) else (value,):
            assert item is None or isinstance(item, int | float | torch.Tensor)


def test_each_step_gets_the_strength_of_the_schedule_and_of_its_expert():
    predictor = Predictor()
    steps = run(euler, guidance=(GuidanceSchedule(first=9.0, last=4.0), 2.0), predictor=predictor)
    timesteps = euler().timesteps
    expected = [9.0 - 5.0 * step / (STEPS - 1) if timesteps[step] >= 500 else 2.0 for step in range(STEPS)]
    assert predictor.strengths == pytest.approx(expected)
    assert [step.strength for step in steps] == predictor.strengths
    assert 2.0 in expected and 9.0 in expected


def test_a_value_that_is_no_number_ends_the_run_at_once_and_says_at_which_step():
    predictor = Predictor(broken_at=2)
    with pytest.raises(StudioError, match=r"Step 3 of 6 .*LoRA.*--precision"):
        run(unipc, predictor=predictor)
    assert len(predictor.strengths) == 3


@pytest.mark.parametrize("make_scheduler", [unipc, euler, ddim])
def test_the_preview_shows_what_the_latents_will_become(make_scheduler):
    """At the last step the estimate of the clean latents is the result itself."""
    last = run(make_scheduler)[-1]
    assert torch.allclose(last.clean(), last.state.latents, atol=0.02)


def test_pixels_are_clamped_and_rounded_to_the_nearest():
    values = np.linspace(-1.2, 1.2, 5 * 4 * 6 * 3, dtype=np.float32)
    video = torch.from_numpy(values).view(3, 5, 4, 6)
    expected = np.rint(np.clip(video.numpy() * np.float32(0.5) + np.float32(0.5), 0, 1) * np.float32(255))
    made = to_uint8(video)
    assert made.dtype == np.uint8 and made.shape == (5, 4, 6, 3)
    assert np.array_equal(made, expected.transpose(1, 2, 3, 0).astype(np.uint8))


def test_frames_that_are_no_numbers_are_refused():
    with pytest.raises(StudioError, match="Decoding"):
        to_uint8(torch.full((3, 1, 2, 2), float("nan")))


@pytest.mark.parametrize(("factors", "channels"), [(STABLE_DIFFUSION_1, 4), (WAN_21, 16), (WAN_22, 48)])
def test_the_preview_is_the_linear_picture_of_the_middle_frame(factors, channels):
    latents = torch.zeros(1, channels, 5, 4, 6)
    latents[0, 2, 2] = 1.0
    rgb = (factors[2] + factors[-1]) * 0.5 + 0.5
    picture = preview(latents, factors)
    assert picture.shape == (4, 6, 3)
    assert np.array_equal(picture[1, 1], (rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
