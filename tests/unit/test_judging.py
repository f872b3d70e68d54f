"""What GitLab printed, against what then lies in its backup directory."""

from __future__ import annotations

import pytest

from drtool.core.plan import Expect
from drtool.errors import BackupFailed, Busy, CommandFailed, RestoreFailed
from drtool.gitlab.judging import judge, judge_create
from tests.contracts.standin_transcripts import transcript

BACKUP = "1795219733_2026_11_21_18.9.0-pre"
TARBALLS = (
    "uploads.tar.gz",
    "builds.tar.gz",
    "artifacts.tar.gz",
    "pages.tar.gz",
    "lfs.tar.gz",
    "terraform_state.tar.gz",
    "packages.tar.gz",
    "ci_secure_files.tar.gz",
    "external_diffs.tar.gz",
)
STAGED = ("backup_information.yml", "db", "repositories", *TARBALLS)


def _printed(number: str = "02") -> list[str]:
    return transcript(number).section("standard output")


def test_a_good_run_names_its_members_in_gitlabs_order_and_its_repositories() -> None:
    created = judge_create(_printed(), None, BACKUP, staged=STAGED)
    assert created.members == STAGED
    assert len(created.repositories) == 6
    assert created.findings == ()


@pytest.mark.parametrize("missing", [name for name in STAGED if name != "repositories"])
def test_a_member_that_was_reported_and_is_not_there_is_a_failure(missing: str) -> None:
    with pytest.raises(BackupFailed, match=missing):
        judge_create(_printed(), None, BACKUP, staged=[name for name in STAGED if name != missing])


def test_an_instance_without_repositories_has_no_directory_of_them() -> None:
    printed = [line for line in _printed() if not line.startswith("{")]
    created = judge_create(printed, None, BACKUP, staged=[name for name in STAGED if name != "repositories"])
    assert "repositories" not in created.members


def test_repositories_that_gitlab_wrote_and_did_not_name_are_never_left_out() -> None:
    """GitLab before 15 prints other lines: what cannot be read must not become a set without repositories."""
    printed = [line for line in _printed() if not line.startswith("{")]
    with pytest.raises(BackupFailed, match="named none of them"):
        judge_create(printed, None, BACKUP, staged=STAGED)


def test_repositories_that_were_completed_and_are_not_there_are_a_failure() -> None:
    with pytest.raises(BackupFailed, match="repositories was reported"):
        judge_create(_printed(), None, BACKUP, staged=[name for name in STAGED if name != "repositories"])


def test_another_backups_output_is_a_failure() -> None:
    with pytest.raises(BackupFailed, match=BACKUP):
        judge_create(_printed(), None, "20260101T000000Z-0000", staged=STAGED)


def test_a_bad_exit_status_alone_is_a_failure() -> None:
    with pytest.raises(BackupFailed, match="status 1"):
        judge_create(_printed(), CommandFailed("ended with status 1", status=1), BACKUP, staged=STAGED)


def test_a_held_lock_is_busy() -> None:
    with pytest.raises(Busy, match="2096"):
        judge_create(_printed("13a"), CommandFailed("ended with status 1", status=1), "lk", staged=())


@pytest.mark.parametrize("said", ["lines", "stderr"])
def test_a_restore_that_filled_a_disk_says_so_before_all_that_follows_from_it(said: str) -> None:
    words = "tar: ./1/file: Cannot write: No space left on device"
    failure = CommandFailed("ended with status 1", status=1, stderr=words if said == "stderr" else "")
    with pytest.raises(RestoreFailed, match=r"^No space left on device: ") as raised:
        judge(Expect.RESTORE_DONE, [words] if said == "lines" else [], failure)
    assert "Make room" in raised.value.hint
