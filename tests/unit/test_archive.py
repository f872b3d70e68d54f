from __future__ import annotations

import gzip
import io
import random
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.errors import SetDamaged, UnsafeMember
from drtool.gitlab.archive import (
    BackupName,
    GzipCheck,
    Member,
    Sink,
    TarScanner,
    expected_members,
    order_members,
    parse_archive_name,
    parse_backup_information,
    repository_manifests,
)

ARCHIVES = Path(__file__).parents[1] / "data" / "gitlab-18.9-artefacts" / "archives"
FULL = ARCHIVES / "1795219681_2026_11_21_18.9.0-pre_gitlab_backup.tar"
PGFAIL = ARCHIVES / "pgfail_gitlab_backup.tar"
FULL_ID = "1795219681_2026_11_21_18.9.0-pre"


class Collector:
    """A Sink that keeps everything and knows whether it was closed."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.closed = False

    def write(self, data: memoryview) -> None:
        assert not self.closed
        self.data += data

    def close(self) -> None:
        self.closed = True


def chunks(data: bytes, sizes: int | Callable[[], int]) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = sizes if isinstance(sizes, int) else sizes()
        yield data[at : at + size]
        at += size


def scan(data: bytes, size: int = 1 << 20, watch: Callable[[Member], Sink | None] | None = None) -> list[Member]:
    scanner = TarScanner(watch)
    for chunk in chunks(data, size):
        scanner.feed(chunk)
    scanner.close()
    return scanner.members


def tar_of(
    *members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT, end: bool = True
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for member in members:
            entry, data = member if isinstance(member, tuple) else (member, b"")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        length = tar.offset
    return buffer.getvalue() if end else buffer.getvalue()[:length]


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def with_checksum(block: bytes) -> bytes:
    blanked = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(blanked) + block[156:]


def test_scanner_finds_in_a_real_archive_what_tar_finds() -> None:
    found = scan(FULL.read_bytes())
    with tarfile.open(FULL) as tar:
        expected = [(m.name, m.offset_data, m.size, m.mode, m.mtime) for m in tar.getmembers()]
    assert [(m.name, m.offset, m.size, m.mode, m.mtime) for m in found] == expected
    assert len(found) > 60


@pytest.mark.parametrize("size", [1, 7, 511, 512, 513, 4096])
def test_scanner_does_not_care_how_the_stream_is_cut(size: int) -> None:
    data = FULL.read_bytes()
    assert scan(data, size) == scan(data)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_scanner_reads_every_format_in_chunks_of_any_size(form: int, seed: int) -> None:
    dice = random.Random(seed)
    limit = 150 if form == tarfile.USTAR_FORMAT else 400
    contents = {}
    for number in range(dice.randrange(6)):
        name = f"{number}/" + "/".join("ä" * dice.randrange(1, 40) for _ in range(dice.randrange(1, 6)))
        while len(name.encode()) > limit or (form == tarfile.USTAR_FORMAT and len(name.split("/")[-1].encode()) > 99):
            name = name[: len(name) // 2].rstrip("/")
        contents[name] = dice.randbytes(dice.choice([0, 1, 511, 512, 513, dice.randrange(5000)]))
    data = tar_of(*((entry(name), content) for name, content in contents.items()), form=form)
    sinks = {name: Collector() for name in contents}
    scanner = TarScanner(lambda member: sinks[member.name])
    for chunk in chunks(data, lambda: dice.randrange(1, 2000)):
        scanner.feed(memoryview(chunk))
    scanner.close()
    assert {m.name: data[m.offset : m.offset + m.size] for m in scanner.members} == contents
    assert {name: bytes(sink.data) for name, sink in sinks.items()} == contents
    assert all(sink.closed for sink in sinks.values())


def test_scanner_reads_what_gnu_tar_writes_with_links_and_long_names(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    (deep / ("f" * 120)).write_text("x")
    (tmp_path / "link").symlink_to("d" * 90 + "/" + "e" * 90)
    (deep / "up").symlink_to("../../link")
    (tmp_path / "z").hardlink_to(deep / ("f" * 120))
    data = subprocess.run(
        ["tar", "-C", tmp_path, "--sort=name", "-cf", "-", "."], check=True, capture_output=True
    ).stdout
    found = {member.name: member for member in scan(data)}
    assert found["."].kind == "directory"
    assert found["link"].target == "d" * 90 + "/" + "e" * 90
    long = "d" * 90 + "/" + "e" * 90 + "/" + "f" * 120
    assert {found["z"].kind, found[long].kind} == {"file", "hardlink"}
    assert found["z"].target in {"", "./" + long}


def test_scanner_reads_sizes_beyond_eight_gigabytes() -> None:
    size = (8 << 30) + 5
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        header = entry("big")
        header.size = size
        scanner = TarScanner()
        scanner.feed(header.tobuf(form))
        assert scanner.members[0].size == size
        with pytest.raises(SetDamaged, match="inside 'big'"):
            scanner.close()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_scanner_refuses_an_archive_cut_anywhere(form: int) -> None:
    data = tar_of(entry("d", tarfile.DIRTYPE), (entry("n" * 150), b"x" * 700), (entry("last"), b""), form=form)
    content_end = len(data.rstrip(b"\0"))
    end_mark = content_end + -content_end % 512
    for cut in range(end_mark + 1023):
        with pytest.raises(SetDamaged):
            scan(data[:cut])
    assert len(scan(data[: end_mark + 1024])) == 3


def test_scanner_notices_a_changed_byte_in_any_header() -> None:
    data = bytearray(tar_of((entry("name"), b"data")))
    after_the_checksum = 155  # a blank that nobody reads
    for at in set(range(512)) - {after_the_checksum}:
        data[at] ^= 0x04
        with pytest.raises(SetDamaged):
            scan(bytes(data))
        data[at] ^= 0x04
    assert scan(bytes(data))


def test_scanner_refuses_anything_but_zeros_after_the_end() -> None:
    data = tar_of((entry("name"), b"data"))
    assert scan(data + bytes(20 * 512))
    with pytest.raises(SetDamaged, match="after its end mark"):
        scan(data + data)
    with pytest.raises(SetDamaged, match="after its end mark"):
        scan(data + bytes(512) + b"\1" + bytes(511))
    with pytest.raises(SetDamaged):
        scan(data + b"\0")


def test_scanner_refuses_a_lone_zero_block_between_members() -> None:
    one = tar_of(entry("a"), end=False)
    with pytest.raises(SetDamaged, match="after its end mark"):
        scan(one + bytes(512) + tar_of(entry("b")))


def test_scanner_refuses_an_empty_stream() -> None:
    with pytest.raises(SetDamaged, match="end mark"):
        TarScanner().close()


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../up", "a/..", "..", "", "/", "nul\0inside", "./../x"])
def test_scanner_refuses_names_that_leave_the_directory(name: str) -> None:
    made = entry("placeholder")
    made.pax_headers = {"path": name}
    with pytest.raises(UnsafeMember):
        scan(_pax(name))


def _pax(name: str) -> bytes:
    """Build a member whose name is given in a pax record, or in the header where the record could not say it."""
    if not name:
        block = bytearray(entry("x").tobuf(tarfile.USTAR_FORMAT))
        block[0:1] = b"\0"
        return with_checksum(bytes(block)) + bytes(1024)
    body = f" path={name}\n".encode()
    length = next(n for n in range(1, 1000) if len(str(n)) + len(body) == n)
    record = str(length).encode() + body
    header = entry("pax", tarfile.XHDTYPE)
    header.size = len(record)
    padded = record + bytes(-len(record) % 512)
    return header.tobuf(tarfile.USTAR_FORMAT) + padded + tar_of(entry("x"))


def test_scanner_understands_the_pax_records_the_tests_build() -> None:
    assert [member.name for member in scan(_pax("fine/name"))] == ["fine/name"]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("link", "/etc"),
        ("link", ".."),
        ("link", "../x"),
        ("a/link", "../../x"),
        ("a/link", "b/../../.."),
        ("link", "a/../x"),
        ("link", ""),
        (".", "a"),
    ],
)
def test_scanner_refuses_symbolic_links_out_of_the_directory(name: str, target: str) -> None:
    with pytest.raises(UnsafeMember):
        scan(tar_of(entry(name, tarfile.SYMTYPE, target)))


@pytest.mark.parametrize(("name", "target"), [("link", "a/b"), ("a/link", "../b"), ("a/b/link", "../../c/d")])
def test_scanner_allows_symbolic_links_that_stay_inside(name: str, target: str) -> None:
    assert scan(tar_of(entry(name, tarfile.SYMTYPE, target)))[0].target == target


def test_scanner_refuses_members_behind_a_symbolic_link() -> None:
    with pytest.raises(UnsafeMember, match="behind"):
        scan(tar_of(entry("a", tarfile.DIRTYPE), entry("l", tarfile.SYMTYPE, "a"), entry("l/x/y")))


def test_scanner_refuses_hard_links_to_what_is_not_in_the_archive() -> None:
    for target in ("/etc/passwd", "../x", "elsewhere", "d"):
        with pytest.raises(UnsafeMember):
            scan(tar_of(entry("d", tarfile.DIRTYPE), entry("h", tarfile.LNKTYPE, target)))
    assert scan(tar_of(entry("f"), entry("h", tarfile.LNKTYPE, "./f")))[1].kind == "hardlink"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_scanner_refuses_devices_and_fifos(kind: bytes) -> None:
    with pytest.raises(UnsafeMember):
        scan(tar_of(entry("special", kind)))


def test_scanner_refuses_a_name_given_twice() -> None:
    with pytest.raises(UnsafeMember, match="twice"):
        scan(tar_of(entry("a/b"), entry("./a//b")))


def test_scanner_refuses_kinds_and_sizes_it_cannot_judge() -> None:
    with pytest.raises(SetDamaged, match="unknown kind"):
        scan(tar_of(entry("sparse", tarfile.GNUTYPE_SPARSE)))
    directory = entry("d", tarfile.DIRTYPE)
    directory.size = 512
    with pytest.raises(SetDamaged, match="yet has 512 bytes"):
        scan(directory.tobuf(tarfile.GNU_FORMAT) + bytes(2048))


def test_scanner_raises_before_the_bad_header_is_complete_on_the_other_side() -> None:
    data = tar_of((entry("good"), b"x" * 100), entry("../bad"))
    scanner, forwarded = TarScanner(), bytearray()
    with pytest.raises(UnsafeMember):
        for chunk in chunks(data, 100):
            scanner.feed(chunk)
            forwarded += chunk
    assert len(forwarded) < 3 * 512


def test_scanner_never_closes_the_sink_of_a_cut_member() -> None:
    data = tar_of((entry("a"), b"x" * 600))
    sink = Collector()
    scanner = TarScanner(lambda member: sink)
    scanner.feed(data[: 512 + 599])
    assert not sink.closed
    scanner.feed(data[512 + 599 :])
    assert sink.closed


def test_scanner_lets_errors_of_a_sink_through() -> None:
    data = tar_of((entry("a.gz"), b"no gzip"))
    with pytest.raises(SetDamaged, match=r"a\.gz"):
        scan(data, watch=lambda member: GzipCheck(member.name))


def test_gzip_check_passes_the_plain_bytes_on_whatever_the_chunks() -> None:
    plain = random.Random(1).randbytes(3000) * 1000
    packed = gzip.compress(plain[:1000]) + gzip.compress(plain[1000:], 1) + gzip.compress(b"")
    for size in (1, 100, 1 << 20):
        inner = Collector()
        check = GzipCheck("x.gz", inner)
        for chunk in chunks(packed, size):
            check.write(memoryview(chunk))
        check.close()
        assert inner.data == plain
        assert inner.closed
        assert check.plain_size == len(plain)


def test_gzip_check_refuses_a_stream_cut_anywhere() -> None:
    packed = gzip.compress(b"hello" * 50)
    for cut in range(len(packed)):
        inner = Collector()
        check = GzipCheck("db/database.sql.gz", inner)
        with pytest.raises(SetDamaged, match=r"db/database\.sql\.gz"):
            check.write(memoryview(packed[:cut]))
            check.close()
        assert not inner.closed


def test_gzip_check_notices_every_damage_that_changes_the_content() -> None:
    plain = b"".join(b"line %d\n" % n for n in range(50))
    packed = bytearray(gzip.compress(plain, mtime=0))
    noticed = 0
    for bit in range(len(packed) * 8):
        packed[bit // 8] ^= 1 << bit % 8
        inner = Collector()
        check = GzipCheck("x", inner)
        try:
            check.write(memoryview(bytes(packed)))
            check.close()
            assert inner.data == plain  # some bits of the header, and those that fill up the last byte, mean nothing
        except SetDamaged:
            noticed += 1
        packed[bit // 8] ^= 1 << bit % 8
    assert noticed > (len(packed) - 10) * 8


def test_gzip_check_refuses_every_changed_bit_that_zlib_refuses() -> None:
    for level in (0, 1, 9):
        first = gzip.compress(b"line 1\nline 2\nline 3\n" * 20, level, mtime=0)
        packed = bytearray(first + gzip.compress(b"more", level, mtime=0))
        for bit in range(len(packed) * 8):
            packed[bit // 8] ^= 1 << bit % 8
            if _zlib_refuses(bytes(packed)):
                for size in (len(packed), 3):
                    with pytest.raises(SetDamaged):
                        _check_gzip(bytes(packed), size)
            packed[bit // 8] ^= 1 << bit % 8


def _check_gzip(packed: bytes, size: int) -> None:
    check = GzipCheck("x")
    for at in range(0, len(packed), size):
        check.write(memoryview(packed)[at : at + size])
    check.close()


def _zlib_refuses(packed: bytes) -> bool:
    try:
        gzip.decompress(packed)
    except (OSError, EOFError, zlib.error):
        return True
    return False


@pytest.mark.parametrize("flag", [0x20, 0x40, 0x80])
@pytest.mark.parametrize("size", [1, 2, 4, 1000])
def test_gzip_check_refuses_reserved_flags_as_gzip_does(flag: int, size: int) -> None:
    packed = bytearray(gzip.compress(b"first") + gzip.compress(b"second"))
    packed[len(gzip.compress(b"first")) + 3] |= flag
    with pytest.raises(SetDamaged, match="reserved"):
        _check_gzip(bytes(packed), size)


def test_gzip_check_refuses_anything_after_the_end() -> None:
    check = GzipCheck("x")
    with pytest.raises(SetDamaged):
        check.write(memoryview(gzip.compress(b"a") + b"rest"))


def test_gzip_check_holds_little_of_what_inflates_much() -> None:
    largest = 0

    class Largest:
        def write(self, data: memoryview) -> None:
            nonlocal largest
            largest = max(largest, len(data))

        def close(self) -> None:
            pass

    check = GzipCheck("bomb.gz", Largest())
    check.write(memoryview(gzip.compress(bytes(64 << 20))))
    check.close()
    assert check.plain_size == 64 << 20
    assert largest <= 1 << 20


def test_every_gzip_file_of_a_real_archive_is_intact() -> None:
    checks: dict[str, GzipCheck] = {}

    def watch(member: Member) -> Sink | None:
        if not member.name.endswith(".gz"):
            return None
        return checks.setdefault(member.name, GzipCheck(member.name))

    scan(FULL.read_bytes(), 10_000, watch)
    assert len(checks) == 10
    assert checks["db/database.sql.gz"].plain_size == 128685


INFORMATION = b""":db_version: '20260205134501'
:backup_created_at: !ruby/object:ActiveSupport::TimeWithZone
  utc: 2026-11-21 00:08:01.085775888 Z
  zone: !ruby/object:ActiveSupport::TimeZone
    name: Etc/UTC
  time: 2026-11-21 00:08:01.085775888 Z
