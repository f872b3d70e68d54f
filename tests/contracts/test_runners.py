"""What every Runner promises. A new runner is one entry in RUNNERS.

The commands are plain POSIX shell, so that the same suite runs on any host that a runner can reach.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import timedelta
from pathlib import PurePosixPath

import pytest

from drtool.core.command import Command
from drtool.errors import CommandFailed
from drtool.hosts import Runner
from drtool.hosts.local import LocalRunner
from drtool.hosts.prefix import docker_exec, open_prefixed
from drtool.hosts.ssh import SshRunner
from tests.integration.engine import Engine, engine

__all__ = ["engine"]

MIB = 1 << 20
EVERY_BYTE = bytes(range(256)) * 64


GRACE = timedelta(seconds=1)
# Like docker exec, this leaves what it started alone when it is itself ended.
DETACHED = ("setsid", "--fork", "--wait")


@contextmanager
def local(_: pytest.FixtureRequest) -> Iterator[Runner]:
    yield LocalRunner(grace=GRACE)


@contextmanager
def prefixed(_: pytest.FixtureRequest) -> Iterator[Runner]:
    with closing(open_prefixed(DETACHED, "somewhere", clean=True, grace=GRACE)) as runner:
        yield runner


@contextmanager
def ssh(request: pytest.FixtureRequest) -> Iterator[Runner]:
    with closing(SshRunner(request.getfixturevalue("sshd").target, grace=GRACE)) as runner:
        yield runner


@contextmanager
def ssh_sudo(request: pytest.FixtureRequest) -> Iterator[Runner]:
    with closing(SshRunner(request.getfixturevalue("sshd").sudo_target, grace=GRACE)) as runner:
        yield runner


@contextmanager
def ssh_prefixed(request: pytest.FixtureRequest) -> Iterator[Runner]:
    with closing(SshRunner(request.getfixturevalue("sshd").target, grace=GRACE)) as runner:
        yield runner.behind(DETACHED, "somewhere on it", clean=True)


@contextmanager
def docker(request: pytest.FixtureRequest) -> Iterator[Runner]:
    prefix = docker_exec(request.getfixturevalue("container"))
    with closing(open_prefixed(prefix, "a container", grace=GRACE)) as runner:
        yield runner


@pytest.fixture(scope="module")
def container(engine: Engine) -> Iterator[str]:
    """Run a container whose first process takes care of no orphans, as that of many images."""
    with engine.container("base").with_command("sleep infinity") as container:
        yield container.get_wrapped_container().id


RUNNERS: dict[str, Callable[[pytest.FixtureRequest], AbstractContextManager[Runner]]] = {
    "docker exec": docker,
    "local": local,
    "prefixed": prefixed,
    "ssh": ssh,
    "ssh sudo": ssh_sudo,
    "ssh prefixed": ssh_prefixed,
}


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.engine(one) for one in ("docker", "ssh") if one in name])
        for name in RUNNERS
    ]
)
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    with RUNNERS[request.param](request) as runner:
        yield runner


@pytest.fixture
def directory(runner: Runner) -> Iterator[PurePosixPath]:
    """Make a directory on the runner's host, which need not be this one."""
    path = runner.run(Command(("mktemp", "-d"))).decode().strip()
    yield PurePosixPath(path)
    runner.run(Command(("rm", "-rf", "--", path)))


def sh(script: str, *arguments: object, timeout: timedelta | None = None) -> Command:
    return Command(("sh", "-c", script, "sh", *map(str, arguments)), timeout)


def exists(runner: Runner, path: PurePosixPath) -> bool:
    return runner.run(sh('if test -e "$1"; then echo yes; else echo no; fi', path)) == b"yes\n"


def alive(runner: Runner, *processes: bytes) -> bool:
    """Ask whether one of these runs. A zombie does not: only its parent's bookkeeping is left."""
    script = 'for p; do if grep -sq "^State:.[^ZX]" "/proc/$p/status"; then echo yes; fi; done'
    return runner.run(sh(script, *(process.decode() for process in processes))) != b""


