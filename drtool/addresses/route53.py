"""A DNS record at Route 53 as an address. Its value is the holder.

A move deletes the record as we saw it and makes the new one, in one batch: Route 53 does both or neither, and refuses
when the record is not what we saw. So here the provider itself compares.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from drtool.addresses import aws_calls
from drtool.addresses.dns import RecordType, record_name, record_value
from drtool.addresses.waiting import Patience, compare_and_move, elsewhere
from drtool.errors import AddressError, AddressTransient

if TYPE_CHECKING:
    from mypy_boto3_route53.client import Route53Client
    from mypy_boto3_route53.literals import ChangeActionType
    from mypy_boto3_route53.type_defs import ChangeTypeDef, ResourceRecordSetOutputTypeDef

T = TypeVar("T")

_CHANGE = "route53:ChangeResourceRecordSets"
_LIST_RECORDS = "route53:ListResourceRecordSets"
#: Whoever finds a move done by somebody who died cannot ask whether all name servers know of it: they do by then.
_SPREADS_WITHIN = timedelta(minutes=1)


class Route53Record:
    """The record ``record`` of ``zone``, which is the zone's id or its name. Safe to build; asks nobody.

    The record must exist, with one value and no routing policy; a move keeps its TTL. Route 53 is one for all regions:
    ``region`` is only what requests are signed for, and matters in China.
    """

    def __init__(
        self,
        record: str,
        *,
        zone: str,
        patience: Patience,
        type: RecordType = "A",  # noqa: A002  as everybody calls it
        region: str = "us-east-1",
        endpoint: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        ca_bundle: Path | None = None,
    ) -> None:
        self._record, self._type, self._patience = record_name(record), type, patience
        self.name = f"DNS record {self._record} {type}"
        self._zone_name = record_name(zone) if "." in zone else ""
        self._zone_id = "" if self._zone_name else zone.removeprefix("/hostedzone/")
        self._client: Route53Client = aws_calls.client(
            "route53",
            self.name,
            region=region,
            endpoint=endpoint,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            ca_bundle=ca_bundle,
        )

    @property
    def settles_within(self) -> timedelta:
        """The TTL as it is now, and the minute that a change needs at most to reach every name server of Route 53."""
        record = self._patience.insist(self._existing)
        return timedelta(seconds=record.get("TTL", 0)) + _SPREADS_WITHIN

    def holder(self) -> str | None:
        return self._patience.insist(self._observe)

    def check(self, to: str, *, expected: str | None) -> None:
        to, expected = self._values(to, expected)
        self._patience.insist(lambda: self._check(to, expected))

    def move(self, to: str, *, expected: str | None) -> None:
        to, expected = self._values(to, expected)
        seen: list[ResourceRecordSetOutputTypeDef] = []
        changes: list[str] = []

        def observe() -> str | None:
            if changes:
                self._spread(changes[-1])
            seen[:] = [record] if (record := self._find()) else []
            return self._value(record) if record else None

        def step(_: str | None) -> bool:
            # What was compared, and nothing read since: only so does Route 53 refuse what somebody changed meanwhile.
            changes.append(self._replace(seen[0] if seen else self._existing(), to))
            return True

        compare_and_move(self.name, self._patience, to=to, expected=expected, observe=observe, step=step)

    def _values(self, to: str, expected: str | None) -> tuple[str, str | None]:
        return record_value(self._type, to), None if expected is None else record_value(self._type, expected)

    def _observe(self) -> str | None:
        record = self._find()
        return self._value(record) if record else None

    def _existing(self) -> ResourceRecordSetOutputTypeDef:
        record = self._find()
        if record is None:
            raise AddressError(
                f"{self.name} does not exist in zone {self._zone_id}",
                hint="Make the record once, with the TTL that you want it to keep.",
            )
        return record

    def _find(self) -> ResourceRecordSetOutputTypeDef | None:
        answer = self._ask(
            lambda: self._client.list_resource_record_sets(
                HostedZoneId=self._zone(), StartRecordName=self._record, StartRecordType=self._type, MaxItems="2"
            ),
            needs=_LIST_RECORDS,
        )
        # The list goes on with whatever comes next in the zone.
        found = [
            record
            for record in answer["ResourceRecordSets"]
            if record["Name"].lower().removesuffix(".") == self._record and record["Type"] == self._type
        ]
        if any("SetIdentifier" in record for record in found):
            raise self._unfit("has a routing policy", "Make it a simple record, or move it by hand.")
        return found[0] if found else None

    def _value(self, record: ResourceRecordSetOutputTypeDef) -> str:
        values = [one["Value"] for one in record.get("ResourceRecords", [])]
        if "AliasTarget" in record:
            raise self._unfit("is an alias", "Make it a plain record with a value and a TTL.")
        if len(values) != 1:
            raise self._unfit(f"has {len(values)} values", "Leave it one value: that of the host that answers.")
        return record_value(self._type, values[0])

    def _unfit(self, why: str, hint: str) -> AddressError:
        return AddressError(f"{self.name} {why}, and cannot be moved like an address", hint=hint)

    def _zone(self) -> str:
        if not self._zone_id:
            answer = self._ask(
                lambda: self._client.list_hosted_zones_by_name(DNSName=self._zone_name),
                needs="route53:ListHostedZonesByName",
            )
            zones = answer["HostedZones"]
            found = [zone["Id"] for zone in zones if zone["Name"].lower().removesuffix(".") == self._zone_name]
            if len(found) != 1:
                raise AddressError(
                    f"{self.name}: this account has {len(found)} zones {self._zone_name}, and exactly one is wanted",
                    hint="Give the zone's id instead of its name.",
                )
            self._zone_id = found[0].removeprefix("/hostedzone/")
        return self._zone_id

    def _check(self, to: str, expected: str | None) -> None:
        record = self._existing()
        holder = self._value(record)
        if holder not in (expected, to):
            raise elsewhere(self.name, holder, to, expected)
        try:
            # Nothing is made that exists, so this asks for the right only; who has none gets another refusal.
            self._send([_change("CREATE", record)])
        except AddressError as error:
            if error.code != "InvalidChangeBatch":
                raise

    def _replace(self, record: ResourceRecordSetOutputTypeDef, to: str) -> str:
        """Send the batch, and return the change's id."""
        new: ResourceRecordSetOutputTypeDef = {**record, "ResourceRecords": [{"Value": to}]}
        return self._send([_change("DELETE", record), _change("CREATE", new)])

    def _send(self, changes: list[ChangeTypeDef]) -> str:
        answer = self._ask(
            lambda: self._client.change_resource_record_sets(
                HostedZoneId=self._zone(), ChangeBatch={"Comment": "drtool", "Changes": changes}
            ),
            needs=_CHANGE,
        )
        return answer["ChangeInfo"]["Id"]

    def _spread(self, change: str) -> None:
        answer = self._ask(lambda: self._client.get_change(Id=change), needs="route53:GetChange")
        if (status := answer["ChangeInfo"]["Status"]) != "INSYNC":
            raise AddressTransient(f"{self.name} has not reached every name server of Route 53 yet", code=status)

    def _ask(self, call: Callable[[], T], *, needs: str) -> T:
        return aws_calls.ask(self.name, call, needs=needs)


def _change(action: ChangeActionType, record: ResourceRecordSetOutputTypeDef) -> ChangeTypeDef:
    return {"Action": action, "ResourceRecordSet": record}
