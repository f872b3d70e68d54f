"""How GitLab lays out one encrypted value in a row: take it apart, without any key.

Layouts as attr_encrypted 3.1 and 4.1, encryptor 3.0 and Active Record Encryption 7.2 write them. What a value is shows
in its own shape, whatever its column's type: an IV of 12 bytes is GCM, one of 16 is CBC, a salt means a derived key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from drtool.gitlab.secrets.fields import from_base64, read_bytes

_NONCE_SIZE: Final = 12
_BLOCK_SIZE: Final = 16
_TAG_SIZE: Final = 16


class Scheme(StrEnum):
    """The letter is that of ``columns.KNOWN``. All GCM is AES-256 with nothing but the text authenticated."""

    GCM_TEXT = "GCM, base64 text"  # A
    GCM_BYTEA = "GCM, bytea"  # B
    GCM_BYTEA_TEXT_IV = "GCM, bytea, IV in base64"  # C
    GCM_BYTEA_TEXT = "GCM, base64 in bytea"  # D
    CBC_SALTED = "CBC, salted"  # E
    CBC = "CBC"  # F
    TOKEN_STATIC = "token, nonce of the key"  # noqa: S105  # G; a description, no secret
    TOKEN = "token, nonce of its own"  # noqa: S105  # H
    RAILS = "Rails"  # I
    RAILS_ENVELOPE = "Rails, envelope"  # J
    RAILS_DETERMINISTIC = "Rails, deterministic"  # K; looks like I until a key opens it

    @property
    def authenticated(self) -> bool:
        """Whether a wrong key is certain to be noticed."""
        return self not in (Scheme.CBC, Scheme.CBC_SALTED)

    @property
    def of_rails(self) -> bool:
        """Whether the keys of Active Record Encryption open it."""
        return self in (Scheme.RAILS, Scheme.RAILS_ENVELOPE, Scheme.RAILS_DETERMINISTIC)


class Odd(StrEnum):
    """Why a value cannot be tested."""

    NO_IV = "no IV: as attr_encrypted 1 wrote it, which is not understood"
    BAD_IV = "the IV has neither 12 nor 16 bytes"
    BAD_SALT = "the salt is not base64"
    NOT_BASE64 = "neither base64 nor bytea"
    SIZE = "of a length that no ciphertext has"
    NOT_A_MESSAGE = "no message of Active Record Encryption"
    SHORT_ROW = "the row ends before the column"


@dataclass(frozen=True, slots=True)
class Sealed:
    """One ciphertext. ``body`` ends with the tag, if there is one; a static token's nonce is empty: the key has it."""

    scheme: Scheme
    nonce: bytes = field(repr=False)
    body: bytes = field(repr=False)
    salt: bytes = field(default=b"", repr=False)
    inner: Sealed | None = field(default=None, repr=False)  # of an envelope: its data key


def read_pair(value: bytes, iv: bytes, salt: bytes = b"") -> Sealed | Odd:
    """Take apart what attr_encrypted wrote: unescaped fields, empty for NULL."""
    if not iv:
        return Odd.NO_IV
    nonce = read_bytes(iv)
    body = read_bytes(value)
    if nonce is None or body is None:
        return Odd.BAD_IV if nonce is None else Odd.NOT_BASE64
    in_bytea = nonce[1] or body[1]
    # No 12 or 16 raw bytes are the base64 of 12 or 16 others.
    decoded_iv, decoded_body = from_base64(nonce[0]), from_base64(body[0])
    text_iv = decoded_iv is not None and len(decoded_iv) in (_NONCE_SIZE, _BLOCK_SIZE)
    plain_iv = decoded_iv if text_iv and decoded_iv is not None else nonce[0]
    if decoded_body is None and not in_bytea:
        return Odd.NOT_BASE64
    plain_body = body[0] if decoded_body is None else decoded_body
    if len(plain_iv) == _BLOCK_SIZE:
        return _cbc(plain_body, plain_iv, salt)
    if len(plain_iv) != _NONCE_SIZE:
        return Odd.BAD_IV
    if len(plain_body) < _TAG_SIZE:
        return Odd.SIZE
    return Sealed(_gcm_scheme(in_bytea, decoded_body is not None, text_iv), plain_iv, plain_body)


def read_token(value: bytes) -> Sealed | Odd:
    """Take apart an encrypted token: base64, or ``|``, base64, and a nonce of 12 characters."""
    dynamic = value.startswith(b"|") and len(value) > _NONCE_SIZE + 1
    body = from_base64(value[1:-_NONCE_SIZE] if dynamic else value)
    if body is None:
        return Odd.NOT_BASE64
    if len(body) < _TAG_SIZE:
        return Odd.SIZE
    if dynamic:
        return Sealed(Scheme.TOKEN, value[-_NONCE_SIZE:], body)
    return Sealed(Scheme.TOKEN_STATIC, b"", body)


def looks_like_message(value: bytes) -> bool:
    """Say whether ``read_message`` is worth a try."""
    return value.startswith(b"{") and b'"iv"' in value and b'"at"' in value


def read_message(value: bytes) -> Sealed | Odd:
    """Take apart a message of Active Record Encryption, as jsonb or as text."""
    try:
        return _message(json.loads(value)) or Odd.NOT_A_MESSAGE
    except (ValueError, RecursionError):
        return Odd.NOT_A_MESSAGE


def _message(message: object) -> Sealed | None:
    if not isinstance(message, dict) or not isinstance(headers := message.get("h"), dict):
        return None
    nonce, tag, body = (_decoded(text) for text in (headers.get("iv"), headers.get("at"), message.get("p")))
    if nonce is None or tag is None or body is None or len(nonce) != _NONCE_SIZE or len(tag) != _TAG_SIZE:
        return None
    if "k" not in headers:
        return Sealed(Scheme.RAILS, nonce, body + tag)
    inner = _message(headers["k"])
    if inner is None or inner.inner is not None:  # an envelope holds no second one
        return None
    return Sealed(Scheme.RAILS_ENVELOPE, nonce, body + tag, inner=inner)


def _decoded(text: object) -> bytes | None:
    return from_base64(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else None


def _gcm_scheme(in_bytea: bool, text_body: bool, text_iv: bool) -> Scheme:
    if not in_bytea:
        return Scheme.GCM_TEXT
    if text_body:
        return Scheme.GCM_BYTEA_TEXT
    return Scheme.GCM_BYTEA_TEXT_IV if text_iv else Scheme.GCM_BYTEA


def _cbc(body: bytes, iv: bytes, salt: bytes) -> Sealed | Odd:
    if not body or len(body) % _BLOCK_SIZE:
        return Odd.SIZE
    if not salt:
        return Sealed(Scheme.CBC, iv, body)
    if not salt.startswith(b"_"):
        return Sealed(Scheme.CBC_SALTED, iv, body, salt)  # the gem's fallback: the bytes as they are
    plain = from_base64(salt[1:])
    return Odd.BAD_SALT if plain is None else Sealed(Scheme.CBC_SALTED, iv, body, plain)
