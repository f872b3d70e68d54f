"""A backup and a restore beside somebody who replaces GitLab: real locks, real processes, a real dpkg."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from drtool.check_host import check_packages
from drtool.errors import Busy, HostUnfit, VersionMismatch
from drtool.events import Waiting
from drtool.hosts.local import LocalRunner
from drtool.installs.upgrades import look_for_upgrades, parse_upgrades
from drtool.stores.faults import Crash, FaultyStore
from drtool.stores.memory import MemoryStore
from drtool.survey import at_work
from tests.toyhost import Bench, ToyHost, make_bench

NEWER = "18.10.0-ee"
LOCKS = ("var/lib/dpkg/lock-frontend", "var/lib/dpkg/lock", "var/lib/rpm/.rpm.lock", "usr/lib/sysimage/rpm/.rpm.lock")

# $1 is a file to lock; with "away" in $2 the process first makes the lock's directory its root, as a container has one.
_HOLDER = """
import fcntl, os, sys
held = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(held, fcntl.LOCK_EX) if "shared" not in sys.argv else fcntl.lockf(os.open(sys.argv[1], 0), fcntl.LOCK_SH)
if "away" in sys.argv:
    os.chroot(os.path.dirname(sys.argv[1]))
os.write(1, b"held\\n")
os.read(0, 1)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path, MemoryStore())


@pytest.fixture
def host(bench: Bench) -> ToyHost:
    return bench.host


# -- what is seen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", LOCKS)
def test_a_held_lock_of_a_package_manager_is_seen_and_a_free_one_is_not(host: ToyHost, lock: str) -> None:
    with _held(host.root / lock) as holder:
        assert at_work(LocalRunner(), host.install) == f"a package manager is at work: python (process {holder.pid})"
    assert (host.root / lock).exists()
    assert at_work(LocalRunner(), host.install) == ""


def test_who_only_reads_the_package_database_is_not_waited_for(host: ToyHost) -> None:
    with _held(host.root / "var/lib/rpm/.rpm.lock", "shared"):
        assert at_work(LocalRunner(), host.install) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes its root directory")
def test_a_process_with_another_root_directory_is_a_containers_and_not_the_hosts(host: ToyHost) -> None:
    with _held(host.root / LOCKS[0], "away"):
        assert at_work(LocalRunner(), host.install) == ""


@pytest.mark.engine
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a process that others may not look into")
def test_a_containers_process_is_told_from_the_hosts_also_by_who_may_not_look_into_it(host: ToyHost) -> None:
    """So it is in a unit without CAP_SYS_PTRACE: another root directory cannot be seen, other process numbers can."""
    look = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", *look_for_upgrades(host.install).argv]
    apart = ["unshare", "--pid", "--fork"]
    if subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("no process numbers of their own here")
    for words, seen in (((), 1), (apart, 0)):
        with _gitlab_ctl(host, "reconfigure", *words):
            shown = subprocess.run(look, check=True, capture_output=True).stdout
            assert len(parse_upgrades(shown, host.install)) == seen


def test_a_reconfigure_is_seen_and_a_tail_is_not(host: ToyHost) -> None:
    with _gitlab_ctl(host, "reconfigure") as process:
        assert at_work(LocalRunner(), host.install) == f"gitlab-ctl reconfigure is at work (process {process.pid})"
    with _gitlab_ctl(host, "tail"):
        assert at_work(LocalRunner(), host.install) == ""


def test_idle_programs_with_the_names_of_package_managers_are_not_waited_for(host: ToyHost) -> None:
    with ExitStack() as idle:
        for name in ("packagekitd", "unattended-upgrade-shutdown", "dpkg-query", "apt", "vim-apt.conf"):
            program = host.root / name
            shutil.copy("/bin/sleep", program)
            idle.enter_context(_process([str(program), "600"]))
        assert at_work(LocalRunner(), host.install) == ""


