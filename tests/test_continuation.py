"""A finished video is made longer: no frame twice and none lost, the chain told, colours kept, and made again alike."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from video_frames import moving

from i2v_pipeline.colour_match import apply_match, find_match
from i2v_pipeline.continuation import LATE_FRAMES, Joining, best_frame, continued, open_source, read_frame
from i2v_pipeline.errors import Cancelled, InputError, RecipeError, RequestError, StudioError
from i2v_pipeline.inspection.drift import measure_drift
from i2v_pipeline.inspection.likeness import delta_e
from i2v_pipeline.inspection.motion import luma_for_work, measure_pair
from i2v_pipeline.pipeline import EngineCache, Outputs, run
from i2v_pipeline.rerun import Given, Rerun, find_original, rerun
from i2v_pipeline.types import Continuation, GenerationRequest, Motion, Progress, PromptOrigin, U8Frames, U8Image
from i2v_pipeline.video import read_frames, read_picture, write_video

torch = pytest.importorskip("torch")
from tiny_models import I2VGEN, WAN_21, request_for  # noqa: E402

CAT = Path(__file__).parent.parent / "examples" / "cat.jpg"
PUSH_IN = GenerationRequest(
    engine="camera", images=(CAT,), prompt="zoom in", motion=Motion(camera=("zoom_in",), requested=True),
    origin=PromptOrigin(typed="zoom in", refined="zoom in", source="typed"), resolution="160x120", width=160,
    height=120, fit="crop", frames=8, fps=8, seed=3,
)  # fmt: skip
"""Begins with the whole picture, as a clip that goes on from a frame should."""
STILL = replace(PUSH_IN, motion=Motion(camera=("static",), requested=True))


@pytest.fixture(scope="module")
def engines() -> Iterator[EngineCache]:
    cache = EngineCache()
    yield cache
    cache.close()


@pytest.fixture(scope="module")
def pushed_in(engines: EngineCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of eight frames, by itself."""
    return made(PUSH_IN, tmp_path_factory.mktemp("clip") / "v.mp4", engines)


