"""gitlab:doctor:secrets: try to open every encrypted value in the database with gitlab-secrets.json."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

from .aes import Cipher, WrongKey
from .settings import Host

_COLUMNS = """
select c.table_name, c.column_name, c.data_type from information_schema.columns c
join information_schema.tables t using (table_schema, table_name)
where c.table_schema = 'public' and t.table_type = 'BASE TABLE' order by 1, 2
"""
_MODELS = {
    "ci_runners": "Ci::Runner",
    "ci_variables": "Ci::Variable",
    "ci_group_variables": "Ci::GroupVariable",
    "ci_builds": "Ci::Build",
    "ci_pipelines": "Ci::Pipeline",
    "ci_triggers": "Ci::Trigger",
    "namespaces": "Group",
    "integrations": "Integration",
    "web_hooks": "WebHook",
    "remote_mirrors": "RemoteMirror",
    "application_settings": "ApplicationSetting",
}
_RAILS_ROUNDS = 65536
_CBC_ROUNDS = 2000

Row = dict[str, Any]


def run(host: Host) -> None:
    """Print failures per model and their sum. The status is 0 whatever comes out, as GitLab's is."""
    opener = _Opener(json.loads(host.rails_secrets.read_text()) if host.rails_secrets.exists() else {})
    _log("INFO", "Checking encrypted values in the database")
    total = 0
    for table, columns in _encrypted_tables(host).items():
        failures = 0
        for row in _rows(host, table):
            bad = [column for column in columns if not opener.opens(row, column)]
            failures += bool(bad)
            if bad and os.environ.get("VERBOSE"):
                _log("DEBUG", f"  - {_model(table)}[{row.get('id')}]: {', '.join(bad)}")
        _log("INFO", f"- {_model(table)} failures: {failures}")
        total += failures
    _log("INFO", f"Total: {total} row(s) affected")
    _log("INFO", "Done!")


class _Opener:
    """Knows the keys, and finds the scheme by what a row holds (facts about 11 to 18.9)."""

    def __init__(self, secrets: dict[str, Any]) -> None:
        rails = secrets.get("gitlab_rails", {})
        self.database_keys = [str(key) for key in _as_list(rails.get("db_key_base"))]
        self.one_time_key = str(rails.get("otp_key_base") or "")
        self.rails_keys = [
            (str(key), str(rails.get("active_record_encryption_key_derivation_salt") or ""))
            for name in ("primary", "deterministic")
            for key in _as_list(rails.get(f"active_record_encryption_{name}_key"))
        ]

    def opens(self, row: Row, column: str) -> bool:
        """True also for values that are empty or no ciphertext at all."""
        value = row.get(column)
        if value in (None, ""):
            return True
        message = value if isinstance(value, dict) else None
        if isinstance(value, str) and value.startswith('{"'):
            message = json.loads(value)
        if message is not None:
            return self._opens_rails(message) if "p" in message and "h" in message else True
        if column.endswith("_encrypted"):
            return any(_opens_token(str(value), key) for key in self.database_keys)
        keys = [self.one_time_key] if "otp" in column else self.database_keys
        sealed, nonce = _raw(str(value)), row.get(f"{column}_iv")
        if nonce in (None, ""):
            return True
        return any(_opens_column(sealed, str(nonce), row.get(f"{column}_salt"), key) for key in keys)

    def _opens_rails(self, message: dict[str, Any]) -> bool:
        for key, salt in self.rails_keys:
            for digest in ("sha256", "sha1"):
                if _opens_message(message, _rails_key(digest, key, salt)):
                    return True
        return False


def _opens_message(message: dict[str, Any], key: bytes) -> bool:
    headers = message["h"]
    if isinstance(headers.get("k"), dict):  # an envelope: the data key is itself a message
        inner = _open_message(headers["k"], key)
        return inner is not None and _open_message(message, inner) is not None
    return _open_message(message, key) is not None


