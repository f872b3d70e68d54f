"""README, runbooks and contrib say only what is so: their commands, statuses, links and examples fit the code."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import click
import pytest

import drtool.errors
from drtool import __version__
from drtool.cli import cli
from drtool.config import read_config
from drtool.config_stores import StoreTable
from drtool.core.schedule import JOBS, Site, cron_file, cron_name, units
from drtool.errors import DrtoolError
from drtool.streams import parse_recipients

ROOT = Path(__file__).parent.parent.parent
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "runbooks").glob("*.md"), ROOT / "benchmarks/README.md")
UNITS = sorted((ROOT / "contrib/systemd").iterdir())
CRON = ROOT / "contrib/cron/drtool"


def texts() -> list[Path]:
    return sorted({*PAGES, *UNITS, CRON, ROOT / "policies/README.md"})


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every drtool command that a document tells to run, and where."""
    for path in texts():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = re.match(r"\s*(?:\$ |ExecStart=\S*/|(?:[\d*/,-]+ ){5}root (?:\S*/)?)?(drtool .*)", line)
            if found and " — " not in line and not line.strip().startswith("drtool/"):
                yield f"{path.relative_to(ROOT)}:{number}", shlex.split(found[1], comments=True)[1:]
            for quoted in re.findall(r"`drtool ([a-z][^`]*)`", line):
                yield f"{path.relative_to(ROOT)}:{number}", shlex.split(quoted)


COMMAND_LINES = list(command_lines())


@pytest.mark.parametrize("words", [words for _, words in COMMAND_LINES], ids=[where for where, _ in COMMAND_LINES])
def test_every_command_of_the_documents_is_one(words: list[str]) -> None:
    parse(words)


def parse(words: list[str]) -> None:
    """Parse as the program does, and run nothing. Raises click.UsageError."""
    with cli.make_context("drtool", list(words)) as outer:
        name, command, rest = cli.resolve_command(outer, [*getattr(outer, "_protected_args", []), *outer.args])
        assert command is not None
        try:
            command.make_context(name, rest, parent=outer)
        except click.MissingParameter:
            if len(words) > 1:  # the name alone speaks about the command
                raise


def test_the_parser_of_this_test_refuses_what_the_program_refuses() -> None:
    for words in (["nope"], ["backup", "--nope"], ["restore", "latest", "--yes"], ["verify", "--level", "deep"]):
        with pytest.raises(click.UsageError):
            parse(words)


def test_the_documents_show_every_command() -> None:
    assert {words[0] for _, words in COMMAND_LINES if words} >= set(cli.commands)


def test_every_make_target_of_the_documents_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for path in PAGES for name in re.findall(r"^(?:\$ )?make (\w+)|`make (\w+)`", path.read_text(), re.M)}
    wanted = {first or second for first, second in named}
    assert wanted == {"demo", "test", "bench"}
    assert wanted <= targets


def test_the_readme_lists_the_exit_statuses_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| ([\w, ]*)\| .+ \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    listed = {(int(status), name.strip()) for status, names in rows for name in names.split(",") if name.strip()}
    classes = [kind for _, kind in inspect.getmembers(drtool.errors, inspect.isclass) if issubclass(kind, DrtoolError)]
    assert listed == {(kind.exit_status, kind.__name__) for kind in classes}
    assert {int(status) for status, names in rows if not names.strip()} == {0, 2, 130, 141}


def test_the_readme_names_every_kind_of_store() -> None:
    kinds = [kind for table in get_args(get_args(StoreTable)[0]) for kind in get_args(get_type_hints(table)["kind"])]
    assert set(re.findall(r"`(\w+)`: ", (ROOT / "README.md").read_text())) == set(kinds)


