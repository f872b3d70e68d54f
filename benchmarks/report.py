"""Tables for people, from what was measured."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path

from benchmarks.measure import Taken
from benchmarks.peers import find, version

_TITLES = {"up": "Backup: staged members to the server", "down": "Restore: from the server to unpacked members"}
_REFERENCE = "drtool, sealed"


def speed(size: int, taken: Taken) -> float:
    """MB/s (10^6) of staged bytes, whatever was sent for them."""
    return size / 1e6 / taken.seconds


def plain(name: str) -> str:
    return name.replace("\\|", "|")


def render(
    measured: Mapping[str, Mapping[str, Sequence[Taken]]],
    *,
    size: int,
    runs: int,
    target: Path,
    missing: Sequence[str],
    load: float,
) -> str:
    parts = [
        "# Results",
        "",
        f"Written by `make bench RUNS={runs} SIZE={size >> 20}MiB`. Medians of {runs}, all cases in turn in every",
        "round; in brackets the slowest and the fastest. What is compared, and why the numbers are as they are:",
        "[README.md](README.md).",
        "",
        *_conditions(target, missing, load),
    ]
    for way, cases in measured.items():
        if cases:
            parts += ["", f"## {_TITLES[way]}", "", *_table(cases, size)]
    return "\n".join(parts) + "\n"


def _table(cases: Mapping[str, Sequence[Taken]], size: int) -> list[str]:
    speeds = {name: statistics.median(speed(size, taken) for taken in found) for name, found in cases.items()}
    reference = speeds.get(_REFERENCE)
    rows = ["| | MB/s | | CPU s/GiB | peak RSS, MiB | drtool sealed is faster by |", "|---|--:|---|--:|--:|--:|"]
    for name, found in cases.items():
        each = [speed(size, taken) for taken in found]
        cpu = statistics.median(taken.cpu_seconds for taken in found) / (size / (1 << 30))
        memory = statistics.median(taken.peak_memory for taken in found) / (1 << 20)
        ratio = f"{reference / speeds[name]:.2f}" if reference else ""
        rows.append(
            f"| {name} | {speeds[name]:.0f} | ({min(each):.0f}-{max(each):.0f}) | {cpu:.2f} | {memory:.0f} | {ratio} |"
        )
    return rows


def _conditions(target: Path, missing: Sequence[str], load: float) -> list[str]:
    where = "memory (tmpfs)" if target.is_relative_to("/dev/shm") else "the disk"
    return [
        f"- Machine: {os.cpu_count()} cores, {_processor()}, {_memory()} GiB, Linux {platform.release()}; clients and"
        f" server share it. Load average before the first round: {load:.1f}. {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
        "- Server: [server.py](server.py), not a real store: http, it **discards uploads** and checks no signature or"
        " checksum; it serves downloads with sendfile from files prepared before. Its processor time is not counted.",
        f"- Unpacked to {where}. MB/s are 10^6 staged bytes a second, the start of the programs included; CPU and RSS"
        " are those of the client's whole tree of processes (tar, age, …); RSS counts shared pages once per process.",
        f"- Versions: {', '.join(_versions())}.",
        *([f"- Not installed, so not measured: {', '.join(missing)}."] if missing else []),
    ]


def _versions() -> list[str]:
    packages = [f"{name} {package_version(name)}" for name in ("drtool", "pyrage", "boto3", "botocore")]
    said = {
        "tar": version("tar", "--version"),
        "age": version("age", "--version"),
        "rclone": version("rclone", "version"),
        "restic": version("restic", "version"),
        "aws": version("aws", "--version"),
        "s5cmd": version("s5cmd", "version"),
    }
    numbers = {name: re.search(r"\d+\.\d+(\.\d+)?", text) for name, text in said.items() if find(name)}
    return [f"Python {platform.python_version()}", *packages,
            *(f"{name} {number[0]}" for name, number in numbers.items() if number)]  # fmt: skip


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _memory() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30))
