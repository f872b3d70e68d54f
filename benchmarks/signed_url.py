"""How fast an archive is staged over ssh: through the operator's machine, and by signed URLs that the host fetches.

python -m benchmarks.signed_url [--size 512MiB] [--runs 3]

Store (SeaweedFS), operator and host (sshd) are one machine, so the network costs neither of them anything and both ways
share its processors: this shows what the scripts on the host cost, not what a detour over a slow line would. The runs
of both ways take turns; the ratio is that of the medians. Needs age, curl, sshd and what the tests need.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path, PurePosixPath

from benchmarks.ssh import measure
from drtool.core.command import Command
from drtool.events import ignore
from drtool.hosts.ssh import SshRunner, open_ssh
from drtool.installs.omnibus import Omnibus
from drtool.phases import copy_scanned
from drtool.streams import generate_identity, parse_identities
from drtool.unsealing import stage_by_signed_url
from tests import sets
from tests.servers import seaweedfs
from tests.sshd import ssh_server

_UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}
_VOLUME = 128 << 20


def relay(runner: SshRunner, committed: sets.Committed, unpack: Command) -> None:
    with runner.write_to(unpack) as sink:
        for _ in copy_scanned(committed.open().read_archive("application"), sink, "application"):
            pass


def by_url(runner: SshRunner, committed: sets.Committed, staging: PurePosixPath, identity: bytes) -> None:
    stage_by_signed_url(
        runner,
        committed.open(),
        "application",
        staging,
        Omnibus.unpack(staging),
        identity=identity,
        signature_checked=True,
        emit=ignore,
        phase_name="stage",
    )


def emptied(staging: Path, case: Callable[[], None]) -> None:
    """Stage once; the time of emptying counts for both ways."""
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    case()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", default="512MiB")
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    size = int(asked.size[:-3]) * _UNITS[asked.size[-3:]]
    secret, recipient = generate_identity()
    made = sets.new_keys()
    identities = tuple(parse_identities([("benchmark", secret.encode())]))
    keys = dataclasses.replace(made, recipient=recipient, identities=identities)
    with (
        tempfile.TemporaryDirectory() as folder,
        ssh_server(Path(folder, "ssh")) as server,
        seaweedfs(Path(folder, "s3")) as s3,
        closing(open_ssh(server.target)) as runner,
    ):
        plain = {"application": sets.tar_of({"uploads.tar.gz": os.urandom(size)}), "config": sets.config()}
        committed = sets.commit(s3.store(), volume_size=_VOLUME, keys_=keys, archives=plain)
        staging = Path(folder, "staging")
        place = PurePosixPath(staging)
        cases: dict[str, Callable[[], None]] = {
            "relay": lambda: emptied(staging, lambda: relay(runner, committed, Omnibus.unpack(place))),
            "signed URL": lambda: emptied(staging, lambda: by_url(runner, committed, place, secret.encode())),
        }
        measure(cases, 1)  # not counted: caches, the first connection
        taken = measure(cases, asked.runs)
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        print(f"{name:11} {size / middle / 1e6:6.0f} MB/s   median {middle:.2f} s, fastest {min(seconds):.2f} s")
    ratio = statistics.median(taken["relay"]) / statistics.median(taken["signed URL"])
    print(f"by signed URLs, {ratio:.2f} times the speed of the way through the operator's machine")


if __name__ == "__main__":
    main()
