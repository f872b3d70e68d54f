"""The whole journey: a backup by the host's own timer, the host lost, and another made its equal over ssh."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from drtool.demo.census import Census, difference
from drtool.hosts.local import LocalRunner
from drtool.signing import Verifier, public_key
from tests.integration.engine import Engine
from tests.integration.hosts import Factory, Host, host_factory
from tests.integration.operators import Operator, operator_of
from tests.integration.rgw import Rgw
from tests.servers import ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY, S3Server

pytestmark = [pytest.mark.engine("docker"), pytest.mark.slow]

MARK = "/var/opt/gitlab/backups/.drtool-restoring.json"
DOCTOR = ("gitlab-rake", "gitlab:doctor:secrets")
_SECONDS = 300


@dataclass(frozen=True)
class Lost:
    """What is left of a host: what it held, and the operator's machine, which knows of a store with its set."""

    census: Census
    operator: Operator
    server: S3Server
    prefix: str


@pytest.fixture(scope="module")
def lost(
    engine: Engine, network: Any, host_keys: Path, rgw: Rgw, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lost]:
    folder = tmp_path_factory.mktemp("journey")
    prefix = f"journey-{folder.parent.name}"
    with host_factory(engine, network, host_keys) as make:
        old = make("gitlab", variant="systemd", seeded=True)
        old.check("drtool", "init", "--store", "/srv/gitlab-backups")
        _use_bucket(old, _endpoint(rgw, network), prefix)
        census = old.census()
        _let_the_timer_fire(old)
        operator = operator_of(old, folder / "home")
        assert difference(census, old.census()) == []
        old.destroy()
        yield Lost(census, operator, rgw.http, prefix)


def _endpoint(rgw: Rgw, network: Any) -> str:
    """One that hosts and this machine both reach, because it is signed with the rest of an URL."""
    rgw.join(network)
    rgw.container.reload()
    address = rgw.container.attrs["NetworkSettings"]["Networks"][network.name]["IPAddress"]
    return f"http://{address}:8000"


def _use_bucket(host: Host, endpoint: str, prefix: str) -> None:
    """Edit the configuration as its comments say."""
    text = host.check("cat", "/etc/drtool/drtool.toml").partition("[store.main]")[0]
    settings = {
        "kind": "s3",
        "bucket": BUCKET,
        "prefix": prefix,
        "region": "us-east-1",
        "endpoint": endpoint,
        "conditional_put": False,
        "access_key_id": "file:access_key_id",
        "secret_access_key": "file:secret_access_key",
    }
    table = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    for name, content in {
        "drtool.toml": f"{text}[store.main]\n{table}",
        "access_key_id": ACCESS_KEY_ID,
        "secret_access_key": SECRET_ACCESS_KEY,
    }.items():
        host.write(f"/etc/drtool/{name}", content.encode(), mode=0o600)


def _let_the_timer_fire(host: Host) -> None:
    """Bring the night nearer, and wait until systemd started the backup by itself and saw its end."""
    folder = "/etc/systemd/system/drtool-backup.timer.d"
    soon = "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/10\nRandomizedDelaySec=0\nAccuracySec=100ms\n"
    host.check("mkdir", "-p", folder)
    host.write(f"{folder}/soon.conf", soon.encode())
    host.check("systemctl", "daemon-reload")
    host.check("systemctl", "start", "drtool-backup.timer")
    _await(host, lambda: _shown(host, "ExecMainStartTimestamp") != "")
    triggered = host.check("systemctl", "show", "--value", "--property", "LastTriggerUSec", "drtool-backup.timer")
    host.check("systemctl", "stop", "drtool-backup.timer")  # one night is enough
    _await(host, lambda: _shown(host, "ActiveState") in ("inactive", "failed"))
    said = host.exec("journalctl", "--no-pager", "-u", "drtool-backup.service")[1]
    assert _shown(host, "Result") == "success", said
    assert _shown(host, "ExecMainStatus") == "0", said
    assert triggered.strip() not in ("", "n/a"), "somebody else started it"


