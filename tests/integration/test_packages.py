"""Installing GitLab's package with real apt, dpkg, dnf and rpm; it holds a VERSION file and the scripts' logic.

The images' script make-packages says what is in which repository.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path, PurePosixPath

import pytest

from drtool.core.command import Command
from drtool.core.packages import FromHere, FromHost, FromRepository, FromStore, PackageSource, package_of
from drtool.errors import Busy, CommandFailed, ConfigError, HostUnfit, ObjectMissing, SetDamaged, VersionMismatch
from drtool.events import Event, Noticed, Waiting
from drtool.hosts import Runner
from drtool.hosts.prefix import docker_exec, open_prefixed
from drtool.installing import Outcome, install_package, look_at_packages, refuse_unfit, release_package
from drtool.installs.omnibus import Omnibus
from drtool.stores.memory import MemoryStore
from tests.integration.engine import Engine

pytestmark = pytest.mark.engine("docker")

CE = package_of("16.11.6")
EE = package_of("16.11.6-ee")
VERSION = "/opt/gitlab/embedded/service/gitlab-rails/VERSION"
HOLD_DPKG = """
import fcntl, time
file = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(file, fcntl.LOCK_EX)
open("/run/locked", "w").close()
time.sleep(600)
"""


class Clock:
    """Lets no time pass but what is slept, and does something whenever it should sleep."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._seconds = 0.0
        self._meanwhile = meanwhile

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        return self._seconds

    def sleep(self, duration: timedelta) -> None:
        self._seconds += duration.total_seconds()
        self._meanwhile()


