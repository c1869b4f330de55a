"""A video is made again from its report or from itself: equal frames, or the names of what is not as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_frames import moving, psnr

from i2v_pipeline.differences import Difference, Psnr, find_differences, measure_psnr
from i2v_pipeline.errors import InputError
from i2v_pipeline.pipeline import EngineCache, Outputs, run, write_json
from i2v_pipeline.rerun import Given, Rerun, describe, find_original, request_of, rerun
from i2v_pipeline.types import GenerationRequest, LoraRef, Motion, PromptOrigin
from studio.cli import main

torch = pytest.importorskip("torch")
from packed_models import save_full, save_packed  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_models import ALL, I2VGEN, WAN_5B, WAN_A14B, request_for  # noqa: E402

EXAMPLES = Path(__file__).parent.parent / "examples"
CAT, SHORE = EXAMPLES / "cat.jpg", EXAMPLES / "mountains.jpg"
SMALL = {"images": (CAT,), "width": 64, "height": 64, "resolution": "64x64", "frames": 5, "steps": 2}
CAMERA = GenerationRequest(
    engine="camera", images=(CAT,), prompt="pan left", motion=Motion(camera=("pan_left",), requested=True),
    origin=PromptOrigin(typed="pan left", refined="pan left", source="typed"), resolution="160x120", width=160,
    height=120, fit="crop", frames=6, fps=8, seed=3,
)  # fmt: skip

STILL = replace(CAMERA, motion=Motion(camera=("static",), requested=True))
"""Needs no network to find the subject, so it takes a tenth of the time."""


@pytest.fixture(scope="module")
def engines() -> Any:
    """One cache for the first videos, as a worker has it: what an earlier run left in memory must change nothing."""
    cache = EngineCache()
    yield cache
    cache.close()


@pytest.fixture
def make(tmp_path: Path, engines: EngineCache) -> Callable[[GenerationRequest], Path]:
    """Makes a video in its own folder and gives its path; the report lies beside it as `v.json`."""

    def make_video(request: GenerationRequest) -> Path:
        folder = tmp_path / "made"
        folder.mkdir()
        run(request, engines, outputs_in(folder), lambda _: None, job_id="first")
        return folder / "v.mp4"

    return make_video


@pytest.fixture
def again(tmp_path: Path) -> Callable[..., Rerun]:
    """Makes it again into another folder, with nothing in memory, as another process would."""

    def make_again(path: Path, **given: Any) -> Rerun:
        folder = tmp_path / "again"
        folder.mkdir(exist_ok=True)
        engines = EngineCache()
        return rerun(find_original(path), Given(**given), engines, outputs_in(folder), lambda _: None, job_id="second")

    return make_again


def outputs_in(folder: Path) -> Outputs:
    return Outputs(video=folder / "v.mp4", report=folder / "v.json", shown_path=str(folder / "v.mp4"))


def report_of(video: Path) -> dict[str, Any]:
    return json.loads(video.with_suffix(".json").read_text(encoding="utf-8"))


def changed(video: Path, *place: str, value: Any) -> Path:
    """The report beside `video` with another value at one place."""
    report = report_of(video)
    part = report
    for name in place[:-1]:
        part = part[name]
    assert part[place[-1]] != value
    part[place[-1]] = value
    write_json(video.with_suffix(".json"), report)
    return video.with_suffix(".json")


def fields_of(result: Rerun) -> set[str]:
    return {each.field for each in result.differences}


# --- equal frames ---


def test_the_camera_makes_the_same_frames_again_from_the_report_and_from_the_video_alone(make, again, tmp_path) -> None:
    video = make(CAMERA)
    from_report = again(video.with_suffix(".json"))
    assert from_report.is_equal and from_report.differences == ()
    alone = shutil.move(video, tmp_path / "alone.mp4")
    result = again(alone)
    assert result.is_equal and result.differences == () and result.psnr is None
    assert result.report["job"] == "second"


@pytest.mark.diffusion
@pytest.mark.parametrize("engine_id", ALL)
def test_every_model_makes_the_same_frames_again_from_the_video_alone(
    make, again, tiny_checkpoint, tmp_path, engine_id
) -> None:
    request = request_for(engine_id, tiny_checkpoint(engine_id), **SMALL)
    if engine_id == WAN_A14B:
        request = replace(request, last_image=SHORE, guidance=(5.0, 2.0))
    alone = shutil.move(make(request), tmp_path / "alone.mp4")
    result = again(alone, checkpoint=tiny_checkpoint(engine_id))
    assert result.is_equal and result.differences == ()


def test_a_report_finds_its_picture_beside_it_by_its_hash(make, again) -> None:
    video = make(replace(STILL, embed_source=False))
    with pytest.raises(InputError, match=r"picture is not in this file.*--image"):
        again(video.with_suffix(".json"))
    (video.parent / "another.jpg").write_bytes(CAT.read_bytes()[::-1])
    shutil.copy(CAT, video.parent / "input.jpg")
    assert again(video.with_suffix(".json")).is_equal


@pytest.mark.diffusion
def test_what_ran_on_the_processor_is_asked_to_run_there_again(make, tiny_checkpoint, tmp_path) -> None:
    checkpoint = tiny_checkpoint(WAN_5B)
    request = replace(request_for(WAN_5B, checkpoint, **SMALL), device="auto", precision="auto")
    video = make(request)
    wanted = request_of(find_original(video).recipe, Given(checkpoint=checkpoint), tmp_path)
    assert (wanted.device, wanted.precision) == ("cpu", "fp32")
    assert replace(wanted, device="auto", precision="auto", images=request.images) == request
    elsewhere = changed(video, "environment", "device", value="a GPU")
    wanted = request_of(find_original(elsewhere).recipe, Given(checkpoint=checkpoint), tmp_path)
    assert (wanted.device, wanted.precision) == ("auto", "auto")


# --- what differs is named ---


@pytest.mark.diffusion
def test_another_number_of_steps_and_another_library_are_named(make, again, tiny_checkpoint) -> None:
    video = make(request_for(WAN_5B, tiny_checkpoint(WAN_5B), **SMALL))
    result = again(changed(video, "environment", "diffusers", value="0.1"), checkpoint=tiny_checkpoint(WAN_5B))
    assert result.is_equal
    (difference,) = result.differences
    assert (difference.field, difference.then) == ("environment.diffusers", "0.1")
    result = again(changed(video, "parameters", "steps", value=3), checkpoint=tiny_checkpoint(WAN_5B))
    assert not result.is_equal
    assert {"engine.steps", "engine.strengths", "environment.diffusers"} <= fields_of(result)
    assert result.psnr is not None and result.psnr.min_db <= result.psnr.mean_db < 60
    said = "\n".join(line.en for line in describe(result))
    assert "engine.steps: 2 → 3" in said and "as they are decoded" in said and "PSNR" in said


@pytest.mark.diffusion
def test_another_lora_is_named_and_the_same_one_is_found_by_its_hash(make, again, tiny_checkpoint, tmp_path) -> None:
    lora, checkpoint = save_lora(tmp_path / "slow.safetensors", 1.0), tiny_checkpoint(WAN_A14B)
    refs = (LoraRef(source=str(lora), weight=0.5, expert="low"), LoraRef(source=str(lora), weight=0.25))
    video = make(request_for(WAN_A14B, checkpoint, **SMALL, loras=refs))
    kept = shutil.copy(lora, tmp_path / "kept.safetensors")
    save_lora(lora, 2.0)
    result = again(video, checkpoint=checkpoint)
    assert not result.is_equal
    assert fields_of(result) == {"engine.loras.0.sha256", "engine.loras.1.sha256"}
    result = again(video, checkpoint=checkpoint, loras=(kept,))
    assert result.is_equal and fields_of(result) == {"engine.loras.0.file", "engine.loras.1.file"}
    lora.unlink()
    with pytest.raises(InputError, match=r"slow\.safetensors \(SHA-256 [0-9a-f]{64}\) is not where it was.*--lora"):
        again(video, checkpoint=checkpoint)
    save_lora(tmp_path / "other.safetensors", 3.0)
    with pytest.raises(InputError, match=r"other\.safetensors: this video was made without it"):
        again(video, checkpoint=checkpoint, loras=(kept, tmp_path / "other.safetensors"))


@pytest.mark.diffusion
def test_other_weights_under_the_same_names_are_named(make, again, tiny_checkpoint, tmp_path) -> None:
    video = make(request_for(I2VGEN, tiny_checkpoint(I2VGEN), **SMALL))
    with pytest.raises(InputError, match=r"the folder 'i2vgen-xl', not with the engine's own\. Give it with --checkp"):
        again(video)
    tuned = tmp_path / "i2vgen-xl"
    shutil.copytree(tiny_checkpoint(I2VGEN), tuned)
    (weights,) = (tuned / "unet").glob("*.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    result = again(video, checkpoint=tuned)
    assert not result.is_equal
    assert fields_of(result) == {"engine.checkpoint_sha256"}


@pytest.mark.diffusion
def test_a_denoiser_in_gguf_makes_the_same_frames_again_and_another_file_is_named(make, again, tmp_path) -> None:
    full = save_full(WAN_A14B, tmp_path / "full")
    checkpoint, other = (save_packed(full, tmp_path / kind / "tiny", kind) for kind in ("Q8_0", "Q4_0"))
    video = make(request_for(WAN_A14B, checkpoint, **SMALL))
    report = report_of(video)
    told = report["engine"]["precisions"]["transformer_2"]
    assert told.startswith("GGUF Q8_0 ") and told.endswith("(tiny-transformer_2-Q8_0.gguf), computes in float32")
    assert str(tmp_path) not in json.dumps(report["engine"])
    assert any(each["code"] == "packed_weights" for each in report["findings"])
    assert again(video, checkpoint=checkpoint).is_equal
    result = again(video, checkpoint=other)
    assert not result.is_equal
    assert fields_of(result) == {
        "engine.checkpoint_sha256", "engine.precisions.transformer", "engine.precisions.transformer_2",
    }  # fmt: skip


@pytest.mark.diffusion
def test_what_an_earlier_run_left_in_memory_is_no_difference(make, tiny_checkpoint) -> None:
    report = report_of(make(request_for(WAN_5B, tiny_checkpoint(WAN_5B), **SMALL)))
    warm = {**report["engine"], "loaded": [], "reused": ["text", "picture"]}
    assert list(find_differences(report, {**report, "engine": warm})) == []
    other = {**report["engine"], "variant": "fp16"}
    assert [each.field for each in find_differences(report, {**report, "engine": other})] == ["engine.variant"]


def test_another_picture_is_named(make, again) -> None:
    result = again(make(STILL), image=SHORE)
    assert not result.is_equal
    assert {"image.sha256", "image.prepared_sha256"} <= fields_of(result)


def test_without_the_first_video_there_is_no_psnr_and_that_is_said(make, again) -> None:
    video = make(STILL)
    report = changed(video, "parameters", "fit", value="stretch")
    video.unlink()
    result = again(report, image=CAT)
    assert not result.is_equal and result.psnr is None
    assert "nothing to measure the PSNR on" in result.note.en


def test_a_video_beside_the_report_that_is_another_one_is_not_compared_with(make, again, tmp_path) -> None:
    video = make(STILL)
    again(video, image=SHORE)
    shutil.copy(tmp_path / "again" / "v.mp4", video)
    assert find_original(video.with_suffix(".json")).video is None


def test_psnr_is_that_of_the_worst_frame_and_of_all() -> None:
    one = moving(64, 48, 3)
    other = one.copy()
    other[1] ^= 3
    other[2] ^= 8
    frames = [[frame[None] for frame in video] for video in (one, other)]
    measured = measure_psnr(iter(frames[0]), iter(frames[1]))
    assert measured is not None
    assert measured.min_db == pytest.approx(psnr(one[2], other[2]), abs=0.01)
    assert measured.mean_db == pytest.approx(psnr(one, other), abs=0.01)
    assert measure_psnr(iter(frames[0]), iter(frames[1][:2])) is None
    assert measure_psnr(iter(frames[0]), iter([frames[1][0][:, :2]])) is None
    assert measure_psnr(iter(frames[0]), iter(frames[0])) == Psnr(min_db=None, mean_db=None)


# --- what the report proves ---


@pytest.mark.diffusion
@pytest.mark.parametrize("engine_id", [I2VGEN, WAN_A14B])
def test_the_report_holds_a_hash_of_all_that_steered_the_run(make, tiny_checkpoint, engine_id) -> None:
    report = report_of(make(request_for(engine_id, tiny_checkpoint(engine_id), **SMALL)))
    steering = {"prompt", "negative", "image", "picture", "fps"} if engine_id == I2VGEN else {
        "prompt", "negative", "condition",
    }  # fmt: skip
    assert set(report["engine"]["inputs"]) == steering | {"noise"}
    assert all(len(sha256) == 64 for sha256 in report["engine"]["inputs"].values())
    assert report["engine"]["steps"] == len(report["engine"]["strengths"]) == report["parameters"]["steps"]
    assert report["prompt"]["tokens"] == report["engine"]["tokens"] > 0
    environment = report["environment"]
    assert {"torch", "diffusers", "transformers", "python", "driver", "device", "cpu", "threads"} <= set(environment)
    assert environment["threads"] == torch.get_num_threads()
    assert environment["device"] == "cpu" and environment["driver"] is None
    assert "runtime" not in report["engine"]


@pytest.mark.diffusion
def test_the_hashes_follow_what_they_are_of(make, again, tiny_checkpoint) -> None:
    video = make(request_for(WAN_5B, tiny_checkpoint(WAN_5B), **SMALL))
    inputs = {"prompt": {"engine.inputs.prompt"}, "seed": {"engine.inputs.noise"}}
    for name, expected in inputs.items():
        report = report_of(video)
        report["prompt"]["sent"] = "a cat turns" if name == "prompt" else report["prompt"]["sent"]
        report["parameters"]["seed"] = 8 if name == "seed" else report["parameters"]["seed"]
        path = video.with_name(f"{name}.json")
        write_json(path, report)
        differing = fields_of(again(path, checkpoint=tiny_checkpoint(WAN_5B)))
        assert {field for field in differing if field.startswith("engine.inputs")} == expected


# --- the command line ---


@pytest.fixture
def command(capsys, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")

    def run_command(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run_command


def test_rerun_prints_one_json_object_that_says_whether_the_frames_are_equal(make, command, tmp_path) -> None:
    video = make(CAMERA)
    status, printed, _ = command("rerun", video, "--out", tmp_path / "new.mp4", "--json")
    told = json.loads(printed)
    assert (status, told["equal"], told["differences"], told["psnr"]) == (0, True, [], None)
    assert told["report"] == report_of(tmp_path / "new.mp4")
    assert told["frames_sha256"]["then"] == told["frames_sha256"]["now"] == report_of(video)["output"]["frames_sha256"]
    report = changed(video, "prompt", "motion", "speed", value="fast")
    status, printed, _ = command("rerun", report, "--out", tmp_path / "new.mp4")
    assert status == 0
    assert "The frames differ" in printed and "engine.path.pan_px" in printed and "PSNR" in printed


@pytest.mark.parametrize("is_json", [False, True])
def test_what_cannot_be_made_again_is_refused_with_2(make, command, tmp_path, is_json: bool) -> None:
    video = make(replace(STILL, embed_source=False))
    before = video.read_bytes()
    (tmp_path / "list.json").write_text("[]")
    options = ["--json"] if is_json else []
    for arguments, told in (
        (["rerun", video], "Give it with --image"),
        (["rerun", video, "--image", CAT, "--out", video], "would overwrite"),
        (["rerun", video.with_suffix(".json"), "--image", CAT, "--out", video.with_name("v.MP4")], ""),
        (["rerun", tmp_path / "list.json"], "another program"),
        (["rerun", video, "--image", CAT, "--out", tmp_path / "x.gif"], ".mp4"),
        (["rerun", video, "--image", CAT, "--lora", tmp_path / "none.safetensors"], "no such file"),
    ):
        status, printed, said = command(*arguments, *options)
        assert (status, told in said) == (2, True), (arguments, said)
        assert json.loads(printed)["error"]["message"] in said if is_json else printed == ""
    assert video.read_bytes() == before and {file.name for file in video.parent.iterdir()} == {"v.mp4", "v.json"}


def save_lora(path: Path, value: float) -> Path:
    """A LoRA of rank 1 for one part of the tiny transformers."""
    name = "diffusion_model.blocks.0.self_attn.q"
    down = torch.linspace(-1, value, 24)[None]
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": torch.ones(24, 1)}, path)
    return path


def test_the_terminal_shows_no_control_characters_of_a_foreign_report() -> None:
    result = Rerun(
        report={"output": {"frames_sha256": "0"}},
        frames_sha256_then="0",
        differences=(Difference(field="environment.torch", then="\x1b[2J\x9b1m" + "x" * 999, now=None),),
        psnr=None,
        note=None,
    )
    said = [line.en for line in describe(result)][-1]
    assert said.isprintable() and len(said) < 200


def test_frames_of_one_size_are_compared_as_floats() -> None:
    dark, bright = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
    assert measure_psnr(iter([dark]), iter([bright])) == Psnr(min_db=0.0, mean_db=0.0)
