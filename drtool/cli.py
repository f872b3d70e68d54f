"""The command line: a short function per command. Only click is imported here; the rest when it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from drtool import __version__
from drtool.invocation import COMMON, IDENTITY, INSTANCE, UNSIGNED, Call, command

if TYPE_CHECKING:
    from drtool.catalog import BackupSet
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


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path), default=Path("/etc/drtool"))
@click.option("--instance", default="gitlab", show_default=True, help="What to call this GitLab.")
@click.option("--store", type=click.Path(path_type=Path), help="A directory for the backups; edit the file for S3.")
@command
def init(call: Call, directory: Path, instance: str, store: Path | None) -> None:
    """Write drtool.toml and make the keys.

    Both go to DIRECTORY, by default /etc/drtool. Keys that are there already are kept.
    """
    import platform

    from drtool.config import check_name
    from drtool.hosts.local import LocalRunner
    from drtool.initialise import initialise
    from drtool.report import made_text

    made = initialise(directory, LocalRunner(), instance=check_name(instance), host=platform.node(), store=store)
    call.ui.result(made, made_text(made))


@cli.command()
@click.option("--deep", is_flag=True, help="Try with scratch objects what the store can do. About 20 MB, a minute.")
@click.option("--store", help="With --deep: which store of the configuration (default: the instance's).")
@INSTANCE
@command
def check(call: Call, instance: str | None, deep: bool, store: str | None) -> None:
    """Say whether a backup could be taken now. Changes nothing, but for --deep."""
    from drtool.check import Subject
    from drtool.check import check as ask
    from drtool.report import answers_text, tried_text

    if store and not deep:
        raise click.UsageError("--store is for --deep.")
    app = call.app(instance)
    trial = app.trial_of(store) if deep else None
    answers = ask(Subject(app.backup_order(), app.catalog, app.runner, app.signer, app.verifier, app.config.state_dir))
    errors = [answer.error for answer in answers if answer.error]
    found: dict[str, object] = {"answers": answers}
    if trial:
        from drtool.deep import try_out

        tried = found["deep"] = try_out(trial)
        errors += tried.errors
        text = f"{answers_text(answers, more_is_wrong=bool(tried.errors))}\n\n{tried_text(tried)}"
    else:
        text = answers_text(answers)
    call.ui.result(found, text, bad=bool(errors))
    if errors:
        sys.exit(errors[0].exit_status)


@cli.command()
@INSTANCE
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@command
def backup(call: Call, instance: str | None, dry_run: bool) -> None:
    """Take one complete backup now."""
    from dataclasses import asdict

    from drtool.backup import back_up, preview
    from drtool.report import backup_text, copied_text, preview_text

    app = call.app(instance)
    order, place = app.backup_order(), app.backup_place()
    if dry_run:
        planned = preview(order, place)
        call.ui.result(planned, preview_text(planned))
        return
    outcome = back_up(order, place)
    copies = app.copy_to_all(outcome.manifest.set_id)
    call.ui.result({**asdict(outcome), "copies": copies}, "\n".join([backup_text(outcome), *map(copied_text, copies)]))


@cli.command("list")
@INSTANCE
@command
def list_sets(call: Call, instance: str | None) -> None:
    """List the backup sets, oldest first."""
    from drtool.report import list_rows, list_text

    app = call.app(instance)
    rows = list_rows(app.catalog)
    call.ui.result({"sets": rows}, list_text(rows, app.instance.name, app.catalog.store.name))


@cli.command()
@click.argument("set_id", metavar="SET")
@INSTANCE
@UNSIGNED
@command
def show(call: Call, set_id: str, instance: str | None, unsigned: bool) -> None:
    """Show one set: SET is its name, the beginning of it, or `latest`."""
    from drtool.report import show_text

    manifest = call.app(instance).open_set(set_id, unsigned=unsigned).manifest
    call.ui.result(manifest, show_text(manifest, signed=not unsigned))


@cli.command()
@click.argument("set_id", metavar="[SET]", default="latest")
@click.option("--level", type=click.Choice(["present", "digest", "contents"]), default="digest", show_default=True)
@click.option("--sample", metavar="PERCENT", help="Read this much of it, and the rest next time. For --level digest.")
@click.option("--newer-than", metavar="AGE", help="Fail if the set is older than, say, 26h or 2d.")
@click.option("--junit", type=click.Path(path_type=Path), help="Also write the result as JUnit XML, for CI.")
@IDENTITY
@INSTANCE
@UNSIGNED
@command
def verify(
    call: Call,
    set_id: str,
    level: Literal["present", "digest", "contents"],
    sample: str | None,
    newer_than: str | None,
    junit: Path | None,
    identities: tuple[Path, ...],
    instance: str | None,
    unsigned: bool,
) -> None:
    """Verify a set where it lies (default: the latest).

    present: every volume is there at its size. digest: every stored byte is read and compared; neither needs a
    private key. contents: everything is unsealed and judged as when it was made, and every secret is tried.
    """
    from drtool.config import parse_age, parse_percent
    from drtool.errors import ObjectiveBreached, SetDamaged
    from drtool.receipts import verify_on_record
    from drtool.report import verdict_text
    from drtool.verify import judge_age

    if sample and level != "digest":
        raise click.UsageError("--sample is for --level digest: to judge contents, all of them must be read.")
    share, oldest = parse_percent(sample) if sample else None, parse_age(newer_than) if newer_than else None
    app = call.app(instance)
    keys = app.identities(identities) if level == "contents" else ()
    opened = app.open_set(set_id, identities=keys, unsigned=unsigned)
    damage = verify_on_record(opened, level, app.record_office(signed=not unsigned), share)
    verdict = damage if oldest is None else judge_age(damage, app.clock.now(), oldest)
    if junit:
        from drtool.junit import write_junit

        write_junit(junit, verdict, instance=app.instance.name, store=app.catalog.store.name)
    call.ui.result(verdict, verdict_text(verdict), bad=bool(verdict.problems))
    if verdict.problems:
        sys.exit(SetDamaged.exit_status if damage.problems else ObjectiveBreached.exit_status)


@cli.command("copy")
@click.argument("set_id", metavar="SET")
@click.option("--to", "store", required=True, help="The name of a store of the configuration.")
@INSTANCE
@UNSIGNED
@command
def copy_command(call: Call, set_id: str, store: str, instance: str | None, unsigned: bool) -> None:
    """Copy a set to another store, as it lies. Needs no private key."""
    from drtool.copy import copy as copy_set
    from drtool.report import copied_text

    app = call.app(instance)
    target = app.catalog_on(store)
    copied = copy_set(app.open_set(set_id, unsigned=unsigned), target, clock=app.clock, emit=app.emit)
    call.ui.result(copied, copied_text(copied))


@cli.command()
@click.argument("set_id", metavar="SET")
@click.option("--into", type=click.Path(path_type=Path), required=True, help="A directory; made if it is not there.")
@IDENTITY
@INSTANCE
@UNSIGNED
@command
def fetch(
    call: Call, set_id: str, into: Path, identities: tuple[Path, ...], instance: str | None, unsigned: bool
) -> None:
    """Write a set's archives as plain tars into a directory."""
    from drtool.fetch import fetch as bring
    from drtool.report import fetched_text

    app = call.app(instance)
    backup_set = app.open_set(set_id, identities=app.identities(identities), unsigned=unsigned)
    paths = bring(backup_set, into, clock=app.clock, emit=app.emit)
    call.ui.result({"set_id": backup_set.manifest.set_id, "files": paths}, fetched_text(paths))


