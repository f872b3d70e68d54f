"""What lies where in a store, and the small objects of it. The layout of keys is known here and nowhere else.

<instance>/sets/<set_id>/application-0000.tar.age …  config-0000.tar.age  index.age  census.age
<instance>/sets/<set_id>/manifest.json.sig, then manifest.json: the commit; rejected.json(.sig) in its place: a red set
<instance>/sets/<set_id>/pin, and pin.sig: it stays for ever
<instance>/sets/<set_id>/deleting, the tombstone: it is being removed, and no set any more
<instance>/receipts/<run_id>.json and .sig
<instance>/lease/…: who is at work, see ``lease``
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Protocol

from drtool.core.model import SealKind
from drtool.errors import ObjectMissing, SetDamaged, StoreError
from drtool.signing import Signer
from drtool.stores import ObjectInfo, Store
from drtool.streams import CHUNK

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
REJECTED = "rejected.json"
PIN = "pin"
PIN_SIGNATURE = "pin.sig"
TOMBSTONE = "deleting"
_SIGNATURE = ".sig"
_VOLUME = re.compile(r"([a-z0-9][a-z0-9._-]*-([0-9]{4}|x[0-9]{6})\.tar|index|census)(\.age)?\Z")
_SMALL = 64 << 20  # a manifest names volumes, not members: 64 MiB of it would be half a million volumes


def volume_name(archive: str, number: int, seal: SealKind) -> str:
    """Name a volume; names of one archive sort in the order of its bytes."""
    counted = f"{number:04d}" if number < 10_000 else f"x{number:06d}"  # x sorts after every digit
    return f"{archive}-{counted}.tar" + (".age" if seal == "age" else "")


def could_be_volume(name: str) -> bool:
    """Tell whether a backup gives such names, whatever lies under this one."""
    return _VOLUME.match(name) is not None


class Fence(Protocol):
    """What keeps a run that lost its lease from writing on. Both raise Busy."""

    def check(self) -> None:
        """As far as is known here: costs nothing, for every safe point."""
        ...

    def check_now(self) -> None:
        """Ask the store too: before what cannot be undone."""
        ...


class _Open:
    """The fence of whoever holds no lease: for reading, and for what nobody else does."""

    def check(self) -> None:
        pass

    def check_now(self) -> None:
        pass


def never_locked(set_id: str) -> datetime | None:  # noqa: ARG001  the signature is what counts
    """The lock of a policy that has none."""
    return None


class Layout:
    """The keys of one instance on one store, and what is small enough to be read at once.

    ``lock`` says until when what is stored of a set is to be locked; None is not at all.
    """

    def __init__(
        self,
        store: Store,
        instance: str,
        *,
        fence: Fence | None = None,
        lock: Callable[[str], datetime | None] = never_locked,
    ) -> None:
        self.store = store
        self.instance = instance
        self.fence: Fence = fence or _Open()
        self.lock = lock

    def key(self, set_id: str, name: str) -> str:
        return f"{self.instance}/sets/{set_id}/{name}"

    @property
    def lease_folder(self) -> str:
        return f"{self.instance}/lease/"

    def lock_until(self, set_id: str) -> datetime | None:
        """Until when an object that is put into this set now is to be locked; None where the bucket does it, or nobody.

        A lock that would be over already is none: a store refuses it.
        """
        return self.lock(set_id) if self.store.capabilities.lock == "object" else None

    def objects(self) -> Iterator[tuple[str, str, ObjectInfo]]:
        """Whatever lies in the folders of sets: the folder's name, the name below it, what the store says."""
        prefix = f"{self.instance}/sets/"
        for info in self.store.list(prefix):
            set_id, _, name = info.key.removeprefix(prefix).partition("/")
            yield set_id, name, info

    def is_committed(self, set_id: str) -> bool:
        """Tell whether the set's manifest is there, whatever it says."""
        return self._is_there(self.key(set_id, MANIFEST))

    def is_being_removed(self, set_id: str) -> bool:
        """Tell whether the set has a tombstone."""
        return self._is_there(self.key(set_id, TOMBSTONE))

    def is_pinned(self, set_id: str) -> bool:
        """Tell whether the set has a pin, whatever it says."""
        return self._is_there(self.key(set_id, PIN))

    def is_rejected(self, set_id: str) -> bool:
        """Tell whether the set was judged red, and a record of that is there."""
        return self._is_there(self.key(set_id, REJECTED))

    def _is_there(self, key: str) -> bool:
        try:
            self.store.stat(key)
        except ObjectMissing:
            return False
        return True

    def read_commit(self, set_id: str) -> dict[str, bytes]:
        """The manifest and, if there is one, its signature, exactly as they were written."""
        return self.read_files(set_id, MANIFEST)

    def read_files(self, set_id: str, name: str) -> dict[str, bytes]:
        """A record of the set and, if there is one, its signature."""
        texts = {name: self.read_bytes(self.key(set_id, name))}
        with suppress(ObjectMissing):
            texts[name + _SIGNATURE] = self.read_bytes(self.key(set_id, name + _SIGNATURE))
        return texts

    def put_commit(self, set_id: str, commit: Mapping[str, bytes]) -> None:
        """Write what ``read_commit`` gives: signature first, manifest last.

        Raises StoreError if they read back differently, Busy before the manifest if the lease was lost.
        """
        *_, last = names = sorted(commit, key=lambda name: not name.endswith(_SIGNATURE))
        for name in names:
            if name == last:
                self.fence.check_now()
            self.put_bytes(self.key(set_id, name), commit[name], lock_until=self.lock_until(set_id))
        if self.read_files(set_id, last) != commit:
            raise StoreError(
                f"{self.key(set_id, last)}: reads back differently from what was written",
                hint="The set is not to be trusted. Check the store, then run this again.",
            )

    def put_receipt(self, run_id: str, text: bytes, signer: Signer | None) -> str:
        """Store a receipt, with its signature beside it if there is a key; return its key."""
        key = f"{self.instance}/receipts/{run_id}.json"
        if signer:
            self.put_bytes(f"{key}.sig", signer.sign(text))
        self.put_bytes(key, text)
        return key

    def receipts(self, prefix: str) -> list[str]:
        """The keys of the receipts whose run's name begins so, in the order of their names."""
        found = self.store.list(f"{self.instance}/receipts/{prefix}")
        return [info.key for info in found if info.key.endswith(".json")]

    def read_receipt(self, key: str) -> tuple[bytes, bytes]:
        """A receipt and its signature. Raises ObjectMissing if it has none."""
        return self.read_bytes(key), self.read_bytes(key + _SIGNATURE)

    def put_bytes(self, key: str, content: bytes, *, lock_until: datetime | None = None) -> None:
        self.store.put(key, io.BytesIO(content), size_hint=len(content), lock_until=lock_until)

    def read_bytes(self, key: str) -> bytes:
        """All bytes of a small object. Raises ObjectMissing, SetDamaged for one that is not small."""
        content = bytearray()
        with self.store.open(key) as body:
            while chunk := body.read(CHUNK):
                content += chunk
                if len(content) > _SMALL:
                    raise SetDamaged(f"{key}: more than {_SMALL} bytes, far too large for what it should be")
        return bytes(content)
