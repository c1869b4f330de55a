"""The rules of the house that no linter holds: who may import whom, pinned dependencies, sizes. Reads source only."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("i2v_pipeline", "prompt_refiner", "studio", "bench", "scripts", "tests")
SOURCES = sorted([ROOT / "app.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))])

# The project's own packages that each may import, itself included. Whatever stands further left knows more.
MAY_IMPORT = {
    "app": {"studio"},
    "studio": {"studio", "i2v_pipeline", "prompt_refiner"},
    "prompt_refiner": {"prompt_refiner"},
    "i2v_pipeline": {"i2v_pipeline"},
    "scripts": set(),
}
# Where a library may be imported at all: each has one owner, so that replacing it touches one place.
OWNERS = {
    "gradio": ("studio/page/", "studio/server.py"),
    "openai": ("prompt_refiner/",),
    "torch": ("i2v_pipeline/engines/", "i2v_pipeline/denoise.py", "i2v_pipeline/kaleido/"),
    "diffusers": ("i2v_pipeline/engines/",),
    "transformers": ("i2v_pipeline/engines/",),
    "tokenizers": ("i2v_pipeline/tokens.py",),
}
MAX_FUNCTION_LINES = 120
MAX_FILE_LINES = 500


@dataclass(frozen=True, kw_only=True)
class Import:
    """`from i2v_pipeline.types import Plan` at a line of a file is the module `i2v_pipeline.types`."""

    file: str
    line: int
    module: str

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in SOURCES:
        yield name_of(path), ast.parse(path.read_text(encoding="utf-8"))


def imports() -> Iterator[Import]:
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(file=file, line=node.lineno, module=alias.name)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}:{node.lineno} is a relative import; write the whole name"
                assert node.module is not None
                yield Import(file=file, line=node.lineno, module=node.module)


def owner_of(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


def test_dependencies_point_one_way() -> None:
    own = {*MAY_IMPORT, "bench", "tests"}
    wrong = [
        str(found)
        for found in imports()
        if found.top in own and found.top not in MAY_IMPORT.get(owner_of(found.file), own)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_types_stand_on_nothing_and_the_errors_on_the_types() -> None:
    allowed = {"i2v_pipeline/types.py": set(), "i2v_pipeline/errors.py": {"i2v_pipeline.types"}}
    for file, modules in allowed.items():
        project = {found.module for found in imports() if found.file == file and found.top in MAY_IMPORT}
        assert project <= modules


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_by_its_owner_alone(library: str) -> None:
    wrong = [
        str(found)
        for found in imports()
        if found.top == library and not found.file.startswith((*OWNERS[library], "tests/", "bench/"))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_command_line_answers_without_loading_the_page_or_the_llm_client() -> None:
    program = "import sys, studio.cli; print([name for name in ('gradio', 'openai', 'torch') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_every_direct_dependency_is_pinned_and_has_its_reason_in_the_design() -> None:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    section = design.partition("\n## Dependencies\n")[2].partition("\n## ")[0]
    reasons = dict(re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]+) \|", section, flags=re.MULTILINE))
    assert set(pinned()) == set(reasons)
    assert all(reason.strip() for reason in reasons.values())


def test_every_library_that_the_program_imports_is_pinned() -> None:
    provided = {file.parts[0].removesuffix(".py") for name in pinned() for file in metadata.files(name) or ()}
    wanted = {
        found.top
        for found in imports()
        if owner_of(found.file) in MAY_IMPORT and found.top not in {*MAY_IMPORT, *sys.stdlib_module_names}
    }
    assert wanted - provided == set()


def pinned() -> list[str]:
    """The packages of requirements.txt; each line must be one exact version."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = []
    for line in lines:
        if line.strip() and not line.startswith("#"):
            pin = re.match(r"([a-z0-9-]+)==[0-9][0-9.]*( *;|$)", line)
            assert pin, f"not pinned exactly: {line}"
            names.append(pin[1])
    return names


def test_functions_and_files_stay_readable() -> None:
    too_long = [
        f"{name_of(path)} has {lines} lines"
        for path in SOURCES
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    ]
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    too_long.append(f"{file}:{node.lineno} {node.name} has {lines} lines")
    assert not too_long, "\n".join(too_long)


def test_no_exception_is_caught_without_its_name() -> None:
    bare = [
        f"{file}:{node.lineno}"
        for file, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert not bare, "\n".join(bare)


def test_every_module_says_what_it_is() -> None:
    silent = [file for file, tree in trees() if tree.body and not ast.get_docstring(tree)]
    assert not silent, "\n".join(silent)
