"""Whatever goes wrong on the host, drtool never says that it went well; and when it is put right, the next run does."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drtool import backup, restore
from drtool.app import App, load
from drtool.catalog import MANIFEST
from drtool.clock import SystemClock
from drtool.core.model import Manifest
from drtool.demo.census import Census, difference, doctor, take_census
from drtool.demo.layout import Switch
from drtool.demo.sandbox import Sandbox
from drtool.demo.seed import seed
from drtool.demo.standin import secret_file
from drtool.diff import diff_host
from drtool.errors import (
    BackupFailed,
    Busy,
    CommandFailed,
    DrtoolError,
    HostUnfit,
    RestoreFailed,
    SetDamaged,
    TargetHoldsData,
    VersionMismatch,
)
from drtool.events import Event, Waiting
from drtool.journal import journals
from drtool.restore_plan import Wanted
from drtool.verify import verify
from tests import sandboxes
from tests.playground import Playground, lay_out, snapshot, start
from tests.toyhost import ToyClock, read_members

pytestmark = pytest.mark.engine("postgresql")

VERSION = "18.9.1-ee"
HOSTNAME = platform.node()


@dataclass
class Operator:
    """Who takes backups of the playground's host and restores them, with a clock of its own."""

    place: Playground
    events: list[Event] = field(default_factory=list)
    clock: ToyClock = field(default_factory=lambda: ToyClock(datetime.now(UTC)))
    by_the_host: bool = False
    """Whether the host's clock is used: members without an id are told by their time, which is the host's."""

    @property
    def app(self) -> App:
        clock = SystemClock() if self.by_the_host else self.clock
        return dataclasses.replace(load(self.place.made.config, None, self.events.append), clock=clock)

    def back_up(self, *, accept_unfit_secrets: bool = False) -> Manifest:
        self.clock.advance(timedelta(seconds=1))  # sets of one second have no order
        order = dataclasses.replace(self.app.backup_order(), accept_unfit_secrets=accept_unfit_secrets)
        return backup.back_up(order, self.app.backup_place()).manifest

    def restore(self, target: Sandbox, set_id: str, *, replace: str | None = None) -> restore.Outcome:
        text = self.place.made.config.read_text()
        state = target.root.with_name("state")
        for old, new in ((self.place.host.root, target.root), (self.place.base / "state", state)):
            assert f'"{old}"' in text
            text = text.replace(f'"{old}"', f'"{new}"')
        config = self.place.made.config.with_name("target.toml")
        config.write_text(text)
        app = dataclasses.replace(load(config, None, self.events.append), clock=self.clock)
        request = restore.Request(app.instance.name, app.install, Wanted(replace=replace))
        place = app.restore_place(app.open_set(set_id, identities=app.identities()), app.runner)
        return restore.carry_out(restore.prepare(request, place), request, place)

    def forget(self, set_id: str) -> None:
        """Make a set of an odd night vanish, so that no later one is held against it."""
        catalog = self.app.catalog
        catalog.store.delete([catalog.key(set_id, MANIFEST)])

    def sets(self) -> list[str]:
        return self.app.catalog.set_ids()

    def is_good(self, manifest: Manifest) -> None:
        opened = self.app.open_set(manifest.set_id, identities=self.app.identities())
        assert verify(opened, "digest", signed=True, clock=self.clock, emit=self.events.append).problems == ()
        for archive, members in opened.read_index().items():
            assert read_members(opened, archive) == [member.name for member in members]
        assert list(self.place.host.backups.iterdir()) == []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    """A seeded host, shared: whoever breaks it repairs it."""
    sandboxes.require()
    base = tmp_path_factory.mktemp("false-green")
    with sandboxes.fresh(base / "host", version=VERSION) as host:
        seed(host, projects=2)
        yield lay_out(base, host)


@pytest.fixture
def operator(place: Playground) -> Operator:
    return Operator(place)


