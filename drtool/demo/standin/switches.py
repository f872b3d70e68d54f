"""What can be made to go wrong: the names of the failure switches and what their values mean.

Damage that can be done to files for real has no switch: break a repository, write a lock file, leave a loose manifest.
"""

from __future__ import annotations

SWITCHES = {
    "pg_dump": "fails: ends at once; dies: ends in the middle of the dump; version: refuses a newer server",
    "tar_fails": "id of the file component whose tar ends with status 2 (a file it cannot read)",
    "tar_changes": "id of the file component whose tar ends with status 1 (a file changed)",
    "upload": "fails: a remote storage is configured and refuses; works: it takes the archive (into no place)",
    "disk_full": "True: the disk is full while the archive is packed; an id: while that component is dumped",
    "pause": "phase:seconds, sleep at the start of that phase, so that a test can act or kill in it",
    "kill": "phase, the run ends there as by SIGKILL, with everything left as it is",
    "wont_stop": "name of a service that never goes down, or 'all'",
    "wont_start": "name of a service that never comes up, or 'all'",
    "reconfigure_fails": "True: gitlab-ctl reconfigure ends with status 1",
    "never_ready": "True: gitlab-healthcheck fails for ever",
    "ready_after": "seconds after the last start of puma until gitlab-healthcheck succeeds",
    "check_says_no": "True: one answer of gitlab:check is no",
    "restore_sql_errors": "True: the database load meets an error that GitLab does not ignore",
    "restore_skips_repositories": "True: no repository of the archive is found; all are skipped, the exit status is 0",
    "silent_failure": "True: create logs that the database failed and still ends with status 0",
}
"""Phases, for pause and kill, in the order of a run: unpack, lock, the component ids, information, pack, packed,
upload, cleanup, done. ``pack`` is in the middle of writing the archive, ``packed`` after its last byte."""
