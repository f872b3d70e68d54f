"""Every command that reads reads any store of the configuration: on the worst day the first one is gone, or robbed."""

from __future__ import annotations

import json
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from drtool.core.schedule import JOBS
from drtool.errors import (
    BucketMissing,
    ConfigError,
    Differs,
    ObjectiveBreached,
    ResumeError,
    SetDamaged,
    SetMissing,
)
from drtool.hosts import Runner
from drtool.hosts.local import LocalRunner
from drtool.initialise import initialise
from drtool.journal import journals
from drtool.restore import Outcome, Place, Request, carry_out, prepare
from drtool.restore_plan import Wanted
from drtool.signing import Signer
from drtool.stores.faults import Crash
from drtool.stores.memory import MemoryStore
from drtool.undo import find_restore
from tests import sets
from tests.playground import drtool
from tests.runners import FaultyRunner
from tests.toyhost import INSTANCE, ToyHost, make_bench
from tests.two_stores import TwoStores, flip, lay_out, some_volume


@pytest.fixture
def two(tmp_path: Path) -> TwoStores:
    return lay_out(tmp_path)


@pytest.fixture
def robbed(two: TwoStores) -> tuple[TwoStores, str]:
    """A set that is only in the copy: the first store is not there any more."""
    taken = two.take()
    assert two.drtool("copy", "latest", "--to", "copy").status == 0
    shutil.rmtree(two.base / "main")
    return two, taken.manifest.set_id


# -- one store by its name -------------------------------------------------------------------------------------------


def test_commands_that_read_read_the_store_that_is_named(robbed: tuple[TwoStores, str], tmp_path: Path) -> None:
    two, set_id = robbed
    commands = {
        ("list",): "sets",
        ("show", "latest"): "archives",
        ("verify",): "checks",
        ("verify", "--level", "present"): "checks",
        ("fetch", set_id, "--into", str(tmp_path / "fetched")): "files",
        ("extract", set_id, "--member", "uploads.tar.gz", "--to", str(tmp_path / "uploads")): "path",
        ("diff", set_id, "latest"): "differences",
    }

    for without in (["list"], ["show", "latest"]):
        ran = two.drtool(*without)
        assert ran.status == BucketMissing.exit_status
        assert "--store copy" in ran.stderr
    for command, field in commands.items():
        ran = two.drtool(*command, "--store", "copy", "--json")
        assert ran.status == 0, ran.stdout
        assert field in ran.last, command

    assert (tmp_path / "fetched/application.tar").read_bytes() == sets.application()
    assert (tmp_path / "uploads").stat().st_size == 20 << 10


def test_the_other_set_of_a_comparison_is_of_the_same_store(two: TwoStores) -> None:
    older, newer = two.take(days_ago=1), two.take(seed=1)
    for each in (older, newer):
        assert two.drtool("copy", each.manifest.set_id, "--to", "copy").status == 0
    shutil.rmtree(two.base / "main")

    ran = two.drtool("diff", older.manifest.set_id, newer.manifest.set_id, "--store", "copy", "--json")

    assert ran.status == Differs.exit_status
    assert (ran.last["first"], ran.last["second"]) == (older.manifest.set_id, newer.manifest.set_id)


@pytest.mark.parametrize(
    "command",
    [
        ("list",),
        ("show", "latest"),
        ("verify",),
        ("fetch", "latest", "--into", "x"),
        ("extract", "latest", "--list"),
        ("diff", "latest", "local"),
        ("restore", "latest", "--to", "local"),
    ],
    ids=lambda command: command[0],
)
def test_a_store_that_is_not_configured_is_refused_with_those_that_are(
    two: TwoStores, command: tuple[str, ...]
) -> None:
    ran = two.drtool(*command, "--store", "elsewhere")

    assert ran.status == ConfigError.exit_status
    assert "[store.elsewhere]" in ran.stderr and "main, copy" in ran.stderr


def test_the_receipt_of_a_verification_lies_in_the_store_that_was_read(robbed: tuple[TwoStores, str]) -> None:
    two, set_id = robbed

    assert two.drtool("verify", "--store", "copy").status == 0

    assert len(two.catalog("copy").receipts(f"verify-{set_id}-")) == 1


def test_a_drill_of_a_set_in_the_copy_counts(two: TwoStores) -> None:
    manifest = two.take().manifest
    assert two.drtool("copy", "latest", "--to", "copy").status == 0
    run_id = f"restore-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-0000"
    receipt = {
        "purpose": "drill",
        "run_id": run_id,
        "instance": manifest.instance,
        "set_id": manifest.set_id,
        "finished_at": datetime.now(UTC).isoformat(),
        "steps": [{"seconds": 60.0}],
    }
    two.catalog("copy").put_receipt(run_id, json.dumps(receipt).encode(), two.keys.signer)

    (standing,) = two.drtool("status", "--json").last["instances"]

    assert standing["drill"]["set_id"] == standing["restore"]["set_id"] == manifest.set_id


# -- every store -----------------------------------------------------------------------------------------------------


