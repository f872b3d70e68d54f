"""Which set is meant by a name, by its beginning, or by ``latest``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from drtool.catalog import Catalog
from drtool.core.history import is_ahead
from drtool.core.model import time_of
from drtool.errors import SetMissing
from drtool.events import Emit, Noticed
from drtool.stores import ObjectInfo

LATEST = "latest"


def resolve(catalog: Catalog, text: str, now: datetime, emit: Emit) -> str:
    """Turn ``latest``, a set id or an unambiguous beginning of one into a set id. Raises SetMissing.

    A red set is found by its whole id alone: nobody takes one by accident. One that is being removed is not found.
    ``latest`` is never dated in the future, by ``now`` or by the store's clock: whoever names a set so would else
    choose what is restored and verified for as long. Those that are passed over are noticed.
    """
    found = catalog.records()
    if text == LATEST and found.known:
        return _latest(catalog, found.known, now, emit)
    if text in found.known or text in found.rejected:
        return text
    matches = [set_id for set_id in found.known if text and set_id.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise SetMissing(f"{text} may be any of {', '.join(matches)}", hint="Give more of the set's name.")
    where = f"of {catalog.instance} in {catalog.store.name}"
    if text in found.gone:
        raise SetMissing(f"{text} {where} is being removed: it is no set any more", hint="Use another one.")
    raise SetMissing(
        f"no backup set {where}" if text == LATEST else f"no backup set {text!r} {where}",
        hint="`drtool list` shows what is there." if found.known else "`drtool backup` makes the first one.",
    )


def _latest(catalog: Catalog, known: dict[str, ObjectInfo], now: datetime, emit: Emit) -> str:
    passed: list[str] = []
    for set_id, info in reversed(known.items()):
        if not is_ahead(time_of(set_id), info.modified_at, now):
            if passed:
                text = f"latest is {set_id}: dated in the future, and passed over: {_some(passed)}"
                emit(Noticed("future-set", text, hint="A clock was wrong, or somebody lies: see `drtool list`."))
            return set_id
        passed.append(set_id)
    raise SetMissing(
        f"no set of {catalog.instance} in {catalog.store.name} is the latest: dated in the future: {_some(passed)}",
        hint=f"This host's clock says {now.astimezone(UTC):%F %R} UTC; if it is right, name the set itself.",
    )


def _some(set_ids: Sequence[str]) -> str:
    newest, *more = set_ids
    return f"{newest} and {len(more)} more" if more else newest
