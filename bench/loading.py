"""Measures what reading a part of a model takes of the host's memory, in each form that a mode may want it in.

A transformer and a text encoder of Wan's classes with random weights are written to files in float32 and read as the
engine reads them, each in a process of its own, on the processor, so the part itself lies in the same memory.
`beyond_mib` is what was held at the fullest moment beside the part as it then lies. Pages of mapped files do not count,
since the system takes them back; weights that stay as the files have them lie there. Writes bench/results/loading.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Run as a file, this program finds the project only now.
from i2v_pipeline.planning.machine import held_bytes  # noqa: E402
from i2v_pipeline.planning.modes import mode_called  # noqa: E402

RESULT_PATH = ROOT / "bench" / "results" / "loading.json"
MIB = 2**20
EVERY_S = 0.002
FORMS = {
    "transformer": {
        "as it is": "swapped",
        "streamed": "streamed",
        "fp8": "fp8-swapped",
        "fp8 streamed": "fp8-streamed",
    },
    "text_encoder": {"as it is": "swapped", "streamed": "streamed"},
}


class Fullest:
    """The most that this process held while it is entered, beyond what it held before, in MiB."""

    def __enter__(self) -> Fullest:
        self._process = psutil.Process()
        self._before = self._most = held_bytes(self._process)
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watcher.join()

    @property
    def mib(self) -> float:
        return (self._most - self._before) / MIB

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._most = max(self._most, held_bytes(self._process))


def write_transformer(folder: Path, *, layers: int = 6, width: int = 1024) -> None:
    """In files of 100 MB, as repositories have them."""
    import torch
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    torch.manual_seed(0)
    WanTransformer3DModel(
        num_attention_heads=width // 128, attention_head_dim=128, in_channels=36, out_channels=16, text_dim=512,
        freq_dim=256, ffn_dim=4 * width, num_layers=layers,
    ).save_pretrained(folder / "transformer", max_shard_size="100MB")  # fmt: skip


def write_text_encoder(folder: Path, *, layers: int = 6, width: int = 1024) -> None:
    import torch
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    UMT5EncoderModel(
        UMT5Config(vocab_size=30_000, d_model=width, d_kv=64, d_ff=4 * width, num_layers=layers, num_heads=width // 64)
    ).save_pretrained(folder / "text_encoder", max_shard_size="100MB")


def measure(folder: Path, name: str, mode: str) -> dict[str, Any]:
    """Seconds and MiB of reading that part once in `mode`, computing in bf16."""
    import torch

    from i2v_pipeline.engines.loading import Parts
    from i2v_pipeline.engines.wan import KINDS
    from i2v_pipeline.hub import Checkpoint

    parts = Parts(
        Checkpoint(folder=folder, revision=None, variant=None), kinds=KINDS, device=torch.device("cpu"),
        dtypes=dict.fromkeys(KINDS, torch.bfloat16), precision="auto", mode=mode_called(mode),
    )  # fmt: skip
    started = time.monotonic()
    with Fullest() as fullest:
        model = parts.get(name)
    seconds = time.monotonic() - started
    own = sum(each.numel() * each.element_size() for each in model.parameters())
    layers = parts._streams[name]._layers if name in parts._streams else []
    own += sum(len(piece) for layer in layers for piece in layer.pieces)
    # Two places on the device, which is this memory here.
    places = 2 * max((layer.bytes for layer in layers), default=0)
    parts.close()
    return {"part_mib": round(own / MIB), "beyond_mib": round(fullest.mib - (own + places) / MIB),
            "seconds": round(seconds, 2)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULT_PATH)
    parser.add_argument("--one", nargs=3, metavar=("FOLDER", "PART", "MODE"), help="only this, as one line of JSON")
    arguments = parser.parse_args()
    import diffusers
    import torch
    import transformers

    if arguments.one:
        folder, part, mode = arguments.one
        print(json.dumps(measure(Path(folder), part, mode)))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_transformer(folder)
        write_text_encoder(folder)
        for part, forms in FORMS.items():
            on_disk = sum(file.stat().st_size for file in (folder / part).glob("*.safetensors"))
            for form, mode in forms.items():
                command = [sys.executable, __file__, "--one", name, part, mode]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                rows.append({"part": part, "form": form, "mode": mode, "files_mib": round(on_disk / MIB),
                             **json.loads(said.splitlines()[-1])})  # fmt: skip
                print(rows[-1])
    result = {
        "what": "Memory of the host that reading a part takes beyond the part as it then lies, on a processor.",
        "versions": {module.__name__: module.__version__ for module in (torch, diffusers, transformers)},
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
