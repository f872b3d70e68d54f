"""What is tidied of old leases: what nobody can need, and nothing that nobody here knows."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drtool.catalog import Catalog
from drtool.claims import tidy
from drtool.errors import StoreAccessDenied, StoreTransient
from drtool.stores import ObjectInfo
from drtool.stores.faults import FaultyStore, Method
from drtool.stores.memory import MemoryStore
from tests.contracts.test_keeping import lay_out

NOW = datetime(2026, 3, 1, 3, 15, tzinfo=UTC)
FOLDER = "gitlab/lease/"


class OldStore(MemoryStore):
    """Says of each object what day it is of; of the newest, that it is of today. ``locked`` keys stay."""

    def __init__(self) -> None:
        super().__init__()
        self.days: dict[str, int] = {}
        self.locked: set[str] = set()

    def lay(self, name: str, *, days: int) -> None:
        self.put(FOLDER + name, io.BytesIO(b"{}"))
        self.days[FOLDER + name] = days

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for info in super().list(prefix):
            yield replace(info, modified_at=NOW - timedelta(days=self.days.get(info.key, 0)))

    def delete(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        super().delete(set(wanted) - self.locked)
        if refused := self.locked.intersection(wanted):
            raise StoreAccessDenied(f"{refused} are locked")

    def names(self) -> Sequence[str]:
        return [info.key.removeprefix(FOLDER) for info in super().list(FOLDER)]


@pytest.fixture
def store() -> OldStore:
    """Thirty nights, one claim each, the last of tonight; the claim of token 4 died and was never released."""
    store = OldStore()
    for token in range(1, 31):
        store.lay(f"{token:012d}", days=30 - token)
        store.lay(f"{token:012d}-alive", days=30 - token)
        if token != 4:
            store.lay(f"{token:012d}-released", days=30 - token)
    return store


def test_claims_of_a_week_ago_are_tidied_and_the_newer_ones_stay(store: OldStore) -> None:
    tidy(Catalog(store, "gitlab"))
    assert {int(name[:12]) for name in store.names()} == set(range(23, 31))


def test_the_last_claims_stay_however_old_they_are(store: OldStore) -> None:
    store.lay("000000000031", days=0)
    store.days = {key: days + 400 if days else 0 for key, days in store.days.items()}
    tidy(Catalog(store, "gitlab"))
    assert {int(name[:12]) for name in store.names()} == set(range(24, 32))


def test_a_claim_with_a_sign_of_this_week_stays(store: OldStore) -> None:
    store.lay("000000000004-alive", days=6)
    tidy(Catalog(store, "gitlab"))
    assert [name for name in store.names() if name.startswith("000000000004")] == [
        "000000000004",
        "000000000004-alive",
    ]


def test_what_nobody_knows_stays_and_old_probes_go(store: OldStore) -> None:
    strange = ["notes.txt", "000000000002-alive.bak", "12", "probe", "probe-x", "000000000002/x"]
    for name in strange:
        store.lay(name, days=90)
    store.lay("probe-0a1b2c3d", days=90)
    store.lay("probe-99999999", days=1)
    tidy(Catalog(store, "gitlab"))
    kept = [name for name in store.names() if not name.startswith(tuple(f"{token:012d}" for token in range(23, 31)))]
    assert sorted(kept) == sorted([*strange, "probe-99999999"])


def test_an_unconditional_stores_claims_and_heartbeats_with_names_of_their_own_are_tidied(store: OldStore) -> None:
    for name in ("000000000005.9f3c01aa", "000000000005.9f3c01aa-alive-1", "000000000005.9f3c01aa-alive-2"):
        store.lay(name, days=25)
    tidy(Catalog(store, "gitlab"))
    assert not [name for name in store.names() if name.startswith("000000000005")]


def test_what_the_store_refuses_to_delete_stays_and_nobody_hears_of_it(store: OldStore) -> None:
    store.locked = {f"{FOLDER}000000000001", f"{FOLDER}000000000002"}
    tidy(Catalog(store, "gitlab"))
    assert {int(name[:12]) for name in store.names()} == {1, 2, *range(23, 31)}


@pytest.mark.parametrize("method", ["list", "delete"])
def test_a_store_that_fails_fails_nothing(store: OldStore, method: Method) -> None:
    broken = FaultyStore(store)
    broken.fail_at(1, "before", StoreTransient("the network is down"), method=method)
    before = store.names()
    tidy(Catalog(broken, "gitlab"))
    assert store.names() == before


def test_an_empty_folder_needs_no_tidying() -> None:
    tidy(Catalog(MemoryStore(), "gitlab"))


def test_prune_tidies_every_store_and_a_dry_run_none(tmp_path: Path) -> None:
    kept = lay_out(tmp_path, 2)
    folders = [tmp_path / store / "gitlab/lease" for store in ("main", "copy")]
    for folder in folders:
        folder.mkdir()
        for token in range(1, 21):
            path = folder / f"{token:012d}"
            path.write_text("{}")
            os.utime(path, (0, 0))
    assert kept.drtool("prune", "--dry-run").status == 0
    assert [len(list(folder.iterdir())) for folder in folders] == [20, 20]
    assert kept.drtool("prune").status == 0
    for folder in folders:
        assert sorted({int(path.name[:12]) for path in folder.iterdir() if path.name[0] == "0"}) == list(range(14, 22))
