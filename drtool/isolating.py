"""Keep a restored GitLab from sending anything to the outside world, look whether it does not, and let it go again.

Two halves. ``isolate_configuration`` comes before ``gitlab-ctl reconfigure``: mail in both directions and the package's
own certificates. ``isolate_database`` comes after GitLab's restore and before anything is started. Both may be done
again at any time, also after a crash in the middle; ``lift`` takes both back, as far as it came each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from drtool.core.isolation import NOT_STOPPED, RECORD, Decision, Target, decide, every_target
from drtool.core.versions import GitLabVersion, parse_version
from drtool.errors import CommandFailed, HostUnfit, RestoreFailed
from drtool.hosts import Runner
from drtool.installs import gitlab_rb
from drtool.installs import isolation as commands
from drtool.installs.isolation import Active
from drtool.installs.omnibus import Omnibus
from drtool.survey import look_at_version

_DATABASE = "gitlabhq_production"
# Where gitlab.yml says that mail is off, and what it is when nothing is said. Source: config/gitlab.yml.example, 18.
_MAIL = (
    ("mail from GitLab", ("gitlab", "email_enabled"), True),
    ("reading of incoming mail", ("incoming_email", "enabled"), False),
    ("reading of mail to the service desk", ("service_desk_email", "enabled"), False),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure as it was found on a host. ``rows`` are those it changed; ``active`` what it does not stop now."""

    code: str
    stops: str
    rows: int
    active: tuple[Active, ...]
    reason: str = ""
    missing: bool = False

    @property
    def applies(self) -> bool:
        return not self.reason


@dataclass(frozen=True, slots=True)
class Isolation:
    """How far a host is isolated. ``configured``: gitlab.rb ends with the additions; ``mail`` names what is not off.

    ``mail`` is None when it cannot be seen; ``leads_out`` is what gitlab.rb leads to that nothing here stops.
    """

    recorded: bool
    measures: tuple[Measured, ...]
    configured: bool
    mail: tuple[str, ...] | None
    leads_out: tuple[str, ...]
    other_databases: tuple[str, ...]

    @property
    def findings(self) -> tuple[str, ...]:
        """Everything that stands against "this host sends nothing", a sentence each; nothing when it is isolated."""
        found = [] if self.recorded else ["the database is not isolated: nothing is recorded in it"]
        found += [] if self.configured else ["gitlab.rb lacks the settings of the isolation, or has others below them"]
        if self.mail is None:
            found.append("gitlab.yml cannot be read, so nobody knows whether mail is off")
        found += [f"{name} is on" for name in self.mail or ()]
        found += [f"{each.code}: {each.reason}" for each in self.measures if each.missing]
        found += [f"{each.code}: {_tell(rows)}" for each in self.measures for rows in each.active]
        found += [f"gitlab.rb leads to {name}" for name in self.leads_out]
        found += [f"the database {name} is not looked into" for name in self.other_databases]
        return tuple(found)

    @property
    def not_stopped(self) -> tuple[str, ...]:
        """What no measure of ours stops on any host, for people to know."""
        return NOT_STOPPED


@dataclass(frozen=True, slots=True)
class Lifted:
    """What lifting did. ``left`` counts recorded rows that somebody changed or removed meanwhile: they stay so.

    ``reconfigure``: gitlab.rb was changed, and GitLab is to take it over.
    """

    given_back: int
    left: int
    reconfigure: bool


def isolate_configuration(install: Omnibus, runner: Runner) -> bool:
    """Add the settings to gitlab.rb; True if it was changed. In effect after the next ``gitlab-ctl reconfigure``.

    Raises ConfigError for a file in which only half of an earlier addition is left, HostUnfit where it did not arrive.
    """
    content = runner.run(install.read_file(install.config_file))
    lines = gitlab_rb.isolation_lines(_version(install, runner), content)
    return _change_configuration(install, runner, content, gitlab_rb.add_isolation(content, lines))


def isolate_database(install: Omnibus, runner: Runner) -> Isolation:
    """Stop everything that the database at hand would make GitLab send, and read it back.

    A GitLab that runs meanwhile may need a minute to take it over: that long it remembers its settings. Raises
    RestoreFailed if anything is active afterwards. What else stands against a complete isolation (a table that
    this version should have, mail that is on) is in ``findings``; see ``refuse_unless_isolated``.
    """
    decisions = _decide(install, runner)
    runner.run(commands.stop(install, _targets(decisions)))
    seen = look_at_isolation(install, runner)
    active = [f"{each.code}: {_tell(rows)}" for each in seen.measures for rows in each.active]
    if not seen.recorded or active:
        raise RestoreFailed(
            f"{runner.name} is not isolated: {'; '.join(active) or 'the record is gone'}",
            hint="Is somebody working on it, or GitLab running? Stop puma and sidekiq, and try again.",
        )
    return seen


