"""Bad weather between us and an ssh server: cut and silent connections, full pipes, commands that do not listen."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest

from drtool.core.command import Command
from drtool.errors import CommandFailed, HostUnfit
from drtool.holding import only_restore_onto
from drtool.hosts.ssh import SshRunner
from drtool.hosts.ssh_target import SshTarget
from drtool.installs.omnibus import Omnibus
from tests.cutter import Cutter
from tests.sshd import OPERATOR, SshServer, ssh_server

pytestmark = pytest.mark.engine("sshd")
MIB = 1 << 20
GRACE = timedelta(seconds=1)


@pytest.fixture
def cutter(sshd: SshServer) -> Iterator[Cutter]:
    with closing(Cutter(sshd.port)) as cutter:
        yield cutter


@pytest.fixture
def cut_runner(sshd: SshServer, cutter: Cutter) -> Iterator[SshRunner]:
    with closing(runner_at(sshd, cutter)) as runner:
        yield runner


@pytest.fixture
def runner(sshd: SshServer) -> Iterator[SshRunner]:
    with closing(SshRunner(sshd.target, grace=GRACE)) as runner:
        yield runner


def runner_at(server: SshServer, cutter: Cutter) -> SshRunner:
    target = server.at(cutter.port)
    if server.operator:
        target = replace(target, user=OPERATOR)  # whose shell reads no files at its start: many logins take less time
    return SshRunner(target, grace=GRACE)


def sh(script: str, *arguments: object, timeout: timedelta | None = None) -> Command:
    return Command(("sh", "-c", script, "sh", *map(str, arguments)), timeout)


def comes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def alive(process: bytes | str) -> bool:
    status = Path(f"/proc/{int(process)}/status")
    try:
        return not any(line.startswith(("State:\tZ", "State:\tX")) for line in status.read_text().splitlines())
    except OSError:
        return False


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that the operator may write to as well."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_read_from_never_takes_a_cut_connection_for_the_end(sshd: SshServer) -> None:
    """OpenSSH tells the status of a command that ended before the last of its output: the status is not the end."""
    script = "head -c 300000 /dev/zero"
    with closing(Cutter(sshd.port)) as clean, closing(runner_at(sshd, clean)) as runner:
        assert len(runner.run(sh(script))) == 300000
        whole = clean.passed
    complete = 0
    for left in range(whole - 90_000, whole + 1, 3000):
        with closing(Cutter(sshd.port, left=left)) as cutter, closing(runner_at(sshd, cutter)) as runner:
            try:
                data = runner.run(sh(script))
            except (CommandFailed, HostUnfit):
                continue
            complete += 1
            assert len(data) == 300000, f"cut after {left} of {whole} bytes"
    assert complete < 10


def test_a_cut_connection_is_an_error_that_leaves_the_end_open(cut_runner: SshRunner, cutter: Cutter) -> None:
    with pytest.raises(CommandFailed, match="not known whether it ended") as caught:  # noqa: SIM117 - the inner block is what raises
        with cut_runner.read_from(sh("echo $$; exec sleep 300")) as output:
            process = output.read(64)
            cutter.cut()
            output.read()
    assert caught.value.status is None
    assert comes_true(lambda: not alive(process))


def test_a_command_after_a_cut_runs_over_a_new_connection(cut_runner: SshRunner, cutter: Cutter) -> None:
    for _ in range(3):
        assert cut_runner.run(Command(("echo", "here"))) == b"here\n"
        cutter.cut()


def test_a_restore_notices_that_its_lock_went_with_the_connection(
    cut_runner: SshRunner, cutter: Cutter, open_folder: Path
) -> None:
    def is_lost() -> bool:
        try:
            still_held()
        except CommandFailed as problem:
            return "the lock of this restore is lost" in str(problem)
        return False

    install = Omnibus(PurePosixPath(open_folder))
    with only_restore_onto(cut_runner, install, "restore-1 (here)") as still_held:
        assert not is_lost()
        cutter.cut()
        assert comes_true(is_lost)
        with only_restore_onto(cut_runner, install, "restore-2 (there)") as held_by_another:
            assert is_lost()
            held_by_another()


def test_a_cut_connection_never_repeats_a_command(cut_runner: SshRunner, cutter: Cutter, open_folder: Path) -> None:
    counted = open_folder / "runs"
    with (
        pytest.raises(CommandFailed),
        cut_runner.read_from(sh('echo once >> "$1"; echo ready; sleep 300', counted)) as output,
    ):
        assert output.read(64) == b"ready\n"
        cutter.cut()
        output.read()
    assert cut_runner.run(Command(("cat", str(counted)))) == b"once\n"


def test_write_to_over_a_cut_connection_never_shows_the_command_an_end(
    cut_runner: SshRunner, cutter: Cutter, open_folder: Path
) -> None:
    script = 'echo $$ > "$1/pid"; cat > "$1/data"; touch "$1/complete"'
    with pytest.raises(CommandFailed) as caught, cut_runner.write_to(sh(script, open_folder)) as sink:
        sink.write(bytes(20 * MIB))
        assert comes_true(lambda: (open_folder / "data").exists() and (open_folder / "data").stat().st_size > MIB)
        cutter.cut()
        for _ in range(64):
            sink.write(bytes(MIB))
    assert caught.value.status is None
    assert comes_true(lambda: not alive((open_folder / "pid").read_text()))
    assert not (open_folder / "complete").exists()


def test_write_to_out_of_time_kills_what_does_not_read(runner: SshRunner, tmp_path: Path) -> None:
    """The pipe to it is full, so news that we leave cannot come by that way."""
    command = sh('echo $$ > "$1"; sleep 300', tmp_path / "pid", timeout=timedelta(seconds=3))
    with pytest.raises(CommandFailed, match="time"), runner.write_to(command) as sink:
        for _ in range(64):
            sink.write(bytes(MIB))
    assert comes_true(lambda: not alive((tmp_path / "pid").read_text()))


def test_write_to_says_when_a_command_that_went_well_did_not_read_all(runner: SshRunner) -> None:
    script = "head -c 10 > /dev/null; exec <&-; sleep 1"
    with pytest.raises(CommandFailed, match="did not read all of its input"), runner.write_to(sh(script)) as sink:
        for _ in range(40):
            sink.write(bytes(MIB))


def test_a_silent_server_is_found_out(sshd: SshServer) -> None:
    with closing(SshRunner(impatient(sshd), grace=GRACE)) as runner, contextlib.ExitStack() as weather:
        with pytest.raises(CommandFailed, match="not known whether it ended") as caught:  # noqa: SIM117 - the inner block is what raises
            with runner.read_from(sh("echo ready; sleep 300")) as output:
                assert output.read(64) == b"ready\n"
                weather.enter_context(stopped(sshd))
                output.read()
        assert caught.value.status is None


def test_a_command_to_a_silent_server_runs_over_a_new_connection(sshd: SshServer) -> None:
    with closing(SshRunner(impatient(sshd), grace=GRACE)) as runner:
        runner.connect()
        with stopped(sshd):
            assert runner.run(Command(("echo", "here"))) == b"here\n"


def impatient(server: SshServer) -> SshTarget:
    return replace(
        server.target, keepalive=timedelta(milliseconds=100), keepalive_patience=timedelta(milliseconds=1500)
    )


def test_a_silent_server_does_not_outlast_the_time_of_a_command(sshd: SshServer) -> None:
    slow = replace(
        sshd.target, connect_timeout=timedelta(seconds=3), keepalive_patience=timedelta(seconds=5),
        keepalive=timedelta(seconds=5),
    )  # fmt: skip
    command = sh("echo ready; sleep 300", timeout=timedelta(seconds=3))
    with (
        closing(SshRunner(slow, grace=GRACE)) as runner,
        contextlib.ExitStack() as weather,
        pytest.raises(CommandFailed, match="time"),
        runner.read_from(command) as output,
    ):
        assert output.read(64) == b"ready\n"
        weather.enter_context(stopped(sshd))
        output.read()


@contextlib.contextmanager
def stopped(server: SshServer) -> Iterator[None]:
    """Stop what serves the connections; new ones are served all the same."""
    sessions = [one for one in server.sessions() if one != server.process.pid]
    assert sessions
    for one in sessions:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)


def test_a_server_that_says_nothing_is_given_up(sshd: SshServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        target = replace(sshd.at(mute.getsockname()[1]), connect_timeout=timedelta(seconds=1))
        with pytest.raises(HostUnfit, match="ssh"):
            SshRunner(target).connect()


def test_both_outputs_may_be_long_at_the_same_time(runner: SshRunner) -> None:
    script = "for i in 1 2 3 4 5; do head -c 1048576 /dev/zero >&2; head -c 1048576 /dev/zero; done"
    assert len(runner.run(sh(script))) == 5 * MIB


def test_100_mib_of_input_arrive_unchanged(runner: SshRunner) -> None:
    piece = os.urandom(MIB)
    digest = hashlib.sha256(piece * 100).hexdigest()
    assert runner.run(Command(("sha256sum",)), stdin=piece * 100).decode().split()[0] == digest


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 16 * MIB - 1, 16 * MIB, 16 * MIB + 65537])
def test_input_of_every_size_arrives_whole(runner: SshRunner, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    with runner.write_to(sh('cat > "$1"', tmp_path / "data")) as sink:
        for start in range(0, size, 100_000):
            sink.write(data[start : start + 100_000])
    assert (tmp_path / "data").read_bytes() == data


def test_hundreds_of_commands_leave_nothing_behind(sshd: SshServer) -> None:
    with closing(SshRunner(sshd.sudo_target if sshd.operator else sshd.target, grace=GRACE)) as runner:
        runner.run(Command(("true",)))
        before = held()
        for number in range(200):
            assert runner.run(Command(("echo", str(number)))) == b"%d\n" % number
        with runner.read_from(Command(("cat", "/dev/zero"))) as output:
            output.read(10)
        assert comes_true(lambda: held() <= before)


def held() -> tuple[int, int]:
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def test_commands_of_many_threads_share_one_connection(sshd: SshServer, runner: SshRunner) -> None:
    runner.connect()
    before = len(sshd.sessions())
    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(lambda number: runner.run(Command(("echo", str(number)))), range(60)))
    assert said == [b"%d\n" % number for number in range(60)]
    assert len(sshd.sessions()) <= before


def test_new_keys_are_exchanged_while_commands_come_and_go(tmp_path: Path) -> None:
    with TemporaryDirectory() as folder, ssh_server(Path(folder), "RekeyLimit 4M") as server:
        user = OPERATOR if server.operator else server.target.user
        with closing(SshRunner(replace(server.target, user=user), grace=GRACE)) as runner:
            with ThreadPoolExecutor(3) as pool:
                down = pool.submit(lambda: len(runner.run(sh("head -c 100000000 /dev/zero"))))
                up = pool.submit(lambda: runner.run(Command(("wc", "-c")), stdin=bytes(100_000_000)))
                while not (down.done() and up.done()):
                    assert runner.run(Command(("echo", "beside"))) == b"beside\n"
            assert down.result() == 100_000_000
            assert up.result() == b"100000000\n"


@pytest.mark.slow
def test_the_end_of_512_mib_does_not_break_the_connection(runner: SshRunner) -> None:
    """There paramiko would begin to exchange keys, and stop for ever when the end of a command comes in between."""
    for _ in range(2):
        with runner.read_from(sh("head -c 536870912 /dev/zero")) as output:
            assert sum(map(len, iter(lambda: output.read(MIB), b""))) == 512 * MIB
    assert runner.run(Command(("echo", "still here"))) == b"still here\n"


def test_a_server_with_too_few_sessions_says_so(tmp_path: Path) -> None:
    with (
        TemporaryDirectory() as folder,
        ssh_server(Path(folder), "MaxSessions 1") as server,
        closing(SshRunner(server.target, grace=GRACE)) as runner,
    ):
        with runner.read_from(sh("echo $$; exec sleep 300")) as output:
            process = output.read(64)
            with pytest.raises(CommandFailed) as caught:
                runner.run(Command(("true",)))
            assert "MaxSessions" in caught.value.hint
        assert comes_true(lambda: not alive(process))
