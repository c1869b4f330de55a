"""What is worth knowing before a video is made of a picture and a sentence. Makes none, and asks nobody outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from i2v_pipeline.advice import training_findings
from i2v_pipeline.errors import PictureError
from i2v_pipeline.images import Picture, open_picture
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.tokens import token_counter
from i2v_pipeline.types import Finding, GenerationRequest, Motion, Subject, Text
from prompt_refiner import RefineResult
from studio.page.words import MATCH, WARNINGS
from studio.recipe import Choice, compose, motion_of, origin_of, style_of


def find_findings(
    images: Sequence[Path], prompt: str, spec: EngineSpec, subjects: Sequence[Subject] = ()
) -> tuple[Finding, ...]:
    """Everything about these pictures and this sentence with the engine's standard settings, the worst first.

    The sentence is read by the offline rules. Raises `PictureError`, and `RequestError` for too many references.
    """
    from i2v_pipeline.checks import check_request
    from i2v_pipeline.inspection.preflight import request_findings
    from prompt_refiner import load_settings, refine

    picture = open_picture(images[0])
    # Read as typed: the length that counts is that of the person's own sentence.
    read = refine(prompt, style=style_of(spec), settings=load_settings(), mode="offline") if prompt.strip() else None
    request = compose(
        spec,
        Choice(seed=0, further_images=tuple(images[1:]), subjects=tuple(subjects)),
        image=images[0],
        image_size=(picture.width, picture.height),
        prompt=prompt,
        origin=origin_of(prompt, None),
        motion=motion_of(read) if read else Motion(),
    )
    if spec.takes.references:
        check_request(spec, request)
    findings = (
        *(_of_references(request) if spec.takes.references else _of_picture(picture)),
        *request_findings(
            spec,
            request,
            source_size=(picture.width, picture.height),
            count_tokens=token_counter(spec),
            compound=read is not None and read.compound,
        ),
        *training_findings(spec, request),
    )
    said = {finding.code for finding in findings}
    if not spec.takes.moves_subject:
        # With a subject that stands still the camera cannot be in conflict.
        said.add("camera_subject_conflict")
    words = (finding for finding in _words_of(read) if finding.code not in said)
    return tuple(sorted((*findings, *words), key=lambda finding: ("error", "warn", "info").index(finding.severity)))


def _of_picture(picture: Picture) -> tuple[Finding, ...]:
    from i2v_pipeline.inspection.preflight import picture_findings
    from i2v_pipeline.inspection.subjects import SubjectFinder, subject_findings

    found = subject_findings(SubjectFinder().find(picture.pixels))
    return (*picture.notes, *picture_findings(picture.pixels), *found)


def _of_references(request: GenerationRequest) -> Iterator[Finding]:
    from i2v_pipeline.inspection.references import reference_findings
    from i2v_pipeline.inspection.subjects import SubjectFinder
    from i2v_pipeline.subjects import name_of, prepare_reference

    finder, size = SubjectFinder(), (request.width, request.height)
    for place, (image, subject) in enumerate(zip(request.images, request.subjects, strict=True), 1):
        picture, name = open_picture(image), name_of(place, subject)
        yield from reference_findings(picture, name, size, finder.find(picture.pixels))
        try:
            prepare_reference(picture, subject, *size)
        except PictureError as error:
            message = Text(f"{name.en}: {error.text.en}", f"{name.zh}：{error.text.zh}")
            yield Finding(code="reference_not_cut_out", severity="error", message=message)


def _words_of(read: RefineResult | None) -> Iterator[Finding]:
    """What the rules say of the sentence, and whether anybody held it against the picture."""
    for code in read.warnings if read else ():
        yield Finding(code=code, severity="warn", message=WARNINGS[code])
    verdict = read.image_text_match.verdict if read else "unknown"
    severity = "info" if verdict in ("match", "unknown") else "warn"
    yield Finding(code=f"match_{verdict}", severity=severity, message=MATCH[verdict])
