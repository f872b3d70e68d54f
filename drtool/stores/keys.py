"""Which keys a store takes: one rule for every adapter, so that a key that works somewhere works everywhere."""

from __future__ import annotations

import re
from datetime import datetime

from drtool.errors import StoreError
from drtool.stores import Capabilities

# Half of what S3 allows (1,024 bytes), so that a bucket prefix still fits in front; and what one directory entry holds.
LONGEST_KEY = 512
LONGEST_SEGMENT = 255

_ALLOWED = re.compile(r"[A-Za-z0-9._/-]*\Z")


def check_key(key: str) -> str:
    """Return ``key``, or raise StoreError: a key that leaves its store is refused before anything else happens."""
    segments = key.split("/")
    if not _ALLOWED.match(key):
        raise _refusal(key, "only ASCII letters, digits, '.', '_', '-' and '/' may be in it")
    if "" in segments:
        raise _refusal(key, "it is empty, absolute, or has an empty segment")
    if "." in segments or ".." in segments:
        raise _refusal(key, "'.' and '..' are not names")
    if len(key) > LONGEST_KEY or max(map(len, segments)) > LONGEST_SEGMENT:
        raise _refusal(key, f"longer than {LONGEST_KEY} characters, or a segment than {LONGEST_SEGMENT}")
    return key


def is_key(key: str) -> bool:
    """Say whether ``check_key`` would let this pass."""
    try:
        check_key(key)
    except StoreError:
        return False
    return True


def is_name(name: str) -> bool:
    """Say whether this, less a "/" at its end, can be one segment of a key."""
    return name not in ("", ".", "..") and _ALLOWED.match(name) is not None


def check_prefix(prefix: str) -> str:
    """Return ``prefix``, or raise StoreError. It may be empty, and its last segment may be only a beginning."""
    folder, _, beginning = prefix.rpartition("/")
    if folder:
        check_key(folder)
    elif prefix.startswith("/"):
        raise _refusal(prefix, "it is absolute")
    if not _ALLOWED.match(beginning):
        raise _refusal(prefix, "only ASCII letters, digits, '.', '_', '-' and '/' may be in it")
    return prefix


def check_span(start: int, size: int | None) -> None:
    """Raise StoreError when ``start`` lies before the first byte, or nothing is asked for."""
    if start < 0 or (size is not None and size < 1):
        raise StoreError(f"cannot read {'all' if size is None else size} bytes from byte {start}")


def check_lock(store: str, capabilities: Capabilities, lock_until: datetime | None) -> None:
    """Raise StoreError when a lock is asked of a store that cannot give it, or until a time without a zone."""
    if lock_until is None:
        return
    if capabilities.lock != "object":
        raise StoreError(
            f"{store} cannot lock an object until {lock_until.isoformat()}",
            hint="Use a bucket with object lock and say so in the store's settings, or drop the lock from the policy.",
        )
    if lock_until.tzinfo is None:
        raise StoreError(f"the lock time {lock_until.isoformat()} has no time zone")


def _refusal(key: str, reason: str) -> StoreError:
    return StoreError(f"not a key: {key[:80]!r}: {reason}")
