"""What this machine has free at this moment: graphics memory, RAM within its limits, disk. Imports no torch."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from i2v_pipeline.errors import InputError
from i2v_pipeline.planning.devices import Device, find_device, processor
from i2v_pipeline.types import Attention

GIB = 2**30
MIB_IN_GIB = 1024
MARGIN_GIB = 1.0
"""Kept free of the card unless STUDIO_VRAM_MARGIN says otherwise: the prediction is not exact, and a screen grows."""
QUERY_TIMEOUT_S = 20
_PACKAGES: Mapping[Attention, str] = {"flash": "flash_attn", "flash3": "flash_attn_interface", "sage": "sageattention"}
_CGROUPS = Path("/sys/fs/cgroup")
_V1_UNLIMITED = 2**60


@dataclass(frozen=True, kw_only=True)
class Card:
    """An NVIDIA card as its driver names it. What the studio's own processes hold counts as free: it is given back."""

    name: str
    vram_gib: float
    free_gib: float

    def capped(self, cap_gib: float | None) -> Card:
        """As if it were no larger than that."""
        if cap_gib is None:
            return self
        return Card(name=self.name, vram_gib=min(self.vram_gib, cap_gib), free_gib=min(self.free_gib, cap_gib))


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run may use. RAM and disk are None where they are not known, and then held against nothing.

    `gpu` is None without one. `margin_gib` of `free_vram_gib` stay free. `kernels` are the packages of attention that
    are installed; whether they work on the card is found out where they run. `can_compile`: what compiling for the card
    needs is installed.
    """

    gpu: Device | None
    cores: int
    free_vram_gib: float
    free_ram_gib: float | None
    free_disk_gib: float | None
    margin_gib: float = MARGIN_GIB
    kernels: frozenset[Attention] = frozenset()
    can_compile: bool = True

    def device(self, *, on_cpu: bool) -> Device:
        return self.gpu if self.gpu is not None and not on_cpu else processor(self.cores)


def this_machine(disk: Path) -> Machine:
    """As it is now; `disk` is where models are kept. Raises `InputError` for a margin or a cap that is no number."""
    card, cap_gib = find_card(), cap_from_environment()
    card = None if card is None else card.capped(cap_gib)
    while not disk.exists() and disk != disk.parent:
        disk = disk.parent
    return Machine(
        gpu=None if card is None else find_device(card.name),
        cores=os.cpu_count() or 1,
        free_vram_gib=0.0 if card is None else card.free_gib,
        free_ram_gib=free_ram_bytes() / GIB,
        free_disk_gib=shutil.disk_usage(disk).free / GIB,
        margin_gib=margin_from_environment(),
        kernels=installed_kernels(),
        can_compile=importlib.util.find_spec("triton") is not None,
    )


def installed_kernels() -> frozenset[Attention]:
    """The packages of attention that could be imported; none of them is."""
    return frozenset(name for name, package in _PACKAGES.items() if importlib.util.find_spec(package) is not None)


def margin_from_environment() -> float:
    """STUDIO_VRAM_MARGIN in GiB: 6 uses at most 18 of 24. Raises `InputError` for what is no such number."""
    margin = _gib_from_environment("STUDIO_VRAM_MARGIN")
    return MARGIN_GIB if margin is None else margin


def cap_from_environment() -> float | None:
    """STUDIO_VRAM_CAP in GiB: of the card no more is used, as if it were so small. None where it is not set.

    Raises `InputError` for what is no such number.
    """
    return _gib_from_environment("STUDIO_VRAM_CAP")


def _gib_from_environment(name: str) -> float | None:
    text = os.environ.get(name)
    if not text:
        return None
    try:
        amount = float(text)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise InputError(
            f"{name} is {text!r}: a number of GiB from 0 on is needed. Change it, or leave it out.",
            f"{name} 的值为 {text!r}：应为不小于 0 的 GiB 数。请修改或删除它。",
        )
    return amount


def find_card() -> Card | None:
    """The first NVIDIA card, asked from its driver's own program, so that no process needs torch to know."""
    try:
        name, total, free = _ask("--query-gpu=name,memory.total,memory.free")[0].rsplit(",", 2)
        total_mib, free_mib = int(total), int(free)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    own_mib = min(_own_mib(), total_mib - free_mib)
    return Card(
        name=name.strip(),
        vram_gib=round(total_mib / MIB_IN_GIB, 1),
        free_gib=round((free_mib + own_mib) / MIB_IN_GIB, 1),
    )


def free_ram_bytes(cgroups: Path = _CGROUPS) -> int:
    """RAM that may still be taken, here and within the limits of the control group, with what the studio holds."""
    own = sum(held_bytes(process) for process in _own_processes())
    limits = [psutil.virtual_memory().available, *_cgroup_free(cgroups)]
    return min(limits) + own


def _cgroup_free(root: Path) -> list[int]:
    """For each limit that is set: the limit less what is used and cannot be dropped. Version 2, then version 1."""
    own = _own_cgroup(root)
    found: list[int] = []
    for folder in (own, *own.parents):
        found += _free_below(folder / "memory.max", folder / "memory.current", folder / "memory.stat", "")
        if folder == root:
            break
    old = root / "memory"
    found += _free_below(old / "memory.limit_in_bytes", old / "memory.usage_in_bytes", old / "memory.stat", "total_")
    return found


def _own_cgroup(root: Path) -> Path:
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return root
    named = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    folder = root / named[0] if named else root
    return folder if folder.is_dir() else root


def _free_below(limit: Path, used: Path, statistics: Path, prefix: str) -> list[int]:
    try:
        text = limit.read_text(encoding="utf-8").strip()
        if text == "max" or int(text) >= _V1_UNLIMITED:
            return []
        stat = dict(line.split() for line in statistics.read_text(encoding="utf-8").splitlines())
        droppable = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
        return [max(0, int(text) - int(used.read_text(encoding="utf-8")) + droppable)]
    except (OSError, ValueError):
        return []


def _own_mib() -> int:
    """Graphics memory that this process and those below it hold."""
    own = {process.pid for process in _own_processes()}
    try:
        rows = [row.split(",") for row in _ask("--query-compute-apps=pid,used_memory")]
        return sum(int(used) for pid, used in rows if int(pid) in own)
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0


def _ask(query: str) -> list[str]:
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=QUERY_TIMEOUT_S).stdout
    return answer.splitlines()


def _own_processes() -> list[psutil.Process]:
    process = psutil.Process()
    return [process, *process.children(recursive=True)]


def held_bytes(process: psutil.Process) -> int:
    """RAM that the process holds, 0 where it has ended: without the pages of files that it reads through the memory,
    weights above all, since the system takes those back whenever it needs them. Only Linux tells them apart."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
        known = dict(line.split(":", 1) for line in lines if ":" in line)
        return sum(int(known[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024
    except (OSError, KeyError):
        pass
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0
