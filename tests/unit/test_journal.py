from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drtool.errors import Busy, ConfigError, DrtoolError, ResumeError
from drtool.journal import Journal, forget_old, journals, new_journal, only_run

RUN = "backup-gitlab-20260113T031500Z-7f3a"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal = new_journal(tmp_path, RUN)
    journal.append("begin", set_id="one")
    journal.append("volume", number=0)
    journal.append("volume", number=1)
    return journal.path


# -- one journal -----------------------------------------------------------------------------------------------------


def test_journal_remembers_what_was_appended(path: Path) -> None:
    again = Journal(path)
    assert again.run_id == RUN
    assert again.find("begin") == {"what": "begin", "set_id": "one"}
    assert again.find("volume") == {"what": "volume", "number": 1}
    assert [entry["number"] for entry in again.all("volume")] == [0, 1]
    assert again.find("done") is None


def test_journal_writes_nothing_before_the_first_append(tmp_path: Path) -> None:
    journal = new_journal(tmp_path, RUN)
    assert not journal.path.exists()
    assert journal.entries == []


def test_journal_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        journal = new_journal(tmp_path / "state", RUN)
        journal.append("begin")
    finally:
        os.umask(before)
    assert journal.path.stat().st_mode & 0o777 == 0o600
    assert journal.path.parent.stat().st_mode & 0o777 == 0o700


def test_journal_forgets_a_torn_last_line_wherever_it_was_torn(path: Path) -> None:
    content = path.read_bytes()
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        whole = content[:size].count(b"\n")
        assert len(Journal(path).entries) == whole
        journal = Journal(path)
        journal.append("next")
        assert [entry["what"] for entry in Journal(path).entries] == [*["begin", "volume", "volume"][:whole], "next"]


@pytest.mark.parametrize("torn", [b"\0\0\0\0", b"\xff\xfe", b'{"what":"done"}', b"{}"], ids=repr)
def test_a_last_line_without_its_end_never_happened(path: Path, torn: bytes) -> None:
    path.write_bytes(path.read_bytes() + torn)
    journal = Journal(path)
    assert len(journal.entries) == 3
    journal.append("next")
    assert len(Journal(path).entries) == 4


