"""presets.yaml: what stands in it holds together, and every mistake is told at once."""

import pytest
import yaml

from i2v_pipeline.errors import InputError, PresetsError
from i2v_pipeline.presets import PRESETS_PATH, find_engine, load_presets, parse_presets


def changed(**changes):
    """The real file's text with values replaced by dotted path below engines.camera."""
    data = yaml.safe_load(PRESETS_PATH.read_text(encoding="utf-8"))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = data["engines"]["camera"]
        for name in parents:
            place = place[name]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return yaml.safe_dump(data)


def test_every_number_of_an_engine_has_a_source():
    for spec in load_presets().values():
        assert {"grid", "resolutions", "presets"} <= spec.sources.keys(), spec.id


def test_a_mistake_names_its_path_and_all_are_told_at_once():
    with pytest.raises(PresetsError) as caught:
        parse_presets(changed(grid__frame_step=0, licence=None, title__zh=""))
    message = str(caught.value)
    assert "3 mistake(s)" in message
    for path in ("engines.camera.grid.frame_step", "engines.camera.licence", "engines.camera.title.zh"):
        assert path in message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"presets__preview__frames": 601}, "presets.preview.frames: 601 is not on the grid"),
        ({"presets__preview__fps": 61}, "presets.preview.fps: 61 is outside 1 to 60"),
        ({"presets__standard__resolution": "8k"}, "presets.standard.resolution: '8k' is none of"),
        ({"presets__creative": None}, "presets.creative: missing"),
        ({"presets__standard__steps": 50}, "presets.standard.steps: must stand here exactly when"),
        ({"grid__min_side": 4000}, "min_side is above max_side"),
        ({"unknown_key": 1}, "unknown_key"),
    ],
)
def test_what_does_not_hold_together_is_refused(change, told):
    with pytest.raises(PresetsError, match=told.replace("(", r"\(").replace(".", r"\.")):
        parse_presets(changed(**change))


def test_broken_yaml_is_told_as_a_mistake_and_not_as_a_trace():
    with pytest.raises(PresetsError, match="mistake"):
        parse_presets("engines: [")


def test_an_unknown_engine_is_refused_with_the_known_ones_named():
    with pytest.raises(InputError, match="'nope' is unknown: there is camera"):
        find_engine("nope")
