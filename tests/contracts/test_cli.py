"""The command line as scripts and terminals meet it: the real console script, in its own process."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.cli import cli
from drtool.errors import SetDamaged
from tests.playground import Playground, drtool, playground, wait_until

COMMANDS = [
    "init",
    "check",
    "backup",
    "list",
    "show",
    "verify",
    "copy",
    "status",
    "prune",
    "pin",
    "unpin",
    "pins",
    "discard",
    "notify",
    "install-timer",
    "fetch",
    "extract",
    "diff",
    "restore",
    "cutover",
    "isolation",
    "demo",
]
SDKS = ("boto3", "botocore", "oss2", "s3fs", "pydantic", "pyrage", "rich", "paramiko", "gitlab", "tenacity")
ESCAPE = "\x1b"

pytestmark = pytest.mark.engine("postgresql")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    """A playground with one set, shared: tests may add sets, and leave the host as it was."""
    with playground(tmp_path_factory.mktemp("cli")) as made:
        assert made.drtool("backup").status == 0
        yield made


# -- help ------------------------------------------------------------------------------------------------------------


def test_help_lists_the_commands_in_the_order_of_their_use() -> None:
    ran = drtool("--help")
    _, _, listed = ran.stdout.partition("Commands:\n")
    assert ran.status == 0
    assert [line.split()[0] for line in listed.splitlines()] == COMMANDS == list(cli.commands)


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_fits_on_a_terminal_and_is_never_cut(arguments: list[str]) -> None:
    ran = drtool(*arguments, environment={"COLUMNS": "80"})
    assert ran.status == 0
    assert ran.stderr == ""
    assert max(map(len, ran.stdout.splitlines())) <= 100
    assert "..." not in ran.stdout.replace("COMMAND [ARGS]...", "")


def test_help_loads_no_sdk() -> None:
    script = """
import sys
sys.argv = ["drtool", "--help"]
from drtool.cli import main
try:
    main()
finally:
    print("loaded:", *(name for name in sys.modules), file=sys.stderr)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = ran.stderr.removeprefix("loaded:").split()
    assert "drtool.cli" in loaded
    assert [name for name in loaded if name.partition(".")[0] in SDKS] == []


def test_a_wrong_command_line_ends_with_status_2() -> None:
    for arguments in (["backpu"], ["backup", "--nope"], ["show"], ["fetch", "latest"], ["restore", "latest"]):
        ran = drtool(*arguments)
        assert ran.status == 2, arguments
        assert ran.stdout == ""
        assert ran.stderr.startswith("Usage: drtool")


# -- what machines read ----------------------------------------------------------------------------------------------

READING = [
    ["list"],
    ["show", "latest"],
    ["verify"],
    ["verify", "latest", "--level", "present"],
    ["check"],
    ["backup", "--dry-run"],
]


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_json_is_one_object_per_line_and_ends_with_the_result(place: Playground, arguments: list[str]) -> None:
    ran = place.drtool(*arguments, "--json")
    assert ran.status == 0
    assert ran.stderr == ""
    assert [line["event"] for line in ran.lines if line["event"] in ("result", "error")] == ["result"]
    assert ran.last["event"] == "result"


def test_json_of_a_backup_tells_its_phases_and_then_its_manifest(place: Playground) -> None:
    ran = place.drtool("backup", "--json")
    begun = [line["phase"] for line in ran.lines if line["event"] == "phase_started"]
    ended = [line["phase"] for line in ran.lines if line["event"] == "phase_finished"]
    assert ran.status == 0
    assert begun == ended == ["look", "create", "send", "commit", "clean"]
    manifest = ran.last["manifest"]
    assert ran.last["continued"] is False
    assert place.drtool("list", "--json").last["sets"][-1]["set_id"] == manifest["set_id"]
    shown = place.drtool("show", "latest", "--json").last
    assert {**manifest, "event": "result"} == shown


def test_json_of_a_check_says_what_the_exit_status_says(place: Playground) -> None:
    config = place.configure("no-store.toml", (str(place.store), str(place.base / "nowhere")))
    ran = place.drtool("check", "--json", "-c", config)
    errors = [answer["error"] for answer in ran.last["answers"] if answer["error"]]
    assert [error["error"] for error in errors] == ["BucketMissing"]
    assert ran.status == errors[0]["exit_status"] == 12


