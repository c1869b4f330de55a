"""What the page works with: the store, the engines, the refiner's settings, the examples. Knows no component."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from i2v_pipeline.images import open_picture
from i2v_pipeline.inspection.preflight import picture_findings
from i2v_pipeline.inspection.subjects import SubjectFinder, subject_findings
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Finding, Text
from prompt_refiner import RefinerSettings
from studio.jobs.store import JobStore
from studio.jobs.types import Job

EXAMPLES_FOLDER = Path(__file__).resolve().parents[2] / "examples"
THUMBNAIL_SIDE = 320


@dataclass(frozen=True, kw_only=True)
class Example:
    """A picture to try the studio with, and a prompt that fits it."""

    path: Path
    title: Text
    prompt: Text


@dataclass(frozen=True, kw_only=True)
class PictureFacts:
    """What the form needs to know of a picture: its upright size in pixels, and what was noticed in it."""

    width: int
    height: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class Services:
    """What every page, endpoint and route shares."""

    store: JobStore
    engines: Mapping[str, EngineSpec]
    refiner: RefinerSettings
    examples: tuple[Example, ...]

    def find_job(self, job_id: str | None, owner: str) -> Job | None:
        """The job with that id, if there is one and it is the owner's."""
        job = self.store.get(job_id) if job_id else None
        return job if job is not None and job.owner == owner and job.deleted is None else None


class _Words(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    en: Annotated[str, Field(min_length=1)]
    zh: Annotated[str, Field(min_length=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    file: str
    title: _Words
    prompt: _Words


def load_examples(folder: Path = EXAMPLES_FOLDER) -> tuple[Example, ...]:
    """The examples of `examples.yaml`, in its order."""
    entries = TypeAdapter(list[_Entry]).validate_python(
        yaml.safe_load((folder / "examples.yaml").read_text(encoding="utf-8"))
    )
    return tuple(
        Example(
            path=folder / entry.file,
            title=Text(entry.title.en, entry.title.zh),
            prompt=Text(entry.prompt.en, entry.prompt.zh),
        )
        for entry in entries
    )


@functools.lru_cache(maxsize=256)
def picture_facts(path: Path) -> PictureFacts:
    """Opens the picture whole; remembered, since an uploaded file lies under the hash of its content.

    Raises `PictureError`.
    """
    picture = open_picture(path)
    found = (*picture.notes, *picture_findings(picture.pixels))
    return PictureFacts(width=picture.width, height=picture.height, findings=found)


@functools.lru_cache(maxsize=256)
def subject_facts(path: Path) -> tuple[Finding, ...]:
    """What is to say of the picture's subjects; remembered, since that takes a second or so. Raises `PictureError`."""
    return subject_findings(SubjectFinder().find(open_picture(path).pixels))


@functools.lru_cache(maxsize=32)
def example_thumbnail(path: Path) -> bytes:
    """A small JPEG of an example picture."""
    with Image.open(path) as picture:
        picture.draft("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        small = ImageOps.contain(picture.convert("RGB"), (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
