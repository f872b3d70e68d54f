"""Which columns of GitLab hold ciphertext: those known by name, and those that the header of a table gives away.

Names are of GitLab 8 to 18. A column that a later release adds is found by its companions (``encrypted_x`` beside
``encrypted_x_iv``) or by its name's end (``_encrypted``); Rails' own encryption is found by what the rows hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Family(StrEnum):
    """Secrets that open the same columns, and fit or do not fit together."""

    DB = "db_key_base"
    OTP = "otp_key_base"
    RAILS = "active_record_encryption"


class Kind(StrEnum):
    PAIR = "pair"  # a value, its IV and perhaps a salt, in columns of their own
    TOKEN = "token"  # noqa: S105  # one text
    MESSAGE = "message"  # JSON of Rails' own encryption


@dataclass(frozen=True, slots=True)
class Column:
    """Where in a row the fields of one encrypted value are. One that is not ``certain`` may hold something else."""

    table: str
    name: str
    kind: Kind
    family: Family
    value: int
    iv: int | None = None
    salt: int | None = None
    certain: bool = True


# Table -> columns, each with the schemes it has had, by their letters in ``layouts.Scheme``.
KNOWN: Final[Mapping[str, Mapping[str, str]]] = {
    "application_settings": {
        "asset_proxy_secret_key": "I",
        "encrypted_akismet_api_key": "A",
        "encrypted_asset_proxy_secret_key": "F",
        "encrypted_ci_job_token_signing_key": "B",
        "encrypted_ci_jwt_signing_key": "A",
        "encrypted_cloud_license_auth_token": "A",
        "encrypted_cube_api_key": "D",
        "encrypted_customers_dot_jwt_signing_key": "D",
        "encrypted_database_grafana_api_key": "B",
        "encrypted_eks_secret_access_key": "A",
        "encrypted_elasticsearch_aws_secret_access_key": "A",
        "encrypted_elasticsearch_password": "C",
        "encrypted_external_auth_client_key": "A",
        "encrypted_external_auth_client_key_pass": "A",
        "encrypted_lets_encrypt_private_key": "A",
        "encrypted_mailgun_signing_key": "C",
        "encrypted_recaptcha_private_key": "A",
        "encrypted_recaptcha_site_key": "A",
        "encrypted_secret_detection_service_auth_token": "B",
        "encrypted_slack_app_secret": "A",
        "encrypted_slack_app_signing_secret": "B",
        "encrypted_slack_app_verification_token": "A",
        "encrypted_spam_check_api_key": "C",
        "error_tracking_access_token_encrypted": "GH",
        "runners_registration_token_encrypted": "GH",
    },
    "ci_builds": {"token_encrypted": "GH"},
    "ci_group_variables": {"encrypted_value": "E"},
    "ci_instance_variables": {"encrypted_value": "AD"},
    "ci_job_variables": {"encrypted_value": "AD"},
    "ci_pipeline_schedule_variables": {"encrypted_value": "E"},
    "ci_pipeline_variables": {"encrypted_value": "E"},
    "ci_runners": {"token_encrypted": "GH"},
    "ci_variables": {"encrypted_value": "E"},
    "cloud_connector_keys": {"secret_key": "J"},
    "cluster_platforms_kubernetes": {"encrypted_password": "F", "encrypted_token": "F"},
    "clusters_kubernetes_namespaces": {"encrypted_service_account_token": "F"},
    "dast_site_profile_secret_variables": {"encrypted_value": "D"},
    "deploy_tokens": {"token_encrypted": "GH"},
    "integrations": {"encrypted_properties": "B"},
    "issue_tracker_data": {"encrypted_issues_url": "A", "encrypted_new_issue_url": "A", "encrypted_project_url": "A"},
    "jira_tracker_data": {
        "encrypted_api_url": "A",
        "encrypted_password": "A",
        "encrypted_url": "A",
        "encrypted_username": "A",
    },
    "namespaces": {"runners_token_encrypted": "GH"},
    "operations_feature_flags_clients": {"token_encrypted": "GH"},
    "pages_domains": {"encrypted_key": "E"},
    "project_import_data": {"encrypted_credentials": "E"},
    "projects": {"runners_token_encrypted": "GH"},
    "remote_mirrors": {"encrypted_credentials": "E"},
    "users": {"encrypted_otp_secret": "E", "static_object_token_encrypted": "GH"},
    "web_hooks": {
        "encrypted_custom_headers": "B",
        "encrypted_token": "A",
        "encrypted_url": "A",
        "encrypted_url_variables": "B",
    },
    "zentao_tracker_data": {"encrypted_api_token": "A", "encrypted_api_url": "A", "encrypted_url": "A"},
}
_PARTITION = re.compile(r"^(?:p_|(?:instance|group|project)_type_)?(.+?)(?:_\d+)?$")


def find_columns(table: str, header: tuple[str, ...]) -> Iterator[Column]:
    """Yield the encrypted columns of a table; ``table`` is as pg_dump writes it (``public.users``)."""
    known = KNOWN.get(_bare(table), {})
    at = {name: index for index, name in enumerate(header)}
    for name, value in at.items():
        if name.startswith("encrypted_") and f"{name}_iv" in at:
            family = Family.OTP if name == "encrypted_otp_secret" else Family.DB
            yield Column(table, name, Kind.PAIR, family, value, at[f"{name}_iv"], at.get(f"{name}_salt"))
        elif name.endswith("_encrypted"):
            yield Column(table, name, Kind.TOKEN, Family.DB, value, certain=name in known)
        elif known.get(name, "") in ("I", "J"):
            yield Column(table, name, Kind.MESSAGE, Family.RAILS, value)


def _bare(table: str) -> str:
    """Name the table that a partition belongs to, without its schema."""
    name = table.rpartition(".")[2].strip('"')
    if name in KNOWN:
        return name
    found = _PARTITION.match(name)
    return found[1] if found else name
