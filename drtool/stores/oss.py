"""Alibaba Cloud OSS by its own protocol, through oss2.

Version looked at: oss2 2.19.1. Imported only when a store of this kind is used. What oss2 does for integrity and
against failures is turned off and done here: it never retries, never compares a checksum on reading, and computes
them in Python where no compiler was at hand (5 MB/s).
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast
from xml.etree.ElementTree import ParseError

import oss2
import requests
import urllib3.exceptions
from oss2.credentials import EnvironmentVariableCredentialsProvider, StaticCredentialsProvider
from oss2.models import RestoreConfiguration

from drtool.errors import ConfigError, ObjectMissing, StoreAccessDenied, StoreError, StoreTransient
from drtool.stores import Capabilities, ObjectInfo, Store
from drtool.stores.endpoint import connection_error, web_page
from drtool.stores.keys import check_key, check_lock, check_prefix, check_span, is_key
from drtool.stores.lifecycle import LifecycleEffects
from drtool.stores.multipart import PART_SIZE, upload
from drtool.stores.oss_answers import (
    AlreadyThawing,
    NotSet,
    WormState,
    denied_action,
    error_from_answer,
    lifecycle_effects,
    thaw_state,
    worm_state,
)
from drtool.stores.oss_credentials import METADATA_URL, RamRole
from drtool.stores.oss_transfer import Body, Checked, Put, moment, remove_unfinished
from drtool.stores.retry import Backoff

T = TypeVar("T")
StorageClass = Literal["Standard", "IA", "Archive", "ColdArchive", "DeepColdArchive"]

SMALLEST_PART = 100 << 10  # but for the last
_CONNECT_TIMEOUT = timedelta(seconds=15)
_READ_TIMEOUT = timedelta(seconds=60)
_LONGEST_URL = timedelta(days=7)  # signature version 4 allows no more
_MOST_DELETED = 1000
_MOST_COPIED = 5_000_000_000
_ENDPOINT = re.compile(r"https?://[\w.-]+(:\d+)?/?\Z", re.ASCII)
_BROKEN_CONNECTION = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)


class OssStore:
    """Objects in a bucket, below ``prefix`` (a folder of the bucket, without a slash at its end).

    ``endpoint``: public, internal, accelerate, an IP address, or with ``cname`` a name bound to the bucket; https
    unless it says http. Keys come from ``access_key_id`` and its secret, or from ``ram_role`` (of the ECS instance),
    else from OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET and OSS_SESSION_TOKEN. No proxy and no ~/.netrc is looked at.
    ``versioned`` must say whether versioning was ever enabled: such a bucket ignores "do not overwrite", so a put that
    must not replace anything looks first, which two racing writers can both survive. ``worm`` declares a retention
    policy; the capability is there only while the bucket says that it is locked. Killed puts leave parts behind, see
    ``remove_unfinished``; a lifecycle rule of the bucket (``lifecycle``) does it too, for who may not list uploads.
    """

    def __init__(
        self,
        bucket: str,
        *,
        endpoint: str,
        region: str,
        prefix: str = "",
        access_key_id: str | None = None,
        access_key_secret: str | None = None,
        security_token: str | None = None,
        ram_role: str | None = None,
        metadata_url: str = METADATA_URL,
        cname: bool = False,
        ca_bundle: Path | None = None,
        storage_class: StorageClass | None = None,
        versioned: bool = False,
        worm: bool = False,
        concurrency: int = 4,
        part_size: int = PART_SIZE,
        page_size: int = 1000,
        backoff: Backoff | None = None,
        connect_timeout: timedelta = _CONNECT_TIMEOUT,
        read_timeout: timedelta = _READ_TIMEOUT,
    ) -> None:
        if part_size < SMALLEST_PART:
            raise ConfigError(f"part size {part_size}: OSS takes no part below {SMALLEST_PART} bytes")
        if not region or region.startswith("oss-"):
            raise ConfigError(f"oss://{bucket}: the region is written like cn-hangzhou, not {region!r}")
        self.endpoint = endpoint if "://" in endpoint else f"https://{endpoint}"  # oss2 would take http
        if not _ENDPOINT.match(self.endpoint):  # oss2 would drop what it does not understand
            raise ConfigError(f"oss://{bucket}: the endpoint is a host, with a scheme and a port if need be, no more")
        if ca_bundle and not ca_bundle.exists():
            raise ConfigError(f"oss://{bucket}: there is no ca_bundle {ca_bundle}")
        self.bucket = bucket
        self.prefix = f"{check_key(prefix.strip('/'))}/" if prefix.strip("/") else ""
        self.name = f"oss://{bucket}/{self.prefix}"
        self.account = (self.endpoint, cname, access_key_id, ram_role)
        self.conditional_put = not versioned
        self.storage_headers = {"x-oss-storage-class": storage_class} if storage_class else {}
        self._versioned = versioned
        self._capabilities = None if worm else self._capable("none")
        self._concurrency, self._part_size, self._page_size = concurrency, part_size, page_size
        self._backoff = backoff or Backoff()
        self._doubted: set[tuple[str, str]] = set()
        _keep_tokens_out_of_logs()
        if ram_role is not None:
            provider: Any = RamRole(ram_role, base_url=metadata_url)
        else:
            provider = _provider(bucket, access_key_id, access_key_secret, security_token)
        try:
            self.client = oss2.Bucket(
                oss2.ProviderAuthV4(provider),
                self.endpoint,
                bucket,
                is_cname=cname,
                session=_session(pool_size=max(10, 8 * concurrency), ca_bundle=ca_bundle),
                connect_timeout=(connect_timeout.total_seconds(), read_timeout.total_seconds()),
                enable_crc=False,
                region=region,
            )
        except oss2.exceptions.ClientError as error:
            raise ConfigError(f"oss://{bucket} at {self.endpoint}: {error.body}") from error

    @property
    def capabilities(self) -> Capabilities:
        """Asks the bucket once if ``worm`` was declared: an unlocked policy protects nothing after a day."""
        if self._capabilities is None:
            self._capabilities = self._capable("bucket" if self.worm_state().state == "locked" else "none")
        return self._capabilities

    def put(
        self,
        key: str,
        source: BinaryIO,
        *,
        size_hint: int | None = None,
        lock_until: datetime | None = None,
        only_if_absent: bool = False,
    ) -> ObjectInfo:
        """As the contract says. After an error that says StoreTransient the object may be there all the same."""
        check_key(key)
        check_lock(self.name, self._capable("none"), lock_until)  # OSS locks whole buckets: no object until a time
        stream = Checked(source)
        sink = Put(self, key, stream, only_if_absent=only_if_absent)
        size = upload(
            cast(BinaryIO, stream),
            sink,
            size_hint=size_hint,
            part_size=self._part_size,
            concurrency=self._concurrency,
            backoff=self._backoff,
        )
        return sink.confirm(size)

    @contextlib.contextmanager
    def open(self, key: str, *, start: int = 0, size: int | None = None, version: str = "") -> Iterator[BinaryIO]:
        check_key(key)
        check_span(start, size)
        with Body(self, key, start, size, version) as raw, io.BufferedReader(raw, 1 << 20) as body:
            yield cast(BinaryIO, body)

    def stat(self, key: str) -> ObjectInfo:
        head = self.head(check_key(key))
        return ObjectInfo(key, head.content_length, moment(head.last_modified), version=head.etag)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As the contract says; objects whose key no put of ours could have made do not show."""
        return self._list(check_prefix(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        wanted = iter([check_key(key) for key in keys])
        while batch := [*itertools.islice(wanted, _MOST_DELETED)]:
            self._delete(batch)

    def copy_from(self, source: Store, key: str) -> bool:
        """As ``CopiesWithin`` says: between buckets of one endpoint, with the same keys, up to 5 GB in one call."""
        check_key(key)
        if not isinstance(source, OssStore) or source.account != self.account or source.stat(key).size > _MOST_COPIED:
            return False
        with self.errors(key):
            self.client.copy_object(source.bucket, source.prefix + key, self.prefix + key, dict(self.storage_headers))
        return True

    def remove_unfinished(self, prefix: str, *, is_dead: Callable[[str], bool]) -> tuple[str, ...]:
        return remove_unfinished(self, check_prefix(prefix), is_dead)

    def signed_url(self, key: str, *, ttl: timedelta) -> str:
        """As the contract says. One signed by a role's keys ends with them, which can be sooner."""
        check_key(key)
        if not timedelta(seconds=1) <= ttl <= _LONGEST_URL:
            raise StoreError(f"{self.name}{key}: a signed URL lives for one second to seven days, not {ttl}")
        name, seconds = self.prefix + key, int(ttl.total_seconds())
        url: str = self.call(key, lambda: self.client.sign_url("GET", name, seconds, slash_safe=True))
        return url

    # What only OSS has

    def thaw(self, key: str, *, days: int = 7) -> Literal["readable", "thawing"]:
        """Ask once for an object of a frozen class to become readable for ``days``; say whether it is already.

        May be called until it says so: a thaw that is under way is not asked for again.
        """
        state = thaw_state(self.head(check_key(key)).headers)
        if state == "frozen":
            with contextlib.suppress(AlreadyThawing):  # somebody asked since, or our own first try did
                wanted = RestoreConfiguration(days)
                self.call(key, lambda: self.client.restore_object(self.prefix + key, input=wanted))
        return "readable" if state == "readable" else "thawing"

    def kept_as(self, key: str) -> dict[str, str]:
        """How the bucket keeps an object, in the words of drtool.toml."""
        return {"storage_class": self.head(check_key(key)).headers.get("x-oss-storage-class", "Standard")}

    def worm_state(self) -> WormState:
        try:
            found = self.call("", self.client.get_bucket_worm)
        except NotSet:
            return WormState("none")
        # oss2 2.19.1 documents worm_state and fills in state
        return worm_state(found.state, found.retention_period_days, found.creation_date)

    def versioning(self) -> Literal["never", "enabled", "suspended"]:
        """What the bucket says of itself; ``versioned`` has to fit it."""
        status: str | None = self.call("", self.client.get_bucket_versioning).status
        match status:
            case "Enabled":
                return "enabled"
            case "Suspended":
                return "suspended"
            case _:
                return "never"

    def lifecycle(self) -> LifecycleEffects:
        """Say what the bucket's own rules do to objects below our prefix."""
        try:
            return lifecycle_effects(self.call("", self.client.get_bucket_lifecycle).rules, self.prefix)
        except NotSet:
            return LifecycleEffects()

    # Shared by the classes below

    def call(self, key: str, function: Callable[[], T]) -> T:
        """Call oss2 with our errors and our retries."""

        def once() -> T:
            with self.errors(key):
                return function()

        return self._backoff.retrying()(once)

    @contextlib.contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """Turn what oss2 and what is below it raise into our errors."""
        where = f"{self.name}{key} at {self.endpoint}"
        try:
            yield
        except oss2.exceptions.RequestError as error:
            raise self._network_error(where, error.exception) from error.exception
        except oss2.exceptions.ServerError as error:
            # Without its cause: OSS repeats what was signed, and a session token is part of that.
            raise error_from_answer(
                where,
                error.status,
                error.details,
                request_id=error.request_id,
                headers=error.headers,
                action=denied_action(_told(error)),
            ) from None
        except oss2.exceptions.OssError as error:
            kind = StoreAccessDenied if "access key" in str(error.body).lower() else StoreError
            raise kind(f"{where}: {error.body}") from None
        except ParseError as error:
            raise StoreTransient(f"{where}: the answer broke off: {error}") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise self._network_error(where, error) from error
        except OSError as error:
            raise StoreTransient(f"{where}: {error}") from error
        except (ValueError, RuntimeError) as error:  # what oss2 raises of headers and XML that it does not know
            if str(error).endswith("under html"):
                raise web_page(where, 200) from error
            raise StoreError(f"{where}: the answer is not one of OSS: {error}") from error

    def _network_error(self, where: str, error: Exception) -> StoreError:
        found = connection_error(where, self.endpoint, error)
        if isinstance(found, StoreTransient) and not isinstance(error, _BROKEN_CONNECTION):
            return StoreError(f"{where}: {error}")  # a redirection, a header that is none: no network does that
        return found

    def head(self, key: str) -> Any:
        found = self.call(key, lambda: self.client.head_object(self.prefix + key))
        if not found.etag:
            raise web_page(f"{self.name}{key} at {self.endpoint}", found.status)
        return found

    def doubt(self, key: str, etag: str) -> StoreError:
        """What it means that an object's bytes do not fit its checksum: the network's fault once, not twice."""
        text = f"{self.name}{key} at {self.endpoint}: the bytes do not fit the checksum that OSS keeps of them"
        if (key, etag) in self._doubted:
            return StoreError(f"{text}, again", hint="Take the object for lost, or read it on another machine.")
        self._doubted.add((key, etag))
        return StoreTransient(text)

    def _capable(self, lock: Literal["bucket", "none"]) -> Capabilities:
        return Capabilities(
            lock=lock, conditional_put=self.conditional_put, signed_url=True, versioning=self._versioned
        )

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        last, token = "", ""
        while True:
            page = self.call(prefix, functools.partial(self._page, prefix, last, token))
            for found in page.object_list:
                last, key = found.key, found.key.removeprefix(self.prefix)
                if is_key(key):
                    yield ObjectInfo(key, found.size, moment(found.last_modified))
            if not page.is_truncated:
                return
            token = page.next_continuation_token

    def _page(self, prefix: str, last: str, token: str) -> Any:
        """Fetch the page that comes after the key ``last``. One that does not is asked for again: keys must rise."""
        page = self.client.list_objects_v2(self.prefix + prefix, continuation_token=token, max_keys=self._page_size)
        keys = [last, *(found.key for found in page.object_list)]
        if any(key >= following for key, following in itertools.pairwise(keys)):
            raise StoreTransient(f"{self.name}{prefix} at {self.endpoint}: a page of the listing came twice")
        if page.is_truncated and page.next_continuation_token == token:
            raise StoreTransient(f"{self.name}{prefix} at {self.endpoint}: the listing does not go on")
        return page

    def _delete(self, keys: Sequence[str]) -> None:
        names = [self.prefix + key for key in keys]
        done = {*self.call("", lambda: self.client.batch_delete_objects(names)).deleted_keys}
        for key in keys:
            if self.prefix + key not in done:  # the answer has no reason; the call for one key has
                with contextlib.suppress(ObjectMissing):
                    self.call(key, functools.partial(self.client.delete_object, self.prefix + key))


def _provider(bucket: str, access_key_id: str | None, secret: str | None, token: str | None) -> Any:
    if (access_key_id is None) != (secret is None):
        raise ConfigError(f"oss://{bucket}: an access key id and its secret go together, and one is missing")
    if access_key_id is None:
        return EnvironmentVariableCredentialsProvider()
    return StaticCredentialsProvider(access_key_id, secret, token or "")


def _session(*, pool_size: int, ca_bundle: Path | None) -> Any:
    session = oss2.Session(pool_size=pool_size)
    # A "default" entry of ~/.netrc would take the place of the signature, on every machine that has one.
    session.session.trust_env = False
    # A redirected PUT becomes a GET in requests, which some page answers with 200.
    session.session.max_redirects = 0
    if ca_bundle:
        session.session.verify = str(ca_bundle)
    return session


def _keep_tokens_out_of_logs() -> None:
    """oss2 logs headers with session tokens at DEBUG, and errors that repeat what was signed at INFO."""
    for name, level in (("oss2", logging.WARNING), ("urllib3", logging.INFO)):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, level))


def _told(error: Any) -> str:
    """The XML of a refusal: where a call has no body, OSS puts it into a header."""
    with contextlib.suppress(ValueError):
        return base64.b64decode(error.headers.get("x-oss-err", "")).decode(errors="replace") or str(error.body)
    return str(error.body)
