"""The rights that init prints: enough to work with, and nothing with which a thief could do harm."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

import pytest

from drtool.iam import ROLES, Cloud, Role, Target, rights_for

GOLDEN = Path(__file__).parent.parent / "data" / "iam"
TARGETS: dict[str, tuple[Cloud, Target]] = {
    "aws": ("aws", Target("backups", "gitlab", region="eu-central-1")),
    "aws-locked": (
        "aws",
        Target("backups", "gitlab", "dr/", "cn-north-1", kms_key_id="1234abcd-not-a-real-key", object_lock=True),
    ),
    "oss": ("oss", Target("backups", "gitlab", "dr/", "cn-hangzhou")),
    "spaces": ("spaces", Target("backups", "gitlab", region="fra1")),
}


@pytest.mark.parametrize("name", TARGETS)
def test_rights_are_those_that_were_agreed(name: str) -> None:
    """To agree on others: write what this prints into the file."""
    cloud, target = TARGETS[name]
    found = {role: rights_for(cloud, role, target) for role in ROLES}
    text = json.dumps({role: {"rights": each.document, "notes": each.notes} for role, each in found.items()}, indent=1)
    assert (GOLDEN / f"{name}.json").read_text() == text + "\n", text


def may(document: dict[str, Any], action: str, resource: str, **context: str) -> bool:
    """What AWS would decide: refused unless allowed, and whatever is denied is refused."""
    verdict = False
    for statement in document["Statement"]:
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        if action not in statement["Action"] or not any(fnmatch.fnmatchcase(resource, each) for each in resources):
            continue
        if not _holds(statement.get("Condition", {}), context):
            continue
        if statement["Effect"] == "Deny":
            return False
        verdict = True
    return verdict


def _holds(condition: dict[str, Any], context: dict[str, str]) -> bool:
    for kind, wanted in condition.items():
        for key, value in wanted.items():
            if kind == "Null":
                if (key not in context) != (value == "true"):
                    return False
            elif key in context and not any(fnmatch.fnmatchcase(context[key], each) for each in value):
                return False
    return True


OURS, OTHERS, BUCKET = (
    "arn:aws:s3:::backups/gitlab/sets/x",
    "arn:aws:s3:::backups/gitlab-eu/x",
    "arn:aws:s3:::backups",
)
HARM = (
    ("s3:DeleteObjectVersion", OURS), ("s3:BypassGovernanceRetention", OURS), ("s3:PutObject", OTHERS),
    ("s3:DeleteObject", OTHERS), ("s3:PutBucketVersioning", BUCKET), ("s3:PutLifecycleConfiguration", BUCKET),
    ("s3:PutBucketPolicy", BUCKET), ("s3:DeleteBucketPolicy", BUCKET), ("s3:PutBucketPublicAccessBlock", BUCKET),
    ("s3:PutEncryptionConfiguration", BUCKET), ("s3:PutBucketObjectLockConfiguration", BUCKET),
)  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
def test_no_role_may_do_harm_to_what_is_not_its_own(role: Role) -> None:
    document = rights_for("aws", role, Target("backups", "gitlab", object_lock=True)).document
    assert [harm for harm in HARM if may(document, *harm)] == []


@pytest.mark.parametrize(
    ("role", "puts", "deletes"), [("backup", True, False), ("prune", True, True), ("restore", False, False)]
)
def test_each_role_may_do_its_own_work_and_no_more(role: Role, puts: bool, deletes: bool) -> None:
    document = rights_for("aws", role, Target("backups", "gitlab")).document
    assert may(document, "s3:GetObject", OURS)
    assert may(document, "s3:ListBucket", BUCKET, **{"s3:prefix": "gitlab/sets/"})
    assert not may(document, "s3:ListBucket", BUCKET, **{"s3:prefix": "gitlab-eu/"})
    assert may(document, "s3:PutObject", OURS) is puts
    assert may(document, "s3:DeleteObject", OURS) is deletes


def test_nobody_may_encrypt_with_a_key_of_their_own() -> None:
    document = rights_for("aws", "backup", Target("backups", "gitlab")).document
    assert not may(document, "s3:PutObject", OURS, **{"s3:x-amz-server-side-encryption-customer-algorithm": "AES256"})


@pytest.mark.parametrize("role", ["backup", "prune"])
def test_spaces_is_said_to_be_unable_to_keep_its_keys_from_deleting(role: Role) -> None:
    notes = rights_for("spaces", role, Target("backups", "gitlab")).notes
    assert any("can delete every backup" in note for note in notes)
