"""Missing engines: listed with their reason at the end, and failures where CI=true."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

_MISSING: list[tuple[str, str]] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test that needs an engine into a failure under CI=true: there, nothing may be missing."""
    report = yield
    engine = item.get_closest_marker("engine")
    if engine and report.skipped and call.excinfo is not None and call.excinfo.errisinstance(pytest.skip.Exception):
        _MISSING.append((item.nodeid, str(call.excinfo.value)))
        if os.environ.get("CI") == "true":
            report.outcome = "failed"
            report.longrepr = f"engine missing under CI=true: {call.excinfo.value}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _MISSING:
        terminalreporter.section("tests that could not run here")
        for test, reason in _MISSING:
            terminalreporter.line(f"{test}: {reason}")
