"""A small GitLab-shaped sandbox with a real PostgreSQL and real git: ``drtool demo``, and the tests' host."""
