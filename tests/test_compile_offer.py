"""Compiling is offered where it pays and nowhere else, as a sentence and a button, and never taken unasked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from page_handlers import CAT, FORM, REQUEST, Studio
from test_compare import axis, base_of, read

from i2v_pipeline.planning import plan_run
from i2v_pipeline.planning.compiling import Compiling, compiling_of
from i2v_pipeline.planning.devices import find_device
from i2v_pipeline.planning.machine import Machine
from i2v_pipeline.planning.tuning import COMPILE_S
from i2v_pipeline.presets import find_engine, load_presets
from i2v_pipeline.types import GenerationRequest, Plan, Text
from studio.compare import make_sketch, plan_total
from studio.compare_command import total_words
from studio.compile_offer import compile_offer
from studio.jobs.store import JobStore
from studio.page.queue import queue_html
from studio.plans import plan_choice, shaped, told
from studio.recipe import Choice

FIVE_B = "wan2.2-ti2v-5b"
SMALL = "wan2.1-vace-1.3b"
WAN_FORM = {**FORM, "engine": FIVE_B, "resolution": "704p", "frames": 121, "fps": 24, "steps": 50, "guidance": 5.0}


def machine(card: str, **changes: Any) -> Machine:
    gpu = find_device(card)
    made = Machine(gpu=gpu, cores=8, free_vram_gib=gpu.vram_gib, free_ram_gib=None, free_disk_gib=None)
    return replace(made, **changes)


H100 = machine("H100")


def request_for(engine: str = FIVE_B, **changes: Any) -> GenerationRequest:
    return replace(shaped(find_engine(engine), Choice()), **changes)


def planned(on: Machine) -> Callable[[GenerationRequest], Plan]:
    return lambda request: plan_run(find_engine(request.engine), request, on)


def found(requests: Sequence[GenerationRequest], on: Machine = H100) -> Compiling | None:
    return compiling_of(requests, on, planned(on))


@pytest.fixture
def on_h100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio.plans._machine_at", lambda _: H100)


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def test_it_pays_above_the_break_even_and_not_at_it() -> None:
    at = Compiling(videos=3, shapes=1, compile_s=30.0, saved_s=30.0)
    assert not at.pays and at.pays_from_videos == 4
    above = replace(at, saved_s=30.3)
    assert above.pays and above.pays_from_videos == 3


def test_each_video_saves_alike_and_the_compiling_is_counted_once() -> None:
    one = found([request_for()])
    assert one is not None and one.compile_s == COMPILE_S and 10 < one.saved_s < COMPILE_S and not one.pays
    for videos in range(1, 7):
        several = found([request_for(seed=seed) for seed in range(videos)])
        assert several is not None and several.saved_s == pytest.approx(videos * one.saved_s)
        assert several.compile_s == COMPILE_S and several.pays == (videos >= one.pays_from_videos)


def test_what_is_saved_is_what_the_plans_say_of_the_run_with_it_and_without() -> None:
    request = request_for()
    eager, compiled = (planned(H100)(replace(request, compiled=choice)) for choice in (False, True))
    one = found([request])
    assert one is not None and one.saved_s == pytest.approx(eager.later_seconds - compiled.later_seconds, abs=0.1)


def test_each_size_and_each_kind_of_block_is_compiled_for_itself() -> None:
    shorter = request_for(frames=81)
    both = found([request_for(), shorter, replace(shorter, seed=5)])
    assert both is not None and (both.videos, both.shapes, both.compile_s) == (3, 2, 2 * COMPILE_S)
    vace = found([request_for(SMALL)])
    assert vace is not None and vace.compile_s == 3 * COMPILE_S


def test_a_run_that_was_learned_to_be_slower_has_more_of_it() -> None:
    def slower(request: GenerationRequest) -> Plan:
        plan = planned(H100)(request)
        stages = (replace(each, later_seconds=2 * each.later_seconds) for each in plan.stages)
        return replace(plan, stages=tuple(stages))

    one, two = found([request_for()]), compiling_of([request_for()], H100, slower)
    assert one is not None and two is not None and two.saved_s == pytest.approx(2 * one.saved_s)


@pytest.mark.parametrize(
    ("requests", "on"),
    [
        ([request_for(cache="first_block")], H100),
        ([request_for(compiled=True)], H100),
        ([request_for(precision="fp8")], H100),
        ([request_for(device="cpu")], H100),
        ([request_for()], replace(H100, gpu=None)),
        ([request_for()], replace(H100, can_compile=False)),
        ([request_for("i2vgen-xl")], H100),
        ([request_for("camera")], H100),
        # One setting for all of them, which one would refuse.
        ([request_for(), request_for("i2vgen-xl")], H100),
        ([replace(request_for(), engine="gone")], H100),
        # The layers stream, or nothing fits.
        ([request_for()], machine("RTX 3060")),
        ([request_for()], machine("RTX 3060", free_vram_gib=2.0)),
    ],
)
def test_it_is_not_offered_where_it_would_be_refused_or_left_undone(
    requests: list[GenerationRequest], on: Machine
) -> None:
    assert found(requests * 20, on) is None


def test_the_sentence_has_the_seconds_and_how_many_videos() -> None:
    offer = compile_offer([request_for(seed=seed) for seed in range(5)], H100, planned(H100))
    five = found([request_for()] * 5)
    assert offer is not None and five is not None and [each.field for each in offer.changes] == ["compiled"]
    assert f"takes about 30 s, once, and saves about 1 min {five.saved_s - 60:02.0f} s of these 5" in offer.message.en
    assert "这 5 个视频" in offer.message.zh
    sizes = compile_offer([request_for(), request_for(frames=81)] * 6, H100, planned(H100))
    assert sizes is not None and "1 min 00 s, once for each of 2 sizes and lengths" in sizes.message.en
    assert compile_offer([request_for()], H100, planned(H100)) is None


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_plan_says_from_how_many_videos_on_it_pays() -> None:
    answer = plan_choice(find_engine(FIVE_B), Choice(), H100)
    assert answer["compiling"]["seconds"] == 30 and answer["compiling"]["pays_from_videos"] == 2
    assert any("Compiling (--compile)" in line.en and "it pays from 2 videos on" in line.en for line in told(answer))
    slow = plan_choice(find_engine(FIVE_B), Choice(), machine("RTX 4090"))
    assert any("it pays with the first one" in line.en for line in told(slow))
    for choice, on in ((Choice(compiled=True), H100), (Choice(), machine("RTX 3060"))):
        answer = plan_choice(find_engine(FIVE_B), choice, on)
        assert answer["compiling"] is None and not any("Compiling" in line.en for line in told(answer))


def test_a_comparison_says_what_all_its_cells_would_save_and_takes_nothing_itself() -> None:
    sketch = make_sketch(base_of(FIVE_B), axis("seed", *"12345"), None, read)
    total = plan_total(sketch, H100)
    lines = [text.en for text in total_words(5, total)]
    assert "of these 5 videos" in lines[1] and lines[1].endswith("--compile does it.")
    assert not any(request.compiled for request in sketch.requests)
    alone = plan_total(make_sketch(base_of(FIVE_B), axis("seed", "1"), None, read), H100)
    assert alone.offer is None and len(list(total_words(1, alone))) == 1


def test_the_total_counts_compiling_once_for_a_size() -> None:
    def total(*seeds: str) -> float:
        base = base_of(FIVE_B, compiled=True)
        return plan_total(make_sketch(base, axis("seed", *seeds), None, read), H100).seconds

    eager, later = (
        plan_total(make_sketch(base_of(FIVE_B), axis("seed", *seeds), None, read), H100).seconds
        for seeds in ("1", "12")
    )
    one, two = total("1"), total("1", "2")
    five = found([request_for()])
    assert five is not None
    # The picture gives the base another size than the plain plan's, of about the same area.
    assert two - one == pytest.approx(later - eager - five.saved_s, rel=0.02)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_card_offers_it_for_several_at_once_and_the_button_sets_it_and_nothing_else(
    tmp_path: Any, on_h100: None
) -> None:
    studio = Studio.on(JobStore(tmp_path))
    request = studio.open()

    def card(form: dict[str, Any]) -> str:
        return studio.form.plan({**form, "planned": 0, "count": 1}, request)["plan"]

    several = {**WAN_FORM, "prompt": "a\nb\nc\nd\ne", "each_line": True}
    assert "compiling_pays" not in card(WAN_FORM)
    assert 'data-remedy="compiling_pays"' in card(several) and "这 5 个视频" in card(several)
    taken = studio.form.take_remedy(several, SimpleNamespace(what="compiling_pays"), request)
    assert taken == {"compiled": True}
    assert "compiling_pays" not in card({**several, **taken})
    # What is no longer offered changes nothing.
    assert studio.form.take_remedy(WAN_FORM, SimpleNamespace(what="compiling_pays"), request) == {}


def test_a_comparisons_plan_offers_it_for_its_cells(
    tmp_path: Any, on_h100: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.page.comparing.check_models", lambda requests: None)
    studio = Studio.on(JobStore(tmp_path))
    request = studio.open()
    grid = {**WAN_FORM, "compare_mode": "grid", "x_field": "seed", "x_values": "1, 2, 3, 4, 5"}

    def plan(form: dict[str, Any]) -> str:
        return studio.form.plan({**form, "planned": 0, "count": 1}, request)["compare_plan"]

    assert 'data-remedy="compiling_pays"' in plan(grid) and "这 5 个视频" in plan(grid)
    assert "compiling_pays" not in plan({**grid, "x_values": "1"})
    assert studio.comparing.take_remedy(grid, SimpleNamespace(what="compiling_pays")) == {"compiled": True}
    assert studio.comparing.take_remedy(grid, SimpleNamespace(what="other")) == {}
    started = studio.comparing.start(grid, request)
    assert started and not any(job.request.compiled for job in studio.services.store.unfinished("me"))


def test_the_queue_offers_it_for_waiting_videos_that_share_it_and_the_button_changes_those_alone(
    tmp_path: Any, on_h100: None
) -> None:
    store = JobStore(tmp_path)
    studio, request = Studio.on(store), None
    wan = replace(request_for(), images=(CAT,))
    began = store.submit(wan, "me")
    store.claim(1)
    lease = store.lease_of(began.id)
    assert lease is not None and store.put_back(lease, Text("It waits again.", "再次等待。"), died=False)
    alike = [store.submit(replace(wan, seed=seed, prompt=str(seed)), "me") for seed in range(3)]
    other = [store.submit(replace(wan, frames=81), "me"), store.submit(REQUEST, "me"), store.submit(REQUEST, "me")]
    request = studio.open()

    def queue() -> str:
        return queue_html(store.unfinished("me"), studio.services, shown=None, editing=None)

    assert queue().count('data-act="compile"') == 1 and "编译这 3 个" in queue() and "这 3 个视频" in queue()
    assert not any(job.request.compiled for job in store.unfinished("me"))
    studio.queue.act_on_job(FORM, SimpleNamespace(act="compile", job=alike[0].id), request)
    compiled = {job.id for job in store.unfinished("me") if job.request.compiled}
    assert compiled == {job.id for job in alike} and began.id not in compiled and other[0].id not in compiled
    assert "3 个排队的视频将使用编译" in studio.opened().note
    assert 'data-act="compile"' not in queue()


def test_the_queue_asks_nobody_elses_videos_and_none_where_one_waits_alone(tmp_path: Any, on_h100: None) -> None:
    store = JobStore(tmp_path)
    studio = Studio.on(store)
    slow = replace(request_for(), images=(CAT,))
    for owner in ("me", "you"):
        store.submit(slow, owner)
    assert 'data-act="compile"' not in queue_html(store.unfinished("me"), studio.services, shown=None, editing=None)


def test_no_engine_is_compiled_by_the_settings_that_it_begins_with() -> None:
    for spec in load_presets().values():
        for name in spec.presets:
            assert not shaped(spec, Choice(preset=name)).compiled
