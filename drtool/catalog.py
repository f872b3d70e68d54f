"""Backup sets on a store: found, read, written, committed. Where what lies is told in ``layout``."""

from __future__ import annotations

import io
import json
import zlib
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, cast

from drtool.core.census import Census, parse_census, render_census
from drtool.core.model import (
    Archive,
    IndexedMember,
    Manifest,
    SealKind,
    Volume,
    is_set_id,
    parse_manifest,
    render_manifest,
)
from drtool.errors import (
    IdentityMismatch,
    MemberMissing,
    ObjectMissing,
    SetDamaged,
    SetMissing,
    SignatureInvalid,
    StoreAccessDenied,
    StoreError,
)
from drtool.layout import MANIFEST as MANIFEST
from drtool.layout import PIN as PIN
from drtool.layout import PIN_SIGNATURE as PIN_SIGNATURE
from drtool.layout import REJECTED as REJECTED
from drtool.layout import SIGNATURE as SIGNATURE
from drtool.layout import TOMBSTONE as TOMBSTONE
from drtool.layout import Fence, Layout
from drtool.layout import volume_name as volume_name
from drtool.signing import Signer, Verifier
from drtool.stores import LeavesUploads, ObjectInfo
from drtool.stores.download import Download
from drtool.streams import CHUNK, Counted, Pulled, SealBroken, Tap, sealed, unsealed


@dataclass(frozen=True, slots=True)
class Records:
    """The manifests of sets and of red ones, oldest first, and the sets that are being removed, which are neither."""

    known: dict[str, ObjectInfo]
    rejected: dict[str, ObjectInfo]
    gone: frozenset[str]


class Catalog(Layout):
    """The sets of one instance on one store."""

    def fenced(self, fence: Fence) -> Catalog:
        """The same, as a run writes to it that holds a lease."""
        return Catalog(self.store, self.instance, fence=fence, lock=self.lock)

    def set_ids(self) -> list[str]:
        """Every committed set, oldest first."""
        return self.recorded()[0]

    def recorded(self) -> tuple[list[str], list[str]]:
        """Every committed set, and every one that was judged red and is no set; each oldest first.

        One that is being removed is neither.
        """
        found = self.records()
        return [*found.known], [*found.rejected]

    def records(self) -> Records:
        """The same, with what the store says of the manifests, and those that are being removed."""
        found: dict[str, dict[str, ObjectInfo]] = {MANIFEST: {}, REJECTED: {}, TOMBSTONE: {}}
        for set_id, name, info in self.objects():
            if name in found and is_set_id(set_id):
                found[name][set_id] = info
        gone = found[TOMBSTONE]
        known, rejected = (
            {set_id: found[name][set_id] for set_id in sorted(found[name].keys() - gone.keys())}
            for name in (MANIFEST, REJECTED)
        )
        return Records(known, rejected, frozenset(gone))

    def read_manifest(self, set_id: str, verifier: Verifier | None) -> Manifest:
        """Read a set's manifest and check that it is this set's and signed.

        ``verifier`` of None skips the signature: for listings only, which move no data. The manifest of a red set
        says so in its verdict. Raises SetMissing, SetDamaged, SignatureInvalid, FormatTooNew.
        """
        try:
            return self._read_record(set_id, MANIFEST, verifier)
        except ObjectMissing:
            pass
        try:
            return self._read_record(set_id, REJECTED, verifier)
        except ObjectMissing as problem:
            raise SetMissing(f"no backup set {set_id} of {self.instance} in {self.store.name}") from problem

    def _read_record(self, set_id: str, name: str, verifier: Verifier | None) -> Manifest:
        key = self.key(set_id, name)
        text = self.read_bytes(key)
        if verifier:
            verifier.verify(text, self._signature(key), source=key)
        manifest = parse_manifest(text, source=key)
        if (manifest.verdict == "red") != (name == REJECTED):
            raise SetDamaged(f"{key}: is the manifest of a set with the verdict {manifest.verdict}, under a wrong name")
        if (manifest.set_id, manifest.instance) != (set_id, self.instance):
            raise SetDamaged(f"{key}: is the manifest of {manifest.instance}/{manifest.set_id}, put in another's place")
        return manifest

    def check_reachable(self) -> None:
        """Raise StoreError unless the store answers, and lets us look."""
        with suppress(ObjectMissing):
            self.store.stat(f"{self.instance}/sets")

    def remove_unfinished(self, dead_sets: Collection[str] = ()) -> tuple[str, ...]:
        """Remove what killed puts of the instance left in the store; return the keys. See ``LeavesUploads``.

        ``dead_sets``: nobody writes these, here or elsewhere. Best effort: tidying up is no reason to lose a backup, so
        whatever the store says against it is passed over (`check --deep` shows a missing right).
        """
        if not isinstance(self.store, LeavesUploads):
            return ()
        dead = tuple(self.key(set_id, "") for set_id in dead_sets)
        try:
            return self.store.remove_unfinished(f"{self.instance}/", is_dead=lambda key: key.startswith(dead))
        except StoreError:
            return ()

    def commit(self, manifest: Manifest, signer: Signer) -> None:
        """Make the set exist, or, if its verdict is red, keep it under a name that no set has. Raises StoreError."""
        text = render_manifest(manifest)
        name = REJECTED if manifest.verdict == "red" else MANIFEST
        self.put_commit(manifest.set_id, {f"{name}.sig": signer.sign(text), name: text})

    def put_volume(
        self,
        set_id: str,
        name: str,
        plain: BinaryIO,
        recipients: Sequence[object],
        *,
        saw: Callable[[int], None] | None = None,
    ) -> Volume:
        """Seal and store one volume from a stream; ``recipients`` empty means in clear.

        ``saw`` is told the plain bytes as they pass. Whatever the stream raises goes through, and nothing is stored.
        """
        tapped = Tap(plain, saw)
        self.fence.check()
        closing = sealed(cast(BinaryIO, tapped), recipients) if recipients else tapped
        try:
            stored = Tap(cast(BinaryIO, closing)) if recipients else tapped  # in clear they are the same bytes
            put = self.store.put(self.key(set_id, name), cast(BinaryIO, stored), lock_until=self.lock_until(set_id))
        finally:
            closing.close()
        if put.size != stored.size:
            raise StoreError(f"{self.key(set_id, name)}: {stored.size} bytes sent, the store holds {put.size}")
        return Volume(name, tapped.size, tapped.sha256, stored.size, stored.sha256)

    def put_index(self, set_id: str, index: dict[str, list[IndexedMember]], recipients: Sequence[object]) -> Volume:
        """Store where every member of every archive lies; sealed like the data, because it names projects."""
        rows = {name: [(m.name, m.offset, m.size) for m in members] for name, members in index.items()}
        return self._put_compressed(set_id, "index", json.dumps(rows).encode(), recipients)

    def put_census(self, set_id: str, census: Census, recipients: Sequence[object]) -> Volume:
        """Store what the instance contained; sealed like the data, because it names projects."""
        return self._put_compressed(set_id, "census", render_census(census), recipients)

    def _put_compressed(self, set_id: str, name: str, text: bytes, recipients: Sequence[object]) -> Volume:
        source = io.BytesIO(zlib.compress(text, level=6))
        return self.put_volume(set_id, f"{name}.age" if recipients else name, source, recipients)

    def stat_volume(self, set_id: str, name: str) -> ObjectInfo:
        return self.store.stat(self.key(set_id, name))

    def _signature(self, record: str) -> bytes:
        key = f"{record}.sig"
        try:
            return self.read_bytes(key)
        except ObjectMissing as problem:
            raise SignatureInvalid(
                f"{key}: is not there, the set is unsigned",
                hint="Someone else wrote it, or a file was lost; --unsigned goes on all the same.",
            ) from problem


