"""The seeded instance and its census: always the same, complete, and a change of anything is noticed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from drtool.demo.census import Census, Files, Repository, Rows, difference, doctor, take_census
from drtool.demo.population import Population, hashed_path
from drtool.demo.sandbox import Sandbox
from drtool.demo.seed import seed
from drtool.errors import CommandFailed, HostUnfit

pytestmark = [pytest.mark.engine("postgresql"), pytest.mark.engine("git")]

FIRST = f"{hashed_path('@hashed', 1)}.git"
SECOND = f"{hashed_path('@hashed', 2)}.git"
EMPTY = f"{hashed_path('@hashed', 3)}.git"


def new_sandbox(root: Path) -> Sandbox:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    try:
        return Sandbox.create(root)
    except HostUnfit as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A seeded sandbox that tests only read."""
    with new_sandbox(tmp_path_factory.mktemp("seeded") / "host") as seeded:
        seed(seeded)
        yield seeded


@pytest.fixture(scope="module")
def census(sandbox: Sandbox) -> Census:
    return take_census(sandbox)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox) -> Iterator[Sandbox]:
    """A second sandbox, made on its own but with the first one's secrets; tests may change it."""
    with new_sandbox(tmp_path_factory.mktemp("other") / "host") as made:
        shutil.copy(sandbox.gitlab_secrets, made.gitlab_secrets)
        seed(made)
        yield made


def git(sandbox: Sandbox, path: str, *arguments: str) -> str:
    command = ["git", "-c", "safe.directory=*", "-C", str(sandbox.repository_path(path)), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_seeding_twice_gives_the_same_census(census: Census, other: Sandbox) -> None:
    assert difference(census, take_census(other)) == []


def test_a_census_changes_nothing(sandbox: Sandbox, census: Census) -> None:
    assert difference(census, take_census(sandbox)) == []


def test_seeding_again_is_refused_and_changes_nothing(sandbox: Sandbox, census: Census) -> None:
    with pytest.raises(CommandFailed):
        seed(sandbox)
    assert difference(census, take_census(sandbox)) == []


def test_every_kind_of_table_has_rows(census: Census) -> None:
    assert {name for name, rows in census.tables.items() if rows.count == 0} == {"public.pool_repositories"}
    assert census.tables["public.projects"].count == 24
    assert census.tables["public.web_hook_logs"].count == sum(
        census.tables[f"gitlab_partitions_dynamic.web_hook_logs_{month}"].count for month in ("202601", "202602")
    )


def test_every_repository_of_the_database_is_there_and_sound(sandbox: Sandbox, census: Census) -> None:
    paths = sandbox.sql(
        "select disk_path || '.git' from project_repositories "
        "union select disk_path || '.wiki.git' from project_repositories "
        "join project_wiki_repositories using (project_id) "
        "union select disk_path || '.design.git' from project_repositories "
        "join design_management_repositories using (project_id) "
        "union select disk_path || '.git' from snippet_repositories"
    ).splitlines()
    assert {f"default/{path}" for path in paths} == set(census.repositories)
    assert all(repository.sound for repository in census.repositories.values())
    assert {repository.head for repository in census.repositories.values()} == {"refs/heads/main"}


def test_only_the_third_project_is_empty(census: Census) -> None:
    assert [name for name, found in census.repositories.items() if found.refs == 0] == [f"default/{EMPTY}"]


def test_a_project_has_the_refs_that_gitlab_makes(sandbox: Sandbox) -> None:
    refs = dict(line.split()[::-1] for line in git(sandbox, FIRST, "show-ref").splitlines())
    review = refs["refs/merge-requests/1/head"]
    assert set(refs) == {
        "refs/heads/main",
        "refs/heads/chart",
        "refs/heads/topic/größe",
        "refs/tags/v1.0.0",
        "refs/tags/nightly",
        "refs/merge-requests/1/head",
        f"refs/keep-around/{review}",
    }
    assert refs[f"refs/keep-around/{review}"] == review
    assert git(sandbox, FIRST, "cat-file", "-t", "v1.0.0") == "tag"
    assert int(git(sandbox, FIRST, "rev-list", "--count", "--merges", "main")) == 1


def test_the_lfs_pointer_names_a_stored_object(sandbox: Sandbox) -> None:
    pointer = git(sandbox, FIRST, "show", "chart:docs/plan.psd")
    oid = pointer.splitlines()[1].removeprefix("oid sha256:")
    assert (sandbox.shared / "lfs-objects" / oid[:2] / oid[2:4] / oid[4:]).is_file()


def test_every_component_that_is_on_by_default_has_files(census: Census) -> None:
    without = {name for name, files in census.components.items() if files.count == 0}
    assert without == {"registry", "ci_secure_files"}


def test_some_uploads_have_names_that_are_not_ascii(sandbox: Sandbox) -> None:
    assert any(not path.name.isascii() for path in sandbox.uploads.rglob("*"))


def test_sequences_continue_behind_the_rows(sandbox: Sandbox) -> None:
    last = int(sandbox.sql("select max(id) from notes"))
    assert int(sandbox.sql("select last_value from notes_id_seq")) == last


def test_bulk_adds_that_many_bytes_of_uploads(tmp_path: Path, census: Census) -> None:
    size = 9 * 1024 * 1024 + 5
    with new_sandbox(tmp_path / "host") as bulky:
        seed(bulky, projects=1, bulk_bytes=size)
        found = take_census(bulky)
        bulk = [path.stat().st_size for path in bulky.uploads.rglob("video.bin")]
        assert doctor(bulky)[1] == 0
    assert sum(bulk) == size
    assert found.components["uploads"].size > size
    assert len(found.repositories) == 1 + 1 + 1 + 3


@pytest.mark.parametrize("count", [1, 7, 24, 100])
def test_projects_of_a_population_have_paths_of_their_own(count: int) -> None:
    projects = Population(count).projects
    assert len({project.full_path for project in projects}) == count


def test_the_doctor_opens_every_value_with_the_sandbox_s_secrets(sandbox: Sandbox) -> None:
    opened, failed = doctor(sandbox)
    assert failed == 0
    assert opened == count_of_encrypted_cells(sandbox)


def count_of_encrypted_cells(sandbox: Sandbox) -> int:
    """Count with a list of the columns written down here, unlike the doctor, who finds them by their names."""
    columns = {
        "application_settings": (
            "runners_registration_token_encrypted",
            "error_tracking_access_token_encrypted",
            "encrypted_ci_jwt_signing_key",
            "encrypted_ci_job_token_signing_key",
            "asset_proxy_secret_key",
        ),
        "cloud_connector_keys": ("secret_key",),
        "users": ("encrypted_otp_secret",),
        "namespaces": ("runners_token_encrypted",),
        "projects": ("runners_token_encrypted",),
        "ci_runners": ("token_encrypted",),
        "ci_variables": ("nullif(encrypted_value, '')",),
        "ci_group_variables": ("encrypted_value",),
        "web_hooks": ("encrypted_url", "encrypted_token", "encrypted_url_variables"),
        "integrations": ("encrypted_properties",),
    }
    counts = [
        int(sandbox.sql(f"select count({name}) from {table}")) for table, names in columns.items() for name in names
    ]
    assert all(counts)
    return sum(counts)


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({"otp_key_base": "0" * 128}, "select count(encrypted_otp_secret) from users"),
        (
            {"active_record_encryption_primary_key": ["x" * 32]},
            "select (select count(secret_key) from cloud_connector_keys) "
            "+ (select count(asset_proxy_secret_key) from application_settings)",
        ),
        (
            {"active_record_encryption_key_derivation_salt": "x" * 32},
            "select (select count(secret_key) from cloud_connector_keys) "
            "+ (select count(asset_proxy_secret_key) from application_settings)",
        ),
    ],
    ids=["otp", "rails key", "rails salt"],
)
def test_the_doctor_finds_what_depends_on_one_wrong_secret(
    sandbox: Sandbox, changed: dict[str, object], failing: str
) -> None:
    with other_secrets(sandbox, changed):
        assert doctor(sandbox)[1] == int(sandbox.sql(failing))


