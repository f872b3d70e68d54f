"""gitlab:check and gitlab:env:info. Both always end with status 0, whatever they find."""

from __future__ import annotations

import subprocess
import sys

from .services import service
from .settings import Host

_FIX = """\
  Try fixing it:
  Find out what the sandbox was told to break.
  For more information see:
  doc/install/installation.md in section "Check"
  Please fix the error above and rerun the checks.
"""


def check(host: Host) -> None:
    """Print the answers; ``no`` for what is really down, and for the switch ``check_says_no``."""
    say = sys.stdout.write
    say("Checking GitLab subtasks ...\n\n")
    _section("GitLab Shell", [("GitLab Shell: ... GitLab Shell version >= 14.45.0 ?", "OK (14.45.0)")])
    gitaly = "OK" if service(host, "gitaly").up else "FAIL: 14:connections to all backends failing"
    _section("Gitaly", [("Gitaly: ... default", gitaly)])
    sidekiq = service(host, "sidekiq").up
    answers = [("Sidekiq: ... Running?", "yes" if sidekiq else "no")]
    if sidekiq:
        answers.append(("Number of Sidekiq processes (cluster/worker) ...", "1/1"))
    _section("Sidekiq", answers)
    _section("Incoming Email", [("Incoming Email: ... Reply by email is disabled in config/gitlab.yml", "")])
    _section("LDAP", [("LDAP: ... LDAP is disabled in config/gitlab.yml", "")])
    orphans = "no" if host.switch("check_says_no") else "yes"
    _section(
        "GitLab App",
        [
            ("Database config exists? ...", "yes"),
            ("All migrations up? ...", "yes" if _database_answers(host) else "no"),
            ("Database contains orphaned GroupMembers? ...", "no"),
            ("GitLab config exists? ...", "yes"),
            ("Uploads directory exists? ...", "yes" if (host.data / "gitlab-rails/uploads").is_dir() else "no"),
            ("Redis version >= 6.2.14? ...", "yes" if service(host, "redis").up else "no"),
            ("Init script exists? ...", "skipped (omnibus-gitlab has no init script)"),
            ("Git user has default SSH configuration? ...", orphans),
        ],
    )
    say("Checking GitLab subtasks ... Finished\n\n")


def environment(host: Host) -> None:
    """Print the blocks of gitlab:env:info, tab separated as they are."""
    version = host.version
    revision = (host.rails / "REVISION").read_text().strip()
    server = subprocess.run(
        [host.postgres_program("psql"), "-XAtqc", "show server_version"],
        env=host.postgres_environment(),
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    url = host.external_url
    sys.stdout.write(
        f"\nSystem information\nSystem:\t\nCurrent User:\tgit\nUsing RVM:\tno\n"
        f"\nGitLab information\nVersion:\t{version}\nRevision:\t{revision}\n"
        f"Directory:\t/opt/gitlab/embedded/service/gitlab-rails\nDB Adapter:\tPostgreSQL\nDB Version:\t{server}\n"
        f"URL:\t\t{url}\nHTTP Clone URL:\t{url}/some-group/some-project.git\n"
        "\nGitLab Shell\nVersion:\t14.45.0\n\nGitaly\n- default Address: \tunix:/var/opt/gitlab/gitaly/gitaly.socket\n"
    )


def _section(name: str, answers: list[tuple[str, str]]) -> None:
    sys.stdout.write(f"Checking {name} ...\n\n")
    for question, answer in answers:
        sys.stdout.write(f"{question} {answer}".rstrip() + "\n")
        if answer == "no" and "orphaned" not in question:
            sys.stdout.write(_FIX)
    sys.stdout.write(f"\nChecking {name} ... Finished\n\n")


def _database_answers(host: Host) -> bool:
    query = [host.postgres_program("psql"), "-XAtqc", "select 1 from schema_migrations limit 1"]
    result = subprocess.run(query, env=host.postgres_environment(), capture_output=True, check=False)
    return result.returncode == 0
