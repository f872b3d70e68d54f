"""What is the same for DNS records of every provider."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from drtool.addresses.dns import RecordType, all_moved_at, record_name, record_value
from drtool.errors import AddressError, ConfigError


def test_all_resolvers_have_moved_when_the_old_ttl_is_over() -> None:
    changed = datetime(2026, 1, 13, 3, tzinfo=UTC)
    assert all_moved_at(changed, timedelta(minutes=10)) == datetime(2026, 1, 13, 3, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("A", "192.0.2.1", "192.0.2.1"),
        ("AAAA", "2001:DB8:0:0::1", "2001:db8::1"),
        ("CNAME", "Front.Example.net.", "front.example.net"),
    ],
)
def test_a_value_is_compared_by_what_it_means(kind: RecordType, text: str, value: str) -> None:
    assert record_value(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [("A", "2001:db8::1"), ("A", "gitlab-2"), ("A", "192.0.2.01"), ("AAAA", "192.0.2.1"), ("CNAME", "two words")],
)
def test_a_value_that_a_record_may_not_hold_is_refused(kind: RecordType, text: str) -> None:
    with pytest.raises(AddressError, match="is not") as caught:
        record_value(kind, text)
    assert kind in caught.value.hint


@pytest.mark.parametrize("text", ["", "*.example.com", "a..b", "-a.example.com", "x" * 64, "gitlab.example.com/x"])
def test_a_name_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        record_name(text)


@pytest.mark.parametrize("text", ["203.0.113.7", "2001:db8::1"])
def test_a_number_is_no_value_of_a_name(text: str) -> None:
    with pytest.raises(AddressError, match="host name"):
        record_value("CNAME", text)
