"""What a restored GitLab would send to the outside world by itself, and how each of these is stopped. Pure.

A measure stops one kind of sending by values in GitLab's own tables, because only they work before the first service
starts, in every version. What GitLab calls Silent Mode is one measure among them: it came with 15.11 for mail alone,
blocks HTTP requests since 16.1, mirrors since 16.2, hooks since 16.3, and one click in the admin area ends it.

Sources: GitLab's documentation of Silent Mode and of filtering outbound requests (15.10); its merge requests 120392,
128181 and commit 6af206bb; its models RemoteMirror, SystemHooksService, TriggerableHooks, AutoDisabling, LetsEncrypt
and the runners' API; its db/schema.rb of 2018-04 and 2019-05 and db/structure.sql of 13. A column is used only where
the database at hand has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from drtool.core.versions import GitLabVersion

RECORD: Final = "drtool_isolation"
"""The table, in the schema ``public``, that remembers what was changed; while it is there, the host is isolated.

Not a file, nor a schema of its own: there, GitLab's restore drops it together with the rows that it describes, so it
can never be applied to those of another backup; and a backup of an isolated GitLab carries it along.
"""

Release = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Pause:
    """Values that stop the rows of one table.

    ``tables`` are the names the table had, newest first; the first that exists counts. ``columns`` gives the value, as
    SQL, that each column gets; those that do not exist are left out, and without ``needs`` none is touched.
    ``ending`` takes every column whose name ends so and makes it false. ``only`` is a condition in SQL.
    """

    tables: tuple[str, ...]
    columns: Mapping[str, str]
    needs: str = ""
    ending: str = ""
    only: str = "true"


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing to stop. ``since`` is the release from which every GitLab must have the table and column.

    None: not all of them do, and those without have nothing to stop. ``paid``: only the paid editions do it.
    ``until`` is the first release in which ``instead`` does the work.
    """

    code: str
    stops: str
    pauses: tuple[Pause, ...]
    since: Release | None = None
    paid: bool = False
    until: Release | None = None
    instead: str = ""


def _settings(*columns: str, value: str = "false") -> tuple[Pause, ...]:
    return (Pause(("application_settings",), dict.fromkeys(columns, value)),)


def _flag(column: str, *tables: str, only: str = "true") -> Pause:
    return Pause(tables, {column: "false"}, only=only)


MEASURES: Final = (
    Measure(
        "silent-mode",
        "GitLab's own Silent Mode: mail, web requests, mirrors, hooks",
        _settings("silent_mode_enabled", value="true"),
        since=(15, 11),
    ),
    Measure(
        "outbound-requests",
        "web requests of the application to any address, its list of exceptions included",
        (
            Pause(
                ("application_settings",),
                {"deny_all_requests_except_allowed": "true", "outbound_local_requests_whitelist": "'{}'"},
                needs="deny_all_requests_except_allowed",
            ),
        ),
        since=(15, 10),
    ),
    # Not disabled_until: automatic disabling is for project hooks alone, and behind a feature flag.
    Measure("webhooks", "hooks of projects and groups", (Pause(("web_hooks",), {}, ending="_events"),), since=(8, 0)),
    # Most events go to every system hook whatever it asks for (SystemHooksService, scope all). An address that is not
    # there is the only thing that stops one; from 16.1 on not needed, and then the admin area stays whole.
    Measure(
        "system-hooks",
        "system hooks",
        (
            Pause(
                ("web_hooks",),
                {"encrypted_url": "NULL", "encrypted_url_iv": "NULL", "url": "NULL"},
                only="type = 'SystemHook'",
            ),
        ),
        since=(8, 0),
        until=(16, 1),
        instead="silent-mode",
    ),
    Measure(
        "integrations",
        "integrations: chat, trackers, mail on push, …",
        (_flag("active", "integrations", "services"),),
        since=(8, 0),
    ),
    Measure("push-mirrors", "pushes to mirrors", (_flag("enabled", "remote_mirrors"),), since=(11, 0)),
    Measure(
        "pull-mirrors", "pulls from mirrored repositories", (_flag("mirror", "projects"),), since=(9, 0), paid=True
    ),
    Measure("schedules", "scheduled pipelines", (_flag("active", "ci_pipeline_schedules"),), since=(9, 2)),
    Measure("runners", "jobs: no runner gets one", (_flag("active", "ci_runners"),), since=(8, 0)),
    Measure(
        "pages-certificates",
        "Let's Encrypt certificates for domains of Pages",
        _settings("lets_encrypt_terms_of_service_accepted"),
        since=(12, 1),
    ),
    Measure(
        "telemetry",
        "usage reports, version check, Snowplow, Sentry",
        _settings(
            *("usage_ping_enabled", "version_check_enabled", "seat_link_enabled"),
            *("snowplow_enabled", "sentry_enabled", "clientside_sentry_enabled"),
        ),
        since=(8, 10),
    ),
    Measure(
        "search-index",
        "writing to an Elasticsearch that another GitLab may use",
        _settings("elasticsearch_indexing", "elasticsearch_search"),
        since=(9, 0),
        paid=True,
    ),
    Measure("clusters", "calls to connected Kubernetes clusters", (_flag("enabled", "clusters"),)),
    Measure("geo", "calls to other Geo sites", (_flag("enabled", "geo_nodes", only='NOT "primary"'),)),
    Measure(
        "audit-streams",
        "streaming of audit events",
        tuple(
            _flag("active", table)
            for table in (
                "audit_events_group_external_streaming_destinations",
                "audit_events_instance_external_streaming_destinations",
                "audit_events_amazon_s3_configurations",
                "audit_events_instance_amazon_s3_configurations",
                "audit_events_google_cloud_logging_configurations",
                "audit_events_instance_google_cloud_logging_configurations",
            )
        ),
    ),
)

