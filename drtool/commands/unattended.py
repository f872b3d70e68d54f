"""Commands for what runs while nobody looks: who is told of it, and when it runs."""

from __future__ import annotations

from pathlib import Path

import click

from drtool.invocation import FILE, INSTANCE, Call, command


@click.command()
@click.option("--test", is_flag=True, help="Send one message of each kind to everybody who is to be told.")
@click.option("--unit", metavar="UNIT", help="Tell that this unit of systemd failed, unless drtool told it itself.")
@INSTANCE
@command
def notify(call: Call, test: bool, unit: str | None, instance: str | None) -> None:
    """Try the notifications, or send that of a killed run."""
    import os

    from drtool.errors import NotificationFailed
    from drtool.report_unattended import told_text
    from drtool.telling import tell_of_unit, try_all

    if test == bool(unit):
        raise click.UsageError("Say one of --test and --unit.")
    app = call.app(instance)
    told = tell_of_unit(app, unit, os.environ) if unit else try_all(app)
    call.ui.result(told, told_text(told), bad=bool(told.failed))
    if told.failed:
        raise NotificationFailed(
            f"{len(told.failed)} of {len(told.deliveries)} messages did not arrive",
            hint="Correct the address that its reference leads to, or ask the service.",
        )


@click.command("install-timer")
@click.option("--cron", is_flag=True, help="A file for cron instead of units and timers for systemd.")
@click.option("--remove", is_flag=True, help="Take away what it wrote.")
@click.option("--prometheus", type=FILE, metavar="FILE", help="Let the status write this file for node-exporter too.")
@click.option("--dry-run", is_flag=True, help="Show the files, and write nothing.")
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), hidden=True)
@click.option("--program", type=click.Path(path_type=Path), help="What they run (default: the drtool that runs now).")
@INSTANCE
@command
def install_timer(
    call: Call,
    cron: bool,
    remove: bool,
    prometheus: Path | None,
    dry_run: bool,
    root: Path,
    program: Path | None,
    instance: str | None,
) -> None:
    """Let systemd or cron run drtool on this host by itself.

    A backup every night, its verification, and what else must not be forgotten. A file that you changed is
    left as it is.
    """
    from drtool import scheduling
    from drtool.events import Noticed
    from drtool.hosts.local import LocalRunner
    from drtool.report_unattended import scheduled_text
    from drtool.sites import missing_references, site_of

    app = call.app(instance)
    site = site_of(app, root, named=instance is not None, metrics=prometheus, program=program)
    place = scheduling.Place(root.absolute(), LocalRunner(), dry_run)
    if remove:
        done = scheduling.remove_cron(site, place) if cron else scheduling.remove_timers(site, place)
    else:
        done = scheduling.install_cron(site, place) if cron else scheduling.install_timers(site, place)
        for reference in missing_references(app):
            hint = "Put the secret into a file that only root can read, and write file: and its path."
            call.ui.emit(Noticed("not-in-environment", f"{reference}: timers and cron do not set it", hint))
    for path in done.kept:
        hint = "Move it away and run this again; or keep your changes in a drop-in: systemctl edit."
        call.ui.emit(Noticed("file-kept", f"{path} was changed by somebody, and is left as it is", hint))
    call.ui.result(done, scheduled_text(done))
