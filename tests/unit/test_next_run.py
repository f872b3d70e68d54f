"""When the next backup begins, as systemd and crontabs tell it; what they do not tell is unknown, never guessed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

from drtool.core.command import Command
from drtool.core.crontab import Line, gitlabs_own, next_backup, parse_lines
from drtool.errors import CommandFailed
from drtool.hosts.local import LocalRunner
from drtool.next_run import look_at_next_run, read_lines

NOW = datetime(2026, 1, 13, 12, 0, tzinfo=UTC)
OURS = "15 3 * * * root drtool backup --quiet"
ROOT = PurePosixPath("/")


@dataclass
class Machine(LocalRunner):
    """What systemd and grep say there; None where they fail."""

    systemd: str | None
    grep: str | None = ""

    def run(self, command: Command, *, stdin: bytes = b"") -> bytes:
        unit = "drtool-backup.timer" in command.argv
        said = (self.systemd if unit else "LoadState=not-found\n") if "systemctl" in command.argv else self.grep
        if said is None:
            raise CommandFailed("it did not work", status=3)
        return said.encode()


def timer(at: str = "Wed 2026-01-14 03:27:12 UTC", active: str = "active") -> str:
    return f"NextElapseUSecRealtime={at}\nLoadState=loaded\nActiveState={active}\n"


@pytest.mark.parametrize(
    ("systemd", "grep", "state", "at"),
    [
        (timer(), "", "known", datetime(2026, 1, 14, 3, 27, 12, tzinfo=UTC)),
        (timer(""), "", "unknown", None),
        (timer("n/a"), "", "unknown", None),
        (timer(active="inactive"), "", "unknown", None),
        ("LoadState=not-found\n", "", "none", None),
        (None, "", "none", None),
        (None, None, "unknown", None),
        ("LoadState=not-found\n", f"/etc/cron.d/drtool:{OURS}\n", "known", None),
        (timer(), "a:* * * * * root drtool backup\n", "known", datetime(2026, 1, 13, 12, 1, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_next_run_is_what_systemd_or_cron_say(systemd: str | None, grep: str | None, state: str, at: datetime) -> None:
    found = look_at_next_run(Machine(systemd, grep), ROOT, "gitlab", NOW)
    assert found.state == state
    assert (found.at is not None) == (state == "known")
    assert found.source
    if at:
        assert found.at == at


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (OURS, datetime(2026, 1, 14, 3, 15, tzinfo=UTC)),
        ("@daily root /usr/local/bin/drtool backup", datetime(2026, 1, 14, tzinfo=UTC)),
        ("15 3 * * * root drtool backup --instance gitlab", datetime(2026, 1, 14, 3, 15, tzinfo=UTC)),
        ("15 3 * * * root drtool --config /a backup", datetime(2026, 1, 14, 3, 15, tzinfo=UTC)),
        ("15 3 * * * root drtool backup --instance another", None),
        ("15 3 * * * root drtool verify", None),
        ("15 3 * * * root echo backup", None),
        ("61 3 * * * root drtool backup", None),
        ("@reboot root drtool backup", None),
        ("15 3 * * * root drtool backup 'unfinished", None),
        ("PATH=/usr/bin:drtool backup", None),
    ],
)
def test_cron_line_counts_only_if_it_starts_a_backup_of_this_instance(line: str, wanted: datetime | None) -> None:
    found = next_backup([Line("/etc/cron.d/drtool", line)], "gitlab", NOW)
    assert found == ((wanted, "/etc/cron.d/drtool") if wanted else None)


def test_comments_are_no_lines_and_gitlabs_own_backups_are_found() -> None:
    lines = parse_lines(
        "/etc/crontab:#0 2 * * * root gitlab-backup create\n"
        "/etc/crontab:0 2 * * * root /opt/gitlab/bin/gitlab-rake gitlab:backup:create CRON=1\n"
        "/etc/cron.d/b:0 2 * * * root /opt/gitlab/bin/gitlab-backup create CRON=1\n"
        "/etc/cron.d/c:0 2 * * * root gitlab-ctl renew-le-certs\n"
    )
    assert [line.path for line in gitlabs_own(lines)] == ["/etc/crontab", "/etc/cron.d/b"]


def test_crontabs_are_read_below_a_prefix(tmp_path: Path) -> None:
    assert read_lines(LocalRunner(), PurePosixPath(tmp_path)) == ()
    (tmp_path / "etc/cron.d").mkdir(parents=True)
    (tmp_path / "etc/cron.d/drtool").write_text(f"# a comment\n{OURS}\n")
    (tmp_path / "var/spool/cron/crontabs").mkdir(parents=True)
    (tmp_path / "var/spool/cron/crontabs/root").write_text("0 2 * * * gitlab-backup create\n0 5 * * * true\n")
    found = read_lines(LocalRunner(), PurePosixPath(tmp_path))
    assert [line.text for line in found] == [OURS, "0 2 * * * gitlab-backup create"]
    assert look_at_next_run(LocalRunner(), PurePosixPath(tmp_path), "gitlab", NOW).state == "known"
