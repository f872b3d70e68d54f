"""drtool: backup, restore and disaster recovery for self-managed GitLab."""

__version__ = "0.1.0"
