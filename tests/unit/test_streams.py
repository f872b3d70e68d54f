from __future__ import annotations

import hashlib
import io
import itertools
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.errors import IdentityMismatch, SealError
from drtool.streams import (
    CHUNK,
    Handover,
    SealBroken,
    Tap,
    generate_identity,
    parse_identities,
    parse_recipients,
    sealed,
    unsealed,
)

PATIENCE = 20.0  # seconds after which a thread is taken to hang; nothing here takes one
AGE_CHUNK = 64 << 10  # plain bytes per authenticated piece, https://age-encryption.org/v1


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(PATIENCE)
    assert not [thread for thread in left if thread.is_alive()]


class Ended(BaseException):
    """Stands for a kill: no Exception."""


class Producer(io.RawIOBase):
    """Gives ``count`` chunks' worth of zeros, counting the bytes, and then raises, or ends."""

    def __init__(self, count: int, error: BaseException | None = None) -> None:
        self.left, self.error = count * CHUNK, error
        self.given = 0

    def read(self, size: int = -1, /) -> bytes:
        data = bytes(min(self.left, size))
        if not data and self.error:
            raise self.error
        self.left -= len(data)
        self.given += len(data)
        return data


def x25519() -> tuple[list[object], list[object]]:
    secret, public = generate_identity()
    return parse_recipients([public]), parse_identities([("test", secret.encode())])


@pytest.fixture(scope="module")
def keys() -> tuple[list[object], list[object]]:
    return x25519()


@pytest.fixture(scope="module")
def ssh_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ssh") / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def pull(stream: BinaryIO | io.RawIOBase, size: int = CHUNK) -> bytes:
    return b"".join(iter(lambda: cast(bytes, stream.read(size)), b""))


def seal(plain: bytes, recipients: list[object]) -> bytes:
    with sealed(io.BytesIO(plain), recipients) as stream:
        return pull(stream)


def unseal(stored: bytes, identities: list[object]) -> bytes:
    with unsealed(io.BytesIO(stored), identities) as stream:
        return pull(stream)


# -- sealing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, AGE_CHUNK - 1, AGE_CHUNK, AGE_CHUNK + 1, CHUNK, 3 * CHUNK, 3 * CHUNK + 7], ids=str
)
def test_sealing_and_unsealing_give_back_every_byte(size: int, keys: tuple[list[object], list[object]]) -> None:
    plain = random.Random(size).randbytes(size)
    recipients, identities = keys
    stored = seal(plain, recipients)
    assert unseal(stored, identities) == plain
    assert size < 16 or plain not in stored


def test_a_seal_to_an_ssh_key_opens_with_its_private_key(ssh_key: Path) -> None:
    recipients = parse_recipients([ssh_key.with_name("id_ed25519.pub").read_text()])
    identities = parse_identities([(str(ssh_key), ssh_key.read_bytes())])
    assert unseal(seal(b"plain", recipients), identities) == b"plain"


def test_a_seal_to_several_recipients_opens_with_each(ssh_key: Path, keys: tuple[list[object], list[object]]) -> None:
    ssh = parse_recipients([ssh_key.with_name("id_ed25519.pub").read_text()])
    stored = seal(b"plain", [*keys[0], *ssh])
    assert unseal(stored, keys[1]) == b"plain"
    assert unseal(stored, parse_identities([(str(ssh_key), ssh_key.read_bytes())])) == b"plain"


def test_unsealing_tries_every_given_identity(keys: tuple[list[object], list[object]]) -> None:
    assert unseal(seal(b"plain", keys[0]), [*x25519()[1], *keys[1]]) == b"plain"


