"""prune, pin, unpin and pins as an operator calls them, on sets of several nights in two directories."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drtool.catalog import Catalog
from drtool.clock import SystemClock
from drtool.core.model import new_set_id
from drtool.marks import write_tombstone
from drtool.prune import pin
from drtool.stores.local import LocalStore
from tests import sets
from tests.lives import write_receipt
from tests.playground import Ran, drtool

DAY = timedelta(days=1)
CONFIG = """\
state_dir = "state"
[[instance]]
name = "gitlab"
store = "main"
trusted_signers = ["{public_key}"]
{more}
[store.main]
kind = "local"
path = "main"
[store.copy]
kind = "local"
path = "copy"
"""
COPIES = 'policy = "policy.toml"\n[[instance.copies]]\nstore = "copy"'


@dataclass(frozen=True)
class Kept:
    """Two stores, and the sets in them, oldest first."""

    base: Path
    sets: Sequence[str]

    def catalog(self, store: str = "main") -> Catalog:
        return Catalog(LocalStore(self.base / store), sets.INSTANCE)

    def drtool(self, *arguments: str) -> Ran:
        return drtool(*arguments, "--config", self.base / "drtool.toml")

    def sign(self) -> None:
        """Let the configuration name the signing key."""
        path = self.base / "drtool.toml"
        key = f'signing_key = "{sets.keys().signer.key}"\nstore = "main"\n'
        path.write_text(path.read_text().replace('store = "main"\n', key, 1))

    def configure(self, more: str = COPIES) -> None:
        (self.base / "drtool.toml").write_text(CONFIG.format(public_key=sets.keys().public_key, more=more))


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """Five verified nights of which the policy keeps two, in both stores."""
    return lay_out(tmp_path, 5)


def lay_out(base: Path, nights: int) -> Kept:
    now = datetime.now(UTC).replace(microsecond=0)
    made = Kept(base, [new_set_id(now - (nights - night) * DAY, "0000") for night in range(nights)])
    for store in ("main", "copy"):
        (base / store).mkdir()
        for set_id in made.sets:
            archives = {"application": sets.tar_of({"a": b"b" * 3000})}
            committed = sets.commit(LocalStore(base / store), set_id=set_id, archives=archives)
            write_receipt(committed.catalog, committed.manifest)
    made.configure()
    (base / "policy.toml").write_text("[retention]\ndaily = 2\nminimum = 2\nsets_a_day = 50\n")
    return made


def test_prune_leaves_what_the_policy_keeps_in_every_store(kept: Kept) -> None:
    ran = kept.drtool("prune", "--json")

    assert ran.status == ran.last["exit_status"] == 0
    assert [each["removed"] for each in ran.last["stores"]] == [kept.sets[:3]] * 2
    assert kept.catalog().set_ids() == kept.catalog("copy").set_ids() == kept.sets[3:]


def test_dry_run_says_the_same_and_removes_nothing(kept: Kept) -> None:
    ran = kept.drtool("prune", "--dry-run")

    assert ran.status == 0
    assert ran.stdout.count("Would remove 3 sets") == 2
    assert kept.catalog().set_ids() == kept.catalog("copy").set_ids() == kept.sets


@pytest.mark.parametrize("more", ["", 'policy = "empty.toml"'])
def test_without_a_policy_or_with_an_empty_one_everything_stays(kept: Kept, more: str) -> None:
    (kept.base / "empty.toml").write_text("")
    kept.configure(more)

    assert kept.drtool("prune").status == 0
    assert kept.catalog().set_ids() == kept.sets


def test_a_pinned_set_stays_in_every_store_until_it_is_unpinned(kept: Kept) -> None:
    pinned = kept.drtool("pin", kept.sets[0], "--reason", "the audit of March", "--json")
    listed = kept.drtool("pins", "--json").last["pins"]
    kept.drtool("prune")

    assert (pinned.status, pinned.last["stores"]) == (0, 2)
    assert [(pin["set_id"], pin["reason"]) for pin in listed] == [(kept.sets[0], "the audit of March")]
    assert kept.catalog().set_ids() == kept.catalog("copy").set_ids() == [kept.sets[0], *kept.sets[3:]]

    assert "it was for: the audit of March" in kept.drtool("unpin", kept.sets[0]).stdout
    assert kept.drtool("pins").stdout == "No set is pinned.\n"
    kept.drtool("prune")
    assert kept.catalog().set_ids() == kept.catalog("copy").set_ids() == kept.sets[3:]


def test_a_set_that_only_a_copy_has_is_pinned_and_unpinned_by_its_whole_name(kept: Kept) -> None:
    lost = kept.sets[1]
    shutil.rmtree(kept.base / "main/gitlab/sets" / lost)

    assert kept.drtool("pin", lost[:-1], "--reason", "what is left").status == 14
    assert kept.drtool("pin", lost, "--reason", "what is left", "--json").last["stores"] == 1
    assert kept.catalog("copy").is_pinned(lost)
    assert kept.drtool("pins").stdout == "No set is pinned.\n"
    assert lost in kept.drtool("pins", "--store", "copy").stdout
    assert "it was for: what is left" in kept.drtool("unpin", lost).stdout
    assert not kept.catalog("copy").is_pinned(lost)


def test_a_pin_beside_a_tombstone_can_be_taken_away(kept: Kept) -> None:
    kept.drtool("pin", kept.sets[0], "--reason", "by somebody")
    write_tombstone(kept.catalog(), kept.sets[0], datetime.now(UTC), "by somebody")

    assert kept.drtool("unpin", kept.sets[0]).status == 0
    assert not kept.catalog().is_pinned(kept.sets[0])


def test_pin_of_no_set_and_pin_without_a_reason_are_refused(kept: Kept) -> None:
    assert kept.drtool("pin", "20000101", "--reason", "?").status == 14
    assert kept.drtool("pin", kept.sets[0]).status == 2


def test_a_frozen_prune_ends_with_22_and_a_baseline_thaws_it(kept: Kept) -> None:
    (kept.base / "policy.toml").write_text("[retention]\ndaily = 2\nminimum = 2\nsets_a_day = 3\n")

    frozen = kept.drtool("prune", "--quiet")
    said = kept.drtool("prune", "--json")
    assert (frozen.status, said.status, said.last["exit_status"]) == (22, 22, 22)
    assert "frozen, nothing is removed" in frozen.stdout
    assert kept.catalog().set_ids() == kept.sets

    words = ("pin", "latest", "--reason", "five copies were made at once", "--baseline")
    refused = kept.drtool(*words)
    assert (refused.status, kept.drtool("prune", "--quiet").status) == (3, 22)
    assert "signing_key" in refused.stderr

    kept.sign()
    assert kept.drtool(*words).status == 0
    assert kept.drtool("prune").status == 0
    assert kept.catalog().set_ids() == kept.catalog("copy").set_ids() == kept.sets[3:]


def test_discard_removes_one_set_from_every_store_and_leaves_a_receipt_in_each(kept: Kept) -> None:
    kept.sign()

    ran = kept.drtool("discard", kept.sets[0], "--reason", "taken by a wrong clock", "--yes", "--json")

    assert ran.status == ran.last["exit_status"] == 0
    assert [each["removed"] for each in ran.last["stores"]] == [True, True]
    for store in ("main", "copy"):
        assert kept.catalog(store).set_ids() == kept.sets[1:]
        (key,) = kept.catalog(store).receipts("discard-")
        text, signature = kept.catalog(store).read_receipt(key)
        sets.keys().verifier.verify(text, signature, source=key)
        assert json.loads(text)["reason"] == "taken by a wrong clock"
    assert kept.drtool("discard", kept.sets[0], "--reason", "again", "--yes").status == 14


def test_discard_from_one_store_leaves_the_other_alone(kept: Kept) -> None:
    kept.sign()

    assert kept.drtool("discard", kept.sets[0], "--reason", "?", "--yes", "--store", "copy").status == 0
    assert kept.catalog().set_ids() == kept.sets
    assert kept.catalog("copy").set_ids() == kept.sets[1:]


def test_discard_asks_and_without_a_terminal_nobody_said_yes(kept: Kept) -> None:
    kept.sign()

    ran = kept.drtool("discard", kept.sets[0], "--reason", "?")

    assert ran.status == 1 and "--yes" in ran.stderr and kept.sets[0] in ran.stderr
    assert kept.catalog().set_ids() == kept.catalog("copy").set_ids() == kept.sets


def test_discard_wants_a_whole_name_a_reason_and_a_key_to_sign_with(kept: Kept) -> None:
    for words in (("latest", "--reason", "?"), (kept.sets[0][:-1], "--reason", "?"), (kept.sets[0],)):
        assert kept.drtool("discard", *words, "--yes").status == 2
    unsigned = kept.drtool("discard", kept.sets[0], "--reason", "?", "--yes")
    kept.sign()
    unknown = kept.drtool("discard", "20000101T000000Z-0000", "--reason", "?", "--yes")

    assert (unsigned.status, unknown.status) == (3, 14)
    assert "signing_key" in unsigned.stderr and "main" in unknown.stderr and "copy" in unknown.stderr
    assert kept.catalog().set_ids() == kept.sets


def test_what_one_store_must_keep_goes_from_none(kept: Kept) -> None:
    kept.sign()
    pin(kept.catalog("copy"), kept.sets[0], reason="the audit", by="root", clock=SystemClock())

    ran = kept.drtool("discard", kept.sets[0], "--reason", "?", "--yes")

    assert ran.status == 22 and "the audit" in ran.stderr and "unpin" in ran.stderr
    assert kept.catalog().set_ids() == kept.catalog("copy").set_ids() == kept.sets
    assert kept.drtool("discard", kept.sets[-1], "--reason", "?", "--yes").status == 22  # the newest verified


def test_a_store_that_is_not_there_fails_the_prune_before_anything_goes(kept: Kept) -> None:
    (kept.base / "main").rename(kept.base / "away")

    ran = kept.drtool("prune", "--json")

    assert (ran.status, ran.last["error"]) == (12, "BucketMissing")
    assert kept.catalog("copy").set_ids() == kept.sets


def test_a_damaged_set_counts_no_more_and_stays_for_a_look(kept: Kept) -> None:
    newest = kept.catalog().read_manifest(kept.sets[-1], None)
    lost = kept.base / "main" / kept.catalog().key(newest.set_id, newest.volumes[0].name)
    lost.write_bytes(b"")

    ran = kept.drtool("prune", "--json")

    assert ran.status == 0
    assert newest.set_id not in ran.last["stores"][0]["removed"]
    assert json.dumps(ran.last).count('"damaged"') == 1
