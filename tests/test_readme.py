"""What the README says holds: its commands parse, its files are there, its settings are read. Runs no command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from studio.cli import build_parser
from studio.given_pictures import given_by

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(re.findall(r"^```[a-z]*\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^python app\.py (.+)$", BLOCKS, flags=re.MULTILINE)
LINKS = sorted(set(re.findall(r"\]\(([^)#:]+)\)", README)))
ENV_EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
VARIABLES = sorted(set(re.findall(r"\b([A-Z][A-Z0-9_]+)=", README + ENV_EXAMPLE)))


def test_the_readme_shows_each_command_of_the_command_line() -> None:
    assert {command.split()[0] for command in COMMANDS} == {
        *("serve", "generate", "check", "inspect", "rerun", "strip", "refine", "plan", "models", "doctor"),
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_is_one_that_the_program_takes(command: str) -> None:
    arguments = build_parser().parse_args(shlex.split(command, comments=True))
    references = getattr(arguments, "reference", None)
    pictures = given_by(arguments).images if references else (getattr(arguments, "image", None),)
    assert all(picture is None or (ROOT / picture).exists() for picture in pictures)


@pytest.mark.parametrize("link", LINKS)
def test_what_the_readme_links_is_there(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_that_people_are_told_of_is_read_by_the_program(variable: str) -> None:
    folders = (ROOT / "studio", ROOT / "i2v_pipeline", ROOT / "prompt_refiner", ROOT / "scripts")
    sources = [ROOT / "start_app.sh", *(path for folder in folders for path in folder.rglob("*.*"))]
    program = (path for path in sources if path.suffix in {".py", ".yaml", ".sh"})
    assert any(variable in path.read_text(encoding="utf-8") for path in program)
