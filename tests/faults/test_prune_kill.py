"""kill -9 at random moments of the prune command, and two at once: what stays is whole, the next one finishes."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests import sets
from tests.contracts.test_keeping import Kept, lay_out
from tests.playground import start

pytestmark = pytest.mark.slow

NIGHTS, KEPT, KILLS = 12, 2, 8


def assert_kept_sets_are_whole(kept: Kept) -> None:
    for store in ("main", "copy"):
        catalog = kept.catalog(store)
        listed = catalog.set_ids()
        assert {*kept.sets[-KEPT:]} <= {*listed}
        for set_id in listed:
            manifest = catalog.read_manifest(set_id, sets.keys().verifier)
            assert all(
                catalog.stat_volume(set_id, volume.name).size == volume.stored_size for volume in manifest.volumes
            )


def test_two_prunes_at_once_that_are_killed_harm_nothing_and_the_next_one_finishes(tmp_path: Path) -> None:
    kept = lay_out(tmp_path, NIGHTS)
    began = time.monotonic()
    assert kept.drtool("prune", "--dry-run").status == 0
    seconds = (time.monotonic() - began) * 1.5
    moments = random.Random(7)

    killed = 0
    for _ in range(KILLS):
        running = [start("prune", "--config", kept.base / "drtool.toml") for _ in range(2)]
        for process in running:
            time.sleep(moments.uniform(0, seconds / 2))
            process.send_signal(signal.SIGKILL)
        for process in running:
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
        assert_kept_sets_are_whole(kept)

    assert killed > KILLS // 2
    assert kept.drtool("prune").status == 0
    assert kept.catalog().recorded() == kept.catalog("copy").recorded() == (kept.sets[-KEPT:], [])


def test_of_two_prunes_at_once_both_end_well_or_one_says_that_it_is_busy(tmp_path: Path) -> None:
    kept = lay_out(tmp_path, NIGHTS)

    running = [start("prune", "--config", kept.base / "drtool.toml") for _ in range(2)]
    for process in running:
        process.communicate()

    assert sorted(process.returncode for process in running) in ([0, 0], [0, 17])
    assert kept.catalog().set_ids() == kept.catalog("copy").set_ids() == kept.sets[-KEPT:]
