"""Every way in which GitLab's backups are reported to have failed, taken through a whole run on the toy host.

Whatever is broken, the run says so and names the culprit; no set is listed that was not there before, and none that
was is touched; what was sent of a red one is kept with its record; and once the host is right again, the same command
makes a green set. ``REPORTED`` says which tests hold each of the reports, here and on the sandbox with PostgreSQL.
"""

from __future__ import annotations

import ast
import gzip
import io
import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest

from drtool.core.model import Manifest
from drtool.errors import (
    BackupFailed,
    CommandFailed,
    DrtoolError,
    HostUnfit,
    SetDamaged,
    SignatureInvalid,
    StoreError,
    StoreFull,
)
from drtool.gitlab.archive import COMPONENTS
from drtool.stores import ObjectInfo
from drtool.stores.faults import FaultyStore
from drtool.stores.memory import MemoryStore
from tests import sets
from tests.toyhost import INSTANCE, REPOSITORIES, SECRET, Bench, ToyHost, make_bench

ONE, OTHER = REPOSITORIES
Break = Callable[[ToyHost], object]

SANDBOX = "test_false_green.py"
REPORTED = {
    "pg_dump of the wrong version": ["pg_dump of another version", SANDBOX + "::pg_dump': 'version'"],
    "pg_dump missing": ["pg_dump not there", SANDBOX + "::pg_dump': 'fails'"],
    "pg_dump wrote nothing": ["dump of nothing", "dump of no bytes", "dump missing"],
    "pg_dump half-written": ["dump cut inside a table", "dump cut between tables", "dump whose gzip is cut",
                             SANDBOX + "::pg_dump': 'dies'"],
    "permission denied for a table": ["permission denied for a table", "permission denied, and nobody says so",
                                      "table left out"],
    "bundle missing": ["bundle missing"],
    "bundle empty": ["bundle of no bytes", "bundle of no objects", "bundle of no refs"],
    "bundle truncated": ["bundle cut", SANDBOX + "::test_backup_with_a_broken_bundle_is_an_error_and_no_set"],
    "bundle swapped": ["bundles swapped"],
    "file changed as we read it": ["test_files_that_changed_while_gitlab_read_them_are_no_fault",
                                   "test_files_that_change_while_they_are_packed_are_an_error"],
    "upload that is answered with 200 and kept in part": ["test_store_that_keeps_less_than_it_was_sent_is_an_error"],
    "gitlab-backup exits 0 after an error": ["repository failed, exit 0", "database failed, exit 0",
                                             SANDBOX + "::silent_failure"],
    "gitlab-backup fails after its last words": ["failure after the last words"],
    "all repositories skipped": ["repositories written and none named",
                                 "test_backup_without_any_repository_is_amber_and_counts_them"],
    "archive of the database only": ["database only"],
    "secrets regenerated": ["secrets regenerated",
                            SANDBOX + "::test_backup_with_regenerated_secrets_is_red_kept_and_no_set"],
    "secrets changed": ["test_secrets_that_were_rotated_are_amber_and_named",
                        "test_secrets_that_are_half_written_are_red_and_named"],
    "secrets lost": ["secrets emptied", SANDBOX + "::test_backup_without_the_secrets_is_an_error_and_no_set"],
    "archive renamed": ["backup of another id", "backup under another name"],
    "unchanged repositories in an increment": ["increment without its unchanged repositories"],
    "tar of a component failed": ["component cut", "component whose tar is cut", "component missing",
                                  SANDBOX + "::tar_fails"],
    "disk full": [SANDBOX + "::disk_full", "test_store_without_room_is_an_error"],
    "killed": ["killed", SANDBOX + "::kill': 'cleanup'"],
    "component emptied": [SANDBOX + "::test_backup_of_an_emptied_component_is_amber_and_says_what_was_there"],
    "concurrent runs, stale locks": [SANDBOX + "::test_backup_waits_for_a_task_of_gitlab_s_own",
                                     SANDBOX + "::test_backup_refuses_a_lock_that_names_nobody"],
    "leftovers in the backup directory": [
        SANDBOX + "::test_backup_leaves_the_loose_members_of_another_backup_alone"],
    "upgrade during the backup": ["upgrade during the backup"],
}  # fmt: skip
"""Facts about GitLab, section 9: each report, and the names of cases or tests that hold it."""


# -- what to break, and what must come of it -------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """``names`` is looked for in the error. SetDamaged stands for a red set that is kept; others leave no record."""

    broken: Break
    error: type[DrtoolError]
    names: str


