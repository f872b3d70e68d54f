"""``verify`` at its three levels, on the record, and as CI sees it. Every check is fed what it must refuse."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from drtool.catalog import BackupSet, Catalog
from drtool.core.census import Census
from drtool.core.model import Archive, Fingerprint, IndexedMember, Manifest
from drtool.errors import ConfigError, IdentityMismatch
from drtool.events import Event, Noticed, ignore
from drtool.gitlab.archive import TarScanner
from drtool.hosts.local import LocalRunner
from drtool.journal import Journal
from drtool.junit import render_junit
from drtool.receipts import RecordOffice, last_read, verify_on_record
from drtool.signing import Signer, Verifier
from drtool.stores.memory import MemoryStore
from drtool.streams import CHUNK, parse_recipients
from drtool.verify import Level, Verdict, choose, judge_age, verify
from drtool.volumes import VolumeWriter
from tests import sets
from tests.toyhost import Bench, make_bench

Index = dict[str, list[IndexedMember]]


@dataclass(frozen=True)
class Made:
    """A toy's backup, and the means to make others like it that are wrong in one thing and signed all the same."""

    bench: Bench
    opened: BackupSet

    def plain(self, archive: str) -> bytes:
        with self.opened.read_archive(archive) as stream:
            return b"".join(iter(lambda: stream.read(CHUNK), b""))

    def remade(
        self,
        *,
        archives: dict[str, bytes] | None = None,
        index: Callable[[Index], Index] = lambda index: index,
        census: Callable[[Census], Census] = lambda census: census,
        manifest: Callable[[Manifest], Manifest] = lambda manifest: manifest,
    ) -> BackupSet:
        """The same set on another store, with what is given in place of what was there."""
        catalog = Catalog(MemoryStore(), self.opened.catalog.instance)
        keys = parse_recipients((self.bench.identity[1],))
        good = self.opened.manifest
        written, found = [], {}
        for archive in good.archives:
            with tempfile.TemporaryDirectory() as scratch:
                scanner = TarScanner()
                writer = VolumeWriter(catalog, good.set_id, Journal(Path(scratch, "x.jsonl")), 1 << 30, 1, ignore)
                content = (archives or {}).get(archive.name) or self.plain(archive.name)
                with tempfile.TemporaryFile() as file:
                    file.write(content)
                    file.seek(0)
                    volumes = writer.write(archive.name, file, scanner, keys)
            files = [member for member in scanner.members if member.kind == "file"]
            found[archive.name] = [IndexedMember(member.name, member.offset, member.size) for member in files]
            written.append(replace(archive, volumes=volumes, members=len(scanner.members)))
        counted = catalog.put_census(good.set_id, census(self.opened.read_census()), keys)
        made = replace(
            good,
            archives=tuple(written),
            index=replace(good.index, volumes=(catalog.put_index(good.set_id, index(found), keys),)),
            census=Archive("census", "age", good.index.recipients, 0, (counted,)),
        )
        catalog.commit(manifest(made), Signer(self.bench.signing_key, LocalRunner()))
        return BackupSet(catalog, catalog.read_manifest(good.set_id, None), self.opened.identities)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    bench = make_bench(tmp_path_factory.mktemp("verify"), MemoryStore())
    return Made(bench, bench.open(bench.back_up().manifest.set_id))


def judged(opened: BackupSet, level: Level = "contents") -> Verdict:
    return verify(opened, level, signed=True, clock=sets.StillClock(), emit=ignore)


def failed(verdict: Verdict) -> dict[str, str]:
    return {check.name: " ".join(check.problems) for check in verdict.checks if check.problems}


def without(content: bytes, name: str) -> bytes:
    """A tar without one of its members."""
    scanner = TarScanner()
    scanner.feed(content)
    (member,) = [member for member in scanner.members if member.name == name]
    return content[: member.offset - 512] + content[member.offset + -(-member.size // 512) * 512 :]


def name_of(made: Made, end: str) -> str:
    (name,) = [member.name for member in made.opened.read_index()["application"] if member.name.endswith(end)][:1]
    return name


# -- contents --------------------------------------------------------------------------------------------------------


def test_contents_of_a_good_set_are_good(made: Made) -> None:
    verdict = judged(made.opened)
    assert verdict.problems == ()
    assert [check.name for check in verdict.checks] == [
        "verdict",
        "index",
        "configuration",
        "application",
        "census",
        "secrets",
    ]
    assert verdict.bytes_read == made.opened.manifest.plain_size
    assert judged(made.remade()).problems == ()


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("backup_information.yml", "backup_information.yml"),
        ("db/database.sql.gz", "db/database.sql.gz is missing"),
        (".toml", "manifest"),
        ("001.bundle", "bundle"),
        ("001.refs", "refs"),
    ],
)
def test_contents_without_a_member_name_it(made: Made, end: str, said: str) -> None:
    found = failed(
        judged(made.remade(archives={"application": without(made.plain("application"), name_of(made, end))}))
    )
    assert said in found["application"]


