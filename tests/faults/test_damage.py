"""Whatever happens to a committed set in the store, reading it finds out: no damage passes, none is made up."""

from __future__ import annotations

import atexit
import base64
import dataclasses
import io
import random
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from drtool.catalog import MANIFEST, SIGNATURE, BackupSet
from drtool.core.model import Archive, SealKind, Volume
from drtool.errors import (
    FormatTooNew,
    IdentityMismatch,
    SetDamaged,
    SetMissing,
    SignatureInvalid,
    StoreTransient,
)
from drtool.events import ignore
from drtool.gitlab.archive import TarScanner
from drtool.stores.memory import MemoryStore
from drtool.verify import verify
from tests import sets
from tests.toyhost import make_bench

SEED = 20260113
BIT_FLIPS_PER_OBJECT = 520
CUTS_PER_OBJECT = 120
EXTENSIONS_PER_OBJECT = 40
FLIPS_OF_COMMIT = 250  # each costs a start of ssh-keygen
CLEAN_SETS = 100


@dataclass(frozen=True)
class Pair:
    """Two nights of one instance in one store, and what each object held when all was well."""

    store: MemoryStore
    old: sets.Committed
    new: sets.Committed
    clean: dict[str, bytes]

    def volume_keys(self, committed: sets.Committed) -> list[str]:
        set_id = committed.manifest.set_id
        return [committed.catalog.key(set_id, volume.name) for volume in committed.manifest.volumes]


@cache
def pair() -> Pair:
    store = MemoryStore()
    old = sets.commit(store, seed=1, with_census=True)
    new = sets.commit(store, set_id=sets.LATER_SET_ID, seed=2, with_census=True)
    clean = {key: sets.content(store, key) for key in (*old.object_keys, *new.object_keys)}
    return Pair(store, old, new, clean)


def judge_stored(committed: sets.Committed) -> tuple[str, ...]:
    """What ``verify --level digest`` finds in a set whose manifest was read before the damage."""
    opened = BackupSet(committed.catalog, committed.manifest)
    return verify(opened, "digest", signed=True, clock=sets.StillClock(), emit=ignore).problems


def read_everything(committed: sets.Committed) -> None:
    """Read all archives and the index to their end, as a restore would."""
    opened = BackupSet(committed.catalog, committed.manifest, committed.keys.identities)
    for name, plain in committed.plain.items():
        assert opened.read_archive(name).read() == plain
    opened.read_index()
    if committed.manifest.census:
        opened.read_census()


@dataclass(frozen=True)
class Nights:
    """Two sets of one store as they are opened for reading, and what each object held when all was well."""

    old: BackupSet
    new: BackupSet
    clean: dict[str, bytes]


@cache
def nights_made_up() -> Nights:
    both = pair()
    return Nights(both.old.open(), both.new.open(), both.clean)


