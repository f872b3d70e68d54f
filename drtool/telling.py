"""``drtool notify``: try everybody who is to be told, or tell what a run could not tell of itself."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from drtool.app import App
from drtool.core.bulletin import KINDS, Bulletin
from drtool.endings import WATCHED
from drtool.errors import ConfigError, ObjectiveBreached
from drtool.notifying import Delivered, notify, ping, wait_for
from drtool.told import read_record, record

_AGAIN = timedelta(hours=20)  # less than from one night to the next


@dataclass(frozen=True, slots=True)
class Told:
    """Who was told what. ``already``: the run told everybody itself, so nothing was sent."""

    deliveries: tuple[Delivered, ...]
    already: bool = False

    @property
    def failed(self) -> tuple[Delivered, ...]:
        return tuple(one for one in self.deliveries if one.reason)


def try_all(app: App) -> Told:
    """Send one message of each kind to every address, and a line to the log of the dead-man service.

    Not its other pings: one for a success would let it wait in peace although nothing was backed up.
    """
    _refuse_nobody(app)
    deliveries: list[Delivered] = []
    for kind in KINDS:
        bulletin = Bulletin(
            kind, "notify --test", app.instance.name, platform.node(), message="This is a test. Nothing happened."
        )
        deliveries += wait_for(notify(app.instance.notify, bulletin, every_kind=True))
    deliveries += wait_for(ping(app.instance.notify, None, "This is a test of drtool."))
    return Told(tuple(deliveries))


def tell_of_unit(app: App, unit: str, environment: Mapping[str, str]) -> Told:
    """Tell that a unit of systemd failed, unless its drtool told everybody already.

    The same end of the same unit is told once a day. ``environment`` has what systemd 251 and later say of the unit;
    before that, some things are told twice.
    """
    _refuse_nobody(app)
    status = environment.get("MONITOR_EXIT_STATUS", "")
    if _was_told(app, environment.get("MONITOR_INVOCATION_ID", "")) or _was_told_today(app, unit, status):
        return Told((), already=True)
    result = environment.get("MONITOR_SERVICE_RESULT", "")
    how = f"{environment.get('MONITOR_EXIT_CODE', '')} {status}".strip()
    bulletin = Bulletin(
        "breach" if status == str(ObjectiveBreached.exit_status) else "failure",
        unit,
        app.instance.name,
        platform.node(),
        exit_status=int(status) if status.isdigit() else None,
        message=f"systemd says: {result or 'failed'}{f' ({how})' if how else ''}",
        hint=f"On the host, journalctl -u {unit} has the rest.",
    )
    kind = bulletin.kind if unit.startswith(f"drtool-{WATCHED}") else None
    table = app.instance.notify
    told = wait_for([*notify(table, bulletin), *ping(table, kind, bulletin.body)])
    if told:
        record(app.config.state_dir, bulletin, told)
    return Told(tuple(told))


def _was_told(app: App, invocation: str) -> bool:
    entries = read_record(app.config.state_dir).get(app.instance.name, {}).values()
    return bool(invocation) and any(
        entry.get("invocation") == invocation
        and entry.get("outcome") != "success"
        and not any(one.get("failed") for one in entry.get("told", ()))
        for entry in entries
    )


def _was_told_today(app: App, unit: str, status: str) -> bool:
    """Whether the same was told of the unit already: a status that looks every hour need not complain every hour."""
    entry = read_record(app.config.state_dir).get(app.instance.name, {}).get(unit)
    if not isinstance(entry, dict) or any(one.get("failed") for one in entry.get("told", ())):
        return False
    same = str(entry.get("exit_status")) == status
    return same and app.clock.now() - datetime.fromisoformat(str(entry.get("at"))) < _AGAIN


def _refuse_nobody(app: App) -> None:
    if not app.instance.notify.urls and not app.instance.notify.ping_url:
        raise ConfigError(
            f"{app.path}: instance {app.instance.name}: nobody is to be told",
            hint="Add urls or ping_url to [instance.notify]; README has an example.",
        )
