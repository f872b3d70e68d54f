"""A host fetches and unpacks an archive by itself: a real S3 server, a real sshd, the real age, curl and tar."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import shutil
import signal
import subprocess
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from drtool.catalog import BackupSet
from drtool.core.command import Command
from drtool.core.model import SealKind
from drtool.errors import (
    CommandFailed,
    DrtoolError,
    HostUnfit,
    IdentityMismatch,
    SetDamaged,
    SignatureInvalid,
    StoreAccessDenied,
    StoreError,
    StoreTransient,
    UnsafeMember,
)
from drtool.events import Event, Progress, ignore
from drtool.hosts import Runner
from drtool.hosts.local import LocalRunner
from drtool.hosts.ssh import SshRunner
from drtool.installs import unsealing as scripts
from drtool.installs.omnibus import Omnibus
from drtool.stores import Store
from drtool.stores.local import LocalStore
from drtool.stores.memory import MemoryStore
from drtool.streams import generate_identity, parse_identities, parse_recipients
from drtool.unsealing import check_can_fetch, choose_identity, fetched_into, room_needed, stage_by_signed_url
from tests import sets
from tests.proxy import Fault, Proxy, proxy_to
from tests.servers import PROMPT
from tests.sets import Committed, Keys

if TYPE_CHECKING:
    from tests.oss_server import OssServer
    from tests.servers import S3Server
    from tests.sshd import SshServer

pytestmark = [pytest.mark.engine("seaweedfs"), pytest.mark.engine("age"), pytest.mark.engine("sshd")]

MIB = 1 << 20
SECRET, RECIPIENT = generate_identity()
IDENTITY = SECRET.encode()
MINE = (("test", b"# made for a test\n" + IDENTITY + b"\n"),)


@pytest.fixture(scope="module", autouse=True)
def _needs_age() -> None:
    if shutil.which("age") is None:
        pytest.skip("age is not installed")


@pytest.fixture(scope="module")
def running_proxy(s3_http: S3Server) -> Iterator[Proxy]:
    with proxy_to(s3_http.port) as proxy:
        yield proxy


@pytest.fixture
def proxy(running_proxy: Proxy) -> Proxy:
    running_proxy.clear()
    return running_proxy


@pytest.fixture
def store(s3_http: S3Server, proxy: Proxy, tmp_path: Path) -> Store:
    """A place of this test's own, seen through the proxy."""
    return s3_http.store(prefix=f"unsealing/{tmp_path.name}", endpoint=proxy.url)


@pytest.fixture
def committed(store: Store) -> Committed:
    """A set of a few volumes."""
    return commit(store)


@pytest.fixture(params=["local", "ssh"])
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    if request.param == "local":
        yield LocalRunner(grace=timedelta(seconds=1))
        return
    server: SshServer = request.getfixturevalue("sshd")
    with closing(SshRunner(server.target, grace=timedelta(seconds=1))) as runner:
        yield runner


@pytest.fixture
def local() -> Runner:
    return LocalRunner(grace=timedelta(seconds=1))


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """What a plan makes, private and empty."""
    folder = tmp_path / "host" / "staging"
    folder.mkdir(parents=True, mode=0o700)
    return folder


def keys_of(secret: str, recipient: str) -> Keys:
    identities = tuple(parse_identities([("test", secret.encode())]))
    return dataclasses.replace(sets.keys(), recipient=recipient, identities=identities)


def commit(
    store: Store, *, application: bytes | None = None, seal: SealKind = "age", volume_size: int = 200 << 10
) -> Committed:
    archives = {"application": application or sets.application(1, size=MIB), "config": sets.config(1)}
    keys = keys_of(SECRET, RECIPIENT)
    return sets.commit(store, volume_size=volume_size, seal=seal, keys_=keys, archives=archives)


def stage(
    runner: Runner,
    opened: BackupSet,
    staging: Path,
    *,
    unpack: Command | None = None,
    identity: bytes = IDENTITY,
    signature_checked: bool = True,
    emit: Callable[[Event], None] = ignore,
    patience: timedelta = timedelta(seconds=20),
) -> None:
    directory = PurePosixPath(staging)
    stage_by_signed_url(
        runner,
        opened,
        "application",
        directory,
        unpack or Omnibus.unpack(directory),
        identity=identity,
        signature_checked=signature_checked,
        emit=emit,
        phase_name="stage",
        backoff=PROMPT,
        patience=patience,
    )


