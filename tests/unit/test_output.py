from __future__ import annotations

import re
from pathlib import Path

import pytest

from drtool.gitlab.output import (
    CreateReport,
    Repository,
    RestoreReport,
    judge_doctor,
    judge_down,
    judge_up,
    read_check,
    read_create_output,
    read_doctor,
    read_restore_output,
    read_services,
)

TRANSCRIPTS = Path(__file__).parents[1] / "data" / "gitlab-18.9-artefacts" / "transcripts"
ALPHA = "@hashed/6b/86/6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
BETA = "@hashed/d4/73/d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"
EMPTY = "@hashed/4e/07/4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce"
SNIPPET = "@snippets/6b/86/6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
ALL_SIX = {
    ("default", path)
    for path in (f"{ALPHA}.git", f"{ALPHA}.wiki.git", f"{ALPHA}.design.git", f"{BETA}.git", f"{EMPTY}.git",
                 f"{SNIPPET}.git")
}  # fmt: skip
TARBALLS = {"uploads", "builds", "artifacts", "pages", "lfs", "terraform_state", "packages", "ci_secure_files",
            "external_diffs"}  # fmt: skip


def transcript(number: str) -> str:
    (path,) = (path for path in TRANSCRIPTS.glob(f"{number}-*.txt") if "repositories-after" not in path.name)
    return path.read_text()


def said(number: str) -> list[str]:
    """Standard output of one real run, as the runner would deliver it."""
    text = transcript(number)
    text = re.split(r"^## standard output.*\n", text, maxsplit=1, flags=re.MULTILINE)[1]
    text = re.split(r"^## standard error", text, maxsplit=1, flags=re.MULTILINE)[0]
    text = text.replace("^[", "\x1b").replace("^M\n", "\r\n")  # the one on a terminal went through cat -v
    return text.splitlines(keepends=True)


def status(number: str) -> int:
    found = re.search(r"^exit status: (\d+)", transcript(number), re.MULTILINE)
    return int(found[1]) if found else 0


def create(number: str) -> CreateReport:
    return read_create_output(said(number))


def restore(number: str) -> RestoreReport:
    return read_restore_output(said(number))


def keys(repositories: frozenset[Repository]) -> set[tuple[str, str]]:
    return {repository.key for repository in repositories}


def test_every_real_run_is_read_by_some_test_here() -> None:
    this = Path(__file__).read_text()
    numbers = {path.name.split("-")[0] for path in TRANSCRIPTS.iterdir()}
    assert {number for number in numbers if f'"{number}"' not in this} == set()


@pytest.mark.parametrize(
    ("number", "backup_id"),
    [
        ("01", "1795219681_2026_11_21_18.9.0-pre"),
        ("02", "1795219733_2026_11_21_18.9.0-pre"),
        ("04", "missing"),
        ("14", "tty"),
        ("17", "reg"),
        ("54a", "real"),
    ],
)
def test_create_that_went_well_has_no_problem(number: str, backup_id: str) -> None:
    report = create(number)
    assert report.problems(needed={"db", "repositories", *TARBALLS}) == []
    assert report.done
    assert report.backup_id == backup_id


def test_create_names_what_became_of_every_component_and_repository() -> None:
    report = create("01")
    assert report.components == {"db": "done", "repositories": "done", "registry": "disabled"} | dict.fromkeys(
        TARBALLS, "done"
    )
    assert keys(report.repositories.completed) == ALL_SIX
    assert keys(report.repositories.skipped) == {("default", f"{BETA}.wiki.git"), ("default", f"{EMPTY}.wiki.git")}
    assert report.repositories.failed == frozenset()
    assert Repository("default", f"{BETA}.git", "grp/sub/beta") in report.repositories.completed
    assert {repository.project for repository in report.repositories.completed} >= {"grp/alpha", "snippets/1"}


def test_create_reads_the_same_from_a_terminal_with_colours() -> None:
    """As ``docker exec -t`` gives it: colours, and carriage returns before every line feed."""
    terminal, plain = create("14"), create("01")
    assert "\x1b[36m" in said("14")[0]
    assert "\r\n" in said("14")[0]
    assert terminal.components == plain.components
    assert terminal.repositories == plain.repositories


def test_create_with_the_registry_dumps_it() -> None:
    assert create("17").components["registry"] == "done"
    assert create("17").problems(needed=["registry"]) == []
    assert create("01").problems(needed=["registry"]) == ["registry was not dumped: disabled"]


