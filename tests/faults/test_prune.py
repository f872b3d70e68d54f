"""Prune dies at every call, in every way: a set is whole or in no list, what is kept stays, and a next run finishes."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from drtool.catalog import Catalog
from drtool.errors import StoreAccessDenied, StoreTransient
from drtool.stores import Store
from drtool.stores.faults import Crash, FaultyStore
from drtool.stores.local import LocalStore
from drtool.stores.memory import MemoryStore
from tests import sets
from tests.lives import DatedStore, keys_of, live, make_red, run, set_id, verifier
from tests.runners import When

WHENS: tuple[When, ...] = ("before", "during", "after")
NIGHTS, KEPT = range(5), (3, 4)


@cache
def _five_nights() -> Mapping[str, bytes]:
    catalog = live(NIGHTS)
    make_red(catalog, 1)
    catalog.put_bytes(catalog.key(set_id(2), "notes.txt"), b"mine")
    return {info.key: sets.content(catalog.store, info.key) for info in catalog.store.list("")}


def fresh(place: Path | None = None) -> Catalog:
    """Five nights, of which three are to go: one of them red, one with a foreign object. In memory, or a directory."""
    store: Store = LocalStore(place) if place else MemoryStore()
    for key, content in _five_nights().items():
        if place:  # not by the store, which flushes each to the disk: hundreds of these are made
            (place / key).parent.mkdir(parents=True, exist_ok=True)
            (place / key).write_bytes(content)
        else:
            store.put(key, io.BytesIO(content))
    return Catalog(DatedStore(store), sets.INSTANCE)


def assert_safe(catalog: Catalog) -> None:
    """Whatever is in a list is whole and signed, and what is to be kept is in it."""
    committed, rejected = catalog.recorded()
    assert {set_id(night) for night in KEPT} <= {*committed}
    for name in (*committed, *rejected):
        manifest = catalog.read_manifest(name, verifier())
        for volume in manifest.volumes:
            assert catalog.stat_volume(name, volume.name).size == volume.stored_size


@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize(
    ("kind", "error"),
    [("memory", Crash), ("memory", StoreTransient), ("memory", StoreAccessDenied), ("local", Crash)],
)
def test_prune_that_dies_at_any_call_harms_nothing_and_is_finished_by_the_next(
    tmp_path: Path, kind: str, when: When, error: type[BaseException]
) -> None:
    wanted = keys_of(fresh(), *KEPT)
    for nth in itertools.count(1):
        catalog = fresh(tmp_path / str(nth) if kind == "local" else None)
        faulty = FaultyStore(catalog.store)
        faulty.fail_at(nth, when, error("here"))

        with suppress(Crash, StoreTransient, StoreAccessDenied):
            run(Catalog(faulty, sets.INSTANCE), 4)
        assert_safe(catalog)
        second = run(catalog, 4)

        assert second.problems == ()
        assert_safe(catalog)
        assert keys_of(catalog, *NIGHTS) == wanted | {catalog.key(set_id(2), "notes.txt")}
        if not faulty.fired:
            break
    assert nth > 30  # there were that many calls to fail


def test_prune_that_dies_again_and_again_still_comes_to_its_end(tmp_path: Path) -> None:
    catalog = fresh(tmp_path)
    for nth in itertools.count(10):
        faulty = FaultyStore(catalog.store)
        faulty.fail_at(nth, "during", Crash())
        try:
            run(Catalog(faulty, sets.INSTANCE), 4)
        except Crash:
            assert_safe(catalog)
        else:
            break

    assert catalog.recorded() == ([set_id(night) for night in KEPT], [])


def test_a_refused_prune_is_told_and_never_taken_for_done() -> None:
    """Whichever delete is refused: no set counts as removed that is still there, and none is lost from the result."""
    for nth in itertools.count(1):
        catalog = fresh()
        faulty = FaultyStore(catalog.store)
        faulty.fail_at(nth, "before", StoreAccessDenied("not allowed"), method="delete")

        pruned = run(Catalog(faulty, sets.INSTANCE), 4)

        for name in pruned.removed:
            assert {key for key in keys_of(catalog, *NIGHTS) if name in key} <= {
                catalog.key(name, "notes.txt"),
                catalog.key(name, "deleting"),
            }
        tombstones = any(key.endswith("/deleting") for key in keys_of(catalog, *NIGHTS))
        assert bool(pruned.problems) or tombstones or not faulty.fired
        if not faulty.fired:
            break
    assert nth > 12


def test_this_judge_sees_a_kept_set_that_is_gone_or_broken() -> None:
    for name in ("manifest.json", "manifest.json.sig", "index.age"):
        catalog = fresh()
        assert_safe(catalog)
        catalog.store.delete([catalog.key(set_id(4), name)])
        with pytest.raises(Exception):  # noqa: B017  whichever way it shows
            assert_safe(catalog)


def test_twenty_nights_never_fall_below_the_minimum() -> None:
    """Every night a set, verified the next day, and a prune that dies in one night of two."""
    catalog = live(range(20))
    everything = {key: sets.content(catalog.store, key) for key in keys_of(catalog, *range(20))}
    receipts = {key: sets.content(catalog.store, key) for each in catalog.receipts("") for key in (each, f"{each}.sig")}
    lived = Catalog(DatedStore(MemoryStore()), sets.INSTANCE)
    for night in range(20):
        for key, content in everything.items():
            if set_id(night) in key:
                lived.put_bytes(key, content)
        for key, content in receipts.items():
            if night and set_id(night - 1) in key:
                lived.put_bytes(key, content)
        faulty = FaultyStore(lived.store)
        if night % 2:
            faulty.fail_at(20 + night, "during", Crash())
        with suppress(Crash):
            run(Catalog(faulty, sets.INSTANCE), night)
        verified = [name for name in lived.set_ids() if name != set_id(night)]
        assert len(verified) >= min(2, night)
    run(lived, 19)
    assert lived.set_ids() == [set_id(night) for night in (17, 18, 19)]
