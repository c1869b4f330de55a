"""The example pictures: complete, credited, small and without metadata. Knows no page."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ENTRIES = yaml.safe_load((EXAMPLES / "examples.yaml").read_text(encoding="utf-8"))
PICTURES = sorted(path.name for path in EXAMPLES.glob("*.jpg"))
# A JPEG that says nothing but how to decode itself.
TECHNICAL_INFO = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "progressive", "progression"}


def credited() -> list[str]:
    text = (EXAMPLES / "CREDITS.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 6 and all(cells), f"incomplete row: {row}"
    return sorted(row.split("`")[1] for row in rows)


def test_the_list_and_the_folder_hold_the_same_pictures() -> None:
    assert sorted(entry["file"] for entry in ENTRIES) == PICTURES
    assert PICTURES


def test_every_picture_is_credited_once_with_every_cell_filled() -> None:
    assert credited() == PICTURES


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["file"])
def test_every_entry_has_title_and_prompt_in_both_languages(entry: dict) -> None:
    assert set(entry) == {"file", "title", "prompt"}
    for field in ("title", "prompt"):
        assert set(entry[field]) == {"en", "zh"}
        assert entry[field]["en"].isascii()
        assert any("\u4e00" <= character <= "\u9fff" for character in entry[field]["zh"])


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_small_rgb_jpegs_without_metadata(name: str) -> None:
    with Image.open(EXAMPLES / name) as picture:
        assert picture.format == "JPEG"
        assert picture.mode == "RGB"
        assert max(picture.size) <= 1024
        assert not picture.getexif()
        assert set(picture.info) <= TECHNICAL_INFO


def test_all_pictures_together_stay_under_two_megabytes() -> None:
    assert sum((EXAMPLES / name).stat().st_size for name in PICTURES) < 2_000_000
