"""What keeps backups from a thief with this host's keys: the rights to give it, and the attempt to do harm."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from drtool.errors import ConfigError
from drtool.invocation import Call

if TYPE_CHECKING:
    from drtool.config_stores import AnyStoreTable
    from drtool.iam import Cloud, Target

_KINDS = {"aws": "s3", "oss": "oss", "spaces": "spaces"}


def show_rights(call: Call, cloud: Cloud, instance: str | None, store: str | None) -> None:
    """Print the smallest rights for the hosts that work with a store of the configuration (default: the instance's)."""
    from drtool.iam import ROLES, rights_for
    from drtool.report_protection import rights_text

    app = call.app(instance)
    table = app.store_table(store or app.instance.store)
    target = _target_of(table, app.instance.name, cloud)
    found = [rights_for(cloud, role, target) for role in ROLES]
    call.ui.result({"cloud": cloud, "rights": found}, rights_text(found))


def attack_store(call: Call, instance: str | None, store: str | None) -> None:
    """Try with this host's own keys to do harm, and leave a receipt of what came of it."""
    from drtool.attack import attack, record
    from drtool.errors import Unprotected
    from drtool.report_protection import attack_text

    app = call.app(instance)
    place = app.attack_place(store)
    outcome = attack(place)
    receipt = record(outcome, place, app.signer)
    call.ui.result({"attack": outcome, "receipt": receipt}, attack_text(outcome, receipt), bad=bool(outcome.allowed))
    if outcome.allowed:
        sys.exit(Unprotected.exit_status)


def _target_of(table: AnyStoreTable, instance: str, cloud: Cloud) -> Target:
    from drtool.config_stores import LocalStoreTable, OssStoreTable, S3StoreTable
    from drtool.iam import Target

    if isinstance(table, LocalStoreTable) or table.kind != _KINDS[cloud]:
        raise ConfigError(
            f"the store is of kind {table.kind!r}, and --iam {cloud} is for kind {_KINDS[cloud]!r}",
            hint="Name the cloud that the store is in, or another store with --store.",
        )
    prefix = f"{table.prefix.strip('/')}/" if table.prefix.strip("/") else ""
    match table:
        case S3StoreTable():
            locks = table.object_lock is not None
            return Target(table.bucket, instance, prefix, table.region, table.kms_key_id, object_lock=locks)
        case OssStoreTable():
            return Target(table.bucket, instance, prefix, table.region)
        case _:
            return Target(table.bucket, instance, prefix, table.region)
