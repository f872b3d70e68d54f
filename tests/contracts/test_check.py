"""Every question of ``check`` is fed what it must complain about, and what it must not."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path, PurePosixPath

import pytest

from drtool.catalog import Catalog
from drtool.check_host import (
    check_clock,
    check_isolation,
    check_settings,
    forecast_room,
    look_for_other_backups,
    look_for_timer,
)
from drtool.check_keys import check_permissions, look_at_identities
from drtool.core.posture import StorePlace, judge_posture
from drtool.errors import ConfigError, HostUnfit, SecretExposed
from drtool.hosts.local import LocalRunner
from drtool.installs.omnibus import Omnibus
from drtool.stores.memory import MemoryStore
from tests import sets
from tests.contracts.test_keeping import COPIES, Kept, lay_out
from tests.lives import DatedStore

RUNNER = LocalRunner()


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The few files of a host that these questions read."""
    (tmp_path / "etc/gitlab").mkdir(parents=True)
    (tmp_path / "etc/gitlab/gitlab.rb").write_text("external_url 'https://gitlab.example.com'\n")
    (tmp_path / "var/opt/gitlab/backups").mkdir(parents=True)
    (tmp_path / "var/opt/gitlab/gitlab-rails/etc").mkdir(parents=True)
    return tmp_path


def install(host: Path) -> Omnibus:
    return Omnibus(PurePosixPath(host))


# -- keys and files --------------------------------------------------------------------------------------------------


def test_a_private_key_on_this_host_is_named_and_one_elsewhere_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "drtool.toml"
    assert look_at_identities(config, ("file:/nowhere/key", "env:NO_SUCH_KEY")) == ("no private key on this host", "")

    (tmp_path / "identity.txt").write_text("fake")
    monkeypatch.setenv("A_FAKE_KEY", "fake")
    found, advice = look_at_identities(config, ("env:A_FAKE_KEY",))
    assert found == f"on this host: {tmp_path}/identity.txt, env:A_FAKE_KEY"
    assert advice


