"""A real archive is green; broken in any way, the judgement names the culprit."""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable

import pytest

from drtool.gitlab.archive import BackupInformation, contents_of, parse_backup_information
from tests import archives
from tests.archives import ALPHA, BETA, DATABASE, EMPTY, manifest, step
from tests.sandboxes import OBSERVED_ID

Files = dict[str, bytes]
INFORMATION = "backup_information.yml"
OTHER_ID = "1795219784_2026_11_21_18.9.0-pre"


def test_a_real_archive_is_green() -> None:
    found = archives.judge(archives.files())
    assert (found.problems, found.findings, found.remarks) == ((), (), ())


@pytest.mark.parametrize("chunk", [1, 7, 511, 512, 4096])
def test_an_archive_is_judged_and_counted_alike_in_chunks_of_any_size(chunk: int) -> None:
    assert archives.judge(archives.files(), chunk=chunk) == archives.judge(archives.files())


@pytest.mark.parametrize("seed", range(5))
def test_an_archive_is_judged_and_counted_alike_in_any_order(seed: int) -> None:
    """Directories are in no order, the Helm chart packs what it finds, and old releases put the information last."""
    members = list(archives.files().items())
    random.Random(seed).shuffle(members)
    assert archives.judge(dict(members)) == archives.judge(archives.files())


def _lose(name: str) -> Callable[[Files], Files]:
    return lambda files: {key: content for key, content in files.items() if key != name}


def _replace(name: str, old: bytes, new: bytes) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        assert old in files[name]
        return {**files, name: files[name].replace(old, new)}

    return change


def _swap(one: str, other: str) -> Callable[[Files], Files]:
    return lambda files: {**files, one: files[other], other: files[one]}


def _lose_table(name: bytes) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        return archives.with_database(files, re.sub(rb"COPY " + name + rb" .*?\n\\\.\n", b"", sql(files), flags=re.S))

    return change


def _empty_table(name: bytes) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        return archives.with_database(
            files, re.sub(rb"(COPY " + name + rb" [^\n]*\n).*?\\\.\n", rb"\1\\.\n", sql(files), flags=re.S)
        )

    return change