@pytest.fixture(scope="module")
def good_set(place: Playground) -> tuple[str, Census]:
    """A set of the seeded host, and what it must bring back."""
    return Operator(place).back_up().set_id, take_census(place.host)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Sandbox]:
    sandboxes.require()
    with sandboxes.fresh(tmp_path / "target", version=VERSION) as sandbox:
        yield sandbox


# -- backup ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "switches",
    [
        {"pg_dump": "fails"},
        {"pg_dump": "dies"},
        {"pg_dump": "version"},
        {"silent_failure": True},
        {"tar_fails": "uploads"},
        {"disk_full": "lfs"},
        {"kill": "db"},
        {"kill": "repositories"},
        {"kill": "information"},
        {"kill": "cleanup"},
    ],
    ids=str,
)
def test_backup_of_a_failing_gitlab_is_an_error_and_no_set(operator: Operator, switches: dict[str, Switch]) -> None:
    host = operator.place.host
    with switched(host, switches):
        _refused(operator, BackupFailed)
    _recovers(operator)


@pytest.mark.parametrize("version", ["16.11.10-ee", "16.7.9-ee"])
def test_backup_of_an_old_gitlab_that_exits_0_is_an_error_and_no_set(operator: Operator, version: str) -> None:
    """Before 17.0 a failed component did not fail the run; before 16.8 its members do not say whose they are."""
    host = operator.place.host
    host.set_version(version)
    operator.by_the_host = True
    try:
        with switched(host, {"pg_dump": "dies"}):
            assert sandboxes.run(host, "gitlab-backup", "create", "SKIP=tar", "BACKUP=by-hand").status == 0
            _clear(host.backups)
            _refused(operator, BackupFailed)
            _refused(operator, BackupFailed)
        _recovers(operator, older=True)
    finally:
        host.set_version(VERSION)


def test_backup_leaves_loose_members_alone_that_do_not_say_whose_they_are(operator: Operator) -> None:
    host = operator.place.host
    host.set_version("16.7.9-ee")
    operator.by_the_host = True
    try:
        _recovers(operator, older=True)
        assert sandboxes.run(host, "gitlab-backup", "create", "SKIP=tar").status == 0
        before = snapshot(host.backups)
        _refused(operator, HostUnfit)
        assert snapshot(host.backups) == before
    finally:
        host.set_version(VERSION)
        _clear(host.backups)
    _recovers(operator)


@pytest.mark.parametrize("switches", [{"pg_dump": "fails"}, {"pg_dump": "dies"}], ids=str)
def test_backup_is_judged_by_its_bytes_when_gitlab_says_nothing_of_a_failure(
    operator: Operator, switches: dict[str, Switch]
) -> None:
    host = operator.place.host
    quiet = '"$@" 2>/dev/null | sed -e "/failed/d" -e "/^ - /d" -e "s/^.*when trying to backup.*//"; exit 0'
    with switched(host, switches), wrapped(host.bin / "gitlab-backup", quiet):
        _refused(operator, BackupFailed)
        _refused(operator, BackupFailed)  # and is not continued with
    _recovers(operator)


def test_backup_of_a_corrupt_repository_is_an_error_and_no_set(operator: Operator) -> None:
    with changed(_a_repository(operator.place.host)) as repository:
        for path in (repository / "objects").rglob("*"):
            if path.is_file():
                path.chmod(0o600)
                path.write_bytes(path.read_bytes()[:20])
        _refused(operator, BackupFailed)
    _recovers(operator)


def test_backup_with_a_broken_bundle_is_an_error_and_no_set(operator: Operator) -> None:
    """gitaly-backup said that it completed: only the bytes tell."""
    host = operator.place.host
    truncate = f'"$@" && find "{host.backups}" -name 001.bundle -exec truncate -s -90 {{}} \\;'
    with wrapped(host.root / "opt/gitlab/embedded/bin/gitaly-backup", truncate):
        _refused(operator, SetDamaged)
        _refused(operator, SetDamaged)  # and is not continued with
    _recovers(operator)