@pytest.mark.parametrize("wrong", ["another key", "an ssh key", "none"])
def test_a_wrong_identity_is_told_as_such(wrong: str, ssh_key: Path, keys: tuple[list[object], list[object]]) -> None:
    identities = {
        "another key": x25519()[1],
        "an ssh key": parse_identities([(str(ssh_key), ssh_key.read_bytes())]),
        "none": [],
    }[wrong]
    with pytest.raises(IdentityMismatch) as caught:
        unseal(seal(b"plain", keys[0]), identities)
    assert caught.value.hint


def test_a_seal_cut_at_any_length_never_ends_cleanly(keys: tuple[list[object], list[object]]) -> None:
    stored = seal(b"the plain bytes", keys[0])
    for size in range(len(stored)):
        with pytest.raises(SealBroken):
            unseal(stored[:size], keys[1])


@pytest.mark.parametrize("plain_size", [AGE_CHUNK, 2 * AGE_CHUNK, 2 * AGE_CHUNK + 5], ids=str)
def test_a_long_seal_cut_near_any_boundary_never_ends_cleanly(
    plain_size: int, keys: tuple[list[object], list[object]]
) -> None:
    stored = seal(bytes(plain_size), keys[0])
    body = plain_size + 16 * -(-plain_size // AGE_CHUNK)
    head = len(stored) - body
    boundaries = [head, *range(head, len(stored), AGE_CHUNK + 16), len(stored) - 16, len(stored)]
    for size in sorted({edge + off for edge in boundaries for off in (-17, -16, -1, 0, 1, 16)}):
        if size < len(stored):
            with pytest.raises(SealBroken):
                unseal(stored[:size], keys[1])


@pytest.mark.parametrize("plain_size", [0, 20, AGE_CHUNK], ids=str)
def test_a_seal_with_anything_after_it_never_ends_cleanly(
    plain_size: int, keys: tuple[list[object], list[object]]
) -> None:
    stored = seal(bytes(plain_size), keys[0])
    for more in (b"\0", b"\n", bytes(16), bytes(AGE_CHUNK + 16), stored):
        with pytest.raises(SealBroken):
            unseal(stored + more, keys[1])


def test_a_seal_with_any_byte_changed_never_ends_cleanly(keys: tuple[list[object], list[object]]) -> None:
    stored = seal(b"the plain bytes", keys[0])
    for at, bit in itertools.product(range(len(stored)), (0, 5)):
        changed = bytearray(stored)
        changed[at] ^= 1 << bit
        with pytest.raises((SealBroken, IdentityMismatch)):
            unseal(bytes(changed), keys[1])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_bytes_that_are_no_seal_are_refused(noise: bytes) -> None:
    with pytest.raises((SealBroken, IdentityMismatch)):
        unseal(noise, x25519()[1])


@pytest.mark.parametrize("error", [OSError("pipe"), ValueError("no"), Ended(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("chunks", [0, 1, 3])
@pytest.mark.parametrize("direction", ["sealing", "unsealing"])
def test_what_a_producer_raises_comes_out_unchanged(
    error: BaseException, chunks: int, direction: str, keys: tuple[list[object], list[object]]
) -> None:
    if direction == "sealing":
        stream = sealed(cast(BinaryIO, Producer(chunks, error)), keys[0])
    else:
        stored = seal(bytes(chunks * CHUNK), keys[0])
        stream = unsealed(cast(BinaryIO, _Joined(io.BytesIO(stored[:-20]), Producer(0, error))), keys[1])
    with pytest.raises(type(error)) as caught:
        pull(stream)
    assert caught.value is error
    with pytest.raises(type(error)):
        stream.read(1)
    stream.close()


@pytest.mark.parametrize("direction", ["sealing", "unsealing"])
def test_an_interrupted_producer_is_not_taken_for_one_that_ended(
    direction: str, keys: tuple[list[object], list[object]]
) -> None:
    """Rust reads again after an InterruptedError; a producer that then says it ended must not have its way."""
    error = InterruptedError("once")
    stored = seal(b"plain", keys[0])
    inner = _RaisingOnce(b"plain" if direction == "sealing" else stored, error)
    make = sealed if direction == "sealing" else unsealed
    stream = make(cast(BinaryIO, inner), keys[0] if direction == "sealing" else keys[1])
    with pytest.raises(InterruptedError) as caught:
        pull(stream)
    assert caught.value is error
    stream.close()


def test_a_sealer_whose_reader_leaves_ends_its_thread(keys: tuple[list[object], list[object]]) -> None:
    producer = Producer(1_000_000)
    stream = sealed(cast(BinaryIO, producer), keys[0])
    assert stream.read(10)
    stream.close()
    assert producer.left
    stream.close()


def test_sealing_reads_no_further_ahead_than_its_queue(keys: tuple[list[object], list[object]]) -> None:
    """Chunks queued, one in the sealer's hands on each side of it, one here: never the whole 200 MB."""
    producer = Producer(200)
    taken, most = 0, 0
    with sealed(cast(BinaryIO, producer), keys[0]) as stream:
        while chunk := stream.read(CHUNK):
            taken += len(chunk)
            most = max(most, producer.given - taken)
    assert taken > 200 * CHUNK
    assert most <= 12 * CHUNK


# -- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "age1", "age1qqqq", "ssh-ed25519", "ssh-ed25519 AAAA", "nonsense " * 20])
def test_what_is_no_recipient_is_refused_and_named(text: str) -> None:
    with pytest.raises(SealError, match="not an age recipient") as caught:
        parse_recipients([text])
    assert "\n" not in str(caught.value)


def test_an_identity_file_may_have_comments_and_several_keys() -> None:
    lines = ["# made for a test", "", generate_identity()[0], "  " + generate_identity()[0] + "\r"]
    assert len(parse_identities([("file", "\n".join(lines).encode())])) == 2


SECRET = "AGE-SECRET-KEY-1FAKEFAKEFAKE"


@pytest.mark.parametrize(
    "content",
    [
        SECRET.encode(),
        b"\xff\xfe" + SECRET.encode(),
        b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + SECRET.encode(),
        b"# only a comment\n",
        b"",
    ],
)
def test_a_file_that_is_no_identity_is_named_and_never_quoted(content: bytes) -> None:
    with pytest.raises(SealError, match=r"^id\.txt: ") as caught:
        parse_identities([("id.txt", content)])
    error: BaseException | None = caught.value
    while error:
        assert SECRET not in f"{error} {getattr(error, 'hint', '')}"
        error = error.__cause__


def test_an_ssh_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "not secret", "-f", str(key)], check=True)
    with pytest.raises((SealError, IdentityMismatch)):
        recipients = parse_recipients([(tmp_path / "id.pub").read_text()])
        unseal(seal(b"plain", recipients), parse_identities([(str(key), key.read_bytes())]))


# -- Tap -------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=5000), st.integers(1, 700))
def test_a_tap_passes_everything_and_knows_size_and_digest(content: bytes, size: int) -> None:
    seen: list[int] = []
    tap = Tap(io.BytesIO(content), seen.append)
    assert pull(tap, size) == content
    assert (tap.size, tap.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert sum(seen) == len(content)
    assert 0 not in seen


def test_a_tap_reads_all_and_into_a_buffer_like_any_file() -> None:
    assert Tap(io.BytesIO(b"all of it")).read() == b"all of it"
    assert io.BufferedReader(Tap(io.BytesIO(b"line\nrest"))).readline() == b"line\n"


# -- Handover --------------------------------------------------------------------------------------------------------


def run_aside(work: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """Start work on a thread; the list tells what it raised."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            raised.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    return thread, raised


def ends(thread: threading.Thread) -> bool:
    thread.join(PATIENCE)
    return not thread.is_alive()


def filled() -> Handover:
    """A handover in which one more chunk would have to wait."""
    handover = Handover(2)
    handover.write(b"one")
    handover.write(b"two")
    return handover


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=300), max_size=30), st.integers(1, 200))
def test_a_handover_passes_every_byte_in_order(chunks: list[bytes], size: int) -> None:
    handover = Handover(3)

    def write() -> None:
        for chunk in chunks:
            assert handover.write(memoryview(chunk)) == len(chunk)
        handover.close_writer()

    thread, raised = run_aside(write)
    assert pull(handover, size) == b"".join(chunks)
    assert handover.read(size) == b""
    assert ends(thread)
    assert raised == []


def test_an_empty_write_to_a_handover_is_no_end() -> None:
    handover = Handover()
    handover.write(b"")
    handover.write(b"more")
    handover.close_writer()
    assert pull(handover) == b"more"


def test_a_failed_writers_reader_raises_even_with_chunks_queued() -> None:
    handover, error = Handover(), Ended()
    handover.write(b"one")
    handover.write(b"two")
    assert handover.read(1) == b"o"
    handover.fail(error)
    for _ in range(2):
        with pytest.raises(Ended) as caught:
            handover.read(1)
        assert caught.value is error


def test_a_failed_writers_reader_raises_also_after_the_last_chunk() -> None:
    handover = Handover()
    handover.close_writer()
    handover.fail(OSError("late"))
    with pytest.raises(OSError, match="late"):
        handover.read(1)


def test_a_writer_that_fails_with_a_full_queue_does_not_wait() -> None:
    handover = filled()
    handover.fail(Ended())
    with pytest.raises(Ended):
        handover.read(1)


def test_a_waiting_reader_wakes_when_the_writer_fails() -> None:
    handover, error = Handover(), OSError("writer died")
    thread, raised = run_aside(lambda: handover.read(1))
    handover.fail(error)
    assert ends(thread)
    assert raised == [error]


@pytest.mark.parametrize("last_act", ["write", "close"])
def test_a_waiting_writer_wakes_when_the_reader_gives_up(last_act: str) -> None:
    handover, error = filled(), OSError("reader left")
    thread, raised = run_aside(handover.close_writer if last_act == "close" else lambda: handover.write(b"more"))
    handover.abandon(error)
    assert ends(thread)
    assert raised in ([error], [])  # an end that went in before the reader left is no failure
    with pytest.raises(OSError, match="reader left"):
        handover.write(b"again")


def test_a_writer_after_the_reader_gave_up_raises_at_once() -> None:
    handover = Handover()
    handover.abandon(Ended())
    for act in (lambda: handover.write(b"x"), handover.close_writer):
        with pytest.raises(Ended):
            act()


def test_a_handover_holds_a_bounded_number_of_chunks() -> None:
    """200 MB through a queue: the writer is never more than the queue, and what each side holds, ahead."""
    handover, chunk = Handover(), bytes(CHUNK)
    written = 0

    def write() -> None:
        nonlocal written
        for _ in range(200):
            handover.write(chunk)
            written += 1
        handover.close_writer()

    thread, raised = run_aside(write)
    taken, most = 0, 0
    while data := handover.read(CHUNK):
        taken += len(data)
        most = max(most, written - taken // CHUNK)
    assert ends(thread)
    assert raised == []
    assert taken == 200 * CHUNK
    assert most <= 10


class _Joined(io.RawIOBase):
    def __init__(self, *parts: io.BytesIO | Producer) -> None:
        self._parts = list(parts)

    def read(self, size: int = -1, /) -> bytes:
        while self._parts:
            if data := self._parts[0].read(size):
                return data
            self._parts.pop(0)
        return b""


class _RaisingOnce(io.RawIOBase):
    def __init__(self, content: bytes, error: BaseException) -> None:
        self._inner, self._error = io.BytesIO(content), error
        self._raised = False

    def read(self, size: int = -1, /) -> bytes:
        data = self._inner.read(size)
        if not data and not self._raised:
            self._raised = True
            raise self._error
        return data
