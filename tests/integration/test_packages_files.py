"""Installing a package file that lies on the host, or here, or in the store, with real apt."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path, PurePosixPath

import pytest

from drtool.core.command import Command
from drtool.core.packages import FromHere, FromHost, FromStore
from drtool.errors import ConfigError, HostUnfit, ObjectMissing, SetDamaged, VersionMismatch
from drtool.stores.memory import MemoryStore
from tests.integration.engine import Engine
from tests.integration.package_hosts import (
    VERSION,
    Host,
    debian,
    here,
    package_file,
    package_host,
)

__all__ = ["debian", "here"]

pytestmark = pytest.mark.engine("docker")


def test_a_file_on_the_host_is_installed_without_any_repository(debian: Host, here: str) -> None:
    debian.sh("rm /etc/apt/sources.list.d/*")
    assert debian.install(package_file(f"gitlab-ce_16.11.6-ce.0_{here}.deb")).held
    assert debian.version() == "16.11.6"


def test_a_file_gets_what_it_needs_from_the_repositories(debian: Host, here: str) -> None:
    debian.install(package_file(f"gitlab-ee_16.11.6-ee.0_{here}.deb"), "16.11.6-ee")
    assert debian.version() == "16.11.6-ee"


def test_a_file_whose_needs_nobody_has_is_told(debian: Host, here: str) -> None:
    debian.sh("rm /etc/apt/sources.list.d/*")
    with pytest.raises(HostUnfit, match="what the package needs besides is not to be had"):
        debian.install(package_file(f"gitlab-ee_16.11.6-ee.0_{here}.deb"), "16.11.6-ee")


def test_a_file_of_another_version_is_refused(debian: Host, here: str) -> None:
    with pytest.raises(
        VersionMismatch, match=r"is gitlab-ce 16\.11\.7-ce\.0, and the set needs gitlab-ce 16\.11\.6-ce\.0"
    ):
        debian.install(package_file(f"gitlab-ce_16.11.7-ce.0_{here}.deb"))
    assert not debian.has(VERSION)


def test_a_file_for_another_architecture_is_refused(debian: Host, here: str) -> None:
    there = "amd64" if here == "arm64" else "arm64"
    with pytest.raises(HostUnfit, match=f"is for {there}, and the host is {here}"):
        debian.install(package_file(f"gitlab-ce_16.11.6-ce.0_{there}.deb"))


def test_a_file_that_is_cut_off_is_refused(debian: Host, here: str) -> None:
    name = f"gitlab-ce_16.11.6-ce.0_{here}.deb"
    debian.sh(f"cd /srv/files && truncate -s -600 {name}")
    with pytest.raises(HostUnfit, match="the package file is damaged"):
        debian.install(package_file(name))
    assert debian.install().changed  # and from the repository it goes on


def test_a_file_with_another_digest_is_refused_before_anything_looks_into_it(debian: Host, here: str) -> None:
    source = FromHost(PurePosixPath(f"/srv/files/gitlab-ce_16.11.6-ce.0_{here}.deb"), sha256="0" * 64)
    with pytest.raises(SetDamaged, match="its SHA-256 is"):
        debian.install(source)
    assert not debian.has(VERSION)


def test_a_file_that_is_not_there_is_told(debian: Host) -> None:
    with pytest.raises(HostUnfit, match="a file is not there"):
        debian.install(package_file("nothing.deb"))
    with pytest.raises(ConfigError, match=r"does not end in \.deb"):
        debian.install(package_file("gitlab-ce.rpm"))


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


def test_a_file_that_arrived_is_not_sent_again(debian: Host, here: str, tmp_path: Path) -> None:
    content = debian.runner.run(Command(("cat", f"/srv/files/gitlab-ee_16.11.6-ee.0_{here}.deb")))
    file = tmp_path / "gitlab.deb"
    file.write_bytes(content)
    source = FromHere(PurePosixPath(file), sha256=hashlib.sha256(content).hexdigest())
    debian.sh("mv /etc/apt/sources.list.d/gitlab.list /srv/")
    with pytest.raises(HostUnfit):
        debian.install(source, "16.11.6-ee")
    debian.sh("mv /srv/gitlab.list /etc/apt/sources.list.d/")
    file.unlink()
    debian.install(source, "16.11.6-ee")
    assert debian.version() == "16.11.6-ee"


def test_a_file_without_room_on_the_host_is_told(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "gitlab.deb"
    file.write_bytes(b"0" * 100_000)
    mounted = package_host(engine, **{"/var/cache/drtool": "size=16k"})
    with mounted as host, pytest.raises(HostUnfit, match="there is not enough room"):
        host.install(FromHere(PurePosixPath(file)))


def test_a_host_of_no_known_kind_is_refused(debian: Host) -> None:
    debian.sh("rm /etc/os-release; echo ID=slackware > /etc/os-release")
    with pytest.raises(HostUnfit, match="slackware"):
        debian.install()
