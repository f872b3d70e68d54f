"""What to run on each kind of GitLab, as values."""