def test_backup_without_a_repository_of_the_database_is_amber(operator: Operator) -> None:
    with changed(_a_repository(operator.place.host)) as repository:
        shutil.rmtree(repository)
        manifest = operator.back_up()
    assert manifest.verdict == "amber"
    assert [(finding.code, finding.count) for finding in manifest.findings] == [("repositories-not-on-disk", 1)]
    operator.is_good(manifest)
    _recovers(operator)


@pytest.mark.parametrize("switches", [{"tar_changes": "uploads"}, {"upload": "fails"}], ids=str)
def test_backup_is_green_when_gitlab_rightly_is(operator: Operator, switches: dict[str, Switch]) -> None:
    """A file that changed while it was read is normal on a living host; nothing is uploaded that is not packed."""
    with switched(operator.place.host, switches):
        manifest = operator.back_up()
    assert manifest.verdict == "green"
    operator.is_good(manifest)


def test_backup_waits_for_a_task_of_gitlab_s_own(operator: Operator) -> None:
    host = operator.place.host
    with subprocess.Popen(["sleep", "600"]) as task:
        host.lock.write_text(f"{task.pid}")

        def end_task() -> None:
            task.kill()
            task.wait()

        operator.clock.meanwhile = end_task
        manifest = operator.back_up()
    operator.is_good(manifest)
    assert any(isinstance(event, Waiting) for event in operator.events)


def test_backup_gives_up_on_a_task_that_never_ends(operator: Operator) -> None:
    host = operator.place.host
    host.lock.write_text(f"{os.getpid()}")
    operator.clock.meanwhile = lambda: operator.clock.advance(timedelta(hours=1))
    try:
        _refused(operator, Busy)
    finally:
        host.lock.unlink()
    _recovers(operator)


def test_backup_refuses_a_lock_that_names_nobody(operator: Operator) -> None:
    host = operator.place.host
    host.lock.write_text("nonsense")
    try:
        assert str(host.lock) in _refused(operator, HostUnfit).hint
    finally:
        host.lock.unlink()
    _recovers(operator)


def test_backup_leaves_the_loose_members_of_another_backup_alone(operator: Operator) -> None:
    host = operator.place.host
    assert sandboxes.run(host, "gitlab-backup", "create", "SKIP=tar", "BACKUP=by-hand").status == 0
    before = snapshot(host.backups)
    assert before
    try:
        assert "by-hand" in str(_refused(operator, HostUnfit))
        assert snapshot(host.backups) == before
    finally:
        _clear(host.backups)
    _recovers(operator)


def test_backup_without_the_secrets_is_an_error_and_no_set(operator: Operator) -> None:
    with changed(operator.place.host.gitlab_secrets) as secrets:
        secrets.unlink()
        assert "gitlab-secrets.json" in str(_refused(operator, HostUnfit))
    _recovers(operator)


def test_backup_with_regenerated_secrets_is_red_kept_and_no_set(operator: Operator) -> None:
    """Omnibus makes a missing file anew, and says nothing: its values open none of the database's."""
    before = operator.back_up()
    with changed(operator.place.host.gitlab_secrets) as secrets:
        secrets.unlink()
        secret_file.reconfigure(secrets)
        refused = _refused(operator, SetDamaged)
    assert "the secrets do not fit the database" in str(refused)
    assert "db_key_base was replaced since" in " ".join(f.message for f in _red_set(operator).findings)
    assert before.set_id in operator.sets()
    assert list(operator.place.host.backups.iterdir()) == []
    _recovers(operator)


def test_backup_with_accepted_secrets_is_amber_and_names_them(operator: Operator) -> None:
    """Who has lost them for good still needs the rest every night."""
    operator.back_up()
    with changed(operator.place.host.gitlab_secrets) as secrets:
        secrets.unlink()
        secret_file.reconfigure(secrets)
        manifest = operator.back_up(accept_unfit_secrets=True)
    operator.forget(manifest.set_id)
    assert manifest.verdict == "amber"
    assert {"secrets-do-not-fit", "secret-changed"} <= {finding.code for finding in manifest.findings}
    assert manifest.secrets is not None
    assert manifest.secrets.fit == "does not fit"
    messages = " ".join(finding.message for finding in manifest.findings)
    assert re.search(r"public\.\w+\.\w+_encrypted: \d+ of \d+", messages)


