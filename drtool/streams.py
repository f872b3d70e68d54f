"""One-pass filters over a byte stream: count and digest, seal and unseal, hand over between threads.

Everything here is a ``BinaryIO`` to read from: pull data with ``read(n)`` until ``b""``. A producer that dies raises
from ``read``; an end is never invented. age (https://age-encryption.org/v1) comes from pyrage, whose Rust code
works outside the GIL in 64 KiB chunks; its ``encrypt_io`` was measured at five times the speed of ``encrypt``.

On their way to a store bytes travel as objects of 64 KiB that nobody copies; only the queues count in MiB. glibc gives
larger blocks back to the kernel when they are freed, and taking one anew costs a page fault for every 4 KiB.
"""

from __future__ import annotations

import hashlib
import io
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, cast

from drtool.errors import IdentityMismatch, SealError

CHUNK = 1 << 20
"""How much is passed on at once, in bytes: large enough that Python's share of the work is small."""

PIECE = 64 << 10
"""The largest bytes object to read into where speed counts: glibc keeps blocks of this size, not those of a CHUNK."""

_QUEUED_CHUNKS = 4
_LOOK_UP = 0.2  # seconds between two looks at whether the other side is still there


class Source(io.RawIOBase):
    """A readable made of ``read``. Subclasses give ``read``; the rest of BinaryIO refuses."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(CHUNK), b""))

    def read(self, size: int = -1, /) -> bytes:
        raise NotImplementedError


class Counted(Source):
    """Passes a stream through, counting what passes."""

    def __init__(self, inner: BinaryIO, saw: Callable[[int], None] | None = None) -> None:
        self._inner = inner
        self._saw = saw
        self.size = 0

    def read(self, size: int = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        data = self._inner.read(size)
        if data:
            self.size += len(data)
            if self._saw:
                self._saw(len(data))
        return data


class Tap(Counted):
    """Passes a stream through, counting and digesting what passes."""

    def __init__(self, inner: BinaryIO, saw: Callable[[int], None] | None = None) -> None:
        super().__init__(inner, saw)
        self._digest = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = super().read(size)
        if size is not None and size >= 0:  # else it came through here in pieces
            self._digest.update(data)
        return data

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


class Pulled(Source):
    """What a generator yields, as a stream. One that raised raises again: it must not look like one that ended."""

    def __init__(self, chunks: Generator[bytes, None, None]) -> None:
        self._chunks = chunks
        self._rest: bytes | memoryview = b""
        self._raised: BaseException | None = None

    def close(self) -> None:
        """Let go of whatever the generator holds."""
        self._chunks.close()
        super().close()

    def read(self, size: int = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        rest = self._rest or self._next()
        if len(rest) <= size:
            self._rest = b""
            return bytes(rest)  # no copy of bytes
        view = memoryview(rest)
        self._rest = view[size:]
        return bytes(view[:size])

    def _next(self) -> bytes:
        if self._raised:
            raise self._raised
        try:
            return next((chunk for chunk in self._chunks if chunk), b"")
        except BaseException as error:
            self._raised = error
            raise


class Handover(Source):
    """A bounded queue of chunks between a thread that writes and one that reads.

    The writer ends with ``close_writer()``, or with ``fail(error)``: the reader then raises that error at once, even
    if chunks are still queued. A reader that gives up calls ``abandon(error)``, and the writer's next ``write``
    raises it. So neither waits for ever. ``bytes`` are passed on as they are, anything else is copied.
    """

    def __init__(self, chunks: int = _QUEUED_CHUNKS) -> None:
        self._queue: queue.Queue[Sequence[bytes]] = queue.Queue(chunks)
        self._abandoned: BaseException | None = None
        self._failed: BaseException | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._rest = b""
        self._at = 0  # how much of it was read
        self._ended = False

    def write(self, data: Any, /) -> int:
        self.write_pieces([bytes(data)])
        return len(data)

    def write_pieces(self, pieces: Iterable[bytes]) -> None:
        """Write several pieces as one chunk: the queue costs as much for one byte as for a MiB."""
        if chunk := [piece for piece in pieces if piece]:  # an empty chunk is how the queue says that this was all
            self._put(chunk)

    def close_writer(self) -> None:
        self._put(())

    def fail(self, error: BaseException) -> None:
        self._failed = error
        with suppress(queue.Full):  # wakes a reader that waits; if there is no room, none waits
            self._queue.put_nowait(())

    def abandon(self, error: BaseException) -> None:
        self._abandoned = error
        with suppress(queue.Empty):  # wakes a writer that waits for room
            self._queue.get_nowait()

    def _put(self, chunk: Sequence[bytes]) -> None:
        while True:
            if self._abandoned:
                raise self._abandoned
            try:
                self._queue.put(chunk, timeout=_LOOK_UP)
            except queue.Full:
                continue
            if not self._abandoned:
                return

    def _get(self) -> Sequence[bytes]:
        while True:
            if self._failed:
                raise self._failed
            try:
                return self._queue.get(timeout=_LOOK_UP)
            except queue.Empty:
                continue

    def _next(self) -> bytes:
        """The next piece; b"" at the end."""
        piece = next(self._pieces, b"")
        if not piece and not self._ended:
            chunk = self._get()
            self._ended = not chunk
            self._pieces = iter(chunk)
            piece = next(self._pieces, b"")
        return piece

    def read(self, size: int = -1, /) -> bytes:
        if size is None or size < 0:
            return self.readall()
        if self._at == len(self._rest):
            self._rest, self._at = self._next(), 0
        if self._failed:
            raise self._failed
        data = self._rest[self._at : self._at + size]  # all of a piece is the piece itself, no copy
        self._at += len(data)
        return data


class _Gather:
    """Collects the small writes of age into chunks for a Handover."""

    def __init__(self, out: Handover) -> None:
        self._out = out
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> int:
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= CHUNK:
            self.flush()
        return len(data)

    def flush(self) -> None:
        self._out.write_pieces(self._pieces)
        self._pieces, self._size = [], 0


class _Remembering(Source):
    """Keeps the exception of the inner stream: what passes through Rust comes back as another one."""

    def __init__(self, inner: BinaryIO) -> None:
        self._inner = inner
        self.raised: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._inner.read(size)
        except BaseException as error:
            self.raised = error
            raise

    def reraise(self) -> None:
        """Raise what was caught, if anything: Rust answers an InterruptedError by reading on, perhaps to an end."""
        if self.raised:
            raise self.raised


class _Transformed(Source):
    """The output of a push-style transformation, to be pulled. Runs it on a thread of its own."""

    def __init__(self, inner: BinaryIO, transform: Callable[[BinaryIO, Any], None]) -> None:
        self._inner = _Remembering(inner)
        self._out = Handover()
        self._transform = transform
        self._thread = threading.Thread(target=self._work, name="seal", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            gather = _Gather(self._out)
            # Rust asks for 8 KiB at a time; a BufferedReader answers without running any Python.
            self._transform(cast(BinaryIO, io.BufferedReader(self._inner, PIECE)), gather)
            self._inner.reraise()
            gather.flush()
            self._out.close_writer()
        except BaseException as error:  # noqa: BLE001 - handed over to the reader, who raises it
            self._out.fail(self._inner.raised or error)

    def read(self, size: int = -1, /) -> bytes:
        return self._out.read(size)

    def close(self) -> None:
        """Give up: the thread ends at its next write. Waits for it, so that no one else reads the inner stream."""
        if not self.closed:
            self._out.abandon(BrokenPipeError("the reader is gone"))
            self._thread.join()
        super().close()


def sealed(plain: BinaryIO, recipients: Sequence[object]) -> Source:
    """Encrypt to recipients from ``parse_recipients``."""
    import pyrage

    return _Transformed(plain, lambda source, sink: pyrage.encrypt_io(source, sink, list(recipients)))


def unsealed(stored: BinaryIO, identities: Sequence[object]) -> Source:
    """Decrypt with identities from ``parse_identities``; reads ``stored`` to its end.

    ``read`` raises IdentityMismatch when none of them fits and SealBroken when the bytes are not what was sealed.
    """
    import pyrage

    def transform(source: BinaryIO, sink: Any) -> None:
        try:
            pyrage.decrypt_io(source, sink, list(identities))
            while source.read(CHUNK):
                pass  # whatever follows the sealed bytes counts in their size
        except (pyrage.DecryptError, OSError) as problem:
            if "No matching keys" in str(problem):  # pyrage 1.2-1.4 knows no class for it
                raise IdentityMismatch(
                    "none of the given identities opens the seal",
                    hint="Give the identity whose public key is in seal_to: `drtool show` lists the set's recipients.",
                ) from problem
            raise SealBroken(str(problem)) from problem

    return _Transformed(stored, transform)


class SealBroken(ValueError):
    """Sealed bytes are cut short or altered. Internal: whoever knows which volume it was says so to the user."""


def parse_recipients(texts: Iterable[str]) -> list[object]:
    """Parse age recipients: ``age1…`` (X25519) or ``ssh-ed25519 …``. Raises SealError naming the bad one."""
    import pyrage

    recipients: list[object] = []
    for text in texts:
        kind = pyrage.ssh.Recipient if text.startswith("ssh-") else pyrage.x25519.Recipient
        try:
            recipients.append(kind.from_str(text.strip()))
        except (pyrage.RecipientError, ValueError) as problem:
            raise SealError(
                f"not an age recipient: {_shorten(text)}: {problem}",
                hint="A recipient is a public key: age1… as `age-keygen` prints it, or a line `ssh-ed25519 AAAA…`.",
            ) from problem
    return recipients


def parse_identities(files: Iterable[tuple[str, bytes]]) -> list[object]:
    """Parse private keys, given as (where it came from, contents): age identity files or OpenSSH private keys.

    Raises SealError that names the file and never its contents.
    """
    identities: list[object] = []
    for source, content in files:
        found = (
            _ssh_identity(source, content) if b"OPENSSH PRIVATE KEY" in content else _age_identities(source, content)
        )
        if not found:
            raise SealError(f"{source}: holds no age identity", hint="Expected a line AGE-SECRET-KEY-1…")
        identities += found
    return identities


def generate_identity() -> tuple[str, str]:
    """Make a new X25519 identity: (secret, public)."""
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    return str(identity), str(identity.to_public())


def _age_identities(source: str, content: bytes) -> list[object]:
    import pyrage

    found: list[object] = []
    for line in content.decode(errors="replace").splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            found.append(pyrage.x25519.Identity.from_str(text))
        except (pyrage.IdentityError, ValueError):
            raise SealError(f"{source}: a line is not an age identity", hint="Expected AGE-SECRET-KEY-1…") from None
    return found


def _ssh_identity(source: str, content: bytes) -> list[object]:
    import pyrage

    try:
        return [pyrage.ssh.Identity.from_buffer(content)]
    except (pyrage.IdentityError, ValueError):
        raise SealError(
            f"{source}: this OpenSSH key cannot be used", hint="ed25519 or RSA keys without a passphrase can."
        ) from None


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "…"
