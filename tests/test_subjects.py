"""References from the files of a person to the report: put on white, counted, named, checked, made again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from page_handlers import FORM, Studio
from PIL import Image
from tiny_models import KALEIDO, SKYREELS, VACE, VACE_14B, request_for

from i2v_pipeline.checks import check_request
from i2v_pipeline.engines.camera.subject import judge_mask
from i2v_pipeline.errors import Cancelled, InputError, ModelError, PictureError, RequestError
from i2v_pipeline.hub import find_checkpoint
from i2v_pipeline.images import open_picture, prepare
from i2v_pipeline.inspection.references import reference_findings
from i2v_pipeline.inspection.subjects import Found
from i2v_pipeline.pipeline import EngineCache, Outputs, run
from i2v_pipeline.presets import find_engine, load_presets
from i2v_pipeline.recipe import read_recipe
from i2v_pipeline.rerun import Given, find_original, rerun
from i2v_pipeline.subjects import open_references, prepare_reference
from i2v_pipeline.types import Subject, Text
from studio.checking import find_findings
from studio.cli import main, parse
from studio.given_pictures import given_by
from studio.jobs.store import JobStore
from studio.models import best_engine, best_reference_engine, state_of
from studio.plans import Hypothesis, machine_like
from studio.recipe import Choice, style_of

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CAT, FLOWER, DOGS, ROCKET = (EXAMPLES / f"{name}.jpg" for name in ("cat", "flower", "dogs", "rocket"))


def saved(folder: Path, width: int, height: int, mode: str = "RGB", colour=(10, 60, 200)) -> Path:
    path = folder / f"{width}x{height}-{mode}.png"
    Image.new(mode, (width, height), colour).save(path)
    return path


def inner_box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom (exclusive) of what is not white."""
    rows, columns = np.nonzero((pixels < 250).any(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


# --- on white ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((100, 100), (192, 0, 704, 512)),
        ((896, 512), (0, 0, 896, 512)),
        ((2000, 300), (0, 189, 896, 323)),
        ((300, 2000), (410, 0, 486, 512)),
        # 101 x 512 // 300 = 172 columns; 724 are left, 362 on each side.
        ((101, 300), (362, 0, 534, 512)),
        # 896 x 100 // 201 = 445 rows; of the odd 67 the one more is below.
        ((201, 100), (0, 33, 896, 478)),
    ],
)
def test_a_reference_is_whole_and_centred_on_white_and_the_odd_pixel_is_right_or_below(tmp_path, size, box):
    prepared = prepare(open_picture(saved(tmp_path, *size)), 896, 512, "white")
    assert prepared.pixels.shape == (512, 896, 3)
    assert inner_box(prepared.pixels) == box
    left, top, right, bottom = box
    assert (np.delete(prepared.pixels.reshape(-1, 3), _inside(box), axis=0) == 255).all()
    assert (prepared.pixels[top:bottom, left:right] == (10, 60, 200)).all()


