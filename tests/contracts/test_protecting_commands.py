"""`init --iam` and `check --attack`, as they are typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drtool.hosts.local import LocalRunner
from drtool.initialise import initialise

S3 = '\nkind = "s3"\nbucket = "backups"\nregion = "eu-central-1"\nprefix = "dr"\nobject_lock = "compliance"\n'
SPACES = (
    '\nkind = "spaces"\nbucket = "backups"\nregion = "fra1"\naccess_key_id = "env:A"\nsecret_access_key = "env:B"\n'
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "backups").mkdir()
    made = initialise(
        tmp_path / "dr", LocalRunner(), instance="gitlab", host="test", store=tmp_path / "backups", state=tmp_path / "s"
    )
    return made.config


def _drtool(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DRTOOL_CONFIG": str(config)}
    return subprocess.run(
        [str(Path(sys.executable).parent / "drtool"), *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _in(config: Path, store: str) -> Path:
    text = config.read_text()
    head, _, _ = text.partition("[store.main]")
    config.write_text(f"{head}[store.main]{store}")
    return config


def test_iam_prints_the_rights_of_the_store_in_the_configuration(config: Path) -> None:
    ended = _drtool(_in(config, S3), "--json", "init", "--iam", "aws")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert [each["role"] for each in found["rights"]] == ["backup", "prune", "restore"]
    (objects, *_) = found["rights"][0]["document"]["Statement"]
    assert objects["Resource"] == "arn:aws:s3:::backups/dr/gitlab/*"
    assert "s3:PutObjectRetention" in objects["Action"]


def test_iam_says_of_spaces_what_it_cannot_do(config: Path) -> None:
    ended = _drtool(_in(config, SPACES), "init", "--iam", "spaces")
    assert ended.returncode == 0, ended.stderr
    assert "can delete every backup" in ended.stdout
    assert '"permission": "readwrite"' in ended.stdout


def test_iam_for_another_cloud_than_the_stores_is_refused(config: Path) -> None:
    ended = _drtool(config, "init", "--iam", "aws")
    assert ended.returncode == 3
    assert "the store is of kind 'local'" in ended.stderr


def test_attack_that_succeeded_ends_with_its_own_status_and_leaves_a_receipt(config: Path) -> None:
    ended = _drtool(config, "check", "--attack")
    assert ended.returncode == 34, ended.stderr
    assert "A thief could: Delete every backup." in ended.stdout
    (receipt,) = (config.parent.parent / "backups/gitlab/receipts").glob("attack-*.json")
    assert receipt.with_name(f"{receipt.name}.sig").is_file()
    assert json.loads(receipt.read_text())["allowed"] == 3


def test_attack_and_deep_are_not_one_check(config: Path) -> None:
    assert _drtool(config, "check", "--attack", "--deep").returncode == 2
