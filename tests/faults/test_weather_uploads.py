"""Uploads in bad weather: at least 500 faults for each kind of store, and what became of every upload.

A fault counts when it happened, not when it was planned. Each test has to bring its share, so that the sum holds
however the tests are spread over processes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest

from drtool.stores import LeavesUploads
from drtool.stores.retry import Backoff
from tests.faults import weather
from tests.faults.weather import ErrorAnswers, Place
from tests.oss_server import OssServer
from tests.proxy import proxy_to

if TYPE_CHECKING:
    from tests.servers import S3Server

MIB = 1 << 20
CHUNKS = 10
SHARE = 50  # of 500
CONCURRENCY = 3
OSS_PART = 100 << 10
LONG, SHORT = timedelta(seconds=30), timedelta(seconds=2.5)
AT_ONCE = Backoff(first=timedelta(milliseconds=1), longest=timedelta(milliseconds=5))
KINDS = ["oss", *(pytest.param(kind, marks=pytest.mark.engine("seaweedfs")) for kind in ("s3", "spaces"))]


@contextlib.contextmanager
def _oss(server: OssServer, read_timeout: timedelta) -> Iterator[Place]:
    settings: dict[str, Any] = {
        "prefix": "weather",
        "part_size": OSS_PART,
        "concurrency": CONCURRENCY,
        "backoff": AT_ONCE,
    }
    with proxy_to(server.port) as proxy:
        yield Place(
            server.store(**settings, endpoint=proxy.url, connect_timeout=read_timeout, read_timeout=read_timeout),
            server.store(**settings),
            proxy,
            random.Random("oss").randbytes(3 * OSS_PART + 4321),
            OSS_PART,
            CONCURRENCY,
            lambda key: sum(upload.key == f"weather/{key}" for upload in [*server.bucket.uploads.values()]),
            ErrorAnswers(expired=(403, "SecurityTokenExpired")),
        )


@contextlib.contextmanager
def _s3(server: S3Server, kind: str, read_timeout: timedelta) -> Iterator[Place]:
    """``spaces``: with the settings for servers that know neither trailing checksums nor conditions."""
    spaces = kind == "spaces"
    checksums: Literal["when_required", "when_supported"] = "when_required" if spaces else "when_supported"
    make = functools.partial(
        server.store, prefix=f"weather-{kind}", checksums=checksums, conditional_put=not spaces, concurrency=CONCURRENCY
    )
    direct = make()

    def unfinished(key: str) -> int:
        page = direct.client.list_multipart_uploads(Bucket=direct.bucket, Prefix=direct.prefix + key)
        return sum(upload["Key"] == direct.prefix + key for upload in page.get("Uploads", []))

    with proxy_to(server.port) as proxy:
        through = make(endpoint=proxy.url, backoff=AT_ONCE, read_timeout=read_timeout)
        content = random.Random(kind).randbytes((5 if spaces else 10) * MIB + 4321)
        answers = ErrorAnswers(expired=(400, "ExpiredToken"))
        yield Place(through, direct, proxy, content, 5 * MIB, CONCURRENCY, unfinished, answers)


def _place(
    kind: str, request: pytest.FixtureRequest, read_timeout: timedelta
) -> contextlib.AbstractContextManager[Place]:
    if kind == "oss":
        return _oss(request.getfixturevalue("oss_http"), read_timeout)
    return _s3(request.getfixturevalue("s3_http"), kind, read_timeout)


def _next_run_leaves_nothing(place: Place, keys: list[str]) -> None:
    """Do what a run does before its first byte: remove what killed runs left, which nobody can be writing now."""
    if any(place.unfinished(key) for key in keys):
        cast(LeavesUploads, place.direct).remove_unfinished("", is_dead=lambda key: key in keys)
        assert [key for key in keys if place.unfinished(key)] == []


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("kind", KINDS)
def test_upload_in_bad_weather_ends_complete_or_with_a_clear_error_and_nothing_to_be_seen(
    kind: str, chunk: int, request: pytest.FixtureRequest
) -> None:
    happened, keys = 0, []
    with _place(kind, request, LONG) as place:
        singles = weather.singles(place)[chunk::CHUNKS]
        many = itertools.islice(weather.storms(place, f"{kind} {chunk}"), 50)
        for number, case in enumerate(itertools.chain(singles, many)):
            if number >= len(singles) and happened >= SHARE:
                break
            keys.append(f"{chunk}/{number}")
            hits = weather.fly(place, case, keys[-1])
            assert hits or case.ends == "any", f"{case.name}: never happened"
            happened += hits
        _next_run_leaves_nothing(place, keys)
    assert happened >= SHARE


@pytest.mark.parametrize("kind", KINDS)
def test_upload_through_silence_ends_complete(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stalls, and requests that arrive when nobody waits for them any more; several at a time, as each takes long."""
    monkeypatch.setattr("drtool.stores.s3._CONNECT_TIMEOUT", SHORT)  # which is that of sending, too
    with contextlib.ExitStack() as opened:
        places = [opened.enter_context(_place(kind, request, SHORT)) for _ in range(6)]
        cases = [*weather.stalls(places[0])]
        keys = [f"stall/{number}" for number, _ in enumerate(cases)]

        def fly(lane: int) -> int:
            mine = [*zip(cases, keys, strict=True)][lane :: len(places)]
            return sum(weather.fly(places[lane], case, key) for case, key in mine)

        with ThreadPoolExecutor(len(places)) as threads:
            assert sum(threads.map(fly, range(len(places)))) >= len(cases)
        _next_run_leaves_nothing(places[0], keys)
