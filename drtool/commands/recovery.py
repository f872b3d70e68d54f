"""Commands of the worst day."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from drtool.invocation import IDENTITY, INSTANCE, UNSIGNED, Call, command

if TYPE_CHECKING:
    from drtool.app import App
    from drtool.core.plan import Plan
    from drtool.hosts import Runner
    from drtool.restore import Request


@click.command()
@click.argument("set_id", metavar="[SET]", required=False)
@click.option("--to", "host", required=True, metavar="HOST", help="`local`, which is this one, or [user@]host by ssh.")
@click.option("--dry-run", is_flag=True, help="Print the plan, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before it starts.")
@click.option("--yes-replace", metavar="HOSTNAME", help="The target holds projects, and they may be replaced.")
@click.option("--resume", metavar="RUN", help="Take up this unfinished run (default: the newest one for set and host).")
@click.option("--anew", is_flag=True, help="Take up no unfinished run, begin a new one.")
@click.option("--no-count", is_flag=True, help="Do not count at the end what the host holds: for hours of rows.")
@click.option("--undo", metavar="RUN", help="Bring back what this run replaced, from the copies that it kept.")
@IDENTITY
@INSTANCE
@UNSIGNED
@command
def restore(
    call: Call, set_id: str | None, host: str, undo: str | None, resume: str | None, anew: bool, **given: Any
) -> None:
    """Restore a set onto a host that runs exactly its GitLab version.

    Shows what it is going to do, and asks. After an interruption the same command goes on.
    """
    if (set_id is None) != bool(undo):
        raise click.UsageError("Say which SET to restore, or which run to --undo.")
    if resume and (anew or undo):
        raise click.UsageError("--resume takes up a run: leave --anew and --undo out.")
    app = call.app(given["instance"])
    from drtool.restore import Request

    with app.runner_on(host) as runner:
        request = Request(app.instance.name, app.install, given["yes_replace"], resume, anew, not given["no_count"])
        if undo:
            _undo(call, app, runner, request, undo, given)
        else:
            assert set_id is not None
            _restore(call, app, runner, request, set_id, given)


def _restore(call: Call, app: App, runner: Runner, request: Request, set_id: str, given: dict[str, Any]) -> None:
    from drtool.report import plan_text, restored_text
    from drtool.restore import carry_out, prepare

    opened = app.open_set(set_id, identities=app.identities(given["identities"]), unsigned=given["unsigned"])
    place = app.restore_place(opened, runner)
    prepared = prepare(request, place)
    if _agreed(call, prepared.plan, plan_text(prepared, opened.manifest), "Restore now?", given):
        outcome = carry_out(prepared, request, place)
        call.ui.result(outcome, restored_text(outcome, opened.manifest))


def _undo(call: Call, app: App, runner: Runner, request: Request, run_id: str, given: dict[str, Any]) -> None:
    from drtool.report import undo_text, undone_text
    from drtool.restore import carry_out
    from drtool.undo import find_restore, forget, prepare_undo

    restored = find_restore(app.config.state_dir, run_id)
    place = app.restore_place(app.open_set(restored.set_id, unsigned=given["unsigned"]), runner)
    prepared = prepare_undo(restored, request, place)
    if _agreed(call, prepared.plan, undo_text(prepared, run_id), "Bring it back now?", given):
        outcome = carry_out(prepared, request, place)
        forget(restored, place)
        call.ui.result(outcome, undone_text(outcome, run_id))


def _agreed(call: Call, plan: Plan, text: str, question: str, given: dict[str, Any]) -> bool:
    """Show a plan; tell whether to go on. Ends the program when somebody says no."""
    from drtool.errors import DrtoolError

    if given["dry_run"]:
        call.ui.result(plan, text)
        return False
    call.ui.say(text)
    if given["yes"] or call.ui.confirm(question):
        return True
    call.ui.error(
        DrtoolError(
            f"{plan.set_id} was not restored: nobody said yes",
            hint="Answer y, or give --yes where nobody can answer.",
        )
    )
    sys.exit(1)
