"""Raw fields of COPY rows: what text and what bytes they stand for."""

from __future__ import annotations

import binascii
import re

from drtool.gitlab.dump import read_field

_OCTAL = re.compile(rb"\\(\\|[0-3][0-7]{2})|\\", re.DOTALL)
# NULL, the empty text, and the empty bytea in hexadecimal: GitLab stores no ciphertext for an empty secret.
EMPTY = frozenset((b"\\N", b"", b"\\\\x"))


def unescape(field: bytes) -> bytes:
    """Undo COPY's escapes; NULL becomes empty. ``read_field`` does the same, more slowly."""
    if b"\\" not in field:
        return field
    if field.count(b"\\") == field.count(b"\\n"):  # wrapped base64
        return field.replace(b"\\n", b"\n")
    if field.startswith(b"\\\\x") and field.count(b"\\") == 2:  # bytea in hexadecimal
        return field[1:]
    return read_field(field) or b""


def read_bytes(text: bytes) -> tuple[bytes, bool] | None:
    """Read an unescaped text or bytea; the second is whether it can only be bytea. None for neither.

    pg_dump keeps ``bytea_output = escape`` of a server or database: octal digits in place of hexadecimal.
    """
    if text.startswith(b"\\x"):
        try:
            return binascii.unhexlify(text[2:]), True
        except binascii.Error:
            return None
    if b"\\" not in text:
        return text, False
    if any(found[0] == b"\\" for found in _OCTAL.finditer(text)):
        return None
    return _OCTAL.sub(lambda found: b"\\" if found[1] == b"\\" else bytes((int(found[1], 8),)), text), True


def from_base64(text: bytes) -> bytes | None:
    """Decode base64, wrapped or not. None for anything else."""
    try:
        return binascii.a2b_base64(text.replace(b"\n", b""), strict_mode=True)
    except binascii.Error:
        return None
