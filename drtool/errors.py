"""Every error drtool raises, and the exit status each one ends with.

    DrtoolError                      1   a defect in drtool, or something it has no better name for
    ├── ConfigError                  3   drtool.toml says something it may not say
    ├── SecretExposed                4   a file with a secret in it can be read by others
    ├── SealError                    5   no recipient, or one that age does not understand
    ├── HostUnfit                    6   the host is not what the work needs (no GitLab, leftovers, …)
    ├── StoreError                  10   the store did not do it, after every sensible retry
    │   ├── StoreAccessDenied       11   wrong credentials, or not allowed
    │   ├── BucketMissing           12   the bucket or directory is not there
    │   ├── StoreFull               13   no room, or a quota
    │   ├── ObjectMissing           14   no such object
    │   ├── ObjectExists            15   something is there already, and must not be replaced
    │   └── StoreTransient          10   may work in a moment; retried before anybody sees it
    ├── SetMissing                  14   no such backup set
    │   └── MemberMissing           14   the set does not hold what is wanted of it
    ├── CommandFailed               16   a program on a host ended with an error, or could not be started
    ├── Busy                        17   another run holds the lock
    ├── BackupFailed                18   GitLab's own backup did not produce what it must
    ├── VersionMismatch             20   the target does not run exactly the set's GitLab version
    ├── SetDamaged                  21   stored bytes are not what the manifest says
    │   └── UnsafeMember            26   an archive member wants to leave its directory
    ├── ObjectiveBreached           22   all is well but for a promise: a backup is older than it may be
    ├── TargetHoldsData             23   the target has projects, and nobody said to replace them
    ├── FormatTooNew                24   written by a newer drtool
    ├── IdentityMismatch            25   none of the given identities opens the seal
    ├── SignatureInvalid            27   no signature, a wrong one, or by a key that is not trusted
    ├── RestoreFailed               28   the restore ran, and what it left is not what the set holds
    ├── ResumeError                 29   the journal does not fit what is asked
    ├── Differs                     30   two things that were compared are not the same
    ├── AddressError                31   the provider of the public address did not do it, or must not be asked to
    │   ├── AddressElsewhere        32   the address is held by somebody else than was expected; nothing was moved
    │   └── AddressTransient        31   may work in a moment; retried before anybody sees it
    ├── CutoverFailed               33   the address was moved and is back where it was, or needs a decision
    ├── Unprotected                 34   this host's own keys could do harm to the backups: `check --attack` did it
    ├── HookFailed                  35   a command of the operator's own, before or after a run, went wrong
    └── NotificationFailed          36   `drtool notify` could not tell everybody

2 is click's own status for a wrong command line, 130 stands for Ctrl-C.
The class carries the status, the instance a ``hint``: one sentence, what to do next.
The library raises; only ``cli.main`` turns an error into text and a status.
"""

from __future__ import annotations

from typing import ClassVar


class DrtoolError(Exception):
    """Base of everything raised on purpose. ``str()`` is one line without secrets."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(DrtoolError):
    exit_status = 3


class SecretExposed(DrtoolError):
    exit_status = 4


class SealError(DrtoolError):
    exit_status = 5


class HostUnfit(DrtoolError):
    exit_status = 6


class StoreError(DrtoolError):
    exit_status = 10


class StoreTransient(StoreError):
    """Known to be worth another try: a dropped connection, a 5xx, a throttle. Nothing else is retried."""


class StoreAccessDenied(StoreError):
    exit_status = 11


class BucketMissing(StoreError):
    exit_status = 12


class StoreFull(StoreError):
    exit_status = 13


class ObjectMissing(StoreError):
    exit_status = 14


class ObjectExists(StoreError):
    exit_status = 15


class SetMissing(DrtoolError):
    exit_status = 14


class MemberMissing(SetMissing):
    """The set is there, and what is wanted of it is not in it."""


class CommandFailed(DrtoolError):
    """A command ended badly. ``status`` is None when it could not be started or ran out of time."""

    exit_status = 16

    def __init__(self, message: str, *, status: int | None = None, stderr: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.stderr = stderr


class Busy(DrtoolError):
    exit_status = 17


class BackupFailed(DrtoolError):
    exit_status = 18


class VersionMismatch(DrtoolError):
    exit_status = 20


class SetDamaged(DrtoolError):
    exit_status = 21


class UnsafeMember(SetDamaged):
    exit_status = 26


class ObjectiveBreached(DrtoolError):
    exit_status = 22


class TargetHoldsData(DrtoolError):
    exit_status = 23


class FormatTooNew(DrtoolError):
    exit_status = 24


class IdentityMismatch(DrtoolError):
    exit_status = 25


class SignatureInvalid(DrtoolError):
    exit_status = 27


class RestoreFailed(DrtoolError):
    exit_status = 28


class ResumeError(DrtoolError):
    exit_status = 29


class Differs(DrtoolError):
    exit_status = 30


class AddressError(DrtoolError):
    """``code`` is what the provider itself calls it, empty where it said nothing."""

    exit_status = 31

    def __init__(self, message: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class AddressElsewhere(AddressError):
    exit_status = 32


class AddressTransient(AddressError):
    """Known to be worth another try. Whether it had an effect is not known: look before you do it again."""


class CutoverFailed(DrtoolError):
    exit_status = 33


class Unprotected(DrtoolError):
    exit_status = 34


class HookFailed(DrtoolError):
    exit_status = 35


class NotificationFailed(DrtoolError):
    exit_status = 36
