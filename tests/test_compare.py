"""One request along one or two axes: which cells there are, what is refused, how they are ordered, what they take."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from i2v_pipeline.errors import ModelError, RequestError
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.presets import find_engine, load_presets
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import LoraRef, Motion
from studio.axes import FIELDS, MAX_CELLS, WORDS, propose_values, split_values
from studio.compare import (
    MAX_DRAFTS,
    Base,
    Sentence,
    check_models,
    draft_sketch,
    left_out,
    make_sketch,
    plan_total,
    run_order,
)
from studio.jobs.comparisons import Axis
from studio.recipe import Choice, origin_of

CAT = Path(__file__).resolve().parents[1] / "examples" / "cat.jpg"
WAN = "wan2.1-i2v-14b-480p"
MACHINE = Machine(gpu=None, cores=2, free_vram_gib=0.0, free_ram_gib=None, free_disk_gib=None)


def read(text: str, spec: EngineSpec) -> Sentence:
    return Sentence(text=text, origin=origin_of(text, None), motion=Motion())


def base_of(engine: str = WAN, **chosen: object) -> Base:
    return Base(engine=engine, choice=Choice(**chosen), prompt="a cat", image=CAT, image_size=(1200, 800))


def axis(field: str, *values: str) -> Axis:
    return Axis(field=field, values=values)


def test_the_cells_stand_row_by_row_and_share_everything_that_is_no_axis() -> None:
    sketch = make_sketch(base_of(), axis("guidance", "4", "5", "6"), axis("steps", "10", "20"), read)
    assert [(each.guidance, each.steps) for each in sketch.requests] == [
        (4, 10), (5, 10), (6, 10), (4, 20), (5, 20), (6, 20),
    ]  # fmt: skip
    alike = {replace(each, guidance=None, steps=None) for each in sketch.requests}
    assert len(alike) == 1
    assert sketch.order == (0, 1, 2, 3, 4, 5)


def test_a_seed_that_nobody_gave_is_drawn_once_and_one_that_was_given_stays() -> None:
    drawn = {
        frozenset(each.seed for each in make_sketch(base_of(), axis("steps", "4", "8"), None, read).requests)
        for _ in range(3)
    }
    assert all(len(seeds) == 1 for seeds in drawn)
    assert len(drawn) > 1
    given = make_sketch(base_of(seed=7), axis("steps", "4", "8"), None, read)
    assert [each.seed for each in given.requests] == [7, 7]


@pytest.mark.parametrize(
    ("x", "y", "told"),
    [
        (axis("guidance", "0.5", "5"), axis("steps", "0", "9"), ["Guidance 0.5:", "Steps 0:"]),
        (axis("seed", "-1", "x", "4294967296"), axis("steps", "1.5"), ["Seed -1", "Seed x", "4294967296", "Steps 1.5"]),
        (axis("steps", "8", "8"), None, ["Steps 8: it stands there twice"]),
        (axis("steps"), axis("seed"), ["Steps: no value", "Seed: no value"]),
        (axis("steps", "1"), axis("steps", "2"), ["Both axes are Steps"]),
        (axis("engine", "camera", "nope"), axis("preset", "standard"), ["nope"]),
        (axis("preset", "standard", "loud"), None, ["'loud'", "preview, standard"]),
        (axis("flow_shift", "0", "x"), None, ["Flow shift x: a number is needed"]),
        (axis("lora_weight", "0.5", "1"), None, ["no LoRA is in use"]),
        (axis("steps", *map(str, range(1, 6))), axis("seed", *map(str, range(6))), [f"at most {MAX_CELLS}"]),
    ],
)
def test_every_mistake_is_told_at_once(x: Axis, y: Axis | None, told: list[str]) -> None:
    with pytest.raises(RequestError) as refused:
        make_sketch(base_of(), x, y, read)
    for words in told:
        assert words in refused.value.text.en
    assert any("\u4e00" <= letter <= "\u9fff" for letter in refused.value.text.zh)


def test_what_an_engine_does_not_take_is_refused_in_words_for_each_value() -> None:
    with pytest.raises(RequestError) as refused:
        make_sketch(base_of("camera"), axis("guidance", "5", "7"), axis("flow_shift", "3"), read)
    for told in ("Guidance 5.0: the engine camera has no", "Guidance 7.0:", "A flow shift:"):
        assert refused.value.text.en.count(told) == 1


def test_each_engine_and_preset_brings_its_own_numbers_where_nothing_else_was_chosen() -> None:
    spec = load_presets()[WAN]
    usual = spec.presets["standard"]
    # As a form holds them: every number is there, whether somebody chose it or not.
    base = base_of(steps=usual.steps, guidance=usual.guidance, frames=usual.frames, fps=usual.fps, resolution="96x64")
    sketch = make_sketch(base, axis("preset", "preview", "standard"), None, read)
    assert [each.steps for each in sketch.requests] == [spec.presets["preview"].steps, usual.steps]
    assert [each.frames for each in sketch.requests] == [spec.presets["preview"].frames, usual.frames]
    assert {(each.width, each.height) for each in sketch.requests} == {(96, 64)}

    sketch = make_sketch(base, axis("engine", WAN, "wan2.2-i2v-a14b", "camera"), None, read)
    other = load_presets()["wan2.2-i2v-a14b"].presets["standard"]
    assert [each.steps for each in sketch.requests] == [usual.steps, other.steps, None]
    assert [each.guidance for each in sketch.requests] == [usual.guidance, other.guidance, None]
    assert left_out(base, sketch) == ()


def test_what_was_chosen_and_another_engine_lacks_is_left_out_and_told() -> None:
    base = base_of(steps=3, negative_prompt="blurry", resolution="96x64", frames=5)
    sketch = make_sketch(base, axis("engine", WAN, "camera"), None, read)
    assert [(each.steps, each.negative_prompt) for each in sketch.requests] == [(3, "blurry"), (None, "")]
    (told,) = left_out(base, sketch)
    assert told.en == "camera goes without what was chosen for: steps, negative prompt."


def test_an_engine_that_has_no_negative_prompt_does_not_empty_anothers() -> None:
    base = base_of("camera", negative_prompt="", resolution="96x64", frames=5)
    sketch = make_sketch(base, axis("engine", "camera", WAN), None, read)
    assert sketch.requests[1].negative_prompt == load_presets()[WAN].diffusion.negative_prompt


def test_a_lora_weight_is_the_weight_of_every_lora() -> None:
    sketch = make_sketch(base_of(preset="fast"), axis("lora_weight", "0.5", "1"), None, read)
    assert [[lora.weight for lora in each.loras] for each in sketch.requests] == [[0.5], [1.0]]


def test_cells_that_share_a_load_or_a_prompt_run_after_each_other() -> None:
    sketch = make_sketch(
        base_of(resolution="96x64", frames=5), axis("engine", WAN, "camera"), axis("seed", "1", "2", "3"), read
    )
    engines = [sketch.requests[cell].engine for cell in sketch.order]
    assert engines == [WAN] * 3 + ["camera"] * 3

    sketch = make_sketch(base_of(preset="fast"), axis("lora_weight", "0.5", "1"), axis("prompt", "a", "b"), read)
    run = [sketch.requests[cell] for cell in sketch.order]
    assert [(each.loras[0].weight, each.prompt) for each in run] == [(0.5, "a"), (0.5, "b"), (1, "a"), (1, "b")]


def test_any_order_of_cells_runs_each_once_and_loads_each_engine_once() -> None:
    sketch = make_sketch(
        base_of(resolution="96x64", frames=5), axis("engine", WAN, "camera", "i2vgen-xl"), axis("seed", *"123"), read
    )
    for seed in range(20):
        mixed = random.Random(seed).sample(sketch.requests, len(sketch.requests))
        order = run_order(mixed)
        assert sorted(order) == list(range(len(mixed)))
        engines = [mixed[cell].engine for cell in order]
        assert sum(one != other for one, other in pairwise(engines)) == 2


def test_the_total_loads_a_model_once_and_counts_every_video() -> None:
    one = plan_total(make_sketch(base_of(), axis("seed", "1"), None, read), MACHINE)
    four = plan_total(make_sketch(base_of(), axis("seed", *"1234"), None, read), MACHINE)
    assert one.seconds < four.seconds < 4 * one.seconds
    assert four.disk_bytes == pytest.approx(4 * one.disk_bytes, abs=4)
    small = Machine(gpu=None, cores=2, free_vram_gib=0.0, free_ram_gib=2.0, free_disk_gib=None)
    assert len(plan_total(make_sketch(base_of(), axis("seed", *"1234"), None, read), small).misfits) == 1


@pytest.mark.parametrize("engine", load_presets())
def test_what_is_proposed_is_taken_by_the_engine_and_nothing_where_it_has_no_such_axis(engine: str) -> None:
    spec = find_engine(engine)
    for field in FIELDS:
        values = propose_values(field, spec, Choice(seed=5))
        if values:
            sketch = make_sketch(base_of(engine), axis(field, *values), None, read)
            assert len(sketch.requests) == len(values)
        else:
            assert field in ("prompt", "lora_weight") or spec.diffusion is None or field == "flow_shift"
    assert propose_values("seed", spec, Choice(seed=5))[0] == "5"
    assert bool(propose_values("guidance", spec, Choice())) == spec.takes.guidance


@pytest.mark.parametrize(
    ("field", "text", "values"),
    [
        ("guidance", "5, 7,9", ("5", "7", "9")),
        ("guidance", "3.5,1; 5", ("3.5,1", "5")),
        ("seed", "1，2、3", ("1", "2", "3")),
        ("engine", "camera\nwan2.2-ti2v-5b\n", ("camera", "wan2.2-ti2v-5b")),
        ("prompt", "a cat, asleep|a dog, awake", ("a cat, asleep", "a dog, awake")),
        ("prompt", "a cat, asleep\n\na dog; awake\n", ("a cat, asleep", "a dog; awake")),
        ("steps", " , ", ()),
    ],
)
def test_values_are_told_apart_as_people_write_them(field: str, text: str, values: tuple[str, ...]) -> None:
    assert split_values(field, text) == values


def test_drafts_have_seeds_of_their_own_and_a_final_at_the_persons_settings() -> None:
    base = base_of(resolution="832x480", steps=50, frames=81)
    fewer = draft_sketch(base, "steps", 3, read)
    assert {(each.width, each.height, each.frames, each.steps) for each in fewer.requests} == {(832, 480, 81, 20)}
    assert len({each.seed for each in fewer.requests}) == 3
    assert tuple(str(each.seed) for each in fewer.requests) == fewer.x.values
    assert (fewer.final.width, fewer.final.height, fewer.final.frames, fewer.final.steps) == (832, 480, 81, 50)

    large = base_of("wan2.2-i2v-a14b", resolution="1280x720", preset="standard")
    smaller = draft_sketch(large, "preview", 2, read).requests[0]
    assert smaller.width * smaller.height < 1280 * 720
    assert smaller.width / smaller.height == pytest.approx(1280 / 720, rel=0.03)


def test_a_draft_that_would_save_nothing_is_refused() -> None:
    with pytest.raises(RequestError, match="nothing that would make these settings quicker"):
        draft_sketch(base_of("camera"), "steps", 2, read)
    with pytest.raises(RequestError, match="nothing that would make"):
        draft_sketch(base_of("camera", resolution="320x200", frames=8), "preview", 2, read)
    for count in (1, MAX_DRAFTS + 1):
        with pytest.raises(RequestError, match=f"2 to {MAX_DRAFTS}"):
            draft_sketch(base_of(), "steps", count, read)


def test_models_that_are_not_here_are_told_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    sketch = make_sketch(base_of(), axis("engine", WAN, "wan2.2-ti2v-5b", "camera"), None, read)
    with pytest.raises(ModelError) as missing:
        check_models(sketch.requests)
    assert WAN in missing.value.text.en and "wan2.2-ti2v-5b" in missing.value.text.en


def test_loras_of_the_persons_own_go_along_where_the_engine_takes_them() -> None:
    base = base_of(loras=(LoraRef(source="style.safetensors"),), resolution="96x64", frames=5)
    sketch = make_sketch(base, axis("engine", WAN, "camera"), None, read)
    assert [len(each.loras) for each in sketch.requests] == [1, 0]
    assert "LoRAs" in left_out(base, sketch)[0].en


def test_every_axis_has_a_name_in_both_languages() -> None:
    assert set(WORDS) == set(FIELDS)
