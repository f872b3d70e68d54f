"""When to try again, how often, and how long to wait: only StoreTransient, a few times, with full jitter."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import timedelta

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_any, stop_when_event_set
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_random_exponential

from drtool.errors import StoreTransient


@dataclass(frozen=True, slots=True)
class Backoff:
    """Up to ``attempts`` tries; the n-th retry waits a random time up to ``first`` * 2^(n-1), at most ``longest``.

    Full jitter, because several hosts that lost the same store come back at different moments with it.
    """

    attempts: int = 6
    first: timedelta = timedelta(seconds=1)
    longest: timedelta = timedelta(seconds=30)

    def retrying(self, give_up: threading.Event | None = None) -> Retrying:
        """Return a tenacity controller: ``controller(function, …)``. The last error is raised as it is.

        Setting ``give_up`` ends a wait at once, and nothing is tried again after it.
        """
        stopped = give_up or threading.Event()
        return Retrying(
            retry=retry_if_exception_type(StoreTransient),
            stop=stop_any(stop_after_attempt(self.attempts), stop_when_event_set(stopped)),
            wait=wait_random_exponential(multiplier=self.first.total_seconds(), max=self.longest.total_seconds()),
            sleep=sleep_using_event(stopped),
            reraise=True,
        )
