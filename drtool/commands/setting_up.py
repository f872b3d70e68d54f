"""Commands that make drtool ready, and ask whether it is."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from drtool.invocation import INSTANCE, Call, command

if TYPE_CHECKING:
    from drtool.app import App
    from drtool.check import Subject
    from drtool.iam import Cloud


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default=Path("/etc/drtool"))
@click.option("--instance", default="gitlab", show_default=True, help="What to call this GitLab.")
@click.option("--store", type=click.Path(path_type=Path), help="A directory for the backups; edit the file for S3.")
@click.option("--policy", metavar="NAME", help="Copy this ready policy there too: small-team, business, …")
@click.option(
    "--iam",
    type=click.Choice(["aws", "oss", "spaces"]),
    help="Make nothing; print the smallest rights for the store that drtool.toml names.",
)
@command
def init(call: Call, directory: Path, instance: str, store: Path | None, policy: str | None, iam: Cloud | None) -> None:
    """Write drtool.toml and make the keys.

    Both go to DIRECTORY, by default /etc/drtool. Keys that are there already are kept. With --iam, --store is the name
    of a store of the configuration.
    """
    if iam:
        from drtool.commands.protecting import show_rights

        chosen = click.get_current_context().get_parameter_source("instance") is not ParameterSource.DEFAULT
        show_rights(call, iam, instance if chosen else None, str(store) if store else None)
        return
    import platform

    from drtool.config import check_name
    from drtool.hosts.local import LocalRunner
    from drtool.initialise import initialise
    from drtool.policies import shipped_policy
    from drtool.report import made_text

    ready = shipped_policy(policy) if policy else None
    name = check_name(instance)
    made = initialise(directory, LocalRunner(), instance=name, host=platform.node(), store=store, policy=ready)
    call.ui.result(made, made_text(made))


@click.command()
@click.option("--deep", is_flag=True, help="Try with scratch objects what the store can do. About 20 MB, a minute.")
@click.option("--store", help="With --deep or --attack: which store of the configuration (default: the instance's).")
@click.option("--attack", is_flag=True, help="Try with this host's own keys to harm backups, on scratch objects.")
@INSTANCE
@command
def check(call: Call, instance: str | None, deep: bool, store: str | None, attack: bool) -> None:
    """Say whether a backup could be taken now. Changes nothing, but for --deep and --attack."""
    from drtool.check import check as ask
    from drtool.report import answers_text, tried_text

    if store and not (deep or attack):
        raise click.UsageError("--store is for --deep and --attack.")
    if attack:
        from drtool.commands.protecting import attack_store

        if deep:
            raise click.UsageError("--deep and --attack are two checks: one after the other.")
        attack_store(call, instance, store)
        return
    app = call.app(instance)
    trial = app.trial_of(store) if deep else None
    answers = ask(_subject_of(app))
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


def _subject_of(app: App) -> Subject:
    from drtool.check import Subject
    from drtool.config_stores import SECRETS_OF_STORES
    from drtool.promised import refuse_unmet

    table = app.instance
    names = (table.store, *(copied.store for copied in table.copies))
    of_stores = [getattr(app.config.store[name], key, None) for name in names for key in SECRETS_OF_STORES]
    return Subject(
        order=app.backup_order(),
        catalog=app.catalog,
        runner=app.runner,
        signer=app.signer,
        verifier=app.verifier,
        state=app.config.state_dir,
        clock=app.clock,
        emit=app.emit,
        config=app.path.resolve(),
        files=(app.path.resolve(), *((table.policy,) if table.policy else ())),
        identities=table.identities,
        secrets=(*table.identities, *filter(None, of_stores)),
        stores=tuple((name, partial(app.place_of, name)) for name in names),
        unmet=lambda: refuse_unmet(app.policy, app.means()) if app.policy else None,
    )


@click.command()
@click.option("--keep", type=click.Path(path_type=Path), help="Leave everything in this directory, to play with.")
@command
def demo(call: Call, keep: Path | None) -> None:
    """Back up, lose and restore an embedded GitLab."""
    from drtool.errors import HostUnfit

    try:
        from drtool.demo.story import tell
    except ModuleNotFoundError as problem:
        raise HostUnfit(
            f"the demo needs the package {problem.name}",
            hint="pip install 'drtool[demo]', or `make demo` in a checkout.",
        ) from problem
    tell(keep, call.ui)