@cli.command()
@click.argument("set_id", metavar="SET")
@click.option("--project", metavar="GROUP/NAME", help="This project's repository, as a bundle that git clones.")
@click.option("--wiki", "part", flag_value="wiki", help="With --project: its wiki instead.")
@click.option("--design", "part", flag_value="design", help="With --project: its designs instead.")
@click.option("--database", is_flag=True, help="The SQL dump, compressed with gzip as GitLab wrote it.")
@click.option("--configuration", is_flag=True, help="Configuration and secrets, into a new directory.")
@click.option("--member", metavar="NAME", help="One member of GitLab's archive; --list names them all.")
@click.option("--list", "listing", is_flag=True, help="Only list what can be taken out.")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Where to; must not be there yet.")
@IDENTITY
@INSTANCE
@UNSIGNED
@command
def extract(call: Call, set_id: str, instance: str | None, unsigned: bool, **wanted: Any) -> None:
    """Take one project, the database or a file out of a set.

    Reads only the volumes that hold it.
    """
    from drtool import extract as use_case
    from drtool.report import extracted_text, members_text

    chosen = [name for name in ("project", "database", "configuration", "member", "listing") if wanted[name]]
    if len(chosen) != 1:
        raise click.UsageError("Say one of --project, --database, --configuration, --member and --list.")
    if wanted["part"] and not wanted["project"]:
        raise click.UsageError("--wiki and --design are for --project.")
    if wanted["listing"] == bool(wanted["target"]):
        raise click.UsageError("--list writes nothing." if wanted["target"] else "--to is missing.")
    app = call.app(instance)
    opened = app.open_set(set_id, identities=app.identities(wanted["identities"]), unsigned=unsigned)
    if wanted["listing"]:
        members = opened.read_index()
        call.ui.result({"set_id": opened.manifest.set_id, "archives": members}, members_text(members))
        return
    place = use_case.Place(opened, app.runner, app.clock, app.emit)
    match chosen[0]:
        case "project":
            found = use_case.extract_project(wanted["project"], wanted["part"], wanted["target"], place)
        case "configuration":
            found = use_case.extract_config(wanted["target"], place)
        case "database":
            found = use_case.extract_member(use_case.DATABASE, wanted["target"], place)
        case _:
            found = use_case.extract_member(wanted["member"], wanted["target"], place)
    call.ui.result(found, extracted_text(found))