:gitlab_version: 18.9.0-ee
:tar_version: tar (GNU tar) 1.35
:installation_type: omnibus-gitlab
:skipped: db,registry
:repositories_storages: default
:repositories_paths: 'group,other/project'
:skip_repositories_paths: ''
:repositories_server_side: true
:backup_id: 1795219681_2026_11_21_18.9.0-ee
:full_backup_id: 1700000000_2023_11_14_18.9.0-ee
"""


def information_of(archive: Path) -> bytes:
    sink = Collector()
    scan(archive.read_bytes(), watch=lambda m: sink if m.name == "backup_information.yml" else None)
    return bytes(sink.data)


def test_information_of_a_real_archive_is_understood() -> None:
    found = parse_backup_information(information_of(FULL))
    assert found.db_version == "20260205134501"
    assert found.created_at == datetime(2026, 11, 21, 0, 8, 1, 85775, UTC)
    assert found.gitlab_version == "18.9.0-pre"
    assert found.tar_version == "tar (GNU tar) 1.35"
    assert found.installation_type == "omnibus-gitlab"
    assert found.backup_id == FULL_ID
    assert (found.skipped, found.repositories_paths, found.full_backup_id) == ((), (), "")
    assert not found.repositories_server_side
    assert not found.incremental


def test_information_of_an_increment_with_every_key_is_understood() -> None:
    found = parse_backup_information(INFORMATION)
    assert found.skipped == ("db", "registry")
    assert found.repositories_storages == ("default",)
    assert found.repositories_paths == ("group", "other/project")
    assert found.repositories_server_side
    assert found.incremental


def test_information_of_gitlab_11_is_understood() -> None:
    text = b"""---
