"""How many encrypted rows a second does drtool try against the secrets, by scheme, and how long do 2.3 million take?

Rows pass as a dump does, through ``DumpCheck``; every value opens, unless --wrong makes none. Salted values cost a
derived key each, which is why they are tried on as many threads as there are processors. Where the machine is shared,
the seconds of processor time divided by the threads say what an idle one would take.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from drtool.gitlab.dump import DumpCheck
from drtool.gitlab.secrets import Fit, Sample, SecretsCheck
from tests.sealed import RIGHT, WRONG, Table, seal, secrets_of, table

GOAL = 2_300_000
DISTINCT = 500  # values of a table, which then repeat: nothing is remembered from one to the next
BLOCK = 1 << 16
COLUMNS = {**dict.fromkeys("ABCDEF", "encrypted_value"), **dict.fromkeys("GH", "token_encrypted")}
COLUMNS |= {**dict.fromkeys("IJK", "secret"), "O": "encrypted_otp_secret"}
# A guess at an instance with much CI: mostly tokens of jobs, and a tenth of variables with a salt each.
MIXTURE = {"H": 60, "G": 10, "A": 8, "B": 8, "E": 10, "I": 4}
NAMES = {"O": "E, otp"}


def dump(tables: list[tuple[Table, int]]) -> Iterator[bytes]:
    """A dump with so many rows of each table, in blocks as a pipe brings them."""
    yield b"--\n-- PostgreSQL database dump\n--\n"
    for (name, header, rows), count in tables:
        yield f"COPY {name} ({', '.join(header)}) FROM stdin;\n".encode()
        block = b"".join(row + b"\n" for row in rows)
        for _ in range(count // len(rows)):
            for start in range(0, len(block), BLOCK):
                yield block[start : start + BLOCK]
        yield b"\\.\n"
    yield b"--\n-- PostgreSQL database dump complete\n--\n"


def seconds(
    tables: list[tuple[Table, int]], *, wrong: bool, sample: Sample | None, threads: int
) -> tuple[float, float, int]:
    """Return how long one check took, in time and in processor time, and how many values it tried."""
    with ThreadPoolExecutor(threads) as executor:
        check = SecretsCheck(secrets_of(WRONG if wrong else RIGHT), sample=sample, over=executor.map)
        reading = DumpCheck(watchers=[check])
        begun, used = time.perf_counter(), time.process_time()
        for block in dump(tables):
            reading.write(memoryview(block))
        reading.finish()
        verdict = check.finish()
        taken, used = time.perf_counter() - begun, time.process_time() - used
    if verdict.fit not in ((Fit.DOES_NOT_FIT,) if wrong else (Fit.FITS, Fit.UNTESTED)):
        raise SystemExit(verdict.sentence())
    return taken, used, verdict.opened + verdict.failed


def made(letter: str) -> Table:
    values = [seal(letter, RIGHT, number) for number in range(DISTINCT)]
    return table(f"made_{letter.lower()}", COLUMNS[letter], values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=int, default=100_000, help="of each scheme (default: 100000; a salted one a 20th)"
    )
    parser.add_argument("--wrong", action="store_true", help="with secrets that open nothing")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--whole", action="store_true", help=f"also run a mixture of all {GOAL:,} rows, not a part")
    given = parser.parse_args()
    print(f"{given.threads} threads; rows a second, and seconds for {GOAL:,} rows")
    for letter in COLUMNS:
        rows = given.rows // 20 if letter in "EO" else given.rows
        taken, used, tried = seconds([(made(letter), rows)], wrong=given.wrong, sample=None, threads=given.threads)
        report(NAMES.get(letter, letter), tried, taken, used)
    for name, sample in (("mixture", None), ("sampled", Sample())):
        rows = GOAL if given.whole or sample else given.rows
        tables = [(made(letter), rows * share // 100) for letter, share in MIXTURE.items()]
        taken, used, tried = seconds(tables, wrong=given.wrong, sample=sample, threads=given.threads)
        if sample:
            print(f"{name:<8} {GOAL:>10,} rows, {tried:,} tried: {taken:.1f} s, processor {used:.1f} s")
        else:
            report(name, tried, taken, used)


def report(name: str, tried: int, taken: float, used: float) -> None:
    whole, processor = GOAL * taken / tried, GOAL * used / tried
    print(f"{name:<8} {tried / taken:>10,.0f} rows/s {whole:>8.1f} s, processor {processor:8.1f} s")


if __name__ == "__main__":
    main()