def _inside(box: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = box
    place = np.zeros((512, 896), bool)
    place[top:bottom, left:right] = True
    return np.flatnonzero(place)


def test_what_white_adds_is_told_in_both_languages(tmp_path):
    wide = prepare(open_picture(saved(tmp_path, 400, 400)), 896, 512, "white").fitted
    assert "white is added at the left and at the right, 21.4 % of the width each" in wide.en and "白边" in wide.zh
    assert "nothing is cut" in prepare(open_picture(saved(tmp_path, 448, 256)), 896, 512, "white").fitted.en


def test_transparent_parts_become_white_and_not_what_hides_below_them(tmp_path):
    path = saved(tmp_path, 64, 64, "RGBA", (200, 0, 0, 0))
    prepared, findings = open_references([path], [Subject()], 96, 64)
    assert (prepared.pixels == 255).all()
    assert "reference_transparent" in [finding.code for finding in findings]


def test_without_its_background_the_subject_stands_alone_on_white():
    picture = open_picture(FLOWER)
    kept, alone = (
        prepare_reference(picture, Subject(remove_background=removed), 448, 256) for removed in (False, True)
    )
    is_white = (alone.pixels == 255).all(axis=2)
    assert 0.6 < is_white.mean() < 0.95 and (kept.pixels == 255).all(axis=2).mean() < 0.3
    middle = np.s_[110:150, 200:250]
    assert np.abs(alone.pixels[middle].astype(int) - kept.pixels[middle]).mean() < 4
    assert alone.fitted.en.startswith("The background was removed.") and alone.source == kept.source


def test_a_background_that_cannot_be_removed_is_refused_by_the_references_place_and_name():
    with pytest.raises(PictureError, match=r"Reference 2 \(rocket\): No clear subject stands out"):
        open_references(
            [CAT, ROCKET], [Subject(), Subject(name="rocket", remove_background=True)], width=448, height=256
        )


# --- what is worth knowing, and what is refused -----------------------------------------------------------------------


def test_a_check_tells_of_each_reference_what_matters_of_it(tmp_path):
    small = tmp_path / "small.png"
    Image.open(CAT).resize((120, 90)).save(small)
    subjects = [Subject(name="cat"), Subject(remove_background=True)]
    found = find_findings([small, ROCKET], "they meet", find_engine(KALEIDO), subjects)
    told = {finding.code: finding.message.en for finding in found}
    assert told["picture_small"].startswith("Reference 1 (cat): The picture has 120 × 90 pixels")
    assert told["reference_enlarged"].startswith("Reference 1 (cat): the picture is enlarged 5.7 times")
    assert told["reference_not_cut_out"].startswith("Reference 2: No clear subject")
    assert told["reference_no_subject"].startswith("Reference 2: no clear subject stands out")
    assert found[0].code == "reference_not_cut_out" and found[0].severity == "error"
    assert not {"crop_loss", "picture_enlarged", "no_subject", "tiny_subject"} & set(told)


@pytest.mark.parametrize(
    ("boxes", "code"),
    [
        ([(40, 120, 60, 260), (200, 280, 60, 260)], "reference_several_subjects"),
        ([(40, 80, 40, 80)], "reference_tiny_subject"),
        ([], "reference_no_subject"),
        ([(60, 260, 60, 260)], None),
    ],
)
def test_what_the_networks_see_of_a_reference_is_told(tmp_path, boxes, code):
    mask = np.zeros((320, 320), np.float32)
    for left, right, top, bottom in boxes:
        mask[top:bottom, left:right] = 1
    found = reference_findings(
        open_picture(saved(tmp_path, 640, 640)),
        Text("Reference 1", "参考图 1"),
        (896, 512),
        Found(subject=judge_mask(mask)),
    )
    assert [finding.code for finding in found] == ([] if code is None else [code])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images": ()}, "0 reference pictures: 1 to 3 are allowed"),
        ({"images": (CAT,) * 4}, "4 reference pictures: 1 to 3 are allowed"),
        ({"subjects": (Subject(),)}, "1 subjects for 2 reference pictures"),
        ({"subjects": (Subject(name="x" * 81), Subject())}, "The name of reference 1: up to 80 characters"),
        ({"subjects": (Subject(), Subject(name="a\nb"))}, "The name of reference 2"),
        ({"fit": "crop"}, "Fit 'crop': white are allowed"),
    ],
)
def test_a_request_that_a_reference_engine_cannot_carry_out_says_why(changes, told):
    request = request_for(KALEIDO, None)
    check_request(find_engine(KALEIDO), request)
    wrong = replace(request, **changes)
    if "images" in changes:
        wrong = replace(wrong, subjects=(Subject(),) * len(wrong.images))
    with pytest.raises(RequestError, match=told):
        check_request(find_engine(KALEIDO), wrong)


def test_an_engine_with_a_first_picture_takes_neither_subjects_nor_white():
    request = request_for("wan2.2-ti2v-5b", None)
    for changes, told in (({"subjects": (Subject(),)}, "Subjects of reference"), ({"fit": "white"}, "Fit 'white'")):
        with pytest.raises(RequestError, match=told):
            check_request(find_engine("wan2.2-ti2v-5b"), replace(request, **changes))


