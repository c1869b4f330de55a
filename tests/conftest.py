"""What holds for all tests: with CI=true a skipped test is a failure."""

from __future__ import annotations

import os

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