sql = archives.database
BROKEN: dict[str, tuple[Callable[[Files], Files], str]] = {
    "refs missing": (_lose(step(ALPHA, "refs")), rf"repository {ALPHA}: 001\.refs is missing"),
    "refs of an empty repository missing": (_lose(step(EMPTY, "refs")), rf"repository {EMPTY}: 001\.refs is missing"),
    "bundle missing": (_lose(step(ALPHA, "bundle")), rf"repository {ALPHA}: 001\.bundle is missing"),
    "bundles swapped": (_swap(step(ALPHA, "bundle"), step(BETA, "bundle")), rf"repository {ALPHA}: its bundle holds"),
    "bundle of nothing": (
        lambda files: {**files, step(ALPHA, "bundle"): b"# v2 git bundle\n\n"},
        rf"repository {ALPHA}: 001\.bundle holds nothing",
    ),
    "bundle cut": (
        lambda files: {**files, step(ALPHA, "bundle"): files[step(ALPHA, "bundle")][:-1]},
        rf"{ALPHA}/{OBSERVED_ID}/001\.bundle is cut off",
    ),
    "bundle that needs another": (
        _replace(step(ALPHA, "bundle"), b"bundle\n", b"bundle\n-" + b"1" * 40 + b" one\n"),
        rf"repository {ALPHA}: 001\.bundle is an increment of something",
    ),
    "refs of nothing": (lambda files: {**files, step(ALPHA, "refs"): b""}, rf"repository {ALPHA}: 001\.bundle holds"),
    "refs that are none": (_replace(step(ALPHA, "refs"), b" HEAD", b"\tHEAD"), rf"{ALPHA}.*001\.refs is no list"),
    "manifest missing": (_lose(manifest(ALPHA)), rf"repository {ALPHA} has no manifest of this backup"),
    "manifests missing": (
        lambda files: _lose(f"repositories/manifests/{ALPHA}/+latest.toml")(_lose(manifest(ALPHA))(files)),
        rf"repository {ALPHA} has no manifest of this backup",
    ),
    "manifest of another backup": (
        lambda files: {**_lose(manifest(ALPHA))(files), manifest(ALPHA, OTHER_ID): files[manifest(ALPHA)]},
        rf"repository {ALPHA} has no manifest of this backup",
    ),
    "manifest without steps": (
        lambda files: {**files, manifest(ALPHA): files[manifest(ALPHA)].split(b"[[")[0]},
        rf"repository {ALPHA}: its manifest has no step",
    ),
    "manifest without refs": (
        _replace(manifest(ALPHA), b"ref_path", b"reference"),
        rf"repository {ALPHA}: its manifest has a step without",
    ),
    "manifest with a step that is not there": (
        lambda files: {
            **files,
            manifest(ALPHA): files[manifest(ALPHA)]
            + f"\n[[steps]]\nbundle_path = '{ALPHA}/{OBSERVED_ID}/002.bundle'\n".encode()
            + f"ref_path = '{ALPHA}/{OBSERVED_ID}/002.refs'\n".encode(),
        },
        rf"repository {ALPHA}: 002\.refs is missing",
    ),
    "manifest of another repository": (_swap(manifest(ALPHA), manifest(BETA)), rf"{ALPHA}: .* leads to {BETA}"),
    "manifest that is no TOML": (_replace(manifest(ALPHA), b"[[steps]]", b"[[steps"), rf"{ALPHA}: .*not understood"),
    "manifest of other objects": (
        _replace(manifest(ALPHA), b"'sha1'", b"'sha256'"),
        rf"repository {ALPHA}: 001\.bundle is of sha1 objects",
    ),
    "manifest of unknown objects": (_replace(manifest(ALPHA), b"'sha1'", b"'md5'"), rf"{ALPHA}: .*no object format"),
    "manifest that calls it empty": (
        lambda files: {**files, manifest(ALPHA): b"empty = true\n" + files[manifest(ALPHA)]},
        rf"repository {ALPHA}: its manifest calls it empty",
    ),
    "manifest that does not call it empty": (
        lambda files: {**files, manifest(EMPTY): b"empty = false\n" + files[manifest(EMPTY)]},
        rf"repository {EMPTY}: 001\.bundle is missing",
    ),
    "hooks cut": (
        lambda files: {**files, step(ALPHA, "custom_hooks.tar"): files[step(ALPHA, "custom_hooks.tar")][:700]},
        r"001\.custom_hooks\.tar is cut off",
    ),
    "table missing": (_lose_table(rb"public\.users"), "the database has no table users"),
    "routes missing": (_lose_table(rb"public\.routes"), "the database has no table routes"),
    "settings empty": (_empty_table(rb"public\.application_settings"), "the table application_settings is empty"),
    "migrations empty": (_empty_table(rb"public\.schema_migrations"), "the table schema_migrations is empty"),
    "database missing": (_lose(DATABASE), rf"{DATABASE} is missing"),
    "database of a dead pg_dump": (lambda files: archives.with_database(files, b""), rf"{DATABASE} is empty"),
    "database of another token": (
        lambda files: archives.with_database(files, sql(files).replace(b"\\unrestrict ", b"\\unrestrict x")),
        "unrestrict",
    ),
    "database damaged": (
        lambda files: {**files, DATABASE: files[DATABASE][:-6] + bytes(6)},
        rf"{DATABASE} is no intact gzip",
    ),
    "component missing": (_lose("terraform_state.tar.gz"), r"terraform_state\.tar\.gz is missing"),
    "component cut": (
        lambda files: {**files, "lfs.tar.gz": files["lfs.tar.gz"][:-9]},
        r"lfs\.tar\.gz is cut off: its gzip",
    ),
    "component whose tar failed": (
        lambda files: {**files, "lfs.tar.gz": gzip.compress(gzip.decompress(files["lfs.tar.gz"])[:3000])},
        r"lfs\.tar\.gz is cut off: its tar",
    ),
    "information missing": (_lose(INFORMATION), rf"{INFORMATION} has no"),
    "information of another backup": (_replace(INFORMATION, b":backup_id: 1", b":backup_id: 2"), "is of backup 2795"),
    "information of another version": (_replace(INFORMATION, b"_version: 18.9", b"_version: 18.8"), "GitLab changed"),
    "made without LFS": (
        lambda files: _replace(INFORMATION, b":skipped: ''", b":skipped: tar,lfs")(_lose("lfs.tar.gz")(files)),
        "it was made without lfs",
    ),
    "repositories elsewhere": (_replace(INFORMATION, b"server_side: false", b"server_side: true"), "own bucket"),
    "repositories limited": (
        _replace(INFORMATION, b":repositories_paths: ''", b":repositories_paths: grp"),
        "limited by REPOSITORIES_PATHS=grp",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_archive_is_red_and_the_culprit_is_named(name: str) -> None:
    change, culprit = BROKEN[name]
    found = archives.judge(change(archives.files()))
    assert re.search(culprit, "\n".join(found.problems)), found.problems


def test_one_wrong_ref_is_a_finding_that_a_remark_explains() -> None:
    """A push between Gitaly's list and its bundle looks the same, so it must not cost the backup."""
    files = _replace(step(ALPHA, "refs"), b"refs/tags/v1", b"refs/tags/v2")(archives.files())
    found = archives.judge(files)
    assert found.problems == ()
    assert [(finding.code, finding.count) for finding in found.findings] == [("repositories-moved", 1)]
    assert ALPHA in found.remarks[0]
    assert ALPHA not in found.findings[0].message


def test_repositories_that_gitlab_completed_must_be_there() -> None:
    judge = archives.new_judge()
    judge.completed = frozenset({("default", "@hashed/aa/aa/aa.git")})
    found = archives.judge(archives.files(), judge)
    assert found.problems == (
        "repository default/@hashed/aa/aa/aa.git has no manifest of this backup, so a restore would lose it",
    )


def test_a_member_that_gitlab_reported_must_be_there() -> None:
    judge = archives.new_judge()
    judge.members = ("registry.tar.gz",)
    assert archives.judge(archives.files(), judge).problems == ("registry.tar.gz is missing",)


def test_the_registry_must_be_there_where_it_is_switched_on() -> None:
    judge = archives.new_judge()
    judge.disabled = ()
    assert archives.judge(archives.files(), judge).problems == ("registry.tar.gz is missing",)


def _increment() -> Files:
    """As GitLab 18.9 with Gitaly 16.11 makes it: only what changed gets a manifest, and nobody says so."""
    files = archives.files()
    text = files[INFORMATION].replace(b":full_backup_id:", b":full_backup_id: " + OBSERVED_ID.encode())
    files[INFORMATION] = text.replace(b":backup_id: " + OBSERVED_ID.encode(), b":backup_id: " + OTHER_ID.encode())
    refs, folder = files[step(ALPHA, "refs")], f"repositories/{ALPHA}/{OTHER_ID}"
    new = refs.replace(b"refs/tags/v1\n", b"refs/tags/v1\n" + b"2" * 40 + b" refs/tags/v2\n")
    pack = files[step(ALPHA, "bundle")].split(b"\n\n", 1)[1]
    files[f"{folder}/002.refs"] = new
    files[f"{folder}/002.bundle"] = (
        b"# v2 git bundle\n-" + refs[:40] + b" one\n" + b"2" * 40 + b" refs/tags/v2\n\n" + pack
    )
    files[manifest(ALPHA, OTHER_ID)] = (
        files[manifest(ALPHA)]
        + (
            f"\n[[steps]]\nbundle_path = '{ALPHA}/{OTHER_ID}/002.bundle'\nref_path = '{ALPHA}/{OTHER_ID}/002.refs'\n"
            f"previous_ref_path = '{ALPHA}/{OBSERVED_ID}/001.refs'\n"
        ).encode()
    )
    files[f"repositories/{BETA}/{OTHER_ID}/002.refs"] = files[step(BETA, "refs")]
    files[f"repositories/{BETA}/{OTHER_ID}/002.bundle"] = b"# v2 git bundle\n\n"
    return files


def _repositories() -> list[str]:
    return [name.split("/", 2)[2].rpartition("/")[0] for name in archives.files() if name.endswith("+latest.toml")]


def test_an_increment_whose_unchanged_repositories_have_no_manifest_is_red() -> None:
    found = archives.judge(_increment(), archives.new_judge(OTHER_ID))
    lost = [name for name in _repositories() if name != ALPHA]
    assert len(lost) == 5
    assert sorted(found.problems) == sorted(
        f"repository {name} has no manifest of this backup, so a restore would lose it" for name in lost
    )


def _whole_increment() -> Files:
    files = _increment()
    for name in _repositories():
        files.setdefault(manifest(name, OTHER_ID), files[manifest(name)])
    return files


def test_an_increment_that_has_every_manifest_is_a_finding() -> None:
    found = archives.judge(_whole_increment(), archives.new_judge(OTHER_ID))
    assert found.problems == ()
    assert [finding.code for finding in found.findings] == ["incremental"]
    assert found.census is not None
    assert found.census.repositories[ALPHA].refs == 6


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (_lose(step(ALPHA, "bundle")), r"001\.bundle is missing"),
        (_lose(f"repositories/{ALPHA}/{OTHER_ID}/002.bundle"), r"002\.bundle is missing"),
        (
            _replace(f"repositories/{ALPHA}/{OTHER_ID}/002.bundle", b"refs/tags/v2", b"refs/tags/v3"),
            "its bundle holds other refs",
        ),
        (
            lambda files: {**files, f"repositories/{ALPHA}/{OTHER_ID}/002.bundle": b"# v2 git bundle\n\n"},
            r"002\.bundle holds nothing",
        ),
    ],
)
def test_a_broken_chain_is_red(change: Callable[[Files], Files], culprit: str) -> None:
    found = archives.judge(change(_whole_increment()), archives.new_judge(OTHER_ID))
    assert re.search(f"repository {ALPHA}: .*{culprit}", "\n".join(found.problems)), found.problems