def script(old: str, new: str) -> Break:
    """Let the toy's gitlab-backup do something else."""

    def change(host: ToyHost) -> None:
        program = host.root / "opt/gitlab/bin/gitlab-backup"
        text = program.read_text()
        assert old in text
        program.write_text(text.replace(old, new))

    return change


def canned(name: str, change: Callable[[bytes], bytes]) -> Break:
    """Let a member be something else."""

    def replace(host: ToyHost) -> None:
        path = host.root / "canned" / name
        path.write_bytes(change(path.read_bytes()))

    return replace


def lost(name: str) -> Break:
    return lambda host: (host.root / "canned" / name).unlink()


def both(*breaks: Break) -> Break:
    return lambda host: [each(host) for each in breaks]


def dump(change: Callable[[bytes], bytes]) -> Break:
    return canned("db/database.sql.gz", lambda packed: gzip.compress(change(gzip.decompress(packed))))


def without_table(name: bytes) -> Break:
    return dump(lambda sql: re.sub(rb"COPY public\." + name + rb" .*?\n\\\.\n", b"", sql, flags=re.DOTALL))


def failing(*, stderr: str, status: int) -> Break:
    """GitLab's words for a database that it could not dump; before 17.0 it ends with 0 all the same."""
    said = "say \"Dumping database failed: Failed to create compressed file 'db/database.sql.gz'\""
    return both(
        canned("db/database.sql.gz", lambda _: gzip.compress(b"")),
        script("say 'Dumping database ... done'", f"{said}; echo '{stderr}' >&2"),
        script('rm -f "$lock"\n', f'rm -f "$lock"\nexit {status}\n'),
    )


def bundle(repository: str) -> str:
    return f"repositories/default/{repository}/001.bundle"


def swap(one: str, other: str) -> Break:
    def change(host: ToyHost) -> None:
        first, second = host.root / "canned" / one, host.root / "canned" / other
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(kept)

    return change


def secrets(text: str) -> Break:
    return lambda host: (host.etc / "gitlab-secrets.json").write_text(text)


def logged(message: str, **fields: str) -> str:
    """A line as gitaly-backup logs it, for the toy to print."""
    told = {"level": "error", "msg": message, **fields}
    return "echo '{" + ",".join(f'"{key}":"{value}"' for key, value in told.items()) + "}'"


