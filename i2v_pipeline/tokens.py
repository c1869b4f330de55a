"""How many tokens an engine's text encoder gets of a prompt, counted without loading an engine.

Builds the tokenizer of a checkpoint with the library below transformers, so the page may use it. Knows no limit.
"""

from __future__ import annotations

import base64
import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2v_pipeline.hub import tokenizer_folder
from i2v_pipeline.prompts import clean_prompt
from i2v_pipeline.specs import EngineSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Counter = Callable[[str], int]

log = logging.getLogger("i2v_pipeline.tokens")

# What the encoders of a family are given of a prompt: `read_text` of the engines.
_READS: dict[str, Callable[[str], str]] = {
    "i2vgen_xl": str,
    "wan": clean_prompt,
    "references": clean_prompt,
    "vace": clean_prompt,
}
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_CLIP_MARKS = ("<|startoftext|>", "<|endoftext|>")
_UNKNOWN_IN_T5 = 2


def token_counter(spec: EngineSpec, folder: Path | None = None) -> Counter | None:
    """Counts tokens as the engine reports them, without the marks of begin and end.

    `folder` is a checkpoint in place of the engine's own. None where no tokenizer of the engine is on this machine.
    """
    read = _READS.get(spec.family)
    if read is None:
        return None
    files = folder / "tokenizer" if folder is not None else tokenizer_folder(spec)
    tokenizer = None if files is None else _tokenizer_in(files.resolve())
    if tokenizer is None:
        return None
    return lambda text: len(tokenizer.encode(read(text), add_special_tokens=False).ids)


@functools.lru_cache(maxsize=4)
def _tokenizer_in(folder: Path) -> Tokenizer | None:
    """Takes about a second for the multilingual vocabulary, once."""
    try:
        return _load_tokenizer(folder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        log.warning("the tokenizer in %s cannot be read; tokens are estimated", folder, exc_info=True)
        return None


def _load_tokenizer(folder: Path) -> Tokenizer:
    """The vocabulary of the folder's files with the rules that transformers' own T5 and CLIP classes give it.

    Those classes do not follow the rules that stand in tokenizer.json, so neither does this. FileNotFoundError where
    the folder has no files of either kind; other errors where they hold something else.
    """
    file = folder / "tokenizer.json"
    if not file.exists():
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        merges = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
        tokenizer = _clip(vocabulary, merges)
        tokenizer.add_special_tokens([mark for mark in _CLIP_MARKS if mark in vocabulary])
        return tokenizer
    read = json.loads(file.read_text(encoding="utf-8"))
    model = read["model"]
    if model["type"] == "Unigram":
        tokenizer = _t5(model["vocab"], read.get("normalizer"))
    else:
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        tokenizer = _clip(model["vocab"], merges)
    _add_marks(tokenizer, read.get("added_tokens") or [])
    return tokenizer


def _t5(vocabulary: list[list[Any]], normalizer: dict[str, Any] | None) -> Tokenizer:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    pieces = [(str(piece), float(score)) for piece, score in vocabulary]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=_UNKNOWN_IN_T5, byte_fallback=False))
    steps = (normalizer or {}).get("normalizers") or [normalizer or {}]
    charsmap = next((step["precompiled_charsmap"] for step in steps if step.get("type") == "Precompiled"), None)
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(base64.b64decode(charsmap))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    return tokenizer


def _clip(vocabulary: dict[str, int], merges: list[list[str]]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    model = models.BPE(
        vocab=vocabulary,
        merges=[(first, second) for first, second in merges],
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        fuse_unk=False,
        unk_token=_CLIP_MARKS[1],
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _add_marks(tokenizer: Tokenizer, marks: list[dict[str, Any]]) -> None:
    from tokenizers import AddedToken

    for mark in marks:
        rules = {name: mark[name] for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        tokenizer.add_tokens([AddedToken(mark["content"], **rules)])
