"""Commands of the worst day."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from drtool.invocation import IDENTITY, INSTANCE, STORE, UNSIGNED, Call, command

if TYPE_CHECKING:
    from drtool.app import App
    from drtool.core.plan import Plan
    from drtool.hosts import Runner


@click.command()
@click.argument("set_id", metavar="[SET]", required=False)
@click.option("--to", "host", required=True, metavar="HOST", help="`local`, which is this one, or [user@]host by ssh.")
@click.option("--dry-run", is_flag=True, help="Print the plan, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before it starts.")
@click.option("--yes-replace", metavar="HOSTNAME", help="The target holds projects, and they may be replaced.")
@click.option("--resume", metavar="RUN", help="Take up this unfinished run (default: the newest one for set and host).")
@click.option("--anew", is_flag=True, help="Take up no unfinished run, begin a new one.")
@click.option("--install", is_flag=True, help="Install exactly the set's GitLab first, where there is none.")
@click.option(
    "--via",
    type=click.Choice(["relay", "signed-url"]),
    default="relay",
    show_default=True,
    help="Send the data through this machine, or let the host fetch and unseal it itself.",
)
@click.option("--isolate", is_flag=True, help="Let the restored GitLab send nothing; `drtool isolation` lifts it.")
@click.option("--drill", is_flag=True, help="It is a drill: isolated, or it fails; `drtool status` counts it as one.")
@click.option("--no-count", is_flag=True, help="Do not count at the end what the host holds: for hours of rows.")
@click.option("--undo", metavar="RUN", help="Bring back what this run replaced, from the copies that it kept.")
@STORE
@IDENTITY
@INSTANCE
@UNSIGNED
@command
def restore(call: Call, set_id: str | None, host: str, undo: str | None, resume: str | None, **given: Any) -> None:
    """Restore a set onto a host with exactly its GitLab.

    Shows what it is going to do, and asks. After an interruption the same command goes on.
    """
    if (set_id is None) != bool(undo):
        raise click.UsageError("Say which SET to restore, or which run to --undo.")
    if resume and (given["anew"] or undo):
        raise click.UsageError("--resume takes up a run: leave --anew and --undo out.")
    if given["drill"] and (undo or given["no_count"]):
        raise click.UsageError("A drill restores and counts: leave --undo and --no-count out.")
    app = call.app(given["instance"])
    with app.runner_on(host) as runner:
        if undo:
            _undo(call, app, runner, undo, given)
        else:
            assert set_id is not None
            _restore(call, app, runner, set_id, resume, given)


def _restore(call: Call, app: App, runner: Runner, set_id: str, resume: str | None, given: dict[str, Any]) -> None:
    from drtool.report import plan_text, restored_text
    from drtool.restore import Request, carry_out, prepare

    files, unsigned = given["identities"], given["unsigned"]
    opened = app.open_set(set_id, store=given["store"], identities=app.identities(files), unsigned=unsigned)
    ways = {name: given[name] for name in ("install", "via", "isolate", "drill", "store")}
    wanted = app.wanted(
        opened.manifest.gitlab.version, **ways, count=not given["no_count"], replace=given["yes_replace"]
    )
    request = Request(app.instance.name, app.install, wanted, resume, given["anew"])
    key = app.host_key(opened, files, signature_checked=not unsigned) if given["via"] == "signed-url" else None
    place = app.restore_place(opened, runner, key)
    prepared = prepare(request, place)
    text = plan_text(prepared, opened.manifest)
    if _agreed(call, prepared.plan, text, "Restore now?", given, goes_on=prepared.resumed):
        outcome = carry_out(prepared, request, place)
        call.ui.result(outcome, restored_text(outcome, prepared, opened.manifest))


def _undo(call: Call, app: App, runner: Runner, run_id: str, given: dict[str, Any]) -> None:
    from drtool.report import undo_text, undone_text
    from drtool.restore import Request, carry_out
    from drtool.undo import find_restore, forget, prepare_undo

    restored = find_restore(app.config.state_dir, run_id)
    request = Request(app.instance.name, app.install)
    store = given["store"] or restored.store  # only its manifest is read: what comes back lies on the host
    place = app.restore_place(app.open_set(restored.set_id, store=store, unsigned=given["unsigned"]), runner)
    prepared = prepare_undo(restored, request, place)
    if _agreed(call, prepared.plan, undo_text(prepared, run_id), "Bring it back now?", given, goes_on=True):
        outcome = carry_out(prepared, request, place)
        forget(restored, place)
        call.ui.result(outcome, undone_text(outcome, run_id))


def _agreed(call: Call, plan: Plan, text: str, question: str, given: dict[str, Any], *, goes_on: bool) -> bool:
    """Show a plan; tell whether to go on. Ends the program when somebody says no."""
    from drtool.errors import DrtoolError

    if given["dry_run"]:
        call.ui.result(plan, text)
        return False
    call.ui.say(text)
    if given["yes"] or call.ui.confirm(question):
        call.begin(goes_on=goes_on)
        return True
    call.withdraw()
    call.ui.error(
        DrtoolError(
            f"{plan.set_id} was not restored: nobody said yes",
            hint="Answer y, or give --yes where nobody can answer.",
        )
    )
    sys.exit(1)


@click.command()
@click.option("--on", "host", required=True, metavar="HOST", help="`local`, which is this one, or [user@]host by ssh.")
@click.option("--lift", is_flag=True, help="Give back what was stopped, and let GitLab send again.")
@INSTANCE
@command
def isolation(call: Call, host: str, lift: bool, instance: str | None) -> None:
    """Say what a restored GitLab may not send, and lift that."""
    from drtool.errors import HostUnfit
    from drtool.isolating import lift as let_go
    from drtool.isolating import look_at_isolation
    from drtool.phases import say_and_collect
    from drtool.report import isolation_text, lifted_text

    app = call.app(instance)
    with app.runner_on(host) as runner:
        if not lift:
            found = look_at_isolation(app.install, runner)
            partly = bool(found.findings) and (found.recorded or found.configured)
            call.ui.result(found, isolation_text(found, runner.name), bad=partly)
            if partly:
                sys.exit(HostUnfit.exit_status)
            return
        lifted = let_go(app.install, runner)
        if lifted.reconfigure:
            say_and_collect(runner, app.install.reconfigure(), "reconfigure", app.emit)
        for service in ("sidekiq", "puma"):
            say_and_collect(runner, app.install.restart(service), "restart", app.emit)
        call.ui.result(lifted, lifted_text(lifted, runner.name))