NOT_STOPPED: Final = (
    "file hooks and server hooks: programs of yours on the host",
    "pulls of the dependency proxy, when somebody asks it for an image",
    "lookups of names, and of domains of Pages",
    "logins at LDAP or another provider, and the synchronisation with it",
)
"""What nothing here stops. A network without a way out does."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a pause means for the database at hand: one table, and the columns it has with the value each gets."""

    measure: str
    table: str
    values: Mapping[str, str]
    only: str


@dataclass(frozen=True, slots=True)
class Decision:
    """How a measure applies: by ``targets``; or not at all, because of ``reason``; ``missing`` if that is alarming."""

    measure: Measure
    targets: tuple[Target, ...]
    reason: str = ""
    missing: bool = False


def decide(version: GitLabVersion, columns: Mapping[str, frozenset[str]]) -> tuple[Decision, ...]:
    """Say for every measure what it does on this GitLab. ``columns`` maps each existing table to its columns."""
    return tuple(_decide(measure, version, columns) for measure in MEASURES)


def every_target(columns: Mapping[str, frozenset[str]]) -> tuple[Target, ...]:
    """Name everything that may have been stopped in this database, by whatever version of GitLab it was then."""
    found = (_target(each.code, pause, columns) for each in MEASURES for pause in each.pauses)
    return tuple(target for target in found if target)


def watched_tables() -> tuple[str, ...]:
    """Name every table that ``decide`` wants to know the columns of, and the one of the record."""
    return tuple(sorted({RECORD} | {table for each in MEASURES for pause in each.pauses for table in pause.tables}))


def _decide(measure: Measure, version: GitLabVersion, columns: Mapping[str, frozenset[str]]) -> Decision:
    if measure.until and version.at_least(*measure.until):
        return Decision(measure, (), f"{measure.instead} does it since GitLab {_release(measure.until)}")
    targets = tuple(target for pause in measure.pauses if (target := _target(measure.code, pause, columns)))
    if targets:
        return Decision(measure, targets)
    names = ", ".join(sorted({table for pause in measure.pauses for table in pause.tables[:1]}))
    free = measure.paid and version.edition == "ce"
    if measure.since is None or free or not version.at_least(*measure.since):
        return Decision(measure, (), f"GitLab {version} has nothing of the kind in {names}")
    return Decision(measure, (), f"GitLab {version} should have it in {names}, and has not", missing=True)


def _target(code: str, pause: Pause, columns: Mapping[str, frozenset[str]]) -> Target | None:
    table = next((name for name in pause.tables if name in columns), None)
    if table is None or "id" not in columns[table] or (pause.needs and pause.needs not in columns[table]):
        return None
    values = {name: value for name, value in pause.columns.items() if name in columns[table]}
    if pause.ending:
        values |= {name: "false" for name in sorted(columns[table]) if name.endswith(pause.ending)}
    return Target(code, table, values, pause.only) if values else None


def _release(release: Release) -> str:
    return f"{release[0]}.{release[1]}"
