"""The rows of the seeded instance, as one SQL script with ``COPY``.

Every encrypted column is filled with the keys given; nonces come from the names of table, row and column.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources

from drtool.demo import ciphers, seed_files
from drtool.demo.ciphers import BLOCK_SIZE, NONCE_SIZE, Columns, Keys
from drtool.demo.population import Population, Project, made_bytes

Cell = None | bool | int | str | bytes | datetime | tuple[int, ...]

_BEGINNING = datetime(2025, 1, 9, 12, tzinfo=UTC)
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"})


@dataclass(frozen=True, slots=True)
class Table:
    """Rows for ``COPY``; ``name`` is without its schema, ``columns`` is one string with blanks between."""

    name: str
    columns: str
    rows: Iterable[Sequence[Cell]]


def script(population: Population, keys: Keys, *, oidc_signing_key: str) -> str:
    """Write the whole script: tables, rows, sequences, in one transaction."""
    schema = resources.files("drtool.demo").joinpath("schema.sql").read_text(encoding="utf-8")
    parts = ["BEGIN;\n", "SET client_min_messages = warning;\n", schema]
    for table in (*_instance(keys, oidc_signing_key), *_people(population, keys), *_work(population, keys)):
        parts.append(f"COPY public.{table.name} ({', '.join(table.columns.split())}) FROM stdin;\n")
        parts += ["\t".join(map(_cell, row)) + "\n" for row in table.rows]
        parts.append("\\.\n")
    return "".join([*parts, _SEQUENCES, "COMMIT;\n"])


# COPY does not advance sequences; without this the first row that a user makes would meet a taken id.
_SEQUENCES = """
DO $$
DECLARE
  owned record;
BEGIN
  FOR owned IN
    SELECT t.oid::regclass AS name, pg_get_serial_sequence(t.oid::regclass::text, 'id') AS sequence
    FROM pg_class t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = 'id'
    WHERE t.relnamespace = 'public'::regnamespace AND t.relkind IN ('r', 'p')
  LOOP
    IF owned.sequence IS NOT NULL THEN
      EXECUTE format('SELECT setval(%L, greatest(max(id), 1), count(*) > 0) FROM %s', owned.sequence, owned.name);
    END IF;
  END LOOP;
END
$$;
"""


class _Encrypter:
    """Encrypts for one named place; every ciphertext of the instance has a nonce of its own."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._key_base = keys.db_key_bases[-1]
        self._rails_key = ciphers.rails_key(keys.rails_primary_keys[-1], keys.rails_salt)

    def text(self, place: str, plaintext: str) -> tuple[Cell, Cell]:
        columns = ciphers.encrypt_gcm_text(plaintext.encode(), self._key_base, made_bytes(place, NONCE_SIZE))
        return columns.value, columns.iv

    def binary(self, place: str, plaintext: str) -> tuple[Cell, Cell]:
        columns = ciphers.encrypt_gcm_bytea(plaintext.encode(), self._key_base, made_bytes(place, NONCE_SIZE))
        return columns.value, columns.iv

    def salted(self, place: str, plaintext: str) -> tuple[Cell, Cell, Cell]:
        return self._cbc(place, plaintext, self._key_base)

    def otp(self, place: str, plaintext: str) -> tuple[Cell, Cell, Cell]:
        return self._cbc(place, plaintext, self._keys.otp_key_base)

    def token(self, token: str) -> str:
        return ciphers.encrypt_token(token, self._key_base)

    def static_token(self, token: str) -> str:
        return ciphers.encrypt_token_static(token, self._key_base)

    def json(self, place: str, plaintext: str) -> str:
        nonce = made_bytes(place, NONCE_SIZE)
        return ciphers.as_jsonb(ciphers.encrypt_rails(json.dumps(plaintext).encode(), self._rails_key, nonce))

    def enveloped_json(self, place: str, plaintext: str) -> str:
        message = ciphers.encrypt_rails_envelope(
            json.dumps(plaintext).encode(),
            self._rails_key,
            made_bytes(place, NONCE_SIZE),
            data_key=made_bytes(f"{place}/data key", 32),
            data_key_nonce=made_bytes(f"{place}/data key nonce", NONCE_SIZE),
        )
        return ciphers.as_jsonb(message)

    def _cbc(self, place: str, plaintext: str, key_base: str) -> tuple[Cell, Cell, Cell]:
        iv, salt = made_bytes(f"{place}/iv", BLOCK_SIZE), made_bytes(f"{place}/salt", BLOCK_SIZE)
        columns: Columns = ciphers.encrypt_cbc_salted(plaintext.encode(), key_base, iv, salt)
        return columns.value, columns.iv, columns.salt