def test_every_store_is_verified_and_each_keeps_its_receipt(two: TwoStores) -> None:
    set_id = two.take().manifest.set_id
    assert two.drtool("copy", "latest", "--to", "copy").status == 0

    ran = two.drtool("verify", "--every-store", "--newer-than", "1h", "--json")

    assert (ran.status, ran.last["exit_status"], ran.last["set_id"]) == (0, 0, set_id)
    assert [each["store"] for each in ran.last["stores"]] == ["main", "copy"]
    assert [len(two.catalog(store).receipts("verify-")) for store in ("main", "copy")] == [1, 1]


def test_damage_in_a_copy_is_the_end_of_it_and_the_command_that_mends_it_is_named(two: TwoStores) -> None:
    taken = two.take()
    set_id = taken.manifest.set_id
    assert two.drtool("copy", "latest", "--to", "copy").status == 0
    flip(two.path("copy", set_id, some_volume(taken).name))

    ran = two.drtool("verify", "--every-store")

    assert ran.status == SetDamaged.exit_status
    assert some_volume(taken).name in ran.stdout
    (mending,) = [line for line in ran.stdout.splitlines() if "--mend" in line]
    words = mending.split("`")[1].split()
    assert two.drtool(*words[1:]).status == 0
    assert two.drtool("verify", "--every-store").status == 0


def test_a_store_that_does_not_answer_is_a_failure_and_the_other_is_read_all_the_same(two: TwoStores) -> None:
    set_id = two.take().manifest.set_id
    assert two.drtool("copy", "latest", "--to", "copy").status == 0
    shutil.rmtree(two.base / "main")

    ran = two.drtool("verify", "--every-store", "--json")

    main, copy = ran.last["stores"]
    assert ran.status == main["exit_status"] == main["error"]["exit_status"] == BucketMissing.exit_status
    assert main["verdict"] is None
    assert (copy["exit_status"], copy["verdict"]["set_id"], copy["verdict"]["problems"]) == (0, set_id, [])
    assert ran.last["set_id"] is None


def test_a_copy_without_a_set_is_a_failure(two: TwoStores) -> None:
    two.take()

    ran = two.drtool("verify", "--every-store", "--json")

    assert ran.status == SetMissing.exit_status
    assert [each["exit_status"] for each in ran.last["stores"]] == [0, SetMissing.exit_status]


def test_a_copy_that_stays_behind_is_too_old(two: TwoStores) -> None:
    two.take(days_ago=3)
    assert two.drtool("copy", "latest", "--to", "copy").status == 0
    two.take(seed=1)

    ran = two.drtool("verify", "--every-store", "--newer-than", "26h", "--json")

    assert ran.status == ObjectiveBreached.exit_status
    assert [each["exit_status"] for each in ran.last["stores"]] == [0, ObjectiveBreached.exit_status]


def test_damage_is_worse_than_a_store_that_does_not_answer_and_that_worse_than_age(two: TwoStores) -> None:
    taken = two.take(days_ago=3)
    set_id = taken.manifest.set_id
    assert two.drtool("copy", "latest", "--to", "copy").status == 0
    command = ("verify", "--every-store", "--newer-than", "26h")

    (two.base / "main").rename(two.base / "away")
    assert two.drtool(*command).status == BucketMissing.exit_status
    flip(two.path("copy", set_id, some_volume(taken).name))
    assert two.drtool(*command).status == SetDamaged.exit_status


def test_junit_has_a_case_for_every_store(two: TwoStores, tmp_path: Path) -> None:
    taken = two.take()
    assert two.drtool("copy", "latest", "--to", "copy").status == 0
    report = tmp_path / "report.xml"

    assert two.drtool("verify", "--every-store", "--junit", report).status == 0
    good = ElementTree.parse(report).getroot()
    assert [suite.get("failures") for suite in good] == ["0", "0"]

    shutil.rmtree(two.base / "main")
    flip(two.path("copy", taken.manifest.set_id, some_volume(taken).name))
    two.drtool("verify", "--every-store", "--junit", report)

    bad = ElementTree.parse(report).getroot()
    failed = [
        (case.get("classname"), case.get("name")) for case in bad.iter("testcase") if case.find("failure") is not None
    ]
    assert failed == [("gitlab.main", "store"), ("gitlab.copy.digest", some_volume(taken).name)]
    for suites in (good, bad):
        for suite in suites:
            assert suite.get("tests") == str(len(suite.findall("testcase")))
            assert suite.get("failures") == str(len(suite.findall("testcase/failure")))


def test_one_store_and_every_store_contradict_each_other(two: TwoStores) -> None:
    assert two.drtool("verify", "--every-store", "--store", "copy").status == 2


# -- back from the copy ----------------------------------------------------------------------------------------------


def test_a_set_that_is_gone_from_the_first_store_comes_back_from_the_copy(two: TwoStores) -> None:
    set_id = two.take().manifest.set_id
    assert two.drtool("copy", "latest", "--to", "copy").status == 0
    shutil.rmtree(two.base / "main/gitlab/sets")
    assert two.drtool("verify").status == SetMissing.exit_status

    ran = two.drtool("copy", set_id, "--from", "copy", "--to", "main", "--json")

    assert (ran.status, ran.last["sent"], ran.last["was_there"]) == (0, ran.last["volumes"], False)
    assert two.drtool("verify", set_id).status == 0


