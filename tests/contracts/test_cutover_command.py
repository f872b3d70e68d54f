"""`drtool cutover` before anything is done: what it shows, what it refuses, and that it then has done nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from drtool.clock import SystemClock
from drtool.core.cutover import HostSeen, Observed, State
from drtool.cutover_checks import Reach, examine
from drtool.cutover_place import Order, Run
from drtool.errors import AddressError, HookFailed
from drtool.journal import Journal, new_journal
from tests.address_servers.aliyun import AliyunServer, aliyun_server
from tests.address_servers.aws import aws
from tests.address_servers.digitalocean import digitalocean
from tests.contracts.address_contract import Site
from tests.contracts.aliyun_sites import EipSite
from tests.contracts.aws_sites import ElasticIpSite
from tests.contracts.digitalocean_sites import ReservedIpSite
from tests.contracts.test_fencing import Host
from tests.cutover_world import World
from tests.playground import Ran, drtool, snapshot
from tests.sshd import SshServer, sshd

__all__ = ["aws", "digitalocean", "sshd"]


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/users/sign_in" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def pages() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with closing(server.socket):
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Desk:
    """A configuration whose address is a file, and whose two hosts are one directory on this machine."""

    def __init__(self, base: Path, pages: str) -> None:
        self.base, self.host = base, Host(base / "host")
        self.holder = base / "holder"
        self.holder.write_text("old\n")
        rails = self.host.root / "opt/gitlab/embedded/service/gitlab-rails"
        rails.mkdir(parents=True)
        (rails / "VERSION").write_text("18.9.1-ee\n")
        (self.host.root / "var/opt/gitlab/backups").mkdir()
        self.say_url("127.0.0.1", int(pages.rpartition(":")[2]))
        (self.host.root / "etc/gitlab").mkdir(parents=True)
        (self.host.root / "etc/gitlab/gitlab.rb").write_text("external_url 'http://127.0.0.1'\n")
        psql = self.host.root / "opt/gitlab/bin/gitlab-psql"
        psql.write_text("#!/bin/sh\necho 'application_settings|id'\n")
        psql.chmod(0o755)
        (base / "store").mkdir()
        self.config = base / "drtool.toml"
        self.config.write_text(f"""\
