"""Discard dies at every call, in every way: the set is whole or in no list, all others stay, and the next ends it.

Nothing is ever gone that no signed receipt names.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest

from drtool.catalog import MANIFEST, Catalog
from drtool.core.policy import Retention
from drtool.discard import Discarded, Place, discard, plan_discard
from drtool.errors import StoreAccessDenied, StoreTransient
from drtool.events import ignore
from drtool.hosts.local import LocalRunner
from drtool.removing import RemovalRefused
from drtool.signing import Signer
from drtool.stores import Store
from drtool.stores.faults import Crash, FaultyStore
from drtool.stores.local import LocalStore
from drtool.stores.memory import MemoryStore
from tests import sets
from tests.lives import DatedStore, clock, keys_of, live, run, set_id, verifier
from tests.runners import When

WHENS: tuple[When, ...] = ("before", "during", "after")
KEPT, BAD = (0, 1, 2), 3
KINDS = ("future", "damaged", "forged", "unreadable")
_tokens = itertools.cycle(range(1 << 16))
ALL_STAY = Retention(last=9, minimum=2)


class RememberingSigner(Signer):
    """Asks ssh-keygen once about each message: hundreds of runs write the same few receipts."""

    def __init__(self) -> None:
        super().__init__(sets.keys().signer.key, LocalRunner())
        self._known: dict[bytes, bytes] = {}

    def sign(self, message: bytes) -> bytes:
        if message not in self._known:
            self._known[message] = super().sign(message)
        return self._known[message]


@cache
def signer() -> Signer:
    return RememberingSigner()


@cache
def _content(kind: str) -> Mapping[str, bytes]:
    catalog = live(KEPT)
    if kind == "forged":
        sets.commit(catalog.store, set_id=set_id(BAD), keys_=sets.new_keys())
    else:
        sets.commit(catalog.store, set_id=set_id(BAD))
    if kind == "damaged":
        lost = catalog.read_manifest(set_id(BAD), None).volumes[0].name
        catalog.store.delete([catalog.key(set_id(BAD), lost)])
    if kind == "unreadable":
        catalog.put_bytes(catalog.key(set_id(BAD), MANIFEST), b"{}")
    catalog.put_bytes(catalog.key(set_id(BAD), "notes.txt"), b"mine")
    return {info.key: sets.content(catalog.store, info.key) for info in catalog.store.list("")}


def fresh(kind: str, place: Path | None = None) -> Catalog:
    """Three good nights and an unwanted set, with a foreign object in it. In memory, or a directory."""
    store: Store = LocalStore(place) if place else MemoryStore()
    for key, content in _content(kind).items():
        if place:  # not by the store, which flushes each to the disk
            (place / key).parent.mkdir(parents=True, exist_ok=True)
            (place / key).write_bytes(content)
        else:
            store.put(key, io.BytesIO(content))
    return watched(store, kind)


def watched(store: Store, kind: str) -> Catalog:
    dated = DatedStore(store)
    if kind == "future":
        dated.moved[set_id(BAD)] = -timedelta(days=2)
    return Catalog(dated, sets.INSTANCE)


def discarded(catalog: Catalog) -> Discarded | None:
    """Look, and discard what is there; None where nothing is any more."""
    place = Place(ALL_STAY, verifier(), signer(), clock(BAD), ignore, lambda: f"{next(_tokens):04x}")
    plan = plan_discard(catalog, set_id(BAD), place)
    return discard(catalog, plan, place, reason="nobody wants it", by="root") if plan else None


def assert_safe(catalog: Catalog, kind: str) -> None:
    """Nothing of another set is gone, the set is whole or in no list, and what is gone a receipt named before."""
    whole = _content(kind)
    there = {info.key for info in catalog.store.list("")}
    gone = whole.keys() - there
    folder = catalog.key(set_id(BAD), "")
    assert all(key.startswith(folder) for key in gone)
    assert f"{folder}notes.txt" in there
    if gone:
        assert set_id(BAD) not in (*catalog.set_ids(), *catalog.recorded()[1])
        assert gone <= _named(catalog)


def _named(catalog: Catalog) -> set[str]:
    """What the receipts say that it goes."""
    named: set[str] = set()
    for receipt in catalog.receipts("discard-"):
        text, signature = catalog.read_receipt(receipt)
        verifier().verify(text, signature, source=receipt)
        named |= {*json.loads(text)["keys"]}
    return named


def assert_ended(catalog: Catalog, kind: str) -> None:
    assert_safe(catalog, kind)
    assert keys_of(catalog, BAD) == {catalog.key(set_id(BAD), "notes.txt")}


@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [Crash, StoreTransient, StoreAccessDenied])
def test_discard_that_dies_at_any_call_harms_nothing_and_is_finished_by_the_next(
    kind: str, when: When, error: type[BaseException]
) -> None:
    for nth in itertools.count(1):
        catalog = fresh(kind)
        faulty = FaultyStore(catalog.store)
        faulty.fail_at(nth, when, error("here"))

        with suppress(Crash, StoreTransient, StoreAccessDenied):
            discarded(Catalog(faulty, sets.INSTANCE))
        assert_safe(catalog, kind)
        again = discarded(catalog)

        assert again is None or again.removed
        assert_ended(catalog, kind)
        if not faulty.fired:
            break
    assert nth > 20  # there were that many calls to fail


@pytest.mark.parametrize("kind", KINDS)
def test_a_prune_after_a_discard_that_died_harms_nothing_either(kind: str) -> None:
    for nth in itertools.count(1):
        catalog = fresh(kind)
        faulty = FaultyStore(catalog.store)
        faulty.fail_at(nth, "during", Crash())

        with suppress(Crash):
            discarded(Catalog(faulty, sets.INSTANCE))
        pruned = run(catalog, BAD, ALL_STAY)
        assert pruned.problems == ()
        assert_safe(catalog, kind)
        discarded(catalog)

        assert_ended(catalog, kind)
        if not faulty.fired:
            break


@pytest.mark.parametrize("kind", ["future", "forged"])
def test_discard_in_a_directory_dies_and_is_finished(tmp_path: Path, kind: str) -> None:
    for nth in itertools.count(1):
        catalog = fresh(kind, tmp_path / str(nth))
        faulty = FaultyStore(catalog.store)
        faulty.fail_at(nth, "during", Crash())

        with suppress(Crash):
            discarded(Catalog(faulty, sets.INSTANCE))
        assert_safe(catalog, kind)
        discarded(catalog)

        assert_ended(catalog, kind)
        if not faulty.fired:
            break


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_discard_is_told_and_never_taken_for_done(kind: str) -> None:
    for nth in itertools.count(1):
        catalog = fresh(kind)
        faulty = FaultyStore(catalog.store)
        faulty.fail_at(nth, "before", StoreAccessDenied("not allowed"), method="delete")

        done = None
        with suppress(StoreAccessDenied):
            done = discarded(Catalog(faulty, sets.INSTANCE))

        assert_safe(catalog, kind)
        left = keys_of(catalog, BAD) - {catalog.key(set_id(BAD), name) for name in ("notes.txt", "deleting")}
        assert (done is not None and done.removed) == (not left)
        assert done is None or done.removed or isinstance(done.problem, RemovalRefused)
        if not faulty.fired:
            break
    assert nth > 4


@pytest.mark.parametrize("spoil", ["another", "own", "foreign", "receipt"])
def test_this_judge_sees_what_should_not_be_gone(spoil: str) -> None:
    catalog = fresh("future")
    assert_safe(catalog, "future")
    if spoil == "receipt":
        discarded(catalog)
        assert_safe(catalog, "future")
    night = 1 if spoil == "another" else BAD
    lost = {"another": "index.age", "own": "index.age", "foreign": "notes.txt"}.get(spoil)
    key = catalog.key(set_id(night), lost) if lost else catalog.receipts("discard-")[0]
    catalog.store.delete([key])
    with pytest.raises((AssertionError, ValueError)):
        assert_safe(catalog, "future")
