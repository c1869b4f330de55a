"""What is worth knowing before a video is made of a picture and a sentence. Makes none, and asks nobody outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from i2v_pipeline.advice import training_findings
from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.tokens import token_counter
from i2v_pipeline.types import Finding, Motion
from prompt_refiner import RefineResult
from studio.page.words import MATCH, WARNINGS
from studio.recipe import Choice, compose, motion_of, origin_of, style_of


def find_findings(image: Path, prompt: str, spec: EngineSpec) -> tuple[Finding, ...]:
    """Everything about this picture and this sentence with the engine's standard settings, the worst first.

    The sentence is read by the offline rules. Raises `PictureError`.
    """
    from i2v_pipeline.engines.camera.subject import SubjectNetwork
    from i2v_pipeline.images import open_picture
    from i2v_pipeline.inspection.preflight import picture_findings, request_findings, subject_findings
    from prompt_refiner import load_settings, refine

    picture = open_picture(image)
    # Read as typed: the length that counts is that of the person's own sentence.
    read = refine(prompt, style=style_of(spec), settings=load_settings(), mode="offline") if prompt.strip() else None
    request = compose(
        spec,
        Choice(seed=0),
        image=image,
        image_size=(picture.width, picture.height),
        prompt=prompt,
        origin=origin_of(prompt, None),
        motion=motion_of(read) if read else Motion(),
    )
    findings = (
        *picture.notes,
        *picture_findings(picture.pixels),
        *subject_findings(SubjectNetwork().find(picture.pixels)),
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


def _words_of(read: RefineResult | None) -> Iterator[Finding]:
    """What the rules say of the sentence, and whether anybody held it against the picture."""
    for code in read.warnings if read else ():
        yield Finding(code=code, severity="warn", message=WARNINGS[code])
    verdict = read.image_text_match.verdict if read else "unknown"
    severity = "info" if verdict in ("match", "unknown") else "warn"
    yield Finding(code=f"match_{verdict}", severity=severity, message=MATCH[verdict])
