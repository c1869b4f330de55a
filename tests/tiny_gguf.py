"""A language model for llama.cpp that is written by hand and writes one word, over and over. Knows no server.

Its layers add nothing, so each character follows from the one before it alone. Held to a JSON schema it fills every
string with its word, or, made endless, never closes one; held to nothing it says "ok".
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np

BYTES = 3
"""The token of byte 0; before it stand the tokens for unknown, begin and end."""
END, SPACE = 2, BYTES + 256
TOKENS = SPACE + 1
WIDTH, HEADS, FEED = 288, 4, 64
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


def save_model(path: Path, *, word: str = "waves", layers: int = 1, is_endless: bool = False) -> Path:
    """A model in one file, at `path`. `word` has no letter twice, no o and no k; more `layers` only take more time."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32768)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    _add_vocabulary(writer)
    writer.add_tensor("token_embd.weight", np.eye(TOKENS, WIDTH, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output.weight", _follows(word, is_endless))
    for layer in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.zeros((WIDTH, WIDTH), np.float32))
        for name, shape in (("gate", (FEED, WIDTH)), ("up", (FEED, WIDTH)), ("down", (WIDTH, FEED))):
            writer.add_tensor(f"blk.{layer}.ffn_{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"])
    writer.add_token_scores([0.0] * TOKENS)
    writer.add_token_types([kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, kinds.NORMAL])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)


def _follows(word: str, is_endless: bool) -> np.ndarray:
    """float32 (TOKENS, WIDTH): how much each token (row) wants to follow each other one (column)."""
    wish = np.zeros((TOKENS, WIDTH), np.float32)

    def follow(before: str, *after: str | int, wanted: float) -> None:
        for each in after:
            wish[each if isinstance(each, int) else BYTES + ord(each), BYTES + ord(before)] = wanted

    # What stands in JSON after anything, where a grammar leaves the choice: short things, and no white space.
    for byte in range(128):
        follow(chr(byte), '"', wanted=1.0)
        follow(chr(byte), "}", "]", ",", ":", "f", wanted=0.8)
        follow(chr(byte), "{", "[", "0", "n", wanted=0.6)
    follow("[", "]", wanted=2.0)
    for before, after in (*pairwise("\nok"), *pairwise(f'"{word}')):
        follow(before, after, wanted=3.0)
    follow("k", END, wanted=3.0)
    follow(word[-1], word[0] if is_endless else '"', wanted=4.0)
    return wish
