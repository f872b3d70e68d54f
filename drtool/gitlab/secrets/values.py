"""The secrets of one GitLab, as values that do not show themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Key(StrEnum):
    """The secrets of GitLab's Rails application, by the names that GitLab has for them."""

    DB = "db_key_base"
    OTP = "otp_key_base"
    SESSIONS = "secret_key_base"
    SETTINGS = "encrypted_settings_key_base"
    OPENID = "openid_connect_signing_key"
    JWT = "ci_jwt_signing_key"
    RAILS_PRIMARY = "active_record_encryption_primary_key"
    RAILS_DETERMINISTIC = "active_record_encryption_deterministic_key"
    RAILS_SALT = "active_record_encryption_key_derivation_salt"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One value of a secret. One that is not ``current`` was overruled: GitLab does not use it."""

    text: str = field(repr=False)
    label: str
    current: bool = True


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """What ``read_secrets`` found. ``unreadable`` are those whose value only GitLab itself can know.

    ``problems`` are sentences about the sources; like ``repr`` they hold no values.
    """

    values: Mapping[Key, tuple[Candidate, ...]]
    unreadable: frozenset[Key] = frozenset()
    problems: tuple[str, ...] = ()

    def candidates(self, key: Key) -> tuple[Candidate, ...]:
        """All values to try, in the order of the source: the last current one encrypts, every current one decrypts."""
        return self.values.get(key, ())

    def current(self, key: Key) -> tuple[str, ...]:
        """The values that GitLab uses."""
        return tuple(candidate.text for candidate in self.candidates(key) if candidate.current)

    def __repr__(self) -> str:
        counts = ", ".join(f"{key}: {len(self.candidates(key))}" for key in Key if self.candidates(key))
        return f"Secrets({counts or 'none'})"
