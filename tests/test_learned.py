"""What past runs teach the next plan: how it is kept, how far it is trusted, and that runs on this machine use it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import plan as published
from i2v_pipeline.planning import learn, plan_run
from i2v_pipeline.planning.devices import find_device
from i2v_pipeline.planning.learned import (
    EMPTY,
    KINDS_KEPT,
    RUNS_KEPT,
    Amounts,
    Past,
    fit_line,
    note_run,
    read_book,
)
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.presets import load_presets
from studio.cli import main
from studio.plans import LEARNED_NAME, learned_in, plan_choice, takes, told
from studio.recipe import Choice

A14B = "wan2.2-i2v-a14b"
SPEC = load_presets()[A14B]
CARD = Machine(gpu=find_device("RTX 4090"), cores=8, free_vram_gib=140.0, free_ram_gib=None, free_disk_gib=None)
PREDICTED = Amounts(seconds={"load": 10.0, "denoise": 100.0}, vram_gib=20.0, ram_gib=8.0)


def wanted(frames=81, **changes):
    return replace(published.request_for(A14B, 832, 480, frames, steps=40, guidance=3.5), **changes)


def run(path, request, *, factor=1.0, overhead_s=0.0, vram=1.0, is_first=False, machine=CARD):
    """A run that took `factor` times the seconds of each stage as they are counted, and `overhead_s` on top."""
    plan = plan_run(SPEC, request, machine)
    seconds = {each.name: factor * (each.seconds if is_first else each.later_seconds) + overhead_s
               for each in plan.stages}  # fmt: skip
    measured = Amounts(seconds=seconds, vram_gib=vram * plan.peak_vram_gib, ram_gib=plan.peak_ram_gib)
    learn(path, SPEC, request, machine, plan, measured, is_first=is_first)
    return sum(seconds.values())


# --- the next plan ----------------------------------------------------------------------------------------------------


def test_one_run_corrects_the_next_plan_and_the_plan_says_so(tmp_path):
    path = tmp_path / "learned.json"
    sizes = [wanted(width=width, height=height) for width, height in ((640, 352), (832, 480), (1280, 720))]

    def peaks():
        return [plan_run(SPEC, each, CARD, book=read_book(path)).peak_vram_gib for each in sizes]

    small, middle, large = peaks()
    assert small < middle < large
    run(path, sizes[1], vram=0.9)
    assert peaks() == pytest.approx([0.9 * small, 0.9 * middle, large], abs=0.02)
    run(path, sizes[0], vram=1.2)
    assert peaks() == pytest.approx([1.2 * small, 1.2 * middle, 1.2 * large], abs=0.02)


def test_a_peak_above_what_was_predicted_makes_the_next_run_more_frugal(tmp_path):
    path, tight = (
        tmp_path / "learned.json",
        replace(CARD, free_vram_gib=plan_run(SPEC, wanted(), CARD).peak_vram_gib + 1.5),
    )
    assert plan_run(SPEC, wanted(), tight).mode == "resident"
    run(path, wanted(), vram=1.1, machine=tight)
    assert plan_run(SPEC, wanted(), tight, book=read_book(path)).mode == "staged"


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4)), max_size=6))
def test_more_work_never_takes_less_whatever_was_measured(pairs):
    line = fit_line(pairs)
    times = [line.at(seconds) for seconds in (0.0, 0.5, 3.0, 40.0, 1e4)]
    assert all(0 <= less <= more for less, more in pairwise(times))


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"format": 9, "kinds": {}}', b"\xff\x00", b"{}" * 2**20,
                                     b'{"format": 1, "kinds": {"a": [{"is_first": true}]}}'])  # fmt: skip
def test_a_damaged_file_is_an_empty_book_and_the_next_run_makes_it_whole(tmp_path, content):
    path = tmp_path / "learned.json"
    path.write_bytes(content)
    assert read_book(path) == EMPTY
    run(path, wanted())
    assert plan_run(SPEC, wanted(), CARD, book=read_book(path)).learned_runs == 1
    assert [each.name for each in tmp_path.iterdir()] == ["learned.json"]


def test_the_file_keeps_the_newest_runs_and_kinds_alone(tmp_path):
    path = tmp_path / "learned.json"
    past = [Past(is_first=False, predicted=PREDICTED, measured=PREDICTED.model_copy(update={"ram_gib": float(index)}))
            for index in range(RUNS_KEPT + 2)]  # fmt: skip
    for each in past:
        note_run(path, "the kind", each)
    assert [each.measured.ram_gib for each in read_book(path).of("the kind").runs] == [float(n) for n in range(2, 10)]
    for index in range(KINDS_KEPT):
        note_run(path, f"kind {index}", past[0])
    kinds = json.loads(path.read_text())["kinds"]
    assert len(kinds) == KINDS_KEPT and "the kind" not in kinds and f"kind {KINDS_KEPT - 1}" in kinds


def test_a_folder_that_cannot_be_written_ends_no_run(tmp_path):
    (tmp_path / "file").write_text("no folder")
    run(tmp_path / "file" / "learned.json", wanted())


# --- this machine -----------------------------------------------------------------------------------------------------


def test_generate_learns_in_the_data_folder_and_plan_uses_it_but_not_for_another_card(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STUDIO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LANG", "C")
    shape = ("--engine", "camera", "--resolution", "256x256", "--frames", "8")
    made = ("generate", "examples/cat.jpg", "pan left", *shape, "--refine", "off", "--out", str(tmp_path / "v.mp4"))
    assert main([*made, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    book = learned_in(tmp_path / "data")
    (history,) = book.kinds.values()
    assert history.runs[0].measured.seconds["decode"] == pytest.approx(report["measured"]["stages"]["decode"], abs=1e-3)
    compared = report["measured"]["compared"]
    assert set(compared) == {"load", "encode", "decode", "write"}
    assert all(row["ram_gib"] > 0 and row["predicted_seconds"] > 0 for row in compared.values())
    assert report["measured"]["first_run"] is False
    plans = {}
    for card in ((), ("--gpu", "none")):
        assert main(["plan", *shape, *card, "--json"]) == 0
        plans[card] = json.loads(capsys.readouterr().out)
    assert plans[()]["learned_runs"] == 1 and plans["--gpu", "none"]["learned_runs"] == 0
    seconds = {each["name"]: each["seconds"] for each in plans[()]["stages"]}
    assert seconds["decode"] == pytest.approx(report["measured"]["stages"]["decode"], rel=0.01)
    assert (tmp_path / "data" / LEARNED_NAME).is_file()


def test_a_plan_tells_the_first_run_and_later_ones_apart():
    assert takes(40.2, 22.1).en == "40 s the first time, with the loading, then 22 s"
    assert takes(5.2, 5.1).en == "5 s"
    answer = plan_choice(SPEC, Choice(), CARD)
    assert answer["later_seconds"] < answer["seconds"]
    assert any("the first time, with the loading, then" in line.en for line in told(answer))


def test_where_a_model_is_read_in_every_run_the_next_one_learns_the_reading_too(tmp_path):
    path, tight = tmp_path / "learned.json", replace(CARD, free_ram_gib=8.0, free_vram_gib=16.0)
    spec = load_presets()["wan2.2-ti2v-5b"]
    request = replace(wanted(), engine=spec.id)
    plan = plan_run(spec, request, tight)
    assert plan.mode.startswith("disk-")
    load = next(stage for stage in plan.stages if stage.name == "load")
    taken = Amounts(seconds={stage.name: 2 * stage.seconds for stage in plan.stages}, vram_gib=10.0, ram_gib=3.0)
    learn(path, spec, request, tight, plan, taken, is_first=True)
    again = next(s for s in plan_run(spec, request, tight, book=read_book(path)).stages if s.name == "load")
    assert again.seconds == again.later_seconds == pytest.approx(2 * load.seconds, rel=0.01)
