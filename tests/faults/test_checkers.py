"""The mutation check of the checkers: whichever check of a backup is switched off, a test fails.

``tests.checkers`` finds every statement that complains by itself, so a new check without a test of its own fails here.
Before that, the broken inputs that no other test has.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drtool.backup_run import Order
from drtool.catalog import BackupSet
from drtool.core.plan import Expect
from drtool.errors import DrtoolError, SetDamaged
from drtool.events import Noticed
from drtool.gitlab.archive import parse_backup_information
from drtool.gitlab.components import TarCount
from drtool.gitlab.judging import judge
from drtool.gitlab.output import read_create_output
from drtool.gitlab.scan import BLOCK, TarScanner
from drtool.installs.omnibus import Omnibus
from drtool.stores.faults import Crash, FaultyStore
from drtool.stores.memory import MemoryStore
from drtool.streams import Tap
from tests import sealed, sets
from tests.contracts.test_verify import Made, failed, judged
from tests.toyhost import SECRET, Bench, make_bench

END = bytes(2 * BLOCK)

# -- broken input that no other test has -----------------------------------------------------------------------------


def header(kind: bytes, size: int = 0, name: str = "member") -> bytes:
    made = tarfile.TarInfo(name)
    made.type, made.size = kind, size
    return made.tobuf(tarfile.GNU_FORMAT)


def extension(kind: bytes, data: bytes) -> bytes:
    return header(kind, len(data)) + data + bytes(-len(data) % BLOCK)


def negative() -> bytes:
    block = bytearray(header(tarfile.REGTYPE))
    block[124:136] = b"\xff" * 12
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


TARS = {
    "after a long name": (extension(b"L", b"name\0") + END, "a long name that belongs to nothing"),
    "longest name": (header(b"L", 2 << 20), "a long name of 2097152 bytes"),
    "pax record without its end": (extension(b"x", b"30 path=short\n"), "a broken pax header"),
    "sparse": (extension(b"x", b"22 GNU.sparse.major=1\n"), "a sparse member"),
    "absurd size": (extension(b"x", b"10 size=x\n"), "a pax header with the size 'x'"),
    "negative size": (negative(), "a negative number"),
}


@pytest.mark.parametrize("name", TARS)
def test_tar_that_is_broken_is_refused_by_its_fault(name: str) -> None:
    content, said = TARS[name]
    with pytest.raises(SetDamaged, match=said):
        TarScanner().feed(content)


def test_component_with_a_part_of_a_block_after_its_end_is_damaged() -> None:
    count = TarCount("lfs.tar.gz")
    count.write(memoryview(sets.tar_of({"a": b"b"}) + b"more"))
    with pytest.raises(SetDamaged, match="breaks off inside a member"):
        count.close()


def test_information_beyond_any_size_is_not_read() -> None:
    with pytest.raises(SetDamaged, match="has 1048577 bytes"):
        parse_backup_information(b"x" * ((1 << 20) + 1))


def test_restore_that_shows_nothing_is_no_restore() -> None:
    with pytest.raises(DrtoolError, match="did not say that the restore is done"):
        judge(Expect.RESTORE_DONE, [], None)


def test_database_that_failed_on_its_own_line_is_an_error() -> None:
    """GitLab before 17 tells it so, and goes on."""
    said = read_create_output(["2026-01-13 03:15:00 UTC -- Dumping PostgreSQL database x ... [FAILED]"])
    assert said.errors == ("Dumping PostgreSQL database x ... [FAILED]",)


@pytest.mark.parametrize(("recipients", "config"), [((), ("age1x",)), (("age1x",), ())])
def test_order_that_seals_to_nobody_is_refused(recipients: tuple[str, ...], config: tuple[str, ...]) -> None:
    with pytest.raises(DrtoolError, match="names nobody"):
        Order("gitlab", Omnibus(), "age", recipients, config).check_seals()


@pytest.fixture(scope="module")
def committed() -> sets.Committed:
    return sets.commit(MemoryStore())


def test_volume_of_fewer_bytes_than_were_stored_is_damaged(committed: sets.Committed) -> None:
    stored = Tap(io.BytesIO(b"few"))
    stored.read()
    with pytest.raises(SetDamaged, match="3 bytes read, the manifest says"):
        committed.open().compare_stored(committed.manifest.volumes[0], stored)


@pytest.mark.parametrize(("place", "said"), [(-1, "the seal is broken"), (60, "other bytes than were stored")])
def test_volume_with_one_other_byte_is_damaged(committed: sets.Committed, place: int, said: str) -> None:
    """The one in the seal's header becomes another letter of base64: anything else breaks the header itself."""
    key = committed.catalog.key(sets.SET_ID, committed.manifest.volumes[0].name)
    good = sets.content(committed.catalog.store, key)
    changed = bytearray(good)
    changed[place] = ord("C" if changed[place] == ord("B") else "B")
    sets.replace(committed.catalog.store, key, bytes(changed))
    with pytest.raises(SetDamaged, match=said):
        committed.open().read_archive("application").read()
    sets.replace(committed.catalog.store, key, good)


