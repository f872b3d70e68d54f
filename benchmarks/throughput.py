"""How fast does drtool move a backup, beside what else could, and beside what the machine can?

    make bench RUNS=5 SIZE=2GiB

Everything is done in one run, on the same staged members, against the same server on this machine, in turn: a busy
moment meets all. Medians go to the screen and to results.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import report, staged
from benchmarks.clients import BUCKET, tar
from benchmarks.measure import Taken, run
from benchmarks.peers import DOWN, UP, Case, Site, missing
from drtool.streams import generate_identity

_SHARED_MEMORY = Path("/dev/shm")
_FACTORS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_CLIENTS = [sys.executable, "-m", "benchmarks.clients"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare drtool's data path with other ways to the same server.")
    parser.add_argument("--runs", type=int, default=5, help="measurements of each case (default: 5)")
    parser.add_argument("--size", type=size_of, default="2GiB", help="size of the staged members (default: 2GiB)")
    parser.add_argument("--work", type=Path, help="a directory for seven times the size (default: a temporary one)")
    parser.add_argument("--only", default="", help="measure only cases whose name matches this expression")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results.md"))
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="drtool-bench-", dir=given.work) as work,
        _target(Path(work), given.size) as target,
        served(Path(work)) as url,
    ):
        site = _prepare(url, Path(work), target, given.size)
        chosen = {"up": _chosen(UP, given.only), "down": _chosen(DOWN, given.only)}
        measured: dict[str, dict[str, list[Taken]]] = {
            way: {c.name: [] for c in cases} for way, cases in chosen.items()
        }
        load = os.getloadavg()[0]
        for number in range(1, given.runs + 1):
            for way, cases in chosen.items():
                for case in cases:
                    taken = _measure(way, case, site)
                    measured[way][case.name].append(taken)
                    _say(f"{number}/{given.runs} {way}", case, given.size, taken)
        lacking = sorted({name for case in (*UP, *DOWN) for name in missing(case)})
        text = report.render(measured, size=given.size, runs=given.runs, target=target, missing=lacking, load=load)
    print(f"\n{text}")
    if not given.only:
        given.results.write_text(text)


def _say(what: str, case: Case, size: int, taken: Taken) -> None:
    speed = f"{report.speed(size, taken):7.0f} MB/s {taken.cpu_seconds:6.1f} CPU s"
    print(f"{what:<10}{report.plain(case.name):<44}{speed}", flush=True)


def size_of(text: str) -> int:
    found = re.fullmatch(r"(\d+)(KiB|MiB|GiB)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"not a size like 512MiB or 2GiB: {text!r}")
    return int(found[1]) * _FACTORS[found[2]]


def _chosen(cases: tuple[Case, ...], pattern: str) -> list[Case]:
    return [case for case in cases if not missing(case) and re.search(pattern, case.name)]


@contextmanager
def _target(work: Path, size: int) -> Iterator[Path]:
    """Where archives are unpacked: in memory if there is ample room, so that no disk is measured."""
    roomy = _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > 2 * size and _free_memory() > 3 * size
    with tempfile.TemporaryDirectory(prefix="drtool-bench-", dir=_SHARED_MEMORY if roomy else work) as target:
        yield Path(target)


def _free_memory() -> int:
    found = re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


@contextmanager
def served(work: Path, *, late: float = 0) -> Iterator[str]:
    """The address of a server over ``work``/served, which answers uploads ``late`` seconds late."""
    root = work / "served"
    (root / BUCKET).mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.server", str(root), str(late)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


def _prepare(url: str, work: Path, target: Path, size: int) -> Site:
    secret, recipient = generate_identity()
    (work / "identity.txt").touch(0o600)
    (work / "identity.txt").write_text(f"{secret}\n")
    numbers = itertools.count()
    site = Site(url, work, target, recipient, size, lambda: f"sent-{next(numbers)}")
    print(f"Making {size >> 20} MiB of staged members, and what comes back from the server", flush=True)
    staged.make(work / "staged", size)
    with site.ready_tar.open("wb") as file:
        subprocess.run(tar(site.staged), stdout=file, check=True)
    for kind, recipient_or_none in (("sealed", recipient), ("clear", "")):
        subprocess.run([*_CLIENTS, "drtool-keep", str(work), recipient_or_none, str(size), kind], check=True)
    if not any(missing(case) for case in DOWN if "restic" in case.needs):
        for words in (["init"], ["backup", site.staged]):  # a directory has the layout of a bucket
            repository = str(work / "served" / BUCKET / "restic")
            command = ["restic", "--quiet", "--no-cache", "-r", repository, *words]
            subprocess.run(command, check=True, env=site.environment(), stdout=subprocess.DEVNULL)
    os.sync()  # or the first measurements share the machine with the writing of all this
    return site


def _measure(way: str, case: Case, site: Site) -> Taken:
    key = site.key()
    if case.before:
        run(case.before(site, key), site.environment())
    taken = run(case.command(site, key), site.environment())
    _check(way, case, site, key)
    return taken


def _check(way: str, case: Case, site: Site, key: str) -> None:
    """Nothing is reported of a client that moved too little: a fast failure would look best of all."""
    if way == "down":
        if "bare" in case.name:
            return
        found = sum(path.stat().st_size for path in site.target.rglob("*") if path.is_file())
        for path in site.target.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    else:
        with urllib.request.urlopen(f"{site.url}/taken/bytes") as answer:
            found = int(answer.read())
    if found < 0.95 * site.size:
        raise SystemExit(f"{case.name} ({way}, {key}) moved {found} of {site.size} bytes")


if __name__ == "__main__":
    main()