FAILED = logged("create failed", command="create", relative_path=ONE, storage_name="default")
COMPLETED = 'line create completed "$path"'
# An increment of Gitaly 16.11: what did not change gets no manifest of the new id.
UNCHANGED = both(
    script(COMPLETED, f"[ $path = {OTHER} ] && {COMPLETED} || line create skipped $path"),
    script("default/$path/$id.toml", f"default/$path/$([ $path = {OTHER} ] && echo $id || echo before).toml"),
    script(":full_backup_id:\\n", ":full_backup_id: before\\n"),
)
ALL_BUT_THE_DATABASE = ",".join(component.id for component in COMPONENTS if component.id != "db")
DATABASE_ONLY = both(
    script("id= skip=\n", f"id= skip={ALL_BUT_THE_DATABASE}\n"),
    script("for name in uploads lfs; do", "for name in; do"),
    script("for path in $repositories; do\n    line create started", "for path in; do\n    line create started"),
    script("SKIP=*) skip=${argument#SKIP=} ;;", 'SKIP=*) skip="$skip,${argument#SKIP=}" ;;'),
    script('cp -Rp "$root/canned/repositories" "$backups/repositories"', ":"),
    script('if [ "$skip" != tar ]; then', "if false; then"),
    script('say "Dumping $title ... [DISABLED]"', 'say "Dumping $title ... [SKIPPED]"'),
)
CASES = {
    "pg_dump of another version": Case(
        failing(stderr="pg_dump: error: aborting because of server version mismatch", status=1),
        BackupFailed, "Dumping database failed.* server version mismatch"),
    "pg_dump not there": Case(
        failing(stderr="sh: 1: pg_dump: not found", status=1), BackupFailed, "pg_dump: not found"),
    "permission denied for a table": Case(
        failing(stderr="pg_dump: error: query failed: ERROR:  permission denied for table users", status=1),
        BackupFailed, "permission denied for table users"),
    "database failed, exit 0": Case(
        failing(stderr="pg_dump: error: no", status=0), BackupFailed, r"Dumping database failed: .*db/database\.sql"),
    "dump of nothing": Case(
        canned("db/database.sql.gz", lambda _: gzip.compress(b"")), SetDamaged, r"db/database\.sql\.gz is empty"),
    "dump of no bytes": Case(
        canned("db/database.sql.gz", lambda _: b""), SetDamaged, r"db/database\.sql\.gz is cut off"),
    "dump missing": Case(lost("db/database.sql.gz"), SetDamaged, r"db/database\.sql\.gz is missing"),
    "dump cut inside a table": Case(
        dump(lambda sql: sql[: sql.index(b"root\t2026")]), SetDamaged, r"inside the data of table public\.users"),
    "permission denied, and nobody says so": Case(
        dump(lambda sql: sql[: sql.index(b"1\tgroup/toy") - 1] + b"\n"), SetDamaged,
        r"inside the data of table public\.routes"),
    "dump cut between tables": Case(
        dump(lambda sql: sql[: sql.index(b"COPY public.routes")]), SetDamaged, r"db/database\.sql\.gz breaks off"),
    "dump whose gzip is cut": Case(
        canned("db/database.sql.gz", lambda packed: packed[:-20]), SetDamaged, r"db/database\.sql\.gz is cut off"),
    "table left out": Case(without_table(b"users"), SetDamaged, "the database has no table users"),
    "bundle missing": Case(lost(bundle(ONE)), SetDamaged, rf"{ONE}: 001\.bundle is missing"),
    "bundle of no bytes": Case(canned(bundle(ONE), lambda _: b""), SetDamaged, rf"{ONE}/\S+/001\.bundle is cut off"),
    "bundle of no objects": Case(
        canned(bundle(ONE), lambda whole: whole[: whole.index(b"PACK")]), SetDamaged, rf"{ONE}/\S+ holds no pack"),
    "bundle of no refs": Case(
        canned(bundle(ONE), lambda _: b"# v2 git bundle\n\n"), SetDamaged, rf"{ONE}: 001\.bundle holds nothing"),
    "bundle cut": Case(canned(bundle(ONE), lambda whole: whole[:-90]), SetDamaged, rf"{ONE}/\S+ is cut off or changed"),
    "bundles swapped": Case(
        swap(bundle(ONE), bundle(OTHER)), SetDamaged, f"{ONE}: its bundle holds other refs.*{OTHER}: its bundle"),
    "repository failed, exit 0": Case(
        script(COMPLETED, f"[ $path = {ONE} ] && {FAILED} || {COMPLETED}"), BackupFailed, f"{ONE}.* was not backed up"),
    "repositories written and none named": Case(
        script(COMPLETED, "line create skipped $path"), BackupFailed, "wrote repositories and named none"),
    "failure after the last words": Case(
        script('say "Backup $id is done."', 'say "Backup $id is done."; exit 1'), BackupFailed, "status 1"),
    "killed": Case(script("for name in uploads lfs; do", "kill -9 $$; for name in; do"), BackupFailed, "KILL|not say"),
    "database only": Case(DATABASE_ONLY, SetDamaged, "the database only"),
    "secrets regenerated": Case(
        secrets(f'{{"gitlab_rails": {{"db_key_base": "{SECRET[::-1]}"}}}}'), SetDamaged,
        r"do not fit the database: 1 of 1 .*public\.projects\.runners_token_encrypted"),
    "secrets emptied": Case(secrets("{}"), SetDamaged, "the secrets hold no db_key_base"),
    "backup of another id": Case(
        script(":backup_id: %s", ":backup_id: x%s"), SetDamaged, r"backup_information\.yml is of backup x2026"),
    "backup under another name": Case(
        script('say "Backup $id is done."', 'say "Backup other is done."'), BackupFailed, "named the backup other"),
    "increment without its unchanged repositories": Case(UNCHANGED, SetDamaged, f"{ONE} has no manifest of this"),
    "component cut": Case(
        canned("uploads.tar.gz", lambda packed: packed[:-9]), SetDamaged, r"uploads\.tar\.gz is cut off: its gzip"),
    "component whose tar is cut": Case(
        canned("lfs.tar.gz", lambda packed: gzip.compress(gzip.decompress(packed)[:900])), SetDamaged,
        r"lfs\.tar\.gz is cut off: its tar"),
    "component missing": Case(
        script('cp -p "$root/canned/$name.tar.gz" "$backups/$name.tar.gz"', ":"), BackupFailed,
        r"uploads\.tar\.gz was reported and is not there"),
    "upgrade during the backup": Case(
        script(":gitlab_version: %s", ":gitlab_version: 1%s"), SetDamaged, r"GitLab changed from 118\.9\.1-ee"),
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A toy host with one good set, shared: whoever breaks it repairs it."""
    made = make_bench(tmp_path_factory.mktemp("toy"), MemoryStore())
    made.back_up()
    return made


@contextmanager
def broken(host: ToyHost, how: Break) -> Iterator[None]:
    """Break the host for a block, and make it as it was."""
    places = ("canned", "opt/gitlab/bin", "etc")
    kept = {path: path.read_bytes() for place in places for path in (host.root / place).rglob("*") if path.is_file()}
    try:
        how(host)
        yield
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def objects(bench: Bench) -> dict[str, bytes]:
    return {info.key: sets.content(bench.store, info.key) for info in bench.store.list(f"{INSTANCE}/")}


def refused(bench: Bench, error: type[DrtoolError], names: str, store: FaultyStore | None = None) -> None:
    """Take a backup that must end with exactly this error, naming the culprit, and hurt nothing."""
    before, (good, bad) = objects(bench), bench.catalog().recorded()
    store = store or FaultyStore(bench.store)
    with pytest.raises(error, match=names) as raised:
        bench.back_up(store=store)
    assert type(raised.value) is error
    assert not [call for call in store.calls if call.method == "delete"]
    after = objects(bench)
    assert {key: after.get(key) for key in before} == before
    assert bench.catalog().set_ids() == good
    new = [set_id for set_id in bench.catalog().recorded()[1] if set_id not in bad]
    if error is SetDamaged:
        _is_kept_as_red(bench, *new, said=str(raised.value))
    else:
        assert new == []


def _is_kept_as_red(bench: Bench, set_id: str, *, said: str) -> None:
    opened = bench.open(set_id)  # its signature is checked
    assert opened.manifest.verdict == "red"
    (red,) = [finding for finding in opened.manifest.findings if finding.severity == "red"]
    assert red.message in said
    with pytest.raises(SetDamaged, match=re.escape(red.message)):
        opened.refuse_red()
    assert [problem for problem in opened.look_at_volumes() if problem] == []
    assert bench.host.staged() == []


def recovers(bench: Bench) -> Manifest:
    """The plain command makes a green set, and leaves nothing behind."""
    manifest = bench.back_up().manifest
    assert (manifest.verdict, manifest.findings) == ("green", ())
    assert bench.problems(manifest.set_id) == []
    assert bench.host.staged() == []
    return manifest


# -- the run as a whole ----------------------------------------------------------------------------------------------


def test_backup_of_a_good_host_is_green_every_time(bench: Bench) -> None:
    found = [recovers(bench).secrets for _ in range(3)]
    assert [(facts.fit, facts.opened) for facts in found if facts] == [("fits", 1)] * 3


@pytest.mark.parametrize("name", CASES)
def test_backup_of_a_broken_gitlab_is_refused_by_name_and_the_next_is_green(bench: Bench, name: str) -> None:
    case = CASES[name]
    with broken(bench.host, case.broken):
        refused(bench, case.error, case.names)
    recovers(bench)


@pytest.mark.parametrize("name", ["dump cut inside a table", "bundle cut", "repository failed, exit 0"])
def test_backup_of_a_gitlab_that_stays_broken_is_refused_every_night(bench: Bench, name: str) -> None:
    case = CASES[name]
    with broken(bench.host, case.broken):
        for _ in range(3):
            refused(bench, case.error, case.names)
    recovers(bench)


def test_backup_without_any_repository_is_amber_and_counts_them(bench: Bench) -> None:
    """As GitLab does when the storage is not mounted: it skips them all, and ends with 0."""
    vanished = both(
        script(COMPLETED, "line create skipped $path"),
        script('cp -Rp "$root/canned/repositories" "$backups/repositories"', ":"),
        script('    mkdir "$backups/repositories', '    line create skipped "$path"; continue; mkdir "$'),
    )
    with broken(bench.host, vanished):
        manifest = bench.back_up().manifest
    assert manifest.verdict == "amber"
    said = {(finding.code, finding.message) for finding in manifest.findings}
    assert ("repositories-not-on-disk", "2 repositories of the database are not on disk; GitLab skipped them") in said
    assert any(code == "emptied" and text.startswith("repositories: none; 2 in ") for code, text in said), said
    bench.back_up()  # says that they are back by being green once more
    recovers(bench)


def test_files_that_changed_while_gitlab_read_them_are_no_fault(bench: Bench) -> None:
    """Uploads change all day; the component's tarball is whole."""
    notice = "say \"Ignoring tar exit status 1 'Some files differ': ./file: file changed as we read it\""
    with broken(
        bench.host, script('    rm -f "$backups/$name.tar.gz"', f'    {notice}; rm -f "$backups/$name.tar.gz"')
    ):
        recovers(bench)


@pytest.mark.parametrize("member", ["db/database.sql.gz", "uploads.tar.gz"])
def test_files_that_change_while_they_are_packed_are_an_error(
    bench: Bench, member: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All bytes came, and only tar's last words tell that two runs wrote into one directory."""
    real = shutil.which("tar")
    (tmp_path / "tar").write_text(
        f'#!/bin/sh\n"{real}" "$@"\necho "tar: {member}: file changed as we read it" >&2\nexit 1\n'
    )
    (tmp_path / "tar").chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path), prepend=":")
        refused(bench, CommandFailed, f"{member}: file changed as we read it")
    recovers(bench)


