"""The command line as a whole. Like the commands, it imports only click at first; the rest when it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from drtool import __version__
from drtool.commands import cutover as cutting_over
from drtool.commands import keeping, recovery, sets, setting_up, status, unattended
from drtool.invocation import COMMON, Call

if TYPE_CHECKING:
    from drtool.errors import DrtoolError


class _Ordered(click.Group):
    """Lists commands in the order in which they are used, not by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


@click.group(cls=_Ordered, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="drtool")
def cli(**given: Any) -> None:
    """Backup, restore and disaster recovery for self-managed GitLab.

    Start with `drtool demo`, or with `drtool init` and `drtool check`.
    """
    call = click.get_current_context().find_object(Call)
    assert call is not None
    call.take(given)


for _option in COMMON:
    cli = _option(cli)
for _command in (
    setting_up.init,
    setting_up.check,
    sets.backup,
    sets.list_sets,
    sets.show,
    sets.verify,
    sets.copy_command,
    status.status,
    keeping.prune,
    keeping.pin,
    keeping.unpin,
    keeping.pins,
    keeping.discard,
    unattended.notify,
    unattended.install_timer,
    sets.fetch,
    sets.extract,
    sets.diff,
    recovery.restore,
    cutting_over.cutover,
    recovery.isolation,
    setting_up.demo,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; turn every error into a line of text and an exit status."""
    call = Call()
    try:
        status = _run(call)
    except Exception as problem:  # noqa: BLE001 - the one place where everything ends
        status = _failed(call, problem)
    status = _tell_others(call, status)
    call.ui.close()
    sys.exit(status)


def _run(call: Call) -> int:
    try:
        status = cli.main(obj=call, standalone_mode=False, prog_name="drtool")
    except (click.exceptions.Abort, KeyboardInterrupt):
        with _whoever_listens():
            call.ui.interrupted()
        return 130
    except click.ClickException as problem:
        problem.show()
        return problem.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return status if isinstance(status, int) else 0


def _failed(call: Call, problem: Exception) -> int:
    from drtool.errors import DrtoolError
    from drtool.ui import ReaderGone

    if isinstance(problem, ReaderGone):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at the very end
        return 141
    if isinstance(problem, DrtoolError):
        return _tell(call, problem)
    if call.options.get("verbose"):
        import traceback

        traceback.print_exception(problem)
    call.defect = type(problem).__name__
    defect = DrtoolError(
        f"a defect in drtool: {type(problem).__name__}: {problem}",
        hint="Run it again with -v and report what it prints.",
    )
    return _tell(call, defect)


def _tell_others(call: Call, status: int) -> int:
    """Run the hooks after the command and send notifications. What goes wrong there is said, and changes no status."""
    try:
        with _whoever_listens():
            status = call.end(status)
    except KeyboardInterrupt:
        pass  # the work is done; whoever cannot wait for the services need not
    except Exception as problem:  # noqa: BLE001 - as in main
        with _whoever_listens():
            call.ui.note(f"a defect in drtool, in telling how it ended: {type(problem).__name__}: {problem}")
    try:
        call.ui.release()
    except Exception as problem:  # noqa: BLE001 - as in main
        return _failed(call, problem)
    return status


def _tell(call: Call, error: DrtoolError) -> int:
    with _whoever_listens():
        call.ui.error(error)
    return error.exit_status


@contextmanager
def _whoever_listens() -> Iterator[None]:
    """Say something that changes no exit status, not even when nobody reads it."""
    from drtool.ui import ReaderGone

    with suppress(ReaderGone):
        yield