def test_contents_with_a_broken_member_name_it(made: Made) -> None:
    content = bytearray(made.plain("application"))
    (bundle,) = [m for m in made.opened.read_index()["application"] if m.name == name_of(made, "001.bundle")]
    content[bundle.offset + bundle.size - 30] ^= 1
    assert bundle.name in failed(judged(made.remade(archives={"application": bytes(content)})))["application"]


def test_contents_cut_off_are_told(made: Made) -> None:
    cut = made.remade(archives={"config": made.plain("config")})
    short = made.plain("application")[:-10240]
    with pytest.raises(Exception, match="cut off"):  # such an archive is never stored by a backup
        made.remade(archives={"application": short})
    assert judged(cut).problems == ()


def test_contents_without_the_secrets_name_them(made: Made) -> None:
    config = without(made.plain("config"), "etc/gitlab/gitlab-secrets.json")
    found = failed(judged(made.remade(archives={"config": config})))
    assert "etc/gitlab/gitlab-secrets.json is missing" in found["configuration"]
    assert "db_key_base was lost" in found["secrets"]


def test_contents_with_other_secrets_say_that_they_changed(made: Made) -> None:
    config = made.plain("config").replace(b"0b5e55ed" * 16, b"0b5e55ee" * 16)
    found = failed(judged(made.remade(archives={"config": config})))
    assert set(found) == {"secrets"}
    assert "db_key_base was replaced" in found["secrets"]


def test_contents_whose_fingerprints_are_of_others_say_so(made: Made) -> None:
    def changed(manifest: Manifest) -> Manifest:
        assert manifest.secrets
        prints = (Fingerprint("db_key_base", ("00" * 16,)),)
        return replace(manifest, secrets=replace(manifest.secrets, fingerprints=prints))

    assert set(failed(judged(made.remade(manifest=changed)))) == {"secrets"}
    assert set(failed(judged(made.remade(manifest=lambda manifest: replace(manifest, secrets=None))))) == {"secrets"}


def test_contents_that_the_index_does_not_show_are_told(made: Made) -> None:
    def shifted(index: Index) -> Index:
        first, *rest = index["application"]
        return {**index, "application": [replace(first, offset=first.offset + 512), *rest]}

    assert failed(judged(made.remade(index=shifted))) == {"application": "its members are not those of the index"}


def test_contents_that_were_counted_otherwise_are_told(made: Made) -> None:
    found = failed(judged(made.remade(census=lambda census: replace(census, users=census.users + 1))))
    assert set(found) == {"census"}
    assert "users" in found["census"]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda manifest: replace(manifest, contents=()), "census"),
        (lambda manifest: replace(manifest, census=None), "census"),
        (lambda manifest: replace(manifest, gitlab=replace(manifest.gitlab, repositories=3)), "application"),
        (lambda manifest: replace(manifest, gitlab=replace(manifest.gitlab, version="18.9.2-ee")), "application"),
        (lambda manifest: replace(manifest, gitlab=replace(manifest.gitlab, backup_id="other")), "application"),
        (lambda manifest: replace(manifest, gitlab=replace(manifest.gitlab, disabled=())), "application"),
        (lambda manifest: replace(manifest, archives=_with_more_members(manifest)), "application"),
    ],
)
def test_contents_that_the_manifest_describes_otherwise_are_told(
    made: Made, change: Callable[[Manifest], Manifest], check: str
) -> None:
    assert check in failed(judged(made.remade(manifest=change)))


def _with_more_members(manifest: Manifest) -> tuple[Archive, ...]:
    application, *others = manifest.archives
    return (replace(application, members=application.members + 1), *others)


def test_contents_need_an_identity(made: Made) -> None:
    with pytest.raises(IdentityMismatch):
        judged(replace(made.opened, identities=sets.keys().identities))


def test_red_set_stays_red_at_every_level(made: Made) -> None:
    from drtool.core.model import Finding

    red = Finding("incomplete", "the dump is cut off", severity="red")
    opened = made.remade(manifest=lambda manifest: replace(manifest, verdict="red", findings=(red,)))
    for level in ("present", "digest", "contents"):
        assert failed(judged(opened, level)) == {"verdict": "the dump is cut off"}


# -- age, samples, receipts ------------------------------------------------------------------------------------------


def test_age_is_one_more_check(made: Made) -> None:
    verdict = judged(made.opened, "present")
    taken = made.opened.manifest.created_at
    assert judge_age(verdict, taken + timedelta(hours=25), timedelta(hours=26)).problems == ()
    late = judge_age(verdict, taken + timedelta(hours=31), timedelta(hours=26))
    assert late.problems == ("taken 31 hours ago, more than 26 hours",)
    assert late.checks[-1].name == "age"


def test_set_from_the_future_is_not_new(made: Made) -> None:
    """A host whose clock was wrong for one night; its set is the latest for years."""
    verdict = judged(made.opened, "present")
    taken = made.opened.manifest.created_at
    assert judge_age(verdict, taken - timedelta(minutes=20), timedelta(hours=26)).problems == ()
    (problem,) = judge_age(verdict, taken - timedelta(hours=30), timedelta(hours=26)).problems
    assert problem.startswith("taken 30 hours in the future")


