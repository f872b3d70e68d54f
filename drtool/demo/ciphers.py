"""Encrypt and decrypt column values the way GitLab stores them, for the sandbox.

Layouts as written by attr_encrypted 3.1 and 4.1, encryptor 3.0, Active Record Encryption 7.2 and lockbox 1.3, and
checked against their output byte for byte. Nonces, IVs and salts are arguments: the sandbox must come out the same
every time. Nothing here judges a backup: ``drtool.gitlab.secrets`` does, and shares no code with this file on purpose.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7

NONCE_SIZE = 12
TAG_SIZE = 16
BLOCK_SIZE = 16
SALT_ROUNDS = 2000
RAILS_ROUNDS = 65536
RAILS_COMPRESSES_ABOVE = 140

Digest = Literal["sha1", "sha256"]


class CannotDecrypt(Exception):
    """The key does not open the value, or the value is not of a known layout. The text names neither."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What one attr_encrypted value occupies; ``str`` in text columns, ``bytes`` in bytea, no salt column: None."""

    value: str | bytes
    iv: str | bytes
    salt: str | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """The secrets that columns depend on. In each tuple the last element encrypts and all of them decrypt."""

    db_key_bases: tuple[str, ...]
    otp_key_base: str
    rails_primary_keys: tuple[str, ...]
    rails_deterministic_keys: tuple[str, ...]
    rails_salt: str

    @classmethod
    def of(cls, secrets: Mapping[str, Any]) -> Keys:
        """Read the ``gitlab_rails`` section of a parsed gitlab-secrets.json."""
        rails = secrets["gitlab_rails"]
        return cls(
            db_key_bases=_several(rails["db_key_base"]),
            otp_key_base=rails["otp_key_base"],
            rails_primary_keys=_several(rails["active_record_encryption_primary_key"]),
            rails_deterministic_keys=_several(rails["active_record_encryption_deterministic_key"]),
            rails_salt=rails["active_record_encryption_key_derivation_salt"],
        )


def padded_key(key_base: str, size: int = 32) -> bytes:
    """Take whole characters while they fit into ``size`` bytes, then fill up with ASCII zeros.

    GitLab names the results ``db_key_base_32`` and ``db_key_base_12``.
    """
    taken = b""
    for character in key_base:
        encoded = character.encode()
        if len(taken) + len(encoded) > size:
            break
        taken += encoded
    return taken.ljust(size, b"0")


def encrypt_gcm_text(plaintext: bytes, key_base: str, nonce: bytes) -> Columns:
    """Encrypt for a pair of text columns, both in wrapped base64."""
    return Columns(wrapped_base64(_gcm_encrypt(plaintext, padded_key(key_base), nonce)), wrapped_base64(nonce))


def encrypt_gcm_bytea(plaintext: bytes, key_base: str, nonce: bytes) -> Columns:
    """Encrypt for a pair of bytea columns, nothing encoded."""
    return Columns(_gcm_encrypt(plaintext, padded_key(key_base), nonce), nonce)