def test_create_that_skips_the_database_says_so_and_is_no_backup_of_it() -> None:
    report = create("03")
    assert report.components["db"] == "skipped"
    assert report.problems() == ["db was not dumped: skipped"]
    assert report.problems(needed=()) == []


def test_create_that_skips_the_repositories_has_none() -> None:
    report = create("12")
    assert report.components["repositories"] == "skipped"
    assert report.repositories.completed == frozenset()
    assert report.problems() == []
    assert report.problems(needed=["repositories"]) != []


def test_create_shows_a_vanished_repository_as_skipped() -> None:
    """Exit status 0 and no trace in the archive: only a list of what there should be can tell."""
    assert status("04") == 0
    assert ("default", f"{BETA}.git") in keys(create("04").repositories.skipped)


def test_create_with_a_failed_database_is_a_problem_although_it_is_done() -> None:
    report = create("05a")
    assert report.done
    assert report.components["db"] == "failed"
    problems = report.problems()
    assert "db was not dumped: failed" in problems
    assert any("gitlabhq_production" in problem and "host:" in problem for problem in problems)
    assert not any("\n" in problem for problem in problems)


def test_create_with_a_failed_component_is_a_problem_although_it_is_done() -> None:
    report = create("10b")
    assert report.done
    assert report.components["packages"] == "failed"
    assert any("shared/packages" in problem for problem in report.problems())


def test_create_with_a_broken_repository_names_it() -> None:
    report = create("09")
    assert not report.done
    assert keys(report.repositories.failed) == {("default", f"{BETA}.git")}
    assert report.components["repositories"] == "unfinished"
    assert any("grp/sub/beta" in problem and "not backed up" in problem for problem in report.problems())


def test_create_of_an_increment_shows_which_repositories_it_left_out() -> None:
    report = create("06a")
    assert report.problems() == []
    assert keys(report.repositories.completed) == {("default", f"{ALPHA}.git"), ("default", f"{EMPTY}.git")}
    assert len(report.repositories.skipped) == 6


def test_create_that_found_the_lock_held_names_the_process() -> None:
    report = create("13a")
    assert (report.lock_held, report.lock_pid) == (True, 2096)
    assert report.problems(needed=()) == ["a backup or restore of GitLab's own is running (process 2096)"]
    older = read_create_output(["Backup and restore in progress:", "  There is a backup and restore task in progress."])
    assert (older.lock_held, older.lock_pid) == (True, None)


def test_create_after_a_dead_process_is_not_locked_out() -> None:
    report = create("13c")
    assert not report.lock_held
    assert report.done
    assert report.problems(needed=()) == []


def test_create_that_said_nothing_is_never_taken_for_a_success() -> None:
    """CRON=1 hides everything, and ended with status 0."""
    assert status("07") == 0
    for lines in (said("07"), [], ["", "hello"]):
        assert read_create_output(lines).problems(needed=()) != []
    assert create("07").problems(needed=()) == ["GitLab did not say that the backup is done"]


def test_create_output_cut_anywhere_is_never_taken_for_a_success() -> None:
    lines = said("01")
    last = next(number for number, line in enumerate(lines) if "is done." in line)
    for cut in range(last + 1):
        assert read_create_output(lines[:cut]).problems(needed=()) != []
    assert read_create_output(lines[: last + 1]).problems(needed=()) == []


def test_create_whose_archive_could_not_be_packed_is_a_problem() -> None:
    lines = ["2026-11-21 00:08:01 UTC -- Creating backup archive: x_gitlab_backup.tar ... failed"]
    assert any("Creating backup archive" in problem for problem in read_create_output(lines).problems(needed=()))


def test_create_of_gitlab_15_is_understood() -> None:
    lines = [
        "2022-10-03 02:00:11 UTC -- Dumping database ... ",
        "Dumping PostgreSQL database gitlabhq_production ... [DONE]",
        "2022-10-03 02:00:41 UTC -- Dumping database ... done",
        "2022-10-03 02:00:41 UTC -- Dumping uploads ... ",
        "2022-10-03 02:00:42 UTC -- done",
        "2022-10-03 02:00:44 UTC -- Backup 1664762411_2022_10_03_15.4.2 is done.",
    ]
    report = read_create_output(lines)
    assert report.components == {"db": "done", "uploads": "done"}
    assert report.backup_id == "1664762411_2022_10_03_15.4.2"
    assert report.problems() == []