def test_json_of_a_check_without_a_bad_answer_has_no_error(place: Playground) -> None:
    ran = place.drtool("check", "--json")
    assert ran.status == 0
    assert {answer["error"] for answer in ran.last["answers"]} == {None}


def test_json_of_a_damaged_set_says_what_the_exit_status_says(place: Playground) -> None:
    set_id = place.drtool("list", "--json").last["sets"][0]["set_id"]
    volume = place.store / "gitlab/sets" / set_id / "config-0000.tar.age"
    whole = volume.read_bytes()
    volume.write_bytes(whole[:-1])
    try:
        ran = place.drtool("verify", set_id, "--json")
        quiet = place.drtool("verify", set_id, "--quiet")
    finally:
        volume.write_bytes(whole)
    assert ran.status == quiet.status == SetDamaged.exit_status
    (problem,) = ran.last["problems"]
    assert problem.startswith(f"gitlab/sets/{set_id}/config-0000.tar.age: ")
    assert problem in quiet.stdout


def test_json_of_an_error_is_its_last_line_with_the_exit_status(place: Playground) -> None:
    ran = place.drtool("show", "20000101", "--json")
    assert (ran.last["event"], ran.last["error"]) == ("error", "SetMissing")
    assert ran.status == ran.last["exit_status"] == 14
    assert ran.last["hint"]
    assert ran.stderr == ""


# -- what people read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["check"], ["verify"], ["show", "nothing-like-it"]], ids=" ".join)
def test_pipes_get_no_escape_codes(place: Playground, arguments: list[str]) -> None:
    ran = place.drtool(*arguments)
    assert ran.stdout + ran.stderr != ""
    assert ESCAPE not in ran.stdout + ran.stderr


def test_colours_are_for_terminals_and_not_against_no_color(place: Playground) -> None:
    assert ESCAPE in _on_terminal(place, {})
    assert ESCAPE not in _on_terminal(place, {"NO_COLOR": "1"})


def _on_terminal(place: Playground, environment: dict[str, str]) -> str:
    """What ``check`` prints when standard output is a terminal."""
    reader, writer = pty.openpty()
    try:
        assert place.drtool("check", environment=environment, stdout=writer).status == 0
        return os.read(reader, 1 << 16).decode()
    finally:
        os.close(writer)
        os.close(reader)


@pytest.mark.parametrize("arguments", [["list"], ["check"], ["verify"], ["backup"]], ids=" ".join)
def test_quiet_prints_nothing_when_all_is_well(place: Playground, arguments: list[str]) -> None:
    ran = place.drtool(*arguments, "--quiet")
    assert (ran.status, ran.stdout, ran.stderr) == (0, "", "")


def test_quiet_prints_what_is_wrong(place: Playground) -> None:
    config = place.configure("no-gitlab.toml", (str(place.host.root), str(place.base / "nowhere")))
    checked = place.drtool("check", "--quiet", "-c", config)
    backed_up = place.drtool("backup", "--quiet", "-c", config)
    assert checked.status == backed_up.status == 6
    assert "no GitLab on local" in checked.stdout
    assert "no GitLab on local" in backed_up.stderr


def test_options_may_stand_before_and_after_the_command(place: Playground) -> None:
    config = ["--config", str(place.made.config)]
    before = drtool("--json", *config, "list")
    after = drtool("list", "--json", *config)
    mixed = drtool("--json", "list", *config)
    assert before.status == 0
    assert before.last["event"] == "result"
    assert before == after == mixed


def test_the_configuration_is_the_one_given_then_the_environment_then_here(place: Playground, tmp_path: Path) -> None:
    nowhere = {"DRTOOL_CONFIG": str(tmp_path / "nowhere.toml")}
    assert drtool("list", "-c", place.made.config, environment=nowhere).status == 0
    assert drtool("list", environment=nowhere, cwd=place.made.config.parent).status == 3
    assert drtool("list", cwd=place.made.config.parent).status == 0


