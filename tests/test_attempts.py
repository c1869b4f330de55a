"""Memory that runs out: a mode that needs less is tried, told while it runs and in the report, and the job is done."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from tiny_models import ALL, I2VGEN, WAN_5B, WAN_A14B, request_for  # noqa: E402

from i2v_pipeline import pipeline  # noqa: E402
from i2v_pipeline.attempts import MOST_FALLS  # noqa: E402
from i2v_pipeline.engines import memory  # noqa: E402
from i2v_pipeline.engines.loading import Parts  # noqa: E402
from i2v_pipeline.errors import StudioError  # noqa: E402
from i2v_pipeline.pipeline import EngineCache, Outputs, run  # noqa: E402
from i2v_pipeline.planning.costs import cost_of  # noqa: E402
from i2v_pipeline.planning.devices import find_device  # noqa: E402
from i2v_pipeline.planning.diffusion import frugal_mode  # noqa: E402
from i2v_pipeline.planning.job import job_of  # noqa: E402
from i2v_pipeline.planning.machine import Machine  # noqa: E402
from i2v_pipeline.planning.modes import CPU_LADDER, mode_called, modes_for  # noqa: E402
from i2v_pipeline.presets import load_presets  # noqa: E402
from studio.jobs.store import JobStore  # noqa: E402
from studio.jobs.types import Job  # noqa: E402
from studio.jobs.worker import run_job  # noqa: E402
from studio.page.status import status_html  # noqa: E402

pytestmark = pytest.mark.diffusion
STAGES = ("load", "encode", "denoise", "decode")
WORKS_IN = {"text_encoder": "encode", "transformer": "denoise", "unet": "denoise", "vae": "decode"}
ROOMY = Machine(gpu=find_device("H200"), cores=8, free_vram_gib=141, free_ram_gib=None, free_disk_gib=None)
NO_CARD = replace(ROOMY, gpu=None, free_vram_gib=0.0)


class Allocator:
    """Has nothing left in one stage of the given modes: a hook on the module that computes there raises the error.

    While denoising it gives the first `passes`. `leaked` are modules of earlier attempts that were still there when the
    next one loaded something.
    """

    def __init__(self, stage: str, modes: tuple[str, ...], error: Callable[[], BaseException], passes: int = 3) -> None:
        self.stage, self.modes, self.error, self.passes = stage, modes, error, passes
        self.leaked: list[str] = []
        self._modules: list[tuple[str, weakref.ref[torch.nn.Module]]] = []
        self._fell = False

    def loading(self, mode: str) -> None:
        if self._fell:
            gc.collect()
            self.leaked += [name for name, module in self._modules if module() is not None]
            self._modules.clear()
            self._fell = False
        if self.stage == "load":
            self._give(mode)

    def watch(self, name: str, mode: str, module: torch.nn.Module) -> None:
        self._modules.append((name, weakref.ref(module)))
        if WORKS_IN.get(name) == self.stage:
            working = module.decoder if name == "vae" else module
            left = [self.passes if self.stage == "denoise" else 0]

            def take(*_: object) -> None:
                left[0] -= 1
                if left[0] < 0:
                    self._give(mode)

            working.register_forward_pre_hook(take)

    def _give(self, mode: str) -> None:
        if mode in self.modes:
            self._fell = True
            raise self.error()


@pytest.fixture
def allocator(monkeypatch):
    """`allocator(stage, modes)` stands in the way of every engine from then on."""
    load = Parts._load

    def no_room():
        return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def make(stage, modes, error=no_room, passes=3):
        made = Allocator(stage, modes, error, passes)

        def watched(parts, name):
            made.loading(parts.mode.id)
            load(parts, name)
            made.watch(name, parts.mode.id, parts._modules[name])

        monkeypatch.setattr(Parts, "_load", watched)
        return made

    monkeypatch.setattr(pipeline, "this_machine", lambda _: ROOMY)
    return make


@pytest.fixture
def request_of(tiny_checkpoint, tmp_path):
    Image.new("RGB", (96, 64), "teal").save(tmp_path / "picture.png")

    def make(engine_id, **changes):
        return request_for(engine_id, tiny_checkpoint(engine_id), images=(tmp_path / "picture.png",), **changes)

    return make


@pytest.fixture
def generated(tmp_path):
    """`generated(request, hear)`: the report of a run of the core as the command line makes it."""

    def make(request, hear=lambda _: None):
        folder = tmp_path / "made"
        folder.mkdir(exist_ok=True)
        engines = EngineCache()
        outputs = Outputs(
            video=folder / "v.mp4", report=folder / "v.json", shown_path="v.mp4", state=folder / "state.safetensors"
        )
        try:
            return run(request, engines, outputs, hear, job_id="job")
        finally:
            engines.close()
            outputs.state.unlink(missing_ok=True)

    return make


# --- which mode comes next --------------------------------------------------------------------------------------------


def chain(engine_id, stage, precision="auto", shape=(832, 480, 81), first="resident", memory_kind="vram",
          machine=ROOMY):  # fmt: skip
    """Every mode that would be tried if each fell in `stage`."""
    spec = load_presets()[engine_id]
    size = {"width": shape[0], "height": shape[1], "frames": shape[2]}
    request = request_for(engine_id, None, precision=precision, device="cuda", steps=4, **size)
    machine = NO_CARD if first == "cpu" else machine
    modes = [first]
    while (following := frugal_mode(spec, request, machine, modes[-1], stage, memory_kind)) is not None:
        modes.append(following)
    return modes, spec, request


@pytest.mark.parametrize("engine_id", ALL)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("precision", ["auto", "bf16", "fp8"])
def test_from_mode_to_mode_the_stage_that_fell_needs_less_down_to_the_least(engine_id, stage, precision):
    modes, spec, request = chain(engine_id, stage, precision)
    job = job_of(spec, spec.diffusion, request, on_cpu=False)

    def need(mode):
        cost = cost_of(job, mode, ROOMY.gpu)
        return next(each.weights_gib + each.activations_gib for each in cost.stages if each.name == stage)

    needs = [need(mode_called(mode)) for mode in modes]
    assert all(after < before for before, after in pairwise(needs)) and len(needs) > 1
    assert needs[-1] == min(need(mode) for mode in modes_for(precision, on_cpu=False))
    assert precision == "auto" or not any(mode_called(mode).fp8 for mode in modes)


def test_what_does_not_help_in_the_stage_is_passed_over():
    assert chain(WAN_A14B, "decode")[0] == ["resident", "staged", "swapped", "swapped-half", "swapped-tiled"]
    assert chain(WAN_A14B, "denoise")[0] == ["resident", "staged", "swapped", "streamed", "fp8-streamed"]
    assert chain(I2VGEN, "denoise", "fp16", (512, 512, 16))[0] == [
        "resident", "staged", "swapped", "streamed", "streamed-alone",
    ]  # fmt: skip


def test_too_little_ram_leads_to_weights_that_take_less_of_it_and_on_a_processor_to_tiles():
    assert chain(WAN_A14B, "load", first="swapped", memory_kind="ram")[0] == ["swapped", "disk-swapped"]
    small = replace(ROOMY, free_vram_gib=12.0)
    fallen = chain(WAN_A14B, "load", first="streamed", memory_kind="ram", machine=small)[0]
    assert fallen == ["streamed", "disk-streamed", "fp8-disk-streamed"]
    tight = replace(small, free_ram_gib=30.0)
    assert chain(WAN_A14B, "denoise", first="staged", machine=tight)[0][1] == "disk-swapped"
    modes = [mode.id for mode in CPU_LADDER]
    assert chain(WAN_A14B, "decode", first="cpu", memory_kind="ram")[0] == modes
    assert chain(WAN_A14B, "load", first="cpu", memory_kind="ram")[0] == ["cpu"]


# --- a run of the core ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "tried"),
    [
        ("load", ["resident", "staged", "swapped"]),
        ("encode", ["resident", "swapped", "streamed"]),
        ("denoise", ["resident", "staged", "swapped"]),
        ("decode", ["resident", "staged", "swapped"]),
    ],
)
def test_a_run_that_falls_is_made_in_a_mode_that_needs_less(generated, request_of, allocator, stage, tried):
    request = request_of(WAN_5B, device="auto")
    expected = generated(request)
    assert expected["measured"]["attempts"] == [{"mode": "resident", "stage": None, "memory": None}]
    *fell, last = tried
    faulty, heard = allocator(stage, tuple(fell)), []
    report = generated(request, heard.append)

    assert report["measured"]["attempts"] == [
        *({"mode": mode, "stage": stage, "memory": "vram"} for mode in fell),
        {"mode": last, "stage": None, "memory": None},
    ]
    assert report["output"]["frames_sha256"] == expected["output"]["frames_sha256"]
    assert (report["engine"]["mode"], report["plan"]["mode"]) == (last, "resident")
    assert faulty.leaked == []
    # Told while it ran, in every progress after the fall, and in the report.
    notes = [progress.note for progress in heard]
    assert notes[0] is None and notes[-1] is not None and None not in notes[notes.index(notes[-1]) :]
    assert f"(mode {fell[-1]})" in notes[-1].en and f"模式 {fell[-1]}" in notes[-1].zh
    told = [finding for finding in report["findings"] if finding["code"] == "out_of_memory"]
    assert len(told) == 1 and f"in the mode {last}" in told[0]["message"]
    went_on = report["measured"]["resumed_at_step"]
    assert (went_on is not None) == (stage in ("denoise", "decode"))
    assert ("went on after step" in told[0]["message"]) == (went_on is not None)


def test_what_the_last_mode_computes_otherwise_is_begun_again_and_told_so(
    generated, request_of, allocator, monkeypatch
):
    request = request_of(WAN_5B, device="auto")
    monkeypatch.setattr(pipeline, "this_machine", lambda _: replace(ROOMY, free_vram_gib=14.0))
    allocator("denoise", ("swapped", "streamed"))
    report = generated(request)
    assert [each["mode"] for each in report["measured"]["attempts"]] == ["swapped", "streamed", "fp8-streamed"]
    assert report["measured"]["resumed_at_step"] is None
    told = {finding["code"]: finding["message"] for finding in report["findings"]}
    assert "It began again from the start" in told["out_of_memory"] and "fp8" in told["fp8_weights"]
    assert "state_not_used" in told


def test_after_the_last_attempt_a_sentence_says_what_to_change_and_no_file_is_left(
    generated, request_of, allocator, tmp_path
):
    allocator("denoise", tuple(mode.id for mode in modes_for("auto", on_cpu=False)), passes=0)
    with pytest.raises(StudioError) as caught:
        generated(request_of(WAN_5B, device="auto"))
    said = caught.value.text
    assert said.en.count("while denoising") == MOST_FALLS + 1
    assert "Choose a smaller size" in said.en and "更小的尺寸" in said.zh
    assert list((tmp_path / "made").iterdir()) == []


def test_the_alternatives_of_a_plan_that_did_not_fit_are_named(generated, request_of, allocator, monkeypatch):
    allocator("denoise", tuple(mode.id for mode in modes_for("auto", on_cpu=False)), passes=0)
    monkeypatch.setattr(pipeline, "this_machine", lambda _: replace(ROOMY, free_vram_gib=2.0))
    with pytest.raises(StudioError, match=r"By the plan this fits: camera "):
        generated(request_of(WAN_5B, device="auto"))


def test_the_same_engine_works_after_it_has_fallen_for_good(request_of, allocator, tmp_path):
    request, engines = request_of(WAN_5B, device="auto"), EngineCache()
    outputs = Outputs(video=tmp_path / "v.mp4", report=tmp_path / "v.json", shown_path="v.mp4")
    faulty = allocator("decode", tuple(mode.id for mode in modes_for("auto", on_cpu=False)))
    with pytest.raises(StudioError):
        run(request, engines, outputs, lambda _: None, job_id="one")
    faulty.modes = ()
    assert run(request, engines, outputs, lambda _: None, job_id="two")["measured"]["attempts"][0]["mode"] == "resident"
    engines.close()


def test_too_little_ram_on_a_processor_is_survived_too(generated, request_of, allocator, monkeypatch):
    allocator("decode", ("cpu",), MemoryError)
    monkeypatch.setattr(pipeline, "this_machine", lambda _: NO_CARD)
    report = generated(request_of(I2VGEN, width=320, height=320, frames=2, steps=1))
    assert [(each["mode"], each["memory"]) for each in report["measured"]["attempts"]] == [
        ("cpu", "ram"), ("cpu-tiled", None),
    ]  # fmt: skip
    told = next(finding for finding in report["findings"] if finding["code"] == "out_of_memory")
    assert told["remedy"] == "End other programs that use the memory."


def test_another_error_is_no_lack_of_memory(generated, request_of, allocator):
    allocator("denoise", ("resident",), lambda: RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        generated(request_of(WAN_5B, device="auto"))


def test_pytorchs_own_words_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert memory.ran_out(caught.value) == "ram"
    assert memory.ran_out(MemoryError()) == "ram"
    assert memory.ran_out(RuntimeError("CUDA error: out of memory")) == "vram"
    assert memory.ran_out(RuntimeError("CUDA error: an illegal memory access was encountered")) is None
    assert memory.ran_out(OSError(28, "No space left on device")) is None


# --- a job ------------------------------------------------------------------------------------------------------------


def test_a_job_of_the_queue_falls_twice_and_is_done_and_its_owner_is_told_meanwhile(
    request_of, allocator, tmp_path, monkeypatch
):
    allocator("decode", ("resident", "staged"))
    store = JobStore(tmp_path / "data")
    job = store.submit(request_of(WAN_5B, device="auto"), "me")
    shown: list[Job] = []
    set_progress = store.set_progress

    def watched(*given):
        set_progress(*given)
        shown.append(store.get(job.id))

    monkeypatch.setattr(store, "set_progress", watched)
    claimed = store.claim(os.getpid())
    assert claimed is not None
    engines = EngineCache()
    run_job(store, claimed, store.lease_of(job.id), engines, threading.Event())
    engines.close()

    done = store.get(job.id)
    assert done.state == "done", done.message
    report = done.report_path.read_text(encoding="utf-8")
    assert '"mode": "staged"' in report and '"mode": "swapped"' in report
    notes = [each.progress.note.en for each in shown if each.progress and each.progress.note]
    assert any("Tried again so that one part at a time" in note for note in notes)
    told = next(each for each in shown if each.progress and each.progress.note)
    page = status_html(told, told.created)
    assert "The graphics memory ran out while decoding" in page and "显存" in page
    assert "ran out" not in status_html(done, done.created)
