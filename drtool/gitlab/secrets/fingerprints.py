"""Recognise a secret again without keeping it.

A fingerprint is a slow, salted digest of each value of a secret. What GitLab generates is random and long, so nobody
finds it by guessing; what somebody typed is guarded by the slowness, and too short a value gets none. The salt is new
for every set and stands beside the digests: two sets, or two instances, with the same secret show nothing in common,
and only who has the secrets can compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from drtool.gitlab.secrets.values import Key, Secrets

SALT_SIZE: Final = 16
_SHORTEST: Final = 20  # characters; Rails' own keys have 32, the others more
_DIGEST_SIZE: Final = 16
# About 40 ms and 16 MiB for one value: nothing for a dozen, much for a dictionary.
_SCRYPT: Final = {"n": 2**14, "r": 8, "p": 1}


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """For the manifest. Hexadecimal; ``digests`` maps a secret's name to a digest per value, in the file's order."""

    salt: str
    digests: Mapping[str, tuple[str, ...]]


class Change(StrEnum):
    """What became of a secret since the fingerprints were taken."""

    ADDED = "added"  # there was none
    LOST = "lost"  # there is none
    REPLACED = "replaced"  # none of the old values is left: what they sealed cannot be opened
    REDUCED = "reduced"  # some of the old values are left
    EXTENDED = "extended"  # all old values are left, with new ones: a rotation


def fingerprints(secrets: Secrets, salt: bytes) -> Fingerprints:
    """Take fingerprints of the values that GitLab uses. ``salt`` is 16 random bytes, new for every set."""
    if len(salt) != SALT_SIZE:
        raise ValueError(f"a salt has {SALT_SIZE} bytes")
    digests = {str(key): tuple(_digest(key, text, salt) for text in _long_enough(secrets, key)) for key in Key}
    return Fingerprints(salt.hex(), {name: found for name, found in digests.items() if found})


def compare(before: Fingerprints, secrets: Secrets) -> dict[Key, Change]:
    """Name the secrets that differ from those of ``before``, by taking their fingerprints with its salt.

    A secret that could not be read now is left out: nothing is known of it.
    """
    now = fingerprints(secrets, bytes.fromhex(before.salt)).digests
    changes = {}
    for key in Key:
        change = _change(set(before.digests.get(key, ())), set(now.get(key, ())))
        if change and key not in secrets.unreadable:
            changes[key] = change
    return changes


def _change(old: set[str], new: set[str]) -> Change | None:
    if old == new:
        return None
    if not old:
        return Change.ADDED
    if not new:
        return Change.LOST
    if not old & new:
        return Change.REPLACED
    return Change.EXTENDED if old < new else Change.REDUCED


def _long_enough(secrets: Secrets, key: Key) -> Iterator[str]:
    return (text for text in secrets.current(key) if len(text) >= _SHORTEST)


def _digest(key: Key, text: str, salt: bytes) -> str:
    # The name is part of it, so that one value used for two secrets does not show.
    password = f"{key}\0{text}".encode()
    return hashlib.scrypt(password, salt=salt, dklen=_DIGEST_SIZE, **_SCRYPT).hex()
