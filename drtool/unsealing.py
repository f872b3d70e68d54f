"""Let a host fetch an archive from the store by itself, by signed URLs, and unpack it: no bulk passes through here.

Each sealed volume is downloaded and its digest compared, and only then unsealed into the one pipe that the archive is
unpacked from, while the next one is on its way. A download that broke off goes on, also in another run; each has a URL
that was signed right before it, so a long restore outlives no signature. What was unpacked is removed at once: the room
that is needed is that of the archive and of one volume.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import PurePosixPath

from drtool.catalog import BackupSet
from drtool.core.command import Command
from drtool.core.model import Archive, IndexedMember, Volume
from drtool.errors import (
    CommandFailed,
    DrtoolError,
    HostUnfit,
    IdentityMismatch,
    SetDamaged,
    SignatureInvalid,
    StoreAccessDenied,
    StoreError,
    StoreTransient,
    UnsafeMember,
)
from drtool.events import Emit, Progress
from drtool.gitlab.scan import check_symlink, clean_name
from drtool.hosts import Runner
from drtool.installs import unsealing as scripts
from drtool.installs.unsealing import Ended, Found
from drtool.stores import Store
from drtool.stores.retry import Backoff
from drtool.streams import generate_identity, parse_identities, parse_recipients, sealed

URL_TTL = timedelta(hours=1)
"""A URL has to live until the store answers; a body that is on its way comes to its end."""

_PATIENCE = timedelta(minutes=1)
_TRIAL = b"drtool can unseal here\n"
_HOSTILE = "Do not restore this set; whoever made it wanted to write what nobody judged."
_OTHER_WAY = "Without --via, the data goes through this machine."
_FULL_DISK = ("No space left on device", "Disk quota exceeded", "Wrote only ")  # the last is tar's


def check_can_fetch(runner: Runner, store: Store, key: str, *, sealed: bool, ttl: timedelta = URL_TTL) -> None:
    """Try all of it on one byte of an object and on a made-up seal. Changes nothing.

    Raises StoreError where the store does not sign, HostUnfit where the host lacks a program or does not reach it.
    """
    if not store.capabilities.signed_url:
        raise StoreError(f"{store.name} signs no URLs, so nobody else can fetch from it", hint=_OTHER_WAY)
    _try_programs(runner, sealed=sealed)
    try:
        runner.run(scripts.reach(), stdin=scripts.url_lines(store.signed_url(key, ttl=ttl)))
    except CommandFailed as failure:
        problem = _explain(failure, f"{runner.name} cannot fetch {key} from {store.name}")
        if isinstance(problem, StoreTransient):
            raise HostUnfit(f"{problem}", hint=f"Let it reach the store. {_OTHER_WAY}") from failure
        raise problem from failure


def choose_identity(backup_set: BackupSet, files: Iterable[tuple[str, bytes]]) -> bytes:
    """The one identity that opens the set, so that the host is given no other; empty if the index is not sealed.

    ``files`` are what ``streams.parse_identities`` takes. Raises IdentityMismatch.
    """
    if backup_set.manifest.index.seal == "none":
        return b""
    for source, text in (each for file in files for each in _single_identities(*file)):
        try:
            replace(backup_set, identities=tuple(parse_identities([(source, text)]))).read_index()
        except IdentityMismatch:
            continue
        return text
    raise _wrong_identity(f"{backup_set.manifest.set_id}: none of the given identities opens the seal")


def stage_by_signed_url(
    runner: Runner,
    backup_set: BackupSet,
    archive_name: str,
    directory: PurePosixPath,
    unpack: Command,
    *,
    identity: bytes,
    signature_checked: bool,
    emit: Emit,
    phase_name: str,
    ttl: timedelta = URL_TTL,
    backoff: Backoff = Backoff(),  # noqa: B008 - a frozen value
    patience: timedelta = _PATIENCE,
) -> None:
    """Bring an archive into ``directory``, which is empty and only the host's root may enter; ``unpack`` goes there.

    ``identity`` comes from ``choose_identity``; ``signature_checked`` says that the manifest's was. Progress counts the
    bytes that the host fetched. After an error the directory is to be emptied; what was fetched and not yet unpacked
    waits in ``fetched_into(directory)`` for the next call, which removes it at its end.

    The members do not pass a TarScanner of ours, as they do on their way through here. In its place: the digests of
    the sealed bytes are those of a signed manifest, and are compared before tar sees a byte; so the bytes are those
    that the backup's own scanner judged before it signed. Should the signer itself be hostile: GNU tar writes nothing
    outside of the directory that it is given, and before anybody uses what lies there, it is compared with the signed
    index, whose names are judged before. A set without a checked signature has none of this, and is refused.
    """
    if not signature_checked:
        raise SignatureInvalid(
            f"{backup_set.manifest.set_id}: of a set without a checked signature, nobody judged what is unpacked",
            hint=f"--unsigned and --via do not go together. {_OTHER_WAY}",
        )
    archive = backup_set.manifest.archive(archive_name)
    indexed = _judged_index(backup_set, archive_name)
    folder = fetched_into(directory)
    runner.run(Command(("mkdir", "--parents", "--mode=0700", "--", str(folder)), timedelta(minutes=1)))
    into = scripts.unseal_into(unpack, folder, sealed=archive.seal == "age")
    with _explained(f"{runner.name}: the {archive_name} archive"), runner.write_to(into) as sink:
        sink.write(scripts.identity_lines(identity if archive.seal == "age" else b""))
        fetched = 0
        for volume in archive.volumes:
            _fetch(runner, backup_set, volume, folder, ttl, backoff, patience)
            sink.write(scripts.volume_line(volume))
            fetched += volume.stored_size
            emit(Progress(phase_name, fetched, sum(each.stored_size for each in archive.volumes)))
        sink.write(scripts.LAST_LINE)
    _compare_tree(scripts.parse_tree(runner.run(scripts.list_tree(directory))), indexed, archive)
    runner.run(Command(("rm", "-rf", "--", str(folder))))


def fetched_into(directory: PurePosixPath) -> PurePosixPath:
    """Where sealed volumes lie before they are unpacked into a directory: beside it, on the same disk."""
    return directory.with_name(f"{directory.name}-sealed")


def room_needed(archive: Archive) -> int:
    """How many bytes must be free below the directory: what is not unpacked is sealed, and one volume is both."""
    return max(archive.size, sum(volume.stored_size for volume in archive.volumes)) + max(
        (volume.stored_size for volume in archive.volumes), default=0
    )


def _try_programs(runner: Runner, *, sealed: bool) -> None:
    trial = _sealed_trial() if sealed else b""
    try:
        said = runner.run(scripts.try_programs(sealed=sealed), stdin=trial)
    except CommandFailed as failure:
        raise HostUnfit(
            f"{runner.name} cannot unpack a set by itself: {_last_words(failure)}",
            hint=f"Install what is missing there (`apt-get install age curl`). {_OTHER_WAY}",
        ) from failure
    if sealed and said != _TRIAL:
        raise HostUnfit(f"{runner.name}: its age does not unseal what was sealed", hint=_OTHER_WAY)


def _sealed_trial() -> bytes:
    secret, public = generate_identity()
    with sealed(io.BytesIO(_TRIAL), parse_recipients([public])) as stream:
        return f"{secret}\n".encode() + stream.readall()


def _single_identities(source: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    if b"OPENSSH PRIVATE KEY" in content:
        yield source, content
        return
    for line in content.splitlines():
        if line.strip() and not line.lstrip().startswith(b"#"):
            yield source, line.strip()


def _judged_index(backup_set: BackupSet, archive: str) -> dict[str, IndexedMember]:
    """The archive's files by name. Raises UnsafeMember for names that no member may have."""
    members = backup_set.read_index().get(archive)
    if members is None:
        raise SetDamaged(f"{backup_set.manifest.set_id}: the index does not know the {archive} archive")
    indexed: dict[str, IndexedMember] = {}
    for member in members:
        if clean_name(member.name) != member.name or member.name == "." or member.name in indexed:
            raise UnsafeMember(f"the {archive} archive: its index names {member.name!r}", hint=_HOSTILE)
        indexed[member.name] = member
    return indexed


