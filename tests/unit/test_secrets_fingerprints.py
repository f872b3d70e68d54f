"""A secret is recognised again from one night to the next, and nothing else can be made of its fingerprint."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from drtool.gitlab.secrets import Change, Key, Secrets, compare, fingerprints, read_secrets

SALT, ANOTHER_SALT = b"fake salt no. 01", b"fake salt no. 02"
OLD, NEW, NEWEST = (f"fake-{name}-key-base-of-enough-characters" for name in ("old", "new", "newest"))


def with_keys(*values: str, **others: object) -> Secrets:
    return read_secrets(secrets_json=json.dumps({"gitlab_rails": {"db_key_base": list(values), **others}}).encode())


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ([OLD], [OLD], None),
        ([OLD, NEW], [NEW, OLD], None),
        ([OLD], [NEW], Change.REPLACED),
        ([OLD], [], Change.LOST),
        ([], [NEW], Change.ADDED),
        ([OLD], [OLD, NEW], Change.EXTENDED),
        ([OLD, NEW], [NEW], Change.REDUCED),
        ([OLD, NEW], [NEW, NEWEST], Change.REDUCED),
    ],
)
def test_a_change_of_a_secret_is_named(before: list[str], after: list[str], change: Change | None) -> None:
    changes = compare(fingerprints(with_keys(*before), SALT), with_keys(*after))
    assert changes == ({Key.DB: change} if change else {})


def test_every_secret_is_watched() -> None:
    values = {str(key): f"fake value of {key} before" for key in Key}
    changed = {str(key): f"fake value of {key} after" for key in Key}
    before = fingerprints(read_secrets(secrets_json=json.dumps({"gitlab_rails": values}).encode()), SALT)
    after = read_secrets(secrets_json=json.dumps({"gitlab_rails": changed}).encode())
    assert compare(before, after) == dict.fromkeys(Key, Change.REPLACED)


def test_the_same_secret_has_nothing_in_common_in_two_sets_or_under_two_names() -> None:
    secrets = with_keys(OLD, otp_key_base=OLD)
    first, second = fingerprints(secrets, SALT), fingerprints(secrets, ANOTHER_SALT)
    digests = [digest for found in (first, second) for values in found.digests.values() for digest in values]
    assert len(digests) == len(set(digests)) == 4


def test_a_fingerprint_survives_json_and_holds_no_secret() -> None:
    taken = fingerprints(with_keys(OLD, NEW), SALT)
    assert OLD not in repr(taken)
    assert json.loads(json.dumps(asdict(taken))) == {
        "salt": SALT.hex(),
        "digests": {"db_key_base": list(taken.digests["db_key_base"])},
    }


def test_what_could_be_guessed_gets_no_fingerprint() -> None:
    assert not fingerprints(with_keys("short-fake-password"), SALT).digests


def test_a_value_that_is_overruled_gets_no_fingerprint() -> None:
    secrets = read_secrets(
        gitlab_rb=f"gitlab_rails['db_key_base'] = '{NEW}'".encode(),
        secrets_json=json.dumps({"gitlab_rails": {"db_key_base": OLD}}).encode(),
    )
    assert fingerprints(secrets, SALT) == fingerprints(with_keys(NEW), SALT)


def test_a_secret_that_could_not_be_read_is_not_called_lost() -> None:
    before = fingerprints(with_keys(OLD), SALT)
    assert compare(before, read_secrets(secrets_json=b"{")) == {}


def test_a_salt_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        fingerprints(with_keys(OLD), b"")