def is_staged(staging: Path, archive: bytes) -> bool:
    """Say whether everything of a tar lies there, and the sealed volumes are gone."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        wanted = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]  # a file has content
    lies = {str(path.relative_to(staging)): path.read_bytes() for path in staging.rglob("*") if path.is_file()}
    return lies == wanted and not sealed_folder(staging).exists()


def sealed_folder(staging: Path) -> Path:
    return Path(fetched_into(PurePosixPath(staging)))


def volume_key(committed: Committed, number: int) -> str:
    name = committed.manifest.archive("application").volumes[number].name
    return committed.catalog.key(committed.manifest.set_id, name)


def fetched(proxy: Proxy, name: bytes) -> int:
    return sum(head.startswith(b"GET ") and name in head for head in proxy.heads)


def empty(staging: Path) -> None:
    """As a plan does before another try."""
    shutil.rmtree(staging)
    staging.mkdir(mode=0o700)


class Outdated:
    """Signs as the store does, but hands out URLs that are no longer good."""

    def __init__(self, inner: Store, url: Callable[[str], str]) -> None:
        self._inner, self._url = inner, url

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def signed_url(self, key: str, *, ttl: timedelta) -> str:
        return self._url(self._inner.signed_url(key, ttl=ttl))


def test_staging_by_signed_urls_brings_every_member(runner: Runner, committed: Committed, staging: Path) -> None:
    seen: list[Event] = []
    stage(runner, committed.open(), staging, emit=seen.append)
    assert len(committed.manifest.archive("application").volumes) > 3
    assert is_staged(staging, committed.plain["application"])
    stored = sum(volume.stored_size for volume in committed.manifest.archive("application").volumes)
    assert seen[-1] == Progress("stage", stored, stored)
    assert len(seen) == len(committed.manifest.archive("application").volumes)


def test_staging_takes_urls_that_oss_signed(local: Runner, oss_http: OssServer, staging: Path) -> None:
    committed = commit(oss_http.store(prefix=f"unsealing/{staging.parent.parent.name}"))
    check_can_fetch(local, committed.catalog.store, volume_key(committed, 0), sealed=True)
    stage(local, committed.open(), staging)
    assert is_staged(staging, committed.plain["application"])


def test_staging_needs_no_age_for_a_set_that_is_not_sealed(runner: Runner, store: Store, staging: Path) -> None:
    committed = commit(store, seal="none")
    stage(runner, committed.open(), staging, identity=b"")
    assert is_staged(staging, committed.plain["application"])


def test_staging_takes_what_gnu_tar_packs_with_its_padding(local: Runner, store: Store, staging: Path) -> None:
    made = staging.parent / "made"
    (made / "repositories/empty").mkdir(parents=True)
    (made / "repositories/a link").symlink_to("../db")
    (made / "db").write_bytes(b"rows")
    os.link(made / "db", made / "repositories/the same")
    packed = local.run(Omnibus.pack(PurePosixPath(made), ("db", "repositories")))
    committed = commit(store, application=packed)
    index = committed.open().read_index()["application"]
    stage(local, indexing(committed, [m for m in index if m.name == "db"]), staging)
    assert sorted(path.name for path in staging.rglob("*")) == ["a link", "db", "empty", "repositories", "the same"]
    assert (staging / "repositories/the same").read_bytes() == b"rows"


def test_staged_members_have_the_modes_that_they_have_when_data_goes_through_this_machine(
    local: Runner, committed: Committed, staging: Path
) -> None:
    """Directories that only a member's name tells of included."""
    stage(local, committed.open(), staging)
    relayed = staging.parent / "relayed"
    relayed.mkdir(mode=0o700)
    with local.write_to(Omnibus.unpack(PurePosixPath(relayed))) as sink:
        sink.write(committed.plain["application"])
    modes = [{str(path.relative_to(top)): path.stat().st_mode for path in top.rglob("*")} for top in (staging, relayed)]
    assert modes[0] == modes[1]


def test_staging_goes_where_new_folders_keep_their_group(local: Runner, committed: Committed, staging: Path) -> None:
    staging.parent.chmod(0o2755)
    stage(local, committed.open(), staging)
    assert is_staged(staging, committed.plain["application"])


