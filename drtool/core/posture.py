"""3-2-1-1-0: three copies on two kinds of store, one elsewhere, one that nobody can change, no errors. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StorePlace:
    """Where one copy lies. ``kind`` tells apart what does not fail together; ``off_site`` is false for a directory."""

    name: str
    kind: str
    off_site: bool
    locks: bool


@dataclass(frozen=True, slots=True)
class Point:
    """One of the five: whether it is reached, and what to do if it is not."""

    rule: str
    reached: bool
    remedy: str


def judge_posture(stores: Sequence[StorePlace], problems: int | None) -> tuple[Point, ...]:
    """Judge the stores of one instance. ``problems`` of its last verification; None if there was none.

    The living GitLab is the first of the three copies.
    """
    return (
        Point("3 copies", 1 + len(stores) >= 3, "add a second store: [[instance.copies]]"),
        Point("2 kinds of store", len({store.kind for store in stores}) >= 2, "let the copy be of another provider"),
        Point("1 off-site", any(store.off_site for store in stores), "keep a copy in a bucket, not on a disk here"),
        Point("1 immutable", any(store.locks for store in stores), "use a store that locks: object_lock, or worm"),
        Point("0 errors", problems == 0, "run `drtool verify`" if problems is None else "find out what verify found"),
    )
