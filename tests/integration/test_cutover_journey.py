"""The public address goes to another host while somebody reads and writes through it, as its runbook says.

A write is an issue: it goes through nginx, Workhorse and Puma of the host behind the address, is a row in PostgreSQL
there, and counts as taken once that was answered. The page itself is ours (public_address.py): the stand-in for Rails
has none that writes. Without TLS, because it has no certificate either.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from drtool.installs.fencing import mark_path, open_again
from drtool.installs.omnibus import Omnibus
from tests.address_servers.digitalocean import TOKEN, DigitalOceanServer, digitalocean
from tests.contracts.address_contract import Gate
from tests.integration.engine import Engine
from tests.integration.hosts import Host, host_factory
from tests.integration.operators import Operator, host_key, operator_of, prepare_host
from tests.integration.public_address import WRITING_PUMA, Front, RealClock, Visitor, Write, ask, wrong
from tests.runbooks import Scene, blocks, is_run, play

__all__ = ["digitalocean"]
pytestmark = [pytest.mark.engine("docker"), pytest.mark.slow]

FOLDER = Path(__file__).parents[2] / "runbooks"
IP = "203.0.113.7"
GOES_BACK_WITHIN = timedelta(seconds=60)
_TAKES = timedelta(seconds=1)
_SECONDS = 300
_PUMA = "/opt/gitlab/embedded/writing_puma.py"
_STARTS_PUMA = f"#!/bin/sh\nexec 2>&1\nexec chpst -u git:git -U git:git python3 -I -S {_PUMA}\n"


@dataclass(frozen=True)
class Pair:
    """Two hosts with the same data, and the operator's machine that made them so."""

    old: Host
    new: Host
    operator: Operator


@dataclass(frozen=True)
class Stage:
    """The address is with the old host, both serve, and the operator's machine has begun nothing yet."""

    old: Host
    new: Host
    operator: Operator
    front: Front

    @property
    def droplets(self) -> dict[str, int]:
        old, new = self.front.hosts
        return {"old-host": old, "new-host": new}

    def cutover(self, *words: str) -> Any:
        return self.operator.run("cutover", "gitlab", "--to", "new-host", "--yes", "--json", *words)

    def steps(self, what: str = "finished") -> list[str]:
        names = {str(number): name.partition("-")[0] for name, number in self.droplets.items()}
        return [f"{e['step']} {names[e['host']]}" for e in self.operator.entries() if e["what"] == what]

    def finished_at(self, step: str, holder: str) -> datetime:
        number = str(self.droplets[holder])
        return next(
            datetime.fromisoformat(entry["at"])
            for entry in self.operator.entries()
            if entry["what"] == "finished" and (entry["step"], entry["host"]) == (step, number)
        )