def test_staging_accepts_an_openssh_key(local: Runner, store: Store, staging: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    private, public = (tmp_path / "key").read_bytes(), (tmp_path / "key.pub").read_text().strip()
    committed = sets.commit(store, keys_=keys_of(private.decode(), public))
    identity = choose_identity(committed.open(), [*MINE, ("ssh", private)])
    assert identity == private
    stage(local, committed.open(), staging, identity=identity)
    assert is_staged(staging, committed.plain["application"])


def test_host_is_given_the_one_identity_that_opens_the_set(committed: Committed) -> None:
    other = generate_identity()[0].encode()
    assert choose_identity(committed.open(), [("a", other), ("b", other + b"\n" + IDENTITY + b"\n")]) == IDENTITY
    with pytest.raises(IdentityMismatch):
        choose_identity(committed.open(), [("a", other)])


class Look:
    """Looks at every process and at every file below a folder for secrets, again and again, until it is left.

    ``waiting`` is called when a program was looked at that must be.
    """

    def __init__(self, folder: Path, secrets: list[bytes], waiting: dict[str, Callable[[], object]]) -> None:
        self.told: set[str] = set()
        self.waiting = waiting
        self._folder, self._secrets = folder, secrets
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Look:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    name = (process / "comm").read_text().strip()
                    for what in ("cmdline", "environ"):
                        self._judge((process / what).read_bytes(), f"{what} of {name}")
                    if name in self.waiting:
                        self.waiting.pop(name)()
            for path in self._folder.rglob("*"):
                with suppress(OSError):
                    self._judge(path.read_bytes(), str(path))

    def _judge(self, content: bytes, where: str) -> None:
        if any(secret in content for secret in self._secrets):
            self.told.add(where)


def test_look_for_secrets_sees_them_in_arguments_environment_and_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not-a-real-secret-1")
    until = 'until [ -e "$1" ]; do sleep 0.1; done; :'
    with Look(tmp_path, [b"not-a-real-secret-1"], {}) as look:
        words = ["sh", "-c", until, "sh", str(tmp_path / "seen"), "not-a-real-secret-1"]
        with subprocess.Popen(words, env={"X": "not-a-real-secret-1"}):
            while "environ of sh" not in look.told:
                time.sleep(0.05)
            (tmp_path / "seen").touch()
    assert look.told >= {"cmdline of sh", "environ of sh", str(tmp_path / "file")}


def test_no_secret_shows_in_arguments_environment_or_files(
    runner: Runner, committed: Committed, proxy: Proxy, staging: Path
) -> None:
    """The download and the unpacking wait until curl and age were looked at."""
    proxy.add(Fault("stall answer", b"0000.tar.age", after=1000))
    seen = staging.parent / "seen"
    until = 'until [ -e "$1" ]; do sleep 0.1; done; shift; exec "$@"'
    unpack = Command(("sh", "-c", until, "sh", str(seen), *Omnibus.unpack(PurePosixPath(staging)).argv))
    waiting: dict[str, Callable[[], object]] = {"curl": proxy.clear, "age": seen.touch}
    with Look(staging.parent, [IDENTITY, b"X-Amz-Signature", b"X-Amz-Credential"], waiting) as look:
        stage(runner, committed.open(), staging, unpack=unpack, patience=timedelta(minutes=1))
    assert is_staged(staging, committed.plain["application"])
    assert not look.waiting
    assert look.told == set()


def test_failures_tell_no_secret(local: Runner, committed: Committed, proxy: Proxy, staging: Path) -> None:
    for status in (403, 500, 301):
        proxy.clear()
        proxy.answer(b"0001.tar.age", status, times=100)
        with pytest.raises(DrtoolError) as caught:
            stage(local, committed.open(), staging)
        told = f"{caught.value} {caught.value.__cause__} {getattr(caught.value.__cause__, 'stderr', '')}"
        assert str(status) in told
        assert not any(secret in told for secret in ("X-Amz", "Signature", SECRET))


def test_flipped_byte_is_damage_before_tar_sees_it(runner: Runner, committed: Committed, staging: Path) -> None:
    key = volume_key(committed, 1)
    stored = bytearray(sets.content(committed.catalog.store, key))
    stored[len(stored) // 2] ^= 1
    sets.replace(committed.catalog.store, key, bytes(stored))
    with pytest.raises(SetDamaged, match=r"application-0001.*other bytes than were stored"):
        stage(runner, committed.open(), staging)
    assert not (sealed_folder(staging) / "application-0001.tar.age.part").exists()


@pytest.mark.parametrize("change", [lambda old: old[:-1], lambda old: old[:10], lambda old: old + b"x", lambda _: b""])
def test_volume_of_another_length_is_damage(
    local: Runner, committed: Committed, staging: Path, change: Callable[[bytes], bytes]
) -> None:
    key = volume_key(committed, 1)
    sets.replace(committed.catalog.store, key, change(sets.content(committed.catalog.store, key)))
    with pytest.raises(SetDamaged, match="application-0001"):
        stage(local, committed.open(), staging)


def test_volume_in_anothers_place_is_damage(local: Runner, committed: Committed, staging: Path) -> None:
    other = sets.content(committed.catalog.store, volume_key(committed, 0))
    sets.replace(committed.catalog.store, volume_key(committed, 1), other)
    with pytest.raises(SetDamaged, match="application-0001"):
        stage(local, committed.open(), staging)


def test_volume_that_unseals_to_other_bytes_is_damage(local: Runner, committed: Committed, staging: Path) -> None:
    """Only who signs can write such a manifest; the plain digest is compared all the same."""
    archive = committed.manifest.archive("application")
    first = dataclasses.replace(archive.volumes[0], plain_sha256="0" * 64)
    changed = dataclasses.replace(archive, volumes=(first, *archive.volumes[1:]))
    manifest = dataclasses.replace(committed.manifest, archives=(changed,))
    with pytest.raises(SetDamaged, match=r"application-0000.*other bytes than were sealed"):
        stage(local, dataclasses.replace(committed.open(), manifest=manifest), staging)


def test_missing_volume_is_damage(local: Runner, committed: Committed, staging: Path) -> None:
    committed.catalog.store.delete([volume_key(committed, 2)])
    with pytest.raises(SetDamaged, match=r"application-0002.*404"):
        stage(local, committed.open(), staging)


def test_expired_url_is_refused_access(local: Runner, committed: Committed, staging: Path) -> None:
    opened = committed.open()
    expired = opened.catalog.store.signed_url(volume_key(committed, 0), ttl=timedelta(seconds=1))
    time.sleep(2.1)
    opened.catalog.store = Outdated(opened.catalog.store, lambda _: expired)  # type: ignore[assignment]  # as a test wants it
    with pytest.raises(StoreAccessDenied, match="403"):
        stage(local, opened, staging)


def test_every_request_is_signed_anew(local: Runner, committed: Committed, proxy: Proxy, staging: Path) -> None:
    opened = committed.open()
    signed: list[str] = []
    opened.catalog.store = Outdated(opened.catalog.store, lambda url: signed.append(url) or url)  # type: ignore[assignment,func-returns-value]
    proxy.cut_answer(b"0001.tar.age", after=1000)
    stage(local, opened, staging)
    assert len(signed) == len(committed.manifest.archive("application").volumes) + 1


def test_cut_download_goes_on_where_it_broke_off(
    runner: Runner, committed: Committed, proxy: Proxy, staging: Path
) -> None:
    proxy.cut_answer(b"0001.tar.age", after=150_000, times=1)
    stage(runner, committed.open(), staging)
    assert is_staged(staging, committed.plain["application"])
    assert any(b"0001.tar.age" in head and b"range: bytes=" in head.lower() for head in proxy.heads)


def test_store_that_answers_an_error_is_asked_again(
    local: Runner, committed: Committed, proxy: Proxy, staging: Path
) -> None:
    proxy.answer(b"0001.tar.age", 503, times=2)
    proxy.answer(b"0002.tar.age", 429, times=2)
    stage(local, committed.open(), staging)
    assert is_staged(staging, committed.plain["application"])


def test_stalled_download_is_given_up_and_goes_on(
    local: Runner, committed: Committed, proxy: Proxy, staging: Path
) -> None:
    proxy.add(Fault("stall answer", b"0001.tar.age", after=1000))
    stage(local, committed.open(), staging, patience=timedelta(seconds=1))
    assert is_staged(staging, committed.plain["application"])


def test_byte_that_the_network_flipped_costs_one_more_download(
    local: Runner, committed: Committed, proxy: Proxy, staging: Path
) -> None:
    proxy.add(Fault("damage answer", b"0001.tar.age", after=1000))
    stage(local, committed.open(), staging)
    assert is_staged(staging, committed.plain["application"])


def test_store_that_stays_away_is_named_and_the_next_run_goes_on(
    local: Runner, committed: Committed, proxy: Proxy, staging: Path
) -> None:
    fault = proxy.add(Fault("refuse", b"0003.tar.age", left=1000))
    with pytest.raises(StoreTransient, match="application-0003"):
        stage(local, committed.open(), staging)
    assert fault.hits == PROMPT.attempts
    proxy.clear()
    empty(staging)
    stage(local, committed.open(), staging)
    assert is_staged(staging, committed.plain["application"])


def test_what_was_fetched_is_not_fetched_again(
    local: Runner, committed: Committed, proxy: Proxy, staging: Path
) -> None:
    never = Command(("sh", "-c", "sleep 60"))  # reads nothing: no volume is unpacked
    proxy.add(Fault("refuse", b"0003.tar.age", left=1000))
    with pytest.raises(StoreTransient):
        stage(local, committed.open(), staging, unpack=never)
    lying = sorted(path.name for path in sealed_folder(staging).iterdir())
    assert lying == [f"application-{number:04d}.tar.age" for number in range(3)]
    (sealed_folder(staging) / lying[1]).write_bytes(b"rotten")
    proxy.clear()
    stage(local, committed.open(), staging)
    assert is_staged(staging, committed.plain["application"])
    assert fetched(proxy, b"0000.tar.age") == 0
    assert fetched(proxy, b"0001.tar.age") == 1
    assert fetched(proxy, b"0002.tar.age") == 0


def test_left_over_of_something_else_costs_one_more_download(
    local: Runner, committed: Committed, staging: Path
) -> None:
    sealed_folder(staging).mkdir(mode=0o700)
    (sealed_folder(staging) / "application-0000.tar.age.part").write_bytes(b"something else")
    (sealed_folder(staging) / "application-0001.tar.age.part").write_bytes(bytes(MIB))
    stage(local, committed.open(), staging)
    assert is_staged(staging, committed.plain["application"])


def test_wrong_identity_is_named(runner: Runner, committed: Committed, staging: Path) -> None:
    with pytest.raises(IdentityMismatch, match="application-0000"):
        stage(runner, committed.open(), staging, identity=generate_identity()[0].encode())


def test_set_without_a_checked_signature_is_refused_untouched(
    local: Runner, committed: Committed, proxy: Proxy, staging: Path
) -> None:
    with pytest.raises(SignatureInvalid, match="nobody judged"):
        stage(local, committed.open(), staging, signature_checked=False)
    assert fetched(proxy, b"application-0000") == 0


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "", "./db", "."])
def test_index_with_an_unsafe_name_is_refused_untouched(
    local: Runner, committed: Committed, proxy: Proxy, staging: Path, name: str
) -> None:
    members = committed.open().read_index()["application"]
    unsafe = indexing(committed, [*members, dataclasses.replace(members[0], name=name)])
    with pytest.raises(UnsafeMember):
        stage(local, unsafe, staging)
    assert fetched(proxy, b"application-0000") == 0
    assert list(staging.iterdir()) == []


