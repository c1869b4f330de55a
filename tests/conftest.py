"""What holds for all tests: with CI=true a skipped test is a failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

IS_CI = os.environ.get("CI") == "true"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if IS_CI and exitstatus == 0 and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if IS_CI:
        for skipped in terminalreporter.stats.get("skipped", ()):
            terminalreporter.write_line(f"FAILED {skipped.nodeid}: skipped, and with CI=true nothing may be")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a checkpoint with tiny random weights for an engine's id; each is built once."""
    import tiny_models  # torch and diffusers take seconds to import, and few tests need them
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoints")

    def build(engine_id: str) -> Path:
        if not (folder / engine_id).exists():
            tiny_models.save_checkpoint(engine_id, folder / engine_id)
        return folder / engine_id

    return build
