"""A restored host is kept quiet, shows it, and is given back exactly as it was: on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

from drtool.core.census import compare
from drtool.core.isolation import RECORD
from drtool.counting import count_host
from drtool.demo.census import Census, difference, take_census
from drtool.demo.sandbox import Sandbox
from drtool.demo.seed import seed
from drtool.errors import CommandFailed, HostUnfit, RestoreFailed
from drtool.hosts import Runner
from drtool.hosts.local import LocalRunner
from drtool.installs.omnibus import Omnibus
from drtool.isolating import (
    Isolation,
    isolate_configuration,
    isolate_database,
    lift,
    look_at_isolation,
    refuse_unless_isolated,
)
from drtool.stores.faults import Crash
from tests import sandboxes
from tests.runners import FaultyRunner

pytestmark = [pytest.mark.engine("postgresql"), pytest.mark.engine("git")]

CHANGES = """
UPDATE projects SET mirror = true WHERE id IN (2, 3);
UPDATE application_settings SET outbound_local_requests_whitelist = '{"10.0.0.1","a,b \\"c\\""}';
UPDATE web_hooks SET confidential_note_events = true WHERE id = 3;
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandboxes.require()
    with Sandbox.create(tmp_path_factory.mktemp("isolation") / "host") as made:
        seed(made, projects=6)
        made.sql(CHANGES)
        yield made


@pytest.fixture
def host(template: Sandbox, tmp_path: Path) -> Iterator[Sandbox]:
    with template.clone(tmp_path / "host") as cloned:
        yield cloned


def install_of(host: Sandbox) -> Omnibus:
    return Omnibus(PurePosixPath(host.root))


def isolate(host: Sandbox, runner: Runner | None = None) -> Isolation:
    runner = runner or LocalRunner()
    isolate_configuration(install_of(host), runner)
    runner.run(install_of(host).reconfigure())
    return isolate_database(install_of(host), runner)


def look(host: Sandbox) -> Isolation:
    return look_at_isolation(install_of(host), LocalRunner())


def state(host: Sandbox) -> tuple[Census, bytes]:
    return take_census(host), host.gitlab_rb.read_bytes()


def assert_same(before: tuple[Census, bytes], after: tuple[Census, bytes]) -> None:
    assert difference(before[0], after[0]) == []
    assert before[1] == after[1]


def test_an_isolated_host_sends_nothing_and_says_what_was_stopped(host: Sandbox) -> None:
    seen = isolate(host)

    assert seen.findings == ()
    assert {each.code: each.rows for each in seen.measures if each.rows} == {
        "silent-mode": 1,
        "outbound-requests": 1,
        "webhooks": 4,
        "integrations": 3,
        "push-mirrors": 2,
        "pull-mirrors": 2,
        "schedules": 2,
        "runners": 2,
        "telemetry": 1,
    }
    assert host.sql("SELECT count(*) FROM web_hooks WHERE push_events OR issues_events") == "0"
    assert host.sql("SELECT silent_mode_enabled, outbound_local_requests_whitelist FROM application_settings") == "t|{}"
    refuse_unless_isolated(seen, "b")


def test_lifting_gives_back_exactly_what_was_there(host: Sandbox) -> None:
    before = state(host)
    isolate(host)

    lifted = lift(install_of(host), LocalRunner())

    assert (lifted.given_back, lifted.left, lifted.reconfigure) == (18, 0, True)
    assert_same(before, state(host))


def test_lifting_a_host_that_is_not_isolated_changes_nothing(host: Sandbox) -> None:
    before = state(host)

    lifted = lift(install_of(host), LocalRunner())

    assert (lifted.given_back, lifted.left, lifted.reconfigure) == (0, 0, False)
    assert_same(before, state(host))


def test_isolating_twice_does_not_lose_the_first_record(host: Sandbox) -> None:
    before = state(host)

    first, second = isolate(host), isolate(host)

    assert first == second
    lift(install_of(host), LocalRunner())
    assert_same(before, state(host))


def test_what_came_alive_meanwhile_is_stopped_again_and_still_gets_its_first_values_back(host: Sandbox) -> None:
    before = state(host)
    isolate(host)
    host.sql("UPDATE web_hooks SET issues_events = true WHERE id = 3; UPDATE ci_runners SET active = true WHERE id = 1")

    isolate(host)

    lift(install_of(host), LocalRunner())
    assert_same(before, state(host))


def test_a_census_of_an_isolated_host_is_that_of_the_host_before(host: Sandbox) -> None:
    now = datetime(2026, 1, 13, tzinfo=UTC)
    before = count_host(install_of(host), LocalRunner(), now)

    isolate(host)

    assert compare(before, count_host(install_of(host), LocalRunner(), now)) == ()


