"""The sandbox's ciphers against values that GitLab's own Ruby gems wrote (see ``about`` in the vectors file)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from drtool.demo import ciphers
from drtool.demo.ciphers import CannotDecrypt, Columns, Keys

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "data" / "vectors" / "gitlab-secrets.json").read_text(encoding="utf-8")
)["vectors"]

GCM_TEXT = ("gcm_iv_text", "gcm_iv_default", "gcm_truncated_text")
GCM_BYTEA = ("gcm_raw_raw_bytea", "marshal_json_gcm_bytea", "marshal_json_empty_gcm_bytea")
GCM_BYTEA_ENCODED = ("gcm_raw_b64iv_bytea", "gcm_b64_b64_bytea")
CBC = ("cbc_iv_salt_text", "marshal_ruby_cbc_salt", "otp_cbc_iv_salt")
COLUMN_SCHEMES = (*GCM_TEXT, *GCM_BYTEA, *GCM_BYTEA_ENCODED, *CBC, "cbc_truncated_text")
TOKENS = ("token_static_iv", "token_dynamic_nonce")
RAILS = ("are_default", "are_envelope", "are_deterministic")


def vectors_of(*schemes: str) -> pytest.MarkDecorator:
    chosen = [vector for vector in VECTORS if vector["scheme"] in schemes]
    return pytest.mark.parametrize("vector", chosen, ids=[vector["name"] for vector in chosen])


def plaintext_of(vector: dict[str, Any]) -> bytes:
    if "plaintext_hex" in vector:
        return bytes.fromhex(vector["plaintext_hex"])
    return str(vector["plaintext"]).encode()


def key_base_of(vector: dict[str, Any]) -> str:
    """The element of the secret that encrypted this vector; rotation vectors say which one."""
    secret: str | list[str] = vector["secret"].get("db_key_base") or vector["secret"]["otp_key_base"]
    elements = [secret] if isinstance(secret, str) else secret
    if len(elements) == 1:
        return elements[0]
    return next(element for element in elements if ciphers.padded_key(element).hex() == vector["key_hex"])


def cell(text: str | None) -> str | bytes | None:
    return bytes.fromhex(text[1:].removeprefix("x")) if text is not None and text.startswith("\\") else text


def columns_of(vector: dict[str, Any]) -> Columns:
    stored = vector["stored"]
    value, iv, salt = (cell(stored.get("encrypted_value" + suffix)) for suffix in ("", "_iv", "_salt"))
    assert value is not None
    assert iv is not None
    assert not isinstance(salt, bytes)
    return Columns(value, iv, salt)


def rails_keys_of(vector: dict[str, Any]) -> list[bytes]:
    secret = vector["secret"]
    kind = "deterministic" if vector["scheme"] == "are_deterministic" else "primary"
    salt = secret["active_record_encryption_key_derivation_salt"]
    elements = secret[f"active_record_encryption_{kind}_key"]
    return [ciphers.rails_key(element, salt, vector["digest"]) for element in elements]


def rails_plaintext_of(vector: dict[str, Any]) -> bytes:
    """GitLab's jsonb columns encrypt JSON, so a string comes with its quotes."""
    if vector["table"] == "vec_jsonb":
        return json.dumps(vector["plaintext"], ensure_ascii=False).encode()
    return plaintext_of(vector)


def test_every_vector_is_covered_by_a_scheme_below() -> None:
    # gcm_hmac_class is a helper class of GitLab's that no CE column uses.
    untested = {vector["scheme"] for vector in VECTORS} - {*COLUMN_SCHEMES, *TOKENS, *RAILS, "lockbox_file"}
    assert untested == {"gcm_hmac_class"}


@vectors_of(*COLUMN_SCHEMES)
def test_columns_written_by_ruby_decrypt_to_their_plaintext(vector: dict[str, Any]) -> None:
    assert ciphers.decrypt_columns(columns_of(vector), key_base_of(vector)) == plaintext_of(vector)


@vectors_of(*COLUMN_SCHEMES)
def test_columns_do_not_decrypt_with_another_key(vector: dict[str, Any]) -> None:
    with pytest.raises(CannotDecrypt):
        ciphers.decrypt_columns(columns_of(vector), "another-fake-key-base" * 6)


@vectors_of(*GCM_TEXT)
def test_gcm_text_columns_come_out_as_ruby_writes_them(vector: dict[str, Any]) -> None:
    stored = columns_of(vector)
    nonce = base64.b64decode(stored.iv)
    assert ciphers.encrypt_gcm_text(plaintext_of(vector), key_base_of(vector), nonce) == stored


@vectors_of(*GCM_BYTEA)
def test_gcm_bytea_columns_come_out_as_ruby_writes_them(vector: dict[str, Any]) -> None:
    stored = columns_of(vector)
    assert isinstance(stored.iv, bytes)
    assert ciphers.encrypt_gcm_bytea(plaintext_of(vector), key_base_of(vector), stored.iv) == stored