def indexing(committed: Committed, members: list[object]) -> BackupSet:
    """The set, opened, with another signed index."""
    rows = {"application": [dataclasses.astuple(member) for member in members]}  # type: ignore[call-overload]  # as they come
    catalog, manifest = committed.catalog, committed.manifest
    source = io.BytesIO(zlib.compress(json.dumps(rows).encode()))
    volume = catalog.put_volume(manifest.set_id, "index-other", source, [])
    other = dataclasses.replace(manifest.index, seal="none", volumes=(volume,))
    opened = committed.open()
    return dataclasses.replace(opened, manifest=dataclasses.replace(opened.manifest, index=other))


def test_member_that_the_index_does_not_know_is_unsafe(local: Runner, committed: Committed, staging: Path) -> None:
    members = committed.open().read_index()["application"]
    with pytest.raises(UnsafeMember, match=members[1].name):
        stage(local, indexing(committed, [*members[:1], *members[2:]]), staging)


def test_member_of_another_size_and_one_that_is_missing_are_damage(
    local: Runner, committed: Committed, staging: Path
) -> None:
    members = committed.open().read_index()["application"]
    with pytest.raises(SetDamaged, match="not unpacked as"):
        stage(local, indexing(committed, [dataclasses.replace(members[0], size=1), *members[1:]]), staging)
    empty(staging)
    with pytest.raises(SetDamaged, match="'zz' was not unpacked"):
        stage(local, indexing(committed, [*members, dataclasses.replace(members[0], name="zz")]), staging)