def _open_message(message: dict[str, Any], key: bytes) -> bytes | None:
    headers = message["h"]
    sealed = base64.b64decode(message["p"]) + base64.b64decode(headers["at"])
    return _try_gcm(key, base64.b64decode(headers["iv"]), sealed)


@cache
def _rails_key(digest: str, key: str, salt: str) -> bytes:
    return hashlib.pbkdf2_hmac(digest, key.encode(), salt.encode(), _RAILS_ROUNDS, 32)


def _opens_token(value: str, key: str) -> bool:
    if value.startswith("|") and len(value) > 13:
        sealed, nonce = value[1:-12], value[-12:].encode()
    else:
        sealed, nonce = value, _padded(key, 12)
    return _try_gcm(_padded(key, 32), nonce, _decoded(sealed)) is not None


def _opens_column(sealed: bytes, nonce: str, salt: object, key: str) -> bool:
    candidates = [(a, b) for a in (sealed, _decoded(sealed)) for b in (_raw(nonce), _decoded(_raw(nonce)))]
    for body, iv in candidates:
        if len(iv) == 12 and _try_gcm(_padded(key, 32), iv, body) is not None:
            return True
        if len(iv) == 16:
            password = key.encode()
            if salt:
                spice = _decoded(str(salt).removeprefix("_"))
                cipher_key = hashlib.pbkdf2_hmac("sha1", password, spice, _CBC_ROUNDS, 32)
            else:
                cipher_key = _padded(key, 32)
            if _try_cbc(cipher_key, iv, body):
                return True
    return False


def _try_gcm(key: bytes, nonce: bytes, sealed: bytes) -> bytes | None:
    try:
        return _cipher(key).open_gcm(nonce, sealed)
    except WrongKey:
        return None


def _try_cbc(key: bytes, iv: bytes, sealed: bytes) -> bool:
    try:
        _cipher(key).open_cbc(iv, sealed)
    except WrongKey:
        return False
    return True


@cache
def _cipher(key: bytes) -> Cipher:
    return Cipher(key)


def _padded(key: str, size: int) -> bytes:
    """Whole characters while they fit, then ASCII zeros."""
    result = b""
    for character in key:
        if len(result) + len(character.encode()) > size:
            break
        result += character.encode()
    return result.ljust(size, b"0")


def _raw(text: str) -> bytes:
    """Bytes of a column: bytea comes out of JSON as ``\\x`` and hexadecimal digits."""
    return bytes.fromhex(text[2:]) if text.startswith("\\x") else text.encode()


def _decoded(value: str | bytes) -> bytes:
    try:
        return base64.b64decode(value)
    except (binascii.Error, ValueError):
        return b""


def _as_list(value: object) -> list[object]:
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def _encrypted_tables(host: Host) -> dict[str, list[str]]:
    tables: dict[str, list[str]] = {}
    names = [line.split("|") for line in _query(host, _COLUMNS)]
    present = Counter((table, column) for table, column, _ in names)
    for table, column, kind in names:
        paired = (table, f"{column}_iv") in present
        token = column.endswith("_encrypted") and kind in ("text", "character varying")
        if paired or token or kind == "jsonb":
            tables.setdefault(table, []).append(column)
    return tables


def _rows(host: Host, table: str) -> Iterator[Row]:
    for line in _query(host, f'select to_json(x) from public."{table}" x'):
        yield json.loads(line)


def _query(host: Host, sql: str) -> list[str]:
    argv = [host.postgres_program("psql"), "-XAtqc", sql]
    result = subprocess.run(argv, env=host.postgres_environment(), capture_output=True, text=True, check=True)
    return result.stdout.splitlines()


def _model(table: str) -> str:
    if table in _MODELS:
        return _MODELS[table]
    return "".join(word.capitalize() for word in table.removesuffix("s").split("_"))


def _log(level: str, text: str) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    sys.stdout.write(f"{level[0]}, [{now} #{os.getpid()}] {level:>5} -- : {text}\n")