@pytest.fixture(scope="module")
def pair(engine: Engine, network: Any, host_keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with host_factory(engine, network, host_keys) as make:
        old = make("old-host", variant="systemd")
        if old.is_real:
            pytest.skip("this is GitLab's own image, and our page that writes is not in it")
        new = make("new-host", variant="systemd")
        old.seed(projects=3, rows=500)
        prepare_host(old)
        old.check("drtool", "backup")
        operator = operator_of(old, tmp_path_factory.mktemp("cutover") / "home")
        operator.knows(new, "new-host", also=host_key(old))
        operator.restore().succeeded()
        new.check("systemctl", "restart", "ssh")  # it has the old one's host keys, and shows them from now on
        for one in (old, new):
            one.write(_PUMA, WRITING_PUMA.encode())
            one.write("/opt/gitlab/sv/puma/run", _STARTS_PUMA.encode(), mode=0o755)
            one.check("gitlab-ctl", "restart", "puma")
        yield Pair(old, new, operator)


@pytest.fixture
def stage(pair: Pair, digitalocean: DigitalOceanServer, tmp_path: Path) -> Iterator[Stage]:
    account = digitalocean.use(Gate(), RealClock(), takes=_TAKES)
    droplets = {account.droplet(): _ip(one) for one in (pair.old, pair.new)}
    account.place(IP, next(iter(droplets)))
    for one in (pair.old, pair.new):
        one.check(*open_again(Omnibus()).argv)
        one.check("rm", "-f", str(mark_path(Omnibus())))
        one.wait()
        one.sql("delete from issues where title like 'write %'")
    operator = pair.operator.again(tmp_path / "home")
    _knows_both(operator, pair)
    with Front(digitalocean, IP, droplets).open() as front:
        for one in (pair.old, pair.new):
            _say_url(one, front.web)
        _configure(operator, front, digitalocean.endpoint)
        yield Stage(pair.old, pair.new, operator, front)


def _ip(host: Host) -> str:
    """Where the host is reached past the public address, from this machine."""
    host.container.reload()
    (network,) = host.container.attrs["NetworkSettings"]["Networks"].values()
    return str(network["IPAddress"])


def _knows_both(operator: Operator, pair: Pair) -> None:
    settings = operator.home / ".ssh/config"
    operator.knows(pair.old, "old-host")
    first = settings.read_text()
    operator.knows(pair.new, "new-host", also=host_key(pair.old))
    settings.write_text(first + settings.read_text())


def _say_url(host: Host, port: int) -> None:
    """Set external_url, and what a reconfigure of the real one would make of it."""
    host.check("sed", "-i", f"s|^external_url .*|external_url 'http://127.0.0.1:{port}'|", "/etc/gitlab/gitlab.rb")
    host.check("gitlab-ctl", "reconfigure")
    lines = f"    host: 127.0.0.1\\n    port: {port}\\n    https: false"
    host.check("sed", "-i", f"s|^  gitlab:$|&\\n{lines}|", "/var/opt/gitlab/gitlab-rails/etc/gitlab.yml")


def _configure(operator: Operator, front: Front, endpoint: str) -> None:
    (operator.home / "dr/cloud_token").write_text(TOKEN)
    (operator.home / "dr/cloud_token").chmod(0o600)
    table = {
        "kind": "digitalocean",
        "address": IP,
        "token": "file:cloud_token",
        "endpoint": endpoint,
        "public_url": f"http://127.0.0.1:{front.web}",
        "page": "/-/readiness",
    }
    lines = ["", "[address.gitlab]", *(f"{name} = {json.dumps(value)}" for name, value in table.items())]
    lines.append(f"ssh_port = {front.ssh}")
    for (droplet, ip), name in zip(front.hosts.items(), ("old-host", "new-host"), strict=True):
        lines += [f"[address.gitlab.holders.{droplet}]", f'ssh = "root@{name}"', f'private_url = "http://{ip}"']
    path = operator.home / "dr/drtool.toml"
    path.write_text(path.read_text() + "\n".join(lines) + "\n")


def test_the_address_moves_while_somebody_writes_and_every_write_is_on_one_host(
    stage: Stage, record_testsuite_property: Callable[[str, object], None]
) -> None:
    with Visitor(stage.front.web).visiting() as visitor:
        ended = stage.cutover().succeeded()
        visitor.await_served()
    assert stage.front.holder == stage.droplets["new-host"]
    result = json.loads(ended.said.splitlines()[-1])
    assert result["outage_seconds"]
    record_testsuite_property("outage_seconds", result["outage_seconds"])
    assert visitor.unread > 0
    assert visitor.taken("old-host")
    assert visitor.taken("new-host")

    rows = _rows_once_moved(stage)
    assert wrong(visitor, rows, old="old-host", frozen_at=stage.finished_at("freeze", "old-host")) == []
    left_behind = result["outcome"]["left_behind"]
    (issues,) = (each for each in left_behind if "issues" in each)
    before, after = (int(words.split()[-1]) for words in issues.split(";"))
    assert after - before == len(rows["old-host"])


def test_the_runbook_moves_the_address_and_takes_it_back(stage: Stage) -> None:
    """Nobody writes, as its third step wants it."""
    places = {f"i-{name}": str(stage.droplets[f"{name}-host"]) for name in ("old", "new")}
    home = stage.operator.home
    environment = {"HOME": str(home), "DRTOOL_CONFIG": str(home / "dr/drtool.toml"), "PATH": str(home)}
    scene = Scene(home, environment, {name: partial(str, number) for name, number in places.items()})
    with Visitor(stage.front.web, pen=False).visiting() as visitor:
        count = play(FOLDER / "migrate-to-new-host.md", scene)
        visitor.await_served()
    assert count == sum(map(is_run, blocks(FOLDER / "migrate-to-new-host.md"))) > 0
    assert stage.front.holder == stage.droplets["old-host"]
    assert visitor.unread > 0
    assert {entry["differences"] for entry in stage.operator.entries() if entry["what"] == "counted"} == {0}


def test_what_is_not_served_from_outside_goes_back_by_itself_within_a_minute(
    stage: Stage, record_testsuite_property: Callable[[str, object], None]
) -> None:
    stage.front.closed_to.add(stage.droplets["new-host"])
    with Visitor(stage.front.web).visiting() as visitor:
        ended = stage.cutover("--rollback-within", "0m")
        visitor.await_served()
    assert ended.status == 33, str(ended)
    assert stage.front.holder == stage.droplets["old-host"]
    assert stage.steps()[-6:] == ["freeze new", "count new", "fence new", "open old", "move old", "probe old"]
    entries = stage.operator.entries()
    (turned,) = (entry for entry in entries if entry["what"] == "wanted" and entry["back"])
    assert entries[-1]["what"] == "ended"
    assert entries[-1]["result"] == "rolled back"
    took = datetime.fromisoformat(entries[-1]["at"]) - datetime.fromisoformat(turned["at"])
    record_testsuite_property("roll_back_seconds", took.total_seconds())
    assert took <= GOES_BACK_WITHIN
    assert visitor.taken() == visitor.taken("old-host")
    assert {write.number for write in visitor.taken()} <= {*_rows(stage.old)}


@pytest.mark.parametrize("step", ["fence", "move"])
def test_a_cut_over_that_is_killed_is_finished_by_the_same_command(stage: Stage, step: str) -> None:
    with Visitor(stage.front.web).visiting() as visitor:
        process = stage.operator.start("cutover", "gitlab", "--to", "new-host", "--yes")
        _await(lambda: any(name.startswith(step) for name in stage.steps("started")) or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        stage.cutover().succeeded()
        visitor.await_served()

    assert stage.front.holder == stage.droplets["new-host"]
    assert [e["result"] for e in stage.operator.entries() if e["what"] == "ended"] == ["committed"]
    assert len(stage.operator.journals()) == 1
    frozen_at = stage.finished_at("freeze", "old-host")
    assert wrong(visitor, _rows_once_moved(stage), old="old-host", frozen_at=frozen_at) == []


def _rows_once_moved(stage: Stage) -> dict[str, list[int]]:
    """What each host holds. The old one is fenced, takes no write past the address either, and is read all the same."""
    assert ask(_ip(stage.old), 80, "/write/999999") is None
    stage.old.check("systemctl", "start", "gitlab-runsvdir")
    stage.old.check("gitlab-ctl", "start", "postgresql")
    _await(lambda: stage.old.exec("/opt/gitlab/bin/gitlab-psql", "-c", "select 1")[0] == 0)
    return {one.address: _rows(one) for one in (stage.old, stage.new)}


def _rows(host: Host) -> list[int]:
    """The numbers of the writes that a host holds. PostgreSQL has to be up there."""
    query = "select iid - 1000000 from issues where title like 'write %' order by 1"
    return [int(row) for row in host.sql(query).split()]


def _await(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- the judge itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("writes", "rows", "flaw"),
    [
        ([(0, 1, "old")], {"old": [], "new": []}, "does not hold it"),
        ([(0, 1, "old")], {"old": [0], "new": [0]}, "held by both"),
        ([(0, 9, "old")], {"old": [0], "new": []}, "after it was frozen"),
    ],
)
def test_judge_sees_a_write_that_is_lost_or_doubled_or_late(
    writes: list[tuple[int, int, str]], rows: dict[str, list[int]], flaw: str
) -> None:
    start = datetime(2026, 1, 13, tzinfo=UTC)
    visitor = Visitor(0, [Write(number, start + timedelta(seconds=sent), by) for number, sent, by in writes])
    (found,) = wrong(visitor, rows, old="old", frozen_at=start + timedelta(seconds=5))
    assert flaw in found
