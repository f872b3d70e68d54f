"""Commands about what stays, and what may go."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from drtool.invocation import INSTANCE, STORE, Call, command

if TYPE_CHECKING:
    from drtool.app import App
    from drtool.catalog import Catalog
    from drtool.discard import Place
    from drtool.prune import Pruned


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would go and why, and remove nothing.")
@INSTANCE
@command
def prune(call: Call, dry_run: bool, instance: str | None) -> None:
    """Remove the sets that the policy lets go.

    In every store of the instance. Without a policy everything stays.
    """
    from drtool.journal import only_run
    from drtool.report_prune import pruned_text

    app = call.app(instance)
    if dry_run:
        pruned = _prune_all(app, dry_run=True)
    else:
        with only_run(app.config.state_dir, app.instance.name, doing="a prune"):
            pruned = _prune_all(app, dry_run=False)
    status = _status_of(pruned)
    named = len(pruned) > 1
    text = "\n\n".join(f"{each.plan.store}\n{pruned_text(each)}" if named else pruned_text(each) for each in pruned)
    call.ui.result({"stores": pruned, "exit_status": status}, text, bad=bool(status))
    sys.exit(status)


def _prune_all(app: App, *, dry_run: bool) -> list[Pruned]:
    """The instance's own store first: a copy loses nothing while that one does not answer."""
    from drtool.claims import tidy
    from drtool.policies import Policy
    from drtool.prune import prune as remove

    policy = app.policy or Policy()
    pruned = []
    for name, found in zip(app.store_names, _catalogs(app), strict=True):
        with nullcontext(found) if dry_run else app.leased(found, "a prune") as catalog:
            done = remove(
                catalog,
                policy.retention.as_retention(),
                verifier=app.verifier,
                clock=app.clock,
                emit=app.emit,
                locked_for=policy.lock.duration if policy.lock else None,
                others=app.witnesses(name),
                dry_run=dry_run,
            )
            if not dry_run:
                tidy(catalog)
        pruned.append(done)
    return pruned


def _status_of(pruned: list[Pruned]) -> int:
    """The first problem's own, else that of a promise where removal is frozen, else 0."""
    from drtool.errors import ObjectiveBreached

    problems = [problem for each in pruned for problem in each.problems]
    if problems:
        return problems[0].exit_status
    return ObjectiveBreached.exit_status if any(each.plan.decision.freeze for each in pruned) else 0


@click.command()
@click.argument("set_id", metavar="SET")
@click.option("--reason", required=True, help="Why it is to go. Kept in the store, in clear.")
@click.option("--store", "only", metavar="NAME", help="Only from this store of the configuration.")
@click.option("--yes", is_flag=True, help="Do not ask before it starts.")
@INSTANCE
@command
def discard(call: Call, set_id: str, reason: str, only: str | None, yes: bool, instance: str | None) -> None:
    """Remove one set that no prune would remove.

    One that is forged, damaged or dated in the future, from every store of the instance that has it. SET is its whole
    name. A signed receipt keeps who wanted it, when and why.
    """
    import getpass
    import platform

    from drtool.core.model import is_set_id
    from drtool.discard import discard as remove
    from drtool.discard import plan_discard
    from drtool.errors import DrtoolError, SetMissing
    from drtool.journal import only_run
    from drtool.report_prune import discard_plan_text, discarded_text

    if not is_set_id(set_id):
        raise click.UsageError("SET is the whole name of one set, as `drtool list` shows it.")
    app = call.app(instance)
    place = _discard_place(app)
    catalogs = [app.catalog_on(only)] if only else _catalogs(app)
    plans = [(catalog, plan) for catalog in catalogs if (plan := plan_discard(catalog, set_id, place))]
    if not plans:
        where = ", ".join(catalog.store.name for catalog in catalogs)
        raise SetMissing(f"no backup set {set_id} of {app.instance.name} in {where}", hint="See `drtool list`.")
    call.ui.say(discard_plan_text(set_id, [plan for _, plan in plans]))
    if not (yes or call.ui.confirm("Discard it now?")):
        hint = "Answer y, or give --yes where nobody can answer."
        raise DrtoolError(f"{set_id} was not discarded: nobody said yes", hint=hint)
    by = f"{getpass.getuser()} on {platform.node()}"
    done = []
    with only_run(app.config.state_dir, app.instance.name, doing="a discard"):
        for found, plan in plans:
            with app.leased(found, "a discard") as catalog:
                done.append(remove(catalog, plan, place, reason=reason, by=by))
    status = next((each.problem.exit_status for each in done if each.problem), 0)
    found_there = {"set_id": set_id, "stores": done, "exit_status": status}
    call.ui.result(found_there, discarded_text(done), bad=bool(status))
    sys.exit(status)