@dataclass
class Office:
    """A record office whose clock goes on by a day with every verification."""

    made: Made
    catalog: Catalog
    clock: sets.StillClock
    events: list[Event]
    days: int = 0

    def verify(self, opened: BackupSet, share: float | None = None, **changed: Any) -> Verdict:
        self.clock.sleep(timedelta(days=1))
        self.days += 1
        runner = LocalRunner()
        trusted = self.made.bench.signing_key.with_name("key.pub").read_text().strip()
        office = RecordOffice(
            Signer(self.made.bench.signing_key, runner),
            Verifier((trusted,), runner),
            True,
            self.clock,
            self.events.append,
            lambda: f"{self.days:04x}",
        )
        self.office = replace(office, **changed)
        return verify_on_record(opened, "digest", self.office, share)


def an_office(made: Made) -> tuple[Office, BackupSet]:
    bench = make_bench(Path(tempfile.mkdtemp()), MemoryStore())
    bench.volume_size = 4 << 10
    opened = bench.open(bench.back_up().manifest.set_id)
    assert len(opened.manifest.volumes) > 12
    return Office(Made(bench, opened), opened.catalog, sets.StillClock(), []), opened


def test_samples_come_round_to_every_volume(made: Made) -> None:
    office, opened = an_office(made)
    everything = {volume.name for volume in opened.manifest.volumes}
    looked_at: list[str] = []
    while set(looked_at) != everything:
        names = [check.name for check in office.verify(opened, 0.2).checks if check.name != "verdict"]
        assert 0 < len(names) < len(everything)
        if set(names) & set(looked_at):  # nothing is read again while something was not read at all
            assert {*names, *looked_at} == everything
        looked_at += names
    assert office.days <= 7
    assert set(last_read(opened, office.office)) >= everything


def test_sample_finds_damage_in_its_volumes_and_reads_it_again(made: Made) -> None:
    office, opened = an_office(made)
    first = opened.manifest.volumes[0]
    key = opened.catalog.key(opened.manifest.set_id, first.name)
    content = bytearray(sets.content(opened.catalog.store, key))
    content[100] ^= 1
    sets.replace(opened.catalog.store, key, bytes(content))
    for _ in range(2):
        verdict = office.verify(opened, 0.01)
        assert [check.name for check in verdict.checks if check.problems] == [first.name]


def test_forged_and_unsigned_receipts_do_not_count(made: Made) -> None:
    office, opened = an_office(made)
    names = [volume.name for volume in opened.manifest.volumes]
    receipt = {"level": "digest", "set_id": opened.manifest.set_id, "finished_at": "2099", "good": names}
    run = f"verify-{opened.manifest.set_id}-20990101T000000Z-ffff"
    opened.catalog.put_receipt(run, json.dumps(receipt).encode(), sets.keys().signer)
    opened.catalog.put_receipt(f"{run}0", json.dumps(receipt).encode(), None)
    verdict = office.verify(opened, 0.01)
    assert verdict.checks[1].name == names[0]
    assert sum(isinstance(event, Noticed) and event.code == "receipt-ignored" for event in office.events) == 2


def test_sample_without_a_signing_key_is_refused(made: Made) -> None:
    office, opened = an_office(made)
    with pytest.raises(ConfigError, match="signing_key"):
        office.verify(opened, 0.5, signer=None)


def test_choice_takes_at_least_one_volume_and_the_longest_unread_first(made: Made) -> None:
    volumes = made.opened.manifest.volumes
    read = {volume.name: f"2026-01-{number:02}" for number, volume in enumerate(reversed(volumes), 1)}
    assert choose(made.opened, read, 0.0001) == (volumes[-1],)
    assert set(choose(made.opened, read, 1.0)) == set(volumes)
    assert choose(made.opened, {volumes[0].name: "2026"}, 0.0001) == (volumes[1],)


# -- JUnit -----------------------------------------------------------------------------------------------------------


def test_junit_shows_every_check_and_fails_with_it(made: Made) -> None:
    config = without(made.plain("config"), "etc/gitlab/gitlab-secrets.json")
    verdict = judged(made.remade(archives={"config": config}))
    suite = ElementTree.fromstring(render_junit(verdict, instance="toy", store="memory"))
    assert suite.get("tests") == str(len(verdict.checks))
    assert suite.get("failures") == "2"
    assert {case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None} == {
        "configuration",
        "secrets",
    }
    good = ElementTree.fromstring(render_junit(judged(made.opened), instance="toy", store="memory"))
    assert good.get("failures") == "0"
    assert not list(good.iter("failure"))


def test_junit_of_odd_text_is_xml_still(made: Made) -> None:
    verdict = judged(made.opened, "present")
    odd = replace(verdict.checks[0], problems=("a\x00b\x1b[0m <&>\ud800\nmore",))
    suite = ElementTree.fromstring(
        render_junit(replace(verdict, checks=(odd,)), instance="t<oy>", store="memory & more")
    )
    assert suite.find("testcase/failure") is not None