def test_unpacking_that_leaves_members_out_is_damage(local: Runner, committed: Committed, staging: Path) -> None:
    """It ends with 0 all the same."""
    with pytest.raises(SetDamaged, match="uploads"):
        leaving = Omnibus.unpack(PurePosixPath(staging), exclude=("uploads.tar.gz",))
        stage(local, committed.open(), staging, unpack=leaving)


def hostile(kind: bytes, name: str, target: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        tar.addfile(member)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "name", "target"),
    [
        (tarfile.SYMTYPE, "db", "/etc"),
        (tarfile.SYMTYPE, "db", "../.."),
        (tarfile.FIFOTYPE, "db", ""),
        (tarfile.CHRTYPE, "db", ""),
    ],
)
def test_what_must_never_be_unpacked_is_found_where_it_lies(
    local: Runner, store: Store, staging: Path, kind: bytes, name: str, target: str
) -> None:
    with pytest.raises(UnsafeMember, match="db"):
        stage(local, holding(store, hostile(kind, name, target)), staging)


def holding(store: Store, application: bytes) -> BackupSet:
    """A set of a signer that is hostile itself: what no backup of ours would commit, and an index that hides it."""
    harmless = commit(store, application=sets.tar_of({"db": b""}))
    plain = io.BytesIO(application)
    volume = harmless.catalog.put_volume(sets.SET_ID, "hostile.tar.age", plain, parse_recipients([RECIPIENT]))
    changed = dataclasses.replace(harmless.manifest.archive("application"), volumes=(volume,))
    opened = indexing(harmless, [])
    return dataclasses.replace(opened, manifest=dataclasses.replace(opened.manifest, archives=(changed,)))


