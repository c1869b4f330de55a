"""What a picture is of, as far as that is worth knowing before a run: no clear subject, several, small, near the edge.

The subject that stands out is a shape, so people who stand together are one; their faces tell them apart. Knows no
request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from i2v_pipeline.inspection.faces import Face, FaceNetwork
from i2v_pipeline.types import Finding, Severity, Text, U8Image

if TYPE_CHECKING:
    from i2v_pipeline.engines.camera.subject import Subject

MIN_SUBJECT_SHARE = 0.03
SURENESS = (0.35, 0.5, 0.85)
"""Where the mask is cut: what hangs together at one of these may be apart at another, and a second subject that the
network is less sure of shows at the lowest alone."""
MIN_SECOND_SHARE, MIN_SECOND_OF_FIRST = 0.01, 0.3
NECK_SHARE, MIN_SECOND_CORE = 0.5, 0.6
"""Subjects that touch hang together by a neck: without what is nearer to the outline than this share of the deepest
place, they fall apart into cores of which the second has at least that share of the first's area. A single thing's
second core is smaller: up to 0.49, of a dragon with wings."""
MAX_OFF_CENTRE = 0.27
"""Further than the thirds that photographers aim at: from 0.5 to 0.77 of the width or height."""
OFF_CENTRE_AREA = 0.3
"""A larger subject fills the picture, wherever its middle is."""
MIN_FACE, MIN_FACE_OF_TALLEST = 0.025, 0.5
"""Of the picture's height, and of the tallest face: who is smaller than this passes by in the background."""

LONE_FACE_SCORE = 0.7
"""Leaves and rocks look like a face now and then, up to 0.53 so in landscapes; two of one height they never were."""

NAME_THE_ONE = Text("Name the one that moves, or crop to it.", "请写明运动的主体，或裁剪到该主体。")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the two networks see in one picture."""

    subject: Subject
    faces: tuple[Face, ...] = ()


class SubjectFinder:
    """Both networks, loaded. Raises `StudioError` where the file of one is missing or is not the one it should be."""

    def __init__(self) -> None:
        # The page asks this of few pictures, and loads no engine before it does.
        from i2v_pipeline.engines.camera.subject import SubjectNetwork

        self._subject, self._faces = SubjectNetwork(), FaceNetwork()

    def find(self, pixels: U8Image) -> Found:
        """Looks at one RGB picture."""
        return Found(subject=self._subject.find_small(pixels), faces=self._faces.find(pixels))


def subject_findings(found: Found) -> tuple[Finding, ...]:
    """What is to say about the subjects: none that is clear, several, small, far from the middle."""
    return tuple(_subject_findings(found))


def _subject_findings(found: Found) -> Iterator[Finding]:
    subject, people = found.subject, _people(found.faces)
    if people > 1:
        yield _finding(
            "multiple_subjects",
            f"There are at least {people} faces in the picture: the prompt should say who moves.",
            f"图中至少有 {people} 张人脸：提示词应说明由谁运动。",
            remedy=NAME_THE_ONE,
        )
        return
    if not subject.found:
        if not any(face.score >= LONE_FACE_SCORE for face in found.faces):
            yield _finding(
                "no_subject",
                "No clear subject stands out. A landscape may well be so; an action has nobody to do it.",
                "没有突出的主体。风景图可以如此；但如要求动作，则没有执行者。",
                severity="info",
            )
        return
    several = _count(subject.mask, has_face=people > 0)
    if several > 1:
        yield _finding(
            "multiple_subjects",
            f"There are {several} separate subjects: the prompt should say which of them moves.",
            f"图中有 {several} 个独立的主体：提示词应说明由哪一个运动。",
            remedy=NAME_THE_ONE,
        )
        return
    if subject.area_share < MIN_SUBJECT_SHARE:
        yield _finding(
            "tiny_subject",
            f"The subject fills {100 * subject.area_share:.1f} % of the picture: its movement will hardly be seen.",
            f"主体只占画面的 {100 * subject.area_share:.1f}%：动作几乎看不清。",
            remedy=Text("Crop closer to it.", "请裁剪得离主体更近。"),
        )
    rows, columns = np.nonzero(subject.mask > 0.5)
    middle = np.array((columns.mean(), rows.mean())) / subject.mask.shape[::-1]
    if subject.area_share < OFF_CENTRE_AREA and np.abs(middle - 0.5).max() > MAX_OFF_CENTRE:
        yield _finding(
            "subject_off_centre",
            "The subject is near the edge of the picture and may leave it when it or the camera moves.",
            "主体靠近画面边缘，运动时可能移出画面。",
            remedy=Text("Crop so that it stands nearer to the middle.", "请裁剪，使主体更靠近中央。"),
            severity="info",
        )


def _people(faces: Sequence[Face]) -> int:
    """How many people the picture is of: faces that are not much smaller than the tallest."""
    tallest = max((face.height for face in faces), default=0.0)
    return sum(face.height >= max(MIN_FACE, MIN_FACE_OF_TALLEST * tallest) for face in faces)


def _count(mask: npt.NDArray[np.float32], *, has_face: bool) -> int:
    """How many subjects there are: parts that do not hang together, or the cores of one part that does by a neck.

    With a face in the picture the neck is one's own, between head and shoulders.
    """
    apart = max(_parts(mask > level) for level in SURENESS)
    if apart > 1 or has_face:
        return apart
    count, labels, boxes, _ = cv2.connectedComponentsWithStats((mask > 0.5).astype(np.uint8))
    areas = boxes[1:count, cv2.CC_STAT_AREA]
    depth = cv2.distanceTransform((labels == 1 + int(np.argmax(areas))).astype(np.uint8), cv2.DIST_L2, 3)
    count, _, boxes, _ = cv2.connectedComponentsWithStats((depth > NECK_SHARE * depth.max()).astype(np.uint8))
    cores = boxes[1:count, cv2.CC_STAT_AREA]
    return int((cores >= MIN_SECOND_CORE * cores.max()).sum())


def _parts(inside: npt.NDArray[np.bool_]) -> int:
    count, _, boxes, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8))
    areas = boxes[1:count, cv2.CC_STAT_AREA]
    return int((areas >= max(MIN_SECOND_SHARE * inside.size, MIN_SECOND_OF_FIRST * areas.max(initial=0))).sum())


def _finding(code: str, en: str, zh: str, *, remedy: Text | None = None, severity: Severity = "warn") -> Finding:
    return Finding(code=code, severity=severity, message=Text(en, zh), remedy=remedy)
