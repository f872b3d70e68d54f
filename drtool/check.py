"""Could a backup be taken now, and could it be restored? Looks at everything, changes nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drtool.backup import Order
from drtool.catalog import Catalog
from drtool.check_host import (
    check_clock,
    check_isolation,
    check_packages,
    check_settings,
    forecast_room,
    look_for_other_backups,
    look_for_timer,
)
from drtool.check_keys import Seen, check_permissions, look_at_identities
from drtool.clock import Clock
from drtool.core.command import Command
from drtool.core.model import Manifest
from drtool.core.posture import StorePlace, judge_posture
from drtool.errors import CommandFailed, ConfigError, DrtoolError, FormatTooNew, HostUnfit, SetDamaged, SetMissing
from drtool.events import Emit
from drtool.hosts import Runner
from drtool.last_done import read_records
from drtool.signing import Signer, Verifier
from drtool.streams import parse_recipients
from drtool.survey import at_work, config_members, look_at_version, refuse_half_restored

_OLDEST_TAR = (1, 30)
_SETS_COMPARED = 6


@dataclass(frozen=True, slots=True)
class Answer:
    """One question: ``error`` is None when all is well, and then ``found`` says what was seen.

    ``advice`` is what to do about it all the same, empty for nothing.
    """

    question: str
    found: str
    error: DrtoolError | None = None
    advice: str = ""


@dataclass(frozen=True)
class Subject:
    """What is checked.

    ``files`` nobody else may change; ``secrets`` are references to what nobody else may read. ``stores`` are opened
    late, by name: the instance's own first. ``means`` are what there is to keep the policy with.
    """

    order: Order
    catalog: Catalog
    runner: Runner
    signer: Signer | None
    verifier: Verifier
    state: Path
    clock: Clock
    emit: Emit
    config: Path
    files: tuple[Path, ...]
    identities: tuple[str, ...]
    secrets: tuple[str, ...]
    stores: tuple[tuple[str, Callable[[], StorePlace]], ...]
    unmet: Callable[[], None]


def check(subject: Subject) -> tuple[Answer, ...]:
    """Ask every question, also after a bad answer."""
    questions: tuple[tuple[str, Callable[[Subject], str | Seen]], ...] = (
        ("policy", _policy),
        ("permissions", lambda each: check_permissions(each.files, each.secrets)),
        ("keys", lambda each: look_at_identities(each.config, each.identities)),
        ("seal", _seal),
        ("signature", _signature),
        ("state", _state),
        ("gitlab", _gitlab),
        ("gitlab config", _gitlab_config),
        ("gitlab settings", lambda each: check_settings(each.order.install, each.runner)),
        ("gitlab backups", lambda each: look_for_other_backups(each.order.install, each.runner)),
        ("gitlab isolation", lambda each: check_isolation(each.order.install, each.runner)),
        ("gitlab tasks", _tasks),
        ("gitlab package", lambda each: check_packages(each.order.install, each.runner)),
        ("tar", _tar),
        ("timer", lambda each: look_for_timer(each.order.install, each.runner, each.order.instance, each.clock)),
        ("store", _store),
    )
    of_store: tuple[tuple[str, Callable[[Subject], str | Seen]], ...] = (
        ("room", lambda each: forecast_room(each.order.install, each.runner, _newest(each.catalog))),
        ("clock", lambda each: check_clock(each.catalog, each.clock)),
        ("3-2-1-1-0", _posture),
    )
    answers = [_ask(name, question, subject) for name, question in questions]
    if answers[-1].error is None:  # else each of them would only say the same once more
        answers += [_ask(name, question, subject) for name, question in of_store]
    return tuple(answers)


def _ask(name: str, question: Callable[[Subject], str | Seen], subject: Subject) -> Answer:
    try:
        seen = question(subject)
    except DrtoolError as error:
        return Answer(name, "", error)
    found, advice = (seen, "") if isinstance(seen, str) else seen
    return Answer(name, found, advice=advice)


def _policy(subject: Subject) -> str:
    subject.unmet()
    return "nothing is promised that the configuration cannot keep"


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
    seen = at_work(subject.runner, subject.order.install)
    return f"{seen}: a backup would wait for it" if seen else "none running, and nobody replaces GitLab"


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


def _newest(catalog: Catalog) -> list[Manifest]:
    """The manifests of the last sets, as far as they can be read: only sizes are taken from them."""
    manifests = []
    for set_id in catalog.set_ids()[-_SETS_COMPARED:]:
        with suppress(SetDamaged, SetMissing, FormatTooNew):
            manifests.append(catalog.read_manifest(set_id, None))
    return manifests


def _posture(subject: Subject) -> Seen:
    places = [place() for _, place in subject.stores]
    problems = read_records(subject.catalog, subject.verifier, subject.emit).problems
    points = judge_posture(places, problems)
    reached = ", ".join(point.rule for point in points if point.reached) or "none"
    missing = "; ".join(f"{point.rule}: {point.remedy}" for point in points if not point.reached)
    return f"{sum(point.reached for point in points)} of 5 points: {reached}", f"Missing: {missing}." if missing else ""