def _await(host: Host, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline, host.exec("systemctl", "status", "--no-pager", "drtool-backup.timer")[1]
        time.sleep(0.2)


def _shown(host: Host, name: str) -> str:
    return host.check("systemctl", "show", "--value", "--property", name, "drtool-backup.service").strip()


def test_the_lost_instance_is_worth_the_journey(lost: Lost) -> None:
    repositories, tables = lost.census.repositories, lost.census.tables
    assert len(repositories) >= 50
    assert any(one.refs == 0 for one in repositories.values())
    assert {name.rpartition("/")[2].partition(".")[2] for name in repositories} == {"git", "wiki.git", "design.git"}
    assert any(name.startswith("default/@snippets/") for name in repositories)
    assert all(lost.census.components[name].count for name in ("lfs", "uploads"))
    assert max(rows.count for rows in tables.values()) >= 100_000
    assert any(name.startswith("gitlab_partitions_dynamic.") and rows.count for name, rows in tables.items())


@pytest.mark.parametrize("via", ["relay", "signed-url"])
def test_the_operator_s_machine_makes_a_new_host_equal_to_the_lost_one(
    lost: Lost, host: Factory, tmp_path: Path, via: str
) -> None:
    new = host("new-host", variant="systemd")
    operator = lost.operator.again(tmp_path / "home")
    operator.knows(new, "new-host")

    ended = operator.restore("--via", via).succeeded()

    (journal,) = operator.journals()
    assert journal.stem in ended.said
    _is_equal(lost, new)
    same = operator.run("diff", "latest", "root@new-host", "--identity", str(operator.identity)).succeeded()
    assert "holds what" in same.said
    _receipt_tells_of(lost, operator, journal.stem)
    assert operator.run("restore", "latest", "--to", "root@new-host", "--dry-run").status == 23, "it is done"


def test_the_new_host_makes_itself_equal_to_the_lost_one(lost: Lost, host: Factory, tmp_path: Path) -> None:
    new = host("new-host", variant="systemd")
    settings = lost.operator.again(tmp_path / "home").home / "dr"
    new.check("mkdir", "-m", "700", "-p", "/etc/drtool")
    for path in settings.iterdir():
        content = path.read_text().replace(str(settings), "/etc/drtool")
        content = content.replace(str(tmp_path / "home/state"), "/var/lib/drtool")
        new.write(f"/etc/drtool/{path.name}", content.encode(), mode=0o600)

    new.check("drtool", "restore", "latest", "--to", "local", "--identity", "/etc/drtool/identity.txt", "--yes")

    _is_equal(lost, new)
    assert "holds what" in new.check("drtool", "diff", "latest", "local", "--identity", "/etc/drtool/identity.txt")


def _is_equal(lost: Lost, new: Host) -> None:
    after = new.census()
    assert difference(lost.census, after) == []
    assert after.repositories == lost.census.repositories
    assert "Total: 0 row(s) affected" in new.check(*DOCTOR)
    assert new.exec("test", "-e", MARK)[0] == 1
    assert new.check("ls", "-A", "/var/opt/gitlab/backups") == ""
    new.check("gitlab-ctl", "status")
    new.check("/opt/gitlab/bin/gitlab-healthcheck", "--fail", "--max-time", "10")


def _receipt_tells_of(lost: Lost, operator: Operator, run_id: str) -> None:
    """It lies in the store, is signed by our key, and has the time of every step of the journal."""
    store = lost.server.store(prefix=lost.prefix)
    (key,) = (info.key for info in store.list("") if info.key.endswith(f"receipts/{run_id}.json"))
    with store.open(key) as text, store.open(f"{key}.sig") as signature:
        content, signed = text.read(), signature.read()
    Verifier((public_key(operator.home / "dr/signing_key"),), LocalRunner()).verify(content, signed, source=key)
    receipt = json.loads(content)
    done = [entry["step"] for entry in operator.entries() if entry["what"] == "finished"]
    assert [step["name"] for step in receipt["steps"]] == done[:-1]
    assert done[-1] == "receipt"
    assert all(step["seconds"] >= 0 for step in receipt["steps"])
    assert sum(step["seconds"] for step in receipt["steps"]) > 1
    assert datetime.fromisoformat(receipt["started_at"]) < datetime.fromisoformat(receipt["finished_at"])
    assert receipt["purpose"] == "restore"