def test_volume_that_others_sealed_to_the_same_recipient_is_damaged() -> None:
    """Whoever knows the public key can seal something else, and try until it has the same size."""
    store = MemoryStore()
    one, other = sets.commit(store, seed=1), sets.commit(store, set_id=sets.LATER_SET_ID, seed=2)
    names = [made.catalog.key(made.manifest.set_id, made.manifest.volumes[0].name) for made in (one, other)]
    sets.replace(store, names[0], sets.content(store, names[1]))
    application, *others = one.manifest.archives
    first, *rest = application.volumes
    same_size = replace(first, stored_size=other.manifest.volumes[0].stored_size)
    manifest = replace(one.manifest, archives=(replace(application, volumes=(same_size, *rest)), *others))
    with pytest.raises(SetDamaged, match="unseals to other bytes than were sealed"):
        BackupSet(one.catalog, manifest, one.keys.identities).read_archive("application").read()


@pytest.mark.parametrize("what", ["index", "census"])
def test_index_and_census_that_do_not_inflate_are_damaged(made: Made, what: str) -> None:
    wrong = made.opened.manifest.archive("config")  # intact volumes, and nothing that was compressed
    manifest = made.opened.manifest
    changed = replace(manifest, index=wrong) if what == "index" else replace(manifest, census=wrong)
    opened = BackupSet(made.opened.catalog, changed, made.opened.identities)
    with pytest.raises(SetDamaged, match="the config cannot be read: Error"):
        opened.read_index() if what == "index" else opened.read_census()


def test_set_without_a_signature_is_refused() -> None:
    made = sets.commit(MemoryStore())
    made.catalog.store.delete([made.catalog.key(sets.SET_ID, "manifest.json.sig")])
    with pytest.raises(DrtoolError, match="the set is unsigned"):
        made.open()


def test_volume_that_is_not_there_is_a_problem_when_only_sizes_are_looked_at() -> None:
    made = sets.commit(MemoryStore())
    key = made.catalog.key(sets.SET_ID, made.manifest.volumes[0].name)
    made.catalog.store.delete([key])
    assert list(failed(judged(made.open(), "present"))) == [made.manifest.volumes[0].name]


# -- broken runs, and contents that only the last check tells ---------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    bench = make_bench(tmp_path_factory.mktemp("checkers"), MemoryStore())
    return Made(bench, bench.open(bench.back_up().manifest.set_id))


def test_contents_whose_values_the_same_secrets_do_not_open_are_told(made: Made) -> None:
    """All is signed, counted and indexed; the database is another's."""
    with tarfile.open(fileobj=io.BytesIO(made.plain("application"))) as tar:
        streams = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        files = {name: stream.read() for name, stream in streams.items() if stream}
        order = tar.getmembers()
    (ours,), (others,) = (sealed.seal("H", {"db_key_base": base}) for base in (SECRET, SECRET[::-1]))
    dump = gzip.decompress(files["db/database.sql.gz"])
    assert str(ours).encode() in dump
    files["db/database.sql.gz"] = gzip.compress(dump.replace(str(ours).encode(), str(others).encode()))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for member in order:
            content = files.get(member.name, b"")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    found = failed(judged(made.remade(archives={"application": buffer.getvalue()})))
    assert list(found) == ["secrets"]
    assert "do not fit the database: 1 of 1" in found["secrets"]
    assert "when the set was made: fits" in found["secrets"]


def interrupted(bench: Bench) -> None:
    """GitLab's members are staged, and nothing was sent but the lease."""
    store = FaultyStore(bench.store)
    store.fail_at(2, "before", Crash(), method="put")
    with pytest.raises(Crash):
        bench.back_up(store=store)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda staged: staged.unlink(), "uploads.tar.gz"),
        (lambda staged: staged.write_bytes(staged.read_bytes()[:-5]), "uploads.tar.gz is cut off"),
    ],
    ids=["gone", "cut"],
)
def test_staged_members_that_spoiled_between_two_tries_are_made_anew(
    made: Made, spoil: Callable[[Path], object], said: str
) -> None:
    bench = made.bench
    interrupted(bench)
    spoil(bench.host.backups / "uploads.tar.gz")
    bench.events.clear()
    outcome = bench.back_up()
    assert (outcome.continued, outcome.manifest.verdict) == (False, "green")
    (notice,) = [each for each in bench.events if isinstance(each, Noticed) and each.code == "staged-changed"]
    assert notice.message.startswith("the staged members are no good any more: ")
    assert said in notice.message


