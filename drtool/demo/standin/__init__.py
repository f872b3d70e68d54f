"""A stand-in for GitLab's own commands, with GitLab's own output, files, locks and exit statuses.

Standard library only and nothing else of drtool: a sandbox copies this directory and runs it with ``python3 DIRECTORY
COMMAND ARGUMENTS``. pg_dump, psql, git, tar and gzip do the inner work for real. Imitated is GitLab 18.9 as it was
observed (the transcripts in tests/data/gitlab-18.9); older versions differ where the VERSION file says so.
"""
