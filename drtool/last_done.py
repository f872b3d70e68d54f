"""What was done last, as signed receipts say: verifications, restores, drills."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

from drtool.catalog import Catalog
from drtool.core.situation import Done, Moved
from drtool.errors import ObjectMissing, SetDamaged, SignatureInvalid
from drtool.events import Emit, Noticed
from drtool.signing import Verifier

_LOOKED_AT: Final = 200  # receipts of a kind and level, the newest; what is older than those proves nothing recent
_LEVEL = re.compile(r"-(present|digest|contents)\.[^.-]+\.json\Z")  # in the names of verifications, since they tell it
_READ: Final = ("digest", "contents")  # levels at which every byte is read


@dataclass(frozen=True, slots=True)
class Records:
    """The newest of each kind that counts; None where none of the newest receipts does.

    ``digest`` and ``contents`` found nothing wrong; ``problems`` are what the last verification of any kind found.
    ``restore`` is the last restore or drill, ``moved`` the last cut-over that moved the address for good.
    """

    digest: Done | None
    contents: Done | None
    problems: int | None
    drill: Done | None
    restore: Done | None
    moved: Moved | None = None


def read_records(catalog: Catalog, verifier: Verifier, emit: Emit) -> Records:
    """Read the newest receipts that a trusted key signed. Raises StoreError."""
    verified = _Kind(catalog, ("verify-",), verifier, emit)
    drill, restore = read_restores(catalog, verifier, emit)
    last = verified.newest(lambda _: True, _READ)
    return Records(
        digest=_done(verified.newest(_is_good, _READ)),
        contents=_done(verified.newest(_is_good, ("contents",))),
        problems=int(last["problems"]) if last else None,
        drill=drill,
        restore=restore,
        moved=_moved(_read_all(catalog, sorted(catalog.receipts("cutover-")), verifier, emit)),
    )


def read_restores(catalog: Catalog, verifier: Verifier, emit: Emit) -> tuple[Done | None, Done | None]:
    """The last drill, and the last restore or drill: of the sets in this store, in which their receipts are."""
    done = _Kind(catalog, ("restore-", "drill-"), verifier, emit)
    drill = _done(done.newest(lambda receipt: receipt["purpose"] == "drill"))
    return drill, _done(done.newest(lambda receipt: receipt["purpose"] in ("restore", "drill")))


def newer(one: Done | None, other: Done | None) -> Done | None:
    return max(filter(None, (one, other)), key=lambda done: done.finished_at, default=None)


def _is_good(receipt: dict[str, Any]) -> bool:
    return bool(receipt["signature"] == "valid" and receipt["problems"] == 0)


class _Kind:
    """Receipts of some purposes, newest first; each is read once, and none whose name tells another level."""

    def __init__(self, catalog: Catalog, prefixes: Sequence[str], verifier: Verifier, emit: Emit) -> None:
        keys = [key for prefix in prefixes for key in catalog.receipts(prefix)]
        self._newest_first = sorted(keys, key=lambda key: key.rsplit("-", 2)[1:], reverse=True)
        self._read: dict[str, dict[str, Any] | None] = {}
        self._catalog, self._verifier, self._emit = catalog, verifier, emit

    def newest(self, counts: Callable[[dict[str, Any]], bool], levels: Sequence[str] = ("",)) -> dict[str, Any] | None:
        """The newest that counts, of these levels of verification; other kinds have none."""
        wanted = (key for key in self._newest_first if (_level_in(key) or levels[0]) in levels)
        for key in islice(wanted, _LOOKED_AT):
            if key not in self._read:
                self._read[key] = next(_read_all(self._catalog, (key,), self._verifier, self._emit), None)
            receipt = self._read[key]
            if receipt and receipt["level"] in levels and counts(receipt):
                return receipt
        return None


def _level_in(key: str) -> str:
    """The level of verification that a name tells; empty if it tells none."""
    found = _LEVEL.search(key)
    return found[1] if found else ""


def _read_all(catalog: Catalog, keys: Sequence[str], verifier: Verifier, emit: Emit) -> Iterator[dict[str, Any]]:
    for key in keys:
        try:
            text, signature = catalog.read_receipt(key)
            verifier.verify(text, signature, source=key)
            yield _parse(text, key, catalog.instance)
        except (
            SignatureInvalid,
            ObjectMissing,
            SetDamaged,
            ValueError,
            KeyError,
            TypeError,
            RecursionError,
        ) as problem:
            emit(Noticed("receipt-ignored", f"{key} does not count: {problem}"))


def _parse(text: bytes, key: str, instance: str) -> dict[str, Any]:
    """What a receipt says, with times and lengths as values. Raises ValueError if it is not what its name says."""
    receipt: dict[str, Any] = json.loads(text)
    finished = datetime.fromisoformat(receipt["finished_at"])
    if finished.tzinfo is None or receipt["instance"] != instance:
        raise ValueError("of another instance, or without a time zone")
    name = key.rpartition("/")[2].removesuffix(".json")
    if receipt["purpose"] == "verify":
        stamp = f"verify-{receipt['set_id']}-{finished.astimezone(UTC):%Y%m%dT%H%M%SZ}-"
        if not name.startswith(stamp) or not isinstance(receipt["problems"], int) or not receipt["signature"]:
            raise ValueError("its name is not the one that it was written under")
        if _level_in(key) not in ("", receipt["level"]):
            raise ValueError("it is of another level than its name says")
        took = None
    else:
        result = f"-{str(receipt['result']).replace(' ', '-')}" if receipt["purpose"] == "cutover" else ""
        if f"{receipt['run_id']}{result}" != name:
            raise ValueError("its name is not the one that it was written under")
        took = timedelta(seconds=sum(max(0.0, float(step["seconds"])) for step in receipt["steps"]))
    needed = {
        "level": str(receipt["level"]) if receipt["purpose"] == "verify" else "",
        "set_id": "" if receipt["purpose"] == "cutover" else str(receipt["set_id"]),
    }
    return {**receipt, **needed, "finished_at": finished.astimezone(UTC), "took": took}


def _done(receipt: dict[str, Any] | None) -> Done | None:
    return Done(receipt["finished_at"], str(receipt["set_id"]), receipt["took"]) if receipt else None


def _moved(receipts: Iterable[dict[str, Any]]) -> Moved | None:
    """The last cut-over, if it moved the address for good. There are few of them, and their names sort by address."""
    newest = max(receipts, key=lambda receipt: receipt["finished_at"], default=None)
    if newest is None or newest["result"] != "committed":
        return None
    return Moved(newest["finished_at"], str(newest["to"]))