def comes_true(condition: Callable[[], bool]) -> bool:
    """Wait for something that happens elsewhere; the bound only ends a hopeless wait."""
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_run_returns_standard_output_unchanged(runner: Runner) -> None:
    assert runner.run(Command(("printf", "%s", "  a\tb\n\n"))) == b"  a\tb\n\n"


def test_run_passes_arguments_without_a_shell(runner: Runner) -> None:
    words = ("a b", "$HOME", "*", "'", '"', ";", "`id`", "\\", "")
    assert runner.run(Command(("printf", "[%s]", *words))).decode() == "".join(f"[{word}]" for word in words)


def test_run_feeds_standard_input_and_is_binary_safe(runner: Runner) -> None:
    assert runner.run(Command(("cat",)), stdin=EVERY_BYTE) == EVERY_BYTE


def test_run_feeds_more_input_than_any_pipe_holds_while_it_reads(runner: Runner) -> None:
    data = EVERY_BYTE * 256
    assert runner.run(Command(("cat",)), stdin=data) == data


def test_run_does_not_insist_that_its_input_is_read(runner: Runner) -> None:
    assert runner.run(Command(("echo", "done")), stdin=b"x" * 4 * MIB) == b"done\n"


def test_run_gives_an_empty_standard_input_by_default(runner: Runner) -> None:
    assert runner.run(Command(("cat",))) == b""


def test_run_sets_locale_and_zone_so_that_output_can_be_parsed(runner: Runner) -> None:
    assert runner.run(sh('date -d @0 "+%c %Z"')) == b"Thu Jan  1 00:00:00 1970 UTC\n"


def test_run_raises_on_a_bad_status_with_program_status_and_last_error_lines(runner: Runner) -> None:
    with pytest.raises(CommandFailed) as caught:
        runner.run(sh("echo first >&2; echo partial; echo 'no space left' >&2; exit 3"))
    assert caught.value.status == 3
    assert caught.value.stderr == "first\nno space left\n"
    message = str(caught.value)
    assert "sh" in message
    assert "3" in message
    assert "no space left" in message
    assert "\n" not in message


def test_run_names_a_program_that_does_not_exist_with_status_127(runner: Runner) -> None:
    with pytest.raises(CommandFailed, match="no-such-program-anywhere") as caught:
        runner.run(Command(("no-such-program-anywhere", "--flag")))
    assert caught.value.status == 127


def test_streams_name_a_program_that_does_not_exist_too(runner: Runner) -> None:
    missing = Command(("/nowhere/no-such-program",))
    with pytest.raises(CommandFailed) as caught, runner.read_from(missing) as output:
        while output.read(MIB):
            pass
    assert caught.value.status == 127
    with pytest.raises(CommandFailed) as caught, runner.write_to(missing) as sink:
        sink.write(b"x")
    assert caught.value.status == 127


def test_run_reports_a_command_that_a_signal_ended(runner: Runner) -> None:
    with pytest.raises(CommandFailed) as caught:
        runner.run(sh("kill -KILL $$"))
    assert caught.value.status not in {0, None}


def test_run_keeps_the_end_of_a_chatty_standard_error_and_never_blocks(runner: Runner) -> None:
    script = "head -c 8388608 /dev/zero | tr '\\0' x >&2; echo out; echo >&2; echo the end >&2; exit 1"
    with pytest.raises(CommandFailed) as caught:
        runner.run(sh(script))
    assert caught.value.stderr.endswith("\nthe end\n")
    assert len(caught.value.stderr) <= 64 << 10


def test_run_ends_a_command_that_exceeds_its_time(runner: Runner, directory: PurePosixPath) -> None:
    script = 'echo $$ > "$1"; sleep 300 & echo $! >> "$1"; wait'
    with pytest.raises(CommandFailed) as caught:
        runner.run(sh(script, directory / "pids", timeout=timedelta(seconds=1)))
    assert caught.value.status is None
    assert "time" in str(caught.value)
    processes = runner.run(Command(("cat", str(directory / "pids")))).split()
    assert len(processes) == 2
    assert comes_true(lambda: not alive(runner, *processes))