def _fetch(
    runner: Runner,
    backup_set: BackupSet,
    volume: Volume,
    folder: PurePosixPath,
    ttl: timedelta,
    backoff: Backoff,
    patience: timedelta,
) -> None:
    store = backup_set.catalog.store
    key = backup_set.catalog.key(backup_set.manifest.set_id, volume.name)
    command = scripts.fetch(folder, volume, patience=patience)

    def once() -> None:
        with _explained(f"{runner.name}: {key} from {store.name}"):
            runner.run(command, stdin=scripts.url_lines(store.signed_url(key, ttl=ttl)))

    retrying: Callable[[Callable[[], None]], None] = backoff.retrying()
    try:
        retrying(once)
    except SetDamaged:
        # Once more, from its first byte: the way here is not always encrypted, and what went on from an earlier run may
        # have gone on from something else.
        backoff.retrying()(once)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except CommandFailed as failure:
        problem = _explain(failure, what)
        if problem is failure:
            raise
        raise problem from failure


def _explain(failure: CommandFailed, what: str) -> DrtoolError:
    """What the status of a script means; the failure itself where it is none of theirs."""
    words = f"{what}: {_last_words(failure)}"
    full = any(sign in failure.stderr for sign in _FULL_DISK)
    match failure.status:
        case Ended.NO_ROOM:
            return _no_room(words)
        case Ended.NOT_UNPACKED | Ended.NOT_UNSEALED | Ended.OTHER_BYTES if full:
            return _no_room(words)
        case Ended.NOT_FETCHED:
            return StoreTransient(words, hint=f"Look at the network between them; run it again to go on. {_OTHER_WAY}")
        case Ended.REFUSED:
            return _refused(words)
        case Ended.OTHER_BYTES:
            return SetDamaged(
                words, hint="Use another set (`drtool list`), or another copy of this one (`--store NAME`)."
            )
        case Ended.NOT_UNSEALED if "no identity matched" in failure.stderr:
            return _wrong_identity(words)
        case Ended.NOT_UNSEALED:
            # Its sealed bytes are the signed ones: hardly the set's fault.
            return HostUnfit(words, hint=f"Look at age and the memory there. {_OTHER_WAY}")
        case Ended.NOT_TRUSTED | Ended.PROGRAM_MISSING | Ended.NO_DIRECTORY:
            return HostUnfit(words, hint=_OTHER_WAY)
        case _:
            return failure