@cli.command()
@click.argument("set_id", metavar="SET")
@click.argument("other", metavar="SET|HOST")
@IDENTITY
@INSTANCE
@UNSIGNED
@command
def diff(
    call: Call, set_id: str, other: str, identities: tuple[Path, ...], instance: str | None, unsigned: bool
) -> None:
    """Tell what another set, or the host `local`, has otherwise."""
    from drtool.diff import diff_host, diff_sets
    from drtool.errors import Differs
    from drtool.report import comparison_text

    app = call.app(instance)
    keys = app.identities(identities)
    opened = app.open_set(set_id, identities=keys, unsigned=unsigned)
    if other == "local":
        found = diff_host(opened, app.install, app.runner, clock=app.clock, emit=app.emit)
    else:
        found = diff_sets(opened, app.open_set(other, identities=keys, unsigned=unsigned))
    call.ui.result(found, comparison_text(found), bad=bool(found.differences))
    if found.differences:
        sys.exit(Differs.exit_status)


@cli.command()
@click.argument("set_id", metavar="SET")
@click.option("--to", "host", required=True, help="The host to restore onto; `local` is this one.")
@click.option("--dry-run", is_flag=True, help="Print the plan, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before it starts.")
@click.option("--yes-replace", metavar="HOSTNAME", help="The target holds projects, and they may be replaced.")
@click.option("--resume", metavar="RUN", help="Take up this unfinished run (default: the newest one for set and host).")
@IDENTITY
@INSTANCE
@UNSIGNED
@command
def restore(
    call: Call,
    set_id: str,
    host: str,
    dry_run: bool,
    yes: bool,
    yes_replace: str | None,
    resume: str | None,
    identities: tuple[Path, ...],
    instance: str | None,
    unsigned: bool,
) -> None:
    """Restore a set onto a host that runs exactly its GitLab version."""
    from drtool.report import plan_text, restored_text
    from drtool.restore import Request, carry_out, prepare

    if host != "local":
        raise click.UsageError("--to: only `local` is supported so far; run drtool on the target itself.")
    app = call.app(instance)
    opened = app.open_set(set_id, identities=app.identities(identities), unsigned=unsigned)
    request = Request(app.instance.name, app.install, yes_replace, resume)
    place = app.restore_place(opened)
    prepared = prepare(request, place)
    if dry_run:
        call.ui.result(prepared.plan, plan_text(prepared, opened.manifest))
        return
    call.ui.say(plan_text(prepared, opened.manifest))
    if not (yes or call.ui.confirm("Restore now?")):
        _stop(call, opened)
    outcome = carry_out(prepared, request, place)
    call.ui.result(outcome, restored_text(outcome, opened.manifest))


def _stop(call: Call, opened: BackupSet) -> NoReturn:
    from drtool.errors import DrtoolError

    call.ui.error(
        DrtoolError(
            f"{opened.manifest.set_id} was not restored: nobody said yes",
            hint="Answer y, or give --yes where nobody can answer.",
        )
    )
    sys.exit(1)


@cli.command()
@click.option("--keep", type=click.Path(path_type=Path), help="Leave everything in this directory, to play with.")
@command
def demo(call: Call, keep: Path | None) -> None:
    """Back up, lose and restore an embedded GitLab, and tell the story."""
    from drtool.errors import HostUnfit

    try:
        from drtool.demo.story import tell
    except ModuleNotFoundError as problem:
        raise HostUnfit(
            f"the demo needs the package {problem.name}",
            hint="pip install 'drtool[demo]', or `make demo` in a checkout.",
        ) from problem
    tell(keep, call.ui)


def main() -> None:
    """Run the command line; turn every error into a line of text and an exit status."""
    call = Call()
    try:
        status = _run(call)
    except Exception as problem:  # noqa: BLE001 - the one place where everything ends
        status = _failed(call, problem)
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
    defect = DrtoolError(
        f"a defect in drtool: {type(problem).__name__}: {problem}",
        hint="Run it again with -v and report what it prints.",
    )
    return _tell(call, defect)


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
