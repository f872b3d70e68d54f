"""Encrypt for one named place of the seeded instance, with the newest of the keys."""

from __future__ import annotations

import json

from drtool.demo import ciphers
from drtool.demo.ciphers import BLOCK_SIZE, NONCE_SIZE, Columns, Keys
from drtool.demo.population import made_bytes
from drtool.demo.seed_sql import Cell


class Encrypter:
    """Fills encrypted columns. The place names table, row and column, so every ciphertext has a nonce of its own.

    Results come in the order of the columns: value, IV, salt.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._key_base = keys.db_key_bases[-1]
        self._rails_key = ciphers.rails_key(keys.rails_primary_keys[-1], keys.rails_salt)

    def text(self, place: str, plaintext: str) -> tuple[Cell, Cell]:
        columns = ciphers.encrypt_gcm_text(plaintext.encode(), self._key_base, made_bytes(place, NONCE_SIZE))
        return columns.value, columns.iv

    def binary(self, place: str, plaintext: str) -> tuple[Cell, Cell]:
        columns = ciphers.encrypt_gcm_bytea(plaintext.encode(), self._key_base, made_bytes(place, NONCE_SIZE))
        return columns.value, columns.iv

    def salted(self, place: str, plaintext: str) -> tuple[Cell, Cell, Cell]:
        return self._cbc(place, plaintext, self._key_base)

    def otp(self, place: str, plaintext: str) -> tuple[Cell, Cell, Cell]:
        return self._cbc(place, plaintext, self._keys.otp_key_base)

    def token(self, token: str) -> str:
        return ciphers.encrypt_token(token, self._key_base)

    def static_token(self, token: str) -> str:
        return ciphers.encrypt_token_static(token, self._key_base)

    def json(self, place: str, plaintext: str) -> str:
        nonce = made_bytes(place, NONCE_SIZE)
        return ciphers.as_jsonb(ciphers.encrypt_rails(json.dumps(plaintext).encode(), self._rails_key, nonce))

    def enveloped_json(self, place: str, plaintext: str) -> str:
        message = ciphers.encrypt_rails_envelope(
            json.dumps(plaintext).encode(),
            self._rails_key,
            made_bytes(place, NONCE_SIZE),
            data_key=made_bytes(f"{place}/data key", 32),
            data_key_nonce=made_bytes(f"{place}/data key nonce", NONCE_SIZE),
        )
        return ciphers.as_jsonb(message)

    def _cbc(self, place: str, plaintext: str, key_base: str) -> tuple[Cell, Cell, Cell]:
        iv, salt = made_bytes(f"{place}/iv", BLOCK_SIZE), made_bytes(f"{place}/salt", BLOCK_SIZE)
        columns: Columns = ciphers.encrypt_cbc_salted(plaintext.encode(), key_base, iv, salt)
        return columns.value, columns.iv, columns.salt
