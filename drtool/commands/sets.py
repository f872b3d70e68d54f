"""Commands about backup sets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from drtool.invocation import IDENTITY, INSTANCE, STORE, UNSIGNED, Call, command

if TYPE_CHECKING:
    from drtool.app import App
    from drtool.verify import StoreVerdict


@click.command()
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


@click.command("list")
@STORE
@INSTANCE
@command
def list_sets(call: Call, store: str | None, instance: str | None) -> None:
    """List the backup sets, oldest first.

    Says of each what is wrong with it, as far as can be known without reading it: `drtool verify` does that.
    """
    from drtool.listing import list_rows
    from drtool.report_listing import list_text

    app = call.app(instance)
    with app.reading(store) as catalog:
        rows = list_rows(catalog, app.verifier, app.clock.now())
    call.ui.result({"sets": rows}, list_text(rows, app.instance.name, catalog.store.name))


@click.command()
@click.argument("set_id", metavar="SET")
@STORE
@INSTANCE
@UNSIGNED
@command
def show(call: Call, set_id: str, store: str | None, instance: str | None, unsigned: bool) -> None:
    """Show one set.

    SET is its name, the beginning of it, or `latest`.
    """
    from drtool.report import show_text

    manifest = call.app(instance).open_set(set_id, store=store, unsigned=unsigned).manifest
    call.ui.result(manifest, show_text(manifest, signed=not unsigned))


@click.command()
@click.argument("set_id", metavar="[SET]", default="latest")
@click.option("--level", type=click.Choice(["present", "digest", "contents"]), default="digest", show_default=True)
@click.option("--sample", metavar="PERCENT", help="Read this much of it, and the rest next time. For --level digest.")
@click.option("--newer-than", metavar="AGE", help="Fail if the set is older than, say, 26h or 2d.")
@click.option("--junit", type=click.Path(path_type=Path), help="Also write the result as JUnit XML, for CI.")
@STORE
@click.option("--every-store", is_flag=True, help="In the instance's own store and in those of its copies.")
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
    store: str | None,
    every_store: bool,
    identities: tuple[Path, ...],
    instance: str | None,
    unsigned: bool,
) -> None:
    """Verify a set where it lies (default: the latest).

    present: every volume is there at its size. digest: every stored byte is read and compared; neither needs a
    private key. contents: everything is unsealed and judged as when it was made, and every secret is tried.
    """
    from functools import partial

    from drtool.config import parse_age, parse_percent
    from drtool.receipts import verify_store, verify_stores
    from drtool.verify import worst

    if store and every_store:
        raise click.UsageError("Say one of --store and --every-store.")
    if sample and level != "digest":
        raise click.UsageError("--sample is for --level digest: to judge contents, all of them must be read.")
    share, oldest = parse_percent(sample) if sample else None, parse_age(newer_than) if newer_than else None
    app = call.app(instance)
    keys = app.identities(identities) if level == "contents" else ()
    open_set = partial(app.open_set, set_id, identities=keys, unsigned=unsigned)
    office = app.record_office(signed=not unsigned)
    if every_store:
        opens = {name: partial(open_set, store=name) for name in app.store_names}
        stores = verify_stores(opens, level, office, share, oldest)
        found: object = {"set_id": _only_one(stores), "stores": stores, "exit_status": worst(stores)}
    else:
        stores = (verify_store(store or app.instance.store, open_set(store=store), level, office, share, oldest),)
        found = stores[0].verdict
    if junit:
        _write_junit(junit, stores, app, every_store=every_store)
    text = _verified_text(stores, app, every_store=every_store)
    call.ui.result(found, text, bad=bool(worst(stores)))
    sys.exit(worst(stores))


def _only_one(found: Sequence[StoreVerdict]) -> str | None:
    """The set, if it is the same one in all stores."""
    named = {each.verdict.set_id if each.verdict else None for each in found}
    return named.pop() if len(named) == 1 else None


def _verified_text(found: Sequence[StoreVerdict], app: App, *, every_store: bool) -> str:
    from drtool.report import mending_text, store_verdicts_text, verdict_text

    verdict = found[0].verdict
    text = store_verdicts_text(found) if every_store or verdict is None else verdict_text(verdict)
    return "\n".join(filter(None, (text, mending_text(found, app.store_names))))


def _write_junit(path: Path, found: Sequence[StoreVerdict], app: App, *, every_store: bool) -> None:
    from drtool.junit import render_junit, render_stores, write_junit

    verdict = found[0].verdict
    if every_store or verdict is None:
        write_junit(path, render_stores(found, instance=app.instance.name))
    else:
        write_junit(path, render_junit(verdict, instance=app.instance.name, store=found[0].store))


@click.command("copy")
@click.argument("set_id", metavar="SET")
@click.option("--to", "target", metavar="NAME", required=True, help="A store of the configuration.")
@click.option("--from", "source", metavar="NAME", help="Another one, which has the set (default: the instance's own).")
@click.option("--mend", is_flag=True, help="If the set is there already: read it there, and send again what is wrong.")
@INSTANCE
@UNSIGNED
@command
def copy_command(
    call: Call, set_id: str, target: str, source: str | None, mend: bool, instance: str | None, unsigned: bool
) -> None:
    """Copy a set to another store, as it lies. Needs no private key.

    What is missing of a set that is there already, or has another size, is sent again.
    """
    from drtool.copy import copy as copy_set
    from drtool.report import copied_text

    app = call.app(instance)
    if mend and unsigned:
        raise click.UsageError("--mend replaces what is there: only a set whose signature holds can do that.")
    if target == (source or app.instance.store):
        raise click.UsageError(f"{target} is where the set is read from: say another one, --from or --to.")
    with app.leased(app.catalog_on(target), "a copy") as there:
        opened = app.open_set(set_id, store=source or app.instance.store, unsigned=unsigned)
        copied = copy_set(opened, there, clock=app.clock, emit=app.emit, mend=mend)
    text = [copied_text(copied)]
    if copied.wrong:  # what was found of it stands in receipts
        text.append(f"`drtool verify {copied.set_id} --store {target}` puts on record that it is whole again.")
    call.ui.result(copied, "\n".join(text))


@click.command()
@click.argument("set_id", metavar="SET")
@click.option("--into", type=click.Path(path_type=Path), required=True, help="A directory; made if it is not there.")
@STORE
@IDENTITY
@INSTANCE
@UNSIGNED
@command
def fetch(
    call: Call,
    set_id: str,
    into: Path,
    store: str | None,
    identities: tuple[Path, ...],
    instance: str | None,
    unsigned: bool,
) -> None:
    """Write a set's archives as plain tars into a directory."""
    from drtool.fetch import fetch as bring
    from drtool.report import fetched_text

    app = call.app(instance)
    backup_set = app.open_set(set_id, store=store, identities=app.identities(identities), unsigned=unsigned)
    paths = bring(backup_set, into, clock=app.clock, emit=app.emit)
    call.ui.result({"set_id": backup_set.manifest.set_id, "files": paths}, fetched_text(paths))


