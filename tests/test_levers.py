"""What makes a run faster: carried out as asked, told, and gone afterwards; refused where it does not go together."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tiny_models  # noqa: E402
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry  # noqa: E402
from tiny_models import I2VGEN, KALEIDO, VACE, VACE_14B, WAN_5B, WAN_21, WAN_A14B, frames_of, request_for  # noqa: E402

from i2v_pipeline.checks import check_request  # noqa: E402
from i2v_pipeline.engines import attention, levers, load_engine, passes, two_timesteps, wan  # noqa: E402
from i2v_pipeline.engines.attention import choose_attention, try_kernel, use_attention  # noqa: E402
from i2v_pipeline.engines.diffusion import DiffusionEngine  # noqa: E402
from i2v_pipeline.errors import Cancelled, InputError, RequestError  # noqa: E402
from i2v_pipeline.planning.architectures import load_architectures  # noqa: E402
from i2v_pipeline.planning.costs import cost_of  # noqa: E402
from i2v_pipeline.planning.devices import find_device  # noqa: E402
from i2v_pipeline.planning.job import job_of  # noqa: E402
from i2v_pipeline.planning.modes import LADDER  # noqa: E402
from i2v_pipeline.planning.tuning import COMPILE_S, attention_for, faster_here, tuning_of  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402
from i2v_pipeline.types import GuidanceSchedule  # noqa: E402
from studio.recipe import Choice  # noqa: E402

pytestmark = pytest.mark.diffusion
CPU = torch.device("cpu")
SHORT = {"frames": 5, "width": 64, "height": 64}


@pytest.fixture
def run(tiny_checkpoint):
    """`run(engine_id, **changes)`: the frames, and the engine that made them; one engine for each id."""
    engines = {}

    def make(engine_id, on_progress=lambda _: None, **changes):
        if engine_id not in engines:
            engines[engine_id] = load_engine(load_presets()[engine_id])
        request = request_for(engine_id, tiny_checkpoint(engine_id), **{**SHORT, **changes})
        return frames_of(engines[engine_id], request, on_progress), engines[engine_id]

    yield make
    for engine in engines.values():
        engine.close()


@pytest.fixture
def worked(monkeypatch):
    """Counts how often each block of a Wan transformer really worked, by its place among its model's."""
    from diffusers.models.transformers.transformer_wan import WanTransformerBlock

    counted = []
    original = WanTransformerBlock.forward

    # Caches look at the names of the parameters.
    @functools.wraps(original)
    def counting(block, *given, **named):
        counted.append(block)
        return original(block, *given, **named)

    monkeypatch.setattr(WanTransformerBlock, "forward", counting)
    return counted


@pytest.fixture
def eager_cache(monkeypatch):
    """Tiny random weights change more from step to step than trained ones do, so more may pass for the same."""
    monkeypatch.setattr(passes, "FIRST_BLOCK_THRESHOLD", 0.5)


# --- feature caches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine_id", [WAN_A14B, WAN_5B, KALEIDO])
def test_a_cache_leaves_layers_out_in_every_expert_and_tells_how_often(run, worked, eager_cache, engine_id):
    plain, _ = run(engine_id, steps=12)
    blocks = len(worked)
    worked.clear()
    frames, engine = run(engine_id, steps=12, cache="first_block")
    facts = engine.facts()
    assert facts["passes"] == 24 and blocks == 48
    # Of the two blocks the second is left out, and the first never is.
    assert 0 < facts["cache"]["passes_reused"] == blocks - len(worked) < 24
    assert not np.array_equal(frames, plain)
    assert {"cache_used", "cache_not_resumed"} <= {finding.code for finding in engine.findings()}
    assert f"In {facts['cache']['passes_reused']} of 24 passes" in next(
        finding.message.en for finding in engine.findings() if finding.code == "cache_used"
    )


def test_both_experts_reuse_for_themselves(run, worked, eager_cache):
    run(WAN_A14B, steps=24, cache="first_block")
    by_block = [sum(each is block for each in worked) for block in dict.fromkeys(worked)]
    assert len(by_block) == 4 and sum(by_block) < 96
    assert all(later < first for first, later in (by_block[:2], by_block[2:]))


@pytest.mark.parametrize("engine_id", [WAN_A14B, KALEIDO])
def test_without_a_cache_the_frames_are_those_of_before_it(run, eager_cache, engine_id):
    plain, _ = run(engine_id, steps=12)
    run(engine_id, steps=12, cache="first_block")
    again, engine = run(engine_id, steps=12)
    assert np.array_equal(plain, again) and engine.facts()["cache"] is None


