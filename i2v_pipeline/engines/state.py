"""A denoising run on disk: written beside the run now and then, read to go on after a crash. Knows no model.

The file is safetensors: the tensors of a `DenoiseState`, and everything else of it as JSON in the metadata.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from i2v_pipeline.denoise import DenoiseState

log = logging.getLogger("studio.state")

FORMAT = 1
SHARE_OF_TIME = 0.01
"""Writing may take this part of a run's time, so a large state on a slow disk is saved less often."""
MIN_EVERY_S, MAX_EVERY_S = 1.0, 30.0


class StateUnusable(Exception):  # noqa: N818 - not an error of the run: it begins from the start
    """The file is damaged, or belongs to another request, model or version. The text says which."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a run can go on from. `strengths` are the guidance of the steps done; `runs` took part in computing them."""

    state: DenoiseState
    strengths: tuple[float, ...]
    runs: int


class StateKeeper:
    """Keeps the newest state of one run in the file `path`, or nothing where that is None.

    `key` names everything that the frames depend on.

    A state that could not be written ends no run; `failure` then has the reason.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self.failure: OSError | None = None
        self._path = path
        self._key = key
        self._saved_step = 0
        self._due = 0.0
        self._pending: Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="state")

    @property
    def saved_step(self) -> int:
        """The steps that are on the disk."""
        return self._saved_step

    def read(self, device: torch.device) -> Saved | None:
        """What an earlier run left, None where there is nothing. Raises `StateUnusable`."""
        if self._path is None or not self._path.exists():
            return None
        try:
            saved = _read(self._path, self._key, device)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise StateUnusable("damaged") from error
        self._saved_step = saved.state.step
        return saved

    def offer(self, saved: Saved, *, important: bool = False) -> None:
        """Begins to write it in the background if it is time to, and in any case if it is `important`."""
        busy = self._pending is not None and not self._pending.done()
        if self._path is None or (not important and (busy or time.monotonic() < self._due)):
            return
        # States are never changed after their step, so only what lies on a GPU must be fetched before the next one.
        tensors, meta = _taken_apart(saved, self._key)
        on_host = {name: _on_host(tensor) for name, tensor in tensors.items()}
        self._pending = self._writer.submit(self._write, self._path, on_host, meta)

    def close(self) -> None:
        """Returns when everything offered is on the disk, or could not be written."""
        self._writer.shutdown(wait=True)

    def _write(self, path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        started = time.monotonic()
        temporary = path.with_name(f".{path.name}.unfinished")
        try:
            content = save(tensors, {"state": json.dumps({**meta, "sha256": _digest(tensors)})})
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            self._saved_step = meta["step"]
        except OSError as error:
            temporary.unlink(missing_ok=True)
            self.failure = error
            log.warning("The state after step %d could not be saved: %s", meta["step"], error)
        ended = time.monotonic()
        self._due = ended + min(max((ended - started) / SHARE_OF_TIME, MIN_EVERY_S), MAX_EVERY_S)


def sources_digest() -> str:
    """A hash of the code that computes frames: a state goes on only where it was begun by the same code."""
    package = Path(__file__).resolve().parents[1]
    sources = sorted([*package.glob("engines/*.py"), package / "denoise.py", package / "guidance.py"])
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _taken_apart(saved: Saved, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {"latents": saved.state.latents, "random": saved.state.random}

    def plain(name: str, value: Any) -> Any:  # noqa: ANN401 - what diffusers' schedulers remember
        if isinstance(value, Tensor):
            tensors[name] = value
            return {"tensor": name}
        if isinstance(value, tuple):
            return {"items": [plain(f"{name}.{index}", item) for index, item in enumerate(value)]}
        return value

    scheduler = {name: plain(f"scheduler.{name}", value) for name, value in saved.state.scheduler.items()}
    # The order of a tensor's values in memory decides which kernel works on it, and with it the last bit.
    layouts = {
        name: {"strides": list(tensor.stride()), "on_device": tensor.device.type != "cpu"}
        for name, tensor in tensors.items()
    }
    return tensors, {
        "format": FORMAT,
        "key": key,
        "step": saved.state.step,
        "scheduler": scheduler,
        "layouts": layouts,
        "strengths": list(saved.strengths),
        "runs": saved.runs,
    }


def _on_host(tensor: Tensor) -> Tensor:
    # A clone: safetensors refuses tensors that share memory, and a scheduler remembers some of them twice.
    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def _read(path: Path, key: str, device: torch.device) -> Saved:
    with safe_open(path, framework="pt") as file:
        meta = json.loads((file.metadata() or {})["state"])
        if (meta["format"], meta["key"]) != (FORMAT, key):
            raise StateUnusable("of another run")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    if _digest(tensors) != meta["sha256"]:
        raise ValueError("the tensors are not the ones that were written")
    for name, layout in meta["layouts"].items():
        tensor = tensors[name]
        laid = torch.empty_strided(tensor.shape, layout["strides"], dtype=tensor.dtype).copy_(tensor)
        tensors[name] = laid.to(device) if layout["on_device"] else laid

    def whole(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return tensors[value["tensor"]] if "tensor" in value else tuple(whole(item) for item in value["items"])
        return value

    state = DenoiseState(
        step=meta["step"],
        latents=tensors["latents"],
        scheduler={name: whole(value) for name, value in meta["scheduler"].items()},
        random=tensors["random"],
    )
    return Saved(state=state, strengths=tuple(meta["strengths"]), runs=meta["runs"])


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
