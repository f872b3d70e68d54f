"""What `list` says of sets without reading a volume: whose they are, what is odd, and nothing that is not known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drtool.catalog import MANIFEST, PIN, SIGNATURE, Catalog
from drtool.core.model import render_manifest
from drtool.hosts.local import LocalRunner
from drtool.listing import Row, list_rows
from drtool.marks import write_tombstone
from drtool.prune import pin
from drtool.report_listing import list_text
from drtool.signing import Verifier
from drtool.stores.faults import FaultyStore
from drtool.stores.local import LocalStore
from tests import sets
from tests.lives import DAY, clock, live, make_red, set_id, verifier
from tests.playground import drtool

NIGHTS = range(4)
NOBODY = Verifier((), LocalRunner())


@pytest.fixture
def catalog() -> Catalog:
    return live(NIGHTS)


def rows_of(catalog: Catalog, night: int = 3) -> list[Row]:
    """The rows, as they are some hours after a night."""
    return list_rows(catalog, verifier(), clock(night).now())


def shown(catalog: Catalog, night: int = 3, trusted: Verifier | None = None) -> str:
    rows = list_rows(catalog, trusted or verifier(), clock(night).now())
    text = list_text(rows, catalog.instance, catalog.store.name)
    assert max(map(len, text.splitlines())) <= 80
    return text


def line_of(catalog: Catalog, night: int, trusted: Verifier | None = None) -> str:
    (line,) = [line for line in shown(catalog, trusted=trusted).splitlines() if line.startswith(set_id(night))]
    return line


def unsign(catalog: Catalog) -> None:
    catalog.store.delete([catalog.key(set_id(1), SIGNATURE)])


def sign_as_a_stranger(catalog: Catalog) -> None:
    catalog.commit(catalog.read_manifest(set_id(1), None), sets.new_keys().signer)


def change(catalog: Catalog) -> None:
    manifest = catalog.read_manifest(set_id(1), None)
    facts = dataclasses.replace(manifest.gitlab, version="99.9.9-ee\x1b[2J")
    sets.replace(
        catalog.store, catalog.key(set_id(1), MANIFEST), render_manifest(dataclasses.replace(manifest, gitlab=facts))
    )


def overwrite(catalog: Catalog) -> None:
    sets.replace(catalog.store, catalog.key(set_id(1), MANIFEST), b"\xff{")


def overwrite_and_sign(catalog: Catalog) -> None:
    sets.replace(catalog.store, catalog.key(set_id(1), SIGNATURE), sets.keys().signer.sign(b"[]"))
    sets.replace(catalog.store, catalog.key(set_id(1), MANIFEST), b"[]")


def put_another_in_its_place(catalog: Catalog) -> None:
    for name in (MANIFEST, SIGNATURE):
        other = sets.content(catalog.store, catalog.key(set_id(0), name))
        sets.replace(catalog.store, catalog.key(set_id(1), name), other)


def write_a_newer_format(catalog: Catalog) -> None:
    text = b'{"format": 2}'
    sets.replace(catalog.store, catalog.key(set_id(1), SIGNATURE), sets.keys().signer.sign(text))
    sets.replace(catalog.store, catalog.key(set_id(1), MANIFEST), text)


BAD: tuple[tuple[Callable[[Catalog], None], str, str], ...] = (
    (unsign, "missing", "UNSIGNED"),
    (sign_as_a_stranger, "invalid", "UNKNOWN SIGNER"),
    (change, "invalid", "UNKNOWN SIGNER"),
    (overwrite, "invalid", "UNREADABLE"),
    (overwrite_and_sign, "not checked", "UNREADABLE"),
    (put_another_in_its_place, "not checked", "UNREADABLE"),
    (write_a_newer_format, "not checked", "UNREADABLE"),
)


@pytest.mark.parametrize(("spoil", "signature", "words"), BAD, ids=[spoil.__name__ for spoil, *_ in BAD])
def test_a_bad_manifest_is_marked_and_hides_no_other(
    catalog: Catalog, spoil: Callable[[Catalog], None], signature: str, words: str
) -> None:
    spoil(catalog)

    rows = rows_of(catalog)

    assert [row.set_id for row in rows] == [set_id(night) for night in NIGHTS]
    assert [row.signature for row in rows] == ["valid", signature, "valid", "valid"]
    assert [bool(row.problem) for row in rows] == [False, True, False, False]
    assert line_of(catalog, 1).endswith(words)
    assert all(line_of(catalog, night).endswith("  ok") for night in (0, 2, 3))
    assert "\x1b" not in shown(catalog)


@pytest.mark.parametrize("spoil", [unsign, sign_as_a_stranger, change])
def test_what_an_unsigned_manifest_says_is_never_shown_as_known(
    catalog: Catalog, spoil: Callable[[Catalog], None]
) -> None:
    spoil(catalog)

    version, repositories, amount, unit = line_of(catalog, 1).split()[1:5]

    assert version.endswith("?") and repositories.endswith("?") and (amount + unit).endswith("?")
    assert "?" not in line_of(catalog, 0)
    assert "only\n        what it says of itself" in shown(catalog)


def test_a_forged_manifest_cannot_break_the_list(catalog: Catalog) -> None:
    manifest = catalog.read_manifest(set_id(1), None)
    volume = dataclasses.replace(manifest.index.volumes[0], stored_size=10**400)
    bent = dataclasses.replace(
        manifest,
        gitlab=dataclasses.replace(manifest.gitlab, version="18\n20260113T031500Z-0000  ok" * 9, repositories=10**90),
        index=dataclasses.replace(manifest.index, volumes=(volume,)),
    )
    sets.replace(catalog.store, catalog.key(set_id(1), MANIFEST), render_manifest(bent))

    assert line_of(catalog, 1).split()[1:] == ["?", "?", "?", "UNKNOWN", "SIGNER"]
    assert shown(catalog).count("  ok") == 3


def test_a_set_of_the_future_a_pinned_a_red_and_a_going_one_are_marked(catalog: Catalog) -> None:
    make_red(catalog, 0)
    pin(catalog, set_id(1), reason="wait", by="root", clock=clock(3))
    write_tombstone(catalog, set_id(2), sets.NIGHT, "no rule keeps it")

    rows = rows_of(catalog, night=2)

    assert [row.verdict for row in rows] == ["red", "green", "green", "green"]
    assert [row.pinned for row in rows] == [False, True, False, False]
    assert [row.being_removed for row in rows] == [False, False, True, False]
    assert [row.future for row in rows] == [False, False, False, True]
    text = shown(catalog, night=2)
    for words in ("  RED\n", "  ok, pinned\n", "  ok, being removed\n", "  ok, FUTURE\n", "never `latest`"):
        assert words in text
    assert "FUTURE" not in shown(catalog)


def test_a_set_that_the_store_had_before_its_date_is_of_the_future_for_ever(catalog: Catalog) -> None:
    store = catalog.store
    store.moved[set_id(3)] = -DAY  # type: ignore[attr-defined]  # a DatedStore

    assert [row.future for row in rows_of(catalog, night=90)] == [False, False, False, True]


def test_where_no_key_is_trusted_that_is_said_once_and_nothing_counts_as_known(catalog: Catalog) -> None:
    make_red(catalog, 0)

    rows = list_rows(catalog, NOBODY, clock(3).now())
    text = shown(catalog, trusted=NOBODY)

    assert {row.signature for row in rows} == {"not checked"}
    assert text.count("trusted_signers") == 1
    assert line_of(catalog, 1, trusted=NOBODY).count("?") == 3
    assert line_of(catalog, 0, trusted=NOBODY).endswith("RED")


def test_everything_at_once_stays_within_eighty_columns_and_many_bad_ones_do_not_fill_the_screen() -> None:
    catalog = live(range(20))
    for night in range(10, 20):
        sets.replace(catalog.store, catalog.key(set_id(night), MANIFEST), b"{}")
    sign_as_a_stranger(catalog)
    catalog.put_bytes(catalog.key(set_id(1), PIN), b"?")
    write_tombstone(catalog, set_id(1), sets.NIGHT, "?")

    text = shown(catalog, night=0)

    assert all(words in text for words in ("UNKNOWN SIGNER", "FUTURE", "pinned", "being removed"))
    assert text.count("not a manifest") == 5 and "and 5 more" in text


def test_listing_reads_no_volume_and_writes_nothing(catalog: Catalog) -> None:
    counting = FaultyStore(catalog.store)

    list_rows(Catalog(counting, sets.INSTANCE), verifier(), clock(3).now())

    assert {call.method for call in counting.calls} == {"list", "open"}
    assert {call.key.rpartition("/")[2] for call in counting.calls if call.method == "open"} == {MANIFEST, SIGNATURE}


def test_nothing_in_a_store_is_told_as_such() -> None:
    assert "No backup of gitlab in" in shown(live([]))


CONFIG = """\
state_dir = "state"
[[instance]]
name = "gitlab"
store = "main"
trusted_signers = ["{trusted}"]
[store.main]
kind = "local"
path = "main"
"""


def test_the_command_tells_whose_each_set_is_and_a_forged_latest_leads_to_it(tmp_path: Path) -> None:
    config = tmp_path / "drtool.toml"
    config.write_text(CONFIG.format(trusted=sets.keys().public_key))
    (tmp_path / "main").mkdir()
    store = LocalStore(tmp_path / "main")
    sets.commit(store)
    sets.commit(store, set_id=sets.LATER_SET_ID, keys_=sets.new_keys())

    listed = drtool("list", "--json", "--config", config)
    latest = drtool("show", "latest", "--config", config)

    assert listed.status == 0
    assert [row["signature"] for row in listed.last["sets"]] == ["valid", "invalid"]
    assert latest.status == 27 and "`drtool list`" in latest.stderr
    assert drtool("show", sets.SET_ID, "--config", config).status == 0


def test_a_set_of_next_year_is_never_the_latest_for_any_command(tmp_path: Path) -> None:
    config = tmp_path / "drtool.toml"
    config.write_text(CONFIG.format(trusted=sets.keys().public_key))
    (tmp_path / "main").mkdir()
    store = LocalStore(tmp_path / "main")
    sets.commit(store)
    ahead = sets.commit(store, set_id=f"{datetime.now(UTC).year + 2}0113T031500Z-7f3a").manifest.set_id

    said = drtool("show", "latest", "--json", "--config", config)
    verified = drtool("verify", "--level", "present", "--config", config)

    assert (said.status, said.last["set_id"]) == (0, sets.SET_ID)
    assert ahead in json.dumps(said.lines[:-1])
    assert verified.status == 0 and sets.SET_ID in verified.stdout and ahead in verified.stderr
    assert drtool("show", ahead, "--config", config).status == 0
