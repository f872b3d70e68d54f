"""What a policy promises and the configuration cannot keep is named; what it can is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from drtool.config import read_config
from drtool.errors import ConfigError
from drtool.hosts.local import LocalRunner
from drtool.initialise import initialise
from drtool.policies import CopiesTable, LockTable, Policy, SealTable, read_policy, shipped_policy
from drtool.promised import Means, find_unmet, refuse_unmet
from tests.playground import drtool

ENOUGH = Means(sealed=True, stores=3, lock="object", lock_mode="compliance")
STRICT = Policy(lock=LockTable(days=3, mode="compliance"), copies=CopiesTable(stores=3))


def test_means_that_are_enough_break_no_promise() -> None:
    assert find_unmet(STRICT, ENOUGH) == ()
    refuse_unmet(STRICT, ENOUGH)


@pytest.mark.parametrize(
    ("means", "said"),
    [
        (replace(ENOUGH, sealed=False), "seal.required"),
        (replace(ENOUGH, stores=2), "copies.stores = 3, and the configuration has 2"),
        (replace(ENOUGH, lock="none", lock_mode=None), "lock.days = 3, and the store locks nothing"),
        (replace(ENOUGH, lock_mode="governance"), 'lock.mode = "compliance"'),
    ],
)
def test_every_promise_that_cannot_be_kept_is_named_and_refused(means: Means, said: str) -> None:
    (found,) = find_unmet(STRICT, means)
    assert said in found
    with pytest.raises(ConfigError, match="the policy wants"):
        refuse_unmet(STRICT, means)


def test_a_policy_that_promises_nothing_is_kept_by_anything() -> None:
    assert find_unmet(Policy(seal=SealTable(required=False)), Means(False, 1, "none")) == ()


def config(directory: Path, policy: str) -> Path:
    path = directory / "drtool.toml"
    path.write_text(
        f'[[instance]]\nname = "gitlab"\nstore = "main"\npolicy = "{policy}"\n'
        '[store.main]\nkind = "local"\npath = "s"\n'
    )
    return path


def test_policy_of_an_instance_is_a_file_beside_the_configuration_or_a_ready_one(tmp_path: Path) -> None:
    assert read_config(config(tmp_path, "ours/policy.toml")).instance[0].policy == tmp_path / "ours/policy.toml"
    assert read_config(config(tmp_path, "policy.toml")).instance[0].policy == tmp_path / "policy.toml"
    ready = read_config(config(tmp_path, "business")).instance[0].policy
    assert ready == shipped_policy("business") and read_policy(ready).copies.stores == 2
    with pytest.raises(ConfigError, match="no ready policy 'busines'") as caught:
        read_config(config(tmp_path, "busines"))
    assert "business, regulated" in caught.value.hint


def test_init_copies_a_ready_policy_to_be_changed(tmp_path: Path) -> None:
    runner = LocalRunner()
    made = initialise(tmp_path, runner, instance="gitlab", host="test", policy=shipped_policy("small-team"))

    copied = read_config(made.config).instance[0].policy
    assert copied == tmp_path / "small-team.toml"
    assert read_policy(copied) == read_policy(shipped_policy("small-team"))

    made.config.unlink()
    copied.write_text("[retention]\nlast = 1\n")
    initialise(tmp_path, runner, instance="gitlab", host="test", policy=shipped_policy("small-team"))
    assert copied.read_text() == "[retention]\nlast = 1\n"


def test_init_of_the_command_line_knows_the_ready_policies(tmp_path: Path) -> None:
    refused = drtool("init", tmp_path / "a", "--policy", "busines", "--json")
    assert (refused.status, refused.last["error"]) == (3, "ConfigError")
    assert not (tmp_path / "a").exists()
    assert drtool("init", tmp_path / "a", "--policy", "regulated").status == 0
    assert read_config(tmp_path / "a/drtool.toml").instance[0].policy == tmp_path / "a/regulated.toml"
