"""The tables of ``drtool.toml`` that say where backups are kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _check_reference(text: str) -> str:
    if not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+", text):
        raise ValueError("secrets are not written here: say env:NAME or file:/path/to/it")
    return text


def _check_bucket(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}|arn:\S+", text):
        raise ValueError("write the bucket's name alone, without s3:// and slashes")
    return text


def _check_endpoint(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]\S*", text):
        raise ValueError("write https://HOST or https://HOST:PORT, without the bucket")
    return text


def _check_spaces_region(text: str) -> str:
    if not re.fullmatch(r"[a-z]{3}[0-9]{1,2}", text):
        raise ValueError("write the region as in the Space's address, like fra1")
    return text


def _refuse_frozen(value: object) -> object:
    """Raise ValueError for classes in which a backup could not even read its own manifest back."""
    if value in ("GLACIER", "DEEP_ARCHIVE", "Archive", "ColdArchive", "DeepColdArchive"):
        raise ValueError(
            f"{value} freezes objects, and a set is read back as soon as it is written; let a lifecycle rule of the"
            " bucket move old sets there"
        )
    return value


SecretReference = Annotated[str, AfterValidator(_check_reference)]
S3StorageClass = Literal["STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LocalStoreTable(Table):
    """A directory: a mounted disk, a share."""

    kind: Literal["local"]
    path: Annotated[Path, Field(strict=False)]


class S3StoreTable(Table):
    """AWS S3, or anything that speaks S3."""

    kind: Literal["s3"]
    bucket: Annotated[str, AfterValidator(_check_bucket)]
    prefix: str = ""
    region: str | None = None
    endpoint: Annotated[str, AfterValidator(_check_endpoint)] | None = None
    access_key_id: SecretReference | None = None
    secret_access_key: SecretReference | None = None
    session_token: SecretReference | None = None
    checksums: Literal["when_supported", "when_required"] = "when_supported"
    conditional_put: bool = True
    object_lock: Literal["governance", "compliance"] | None = None
    versioned: bool = False
    storage_class: Annotated[S3StorageClass, BeforeValidator(_refuse_frozen)] | None = None
    sse: Literal["AES256", "aws:kms"] | None = None
    kms_key_id: Annotated[str, Field(min_length=1)] | None = None
    path_style: bool | None = None
    ca_bundle: Annotated[Path | None, Field(strict=False)] = None
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4

    @model_validator(mode="after")
    def _keys_come_together(self) -> S3StoreTable:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key come together, or not at all")
        return self

    @model_validator(mode="after")
    def _a_key_means_kms(self) -> S3StoreTable:
        if self.kms_key_id and self.sse != "aws:kms":
            raise ValueError('kms_key_id is for sse = "aws:kms": add that, or leave it out')
        return self


class SpacesStoreTable(Table):
    """DigitalOcean Spaces. Its documentation of 2026 lists neither conditional writes, nor checksums, nor locks."""

    kind: Literal["spaces"]
    bucket: Annotated[str, AfterValidator(_check_bucket)]
    region: Annotated[str, AfterValidator(_check_spaces_region)]
    prefix: str = ""
    endpoint: Annotated[str, AfterValidator(_check_endpoint)] | None = None
    access_key_id: SecretReference
    secret_access_key: SecretReference
    ca_bundle: Annotated[Path | None, Field(strict=False)] = None
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4

    def as_s3(self) -> S3StoreTable:
        """The same in the words of S3, which is what Spaces speaks."""
        return S3StoreTable(
            kind="s3",
            bucket=self.bucket,
            prefix=self.prefix,
            region=self.region,
            endpoint=self.endpoint or f"https://{self.region}.digitaloceanspaces.com",
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            checksums="when_required",
            conditional_put=False,
            path_style=True if self.endpoint else None,  # a server of one's own seldom has a name for each bucket
            ca_bundle=self.ca_bundle,
            concurrency=self.concurrency,
        )


class OssStoreTable(Table):
    """Alibaba Cloud OSS, by its own protocol."""

    kind: Literal["oss"]
    bucket: Annotated[str, Field(min_length=1)]
    endpoint: str
    region: str
    prefix: str = ""
    access_key_id: SecretReference | None = None
    access_key_secret: SecretReference | None = None
    security_token: SecretReference | None = None
    ram_role: str | None = None
    cname: bool = False
    versioned: bool = False
    worm: bool = False
    storage_class: Annotated[Literal["Standard", "IA"], BeforeValidator(_refuse_frozen)] | None = None
    ca_bundle: Annotated[Path | None, Field(strict=False)] = None
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4

    @model_validator(mode="after")
    def _one_kind_of_credentials(self) -> OssStoreTable:
        if (self.access_key_id is None) != (self.access_key_secret is None):
            raise ValueError("access_key_id and access_key_secret come together, or not at all")
        if self.ram_role and self.access_key_id:
            raise ValueError("ram_role and access_key_id contradict each other: leave one out")
        return self


AnyStoreTable = LocalStoreTable | S3StoreTable | SpacesStoreTable | OssStoreTable
StoreTable = Annotated[AnyStoreTable, Field(discriminator="kind")]
SECRETS_OF_STORES = ("access_key_id", "secret_access_key", "session_token", "access_key_secret", "security_token")