@click.command()
@click.argument("set_id", metavar="SET")
@click.option("--project", metavar="GROUP/NAME", help="This project's repository, as a bundle that git clones.")
@click.option("--wiki", "part", flag_value="wiki", help="With --project: its wiki instead.")
@click.option("--design", "part", flag_value="design", help="With --project: its designs instead.")
@click.option("--database", is_flag=True, help="The SQL dump, compressed with gzip as GitLab wrote it.")
@click.option("--configuration", is_flag=True, help="Configuration and secrets, into a new directory.")
@click.option("--member", metavar="NAME", help="One member of GitLab's archive; --list names them all.")
@click.option("--list", "listing", is_flag=True, help="Only list what can be taken out.")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Where to; must not be there yet.")
@STORE
@IDENTITY
@INSTANCE
@UNSIGNED
@command
def extract(call: Call, set_id: str, store: str | None, instance: str | None, unsigned: bool, **wanted: Any) -> None:
    """Take a project, the database or a file out of a set.

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
    opened = app.open_set(set_id, store=store, identities=app.identities(wanted["identities"]), unsigned=unsigned)
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


@click.command()
@click.argument("set_id", metavar="SET")
@click.argument("other", metavar="SET|HOST")
@STORE
@IDENTITY
@INSTANCE
@UNSIGNED
@command
def diff(
    call: Call,
    set_id: str,
    other: str,
    store: str | None,
    identities: tuple[Path, ...],
    instance: str | None,
    unsigned: bool,
) -> None:
    """Tell what another set or a host has otherwise.

    HOST is `local`, which is this one, or user@host by ssh.
    """
    from drtool.diff import diff_host, diff_sets
    from drtool.errors import Differs
    from drtool.report import comparison_text

    app = call.app(instance)
    keys = app.identities(identities)
    opened = app.open_set(set_id, store=store, identities=keys, unsigned=unsigned)
    if other == "local" or "@" in other:
        with app.runner_on(other) as runner:
            found = diff_host(opened, app.install, runner, clock=app.clock, emit=app.emit)
    else:
        found = diff_sets(opened, app.open_set(other, store=store, identities=keys, unsigned=unsigned))
    call.ui.result(found, comparison_text(found), bad=bool(found.differences))
    if found.differences:
        sys.exit(Differs.exit_status)