class Host:
    """One container, and what drtool would do on it."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.events: list[Event] = []

    def sh(self, script: str) -> str:
        return self.runner.run(Command(("sh", "-c", script), timedelta(minutes=2))).decode()

    def install(
        self,
        source: PackageSource | None = None,
        version: str = "16.11.6",
        *,
        store: MemoryStore | None = None,
        clock: Clock | None = None,
    ) -> Outcome:
        package = package_of(version)
        return install_package(
            self.runner, package, source or FromRepository(), self.events.append, clock or Clock(),
            install=Omnibus(), store=store,
        )  # fmt: skip

    def version(self) -> str:
        return self.sh(f"cat {VERSION}").strip()

    def has(self, path: str) -> bool:
        return self.sh(f"test -e {path} && echo yes || echo no") == "yes\n"

    def write(self, path: str, text: str) -> None:
        self.runner.run(Command(("sh", "-c", 'mkdir -p "${0%/*}" && cat > "$0"', path)), stdin=text.encode())

    def noticed(self) -> list[str]:
        return [event.code for event in self.events if isinstance(event, Noticed)]


@pytest.fixture
def debian(engine: Engine) -> Iterator[Host]:
    with _host(engine) as host:
        yield host


@pytest.fixture
def enterprise(engine: Engine) -> Iterator[Host]:
    with _host(engine) as host:
        host.sh("become-enterprise-linux")
        yield host


@contextmanager
def _host(engine: Engine, **mounts: str) -> Iterator[Host]:
    made = engine.container("packages").with_command("sleep infinity")
    for path, options in mounts.items():
        made.with_tmpfs_mount(path, options)
    with (
        made as container,
        closing(open_prefixed(docker_exec(container.get_wrapped_container().id), "new-host")) as runner,
    ):
        yield Host(runner)


def _wait_for(host: Host, path: str) -> None:
    deadline = time.monotonic() + 60
    while not host.has(path):
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)


# --- apt


def test_exactly_the_package_of_the_set_is_installed_and_held(debian: Host) -> None:
    outcome = debian.install()

    assert (outcome.changed, outcome.held) == (True, True)
    assert debian.version() == "16.11.6"
    assert debian.sh("apt-mark showhold") == "gitlab-ce\n"
    debian.sh("apt-get -y upgrade")
    assert debian.version() == "16.11.6"
    assert "gitlab-recommended" not in debian.sh("dpkg-query -W")
    assert debian.noticed() == []


def test_a_release_from_hold_lets_upgrades_in_again(debian: Host) -> None:
    debian.install()
    release_package(debian.runner, CE)
    debian.sh("apt-get -y upgrade")
    assert debian.version() == "17.0.0"


def test_what_is_there_already_is_left_alone(debian: Host) -> None:
    debian.install()
    before = debian.sh("stat -c %Z /var/lib/dpkg/info/gitlab-ce.list")
    outcome = debian.install()
    assert (outcome.changed, outcome.held) == (False, True)
    assert debian.sh("stat -c %Z /var/lib/dpkg/info/gitlab-ce.list") == before


def test_a_package_that_was_there_without_a_hold_is_held(debian: Host) -> None:
    debian.sh("apt-get update && apt-get -y install gitlab-ce=16.11.6-ce.0")
    outcome = debian.install()
    assert (outcome.changed, outcome.held) == (False, True)
    assert debian.sh("apt-mark showhold") == "gitlab-ce\n"


def test_gitlab_is_not_configured_by_its_installation(debian: Host) -> None:
    debian.install()
    assert not debian.has("/etc/gitlab/gitlab-secrets.json")
    assert not debian.has("/var/opt/gitlab/bootstrapped")


def test_a_configuration_that_was_there_starts_nothing_and_stays(debian: Host) -> None:
    mine = "external_url 'https://git.example.com'\n"
    debian.write("/etc/gitlab/gitlab.rb", mine)
    debian.install()
    assert debian.sh("cat /etc/gitlab/gitlab.rb") == mine
    assert debian.sh("ls /etc/gitlab") == "gitlab.rb\n"
    assert not debian.has("/var/opt/gitlab/bootstrapped")


def test_without_these_precautions_the_package_does_configure_itself(debian: Host) -> None:
    debian.write("/etc/gitlab/gitlab.rb", "external_url 'https://git.example.com'\n")
    debian.sh("apt-get update && apt-get -y install gitlab-ce=16.11.6-ce.0")
    assert debian.has("/etc/gitlab/gitlab-secrets.json")


def test_a_configuration_stays_when_the_installation_fails(debian: Host) -> None:
    debian.write("/etc/gitlab/gitlab.rb", "mine\n")
    with pytest.raises(HostUnfit):
        debian.install(version="16.11.9")
    assert debian.sh("cat /etc/gitlab/gitlab.rb") == "mine\n"


@pytest.mark.parametrize("version", ["16.11.5", "17.0.0"])
def test_another_version_is_refused_and_left_alone(debian: Host, version: str) -> None:
    debian.sh(f"apt-get update && apt-get -y install gitlab-ce={version}-ce.0")
    with pytest.raises(
        VersionMismatch, match=rf"new-host has gitlab-ce {version}-ce\.0.*needs gitlab-ce 16\.11\.6-ce\.0"
    ):
        debian.install()
    assert debian.version() == version


def test_another_edition_is_not_replaced(debian: Host) -> None:
    debian.install(version="16.11.6-ee")
    with pytest.raises(VersionMismatch, match="gitlab-ee"):
        refuse_unfit(CE, look_at_packages(debian.runner), debian.runner)
    with pytest.raises(VersionMismatch, match="gitlab-ee"):
        debian.install()
    assert debian.version() == "16.11.6-ee"


def test_a_version_that_nobody_offers_is_named_with_those_that_are(debian: Host) -> None:
    with pytest.raises(HostUnfit, match=r"do not have gitlab-ce 16\.11\.9-ce\.0: .* they have .*16\.11\.6.*17\.0\.0"):
        debian.install(version="16.11.9")
    with pytest.raises(HostUnfit, match=r"they know no gitlab-jh"):
        debian.install(version="16.11.6-jh")


def test_a_package_with_another_version_inside_is_found_out(debian: Host) -> None:
    with pytest.raises(VersionMismatch, match=r"'16\.9\.9'.*'16\.9\.8'"):
        debian.install(version="16.9.9")


def test_a_hold_on_what_is_not_there_yields_to_the_right_package(debian: Host) -> None:
    debian.sh("apt-get update && apt-mark hold gitlab-ce")
    assert debian.install().held
    assert debian.version() == "16.11.6"


def test_a_package_killed_in_the_middle_is_finished_by_the_next_run(debian: Host) -> None:
    mine = "external_url 'https://git.example.com'\n"
    debian.write("/etc/gitlab/gitlab.rb", mine)
    debian.write("/etc/during-postinst", "touch /run/reached; sleep 600\n")
    raised: list[BaseException] = []

    def interrupted() -> None:
        try:
            debian.install()
        except BaseException as problem:  # noqa: BLE001 - looked at below
            raised.append(problem)

    thread = threading.Thread(target=interrupted)
    thread.start()
    _wait_for(debian, "/run/reached")
    debian.sh("kill -9 $(pidof apt-get) $(pidof dpkg) $(pidof sleep | tr ' ' '\\n' | grep -v '^1$')")
    thread.join()
    assert isinstance(raised[0], CommandFailed)
    assert look_at_packages(debian.runner).installed[0].state == "broken"

    debian.sh("rm /etc/during-postinst")
    outcome = debian.install()
    assert (outcome.changed, outcome.held) == (True, True)
    assert debian.sh("cat /etc/gitlab/gitlab.rb") == mine
    assert not debian.has("/var/opt/gitlab/bootstrapped")


def test_a_run_killed_with_the_configuration_aside_leaves_none_of_it_behind(debian: Host) -> None:
    debian.install()
    debian.write("/etc/gitlab/gitlab.rb.drtool-aside", "mine\n")
    debian.install()
    assert debian.sh("cat /etc/gitlab/gitlab.rb; ls /etc/gitlab") == "mine\ngitlab.rb\n"


@pytest.mark.parametrize("how", ["--unpack", "--install"])
def test_a_package_left_half_done_is_finished(debian: Host, how: str) -> None:
    debian.write("/etc/during-postinst", "exit 1\n")
    debian.sh(f"dpkg {how} /srv/files/gitlab-ce_16.11.6-ce.0_$(dpkg --print-architecture).deb || true")
    debian.sh("rm /etc/during-postinst")
    assert debian.install().changed
    assert debian.sh("dpkg --audit") == ""


def test_an_interrupted_dpkg_is_finished_first(debian: Host) -> None:
    debian.write(
        "/var/lib/dpkg/updates/0000", "Package: gitlab-nothing\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    assert debian.install().changed


def test_a_failing_script_of_the_package_is_told_and_may_be_tried_again(debian: Host) -> None:
    debian.write("/etc/during-postinst", "echo 'Running handlers: no space on this planet' >&2; exit 7\n")
    with pytest.raises(HostUnfit, match=r"the package's own script failed: .*gitlab-ce"):
        debian.install()
    debian.sh("rm /etc/during-postinst")
    assert debian.install().changed


def test_a_lock_is_waited_for(debian: Host) -> None:
    _hold_dpkg(debian)
    clock = Clock(meanwhile=lambda: debian.sh("kill $(cat /run/holder) 2>/dev/null; sleep 0.2"))
    assert debian.install(clock=clock).changed
    assert any(isinstance(event, Waiting) for event in debian.events)


def test_a_lock_is_waited_for_only_so_long(debian: Host) -> None:
    _hold_dpkg(debian)
    with pytest.raises(Busy, match="Could not get lock /var/lib/dpkg/lock-frontend"):
        debian.install()
    assert sum(isinstance(event, Waiting) for event in debian.events) > 1


def _hold_dpkg(host: Host) -> None:
    host.write("/run/hold.py", HOLD_DPKG)
    host.sh("setsid python3 /run/hold.py >/dev/null 2>&1 & echo $! > /run/holder")
    _wait_for(host, "/run/locked")


def test_a_repository_that_is_not_signed_is_not_used(debian: Host) -> None:
    debian.write("/etc/apt/sources.list.d/gitlab.list", "deb file:/srv/deb ./\n")
    with pytest.raises(HostUnfit, match="its signature is not trusted"):
        debian.install()
    assert not debian.has(VERSION)


def test_a_repository_out_of_reach_is_told(debian: Host) -> None:
    debian.write("/etc/apt/sources.list.d/gitlab.list", "deb http://user:fake-password@127.0.0.1:1/deb ./\n")
    with pytest.raises(HostUnfit, match="the package repository cannot be read") as raised:
        debian.install()
    assert "fake-password" not in f"{raised.value} {debian.events}"


def test_another_repository_out_of_reach_does_not_matter(debian: Host) -> None:
    debian.write("/etc/apt/sources.list.d/other.list", "deb http://127.0.0.1:1/other ./\n")
    assert debian.install().changed
    assert debian.noticed() == ["old-package-lists"]


def test_a_full_disk_is_told(engine: Engine) -> None:
    with _host(engine, **{"/opt/gitlab": "size=8k"}) as host:
        host.sh("head -c 1M /dev/zero > /opt/gitlab/ballast || true")
        with pytest.raises(HostUnfit, match=r"there is not enough room: .*No space left"):
            host.install()
        host.sh("rm /opt/gitlab/ballast; mount -o remount,size=1m /opt/gitlab || true")


# --- apt, package files


def _deb(name: str) -> FromHost:
    return FromHost(PurePosixPath(f"/srv/files/{name}"))


@pytest.fixture
def here(debian: Host) -> str:
    return debian.sh("dpkg --print-architecture").strip()


def test_a_file_on_the_host_is_installed_without_any_repository(debian: Host, here: str) -> None:
    debian.sh("rm /etc/apt/sources.list.d/*")
    assert debian.install(_deb(f"gitlab-ce_16.11.6-ce.0_{here}.deb")).held
    assert debian.version() == "16.11.6"


def test_a_file_gets_what_it_needs_from_the_repositories(debian: Host, here: str) -> None:
    debian.install(_deb(f"gitlab-ee_16.11.6-ee.0_{here}.deb"), "16.11.6-ee")
    assert debian.version() == "16.11.6-ee"


def test_a_file_whose_needs_nobody_has_is_told(debian: Host, here: str) -> None:
    debian.sh("rm /etc/apt/sources.list.d/*")
    with pytest.raises(HostUnfit, match="what the package needs besides is not to be had"):
        debian.install(_deb(f"gitlab-ee_16.11.6-ee.0_{here}.deb"), "16.11.6-ee")


def test_a_file_of_another_version_is_refused(debian: Host, here: str) -> None:
    with pytest.raises(
        VersionMismatch, match=r"is gitlab-ce 16\.11\.7-ce\.0, and the set needs gitlab-ce 16\.11\.6-ce\.0"
    ):
        debian.install(_deb(f"gitlab-ce_16.11.7-ce.0_{here}.deb"))
    assert not debian.has(VERSION)


def test_a_file_for_another_architecture_is_refused(debian: Host, here: str) -> None:
    there = "amd64" if here == "arm64" else "arm64"
    with pytest.raises(HostUnfit, match=f"is for {there}, and the host is {here}"):
        debian.install(_deb(f"gitlab-ce_16.11.6-ce.0_{there}.deb"))


def test_a_file_that_is_cut_off_is_refused(debian: Host, here: str) -> None:
    name = f"gitlab-ce_16.11.6-ce.0_{here}.deb"
    debian.sh(f"cd /srv/files && truncate -s -600 {name}")
    with pytest.raises(HostUnfit, match="the package file is damaged"):
        debian.install(_deb(name))
    assert debian.install().changed  # and from the repository it goes on


def test_a_file_with_another_digest_is_refused_before_anything_looks_into_it(debian: Host, here: str) -> None:
    source = FromHost(PurePosixPath(f"/srv/files/gitlab-ce_16.11.6-ce.0_{here}.deb"), sha256="0" * 64)
    with pytest.raises(SetDamaged, match="its SHA-256 is"):
        debian.install(source)
    assert not debian.has(VERSION)


def test_a_file_that_is_not_there_is_told(debian: Host) -> None:
    with pytest.raises(HostUnfit, match="a file is not there"):
        debian.install(_deb("nothing.deb"))
    with pytest.raises(ConfigError, match=r"does not end in \.deb"):
        debian.install(_deb("gitlab-ce.rpm"))


def test_a_file_from_here_is_sent_and_tidied_up(debian: Host, here: str, tmp_path: Path) -> None:
    content = debian.runner.run(Command(("cat", f"/srv/files/gitlab-ce_16.11.6-ce.0_{here}.deb")))
    file = tmp_path / "any name.deb"
    file.write_bytes(content)
    debian.install(FromHere(PurePosixPath(file), sha256=hashlib.sha256(content).hexdigest()))
    assert debian.version() == "16.11.6"
    assert debian.sh("ls /var/cache/drtool") == ""


def test_a_file_from_the_store_is_sent(debian: Host, here: str) -> None:
    content = debian.runner.run(Command(("cat", f"/srv/files/gitlab-ce_16.11.6-ce.0_{here}.deb")))
    store = MemoryStore()
    store.put("packages/gitlab.deb", BytesIO(content))
    store.put("packages/cut.deb", BytesIO(content[:-600]))
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(SetDamaged, match=r"packages/cut\.deb in the store: its SHA-256"):
        debian.install(FromStore("packages/cut.deb", digest), store=store)
    with pytest.raises(ObjectMissing):
        debian.install(FromStore("packages/none.deb"), store=store)
    with pytest.raises(ConfigError, match="there is no store"):
        debian.install(FromStore("packages/gitlab.deb"))
    assert not debian.has(VERSION)
    debian.install(FromStore("packages/gitlab.deb", digest), store=store)
    assert debian.version() == "16.11.6"


def test_a_host_of_no_known_kind_is_refused(debian: Host) -> None:
    debian.sh("rm /etc/os-release; echo ID=slackware > /etc/os-release")
    with pytest.raises(HostUnfit, match="slackware"):
        debian.install()


# --- dnf


def test_dnf_installs_exactly_that_version_and_holds_it(enterprise: Host) -> None:
    enterprise.write("/etc/gitlab/gitlab.rb", "external_url 'https://git.example.com'\n")
    outcome = enterprise.install()
    assert (outcome.changed, outcome.held) == (True, True)
    assert not enterprise.has("/var/opt/gitlab/bootstrapped")
    enterprise.sh("dnf -y upgrade")
    assert enterprise.version() == "16.11.6"
    again = enterprise.install()
    assert (again.changed, again.held) == (False, True)
    release_package(enterprise.runner, CE)
    enterprise.sh("dnf -y upgrade")
    assert enterprise.version() == "17.0.0"


def test_dnf_without_its_plugin_holds_nothing_and_says_so(enterprise: Host) -> None:
    enterprise.sh("rm /usr/lib/python3/dist-packages/dnf-plugins/versionlock.py")
    outcome = enterprise.install()
    assert (outcome.changed, outcome.held) == (True, False)
    assert enterprise.noticed() == ["not-held"]


def test_dnf_changes_no_other_version_and_no_other_edition(enterprise: Host) -> None:
    enterprise.sh("dnf -y install gitlab-ce-16.11.5")
    with pytest.raises(VersionMismatch, match=r"gitlab-ce 16\.11\.5-ce\.0\.el9"):
        enterprise.install()
    with pytest.raises(VersionMismatch, match=r"needs gitlab-ee"):
        enterprise.install(version="16.11.6-ee")
    assert enterprise.version() == "16.11.5"


def test_dnf_names_what_is_offered(enterprise: Host) -> None:
    with pytest.raises(HostUnfit, match=r"do not have gitlab-ce 16\.11\.9-ce\.0: .*16\.11\.6-ce\.0\.el9, 17\.0\.0"):
        enterprise.install(version="16.11.9")
    with pytest.raises(HostUnfit, match=r"they know no gitlab-jh"):
        enterprise.install(version="16.11.6-jh")


def test_dnf_installs_a_file_although_no_repository_answers(enterprise: Host) -> None:
    machine = enterprise.sh("uname -m").strip()
    enterprise.install()  # brings what rpm's scripts need
    enterprise.sh("rpm --erase gitlab-ce; dnf -y versionlock clear; rm -rf /srv/rpm /var/cache/dnf")
    assert enterprise.install(_deb(f"gitlab-ce-16.11.6-ce.0.el9.{machine}.rpm")).held
    assert enterprise.version() == "16.11.6"


def test_dnf_refuses_wrong_and_broken_files(enterprise: Host) -> None:
    machine = enterprise.sh("uname -m").strip()
    there = "x86_64" if machine == "aarch64" else "aarch64"
    with pytest.raises(VersionMismatch, match=r"is gitlab-ce 16\.11\.7-ce\.0\.el9"):
        enterprise.install(_deb(f"gitlab-ce-16.11.7-ce.0.el9.{machine}.rpm"))
    with pytest.raises(HostUnfit, match=f"is for {there}"):
        enterprise.install(_deb(f"gitlab-ce-16.11.6-ce.0.el9.{there}.rpm"))
    enterprise.sh(f"truncate -s -600 /srv/files/gitlab-ce-16.11.6-ce.0.el9.{machine}.rpm")
    with pytest.raises(HostUnfit, match="the package file is damaged"):
        enterprise.install(_deb(f"gitlab-ce-16.11.6-ce.0.el9.{machine}.rpm"))
    assert not enterprise.has(VERSION)


def test_dnf_tells_of_repositories_out_of_reach_and_of_signatures(enterprise: Host) -> None:
    enterprise.write("/etc/yum.repos.d/gitlab.repo", "[gitlab]\nname=gitlab\nbaseurl=http://127.0.0.1:1/rpm\n")
    with pytest.raises(HostUnfit, match="the package repository cannot be read"):
        enterprise.install()
    enterprise.write("/etc/yum.repos.d/gitlab.repo", "[gitlab]\nname=gitlab\nbaseurl=file:///srv/rpm\ngpgcheck=1\n")
    with pytest.raises(HostUnfit, match="its signature is not trusted"):
        enterprise.install()
    assert not enterprise.has(VERSION)


def test_dnf_is_kept_out_by_another_one(enterprise: Host) -> None:
    enterprise.sh("mkdir -p /var/lib/dnf /var/cache/dnf; sleep 600 >/dev/null 2>&1 & echo $! > /run/holder")
    enterprise.sh("cat /run/holder > /var/lib/dnf/rpmdb_lock.pid; cat /run/holder > /var/cache/dnf/metadata_lock.pid")
    with pytest.raises(Busy):
        enterprise.install()
    clock = Clock(meanwhile=lambda: enterprise.sh("kill $(cat /run/holder) 2>/dev/null; sleep 0.2"))
    assert enterprise.install(clock=clock).changed