def encrypt_cbc_salted(plaintext: bytes, key_base: str, iv: bytes, salt: bytes) -> Columns:
    """Encrypt for value, IV and salt text columns; with the OTP key base this is ``users.encrypted_otp_secret``."""
    padder = PKCS7(BLOCK_SIZE * 8).padder()
    encryptor = Cipher(algorithms.AES(_salted_key(key_base, salt)), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    return Columns(wrapped_base64(ciphertext), wrapped_base64(iv), "_" + wrapped_base64(salt))


def decrypt_columns(columns: Columns, key_base: str) -> bytes:
    """Decrypt any attr_encrypted layout; the length of the IV tells GCM from CBC, a salt tells which CBC key.

    CBC is not authenticated: a plaintext that is neither UTF-8 text nor Ruby Marshal counts as a wrong key.
    """
    iv = _raw_iv(columns.iv)
    if len(iv) == NONCE_SIZE:
        return _gcm_decrypt_either(columns.value, padded_key(key_base), iv)
    if len(iv) != BLOCK_SIZE:
        raise CannotDecrypt("the IV has neither 12 nor 16 bytes")
    if columns.salt is None:
        key = key_base[:32].encode()
    else:
        key = _salted_key(key_base, _from_base64(columns.salt.removeprefix("_")))
    return _cbc_decrypt(_from_base64(columns.value), key, iv)


def encrypt_token_static(token: str, key_base: str) -> str:
    """Encrypt a token with the nonce that comes from the key, as GitLab 11.6 and later did."""
    return _strict_base64(_gcm_encrypt(token.encode(), padded_key(key_base), padded_key(key_base, NONCE_SIZE)))


def encrypt_token(token: str, key_base: str) -> str:
    """Encrypt a token with a nonce made from the token itself, which is stored behind the ciphertext."""
    nonce = hashlib.sha256(token.encode()).hexdigest()[:NONCE_SIZE]
    return f"|{_strict_base64(_gcm_encrypt(token.encode(), padded_key(key_base), nonce.encode()))}{nonce}"


def decrypt_token(stored: str, key_base: str) -> bytes:
    """Decrypt either form of token."""
    if stored.startswith("|") and len(stored) > NONCE_SIZE + 1:
        nonce = stored[-NONCE_SIZE:].encode()
        return _gcm_decrypt(_from_base64(stored[1:-NONCE_SIZE]), padded_key(key_base), nonce)
    return _gcm_decrypt(_from_base64(stored), padded_key(key_base), padded_key(key_base, NONCE_SIZE))


@lru_cache(maxsize=64)
def rails_key(secret: str, salt: str, digest: Digest = "sha256") -> bytes:
    """Derive the key of Active Record Encryption from one list element; about 20 ms, hence remembered."""
    return hashlib.pbkdf2_hmac(digest, secret.encode(), salt.encode(), RAILS_ROUNDS, 32)


def encrypt_rails(plaintext: bytes, key: bytes, nonce: bytes) -> dict[str, Any]:
    """Build the JSON message of Active Record Encryption, with the key's id in it as GitLab configures."""
    return _rails_message(plaintext, key, nonce, {"i": _rails_key_id(key)})


def encrypt_rails_envelope(
    plaintext: bytes, key: bytes, nonce: bytes, *, data_key: bytes, data_key_nonce: bytes
) -> dict[str, Any]:
    """Build the envelope form: the plaintext under ``data_key``, and that under ``key`` inside the headers."""
    inner = _rails_message(data_key, key, data_key_nonce, {"e": _strict_base64(b"ASCII-8BIT")})
    return _rails_message(plaintext, data_key, nonce, {"k": inner, "i": _rails_key_id(key)})


def decrypt_rails(message: Mapping[str, Any], key: bytes) -> bytes:
    """Decrypt a normal, deterministic or envelope message."""
    try:
        headers = message["h"]
        if "k" in headers:
            key = decrypt_rails(headers["k"], key)
        sealed = _from_base64(message["p"]) + _from_base64(headers["at"])
        plaintext = _gcm_decrypt(sealed, key, _from_base64(headers["iv"]))
        return zlib.decompress(plaintext) if headers.get("c") else plaintext
    except (KeyError, TypeError, zlib.error) as error:
        raise CannotDecrypt("not a message of Active Record Encryption") from error


def as_jsonb(message: Mapping[str, Any]) -> str:
    """Write a message as PostgreSQL prints a jsonb column: shorter names first, blanks after ``:`` and ``,``."""
    return json.dumps(_jsonb_order(message))


def as_json_text(message: Mapping[str, Any]) -> str:
    """Write a message as Rails stores it in a text column."""
    return json.dumps(message, separators=(",", ":"))


def encrypt_file(plaintext: bytes, key_base: str, context: str, nonce: bytes) -> bytes:
    """Encrypt a file as lockbox does; the context of a Terraform state is its project's id."""
    return nonce + _gcm_encrypt(plaintext, _file_key(key_base, context), nonce)


def decrypt_file(stored: bytes, key_base: str, context: str) -> bytes:
    """Decrypt a lockbox file."""
    return _gcm_decrypt(stored[NONCE_SIZE:], _file_key(key_base, context), stored[:NONCE_SIZE])


def wrapped_base64(plain: bytes) -> str:
    """Encode like Ruby's ``pack("m")``: a newline after each 60 characters and one at the end."""
    encoded = _strict_base64(plain)
    return "".join(encoded[start : start + 60] + "\n" for start in range(0, len(encoded), 60))


def _several(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _strict_base64(plain: bytes) -> str:
    return base64.b64encode(plain).decode()


def _from_base64(text: str | bytes) -> bytes:
    joined = "".join(text.split()) if isinstance(text, str) else b"".join(text.split())
    try:
        return base64.b64decode(joined, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CannotDecrypt("not base64") from error


def _raw_iv(iv: str | bytes) -> bytes:
    return iv if isinstance(iv, bytes) and len(iv) in (NONCE_SIZE, BLOCK_SIZE) else _from_base64(iv)


def _gcm_encrypt(plaintext: bytes, key: bytes, nonce: bytes) -> bytes:
    return AESGCM(key).encrypt(nonce, plaintext, b"")


def _gcm_decrypt(ciphertext: bytes, key: bytes, nonce: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, b"")
    except (InvalidTag, ValueError) as error:
        raise CannotDecrypt("the key does not open the value") from error


def _gcm_decrypt_either(value: str | bytes, key: bytes, nonce: bytes) -> bytes:
    """Decrypt a value of a text column, or one of a bytea column in which it may be encoded or not."""
    if isinstance(value, bytes):
        try:
            return _gcm_decrypt(value, key, nonce)
        except CannotDecrypt:
            pass  # the older bytea columns hold base64 text; which of both is only known by trying
    return _gcm_decrypt(_from_base64(value), key, nonce)


def _cbc_decrypt(ciphertext: bytes, key: bytes, iv: bytes) -> bytes:
    unpadder = PKCS7(BLOCK_SIZE * 8).unpadder()
    try:
        decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
        padded = decryptor.update(ciphertext) + decryptor.finalize()
        plaintext = unpadder.update(padded) + unpadder.finalize()
        if not plaintext.startswith(b"\x04\x08"):
            plaintext.decode()
    except ValueError as error:
        raise CannotDecrypt("the key does not open the value") from error
    return plaintext


def _salted_key(key_base: str, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha1", key_base.encode(), salt, SALT_ROUNDS, 32)


def _file_key(key_base: str, context: str) -> bytes:
    return hmac.digest(key_base.encode(), context.encode(), "sha256")


def _rails_key_id(key: bytes) -> str:
    return _strict_base64(hashlib.sha1(key, usedforsecurity=False).hexdigest()[:4].encode())


def _rails_message(plaintext: bytes, key: bytes, nonce: bytes, more: Mapping[str, Any]) -> dict[str, Any]:
    compress = len(plaintext) > RAILS_COMPRESSES_ABOVE
    sealed = _gcm_encrypt(zlib.compress(plaintext) if compress else plaintext, key, nonce)
    headers: dict[str, Any] = {"iv": _strict_base64(nonce), "at": _strict_base64(sealed[-TAG_SIZE:]), **more}
    if compress:
        headers["c"] = True
    return {"p": _strict_base64(sealed[:-TAG_SIZE]), "h": headers}


def _jsonb_order(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: _jsonb_order(value[name]) for name in sorted(value, key=lambda name: (len(name), name))}
