"""A verdict as JUnit XML, which CI systems show beside tests."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from drtool.errors import ConfigError
from drtool.verify import Verdict

_NOT_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


def write_junit(path: Path, verdict: Verdict, *, instance: str, store: str) -> None:
    """Write the file. Raises ConfigError where it cannot be written."""
    try:
        path.write_bytes(render_junit(verdict, instance=instance, store=store))
    except OSError as problem:
        raise ConfigError(
            f"{path}: cannot be written: {problem.strerror}", hint="Give --junit another place."
        ) from problem


def render_junit(verdict: Verdict, *, instance: str, store: str) -> bytes:
    """Write one test case per check; its problems are failures. Findings go to the suite's output."""
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
            failure = ElementTree.SubElement(case, "failure", message=_clean(problem).splitlines()[0])
            failure.text = _clean(problem)
    if verdict.findings:
        lines = "\n".join(f"{finding.code}: {finding.message}" for finding in verdict.findings)
        ElementTree.SubElement(suite, "system-out").text = _clean(lines)
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)) + b"\n"


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