def test_files_that_others_can_change_or_read_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "drtool"
    place.mkdir(mode=0o700)
    config, secret = place / "drtool.toml", place / "secret"
    for path in (config, secret):
        path.write_text("")
        path.chmod(0o600)
    good = ([config], [f"file:{secret}", "env:ANY"])

    assert check_permissions(*good) == ("2 files that nobody else can change or read", "")
    secret.chmod(0o640)
    with pytest.raises(SecretExposed):
        check_permissions(*good)
    secret.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        check_permissions(*good)
    config.chmod(0o660)
    with pytest.raises(ConfigError, match=r"drtool\.toml: mode 0660, others can change it"):
        check_permissions([config], [])
    config.chmod(0o600)
    place.chmod(0o777)
    with pytest.raises(ConfigError, match="drtool: mode 0777"):
        check_permissions([config], [])
    with pytest.raises(ConfigError, match="cannot be looked at"):
        check_permissions([tmp_path / "gone"], [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_configuration_of_somebody_else_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "drtool.toml"
    config.write_text("")
    os.chown(config, 12345, 12345)
    config.chmod(0o600)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        check_permissions([config], [])


# -- the host --------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_behind_the_store_is_refused() -> None:
    catalog = Catalog(DatedStore(MemoryStore()), sets.INSTANCE)
    assert check_clock(catalog, sets.StillClock())[1]  # nothing to compare with, which it says
    sets.commit(catalog.store)
    assert check_clock(catalog, sets.StillClock(sets.NIGHT + timedelta(hours=1))) == (
        "nothing in the store is from the future",
        "",
    )
    with pytest.raises(HostUnfit, match="the store has an object of 2026-01-13 03:45 UTC, here it is 2026-01-13 03:15"):
        check_clock(catalog, sets.StillClock())


def test_room_is_held_against_the_last_set_as_it_grew(host: Path) -> None:
    manifest = sets.commit(MemoryStore()).manifest
    assert forecast_room(install(host), RUNNER, [])[0].endswith("no set yet to go by")
    assert forecast_room(install(host), RUNNER, [manifest])[0].endswith("wanted")

    volume = manifest.archives[0].volumes[0]
    free = os.statvfs(host).f_bavail * os.statvfs(host).f_frsize

    def of_size(size: int) -> object:
        grown = replace(manifest.archives[0], volumes=(replace(volume, plain_size=size),))
        return replace(manifest, archives=(grown,))

    forecast_room(install(host), RUNNER, [of_size(free // 2)])  # type: ignore[list-item]  # enough of one
    with pytest.raises(HostUnfit, match="the next backup takes about"):
        forecast_room(install(host), RUNNER, [of_size(free * 2)])  # type: ignore[list-item]  # enough of one
    with pytest.raises(HostUnfit, match="the next backup takes about"):  # as it grew once, it may grow again
        forecast_room(install(host), RUNNER, [of_size(free // 20), of_size(free // 2)])  # type: ignore[list-item]  # enough of one


def gitlab_yml(host: Path, backup: str) -> None:
    (host / "var/opt/gitlab/gitlab-rails/etc/gitlab.yml").write_text(f"production:\n  backup:\n{backup}")


def test_settings_of_gitlab_that_fight_ours_are_named_and_another_backup_path_is_refused(host: Path) -> None:
    assert "nobody knows" in check_settings(install(host), RUNNER)[0]
    gitlab_yml(host, "    path: [broken")
    assert "nobody knows" in check_settings(install(host), RUNNER)[0]

    gitlab_yml(host, f"    path: {host}/var/opt/gitlab/backups\n    keep_time: 0\n")
    assert check_settings(install(host), RUNNER) == ("no setting of GitLab's fights ours", "")

    gitlab_yml(host, "    keep_time: 604800\n    upload:\n      connection: {provider: AWS}\n")
    found, advice = check_settings(install(host), RUNNER)
    assert "backup_keep_time = 604800" in found and "backup_upload_connection" in found and advice

    gitlab_yml(host, "    path: /mnt/ossfs\n")
    with pytest.raises(HostUnfit, match="GitLab's backup_path is /mnt/ossfs"):
        check_settings(install(host), RUNNER)


def test_a_crontab_that_starts_gitlabs_own_backup_is_named(host: Path) -> None:
    assert look_for_other_backups(install(host), RUNNER) == ("no crontab starts GitLab's own backup", "")
    (host / "etc/crontab").write_text("0 2 * * * root gitlab-rake gitlab:backup:create CRON=1\n")
    found, advice = look_for_other_backups(install(host), RUNNER)
    assert found == f"GitLab's own backup is started by {host}/etc/crontab"
    assert advice


def test_a_timer_is_looked_for_and_its_absence_told(host: Path) -> None:
    clock = sets.StillClock()
    found, advice = look_for_timer(install(host), RUNNER, "gitlab", clock)
    assert found.startswith("none: ") and "install-timer" in advice
    (host / "etc/cron.d").mkdir()
    (host / "etc/cron.d/drtool").write_text("15 3 * * * root drtool backup --quiet\n")
    assert look_for_timer(install(host), RUNNER, "gitlab", clock)[1] == ""


def test_an_isolated_gitlab_is_refused_also_when_only_its_configuration_says_so(host: Path) -> None:
    with (host / "etc/gitlab/gitlab.rb").open("a") as file:
        file.write("# drtool isolation: begin\ngitlab_rails['gitlab_email_enabled'] = false\n# drtool isolation: end\n")
    with pytest.raises(HostUnfit, match="is isolated after a restore"):
        check_isolation(install(host), RUNNER)


def test_a_database_that_does_not_say_whether_it_is_isolated_is_refused(host: Path) -> None:
    with pytest.raises(HostUnfit, match="does not say whether GitLab is isolated"):
        check_isolation(install(host), RUNNER)


# -- 3-2-1-1-0 -------------------------------------------------------------------------------------------------------

HERE = StorePlace("main", "local", off_site=False, locks=False)
AWAY = StorePlace("away", "s3", off_site=True, locks=True)


@pytest.mark.parametrize(
    ("stores", "problems", "missing"),
    [
        ((HERE, AWAY), 0, set()),
        ((HERE, AWAY), 3, {"0 errors"}),
        ((HERE, AWAY), None, {"0 errors"}),
        ((HERE, replace(AWAY, locks=False)), 0, {"1 immutable"}),
        ((HERE, replace(AWAY, off_site=False)), 0, {"1 off-site"}),
        ((HERE, replace(AWAY, kind="local")), 0, {"2 kinds of store"}),
        ((AWAY,), 0, {"3 copies", "2 kinds of store"}),
        ((HERE,), None, {"3 copies", "2 kinds of store", "1 off-site", "1 immutable", "0 errors"}),
    ],
)
def test_every_point_of_the_posture_can_be_missed(
    stores: tuple[StorePlace, ...], problems: int | None, missing: set[str]
) -> None:
    points = judge_posture(stores, problems)
    assert {point.rule for point in points if not point.reached} == missing
    assert all(point.remedy for point in points)


# -- the command -----------------------------------------------------------------------------------------------------


def answers(kept: Kept) -> dict[str, str]:
    ran = kept.drtool("check", "--json")
    assert ran.status == next(answer["error"]["exit_status"] for answer in ran.last["answers"] if answer["error"])
    return {answer["question"]: (answer["error"] or {}).get("message", "") for answer in ran.last["answers"]}


def test_check_and_backup_refuse_a_policy_that_the_configuration_cannot_keep(tmp_path: Path) -> None:
    kept = lay_out(tmp_path, 1)
    (tmp_path / "policy.toml").write_text("[lock]\ndays = 3\n[copies]\nstores = 3\n")
    kept.configure(f'signing_key = "{sets.keys().signer.key}"\nconfig_seal_to = ["{sets.keys().recipient}"]\n{COPIES}')

    said = answers(kept)["policy"]
    assert "copies.stores = 3, and the configuration has 2" in said
    assert "lock.days = 3" in said
    ran = kept.drtool("backup", "--json")
    assert (ran.status, ran.last["message"]) == (3, said)
