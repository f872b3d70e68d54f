"""A DNS record at DigitalOcean as an address. Its value is the holder."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from drtool.addresses.digitalocean_calls import ENDPOINT, Calls
from drtool.addresses.dns import RecordType, record_name, record_value
from drtool.addresses.waiting import Patience, compare_and_move, elsewhere
from drtool.errors import AddressError, ConfigError


class DomainRecord:
    """The record ``record`` (its full name) of the domain ``domain``. Safe to build; asks nobody.

    The record must exist, with one value; a move keeps its TTL. DigitalOcean compares nothing and the last writer
    wins, so we compare just before, and read again just after.
    """

    def __init__(
        self,
        record: str,
        *,
        domain: str,
        token: str,
        patience: Patience,
        type: RecordType = "A",  # noqa: A002  as everybody calls it
        endpoint: str = ENDPOINT,
        ca_bundle: Path | None = None,
    ) -> None:
        self._record, self._domain, self._type = record_name(record), record_name(domain), type
        if self._record != self._domain and not self._record.endswith(f".{self._domain}"):
            raise ConfigError(f"{self._record} is not in the domain {self._domain}")
        self.name = f"DNS record {self._record} {type}"
        self._patience = patience
        self._calls = Calls(self.name, token, clock=patience.clock, endpoint=endpoint, ca_bundle=ca_bundle)

    @property
    def settles_within(self) -> timedelta:
        """The TTL as it is now: DigitalOcean's own name servers know of a change at once."""
        return timedelta(seconds=int(self._patience.insist(self._existing)["ttl"]))

    def holder(self) -> str | None:
        return self._patience.insist(self._observe)

    def check(self, to: str, *, expected: str | None) -> None:
        to, expected = self._values(to, expected)
        self._patience.insist(lambda: self._check(to, expected))

    def move(self, to: str, *, expected: str | None) -> None:
        to, expected = self._values(to, expected)
        seen: list[dict[str, Any]] = []

        def observe() -> str | None:
            seen[:] = [record] if (record := self._find()) else []
            return self._value(record) if record else None

        def step(_: str | None) -> bool:
            self._write(seen[0] if seen else self._existing(), to)
            return True

        compare_and_move(self.name, self._patience, to=to, expected=expected, observe=observe, step=step)

    def _values(self, to: str, expected: str | None) -> tuple[str, str | None]:
        return record_value(self._type, to), None if expected is None else record_value(self._type, expected)

    def _observe(self) -> str | None:
        record = self._find()
        return self._value(record) if record else None

    def _value(self, record: dict[str, Any]) -> str:
        # "@" is how DigitalOcean writes the domain itself as the target of a CNAME.
        data = str(record.get("data", ""))
        return record_value(self._type, self._domain if data == "@" else data)

    def _find(self) -> dict[str, Any] | None:
        found = [
            record
            for record in self._calls.every(
                f"domains/{self._domain}/records", "domain_records", type=self._type, name=self._record
            )
            if record.get("type") == self._type and self._full(str(record.get("name"))) == self._record
        ]
        if len(found) > 1:
            raise AddressError(
                f"{self.name} has {len(found)} values, and cannot be moved like an address",
                hint="Leave it one value: that of the host that answers.",
            )
        return found[0] if found else None

    def _full(self, name: str) -> str:
        return self._domain if name == "@" else f"{name.lower()}.{self._domain}"

    def _existing(self) -> dict[str, Any]:
        record = self._find()
        if record is None:
            raise AddressError(
                f"{self.name} does not exist in the domain {self._domain}",
                hint="Make the record once, with the TTL that you want it to keep.",
            )
        return record

    def _check(self, to: str, expected: str | None) -> None:
        holder = self._value(self._existing())
        if holder not in (expected, to):
            raise elsewhere(self.name, holder, to, expected)

    def _write(self, record: dict[str, Any], to: str) -> None:
        data = f"{to}." if self._type == "CNAME" else to
        body = {"type": self._type, "data": data, "ttl": record["ttl"]}
        self._calls.patch(f"domains/{self._domain}/records/{record['id']}", body)