class Shortening(MemoryStore):
    """Answers yes, and keeps less than it was sent of some objects. ``admits`` how much, or not."""

    def __init__(self, inner: MemoryStore, short: str, *, admits: bool) -> None:
        super().__init__()
        self._objects = inner._objects
        self._short, self._admits = short, admits

    def put(self, key: str, source: BinaryIO, **asked: object) -> ObjectInfo:
        content = source.read()
        if not key.endswith(self._short):
            return super().put(key, io.BytesIO(content))
        kept = super().put(key, io.BytesIO(content[:-5]))
        return kept if self._admits else ObjectInfo(kept.key, len(content), kept.modified_at, kept.version)


@pytest.mark.parametrize("admits", [True, False], ids=["and says so", "and says nothing"])
@pytest.mark.parametrize(
    "short",
    [
        "application-0002.tar.age",
        "config-0000.tar.age",
        "index.age",
        "census.age",
        "manifest.json",
        "manifest.json.sig",
    ],
)
def test_store_that_keeps_less_than_it_was_sent_is_an_error(bench: Bench, short: str, admits: bool) -> None:
    assert isinstance(bench.store, MemoryStore)
    store = FaultyStore(Shortening(bench.store, f"/{short}", admits=admits))
    good, before = bench.catalog().set_ids(), objects(bench)
    with pytest.raises(StoreError, match=f"/{short.removesuffix('.sig')}: ") as raised:
        bench.back_up(store=store)
    assert type(raised.value) is StoreError
    assert not [call for call in store.calls if call.method == "delete"]
    after = objects(bench)
    assert {key: after[key] for key in before} == before
    for set_id in set(bench.catalog().set_ids()) - set(good):  # the manifest itself lost its end, or its proof
        assert short.startswith("manifest")
        with pytest.raises(SignatureInvalid, match=set_id):
            bench.open(set_id)
    recovers(bench)


