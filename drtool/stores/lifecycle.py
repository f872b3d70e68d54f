"""What a bucket's own rules do to objects like ours, whoever the provider is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LifecycleEffects:
    """The rules by their ids.

    ``aborts_uploads``: parts of dead uploads are removed some day, everywhere below our prefix. ``deletes`` and
    ``freezes``: rules that remove our objects behind our back, or move them where they cannot be read at once.
    """

    aborts_uploads: bool = False
    deletes: tuple[str, ...] = ()
    freezes: tuple[str, ...] = ()