@pytest.mark.parametrize("number", ["30a", "30d", "30e", "35a", "43"])
def test_restore_that_went_well_has_no_problem(number: str) -> None:
    report = restore(number)
    assert report.problems(needed={"db", "repositories", *TARBALLS}, repositories=ALL_SIX) == []
    assert report.done
    assert keys(report.repositories.completed) == ALL_SIX


def test_restore_counts_the_questions_it_asked() -> None:
    assert [restore(number).prompts for number in ("30a", "30b", "30c", "30d", "48a")] == [0, 1, 3, 2, 1]


@pytest.mark.parametrize("number", ["30b", "30c", "31a", "32a", "33a", "34a", "44b", "48a"])
def test_restore_that_gitlab_ended_itself_is_a_problem(number: str) -> None:
    report = restore(number)
    assert status(number) == 1
    assert not report.done
    assert report.problems(needed=()) != []


def test_restore_of_another_version_names_both() -> None:
    for number in ("31a", "34a"):
        assert restore(number).version_mismatch == ("18.9.0-pre", "18.8.2-ee")
        assert any("18.8.2-ee" in problem for problem in restore(number).problems())


def test_restore_that_could_not_choose_an_archive_says_why() -> None:
    assert "Found more than one backup:" in restore("32a").problems(needed=())
    assert "The backup file 1234_nosuch_gitlab_backup.tar does not exist!" in restore("33a").problems(needed=())
    assert "Quitting..." in restore("30c").problems(needed=())


def test_restore_with_a_truncated_bundle_is_a_problem_although_it_exits_0() -> None:
    report = restore("38")
    assert status("38") == 0
    assert report.done
    assert report.gitaly_status == 1
    assert keys(report.repositories.failed) == {("default", f"{BETA}.git")}
    problems = report.problems(repositories=ALL_SIX)
    assert "gitaly-backup ended with status 1" in problems
    assert sum("could not be restored" in problem for problem in problems) == 1
    assert any("early EOF" in problem for problem in problems)


def test_restore_that_lost_repositories_silently_is_a_problem_although_it_exits_0() -> None:
    """Only what the set holds can tell: GitLab calls them skipped, as it calls an empty wiki."""
    report = restore("40a")
    assert report.done
    assert report.gitaly_status is None
    assert report.problems() == []
    lost = report.problems(repositories=ALL_SIX)
    assert len(lost) == 4
    assert all("was not restored" in problem for problem in lost)
    after = (TRANSCRIPTS / "40a-repositories-after.txt").read_text()
    assert {path for _, path in keys(report.repositories.completed)} == set(
        re.findall(r"^\./(\S+)", after, re.MULTILINE)
    )


@pytest.mark.parametrize("number", ["48a", "48c"])
def test_restore_with_sql_errors_is_a_problem_although_the_database_is_done(number: str) -> None:
    report = restore(number)
    assert report.components["db"] == "done"
    assert report.sql_errors[0].startswith("ERROR:  ALTER action DROP CONSTRAINT")
    assert 'ERROR:  "issues" is not a table' in report.sql_errors
    assert not any("must be owner" in line or "ERRORS" in line for line in report.sql_errors)
    assert any("restored with errors" in problem for problem in report.problems())


def test_restore_that_failed_to_load_the_database_is_a_problem() -> None:
    lines = ["2026-11-21 00:08:01 UTC -- Restoring database ... ", "2026-11-21 00:08:01 UTC -- [FAILED]"]
    problems = read_restore_output([*lines, "2026-11-21 00:08:01 UTC -- Restore task is done."]).problems()
    assert "db was not restored: unfinished" in problems
    assert "[FAILED]" in problems


def test_restore_output_cut_anywhere_is_never_taken_for_a_success() -> None:
    lines = said("30a")
    last = next(number for number, line in enumerate(lines) if "Restore task is done." in line)
    for cut in range(0, last + 1, 7):
        assert read_restore_output(lines[:cut]).problems(needed=()) != []
    assert read_restore_output([]).problems(needed=()) == ["GitLab did not say that the restore is done"]


STATUS = """\
run: gitaly: (pid 1207) 92698s; run: log: (pid 1206) 92698s
run: postgres-exporter: (pid 59378) 92698s; run: log: (pid 1300) 92698s
down: puma: 48s, normally up; run: log: (pid 1320) 92698s
down: sidekiq: 48s, normally up; run: log: (pid 1330) 92698s
fail: registry: runsv not running
"""


