"""Cutting an archive into volumes, while the store, the producer or the process fails at every possible moment."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from drtool.catalog import BackupSet, Catalog, volume_name
from drtool.core.model import Archive, Volume
from drtool.errors import SetDamaged, StoreError, StoreTransient
from drtool.events import Event, Progress, ignore
from drtool.gitlab.archive import RECORD, TarScanner
from drtool.gitlab.scan import BLOCK
from drtool.journal import Journal
from drtool.stores import ObjectInfo, Store
from drtool.stores.faults import Crash, FaultyStore, When
from drtool.stores.memory import MemoryStore
from drtool.streams import CHUNK, parse_recipients
from drtool.volumes import StagedChanged, VolumeWriter
from tests import sets

PATIENCE = 20.0  # seconds after which a thread is taken to hang
VOLUME = 12 << 10
SOURCE = sets.application(3)
COUNT = -(-len(SOURCE) // VOLUME)


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def write(
    store: Store,
    path: Path,
    source: BinaryIO | bytes = SOURCE,
    *,
    size: int = VOLUME,
    in_flight: int = 2,
    seal: bool = True,
    emit: Any = ignore,
) -> tuple[Volume, ...]:
    """One try, as a new process makes it: the journal is opened anew."""
    writer = VolumeWriter(Catalog(store, "gitlab"), sets.SET_ID, Journal(path), size, in_flight, emit)
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    recipients = parse_recipients([sets.keys().recipient] if seal else [])
    return writer.write("application", stream, TarScanner(), recipients)


def read(store: Store, volumes: tuple[Volume, ...], *, seal: bool = True) -> bytes:
    archive = Archive("application", "age" if seal else "none", (), 0, volumes)
    manifest = sets.manifest_of((archive,), archive)
    opened = BackupSet(Catalog(store, "gitlab"), manifest, sets.keys().identities)
    return opened.read_archive("application").read()


def key(number: int) -> str:
    return Catalog(MemoryStore(), "gitlab").key(sets.SET_ID, volume_name("application", number, "age"))


def keys_in(store: Store) -> list[str]:
    return [info.key for info in store.list("")]


# -- when all goes well ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "clear"])
@pytest.mark.parametrize("in_flight", [1, 2, 5])
@pytest.mark.parametrize(
    "size", [700, VOLUME, len(SOURCE) // 2, len(SOURCE) - 1, len(SOURCE), len(SOURCE) + 1], ids=str
)
def test_the_volumes_concatenated_are_the_archive(path: Path, size: int, in_flight: int, seal: bool) -> None:
    store = MemoryStore()
    volumes = write(store, path, size=size, in_flight=in_flight, seal=seal)
    assert [volume.plain_size for volume in volumes[:-1]] == [size] * (len(volumes) - 1)
    assert 0 < volumes[-1].plain_size <= size
    assert [volume.name for volume in volumes] == sorted(volume.name for volume in volumes)
    assert read(store, volumes, seal=seal) == SOURCE
    assert len(keys_in(store)) == len(volumes)


def test_an_archive_larger_than_a_chunk_is_cut_across_chunks(path: Path) -> None:
    store, source = MemoryStore(), sets.application(size=5 * CHUNK)
    volumes = write(store, path, source, size=CHUNK + 4711)
    assert read(store, volumes) == source


def test_a_producer_that_gives_few_bytes_at_a_time_changes_nothing(path: Path) -> None:
    store = MemoryStore()
    volumes = write(store, path, cast(BinaryIO, Trickle(SOURCE, 333)))
    assert [volume.plain_size for volume in volumes[:-1]] == [VOLUME] * (COUNT - 1)
    assert read(store, volumes) == SOURCE


@pytest.mark.parametrize("more", [1, 20, 108, 1000])
def test_padding_beyond_what_tar_writes_by_itself_is_left_out(path: Path, more: int) -> None:
    store = MemoryStore()
    whole = SOURCE + bytes(-len(SOURCE) % RECORD)
    volumes = write(store, path, SOURCE + bytes(more * BLOCK))
    assert read(store, volumes) == whole[: len(SOURCE) + more * BLOCK]


def test_what_comes_behind_the_padding_is_still_judged(path: Path) -> None:
    padded = SOURCE + bytes(40 * RECORD)
    with pytest.raises(SetDamaged):
        write(MemoryStore(), path, padded + b"x" * BLOCK)
    with pytest.raises(Died):
        write(MemoryStore(), path, cast(BinaryIO, Trickle(padded, 7000, error=Died())))


def test_progress_counts_every_byte_once(path: Path) -> None:
    seen: list[Event] = []
    write(MemoryStore(), path, cast(BinaryIO, Trickle(SOURCE, 5000)), emit=seen.append)
    done = [event.done for event in seen if isinstance(event, Progress)]
    assert done == sorted(done)
    assert done[-1] == len(SOURCE)


def test_two_archives_of_one_journal_do_not_mix(path: Path) -> None:
    store, other = MemoryStore(), sets.config(3)
    first = write(store, path)
    writer = VolumeWriter(Catalog(store, "gitlab"), sets.SET_ID, Journal(path), VOLUME, 2, ignore)
    second = writer.write("config", io.BytesIO(other), TarScanner(), parse_recipients([sets.keys().recipient]))
    assert read(store, first) == SOURCE
    assert read(store, second) == other


@pytest.mark.parametrize("in_flight", [1, 3])
def test_small_volumes_and_a_slow_store_do_not_pull_the_whole_archive_into_memory(path: Path, in_flight: int) -> None:
    source = Counting(sets.application(size=6 * CHUNK))
    store = Metering(source)
    volumes = write(store, path, cast(BinaryIO, source), size=64 << 10, in_flight=in_flight, seal=False)
    assert len(volumes) > 90
    assert store.furthest_ahead <= CHUNK + (in_flight + 1) * (64 << 10)


# -- when the store fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("when", ["before", "during", "after"])
@pytest.mark.parametrize("error", [StoreError("told to fail"), StoreTransient("told to fail"), Crash()], ids=repr)
def test_after_a_failure_at_any_call_a_second_try_converges(
    tmp_path: Path, error: BaseException, when: When, in_flight: int
) -> None:
    nth = 0
    while True:
        nth += 1
        inner, path = MemoryStore(), tmp_path / f"{nth}.jsonl"
        faulty = FaultyStore(inner)
        faulty.fail_at(nth, when, error)
        if not broke_off(faulty, path, type(error), in_flight):
            break
        arrived = len(Journal(path).all("volume"))
        again = FaultyStore(inner)
        volumes = write(again, path, in_flight=in_flight)
        assert read(inner, volumes) == SOURCE
        puts = [call.key for call in again.calls if call.method == "put"]
        assert len(puts) == COUNT - arrived
        assert keys_in(inner) == [key(number) for number in range(COUNT)]
        third = FaultyStore(inner)
        assert write(third, path, in_flight=in_flight) == volumes
        assert all(call.method == "stat" for call in third.calls)
    assert nth == COUNT + 1


def broke_off(store: FaultyStore, path: Path, error: type[BaseException], in_flight: int) -> bool:
    """Try once; False when the fault was never reached."""
    try:
        write(store, path, in_flight=in_flight)
    except error:
        assert store.fired
        return True
    assert not store.fired
    return False


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_second_try_that_fails_at_any_call_leaves_the_third_to_converge(tmp_path: Path, when: When) -> None:
    """The calls of a second try begin with looks at what the first one stored."""
    nth = 0
    while True:
        nth += 1
        inner, path = MemoryStore(), tmp_path / f"{nth}.jsonl"
        first = FaultyStore(inner)
        first.fail_at(3, "before", Crash())
        assert broke_off(first, path, Crash, 1)
        second = FaultyStore(inner)
        second.fail_at(nth, when, StoreError("told to fail"))
        done = not broke_off(second, path, StoreError, 2)
        assert read(inner, write(inner, path)) == SOURCE
        if done:
            break
    assert nth > COUNT


def test_a_crash_costs_at_most_the_volumes_in_flight(tmp_path: Path) -> None:
    for nth in range(1, COUNT + 1):
        path, store = tmp_path / f"{nth}.jsonl", FaultyStore(MemoryStore())
        store.fail_at(nth, "during", Crash(), method="put")
        assert broke_off(store, path, Crash, 2)
        assert len(Journal(path).all("volume")) >= nth - 2


def test_a_full_store_is_told_and_what_fits_is_kept(path: Path) -> None:
    inner = MemoryStore()
    store = FaultyStore(inner, room=2 * VOLUME + 2000)
    with pytest.raises(StoreError, match="full"):
        write(store, path, in_flight=1)
    assert keys_in(inner) == [key(0), key(1)]
    assert read(inner, write(inner, path)) == SOURCE


@pytest.mark.parametrize("change", ["gone", "shorter", "longer"])
def test_a_stored_volume_that_is_not_there_any_more_is_sent_again(path: Path, change: str) -> None:
    inner = MemoryStore()
    write(inner, path)
    stored = sets.content(inner, key(1))
    inner.delete([key(1)])
    if change != "gone":
        sets.replace(inner, key(1), stored[:-1] if change == "shorter" else stored + b"\0")
    store = FaultyStore(inner)
    volumes = write(store, path)
    assert [call.key for call in store.calls if call.method == "put"] == [key(1)]
    assert read(inner, volumes) == SOURCE


# -- when the source is another --------------------------------------------------------------------------------------

CHANGES = {
    "one byte": SOURCE[: VOLUME + 600] + bytes([SOURCE[VOLUME + 600] ^ 1]) + SOURCE[VOLUME + 601 :],
    "other members": sets.application(4),
    "fewer bytes": sets.tar_of({"backup_information.yml": b":backup_id: 3\n"}),
    "only the front": SOURCE[:512] + bytes(VOLUME - 512),
    "the last volume is missing": sets.application(3, size=30 << 10),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_source_on_the_second_try_is_noticed(path: Path, change: str) -> None:
    store = MemoryStore()
    write(store, path)
    before = {key: sets.content(store, key) for key in keys_in(store)}
    with pytest.raises((StagedChanged, SetDamaged)) as caught:
        write(store, path, CHANGES[change])
    if change != "only the front":  # that one is no tar, and may be found out by its structure first
        assert caught.type is StagedChanged
    assert {key: sets.content(store, key) for key in keys_in(store)} == before


def test_a_source_that_grew_is_noticed(path: Path) -> None:
    """Its old last volume was sent in part only: that part is no whole volume now."""
    store = MemoryStore()
    write(store, path)
    with pytest.raises(StagedChanged):
        write(store, path, sets.application(3, size=80 << 10))


def test_a_source_that_lost_only_its_padding_is_noticed(path: Path) -> None:
    """Its end mark ends where a volume does, so each volume that still comes is what it was."""
    whole = sets.tar_of({"backup_information.yml": bytes(VOLUME - 3 * 512)})
    assert len(whole.rstrip(b"\0")) < VOLUME < len(whole)
    store = MemoryStore()
    assert len(write(store, path, whole)) == 2
    with pytest.raises(StagedChanged, match="fewer bytes are staged"):
        write(store, path, whole[:VOLUME])


# -- when the producer dies ------------------------------------------------------------------------------------------


class Died(BaseException):
    pass


@pytest.mark.parametrize("error", [OSError("tar died"), Died()], ids=repr)
@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_dead_producer_leaves_nothing_under_the_open_volumes_key(
    tmp_path: Path, error: BaseException, in_flight: int
) -> None:
    for given in (0, 1, 511, 512, VOLUME - 1, VOLUME, VOLUME + 1, 2 * VOLUME + 700, len(SOURCE) - 1, len(SOURCE)):
        store, path = MemoryStore(), tmp_path / f"{given}.jsonl"
        with pytest.raises(type(error)) as caught:
            write(store, path, cast(BinaryIO, Trickle(SOURCE, 512, given, error)), in_flight=in_flight)
        assert caught.value is error
        full = [key(number) for number in range(given // VOLUME)]
        assert set(keys_in(store)) <= set(full)
        assert {entry["volume"]["name"] for entry in Journal(path).all("volume")} == {
            found.rpartition("/")[2] for found in keys_in(store)
        }
        assert read(store, write(store, path)) == SOURCE


@pytest.mark.parametrize("size", [1, 512, 2000, len(SOURCE) - 10240, len(SOURCE) - 1], ids=str)
def test_a_cut_archive_is_refused_however_clean_its_end_looks(path: Path, size: int) -> None:
    with pytest.raises(SetDamaged):
        write(MemoryStore(), path, SOURCE[:size])


def test_an_empty_stream_is_no_archive(path: Path) -> None:
    store = MemoryStore()
    with pytest.raises(SetDamaged):
        write(store, path, b"")
    assert keys_in(store) == []


class Trickle(io.RawIOBase):
    """Gives a few bytes at a time; after ``given`` of them it raises ``error``, if there is one."""

    def __init__(self, content: bytes, step: int, given: int | None = None, error: BaseException | None = None) -> None:
        self._inner = io.BytesIO(content if given is None else content[:given])
        self._step, self._error = step, error

    def read(self, size: int = -1, /) -> bytes:
        data = self._inner.read(min(size, self._step))
        if not data and self._error:
            raise self._error
        return data


class Counting(io.BytesIO):
    """Knows how much of it was read."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


class Metering(MemoryStore):
    """Notes how far the source was read ahead of what is stored, each time after letting the writer run on."""

    def __init__(self, source: Counting) -> None:
        super().__init__()
        self._source = source
        self._stored = 0
        self._guard = threading.Lock()
        self._never = threading.Event()
        self.furthest_ahead = 0

    def put(self, key: str, source: BinaryIO, **options: Any) -> ObjectInfo:
        self._never.wait(0.003)
        with self._guard:
            self.furthest_ahead = max(self.furthest_ahead, self._source.taken - self._stored)
        info = super().put(key, source, **options)
        with self._guard:
            self._stored += info.size
        return info