@vectors_of(*CBC)
def test_salted_cbc_columns_come_out_as_ruby_writes_them(vector: dict[str, Any]) -> None:
    stored = columns_of(vector)
    assert stored.salt is not None
    iv, salt = base64.b64decode(stored.iv), base64.b64decode(stored.salt.removeprefix("_"))
    assert ciphers.encrypt_cbc_salted(plaintext_of(vector), key_base_of(vector), iv, salt) == stored


@vectors_of(*TOKENS)
def test_tokens_written_by_ruby_decrypt_and_only_with_their_key(vector: dict[str, Any]) -> None:
    stored = vector["stored"]["token_encrypted"]
    assert ciphers.decrypt_token(stored, key_base_of(vector)) == plaintext_of(vector)
    with pytest.raises(CannotDecrypt):
        ciphers.decrypt_token(stored, "another-fake-key-base" * 6)


@vectors_of(*TOKENS)
def test_tokens_come_out_as_ruby_writes_them(vector: dict[str, Any]) -> None:
    encrypt = ciphers.encrypt_token if vector["scheme"] == "token_dynamic_nonce" else ciphers.encrypt_token_static
    # The first releases wrapped the base64 of static tokens; today's form has no newline.
    expected = vector["stored"]["token_encrypted"].replace("\n", "")
    assert encrypt(plaintext_of(vector).decode(), key_base_of(vector)) == expected


@vectors_of(*RAILS)
def test_rails_messages_decrypt_with_one_of_the_keys(vector: dict[str, Any]) -> None:
    message = json.loads(vector["stored"]["secret"])
    opened = [plaintext for key in rails_keys_of(vector) if (plaintext := opened_or_none(message, key)) is not None]
    assert opened == [rails_plaintext_of(vector)]


@vectors_of(*RAILS)
def test_rails_messages_do_not_decrypt_with_a_key_of_another_salt(vector: dict[str, Any]) -> None:
    message = json.loads(vector["stored"]["secret"])
    assert opened_or_none(message, ciphers.rails_key("FakePrimaryKeyOldAAAAAAAAAAAAAAA", "another salt")) is None


@vectors_of(*RAILS)
def test_rails_messages_come_out_as_rails_and_postgresql_write_them(vector: dict[str, Any]) -> None:
    stored = json.loads(vector["stored"]["secret"])
    key = rails_keys_of(vector)[-1]
    if opened_or_none(stored, key) is None:
        key = rails_keys_of(vector)[0]
    nonce = base64.b64decode(stored["h"]["iv"])
    if inner := stored["h"].get("k"):
        data_key, data_key_nonce = ciphers.decrypt_rails(inner, key), base64.b64decode(inner["h"]["iv"])
        made = ciphers.encrypt_rails_envelope(
            rails_plaintext_of(vector), key, nonce, data_key=data_key, data_key_nonce=data_key_nonce
        )
    else:
        made = ciphers.encrypt_rails(rails_plaintext_of(vector), key, nonce)
    write = ciphers.as_jsonb if vector["table"] == "vec_jsonb" else ciphers.as_json_text
    assert write(made) == vector["stored"]["secret"]


@vectors_of("lockbox_file")
def test_lockbox_files_decrypt_and_come_out_as_ruby_writes_them(vector: dict[str, Any]) -> None:
    stored, key_base, context = bytes.fromhex(vector["file_hex"]), key_base_of(vector), vector["context"]
    assert ciphers.decrypt_file(stored, key_base, context) == plaintext_of(vector)
    assert ciphers.encrypt_file(plaintext_of(vector), key_base, context, stored[:12]) == stored
    with pytest.raises(CannotDecrypt):
        ciphers.decrypt_file(stored, key_base, "pipeline_artifact:43")


@pytest.mark.parametrize(
    ("key_base", "padded"),
    [
        ("a" * 10, b"a" * 10 + b"0" * 22),
        ("€" * 6, "€".encode() * 6 + b"0" * 14),
        ("€" * 20, "€".encode() * 10 + b"00"),
    ],
)
def test_short_and_multibyte_keys_are_padded_at_whole_characters(key_base: str, padded: bytes) -> None:
    assert ciphers.padded_key(key_base) == padded


def test_keys_accept_a_single_string_and_a_list() -> None:
    rails = {
        "db_key_base": ["fake-old", "fake-new"],
        "otp_key_base": "fake-otp",
        "active_record_encryption_primary_key": ["fake-primary"],
        "active_record_encryption_deterministic_key": "fake-deterministic",
        "active_record_encryption_key_derivation_salt": "fake-salt",
    }
    keys = Keys.of({"gitlab_rails": rails})
    assert keys.db_key_bases == ("fake-old", "fake-new")
    assert keys.rails_deterministic_keys == ("fake-deterministic",)


@pytest.mark.parametrize(
    "message", [{}, {"p": "AAAA"}, {"p": "AAAA", "h": {"iv": "AAAA"}}, {"p": "*", "h": {"at": "*"}}]
)
def test_anything_else_is_refused_as_a_rails_message(message: dict[str, Any]) -> None:
    with pytest.raises(CannotDecrypt):
        ciphers.decrypt_rails(message, b"k" * 32)


def opened_or_none(message: dict[str, Any], key: bytes) -> bytes | None:
    try:
        return ciphers.decrypt_rails(message, key)
    except CannotDecrypt:
        return None
