"""The tables of ``drtool.toml`` that say which public address people use, who may hold it, and how each is reached."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from drtool.config_stores import SecretReference, Table

SECRETS_OF_ADDRESSES = (
    "access_key_id", "secret_access_key", "session_token", "access_key_secret", "security_token", "token",
)  # fmt: skip
_FILES = ("ca_bundle", "public_ca_bundle")


def _check_url(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s@?#]+/?", text):
        raise ValueError("write https://HOST or https://HOST:PORT, and nothing after it")
    return text.rstrip("/")


def _check_endpoint(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s]+", text):
        raise ValueError("write https://HOST")
    return text


Url = Annotated[str, AfterValidator(_check_url)]
Endpoint = Annotated[str, AfterValidator(_check_endpoint)]
Text = Annotated[str, Field(min_length=1)]
Words = Annotated[tuple[Text, ...], Field(min_length=1, strict=False)]
File = Annotated[Path | None, Field(strict=False)]


class HolderTable(Table):
    """A host that may hold the address. Both ways past the address itself: it moves.

    ``ssh`` as for ``restore --to``. ``private_url`` is asked for pages; the certificate still has to be that of the
    public name.
    """

    ssh: Text
    private_url: Url


class _AddressTable(Table):
    """What all kinds have. ``ssh_port`` 0: people use no SSH. ``repository``: one that anybody may clone."""

    public_url: Url
    holders: dict[str, HolderTable] = Field(min_length=2)
    page: Annotated[str, Field(pattern=r"^/\S*$")] = "/users/sign_in"
    ssh_port: Annotated[int, Field(ge=0, lt=1 << 16)] = 22
    repository: Text | None = None
    connect_to: Text | None = None
    public_ca_bundle: File = None
    ca_bundle: File = None


class _Keys(_AddressTable):
    endpoint: Endpoint | None = None


class _AliyunTable(_Keys):
    access_key_id: SecretReference | None = None
    access_key_secret: SecretReference | None = None
    security_token: SecretReference | None = None
    ram_role: Text | None = None

    @model_validator(mode="after")
    def _one_kind_of_credentials(self) -> Self:
        if (self.access_key_id is None) != (self.access_key_secret is None):
            raise ValueError("access_key_id and access_key_secret come together")
        if (self.ram_role is None) == (self.access_key_id is None):
            raise ValueError("give ram_role, or access_key_id and access_key_secret")
        return self


class AliyunEipTable(_AliyunTable):
    kind: Literal["aliyun"]
    allocation: Annotated[str, Field(pattern=r"^eip-")]
    region: Text


class AliyunRecordTable(_AliyunTable):
    kind: Literal["alidns"]
    record: Text
    domain: Text
    type: Literal["A", "AAAA", "CNAME"] = "A"


class _AwsTable(_Keys):
    access_key_id: SecretReference | None = None
    secret_access_key: SecretReference | None = None
    session_token: SecretReference | None = None

    @model_validator(mode="after")
    def _keys_come_together(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key come together, or not at all")
        return self


class AwsEipTable(_AwsTable):
    kind: Literal["aws"]
    address: Text
    region: Text
    holders_are: Literal["instance", "network_interface"] = "instance"


class Route53Table(_AwsTable):
    kind: Literal["route53"]
    record: Text
    zone: Text
    type: Literal["A", "AAAA", "CNAME"] = "A"


class DigitalOceanIpTable(_Keys):
    kind: Literal["digitalocean"]
    address: Text
    token: SecretReference


class DigitalOceanRecordTable(_Keys):
    kind: Literal["digitalocean_domain"]
    record: Text
    domain: Text
    type: Literal["A", "AAAA", "CNAME"] = "A"
    token: SecretReference


class CommandTable(_AddressTable):
    """Commands of one's own, run on this machine. ``settles_minutes``: how long others may still be led astray."""

    kind: Literal["command"]
    holder_command: Words
    move_command: Words
    check_command: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    settles_minutes: Annotated[int, Field(ge=0)] = 0

    @property
    def settles_within(self) -> timedelta:
        return timedelta(minutes=self.settles_minutes)


AnyAddressTable = (
    AliyunEipTable
    | AliyunRecordTable
    | AwsEipTable
    | Route53Table
    | DigitalOceanIpTable
    | DigitalOceanRecordTable
    | CommandTable
)
AddressTable = Annotated[AnyAddressTable, Field(discriminator="kind")]


def anchored_address(
    table: AnyAddressTable, absolute: Callable[[Path | None], Path | None], reference: Callable[[str], str]
) -> AnyAddressTable:
    """The same with every path made absolute."""
    secrets = {name: getattr(table, name, None) for name in SECRETS_OF_ADDRESSES}
    update: dict[str, Any] = {name: reference(text) for name, text in secrets.items() if text}
    return table.model_copy(update=update | {name: absolute(getattr(table, name)) for name in _FILES})