def test_run_kills_a_command_that_ignores_the_order_to_end(runner: Runner, directory: PurePosixPath) -> None:
    script = 'trap "" TERM; echo $$ > "$1"; while :; do sleep 1; done'
    with pytest.raises(CommandFailed) as caught:
        runner.run(sh(script, directory / "pid", timeout=timedelta(seconds=1)))
    assert caught.value.status is None
    processes = runner.run(Command(("cat", str(directory / "pid")))).split()
    assert comes_true(lambda: not alive(runner, *processes))


def test_run_ignores_a_time_limit_that_is_not_reached(runner: Runner) -> None:
    assert runner.run(Command(("echo", "quick"), timedelta(minutes=5))) == b"quick\n"


def test_read_from_streams_64_mib_unchanged(runner: Runner) -> None:
    script = "head -c 67108864 /dev/zero | tr '\\0' '\\377'"
    digest, size = hashlib.sha256(), 0
    with runner.read_from(sh(script)) as output:
        while data := output.read(MIB):
            digest.update(data)
            size += len(data)
    assert size == 64 * MIB
    assert digest.digest() == hashlib.sha256(b"\xff" * size).digest()


def test_read_from_returns_what_is_there_without_waiting_for_more(runner: Runner) -> None:
    with runner.read_from(sh("echo ready; sleep 300")) as output:
        assert output.read(MIB) == b"ready\n"


def test_read_from_keeps_returning_the_end_after_the_end(runner: Runner) -> None:
    with runner.read_from(Command(("echo", "x"))) as output:
        assert output.read(-1) == b"x\n"
        assert output.read(10) == b""
        assert output.read() == b""


def test_read_from_shows_a_failure_on_the_last_read_and_again_on_leaving(runner: Runner) -> None:
    seen: list[bytes] = []
    on_read: list[CommandFailed] = []
    with pytest.raises(CommandFailed) as on_leaving, runner.read_from(sh("echo data; echo why >&2; exit 4")) as output:
        try:
            while data := output.read(MIB):
                seen.append(data)
        except CommandFailed as error:
            on_read.append(error)
    assert b"".join(seen) == b"data\n"
    assert [error.status for error in on_read] == [4]
    assert "why" in str(on_read[0])
    assert on_leaving.value.status == 4


def test_read_from_never_ends_before_the_status_is_known(runner: Runner) -> None:
    """A program may close its output long before it fails."""
    with (
        pytest.raises(CommandFailed) as caught,
        runner.read_from(sh("echo data; exec >&-; sleep 1; exit 5")) as output,
    ):
        assert output.read() == b"never reached"
    assert caught.value.status == 5


def test_read_from_kills_silently_when_left_early(runner: Runner) -> None:
    with runner.read_from(sh("sleep 300 & echo $$ $!; cat /dev/zero")) as output:
        head = b""
        while b"\n" not in head:
            head += output.read(64)
        processes = head.split(b"\n")[0].split()
        assert len(processes) == 2
        assert alive(runner, *processes)
    assert comes_true(lambda: not alive(runner, *processes))


def test_read_from_kills_when_the_reader_fails_and_lets_its_error_through(runner: Runner) -> None:
    processes: list[bytes] = []
    with (
        pytest.raises(KeyboardInterrupt, match="by hand"),
        runner.read_from(sh("echo $$; exec sleep 300")) as output,
    ):
        processes.append(output.read(64).strip())
        raise KeyboardInterrupt("by hand")
    assert comes_true(lambda: not alive(runner, *processes))


def test_read_from_raises_when_time_runs_out_in_the_middle(runner: Runner) -> None:
    command = sh("echo some; sleep 300", timeout=timedelta(seconds=1))
    with pytest.raises(CommandFailed) as caught, runner.read_from(command) as output:
        while output.read(MIB):
            pass
    assert caught.value.status is None


