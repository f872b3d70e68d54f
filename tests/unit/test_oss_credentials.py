"""Keys of a RAM role: where they come from, when they are renewed, and what is said when there are none."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from drtool.errors import ConfigError, StoreAccessDenied, StoreError, StoreTransient
from drtool.stores.oss_credentials import RamRole
from tests.oss_server import REGION, Service
from tests.oss_server.metadata import ROLE, Metadata, metadata_service


class HandClock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with metadata_service(Service(REGION, {})) as running:
        yield running


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def role(metadata: Metadata, clock: HandClock) -> RamRole:
    return RamRole(ROLE, base_url=metadata.url, clock=clock)


def test_keys_are_fetched_by_version_2_and_kept(metadata: Metadata, role: RamRole) -> None:
    metadata.speaks = "v2"

    first, second = role.get_credentials(), role.get_credentials()

    assert first is second
    assert (first.get_access_key_id(), first.get_access_key_secret()) == ("STS.1", "lent-secret-1")
    assert first.get_security_token() == "lent-token-1"
    assert [path.rpartition("/")[2] for path in metadata.asked] == ["token", ROLE]


def test_version_1_is_used_only_where_version_2_is_refused(metadata: Metadata, role: RamRole) -> None:
    metadata.speaks = "v1"

    assert role.get_credentials().access_key_id == "STS.1"


def test_service_that_is_in_trouble_is_not_taken_for_an_old_one(metadata: Metadata, role: RamRole) -> None:
    metadata.fails = 500

    with pytest.raises(StoreTransient, match="answers 500"):
        role.get_credentials()
    assert [path.rpartition("/")[2] for path in metadata.asked] == ["token"]


def test_keys_are_renewed_a_quarter_of_an_hour_before_they_end(role: RamRole, clock: HandClock) -> None:
    role.get_credentials()
    clock.now += timedelta(hours=5, minutes=44)
    assert role.get_credentials().access_key_id == "STS.1"

    clock.now += timedelta(minutes=2)
    assert role.get_credentials().access_key_id == "STS.2"


def test_old_keys_serve_to_their_end_while_there_are_no_new_ones(
    metadata: Metadata, role: RamRole, clock: HandClock
) -> None:
    role.get_credentials()
    metadata.fails = 503
    clock.now += timedelta(hours=5, minutes=50)
    asked = len(metadata.asked)

    for _ in range(5):
        assert role.get_credentials().access_key_id == "STS.1"
    assert len(metadata.asked) == asked + 1, "asked once a minute, not with every request"
    clock.now += timedelta(minutes=11)
    with pytest.raises(StoreTransient):
        role.get_credentials()
    metadata.fails = 0
    metadata.lifetime = timedelta(hours=12)
    assert role.get_credentials().access_key_id == "STS.2"


def test_many_threads_fetch_once(metadata: Metadata, role: RamRole) -> None:
    with ThreadPoolExecutor(16) as threads:
        seen = {lent.access_key_id for lent in threads.map(lambda _: role.get_credentials(), range(64))}

    assert seen == {"STS.1"}
    assert len(metadata.asked) == 2


def test_short_lived_keys_are_not_fetched_again_with_every_request(metadata: Metadata, role: RamRole) -> None:
    metadata.lifetime = timedelta(minutes=10)

    assert {role.get_credentials().access_key_id for _ in range(5)} == {"STS.1"}


def test_keys_that_have_expired_already_are_not_used(metadata: Metadata, role: RamRole) -> None:
    metadata.lifetime = timedelta(minutes=-1)

    with pytest.raises(StoreTransient, match="have expired"):
        role.get_credentials()


def test_role_that_the_machine_does_not_have_is_named(metadata: Metadata, clock: HandClock) -> None:
    with pytest.raises(StoreAccessDenied, match="no RAM role another") as raised:
        RamRole("another", base_url=metadata.url, clock=clock).get_credentials()
    assert "Attach the role" in raised.value.hint


def test_refusal_within_an_answer_is_no_credential(metadata: Metadata, role: RamRole) -> None:
    metadata.code = "RoleNotAuthorized"

    with pytest.raises(StoreAccessDenied, match="RoleNotAuthorized"):
        role.get_credentials()


@pytest.mark.parametrize("garbage", [b'["obviously-fake-secret"]', b"obviously-fake-secret", b'{"Code": "Success"}'])
def test_answer_of_somebody_else_is_an_error_without_its_text(
    metadata: Metadata, role: RamRole, garbage: bytes
) -> None:
    metadata.garbage = garbage

    with pytest.raises(StoreError, match="something else") as raised:
        role.get_credentials()
    assert "obviously-fake-secret" not in f"{raised.value} {raised.value.__cause__}"


def test_machine_without_the_service_is_told_what_to_do(clock: HandClock) -> None:
    with pytest.raises(StoreTransient, match="does not answer") as raised:
        RamRole(ROLE, base_url="http://127.0.0.1:1", clock=clock).get_credentials()
    assert "access key id" in raised.value.hint


def test_address_of_the_service_must_be_http() -> None:
    with pytest.raises(ConfigError):
        RamRole(ROLE, base_url="ftp://127.0.0.1")


def test_keys_do_not_show_their_secrets(role: RamRole) -> None:
    shown = repr(role.get_credentials())

    assert "STS.1" in shown
    assert "lent-secret" not in shown
    assert "lent-token" not in shown