def test_the_runbook_of_failed_backups_names_only_statuses_there_are() -> None:
    statuses = re.findall(r"^\| (\d+) \|", (ROOT / "runbooks/a-nightly-backup-failed.md").read_text(), re.MULTILINE)
    known = re.findall(r"^\| (\d+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert statuses
    assert set(statuses) <= set(known)


def test_every_link_leads_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            if target.startswith("https://"):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path) if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.name}: {target}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitLab and GitHub make them of plain words."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_promise_names_its_tests_or_says_that_there_is_none() -> None:
    rows = re.findall(r"^\| (I\d+) \| .+? \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == [f"I{number}" for number in range(1, 12)]
    for name, proof in rows:
        assert "tests/" in proof or proof.startswith("not yet"), name


def test_the_changelog_has_this_version_on_top() -> None:
    versions = re.findall(r"^## \[(.+?)\] - \S+", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == __version__


def test_the_examples_are_configurations(tmp_path: Path) -> None:
    count = 0
    for page in PAGES:
        for block in re.findall(r"^( *)```toml\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL):
            count += 1
            indent, text = block
            file = tmp_path / f"{count}.toml"
            file.write_text("\n".join(line.removeprefix(indent) for line in text.splitlines()))
            config = read_config(file)
            parse_recipients([key for table in config.instance for key in table.seal_to])
    assert count == 3


def test_the_documents_name_files_of_the_code_that_exist() -> None:
    layout = (ROOT / "README.md").read_text().partition("## The code")[2]
    for name in re.findall(r"drtool/[\w/]+(?:\.py|/)", layout):
        assert (ROOT / name).exists(), name


def test_the_files_for_cron_and_systemd_are_those_that_install_timer_writes() -> None:
    assert {unit.name: unit.read_text() for unit in UNITS} == units(Site())
    assert CRON.read_text() == cron_file(Site())
    assert CRON.name == cron_name(Site())


def test_the_cron_file_is_one() -> None:
    lines = [line for line in CRON.read_text().splitlines() if line and not line.startswith("#")]
    settings, entries = lines[:3], lines[3:]
    assert all(re.fullmatch(r"[A-Z]+=\S+", line) for line in settings)
    assert len(entries) == len(JOBS)
    assert all(re.fullmatch(r"\d+ \d+ \* \* [\d*] root /\S*/drtool [\w -]+ --quiet", line) for line in entries)
    assert CRON.read_text().endswith("\n")  # cron ignores a last line without its end
    assert "." not in CRON.name  # and files with a dot in their name


@pytest.fixture
def runnable_units(tmp_path: Path) -> list[Path]:
    """The units as they would be on a host whose drtool is that of these tests."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in UNITS:
        text = unit.read_text().replace("/usr/local/bin/drtool", str(Path(sys.executable).with_name("drtool")))
        (tmp_path / unit.name).write_text(text)
    return [tmp_path / unit.name for unit in UNITS]


@pytest.mark.engine("systemd-analyze")
def test_systemd_understands_the_units(runnable_units: list[Path]) -> None:
    assert analyze("verify", "--man=no", *runnable_units) == (0, "")


@pytest.mark.engine("systemd-analyze")
@pytest.mark.parametrize("line", ["ProtectSytem=strict", "Type=oneshod", "OnCalendar=nightly"])
def test_the_test_of_the_units_sees_what_systemd_only_warns_of(runnable_units: list[Path], line: str) -> None:
    for unit in runnable_units:
        unit.write_text(
            unit.read_text().replace("[Service]\n", f"[Service]\n{line}\n").replace("[Timer]\n", f"[Timer]\n{line}\n")
        )
    assert line.partition("=")[0] in analyze("verify", "--man=no", *runnable_units)[1]


@pytest.mark.engine("systemd-analyze")
@pytest.mark.parametrize("name", [unit.name for unit in UNITS if unit.suffix == ".service"])
def test_a_service_may_do_little_more_than_it_has_to(runnable_units: list[Path], name: str) -> None:
    (path,) = (unit for unit in runnable_units if unit.name == name)
    assert analyze("security", "--offline=true", "--threshold=25", path) == (0, "")
    path.write_text(path.read_text().replace("CapabilityBoundingSet=", "#"))
    assert analyze("security", "--offline=true", "--threshold=25", path)[0] == 1


def analyze(*words: object) -> tuple[int, str]:
    ran = subprocess.run(
        ["systemd-analyze", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )
    return ran.returncode, ran.stderr


def test_the_documents_name_no_place_of_the_machine_they_were_written_on() -> None:
    for path in texts():
        assert str(ROOT) not in path.read_text(), path
