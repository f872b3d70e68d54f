"""Does memory stay flat, however much is backed up?

    python -m benchmarks.memory --sizes 1GiB 20GiB

Sends a made-up archive of one huge member, sealed and in the volumes of a backup, to the server that discards
everything; and once more to one that answers late, so that as many parts are in memory as ever may be.
"""

from __future__ import annotations

import argparse
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from benchmarks import report, staged
from benchmarks.measure import run
from benchmarks.peers import Site
from drtool.streams import PIECE, Source, generate_identity

_LATE = 0.5  # seconds a part waits for its answer: the sender is then always faster


class Archive(Source):
    """A tar of one member, of random bytes that repeat."""

    def __init__(self, size: int) -> None:
        member = tarfile.TarInfo("member")
        member.size = size
        self._head = member.tobuf(tarfile.GNU_FORMAT)
        self._left = size
        self._tail = bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)
        self._piece = os.urandom(PIECE)

    def read(self, size: int = -1, /) -> bytes:
        if self._head:
            found, self._head = self._head, b""
        elif self._left:
            found = self._piece[: min(size, self._left)]
            self._left -= len(found)
        else:
            found, self._tail = self._tail, b""
        return found


def send(url: str, recipient: str, size: str) -> None:
    """What is measured: as backup.py composes it, with its defaults."""
    from benchmarks.clients import INSTANCE, _s3
    from drtool.backup import Order
    from drtool.catalog import Catalog
    from drtool.events import ignore
    from drtool.gitlab.archive import TarScanner
    from drtool.installs.omnibus import Omnibus
    from drtool.journal import Journal
    from drtool.streams import parse_recipients
    from drtool.volumes import VolumeWriter

    order = Order(INSTANCE, Omnibus(), "age", (), ())
    with tempfile.TemporaryDirectory() as state:
        journal = Journal(Path(state, "journal"))
        catalog = Catalog(_s3(url), INSTANCE)
        writer = VolumeWriter(
            catalog, staged.BACKUP_ID, journal, order.volume_size, order.volumes_in_flight, ignore
        )  # fmt: skip
        archive = cast(BinaryIO, Archive(int(size)))
        writer.write("application", archive, TarScanner(), parse_recipients([recipient]))


def main() -> None:
    from benchmarks.throughput import served, size_of

    parser = argparse.ArgumentParser(description="Measure the peak memory of a backup by its size.")
    parser.add_argument("--sizes", type=size_of, nargs="+", default=[1 << 30, 20 << 30], help="default: 1GiB 20GiB")
    _, recipient = generate_identity()
    print(f"{'server':<16}{'GiB':>6}{'MB/s':>8}{'CPU s/GiB':>12}{'peak RSS, MiB':>16}", flush=True)
    for late in (0.0, _LATE):
        for size in parser.parse_args().sizes:
            with tempfile.TemporaryDirectory() as work, served(Path(work), late=late) as url:
                command = [sys.executable, "-m", "benchmarks.memory", "send", url, recipient, str(size)]
                site = Site(url, Path(work), Path(work), recipient, size, str)
                taken = run(command, site.environment())
            row = f"{size / (1 << 30):>6.0f}{report.speed(size, taken):>8.0f}"
            row += f"{taken.cpu_seconds / (size / (1 << 30)):>12.2f}{taken.peak_memory / (1 << 20):>16.0f}"
            print(f"{'answers late' if late else 'answers at once':<16}{row}", flush=True)


if __name__ == "__main__":
    send(*sys.argv[2:]) if sys.argv[1:2] == ["send"] else main()
