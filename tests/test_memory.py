"""Memory over many runs of one process, its limit, and how PyTorch is told to hand it out."""

from __future__ import annotations

import gc
import os
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

from tiny_models import WAN_5B  # noqa: E402

from bench.runs_in_a_row import measure, slope  # noqa: E402
from i2v_pipeline.engines import memory  # noqa: E402
from i2v_pipeline.engines.diffusion import DiffusionEngine  # noqa: E402
from studio.allocation import allocator_settings  # noqa: E402
from studio.foreground import running  # noqa: E402

RUNS = 8
ONCE = 3
"""Runs in which what is made once may still be made."""


def tensors_alive() -> int:
    gc.collect()
    return sum(each.numel() * each.element_size() for each in gc.get_objects() if type(each) is torch.Tensor)


@pytest.fixture
def alive(monkeypatch):
    """Bytes of tensors that were there after each run."""
    seen = []
    generate = DiffusionEngine.generate

    def watched(engine, *given, **named):
        yield from generate(engine, *given, **named)
        seen.append(tensors_alive())

    monkeypatch.setattr(DiffusionEngine, "generate", watched)
    return seen


@pytest.mark.diffusion
@pytest.mark.parametrize("leaks", [False, True])
def test_eight_runs_leave_no_more_than_the_cached_prompts_behind_and_a_leak_would_be_seen(
    tmp_path, alive, monkeypatch, leaks
):
    torch.set_num_threads(1)
    kept = []
    if leaks:
        latents_of = DiffusionEngine._denoise
        monkeypatch.setattr(DiffusionEngine, "_denoise", lambda *given: kept.append(latents_of(*given)) or kept[-1])
    rows = measure(ONCE + 2 if leaks else RUNS, tmp_path, WAN_5B)
    # A new prompt's encoding is kept for the next run, up to a number of entries: 512 tokens of 32 values in fp32.
    growth = [after - before - 512 * 32 * 4 for before, after in pairwise(alive[ONCE:])]
    # A latent is 48 channels x 3 frames x 4 x 6 values in fp32.
    assert all(each >= 48 * 3 * 4 * 6 * 4 for each in growth) == leaks, growth
    assert max(growth) <= 0 or leaks
    assert [row["loaded"] for row in rows[1:]] == [["text_encoder"]] * (len(rows) - 1)


def test_the_slope_is_that_of_the_line_and_not_of_a_single_jump():
    assert slope([1.0, 3.0, 5.0, 7.0]) == 2.0
    assert slope([4.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]) == 0.0


def test_segments_grow_unless_the_person_has_set_it():
    assert allocator_settings({}) == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    assert allocator_settings({"PYTORCH_ALLOC_CONF": ""}) == {}
    assert allocator_settings({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}) == {}


def test_a_run_of_the_command_line_has_the_setting_and_leaves_the_environment_as_it_was(monkeypatch):
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    with running():
        assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert "PYTORCH_ALLOC_CONF" not in os.environ


def test_a_cap_binds_the_allocator_less_what_cuda_itself_takes(monkeypatch):
    calls = []
    properties = type("Properties", (), {"total_memory": 140 * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: calls.append(given))
    card = torch.device("cuda", 0)
    memory.limit(card)
    monkeypatch.setenv("STUDIO_VRAM_CAP", "14.6")
    memory.limit(torch.device("cpu"))
    assert calls == []
    memory.limit(card)
    assert calls == [(pytest.approx(0.1), card)]
    monkeypatch.setenv("STUDIO_VRAM_CAP", "500")
    memory.limit(card)
    assert calls[-1] == (1.0, card)
