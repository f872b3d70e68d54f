"""The composition root of cut-overs: the tables of an address become a live address, its hosts, and eyes outside."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from drtool.addresses import Address
from drtool.addresses.waiting import Patience
from drtool.app import App, new_token
from drtool.clock import Clock
from drtool.config import read_secret
from drtool.config_addresses import (
    AliyunEipTable,
    AliyunRecordTable,
    AnyAddressTable,
    AwsEipTable,
    CommandTable,
    DigitalOceanIpTable,
    DigitalOceanRecordTable,
    HolderTable,
    Route53Table,
)
from drtool.cutover_checks import Reach
from drtool.cutover_place import Place, Power
from drtool.errors import ConfigError, DrtoolError
from drtool.events import Noticed
from drtool.fencing import GitLabSide
from drtool.hosts import Runner
from drtool.probing import Probe, Repository, Ssh, Watch, Web, first_problem, host_keys, split_port

_DNS = ("alidns", "route53", "digitalocean_domain")


@dataclass(frozen=True)
class Bench:
    """Everything that one cut-over is done with. ``watch`` keeps how long nobody was served."""

    place: Place
    reach: Reach
    watch: Watch


def address_table(app: App, name: str) -> AnyAddressTable:
    """The table of an address. Raises ConfigError."""
    if name not in app.config.address:
        listed = ", ".join(app.config.address)
        hint = f"There is: {listed}." if listed else "README shows how to describe one."
        raise ConfigError(f"{app.path}: there is no [address.{name}]", hint=hint)
    return app.config.address[name]


def holder_named(table: AnyAddressTable, text: str) -> str:
    """The holder that is called so, by the provider or by how it is reached. Raises ConfigError."""
    if text in table.holders:
        return text
    found = [holder for holder, one in table.holders.items() if text in (one.ssh, one.ssh.rpartition("@")[2])]
    if len(found) != 1:
        listed = ", ".join(f"{holder} ({one.ssh})" for holder, one in table.holders.items())
        raise ConfigError(f"{text!r} is no holder of this address", hint=f"There are: {listed}.")
    return found[0]


def open_address(table: AnyAddressTable, clock: Clock, runner: Runner) -> Address:
    """Make the adapter. Each imports what it needs only when it is chosen; nobody is asked yet."""
    given: dict[str, Any] = {"patience": Patience(clock)}
    if not isinstance(table, CommandTable):
        given |= {"ca_bundle": table.ca_bundle} | ({"endpoint": table.endpoint} if table.endpoint else {})
    match table:
        case AliyunEipTable():
            from drtool.addresses.aliyun import AliyunAddress

            return AliyunAddress(table.allocation, region=table.region, keys=_keyring(table), **given)
        case AliyunRecordTable():
            from drtool.addresses.alidns import AliyunRecord

            return AliyunRecord(table.record, domain=table.domain, type=table.type, keys=_keyring(table), **given)
        case AwsEipTable():
            from drtool.addresses.aws import ElasticIp

            return ElasticIp(table.address, region=table.region, holders=table.holders_are, **_aws(table), **given)
        case Route53Table():
            from drtool.addresses.route53 import Route53Record

            return Route53Record(table.record, zone=table.zone, type=table.type, **_aws(table), **given)
        case DigitalOceanIpTable():
            from drtool.addresses.digitalocean import ReservedIp

            return ReservedIp(table.address, token=read_secret(table.token), **given)
        case DigitalOceanRecordTable():
            from drtool.addresses.digitalocean_domain import DomainRecord

            token = read_secret(table.token)
            return DomainRecord(table.record, domain=table.domain, type=table.type, token=token, **given)
        case CommandTable():
            from drtool.addresses.command import CommandAddress

            return CommandAddress(
                table.public_url,
                runner=runner,
                holder=table.holder_command,
                move=table.move_command,
                check=table.check_command,
                settles_within=table.settles_within,
                **given,
            )


@contextmanager
def cutover_bench(
    app: App, table: AnyAddressTable, agree: Callable[[tuple[str, ...]], bool], *, stop: bool
) -> Iterator[Bench]:
    """Everything for a cut-over; connections are made when they are needed, and end with the block."""
    address = open_address(table, app.clock, app.runner)
    runners = {holder: _runner(app, one) for holder, one in table.holders.items()}
    sides = {holder: _side(app, table, holder, runners[holder]) for holder in table.holders}
    outside = partial(_outside, app, table, runners)
    watch = Watch(_web(table).problem, app.clock)
    place = Place(
        address=address,
        sides=sides,
        probe=lambda holder: first_problem(outside(holder)),
        state=app.config.state_dir,
        clock=app.clock,
        emit=app.emit,
        new_token=new_token,
        agree=agree,
        record=partial(_record, app),
        power=_power(table, address) if stop else None,
        watch=watch.on,
        operator=platform.node(),
    )
    try:
        yield Bench(place, Reach(sides, table.public_url, outside), watch)
    finally:
        for runner in runners.values():
            if close := getattr(runner, "close", None):
                close()


def _runner(app: App, table: HolderTable) -> Runner:
    """Connects at the first command: a host that is dead is no reason not to begin."""
    if table.ssh == "local":
        return app.runner
    from drtool.hosts.ssh import SshRunner
    from drtool.hosts.ssh_target import parse_target

    target = parse_target(table.ssh)
    return SshRunner(replace(target, sudo=target.user != "root"))


def _side(app: App, table: AnyAddressTable, holder: str, runner: Runner) -> GitLabSide:
    private = table.holders[holder].private_url
    past = _web(table, connect_to=private.partition("://")[2], plain=private.startswith("http://"))
    return GitLabSide(holder, runner, app.install, app.clock, app.emit, past.problem, plain=past.plain)


def _outside(app: App, table: AnyAddressTable, runners: dict[str, Runner], holder: str) -> tuple[Probe, ...]:
    """What people do, at the address that they will be led to once ``holder`` has it."""
    # Resolvers may remember the record as it was: so not they are asked, but its new value.
    there = _where(table, holder if table.kind in _DNS else "")
    web = _web(table, connect_to=there)
    probes: list[Probe] = [web.problem]
    if table.ssh_port:
        probes.append(partial(_ssh_problem, app, table, runners[holder], there))
    if table.repository:
        probes.append(Repository(table.public_url, table.repository, app.runner, connect_to=there).problem)
    return tuple(probes)


def _ssh_problem(app: App, table: AnyAddressTable, runner: Runner, there: str) -> str | None:
    """The host that answers must have the keys that lie on the one that is to answer."""
    from drtool.core.command import Command

    listing = Command(("sh", "-c", 'cat -- "$0"/etc/ssh/ssh_host_*_key.pub', str(app.install.root).rstrip("/")))
    try:
        keys = host_keys(runner.run(listing).decode("utf-8", "replace"))
    except DrtoolError as problem:
        return f"the SSH host keys of {runner.name} cannot be read: {problem}"
    host = split_port(there, table.ssh_port)[0] or _web(table).host
    return Ssh(host, table.ssh_port, keys, app.runner).problem()


def _where(table: AnyAddressTable, instead: str = "") -> str:
    """Say where to connect to for the public name, if not to where it leads; at the port of its URL, if no other."""
    there = table.connect_to or instead
    if not there:
        return ""
    url = urlsplit(table.public_url)
    bare = there.count(":") > 1 and not there.startswith("[")
    host, port = split_port(f"[{there}]" if bare else there, url.port or (443 if url.scheme == "https" else 80))
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _web(table: AnyAddressTable, *, connect_to: str | None = None, plain: bool = False) -> Web:
    there = _where(table) if connect_to is None else connect_to
    return Web(table.public_url, table.page, there, plain=plain, ca_bundle=table.public_ca_bundle)


def _power(table: AnyAddressTable, address: Address) -> Power:
    if not hasattr(address, "stop_instance") or getattr(table, "holders_are", "instance") != "instance":
        raise ConfigError(
            f"{address.name}: drtool cannot switch machines off there",
            hint="Leave --stop-instance out; if the old host cannot be reached, switch it off by hand.",
        )
    power: Power = address  # type: ignore[assignment]  # by the look above
    return power


def _record(app: App, name: str, receipt: dict[str, Any]) -> None:
    """Store a signed receipt. The address is where it is, whether or not the store answers."""
    text = json.dumps({"instance": app.instance.name, **receipt}, indent=1).encode() + b"\n"
    try:
        app.catalog.put_receipt(name, text, app.signer)
    except DrtoolError as problem:
        app.emit(Noticed("no-receipt", f"The address is where it is; the receipt was not stored: {problem}"))


def _keyring(table: AliyunEipTable | AliyunRecordTable) -> Any:
    if table.ram_role:
        from drtool.stores.oss_credentials import RamRole

        return RamRole(table.ram_role)
    from drtool.addresses.aliyun_calls import FixedKeys

    assert table.access_key_id
    assert table.access_key_secret
    token = read_secret(table.security_token) if table.security_token else ""
    return FixedKeys(read_secret(table.access_key_id), read_secret(table.access_key_secret), token)


def _aws(table: AwsEipTable | Route53Table) -> dict[str, Any]:
    names = ("access_key_id", "secret_access_key", "session_token")
    return {name: read_secret(text) if (text := getattr(table, name)) else None for name in names}
