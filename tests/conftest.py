"""Missing engines: listed with their reason at the end, and failures where CI=true."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

pytest_plugins = (
    "tests.servers",
    "tests.oss_server.fixtures",
    "tests.sshd",
)  # one server of a kind serves a whole session

_MISSING = "missing engine"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test that needs an engine into a failure under CI=true: there, nothing may be missing."""
    report = yield
    engine = item.get_closest_marker("engine")
    if engine and report.skipped and call.excinfo is not None and call.excinfo.errisinstance(pytest.skip.Exception):
        reason = str(call.excinfo.value)
        report.user_properties.append((_MISSING, reason))
        if os.environ.get("CI") == "true":
            report.outcome = "failed"
            report.longrepr = f"engine missing under CI=true: {reason}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for outcome in ("skipped", "failed") for report in terminalreporter.stats.get(outcome, [])]
    missing = [
        f"{report.nodeid}: {reason}"
        for report in reports
        for name, reason in report.user_properties
        if name == _MISSING
    ]
    if missing:
        terminalreporter.section("tests that could not run here")
        for line in missing:
            terminalreporter.line(line)
