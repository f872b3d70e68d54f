"""Whole journeys through the command line's own composition: back up, lose, restore, compare."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from drtool.app import App, load
from drtool.backup import back_up
from drtool.demo.census import difference, doctor, take_census
from drtool.demo.sandbox import Sandbox
from drtool.demo.seed import seed
from drtool.demo.story import tell
from drtool.events import ignore
from drtool.hosts.local import LocalRunner
from drtool.initialise import Made, initialise
from drtool.restore import Request, carry_out, prepare
from drtool.ui import Ui
from drtool.verify import verify
from tests import oss_server, sandboxes, servers
from tests.oss_server import OssServer
from tests.servers import S3Server

pytestmark = [pytest.mark.engine("postgresql"), pytest.mark.engine("seaweedfs")]


@pytest.fixture
def old_host(tmp_path: Path) -> Iterator[Sandbox]:
    sandboxes.require()
    with sandboxes.fresh(tmp_path / "old") as sandbox:
        seed(sandbox, bulk_bytes=3 << 20)
        yield sandbox


def _table(server: S3Server | OssServer, prefix: str) -> tuple[dict[str, object], str]:
    """The store's settings as the configuration says them, and the secret that they refer to."""
    common: dict[str, object] = {"prefix": prefix, "endpoint": server.endpoint, "access_key_id": "file:key"}
    if server.ca_bundle:
        common["ca_bundle"] = str(server.ca_bundle)
    if isinstance(server, S3Server):
        s3 = {"kind": "s3", "bucket": servers.BUCKET, "region": "us-east-1", "secret_access_key": "file:secret"}
        return {**common, **s3, "conditional_put": server.conditional_put}, servers.SECRET_ACCESS_KEY
    oss = {"kind": "oss", "bucket": oss_server.BUCKET, "region": oss_server.REGION, "access_key_secret": "file:secret"}
    return {**common, **oss}, oss_server.ACCESS_KEY_SECRET


def _configured(directory: Path, server: S3Server | OssServer, host: Path) -> Made:
    """A configuration whose store is a bucket, and whose secrets are references."""
    made = initialise(directory, LocalRunner(), instance="journey", host="test", state=directory / "state", prefix=host)
    store, secret = _table(server, f"journey-{directory.parent.name}")
    key = servers.ACCESS_KEY_ID if isinstance(server, S3Server) else oss_server.ACCESS_KEY_ID
    for name, content in {"key": key, "secret": secret}.items():
        (directory / name).write_text(content)
        (directory / name).chmod(0o600)
    head, _, _ = made.config.read_text().partition("[store.main]")
    head = head.replace('# volume_size = "1 GiB"', 'volume_size = "1 MiB"')
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in store.items())
    made.config.write_text(f"{head}[store.main]\n{lines}")
    return made


def _app(made: Made, host: Path) -> App:
    app = load(made.config, None, ignore)
    return dataclasses.replace(app, instance=app.instance.model_copy(update={"prefix": host}))


@pytest.mark.parametrize(
    "server",
    ["s3_http", "s3_https", "oss_http", "oss_https", pytest.param("rgw_https", marks=pytest.mark.engine("docker"))],
)
def test_a_set_in_a_bucket_brings_the_instance_back_on_another_host(
    server: str, request: pytest.FixtureRequest, old_host: Sandbox, tmp_path: Path
) -> None:
    made = _configured(tmp_path / "drtool", request.getfixturevalue(server), old_host.root)
    before = take_census(old_host)
    app = _app(made, old_host.root)

    manifest = back_up(app.backup_order(), app.backup_place()).manifest
    verdict = verify(app.open_set("latest"), "digest", signed=True, clock=app.clock, emit=ignore)
    old_host.destroy()

    with sandboxes.fresh(tmp_path / "new") as new_host:
        app = _app(made, new_host.root)
        opened = app.open_set(manifest.set_id, identities=app.identities((made.identity,)))
        wanted, place = Request("journey", app.install), app.restore_place(opened, app.runner)
        carry_out(prepare(wanted, place), wanted, place)
        after, secrets = take_census(new_host), doctor(new_host)

    assert verdict.problems == ()
    assert len(manifest.archive("application").volumes) > 3
    assert difference(before, after) == []
    assert secrets[0] > 0
    assert secrets[1] == 0


def test_the_demo_tells_an_equal_ending_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sandboxes.require()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said = io.StringIO()
    with redirect_stdout(said):
        tell(None, Ui(as_json=True))
    last = json.loads(said.getvalue().splitlines()[-1])

    assert last["event"] == "result"
    assert last["equal"] is True
    assert last["differences"] == []
    assert last["projects"] >= 20
    assert last["encrypted_values"] > 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("drtool-demo-")] == []