@pytest.fixture(scope="module")
def chain(engines: EngineCache, pushed_in: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """That clip, and it continued once, twice, three times; each time from its last frame but one."""
    folder = tmp_path_factory.mktemp("chain")
    videos = [pushed_in]
    for number in (1, 2, 3):
        source = open_source(videos[-1])
        request = going_on(PUSH_IN, videos[-1], folder, frame=source.info.frames - 2, seed=number)
        videos.append(made(request, folder / f"{number}.mp4", engines, job=f"job {number}"))
    return videos


def outputs_at(video: Path) -> Outputs:
    return Outputs(video=video, report=video.with_suffix(".json"), shown_path=video.name)


def made(request: GenerationRequest, video: Path, engines: EngineCache, *, job: str = "job 0") -> Path:
    run(request, engines, outputs_at(video), lambda _: None, job_id=job)
    return video


def going_on(before: GenerationRequest, video: Path, folder: Path, *, frame: int, seed: int) -> GenerationRequest:
    picture = folder / f"{video.stem}-{frame}.png"
    Image.fromarray(read_frame(video, frame)).save(picture)
    return continued(before, open_source(video), frame, picture, seed=seed)


def report_of(video: Path) -> dict[str, Any]:
    return json.loads(video.with_suffix(".json").read_text(encoding="utf-8"))


def frames_of(video: Path) -> U8Frames:
    return np.concatenate(list(read_frames(video)))


def hash_of(frames: U8Frames) -> str:
    return hashlib.sha256(frames.tobytes()).hexdigest()


def clips_of(video: Path) -> list[dict[str, Any]]:
    return report_of(video)["continuation"]["clips"]


# --- the join ---


def test_no_frame_is_doubled_and_none_is_missing_over_three_continuations(chain: list[Path], engines, tmp_path) -> None:
    for before, after in itertools.pairwise(chain):
        old = frames_of(before)
        frame = len(old) - 2
        picture = tmp_path / "join.png"
        Image.fromarray(old[frame]).save(picture)
        alone = replace(PUSH_IN, images=(picture,), seed=report_of(after)["parameters"]["seed"])
        new = np.concatenate(list(_engine_frames(alone, engines)))
        assert np.array_equal(new[0], old[frame])
        assert hash_of(np.concatenate((old[: frame + 1], new[1:]))) == report_of(after)["output"]["frames_sha256"]
        shown = frames_of(after)
        assert len(shown) == frame + len(new) == report_of(after)["output"]["frames"]
        around = np.abs(np.diff(shown[frame - 1 : frame + 3].astype(int), axis=0)).mean(axis=(1, 2, 3))
        assert (around > 0.05).all()


def _engine_frames(request: GenerationRequest, engines: EngineCache) -> Iterator[U8Frames]:
    from i2v_pipeline.images import open_picture, prepare
    from i2v_pipeline.presets import find_engine

    picture = prepare(open_picture(request.images[0]), request.width, request.height, request.fit)
    yield from engines.get(find_engine(request.engine)).generate(request, picture, lambda _: None)


def test_the_report_lists_the_chain_with_what_each_clip_was_made_from(chain: list[Path]) -> None:
    report = report_of(chain[3])
    clips = report["continuation"]["clips"]
    assert [clip["job"] for clip in clips] == ["job 0", "job 1", "job 2", "job 3"]
    assert [clip["seed"] for clip in clips] == [3, 1, 2, 3]
    assert [clip["frames"] for clip in clips] == [[0, 6], [7, 12], [13, 18], [19, 25]]
    assert [clip["continued_at"] for clip in clips] == [6, 12, 18, None]
    assert [clip["encoded"] for clip in clips] == [4, 3, 2, 1]
    digests = [hashlib.sha256(video.read_bytes()).hexdigest() for video in chain[:3]]
    assert [clip["video_sha256"] for clip in clips] == [*digests, None]
    assert {clip["prompt"] for clip in clips} == {"zoom in"}
    assert clips[0]["join"] is None and all(clip["join"]["ssim"] > 0.99 for clip in clips[1:])
    assert report["parameters"]["frames"] == 8 and report["output"]["frames"] == 26
    assert report["parameters"]["seconds"] == report["output"]["seconds"] == 26 / 8
    assert read_picture(chain[3]) == ("JPEG", CAT.read_bytes())


def test_drift_is_given_for_every_clip_and_said_in_words(chain: list[Path]) -> None:
    report = report_of(chain[3])
    drift = report["continuation"]["drift"]
    assert [each["frames"] for each in drift["clips"]] == [[0, 6], [7, 12], [13, 18], [19, 25]]
    assert all(each["followed"]["colour_delta_e"] < 3 for each in drift["clips"]) and not drift["far"]
    said = {finding["code"]: finding for finding in report["findings"]}
    assert said["continuation_drift"]["severity"] == "info"
    assert f"{drift['clips'][-1]['followed']['colour_delta_e']:.1f}" in said["continuation_drift"]["message"]
    assert "Frames 0 to 18" in said["continuation_kept"]["message"]
    assert "left as they are" in said["continuation_colour"]["message"]
    assert "continuation_jump" not in said


def test_a_branch_from_within_the_first_clip_keeps_nothing_of_the_second(chain: list[Path], engines, tmp_path) -> None:
    video = made(going_on(STILL, chain[1], tmp_path, frame=2, seed=9), tmp_path / "branch.mp4", engines)
    clips = clips_of(video)
    assert [clip["frames"] for clip in clips] == [[0, 2], None, [3, 9]]
    assert len(report_of(video)["continuation"]["drift"]["clips"]) == 2
    assert rerun_of(video, tmp_path / "again", video=chain[1]).is_equal


def test_a_move_that_begins_elsewhere_is_told_as_a_jump(pushed_in: Path, engines, tmp_path) -> None:
    pan = replace(PUSH_IN, motion=Motion(camera=("pan_left",), requested=True, intensity="high"))
    video = made(going_on(pan, pushed_in, tmp_path, frame=6, seed=1), tmp_path / "jump.mp4", engines)
    said = {finding["code"]: finding["severity"] for finding in report_of(video)["findings"]}
    assert said["continuation_jump"] == "warn"


def test_what_was_asked_of_the_new_clip_is_looked_for_in_it_alone(pushed_in: Path, engines, tmp_path) -> None:
    video = made(going_on(STILL, pushed_in, tmp_path, frame=7, seed=1), tmp_path / "v.mp4", engines)
    quality = report_of(video)["quality"]
    assert quality["asked"] == {"static": True} and quality["motion"]["label"] != "static"
    assert quality["first_frame"]["ssim"] > 0.8


# --- models ---


@pytest.mark.diffusion
@pytest.mark.parametrize("engine_id", [WAN_21, I2VGEN])
def test_a_model_goes_on_from_its_own_video_three_times(engine_id, tiny_checkpoint, engines, tmp_path) -> None:
    small = {"images": (CAT,), "width": 64, "height": 64, "resolution": "64x64", "frames": 5, "steps": 1}
    request = request_for(engine_id, tiny_checkpoint(engine_id), **small)
    video = made(request, tmp_path / "0.mp4", engines)
    for number in (1, 2, 3):
        wanted = going_on(request, video, tmp_path, frame=4 * number, seed=number)
        video = made(wanted, tmp_path / f"{number}.mp4", engines)
    report = report_of(video)
    assert report["output"]["frames"] == 17 == len(frames_of(video))
    assert [clip["frames"] for clip in report["continuation"]["clips"]] == [[0, 4], [5, 8], [9, 12], [13, 16]]
    assert len(report["continuation"]["drift"]["clips"]) == 4
    assert isinstance(report["continuation"]["drift"]["clips"][-1]["colour_delta_e"], float)
    (tmp_path / "elsewhere").mkdir()
    alone = Path(shutil.move(video, tmp_path / "elsewhere"))
    result = rerun_of(alone, tmp_path / "again", checkpoint=tiny_checkpoint(engine_id))
    assert result.is_equal and result.differences == ()


# --- made again ---


def rerun_of(original: Path, folder: Path, **given: Any) -> Rerun:
    folder.mkdir()
    outputs = outputs_at(folder / "new.mp4")
    return rerun(find_original(original), Given(**given), EngineCache(), outputs, lambda _: None, job_id="x")


def test_a_chain_is_made_again_from_its_mp4_alone_with_equal_frames(chain: list[Path], tmp_path: Path) -> None:
    alone = Path(shutil.copy(chain[2], tmp_path / "alone.mp4"))
    result = rerun_of(alone, tmp_path / "again")
    assert result.is_equal and result.differences == ()
    assert clips_of(tmp_path / "again" / "new.mp4")[0]["video_sha256"] != clips_of(chain[2])[0]["video_sha256"]


def test_the_video_that_was_continued_is_used_where_it_is_at_hand(chain, tmp_path, monkeypatch) -> None:
    made_again = []
    monkeypatch.setattr("i2v_pipeline.rerun.run", lambda *a, **b: made_again.append(a) or run(*a, **b))
    assert rerun_of(chain[3], tmp_path / "beside").is_equal
    alone = Path(shutil.copy(chain[3], tmp_path / "alone.mp4"))
    assert rerun_of(alone, tmp_path / "given", video=chain[2]).is_equal
    assert len(made_again) == 2
    with pytest.raises(InputError, match="not the video that was continued"):
        rerun_of(alone, tmp_path / "wrong", video=chain[1])


def test_a_chain_without_its_first_picture_says_what_is_missing(engines, tmp_path) -> None:
    first = made(replace(STILL, embed_source=False), tmp_path / "0.mp4", engines)
    video = made(going_on(STILL, first, tmp_path, frame=7, seed=1), tmp_path / "1.mp4", engines)
    (tmp_path / "elsewhere").mkdir()
    alone = Path(shutil.move(video, tmp_path / "elsewhere"))
    with pytest.raises(InputError, match=r"picture is not in this file.*--image"):
        rerun_of(alone, tmp_path / "a")
    assert rerun_of(alone, tmp_path / "b", image=CAT).is_equal
    assert rerun_of(alone, tmp_path / "c", video=first).is_equal


def test_a_clip_that_comes_out_otherwise_is_named(engines, tmp_path) -> None:
    first = made(STILL, tmp_path / "0.mp4", engines)
    video = made(going_on(STILL, first, tmp_path, frame=7, seed=1), tmp_path / "1.mp4", engines)
    report = report_of(video)
    report["continuation"]["clips"][0]["frames_sha256"] = "0" * 64
    (tmp_path / "elsewhere").mkdir()
    alone = tmp_path / "elsewhere" / "1.json"
    alone.write_text(json.dumps(report), encoding="utf-8")
    result = rerun_of(alone, tmp_path / "again", image=CAT)
    assert [each.field for each in result.differences] == ["continuation.clips.0.frames_sha256"]


# --- colours ---


def tinted(frames: U8Frames) -> U8Frames:
    """Warmer and darker, as a model's own decoder may make them."""
    return np.clip(frames * np.array([1.04, 0.93, 0.84]) + np.array([0, -4, 3]), 0, 255).round().astype(np.uint8)


def test_a_planted_colour_shift_is_taken_back_over_the_whole_new_clip(pushed_in: Path) -> None:
    old = frames_of(pushed_in)
    true = moving_on(old[7], 6)
    joining = Joining(open_source(pushed_in), 7, old[7])
    joined = np.concatenate(list(joining.frames(iter([tinted(true)]))))
    assert len(joined) == 8 + 5 and np.array_equal(joined[:8], old)
    for given, want, shown in zip(tinted(true)[1:], true[1:], joined[8:], strict=True):
        assert delta_e(shown, want) < delta_e(given, want) / 3


def moving_on(frame: U8Image, count: int) -> U8Frames:
    """Frames that begin with this one and slide on by a pixel each."""
    return np.stack([np.roll(frame, -number, axis=1) for number in range(count)])


def test_equal_colours_are_left_alone_bit_for_bit_and_other_places_are_not_matched(pushed_in: Path) -> None:
    frame = read_frame(pushed_in, 3)
    match = find_match(frame, frame)
    assert match is not None and not match.is_applied
    assert apply_match(match, frame[None])[0] is not None and np.array_equal(apply_match(match, frame[None])[0], frame)
    noise = np.random.default_rng(1).integers(0, 256, frame.shape, dtype=np.uint8)
    assert find_match(frame, noise) is None


def test_drift_that_grows_from_clip_to_clip_is_measured(pushed_in: Path) -> None:
    frame = read_frame(pushed_in, 3)
    warmer = np.arange(12)[:, None, None, None] * np.array([2, 0, -2])
    frames = np.clip(frame + warmer, 0, 255).astype(np.uint8)
    luma = [luma_for_work(each) for each in frames]
    pairs = [measure_pair(one, two, scale=1) for one, two in itertools.pairwise(luma)]
    drift = measure_drift([frames], [(0, 3), (4, 7), (8, 11)], pairs)
    followed = [each.followed_colour for each in drift]
    assert None not in followed and followed == sorted(followed)
    assert not drift[0].is_far and drift[-1].is_far
    assert abs(drift[-1].followed_colour - delta_e(frames[-1], frames[0])) < 3


# --- which frame ---


def test_the_frame_to_go_on_from_is_late_sharp_and_nothing_is_wrong_with_it(pushed_in: Path, tmp_path: Path) -> None:
    assert best_frame(open_source(pushed_in)) == 7
    source = open_source(pushed_in)
    frames = frames_of(pushed_in)
    blurred = frames.copy()
    for each in blurred[6:]:
        each[:] = Image.fromarray(each).resize((40, 30)).resize((160, 120))
    write_video([blurred], tmp_path / "b.mp4", width=160, height=120, fps=8)
    assert best_frame(replace(source, video=tmp_path / "b.mp4")) == 5
    dark = frames.copy()
    dark[7] = 0
    write_video([dark], tmp_path / "d.mp4", width=160, height=120, fps=8)
    assert best_frame(replace(source, video=tmp_path / "d.mp4")) == 6
    flags = [{"code": "duplicate_frames", "frames": [6, 7]}]
    recipe = replace(source.recipe, report={**source.recipe.report, "quality": {"flags": flags}})
    assert best_frame(replace(source, recipe=recipe)) == 5
    assert LATE_FRAMES == 5


def test_a_frame_is_what_the_mp4_decodes_to(pushed_in: Path) -> None:
    frames = frames_of(pushed_in)
    assert all(np.array_equal(read_frame(pushed_in, number), frames[number]) for number in (0, 3, 7))
    for wrong in (8, -1):
        with pytest.raises(RequestError, match="frames 0 to 7"):
            read_frame(pushed_in, wrong)


# --- what is refused, and what is lost: nothing ---


def test_what_cannot_be_continued_is_told(pushed_in: Path, engines, tmp_path) -> None:
    foreign = tmp_path / "foreign.mp4"
    write_video([moving(66, 50, 4)], foreign, width=66, height=50, fps=8)
    with pytest.raises(RecipeError, match="no report inside"):
        open_source(foreign)
    with pytest.raises(RecipeError, match="neither a report"):
        open_source(CAT)
    with pytest.raises(InputError, match="Give the MP4"):
        open_source(pushed_in.with_suffix(".json"))
    wanted = going_on(PUSH_IN, pushed_in, tmp_path, frame=7, seed=1)
    for change, said in (
        ({"width": 176, "resolution": "176x120"}, "both must be alike"),
        ({"fps": 16}, "both must be alike"),
        ({"images": (CAT,)}, "not frame 7"),
        ({"frames": 1}, "Choose more"),
        ({"continues": Continuation(video=pushed_in, frame=-2)}, "counted from 0"),
        ({"continues": Continuation(video=pushed_in, frame=8)}, "frames 0 to 7"),
    ):
        with pytest.raises(InputError, match=said):
            made(replace(wanted, **change), tmp_path / "wrong.mp4", engines)
    assert not list(tmp_path.glob("*wrong*"))


def test_a_cancelled_or_failed_continuation_leaves_the_video_as_it_was(pushed_in: Path, engines, tmp_path) -> None:
    before = pushed_in.read_bytes()
    request = going_on(PUSH_IN, pushed_in, tmp_path, frame=7, seed=1)

    def stop(error: StudioError) -> Callable[[Progress], None]:
        def on_progress(progress: Progress) -> None:
            if progress.stage == "decode" and progress.step == 3:
                raise error

        return on_progress

    for error in (Cancelled(), StudioError("It broke.", "出错。")):
        with pytest.raises(type(error)):
            run(request, engines, outputs_at(tmp_path / "new.mp4"), stop(error), job_id="x")
        assert pushed_in.read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["v-7.png"]
