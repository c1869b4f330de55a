"""Settings suggested for a movement: by the tables, legal, rising with the movement, and silent once accepted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2v_pipeline.checks import check_request
from i2v_pipeline.presets import load_presets
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.suggestions import CurrentSettings, SuggestedSetting, suggest
from i2v_pipeline.types import CameraTag, Intensity, Motion, PresetName
from studio.recipe import Choice, compose, origin_of

ENGINES = load_presets()
I2VGEN, A14B, CAMERA = ENGINES["i2vgen-xl"], ENGINES["wan2.2-i2v-a14b"], ENGINES["camera"]
INTENSITIES: tuple[Intensity, ...] = get_args(Intensity)

cases = st.sampled_from([(spec, name) for spec in ENGINES.values() for name in spec.presets])
motions = st.builds(
    Motion,
    camera=st.lists(st.sampled_from(get_args(CameraTag)), max_size=2, unique=True).map(tuple),
    requested=st.booleans(),
    intensity=st.sampled_from(INTENSITIES),
)
chosen = st.one_of(st.none(), st.tuples(st.integers(1, 100), st.floats(1, 20)))


def settings_of(spec: EngineSpec, name: PresetName, changed: tuple[int, float] | None = None) -> CurrentSettings:
    preset = spec.presets[name]
    steps, guidance = preset.steps, preset.guidance
    if changed is not None and steps is not None:
        steps, guidance = changed
    return CurrentSettings(preset=name, steps=steps, guidance=guidance, fps=preset.fps)


def accept(spec: EngineSpec, current: CurrentSettings, each: SuggestedSetting) -> CurrentSettings:
    """What the page does when the suggestion is clicked."""
    if each.field == "preset":
        return settings_of(spec, each.value)  # type: ignore[arg-type]
    return replace(current, **{each.field: each.value})


@pytest.mark.parametrize(
    ("motion", "compound", "guidance", "steps"),
    [
        (Motion(intensity="low"), False, 7.5, 50),
        (Motion(intensity="medium"), False, 9.5, 50),
        (Motion(intensity="high"), False, 11.5, 60),
        (Motion(camera=("zoom_in",), requested=True), False, 10.5, 50),
        (Motion(camera=("static",), requested=True, intensity="low"), False, 7.5, 50),
        (Motion(camera=("pan_right",), requested=True), True, 11.5, 60),
        (Motion(camera=("pan_right",), requested=True, intensity="high"), True, 12.0, 60),
    ],
    ids=["slight", "medium", "strong", "camera", "still camera", "compound", "strong compound"],
)
def test_i2vgen_xl_follows_the_published_table(motion: Motion, compound: bool, guidance: float, steps: int) -> None:
    current = CurrentSettings(preset="standard", steps=1, guidance=1.0, fps=24)
    found = {each.field: each.value for each in suggest(I2VGEN, motion, compound=compound, current=current)}
    assert found == {"guidance": guidance, "steps": steps}


def test_a_preview_keeps_its_few_steps() -> None:
    current = settings_of(I2VGEN, "preview")
    found = suggest(I2VGEN, Motion(intensity="high"), compound=False, current=current)
    assert [each.field for each in found] == ["guidance"]


def test_strong_guidance_at_few_frames_a_second_is_offered_with_its_risk() -> None:
    slow = settings_of(I2VGEN, "standard")
    (guidance, _) = suggest(I2VGEN, Motion(intensity="high"), compound=False, current=slow)
    (smooth, _) = suggest(I2VGEN, Motion(intensity="high"), compound=False, current=replace(slow, fps=24))
    assert "stutter" in guidance.reason.en
    assert "stutter" not in smooth.reason.en


def test_wan_keeps_its_official_guidance_whatever_moves_and_takes_more_steps_for_much_movement() -> None:
    as_published = settings_of(A14B, "standard")
    assert suggest(A14B, Motion(intensity="medium"), compound=True, current=as_published) == ()
    (steps,) = suggest(A14B, Motion(intensity="high"), compound=True, current=as_published)
    assert (steps.field, steps.value) == ("steps", 50)
    by_another_guide = replace(as_published, guidance=9.0)
    (guidance,) = suggest(A14B, Motion(), compound=False, current=by_another_guide)
    assert (guidance.field, guidance.value) == ("guidance", 3.5)
    assert "I2VGen-XL" in guidance.reason.en
    assert "I2VGen-XL" in guidance.reason.zh


def test_the_camera_engine_is_told_only_when_its_preset_moves_otherwise_than_the_prompt() -> None:
    def suggested(name: PresetName, intensity: Intensity) -> list[object]:
        current = settings_of(CAMERA, name)
        return [each.value for each in suggest(CAMERA, Motion(intensity=intensity), compound=False, current=current)]

    assert [suggested("standard", each) for each in INTENSITIES] == [[], [], []]
    assert [suggested("creative", each) for each in INTENSITIES] == [[], ["standard"], ["high_motion"]]
    assert [suggested("high_motion", each) for each in INTENSITIES] == [["standard"], ["standard"], []]


@settings(deadline=None)
@given(cases, motions, st.booleans(), chosen)
def test_accepting_every_suggestion_is_legal_and_leaves_nothing_to_suggest(
    case: tuple[EngineSpec, PresetName], motion: Motion, compound: bool, changed: tuple[int, float] | None
) -> None:
    spec, name = case
    current = settings_of(spec, name, changed)
    for each in suggest(spec, motion, compound=compound, current=current):
        assert each.value != getattr(current, each.field)
        assert each.reason.en.isascii()
        assert each.source
        current = accept(spec, current, each)
        choice = Choice(preset=current.preset, steps=current.steps, guidance=current.guidance, seed=1)
        request = compose(
            spec,
            choice,
            image=Path("a.png"),
            image_size=(1280, 704),
            prompt="",
            origin=origin_of("", None),
            motion=motion,
        )
        check_request(spec, request)
    assert suggest(spec, motion, compound=compound, current=current) == ()


@settings(deadline=None)
@given(cases, motions, st.booleans(), chosen)
def test_more_movement_never_means_less_of_anything(
    case: tuple[EngineSpec, PresetName], motion: Motion, compound: bool, changed: tuple[int, float] | None
) -> None:
    spec, name = case
    current = settings_of(spec, name, changed)
    if isinstance(current.steps, int):
        rising = []
        for intensity in INTENSITIES:
            after = current
            for each in suggest(spec, replace(motion, intensity=intensity), compound=compound, current=current):
                after = accept(spec, after, each)
            rising.append((after.guidance, after.steps))
        for column in zip(*rising, strict=True):
            assert list(column) == sorted(column)