@pytest.mark.parametrize("arguments", [["list"], ["verify", "--json"], ["list", "--help"]])
def test_a_reader_that_leaves_early_causes_no_traceback(place: Playground, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = place.drtool(*arguments, stdout=writer)
    finally:
        os.close(writer)
    assert ran.stderr == ""
    assert ran.status != 0


def test_an_error_keeps_its_status_when_nobody_reads_it(place: Playground) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        spoken = place.drtool("show", "nothing-like-it", stderr=writer)
        as_json = place.drtool("show", "nothing-like-it", "--json", stdout=writer)
    finally:
        os.close(writer)
    assert spoken.status == as_json.status == 14


# -- interrupted, and at the same time -------------------------------------------------------------------------------


def test_ctrl_c_in_a_backup_ends_with_130_and_the_next_one_works(place: Playground) -> None:
    before = place.drtool("list", "--json").last["sets"]
    status, stdout, stderr = _interrupt_backup(place)
    assert status == 130
    assert stderr.split()[0] == "interrupted"
    assert "Traceback" not in stdout + stderr
    assert place.drtool("list", "--json").last["sets"] == before
    again = place.drtool("backup")
    assert again.status == 0, again.stderr
    assert place.drtool("verify").status == 0
    assert len(place.drtool("list", "--json").last["sets"]) == len(before) + 1


def test_ctrl_c_is_a_line_of_json_too(place: Playground) -> None:
    status, stdout, stderr = _interrupt_backup(place, "--json")
    last = json.loads(stdout.splitlines()[-1])
    assert (last["event"], last["error"], last["exit_status"]) == ("error", "Interrupted", 130)
    assert status == 130
    assert stderr.strip() == ""
    assert place.drtool("backup").status == 0


def _interrupt_backup(place: Playground, *options: str) -> tuple[int, str, str]:
    """Send SIGINT while GitLab's own command is at work."""
    place.host.switch(pause="uploads:60")
    try:
        with place.start("backup", *options) as process:
            wait_until(lambda: place.host.lock.exists() and (place.host.backups / "db").exists())
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate()
    finally:
        place.host.switch(pause=None)
    return process.returncode, stdout, stderr


def test_a_second_backup_ends_at_once_and_names_the_first(place: Playground) -> None:
    place.host.switch(pause="uploads:60")
    try:
        with place.start("backup") as first:
            wait_until(lambda: place.host.lock.exists() and (place.host.backups / "db").exists())
            second = place.drtool("backup")
            first.send_signal(signal.SIGINT)
            first.communicate()
    finally:
        place.host.switch(pause=None)
    assert second.status == 17
    assert f"process {first.pid}" in second.stderr
    assert place.drtool("backup").status == 0


# -- init ------------------------------------------------------------------------------------------------------------


def test_init_makes_private_files_and_keeps_what_is_there(tmp_path: Path) -> None:
    first = drtool("init", tmp_path / "dr", "--json", "--store", tmp_path)
    made = {path.name: path.read_bytes() for path in (tmp_path / "dr").iterdir()}
    second = drtool("init", tmp_path / "dr")
    assert first.status == 0
    assert sorted(made) == ["drtool.toml", "identity.txt", "signing_key", "signing_key.pub"]
    assert first.last["config"] == str(tmp_path / "dr/drtool.toml")
    assert all((tmp_path / "dr" / name).stat().st_mode & 0o077 == 0 for name in made if not name.endswith(".pub"))
    assert b"AGE-SECRET-KEY" in made["identity.txt"]
    assert "AGE-SECRET-KEY" not in first.stdout + first.stderr
    assert second.status == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "dr").iterdir()} == made


def test_what_init_writes_is_a_configuration(tmp_path: Path) -> None:
    store = tmp_path / 'a "store"'
    store.mkdir()
    assert drtool("init", "dr", "--store", store.name, "--instance", "gitlab-2.eu", cwd=tmp_path).status == 0
    ran = drtool("list", "--config", tmp_path / "dr/drtool.toml")
    assert (ran.status, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"No backup of gitlab-2.eu in {store} yet. ")


def test_init_refuses_a_name_that_no_configuration_may_have(tmp_path: Path) -> None:
    ran = drtool("init", tmp_path / "dr", "--instance", "Git Lab")
    assert ran.status == 3
    assert "'Git Lab' is no name for an instance" in ran.stderr
    assert not (tmp_path / "dr").exists()