@dataclass(frozen=True)
class BackupSet:
    """A committed set, opened for reading.

    ``identities`` come from ``streams.parse_identities``; without any, only archives in clear can be read.
    """

    catalog: Catalog
    manifest: Manifest
    identities: tuple[object, ...] = ()

    def refuse_red(self) -> None:
        """Raise SetDamaged if the set was judged red: it is kept to be looked at, not to be relied on."""
        wrong = [finding.message for finding in self.manifest.findings if finding.severity == "red"]
        if wrong:
            raise SetDamaged(
                f"{self.manifest.set_id} is red, its backup was not complete: {'; '.join(wrong)}",
                hint="Use another set (`drtool list`); `drtool fetch` brings out what is good of this one.",
            )

    def look_at_volumes(self) -> Iterator[SetDamaged | None]:
        """Say of every volume, in the manifest's order, what ``check_present`` would raise; None where it is there.

        One listing of the set's folder tells most; only what it does not show at its full size is asked for by name.
        """
        folder = self.catalog.key(self.manifest.set_id, "")
        sizes: dict[str, int] = {}
        with suppress(StoreAccessDenied):  # may read and not list: then each is asked for
            sizes = {info.key: info.size for info in self.catalog.store.list(folder)}
        for volume in self.manifest.volumes:
            found: SetDamaged | None = None
            if sizes.get(folder + volume.name) != volume.stored_size:
                try:
                    self.check_present(volume)
                except SetDamaged as problem:
                    found = problem
            yield found

    def check_present(self, volume: Volume) -> ObjectInfo:
        """Raise SetDamaged unless the store holds the volume at its full size."""
        key = self.catalog.key(self.manifest.set_id, volume.name)
        try:
            found = self.catalog.store.stat(key)
        except ObjectMissing as problem:
            raise self._damaged(volume, f"is missing from {self.catalog.store.name}") from problem
        if found.size != volume.stored_size:
            raise self._damaged(volume, f"{found.size} bytes in the store, the manifest says {volume.stored_size}")
        return found

    def check_stored(self, volume: Volume, saw: Callable[[int], None] | None = None) -> None:
        """Read a volume as it lies and compare its digest; needs no identity. Raises SetDamaged."""
        with self.open_volume(volume) as body:
            stored = Tap(cast(BinaryIO, body), saw)
            while stored.read(CHUNK):
                pass
        self.compare_stored(volume, stored)

    def read_archive(self, name: str, saw: Callable[[int], None] | None = None) -> BinaryIO:
        """The archive's plain bytes as one stream; every volume's digests are checked before its last byte is given.

        ``read`` raises SetDamaged naming the volume, or IdentityMismatch.
        """
        return self.read_volumes(self.manifest.archive(name), saw)

    def read_volumes(self, archive: Archive, saw: Callable[[int], None] | None = None) -> BinaryIO:
        """Like ``read_archive``, for some volumes of an archive: whoever wants one member needs no more."""
        return cast(BinaryIO, Pulled(self._plain_chunks(archive, saw)))

    def read_index(self) -> dict[str, list[IndexedMember]]:
        """Where every member lies, per archive."""
        text = self._read_compressed(self.manifest.index)
        try:
            rows = json.loads(text)
            return {name: [IndexedMember(*row) for row in members] for name, members in rows.items()}
        except (ValueError, TypeError, AttributeError) as problem:
            raise SetDamaged(f"{self.manifest.set_id}: the index cannot be read: {problem}") from problem

    def read_census(self) -> Census:
        """What the instance contained when the set was made. Raises MemberMissing if nobody counted it."""
        if self.manifest.census is None:
            raise MemberMissing(
                f"{self.manifest.set_id} has no census: what it contains was not counted",
                hint="`drtool extract SET --list` names its members.",
            )
        return parse_census(self._read_compressed(self.manifest.census), source=f"the census of {self.manifest.set_id}")

    def _read_compressed(self, archive: Archive) -> bytes:
        text = b"".join(self._plain_chunks(archive, None))
        try:
            return zlib.decompress(text)
        except zlib.error as problem:
            raise SetDamaged(f"{self.manifest.set_id}: the {archive.name} cannot be read: {problem}") from problem

    def _plain_chunks(self, archive: Archive, saw: Callable[[int], None] | None) -> Generator[bytes, None, None]:
        """Volume after volume; the beginning of the next one is fetched while one is read."""
        ahead: deque[Download] = deque()
        try:
            for number, volume in enumerate(archive.volumes):
                ahead.extend(self.open_volume(each) for each in archive.volumes[number + len(ahead) : number + 2])
                with ahead[0] as body:
                    yield from self._volume_chunks(volume, cast(BinaryIO, body), archive.seal, saw)
                ahead.popleft()
        finally:
            for body in ahead:
                body.close()

    def _volume_chunks(
        self, volume: Volume, body: BinaryIO, seal: SealKind, saw: Callable[[int], None] | None
    ) -> Iterator[bytes]:
        held = b""  # the newest chunk stays back until the whole volume is proven
        stored = Counted(body)
        source = unsealed(cast(BinaryIO, stored), self.identities) if seal == "age" else stored
        plain = Tap(cast(BinaryIO, source), saw)
        try:
            while chunk := plain.read(CHUNK):
                if held:
                    yield held
                held = chunk
        except SealBroken as problem:
            raise self._damaged(volume, f"the seal is broken: {problem}") from problem
        except IdentityMismatch:
            self.check_stored(volume)  # a changed header looks like a wrong identity: damage is to be told first
            raise
        finally:
            source.close()
        # Not the digest of what is stored: the plain bytes are the signed ones, and no seal is whole but the one made.
        self._compare(volume, stored.size, None if seal == "age" else plain.sha256)
        if (plain.size, plain.sha256) != (volume.plain_size, volume.plain_sha256):
            raise self._damaged(volume, "unseals to other bytes than were sealed")
        if held:
            yield held

    def compare_stored(self, volume: Volume, stored: Tap) -> None:
        """Raise SetDamaged unless what passed through ``stored`` is what the manifest says."""
        self._compare(volume, stored.size, stored.sha256)

    def _compare(self, volume: Volume, size: int, sha256: str | None) -> None:
        if size != volume.stored_size:
            raise self._damaged(volume, f"{size} bytes read, the manifest says {volume.stored_size}")
        if sha256 not in (None, volume.stored_sha256):
            raise self._damaged(volume, "other bytes than were stored")

    def open_volume(self, volume: Volume) -> Download:
        """A volume's bytes as they lie; only its size is compared yet. To be closed; ``read`` raises SetDamaged."""
        # A missing object is damage here, not a wrong key.
        return Download(self.catalog.store, partial(self.check_present, volume))

    def _damaged(self, volume: Volume, what: str) -> SetDamaged:
        return SetDamaged(
            f"{self.catalog.key(self.manifest.set_id, volume.name)}: {what}",
            hint="Use another set (`drtool list`), or another copy of this one (`--store NAME`);"
            f" `drtool copy {self.manifest.set_id} --from NAME --to NAME --mend` sends again what is not intact.",
        )