# -- every check is missed -------------------------------------------------------------------------------------------

UNIT = "application archive census chains components dump judging model output repositories secrets_check signing"
CASE = "tests/faults/test_false_green_toy.py::test_backup_of_a_broken_gitlab_is_refused_by_name_and_the_next_is_green"
STORE = "tests/faults/test_false_green_toy.py::test_store_that_keeps_less_than_it_was_sent_is_an_error"
TARGET = "fitness isolating isolation policy"
MARKED = """
test_an_unfinished_restore_is_told_by_backup_and_by_the_next_restore
test_a_run_is_not_taken_up_on_another_machine_of_the_same_name
test_undo_without_copies_says_so_and_touches_nothing
test_undo_of_another_restore_than_the_one_under_way_is_refused
test_undo_of_a_run_that_nobody_knows_says_where_to_look
"""
TRACED = """
test_a_run_that_was_begun_without_isolation_is_not_taken_up_as_an_isolated_one
test_a_target_that_was_put_to_work_while_somebody_was_asked_is_not_replaced
test_undo_onto_another_version_than_its_copies_are_of_is_refused_before_it_begins
test_undo_without_the_copy_of_the_configuration_is_refused_before_it_begins
"""
TESTS = (
    *(f"tests/unit/test_{name}.py" for name in UNIT.split()),
    "tests/contracts/test_catalog.py",
    "tests/contracts/test_verify.py",
    "tests/faults/test_volumes.py::test_another_source_on_the_second_try_is_noticed",
    "tests/faults/test_volumes.py::test_a_source_that_lost_only_its_padding_is_noticed",
    f"{CASE}[dump of nothing]",
    f"{CASE}[secrets regenerated]",
    f"{STORE}[application-0002.tar.age-and says nothing]",
    "tests/faults/test_false_green_toy.py::test_secrets_that_are_half_written_are_red_and_named",
    "tests/faults/test_false_green_toy.py::test_secrets_that_were_rotated_are_amber_and_named",
    "tests/faults/test_false_green_toy.py::test_backup_without_any_repository_is_amber_and_counts_them",
    "tests/faults/test_checkers.py",
    *(f"tests/unit/test_{name}.py" for name in TARGET.split()),
    "tests/contracts/test_discard.py",
    "tests/contracts/test_evidence.py",
    "tests/contracts/test_other_stores.py::test_a_restore_goes_on_from_the_store_that_it_was_begun_from_and_no_other",
    "tests/contracts/test_prune.py",
    "tests/contracts/test_upgrades.py::test_backup_that_an_upgrade_overtook_is_none_and_the_next_one_is",
    "tests/faults/test_steps.py",
    *(f"tests/faults/test_restore_target.py::{name}" for name in MARKED.split()),
    "tests/faults/test_restore_safety.py::test_an_unfinished_journal_of_another_drtool_says_what_to_do_with_it",
    *(f"tests/faults/test_restore_traces.py::{name}" for name in TRACED.split()),
)
"""What runs with each check switched off: all that is quick."""

NOBODY_NEEDS = {
    "core.census: _text_of_time": "a census that holds something else cannot be made",
    "core.model: _text_of_time": "a manifest that holds something else cannot be made",
    "gitlab.judging: judge: raise ValueError": "no plan asks it",
    "verify: _judge_stored.saw_from_any_thread": "it ends a thread, and complains to nobody",
}
"""Statements that look like checks of a backup and are none."""


def switch_off(report: Path, *tests: str) -> dict[str, Any]:
    """Run these tests with every check switched off in turn."""
    options = ("-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "tests.checkers")
    command = [sys.executable, "-m", "pytest", *options, f"--switch-off={report}", *tests, "-k", "not switched_off"]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert report.exists(), ran.stdout[-3000:] + ran.stderr[-3000:]
    found: dict[str, Any] = json.loads(report.read_text())
    return found


@pytest.mark.slow
def test_no_check_can_be_switched_off_unnoticed(tmp_path: Path) -> None:
    found = switch_off(tmp_path / "found", *TESTS)
    assert len(found["checks"]) > 150
    assert len(found["tests"]) > 1000
    survivors = {check: tests for check, tests in found["survivors"].items() if not check.startswith((*NOBODY_NEEDS,))}
    assert survivors == {}, "switched off, and no test failed of so many that it complains in"


def test_checks_that_no_test_misses_are_told_when_they_are_switched_off(tmp_path: Path) -> None:
    found = switch_off(tmp_path / "found", "tests/unit/test_components.py::test_what_gnu_tar_writes_is_counted")
    assert list(found["survivors"]) == found["checks"] != []