def test_kaleido_says_truthfully_how_it_is_got(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("STUDIO_MODELS", str(tmp_path))
    spec = find_engine(KALEIDO)
    with pytest.raises(ModelError, match="models convert kaleido SOURCE") as refusal:
        find_checkpoint(spec, None)
    assert "zai-org/Kaleido-14B-S2V" in refusal.value.text.en and "download kaleido" not in refusal.value.text.en
    assert "models convert kaleido" in state_of(spec).en
    assert main(["models", "download", KALEIDO]) == 2
    assert "cannot be downloaded from here" in capsys.readouterr().err
    assert "models download wan2.1-vace-1.3b" in state_of(find_engine(VACE)).en


def test_auto_never_takes_a_reference_engine_for_a_first_picture_and_finds_one_for_references(monkeypatch):
    engines, machine = load_presets(), machine_like(Hypothesis(gpu="H200"))
    monkeypatch.setattr("studio.models.is_here", lambda spec: spec.id in (KALEIDO, VACE, VACE_14B))
    assert best_engine(engines, machine).id == "camera"
    assert best_reference_engine(engines, machine).id == VACE_14B
    monkeypatch.setattr("studio.models.is_here", lambda spec: False)
    with pytest.raises(RequestError, match=f"{KALEIDO}, {SKYREELS}, {VACE}, {VACE_14B}"):
        best_reference_engine(engines, machine)


def test_their_prompts_are_refined_in_kaleidos_style():
    assert {style_of(find_engine(engine_id)).name for engine_id in (KALEIDO, SKYREELS, VACE, VACE_14B)} == {"kaleido"}
    assert Choice().fit is None


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a cat dances"], "one of them is missing"),
        (["a cat", "--engine", "camera", "--reference", str(CAT)], "takes no references"),
        (["a cat", "--engine", KALEIDO, "--reference", str(CAT), "--remove-background", "2"], "numbers from 1 to 1"),
        (["a cat", "--engine", KALEIDO, *(["--reference", str(CAT)] * 4)], "4 reference pictures: 1 to 3"),
        (["a cat", "--engine", KALEIDO, "--reference", str(CAT), "--fit", "crop"], "nothing that --fit could set"),
        (["a cat", "--engine", KALEIDO, "--reference", "cat=gone.png"], "no such picture file"),
    ],
)
def test_a_command_with_wrong_references_says_what_is_allowed(capsys, monkeypatch, arguments, told):
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert main(["generate", *arguments, "--refine", "off"]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "images", "names"),
    [
        (["cat.png", "--seed", "3", "a cat dances"], ["cat.png"], []),
        (["--seed", "3", "cat.png", "a cat dances"], ["cat.png"], []),
        (["a cat dances", "--reference", "a.png"], ["a.png"], [""]),
        (["--reference", "a.png", "--reference", "the dog=b.png", "a cat dances"], ["a.png", "b.png"], ["", "the dog"]),
        (["first.png", "a cat dances", "--reference", "猫=a.png"], ["first.png", "a.png"], ["", "猫"]),
        (["a cat dances", "--reference", r"dog=C:\pictures\b.png"], [r"C:\pictures\b.png"], ["dog"]),
    ],
)
def test_picture_prompt_and_references_are_read_in_any_order(words, images, names):
    given = given_by(parse(["generate", *words]))
    assert given.prompt == "a cat dances"
    assert [str(image) for image in given.images] == images
    assert [subject.name for subject in given.subjects] == names


def test_words_too_many_and_unknown_options_are_refused(capsys):
    for words in (["a.png", "prompt", "more"], ["a.png", "prompt", "--unknown", "3"]):
        with pytest.raises(SystemExit):
            parse(["generate", *words])
        assert "unrecognized arguments" in capsys.readouterr().err