def look_at_isolation(install: Omnibus, runner: Runner) -> Isolation:
    """Read back what is stopped and what is not; changes nothing. Raises CommandFailed."""
    columns = commands.parse_columns(runner.run(commands.list_columns(install)))
    version = _version(install, runner)
    decisions = decide(version, columns)
    content = runner.run(install.read_file(install.config_file))
    wanted = gitlab_rb.add_isolation(content, gitlab_rb.isolation_lines(version, content))
    databases = runner.run(commands.list_databases(install)).decode().split()
    recorded = RECORD in columns
    return Isolation(
        recorded=recorded,
        measures=_measured(install, runner, decisions, recorded=recorded),
        configured=content == wanted,
        mail=_mail(install, runner),
        leads_out=gitlab_rb.leads_out(content),
        other_databases=tuple(name for name in databases if name != _DATABASE),
    )


def refuse_unless_isolated(isolation: Isolation, host: str) -> None:
    """Raise RestoreFailed, naming what is not stopped. For a drill, before its services start."""
    if isolation.findings:
        raise RestoreFailed(
            f"{host} is not isolated: {'; '.join(isolation.findings)}",
            hint="Do not start GitLab there, unless its network has no way out.",
        )


def lift(install: Omnibus, runner: Runner) -> Lifted:
    """Give the rows back exactly what they held, and take the settings out of gitlab.rb. Done again, goes on.

    A host that is not isolated stays as it is. Raises HostUnfit, with the record kept, when something is recorded of a
    table that is there no more.
    """
    given, recorded, rest = 0, 0, False
    columns = commands.parse_columns(runner.run(commands.list_columns(install)))
    if RECORD in columns:
        given, recorded, rest = commands.parse_lifted(runner.run(commands.lift(install, every_target(columns))))
    if rest:
        _refuse_rest(install, runner)
    content = runner.run(install.read_file(install.config_file))
    changed = _change_configuration(install, runner, content, gitlab_rb.remove_isolation(content))
    return Lifted(given, recorded - given, changed)


def _refuse_rest(install: Omnibus, runner: Runner) -> None:
    rest = commands.parse_record(runner.run(commands.list_record(install)))
    names = ", ".join(f"{rows} of {table} ({measure})" for (measure, table), rows in rest.items())
    raise HostUnfit(
        f"{runner.name}: rows that were stopped cannot be given back: {names}",
        hint=f"This GitLab has no such table any more; their former values are in the table {RECORD}.",
    )


def _measured(
    install: Omnibus, runner: Runner, decisions: tuple[Decision, ...], *, recorded: bool
) -> tuple[Measured, ...]:
    targets = _targets(decisions)
    found = commands.parse_active(runner.run(commands.list_active(install, targets)), targets) if targets else ()
    record = commands.parse_record(runner.run(commands.list_record(install))) if recorded else {}
    return tuple(
        Measured(
            code=each.measure.code,
            stops=each.measure.stops,
            rows=sum(rows for (code, _), rows in record.items() if code == each.measure.code),
            active=tuple(rows for rows in found if rows.measure == each.measure.code and rows.count),
            reason=each.reason,
            missing=each.missing,
        )
        for each in decisions
    )


def _mail(install: Omnibus, runner: Runner) -> tuple[str, ...] | None:
    """What gitlab.yml leaves on; None when there is none to read."""
    try:
        settings = yaml.safe_load(runner.run(commands.settings_in_effect(install)))["production"]
        return tuple(name for name, path, default in _MAIL if _setting(settings, path, default=default) is not False)
    except (CommandFailed, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return None


def _setting(settings: dict[str, Any], path: tuple[str, str], *, default: bool) -> object:
    section, name = path
    return settings.get(section, {}).get(name, default)


def _decide(install: Omnibus, runner: Runner) -> tuple[Decision, ...]:
    columns = commands.parse_columns(runner.run(commands.list_columns(install)))
    if "application_settings" not in columns:
        raise HostUnfit(
            f"the database of {runner.name} has no tables to isolate",
            hint="Isolate after GitLab's restore, and before its start.",
        )
    return decide(_version(install, runner), columns)


def _targets(decisions: tuple[Decision, ...]) -> tuple[Target, ...]:
    return tuple(target for decision in decisions for target in decision.targets)


def _version(install: Omnibus, runner: Runner) -> GitLabVersion:
    return parse_version(look_at_version(install, runner))


def _change_configuration(install: Omnibus, runner: Runner, before: bytes, after: bytes) -> bool:
    if after == before:
        return False
    runner.run(commands.replace_file(install.config_file, after), stdin=after)
    if runner.run(install.read_file(install.config_file)) != after:
        raise HostUnfit(f"{runner.name}: {install.config_file} is not what was written to it")
    return True


def _tell(rows: Active) -> str:
    ids = ", ".join(map(str, rows.ids)) + (", …" if rows.count > len(rows.ids) else "")
    return f"{rows.count} active in {rows.table}, id {ids}"
