"""Rows of encrypted columns, as PostgreSQL copies them, sealed by the sandbox's ciphers (which share nothing with
``drtool.gitlab.secrets``)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from drtool.demo import ciphers
from drtool.demo.ciphers import Columns
from drtool.gitlab.secrets import Sample, Secrets, SecretsCheck, SecretsVerdict, read_secrets

Cell = str | bytes | None
Table = tuple[str, tuple[str, ...], list[bytes]]
"""Its name, the columns of its header, its rows."""


def generated(seed: str) -> dict[str, Any]:
    """The ``gitlab_rails`` section of a host; each seed is another host, or the same one regenerated."""

    def text(name: str) -> str:
        return hashlib.sha512(f"fake {seed} {name}".encode()).hexdigest()

    return {
        "db_key_base": text("db"),
        "otp_key_base": text("otp"),
        "secret_key_base": text("sessions"),
        "active_record_encryption_primary_key": [text("primary")[:32]],
        "active_record_encryption_deterministic_key": [text("deterministic")[:32]],
        "active_record_encryption_key_derivation_salt": text("salt")[:32],
    }


def secrets_of(rails: dict[str, Any]) -> Secrets:
    return read_secrets(secrets_json=json.dumps({"gitlab_rails": rails}).encode())


def copied(*cells: Cell) -> bytes:
    """One row of COPY."""
    return b"\t".join(_field(cell) for cell in cells)


def _field(cell: Cell) -> bytes:
    if cell is None:
        return b"\\N"
    if isinstance(cell, bytes):
        return b"\\\\x" + cell.hex().encode()
    for plain, escaped in (("\\", "\\\\"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        cell = cell.replace(plain, escaped)
    return cell.encode()


def seal(scheme: str, rails: dict[str, Any], number: int = 0, plain: bytes = b"fake plain text") -> tuple[Cell, ...]:
    """The fields of one value: alone, with its IV, or with IV and salt. ``scheme`` is a letter of the known columns."""
    base = _newest(rails["db_key_base"])
    nonce, block = (hashlib.sha256(f"{scheme} {number}".encode()).digest()[:size] for size in (12, 16))
    match scheme:
        case "A":
            return _fields(ciphers.encrypt_gcm_text(plain, base, nonce))
        case "B":
            return _fields(ciphers.encrypt_gcm_bytea(plain, base, nonce))
        case "C":
            value, _ = _fields(ciphers.encrypt_gcm_bytea(plain, base, nonce))
            return value, ciphers.wrapped_base64(nonce).encode()
        case "D":
            columns = ciphers.encrypt_gcm_text(plain, base, nonce)
            return str(columns.value).encode(), str(columns.iv).encode()
        case "E":
            return _fields(ciphers.encrypt_cbc_salted(plain, base, block, block[::-1]))
        case "O":  # E with the other key base
            return _fields(ciphers.encrypt_cbc_salted(plain, _newest(rails["otp_key_base"]), block, block[::-1]))
        case "F":
            return _fields(_cbc(plain, base, block))
        case "G":
            return (ciphers.encrypt_token_static(plain.decode(), base),)
        case "H":
            return (ciphers.encrypt_token(f"{plain.decode()} {number}", base),)
        case _:
            return (_message(scheme, rails, nonce, plain),)


def table(name: str, column: str, values: Iterable[Sequence[Cell]]) -> Table:
    """A table of one encrypted column between an id and a name; values without IV and salt get NULL there."""
    values = [tuple(value) for value in values]
    width = max(map(len, values), default=1)
    companions = ("_iv", "_salt")[: width - 1]
    header = ("id", column, *(f"{column}{companion}" for companion in companions), "name")
    rows = [
        copied(str(n), *value, *[None] * (width - len(value)), "a\tname\n") for n, value in enumerate(values, start=1)
    ]
    return f"public.{name}", header, rows


def check(secrets: Secrets | dict[str, Any], *tables: Table, sample: Sample | None = None) -> SecretsVerdict:
    if isinstance(secrets, dict):
        secrets = secrets_of(secrets)
    judge = SecretsCheck(secrets, sample=sample)
    for name, header, rows in tables:
        sink = judge.begin_table(name, header)
        for start in range(0, len(rows), 700):  # as a dump passes: piece by piece
            if sink is not None:
                sink.take(rows[start : start + 700])
    return judge.finish()


def fits(verdict: SecretsVerdict) -> dict[str, str]:
    return {str(each.family): str(each.fit) for each in verdict.families}


def counted(verdict: SecretsVerdict) -> dict[str, tuple[int, int]]:
    """How many values of each column opened, and how many did not."""
    found: dict[str, tuple[int, int]] = {}
    for each in verdict.columns:
        opened, failed = found.get(name := f"{each.table}.{each.column}", (0, 0))
        found[name] = opened + each.opened, failed + each.failed
    return found


def everything(secrets: dict[str, Any]) -> list[Table]:
    """Five values of each scheme, each in a table of its own."""
    columns = {**dict.fromkeys("ABCDEF", "encrypted_x"), **dict.fromkeys("GH", "x_encrypted")}
    columns |= {**dict.fromkeys("IJK", "anything"), "O": "encrypted_otp_secret"}
    return [
        table(f"made_{letter.lower()}", column, [seal(letter, secrets, n) for n in range(5)])
        for letter, column in columns.items()
    ]


def _message(scheme: str, rails: dict[str, Any], nonce: bytes, plain: bytes) -> str:
    kind = "deterministic" if scheme == "K" else "primary"
    salt = rails["active_record_encryption_key_derivation_salt"]
    key = ciphers.rails_key(_newest(rails[f"active_record_encryption_{kind}_key"]), salt)
    quoted = json.dumps(plain.decode()).encode()
    if scheme != "J":
        return ciphers.as_jsonb(ciphers.encrypt_rails(quoted, key, nonce))
    data_key = hashlib.sha256(nonce).digest()
    return ciphers.as_jsonb(
        ciphers.encrypt_rails_envelope(quoted, key, nonce, data_key=data_key, data_key_nonce=nonce[::-1])
    )


def _cbc(plain: bytes, base: str, iv: bytes) -> Columns:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.padding import PKCS7

    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(base[:32].encode()), modes.CBC(iv)).encryptor()
    sealed = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    return Columns(ciphers.wrapped_base64(sealed), ciphers.wrapped_base64(iv))


def _fields(columns: Columns) -> tuple[Cell, ...]:
    cells = (columns.value, columns.iv)
    return cells if columns.salt is None else (*cells, columns.salt)


def _newest(value: str | list[str]) -> str:
    return value if isinstance(value, str) else value[-1]


RIGHT, WRONG = generated("right"), generated("regenerated")
TOKEN = table("projects", "runners_token_encrypted", [seal("H", RIGHT, n) for n in range(3)])
