"""Cuts one archive's stream into volumes and stores several of them at once.

Memory: the chunks queued for the volumes in flight, and the parts that the store keeps in flight. A volume that an
earlier, interrupted try stored is only digested again, and not sent when it is still the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from typing import BinaryIO, cast

from drtool.catalog import Catalog, volume_name
from drtool.core.model import SealKind, Volume
from drtool.errors import DrtoolError, ObjectMissing
from drtool.events import Emit, Progress
from drtool.gitlab.archive import RECORD, TarScanner
from drtool.journal import Journal
from drtool.streams import CHUNK, PIECE, Handover


class StagedChanged(DrtoolError):
    """The staged members are not what an earlier try read. Whoever continues that try must start anew."""


@dataclass(frozen=True)
class VolumeWriter:
    """Where volumes go: one set on one store, and the journal that remembers what arrived.

    ``already`` bytes of the set's other archives count as done in the progress.
    """

    catalog: Catalog
    set_id: str
    journal: Journal
    volume_size: int
    in_flight: int
    emit: Emit
    already: int = 0

    def write(
        self, archive: str, stream: BinaryIO, scanner: TarScanner, recipients: Sequence[object]
    ) -> tuple[Volume, ...]:
        """Store a whole archive; ``scanner`` judges it as it passes, before it counts.

        Raises what the stream, the scanner or the store raise; what was stored by then is journaled.
        """
        return _Cutting(self, archive, stream, scanner, recipients).run()


class _Cutting:
    def __init__(
        self,
        writer: VolumeWriter,
        archive: str,
        stream: BinaryIO,
        scanner: TarScanner,
        recipients: Sequence[object],
    ) -> None:
        self._writer = writer
        self._archive = archive
        self._stream = stream
        self._scanner = scanner
        self._recipients = recipients
        self._seal: SealKind = "age" if recipients else "none"
        self._stored = self._recorded()
        self._open: dict[int, tuple[Handover, Future[Volume]]] = {}
        self._rest = b""
        self._passed = writer.already

    def run(self) -> tuple[Volume, ...]:
        number = 0
        with ThreadPoolExecutor(self._writer.in_flight, thread_name_prefix="volume") as pool:
            try:
                while self._more():
                    self._fill(pool, number)
                    number += 1
                    self._collect(wait=False)
                self._scanner.close()
                self._collect(wait=True)
            except BaseException as error:
                self._break_off(error)
                raise
        if any(known >= number for known in self._stored):
            raise StagedChanged(f"{self._archive}: fewer bytes are staged than an earlier try sent")
        return tuple(self._stored[known] for known in sorted(self._stored))

    def _more(self) -> bool:
        """Have something in ``_rest``, judged; False at the end of the stream."""
        while not self._rest and (piece := self._stream.read(PIECE)):
            passed = self._scanner.size
            self._scanner.feed(piece)
            self._rest = self._without_padding(piece, passed)
            self._passed += len(self._rest)
        return bool(self._rest)

    def _without_padding(self, piece: bytes, passed: int) -> bytes:
        """Cut the zeros behind the end mark to what tar writes by itself.

        It reads no more than that, and a pipeline of other tools would end with a broken pipe. ``pack`` writes more,
        because tar fills its last record and is faster with large ones.
        """
        if self._scanner.ended_at is None:
            return piece
        return piece[: max(0, -(-self._scanner.ended_at // RECORD) * RECORD - passed)]

    def _fill(self, pool: ThreadPoolExecutor, number: int) -> None:
        """Feed one volume until it is full or the stream ends."""
        sink = self._sink(pool, number)
        left = self._writer.volume_size
        while left and self._more():
            pieces = [*self._pieces(min(left, CHUNK))]
            sink.write_pieces(pieces)
            left -= sum(map(len, pieces))
            self._writer.emit(Progress("send", self._passed, None))
        sink.close_writer()

    def _pieces(self, size: int) -> Iterator[bytes]:
        """Take ``size`` bytes off the stream, or what is left of it."""
        while size and self._more():
            piece = self._rest[:size]
            self._rest = self._rest[size:]
            size -= len(piece)
            yield piece

    def _sink(self, pool: ThreadPoolExecutor, number: int) -> _Recheck | Handover:
        if number in self._stored:
            return _Recheck(self._stored[number])
        self._await_room()
        handover = Handover()
        self._open[number] = handover, pool.submit(self._store, number, handover)
        return handover

    def _await_room(self) -> None:
        """Wait while as many volumes are open as may be: small ones fit into their queues whole and would pile up."""
        while len(self._open) >= self._writer.in_flight:
            wait([future for _, future in self._open.values()], return_when=FIRST_COMPLETED)
            self._collect(wait=False)

    def _store(self, number: int, plain: Handover) -> Volume:
        name = volume_name(self._archive, number, self._seal)
        try:
            return self._writer.catalog.put_volume(self._writer.set_id, name, cast(BinaryIO, plain), self._recipients)
        except BaseException as error:
            plain.abandon(error)
            raise

    def _collect(self, *, wait: bool) -> None:
        """Journal what is stored; raise the first failure."""
        for number, (_, future) in sorted(self._open.items()):
            if wait or future.done():
                self._remember(number, future.result())

    def _remember(self, number: int, volume: Volume) -> None:
        del self._open[number]
        self._stored[number] = volume
        self._writer.journal.append("volume", archive=self._archive, number=number, volume=asdict(volume))

    def _break_off(self, error: BaseException) -> None:
        """End every volume in flight: its reader raises, so the store leaves nothing. Keep those that were through."""
        for handover, _ in self._open.values():
            handover.fail(error)
        for number, (_, future) in sorted(self._open.items()):
            if future.exception() is None:
                self._remember(number, future.result())

    def _recorded(self) -> dict[int, Volume]:
        """What an earlier try stored, as far as the store still holds it at its size."""
        recorded = {}
        for entry in self._writer.journal.all("volume"):
            volume = Volume(**entry["volume"])
            if entry["archive"] == self._archive and self._still_there(volume):
                recorded[int(entry["number"])] = volume
        return recorded

    def _still_there(self, volume: Volume) -> bool:
        try:
            found = self._writer.catalog.stat_volume(self._writer.set_id, volume.name)
        except ObjectMissing:
            return False
        return found.size == volume.stored_size


class _Recheck:
    """Takes the place of an upload for a volume that is stored already."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._digest = hashlib.sha256()
        self._size = 0

    def write_pieces(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self._digest.update(piece)
            self._size += len(piece)

    def close_writer(self) -> None:
        if (self._size, self._digest.hexdigest()) != (self._volume.plain_size, self._volume.plain_sha256):
            raise StagedChanged(f"{self._volume.name}: other bytes are staged now than an earlier try sent")
