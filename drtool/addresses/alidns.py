"""A DNS record at Alibaba Cloud DNS: the way to another region or cloud, where no elastic IP can follow.

Who has asked before keeps the old answer for as long as the record's TTL says, some resolvers longer. Until then the
old holder must go on answering, or send people on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from drtool.addresses.aliyun_calls import ALIDNS, READ_TIMEOUT, Calls, ClientToken, Keyring
from drtool.addresses.dns import RecordType, record_name, record_value
from drtool.addresses.waiting import Patience, compare_and_move, elsewhere
from drtool.errors import AddressError, AddressTransient, ConfigError

# Below this the free editions take no TTL, and resolvers of access providers often keep an answer as long.
FLOOR = timedelta(minutes=10)
_PAGE = 100  # it would be 20


@dataclass(frozen=True, slots=True)
class _Record:
    record_id: str
    value: str
    ttl: timedelta
    line: str
    enabled: bool
    locked: bool


class AliyunRecord:
    """The DNS record ``record`` (``gitlab.example.com``) of ``domain``; holders are its values.

    There must be exactly one of its ``type``: with two, resolvers choose, and nobody holds the name. ``floor`` is the
    least that ``settles_within`` says, whatever the TTL. A move keeps the TTL.
    """

    def __init__(
        self,
        record: str,
        *,
        domain: str,
        keys: Keyring,
        patience: Patience,
        type: RecordType = "A",  # noqa: A002  as everybody calls it
        floor: timedelta = FLOOR,
        region: str = "cn-hangzhou",
        endpoint: str | None = None,
        ca_bundle: Path | None = None,
        read_timeout: timedelta = READ_TIMEOUT,
    ) -> None:
        self._full, self._domain, self._type, self._floor = record_name(record), record_name(domain), type, floor
        if self._full != self._domain and not self._full.endswith(f".{self._domain}"):
            raise ConfigError(f"{self._full} is no name in the domain {self._domain}")
        self._rr = self._full.removesuffix(self._domain).removesuffix(".") or "@"
        self.name = f"DNS record {self._full} {type}"
        self._patience = patience
        self._calls = Calls(
            keys,
            patience.clock,
            region=region,
            endpoint=endpoint,
            ca_bundle=ca_bundle,
            read_timeout=read_timeout,
        )

    @property
    def settles_within(self) -> timedelta:
        """The TTL as it is now, and no less than the floor."""
        return max(self._patience.insist(self._record).ttl, self._floor)

    def holder(self) -> str | None:
        return self._patience.insist(self._record).value

    def check(self, to: str, *, expected: str | None) -> None:
        """Besides looking, ask for the value that the record has already, which changes nothing: that shows whether
        it may be changed.
        """
        to, expected = self._values(to, expected)
        self._patience.insist(lambda: self._check(to, expected))

    def move(self, to: str, *, expected: str | None) -> None:
        to, expected = self._values(to, expected)
        seen: list[_Record] = []

        def observe() -> str:
            seen[:] = [self._record()]
            return seen[0].value

        def step(_: str | None) -> bool:
            self._set(seen[0], to)
            return True

        compare_and_move(self.name, self._patience, to=to, expected=expected, observe=observe, step=step)

    def _values(self, to: str, expected: str | None) -> tuple[str, str | None]:
        return record_value(self._type, to), None if expected is None else record_value(self._type, expected)

    def _check(self, to: str, expected: str | None) -> None:
        record = self._record()
        if record.value == to:
            return
        if record.value != expected:
            raise elsewhere(self.name, record.value, to, expected)
        if record.locked:
            raise AddressError(f"{self.name} is locked", hint="Unlock it in the console of Alibaba Cloud DNS.")
        self._set(record, record.value)

    def _set(self, record: _Record, value: str) -> None:
        """Ask for ``value``, and for everything else to stay as it is. That it is so already is no error."""
        try:
            self._calls.order(
                ALIDNS,
                "UpdateDomainRecord",
                ClientToken(),
                RecordId=record.record_id,
                RR=self._rr,
                Type=self._type,
                Value=value,
                TTL=str(int(record.ttl.total_seconds())),
                Line=record.line,
            )
        except AddressError as error:
            if error.code != "DomainRecordDuplicate":
                raise

    def _record(self) -> _Record:
        found = self._records()
        if not found:
            raise AddressError(f"there is no {self.name}", hint="Make it by hand, with the value it has now.")
        if len(found) > 1:
            raise AddressError(
                f"there are {len(found)} records {self.name}, so resolvers choose",
                hint="Leave one of them, on the line 'default'.",
            )
        if not found[0].enabled:
            raise AddressError(f"{self.name} is disabled", hint="Enable it in the console of Alibaba Cloud DNS.")
        return found[0]

    def _records(self) -> list[_Record]:
        found: list[_Record] = []
        seen = 0
        for page in range(1, 1000):
            answer = self._calls.ask(
                ALIDNS,
                "DescribeSubDomainRecords",
                DomainName=self._domain,
                SubDomain=self._full,
                Type=self._type,
                PageNumber=str(page),
                PageSize=str(_PAGE),
            )
            listed = (answer.get("DomainRecords") or {}).get("Record") or []
            found += [self._parse(each) for each in listed if self._fits(each)]
            seen += len(listed)
            if not listed or seen >= int(answer.get("TotalCount") or 0):
                break
        return found

    def _fits(self, record: dict[str, Any]) -> bool:
        return str(record.get("RR", "")).lower() == self._rr and record.get("Type") == self._type

    def _parse(self, record: dict[str, Any]) -> _Record:
        try:
            return _Record(
                record_id=str(record["RecordId"]),
                value=record_value(self._type, str(record["Value"])),
                ttl=timedelta(seconds=int(record["TTL"])),
                line=str(record.get("Line") or "default"),
                enabled=str(record.get("Status", "ENABLE")).upper() == "ENABLE",
                locked=bool(record.get("Locked")),
            )
        except (KeyError, ValueError) as error:
            raise AddressTransient(f"alidns describes {self.name} without its {error}") from error
