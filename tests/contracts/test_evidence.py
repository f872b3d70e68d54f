"""Receipts prove that a set was read whole and found good; nothing else does, and what is newer is true."""

from __future__ import annotations

import itertools

import pytest

from drtool.catalog import Catalog
from drtool.core.model import Manifest
from drtool.errors import StoreTransient
from drtool.events import Event, Noticed, ignore
from drtool.evidence import weigh
from drtool.receipts import RecordOffice, verify_on_record
from drtool.stores.faults import FaultyStore
from tests import sets
from tests.lives import clock, live, set_id, verifier, write_receipt


@pytest.fixture
def catalog() -> Catalog:
    return live([0], verified=[])


@pytest.fixture
def manifest(catalog: Catalog) -> Manifest:
    return catalog.read_manifest(set_id(0), verifier())


def proof(catalog: Catalog, manifest: Manifest) -> str:
    return weigh(catalog, {manifest.set_id: manifest}, verifier(), ignore)[manifest.set_id]


def test_a_set_without_a_receipt_is_not_verified(catalog: Catalog, manifest: Manifest) -> None:
    assert proof(catalog, manifest) == "unverified"


def test_what_verify_leaves_is_believed(catalog: Catalog, manifest: Manifest) -> None:
    tokens = (f"{number:04x}" for number in itertools.count())
    office = RecordOffice(sets.keys().signer, verifier(), True, clock(0), ignore, lambda: next(tokens))
    opened = sets.Committed(catalog, manifest, {}, sets.keys()).open()

    verify_on_record(opened, "digest", office)
    assert proof(catalog, manifest) == "verified"

    office.clock.sleep(clock(1).now() - clock(0).now())
    lost = catalog.key(manifest.set_id, manifest.volumes[0].name)
    sets.replace(catalog.store, lost, b"?" * manifest.volumes[0].stored_size)
    verify_on_record(opened, "digest", office)
    assert proof(catalog, manifest) == "damaged"


def test_samples_count_when_together_they_read_everything(catalog: Catalog, manifest: Manifest) -> None:
    first, *others = [volume.name for volume in manifest.volumes]

    write_receipt(catalog, manifest, good=[first])
    assert proof(catalog, manifest) == "unverified"
    write_receipt(catalog, manifest, good=others, days=1)
    assert proof(catalog, manifest) == "verified"


def test_a_judgement_of_the_contents_is_one_of_everything(catalog: Catalog, manifest: Manifest) -> None:
    write_receipt(catalog, manifest, level="contents", good=["application"])

    assert proof(catalog, manifest) == "verified"


@pytest.mark.parametrize("level", ["digest", "contents"])
def test_what_was_found_last_is_true(catalog: Catalog, manifest: Manifest, level: str) -> None:
    write_receipt(catalog, manifest)
    write_receipt(catalog, manifest, level=level, problems=1, days=1)
    assert proof(catalog, manifest) == "damaged"

    write_receipt(catalog, manifest, days=2)  # put right from another copy
    assert proof(catalog, manifest) == "verified"


def test_a_sample_after_damage_does_not_hide_it(catalog: Catalog, manifest: Manifest) -> None:
    write_receipt(catalog, manifest, problems=1)
    write_receipt(catalog, manifest, good=[manifest.volumes[0].name], days=1)

    assert proof(catalog, manifest) == "damaged"


@pytest.mark.parametrize(
    "wrong",
    [
        {"purpose": "restore"},
        {"instance": "another"},
        {"set_id": set_id(7)},
        {"level": "present"},
        {"signature": "not checked"},
        {"finished_at": "2020-01-01T00:00:00+00:00"},
        {"finished_at": "yesterday"},
        {"problems": None},
        {"good": None},
    ],
    ids=str,
)
def test_a_receipt_of_something_else_proves_nothing(
    catalog: Catalog, manifest: Manifest, wrong: dict[str, object]
) -> None:
    write_receipt(catalog, manifest, **wrong)  # type: ignore[arg-type]  # as a test says
    if wrong == {"good": None}:
        key = catalog.receipts("verify-")[0]
        text = catalog.read_receipt(key)[0].replace(b'"good"', b'"bad"')
        catalog.put_bytes(key, text)
        catalog.put_bytes(f"{key}.sig", sets.keys().signer.sign(text))

    assert proof(catalog, manifest) == "unverified"


def test_a_receipt_signed_by_somebody_else_is_ignored_and_told(catalog: Catalog, manifest: Manifest) -> None:
    write_receipt(catalog, manifest, signer=sets.new_keys().signer)
    told: list[Event] = []

    assert weigh(catalog, {manifest.set_id: manifest}, verifier(), told.append) == {manifest.set_id: "unverified"}
    assert [event.code for event in told if isinstance(event, Noticed)] == ["receipt-ignored"]


def test_an_old_receipt_under_a_newer_name_hides_nothing(catalog: Catalog, manifest: Manifest) -> None:
    """Who may write to the store, and not sign, can still copy what was signed."""
    good = write_receipt(catalog, manifest)
    bad = write_receipt(catalog, manifest, problems=1, days=1)
    text, signature = catalog.read_receipt(good)
    catalog.put_bytes(bad.replace("-0000.json", "-ffff.json"), text)
    catalog.put_bytes(bad.replace("-0000.json", "-ffff.json.sig"), signature)

    assert proof(catalog, manifest) == "damaged"


def test_a_receipt_that_is_cut_off_or_unsigned_is_ignored(catalog: Catalog, manifest: Manifest) -> None:
    key = write_receipt(catalog, manifest)
    catalog.store.delete([f"{key}.sig"])
    assert proof(catalog, manifest) == "unverified"

    catalog.put_bytes(key, b"{")
    catalog.put_bytes(f"{key}.sig", sets.keys().signer.sign(b"{"))
    assert proof(catalog, manifest) == "unverified"


def test_a_store_that_fails_is_no_evidence_against_a_set(catalog: Catalog, manifest: Manifest) -> None:
    write_receipt(catalog, manifest)
    faulty = FaultyStore(catalog.store)
    faulty.fail_at(1, method="open")

    with pytest.raises(StoreTransient):
        weigh(Catalog(faulty, sets.INSTANCE), {manifest.set_id: manifest}, verifier(), ignore)
