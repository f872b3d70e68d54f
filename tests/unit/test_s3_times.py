"""Times of listings are read by a shorter way than botocore's, and mean the same."""

from __future__ import annotations

import pytest
from botocore.utils import parse_timestamp

from drtool.stores.s3 import _moment


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-13T03:15:00.000Z",
        "2026-01-13T03:15:00Z",
        "2026-01-13T03:15:00.123456Z",
        "2026-01-13T03:15:00.1Z",
        "2026-01-13T03:15:00.123456789Z",
        "2026-01-13T03:15:00+02:00",
        "2026-01-13T03:15:00",
        "20260113T031500Z",
        "Tue, 13 Jan 2026 03:15:00 GMT",
        "1768274100",
        1768274100,
    ],
)
def test_a_time_means_what_botocore_takes_it_for(text: object) -> None:
    known = parse_timestamp(text)  # type: ignore[arg-type]  # its stubs know text alone, it itself numbers too
    assert _moment(text) == known
    assert _moment(text).utcoffset() == known.utcoffset()


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-13T03:15:00Z", "2026-01-13T03:15:00Zulu"])
def test_what_is_no_time_is_refused_as_botocore_refuses_it(text: str) -> None:
    with pytest.raises(ValueError):
        _moment(text)
    with pytest.raises(ValueError):
        parse_timestamp(text)
