"""A verdict as JUnit XML, which CI systems show beside tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from drtool.errors import ConfigError
from drtool.verify import StoreVerdict, Verdict

_NOT_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


def write_junit(path: Path, text: bytes) -> None:
    """Write the file. Raises ConfigError where it cannot be written."""
    try:
        path.write_bytes(text)
    except OSError as problem:
        raise ConfigError(
            f"{path}: cannot be written: {problem.strerror}", hint="Give --junit another place."
        ) from problem


def render_junit(verdict: Verdict, *, instance: str, store: str) -> bytes:
    """Write one test case per check; its problems are failures. Findings go to the suite's output."""
    return _text(_suite(verdict, instance, store))


def render_stores(found: Sequence[StoreVerdict], *, instance: str) -> bytes:
    """Write a suite per store: its first case is the store itself, which failed where there is no verdict."""
    suites = ElementTree.Element("testsuites", name=f"drtool verify {instance}")
    for each in found:
        if each.verdict:
            suite = _suite(each.verdict, f"{instance}.{each.store}", each.store)
        else:
            name, failed = f"drtool verify {instance}.{each.store}", str(len(each.problems))
            suite = ElementTree.Element("testsuite", name=name, tests="0", failures=failed, errors="0")
        suite.set("tests", str(int(suite.get("tests", "0")) + 1))
        case = ElementTree.Element("testcase", classname=f"{instance}.{each.store}", name="store")
        if each.error:
            _fail(case, str(each.error))
        suite.insert(len(suite.findall("properties")), case)
        suites.append(suite)
    return _text(suites)


def _suite(verdict: Verdict, instance: str, store: str) -> ElementTree.Element:
    failed = sum(bool(check.problems) for check in verdict.checks)
    suite = ElementTree.Element(
        "testsuite",
        name=f"drtool verify {instance} {verdict.set_id}",
        tests=str(len(verdict.checks)),
        failures=str(failed),
        errors="0",
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("store", store), ("level", verdict.level), ("signature", verdict.signature)):
        ElementTree.SubElement(properties, "property", name=name, value=value)
    for check in verdict.checks:
        case = ElementTree.SubElement(suite, "testcase", classname=f"{instance}.{verdict.level}", name=check.name)
        for problem in check.problems:
            _fail(case, problem)
    if verdict.findings:
        lines = "\n".join(f"{finding.code}: {finding.message}" for finding in verdict.findings)
        ElementTree.SubElement(suite, "system-out").text = _clean(lines)
    return suite


def _fail(case: ElementTree.Element, problem: str) -> None:
    failure = ElementTree.SubElement(case, "failure", message=_clean(problem).splitlines()[0])
    failure.text = _clean(problem)


def _text(root: ElementTree.Element) -> bytes:
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