def test_a_database_cut_at_any_place_is_red() -> None:
    files = archives.files()
    whole = sql(files)
    marks = [found.start() for found in re.finditer(rb"\n(?:COPY|\\\.|--|SET|CREATE|ALTER)", whole)]
    for cut in random.Random(1).sample(marks, 40):
        found = archives.judge(archives.with_database({INFORMATION: files[INFORMATION]}, whole[:cut]))
        assert any(problem.startswith(DATABASE) for problem in found.problems), cut
        assert found.census is None


def test_a_second_database_is_judged_and_counted_too() -> None:
    files = archives.files()
    files["db/ci_database.sql.gz"] = files[DATABASE]
    found = archives.judge(files)
    assert found.problems == ()
    assert found.census is not None
    assert found.census.tables["ci:public.users"] == found.census.tables["public.users"] == 120
    assert found.census.users == 120
    files["db/ci_database.sql.gz"] = gzip.compress(sql(files)[:1000])
    assert archives.judge(files).problems[0].startswith("db/ci_database.sql.gz breaks off")


def test_what_every_problem_is_about_is_told_at_once() -> None:
    files = archives.files()
    for name in ("lfs.tar.gz", "uploads.tar.gz", step(ALPHA, "bundle")):
        files[name] = files[name][:-3]
    text = "\n".join(archives.judge(files).problems)
    assert all(name in text for name in ("lfs.tar.gz", "uploads.tar.gz", ALPHA))