:db_version: '20180920043317'
:backup_created_at: 2018-10-23 11:20:54.482916221 +02:00
:gitlab_version: 11.3.6
:tar_version: tar (GNU tar) 1.29
:skipped:
"""
    found = parse_backup_information(text)
    assert found.created_at == datetime(2018, 10, 23, 11, 20, 54, 482916, timezone(timedelta(hours=2)))
    assert found.created_at.tzinfo is UTC
    assert (found.skipped, found.backup_id, found.installation_type) == ((), "", "")


def test_information_of_the_helm_chart_is_understood() -> None:
    text = b""":db_version: 20231129173717
:backup_created_at: 2023-12-25 06:16:39 -0330
:gitlab_version: "16.7.0-ee"
:tar_version: tar (GNU tar) 1.34
:installation_type: gitlab-helm-chart
:skipped: lfs, packages
"""
    found = parse_backup_information(text)
    assert found.db_version == "20231129173717"
    assert found.created_at == datetime(2023, 12, 25, 9, 46, 39, tzinfo=UTC)
    assert found.gitlab_version == "16.7.0-ee"
    assert found.skipped == ("lfs", "packages")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (b":gitlab_version: 18.9.0-ee\n", b"", "no :gitlab_version:"),
        (b":db_version: '20260205134501'\n", b"", "no :db_version:"),
        (b"  utc: 2026-11-21 00:08:01.085775888 Z\n", b"", "no :backup_created_at:"),
        (b"00:08:01.085775888 Z", b"soon", "no time"),
        (b"2026-11-21", b"2026-13-21", "month"),
        (b"18.9.0-ee\n:tar", b"!ruby/object:Evil\n  x: 1\n:tar", "not understood"),
        (b":skipped: db", b":skipped: 'db", "closing quote"),
        (b":repositories_server_side: true", b":repositories_server_side: maybe", "neither true nor false"),
        (b":skipped: db,registry\n", b":skipped: db\n:skipped: tar\n", "line 11"),
        (b":tar_version: tar", b"tar_version tar", "line 8"),
        (b"18.9.0-ee\n:tar", b"\xff\n:tar", "no text"),
    ],
)
def test_information_that_is_broken_is_refused_with_the_reason(old: bytes, new: bytes, complaint: str) -> None:
    assert old in INFORMATION
    with pytest.raises(SetDamaged, match=complaint):
        parse_backup_information(INFORMATION.replace(old, new, 1))


def test_information_that_is_empty_or_huge_is_refused() -> None:
    for text in (b"", b"---\n", b":a: b\n" * 1_000_000):
        with pytest.raises(SetDamaged):
            parse_backup_information(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("1477883719_gitlab_backup.tar", ("1477883719", 1477883719, None)),
        ("1482974651_2016_12_29_gitlab_backup.tar", ("1482974651_2016_12_29", 1482974651, None)),
        (
            "1770480592_2026_02_07_18.6.2_gitlab_backup.tar",
            ("1770480592_2026_02_07_18.6.2", 1770480592, "18.6.2"),
        ),
        (
            "/backups/1703484999_2023_12_25_16.7.0-ee_gitlab_backup.tar",
            ("1703484999_2023_12_25_16.7.0-ee", 1703484999, "16.7.0-ee"),
        ),
        (
            "1679556133_2023_03_23_15.9.2-jh_gitlab_backup.tar",
            ("1679556133_2023_03_23_15.9.2-jh", 1679556133, "15.9.2-jh"),
        ),
        (
            "1701728344_2023_12_04_16.7.0-pre_gitlab_backup.tar",
            ("1701728344_2023_12_04_16.7.0-pre", 1701728344, "16.7.0-pre"),
        ),
        (
            "1703484999_2023_12_25_16.7.0-ce_gitlab_backup.tar",
            ("1703484999_2023_12_25_16.7.0-ce", 1703484999, "16.7.0-ce"),
        ),
        ("dump_gitlab_backup.tar", ("dump", None, None)),
        ("2026_nightly_gitlab_backup.tar", ("2026_nightly", None, None)),
        ("1770480592_nightly_gitlab_backup.tar", ("1770480592_nightly", None, None)),
    ],
)
def test_archive_names_of_every_time_are_understood(name: str, expected: tuple[str, int | None, str | None]) -> None:
    backup_id, epoch, version = expected
    created_at = None if epoch is None else datetime.fromtimestamp(epoch, UTC)
    assert parse_archive_name(name) == BackupName(backup_id, created_at, version)


@pytest.mark.parametrize("name", ["backup.tar", "_gitlab_backup.tar", "x_gitlab_backup.tar.gz", ""])
def test_archive_names_of_other_files_are_not(name: str) -> None:
    assert parse_archive_name(name) is None


def test_expected_members_are_all_in_a_real_full_archive() -> None:
    names = {member.name for member in scan(FULL.read_bytes())}
    wanted = expected_members(parse_backup_information(information_of(FULL)), disabled={"registry"})
    assert set(wanted) <= names
    tarballs = {name for name in names if name.endswith(".tar.gz") and "/" not in name}
    assert set(wanted) == tarballs | {"backup_information.yml", "db/database.sql.gz"}


def test_expected_members_name_the_registry_unless_it_is_disabled() -> None:
    information = parse_backup_information(information_of(FULL))
    assert "registry.tar.gz" in expected_members(information)
    assert "registry.tar.gz" not in expected_members(information, disabled=["registry"])


def test_expected_members_leave_out_what_was_skipped_and_what_did_not_exist_yet() -> None:
    assert "db/database.sql.gz" not in expected_members(parse_backup_information(INFORMATION))
    old = INFORMATION.replace(b"18.9.0-ee\n:tar", b"17.0.9-ee\n:tar")
    assert "external_diffs.tar.gz" not in expected_members(parse_backup_information(old))
    assert "external_diffs.tar.gz" in expected_members(parse_backup_information(INFORMATION))


def test_expected_members_refuse_a_version_that_is_none() -> None:
    broken = parse_backup_information(INFORMATION.replace(b"18.9.0-ee\n:tar", b"latest\n:tar"))
    with pytest.raises(SetDamaged, match="latest"):
        expected_members(broken)


def test_repository_manifests_of_a_real_archive_are_its_six_repositories() -> None:
    found = repository_manifests(scan(FULL.read_bytes()), FULL_ID)
    assert len(found) == 6
    assert {storage for storage, _ in found} == {"default"}
    one = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    assert ("default", f"@hashed/6b/86/{one}.wiki.git") in found
    assert ("default", f"@snippets/6b/86/{one}.git") in found


def test_repository_manifests_of_another_backup_do_not_count() -> None:
    assert repository_manifests(scan(FULL.read_bytes()), "1795219784_2026_11_21_18.9.0-pre") == set()
    assert repository_manifests(scan(FULL.read_bytes()), "+latest") != set()


def test_order_members_is_the_order_in_which_gitlab_packs() -> None:
    top = list(dict.fromkeys(member.name.split("/")[0] for member in scan(FULL.read_bytes())))
    shuffled = random.Random(4).sample(top, len(top))
    assert order_members(shuffled) == top
    assert order_members(["zz", "uploads.tar.gz", "aa", "db/"]) == ["db/", "uploads.tar.gz", "aa", "zz"]


def test_the_archive_of_a_failed_database_looks_complete_but_for_its_empty_dump() -> None:
    """Why members alone never prove a backup: the dump's own end has to be read (see the dump's tests)."""
    checks: dict[str, GzipCheck] = {}
    members = scan(PGFAIL.read_bytes(), watch=lambda m: _check_database(m, checks))
    wanted = expected_members(parse_backup_information(information_of(PGFAIL)), disabled={"registry"})
    assert set(wanted) <= {member.name for member in members}
    assert checks["db/database.sql.gz"].plain_size == 0


def _check_database(member: Member, checks: dict[str, GzipCheck]) -> Sink | None:
    if not member.name.startswith("db/"):
        return None
    return checks.setdefault(member.name, GzipCheck(member.name))
