"""Holds the findings before a run against labelled pictures: precision and recall of each, and what they cost.

Pictures are the example photographs, damaged in known ways, and drawn posters and scenes. The thresholds were set while
looking at these photographs, so precision on other photographs may be lower; only the posters are new with each seed.
Prints a table and writes bench/results/preflight.json.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Run as a file, this program finds the project only now.
from i2v_pipeline.engines.camera.subject import SubjectNetwork  # noqa: E402
from i2v_pipeline.images import open_picture  # noqa: E402
from i2v_pipeline.inspection.preflight import picture_findings, subject_findings  # noqa: E402
from i2v_pipeline.types import U8Image  # noqa: E402

RESULT_PATH = ROOT / "bench" / "results" / "preflight.json"
EXAMPLES = tuple(sorted((ROOT / "examples").glob("*.jpg")))
WORDS = ("summer", "sale", "half", "price", "open", "today", "music", "market", "river", "night", "free", "tickets")
SUBJECTS = ("flower", "coffee", "astronaut")
NO_SUBJECT = ("mountains", "stream", "sunset")

Labelled = tuple[str, U8Image, frozenset[str]]
"""A name, the picture, and the codes that are true of it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=41)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    network = SubjectNetwork()
    fast = list(fast_pictures(np.random.default_rng(arguments.seed)))
    slow = list(scenes(network))
    seconds: list[float] = []

    def found(pixels: U8Image) -> set[str]:
        begun = time.perf_counter()
        codes = {finding.code for finding in picture_findings(pixels)}
        seconds.append(time.perf_counter() - begun)
        return codes

    fast_table, fast_wrong = score([(name, true, found(pixels)) for name, pixels, true in fast])
    slow_table, slow_wrong = score(
        [(name, true, {each.code for each in subject_findings(network.find(pixels))}) for name, pixels, true in slow]
    )
    result = {
        "command": f"python bench/preflight.py --seed {arguments.seed}",
        "machine": f"{platform.processor() or platform.machine()}, one thread, OpenCV {cv2.__version__}",
        "pictures": {"without_network": len(fast), "with_network": len(slow)},
        "seconds_without_network": {
            "median": round(float(np.median(seconds)), 3),
            "largest": round(max(seconds), 3),
        },
        "findings": {**fast_table, **slow_table},
        "wrong": fast_wrong + slow_wrong,
    }
    RESULT_PATH.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for code, row in result["findings"].items():
        print(f"{code:20}", row)
    print(result["seconds_without_network"], *result["wrong"], sep="\n")
    return 0


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


def fast_pictures(rng: np.random.Generator) -> Iterator[Labelled]:
    """Each photograph as it is and harmlessly changed, then damaged; then posters."""
    for path in EXAMPLES:
        name, pixels = path.stem, open_picture(path).pixels
        yield name, pixels, frozenset()
        yield f"{name}, quality 80", saved(pixels, 80), frozenset()
        yield f"{name}, three quarters", scaled(pixels, 0.75 * max(pixels.shape)), tiny_or_not(pixels, 0.75)
        yield f"{name}, blur 5", blurred(pixels, 5), frozenset({"blurry"})
        yield f"{name}, blur 8", blurred(pixels, 8), frozenset({"blurry"})
        yield f"{name}, quality 8", saved(pixels, 8), frozenset({"picture_blocky"})
        yield f"{name}, quality 12", saved(pixels, 12), frozenset({"picture_blocky"})
        yield f"{name}, tiny", scaled(pixels, 200), frozenset({"picture_small"})
        yield f"{name}, dark", (pixels * 0.2).astype(np.uint8), frozenset({"picture_dark"})
        yield f"{name}, poster", poster(rng, pixels), frozenset({"text_poster"})
    for place in range(12):
        yield f"poster {place}", saved(poster(rng), 85), frozenset({"text_poster"})
    for level in (40, 128, 245):
        flat = np.full((480, 640, 3), level) + rng.normal(0, 3, (480, 640, 3))
        true = {"picture_one_colour"} | ({"picture_dark"} if level < 60 else set())
        yield f"one colour {level}", np.clip(flat, 0, 255).astype(np.uint8), frozenset(true)


def scenes(network: SubjectNetwork) -> Iterator[Labelled]:
    """Subjects cut from photographs, set into a soft background: once, twice, small, at the edge. And landscapes."""
    for name in NO_SUBJECT:
        yield f"{name}, subject", open_picture(ROOT / "examples" / f"{name}.jpg").pixels, frozenset({"no_subject"})
    for name in SUBJECTS:
        pixels = open_picture(ROOT / "examples" / f"{name}.jpg").pixels
        mask = network.find(pixels).mask
        for what, places, true in (
            ("one", [(0.5, 0.5, 0.7)], None),
            ("third", [(0.36, 0.5, 0.6)], None),
            ("two", [(0.25, 0.5, 0.55), (0.75, 0.5, 0.55)], "multiple_subjects"),
            ("three", [(0.18, 0.5, 0.4), (0.5, 0.5, 0.4), (0.82, 0.5, 0.4)], "multiple_subjects"),
            ("small", [(0.5, 0.5, 0.19)], "tiny_subject"),
            ("edge", [(0.85, 0.5, 0.5)], "subject_off_centre"),
        ):
            yield f"{name}, {what}", scene(pixels, mask, places), frozenset({true} if true else ())


def scene(pixels: U8Image, mask: np.ndarray, places: list[tuple[float, float, float]]) -> U8Image:
    """The subject of `pixels` at each place: x and y of its middle as shares, and its height as a share."""
    height, width = 540, 960
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


def poster(rng: np.random.Generator, background: U8Image | None = None) -> U8Image:
    """Five lines of words, black or white, over one colour or over a photograph."""
    width, height = ((600, 800), (1280, 720), (900, 900))[int(rng.integers(3))]
    if background is None:
        image = Image.new("RGB", (width, height), tuple(int(level) for level in rng.integers(0, 256, 3)))
    else:
        image = Image.fromarray(background).resize((width, height))
    ink = "white" if np.array(image).mean() < 128 else "black"
    draw, top = ImageDraw.Draw(image), 0.05 * height
    for share in (0.085, 0.06, 0.05, 0.045, 0.05):
        size = share * min(width, height) * rng.uniform(0.9, 1.2)
        text = " ".join(rng.choice(WORDS, 3))
        font = ImageFont.load_default(size)
        draw.text((0.05 * width, top), text.upper() if rng.random() < 0.4 else text, fill=ink, font=font)
        top += 2.2 * size
    return np.array(image)


def blurred(pixels: U8Image, thousandths: float) -> U8Image:
    """A Gaussian of this sigma, in thousandths of the longer side."""
    return cv2.GaussianBlur(pixels, (0, 0), thousandths * max(pixels.shape) / 1000).astype(np.uint8)


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
