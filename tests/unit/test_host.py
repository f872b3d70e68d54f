"""What a host answers, read: as it is, cut off, and made up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drtool.core.host import Database, Settings, Tar
from drtool.errors import CommandFailed
from drtool.gitlab.settings import parse_settings, parse_storage_paths
from drtool.installs import probe
from drtool.installs.probe import Shown, parse_shown

NIGHT = datetime(2026, 1, 13, 3, 15, tzinfo=UTC)
DF = "Filesystem 1024-blocks Used Available Capacity Mounted on\n"
MOUNTINFO = (
    "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
    "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
    "90 27 254:16 / /var/opt/gitlab/gitlab-rails/uploads/with\\040blank rw - ext4 /dev/vdb rw\n"
    "91 27 254:32 / /var/opt/gitlab/gitlab-rails/shared/artifacts rw - ext4 /dev/vdc rw\n"
    "92 27 254:48 / /var/opt/gitlab/gitlab-rails/uploads-old rw - ext4 /dev/vdd rw\n"
)
GITLAB_YML = """\
production: &base
  gitlab:
    ssh_host:
    trusted_proxies:
  artifacts: {enabled: true, object_store: {enabled: false, connection: {}}}
  lfs: {object_store: {enabled: true, connection: {"aws_secret_access_key": "obviously-fake"}}}
  registry: {enabled: false, host: null}
  gitaly: {token: "obviously-fake"}
  repositories:
    storages: {"default":{"path":"/srv/git","gitaly_address":"unix:/g.socket"},"near":{"gitaly_address":"tcp://127.0.0.1:1"},"far":{"gitaly_address":"tls://10.0.0.9:9999"}}
test:
  <<: *base
