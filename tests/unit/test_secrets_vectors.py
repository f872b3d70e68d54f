"""Every value that GitLab's own Ruby gems wrote is opened, in the row that PostgreSQL made of it, by its key alone."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from drtool.gitlab.secrets import ColumnCount, SecretsCheck, read_secrets
from drtool.gitlab.secrets.keyring import BaseKey
from drtool.gitlab.secrets.values import Candidate

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "data" / "vectors" / "gitlab-secrets.json").read_text(encoding="utf-8")
)["vectors"]
ROWS = [vector for vector in VECTORS if "copy_line" in vector]
FILES = [vector for vector in VECTORS if "file_hex" in vector]

SCHEMES = {
    "gcm_iv_text": "GCM, base64 text",
    "gcm_iv_default": "GCM, base64 text",
    "gcm_truncated_text": "GCM, base64 text",
    "gcm_hmac_class": "GCM, base64 text",
    "gcm_raw_raw_bytea": "GCM, bytea",
    "marshal_json_gcm_bytea": "GCM, bytea",
    "marshal_json_empty_gcm_bytea": "GCM, bytea",
    "gcm_raw_b64iv_bytea": "GCM, bytea, IV in base64",
    "gcm_b64_b64_bytea": "GCM, base64 in bytea",
    "cbc_iv_salt_text": "CBC, salted",
    "marshal_ruby_cbc_salt": "CBC, salted",
    "otp_cbc_iv_salt": "CBC, salted",
    "cbc_truncated_text": "CBC",
    "token_static_iv": "token, nonce of the key",
    "token_dynamic_nonce": "token, nonce of its own",
    "are_default": "Rails",
    "are_envelope": "Rails, envelope",
    "are_deterministic": "Rails, deterministic",
}
every_row = pytest.mark.parametrize("vector", ROWS, ids=[vector["name"] for vector in ROWS])


def secret_of(vector: dict[str, Any]) -> dict[str, Any]:
    if vector["scheme"] != "gcm_hmac_class":
        return dict(vector["secret"])
    # A helper class of GitLab's makes a key base of its own from the real one.
    return {"db_key_base": hmac.digest(vector["secret"]["db_key_base"].encode(), b"MyClass", "sha256").hex()[:32]}


def another(secret: dict[str, Any]) -> dict[str, Any]:
    """The same shape, other values, as if GitLab had generated it anew."""
    return {
        name: [other_text(text) for text in value] if isinstance(value, list) else other_text(value)
        for name, value in secret.items()
    }


def other_text(text: str) -> str:
    return "fake" + hashlib.sha256(text.encode()).hexdigest() * 2


def bytea_escaped(line: str) -> str:
    """What pg_dump makes of the row where ``bytea_output = escape``."""
    return "\t".join(_octal(field) if field.startswith("\\\\x") else field for field in line.split("\t"))


def _octal(field: str) -> str:
    plain = bytes.fromhex(field[3:])
    escaped = "".join(
        "\\\\" if byte == 0x5C else chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}" for byte in plain
    )
    return escaped.replace("\\", "\\\\")


def count(vector: dict[str, Any], secret: dict[str, Any], line: str = "") -> ColumnCount:
    header = tuple(vector["copy_columns"])
    if vector["scheme"] == "otp_cbc_iv_salt":
        header = tuple(name.replace("encrypted_value", "encrypted_otp_secret") for name in header)
    check = SecretsCheck(read_secrets(secrets_json=json.dumps({"gitlab_rails": secret}).encode()))
    sink = check.begin_table("public.vectors", header)
    assert sink is not None
    sink.take([(line or vector["copy_line"]).encode()])
    (found,) = check.finish().columns
    return found


@every_row
def test_a_row_of_the_gems_is_opened_by_its_secret_and_its_scheme_is_told(vector: dict[str, Any]) -> None:
    found = count(vector, secret_of(vector))
    assert (found.opened, found.failed, found.scheme) == (1, 0, SCHEMES[vector["scheme"]])


@every_row
def test_a_row_of_the_gems_is_not_opened_by_a_regenerated_secret(vector: dict[str, Any]) -> None:
    found = count(vector, another(secret_of(vector)))
    assert (found.opened, found.failed) == (0, 1)


BYTEA = [vector for vector in ROWS if vector["table"] == "vec_bytea"]


@pytest.mark.parametrize("vector", BYTEA, ids=[vector["name"] for vector in BYTEA])
def test_bytea_is_read_in_octal_digits_too(vector: dict[str, Any]) -> None:
    line = bytea_escaped(vector["copy_line"])
    assert line != vector["copy_line"]
    found = count(vector, secret_of(vector), line)
    assert (found.opened, found.failed, found.scheme) == (1, 0, SCHEMES[vector["scheme"]])


def test_each_element_of_a_list_opens_what_it_sealed_and_is_named() -> None:
    named = {
        vector["which_key"]: dict(count(vector, vector["secret"]).opened_with)
        for vector in ROWS
        if isinstance(vector["secret"].get("db_key_base"), list)
    }
    assert named == {
        "old": {"db_key_base, value 1 of 2, in gitlab-secrets.json": 1},
        "current": {"db_key_base, value 2 of 2, in gitlab-secrets.json": 1},
    }


@pytest.mark.parametrize("changed", ["primary_key", "deterministic_key", "key_derivation_salt"])
def test_each_of_the_three_secrets_of_rails_is_noticed_alone(changed: str) -> None:
    opened: dict[str, set[int]] = {}
    for vector in ROWS:
        if vector["scheme"].startswith("are_"):
            name = f"active_record_encryption_{changed}"
            found = count(vector, {**vector["secret"], **another({name: vector["secret"][name]})})
            opened.setdefault(vector["scheme"], set()).add(found.opened)
    assert opened == {
        "are_default": {int(changed == "deterministic_key")},
        "are_envelope": {int(changed == "deterministic_key")},
        "are_deterministic": {int(changed == "primary_key")},
    }


@pytest.mark.parametrize("vector", FILES, ids=[vector["name"] for vector in FILES])
def test_a_file_of_lockbox_is_opened_by_its_secret_in_its_place_alone(vector: dict[str, Any]) -> None:
    content, context = bytes.fromhex(vector["file_hex"]), vector["context"]
    key = BaseKey(Candidate(vector["secret"]["db_key_base"], "db_key_base"))
    assert key.opens_file(content, context)
    assert not key.opens_file(content, "pipeline_artifact:43")
    assert not key.opens_file(content[:-1], context)
    assert not key.opens_file(content[:5], context)
    assert not BaseKey(Candidate("another-fake-key-base" * 6, "db_key_base")).opens_file(content, context)


def test_every_vector_is_covered_above() -> None:
    assert {vector["scheme"] for vector in ROWS} == SCHEMES.keys()
    assert len(ROWS) + len(FILES) == len(VECTORS)
