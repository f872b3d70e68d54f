"""Fill a fresh sandbox with a small, complete and always equal GitLab instance."""

from __future__ import annotations

import json
from collections.abc import Iterator

from drtool.demo import seed_files, seed_rows, seed_sql
from drtool.demo.ciphers import Keys
from drtool.demo.encrypter import Encrypter
from drtool.demo.layout import Instance
from drtool.demo.population import Population
from drtool.demo.seed_files import StoredFile
from drtool.demo.seed_repositories import seed_repositories


def seed(host: Instance, *, projects: int = 24, events: int = 400, bulk_bytes: int = 0) -> None:
    """Make tables, rows, repositories and files, encrypted with the host's own gitlab-secrets.json.

    Two hosts with the same secrets end up the same. ``events`` is how many rows the largest table gets; ``bulk_bytes``
    adds that much incompressible upload. Not for a host that holds tables or repositories already: the first statement
    fails, and nothing is changed.
    """
    secrets = json.loads(host.gitlab_secrets.read_text(encoding="utf-8"))
    keys, population = Keys.of(secrets), Population(projects)
    signing_key = secrets["gitlab_rails"]["openid_connect_signing_key"]
    rows = seed_rows.tables(population, Encrypter(keys), oidc_signing_key=signing_key, events=events)
    host.sql(seed_sql.script(rows))
    seed_repositories(host.repository_path, population)
    seed_files.write_files(host.data, _files(population, keys, bulk_bytes))


def _files(population: Population, keys: Keys, bulk_bytes: int) -> Iterator[StoredFile]:
    yield from seed_files.uploads(population)
    yield from seed_files.lfs_objects()
    yield from seed_files.artifacts(population)
    yield from seed_files.terraform_states(population, keys.db_key_bases[-1])
    yield from seed_files.other_files(population)
    yield from seed_files.bulk(bulk_bytes)
