"""Fill a fresh sandbox with a small, complete and always equal GitLab instance."""

from __future__ import annotations

import json
from collections.abc import Iterator

from drtool.demo import seed_files, seed_rows, seed_sql
from drtool.demo.ciphers import Keys
from drtool.demo.encrypter import Encrypter
from drtool.demo.population import Population
from drtool.demo.sandbox import Sandbox
from drtool.demo.seed_files import StoredFile
from drtool.demo.seed_repositories import seed_repositories


def seed(sandbox: Sandbox, *, projects: int = 24, bulk_bytes: int = 0) -> None:
    """Make tables, rows, repositories and files, encrypted with the sandbox's own gitlab-secrets.json.

    Two sandboxes with the same secrets end up the same. ``bulk_bytes`` adds that much incompressible upload.
    Not for a sandbox that holds tables or repositories already: the first statement fails, and nothing is changed.
    """
    secrets = json.loads(sandbox.gitlab_secrets.read_text(encoding="utf-8"))
    keys, population = Keys.of(secrets), Population(projects)
    signing_key = secrets["gitlab_rails"]["openid_connect_signing_key"]
    rows = seed_rows.tables(population, Encrypter(keys), oidc_signing_key=signing_key)
    sandbox.sql(seed_sql.script(rows))
    seed_repositories(sandbox, population)
    seed_files.write_files(sandbox.data, _files(population, keys, bulk_bytes))


def _files(population: Population, keys: Keys, bulk_bytes: int) -> Iterator[StoredFile]:
    yield from seed_files.uploads(population)
    yield from seed_files.lfs_objects()
    yield from seed_files.artifacts(population)
    yield from seed_files.terraform_states(population, keys.db_key_bases[-1])
    yield from seed_files.other_files(population)
    yield from seed_files.bulk(bulk_bytes)
