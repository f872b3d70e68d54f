"""Stores that hold several nights of one instance, signed, verified on the record, and dated as if they were old."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import cache
from typing import BinaryIO

from drtool.catalog import Catalog
from drtool.core.model import Finding, Manifest, new_set_id, time_of
from drtool.core.policy import Retention
from drtool.errors import SignatureInvalid, StoreAccessDenied
from drtool.events import ignore
from drtool.hosts.local import LocalRunner
from drtool.prune import Pruned, prune
from drtool.signing import Signer, Verifier
from drtool.stores import Capabilities, ObjectInfo, Store
from drtool.stores.memory import MemoryStore
from tests import sets

DAY = timedelta(days=1)
RETENTION = Retention(daily=2, minimum=2, patience=timedelta(0))


class DatedStore:
    """Passes everything on, and tells of objects in a set's folder that they were stored when the set was taken.

    ``refused`` keys are not deleted, as if they were locked; ``moved`` sets were stored some time later.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.refused: Callable[[str], bool] = lambda key: False
        self.moved: dict[str, timedelta] = {}

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    def put(
        self,
        key: str,
        source: BinaryIO,
        *,
        size_hint: int | None = None,
        lock_until: datetime | None = None,
        only_if_absent: bool = False,
    ) -> ObjectInfo:
        return self.inner.put(key, source, size_hint=size_hint, lock_until=lock_until, only_if_absent=only_if_absent)

    def open(
        self, key: str, *, start: int = 0, size: int | None = None, version: str = ""
    ) -> AbstractContextManager[BinaryIO]:
        return self.inner.open(key, start=start, size=size, version=version)

    def stat(self, key: str) -> ObjectInfo:
        return self._dated(self.inner.stat(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return map(self._dated, self.inner.list(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        """Like a batch of S3: what may go goes, and then the refusal is told."""
        wanted = [*keys]
        self.inner.delete([key for key in wanted if not self.refused(key)])
        if stays := [key for key in wanted if self.refused(key)]:
            raise StoreAccessDenied(f"{self.name}: {stays[0]} is locked")

    def signed_url(self, key: str, *, ttl: timedelta) -> str:
        return self.inner.signed_url(key, ttl=ttl)

    def _dated(self, info: ObjectInfo) -> ObjectInfo:
        parts = info.key.split("/")
        if len(parts) < 4 or parts[1] != "sets":
            return info
        stored = time_of(parts[2]) + self.moved.get(parts[2], timedelta(minutes=30))
        return dataclasses.replace(info, modified_at=stored)


class RememberingVerifier(Verifier):
    """Asks ssh-keygen once about each message and signature: hundreds of runs look at the same few."""

    def __init__(self, real: Verifier) -> None:
        super().__init__(real.trusted, LocalRunner())
        self._known: dict[tuple[bytes, bytes], str] = {}

    def verify(self, message: bytes, signature: bytes, *, source: str) -> None:
        if (message, signature) not in self._known:
            try:
                super().verify(message, signature, source=source)
            except SignatureInvalid as problem:
                self._known[message, signature] = str(problem)
                raise
            self._known[message, signature] = ""
        if said := self._known[message, signature]:
            raise SignatureInvalid(said)


@cache
def verifier() -> Verifier:
    return RememberingVerifier(sets.keys().verifier)


def set_id(night: int) -> str:
    return new_set_id(sets.NIGHT + night * DAY, "0000")


def clock(night: int) -> sets.StillClock:
    """A clock that stands some hours after a night's backup."""
    return sets.StillClock(sets.NIGHT + night * DAY + timedelta(hours=6))


@cache
def _content(nights: tuple[int, ...], verified: tuple[int, ...]) -> Mapping[str, bytes]:
    store = MemoryStore()
    for night in nights:
        committed = sets.commit(
            store, set_id=set_id(night), archives={"application": sets.tar_of({"a": b"b" * 30_000})}
        )
        if night in verified:
            write_receipt(committed.catalog, committed.manifest)
    return {info.key: sets.content(store, info.key) for info in store.list("")}


def live(nights: Sequence[int], store: Store | None = None, *, verified: Sequence[int] | None = None) -> Catalog:
    """A fresh store with a set for each of these nights, all verified unless said otherwise."""
    found = store or MemoryStore()
    for key, content in _content(tuple(nights), tuple(nights if verified is None else verified)).items():
        found.put(key, io.BytesIO(content))
    return Catalog(DatedStore(found), sets.INSTANCE)


def write_receipt(
    catalog: Catalog,
    manifest: Manifest,
    *,
    good: Sequence[str] | None = None,
    problems: int = 0,
    days: int = 0,
    signer: Signer | None = None,
    **more: object,
) -> str:
    """What ``drtool verify --level digest`` would leave, some days after the set was taken; ``more`` is put over it."""
    found_at = time_of(manifest.set_id) + timedelta(days=days, hours=1)
    receipt = {
        "format": 1,
        "purpose": "verify",
        "instance": manifest.instance,
        "set_id": manifest.set_id,
        "level": "digest",
        "signature": "valid",
        "finished_at": found_at.isoformat(),
        "good": [volume.name for volume in manifest.volumes] if good is None else good,
        "problems": problems,
        **more,
    }
    run_id = f"verify-{manifest.set_id}-{found_at:%Y%m%dT%H%M%SZ}-0000"
    return catalog.put_receipt(run_id, json.dumps(receipt).encode(), signer or sets.keys().signer)


def make_red(catalog: Catalog, night: int) -> None:
    """Turn a set into one that its backup judged red."""
    manifest = catalog.read_manifest(set_id(night), None)
    catalog.store.delete([catalog.key(set_id(night), name) for name in ("manifest.json", "manifest.json.sig")])
    wrong = Finding("dump", "the dump is cut off", severity="red")
    catalog.commit(dataclasses.replace(manifest, verdict="red", findings=(wrong,)), sets.keys().signer)


def run(catalog: Catalog, night: int, retention: Retention = RETENTION, **more: object) -> Pruned:
    """Prune some hours after a night."""
    return prune(catalog, retention, verifier=verifier(), clock=clock(night), emit=ignore, **more)  # type: ignore[arg-type]  # as a test says


def keys_of(catalog: Catalog, *nights: int) -> set[str]:
    """Every object in the folders of these nights."""
    return {info.key for night in nights for info in catalog.store.list(catalog.key(set_id(night), ""))}