def _refused(words: str) -> DrtoolError:
    found = re.search(r"http (\d{3})", words)
    status = int(found[1]) if found else 0
    if status in (408, 429) or status >= 500:
        return StoreTransient(words)
    if status == 404:
        return SetDamaged(words, hint="It is missing from the store: use another set (`drtool list`).")
    if status in (401, 403):
        return StoreAccessDenied(
            words, hint="A signature is refused when this machine's clock is wrong, or its key may not read."
        )
    return StoreError(words, hint=_OTHER_WAY)


def _no_room(words: str) -> HostUnfit:
    return HostUnfit(
        f"no room is left: {words}", hint="Make room there, then run the same command: it goes on from here."
    )


def _wrong_identity(words: str) -> IdentityMismatch:
    return IdentityMismatch(
        words, hint="Give the identity whose public key is in seal_to: `drtool show` lists the set's recipients."
    )


def _last_words(failure: CommandFailed) -> str:
    """What the scripts said last, else the failure's own words."""
    said = [line.removeprefix("drtool: ") for line in failure.stderr.splitlines() if line.startswith("drtool: ")]
    return said[-1] if said else str(failure)


def _compare_tree(found: Sequence[Found], indexed: dict[str, IndexedMember], archive: Archive) -> None:
    """Raise UnsafeMember or SetDamaged unless what lies there is what the index says, and nothing that must not be."""
    named = f"the {archive.name} archive"
    inodes = {thing.inode for thing in found if thing.name in indexed}
    missing = set(indexed)
    for thing in found:
        if thing.name in indexed:
            if (thing.kind, thing.size) != ("f", indexed[thing.name].size):
                raise SetDamaged(f"{named}: {thing.name!r} was not unpacked as the index says")
            missing.discard(thing.name)
        elif thing.kind == "l":
            check_symlink(thing.name, thing.target)
        elif thing.kind != "d" and not (thing.kind == "f" and thing.inode in inodes):  # a hard link is not indexed
            raise UnsafeMember(f"{named}: {thing.name!r} was unpacked, which its index does not know", hint=_HOSTILE)
    if missing:
        raise SetDamaged(f"{named}: {min(missing)!r} was not unpacked, and {len(missing) - 1} more")
    if len(found) < archive.members:
        raise SetDamaged(f"{named}: {len(found)} members were unpacked of {archive.members}")
