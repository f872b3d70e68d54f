"""The rows that exist for their encrypted columns (settings, keys, runners, variables, hooks, integrations), and what
GitLab does by itself.

Between them they hold every layout that GitLab 18.9 uses by default (see ``ciphers``).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from drtool.demo.encrypter import Encrypter
from drtool.demo.population import Population, made_bytes
from drtool.demo.seed_sql import Table

_BEGINNING = datetime(2025, 1, 9, 12, tzinfo=UTC)


def instance_tables(encrypt: Encrypter, oidc_signing_key: str) -> Iterator[Table]:
    jwt, job = (f"-----BEGIN FAKE KEY-----\n{made_bytes(kind, 600).hex()}\n" for kind in ("jwt", "job token"))
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
            (1, _BEGINNING, encrypt.enveloped_json("cloud_connector_keys/1", oidc_signing_key)),
            (2, _BEGINNING + timedelta(days=1), encrypt.enveloped_json("cloud_connector_keys/2", jwt)),
        ],
    )
    yield Table(
        "ci_runners",
        "id description runner_type active token_encrypted",
        [(number, f"runner {number}", 1, number != 3, encrypt.token(f"fake-runner-{number}")) for number in (1, 2, 3)],
    )


def automation_tables(encrypt: Encrypter, population: Population) -> Iterator[Table]:
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
    # One of each is switched off.
    yield Table(
        "ci_pipeline_schedules",
        "id description ref cron project_id active",
        ((number, f"nightly {number}", "main", "0 3 * * *", number, number != 2) for number in (1, 2, 3)),
    )
    yield Table(
        "remote_mirrors",
        "id project_id url enabled",
        ((number, number, f"https://mirror.example.com/{number}.git", number != 2) for number in (1, 2, 3)),
    )
    yield Table(
        "web_hooks",
        "id project_id type push_events issues_events encrypted_url encrypted_url_iv "
        "encrypted_token encrypted_token_iv encrypted_url_variables encrypted_url_variables_iv",
        (
            (
                *((number, None, "SystemHook") if number == 4 else (number, project.id, "ProjectHook")),
                *(number != 2, number > 1),
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
