"""S3 and what speaks like it, through boto3.

Versions looked at: boto3/botocore 1.43.117 and 1.44.5. Imported only when a store of this kind is used.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar, cast

import boto3.session
import botocore.session
import urllib3.exceptions
from botocore import exceptions as boto
from botocore.config import Config
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp

from drtool.errors import ConfigError, ObjectMissing, StoreAccessDenied, StoreError, StoreTransient
from drtool.stores import Capabilities, ObjectInfo, Store
from drtool.stores.endpoint import connection_error, web_page
from drtool.stores.keys import check_key, check_lock, check_prefix, check_span, is_key
from drtool.stores.multipart import LARGEST_PART, PART_SIZE, SMALLEST_PART, upload
from drtool.stores.retry import Backoff
from drtool.stores.s3_answers import PastTheEnd, bucket_missing, error_from_answer
from drtool.stores.s3_body import Body
from drtool.stores.s3_payload import Payload
from drtool.stores.s3_put import Put, remove_unfinished

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

T = TypeVar("T")

_LISTED_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z\Z", re.ASCII)
StorageClass = Literal["STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"]

_CONNECT_TIMEOUT = timedelta(seconds=15)
_READ_TIMEOUT = timedelta(seconds=60)
_LONGEST_URL = timedelta(days=7)  # signature version 4 allows no more
_HTML = re.compile(r"<!doctype html|<html", re.IGNORECASE)
_BROKEN_CONNECTION = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    urllib3.exceptions.HTTPError,
    OSError,
)


class S3Store:
    """Objects in a bucket, below ``prefix`` (a folder of the bucket, without a slash at its end).

    Only single calls of the client are made. boto3's transfers, which may pick another library (CRT) that ignores
    ``endpoint`` and ``ca_bundle``, are never used, whatever ``preferred_transfer_client`` says in ~/.aws/config.
    Without ``access_key_id`` boto3 looks for credentials as usual (environment, profile, the machine's role).
    ``checksums``: "when_required" for servers that refuse boto3's trailing checksums over https (Spaces, OSS, old
    Ceph). ``conditional_put=False`` for servers that ignore ``If-None-Match``: then a put that must not replace
    anything looks first, which two racing writers can both survive. ``object_lock`` needs a bucket made for it.
    ``versioned`` declares that the bucket keeps versions: what is deleted or replaced is then hidden, not gone, until a
    rule of the bucket removes it. Older versions are not listed, brought back or removed here.
    ``kms_key_id`` goes with ``sse`` "aws:kms"; without both, and without a class, the bucket decides.
    Killed puts leave parts behind, see ``remove_unfinished``; a lifecycle rule of the bucket
    (AbortIncompleteMultipartUpload) does it too, also for who may not list uploads.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        region: str | None = None,
        endpoint: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        checksums: Literal["when_supported", "when_required"] = "when_supported",
        path_style: bool | None = None,
        ca_bundle: Path | None = None,
        conditional_put: bool = True,
        object_lock: Literal["governance", "compliance"] | None = None,
        versioned: bool = False,
        storage_class: StorageClass | None = None,
        sse: Literal["AES256", "aws:kms"] | None = None,
        kms_key_id: str | None = None,
        concurrency: int = 4,
        part_size: int = PART_SIZE,
        page_size: int = 1000,
        backoff: Backoff | None = None,
        read_timeout: timedelta = _READ_TIMEOUT,
    ) -> None:
        if part_size < SMALLEST_PART:
            raise ConfigError(f"part size {part_size}: S3 takes no part below {SMALLEST_PART} bytes")
        if (access_key_id is None) != (secret_access_key is None):
            raise ConfigError(f"s3://{bucket}: an access key id and its secret go together, and one is missing")
        self.bucket = bucket
        self.prefix = f"{check_key(prefix.strip('/'))}/" if prefix.strip("/") else ""
        self.name = f"s3://{bucket}/{self.prefix}"
        self.capabilities = Capabilities(
            lock="object" if object_lock else "none",
            conditional_put=conditional_put,
            signed_url=True,
            versioning=versioned,
        )
        kept_as = {"StorageClass": storage_class, "ServerSideEncryption": sse, "SSEKMSKeyId": kms_key_id}
        self.kept_as: dict[str, Any] = {name: value for name, value in kept_as.items() if value}
        self._object_lock = object_lock
        self._concurrency, self._part_size, self._page_size = concurrency, part_size, page_size
        self._backoff = backoff or Backoff()
        config = Config(
            signature_version="s3v4",  # with a custom endpoint boto3 would sign URLs by version 2
            connect_timeout=_CONNECT_TIMEOUT.total_seconds(),
            read_timeout=read_timeout.total_seconds(),
            # We retry ourselves: only so do we know that a "precondition failed" may answer our own earlier try.
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=max(10, 8 * concurrency),
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
            s3=None if path_style is None else {"addressing_style": "path" if path_style else "virtual"},
        )
        try:
            session = boto3.session.Session(
                botocore_session=_core(),
                aws_access_key_id=access_key_id,
                aws_secret_access_key=secret_access_key,
                aws_session_token=session_token,
            )
            self.client: S3Client = session.client(
                "s3",
                region_name=region or session.region_name or "us-east-1",
                endpoint_url=endpoint,
                verify=str(ca_bundle) if ca_bundle else None,
                config=config,
            )
        except (boto.BotoCoreError, ValueError) as error:
            raise ConfigError(f"s3://{bucket}: {error}") from error
        self.client.meta.events.register("before-parameter-build.s3", _stay_here)
        self.payload = Payload(self.client)
        self.account = (self.client.meta.endpoint_url, access_key_id)

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
        check_lock(self.name, self.capabilities, lock_until)
        sink = Put(self, key, lock_until=lock_until, only_if_absent=only_if_absent)
        size = upload(
            source,
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
        return ObjectInfo(key, head["ContentLength"], head["LastModified"].astimezone(UTC), version=head["ETag"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As the contract says; objects whose key no put of ours could have made do not show."""
        return self._list(check_prefix(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove one by one, a few at a time and in no order; not every server takes what boto3 sends for a batch."""
        wanted = [check_key(key) for key in keys]
        with ThreadPoolExecutor(self._concurrency, "delete") as threads:
            for _ in threads.map(self._delete, wanted):
                pass

    def locked_until(self, key: str) -> datetime | None:
        head = self.head(check_key(key))
        return head.get("ObjectLockRetainUntilDate") if head.get("ObjectLockMode") else None

    def extend_lock(self, key: str, until: datetime) -> None:
        """As ``LocksObjects`` says. In governance mode a server would take a shorter time from who may bypass locks."""
        check_lock(self.name, self.capabilities, until)
        kept = self.locked_until(key)
        if kept is None or kept < until:
            retention: Any = {"Mode": str(self._object_lock).upper(), "RetainUntilDate": until}
            self.call(key, lambda: self.client.put_object_retention(**self.address(key), Retention=retention))

    def copy_from(self, source: Store, key: str) -> bool:
        """As ``CopiesWithin`` says: between buckets of one endpoint, with the same keys, up to 5 GiB in one call."""
        check_key(key)
        if not isinstance(source, S3Store) or source.account != self.account or source.stat(key).size > LARGEST_PART:
            return False
        with self.errors(key):
            self.client.copy_object(
                **self.address(key),
                CopySource={"Bucket": source.bucket, "Key": source.prefix + key},
                **self.kept_as,
            )
        return True

    def remove_unfinished(self, prefix: str, *, is_dead: Callable[[str], bool]) -> tuple[str, ...]:
        return remove_unfinished(self, check_prefix(prefix), is_dead)

    def signed_url(self, key: str, *, ttl: timedelta) -> str:
        check_key(key)
        if not timedelta(seconds=1) <= ttl <= _LONGEST_URL:
            raise StoreError(f"{self.name}{key}: a signed URL lives for one second to seven days, not {ttl}")
        with self.errors(key):
            return self.client.generate_presigned_url(
                "get_object", Params=self.address(key), ExpiresIn=int(ttl.total_seconds())
            )

    # Shared by the classes below

    def address(self, key: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": self.prefix + key}

    def call(self, key: str, function: Callable[[], T]) -> T:
        """Call boto3 with our errors and our retries."""

        def once() -> T:
            with self.errors(key):
                return function()

        return self._backoff.retrying()(once)

    @contextlib.contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """Turn what boto3 raises into our errors."""
        endpoint = self.client.meta.endpoint_url
        where = f"{self.name}{key} at {endpoint}"
        try:
            yield
        except boto.ClientError as error:
            raise error_from_answer(where, error.response, call=error.operation_name) from error
        except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError) as error:
            raise StoreAccessDenied(
                f"{where}: {error}",
                hint="Set access_key_id and secret_access_key in drtool.toml, or give this machine a role.",
            ) from error
        except ResponseParserError as error:
            if _HTML.search(str(error)):
                raise web_page(where, 200) from error
            raise StoreTransient(f"{where}: the answer broke off: {error}") from error
        except _BROKEN_CONNECTION as error:
            raise connection_error(where, endpoint, error) from error
        except boto.BotoCoreError as error:
            raise StoreError(f"{where}: {error}") from error
        except (
            KeyError,
            ValueError,
        ) as error:  # well-formed XML, and a byte of it changed: no number, no time, no name
            raise StoreTransient(f"{where}: the answer is not one of S3: {error}") from error

    def head(self, key: str) -> HeadObjectOutputTypeDef:
        """Raises ObjectMissing, BucketMissing, and what else a GET has words for: the answer to HEAD has no body."""
        try:
            found = self.call(key, lambda: self.client.head_object(**self.address(key)))
        except ObjectMissing:
            self._check_bucket()
            raise
        except StoreTransient:
            raise
        except StoreError:
            self._ask_for_the_reason(key)
            raise
        if "ETag" not in found:
            raise web_page(f"{self.name}{key} at {self.client.meta.endpoint_url}", 200)
        return found

    def _ask_for_the_reason(self, key: str) -> None:
        with contextlib.suppress(PastTheEnd, StoreTransient):
            self.call(key, lambda: self.client.get_object(**self.address(key), Range="bytes=0-0"))["Body"].close()

    def _check_bucket(self) -> None:
        with contextlib.suppress(StoreAccessDenied):  # may not look at the bucket: then it is there
            try:
                self.call("", lambda: self.client.head_bucket(Bucket=self.bucket))
            except ObjectMissing as error:
                raise bucket_missing(str(error)) from error

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        # Sorted here: SeaweedFS 4.48 lists by directory, directory buckets of AWS in no order at all.
        found = [info for info in self._list_as_answered(prefix) if is_key(info.key)]
        yield from sorted(found, key=lambda info: info.key)

    def _list_as_answered(self, prefix: str) -> Iterator[ObjectInfo]:
        arguments: Any = {"Bucket": self.bucket, "Prefix": self.prefix + prefix, "MaxKeys": self._page_size}
        while True:
            found, token = self.call(prefix, lambda: self._page(arguments))
            yield from found
            if token is None:
                return
            arguments["ContinuationToken"] = token

    def _page(self, arguments: Any) -> tuple[Sequence[ObjectInfo], str | None]:
        """Fetch one page of a listing, and what to ask for the next one with, if there is one."""
        page = self.client.list_objects_v2(**arguments)
        if "IsTruncated" not in page:  # well-formed, but no listing
            raise web_page(f"{self.name} at {self.client.meta.endpoint_url}", 200)
        found = [
            ObjectInfo(entry["Key"].removeprefix(self.prefix), entry["Size"], entry["LastModified"].astimezone(UTC))
            for entry in page.get("Contents", [])
        ]
        return found, page["NextContinuationToken"] if page["IsTruncated"] else None

    def _delete(self, key: str) -> None:
        with contextlib.suppress(ObjectMissing):
            self.call(key, lambda: self.client.delete_object(**self.address(key)))

    def lock_arguments(self, lock_until: datetime | None) -> dict[str, Any]:
        if lock_until is None or self._object_lock is None:
            return {}
        return {"ObjectLockMode": self._object_lock.upper(), "ObjectLockRetainUntilDate": lock_until}


def _core() -> botocore.session.Session:
    """A session that reads times fast: botocore tries every way to write one, four fifths of the work of a listing."""
    core = botocore.session.get_session()
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
    return core


def _moment(text: Any) -> datetime:
    """As botocore does it, but for the one way in which listings write times."""
    if isinstance(text, str) and _LISTED_TIME.match(text):
        return datetime.fromisoformat(text)
    return parse_timestamp(text)


def _stay_here(context: dict[str, Any], **_: object) -> None:
    """Follow no redirection. The operator is told of a wrong region instead of paying for every detour.

    boto3 1.43 would also end in endless recursion at a server that redirects everything, as many do from http to https.
    """
    context.get("s3_redirect", {})["redirected"] = True
