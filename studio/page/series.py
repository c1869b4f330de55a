"""What the form stands for: one complete request, or one for each of several pictures and prompts. No component."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2v_pipeline.checks import check_request
from i2v_pipeline.errors import InputError, RequestError
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import GenerationRequest, Text
from studio.jobs.types import MAX_WAITING
from studio.page.form import Values, read_choice, read_picture
from studio.page.refine import Proposal, motion_for, origin_for
from studio.page.services import Services, picture_facts
from studio.page.subjects import check_references, pictures_on
from studio.recipe import compose


@dataclass(frozen=True, kw_only=True)
class Series:
    """More pictures than the form's own, with the names they were given under, and the prompts if there are several.

    `prompts` is empty where the prompt box is one prompt.
    """

    pictures: tuple[tuple[str, Path], ...] = ()
    prompts: tuple[str, ...] = ()
    has_own_picture: bool = True

    @property
    def pictures_in_all(self) -> int:
        return len(self.pictures) + self.has_own_picture

    @property
    def videos(self) -> int:
        return max(1, self.pictures_in_all) * max(1, len(self.prompts))


def request_of(values: Values, proposal: Proposal | None, services: Services) -> GenerationRequest:
    """The complete, checked request that the form stands for. Raises `InputError`."""
    spec = services.engines[values["engine"]]
    prompt = values["prompt"] or ""
    image = read_picture(spec, values)
    facts = picture_facts(image)
    request = compose(
        spec,
        read_choice(spec, values),
        image=image,
        image_size=(facts.width, facts.height),
        prompt=prompt,
        origin=origin_for(prompt, proposal),
        motion=motion_for(prompt, proposal, spec, services),
    )
    check_request(spec, request)
    check_references(request)
    return request


def read_series(
    spec: EngineSpec, values: Values, uploads: Sequence[Mapping[str, Any]] | None, *, is_each_line: bool
) -> Series:
    """What the form and the files beside it hold, as an event brings them."""
    lines = [line.strip() for line in (values["prompt"] or "").splitlines()] if is_each_line else []
    return Series(
        pictures=tuple((str(upload.get("orig_name") or ""), Path(upload["path"])) for upload in uploads or ()),
        prompts=tuple(line for line in lines if line),
        has_own_picture=bool(pictures_on(spec, values)),
    )


def requests_of(
    values: Values, proposal: Proposal | None, series: Series, services: Services
) -> list[GenerationRequest]:
    """A complete, checked request for each picture with each prompt, picture by picture.

    Raises `InputError`, which names the picture where there are several.
    """
    if series.videos > MAX_WAITING:
        raise RequestError(
            f"{series.videos} videos at once: at most {MAX_WAITING} may wait. Take fewer pictures or prompts.",
            f"一次生成 {series.videos} 个视频：最多可排队 {MAX_WAITING} 个。请减少图像或提示词。",
        )
    if series.pictures and services.engines[values["engine"]].takes.references:
        raise RequestError(
            "More pictures at once: this engine makes one video of all its references. Take them out of “Several at "
            "once”, or put them beside the others as references.",
            "一次多张图像：该引擎用全部参考图生成一个视频。请从“一次生成多个”中移除，或放入参考图。",
        )
    return list(_each_request(values, proposal, series, services))


def count_words(series: Series) -> Text:
    """`6 videos: 3 pictures × 2 prompts`."""
    pictures, prompts = max(1, series.pictures_in_all), max(1, len(series.prompts))
    return Text(
        f"{series.videos} videos: {_of(pictures, 'picture')} × {_of(prompts, 'prompt')}",
        f"{series.videos} 个视频：{pictures} 张图像 × {prompts} 条提示词",
    )


def _each_request(
    values: Values, proposal: Proposal | None, series: Series, services: Services
) -> Iterator[GenerationRequest]:
    own: list[tuple[str, Values]] = [("", {})] if series.has_own_picture or not series.pictures else []
    further = ((name, {"image": picture}) for name, picture in series.pictures)
    for name, picture in (*own, *further):
        for prompt in series.prompts or (values["prompt"],):
            # A refinement belongs to the whole box, not to one of its lines.
            origin = None if series.prompts else proposal
            try:
                yield request_of({**values, **picture, "prompt": prompt}, origin, services)
            except InputError as error:
                if not name:
                    raise
                raise InputError(f"{name}: {error.text.en}", f"{name}：{error.text.zh}") from error


def _of(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
