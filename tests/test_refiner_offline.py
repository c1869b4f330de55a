"""What the rules read out of a sentence, and that they invent nothing and lose nothing. No network."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import i2v_pipeline.types as core
from i2v_pipeline.specs import PromptStyle
from prompt_refiner import RefineResult, RefinerSettings, Style, refine
from prompt_refiner import types as own
from prompt_refiner.lexicon import load_lexicon
from prompt_refiner.reading import read
from prompt_refiner.text import clean, estimate_tokens, has_hanzi, language_of

CAMERA = Style(name="camera", encoder=None, token_limit=None, languages=("zh", "en"))
I2VGEN = Style(name="i2vgen_xl", encoder="CLIP ViT-H", token_limit=75, languages=("en",))
WAN = Style(name="wan", encoder="umT5-XXL", token_limit=512, languages=("zh", "en"))
STYLES = (CAMERA, I2VGEN, WAN)

SENTENCES: dict[str, list[str]] = yaml.safe_load(
    (Path(__file__).parent / "refiner_sentences.yaml").read_text(encoding="utf-8")
)
ROWS = [(sentence, tags) for tags, sentences in SENTENCES.items() for sentence in sentences]
TYPED = [sentence for sentence, _ in ROWS]


def offline(text: str, style: Style = CAMERA) -> RefineResult:
    return refine(text, style=style, settings=RefinerSettings(), mode="offline")


def codes(result: RefineResult) -> set[str]:
    return {notice.code for notice in result.notices}


# What is read


@pytest.mark.parametrize(("sentence", "tags"), ROWS)
def test_the_camera_moves_of_a_sentence_are_those_it_asks_for(sentence: str, tags: str) -> None:
    assert ", ".join(offline(sentence).camera_motion) == ("" if tags == "none" else tags)


@pytest.mark.parametrize("tag", core.CameraTag.__args__)
def test_every_camera_tag_can_be_asked_for_in_both_languages(tag: str) -> None:
    phrase = load_lexicon().phrases[tag]  # type: ignore[index]
    assert offline(f"镜头{phrase.zh}").camera_motion == (tag,)
    assert offline(f"the camera {phrase.en}").camera_motion == (tag,)
    assert offline(f"camera {phrase.en_ing}").camera_motion == (tag,)


@pytest.mark.parametrize(
    ("sentence", "speed"),
    [
        ("镜头慢慢推近", "slow_motion"),
        ("camera slowly pans left", "slow_motion"),
        ("slow zoom out", "slow_motion"),
        ("镜头快速拉远", "fast"),
        ("quickly zoom in", "fast"),
        ("慢动作，水花飞溅", "slow_motion"),
        ("a dog jumping in slow motion", "slow_motion"),
        ("延时摄影，云在流动", "timelapse"),
        ("time-lapse of clouds", "timelapse"),
        ("快进的街道", "fast"),
        ("鏡頭緩緩拉遠", "slow_motion"),
        # The subject's own pace is not the video's.
        ("一个男人慢慢走路", "normal"),
        ("a man walks slowly", "normal"),
        ("镜头推近，不要太快", "normal"),
        ("女孩微笑", "normal"),
        ("快乐的女孩", "normal"),
    ],
)
def test_speed_is_how_time_or_the_camera_runs(sentence: str, speed: str) -> None:
    assert offline(sentence).speed == speed


@pytest.mark.parametrize(
    ("sentence", "intensity"),
    [
        ("leaves gently swaying", "low"),
        ("person turning head", "medium"),
        ("dog jumping over fence", "high"),
        ("waves crashing while camera pans right", "high"),
        ("A person walking forward naturally", "medium"),
        ("a dog walks and then jumps", "high"),
        ("a dog jumps and then walks", "high"),
        ("pruning the tree", "medium"),
        ("the girl breathes", "low"),
        ("a man walks slowly", "low"),
        ("a man walks quickly", "high"),
        ("the dog does not run, it sleeps", "low"),
        ("人走路", "medium"),
        ("海浪动", "medium"),
        ("海浪拍打礁石", "high"),
        ("猫转头", "medium"),
        ("猫转头，然后奔跑", "high"),
        ("头发飘动", "low"),
        ("树叶轻轻摇摆", "low"),
        ("树叶剧烈摇摆", "high"),
        ("跑车停在走廊", "medium"),
        ("镜头轻轻推近", "low"),
        ("镜头推近", "medium"),
        ("貓轉頭", "medium"),
    ],
)
def test_intensity_is_the_strongest_movement_of_the_sentence(sentence: str, intensity: str) -> None:
    assert offline(sentence).motion_intensity == intensity


@pytest.mark.parametrize(
    ("sentence", "compound"),
    [
        ("waves crashing while camera pans right", True),
        ("镜头推近，女孩跳舞", True),
        ("The camera follows a running dog", True),
        ("固定镜头，女孩跳舞", False),
        ("镜头推近", False),
        ("女孩跳舞", False),
        ("镜头推近，女孩不要动", False),
        ("镜头围绕花瓶旋转", False),
    ],
)
def test_compound_is_subject_and_camera_moving_together(sentence: str, compound: bool) -> None:
    assert offline(sentence).compound is compound


def test_subject_action_and_manner_are_the_persons_own_words() -> None:
    result = offline("镜头慢慢推近，海浪猛烈地拍打礁石")
    assert (result.subject, result.action, result.manner) == ("海浪", "猛烈地拍打礁石", "猛烈地")
    result = offline("A white cat slowly turning its head, camera pans left")
    assert (result.subject, result.action, result.manner) == ("A white cat", "slowly turning its head", "slowly")
    assert offline("女孩从左向右走").action == "从左向右走"
    assert offline("一朵不知名的花").action == "一朵不知名的花"


@pytest.mark.parametrize("text", ["", "  \n\t ", "\u3000"])
def test_an_empty_prompt_is_allowed_and_told(text: str) -> None:
    result = offline(text)
    assert (result.refined_prompt, result.action, result.camera_requested) == ("", "", False)
    assert codes(result) == {"empty_prompt"}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("海浪", "zh"),
        ("waves", "en"),
        ("猫 zoom in", "mixed"),
        ("猫が歩く", "other"),
        ("кошка", "other"),
        ("", "other"),
        ("两只猫 2", "zh"),
    ],
)
def test_language_is_known_by_its_script(text: str, language: str) -> None:
    assert language_of(text) == language


# What is said about it


def test_a_direction_that_we_chose_is_told() -> None:
    assert "direction_chosen" in codes(offline("镜头环绕小猫"))
    assert "direction_chosen" in codes(offline("slow pan across the valley"))
    assert "direction_chosen" not in codes(offline("镜头向左环绕小猫"))


@pytest.mark.parametrize(
    "text", ["镜头左右摇", "镜头切换到窗外", "camera zoom in and out", "The camera focuses on the rose"]
)
def test_a_camera_wish_that_is_not_understood_is_told_and_counts_as_a_wish(text: str) -> None:
    result = offline(text)
    assert result.camera_motion == ()
    assert result.camera_requested
    assert "camera_not_understood" in codes(result)


@pytest.mark.parametrize(
    "text",
    [
        "镜头里一只猫在睡觉",
        "镜头前的女孩微笑",
        "女孩看着镜头",
        "画面中有一只猫",
        "画面唯美",
        "She smiles at the camera",
    ],
)
def test_a_camera_that_only_looks_on_is_no_wish(text: str) -> None:
    result = offline(text)
    assert not result.camera_requested
    assert not result.notices


def test_the_length_is_an_estimate_and_says_so() -> None:
    long = offline("a cat " * 40, I2VGEN)
    assert long.token_count == estimate_tokens("a cat " * 40) == 108
    assert codes(long) == {"too_long"}
    assert {check.name: check.passed for check in long.checks} == {
        "language": True,
        "token_budget_estimated": False,
        "kept_verbatim": True,
    }
    assert offline("a cat " * 40, CAMERA).token_count is None


# What is written


@pytest.mark.parametrize(
    ("typed", "camera", "i2vgen", "wan"),
    [
        (
            "镜头慢慢推近，海浪拍打礁石",
            "镜头缓慢推近，海浪拍打礁石",
            "ocean waves beating against reef rocks, camera slowly zooming in",
            "海浪拍打礁石。镜头缓慢推近。",
        ),
        (
            "waves  crashing while\tcamera pans right",
            "camera panning right, waves crashing",
            "waves crashing, camera panning right",
            "waves crashing. The camera pans right.",
        ),
        (
            "鏡頭慢慢推近，貓轉頭",
            "鏡頭緩慢推近，貓轉頭",
            "a cat turning the head, camera slowly zooming in",
            "貓轉頭。鏡頭緩慢推近。",
        ),
        ("A cat turns its head", "A cat turns its head", "A cat turns its head", "A cat turns its head"),
        (
            "镜头拉远，露出整座山",
            "镜头拉远，露出整座山",
            "camera zooming out, revealing the whole mountain",
            "镜头拉远，露出整座山",
        ),
        ("不要推近镜头", "不要推近镜头", "camera not zooming in", "不要推近镜头"),
        # The camera's object, an order or a quotation: the sentence stays whole.
        ("zoom in on the red flower", *["zoom in on the red flower"] * 3),
        (
            "镜头推近，然后女孩微笑",
            "镜头推近，然后女孩微笑",
            "camera zooming in, then a girl smiling",
            "镜头推近，然后女孩微笑",
        ),
        ("先看花，镜头推近", "先看花，镜头推近", "looking at a flower first, camera zooming in", "先看花，镜头推近"),
        ("the camera shakes slowly", *["the camera shakes slowly"] * 3),
        ("镜头由慢到快推近", "镜头由慢到快推近", "镜头由慢到快推近, camera zooming in", "镜头由慢到快推近"),
        ("camera does not move", *["camera does not move"] * 3),
        ("Zoom in, then zoom out", *["Zoom in, then zoom out"] * 3),
        ('pan left, a sign reads "zoom in"', *['pan left, a sign reads "zoom in"'] * 3),
        ("镜头推近🎥，猫跑", "镜头推近🎥，猫跑", "a cat running, camera zooming in 🎥", "镜头推近🎥，猫跑"),
        ("a cat {style} <b>runs</b>", *["a cat {style} <b>runs</b>"] * 3),
    ],
)
def test_each_engine_gets_the_camera_in_its_own_form_and_the_rest_as_typed(
    typed: str, camera: str, i2vgen: str, wan: str
) -> None:
    assert [offline(typed, style).refined_prompt for style in STYLES] == [camera, i2vgen, wan]


@pytest.mark.parametrize("sentence", TYPED)
def test_the_refined_prompt_asks_for_the_same_camera_moves(sentence: str) -> None:
    for style in STYLES:
        result = offline(sentence, style)
        assert offline(result.refined_prompt, style).camera_motion == result.camera_motion


def content_words(text: str) -> list[str]:
    """The words that speak of nothing the lexicon knows, in order of first appearance."""
    return sorted({token.word for token in load_lexicon().scan(clean(text)) if token.is_content and not token.is_break})


WORDS = st.sampled_from(
    [*TYPED, "然后", "女孩", "a red balloon", "同时", "while", "，", ". ", "不要", "don't", "“引号”", "🎥"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=4).map(" ".join), st.sampled_from((CAMERA, WAN)))
def test_no_word_that_was_typed_is_lost(text: str, style: Style) -> None:
    refined = offline(text, style).refined_prompt
    for word in content_words(text):
        assert word in load_lexicon().fold(refined)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200), st.sampled_from(STYLES))
def test_any_text_gives_a_result_that_json_can_hold(text: str, style: Style) -> None:
    result = offline(text, style)
    as_json = result.to_dict()
    assert json.loads(json.dumps(as_json)) == as_json
    json.dumps(as_json, ensure_ascii=False).encode("utf-8")
    assert result.added_elements == ()
    assert "\n" not in result.refined_prompt


CAMERA_WORD = re.compile(
    r"镜|机位|摄|相机|画面|视|拍|第一人称|camera|cam\b|shot|view|pov|lens|footage|zoom|dolly|dolli|pan|tilt|push|pull|crane|"
    r"orbit|truck|handheld|hand.held|follow|track|shak|推|拉|摇|移|绕|环|跟|手持|变焦|运镜|定|locked|tripod|static",
    re.IGNORECASE,
)
PLAIN = [sentence for sentence in TYPED if not CAMERA_WORD.search(load_lexicon().fold(sentence))]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([*PLAIN, "left", "right", "向左", "slowly", "慢慢", "then", "然后", "in", "up", "不"]),
        max_size=6,
    ),
    st.sampled_from([" ", "，", ", ", ""]),
)
def test_no_camera_move_without_a_camera_word(pieces: list[str], joint: str) -> None:
    text = joint.join(pieces)
    if CAMERA_WORD.search(load_lexicon().fold(text)) is None:
        assert read(clean(text)).camera_motion == ()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(TYPED), st.text(alphabet=" \t\n\u3000", max_size=5))
def test_white_space_around_a_prompt_changes_nothing(text: str, space: str) -> None:
    assert replace(offline(space + text + space), latency_s=0) == replace(offline(text), latency_s=0)


def test_a_line_break_separates_like_a_comma() -> None:
    assert clean("a cat\n\nzoom in") == "a cat, zoom in"
    assert clean("猫跑\n镜头推近") == "猫跑，镜头推近"
    assert clean("猫跑。\n镜头推近") == "猫跑。 镜头推近"
    assert clean("a\x00b\ud800c") == "ab\ufffdc"


def test_a_very_long_text_without_punctuation_takes_no_longer_than_it_should() -> None:
    result = offline("镜头推近到的地方" * 8000)
    assert result.camera_motion == ("zoom_in",)
    assert result.latency_s < 6


# The seams


def test_the_vocabulary_is_the_cores_vocabulary() -> None:
    for name in ("CameraTag", "Speed", "Intensity"):
        assert get_args(getattr(own, name)) == get_args(getattr(core, name))
    assert set(Style.__dataclass_fields__) - {"count"} == set(PromptStyle.__dataclass_fields__)


def test_a_style_without_a_system_prompt_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="i2vgen_xl"):
        offline("cat", replace(CAMERA, name="unknown"))


def test_every_tag_of_the_lexicon_can_be_written() -> None:
    assert set(load_lexicon().phrases) == set(get_args(own.CameraTag))


# What the rules advise


@pytest.mark.parametrize(
    "text",
    [
        "让画面充满活力",
        "让它动起来",
        "make it cinematic",
        "bring this photo to life",
        "freedom, dreams",
        "最佳质量，唯美",
    ],
)
def test_a_wish_that_names_no_movement_is_called_abstract(text: str) -> None:
    assert offline(text).warnings == ("abstract_prompt",)
    assert offline(text).suggestion is None


@pytest.mark.parametrize("text", ["女孩微笑，画面有电影感", "cinematic slow zoom in", "waves", "人走路", ""])
def test_what_names_something_is_not_called_abstract(text: str) -> None:
    assert "abstract_prompt" not in offline(text).warnings


def test_much_movement_of_subject_and_camera_together_is_warned_of() -> None:
    assert offline("镜头推近，男人狂奔").warnings == ("camera_subject_conflict",)
    assert offline("镜头推近，女孩微笑").warnings == offline("男人狂奔").warnings == ()


@pytest.mark.parametrize(
    ("text", "preset", "duration"),
    [
        ("女孩微笑", "standard", "normal"),
        ("a man walks", "standard", "normal"),
        ("a dog runs", "high_motion", "normal"),
        ("zoom in", "standard", "normal"),
        ("the camera pans left while a man walks", "high_motion", "normal"),
        ("pan left, then zoom in", "standard", "long"),
        ("猫先转头，然后跳下沙发", "high_motion", "long"),
    ],
)
def test_the_rules_suggest_by_what_they_read_and_say_why(text: str, preset: str, duration: str) -> None:
    suggestion = offline(text).suggestion
    assert suggestion is not None
    assert (suggestion.preset, suggestion.duration) == (preset, duration)
    assert has_hanzi(suggestion.why) == has_hanzi(text)


def test_a_kaleido_prompt_gets_the_camera_in_a_sentence_of_its_own() -> None:
    kaleido = Style(name="kaleido", encoder="umT5-XXL", token_limit=512, languages=("zh", "en"))
    assert offline("zoom in, a girl dances", kaleido).refined_prompt == "a girl dances. The camera zooms in."
