"""Do the secrets fit the database? Decided from the saved secrets and the saved SQL alone, without a running GitLab."""

from drtool.gitlab.secrets.check import SecretsCheck
from drtool.gitlab.secrets.fingerprints import Change, Fingerprints, compare, fingerprints
from drtool.gitlab.secrets.gathering import Sample
from drtool.gitlab.secrets.sources import read_secrets
from drtool.gitlab.secrets.values import Key, Secrets
from drtool.gitlab.secrets.verdict import ColumnCount, FamilyVerdict, Fit, SecretsVerdict, Untested

__all__ = [
    "Change",
    "ColumnCount",
    "FamilyVerdict",
    "Fingerprints",
    "Fit",
    "Key",
    "Sample",
    "Secrets",
    "SecretsCheck",
    "SecretsVerdict",
    "Untested",
    "compare",
    "fingerprints",
    "read_secrets",
]
