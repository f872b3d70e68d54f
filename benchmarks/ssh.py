"""How fast SshRunner moves bytes beside ``ssh host cat``, over loopback, both ways.

python -m benchmarks.ssh [--size 1GiB] [--runs 5]

Both reach the same server (tests/sshd.py) with the same cipher. The runs of both take turns, so that what else the
machine does meets both; the ratio is that of the medians. Needs sshd, ssh and what the tests need.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from drtool.core.command import Command
from drtool.hosts.ssh import SshRunner, open_ssh
from tests.sshd import SshServer, ssh_server

_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)
_CIPHER = "aes128-gcm@openssh.com"
_UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}


def openssh(server: SshServer, *command: str) -> list[str]:
    """Return the command line of the client, set up as strictly as the runner is."""
    target = server.target
    options = {
        "BatchMode": "yes", "StrictHostKeyChecking": "yes", "UserKnownHostsFile": str(target.known_hosts[0]),
        "GlobalKnownHostsFile": "none", "IdentitiesOnly": "yes",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    where = ["-i", str(target.identity_files[0]), "-c", _CIPHER, "-p", str(target.port), f"{target.user}@{target.host}"]
    return ["ssh", "-F", "none", *words, *where, *command]


def openssh_down(server: SshServer, size: int) -> None:
    with subprocess.Popen(openssh(server, f"head -c {size} /dev/zero"), stdout=subprocess.PIPE) as client:
        assert client.stdout
        assert sum(map(len, iter(lambda: client.stdout.read(_CHUNK), b""))) == size
    assert client.returncode == 0


def openssh_up(server: SshServer, size: int) -> None:
    with subprocess.Popen(openssh(server, "cat > /dev/null"), stdin=subprocess.PIPE) as client:
        assert client.stdin
        for _ in range(size // _CHUNK):
            client.stdin.write(_ZEROS)
    assert client.returncode == 0


def runner_down(runner: SshRunner, size: int) -> None:
    with runner.read_from(Command(("head", "-c", str(size), "/dev/zero"))) as output:
        assert sum(map(len, iter(lambda: output.read(_CHUNK), b""))) == size


def runner_up(runner: SshRunner, size: int) -> None:
    with runner.write_to(Command(("cat",))) as sink:
        for _ in range(size // _CHUNK):
            sink.write(_ZEROS)


def measure(cases: dict[str, Callable[[], None]], runs: int) -> dict[str, list[float]]:
    """Time every case in turn, ``runs`` times."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(runs):
        for name, case in cases.items():
            begun = time.perf_counter()
            case()
            taken[name].append(time.perf_counter() - begun)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", default="1GiB")
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    size = int(asked.size[:-3]) * _UNITS[asked.size[-3:]]
    with tempfile.TemporaryDirectory() as folder, ssh_server(Path(folder)) as server:
        runner = open_ssh(server.target)
        cases: dict[str, Callable[[], None]] = {
            "OpenSSH down": lambda: openssh_down(server, size),
            "runner down": lambda: runner_down(runner, size),
            "OpenSSH up": lambda: openssh_up(server, size),
            "runner up": lambda: runner_up(runner, size),
        }
        measure(cases, 1)  # not counted: caches, the first connection
        taken = measure(cases, asked.runs)
        runner.close()
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        print(f"{name:13} {size / middle / 1e6:6.0f} MB/s   median {middle:.2f} s, fastest {min(seconds):.2f} s")
    for way in ("down", "up"):
        ratio = statistics.median(taken[f"OpenSSH {way}"]) / statistics.median(taken[f"runner {way}"])
        print(f"{way}: the runner moves {ratio:.2f} times what OpenSSH moves")


if __name__ == "__main__":
    main()
