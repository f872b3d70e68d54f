"""Public addresses that move from one host to another: one protocol, one provider per file behind it."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol


class Address(Protocol):
    """One public address: an elastic IP, or a DNS record. Holders are what the provider calls them: ``i-0a1b``,
    a droplet's number, for DNS the value of the record.

    Every method asks the provider, never a memory of what was. Throttling, lost replies and intermediate states are
    waited out within a limit. Raises AddressError with the provider's own code, AddressTransient once the patience
    for what may still pass is used up.
    """

    @property
    def name(self) -> str:
        """What people call it in messages: ``elastic IP 203.0.113.7 (eip-1)``."""
        ...

    @property
    def settles_within(self) -> timedelta:
        """How long after a move others may still be led to the old holder. Zero but for DNS: there the record's TTL."""
        ...

    def holder(self) -> str | None:
        """Who has the address now; None when nobody. An address on its way is waited for."""
        ...

    def check(self, to: str, *, expected: str | None) -> None:
        """Find out, changing nothing, whether ``move`` would be let do it: rights, regions, locks, the state of ``to``.

        Raises AddressElsewhere, or AddressError that says what is in the way and what to do.
        """
        ...

    def move(self, to: str, *, expected: str | None) -> None:
        """Compare, move, and return once the provider says that ``to`` holds the address.

        Does nothing when ``to`` holds it already. Raises AddressElsewhere, with nothing changed, when it is neither
        with ``expected`` (None: nobody) nor with ``to``. After any other error nothing is known but what ``holder``
        then says: the address may be at either, or at nobody, and the same call may be made again, with what
        ``holder`` said as ``expected``.
        """
        ...
