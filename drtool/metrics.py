"""How instances stand, for node-exporter's textfile collector. The names are a public contract: none is renamed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from drtool.core.standing import Standing
from drtool.errors import ConfigError

_VERDICTS = ("met", "breached", "unknown", "not promised")


class _Gauges:
    """Makes each gauge once, and sets it for each instance."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._made: dict[str, Gauge] = {}

    def set(self, name: str, help_: str, value: float, **labels: str) -> None:
        if name not in self._made:
            self._made[name] = Gauge(f"drtool_{name}", help_, tuple(labels), registry=self._registry)
        self._made[name].labels(**labels).set(value)

    def set_time(self, name: str, help_: str, value: datetime | None, **labels: str) -> None:
        """What never was has no time: the metric is absent then."""
        if value:
            self.set(name, help_, value.timestamp(), **labels)


def registry_of(standings: Sequence[Standing]) -> CollectorRegistry:
    """Every instance's standing as gauges. Seconds since 1970, seconds, bytes, or 1 for yes and 0 for no."""
    registry = CollectorRegistry()
    gauges = _Gauges(registry)
    for standing in standings:
        _fill(gauges, standing)
    return registry


def write_metrics(path: Path, standings: Sequence[Standing]) -> None:
    """Replace the file as a whole, readable by everybody: the exporter is another user. Raises ConfigError."""
    unfinished = path.with_name(f"{path.name}.unfinished")  # no .prom at its end, so nobody collects it
    try:
        write_to_textfile(str(unfinished), registry_of(standings))
        unfinished.chmod(0o644)
        unfinished.replace(path)
    except OSError as problem:
        with suppress(OSError):
            unfinished.unlink()
        raise ConfigError(
            f"{path}: cannot be written: {problem.strerror}",
            hint="Give a file in a directory that is there: the exporter's --collector.textfile.directory.",
        ) from problem


def _fill(gauges: _Gauges, standing: Standing) -> None:
    instance = standing.instance
    gauges.set_time("status_timestamp_seconds", "When status looked last", standing.at, instance=instance)
    gauges.set("status_exit_status", "What drtool status ended with for it", standing.exit_status, instance=instance)
    gauges.set("store_reachable", "Whether the store answered", standing.reachable, instance=instance)
    if newest := standing.last_restorable:
        gauges.set_time(
            "last_restorable_set_timestamp_seconds", "When it was taken", newest.taken_at, instance=instance
        )
        gauges.set("last_restorable_set_size_bytes", "What it takes in the store", newest.size, instance=instance)
    if verified := standing.last_verified:
        gauges.set_time(
            "last_verified_set_timestamp_seconds", "When it was taken", verified.taken_at, instance=instance
        )
    for each in standing.objectives:
        labels = {"instance": instance, "objective": each.name}
        for verdict in _VERDICTS:
            text = "1 for the verdict on this objective, 0 for the others"
            gauges.set("objective", text, each.verdict == verdict, **labels, verdict=verdict)
        if each.promised is not None:
            gauges.set("objective_promised_seconds", "What the policy says", each.promised.total_seconds(), **labels)
        if each.reached is not None:
            gauges.set("objective_reached_seconds", "What was measured", each.reached.total_seconds(), **labels)
    for copy in standing.copies:
        labels = {"instance": instance, "store": copy.store}
        gauges.set("copy_complete", "Whether the copy has the newest restorable set", copy.complete, **labels)
        if copy.behind is not None:
            gauges.set("copy_missing_sets", "How many of the newest sets it lacks", copy.behind, **labels)
    for state, count in standing.sets.items():
        gauges.set("sets", "How many sets are in this state", count, instance=instance, state=state)
    for severity in ("red", "amber"):
        count = sum(each.severity == severity for each in standing.findings)
        gauges.set("findings", "What somebody should look at", count, instance=instance, severity=severity)
    drill, restore = standing.drill, standing.restore
    gauges.set_time("next_run_timestamp_seconds", "When a backup begins", standing.next_run.at, instance=instance)
    gauges.set_time(
        "last_drill_timestamp_seconds", "When it ended", drill.finished_at if drill else None, instance=instance
    )
    gauges.set_time(
        "locked_until_timestamp_seconds", "Until when the newest set is locked", standing.lock.until, instance=instance
    )
    if restore and restore.took is not None:
        text = "How long the last restore or drill took"
        gauges.set("restore_duration_seconds", text, restore.took.total_seconds(), instance=instance)
