"""A fence around a package installation holds through a restart of its machine, and can be taken away again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from drtool.clock import SystemClock
from drtool.core.cutover import HostSeen, State
from drtool.errors import CommandFailed, CutoverFailed, HostUnfit
from drtool.events import ignore
from drtool.fencing import GitLabSide
from drtool.hosts.local import LocalRunner
from drtool.installs import fencing
from drtool.installs.omnibus import Omnibus
from tests.runners import FaultyRunner

SERVICES = ("gitaly", "nginx", "postgresql", "puma", "redis", "registry", "sidekiq")
# As gitlab-ctl of the package: a start minds no "down"; a service that nobody supervises is told as a failure.
_CTL = """\
#!/bin/sh
root='{root}'
verb=$1; shift
cd "$root/opt/gitlab/service"
worst=0
for name in ${{1:-*}}; do
  if [ -e "$root/refuses-$verb" ] && [ "$name" = sidekiq ]; then worst=1; continue; fi
  case $verb in
    start) echo run >"$root/state/$name" ;;
    stop) echo down >"$root/state/$name" ;;
    status)
      if [ -e "$root/no-runsvdir" ]; then printf 'fail: %s: runsv not running\\n' "$name"; worst=1; continue; fi
      printf '%s: %s: (pid 4711) 5s; run: log: (pid 4710) 5s\\n' "$(cat "$root/state/$name")" "$name" ;;
  esac
done
exit $worst
"""
_READY = """\
#!/bin/sh
[ "$(cat '{root}/state/puma')" = run ]
"""


@dataclass
class Host:
    """A directory in the shape of a package installation, whose services are words in files."""

    root: Path

    def __post_init__(self) -> None:
        for name in SERVICES:
            (self.root / "opt/gitlab/service" / name).mkdir(parents=True)
        for path in ("state", "opt/gitlab/bin", "var/opt/gitlab"):
            (self.root / path).mkdir(parents=True, exist_ok=True)
        for name, text in (("gitlab-ctl", _CTL), ("gitlab-healthcheck", _READY)):
            program = self.root / "opt/gitlab/bin" / name
            program.write_text(text.format(root=self.root))
            program.chmod(0o755)
        self.start_machine()

    def start_machine(self) -> None:
        """What runit does then: all that has no ``down`` comes up."""
        for name in SERVICES:
            held = (self.root / "opt/gitlab/service" / name / "down").exists()
            (self.root / "state" / name).write_text("down\n" if held else "run\n")

    @property
    def up(self) -> list[str]:
        return [name for name in SERVICES if (self.root / "state" / name).read_text() == "run\n"]

    def side(self, runner: FaultyRunner | None = None) -> GitLabSide:
        install = Omnibus(PurePosixPath(self.root))
        answers = lambda: None if "nginx" in self.up else "nobody answers"  # noqa: E731 - as a test wants it
        return GitLabSide("i-old", runner or FaultyRunner(LocalRunner()), install, SystemClock(), ignore, answers)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


def test_a_frozen_host_writes_no_more_and_can_be_counted(host: Host) -> None:
    side = host.side()
    assert side.look() == HostSeen(State.SERVING, healthy=True)
    side.freeze()
    assert host.up == ["gitaly", "postgresql", "redis"]
    assert side.look() == HostSeen(State.FROZEN, held=True)


def test_a_fence_holds_through_a_restart_and_comes_off_again(host: Host) -> None:
    side = host.side()
    side.freeze()
    side.fence("cutover-1")
    assert side.look() == HostSeen(State.FENCED, held=True)
    host.start_machine()
    assert host.up == []
    assert side.look().state is State.FENCED
    side.open()
    assert side.look() == HostSeen(State.SERVING, healthy=True)
    host.start_machine()
    assert host.up == list(SERVICES)


def test_a_service_that_somebody_else_keeps_down_stays_so(host: Host) -> None:
    (host.root / "opt/gitlab/service/registry/down").touch()
    side = host.side()
    side.fence("cutover-1")
    side.open()
    assert (host.root / "opt/gitlab/service/registry/down").exists()
    assert not (host.root / "opt/gitlab/service/puma/down").exists()


def test_every_half_of_a_fence_is_seen_as_no_fence(host: Host) -> None:
    side = host.side()
    host.side().freeze()
    (host.root / "opt/gitlab/service/puma/down").unlink()
    assert side.look() == HostSeen(State.FROZEN)
    side.fence("cutover-1")
    (host.root / "state/gitaly").write_text("run\n")
    assert side.look().state is State.FROZEN
    (host.root / "state/sidekiq").write_text("run\n")
    assert side.look().state is State.SERVING


def test_services_that_nobody_supervises_are_down(host: Host) -> None:
    side = host.side()
    side.fence("cutover-1")
    (host.root / "no-runsvdir").touch()
    assert side.look().state is State.FENCED


def test_a_service_that_does_not_stop_is_told(host: Host) -> None:
    (host.root / "refuses-stop").touch()
    side = host.side()
    with pytest.raises((CommandFailed, CutoverFailed)):
        side.freeze()
    with pytest.raises(CutoverFailed, match="sidekiq"):
        side.fence("cutover-1")


def test_a_host_without_services_is_no_fenced_one(host: Host) -> None:
    (host.root / "opt/gitlab/bin/gitlab-ctl").unlink()
    with pytest.raises(HostUnfit):
        host.side().look()
    with pytest.raises(HostUnfit):
        fencing.parse_services(b"", "i-old")


def test_a_host_out_of_reach_is_told_apart_by_whether_it_answers(host: Host) -> None:
    for answers, state in ((True, State.ANSWERING), (False, State.SILENT)):
        runner = FaultyRunner(LocalRunner())
        runner.fail_at(1, error=HostUnfit("connection refused"))
        side = host.side(runner)
        if not answers:
            (host.root / "state/nginx").write_text("down\n")
        assert side.look() == HostSeen(state)
        assert "refused" in side.no_way_in


def test_word_of_having_been_behind_the_address_is_left_and_taken_away(host: Host) -> None:
    side = host.side()
    side.expose("cutover-1")
    assert side.look().exposed
    side.settle()
    assert not side.look().exposed
    side.expose("cutover-1")
    side.fence("cutover-1")
    assert not side.look().exposed


def test_every_command_of_a_fence_may_be_the_last_and_it_is_made_whole_again(host: Host) -> None:
    for nth in range(1, 40):
        runner = FaultyRunner(LocalRunner())
        runner.fail_at(nth, "after", CommandFailed("the connection broke"))
        side = host.side(runner)
        try:
            side.freeze()
            side.fence("cutover-1")
        except CommandFailed:
            pass
        host.side().fence("cutover-1")
        assert host.side().look().state is State.FENCED
        host.side().open()
        if not runner.fired:
            return
    pytest.fail("it never ran to its end")
