"""How fast is an archive judged and counted? MB/s of it on one core, as it is and member kind by member kind.

    python -m benchmarks.judging --size 512MiB --runs 5

The archive lies in memory, and nothing is sealed or sent: what is measured is what judging adds to an upload.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import staged
from drtool.gitlab.application import ApplicationJudge
from drtool.gitlab.archive import GzipCheck, Sink, TarScanner
from drtool.gitlab.components import TarCount
from drtool.gitlab.dump import DumpCheck
from drtool.gitlab.repositories import BundleCheck
from drtool.streams import CHUNK

_TARGET = 150  # MB/s of a whole archive


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast drtool judges an archive on one core.")
    parser.add_argument("--size", type=int, default=512, help="MiB of staged members (default: 512)")
    parser.add_argument("--runs", type=int, default=5, help="measurements of each case (default: 5)")
    given = parser.parse_args()
    size = given.size << 20
    with tempfile.TemporaryDirectory(prefix="drtool-bench-") as work:
        staged.make(Path(work), size)
        archive = _packed(Path(work))
        members = _members(Path(work))
    _show("whole archive", len(archive), given.runs, lambda: _judge(archive, size))
    for kind, (content, make) in members.items():
        _show(kind, len(content), given.runs, lambda make=make, content=content: _feed(make(), content))
    print(f"the target is {_TARGET} MB/s of the whole archive")


def _packed(directory: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in staged.MEMBERS:
            tar.add(directory / name, arcname=name)
    return buffer.getvalue()


def _members(directory: Path) -> dict[str, tuple[bytes, Callable[[], Sink]]]:
    """One member of each kind, and who judges it."""
    bundle = next(directory.rglob("*.bundle"))
    return {
        "bundle": (bundle.read_bytes(), lambda: BundleCheck("x")),
        "lfs.tar.gz, incompressible": ((directory / "lfs.tar.gz").read_bytes(), lambda: GzipCheck("x", TarCount("x"))),
        "builds.tar.gz, text": ((directory / "builds.tar.gz").read_bytes(), lambda: GzipCheck("x", TarCount("x"))),
        "database.sql.gz": ((directory / "db/database.sql.gz").read_bytes(), lambda: GzipCheck("x", DumpCheck("x"))),
    }


def _judge(archive: bytes, size: int) -> None:
    judge = ApplicationJudge(staged.BACKUP_ID, staged.VERSION, staged.MEMBERS, staged.repositories(size))
    scanner = TarScanner(judge.watch)
    view = memoryview(archive)
    for at in range(0, len(view), CHUNK):
        scanner.feed(view[at : at + CHUNK])
    scanner.close()
    assert judge.judge(scanner.members).problems == ()  # a fast failure would look best of all


def _feed(sink: Sink, content: bytes) -> None:
    view = memoryview(content)
    for at in range(0, len(view), CHUNK):
        sink.write(view[at : at + CHUNK])
    sink.close()


def _show(what: str, size: int, runs: int, action: Callable[[], None]) -> None:
    taken = []
    for _ in range(runs):
        begun = time.process_time()
        action()
        taken.append(time.process_time() - begun)
    print(f"{what:<28}{size / statistics.median(taken) / 1e6:8.0f} MB/s of {size / 1e6:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