@cache
def nights_of_a_toy() -> Nights:
    scratch = tempfile.mkdtemp(prefix="drtool-toy-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    bench = make_bench(Path(scratch), MemoryStore())
    old, new = (bench.open(bench.back_up().manifest.set_id) for _ in range(2))
    return Nights(old, new, {info.key: sets.content(bench.store, info.key) for info in bench.store.list("toy/sets/")})


def objects(opened: BackupSet) -> Iterator[tuple[Archive, Volume, str]]:
    """Every object but those that commit the set: of what, itself, its key."""
    manifest = opened.manifest
    assert manifest.census
    for archive in (*manifest.archives, manifest.census, manifest.index):
        for volume in archive.volumes:
            yield archive, volume, opened.catalog.key(manifest.set_id, volume.name)


def read_object(opened: BackupSet, archive: Archive, volume: Volume) -> object:
    """Read one object as whoever needs it does."""
    match archive.name:
        case "census":
            return opened.read_census()
        case "index":
            return opened.read_index()
        case _:
            return opened.read_volumes(dataclasses.replace(archive, volumes=(volume,))).read()


def judge_object(opened: BackupSet, volume: Volume) -> tuple[str, ...]:
    """What ``verify --level digest`` finds, when a sample is only of this."""
    return verify(opened, "digest", signed=True, clock=sets.StillClock(), emit=ignore, only=[volume]).problems


def replays(nights: Nights, key: str) -> Iterator[tuple[str, bytes]]:
    """Everything else that lies in the store, in its place: older parts, other volumes, manifests, signatures."""
    for other, content in nights.clean.items():
        if content != nights.clean[key]:
            yield f"{other} in its place", content


def mutations(content: bytes, noise: random.Random) -> Iterator[tuple[str, bytes]]:
    """Damaged versions of one volume: flipped bits all over it and in every byte of its head, cuts, additions."""
    ends = [*range(min(len(content), 40)), len(content) - 1]
    for at in [*ends, *(noise.randrange(len(content)) for _ in range(BIT_FLIPS_PER_OBJECT))]:
        flipped = bytearray(content)
        flipped[at] ^= 1 << noise.randrange(8)
        yield f"bit flipped in byte {at}", bytes(flipped)
    for size in {0, 1, len(content) - 1, *(noise.randrange(len(content)) for _ in range(CUTS_PER_OBJECT))}:
        yield f"cut to {size} bytes", content[:size]
    for count in {1, 16, len(content), *(noise.randrange(1, 70_000) for _ in range(EXTENSIONS_PER_OBJECT))}:
        yield f"{count} bytes added", content + noise.randbytes(count)
    yield "a zero byte added", content + b"\0"
    yield "its own content twice", content + content


def test_clean_sets_raise_no_alarm() -> None:
    noise = random.Random(SEED)
    seals: tuple[SealKind, ...] = ("age", "none")
    for number in range(CLEAN_SETS):
        committed = sets.commit(
            MemoryStore(),
            seed=number,
            seal=seals[number % 2],
            volume_size=noise.randrange(3000, 30_000),
            archives={
                "application": sets.application(number, size=noise.randrange(0, 60_000)),
                "config": sets.config(),
            },
            with_census=True,
        )
        assert judge_stored(committed) == ()
        read_everything(committed)
        assert committed.open().manifest == committed.manifest


@pytest.mark.slow
@pytest.mark.parametrize("made", [nights_made_up, nights_of_a_toy], ids=["made up", "of a toy"])
def test_every_damage_to_every_object_is_found_by_digest_and_by_reading(made: Callable[[], Nights]) -> None:
    """More than 10,000 of both kinds of sets, and no alarm at what is clean."""
    nights, noise, tried = made(), random.Random(SEED), 0
    opened, store = nights.new, nights.new.catalog.store
    for archive, volume, key in objects(opened):
        good = read_object(opened, archive, volume)
        for what, damaged in (*mutations(nights.clean[key], noise), *replays(nights, key)):
            sets.replace(store, key, damaged)
            problems = judge_object(opened, volume)
            assert len(problems) == 1, f"{key}: {what}: {problems}"
            assert problems[0].startswith(f"{key}: "), problems[0]
            with pytest.raises(SetDamaged, match=key) as caught:
                read_object(opened, archive, volume)
            assert type(caught.value) is SetDamaged, f"{key}: {what}"
            tried += 1
        sets.replace(store, key, nights.clean[key])
        assert judge_object(opened, volume) == ()
        assert read_object(opened, archive, volume) == good
    assert tried >= 5000, tried
    assert verify(opened, "digest", signed=True, clock=sets.StillClock(), emit=ignore).problems == ()


def test_a_volume_in_another_volumes_place_is_found() -> None:
    both = pair()
    keys = [*both.volume_keys(both.new), *both.volume_keys(both.old)]
    for here in both.volume_keys(both.new):
        for other in keys:
            if other == here:
                continue
            sets.replace(both.store, here, both.clean[other])
            assert len(judge_stored(both.new)) == 1, (here, other)
            with pytest.raises(SetDamaged):
                read_everything(both.new)
        sets.replace(both.store, here, both.clean[here])


def test_two_swapped_volumes_are_both_named() -> None:
    both = pair()
    first, second, *_ = both.volume_keys(both.new)
    sets.replace(both.store, first, both.clean[second])
    sets.replace(both.store, second, both.clean[first])
    problems = judge_stored(both.new)
    restore(both, first, second)
    assert [problem.split(": ")[0] for problem in problems] == [first, second]


def test_a_missing_volume_is_named_at_every_level() -> None:
    both = pair()
    opened = BackupSet(both.new.catalog, both.new.manifest)
    for key in both.volume_keys(both.new):
        both.store.delete([key])
        for level in ("present", "digest"):
            verdict = verify(opened, level, signed=True, clock=sets.StillClock(), emit=ignore)
            assert [problem.split(": ")[0] for problem in verdict.problems] == [key]
        with pytest.raises(SetDamaged, match="missing"):
            read_everything(both.new)
        restore(both, key)


def test_several_damages_are_all_told_in_one_run() -> None:
    both = pair()
    damaged = both.volume_keys(both.new)[::2]
    for key in damaged:
        sets.replace(both.store, key, both.clean[key][:-1])
    problems = judge_stored(both.new)
    restore(both, *damaged)
    assert [problem.split(": ")[0] for problem in problems] == damaged


def test_every_damage_to_what_commits_a_set_is_refused_on_opening() -> None:
    both, noise = pair(), random.Random(SEED)
    catalog, set_id = both.new.catalog, both.new.manifest.set_id
    for name in (MANIFEST, SIGNATURE):
        key = catalog.key(set_id, name)
        content = both.clean[key]
        for damaged in commit_mutations(content, noise):
            if name == SIGNATURE and proof(damaged) == proof(content):
                continue  # the same proof written otherwise: nothing that it vouches for has changed
            sets.replace(both.store, key, damaged)
            with pytest.raises(SignatureInvalid):
                both.new.open()
        restore(both, key)
    both.new.open()


def commit_mutations(content: bytes, noise: random.Random) -> Iterator[bytes]:
    for _ in range(FLIPS_OF_COMMIT):
        flipped = bytearray(content)
        flipped[noise.randrange(len(content))] ^= 1 << noise.randrange(8)
        yield bytes(flipped)
    for size in (0, 1, len(content) // 2, len(content) - 30):
        yield content[:size]


def proof(armored: bytes) -> bytes:
    """What a signature says, less its armor and its version number, which ssh-keygen 9.2 lets be 0 as well."""
    body = armored.partition(b"SIGNATURE-----")[2].partition(b"-----END")[0]
    blob = base64.b64decode(body + b"==")
    return blob[:6] + blob[10:]


def test_the_manifest_of_another_night_is_refused_with_its_own_valid_signature() -> None:
    both = pair()
    catalog = both.new.catalog
    keys = [catalog.key(both.new.manifest.set_id, name) for name in (MANIFEST, SIGNATURE)]
    for name, key in zip((MANIFEST, SIGNATURE), keys, strict=True):
        sets.replace(both.store, key, both.clean[catalog.key(both.old.manifest.set_id, name)])
    with pytest.raises(SetDamaged, match="put in another's place"):
        both.new.open()
    restore(both, *keys)


def test_the_signature_of_another_night_is_refused() -> None:
    both = pair()
    catalog = both.new.catalog
    key = catalog.key(both.new.manifest.set_id, SIGNATURE)
    sets.replace(both.store, key, both.clean[catalog.key(both.old.manifest.set_id, SIGNATURE)])
    with pytest.raises(SignatureInvalid):
        both.new.open()
    restore(both, key)


def test_a_missing_signature_is_refused_and_a_missing_manifest_is_no_set() -> None:
    both = pair()
    catalog, set_id = both.new.catalog, both.new.manifest.set_id
    both.store.delete([catalog.key(set_id, SIGNATURE)])
    with pytest.raises(SignatureInvalid, match="unsigned"):
        both.new.open()
    restore(both, catalog.key(set_id, SIGNATURE))
    both.store.delete([catalog.key(set_id, MANIFEST)])
    with pytest.raises(SetMissing):
        both.new.open()
    assert set_id not in catalog.set_ids()
    restore(both, catalog.key(set_id, MANIFEST))


def test_a_signed_manifest_of_a_newer_format_is_refused_as_too_new() -> None:
    store = MemoryStore()
    committed = sets.commit(store)
    key = committed.catalog.key(sets.SET_ID, MANIFEST)
    text = sets.content(store, key).replace(b'"format": 1', b'"format": 2')
    sets.replace(store, key, text)
    sets.replace(store, committed.catalog.key(sets.SET_ID, SIGNATURE), committed.keys.signer.sign(text))
    with pytest.raises(FormatTooNew):
        committed.open()


def test_a_strangers_identity_is_told_from_damage() -> None:
    both = pair()
    stranger = sets.new_keys()
    opened = BackupSet(both.new.catalog, both.new.manifest, stranger.identities)
    for read in (lambda: opened.read_archive("application").read(), opened.read_index):
        with pytest.raises(IdentityMismatch):
            read()
    key = both.volume_keys(both.new)[0]
    sets.replace(both.store, key, both.clean[key][:-1] + b"\0")
    with pytest.raises(SetDamaged, match=key):
        opened.read_archive("application").read()
    restore(both, key)


def test_a_set_opened_without_any_identity_says_so() -> None:
    opened = BackupSet(pair().new.catalog, pair().new.manifest)
    with pytest.raises(IdentityMismatch):
        opened.read_archive("config").read()


@pytest.mark.parametrize("identities", ["own", "a stranger's"])
@pytest.mark.parametrize("after", [0, 100, 3000])
def test_a_store_that_fails_while_a_volume_is_read_is_not_called_damage(identities: str, after: int) -> None:
    """Also when the broken body then looks ended, as a dropped connection does: nothing was learned about the set."""
    store = DroppingStore()
    committed = sets.commit(store)
    known = committed.keys.identities if identities == "own" else sets.new_keys().identities
    opened = BackupSet(committed.catalog, committed.manifest, known)
    store.drops_after = after
    with pytest.raises(StoreTransient):
        opened.read_archive("application").read()
    with pytest.raises(StoreTransient):
        verify(opened, "digest", signed=True, clock=sets.StillClock(), emit=ignore)


def test_a_reader_asked_again_after_damage_raises_again_and_invents_no_end() -> None:
    both = pair()
    key = both.volume_keys(both.new)[1]
    sets.replace(both.store, key, both.clean[key][:-1])
    stream = BackupSet(both.new.catalog, both.new.manifest, both.new.keys.identities).read_archive("application")
    for _ in range(2):
        with pytest.raises(SetDamaged):
            while stream.read(1 << 20):
                pass
    restore(both, key)


def test_a_reader_that_is_closed_early_leaves_no_thread() -> None:
    committed = sets.commit(
        MemoryStore(), archives={"application": sets.application(size=12 << 20)}, volume_size=16 << 20
    )
    before = set(threading.enumerate())
    stream = committed.open().read_archive("application")
    assert stream.read(10)
    stream.close()
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("size", ["9" * 5000, "1" * 20, "\u0663", "-1", ""], ids=lambda size: size[:9])
def test_a_tar_that_gives_an_absurd_size_is_damage_and_no_defect(size: str) -> None:
    """Of an unsigned set anybody may have written the archives, too."""
    member = tarfile.TarInfo("member")
    member.pax_headers = {"size": size}
    with pytest.raises(SetDamaged, match="with the size"):
        TarScanner().feed(member.tobuf(tarfile.PAX_FORMAT))


class DroppingStore(MemoryStore):
    """Once told to, every body breaks off with an error after some bytes, and gives nothing more after that."""

    drops_after: int | None = None

    def open(self, key: str, *, start: int = 0, **asked: Any) -> closing[BinaryIO]:
        if self.drops_after is None:
            return super().open(key, start=start, **asked)
        with super().open(key, start=start, **asked) as whole:
            return closing(DroppingBody(whole.read(), self.drops_after))


class DroppingBody(io.BytesIO):
    def __init__(self, content: bytes, after: int) -> None:
        super().__init__(content)
        self._after = after
        self._dropped = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self._dropped:
            return b""
        if self.tell() >= self._after:
            self._dropped = True
            raise StoreTransient("connection reset")
        wanted = self._after - self.tell()
        return super().read(wanted if size is None or size < 0 else min(size, wanted))


def restore(both: Pair, *keys: str) -> None:
    for key in keys:
        sets.replace(both.store, key, both.clean[key])