def test_the_doctor_opens_nothing_with_the_secrets_of_another_host(sandbox: Sandbox) -> None:
    foreign = {
        "db_key_base": "f" * 128,
        "otp_key_base": "0" * 128,
        "active_record_encryption_primary_key": ["x" * 32],
    }
    with other_secrets(sandbox, foreign):
        assert doctor(sandbox) == (0, count_of_encrypted_cells(sandbox))


def test_the_doctor_tries_every_element_of_a_rotated_key(sandbox: Sandbox) -> None:
    current = json.loads(sandbox.gitlab_secrets.read_text())["gitlab_rails"]["db_key_base"]
    with other_secrets(sandbox, {"db_key_base": [current, "f" * 128]}):
        assert doctor(sandbox)[1] == 0


@contextmanager
def other_secrets(sandbox: Sandbox, changed: Mapping[str, object]) -> Iterator[None]:
    """Change keys of the gitlab_rails section for a while."""
    before = sandbox.gitlab_secrets.read_bytes()
    secrets = json.loads(before)
    secrets["gitlab_rails"] |= changed
    sandbox.gitlab_secrets.write_text(json.dumps(secrets))
    try:
        yield
    finally:
        sandbox.gitlab_secrets.write_bytes(before)


@pytest.fixture(scope="module")
def changes(other: Sandbox) -> list[str]:
    """What is said after one change of every kind, among them some that a backup does not carry anyway."""
    before = take_census(other)
    other.sql(
        "update issues set title = title || '!' where id = 7; drop index index_events_on_author_id_and_created_at;"
        "create table left_over (id int); select nextval('keys_id_seq');"
        "update users set name = name; drop table public.web_hooks;"
    )
    git(other, FIRST, "update-ref", "-d", "refs/tags/nightly")
    git(other, EMPTY, "symbolic-ref", "HEAD", "refs/heads/master")
    other.repository_path(f"{hashed_path('@hashed', 1)}.git/custom_hooks/pre-receive").chmod(0o644)
    shutil.rmtree(other.repository_path(f"{hashed_path('@snippets', 1)}.git"))
    for pack in (other.repository_path(SECOND) / "objects/pack").glob("*.pack"):
        pack.chmod(0o644)
        content = bytearray(pack.read_bytes())
        content[len(content) // 2] ^= 0xFF
        pack.write_bytes(content)
    upload = next(path for path in sorted(other.uploads.rglob("*.png")) if path.is_file())
    upload.write_bytes(upload.read_bytes()[::-1])
    package = next((other.shared / "packages").rglob("*.tgz"))
    package.rename(package.with_suffix(".zip"))
    (other.uploads / "tmp/another").write_text("left out of a backup")
    (other.shared / "pages/@pages.tmp/another").write_text("left out of a backup")
    (other.uploads / "lost+found").mkdir()
    (other.uploads / "lost+found/1").write_text("left out of a backup")
    secrets = json.loads(other.gitlab_secrets.read_text())
    secrets["gitlab_rails"]["otp_key_base"] = "0" * 128
    secrets["gitlab_shell"] = None
    other.gitlab_secrets.write_text(json.dumps(secrets))
    return difference(before, take_census(other))


@pytest.mark.parametrize(
    "beginning",
    [
        "table public.issues differs: 250 rows",
        "table public.left_over is new",
        "table public.web_hooks is missing",
        "sequence public.keys_id_seq differs: 12; then 13",
        "sequence public.web_hooks_id_seq is missing",
        "definition of index public.index_events_on_author_id_and_created_at is missing",
        f"repository default/{FIRST} differs: 7 refs",
        f"repository default/{EMPTY} differs: 0 refs",
        f"repository default/{SECOND} differs: 7 refs",
        f"repository default/{hashed_path('@snippets', 1)}.git is missing",
        "component uploads differs: 13 files",
        "component packages differs: 3 files",
        "secret gitlab_rails.otp_key_base differs",
        "secret gitlab_shell.secret_token is missing",
    ],
)
def test_a_change_is_named(changes: list[str], beginning: str) -> None:
    assert [sentence for sentence in changes if sentence.startswith(beginning)] != []


def test_nothing_but_the_changes_is_named(changes: list[str]) -> None:
    kinds = {sentence.split()[0] for sentence in changes}
    assert kinds == {"table", "sequence", "definition", "repository", "component", "secret"}
    tables = {sentence.split()[1] for sentence in changes if sentence.startswith("table ")}
    assert tables == {"public.issues", "public.left_over", "public.web_hooks"}
    assert len([sentence for sentence in changes if sentence.startswith("repository ")]) == 4
    assert len([sentence for sentence in changes if sentence.startswith("component ")]) == 2
    assert len([sentence for sentence in changes if sentence.startswith("secret ")]) == 2


def test_what_git_itself_cannot_read_is_called_broken(changes: list[str]) -> None:
    [sentence] = [sentence for sentence in changes if sentence.startswith(f"repository default/{SECOND}")]
    assert sentence.endswith("broken")


def test_difference_shows_no_secret(changes: list[str], sandbox: Sandbox) -> None:
    rails = json.loads(sandbox.gitlab_secrets.read_text())["gitlab_rails"]
    assert not any(rails["otp_key_base"] in sentence or "0" * 64 in sentence for sentence in changes)


@pytest.mark.parametrize(
    ("kind", "one", "another"),
    [
        ("tables", Rows(1, "a" * 32), Rows(2, "a" * 32)),
        (
            "repositories",
            Repository("refs/heads/main", 1, "a", "", True),
            Repository("refs/heads/main", 1, "a", "b", True),
        ),
        ("components", Files(1, 1, "a"), Files(1, 2, "a")),
    ],
)
def test_difference_tells_new_missing_and_changed_apart(
    census: Census, kind: str, one: object, another: object
) -> None:
    def having(content: dict[str, Any]) -> Census:
        category: dict[str, Any] = {kind: content}
        return dataclasses.replace(census, **category)

    [missing] = difference(having({"thing": one}), having({}))
    [new] = difference(having({}), having({"thing": one}))
    [changed] = difference(having({"thing": one}), having({"thing": another}))
    assert missing.endswith("thing is missing")
    assert new.endswith("thing is new")
    assert f"differs: {one}; then {another}" in changed
