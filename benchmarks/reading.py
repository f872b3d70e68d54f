"""How long does it take to see what is there, and what does a download cost?

    python -m benchmarks.reading [--sets 10000] [--volumes 1000] [--size 512]

Listings and `verify --level present` are measured against SeaweedFS on this machine and against a directory, the sealed
download against a server that costs next to nothing, so that its processor time is ours.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from benchmarks.clients import BUCKET, INSTANCE
from drtool.catalog import MANIFEST, SIGNATURE, BackupSet, Catalog, volume_name
from drtool.core.model import Archive, Manifest, Volume, render_manifest
from drtool.events import ignore
from drtool.report import list_rows
from drtool.stores import Store
from drtool.stores.local import LocalStore
from drtool.stores.s3 import S3Store
from drtool.streams import CHUNK, generate_identity, parse_identities, parse_recipients
from drtool.verify import verify
from tests import sets
from tests.servers import seaweedfs

_DIGEST = "0" * 64


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure listing, looking and the sealed download.")
    parser.add_argument("--sets", type=int, default=10_000, help="how many sets are listed (default: 10000)")
    parser.add_argument("--volumes", type=int, default=1000, help="volumes of the set that is verified (default: 1000)")
    parser.add_argument("--size", type=int, default=512, help="MiB of the sealed download (default: 512)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drtool-bench-") as scratch:
        work = Path(scratch)
        _download(work, given.size << 20)
        (work / "directory").mkdir()
        _look("directory", LocalStore(work / "directory"), given.sets, given.volumes)
        with seaweedfs(work / "weed") as server:
            _look("SeaweedFS", server.store(), given.sets, given.volumes)


def _look(name: str, store: Store, count: int, volumes: int) -> None:
    with _timed(f"{name}: {count} sets of 4 objects and one of {volumes} volumes made"):
        large = _make(store, count, volumes)
    catalog = Catalog(store, INSTANCE)
    with _timed(f"{name}: which of {count} sets there are"):
        assert len(catalog.set_ids()) == count
    with _timed(f"{name}: `verify --level present` of {volumes} volumes"):
        verdict = verify(BackupSet(catalog, large), "present", signed=True, clock=sets.StillClock(), emit=ignore)
    assert (verdict.volumes, verdict.problems) == (volumes + 1, ())
    with _timed(f"{name}: `list` of {count} sets, every manifest read"):
        assert not [row for row in list_rows(catalog) if row.problem]


def _make(store: Store, count: int, volumes: int) -> Manifest:
    """Put small sets, and a last one of many volumes; nothing is in them."""
    objects: list[tuple[str, bytes]] = []
    for number in range(count):
        moment = sets.NIGHT + timedelta(hours=number)
        set_id = f"{moment:%Y%m%dT%H%M%SZ}-{number % 0x10000:04x}"
        names = [volume_name("application", at, "age") for at in range(volumes if number == count - 1 else 1)]
        held = tuple(Volume(name, 0, _DIGEST, 0, _DIGEST) for name in (*names, "index.age"))
        application = Archive("application", "age", (), 0, held[:-1])
        manifest = sets.manifest_of((application,), Archive("index", "age", (), 0, held[-1:]), set_id=set_id)
        objects += [(f"{INSTANCE}/sets/{set_id}/{volume.name}", b"") for volume in held]
        objects += [(f"{INSTANCE}/sets/{set_id}/{SIGNATURE}", b"none")]
        objects += [(f"{INSTANCE}/sets/{set_id}/{MANIFEST}", render_manifest(manifest))]

    def put(key: str, content: bytes) -> None:
        if isinstance(store, S3Store):  # without the looks around it
            store.client.put_object(Bucket=store.bucket, Key=key, Body=content)
        elif isinstance(store, LocalStore):  # without flushing each
            path = store.path / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    with ThreadPoolExecutor(8) as threads:
        for _ in threads.map(put, *zip(*objects, strict=True)):
            pass
    return manifest


def _download(work: Path, size: int) -> None:
    secret, recipient = generate_identity()
    root = work / "served" / BUCKET
    root.mkdir(parents=True)
    noise = os.urandom(size // 4)
    name, recipients = sets.SET_ID, parse_recipients([recipient])
    keep = Catalog(LocalStore(root), INSTANCE)
    held = tuple(
        keep.put_volume(name, volume_name("application", at, "age"), io.BytesIO(noise), recipients) for at in range(4)
    )
    archive = Archive("application", "age", (recipient,), 0, held)
    with _server(work / "served") as url:
        store = S3Store(BUCKET, endpoint=url, access_key_id="AKTEST", secret_access_key="not-a-secret")
        identities = tuple(parse_identities([("benchmark", secret.encode())]))
        opened = BackupSet(Catalog(store, INSTANCE), sets.manifest_of((archive,), archive), identities)
        opened.catalog.store.stat(opened.catalog.key(name, held[0].name))
        with _timed(f"sealed download of {size >> 20} MiB, proven and dropped", size):
            stream = opened.read_archive("application")
            while stream.read(CHUNK):
                pass


@contextmanager
def _server(root: Path) -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-m", "benchmarks.server", str(root)], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


@contextmanager
def _timed(what: str, size: int = 0, clock: Callable[[], float] = time.perf_counter) -> Iterator[None]:
    begun, used = clock(), time.process_time()
    yield
    seconds, used = clock() - begun, time.process_time() - used
    rate = f", {size / seconds / 1e6:.0f} MB/s, {used * (1 << 30) / size:.2f} CPU s/GiB" if size else ""
    print(f"{what}: {seconds:.2f} s, {used:.2f} CPU s{rate}", flush=True)


if __name__ == "__main__":
    main()