def test_store_without_room_is_an_error(bench: Bench) -> None:
    refused(bench, StoreFull, "room|full", FaultyStore(bench.store, room=40_000))
    recovers(bench)


def test_secrets_that_are_half_written_are_red_and_named(bench: Bench) -> None:
    with broken(bench.host, secrets(f'{{"gitlab_rails": {{"db_key_base": "{SECRET}"')):
        refused(bench, SetDamaged, r"gitlab-secrets\.json is cut off")
    recovers(bench)


def test_secrets_that_were_rotated_are_amber_and_named(bench: Bench) -> None:
    before = bench.back_up().manifest
    both_keys = f'{{"gitlab_rails": {{"db_key_base": ["{SECRET}", "{SECRET[::-1]}"]}}}}'
    with broken(bench.host, secrets(both_keys)):
        manifest = bench.back_up().manifest
    assert (manifest.verdict, manifest.secrets and manifest.secrets.fit) == ("amber", "fits")
    said = [finding.message for finding in manifest.findings]
    assert said == [f"db_key_base was extended since {before.set_id}"]
    bench.back_up()  # says that one was lost again
    recovers(bench)


def test_backup_without_the_secrets_begins_nothing(bench: Bench) -> None:
    path = bench.host.etc / "gitlab-secrets.json"
    with broken(bench.host, lambda _: path.unlink()):
        refused(bench, HostUnfit, r"gitlab-secrets\.json is not there")
    recovers(bench)


# -- the list is complete --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", REPORTED)
def test_every_reported_failure_is_held_by_a_test_that_exists(report: str) -> None:
    here, sandbox = Path(__file__), Path(__file__).with_name(SANDBOX)
    tests = {node.name for node in ast.parse(here.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert REPORTED[report]
    for held in REPORTED[report]:
        if held.startswith(SANDBOX):
            assert held.partition("::")[2].replace("'", '"') in sandbox.read_text()
        else:
            assert held in CASES or held in tests


def test_every_case_is_of_a_report() -> None:
    assert set(CASES) <= set(itertools.chain(*REPORTED.values()))
