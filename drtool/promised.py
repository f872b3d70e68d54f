"""Can the configuration keep what its policy promises? What it cannot is said before the first byte."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from drtool.errors import ConfigError
from drtool.policies import Policy


@dataclass(frozen=True, slots=True)
class Means:
    """What there is to keep promises with. ``stores`` counts the first one; ``lock_mode`` is None where none is set.

    ``bucket_locked_for``: where the service locks whole buckets, for how long this one is; None elsewhere.
    """

    sealed: bool
    stores: int
    lock: Literal["object", "bucket", "none"]
    lock_mode: Literal["governance", "compliance"] | None = None
    bucket_locked_for: timedelta | None = None


def find_unmet(policy: Policy, means: Means) -> tuple[str, ...]:
    """Name every promise that these means cannot keep, with the key of the policy."""
    found = []
    if policy.seal.required and not means.sealed:
        found.append('seal.required, and the configuration says seal = "none"')
    if means.stores < policy.copies.stores:
        found.append(f"copies.stores = {policy.copies.stores}, and the configuration has {means.stores}")
    if policy.lock and means.lock == "none":
        found.append(f"lock.days = {policy.lock.days}, and the store locks nothing")
    if policy.lock and means.lock == "bucket" and (means.bucket_locked_for or timedelta(0)) < policy.lock.duration:
        locked = (means.bucket_locked_for or timedelta(0)).days
        found.append(f"lock.days = {policy.lock.days}, and the bucket's retention policy has {locked}")
    if policy.lock and policy.lock.mode == "compliance" and means.lock_mode == "governance":
        found.append('lock.mode = "compliance", and the store has object_lock = "governance"')
    return tuple(found)


def refuse_unmet(policy: Policy, means: Means) -> None:
    """Raise ConfigError if a promise would be broken in silence."""
    if found := find_unmet(policy, means):
        raise ConfigError(
            f"the policy wants {'; '.join(found)}",
            hint="Add it to drtool.toml (seal_to, [[instance.copies]], a store that locks), or promise less.",
        )
