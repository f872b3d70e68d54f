"""The rows of the seeded instance, table by table in the order of their foreign keys."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from drtool.demo import seed_files
from drtool.demo.encrypter import Encrypter
from drtool.demo.migrations import migrations
from drtool.demo.population import Population, Project, made_bytes
from drtool.demo.seed_secret_rows import automation_tables, instance_tables
from drtool.demo.seed_sql import Cell, Table

_BEGINNING = datetime(2025, 1, 9, 12, tzinfo=UTC)


def tables(population: Population, encrypt: Encrypter, *, oidc_signing_key: str, events: int = 400) -> Iterator[Table]:
    """Yield every table that gets rows."""
    yield Table("schema_migrations", "version", ((version,) for version in migrations()))
    environment = ("environment", "production", _BEGINNING, _BEGINNING)
    yield Table("ar_internal_metadata", "key value created_at updated_at", [environment])
    yield from instance_tables(encrypt, oidc_signing_key)
    yield from _people(population, encrypt)
    yield from _repositories(population)
    yield from _collaboration(population, events)
    yield from automation_tables(encrypt, population)
    yield from _files(population)
    yield from _partitioned()


def _people(population: Population, encrypt: Encrypter) -> Iterator[Table]:
    otp = {2: encrypt.otp("users/2/otp", "FAKEOTPSECRETBASE32AAAAAAAAAAAAA")}
    yield Table(
        "users",
        "id username name email encrypted_password admin created_at otp_required_for_login "
        "encrypted_otp_secret encrypted_otp_secret_iv encrypted_otp_secret_salt",
        (
            (
                *(user.id, user.username, user.name, user.email, _bcrypt(user.id), user.id == 1, _day(user.id)),
                user.id in otp,
                *otp.get(user.id, (None, None, None)),
            )
            for user in population.users
        ),
    )
    yield Table(
        "keys",
        "id user_id key title type usage_type",
        ((user.id, user.id, _public_key(user.id), f"laptop {user.id}", None, 0) for user in population.users[:12]),
    )
    yield Table(
        "namespaces",
        "id name path owner_id parent_id type traversal_ids runners_token_encrypted",
        (
            *(
                (user.id, user.name, user.username, user.id, None, "User", (user.id,), None)
                for user in population.users
            ),
            *(
                (
                    *(group.id, group.name, group.path, None, group.parent_id, "Group", group.traversal_ids),
                    encrypt.token(f"fake-group-token-{group.id}"),
                )
                for group in population.groups
            ),
        ),
    )
    yield Table(
        "projects",
        "id name path description namespace_id creator_id archived visibility_level runners_token_encrypted created_at",
        (
            (
                *(project.id, project.name, project.path, _description(project), project.namespace_id, 1),
                *(project.archived, (0, 10, 20)[project.id % 3], _project_token(encrypt, project), _day(project.id)),
            )
            for project in population.projects
        ),
    )
    yield Table("routes", "id source_type source_id path name", _routes(population))


def _partitioned() -> Iterator[Table]:
    yield Table(
        "web_hook_logs",
        "id created_at url response_status",
        (
            (
                number,
                datetime(2026, 1, 5, tzinfo=UTC) + timedelta(days=number),
                f"https://hooks.example.com/{number}",
                "200",
            )
            for number in range(1, 51)
        ),
    )
    yield Table("analytics", "namespace_id v", ((number, number * number) for number in range(1, 61)))


def _repositories(population: Population) -> Iterator[Table]:
    projects, snippets = population.projects, population.snippets
    yield Table(
        "project_repositories",
        "id project_id shard_name disk_path",
        ((project.id, project.id, "default", project.disk_path) for project in projects),
    )
    for name, chosen in (
        ("project_wiki_repositories", [project.id for project in projects if project.has_wiki]),
        ("design_management_repositories", [project.id for project in projects if project.has_designs]),
    ):
        yield Table(name, "id project_id", enumerate(chosen, start=1))
    yield Table("pool_repositories", "id state disk_path source_project_id", ())
    yield Table(
        "snippets",
        "id title author_id project_id type",
        (
            (snippet.id, snippet.title, snippet.author_id, snippet.project_id, _snippet_type(snippet.project_id))
            for snippet in snippets
        ),
    )
    yield Table(
        "snippet_repositories",
        "snippet_id shard_name disk_path",
        ((snippet.id, "default", snippet.disk_path) for snippet in snippets),
    )


def _collaboration(population: Population, events: int) -> Iterator[Table]:
    projects, users = population.projects, population.users
    issues = [(number, projects[number % len(projects)].id) for number in range(1, 251)]
    yield Table(
        "issues",
        "id project_id iid author_id title description created_at",
        (
            (number, project, number, users[number % len(users)].id, f"Issue {number}", _prose(number), _day(number))
            for number, project in issues
        ),
    )
    yield Table(
        "merge_requests",
        "id target_project_id iid author_id source_branch target_branch title state_id created_at",
        (
            (project.id, project.id, 1, 1, "chart", "main", f"Draw the chart of {project.name}", 1, _day(project.id))
            for project in projects
            if not project.is_empty
        ),
    )
    yield Table(
        "notes",
        "id noteable_type noteable_id author_id project_id note created_at",
        (
            (
                2 * issue + turn,
                "Issue",
                issue,
                users[(issue + turn) % len(users)].id,
                project,
                _prose(issue),
                _day(issue),
            )
            for issue, project in issues
            for turn in (0, 1)
        ),
    )
    yield Table(
        "events",
        "id project_id author_id action target_type target_id created_at",
        (
            (
                number,
                projects[number % len(projects)].id,
                users[number % len(users)].id,
                1,
                "Issue",
                number,
                _day(number),
            )
            for number in range(1, events + 1)
        ),
    )


def _files(population: Population) -> Iterator[Table]:
    yield Table(
        "lfs_objects",
        "id oid size file",
        ((file.number, file.sha256, len(file.content), file.sha256[4:]) for file in seed_files.lfs_objects()),
    )
    yield Table(
        "uploads",
        "id size path checksum model_id model_type uploader",
        (
            (
                *(number, len(file.content), "/".join(file.path.split("/")[-2:]), file.sha256),
                *(
                    (file.project_id, "Project", "FileUploader")
                    if file.project_id
                    else (1, "Appearance", "AttachmentUploader")
                ),
            )
            for number, file in enumerate(seed_files.uploads(population), start=1)
        ),
    )
    yield Table(
        "ci_job_artifacts",
        "id project_id job_id file_type size file file_sha256",
        (
            (
                file.project_id,
                file.project_id,
                file.number,
                1,
                len(file.content),
                "artifacts.zip",
                bytes.fromhex(file.sha256),
            )
            for file in seed_files.artifacts(population)
        ),
    )


def _routes(population: Population) -> Iterator[Sequence[Cell]]:
    sources: list[tuple[str, int, str, str]] = [
        *(("Namespace", user.id, user.username, user.name) for user in population.users),
        *(("Namespace", group.id, group.full_path, group.name) for group in population.groups),
        *(("Project", project.id, project.full_path, project.name) for project in population.projects),
    ]
    return ((number, *source) for number, source in enumerate(sources, start=1))


def _project_token(encrypt: Encrypter, project: Project) -> str:
    token = f"fake-project-token-{project.id}"
    return encrypt.static_token(token) if project.id % 2 else encrypt.token(token)


def _snippet_type(project_id: int | None) -> str:
    return "PersonalSnippet" if project_id is None else "ProjectSnippet"


def _day(number: int) -> datetime:
    return _BEGINNING + timedelta(days=number % 360, minutes=number)


def _bcrypt(number: int) -> str:
    """Make something that looks like bcrypt and is the hash of nothing."""
    return "$2a$10$" + base64.b64encode(made_bytes(f"password/{number}", 40)).decode().replace("+", ".")[:53]


def _public_key(number: int) -> str:
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0 " + made_bytes(f"key/{number}", 32)
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} user{number}@example.com"


def _description(project: Project) -> str:
    return f"{project.name}:\twith a tab,\na newline, a \\ backslash and a literal \\N" if project.id == 2 else ""


def _prose(number: int) -> str:
    words = ("anchor", "tide", "ledger", "mañana", "grüße", "wind", "chart", "日本")
    return " ".join(words[(number * step) % len(words)] for step in range(1, 4 + number % 40))
