"""Downloads and listings in bad weather: the exact bytes, or an error of ours; never other bytes, never a short end."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from drtool.catalog import Catalog
from drtool.errors import DrtoolError, StoreError
from drtool.stores import Store
from drtool.stores.conformance import forward_only
from tests import sets
from tests.faults.test_weather_uploads import AT_ONCE
from tests.oss_server import OssServer
from tests.proxy import Fault, Proxy, What, proxy_to

if TYPE_CHECKING:
    from tests.servers import S3Server

MIB = 1 << 20
PART = 5 * MIB
CONTENT = random.Random("a download").randbytes(PART + MIB + 4321)
KINDS = ["oss", pytest.param("s3", marks=pytest.mark.engine("seaweedfs"))]


@contextlib.contextmanager
def _place(kind: str, request: pytest.FixtureRequest, **options: Any) -> Iterator[tuple[Store, Store, Proxy]]:
    """A store through the weather, the same past it, and the weather."""
    prefix = f"downloads-{random.getrandbits(64):x}"
    if kind == "oss":
        oss: OssServer = request.getfixturevalue("oss_http")
        settings: dict[str, Any] = {"prefix": prefix, "part_size": PART, "backoff": AT_ONCE, **options}
        with proxy_to(oss.port) as proxy:
            yield oss.store(**settings, endpoint=proxy.url), oss.store(**settings), proxy
        return
    s3: S3Server = request.getfixturevalue("s3_http")
    with proxy_to(s3.port) as proxy:
        through = s3.store(prefix=prefix, endpoint=proxy.url, backoff=AT_ONCE, **options)
        yield through, s3.store(prefix=prefix, **options), proxy


def _read(store: Store, start: int = 0, size: int | None = None) -> bytes:
    with store.open("one", start=start, size=size) as body:
        return body.read()


@pytest.mark.parametrize("kind", KINDS)
def test_download_that_is_cut_anywhere_gives_the_exact_bytes(kind: str, request: pytest.FixtureRequest) -> None:
    """At every boundary of a part and of a buffer, and at random; of the whole, of its end, and of a middle."""
    noise = random.Random(f"cuts {kind}")
    whats: list[What] = ["cut answer", "end answer", "slow answer", "refuse", "status"]
    places = [0, 1, (1 << 16) - 1, 1 << 16, MIB, PART - 1, PART, PART + 1, len(CONTENT) - 1]
    places += [noise.randrange(len(CONTENT)) for _ in range(21)]
    happened = 0
    with _place(kind, request) as (store, direct, proxy):
        direct.put("one", forward_only([CONTENT]))
        for number, after in enumerate(places * 2):
            what = whats[number % len(whats)]
            start, size = noise.choice([(0, None), (0, None), (after // 2, None), (after // 3, PART)])
            wanted = CONTENT[start : None if size is None else start + size]
            at = 0 if what in ("refuse", "status") else min(after, len(wanted) - 1)
            fault = proxy.add(Fault(what, after=at, call="GetObject", left=1 + number % 3, seconds=0.05))

            assert _read(store, start, size) == wanted, f"{what} after {at} of {start}+{size}"

            happened += fault.hits
            proxy.clear()
    assert happened >= len(places) * 2


@pytest.mark.parametrize("kind", KINDS)
def test_download_that_never_gets_on_is_an_error_and_no_end(kind: str, request: pytest.FixtureRequest) -> None:
    with _place(kind, request) as (store, direct, proxy):
        direct.put("one", forward_only([CONTENT]))
        for what in ("cut answer", "end answer", "refuse", "status"):
            after = 5000 if what.endswith("answer") else 0
            proxy.add(Fault(what, after=after, call="GetObject", left=1000))
            with pytest.raises(StoreError):
                _read(store)
            proxy.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_archive_that_is_read_in_bad_weather_is_exact_or_an_error(kind: str, request: pytest.FixtureRequest) -> None:
    """Damage too, which a plain connection carries to us: no store sees all of it, the digests of the catalog do."""
    noise = random.Random(f"archive {kind}")
    whats: list[What] = ["cut answer", "end answer", "refuse", "status", "damage answer", "damage answer"]
    happened = exact = 0
    with _place(kind, request) as (store, direct, proxy):
        plain = {"application": sets.application(size=600 << 10), "config": sets.config()}
        committed = sets.commit(direct, archives=plain, volume_size=150 << 10)
        through = Catalog(store, sets.INSTANCE)
        for _ in range(60):
            for _ in range(noise.choice([1, 1, 4])):
                call, what = noise.choice(["", "GetObject", "GetObject", "HeadObject"]), noise.choice(whats)
                after = noise.randrange(noise.choice([500, 150 << 10])) if what.endswith("answer") else 0
                proxy.add(Fault(what, after=after, call=call, left=noise.choice([1, 1, 2, 8]), skip=noise.randrange(5)))
            faults = [*proxy.faults]
            try:
                opened = sets.Committed(through, committed.manifest, plain, committed.keys).open()
                assert opened.read_archive("application").read() == plain["application"]
                exact += 1
            except DrtoolError:
                pass
            happened += sum(fault.hits for fault in faults)
            proxy.clear()
        assert (
            sets.Committed(through, committed.manifest, plain, committed.keys).open().read_archive("application").read()
            == plain["application"]
        )
    assert happened >= 60
    assert 10 <= exact <= 55, "the weather is neither harmless nor hopeless"


@pytest.mark.parametrize("kind", KINDS)
def test_listing_that_changes_underneath_shows_all_that_stays(kind: str, request: pytest.FixtureRequest) -> None:
    with _place(kind, request, page_size=3) as (store, direct, proxy):
        staying = [f"keep/{number:02}" for number in range(12)]
        passing = [f"keep/{number:02}-gone" for number in range(12)]
        for nth in range(5):
            for key in staying + passing:
                direct.put(key, forward_only([b"x"]))

            def change() -> None:
                direct.delete(passing)
                for number in range(0, 12, 2):
                    direct.put(f"keep/{number:02}-new", forward_only([b"x"]))

            fault = proxy.add(Fault("nothing", call="ListObjects", skip=nth, meanwhile=change))
            listed = [info.key for info in store.list("keep/")]
            assert fault.hits == 1
            assert listed == sorted(set(listed)), "ascending, and no key twice"
            assert set(staying) <= set(listed)
            assert set(listed) <= {*staying, *passing, *(f"keep/{number:02}-new" for number in range(12))}
            proxy.clear()
            direct.delete([info.key for info in direct.list("keep/")])


@pytest.mark.parametrize("kind", KINDS)
def test_listing_in_bad_weather_is_a_listing_or_an_error_of_ours(kind: str, request: pytest.FixtureRequest) -> None:
    """A byte that changed within a key makes another key, and nothing in a listing tells: it only must not surprise."""
    with _place(kind, request, page_size=2) as (store, direct, proxy):
        keys = [f"list/{number}" for number in range(5)]
        for key in keys:
            direct.put(key, forward_only([b"x"]))
        for what in ("cut answer", "end answer"):
            for after in (0, 1, 100, 400):
                fault = proxy.add(Fault(what, after=after, call="ListObjects", left=2))
                assert [info.key for info in store.list("list/")] == keys
                assert fault.hits == 2
                proxy.clear()
        happened = 0
        for after in range(0, 900, 7):
            fault = proxy.add(Fault("damage answer", after=after, call="ListObjects"))
            with contextlib.suppress(StoreError):
                assert all(info.key.isascii() for info in store.list("list/"))
            happened += fault.hits
            proxy.clear()
        assert happened >= 60