def test_reading_a_journal_changes_nothing(path: Path) -> None:
    """Another process may be in the middle of writing that line."""
    path.write_bytes(path.read_bytes() + b'{"what":"vol')
    content = path.read_bytes()
    Journal(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("garbage", [b"garbage", b"\xff\xfe", b"", b"{", b"1", b"[]", b"null", b"{}", b'{"what":1}'])
@pytest.mark.parametrize("line", [1, 2, 3])
def test_garbage_in_the_middle_is_refused_naming_file_and_line(path: Path, line: int, garbage: bytes) -> None:
    lines = path.read_bytes().splitlines()
    lines.insert(line - 1, garbage)
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(ResumeError) as caught:
        Journal(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert caught.value.hint


def test_deeply_nested_garbage_is_refused_too(path: Path) -> None:
    path.write_bytes(b"[" * 100_000 + b"\n")
    with pytest.raises(ResumeError, match=":1: "):
        Journal(path)


def test_a_journal_that_cannot_be_written_says_so_and_goes_on_once_there_is_room(path: Path) -> None:
    """The kernel writes as much as fits and returns: half a line must not stay where the next one begins."""
    journal = Journal(path)
    size = path.stat().st_size
    with file_size_limit(size + 10), pytest.raises(DrtoolError, match="cannot be written") as caught:
        journal.append("volume", number=2)
    assert caught.value.hint
    assert len(journal.entries) == 3
    journal.append("volume", number=3)
    assert [entry.get("number") for entry in Journal(path).entries] == [None, 0, 1, 3]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITER = """
import sys, pathlib
from drtool.journal import Journal
journal = Journal(pathlib.Path(sys.argv[1]))
number = 0
while True:
    journal.append("volume", number=number, padding="x" * (number * 37 % 9000))
    number += 1
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_everything_it_said_it_wrote(tmp_path: Path) -> None:
    path = new_journal(tmp_path, RUN).path
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(25):
            told = int(writer.stdout.readline())
        writer.kill()
    numbers = [entry["number"] for entry in Journal(path).entries]
    assert numbers[:told] == [*range(told)]
    assert numbers == [*range(len(numbers))]


# -- many journals ---------------------------------------------------------------------------------------------------


def begun(state: Path, *runs: str) -> None:
    for run in runs:
        new_journal(state, run).append("begin")


def test_journals_are_found_oldest_first(tmp_path: Path) -> None:
    late, early = "backup-gitlab-20260114T031500Z-0000", "backup-gitlab-20260113T031500Z-ffff"
    begun(tmp_path, late, early, "restore-20260101T000000Z-1111")
    assert [journal.run_id for journal in journals(tmp_path, "backup-gitlab-")] == [early, late]
    assert journals(tmp_path, "backup-other-") == []


def test_no_state_directory_means_no_journals(tmp_path: Path) -> None:
    assert journals(tmp_path / "none", "backup-gitlab-") == []


def test_an_instance_does_not_find_the_journals_of_one_whose_name_begins_like_its_own(tmp_path: Path) -> None:
    ours, theirs = "backup-gitlab-20260113T031500Z-7f3a", "backup-gitlab-eu-20260113T031500Z-7f3a"
    begun(tmp_path, ours, theirs)
    assert [journal.run_id for journal in journals(tmp_path, "backup-gitlab-")] == [ours]
    assert [journal.run_id for journal in journals(tmp_path, "backup-gitlab-eu-")] == [theirs]


def test_forgetting_old_runs_keeps_the_newest_and_those_of_other_instances(tmp_path: Path) -> None:
    runs = [f"backup-gitlab-202601{day:02d}T031500Z-7f3a" for day in range(1, 8)]
    others = [f"backup-gitlab-eu-202601{day:02d}T031500Z-7f3a" for day in range(1, 8)]
    begun(tmp_path, *runs, *others)
    forget_old(tmp_path, "backup-gitlab-", keep=3)
    assert [journal.run_id for journal in journals(tmp_path, "backup-gitlab-")] == runs[-3:]
    assert [journal.run_id for journal in journals(tmp_path, "backup-gitlab-eu-")] == others


# -- the lock --------------------------------------------------------------------------------------------------------

HOLDER = """
import sys, pathlib, time
from drtool.journal import only_run
with only_run(pathlib.Path(sys.argv[1]), "gitlab", doing="a backup"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(state: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its standard input ends."""
    command = [sys.executable, "-c", HOLDER, str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_run_is_told_who_is_at_work(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        for _ in range(2):  # being refused must not wipe the holder's name
            with (
                pytest.raises(Busy, match=f"a backup.*process {process.pid}\\b") as caught,
                only_run(tmp_path, "gitlab", doing="a restore"),
            ):
                pass
        assert caught.value.hint


def test_another_instance_is_not_held_up(tmp_path: Path) -> None:
    with holder(tmp_path), only_run(tmp_path, "other", doing="a backup"):
        assert (tmp_path / "other.lock").exists()


def test_the_lock_is_free_after_its_holder_was_killed(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with only_run(tmp_path, "gitlab", doing="a backup"):
        assert f"process {os.getpid()}" in (tmp_path / "gitlab.lock").read_text()


def test_the_lock_is_free_after_its_holder_ended_by_itself(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.communicate()
        assert process.returncode == 0
        assert (tmp_path / "gitlab.lock").read_text() == ""
    for _ in range(2):
        with only_run(tmp_path, "gitlab", doing="a backup"):
            pass


def test_the_lock_is_free_after_an_error_inside(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), only_run(tmp_path, "gitlab", doing="a backup"):
        raise KeyboardInterrupt
    with only_run(tmp_path, "gitlab", doing="a backup"):
        pass


def test_a_program_that_a_run_started_does_not_keep_the_lock(tmp_path: Path) -> None:
    with only_run(tmp_path, "gitlab", doing="a backup"):
        outliving = subprocess.Popen(["sleep", "60"])
    try:
        with only_run(tmp_path, "gitlab", doing="a backup"):
            pass
    finally:
        outliving.kill()
        outliving.wait()


def test_a_state_directory_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(ConfigError, match="state_dir") as caught,
        only_run(tmp_path / "file" / "state", "gitlab", doing="a backup"),
    ):
        pass
    assert caught.value.hint


def test_a_lock_that_cannot_be_opened_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "gitlab.lock").mkdir()
    with pytest.raises(ConfigError, match="state_dir"), only_run(tmp_path, "gitlab", doing="a backup"):
        pass


def test_entries_are_one_json_object_per_line(path: Path) -> None:
    Journal(path).append("odd", text="two\nlines, \u2028 and \x00")
    assert [json.loads(line)["what"] for line in path.read_text().split("\n")[:-1]] == [
        "begin",
        "volume",
        "volume",
        "odd",
    ]
