"""The command that moves the public address."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from drtool.invocation import INSTANCE, Call, command

if TYPE_CHECKING:
    from drtool.app_addresses import Bench
    from drtool.config_addresses import AnyAddressTable
    from drtool.core.obstacles import Obstacle
    from drtool.cutover_place import Order, Run


@click.command()
@click.argument("address", metavar="ADDRESS")
@click.option("--to", "host", metavar="HOST", help="A holder of [address.ADDRESS.holders], or how it is reached.")
@click.option("--dry-run", is_flag=True, help="Look, print the plan, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask, not even when the old host turns out to hold more.")
@click.option(
    "--old-host-is-dead", "dead", is_flag=True, help="The host that it leaves is out of reach, and off: I saw."
)
@click.option("--stop-instance", "stop", is_flag=True, help="Let the provider switch off the host that it leaves.")
@click.option("--undo", is_flag=True, help="Take the last cut-over back, finished or not.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished one, never begin one. Without it, either.")
@click.option("--anew", is_flag=True, help="Forget an unfinished one; begin from where the address is now.")
@click.option("--rollback-within", metavar="TIME", default="5m", show_default=True, help="Back after so long unserved.")
@click.option("--no-count", is_flag=True, help="Do not count what the hosts hold. It makes the outage shorter.")
@INSTANCE
@command
def cutover(call: Call, address: str, host: str | None, instance: str | None, **given: Any) -> None:
    """Move the public ADDRESS to another host, or back.

    The old host is stopped and fenced first, so never two take writes. After an interruption the same command goes on.
    """
    from drtool.app_addresses import address_table, cutover_bench

    if (host is None) != given["undo"]:
        raise click.UsageError("Say --to which HOST, or --undo.")
    if given["anew"] and (given["undo"] or given["resume"]):
        raise click.UsageError("--anew begins: leave --undo and --resume out.")
    app = call.app(instance)
    table = address_table(app, address)
    order = _order(address, host, table, given)

    def agree(differences: tuple[str, ...]) -> bool:
        call.ui.note("The old host, frozen now, holds what the new one does not:", details=differences)
        return bool(given["yes"]) or call.ui.confirm("Go on all the same?")

    with cutover_bench(app, table, agree, stop=given["stop"]) as bench:
        _cut_over(call, order, bench, given)


def _order(address: str, host: str | None, table: AnyAddressTable, given: dict[str, Any]) -> Order:
    from drtool.app_addresses import holder_named
    from drtool.config import parse_age
    from drtool.cutover_place import Order

    return Order(
        address,
        holder_named(table, host) if host else "",
        undo=given["undo"],
        anew=given["anew"],
        dead=given["dead"],
        stop=given["stop"],
        count=not given["no_count"],
        rollback_within=parse_age(given["rollback_within"]),
    )


def _cut_over(call: Call, order: Order, bench: Bench, given: dict[str, Any]) -> None:
    from drtool.cutover import carry_out, prepare, show
    from drtool.errors import ResumeError
    from drtool.report_cutover import outcome_text, plan_text

    place = bench.place
    run = prepare(order, place)
    if given["resume"] and not run.resumed:
        raise ResumeError("there is no unfinished cut-over of this address", hint="Leave --resume out to begin one.")
    warnings = _examined(run, bench)
    text = plan_text(run, place.address.name, warnings)
    if given["dry_run"]:
        call.ui.result({**show(run), "warnings": [warning.code for warning in warnings]}, text)
        return
    call.ui.say(text)
    if not given["yes"] and not call.ui.confirm("Cut over now?"):
        _nobody_agreed(call)
    call.begin(goes_on=run.resumed or order.undo)
    outcome = carry_out(run, place)
    outage = bench.watch.longest_outage
    call.ui.result({"outage_seconds": outage, "outcome": outcome}, outcome_text(outcome, place.address.name, outage))


def _examined(run: Run, bench: Bench) -> tuple[Obstacle, ...]:
    """What to know before a new cut-over; one that began is past being refused."""
    from drtool.cutover_checks import examine

    return () if run.resumed else examine(run, bench.place, bench.reach)


def _nobody_agreed(call: Call) -> None:
    from drtool.errors import DrtoolError

    call.withdraw()
    call.ui.error(
        DrtoolError("nothing was moved: nobody said yes", hint="Answer y, or give --yes where nobody can answer.")
    )
    sys.exit(1)