def test_read_from_is_not_blocked_by_a_chatty_standard_error(runner: Runner) -> None:
    script = "head -c 8388608 /dev/zero | tr '\\0' x >&2; echo out"
    with runner.read_from(sh(script)) as output:
        assert output.read() == b"out\n"


def test_write_to_delivers_every_byte_before_it_returns(runner: Runner, directory: PurePosixPath) -> None:
    target = directory / "target"
    with runner.write_to(sh('cat > "$1"', target)) as sink:
        for _ in range(64):
            sink.write(EVERY_BYTE * 64)
    expected = hashlib.sha256(EVERY_BYTE * 64 * 64).hexdigest()
    assert runner.run(Command(("sha256sum", str(target)))).decode().split()[0] == expected


def test_write_to_raises_a_bad_status_on_leaving(runner: Runner) -> None:
    with pytest.raises(CommandFailed) as caught, runner.write_to(sh("cat > /dev/null; echo full >&2; exit 7")) as sink:
        sink.write(b"data")
    assert caught.value.status == 7
    assert "full" in str(caught.value)


def test_write_to_raises_when_the_command_dies_while_it_is_written_to(runner: Runner) -> None:
    with pytest.raises(CommandFailed) as caught, runner.write_to(sh("echo broken >&2; exit 8")) as sink:
        for _ in range(64):
            sink.write(b"\0" * MIB)
    assert caught.value.status == 8
    assert "broken" in str(caught.value)


def test_write_to_left_by_an_error_never_shows_the_command_an_end(runner: Runner, directory: PurePosixPath) -> None:
    script = 'echo $$ > "$1/pid"; cat > "$1/data"; touch "$1/complete"'
    with pytest.raises(ValueError, match="source broke"), runner.write_to(sh(script, directory)) as sink:
        sink.write(b"half of it")
        assert comes_true(lambda: exists(runner, directory / "data"))
        raise ValueError("source broke")
    processes = runner.run(Command(("cat", str(directory / "pid")))).split()
    assert comes_true(lambda: not alive(runner, *processes))
    assert not exists(runner, directory / "complete")


def test_write_to_left_by_an_error_kills_what_ignores_the_order_to_end(
    runner: Runner, directory: PurePosixPath
) -> None:
    script = 'trap "" TERM; cat > "$1/data"; touch "$1/complete"'
    with pytest.raises(ValueError, match="source broke"), runner.write_to(sh(script, directory)) as sink:
        sink.write(b"half of it")
        assert comes_true(lambda: exists(runner, directory / "data"))
        raise ValueError("source broke")
    assert not exists(runner, directory / "complete")


def test_write_to_raises_when_time_runs_out(runner: Runner) -> None:
    command = sh("sleep 300", timeout=timedelta(seconds=1))
    with pytest.raises(CommandFailed) as caught, runner.write_to(command) as sink:
        sink.write(b"x")
    assert caught.value.status is None


def test_streams_of_one_runner_can_be_open_at_the_same_time(runner: Runner) -> None:
    """An end of one pipe that leaked into another command would keep this from ending."""
    with runner.read_from(Command(("echo", "copied"))) as source, runner.write_to(Command(("cat",))) as sink:
        while data := source.read(MIB):
            sink.write(data)
    assert runner.run(Command(("echo", "and on"))) == b"and on\n"


def test_name_is_fit_for_messages(runner: Runner) -> None:
    assert runner.name
    assert runner.name == runner.name.strip()


def test_local_runner_shows_commands_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-real-secret")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    seen = LocalRunner().run(Command(("env",))).decode()
    assert "not-a-real-secret" not in seen
    assert "LANG=" not in seen
    assert {"LC_ALL=C", "TZ=UTC"} <= set(seen.split())


def test_local_runner_says_when_a_program_may_not_be_run(tmp_path: object) -> None:
    with pytest.raises(CommandFailed) as caught:
        LocalRunner().run(Command((str(tmp_path),)))  # a directory
    assert caught.value.status == 126
