"""How long a whole restore over ssh takes, step by step, beside the README's lines without drtool on the same set.

python -m benchmarks.restore [--size 512MiB] [--runs 3]

The target is a small GitLab with a real PostgreSQL and real git, behind sshd on loopback. Both ways take turns, each
onto a host of its own. By hand nothing is compared, counted or checked, no copy is kept and no service waited for: its
time is what the bytes and GitLab's own restore cost.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import tempfile
import time
from pathlib import Path, PurePosixPath

from benchmarks.ssh import openssh
from benchmarks.throughput import size_of
from drtool.app import App, load
from drtool.backup import back_up
from drtool.core.model import Manifest
from drtool.demo.sandbox import Sandbox
from drtool.demo.seed import seed
from drtool.events import ignore
from drtool.hosts.local import LocalRunner
from drtool.hosts.ssh import open_ssh
from drtool.initialise import Made, initialise
from drtool.installs.omnibus import Omnibus
from drtool.restore import Request, carry_out, prepare
from tests import sandboxes
from tests.sshd import SshServer, ssh_server

STAGE = "stage"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", type=size_of, default="512MiB", help="of the uploads of the instance")
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drtool-bench-") as folder, ssh_server(Path(folder) / "sshd") as server:
        base = Path(folder)
        made, manifest = _backed_up(base, asked.size)
        steps: dict[str, list[float]] = {}
        whole: dict[str, list[float]] = {"by hand": [], "drtool": []}
        staged: list[float] = []
        for number in range(asked.runs):
            with sandboxes.fresh(base / f"hand-{number}") as host:
                seconds = _by_hand(made, manifest, host, server)
                staged.append(seconds[0])
                whole["by hand"].append(sum(seconds))
            with sandboxes.fresh(base / f"drtool-{number}") as host:
                begun = time.perf_counter()
                for name, took in _by_drtool(made, manifest, host, server).items():
                    steps.setdefault(name, []).append(took)
                whole["drtool"].append(time.perf_counter() - begun)
        _tell(manifest, steps, whole, staged)


def _backed_up(base: Path, size: int) -> tuple[Made, Manifest]:
    (base / "store").mkdir()
    with sandboxes.fresh(base / "old") as host:
        seed(host, bulk_bytes=size)
        made = initialise(
            base / "drtool", LocalRunner(), instance="bench", host="bench", store=base / "store", prefix=host.root,
            state=base / "state",
        )  # fmt: skip
        app = load(made.config, None, ignore)
        return made, back_up(app.backup_order(), app.backup_place()).manifest


def _by_drtool(made: Made, manifest: Manifest, host: Sandbox, server: SshServer) -> dict[str, float]:
    app: App = load(made.config, None, ignore)
    runner = open_ssh(server.target)
    try:
        opened = app.open_set(manifest.set_id, identities=app.identities((made.identity,)))
        request = Request("bench", Omnibus(PurePosixPath(host.root)))
        place = app.restore_place(opened, runner)
        outcome = carry_out(prepare(request, place), request, place)
    finally:
        runner.close()
    return {step.name: step.seconds for step in outcome.steps}


def _by_hand(made: Made, manifest: Manifest, host: Sandbox, server: SshServer) -> tuple[float, float]:
    """Stage the members, then let GitLab restore; the seconds of each."""
    volumes = made.config.parent.parent / "store/bench/sets" / manifest.set_id
    backups, program = host.root / "var/opt/gitlab/backups", host.root / "opt/gitlab/bin/gitlab-backup"
    unseal = f"for v in {volumes}/application-*.tar.age; do age -d -i {made.identity} $v; done"
    begun = time.perf_counter()
    _shell(f"set -e; {unseal} | {shlex.join(openssh(server, f'tar -x -C {backups}'))}")
    staged = time.perf_counter()
    _shell(shlex.join(openssh(server, f"{program} restore force=yes GITLAB_ASSUME_YES=1")))
    return staged - begun, time.perf_counter() - staged


def _shell(script: str) -> None:
    subprocess.run(["bash", "-o", "pipefail", "-c", script], check=True, stdout=subprocess.DEVNULL)


def _tell(
    manifest: Manifest, steps: dict[str, list[float]], whole: dict[str, list[float]], staged: list[float]
) -> None:
    size = manifest.archive("application").size
    print(f"A set of {size / 1e6:.0f} MB, {manifest.gitlab.repositories} repositories; medians of {len(staged)} runs")
    for name, seconds in steps.items():
        print(f"  {name:<14}{statistics.median(seconds):7.2f} s")
    hand, ours = statistics.median(whole["by hand"]), statistics.median(whole["drtool"])
    moved = statistics.median(staged), statistics.median(steps[STAGE])
    print(f"staging: drtool {size / moved[1] / 1e6:.0f} MB/s, age | ssh tar {size / moved[0] / 1e6:.0f} MB/s,", end=" ")
    print(f"{moved[0] / moved[1]:.2f} times")
    print(f"whole: drtool {ours:.1f} s, by hand {hand:.1f} s, {ours / hand:.2f} times as long")


if __name__ == "__main__":
    main()
