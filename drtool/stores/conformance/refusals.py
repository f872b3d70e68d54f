"""What a store must refuse, and how the refusal is named; and the one door it may open to others."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import urllib.parse
from datetime import UTC, datetime, timedelta
from pathlib import Path

from drtool.errors import BucketMissing, StoreAccessDenied, StoreError
from drtool.stores import Store
from drtool.stores.conformance.frame import (
    Area,
    NotApplicable,
    contract,
    expect,
    forward_only,
    raises,
    untouchable,
)


@contract
def bad_keys_are_refused(area: Area) -> None:
    for key in (
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        "a/./b",
        "a b",
        "a\x00b",
        "ä",
        "a\n",
        "x" * 256,
        "y/" * 300 + "y",
    ):
        with raises(StoreError, f"put of the key {key!r}"):
            area.store.put(key, untouchable())
        with raises(StoreError, f"stat of the key {key!r}"):
            area.store.stat(key)
        with raises(StoreError, f"open of the key {key!r}"), area.store.open(key) as body:
            body.read()
        with raises(StoreError, f"delete of the key {key!r}"):
            area.store.delete([key])
    for prefix in ("/", "../", "a/../", "a//"):
        with raises(StoreError, f"list of the prefix {prefix!r}"):
            list(area.store.list(prefix))


@contract
def a_lock_is_refused_where_there_is_none(area: Area) -> None:
    if area.store.capabilities.lock == "object":
        raise NotApplicable("the store locks objects")
    with raises(StoreError, "put with a lock on a store without locks"):
        area.store.put(area.key("one"), untouchable(), lock_until=datetime.now(UTC) + timedelta(hours=1))
    expect(area.names() == [], f"{area.names()} is there after the refusal")


@contract
def a_signed_url_reads_the_object(area: Area) -> None:
    area.put("one", b"for everybody")
    if not area.store.capabilities.signed_url:
        with raises(StoreError, "signed_url of a store that cannot sign"):
            area.store.signed_url(area.key("one"), ttl=timedelta(minutes=5))
        return
    status, body = fetch(area.store.signed_url(area.key("one"), ttl=timedelta(minutes=5)), area.subject.ca_bundle)
    expect((status, body) == (200, b"for everybody"), f"the URL answers {status} and {body[:100]!r}")


@contract
def a_missing_bucket_is_named(area: Area) -> None:
    if area.subject.elsewhere is None:
        raise NotApplicable("there is no bucket that could be missing")
    _refuses_everything(area.subject.elsewhere, area.key("one"), BucketMissing)


@contract
def wrong_credentials_are_named(area: Area) -> None:
    if area.subject.stranger is None:
        raise NotApplicable("the store has no credentials")
    area.put("one", b"mine")
    _refuses_everything(area.subject.stranger, area.key("one"), StoreAccessDenied)
    expect(area.read("one") == b"mine", "somebody without credentials changed the object")


def _refuses_everything(store: Store, key: str, expected: type[StoreError]) -> None:
    with raises(expected, "put"):
        store.put(key, forward_only([b"x"]))
    with raises(expected, "put only if absent"):
        store.put(key, forward_only([b"x"]), only_if_absent=True)
    with raises(expected, "stat"):
        store.stat(key)
    with raises(expected, "open"), store.open(key) as body:
        body.read()
    with raises(expected, "list"):
        list(store.list(key))
    with raises(expected, "delete"):
        store.delete([key])


def fetch(url: str, ca_bundle: Path | None) -> tuple[int, bytes]:
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        trust = ssl.create_default_context(cafile=str(ca_bundle) if ca_bundle else None)
        connection = http.client.HTTPSConnection(host, port, timeout=60, context=trust)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        return answer.status, answer.read()
