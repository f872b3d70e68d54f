"""What is the same for DNS records of every provider. Pure."""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime, timedelta
from typing import Literal

from drtool.errors import AddressError, ConfigError

RecordType = Literal["A", "AAAA", "CNAME"]

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII)


def all_moved_at(changed_at: datetime, ttl_before: timedelta) -> datetime:
    """The earliest moment at which no resolver that keeps to the TTL still leads to the old value.

    ``changed_at``: when the last of the provider's name servers had the new value; ``ttl_before``: the TTL of the old
    record, for that is what resolvers keep. Some keep longer than they are told; nobody can say how long.
    """
    return changed_at + ttl_before


def record_name(text: str) -> str:
    """Return the name as providers' records are compared: lower case, without the dot at the end."""
    name = text.lower().removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ConfigError(f"{text!r} is no host name", hint="Give the full name, like gitlab.example.com.")
    return name


def record_value(kind: RecordType, text: str) -> str:
    """Return the value in the one way in which it is compared; AddressError if a record may not hold it."""
    try:
        if kind == "A":
            return str(ipaddress.IPv4Address(text))
        if kind == "AAAA":
            return str(ipaddress.IPv6Address(text))
        if _is_number(text):  # four labels of digits would pass for a name
            raise ValueError(text)  # noqa: TRY301 - joins what the others refuse
        return record_name(text)
    except (ValueError, ConfigError):
        wanted = {"A": "an IPv4 address", "AAAA": "an IPv6 address", "CNAME": "a host name"}[kind]
        raise AddressError(f"{text!r} is not {wanted}", hint=f"Give {wanted}: the record is of type {kind}.") from None


def _is_number(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
