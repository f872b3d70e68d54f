"""Which measure applies to which GitLab, and which absence is alarming."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from drtool.core.isolation import MEASURES, RECORD, Decision, decide, every_target, watched_tables
from drtool.core.versions import parse_version
from drtool.errors import CommandFailed
from drtool.installs import isolation as commands
from drtool.installs.omnibus import Omnibus

OLD = {  # the columns of interest of db/schema.rb, GitLab 10.8
    "application_settings": "id usage_ping_enabled version_check_enabled sentry_enabled clientside_sentry_enabled",
    "ci_pipeline_schedules": "id active",
    "ci_runners": "id active",
    "clusters": "id enabled",
    "projects": "id",
    "services": "id active push_events",
    "web_hooks": "id url type push_events issues_events",
}
NEW = {
    "application_settings": "id silent_mode_enabled deny_all_requests_except_allowed outbound_local_requests_whitelist "
    "lets_encrypt_terms_of_service_accepted usage_ping_enabled elasticsearch_indexing elasticsearch_search",
    "ci_pipeline_schedules": "id active",
    "ci_runners": "id active",
    "geo_nodes": "id enabled primary",
    "integrations": "id active push_events",
    "projects": "id mirror",
    "remote_mirrors": "id enabled",
    "web_hooks": "id type encrypted_url encrypted_url_iv push_events issues_events push_events_branch_filter",
}


def columns(tables: dict[str, str]) -> dict[str, frozenset[str]]:
    return {name: frozenset(names.split()) for name, names in tables.items()}


def decided(version: str, tables: dict[str, str]) -> dict[str, Decision]:
    return {each.measure.code: each for each in decide(parse_version(version), columns(tables))}


def test_every_measure_is_decided_on_and_says_why_it_does_not_apply() -> None:
    for version, tables in (("10.8.7", OLD), ("18.9.0-ee", NEW), ("18.9.0", {})):
        decisions = decide(parse_version(version), columns(tables))

        assert [each.measure for each in decisions] == list(MEASURES)
        assert all(bool(each.targets) != bool(each.reason) for each in decisions)


def test_a_version_without_silent_mode_has_everything_stopped_by_itself() -> None:
    decisions = decided("10.8.7", OLD)

    stopped = {code for code, each in decisions.items() if each.targets}
    assert stopped == {
        *("webhooks", "system-hooks", "integrations", "schedules", "runners", "telemetry", "clusters"),
    }
    assert not any(each.missing for each in decisions.values())
    assert "10.8.7 has nothing of the kind" in decisions["silent-mode"].reason


def test_a_current_version_leaves_system_hooks_to_silent_mode() -> None:
    decisions = decided("18.9.0-ee", NEW)

    assert decisions["system-hooks"].reason == "silent-mode does it since GitLab 16.1"
    assert not any(each.missing for each in decisions.values())


@pytest.mark.parametrize("version", ["15.11.3", "16.0.8-ee"])
def test_the_first_silent_mode_was_for_mail_alone_and_system_hooks_are_stopped_besides(version: str) -> None:
    assert decided(version, NEW)["system-hooks"].targets
    assert decided(version, NEW)["silent-mode"].targets


@pytest.mark.parametrize(
    ("code", "table"),
    [
        ("push-mirrors", "remote_mirrors"),
        ("schedules", "ci_pipeline_schedules"),
        ("runners", "ci_runners"),
        ("webhooks", "web_hooks"),
        ("integrations", "integrations"),
        ("silent-mode", "application_settings"),
        ("pull-mirrors", "projects"),
    ],
)
def test_a_table_that_this_version_must_have_and_has_not_is_alarming(code: str, table: str) -> None:
    decision = decided("18.9.0-ee", {name: of for name, of in NEW.items() if name != table})[code]

    assert decision.missing
    assert "should have it" in decision.reason


def test_what_only_paid_editions_do_is_not_missed_in_the_free_one() -> None:
    without = NEW | {"projects": "id"}

    assert decided("18.9.0-ee", without)["pull-mirrors"].missing
    assert not decided("18.9.0", without)["pull-mirrors"].missing


def test_the_list_of_exceptions_is_emptied_only_where_everything_else_is_denied() -> None:
    only_exceptions = NEW | {"application_settings": "id outbound_local_requests_whitelist"}

    assert not decided("13.1.0", only_exceptions)["outbound-requests"].targets


def test_only_columns_that_exist_are_written() -> None:
    for tables in (OLD, NEW):
        for target in every_target(columns(tables)):
            assert set(target.values) <= columns(tables)[target.table]


def test_a_filter_of_branches_is_no_event() -> None:
    (target,) = decided("18.9.0-ee", NEW)["webhooks"].targets

    assert dict(target.values) == {"issues_events": "false", "push_events": "false"}


def test_integrations_are_found_under_their_former_name() -> None:
    (old,) = decided("10.8.7", OLD)["integrations"].targets
    (both,) = decided("14.2.0", NEW | {"services": "id active"})["integrations"].targets

    assert (old.table, both.table) == ("services", "integrations")


def test_the_record_is_among_the_tables_that_are_looked_for() -> None:
    assert RECORD in watched_tables()


def test_an_answer_that_leaves_a_target_out_is_no_answer() -> None:
    targets = every_target(columns(NEW))
    lines = [f"{each.measure}|{each.table}|0|" for each in targets]

    assert commands.parse_active("\n".join(lines).encode(), targets)
    with pytest.raises(CommandFailed, match="did not answer for every measure"):
        commands.parse_active("\n".join(lines[1:]).encode(), targets)


def test_the_statements_fit_into_one_command() -> None:
    install = Omnibus(PurePosixPath("/"))

    targets = every_target(columns(NEW))

    for command in (commands.stop(install, targets), commands.lift(install, targets)):
        assert command.argv[0] == "/opt/gitlab/bin/gitlab-psql"
        assert len(command.argv[-1]) < 32_768


@pytest.mark.parametrize("printed", [b"", b"3|3\n", b"3|3|\n", b"NOTICE\n"])
def test_what_lifting_does_not_print_is_not_taken_for_its_result(printed: bytes) -> None:
    with pytest.raises(CommandFailed, match="not what lifting prints"):
        commands.parse_lifted(printed)


def test_outgoing_connections_of_a_user_are_rejected_but_for_the_named_networks() -> None:
    reject, undo = commands.reject_outgoing("git", ["10.0.0.0/8"])

    assert 'oifname "lo" accept; ip daddr { 10.0.0.0/8 } accept; meta skuid "git" reject' in reject.argv[1]
    assert undo.argv[1].endswith("delete table inet drtool_isolation")