@pytest.mark.slow
def test_a_crash_at_any_command_of_isolating_leaves_what_a_second_try_and_lifting_put_right(host: Sandbox) -> None:
    before = state(host)
    for nth in range(1, 100):
        runner = FaultyRunner(LocalRunner())
        runner.fail_at(nth, "after", Crash())
        with suppress(Crash):
            isolate(host, runner)
        if not runner.fired:
            break
        assert isolate(host).findings == ()
        lift(install_of(host), LocalRunner())
        assert_same(before, state(host))
    else:
        pytest.fail("isolating never ends")
    assert nth > 10


@pytest.mark.slow
def test_a_crash_at_any_command_of_lifting_leaves_what_a_second_try_puts_right(host: Sandbox) -> None:
    before = state(host)
    for nth in range(1, 100):
        isolate(host)
        runner = FaultyRunner(LocalRunner())
        runner.fail_at(nth, "after", Crash())
        with suppress(Crash):
            lift(install_of(host), runner)
        lift(install_of(host), LocalRunner())
        assert_same(before, state(host))
        if not runner.fired:
            break
    else:
        pytest.fail("lifting never ends")
    assert nth > 5


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("UPDATE web_hooks SET push_events = true WHERE id = 3", "webhooks: 1 active in web_hooks, id 3"),
        ("UPDATE ci_runners SET active = true WHERE id = 1", "runners: 1 active in ci_runners, id 1"),
        ("UPDATE remote_mirrors SET enabled = NULL WHERE id = 1", "push-mirrors: 1 active in remote_mirrors, id 1"),
        (
            "UPDATE application_settings SET silent_mode_enabled = false",
            "silent-mode: 1 active in application_settings, id 1",
        ),
        (
            "UPDATE application_settings SET outbound_local_requests_whitelist = '{example.com}'",
            "outbound-requests: 1 active in application_settings, id 1",
        ),
        (f"DROP TABLE {RECORD}", "the database is not isolated: nothing is recorded in it"),
        (
            "ALTER TABLE remote_mirrors RENAME TO mirrors_elsewhere",
            "push-mirrors: GitLab 18.9.0-ee should have it in remote_mirrors, and has not",
        ),
    ],
)
def test_what_is_no_longer_stopped_is_named(host: Sandbox, change: str, finding: str) -> None:
    isolate(host)

    host.sql(change)

    assert look(host).findings == (finding,)
    with pytest.raises(RestoreFailed, match=finding.split(":")[0]):
        refuse_unless_isolated(look(host), "b")


def test_a_host_that_was_never_isolated_is_named_in_every_respect(host: Sandbox) -> None:
    host.gitlab_rb.write_bytes(host.gitlab_rb.read_bytes() + b"gitlab_rails['object_store']['enabled'] = true\n")

    found = "\n".join(look(host).findings)

    for what in ("nothing is recorded", "gitlab.rb lacks", "gitlab.yml cannot be read", "4 active in web_hooks"):
        assert what in found
    assert "gitlab.rb leads to object storage" in found


@pytest.mark.parametrize(
    ("setting", "finding"),
    [
        (b"gitlab_rails['gitlab_email_enabled'] = true\n", "mail from GitLab is on"),
        (b"gitlab_rails['incoming_email_enabled'] = true\n", "reading of incoming mail is on"),
        (b"gitlab_rails['service_desk_email_enabled'] = true\n", "reading of mail to the service desk is on"),
    ],
)
def test_mail_that_a_reconfigure_switched_on_again_is_named(host: Sandbox, setting: bytes, finding: str) -> None:
    isolate(host)
    host.gitlab_rb.write_bytes(host.gitlab_rb.read_bytes() + setting)
    sandboxes.run(host, "gitlab-ctl", "reconfigure")

    assert look(host).findings == ("gitlab.rb lacks the settings of the isolation, or has others below them", finding)


def test_only_what_gitlab_yml_says_is_off_is_off(host: Sandbox) -> None:
    file = host.data / "gitlab-rails/etc/gitlab.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    off = "production:\n  gitlab: {email_enabled: false}\n"
    expected: dict[str, tuple[str, ...] | None] = {
        off: (),
        off + "  incoming_email: {enabled: }\n": ("reading of incoming mail",),
        off + "  service_desk_email: {enabled: 'false'}\n": ("reading of mail to the service desk",),
        "production:\n  gitlab: {host: a}\n": ("mail from GitLab",),
        "production:\n  gitlab:\n": None,
        "production: [": None,
        "": None,
    }

    for text in expected:
        file.write_text(text)
        assert look(host).mail == expected[text], text