@pytest.mark.parametrize(
    "words", [("--to", "main"), ("--from", "copy", "--to", "copy"), ("--to", "copy", "--mend", "--unsigned")]
)
def test_a_copy_from_a_store_to_itself_and_mending_by_what_nobody_signed_are_refused(
    two: TwoStores, words: tuple[str, ...]
) -> None:
    two.take()

    assert two.drtool("copy", "latest", *words).status == 2


def test_a_restore_goes_on_from_the_store_that_it_was_begun_from_and_no_other(tmp_path: Path) -> None:
    bench = make_bench(tmp_path / "source", MemoryStore())
    set_id = bench.back_up().manifest.set_id
    target = ToyHost(tmp_path / "target")
    faulty = FaultyRunner(LocalRunner())
    faulty.fail_on("gitlab-backup restore", Crash())

    def restore_from(store: str, runner: Runner, *, resume: str | None = None, anew: bool = False) -> Outcome:
        wanted = Wanted(count=False, replace=platform.node(), store=store)
        request = Request(INSTANCE, target.install, wanted, resume, anew)
        opened, signer = bench.open(set_id), Signer(bench.signing_key, LocalRunner())
        place = Place(runner, opened, signer, bench.state, bench.clock, bench.events.append, bench._token)
        return carry_out(prepare(request, place), request, place)

    with pytest.raises(Crash):
        restore_from("copy", faulty)
    (journal,) = journals(bench.state, "restore-")

    for resume in (None, journal.run_id):
        with pytest.raises(ResumeError, match="begun from the store copy") as refused:
            restore_from("main", LocalRunner(), resume=resume)
        assert "--store copy" in refused.value.hint and "--anew" in refused.value.hint
    assert find_restore(bench.state, journal.run_id).store == "copy"  # so its undoing looks there too
    assert restore_from("copy", LocalRunner()).run_id == journal.run_id


def test_a_restore_from_a_copy_needs_no_first_store_and_leaves_its_receipt_there(tmp_path: Path) -> None:
    """By the command, from a backup that it took and copied."""
    lost, fresh = ToyHost(tmp_path / "lost"), ToyHost(tmp_path / "fresh")
    main, second = tmp_path / "main", tmp_path / "second"
    main.mkdir()
    second.mkdir()
    made = initialise(
        tmp_path / "dr", LocalRunner(), instance="gitlab", host="toy", store=main, state=tmp_path / "state",
        prefix=lost.root,
    )  # fmt: skip
    before, _, after = made.config.read_text().partition("[store.main]")
    copies = '[[instance.copies]]\nstore = "second"\n\n'
    more = f'\n[store.second]\nkind = "local"\npath = "{second}"\n'
    made.config.write_text(f"{before}{copies}[store.main]{after}{more}")
    assert drtool("backup", "-c", made.config).status == 0
    shutil.rmtree(main)
    made.config.write_text(made.config.read_text().replace(str(lost.root), str(fresh.root)))
    identity = ("-i", tmp_path / "dr/identity.txt")
    words = ("restore", "latest", "--to", "local", "--no-count", "--yes", "--yes-replace", platform.node(), *identity)

    refused = drtool(*words, "-c", made.config)
    assert (refused.status, fresh.restored.exists()) == (BucketMissing.exit_status, False)
    assert "--store second" in refused.stderr
    ran = drtool(*words, "--store", "second", "-c", made.config)

    assert ran.status == 0, ran.stderr
    dump = lost.root / "canned/db/database.sql.gz"
    assert [path.read_bytes() for path in fresh.restored.rglob(dump.name)] == [dump.read_bytes()]
    assert [path.suffix for path in second.rglob("receipts/restore-*.sig")] == [".sig"]
    assert not main.exists()


# -- retention -------------------------------------------------------------------------------------------------------


def test_after_nights_of_backup_copy_verify_and_prune_the_copy_keeps_no_more_than_the_first_store(
    two: TwoStores,
) -> None:
    """What runs by itself at night, by the words of the timers; the backup is made up."""
    (two.base / "policy.toml").write_text("[retention]\ndaily = 2\nminimum = 2\nsets_a_day = 50\n")
    two.configure('policy = "policy.toml"')
    verify = next(job for job in JOBS if job.name == "verify")

    taken = []
    for nights_ago in (3, 2, 1, 0):
        taken.append(two.take(days_ago=nights_ago, seed=nights_ago).manifest.set_id)
        assert two.drtool("copy", "latest", "--to", "copy").status == 0
        late = two.drtool(*verify.words).status
        assert late == (0 if nights_ago <= 1 else ObjectiveBreached.exit_status)
        assert two.drtool("prune").status == 0

    for store in ("main", "copy"):
        assert two.catalog(store).set_ids() == taken[-2:]
