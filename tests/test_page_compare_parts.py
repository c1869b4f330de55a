"""Comparisons on the page without a browser: whose they are, what is told of them, and what nobody may do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from page_handlers import FORM, Studio, page
from starlette.applications import Starlette
from starlette.testclient import TestClient
from test_comparison_files import report_of
from video_frames import moving

from i2v_pipeline.types import Motion
from i2v_pipeline.video import probe_video, write_video
from studio.comparison_routes import comparison_routes
from studio.jobs.comparisons import Comparison
from studio.jobs.store import JobStore
from studio.jobs.types import Job
from studio.measures import METRICS
from studio.owners import OWNER_HEADER
from studio.page.refine import Proposal
from studio.recipe import origin_of

GRID = {
    **FORM, "compare_mode": "grid", "resolution": "160x96", "frames": 4, "prompt": "猫",
    "x_field": "seed", "x_values": "1, 2", "y_field": "prompt", "y_values": "镜头向左摇\n<b>{{x}}</b>",
}  # fmt: skip


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio.on(JobStore(tmp_path))


@pytest.fixture
def client(studio: Studio) -> Iterator[TestClient]:
    with TestClient(Starlette(routes=comparison_routes(studio.services))) as client:
        yield client


def started(studio: Studio, data: dict[str, Any] | None = None) -> Comparison:
    studio.comparing.start(data or GRID, studio.open())
    found = studio.comparing.comparisons.get(studio.opened().comparison or "", "me")
    assert found is not None
    return found


def press(studio: Studio, act: str, request: Any = None, **target: str) -> Any:
    event = SimpleNamespace(act=act, **{"job": None, "comparison": None, **target})
    return studio.comparing.act_on_comparison(event, request or page())


def shown(studio: Studio) -> str:
    return studio.comparing.updates(studio.opened())["comparison"]


def job_of(studio: Studio, job_id: str) -> Job:
    found = studio.services.store.get(job_id)
    assert found is not None
    return found


def finish(studio: Studio, job_id: str, **quality: Any) -> None:
    """Makes the next job done, which must be this one."""
    store = studio.services.store
    job = store.claim(1)
    assert job is not None and job.id == job_id
    write_video([moving(160, 96, 4)], job.video_path, width=160, height=96, fps=4)
    job.report_path.write_text(json.dumps(report_of(160, 96, 4, 4, **quality)), encoding="utf-8")
    store.finish(job_id, "done")


def test_nothing_is_said_before_anything_is_chosen(studio: Studio) -> None:
    told = studio.comparing.told(FORM, studio.desk.values(FORM), None)
    assert told == {"compare_plan": ""}
    # A grid without an axis is no mistake yet.
    empty = {**FORM, "compare_mode": "grid"}
    hint = studio.comparing.told(empty, studio.desk.values(empty), None)["compare_plan"]
    assert "Choose first what to compare" in hint and "problem" not in hint
    with pytest.raises(gr.Error, match="Choose first what to compare"):
        studio.comparing.start(empty, studio.open())
    assert shown(studio) == ""


def test_the_plan_tells_cells_size_time_disk_and_the_seed(studio: Studio) -> None:
    plan = studio.comparing.told(GRID, studio.desk.values(GRID), None)["compare_plan"]
    for words in ("4 videos: 2 × Seed, 2 × Prompt", "160 × 96", "in all on this machine", "on the disk"):
        assert words in plan
    assert "seed is drawn" not in plan
    prompts = {**GRID, "x_field": "none"}
    assert "One new seed is drawn" in studio.comparing.told(prompts, studio.desk.values(prompts), None)["compare_plan"]
    seeded = {**prompts, "seed": "7"}
    assert "Seed 7 for all" in studio.comparing.told(seeded, studio.desk.values(seeded), None)["compare_plan"]


def test_what_a_person_typed_is_text_and_no_markup(studio: Studio) -> None:
    started(studio)
    html = shown(studio)
    assert "<b>{{" not in html and "{{x}}" not in html
    assert "&lt;b&gt;" in html


def test_a_cell_is_cancelled_tried_again_shown_and_told_when_it_is_gone(studio: Studio) -> None:
    comparison = started(studio)
    press(studio, "cancel", job=comparison.jobs[0])
    assert job_of(studio, comparison.jobs[0]).state == "cancelled"
    assert shown(studio).count('class="state cancelled"') == 1
    press(studio, "retry", job=comparison.jobs[0])
    assert job_of(studio, comparison.jobs[0]).state == "queued"
    assert press(studio, "show", job=comparison.jobs[1]) == {"shown": comparison.jobs[1]}
    studio.services.store.delete(comparison.jobs[2])
    assert "该视频已删除" in shown(studio)
    press(studio, "cancel_all")
    states = [job_of(studio, job_id).state for job_id in comparison.jobs]
    assert states == ["cancelled", "cancelled", "queued", "cancelled"], "a deleted one is left alone"


def test_a_stranger_sees_opens_and_touches_nothing_of_it(studio: Studio, client: TestClient) -> None:
    comparison = started(studio)
    stranger = studio.open("other", owner="you", comparison=comparison.id)
    assert studio.comparing.updates(studio.opened("other"))["comparison"] == ""
    assert studio.comparing.opened(comparison.id, "you") is None
    for act in ("open", "cancel_all", "forget", "final", "cancel", "retry", "show"):
        with pytest.raises(gr.Error):
            press(studio, act, stranger, job=comparison.jobs[0], comparison=comparison.id)
    assert [job_of(studio, job_id).state for job_id in comparison.jobs] == ["queued"] * 4
    for name in ("table.csv", "grid.mp4"):
        url = f"/studio/comparisons/{comparison.id}/{name}"
        assert client.get(url, headers={OWNER_HEADER: "you"}).status_code == 404
        assert client.get(url).status_code == 404


def test_the_owner_takes_the_table_at_any_time_and_the_grid_once_a_video_is_done(
    studio: Studio, client: TestClient, tmp_path: Path
) -> None:
    comparison = started(studio)
    mine, url = {OWNER_HEADER: "me"}, f"/studio/comparisons/{comparison.id}"
    assert client.get(f"{url}/table.csv", headers=mine).text.count("queued") == 4
    early = client.get(f"{url}/grid.mp4", headers=mine)
    assert early.status_code == 409 and "No video of this comparison is done" in early.text
    assert client.get(f"{url}/report.json", headers=mine).status_code == 404
    finish(studio, comparison.jobs[0])
    answer = client.get(f"{url}/grid.mp4", headers=mine)
    assert answer.headers["content-type"] == "video/mp4"
    assert f"comparison-{comparison.id}.mp4" in answer.headers["content-disposition"]
    (tmp_path / "grid.mp4").write_bytes(answer.content)
    assert probe_video(tmp_path / "grid.mp4").frames == 4


def test_the_best_by_each_metric_is_marked_once_two_are_done_and_a_broken_one_never(studio: Studio) -> None:
    comparison = started(studio, {**GRID, "y_field": "none", "x_values": "1, 2, 3"})
    finish(studio, comparison.jobs[0], first_frame={"ssim": 0.5, "delta_e": 1})
    assert re.findall(r'data-best="([^"]*)"', shown(studio)) == ["", "", ""]
    finish(studio, comparison.jobs[1], first_frame={"ssim": 0.7, "delta_e": 1})
    finish(studio, comparison.jobs[2], first_frame={"ssim": 0.9, "delta_e": 1}, broken=True)
    best = [each.split() for each in re.findall(r'data-best="([^"]*)"', shown(studio))]
    assert ["first_frame" in each for each in best] == [False, True, False]
    assert set(best[1]) <= set(METRICS)


def test_every_metric_has_its_mark_in_the_style_sheet() -> None:
    style = (Path(__file__).resolve().parents[1] / "studio/page/assets/style.css").read_text(encoding="utf-8")
    for name in METRICS:
        assert f'[data-metric="{name}"] td[data-best~="{name}"]' in style
        assert f'[data-metric="{name}"] [data-best~="{name}"] .best' in style


def test_a_page_opens_the_comparison_of_its_address_else_one_that_is_under_way(studio: Studio) -> None:
    older, newer = started(studio), started(studio)
    assert studio.comparing.opened(older.id, "me") == older.id
    assert studio.comparing.opened(None, "me") == newer.id
    press(studio, "cancel_all")
    assert studio.comparing.opened(None, "me") is None
    press(studio, "open", comparison=older.id)
    assert studio.opened().comparison == older.id
    press(studio, "close")
    assert studio.opened().comparison is None
    assert shown(studio).count("data-comparison=") == 2


def test_prompts_are_proposed_as_typed_and_as_refined_and_keep_where_they_come_from(studio: Studio) -> None:
    proposal = Proposal(
        origin=replace(origin_of("猫转头", None), refined="一只猫慢慢转头", source="offline"), motion=Motion()
    )
    data = {**GRID, "prompt": "猫转头", "proposal": proposal, "x_field": "prompt", "y_field": "none"}
    lines = studio.comparing.propose_x(data)["x_values"]
    assert lines == "猫转头\n一只猫慢慢转头"
    comparison = started(studio, {**data, "x_values": lines})
    origins = [job_of(studio, job_id).request.origin for job_id in comparison.jobs]
    assert [origin.source for origin in origins] == ["typed", "offline"]
    assert origins[1].typed == "猫转头"


def test_seeds_are_proposed_visibly_and_what_an_engine_lacks_leaves_the_field_empty(studio: Studio) -> None:
    seeds = studio.comparing.propose_x({**GRID, "x_field": "seed"})["x_values"].split(", ")
    assert len(set(seeds)) == 3
    assert studio.comparing.propose_y({**GRID, "y_field": "guidance"}) == {"y_values": ""}


def test_a_final_is_made_of_a_draft_alone_and_once(studio: Studio) -> None:
    drafts = started(studio, {**GRID, "compare_mode": "preview", "draft_count": 2, "resolution": "1280x720"})
    made = press(studio, "final", job=drafts.jobs[0])["shown"]
    assert job_of(studio, made).request.seed == job_of(studio, drafts.jobs[0]).request.seed
    assert press(studio, "final", job=drafts.jobs[0])["shown"] == made
    plain = started(studio)
    before = len(studio.services.store.unfinished("me"))
    press(studio, "final", job=plain.jobs[0])
    press(studio, "open", comparison=drafts.id)
    press(studio, "final", job=plain.jobs[0])
    assert len(studio.services.store.unfinished("me")) == before


def test_what_cannot_be_started_is_told_in_the_plan_and_refused_by_the_start(studio: Studio) -> None:
    wrong = {**GRID, "x_field": "guidance", "x_values": "5"}
    plan = studio.comparing.told(wrong, studio.desk.values(wrong), None)["compare_plan"]
    assert 'class="plan problem"' in plan and "has no such setting" in plan
    with pytest.raises(gr.Error, match="has no such setting"):
        studio.comparing.start(wrong, studio.open())
    assert studio.services.store.list("me") == []


def test_the_mode_shows_its_own_fields(studio: Studio) -> None:
    updates = studio.comparing.choose_mode({"compare_mode": "steps"})
    assert [updates[name]["visible"] for name in ("x_row", "y_row", "draft_count", "compare")] == [
        False, False, True, True,
    ]  # fmt: skip