@pytest.mark.parametrize("engine_id", [WAN_A14B, KALEIDO])
def test_a_run_that_is_cancelled_leaves_nothing_in_the_cache(run, eager_cache, engine_id):
    whole, _ = run(engine_id, steps=12, cache="first_block")

    def cancel(progress):
        if progress.stage == "denoise" and progress.step == 7:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(engine_id, cancel, steps=12, cache="first_block", seed=8)
    again, _ = run(engine_id, steps=12, cache="first_block")
    assert np.array_equal(whole, again)


def test_each_kind_of_pass_is_compared_with_its_own_kind_where_references_are_guided_apart(
    tiny_checkpoint, worked, eager_cache, monkeypatch
):
    spec = load_presets()[KALEIDO]
    references = replace(spec.diffusion.references, guidance=5.0)
    engine = DiffusionEngine(replace(spec, diffusion=replace(spec.diffusion, references=references)))
    request = request_for(KALEIDO, tiny_checkpoint(KALEIDO), steps=12, cache="first_block", **SHORT)
    frames_of(engine, request)
    reused, first = engine.facts()["cache"]["passes_reused"], worked[0]
    assert engine.facts()["passes"] == 36 and sum(each is first for each in worked) == 36
    assert 0 < reused == 72 - len(worked)
    # A threshold that everything passes leaves the first pass of each kind alone.
    monkeypatch.setattr(passes, "FIRST_BLOCK_THRESHOLD", 1e9)
    frames_of(engine, request)
    engine.close()
    assert engine.facts()["cache"]["passes_reused"] == 33


def test_diffusers_cache_adds_twice_what_the_second_branch_of_vace_puts_between_the_layers():
    """Why the engine has no cache: the same input twice gives two results. Where it gives one, it can have it."""
    model = tiny_models._vace().transformer
    inputs = {"hidden_states": torch.randn(1, 16, 2, 4, 4), "control_hidden_states": torch.randn(1, 96, 2, 4, 4),
              "encoder_hidden_states": torch.randn(1, 8, 32), "timestep": torch.tensor([500.0])}  # fmt: skip
    runner = passes.Passes()
    model.enable_cache(passes.cache_settings(VACE, "first_block", 12))
    with torch.inference_mode():
        computed, reused = (runner.run(model, "guided", **inputs) for _ in range(2))
    assert runner.reused == 1
    assert float((reused - computed).abs().max()) > 0.01


def test_mag_cache_goes_by_the_ratios_of_its_model(run, worked):
    _, engine = run(WAN_21, steps=20, cache="mag")
    reused = engine.facts()["cache"]["passes_reused"]
    # It leaves the first block out too; never two steps in a row too many, and none of the first fifth.
    assert 0 < reused <= 2 * 16 * passes.MAG_LONGEST / (passes.MAG_LONGEST + 1) + 2
    assert len(worked) == 2 * (40 - reused)


def test_a_run_with_a_cache_keeps_no_state_to_go_on_from(tiny_checkpoint, tmp_path, eager_cache):
    engine, state = load_engine(load_presets()[WAN_A14B]), tmp_path / "state"
    request = request_for(WAN_A14B, tiny_checkpoint(WAN_A14B), steps=12, cache="first_block", **SHORT)
    for _ in engine.generate(request, tiny_models.picture_for(request), lambda _: None, state):
        pass
    engine.close()
    assert not state.exists()


# --- attention --------------------------------------------------------------------------------------------------------


def test_on_the_cpu_attention_is_pytorchs_own_unless_asked_and_then_refused_with_the_reason():
    assert choose_attention("auto", CPU, torch.float32, 12).kernel == "sdpa"
    for kernel in ("flash", "flash3", "sage"):
        with pytest.raises(InputError, match=f"Attention {kernel}: it does not work here: .* is not installed"):
            choose_attention(kernel, CPU, torch.bfloat16, 128)


@pytest.fixture
def another_kernel(monkeypatch):
    """PyTorch's plain mathematics in the place of a package: a real kernel that the CPU has too."""
    monkeypatch.setattr(attention, "_BACKENDS", {"sdpa": "native", "flash": "_native_math"})
    try_kernel.cache_clear()
    yield
    try_kernel.cache_clear()


