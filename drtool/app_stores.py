"""The tables of stores become live adapters, with what one kind can be tried and attacked with."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

from drtool.capabilities import Facts, Trial
from drtool.config import read_secret
from drtool.config_stores import AnyStoreTable, LocalStoreTable, OssStoreTable, S3StoreTable, SpacesStoreTable
from drtool.stores import Store
from drtool.stores.hostile import Arms

_SHORT_PAGE = 7
_LAST_PART = 64 << 10


def open_store(table: AnyStoreTable, *, small: bool = False) -> Store:
    """Make the adapter for a store's settings. Each imports its SDK only when it is chosen.

    ``small``: with the smallest parts and short pages, so that a few bytes and keys make several of them.
    """
    sizes: dict[str, Any] = {}
    match table:
        case LocalStoreTable():
            from drtool.stores.local import LocalStore

            return LocalStore(table.path)
        case S3StoreTable():
            from drtool.stores.multipart import SMALLEST_PART
            from drtool.stores.s3 import S3Store

            if small:
                sizes = {"part_size": SMALLEST_PART, "page_size": _SHORT_PAGE}
            return S3Store(
                table.bucket,
                prefix=table.prefix,
                region=table.region,
                endpoint=table.endpoint,
                access_key_id=_secret(table.access_key_id),
                secret_access_key=_secret(table.secret_access_key),
                session_token=_secret(table.session_token),
                checksums=table.checksums,
                conditional_put=table.conditional_put,
                object_lock=table.object_lock,
                versioned=table.versioned,
                storage_class=table.storage_class,
                sse=table.sse,
                kms_key_id=table.kms_key_id,
                path_style=table.path_style,
                ca_bundle=table.ca_bundle,
                concurrency=table.concurrency,
                **sizes,
            )
        case SpacesStoreTable():
            return open_store(table.as_s3(), small=small)
        case OssStoreTable():
            from drtool.stores.oss import SMALLEST_PART as SMALLEST_OSS_PART
            from drtool.stores.oss import OssStore

            if small:
                sizes = {"part_size": SMALLEST_OSS_PART, "page_size": _SHORT_PAGE}
            return OssStore(
                table.bucket,
                endpoint=table.endpoint,
                region=table.region,
                prefix=table.prefix,
                access_key_id=_secret(table.access_key_id),
                access_key_secret=_secret(table.access_key_secret),
                security_token=_secret(table.security_token),
                ram_role=table.ram_role,
                cname=table.cname,
                versioned=table.versioned,
                worm=table.worm,
                storage_class=table.storage_class,
                ca_bundle=table.ca_bundle,
                concurrency=table.concurrency,
                **sizes,
            )


def arms_on(store: Any, kind: Literal["local", "s3", "spaces", "oss"]) -> Arms | None:
    """What this kind of store can be attacked with besides what every store can."""
    match kind:
        case "local":
            return None
        case "s3" | "spaces":
            from drtool.stores.s3_attack import S3Arms

            return S3Arms(store)
        case "oss":
            from drtool.stores.oss_attack import OssArms

            return OssArms(store)


def trial_on(table: AnyStoreTable, trial: Trial) -> Trial:
    """Add to a trial what only this kind of store can be asked."""
    match table:
        case LocalStoreTable():
            return trial
        case SpacesStoreTable():
            return trial_on(table.as_s3(), trial)
        case S3StoreTable():
            from drtool.stores import s3_bucket
            from drtool.stores.multipart import SMALLEST_PART
            from drtool.stores.s3 import S3Store

            store = trial.store
            assert isinstance(store, S3Store)
            facts = Facts(
                checksums=table.checksums,
                keeps_versions=table.versioned,
                declared={
                    name: value
                    for name in ("storage_class", "sse", "kms_key_id")
                    if (value := getattr(table, name)) is not None
                },
                kept_as=partial(s3_bucket.kept_as, store),
                lifecycle=partial(s3_bucket.lifecycle, store),
                versioning=partial(s3_bucket.versioning, store),
                lock_enabled=partial(s3_bucket.lock_enabled, store),
                locked_until=partial(s3_bucket.locked_until, store),
                checksum_kept=partial(s3_bucket.checksum_kept, store),
            )
            bolder = None if table.conditional_put else table.model_copy(update={"conditional_put": True})
            return replace(
                trial,
                facts=facts,
                several_parts=2 * SMALLEST_PART + _LAST_PART,
                bolder=open_store(bolder, small=True) if bolder else None,
                ca_bundle=table.ca_bundle,
            )
        case OssStoreTable():
            from drtool.stores.oss import SMALLEST_PART as SMALLEST_OSS_PART
            from drtool.stores.oss import OssStore

            bucket = trial.store
            assert isinstance(bucket, OssStore)
            facts = Facts(
                versioned=table.versioned,
                worm=table.worm,
                checksums="CRC-64",
                declared={"storage_class": table.storage_class} if table.storage_class else {},
                kept_as=bucket.kept_as,
                lifecycle=bucket.lifecycle,
                versioning=bucket.versioning,
                worm_state=bucket.worm_state,
            )
            several = 2 * SMALLEST_OSS_PART + _LAST_PART
            return replace(trial, facts=facts, several_parts=several, ca_bundle=table.ca_bundle)


def _secret(reference: str | None) -> str | None:
    return read_secret(reference) if reference else None
