"""The clients that are Python: drtool's own path, boto3's, and the bare limit. One process per measurement.

python -m benchmarks.clients drtool-up | drtool-down | drtool-keep | boto3-up | boto3-down | bare-up | bare-down  …
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, cast

from benchmarks import staged

BUCKET = "bench"
INSTANCE = "gitlab"
_IDENTITY = "identity.txt"


def drtool_up(url: str, work: str, recipient: str, size: str) -> None:
    """Send the staged members as a backup does."""
    _send(_s3(url), Path(work), recipient, int(size))


def drtool_keep(work: str, recipient: str, size: str, kind: str) -> None:
    """Store a set where the server finds it, and note its volumes for ``drtool_down``."""
    from drtool.stores.local import LocalStore

    root = Path(work, "served", BUCKET, kind)
    root.mkdir(parents=True)
    volumes = _send(LocalStore(root), Path(work), recipient, int(size))
    Path(work, f"{kind}.json").write_text(json.dumps([asdict(volume) for volume in volumes]))


def drtool_down(url: str, work: str, kind: str, target: str) -> None:
    """Unpack a stored set as a restore does."""
    from drtool.catalog import BackupSet, Catalog
    from drtool.hosts.local import LocalRunner
    from drtool.installs.omnibus import Omnibus
    from drtool.phases import copy_scanned
    from drtool.streams import parse_identities

    identities = parse_identities([(_IDENTITY, Path(work, _IDENTITY).read_bytes())])
    backup_set = BackupSet(Catalog(_s3(url, kind), INSTANCE), _manifest(Path(work), kind), tuple(identities))
    with LocalRunner().write_to(Omnibus.unpack(PurePosixPath(target))) as sink:
        for _ in copy_scanned(backup_set.read_archive("application"), sink, "application"):
            pass


def boto3_up(url: str, directory: str) -> None:
    with subprocess.Popen(tar(directory), stdout=subprocess.PIPE) as packing:
        assert packing.stdout is not None
        _boto3(url).upload_fileobj(packing.stdout, BUCKET, "boto3.tar")
    assert packing.returncode == 0


def boto3_down(url: str, key: str, target: str) -> None:
    with subprocess.Popen(untar(target), stdin=subprocess.PIPE) as unpacking:
        assert unpacking.stdin is not None
        _boto3(url).download_fileobj(BUCKET, key, unpacking.stdin)
    assert unpacking.returncode == 0


def bare_up(url: str, file: str) -> None:
    """One PUT of a ready file with sendfile: nothing is read, digested or signed."""
    with _connect(url) as server, Path(file).open("rb") as source:
        size = Path(file).stat().st_size
        server.sendall(f"PUT /{BUCKET}/bare.tar HTTP/1.1\r\nHost: sink\r\nContent-Length: {size}\r\n\r\n".encode())
        server.sendfile(source)
        assert server.recv(1 << 16).startswith(b"HTTP/1.1 200")


def bare_down(url: str, key: str, size: str) -> None:
    """One GET whose bytes are received and not looked at."""
    left, buffer = int(size), bytearray(1 << 20)
    with _connect(url) as server, server.makefile("rb", buffering=0) as source:
        server.sendall(f"GET /{BUCKET}/{key} HTTP/1.1\r\nHost: sink\r\n\r\n".encode())
        received = server.recv(1 << 16)
        left -= len(received.partition(b"\r\n\r\n")[2])
        while left:
            left -= cast(int, source.readinto(buffer))


def tar(directory: str) -> list[str]:
    """The members that drtool packs, as people pack them: drtool also asks tar for larger records."""
    return ["tar", f"--directory={directory}", "--create", "--file=-", "--format=gnu", "--", *staged.MEMBERS]


def untar(target: str) -> list[str]:
    from drtool.installs.omnibus import Omnibus

    return list(Omnibus.unpack(PurePosixPath(target)).argv)


def _send(store: Any, work: Path, recipient: str, size: int) -> Any:
    """As backup.py composes it, with its defaults: tar, the judge, two volumes of 1 GiB in flight, the seal."""
    from drtool.backup import Order
    from drtool.catalog import Catalog
    from drtool.events import ignore
    from drtool.gitlab.application import ApplicationJudge
    from drtool.gitlab.archive import TarScanner
    from drtool.hosts.local import LocalRunner
    from drtool.installs.omnibus import Omnibus
    from drtool.journal import Journal
    from drtool.streams import parse_recipients
    from drtool.volumes import VolumeWriter

    judge = ApplicationJudge(staged.BACKUP_ID, staged.VERSION, staged.MEMBERS, staged.repositories(size))
    scanner = TarScanner(judge.watch)
    command = Omnibus.pack(PurePosixPath(work / "staged"), judge.members)
    order = Order(INSTANCE, Omnibus(), "age" if recipient else "none", (), ())  # for its defaults
    with tempfile.TemporaryDirectory() as state, LocalRunner().read_from(command) as stream:
        writer = VolumeWriter(
            Catalog(store, INSTANCE),
            staged.BACKUP_ID,
            Journal(Path(state, "journal")),
            order.volume_size,
            order.volumes_in_flight,
            ignore,
        )
        volumes = writer.write("application", stream, scanner, parse_recipients([recipient] if recipient else []))
    assert judge.judge(scanner.members).problems == ()
    return volumes


def _manifest(work: Path, kind: str) -> Any:
    from drtool.core.model import FORMAT, Archive, GitLabFacts, Manifest, Volume

    volumes = tuple(Volume(**fields) for fields in json.loads((work / f"{kind}.json").read_text()))
    archive = Archive("application", "age" if kind == "sealed" else "none", (), 0, volumes)
    now = datetime.now(UTC)
    facts = GitLabFacts(staged.VERSION, None, "omnibus", "omnibus-gitlab", "", staged.BACKUP_ID, 0, ())
    return Manifest(FORMAT, "benchmark", INSTANCE, staged.BACKUP_ID, now, now, facts, "green", (), (archive,), archive,
                    None, (), None)  # fmt: skip


def _s3(url: str, prefix: str = "") -> Any:
    from drtool.stores.s3 import S3Store

    return S3Store(BUCKET, prefix=prefix, endpoint=url, access_key_id="AKTEST", secret_access_key="not-a-secret")


def _boto3(url: str) -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=url, aws_access_key_id="AKTEST", aws_secret_access_key="not-a-secret",
                        region_name="us-east-1")  # fmt: skip


def _connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


if __name__ == "__main__":
    globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:])