@pytest.mark.parametrize("engine_id", [WAN_A14B, KALEIDO, VACE])
def test_the_kernel_that_is_asked_for_is_tried_used_and_told_and_no_other_model_gets_it(run, another_kernel, engine_id):
    plain, _ = run(engine_id)
    before = _AttentionBackendRegistry.get_active_backend()
    frames, engine = run(engine_id, attention="flash")
    facts = engine.facts()
    assert facts["attention"] == "FlashAttention 2" and facts["attention_probe"]["error"] < 0.001
    used = {module.processor._attention_backend for model in engine._loaded.family.denoisers().values()
            for module in model.modules() if hasattr(module, "processor")}  # fmt: skip
    assert used == {AttentionBackendName._NATIVE_MATH}
    assert np.abs(frames.astype(int) - plain).max() <= 1
    assert _AttentionBackendRegistry.get_active_backend() == before
    again, engine = run(engine_id)
    assert np.array_equal(again, plain) and engine.facts()["attention"] == "torch scaled_dot_product_attention"


def test_a_kernel_whose_results_are_wrong_is_not_used(monkeypatch, another_kernel):
    given = attention.dispatch_attention_fn

    def confetti(query, key, value, *, backend):
        return given(query, key, value if backend is AttentionBackendName.NATIVE else -value, backend=backend)

    monkeypatch.setattr(attention, "dispatch_attention_fn", confetti)
    probe = try_kernel("flash", CPU, torch.float32, 16)
    assert not probe.works and "200% off" in probe.why
    with pytest.raises(InputError, match="200% off"):
        choose_attention("flash", CPU, torch.float32, 16)


@pytest.mark.parametrize("engine_id", [WAN_A14B, KALEIDO, VACE])
def test_an_installed_kernel_that_does_not_work_gives_way_and_the_run_says_so(run, monkeypatch, engine_id):
    monkeypatch.setattr(attention, "_is_hopper", lambda device: True)
    monkeypatch.setattr(attention, "installed_kernels", lambda: frozenset({"flash3"}))
    try_kernel.cache_clear()
    _, engine = run(engine_id, steps=1)
    try_kernel.cache_clear()
    assert engine.facts()["attention"] == "torch scaled_dot_product_attention"
    assert "attention_fell_back" in {finding.code for finding in engine.findings()}


def test_on_hopper_sage_takes_no_kernel_of_8_bit_floats(monkeypatch):
    monkeypatch.setattr(attention, "_is_hopper", lambda device: True)
    assert attention.backend_of("sage", CPU) is AttentionBackendName._SAGE_QK_INT8_PV_FP16_CUDA
    model = tiny_models._wan_transformer(WAN_A14B)
    use_attention(model, "sage", CPU)
    assert {module.processor._attention_backend for module in model.modules() if hasattr(module, "processor")} == {
        AttentionBackendName._SAGE_QK_INT8_PV_FP16_CUDA
    }


# --- two timesteps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 3])
def test_two_embeddings_of_timesteps_give_what_one_for_each_token_gives(frames):
    model = tiny_models._wan_transformer(WAN_5B)
    hidden, text = torch.randn(1, 48, frames, 4, 6), torch.randn(1, 512, 32)
    each = torch.full((1, frames * 6), 700.0)
    each[:, :6] = 0
    with torch.inference_mode():
        expected = model(hidden, each, text, return_dict=False)[0]
        two_timesteps.use_two_timesteps(model)
        shared = model(hidden, torch.tensor([[0.0, 700.0]]), text, return_dict=False)[0]
        other = model(hidden, torch.tensor([[0.0, 300.0]]), text, return_dict=False)[0]
    assert float((shared - expected).abs().max() / expected.abs().max()) <= two_timesteps.TOLERANCE
    assert frames == 1 or not torch.equal(shared, other)


def test_a_run_with_two_embeddings_makes_the_same_frames_also_with_a_cache(run, monkeypatch, eager_cache):
    plain, cached = run(WAN_5B, steps=12)[0], run(WAN_5B, steps=12, cache="first_block")[0]
    engine = run(WAN_5B, steps=1)[1]
    engine.close()
    monkeypatch.setattr(wan.Wan, "has_two_timesteps", True)
    for kind, expected in (("off", plain), ("first_block", cached)):
        frames, engine = run(WAN_5B, steps=12, cache=kind)
        engine.close()
        assert np.abs(frames.astype(int) - expected).max() <= 1