def _information(version: str, skipped: str) -> BackupInformation:
    text = f":db_version: '1'\n:backup_created_at: 2020-01-01 00:00:00 Z\n:gitlab_version: {version}\n"
    return parse_backup_information(f"{text}:skipped: {skipped}\n".encode())


UPGRADE = "repositories,uploads,builds,artifacts,lfs,registry,pages"


@pytest.mark.parametrize(
    ("version", "skipped", "expected"),
    [
        ("18.9.0-ee", "", "everything"),
        ("18.9.0-ee", "tar,remote", "everything"),
        ("9.5.10", "", "everything"),
        ("9.5.10", UPGRADE, "database only"),
        ("8.17.8", "repositories,uploads,builds,artifacts,lfs,registry", "database only"),
        ("18.9.0", f"{UPGRADE},terraform_state,packages,ci_secure_files,external_diffs", "database only"),
        ("18.9.0", "db", "no database"),
        ("18.9.0", "registry", "parts"),
    ],
)
def test_what_an_archive_is_of_is_told_by_what_was_skipped(version: str, skipped: str, expected: str) -> None:
    assert contents_of(_information(version, skipped)) == expected


def test_the_archive_of_a_package_upgrade_is_told_apart() -> None:
    files = archives.files()
    skipped = f":skipped: {UPGRADE},terraform_state,packages,ci_secure_files,external_diffs".encode()
    information = files[INFORMATION].replace(b":skipped: ''", skipped)
    found = archives.judge({INFORMATION: information, DATABASE: files[DATABASE]})
    assert found.problems == ("it holds the database only, as a package upgrade makes it",)
    assert found.census is not None
    assert len(found.census.projects) == 3