def test_tar_writes_nothing_through_a_link_to_elsewhere(local: Runner, store: Store, staging: Path) -> None:
    """What the staging relies on until it has looked at what lies there."""
    elsewhere = staging.parent / "elsewhere"
    elsewhere.mkdir()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, target in (("absolute", str(elsewhere)), ("relative", "../elsewhere")):
            for member in (tarfile.TarInfo(name), tarfile.TarInfo(f"{name}/file")):
                member.type, member.linkname = (tarfile.SYMTYPE, target) if member.name == name else (b"0", "")
                tar.addfile(member)
        tar.addfile(tarfile.TarInfo("../elsewhere/file"))
        tar.addfile(tarfile.TarInfo(f"{elsewhere}/file"))
    with pytest.raises(DrtoolError):
        stage(local, holding(store, out.getvalue()), staging)
    assert list(elsewhere.iterdir()) == []


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("size", ["300k", "900k"])
def test_full_disk_is_named_and_with_room_it_goes_on(
    local: Runner, committed: Committed, tmp_path: Path, size: str
) -> None:
    with small_disk(tmp_path / "disk", size) as disk:
        (disk / "staging").mkdir(mode=0o700)
        with pytest.raises(HostUnfit, match="no room") as caught:
            stage(local, committed.open(), disk / "staging")
        assert "Make room" in caught.value.hint
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        empty(disk / "staging")
        stage(local, committed.open(), disk / "staging")
        assert is_staged(disk / "staging", committed.plain["application"])


def test_needed_room_is_enough(local: Runner, store: Store, tmp_path: Path) -> None:
    committed = commit(store, application=sets.application(2, size=8 * MIB), volume_size=MIB)
    needed = room_needed(committed.manifest.archive("application"))
    slowly = ("sh", "-c", 'sleep 2; exec "$@"', "sh")
    with small_disk(tmp_path / "disk", f"{needed // 1024 + 64}k") as disk:
        (disk / "staging").mkdir(mode=0o700)
        unpack = Command((*slowly, *Omnibus.unpack(PurePosixPath(disk / "staging")).argv))
        stage(local, committed.open(), disk / "staging", unpack=unpack)
        assert is_staged(disk / "staging", committed.plain["application"])


def test_unpacking_that_fails_is_told(runner: Runner, committed: Committed, staging: Path) -> None:
    failing = Command(("sh", "-c", "head -c 1000 >/dev/null; exit 7"))
    with pytest.raises(CommandFailed, match="status 7"):
        stage(runner, committed.open(), staging, unpack=failing)


def test_unpacking_that_fails_at_its_end_is_told(local: Runner, committed: Committed, staging: Path) -> None:
    with pytest.raises(CommandFailed, match="status 9"):
        stage(local, committed.open(), staging, unpack=Command(("sh", "-c", "cat >/dev/null; exit 9")))


