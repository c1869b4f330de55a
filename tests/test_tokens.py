"""Tokens counted without transformers are the tokens that the engine counts: real files, tiny vocabularies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from i2v_pipeline.presets import load_presets
from i2v_pipeline.tokens import token_counter
from prompt_refiner import RefinerSettings, check_text, refine
from studio.recipe import style_of

pytestmark = pytest.mark.diffusion
ENGINES = ("i2vgen-xl", "wan2.2-ti2v-5b")
TEXTS = (
    "a rose opens slowly",
    "The cat's 2 paws, it'll turn!  twice\n",
    "玫瑰缓缓绽放 &amp; ﬁne <|endoftext|> </s> x",
    "A ROSE â€œopensâ€\x9d",
    "cafe\u0301 \u00c5 A\u030a",
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each engine that holds nothing but its tokenizer, which was given merges and a normalizer."""
    import tiny_models

    folder = tmp_path_factory.mktemp("tokenizers")
    clip = tiny_models.clip_tokenizer()
    for engine, tokenizer in zip(ENGINES, (clip, tiny_models.umt5_tokenizer()), strict=True):
        tokenizer.save_pretrained(folder / engine / "tokenizer")
    file = folder / ENGINES[0] / "tokenizer" / "tokenizer.json"
    read = json.loads(file.read_text())
    for first, second in (("r", "o"), ("ro", "s"), ("ros", "e</w>"), ("a", "t</w>")):
        read["model"]["vocab"][first + second] = len(read["model"]["vocab"])
        read["model"]["merges"].append([first, second])
    file.write_text(json.dumps(read))
    return folder


def as_the_engine_counts(engine: str, checkpoint: Path, text: str) -> int:
    from i2v_pipeline.engines.loading import load_tokenizer
    from i2v_pipeline.prompts import clean_prompt, count_tokens

    return count_tokens(load_tokenizer(checkpoint), clean_prompt(text) if engine.startswith("wan") else text)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_text_has_as_many_tokens_as_the_engine_counts(engine: str, tokenizers: Path) -> None:
    from i2v_pipeline.engines.loading import load_tokenizer
    from i2v_pipeline.prompts import clean_prompt, count_tokens

    checkpoint = tokenizers / engine
    count = token_counter(load_presets()[engine], checkpoint)
    assert count is not None
    reference = load_tokenizer(checkpoint)
    read: Callable[[str], str] = clean_prompt if engine.startswith("wan") else str

    @settings(max_examples=300, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
    @example(TEXTS[0])
    @example(TEXTS[1])
    @example(TEXTS[2])
    @example(TEXTS[3])
    @example(TEXTS[4])
    def agrees(text: str) -> None:
        assert count(text) == count_tokens(reference, read(text))

    agrees()


def test_merges_are_followed(tokenizers: Path) -> None:
    count = token_counter(load_presets()["i2vgen-xl"], tokenizers / "i2vgen-xl")
    assert count is not None
    assert (count("rose"), count("roses"), count("dog")) == (1, 3, 3)


def test_a_vocabulary_with_its_merges_counts_like_the_one_file_of_both(tokenizers: Path, tmp_path: Path) -> None:
    model = json.loads((tokenizers / "i2vgen-xl" / "tokenizer" / "tokenizer.json").read_text())["model"]
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(("#version: 0.2", *(" ".join(merge) for merge in model["merges"])))
    (tmp_path / "tokenizer" / "merges.txt").write_text(f"{merges}\n")
    spec = load_presets()["i2vgen-xl"]
    both = [token_counter(spec, folder) for folder in (tokenizers / "i2vgen-xl", tmp_path)]
    for text in TEXTS:
        counts = {count(text) for count in both if count is not None}
        assert counts == {as_the_engine_counts("i2vgen-xl", tokenizers / "i2vgen-xl", text)}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_refiner_says_the_engines_own_count_and_that_it_is_exact(
    engine: str, tokenizers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDIO_MODELS", str(tokenizers))
    style = style_of(load_presets()[engine])
    result = refine("A rose opens slowly", style=style, settings=RefinerSettings(), mode="offline")
    counted = as_the_engine_counts(engine, tokenizers / engine, result.refined_prompt)
    assert (result.token_count, result.token_count_is_exact) == (counted, True)
    assert "token_budget" in {check.name for check in result.checks}
    edited = check_text("A rose", "A rose opens", style)
    assert edited.token_count == as_the_engine_counts(engine, tokenizers / engine, "A rose opens")
    assert edited.token_count_is_exact
    too_long = check_text("A rose", "opens " * 600, style)
    assert f"has {too_long.token_count} tokens" in too_long.notices[-1].en


def test_without_a_tokenizer_the_count_is_an_estimate_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDIO_MODELS", str(tmp_path))
    (tmp_path / "i2vgen-xl").mkdir()
    style = style_of(load_presets()["i2vgen-xl"])
    result = refine("A rose opens slowly", style=style, settings=RefinerSettings(), mode="offline")
    assert (result.token_count, result.token_count_is_exact) == (6, False)
    assert "about 6 of 75" in next(check.detail for check in result.checks if check.name == "token_budget_estimated")
    assert style_of(load_presets()["camera"]).count is None


@pytest.mark.parametrize("broken", ["", "[]", '{"model": {"type": "Unigram", "vocab": [["a"]]}}'])
def test_a_broken_tokenizer_is_as_none(broken: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(broken)
    assert token_counter(load_presets()["wan2.2-ti2v-5b"], tmp_path) is None


def test_counting_loads_neither_torch_nor_transformers(tokenizers: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from i2v_pipeline.presets import load_presets; "
        "from i2v_pipeline.tokens import token_counter; "
        "print(token_counter(load_presets()['i2vgen-xl'], Path(sys.argv[1]))('rose'), "
        "[name for name in ('torch', 'transformers', 'diffusers') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(tokenizers / "i2vgen-xl")]
    root = Path(__file__).resolve().parents[1]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["1", "[]"]
