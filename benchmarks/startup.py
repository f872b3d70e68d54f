"""How long does ``drtool --help`` take, beside a Python that does nothing?

Both are started in turn, so that a busy moment of the machine meets both. Prints medians and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the start of drtool with that of Python.")
    parser.add_argument("--rounds", type=int, default=25, help="starts of each (default: 25, at least 15)")
    rounds = max(15, parser.parse_args().rounds)
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "drtool --help": [str(Path(sys.executable).with_name("drtool")), "--help"],
    }
    for command in commands.values():  # the first start reads everything from the disk
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, median in medians.items():
        print(f"{name:<16} {median * 1000:7.1f} ms   (median of {rounds}, best {min(times[name]) * 1000:.1f} ms)")
    print(f"{'ratio':<16} {medians['drtool --help'] / medians['python -c pass']:7.1f}")


if __name__ == "__main__":
    main()