def _instance(keys: Keys, oidc_signing_key: str) -> Iterator[Table]:
    encrypt = _Encrypter(keys)
    jwt, job = (f"-----BEGIN FAKE KEY-----\n{made_bytes(kind, 600).hex()}\n" for kind in ("jwt", "job token"))
    yield Table("schema_migrations", "version", ((version,) for version in _migrations()))
    yield Table("ar_internal_metadata", "key value created_at updated_at", [_metadata("environment", "production")])
    yield Table(
        "application_settings",
        "id uuid authorized_keys_enabled runners_registration_token_encrypted error_tracking_access_token_encrypted "
        "encrypted_ci_jwt_signing_key encrypted_ci_jwt_signing_key_iv "
        "encrypted_ci_job_token_signing_key encrypted_ci_job_token_signing_key_iv asset_proxy_secret_key created_at",
        [
            (
                1,
                "2b0d9f6e-0000-4000-8000-00000000feed",
                True,
                encrypt.token("fake-runners-registration-token"),
                encrypt.static_token("fake-error-tracking-token"),
                *encrypt.text("application_settings/jwt", jwt),
                *encrypt.binary("application_settings/job", job),
                encrypt.json("application_settings/asset proxy", "fake-asset-proxy-secret"),
                _BEGINNING,
            )
        ],
    )
    # GitLab 17.9 filled its first key from the OpenID signing key of the secrets file.
    yield Table(
        "cloud_connector_keys",
        "id created_at secret_key",
        [
            (1, _day(1), encrypt.enveloped_json("cloud_connector_keys/1", oidc_signing_key)),
            (2, _day(2), encrypt.enveloped_json("cloud_connector_keys/2", jwt)),
        ],
    )
    yield Table(
        "ci_runners",
        "id description runner_type active token_encrypted",
        [(number, f"runner {number}", 1, number != 3, encrypt.token(f"fake-runner-{number}")) for number in (1, 2, 3)],
    )


def _people(population: Population, keys: Keys) -> Iterator[Table]:
    encrypt = _Encrypter(keys)
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


def _work(population: Population, keys: Keys) -> Iterator[Table]:
    yield from _repositories(population)
    yield from _collaboration(population)
    yield from _automation(population, keys)
    yield from _files(population)
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


def _collaboration(population: Population) -> Iterator[Table]:
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
            for number in range(1, 401)
        ),
    )


def _automation(population: Population, keys: Keys) -> Iterator[Table]:
    encrypt = _Encrypter(keys)
    projects = population.projects
    # One variable is empty: GitLab stores that as an empty string without IV and salt, not as ciphertext.
    variables = [(project, ("DEPLOY_PASSWORD", "fake 密码\twith a tab")) for project in projects[::3]]
    yield Table(
        "ci_variables",
        "id key encrypted_value encrypted_value_iv encrypted_value_salt project_id protected masked",
        (
            *(
                (number, key, *encrypt.salted(f"ci_variables/{number}", value), project.id, True, True)
                for number, (project, (key, value)) in enumerate(variables, start=1)
            ),
            (len(variables) + 1, "EMPTY", "", None, None, projects[0].id, False, False),
        ),
    )
    yield Table(
        "ci_group_variables",
        "id key encrypted_value encrypted_value_iv encrypted_value_salt group_id",
        (
            (number, "REGISTRY_TOKEN", *encrypt.salted(f"ci_group_variables/{number}", f"fake-{number}"), group.id)
            for number, group in enumerate(population.groups[:3], start=1)
        ),
    )
    yield Table(
        "web_hooks",
        "id project_id encrypted_url encrypted_url_iv encrypted_token encrypted_token_iv "
        "encrypted_url_variables encrypted_url_variables_iv",
        (
            (
                *(number, project.id),
                *encrypt.text(f"web_hooks/{number}/url", f"https://hooks.example.com/{number}"),
                *encrypt.text(f"web_hooks/{number}/token", f"fake-hook-token-{number}"),
                *encrypt.binary(f"web_hooks/{number}/variables", "{}" if number == 1 else '{"stage":"fake"}'),
            )
            for number, project in enumerate(projects[:4], start=1)
        ),
    )
    yield Table(
        "integrations",
        "id project_id type_new active encrypted_properties encrypted_properties_iv",
        (
            (
                *(number, project.id, "Integrations::Jira", True),
                *encrypt.binary(f"integrations/{number}", '{"url":"https://jira.example.com","password":"fake"}'),
            )
            for number, project in enumerate(projects[:3], start=1)
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


def _cell(value: Cell) -> str:
    match value:
        case None:
            return "\\N"
        case bool():
            return "t" if value else "f"
        case bytes():
            return "\\\\x" + value.hex()
        case tuple():
            return "{" + ",".join(map(str, value)) + "}"
        case _:
            return str(value).translate(_ESCAPES)


def _migrations() -> Iterator[str]:
    """Yield versions as Rails has them, the last one of January 2026."""
    start = datetime(2023, 1, 2, 13, 11, tzinfo=UTC)
    return (
        (start + timedelta(days=4 * number, minutes=131 * number)).strftime("%Y%m%d%H%M00") for number in range(276)
    )


def _metadata(key: str, value: str) -> tuple[str, str, datetime, datetime]:
    return key, value, _BEGINNING, _BEGINNING


def _routes(population: Population) -> Iterator[Sequence[Cell]]:
    sources: list[tuple[str, int, str, str]] = [
        *(("Namespace", user.id, user.username, user.name) for user in population.users),
        *(("Namespace", group.id, group.full_path, group.name) for group in population.groups),
        *(("Project", project.id, project.full_path, project.name) for project in population.projects),
    ]
    return ((number, *source) for number, source in enumerate(sources, start=1))


def _project_token(encrypt: _Encrypter, project: Project) -> str:
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
