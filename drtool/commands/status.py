"""The command that says how all of it stands."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from drtool.invocation import FILE, INSTANCE, Call, command

if TYPE_CHECKING:
    from drtool.app import App
    from drtool.status import Sources


@click.command()
@click.option("--prometheus", type=FILE, metavar="FILE", help="Also write it for node-exporter's textfile collector.")
@INSTANCE
@command
def status(call: Call, prometheus: Path | None, instance: str | None) -> None:
    """Hold what is promised against what is.

    For every instance, or the one named. Ends with 22 when a promise is broken. Changes nothing.
    """
    from drtool.app import load_all
    from drtool.report_status import status_text
    from drtool.status import status as look

    apps = load_all(call.options.get("config"), instance, call.ui.emit)
    standings = [look(sources_of(app)) for app in apps]
    if prometheus:
        from drtool.metrics import write_metrics

        write_metrics(prometheus, standings)
    ends = worst(standing.exit_status for standing in standings)
    call.ui.result({"instances": standings, "exit_status": ends}, status_text(standings), bad=bool(ends))
    sys.exit(ends)


def sources_of(app: App) -> Sources:
    """Where to look for an instance."""
    from drtool.status import Sources

    return Sources(
        instance=app.instance.name,
        store=(app.instance.store, lambda: app.catalog),
        copies=[(table.store, partial(app.catalog_on, table.store)) for table in app.instance.copies],
        facts=lambda: app.trial_of(None).facts,
        policy=app.policy,
        verifier=app.verifier,
        runner=app.runner,
        install=app.install,
        state=app.config.state_dir,
        clock=app.clock,
        emit=app.emit,
        witnesses=app.witnesses,
    )


def worst(statuses: Iterable[int]) -> int:
    """A broken promise before all else, then the first problem's own, then 0."""
    from drtool.errors import ObjectiveBreached

    bad = [each for each in statuses if each]
    return ObjectiveBreached.exit_status if ObjectiveBreached.exit_status in bad else next(iter(bad), 0)