def test_services_are_read_with_their_states() -> None:
    assert read_services(STATUS) == {
        "gitaly": "run", "postgres-exporter": "run", "puma": "down", "sidekiq": "down", "registry": "fail",
    }  # fmt: skip


def test_services_are_read_from_what_start_and_stop_print() -> None:
    text = (
        "ok: down: puma: 0s, normally up\r\nok: run: gitaly: (pid 3) 0s\ntimeout: run: sidekiq: (pid 9) 8s, want down\n"
    )
    assert read_services(text) == {"puma": "down", "gitaly": "run", "sidekiq": "timeout"}


def test_services_are_judged_by_what_must_be_up_or_down() -> None:
    services = read_services(STATUS)
    assert judge_down(services, ["puma", "sidekiq"]) == []
    assert judge_down(services, ["gitaly", "unicorn"]) == [
        "gitaly is not down (run)",
        "unicorn is not down (not shown)",
    ]
    assert judge_up({"gitaly": "run"}) == []
    assert judge_up(services) == [
        "puma is not running (down)", "registry is not running (fail)", "sidekiq is not running (down)",
    ]  # fmt: skip


def test_no_services_are_never_taken_for_good_ones() -> None:
    assert judge_up(read_services("command not found\n")) != []
    assert judge_down(read_services(""), ["puma"]) != []


CHECK = """\
Checking GitLab subtasks ...

Checking GitLab Shell ...

GitLab Shell: ... GitLab Shell version >= 14.45.0 ? ... OK (14.45.0)
Running /opt/gitlab/embedded/service/gitlab-shell/bin/check
Internal API available: OK
gitlab-shell self-check successful

Checking GitLab Shell ... Finished

Checking Gitaly ...

Gitaly: ... default ... OK

Checking Gitaly ... Finished

Checking Sidekiq ...

Sidekiq: ... Running? ... yes
Number of Sidekiq processes (cluster/worker) ... 1/1

Checking Sidekiq ... Finished

Checking GitLab App ...

Database config exists? ... yes
All migrations up? ... yes
Init script exists? ... skipped (omnibus-gitlab has no init script)
Projects have namespace: ...
2/1 ... yes
5/2 ... yes

Checking GitLab App ... Finished


Checking GitLab subtasks ... Finished

"""


def test_check_without_a_bad_answer_has_no_failure() -> None:
    assert read_check(CHECK) == []


def test_check_names_the_questions_answered_badly() -> None:
    text = CHECK.replace("All migrations up? ... yes", "All migrations up? ... no\n  Try fixing it:\n  sudo …")
    text = text.replace("default ... OK", "default ... FAIL: 14:Connect Failed")
    text = text.replace("(cluster/worker) ... 1/1", "(cluster/worker) ... 0/0\n  Try fixing it:\n  sudo …")
    assert read_check(text) == [
        "Gitaly: ... default ... FAIL: 14:Connect Failed",
        "Number of Sidekiq processes (cluster/worker) ... 0/0",
        "All migrations up? ... no",
    ]


def test_check_that_did_not_run_to_its_end_is_a_failure() -> None:
    assert read_check("") == ["gitlab:check answered no question", "gitlab:check did not finish"]
    assert read_check(CHECK[: CHECK.index("Checking GitLab App")]) == ["gitlab:check did not finish"]
    assert read_check("rake aborted!\n") != []


DOCTOR = """\
I, [2024-01-25T07:48:53.878127 #1762]  INFO -- : Checking encrypted values in the database
I, [2024-01-25T07:48:53.878130 #1762]  INFO -- : - Ci::Runner failures: 0
I, [2024-01-25T07:48:53.878135 #1762]  INFO -- : - User failures: 3
I, [2024-01-25T07:48:53.878140 #1762]  INFO -- : Total: 3 row(s) affected
I, [2024-01-25T07:48:53.878150 #1762]  INFO -- : Done!
"""


def test_doctor_tells_how_many_rows_cannot_be_decrypted() -> None:
    assert read_doctor(DOCTOR) == 3
    assert judge_doctor(DOCTOR) == ["3 rows cannot be decrypted with these secrets"]
    assert judge_doctor(DOCTOR.replace("Total: 3", "Total: 0")) == []


def test_doctor_without_its_total_is_no_good_news() -> None:
    assert read_doctor(DOCTOR[:200]) is None
    assert judge_doctor("") != []