def test_backup_of_an_emptied_component_is_amber_and_says_what_was_there(operator: Operator) -> None:
    before = operator.back_up()
    uploads = operator.place.host.data / "gitlab-rails/uploads"
    away = uploads.with_name("uploads-away")
    uploads.rename(away)
    uploads.mkdir()
    try:
        manifest = operator.back_up()
    finally:
        uploads.rmdir()
        away.rename(uploads)
    operator.forget(manifest.set_id)
    (count,) = [tally.count for tally in before.contents if tally.name == "uploads"]
    messages = " ".join(finding.message for finding in manifest.findings)
    assert re.search(rf"uploads: none; {count} in 2\d{{7}}T\d{{6}}Z-", messages)  # the one before, or another test's


def test_backup_reports_the_secrets_that_fit_and_counts_what_there_is(operator: Operator) -> None:
    manifest = operator.back_up()
    assert manifest.secrets is not None
    assert manifest.secrets.fit == "fits"
    assert manifest.secrets.opened > 20
    assert {"db_key_base", "otp_key_base"} <= {each.name for each in manifest.secrets.fingerprints}
    opened = operator.app.open_set(manifest.set_id, identities=operator.app.identities())
    assert (
        diff_host(
            opened, operator.app.install, operator.app.runner, clock=operator.clock, emit=operator.events.append
        ).differences
        == ()
    )


def test_diff_with_a_host_names_what_was_done_there(operator: Operator) -> None:
    manifest = operator.back_up()
    host = operator.place.host
    repository = next(path for path in host.repositories.rglob("*.git") if (path / "refs/heads/main").exists())
    subprocess.run(("git", "-C", repository, "branch", "after", "main"), check=True)
    host.sql("DELETE FROM notes WHERE id = (SELECT max(id) FROM notes)")
    try:
        opened = operator.app.open_set(manifest.set_id, identities=operator.app.identities())
        found = diff_host(
            opened, operator.app.install, operator.app.runner, clock=operator.clock, emit=operator.events.append
        )
    finally:
        subprocess.run(("git", "-C", repository, "branch", "-D", "after"), check=True, capture_output=True)
    assert {(each.kind, each.name.rpartition("/")[2] or each.name) for each in found.differences} == {
        ("repository", repository.name),
        ("table", "public.notes"),
    }


def _red_set(operator: Operator) -> Manifest:
    (set_id,) = operator.app.catalog.recorded()[1][-1:]
    manifest = operator.app.open_set(set_id).manifest
    assert manifest.verdict == "red"
    return manifest


def _refused(operator: Operator, error: type[DrtoolError]) -> DrtoolError:
    """Take a backup that must end with exactly this error, without a new set and without harm to the others."""
    before = operator.sets()
    with pytest.raises(error) as raised:
        operator.back_up()
    assert type(raised.value) is error
    assert operator.sets() == before
    return raised.value


def _recovers(operator: Operator, *, older: bool = False) -> None:
    """``older``: an older GitLab has fewer components than the sets of other tests that it is held against."""
    manifest = operator.back_up()
    assert {finding.code for finding in manifest.findings} <= ({"emptied"} if older else set())
    assert manifest.verdict == "green" or older
    operator.is_good(manifest)