def test_settings_that_no_reconfigure_took_over_are_not_taken_for_switched_off(host: Sandbox) -> None:
    sandboxes.run(host, "gitlab-ctl", "reconfigure")
    isolate_configuration(install_of(host), LocalRunner())

    seen = isolate_database(install_of(host), LocalRunner())

    assert seen.findings == ("mail from GitLab is on",)


def test_an_isolation_that_fails_in_the_middle_changes_nothing(host: Sandbox) -> None:
    host.sql("""
        CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''table is locked''; END';
        CREATE TRIGGER refuses BEFORE UPDATE ON ci_runners FOR EACH STATEMENT EXECUTE FUNCTION refuses();
    """)
    before = take_census(host)

    with pytest.raises(CommandFailed, match="table is locked"):
        isolate_database(install_of(host), LocalRunner())

    assert difference(before, take_census(host)) == []


def test_rows_that_do_not_stay_stopped_make_isolating_fail(host: Sandbox) -> None:
    host.sql("""
        CREATE FUNCTION stays_active() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.active = true; RETURN NEW; END';
        CREATE TRIGGER stays BEFORE UPDATE ON ci_runners FOR EACH ROW EXECUTE FUNCTION stays_active();
    """)

    with pytest.raises(RestoreFailed, match="runners: 2 active in ci_runners, id 1, 2"):
        isolate(host)


def test_what_somebody_changed_meanwhile_stays_changed(host: Sandbox) -> None:
    isolate(host)
    host.sql("""
        UPDATE application_settings SET usage_ping_enabled = true;
        DELETE FROM remote_mirrors WHERE id = 1;
        INSERT INTO ci_runners (description, runner_type, active) VALUES ('new', 1, false);
    """)

    lifted = lift(install_of(host), LocalRunner())

    assert lifted.left == 2
    assert host.sql("SELECT id FROM remote_mirrors WHERE enabled ORDER BY id") == "3"
    assert host.sql("SELECT count(*) FROM ci_runners WHERE active") == "2"


def test_values_that_can_no_longer_be_given_back_are_kept_and_named(host: Sandbox) -> None:
    isolate(host)
    host.sql("ALTER TABLE remote_mirrors RENAME TO mirrors_elsewhere")

    with pytest.raises(HostUnfit, match=r"2 of remote_mirrors \(push-mirrors\)"):
        lift(install_of(host), LocalRunner())

    host.sql("ALTER TABLE mirrors_elsewhere RENAME TO remote_mirrors")
    assert lift(install_of(host), LocalRunner()).given_back == 2


def test_a_version_without_silent_mode_has_its_system_hooks_lose_their_address_until_lifted(host: Sandbox) -> None:
    host.sql("""
        ALTER TABLE application_settings DROP silent_mode_enabled, DROP deny_all_requests_except_allowed;
    """)
    host.set_version("14.10.5")
    before = state(host)

    seen = isolate(host)

    assert seen.findings == ()
    assert {each.code for each in seen.measures if not each.applies} >= {"silent-mode", "outbound-requests"}
    assert host.sql("SELECT id FROM web_hooks WHERE encrypted_url IS NULL") == "4"
    lift(install_of(host), LocalRunner())
    assert_same(before, state(host))


def test_a_host_upgraded_while_isolated_gets_everything_back(host: Sandbox) -> None:
    host.set_version("15.11.13-ee")
    before = take_census(host)
    isolate(host)

    host.set_version("16.11.10-ee")
    lift(install_of(host), LocalRunner())

    assert difference(before, take_census(host)) == []


def test_a_database_without_tables_is_not_called_isolated(tmp_path: Path) -> None:
    sandboxes.require()
    with sandboxes.fresh(tmp_path / "host") as empty, pytest.raises(HostUnfit, match="no tables to isolate"):
        isolate(empty)


def backed_up(host: Sandbox) -> Callable[[], sandboxes.Result]:
    made = sandboxes.run(host, "gitlab-backup", "create", "BACKUP=isolated")
    assert made.status == 0, made.stderr
    return lambda: sandboxes.run(
        host, "gitlab-backup", "restore", "BACKUP=isolated", "force=yes", environment={"GITLAB_ASSUME_YES": "1"}
    )


def test_a_backup_of_an_isolated_host_carries_the_record_along(host: Sandbox) -> None:
    before = state(host)
    isolate(host)
    restore = backed_up(host)
    lift(install_of(host), LocalRunner())

    restored = restore()

    assert restored.status == 0, restored.stderr
    lift(install_of(host), LocalRunner())
    assert_same(before, state(host))


def test_a_restore_onto_an_isolated_host_drops_the_record_of_what_was_there(host: Sandbox) -> None:
    restore = backed_up(host)
    isolate(host)

    restored = restore()

    assert restored.status == 0, restored.stderr
    assert "BEGIN ERRORS" not in restored.stdout
    assert not look(host).recorded
