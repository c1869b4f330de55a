"""The rows of evals/*.yaml are well formed, and the offline rules reach the goals set for them. No network."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import refiner as bench
from prompt_refiner import RefinerSettings


@pytest.fixture(scope="module")
def outcomes() -> list[bench.Outcome]:
    return bench.run("offline", RefinerSettings())


def test_there_are_enough_rows_in_both_languages_and_none_twice() -> None:
    rows = list(bench.load_rows())
    assert len(rows) >= 120
    assert min(sum(language == each for language, _ in rows) for each in ("zh", "en")) >= 60
    assert len({row.text for _, row in rows}) == len(rows)


def test_the_held_out_rows_are_others_and_are_well_formed() -> None:
    tuned = {row.text for _, row in bench.load_rows()}
    held_out = [row for _, row in bench.load_rows("heldout")]
    assert len(held_out) >= 60
    assert tuned.isdisjoint(row.text for row in held_out)
    assert sum(bool(row.english) for row in held_out) >= 30


def test_the_offline_rules_reach_their_goals(outcomes: list[bench.Outcome]) -> None:
    card = bench.score(outcomes)
    assert card["camera_precision"] >= bench.GOALS["camera_precision"]
    assert card["camera_recall"] >= bench.GOALS["camera_recall"]
    assert card["intensity"] >= bench.GOALS["intensity"]
    assert card["invented_elements"] == 0
    assert card["words_kept"] == 1
    assert card["english_or_told"] == 1
    assert card["budget_held_or_told"] == 1
    assert card["hanzi_translated"] >= 0.85


def test_sentences_that_the_rules_were_not_written_for_are_understood_and_mostly_translated() -> None:
    card = bench.score(bench.run("offline", RefinerSettings(), "heldout"))
    assert card["camera_precision"] >= bench.GOALS["camera_precision"]
    assert card["invented_elements"] == 0
    assert card["english_or_told"] == 1
    assert card["hanzi_translated"] >= 0.75
    assert card["english_as_expected"] >= 0.75


def test_the_card_counts_what_is_wrong(outcomes: list[bench.Outcome]) -> None:
    first = next(outcome for outcome in outcomes if outcome.row.camera == [] and outcome.row.keep)
    spoilt = replace(first, wan=replace(first.wan, camera_motion=("roll_cw",), refined_prompt="sunlight"))
    card = bench.score([spoilt])
    assert (card["camera_precision"], card["no_camera_invented"], card["words_kept"]) == (0, 0, 0)
    assert card["invented_elements"] == 1
    assert any("sunlight" in fault for fault in bench.faults(spoilt))