# -- restore ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switches", "error", "step"),
    [
        ({"reconfigure_fails": True}, CommandFailed, "reconfigure"),
        ({"wont_stop": "sidekiq"}, CommandFailed, "quiesce"),
        ({"restore_skips_repositories": True}, RestoreFailed, "restore"),
        ({"restore_sql_errors": "projects"}, RestoreFailed, "restore"),
        ({"kill": "repositories"}, RestoreFailed, "restore"),
        ({"kill": "cleanup"}, RestoreFailed, "restore"),
        ({"wont_start": "puma"}, CommandFailed, "start"),
        ({"never_ready": True}, HostUnfit, "ready"),
        ({"check_says_no": True}, RestoreFailed, "check"),
    ],
    ids=str,
)
def test_restore_onto_a_failing_host_is_an_error_and_goes_on_when_it_works(
    operator: Operator,
    good_set: tuple[str, Census],
    target: Sandbox,
    switches: dict[str, Switch],
    error: type[DrtoolError],
    step: str,
) -> None:
    set_id, census = good_set
    with switched(target, switches):
        _stops_in(step, operator, target, set_id, error)
    if "restore_sql_errors" in switches:
        target.sql("drop sequence if exists projects")  # what the switch left in the way
    assert operator.restore(target, set_id).resumed
    _is_restored(target, census)


def test_restore_of_secrets_that_do_not_fit_the_database_is_an_error(operator: Operator, target: Sandbox) -> None:
    with changed(operator.place.host.gitlab_secrets) as secrets:
        secrets.unlink()
        secret_file.reconfigure(secrets)
        set_id = operator.back_up(accept_unfit_secrets=True).set_id
    raised = _stops_in("secrets", operator, target, set_id, RestoreFailed)
    operator.forget(set_id)
    assert "rows cannot be decrypted" in str(raised)


def test_restore_onto_another_version_names_the_package_and_touches_nothing(
    operator: Operator, good_set: tuple[str, Census], target: Sandbox
) -> None:
    target.set_version("18.9.0-ee")
    before = snapshot(target.etc_gitlab, target.backups)
    with pytest.raises(VersionMismatch) as raised:
        operator.restore(target, good_set[0])
    assert raised.value.exit_status == 20
    assert "gitlab-ee=18.9.1-ee.0" in raised.value.hint
    assert snapshot(target.etc_gitlab, target.backups) == before
    assert journals(target.root.with_name("state"), "restore-") == []


@pytest.mark.parametrize("replace", [None, "another-host"])
def test_restore_onto_projects_is_refused(
    operator: Operator, good_set: tuple[str, Census], target: Sandbox, replace: str | None
) -> None:
    seed(target, projects=3)
    before = take_census(target)
    with pytest.raises(TargetHoldsData) as raised:
        operator.restore(target, good_set[0], replace=replace)
    assert raised.value.exit_status == 23
    assert difference(before, take_census(target)) == []
    assert list(target.backups.iterdir()) == []


def test_restore_onto_projects_leaves_a_safety_copy_that_can_be_restored(
    operator: Operator, good_set: tuple[str, Census], target: Sandbox
) -> None:
    set_id, census = good_set
    seed(target, projects=3)
    before = take_census(target)
    operator.restore(target, set_id, replace=HOSTNAME)
    assert difference(census, take_census(target)) == []
    (copy,) = target.backups.iterdir()
    name = copy.name.removesuffix("_gitlab_backup.tar")
    again = sandboxes.run(target, "gitlab-backup", "restore", f"BACKUP={name}", "force=yes", "GITLAB_ASSUME_YES=1")
    assert again.status == 0
    found = difference(before, take_census(target))
    assert [sentence for sentence in found if not sentence.startswith("secret ")] == []


def _stops_in(step: str, operator: Operator, target: Sandbox, set_id: str, error: type[DrtoolError]) -> DrtoolError:
    """Restore onto a target where it must end with exactly this error, in this step. No patience is left to it."""
    operator.clock.meanwhile = lambda: operator.clock.advance(timedelta(minutes=10))
    with pytest.raises(error) as raised:
        operator.restore(target, set_id)
    assert type(raised.value) is error
    (journal,) = journals(target.root.with_name("state"), "restore-")
    last = journal.entries[-1]
    assert (last["what"], last["step"]) == ("started", step)
    operator.clock.meanwhile = int
    return raised.value


def _is_restored(target: Sandbox, census: Census) -> None:
    assert difference(census, take_census(target)) == []
    opened, failed = doctor(target)
    assert opened > 0
    assert failed == 0
    assert list(target.backups.iterdir()) == []


