"""From what a person chose to a checked recipe of a diffusion engine, and through the command line to a video."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from pydantic import TypeAdapter

from i2v_pipeline.advice import training_findings
from i2v_pipeline.checks import check_request
from i2v_pipeline.errors import RequestError
from i2v_pipeline.presets import load_presets
from i2v_pipeline.types import GenerationRequest, GuidanceSchedule, LoraRef, Motion, PromptOrigin
from i2v_pipeline.video import read_report
from studio.cli import main
from studio.jobs.store import JobStore
from studio.recipe import Choice, compose, size_of

ROOT = Path(__file__).resolve().parents[1]
DIFFUSION = [spec for spec in load_presets().values() if spec.diffusion is not None]
ORIGIN = PromptOrigin(typed="a cat", refined="a cat", source="typed")


def composed(spec, motion=Motion(), **choices):  # noqa: B008 - frozen
    return compose(
        spec,
        Choice(**choices),
        image=Path("cat.png"),
        image_size=(1600, 900),
        prompt="a cat",
        origin=ORIGIN,
        motion=motion,
    )


@pytest.mark.parametrize("spec", DIFFUSION, ids=lambda spec: spec.id)
def test_every_preset_of_every_engine_is_a_request_that_passes_its_own_check(spec):
    for name in spec.presets:
        request = composed(spec, preset=name)
        check_request(spec, request)
        assert (request.steps, request.guidance) == (spec.presets[name].steps, spec.presets[name].guidance)
        assert request.negative_prompt == spec.diffusion.negative_prompt


def test_the_fast_preset_brings_its_loras_scheduler_and_shift():
    spec = load_presets()["wan2.2-i2v-a14b"]
    request = composed(spec, preset="fast")
    assert (request.steps, request.guidance, request.scheduler, request.flow_shift) == (4, 1.0, "euler", 5.0)
    assert [lora.expert for lora in request.loras] == ["high", "low"]
    assert composed(spec).loras == () and composed(spec).scheduler == "unipc"


def test_a_preset_that_an_engine_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(RequestError, match=r"'fast': wan2\.2-ti2v-5b has preview, standard, high_motion, creative"):
        composed(load_presets()["wan2.2-ti2v-5b"], preset="fast")


@pytest.mark.parametrize("spec", DIFFUSION, ids=lambda spec: spec.id)
def test_asking_for_a_still_camera_drops_the_words_against_stillness_and_no_others(spec):
    still = Motion(camera=("static",), requested=True)
    separator = "，" if "，" in spec.diffusion.negative_prompt else ", "
    dropped = [
        word
        for word in spec.diffusion.negative_prompt.split(separator)
        if word not in composed(spec, still).negative_prompt.split(separator)
    ]
    assert sorted(dropped) == sorted(spec.diffusion.stillness_words)
    assert composed(spec, still, negative_prompt="static").negative_prompt == "static"
    assert composed(spec, negative_prompt="").negative_prompt == ""


@pytest.mark.parametrize(
    ("engine_id", "changes", "told"),
    [
        ("wan2.2-i2v-a14b", {"width": 840}, r"Width 840: multiples of 16 .* Choose 832 or 848"),
        ("wan2.2-ti2v-5b", {"height": 720}, r"Height 720: multiples of 32 .* Choose 704 or 736"),
        ("wan2.2-i2v-a14b", {"frames": 80}, r"80 frames: 4 n \+ 1 .* Choose 77 or 81"),
        ("i2vgen-xl", {"width": 516}, r"Width 516: multiples of 8 .* Choose 512 or 520"),
        ("i2vgen-xl", {"steps": 0}, "Steps 0"),
        ("i2vgen-xl", {"guidance": 0.5}, "Guidance 0.5: numbers from 1"),
        ("i2vgen-xl", {"guidance": (9.0, 7.0)}, "one expert"),
        ("i2vgen-xl", {"flow_shift": 5.0}, "Flow shift 5"),
        ("i2vgen-xl", {"scheduler": "unipc"}, "Scheduler unipc: ddim"),
        ("i2vgen-xl", {"loras": (LoraRef(source="a.safetensors"),)}, "LoRAs"),
        ("wan2.2-ti2v-5b", {"last_image": Path("end.png")}, "A last picture"),
        ("wan2.2-i2v-a14b", {"last_image": Path("end.png"), "frames": 1}, "a last picture needs at least 5"),
        ("wan2.2-ti2v-5b", {"flow_shift": 0.0}, "Flow shift 0.0"),
        ("wan2.2-ti2v-5b", {"loras": (LoraRef(source="a.safetensors", expert="low"),)}, "one expert"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_with_the_nearest_that_it_can(engine_id, changes, told):
    spec = load_presets()[engine_id]
    with pytest.raises(RequestError, match=told):
        check_request(spec, replace(composed(spec), **changes))


def test_all_settings_survive_the_job_store(tmp_path):
    for name in ("cat.png", "end.png"):
        Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    request = replace(
        composed(load_presets()["wan2.2-i2v-a14b"], preset="fast"),
        images=(tmp_path / "cat.png",),
        last_image=tmp_path / "end.png",
        guidance=(GuidanceSchedule(first=4.0, last=2.0), 1.0),
        checkpoint=tmp_path,
        device="cpu",
        precision="fp32",
    )
    assert TypeAdapter(GenerationRequest).validate_json(TypeAdapter(GenerationRequest).dump_json(request)) == request
    job = JobStore(tmp_path / "data").submit(request, "me")
    (tmp_path / "end.png").unlink()
    assert job.request.last_image.parent == job.folder and job.request.last_image.is_file()
    assert replace(job.request, images=request.images, last_image=request.last_image) == request


@pytest.mark.parametrize("spec", DIFFUSION, ids=lambda spec: spec.id)
def test_the_standard_preset_is_what_the_model_was_trained_for_and_warns_of_nothing(spec):
    assert list(training_findings(spec, composed(spec))) == []


def test_a_model_of_exact_sizes_gets_the_one_whose_shape_is_nearest_to_the_pictures():
    spec = load_presets()["wan2.2-ti2v-5b"]
    sizes = [size_of(spec, "704p", *picture) for picture in ((1600, 900), (900, 1600), (1000, 999), (999, 1000))]
    assert sizes == [(1280, 704), (704, 1280), (1280, 704), (704, 1280)]


@pytest.mark.parametrize(
    ("engine_id", "choices", "told"),
    [
        ("wan2.2-i2v-a14b", {"frames": 85}, {"untrained_length": "85 frames: wan2.2-i2v-a14b was trained for 81"}),
        ("wan2.2-i2v-a14b", {"resolution": "256x256"}, {"untrained_size": "832 × 480 or 1280 × 720, or any shape"}),
        ("wan2.2-i2v-a14b", {"resolution": "624x624"}, {}),
        ("wan2.1-i2v-14b-480p", {"resolution": "1280x720"}, {"untrained_size": "trained for: 832 × 480, or any shape"}),
        ("wan2.2-ti2v-5b", {"resolution": "704x1280"}, {}),
        ("wan2.2-ti2v-5b", {"resolution": "960x960"}, {"untrained_size": "1280 × 704 or 704 × 1280. Expect"}),
    ],
)
def test_a_size_or_a_length_that_a_model_was_not_trained_for_is_told(engine_id, choices, told):
    spec = load_presets()[engine_id]
    found = {finding.code: finding.message.en for finding in training_findings(spec, composed(spec, **choices))}
    assert found.keys() == told.keys()
    assert all(words in found[code] for code, words in told.items())


def test_loras_of_a_person_come_after_those_of_the_preset():
    spec, own = load_presets()["wan2.2-i2v-a14b"], LoraRef(source="own.safetensors", weight=0.5)
    assert composed(spec, loras=(own,)).loras == (own,)
    assert composed(spec, preset="fast", loras=(own,)).loras == (*spec.presets["fast"].loras, own)


@pytest.mark.diffusion
def test_a_local_models_folder_and_loras_reach_the_run_and_the_report(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    lora = tmp_path / "strange:name.safetensors"
    save_lora(lora)
    options = ("--steps", "2", "--frames", "5", "--resolution", "64x64", "--device", "cpu", "--seed", "3")
    arguments = [
        "generate", str(ROOT / "examples/cat.jpg"), "a cat", "--engine", "wan2.2-i2v-a14b", "--refine", "off", *options,
        "--lora", f"{lora}:0.5@low", "--out", str(tmp_path / "out.mp4"), "--json",
    ]  # fmt: skip
    monkeypatch.setenv("STUDIO_MODELS", str(tiny_checkpoint("wan2.2-i2v-a14b").parent))
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["engine"]["checkpoint"] == "wan2.2-i2v-a14b" and report["engine"]["repo"] is None
    (used,) = report["engine"]["loras"]
    assert (used["file"], used["weight"], used["expert"]) == (lora.name, 0.5, "low")
    assert "untrained_size" in {finding["code"] for finding in report["findings"]}
    assert report["measured"]["peak_vram_gib"] is None
    assert report["environment"]["device"] == report["engine"]["device"] == "cpu"


def save_lora(path):
    """A LoRA of rank 1 for one part of the tiny transformers."""
    import torch
    from safetensors.torch import save_file

    name = "diffusion_model.blocks.0.self_attn.q"
    save_file({f"{name}.lora_A.weight": torch.ones(1, 24), f"{name}.lora_B.weight": torch.ones(24, 1)}, path)


@pytest.mark.diffusion
@pytest.mark.parametrize("engine_id", ["i2vgen-xl", "wan2.1-i2v-14b-480p", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"])
def test_the_command_line_makes_a_video_and_its_report_with_every_family(tiny_checkpoint, tmp_path, engine_id):
    out = tmp_path / "out.mp4"
    options = ("--steps", "2", "--frames", "5", "--resolution", "64x64", "--guidance", "4..2", "--seed", "3")
    done = subprocess.run(
        [
            sys.executable, "app.py", "generate", "examples/cat.jpg", "the cat turns its head", "--engine", engine_id,
            "--checkpoint", str(tiny_checkpoint(engine_id)), "--device", "cpu", "--refine", "off", *options,
            "--out", str(out), "--json",
        ],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not re.search(r"Warning|it/s|Traceback", done.stderr)
    report = json.loads(done.stdout)
    assert report == read_report(out) == json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert report["output"]["frames"] == 5
    assert report["engine"]["strengths"] == [4.0, 2.0]
    assert report["parameters"]["guidance"] == {"first": 4.0, "last": 2.0, "begin": 0.0, "end": 1.0}
    assert {"load", "encode", "denoise", "decode", "write"} <= set(report["measured"]["stages"])