def test_sharing_the_embeddings_saves_most_of_the_activations_of_the_5b():
    work = load_architectures()[WAN_5B].denoiser.work
    shared, apart = work(1280, 704, 121), work(1280, 704, 121, apart=True)
    assert (apart.activation_bytes - shared.activation_bytes) / 2**30 == pytest.approx(2.97, abs=0.01)


# --- compiling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("engine_id", "blocks", "graphs"), [(WAN_A14B, 4, 1), (KALEIDO, 2, 1), (VACE, 4, 3)])
def test_blocks_are_compiled_once_for_each_kind_give_the_same_frames_and_are_gone_when_not_asked_for(
    run, monkeypatch, engine_id, blocks, graphs
):
    made = []

    def captured(graph, _):
        """As for the compiler that the studio uses, which takes most of a minute, and run as it stands."""
        made.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(levers, "COMPILER", captured)
    monkeypatch.setattr(levers, "check_compiler", lambda _: None)
    plain, _ = run(engine_id, steps=2)
    frames, engine = run(engine_id, steps=2, compiled=True)
    assert engine.facts()["compiled"] is True and len(made) == graphs
    assert np.abs(frames.astype(int) - plain).max() <= 1
    models = engine._loaded.family.denoisers().values()
    kept = [block for model in models for name, block in model.named_modules() if name.count(".") == 1 and
            name.split(".")[0] in ("blocks", "vace_blocks")]  # fmt: skip
    assert len(kept) == blocks and all(block._compiled_call_impl for block in kept)
    again, engine = run(engine_id, steps=2)
    assert np.array_equal(again, plain) and engine.facts()["compiled"] is False


def test_where_nothing_can_be_compiled_the_run_ends_with_what_to_install(run, monkeypatch):
    def no_compiler(*_, **__):
        raise RuntimeError("No working C++ compiler found\nand a long trace")

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(InputError, match=r"No working C\+\+ compiler found It needs a C\+\+ compiler"):
        run(WAN_A14B, steps=1, compiled=True)