"""
FLAT = "production:\n  adapter: postgresql\n  host: {}\n"
MAIN = "production:\n  main:\n    adapter: postgresql\n    host: {}\n  ci:\n    host: elsewhere\n"


# The framing of a script's answers


def test_answers_come_with_their_statuses_and_their_lines() -> None:
    shown = parse_shown(b"= 0 user\n 0\n= 1 os\n= 0 space backups /a b\n one\n  two\n \n")
    assert shown == {"user": Shown(0, "0"), "os": Shown(1, ""), "space backups /a b": Shown(0, "one\n two\n")}
    assert (probe.text_of(shown, "user"), probe.text_of(shown, "os"), probe.text_of(shown, "never")) == (
        "0",
        None,
        None,
    )


def test_no_text_of_an_answer_passes_for_another_answer() -> None:
    assert parse_shown(b"= 0 os\n = 0 user\n 0\n").keys() == {"os"}


@pytest.mark.parametrize(
    "output", [b"", b"\n", b"user 0\n", b" 0\n= 0 user\n", b"= x user\n", b"= 0 user\nWelcome!\n", b"= 0\n"]
)
def test_something_else_than_answers_is_refused(output: bytes) -> None:
    with pytest.raises(CommandFailed):
        parse_shown(output)


# The machine


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\nVERSION_ID="12"\n', ("debian", "12")),
        ('ID="rocky"\nID_LIKE="rhel centos"\nVERSION_ID="9.3"', ("rocky", "9.3")),
        ("ID=arch\n", ("arch", None)),
        ("VERSION_ID=1\nHOME=/\n", (None, "1")),
        ('ID=""', (None, None)),
        ("ID=deb", ("deb", None)),
        ("", (None, None)),
        (None, (None, None)),
    ],
)
def test_os_release_is_read(text: str | None, found: tuple[str | None, str | None]) -> None:
    assert probe.parse_os_release(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("MemTotal:       24684092 kB\nMemFree: 1 kB\n", 24684092 << 10),
        ("MemFree: 1 kB\n", None),
        ("MemTotal: kB", None),
        ("MemTotal:       24684092", None),
        (None, None),
    ],
)
def test_memory_is_read(text: str | None, found: int | None) -> None:
    assert probe.parse_memory(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tar (GNU tar) 1.34\nCopyright", Tar("gnu", (1, 34), "tar (GNU tar) 1.34")),
        ("bsdtar 3.7.2 - libarchive 3.7.2 zlib/1.2", Tar("bsd", (3, 7), "bsdtar 3.7.2 - libarchive 3.7.2 zlib/1.2")),
        ("tar (busybox) 1.36.1", Tar("busybox", (1, 36), "tar (busybox) 1.36.1")),
        ("toybox 0.8", Tar("other", None, "toybox 0.8")),
        ("tar (GNU tar) one", Tar("other", None, "tar (GNU tar) one")),
        ("", None),
        ("\n", None),
        (None, None),
    ],
)
def test_tar_is_told_by_its_first_line(text: str | None, found: Tar | None) -> None:
    assert probe.parse_tar(text) == found


@pytest.mark.parametrize(
    ("programs", "manager"),
    [({"apt-get", "dnf"}, "apt"), ({"dnf", "curl"}, "dnf"), ({"zypper"}, "none"), (set(), "none")],
)
def test_package_manager_is_told_by_its_program(programs: set[str], manager: str) -> None:
    assert probe.parse_package_manager(programs) == manager


@pytest.mark.parametrize(
    ("text", "number"),
    [("17", 17), ("0", 0), ("17\n", None), ("-1", None), ("9" * 19, None), ("٣", None), ("", None), (None, None)],
)
def test_a_number_stands_alone(text: str | None, number: int | None) -> None:
    assert probe.parse_number(text) == number


# The clock


@given(
    offset=st.timedeltas(timedelta(days=-4000), timedelta(days=4000)),
    there=st.timedeltas(timedelta(0), timedelta(seconds=5)),
    back=st.timedeltas(timedelta(0), timedelta(seconds=5)),
)
def test_the_true_offset_lies_within_the_uncertainty(offset: timedelta, there: timedelta, back: timedelta) -> None:
    """However the round trip divides into the way there and the way back."""
    theirs = NIGHT + there + offset
    answer = f"{int(theirs.timestamp())}.{theirs.microsecond:06}000\n"
    found = probe.parse_offset(answer.encode(), NIGHT, there + back)
    assert found and abs(found.ahead - offset) <= found.uncertainty + timedelta(microseconds=2)


@given(st.timedeltas(timedelta(0), timedelta(seconds=2)))
def test_a_clock_without_fractions_is_half_a_second_less_certain(there: timedelta) -> None:
    answer = f"{int((NIGHT + there).timestamp())}.%N\n".encode()
    found = probe.parse_offset(answer, NIGHT, 2 * there)
    assert found and abs(found.ahead) <= found.uncertainty + timedelta(microseconds=2)
    assert found.uncertainty >= timedelta(seconds=0.5)


@pytest.mark.parametrize("output", [b"", b"now", b"12", b"-1.000000000", b"1768274100.12345678", b"9" * 12 + b".0"])
def test_what_is_no_time_is_no_offset(output: bytes) -> None:
    assert probe.parse_offset(output, NIGHT, timedelta(0)) is None


# File systems


def df(place: str, line: str, inodes: str | None = None) -> dict[str, Shown]:
    shown = {f"space {place}": Shown(0, DF + line)}
    return shown if inodes is None else {**shown, f"inodes {place}": Shown(0, DF + inodes)}


def test_room_is_read_as_df_prints_it() -> None:
    (room,) = probe.parse_rooms(
        df("backups /b a", "/dev/sda1  1000 200 300 40% /mnt/a b", "/dev/sda1 50 20 30 40% /mnt/a b")
    )
    assert (room.place, room.path, room.device, room.mount) == ("backups", "/b a", "/dev/sda1", "/mnt/a b")
    assert (room.total, room.free, room.inodes, room.free_inodes) == (1000 << 10, 300 << 10, 50, 30)


def test_file_systems_without_a_device_are_told_apart_by_their_mount() -> None:
    one, other = (probe.parse_rooms(df("data /x", f"tmpfs 10 1 9 10% {mount}"))[0].device for mount in ("/a", "/b"))
    assert one != other


@pytest.mark.parametrize("inodes", [None, "btrfs 0 0 0 - /", "rubbish"])
def test_a_file_system_that_counts_no_inodes_has_no_limit(inodes: str | None) -> None:
    (room,) = probe.parse_rooms(df("root /", "btrfs 10 1 9 10% /", inodes))
    assert (room.inodes, room.free_inodes) == (None, None)


def test_a_full_file_system_has_nothing_free_though_df_counts_below_zero() -> None:
    (room,) = probe.parse_rooms(df("root /", "/dev/sda1 10 12 -2 120% /"))
    assert room.free == 0


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"space backups /b": Shown(1, DF + "/dev/sda1 10 1 9 10% /")},
        {"space backups /b": Shown(0, "")},
        {"space backups /b": Shown(0, DF + "/dev/sda1 10 1 9")},
        {"space backups /b": Shown(0, DF + "/dev/sda1 10 1 nine 10% /")},
        {"space backups /b": Shown(0, DF + "/dev/sda1 10 1 9 10% /\nand more")},
        {"space elsewhere /b": Shown(0, DF + "/dev/sda1 10 1 9 10% /")},
        {"space": Shown(0, DF)},
    ],
)
def test_room_that_cannot_be_understood_is_left_out(shown: dict[str, Shown]) -> None:
    assert probe.parse_rooms(shown) == ()


def test_mount_points_inside_a_directory_are_found_and_the_directory_itself_is_none() -> None:
    front = "/var/opt/gitlab/gitlab-rails"
    found = probe.mounts_below(probe.parse_mounts(MOUNTINFO), [f"{front}/uploads", f"{front}/shared/artifacts"])
    assert found == (f"{front}/uploads/with blank",)


@pytest.mark.parametrize("text", [None, "", "rubbish\n", "22 27 0:21 /\n", MOUNTINFO[:40]])
def test_lines_that_are_no_mounts_are_left_out(text: str | None) -> None:
    assert probe.mounts_below(probe.parse_mounts(text), ["/var/opt/gitlab"]) == ()
    assert probe.mounts_below(probe.parse_mounts(text), [""]) == ()


# GitLab's database


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"160004|31457280|12|4096|0\n", Database(16, 12, 31457280, 4096, 0)),
        (b"90624|1|0||1", Database(9, 0, 1, None, 1)),
        (b"160004|31457280|0\n", None),
        (b"160004|31457280||4096|0\n", None),
        (b"160004|31457280|-1|4096|0\n", None),
        (b"160004|1|2|3|4\n160004|1|2|3|4\n", None),
        (b"psql: error", None),
        (b"", None),
    ],
)
def test_the_databases_answer_is_one_whole_line_or_none(line: bytes, found: Database | None) -> None:
    assert probe.parse_database(line) == found


# GitLab's configuration


def test_settings_are_read_from_rendered_configuration() -> None:
    assert parse_settings(GITLAB_YML, MAIN.format("/var/opt/gitlab/postgresql")) == Settings(
        registry=False,
        storages=("default", "far", "near"),
        remote_storages=("far",),
        object_storage=("lfs",),
        database_host="",
    )


@pytest.mark.parametrize(
    ("text", "host"),
    [
        (FLAT.format('"db.example.com"'), "db.example.com"),
        (MAIN.format("10.0.0.5"), "10.0.0.5"),
        (MAIN.format("localhost"), ""),
        (FLAT.format(""), ""),
        ("production:\n  main: nothing\n", None),
        ("production: {}\n", None),
        (None, None),
    ],
)
def test_a_database_elsewhere_is_told_from_one_on_the_host(text: str | None, host: str | None) -> None:
    settings = parse_settings(GITLAB_YML, text)
    assert settings and settings.database_host == host


def test_object_storage_that_components_share_is_seen() -> None:
    text = (
        "production:\n  object_store:\n    enabled: true\n    objects:\n      artifacts: {bucket: a}\n"
        "      lfs: {bucket: b, enabled: false}\n      uploads: {bucket: null}\n      packages: {bucket: c}\n"
    )
    found = parse_settings(text, None)
    assert found and found.object_storage == ("artifacts", "packages")
    off = parse_settings(text.replace("enabled: true", "enabled: false"), None)
    assert off and off.object_storage == ()


def test_what_the_configuration_does_not_say_is_not_known() -> None:
    assert parse_settings("production:\n  gitlab: {}\n", None) == Settings(None, None, (), (), None)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "production",
        "[]",
        "production: [",
        "a: b",
        "production: &a {b: *c}",
        "\0",
        "!!python/object:os.system {}",
    ],
)
def test_configuration_that_cannot_be_understood_is_none(text: str | None) -> None:
    assert parse_settings(text, text) is None


@given(st.data())
def test_configuration_cut_off_anywhere_raises_nothing_and_invents_nothing(data: Any) -> None:
    cut = GITLAB_YML[: data.draw(st.integers(0, len(GITLAB_YML)))]
    found = parse_settings(cut, None)
    if found:
        assert found.registry in (None, False)
        assert set(found.storages or ()) <= {"default", "near", "far"}
        assert set(found.object_storage) <= {"lfs"}


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (
            '[[storage]]\nname = "default"\npath = "/a"\n[[storage]]\nname = "b"\npath = "/b"\n',
            {"default": "/a", "b": "/b"},
        ),
        ('[[storage]]\nname = "default"\npath = "relative"\n', {}),
        ('[[storage]]\nname = "default"\n', {}),
        ('storage = "x"\n', {}),
        ("storage = [1]\n", {}),
        ("[[storage", {}),
        ("", {}),
        (None, {}),
    ],
)
def test_paths_of_storages_are_those_that_gitaly_serves(text: str | None, paths: dict[str, str]) -> None:
    assert parse_storage_paths(text) == paths


@pytest.mark.parametrize(("path", "found"), [('"/mnt/backups"', "/mnt/backups"), ("tmp/backups", None), ("3", None)])
def test_where_gitlab_keeps_its_backups_is_read(path: str, found: str | None) -> None:
    settings = parse_settings(f"production:\n  backup:\n    path: {path}\n", None)
    assert settings and settings.backup_path == found