def test_a_hook_of_a_package_manager_may_take_a_backup(host: ToyHost) -> None:
    """What holds the lock is above drtool, and waits for it: it never ends before."""
    program = (
        "import fcntl, os, sys; sys.path[:0] = sys.argv[2].split(':')\n"
        "from pathlib import PurePosixPath\n"
        "from drtool.hosts.local import LocalRunner\n"
        "from drtool.installs.omnibus import Omnibus\n"
        "from drtool.survey import at_work\n"
        "lock = f'{sys.argv[1]}/var/lib/dpkg/lock-frontend'\n"
        "os.makedirs(os.path.dirname(lock))\n"
        "held = os.open(lock, os.O_RDWR | os.O_CREAT); fcntl.lockf(held, fcntl.LOCK_EX)\n"
        "print(repr(at_work(LocalRunner(), Omnibus(PurePosixPath(sys.argv[1])))))\n"
    )
    argv = [sys.executable, "-c", program, str(host.root), ":".join(sys.path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stdout == "''\n", done.stderr


# -- what waits ------------------------------------------------------------------------------------------------------


def test_backup_waits_for_an_upgrade_and_is_of_the_version_that_came_of_it(bench: Bench) -> None:
    with _held(bench.host.root / LOCKS[0]) as holder:
        bench.clock.meanwhile = _once(holder, lambda: _upgrade(bench.host))
        outcome = bench.back_up()
    assert outcome.manifest.gitlab.version == NEWER
    assert outcome.manifest.verdict == "green"
    assert [event for event in bench.events if isinstance(event, Waiting) and str(holder.pid) in event.reason]


def test_backup_gives_up_on_an_upgrade_that_does_not_end(bench: Bench) -> None:
    bench.clock.meanwhile = lambda: bench.clock.advance(timedelta(hours=1))
    with _gitlab_ctl(bench.host, "upgrade") as process, pytest.raises(Busy, match="gitlab-ctl upgrade") as caught:
        bench.back_up()
    assert str(process.pid) in str(caught.value)
    assert caught.value.hint
    assert bench.catalog().set_ids() == []
    bench.back_up()


def test_backup_that_an_upgrade_overtook_is_none_and_the_next_one_is(bench: Bench) -> None:
    """The upgrade begins after the look, and ends before GitLab's backup does: then nobody is seen at work."""
    program = bench.host.root / "opt/gitlab/bin/gitlab-backup"
    kept = program.read_text()
    version = bench.host.root / "opt/gitlab/embedded/service/gitlab-rails/VERSION"
    program.write_text(kept + f"echo {NEWER} >'{version}'\n")
    with pytest.raises(Busy, match=NEWER):
        bench.back_up()
    assert bench.catalog().set_ids() == []
    program.write_text(kept)
    assert bench.back_up().manifest.gitlab.version == NEWER


def test_backup_is_not_continued_with_what_another_version_staged(bench: Bench) -> None:
    broken = FaultyStore(bench.store)
    broken.fail_at(5, "before", Crash())
    with pytest.raises(Crash):
        bench.back_up(store=broken)
    _upgrade(bench.host)
    outcome = bench.back_up()
    assert not outcome.continued
    assert outcome.manifest.gitlab.version == NEWER


def test_restore_waits_for_an_upgrade_and_refuses_the_version_that_came_of_it(bench: Bench, tmp_path: Path) -> None:
    set_id = bench.back_up().manifest.set_id
    target = ToyHost(tmp_path / "target")
    with _held(target.root / LOCKS[0]) as holder:
        bench.clock.meanwhile = _once(holder, lambda: _upgrade(target))
        with pytest.raises(VersionMismatch):
            bench.restore(target, set_id)
    assert not target.restored.exists()


def test_restore_waits_for_a_reconfigure_and_goes_on(bench: Bench, tmp_path: Path) -> None:
    set_id = bench.back_up().manifest.set_id
    target = ToyHost(tmp_path / "target")
    with _gitlab_ctl(target, "reconfigure") as process:
        bench.clock.meanwhile = _once(process, int)
        bench.restore(target, set_id)
    assert target.restored.exists()


# -- a real dpkg -----------------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_a_real_dpkg_is_waited_for_and_what_a_dead_one_leaves_is_told(bench: Bench, tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg here")
    host, gate = bench.host, tmp_path / "gate"
    os.mkfifo(gate)
    package = _package(tmp_path, f"#!/bin/sh\necho at work >'{gate}'\nexec sleep 600 <&-\n")
    assert check_packages(host.install, LocalRunner())[0].startswith("not told by dpkg")
    with _process(_dpkg(host, "--install", str(package))) as dpkg:
        assert gate.read_text() == "at work\n"
        seen = at_work(LocalRunner(), host.install)
        assert seen == f"a package manager is at work: dpkg (process {dpkg.pid})"
        dpkg.kill()  # in the middle of it
    assert at_work(LocalRunner(), host.install) == ""
    with pytest.raises(HostUnfit, match=r"gitlab-ee 18\.9\.1-ee\.0 is half-") as caught:
        check_packages(host.install, LocalRunner())
    assert "--configure" in caught.value.hint


@pytest.mark.engine
def test_a_package_that_is_installed_is_told_as_one_only_where_dpkg_says_so(bench: Bench) -> None:
    if shutil.which("dpkg-query") is None:
        pytest.skip("no dpkg here")
    _dpkg(bench.host)
    status = bench.host.root / "var/lib/dpkg/status"
    status.write_text(
        "Package: gitlab-ee\nStatus: install ok installed\nVersion: 18.9.1-ee.0\nArchitecture: all\n"
        "Maintainer: Nobody <nobody@example.com>\nDescription: a test\n\n"
    )
    assert check_packages(bench.host.install, LocalRunner()) == ("no package of GitLab's is half installed", "")


def _package(folder: Path, postinst: str) -> Path:
    control = folder / "package/DEBIAN"
    control.mkdir(parents=True)
    (control / "control").write_text(
        "Package: gitlab-ee\nVersion: 18.9.1-ee.0\nArchitecture: all\n"
        "Maintainer: Nobody <nobody@example.com>\nDescription: a test\n"
    )
    (control / "postinst").write_text(postinst)
    (control / "postinst").chmod(0o755)
    path = folder / "gitlab-ee.deb"
    subprocess.run(["dpkg-deb", "--build", str(control.parent), str(path)], check=True, capture_output=True)
    return path


def _dpkg(host: ToyHost, *words: str) -> list[str]:
    admin, files = host.root / "var/lib/dpkg", host.root / "files"
    for directory in (admin / "updates", admin / "info", files):
        directory.mkdir(parents=True)
    (admin / "status").touch()
    return ["dpkg", f"--admindir={admin}", f"--instdir={files}", "--force-all", "--force-script-chrootless", *words]


# -- who is at work --------------------------------------------------------------------------------------------------


def _upgrade(host: ToyHost) -> None:
    (host.root / "opt/gitlab/embedded/service/gitlab-rails/VERSION").write_text(NEWER + "\n")


def _once(process: subprocess.Popen[bytes], act: Callable[[], object]) -> Callable[[], object]:
    """In the first moment of waiting, act and let the process end."""

    def meanwhile() -> None:
        if process.poll() is None:
            act()
            process.kill()
            process.wait()

    return meanwhile


@contextmanager
def _held(lock: Path, *how: str) -> Iterator[subprocess.Popen[bytes]]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _process([sys.executable, "-c", _HOLDER, str(lock), *how]) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        yield process


@contextmanager
def _gitlab_ctl(host: ToyHost, word: str, *by: str) -> Iterator[subprocess.Popen[bytes]]:
    """What `gitlab-ctl` leaves in the list of processes for as long as it is at work."""
    program = host.root / "opt/gitlab/embedded/bin/omnibus-ctl"
    program.parent.mkdir(exist_ok=True)
    program.write_text("echo begun\nread -r word\n")
    with _process(
        [*by, "/bin/sh", str(program), "gitlab", "/opt/gitlab/embedded/service/omnibus-ctl*", word]
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"begun\n"
        yield process


@contextmanager
def _process(argv: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what it started itself