state_dir = "{base}/state"
[[instance]]
name = "gitlab"
store = "main"
prefix = "{self.host.root}"
[store.main]
kind = "local"
path = "{base}/store"
[address.public]
kind = "command"
holder_command = ["cat", "{self.holder}"]
move_command = ["sh", "-c", "printf '%s\\\\n' \\"$1\\" >{self.holder}", "sh", "{{to}}"]
public_url = "http://{pages}"
ssh_port = 0
[address.public.holders.old]
ssh = "local"
private_url = "http://{pages}"
[address.public.holders.new]
ssh = "root@192.0.2.1"
private_url = "http://{pages}"
""")

    def say_url(self, host: str, port: int) -> None:
        path = self.host.root / "var/opt/gitlab/gitlab-rails/etc/gitlab.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"production:\n  gitlab:\n    host: {host}\n    port: {port}\n    https: false\n")

    def both_here(self) -> None:
        self.config.write_text(self.config.read_text().replace("root@192.0.2.1", "local"))

    def cutover(self, *arguments: str) -> Ran:
        return drtool("cutover", "public", "-c", self.config, *arguments)


@pytest.fixture
def desk(tmp_path: Path, pages: str) -> Desk:
    return Desk(tmp_path, pages)


def refused(desk: Desk, *arguments: str) -> Ran:
    """Run it, and see that it changed nothing."""
    before = snapshot(desk.host.root), desk.holder.read_text()
    ran = desk.cutover(*arguments)
    assert (snapshot(desk.host.root), desk.holder.read_text()) == before
    assert ran.status != 0
    assert "Traceback" not in ran.stderr
    return ran


def test_a_dry_run_shows_every_step_and_does_none(desk: Desk) -> None:
    desk.both_here()
    before = snapshot(desk.host.root)
    ran = desk.cutover("--to", "new", "--dry-run", "--no-count", "--json")
    shown = ran.last
    assert ran.status == 0, ran.stdout
    assert [step["step"] for step in shown["steps"]] == ["freeze", "fence", "move", "probe", "end"]
    assert (shown["from"], shown["to"], shown["seen"]["holder"]) == ("old", "new", "old")
    assert snapshot(desk.host.root) == before
    assert desk.cutover("--to", "new", "--dry-run", "--no-count").stdout.count("\n") > 6


def test_a_hook_that_fails_keeps_a_cutover_from_beginning_and_nobody_from_taking_it_back(desk: Desk) -> None:
    desk.both_here()
    hook = '[[instance.hooks]]\nwhen = "before-cutover"\ncommand = ["false"]\n[store.main]'
    desk.config.write_text(desk.config.read_text().replace("[store.main]", hook))
    ran = refused(desk, "--to", "new", "--yes", "--no-count")
    assert ran.status == HookFailed.exit_status
    assert not list((desk.base / "state").glob("runs/*"))

    journal = new_journal(desk.base / "state", "cutover-20260113T031500Z-7f3a")
    began = {"at": "2026-01-13T03:15:00+00:00", "by": "a test"}
    journal.append("cutover", address="public", old="old", new="new", **began)
    journal.append("wanted", back=False, why="", asked=True, at=began["at"])
    ran = desk.cutover("--undo", "--yes", "--no-count")

    assert Journal(journal.path).find("ended")
    assert ran.stderr.count("the hook before-cutover (false) ended with status 1") == 2  # at once, and at the end
    assert ran.status == HookFailed.exit_status


def test_an_address_held_by_somebody_else_is_refused(desk: Desk) -> None:
    desk.holder.write_text("stranger\n")
    ran = refused(desk, "--to", "new", "--yes")
    assert ran.status == 32
    assert "stranger" in ran.stderr


def test_what_is_not_in_the_configuration_is_refused(desk: Desk) -> None:
    assert refused(desk, "--to", "nobody").status == 3
    assert drtool("cutover", "another", "--to", "new", "-c", desk.config).status == 3
    assert refused(desk).status == 2
    assert refused(desk, "--undo").status == 29
    assert refused(desk, "--to", "new", "--stop-instance").status == 3


def test_a_new_host_of_another_name_is_refused(desk: Desk) -> None:
    desk.both_here()
    desk.say_url("old-name.example.com", 443)
    ran = refused(desk, "--to", "new", "--yes", "--no-count", "--json")
    assert ran.status == 6
    assert "old-name.example.com" in json.dumps(ran.last)


def test_a_new_host_that_is_still_isolated_is_refused(desk: Desk) -> None:
    desk.both_here()
    psql = desk.host.root / "opt/gitlab/bin/gitlab-psql"
    psql.write_text("#!/bin/sh\ncase $* in *row_id*|*'GROUP BY'*) ;; *) echo 'drtool_isolation|id' ;; esac\n")
    ran = refused(desk, "--to", "new", "--yes", "--no-count")
    assert ran.status == 6
    assert "isolat" in ran.stderr


@pytest.mark.engine("sshd")
@pytest.mark.parametrize("connect_to", ["127.0.0.1", "127.0.0.1:{port}"])
def test_another_way_to_the_public_name_keeps_the_ports_of_url_and_ssh(
    desk: Desk, sshd: SshServer, pages: str, connect_to: str
) -> None:
    desk.both_here()
    port = pages.rpartition(":")[2]
    desk.say_url("gitlab.example.com", int(port))
    (desk.host.root / "etc/ssh").mkdir()
    (desk.host.root / "etc/ssh/ssh_host_ed25519_key.pub").write_text(sshd.host_key + "\n")
    text = desk.config.read_text().replace(
        f'public_url = "http://{pages}"',
        f'public_url = "http://gitlab.example.com:{port}"\nconnect_to = "{connect_to.format(port=port)}"',
    )
    desk.config.write_text(text.replace("ssh_port = 0", f"ssh_port = {sshd.port}"))
    ran = desk.cutover("--to", "new", "--dry-run", "--no-count")
    assert ran.status == 0, ran.stderr


# -- what a provider refuses -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aliyun() -> Iterator[AliyunServer]:
    with aliyun_server(SystemClock()) as running:
        yield running


@pytest.mark.parametrize("kind", ["aliyun", "aws", "digitalocean"])
def test_what_the_provider_will_refuse_is_told_before_with_its_code(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    makers = {"aliyun": EipSite, "aws": ElasticIpSite, "digitalocean": ReservedIpSite}
    server = request.getfixturevalue(kind)
    names = list(makers[kind](server).obstacles())
    for name in names:
        site: Site = makers[kind](server)
        code = site.obstacles()[name]()
        run = _run(site, tmp_path)
        place = World(tmp_path).place()
        object.__setattr__(place, "address", site.address())
        with pytest.raises(AddressError) as caught:
            examine(run, place, Reach({}, "https://gitlab.example.com", lambda _: ()))
        assert code in str(caught.value), name
        assert caught.value.hint, name
        assert site.at() == site.a


def _run(site: Site, base: Path) -> Run:
    up = HostSeen(State.SERVING, healthy=True)
    order = Order("public", site.b, rollback_within=timedelta(minutes=1))
    return Run(order, site.a, site.b, False, Journal(base / "none.jsonl"), False, Observed(site.a, up, up), ())
