"""A stream that cannot be rewound, sent to an object store in parts.

The one place that decides part sizes, how much memory an upload takes, and that nothing becomes an object before
the producer said it is done. Adapters bring a ``PartSink``: four calls and no loop.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import BinaryIO, Protocol

from drtool.errors import StoreError
from drtool.stores.retry import Backoff

MIB = 1 << 20
PART_SIZE = 8 * MIB  # two volumes of four parts each: with 16 MiB a backup took 240 MiB of memory
MOST_PARTS = 10_000  # S3 and OSS alike
LARGEST_PART = 5 << 30  # S3: 5 GiB, any part
SMALLEST_PART = 5 * MIB  # S3: 5 MiB, but for the last
FLAT_PARTS = 128  # 1 GiB at the default size: a volume never sees a part grow
_READ = MIB
_SLICE = MIB >> 2


class PartSink(Protocol):
    """One object on its way into a store. Made for one upload and thrown away after it.

    ``put_whole`` alone, or ``start``, ``send_part`` for 1, 2, 3, … (any order, several threads), then ``complete``
    or ``abort``. Each maps its errors; all but ``send_part`` do their own retrying, as only they know what a lost
    answer may have left behind.
    """

    def put_whole(self, content: bytearray) -> None:
        """Store an object that fits into one part."""
        ...

    def start(self) -> None: ...

    def send_part(self, number: int, content: bytearray) -> None:
        """Send one part, once. StoreTransient asks for another try with the same bytes."""
        ...

    def complete(self) -> None:
        """Make the object visible. Only now."""
        ...

    def abort(self) -> None:
        """Drop every part. No ``send_part`` is running any more; ``start`` may have failed, then do nothing."""
        ...


class Slices:
    """A part for an http client to send: it reads slice by slice, without copying, and may start over.

    Bytes in one piece go into one ``sendall``, whose time limit is for all of them, and the limit is the one for
    connecting: 16 MiB in 15 seconds, or never (urllib3 2.8 over http; over https likewise). So a backup would fail on
    every slow line. With slices the limit is for a quarter of a MiB.
    """

    def __init__(self, content: bytearray) -> None:
        self._content = memoryview(content)
        self._position = 0

    def __len__(self) -> int:
        return len(self._content)

    def read(self, size: int = -1) -> memoryview | bytes:
        """Return the next slice, whatever ``size`` asks for, or all that is left if it asks for nothing.

        Http clients ask for 16 KiB and send what they get.
        """
        if self._position >= len(self._content):
            return b""
        end = len(self._content) if size < 0 else self._position + _SLICE
        found = self._content[self._position : end]
        self._position += len(found)
        return found

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, len(self._content))[whence]
        return self._position


def part_sizes(first: int, size_hint: int | None) -> Iterator[int]:
    """Yield the size of part 1, 2, 3, … up to the last one a store takes.

    All parts are ``first`` bytes for as long as the hint goes (``FLAT_PARTS`` without one, larger ones if 5,000
    parts would not carry the hint), then each is 1/16 larger than the one before. So 10,000 parts carry 48 TiB with
    a true hint, and 47 with none. Without one the price is parts of about 6 % of what was sent already: 5 GiB is the
    largest part, so few may be small. Whoever streams more than a few GiB should give a hint.
    """
    size = min(LARGEST_PART, max(first, _whole_mib((size_hint or 0) // (MOST_PARTS // 2))))
    flat = max(FLAT_PARTS, (size_hint or 0) // size + 1)
    for number in range(1, MOST_PARTS + 1):
        yield size
        if number >= flat:
            size = min(LARGEST_PART, _whole_mib(size + size // 16))


def upload(
    source: BinaryIO,
    sink: PartSink,
    *,
    size_hint: int | None = None,
    part_size: int = PART_SIZE,
    concurrency: int = 4,
    backoff: Backoff | None = None,
) -> int:
    """Send all of ``source`` and return its size; whatever goes wrong, abort and raise it unchanged.

    What fits into one part is one put. Memory: ``concurrency`` parts (at least two); once parts grow, as many as
    fit into the same room, but two.
    """
    sizes = part_sizes(part_size, size_hint)
    size = next(sizes)
    first, ended = _read_part(source, bytearray(size))
    second, ended = (bytearray(), True) if ended else _read_part(source, bytearray(next(sizes)))
    if not second:
        sink.put_whole(first)
        return len(first)
    senders = _Senders(sink, concurrency, room=concurrency * size, backoff=backoff or Backoff())
    try:
        sink.start()
        senders.send(first)
        senders.send(second)
        # The buffers must not be held here while later ones are read: that would be two parts more in memory.
        del first, second
        while not ended:
            ended = _read_and_send(source, senders, next(sizes, None))
        senders.finish()
        sink.complete()
    except BaseException as error:
        senders.stop()
        try:
            sink.abort()
        except StoreError as failure:
            error.add_note(f"and the unfinished upload could not be removed: {failure}")
        raise
    return senders.sent


def _read_and_send(source: BinaryIO, senders: _Senders, size: int | None) -> bool:
    """Send one more part; say whether the source ended. ``size`` of None: there must not be one more."""
    if size is None:
        if source.read(1):
            raise StoreError(f"more than {MOST_PARTS} parts after {senders.sent} bytes: the size hint was far too low")
        return True
    senders.make_room(size)
    part, ended = _read_part(source, senders.room_for(size))
    if part:
        senders.send(part)
    return ended


def _read_part(source: BinaryIO, part: bytearray) -> tuple[bytearray, bool]:
    """Fill ``part``, or shorten it to what there was and return True when the source said it is done.

    It is not asked again after that.
    """
    at, size = 0, len(part)
    with memoryview(part) as room:
        while at < size:
            chunk = source.read(min(_READ, size - at))
            if len(chunk) == 0:  # not `if not chunk`: None, of a source that does not block, is no end
                break
            room[at : at + len(chunk)] = chunk
            at += len(chunk)
    if at == size:
        return part, False
    try:
        del part[at:]
    except BufferError:
        # A buffer that is filled again: a request that failed, and the error of it, may hold a view of it yet.
        part = part[:at]
    return part, True


class _Senders:
    """Threads that send parts, and the count of what they have in hand."""

    def __init__(self, sink: PartSink, concurrency: int, *, room: int, backoff: Backoff) -> None:
        self.sent = 0
        self._sink, self._concurrency, self._room, self._backoff = sink, concurrency, room, backoff
        self._numbers = 0
        self._in_hand: set[Future[None]] = set()
        self._sent_parts: list[bytearray] = []  # to be filled again: memory taken anew costs a third of a digest
        self._give_up = threading.Event()
        self._threads = ThreadPoolExecutor(concurrency, "part")

    def make_room(self, size: int) -> None:
        """Wait until one more part of ``size`` may be read. Raises what a finished part failed with."""
        beside_it = min(self._concurrency, max(2, self._room // size)) - 1
        while len(self._in_hand) > beside_it:
            self._collect(wait(self._in_hand, return_when=FIRST_COMPLETED).done)

    def room_for(self, size: int) -> bytearray:
        """Give a buffer for the next part."""
        while self._sent_parts:
            if len(part := self._sent_parts.pop()) == size:
                return part
        return bytearray(size)

    def send(self, part: bytearray) -> None:
        self._numbers += 1
        self.sent += len(part)
        self._in_hand.add(self._threads.submit(self._send, self._numbers, part))

    def finish(self) -> None:
        """Wait for every part; raise what one failed with."""
        while self._in_hand:
            self._collect(wait(self._in_hand, return_when=FIRST_COMPLETED).done)
        self._threads.shutdown()

    def stop(self) -> None:
        """End every thread: a part that arrives after the abort would be kept, and charged for, without an end."""
        self._give_up.set()
        self._threads.shutdown(cancel_futures=True)

    def _send(self, number: int, part: bytearray) -> None:
        self._backoff.retrying(self._give_up)(self._sink.send_part, number, part)
        self._sent_parts.append(part)

    def _collect(self, done: set[Future[None]]) -> None:
        self._in_hand -= done
        for future in done:
            future.result()


def _whole_mib(size: int) -> int:
    return -(-size // MIB) * MIB