# --- what goes together -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine_id", "changes", "reason"),
    [
        (I2VGEN, {"attention": "sage"}, "PyTorch's own kernel alone"),
        (I2VGEN, {"cache": "first_block", "steps": 20}, "no row of equal layers"),
        (I2VGEN, {"compiled": True}, "no equal blocks"),
        (VACE, {"cache": "first_block", "steps": 20}, "second branch .* would add that twice"),
        (VACE_14B, {"cache": "mag", "steps": 20}, "second branch"),
        (KALEIDO, {"cache": "mag", "steps": 20}, "nobody has measured for kaleido-14b-s2v"),
        (KALEIDO, {"cache": "first_block", "steps": 20, "compiled": True}, "Choose one of the two"),
        (VACE, {"attention": "sage"}, "on an NVIDIA card in half precision alone"),
        (WAN_A14B, {"attention": "flash3"}, "on an NVIDIA card in half precision alone"),
        (WAN_A14B, {"attention": "sage", "device": "cuda", "precision": "fp32"}, "half precision alone"),
        (WAN_A14B, {"cache": "mag", "steps": 20}, "nobody has measured for wan2.2-i2v-a14b. Choose off or first_block"),
        (WAN_A14B, {"cache": "first_block", "steps": 4}, "10 steps or more"),
        (WAN_A14B, {"cache": "first_block", "steps": 20, "compiled": True}, "Choose one of the two"),
        (
            WAN_21,
            {"cache": "mag", "steps": 20, "guidance": GuidanceSchedule(first=5, last=5, end=0.6)},
            "guidance in all",
        ),
        (WAN_21, {"cache": "mag", "steps": 20, "guidance": GuidanceSchedule(first=5, last=1)}, "guidance in all"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(engine_id, changes, reason):
    with pytest.raises(RequestError, match=reason):
        check_request(load_presets()[engine_id], request_for(engine_id, None, **changes))


@pytest.mark.parametrize(
    ("engine_id", "changes"),
    [(WAN_21, {"cache": "mag", "steps": 20}), (WAN_A14B, {"attention": "sage", "device": "cuda"}),
     (WAN_5B, {"cache": "first_block", "steps": 10}), (WAN_A14B, {"compiled": True}),
     (KALEIDO, {"cache": "first_block", "steps": 10}), (VACE, {"compiled": True}), (I2VGEN, {"attention": "sdpa"})],
)  # fmt: skip
def test_what_goes_together_is_let_through(engine_id, changes):
    check_request(load_presets()[engine_id], request_for(engine_id, None, **changes))


# --- the plan ---------------------------------------------------------------------------------------------------------


def seconds_of(request, card, installed=frozenset()):
    spec, device = load_presets()[request.engine], find_device(card)
    tuning = tuning_of(spec, request, device, installed)
    return {each.name: each for each in cost_of(job_of(spec, spec.diffusion, request, on_cpu=False), LADDER[0], device,
                                                tuning).stages}["denoise"]  # fmt: skip


def large(engine_id=WAN_A14B, **changes):
    return request_for(engine_id, None, **{"width": 832, "height": 480, "frames": 81, "steps": 40, "device": "cuda",
                                           **changes})  # fmt: skip


def test_unasked_the_plan_counts_on_nothing_lossy_and_only_on_what_is_installed():
    spec, h100, ada = load_presets()[WAN_A14B], find_device("H100"), find_device("RTX 4090")
    every = frozenset({"flash", "flash3", "sage"})
    assert attention_for(spec, large(), h100, every) == "flash3"
    assert attention_for(spec, large(), h100, frozenset()) == "sdpa"
    assert attention_for(spec, large(), ada, every) == "sdpa"
    assert attention_for(spec, large(precision="fp32"), h100, every) == "sdpa"
    assert attention_for(load_presets()[I2VGEN], large(I2VGEN), h100, every) == "sdpa"
    assert attention_for(load_presets()[KALEIDO], large(KALEIDO), h100, every) == "flash3"
    faster = seconds_of(large(attention="sage"), "RTX 4090").seconds
    assert faster < 0.75 * seconds_of(large(), "RTX 4090").seconds


def test_compiling_costs_the_first_run_and_saves_in_each_later_one():
    eager, compiled = seconds_of(large(), "H100"), seconds_of(large(compiled=True), "H100")
    assert compiled.seconds == pytest.approx(compiled.later_seconds + COMPILE_S)
    assert 0.75 < compiled.later_seconds / eager.later_seconds < 0.95


@pytest.mark.parametrize(("engine_id", "kinds"), [(KALEIDO, 1), (VACE, 3), (VACE_14B, 3)])
def test_the_plan_of_references_counts_their_levers(engine_id, kinds):
    eager, compiled, sage = (
        seconds_of(large(engine_id, **changes), "RTX 4090")
        for changes in ({}, {"compiled": True}, {"attention": "sage"})
    )
    assert compiled.seconds - compiled.later_seconds == pytest.approx(kinds * COMPILE_S)
    assert compiled.later_seconds < 0.95 * eager.seconds and sage.seconds < 0.75 * eager.seconds


@pytest.mark.parametrize(("part", "share"), [(0.5, 0.75), (0.25, 0.625), (1.0, 1.0)])
def test_passes_that_the_guidance_leaves_out_are_not_counted(part, share):
    whole = seconds_of(large(guidance=5.0), "H100").seconds
    schedule = GuidanceSchedule(first=5.0, last=5.0, end=part)
    assert seconds_of(large(guidance=schedule), "H100").seconds == pytest.approx(share * whole, rel=1e-4)


def test_the_fast_preset_is_planned_as_four_passes():
    from studio.plans import shaped

    spec = load_presets()[WAN_A14B]
    fast, standard = (shaped(spec, Choice(preset=name, resolution="480p")) for name in ("fast", "standard"))
    assert job_of(spec, spec.diffusion, fast, on_cpu=False).passes == 4
    assert seconds_of(replace(standard, width=fast.width, height=fast.height), "H100").seconds == pytest.approx(
        20 * seconds_of(fast, "H100").seconds, rel=1e-3
    )


def test_what_to_install_is_told_for_the_card_alone():
    spec, every = load_presets()[WAN_A14B], frozenset({"flash3", "sage"})
    texts = [" ".join(each.en for each in faster_here(spec, find_device(card), frozenset()))
             for card in ("H100", "RTX 4090", "H20", "RTX 5090")]  # fmt: skip
    assert "FlashAttention 3" in texts[0] and "sage" in texts[0]
    assert "FlashAttention 3" not in texts[1] and "pip install sageattention" in texts[1]
    assert texts[2] == texts[3] == ""
    assert "install" not in " ".join(each.en for each in faster_here(spec, find_device("RTX 4090"), every))
    assert faster_here(load_presets()[I2VGEN], find_device("RTX 4090"), frozenset()) == ()