def test_folder_that_others_may_enter_is_not_used(local: Runner, committed: Committed, staging: Path) -> None:
    sealed_folder(staging).mkdir(mode=0o755)
    with pytest.raises(HostUnfit, match="only we may enter"):
        stage(local, committed.open(), staging)


class Dead(BaseException):
    """The operator's process is gone."""


@pytest.mark.parametrize("after", [0, 3])
def test_run_that_was_killed_leaves_no_process_and_the_next_one_ends_well(
    runner: Runner, committed: Committed, staging: Path, after: int
) -> None:
    seen: list[Event] = []

    def die(event: Event) -> None:
        seen.append(event)
        if len(seen) > after:
            raise Dead

    with pytest.raises(Dead):
        stage(runner, committed.open(), staging, emit=die)
    assert not processes_in(sealed_folder(staging))
    empty(staging)
    stage(runner, committed.open(), staging)
    assert is_staged(staging, committed.plain["application"])


def test_connection_that_is_cut_leaves_what_the_next_run_goes_on_from(
    sshd: SshServer, committed: Committed, staging: Path
) -> None:
    seen: list[Event] = []

    def cut(event: Event) -> None:
        seen.append(event)
        if len(seen) == 3:
            for session in sshd.sessions():
                os.kill(session, signal.SIGKILL)

    with closing(SshRunner(sshd.target, grace=timedelta(seconds=1))) as runner:
        with pytest.raises(DrtoolError):
            stage(runner, committed.open(), staging, emit=cut)
        empty(staging)
        stage(runner, committed.open(), staging)
    assert is_staged(staging, committed.plain["application"])


def test_input_that_ends_early_is_no_end_of_the_archive(local: Runner, committed: Committed, staging: Path) -> None:
    """As when the operator's process is gone: what a volume's end would make whole is not taken for it."""
    archive = committed.manifest.archive("application")
    folder = sealed_folder(staging)
    folder.mkdir(mode=0o700)
    for number, volume in enumerate(archive.volumes):
        (folder / volume.name).write_bytes(sets.content(committed.catalog.store, volume_key(committed, number)))
    unseal = scripts.unseal_into(Command(("cat",)), PurePosixPath(folder), sealed=True)
    lines = scripts.identity_lines(IDENTITY), *map(scripts.volume_line, archive.volumes)
    for count in range(len(lines) + 1):
        with pytest.raises(CommandFailed) as caught:
            local.run(unseal, stdin=b"".join(lines[:count]))
        assert caught.value.status == scripts.Ended.INPUT_CUT
        for number, volume in enumerate(archive.volumes):
            (folder / volume.name).write_bytes(sets.content(committed.catalog.store, volume_key(committed, number)))


@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_scripts_run_in_every_shell_that_is_called_sh(
    committed: Committed, staging: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "sh").symlink_to(program)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    runner = LocalRunner(grace=timedelta(seconds=1))
    check_can_fetch(runner, committed.catalog.store, volume_key(committed, 0), sealed=True)
    stage(runner, committed.open(), staging)
    assert is_staged(staging, committed.plain["application"])
    empty(staging)
    with pytest.raises(IdentityMismatch):
        stage(runner, committed.open(), staging, identity=generate_identity()[0].encode())
    with pytest.raises(CommandFailed, match="status 7"):
        stage(runner, committed.open(), staging, unpack=Command(("sh", "-c", "head -c 1000 >/dev/null; exit 7")))


def processes_in(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if Path(os.readlink(process / "cwd")) == folder:
                found.append((process / "cmdline").read_text())
    return found


@pytest.mark.slow
def test_memory_does_not_grow_with_the_archive(local: Runner, store: Store, staging: Path) -> None:
    """Neither here nor there: the largest process of the host is looked at while a volume of 64 MiB passes."""
    noise = random.Random(1)
    big = sets.tar_of({"uploads.tar.gz": b"".join(noise.randbytes(MIB) for _ in range(96))})
    committed = commit(store, application=big, volume_size=64 * MIB)
    watched = ("sh", "-c", '"$@"; grep -h VmHWM /proc/$$/status /proc/$PPID/status >&2', "sh")
    largest: dict[str, int] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError, ValueError):
                    name = (process / "comm").read_text().strip()
                    if name in {"curl", "age", "tee", "sha256sum", "tar"}:
                        resident = int((process / "statm").read_text().split()[1]) * 4096
                        largest[name] = max(largest.get(name, 0), resident)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        stage(
            local, committed.open(), staging, unpack=Command((*watched, *Omnibus.unpack(PurePosixPath(staging)).argv))
        )
    finally:
        over.set()
        looking.join()
    assert is_staged(staging, big)
    assert largest["curl"] > 0
    assert max(largest.values()) < 48 * MIB, largest