def _discard_place(app: App) -> Place:
    from drtool.app import new_token
    from drtool.discard import Place
    from drtool.errors import ConfigError
    from drtool.policies import Policy

    if app.signer is None:
        raise ConfigError("discard needs signing_key: it leaves a signed receipt", hint="`drtool init` makes a key.")
    if not app.verifier.trusted:
        raise ConfigError(
            "discard needs trusted_signers: it could not tell a forged set from a good one",
            hint="Put the public signing key of the GitLab host there.",
        )
    retention = (app.policy or Policy()).retention.as_retention()
    return Place(retention, app.verifier, app.signer, app.clock, app.emit, new_token)


@click.command()
@click.argument("set_id", metavar="SET")
@click.option("--reason", required=True, help="Why it is to stay. Kept in the store, in clear.")
@click.option("--baseline", is_flag=True, help="It is as it should be: compare later sets with it, and thaw a prune.")
@INSTANCE
@command
def pin(call: Call, set_id: str, reason: str, baseline: bool, instance: str | None) -> None:
    """Keep one set for ever, or until `unpin`, and its copies."""
    import getpass
    import platform
    from dataclasses import asdict

    from drtool.prune import pin as keep
    from drtool.report_prune import pin_text

    app = call.app(instance)
    who = f"{getpass.getuser()} on {platform.node()}"
    found = _find(app, set_id)
    holding = [catalog for catalog in _catalogs(app) if catalog.is_committed(found) or catalog.is_rejected(found)]
    made = [
        keep(catalog, found, reason=reason, by=who, clock=app.clock, signer=app.signer, baseline=baseline)
        for catalog in holding or [app.catalog]
    ]
    call.ui.result({**asdict(made[0]), "stores": len(made)}, pin_text(made[0]))


@click.command()
@click.argument("set_id", metavar="SET")
@INSTANCE
@command
def unpin(call: Call, set_id: str, instance: str | None) -> None:
    """Let the policy decide over a set again."""
    from drtool.core.model import is_set_id
    from drtool.prune import unpin as let_go
    from drtool.report_prune import unpin_text

    app = call.app(instance)
    catalogs = _catalogs(app)
    # By its whole name also one that is being removed: a pin and a tombstone must not hold each other for ever.
    is_whole = is_set_id(set_id) and any(catalog.is_pinned(set_id) for catalog in catalogs)
    found = set_id if is_whole else _find(app, set_id)
    were = [let_go(catalog, found, app.verifier) for catalog in catalogs]
    was = next(filter(None, were), None)
    call.ui.result({"set_id": found, "pin": was}, unpin_text(found, was))


@click.command()
@STORE
@INSTANCE
@command
def pins(call: Call, store: str | None, instance: str | None) -> None:
    """List the sets that are pinned, and why."""
    from drtool.prune import list_pins
    from drtool.report_prune import pins_text

    app = call.app(instance)
    found = list_pins(app.catalog_on(store) if store else app.catalog, app.verifier)
    call.ui.result({"pins": found}, pins_text(found))


def _find(app: App, text: str) -> str:
    """What is meant, by the instance's own store; by its whole name also a set that only a copy has."""
    from drtool.core.model import is_set_id
    from drtool.errors import SetMissing

    try:
        return app.resolve(text, app.catalog)
    except SetMissing:
        if is_set_id(text):
            for catalog in _catalogs(app)[1:]:
                if catalog.is_committed(text) or catalog.is_rejected(text):
                    return app.resolve(text, catalog)
        raise


def _catalogs(app: App) -> list[Catalog]:
    """The instance's own store and those of its copies, in this order."""
    return [app.catalog, *(app.catalog_on(table.store) for table in app.instance.copies)]
