"""What a thief may do is found by doing it, on scratch objects alone; what is refused is seen to be refused."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.attack import Outcome, Place, Tried, attack, record
from drtool.catalog import Catalog
from drtool.errors import StoreAccessDenied
from drtool.events import Event, Noticed, ignore
from drtool.stores.local import LocalStore
from drtool.stores.oss_attack import OssArms
from drtool.stores.s3 import S3Store
from drtool.stores.s3_attack import S3Arms
from tests import sets
from tests.oss_server import OssServer
from tests.s3_policy import RULES, Front, front_of
from tests.servers import S3Server

pytestmark = pytest.mark.engine("seaweedfs")

LIFECYCLE = {
    "Rules": [
        {
            "ID": "tidy",
            "Status": "Enabled",
            "Filter": {"Prefix": "elsewhere/"},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3},
        }
    ]
}


@pytest.fixture
def front(s3_http: S3Server) -> Iterator[Front]:
    with front_of(s3_http.port) as front:
        yield front


@pytest.fixture
def locked(s3_http: S3Server, front: Front) -> S3Store:
    bucket = f"attacked-{uuid.uuid4().hex[:12]}"
    s3_http.store().client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    return s3_http.store(bucket=bucket, endpoint=front.endpoint, prefix="dr", object_lock="governance", versioned=True)


@pytest.fixture
def plain(s3_http: S3Server, front: Front) -> S3Store:
    bucket = f"attacked-{uuid.uuid4().hex[:12]}"
    s3_http.store().client.create_bucket(Bucket=bucket)
    return s3_http.store(bucket=bucket, endpoint=front.endpoint, prefix="dr")


def place_of(store: S3Store) -> Place:
    return Place(Catalog(store, "gitlab"), S3Arms(store), "have less", _Now(), ignore, lambda: "0a1b")


class _Now(sets.StillClock):
    def __init__(self) -> None:
        from datetime import UTC, datetime

        super().__init__(datetime.now(UTC))


def _by_name(outcome: Outcome) -> dict[str, Tried]:
    return {each.name: each for each in outcome.tried}


def test_attack_on_what_refuses_everything_finds_nothing_and_saw_every_refusal(locked: S3Store, front: Front) -> None:
    front.denied = dict(RULES)

    outcome = attack(place_of(locked))

    verdicts = {each.name: (each.verdict, each.seen) for each in outcome.tried if each.verdict != "refused"}
    assert not [name for name, (verdict, _) in verdicts.items() if verdict == "allowed"], verdicts
    assert {name for name in verdicts if name not in ("open to the public", "change default encryption")} == set()
    assert {*RULES} - {*verdicts} <= {*front.refused}
    assert outcome.allowed == ()


@pytest.mark.parametrize(
    "name",
    ["delete", "re-encrypt with another key", "drop versioning", "change lifecycle", "change bucket policy",
     "write for another instance"],
)  # fmt: skip
def test_attack_finds_each_single_thing_that_is_allowed(name: str, locked: S3Store, front: Front) -> None:
    front.denied = {each: rule for each, rule in RULES.items() if each != name}

    outcome = attack(place_of(locked))

    assert [each.name for each in outcome.allowed] == [name], outcome.tried
    (found,) = outcome.allowed
    assert found.gains
    assert found.cure


@pytest.mark.parametrize("name", ["delete", "overwrite", "write for another instance"])
def test_attack_finds_what_a_plain_bucket_lets_go(name: str, plain: S3Store, front: Front) -> None:
    front.denied = {each: rule for each, rule in RULES.items() if each != name}

    outcome = attack(place_of(plain))

    assert [each.name for each in outcome.allowed] == [name], outcome.tried
    assert _by_name(outcome)["delete a version"].seen == "not tried: the bucket keeps no versions"
    assert _by_name(outcome)["shorten retention"].verdict == "unseen"


def test_attack_that_may_do_anything_still_cannot_break_a_lock_and_loses_no_version(locked: S3Store) -> None:
    found = _by_name(attack(place_of(locked)))

    assert found["delete a version"].verdict == "refused"
    assert found["overwrite"].verdict == "harmless"
    assert found["delete"].verdict == "allowed"
    assert "its version is still there" in found["delete"].seen
    assert found["bypass retention"].verdict == "allowed"  # governance: who may bypass it can
    assert found["shorten retention"].verdict == "allowed"


def test_attack_takes_no_refusal_to_look_for_a_refusal_to_harm(plain: S3Store, front: Front) -> None:
    front.denied = {
        "look": lambda asked: asked.method in ("GET", "HEAD") and asked.again and asked.path.endswith("/delete")
    }
    assert _by_name(attack(place_of(plain)))["delete"].verdict != "refused"


def test_attack_leaves_every_setting_byte_by_byte_as_it_was(locked: S3Store, front: Front) -> None:
    client, bucket = locked.client, locked.bucket
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=LIFECYCLE)  # type: ignore[arg-type]  # as a test says
    policy = json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": ["s3:DeleteBucket"],
                    "Resource": [f"arn:aws:s3:::{bucket}"],
                }
            ],
        }
    )
    client.put_bucket_policy(Bucket=bucket, Policy=policy)

    def settings() -> tuple[object, ...]:
        return (
            client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"],
            json.loads(client.get_bucket_policy(Bucket=bucket)["Policy"]),
            client.get_bucket_versioning(Bucket=bucket)["Status"],
        )

    before = settings()
    outcome = attack(place_of(locked))

    assert settings() == before
    assert {"change lifecycle", "change bucket policy", "drop versioning"} <= {each.name for each in outcome.allowed}
    sent = front.bodies["PUT", f"/{bucket}?lifecycle"]
    assert sent.startswith((b"<?xml", b"<LifecycleConfiguration"))


def test_attack_touches_scratch_objects_alone_and_removes_them(plain: S3Store, front: Front) -> None:
    plain.put("gitlab/sets/kept", __import__("io").BytesIO(b"a backup"))
    front.passed.clear()

    outcome = attack(place_of(plain))

    assert [info.key for info in plain.list("")] == ["gitlab/sets/kept"]
    assert outcome.left == ()
    touched = {asked.path for asked in front.passed if asked.method != "GET" and asked.path.count("/") > 1}
    assert {path for path in touched if "/drtool-attack-" not in path} == set()


def test_attack_names_what_it_may_not_remove(plain: S3Store, front: Front) -> None:
    front.denied = dict(RULES)
    outcome = attack(place_of(plain))
    assert outcome.left
    assert all("/drtool-attack-" in key for key in outcome.left)


def test_attack_that_may_put_nothing_proves_nothing_and_says_so(plain: S3Store, front: Front) -> None:
    front.denied = {"put": lambda asked: asked.method == "PUT"}
    with pytest.raises(StoreAccessDenied):
        attack(place_of(plain))


def test_attack_that_cannot_read_a_setting_leaves_it_alone(locked: S3Store, front: Front) -> None:
    front.denied = {"read": lambda asked: asked.method == "GET" and bool(asked.query & {"lifecycle", "versioning"})}

    found = _by_name(attack(place_of(locked)))

    for name in ("change lifecycle", "drop versioning"):
        assert found[name].verdict == "unseen"
        assert "could not be put back" in found[name].seen
    assert not [asked for asked in front.passed if asked.method != "GET" and asked.query & {"lifecycle", "versioning"}]


# On other stores


def test_attack_on_a_directory_finds_that_its_owner_can_do_everything(tmp_path: Path) -> None:
    place = Place(Catalog(LocalStore(tmp_path), "gitlab"), None, "a copy elsewhere", _Now(), ignore, lambda: "0a1b")
    outcome = attack(place)
    assert [each.name for each in outcome.allowed] == ["delete", "overwrite", "write for another instance"]
    assert [*place.catalog.store.list("")] == []


def _oss_place(server: OssServer) -> Place:
    store = server.store()
    return Place(Catalog(store, "gitlab"), OssArms(store), "have less", _Now(), ignore, lambda: "0a1b")


@pytest.fixture
def oss(oss_http: OssServer) -> Iterator[OssServer]:
    oss_http.reset()
    yield oss_http
    oss_http.reset()


def test_attack_on_oss_finds_what_an_unprotected_bucket_lets_go(oss: OssServer) -> None:
    found = _by_name(attack(_oss_place(oss)))
    assert {name for name, each in found.items() if each.verdict == "allowed"} == {
        "delete", "overwrite", "change lifecycle", "write for another instance",
    }  # fmt: skip
    assert found["shorten retention"].seen == "not tried: the bucket has no retention policy"


def test_attack_on_a_locked_bucket_of_oss_is_withstood(oss: OssServer) -> None:
    client = oss.store().client
    client.complete_bucket_worm(client.init_bucket_worm(1).worm_id)
    found = _by_name(attack(_oss_place(oss)))
    assert [found[name].verdict for name in ("delete", "overwrite", "shorten retention")] == ["refused"] * 3


def test_attack_ends_no_retention_policy_that_is_only_begun(oss: OssServer) -> None:
    oss.store().client.init_bucket_worm(1)
    found = _by_name(attack(_oss_place(oss)))
    assert "only begun" in found["shorten retention"].seen
    assert oss.store().worm_state().state == "in progress"


def test_attack_puts_versioning_of_oss_back_as_it_was(oss: OssServer) -> None:
    from oss2.models import BucketVersioningConfig

    config = BucketVersioningConfig()
    config.status = "Enabled"
    oss.store().client.put_bucket_versioning(config)
    found = _by_name(attack(_oss_place(oss)))
    assert found["drop versioning"].verdict == "allowed"
    assert found["overwrite"].verdict == "harmless"
    assert found["delete a version"].verdict == "allowed"
    assert oss.store().versioning() == "enabled"


# The record


def test_attack_leaves_a_signed_receipt(tmp_path: Path) -> None:
    keys = sets.keys()
    place = Place(Catalog(LocalStore(tmp_path), "gitlab"), None, "a copy elsewhere", _Now(), ignore, lambda: "0a1b")

    key = record(attack(place), place, keys.signer)

    assert key
    text, signature = place.catalog.read_receipt(key)
    keys.verifier.verify(text, signature, source=key)
    receipt = json.loads(text)
    assert (receipt["purpose"], receipt["allowed"], receipt["unseen"]) == ("attack", 3, 0)
    assert [each["name"] for each in receipt["tried"]] == ["delete", "overwrite", "write for another instance"]


def test_attack_without_a_key_says_that_it_left_no_receipt(tmp_path: Path) -> None:
    told: list[Event] = []
    place = Place(Catalog(LocalStore(tmp_path), "gitlab"), None, "", _Now(), told.append, lambda: "0a1b")
    assert record(attack(place), place, None) is None
    assert [event.code for event in told if isinstance(event, Noticed)] == ["no-receipt"]
