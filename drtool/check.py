"""Could a backup be taken now, and could it be restored? Looks at everything, changes nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drtool.backup import Order
from drtool.catalog import Catalog
from drtool.core.command import Command
from drtool.errors import CommandFailed, ConfigError, DrtoolError, HostUnfit
from drtool.hosts import Runner
from drtool.signing import Signer, Verifier
from drtool.streams import parse_recipients
from drtool.survey import config_members, look_at_version, refuse_half_restored, running_task

_OLDEST_TAR = (1, 30)


@dataclass(frozen=True, slots=True)
class Answer:
    """One question: ``error`` is None when all is well, and then ``found`` says what was seen."""

    question: str
    found: str
    error: DrtoolError | None = None


@dataclass(frozen=True)
class Subject:
    """What is checked."""

    order: Order
    catalog: Catalog
    runner: Runner
    signer: Signer | None
    verifier: Verifier
    state: Path


def check(subject: Subject) -> tuple[Answer, ...]:
    """Ask every question, also after a bad answer."""
    questions: tuple[tuple[str, Callable[[Subject], str]], ...] = (
        ("seal", _seal),
        ("signature", _signature),
        ("state", _state),
        ("gitlab", _gitlab),
        ("gitlab config", _gitlab_config),
        ("gitlab tasks", _tasks),
        ("tar", _tar),
        ("store", _store),
    )
    return tuple(_ask(name, question, subject) for name, question in questions)


def _ask(name: str, question: Callable[[Subject], str], subject: Subject) -> Answer:
    try:
        return Answer(name, question(subject))
    except DrtoolError as error:
        return Answer(name, "", error)


def _seal(subject: Subject) -> str:
    order = subject.order
    order.check_seals()
    parse_recipients(order.recipients)
    parse_recipients(order.config_recipients)
    data = f"{len(order.recipients)} recipients" if order.recipients else "none, as the configuration says"
    return f"data: {data}; configuration: {len(order.config_recipients)} recipients"


def _signature(subject: Subject) -> str:
    if subject.signer is None:
        raise ConfigError("signing_key is missing", hint="`drtool init` makes one.")
    probe = b"drtool check\n"
    subject.verifier.verify(probe, subject.signer.sign(probe), source="a test message")
    return f"{subject.signer.key} signs, and is trusted"


def _state(subject: Subject) -> str:
    """The directory itself, or the nearest one above it that is there: nothing is made here."""
    nearest = next(path for path in (subject.state, *subject.state.parents) if path.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise ConfigError(
            f"state_dir: {nearest} is not a directory that this user may write to",
            hint="Run as root, or set state_dir in drtool.toml to a directory of yours.",
        )
    return f"{subject.state} {'is there' if nearest == subject.state else 'can be made'}"


def _gitlab(subject: Subject) -> str:
    version = look_at_version(subject.order.install, subject.runner)
    refuse_half_restored(subject.order.install, subject.runner)
    return f"{version} on {subject.runner.name}"


def _gitlab_config(subject: Subject) -> str:
    return f"{len(config_members(subject.order.install, subject.runner))} paths to save"


def _tasks(subject: Subject) -> str:
    pid = running_task(subject.runner, subject.order.install)
    return f"process {pid} is at work, a backup would wait for it" if pid else "none running"


def _tar(subject: Subject) -> str:
    try:
        first = subject.runner.run(Command(("tar", "--version"))).decode().splitlines()[0]
    except (CommandFailed, IndexError) as problem:
        raise HostUnfit(f"no tar on {subject.runner.name}", hint="Install GNU tar.") from problem
    match = re.search(r"GNU tar\) (\d+)\.(\d+)", first)
    if not match or (int(match[1]), int(match[2])) < _OLDEST_TAR:
        raise HostUnfit(f"{first} on {subject.runner.name}", hint="GNU tar 1.30 or newer is needed.")
    return first


def _store(subject: Subject) -> str:
    return f"{subject.catalog.store.name} holds {len(subject.catalog.set_ids())} sets of {subject.catalog.instance}"