def test_check_passes_where_all_is_there(runner: Runner, committed: Committed) -> None:
    key = volume_key(committed, 0)
    check_can_fetch(runner, committed.catalog.store, key, sealed=True)
    check_can_fetch(runner, committed.catalog.store, key, sealed=False)


def test_check_refuses_stores_that_do_not_sign(local: Runner, tmp_path: Path) -> None:
    for store in (MemoryStore(), LocalStore(tmp_path)):
        with pytest.raises(StoreError, match="signs no URLs") as caught:
            check_can_fetch(local, store, "a", sealed=True)
        assert "Without --via" in caught.value.hint


def test_check_tells_what_keeps_a_host_from_fetching(
    local: Runner, committed: Committed, proxy: Proxy, s3_http: S3Server
) -> None:
    key = volume_key(committed, 0)
    elsewhere = s3_http.store(endpoint="http://127.0.0.1:9")
    with pytest.raises(HostUnfit, match="status 7") as caught:
        check_can_fetch(local, elsewhere, key, sealed=True)
    assert "Without --via" in caught.value.hint
    with pytest.raises(StoreAccessDenied, match="403"):
        check_can_fetch(local, s3_http.store(secret="another"), key, sealed=True)
    with pytest.raises(SetDamaged, match="404"):
        check_can_fetch(local, committed.catalog.store, f"{key}-not-there", sealed=True)
    proxy.answer(b"GET", 200)
    proxy.answer(b"GET", 302)
    check_can_fetch(local, committed.catalog.store, key, sealed=True)
    with pytest.raises(StoreError, match="302"):
        check_can_fetch(local, committed.catalog.store, key, sealed=True)


def test_check_refuses_a_certificate_that_the_host_does_not_trust(local: Runner, s3_https: S3Server) -> None:
    with pytest.raises(HostUnfit, match="not trusted"):
        check_can_fetch(local, s3_https.store(), "a", sealed=True)


PROGRAMS = ("sh", "age", "curl", "sha256sum", "stat", "tee", "tar", "find", "mkdir", "mv", "rm", "id")


def only(folder: Path, programs: Iterable[str], monkeypatch: pytest.MonkeyPatch) -> Runner:
    """A host that has no other programs."""
    folder.mkdir()
    for program in programs:
        (folder / program).symlink_to(shutil.which(program) or "")
    monkeypatch.setenv("PATH", str(folder))
    return LocalRunner(grace=timedelta(seconds=1))


@pytest.mark.parametrize("missing", ["age", "curl", "sha256sum", "find"])
def test_check_names_the_program_that_is_missing(
    committed: Committed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    runner = only(tmp_path / "bin", set(PROGRAMS) - {missing}, monkeypatch)
    with pytest.raises(HostUnfit, match=f"{missing} is missing"):
        check_can_fetch(runner, committed.catalog.store, volume_key(committed, 0), sealed=True)


def test_host_without_openssl_and_all_the_rest_is_enough(
    committed: Committed, staging: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = committed.open()
    runner = only(tmp_path / "bin", PROGRAMS, monkeypatch)
    check_can_fetch(runner, committed.catalog.store, volume_key(committed, 0), sealed=True)
    stage(runner, opened, staging)
    assert is_staged(staging, committed.plain["application"])


def test_check_refuses_a_host_whose_digests_are_wrong(
    committed: Committed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = only(tmp_path / "bin", set(PROGRAMS) - {"sha256sum"}, monkeypatch)
    for name in ("openssl", "sha256sum"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\necho nothing\n")
        (tmp_path / "bin" / name).chmod(0o755)
    with pytest.raises(HostUnfit, match="SHA-256"):
        check_can_fetch(runner, committed.catalog.store, volume_key(committed, 0), sealed=True)


@pytest.mark.parametrize("program", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho something else\n"])
def test_check_refuses_an_age_that_does_not_unseal(
    committed: Committed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    (tmp_path / "age").write_text(program)
    (tmp_path / "age").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(HostUnfit, match="age"):
        check_can_fetch(LocalRunner(), committed.catalog.store, volume_key(committed, 0), sealed=True)