def test_the_page_says_what_a_reference_engine_lacks_before_generate(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDIO_MODELS", str(tmp_path))
    studio = Studio.on(JobStore(tmp_path / "data"))
    form = {**FORM, "engine": KALEIDO, "resolution": "512p", "frames": 81, "fps": 16, "steps": 50, "guidance": 6.0}
    card = studio.form.plan({**form, "planned": 0, "count": 1}, studio.open())["plan"]
    assert f"models convert kaleido SOURCE &#36;STUDIO_MODELS/{KALEIDO}" in card and "896 × 512" in card
    assert str(tmp_path) not in card
    assert "完整放在 896 × 512 的白底上" in card


def test_a_plan_counts_references(capsys, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    seconds = []
    for count in ("1", "3"):
        assert main(["plan", "--engine", KALEIDO, "--gpu", "H200", "--references", count, "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert (plan["width"], plan["height"], plan["frames"]) == (896, 512, 81)
        seconds.append(next(stage["seconds"] for stage in plan["stages"] if stage["name"] == "denoise"))
    # 4.8 % more tokens each, and attention grows with their square.
    assert 1.09 < seconds[1] / seconds[0] < 1.20
    assert main(["plan", "--engine", KALEIDO, "--gpu", "4090", "--vram", "6", "--json"]) == 0
    refused = json.loads(capsys.readouterr().out)
    assert not refused["fits"] and {each["engine"] for each in refused["alternatives"]} <= {KALEIDO, SKYREELS, VACE}
    assert main(["plan", "--engine", KALEIDO, "--references", "4"]) == 2
    assert "1 to 3 are allowed" in capsys.readouterr().err
    assert main(["plan", "--engine", "camera", "--references", "1"]) == 2


@pytest.mark.diffusion
@pytest.mark.parametrize("engine_id", [KALEIDO, SKYREELS, VACE])
def test_the_command_line_makes_a_video_of_references_and_makes_it_again(
    tiny_checkpoint, tmp_path, capsys, monkeypatch, engine_id
):
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    odd = tmp_path / "a=b.png"
    Image.open(CAT).resize((200, 150)).save(odd)
    made, again = tmp_path / "v.mp4", tmp_path / "again.mp4"
    command = [
        *("generate", "--engine", engine_id, "--checkpoint", str(tiny_checkpoint(engine_id)), "--device", "cpu"),
        *("--reference", f"the flower={FLOWER}", "--reference", str(odd), "--remove-background", "1", "a rose opens"),
        *("--resolution", "96x64", "--frames", "9", "--steps", "2", "--seed", "7", "--refine", "off", "--json"),
    ]
    assert main([*command, "--out", str(made)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(each["name"], each["remove_background"]) for each in report["references"]] == [
        ("the flower", True),
        ("", False),
    ]
    assert report["image"]["sha256"] == report["references"][0]["sha256"]
    assert report["parameters"]["fit"] == "white" and report["quality"]["first_frame"] is None
    assert report["prompt"]["sent"] == "a rose opens"
    assert not [finding["code"] for finding in report["findings"] if finding["code"] == "advice_other_picture"]
    recipe = read_recipe(made)
    assert [recipe.picture, *recipe.references] == [("JPEG", FLOWER.read_bytes()), ("PNG", odd.read_bytes())]
    # The file alone, and the report beside the pictures' own files.
    assert (
        main(["rerun", str(made), "--checkpoint", str(tiny_checkpoint(engine_id)), "--out", str(again), "--json"]) == 0
    )
    compared = json.loads(capsys.readouterr().out)
    assert compared["equal"] and compared["differences"] == []


@pytest.mark.diffusion
def test_a_run_with_references_ends_between_steps_and_leaves_no_file(tiny_checkpoint, tmp_path):
    request = request_for(VACE, tiny_checkpoint(VACE), images=(CAT, FLOWER), steps=3)
    seen = []

    def stop(progress):
        seen.append((progress.stage, progress.step))
        if progress.stage == "denoise" and progress.step == 1:
            raise Cancelled

    outputs = Outputs(video=tmp_path / "v.mp4", report=tmp_path / "v.json", shown_path="v.mp4")
    with pytest.raises(Cancelled):
        run(request, EngineCache(), outputs, stop, job_id="1")
    assert seen[-1] == ("denoise", 1) and list(tmp_path.iterdir()) == []


@pytest.mark.diffusion
def test_a_rerun_without_the_references_asks_for_all_of_them_and_tells_which_are_others(tiny_checkpoint, tmp_path):
    request = request_for(VACE, tiny_checkpoint(VACE), images=(CAT, FLOWER), steps=1, embed_source=False, frames=5)
    first, second = (
        Outputs(video=tmp_path / f"{name}.mp4", report=tmp_path / f"{name}.json", shown_path=f"{name}.mp4")
        for name in ("one", "two")
    )
    run(request, EngineCache(), first, lambda _: None, job_id="1")
    original, given = find_original(first.video), Given(checkpoint=request.checkpoint)
    with pytest.raises(InputError, match=r"further reference pictures are not in this file\. Give it with --reference"):
        rerun(original, given, EngineCache(), second, lambda _: None, job_id="2")
    with pytest.raises(InputError, match="1 reference pictures: this video was made of 2"):
        rerun(original, replace(given, references=(CAT,)), EngineCache(), second, lambda _: None, job_id="2")
    swapped = replace(given, references=(CAT, DOGS))
    result = rerun(original, swapped, EngineCache(), second, lambda _: None, job_id="2")
    assert not result.is_equal
    assert "references.1.sha256" in [difference.field for difference in result.differences]
    assert "references.0.sha256" not in [difference.field for difference in result.differences]