# -- secrets ---------------------------------------------------------------------------------------------------------


def test_no_secret_is_ever_in_clear_outside_of_its_own_file(place: Playground, target: Sandbox, tmp_path: Path) -> None:
    """In the store, the state directory, what was printed, arguments of processes, and temporary files (I4)."""
    secrets = _secrets(place)
    assert all(any(secret in content for _, content in snapshot(place.base).values()) for secret in secrets)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    config = place.configure(
        "secrets.toml", (f'"{place.host.root}"', f'"{target.root}"'), (f'"{place.base}/state"', f'"{tmp_path}/state"')
    )
    said = b""
    with arguments_of_processes() as seen:
        for command in (("backup",), ("restore", "latest", "--to", "local", "--yes", "--config", str(config))):
            options = {"environment": {"DRTOOL_CONFIG": str(place.made.config), "TMPDIR": str(scratch)}}
            with start(*command, "--json", "-v", **options) as process:
                stdout, stderr = process.communicate()
            assert process.returncode == 0, stderr
            said += stdout.encode() + stderr.encode()
    assert any(b"gitlab-backup" in arguments for arguments in seen)
    left = {"what was printed": said, "arguments": b"\n".join(seen)}
    places = (place.store, place.base / "state", tmp_path / "state", scratch)
    left |= {path: content for path, (_, content) in snapshot(*places).items()}
    assert [name for name, content in left.items() for secret in secrets if secret in content] == []
    assert list(scratch.iterdir()) == []


def _secrets(place: Playground) -> list[bytes]:
    """Every value of gitlab-secrets.json that is long enough to be one, the age identity, the signing key's lines."""
    found: list[bytes] = []
    for section in json.loads(place.host.gitlab_secrets.read_text()).values():
        values = (value for entry in section.values() for value in (entry if isinstance(entry, list) else [entry]))
        found += [json.dumps(value)[1:-1].encode() for value in values if isinstance(value, str) and len(value) >= 16]
    found += [line for line in place.made.identity.read_bytes().splitlines() if line.startswith(b"AGE-SECRET-KEY-1")]
    key = place.made.signing_key.read_bytes().splitlines()
    found += key[2:-2]  # the first line of an OpenSSH key is the same for all; its last holds little
    assert len(found) > 8
    return found


@contextmanager
def arguments_of_processes() -> Iterator[set[bytes]]:
    """Look at every process's arguments, again and again, until the block is left."""
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            for directory in Path("/proc").iterdir():
                if directory.name.isdigit():
                    try:
                        seen.add((directory / "cmdline").read_bytes())
                    except OSError:
                        continue  # it ended

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


# -- breaking and repairing ------------------------------------------------------------------------------------------


@contextmanager
def switched(host: Sandbox, switches: dict[str, Switch]) -> Iterator[None]:
    host.switch(**switches)
    try:
        yield
    finally:
        host.switch(**dict.fromkeys(switches, None))


def _clear(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def changed(path: Path) -> Iterator[Path]:
    """Let the block damage a file or directory, and put it back afterwards."""
    kept = path.with_name(path.name + ".kept")
    shutil.copytree(path, kept, symlinks=True) if path.is_dir() else shutil.copy2(path, kept)
    try:
        yield path
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        kept.rename(path)


@contextmanager
def wrapped(program: Path, script: str) -> Iterator[None]:
    """Put a shell script in a program's place; in it ``"$@"`` is the real one with its arguments."""
    with changed(program):
        real = program.with_name(f"real-{program.name}")
        program.rename(real)
        program.write_text(f'#!/bin/sh\nset -- "{real}" "$@"\n{script}\n')
        program.chmod(0o755)
        try:
            yield
        finally:
            real.unlink()


def _a_repository(host: Sandbox) -> Path:
    return min(
        path for path in host.repositories.rglob("*.git") if ".wiki" not in path.name and ".design" not in path.name
    )
