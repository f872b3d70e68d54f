"""A second copy, as the operator meets it: configured, made after every backup, made by hand, and failing loudly."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.errors import BucketMissing, ConfigError
from tests.playground import Playground, playground, snapshot

pytestmark = pytest.mark.engine("postgresql")

COPIES = '[[instance.copies]]\nstore = "second"\n\n[store.second]\nkind = "local"\npath = "{path}"\n\n[store.main]'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    with playground(tmp_path_factory.mktemp("copies")) as made:
        yield made


def _configured(place: Playground, second: Path) -> Path:
    return place.configure(f"{second.name}.toml", ("[store.main]", COPIES.format(path=second)))


def _sets(store: Path) -> dict[str, tuple[int, bytes]]:
    found = snapshot(store)
    files = {name.removeprefix(str(store)): entry for name, entry in found.items() if Path(name).is_file()}
    return {name: entry for name, entry in files.items() if "/lease/" not in name}  # each store has its own


def test_a_backup_is_copied_to_every_store_that_the_configuration_names(place: Playground, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    config = _configured(place, second)

    ran = place.drtool("backup", "--config", config, "--json")
    set_id = ran.last["manifest"]["set_id"]

    assert ran.status == 0
    assert [copied["store"] for copied in ran.last["copies"]] == [str(second)]
    assert {name for name in _sets(second) if set_id in name} == {name for name in _sets(place.store) if set_id in name}

    shutil.rmtree(second / "gitlab")
    again = place.drtool("copy", set_id, "--to", "second", "--config", config)
    assert again.status == 0
    assert f"{set_id} copied to {second}" in again.stdout
    assert _sets(second).items() <= _sets(place.store).items()


def test_a_backup_whose_copy_fails_is_not_green_and_says_how_to_make_it(place: Playground, tmp_path: Path) -> None:
    config = _configured(place, tmp_path / "nowhere")
    before = len(place.drtool("list", "--json").last["sets"])

    ran = place.drtool("backup", "--config", config)

    assert ran.status == BucketMissing.exit_status
    assert "has no copy in second" in ran.stderr
    assert "--to second" in ran.stderr
    assert len(place.drtool("list", "--json").last["sets"]) == before + 1


def test_copying_to_a_store_that_is_not_configured_names_those_that_are(place: Playground) -> None:
    assert place.drtool("backup").status == 0

    ran = place.drtool("copy", "latest", "--to", "elsewhere")

    assert ran.status == ConfigError.exit_status
    assert "[store.elsewhere]" in ran.stderr
    assert "main" in ran.stderr


def test_a_restore_is_planned_from_the_store_that_is_named_though_the_first_is_gone(
    place: Playground, tmp_path: Path
) -> None:
    second, away = tmp_path / "second", tmp_path / "away"
    second.mkdir()
    config = _configured(place, second)
    assert place.drtool("backup", "--config", config).status == 0
    place.store.rename(away)
    words = ("restore", "latest", "--to", "local", "--yes-replace", platform.node(), "--dry-run", "--config", config)

    without = place.drtool(*words)
    ran = place.drtool(*words, "--store", "second", "--json")
    away.rename(place.store)

    assert without.status == BucketMissing.exit_status
    assert (ran.status, ran.last.get("store")) == (0, "second"), ran.stdout


@pytest.mark.parametrize(
    ("copies", "reason"),
    [
        ('[[instance.copies]]\nstore = "nowhere"\n\n[store.main]', "there is no [store.nowhere]"),
        ('[[instance.copies]]\nstore = "main"\n\n[store.main]', "keeps two copies in store 'main'"),
    ],
)
def test_a_copy_that_cannot_be_one_is_refused_by_name(place: Playground, copies: str, reason: str) -> None:
    config = place.configure("refused.toml", ("[store.main]", copies))

    ran = place.drtool("list", "--config", config)

    assert ran.status == ConfigError.exit_status
    assert reason in ran.stderr
