"""The composition root: settings become live stores, runners, installs and keys here, and nowhere else."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

from drtool import attack, backup, restore
from drtool.app_stores import arms_on, trial_on
from drtool.app_stores import open_store as open_store
from drtool.arrivals import OpenCatalog
from drtool.capabilities import Trial
from drtool.catalog import BackupSet, Catalog
from drtool.choosing import LATEST, resolve
from drtool.clock import Clock, SystemClock
from drtool.config import Config, InstanceTable, find_config, read_config, read_secret
from drtool.config_stores import AnyStoreTable
from drtool.copy import Copied, copy
from drtool.core.packages import package_of
from drtool.core.plan import Via
from drtool.core.posture import StorePlace
from drtool.engine import HostKey
from drtool.errors import ConfigError, DrtoolError, SetDamaged, SetMissing, SignatureInvalid, StoreError
from drtool.events import Emit
from drtool.hosts import Runner
from drtool.hosts.local import LocalRunner
from drtool.installs.omnibus import Omnibus
from drtool.lease import leased
from drtool.locking import lock_rule
from drtool.policies import Policy, read_policy
from drtool.promised import Means, refuse_unmet
from drtool.receipts import RecordOffice
from drtool.restore_plan import Wanted
from drtool.signing import Signer, Verifier, public_key
from drtool.stores import LocksBucket
from drtool.streams import parse_identities
from drtool.unsealing import choose_identity

_CURES = {
    "local": "Keep a copy in a store that locks; a directory keeps nothing from the user who owns it.",
    "s3": "Give this host the rights that `drtool init --iam aws` prints, and no more.",
    "spaces": "Spaces has no smaller key: turn on versioning, and keep a copy that locks.",
    "oss": "Give this host the rights that `drtool init --iam oss` prints, and no more.",
}


@dataclass(frozen=True)
class App:
    """One instance of one configuration, ready to work with."""

    path: Path
    config: Config
    instance: InstanceTable
    emit: Emit
    clock: Clock = field(default_factory=SystemClock)

    @cached_property
    def runner(self) -> Runner:
        return LocalRunner()

    @contextmanager
    def runner_on(self, host: str) -> Iterator[Runner]:
        """Commands on ``local``, or on ``[user@]host[:port]`` by ssh; as root by sudo, if that is another user.

        Raises ConfigError, CommandFailed.
        """
        if host == "local":
            yield self.runner
            return
        from drtool.hosts.ssh import open_ssh
        from drtool.hosts.ssh_target import parse_target

        target = parse_target(host)
        runner = open_ssh(replace(target, sudo=target.user != "root"))
        try:
            runner.connect()
            yield runner
        finally:
            runner.close()

    @cached_property
    def install(self) -> Omnibus:
        backup_path = self.instance.backup_path
        return Omnibus(PurePosixPath(self.instance.prefix), PurePosixPath(backup_path) if backup_path else None)

    @cached_property
    def catalog(self) -> Catalog:
        return self.catalog_on(self.instance.store)

    @property
    def store_names(self) -> tuple[str, ...]:
        """The instance's own store and those of its copies, in this order."""
        return (self.instance.store, *(table.store for table in self.instance.copies))

    def witnesses(self, store: str) -> list[OpenCatalog]:
        """The other stores whose clocks are no worse than this one's: a thief can date what lies in a directory."""
        kinds = {name: self.store_table(name).kind for name in self.store_names}
        good = [name for name in kinds if kinds[store] == "local" or kinds[name] != "local"]
        return [partial(self.catalog_on, name) for name in good if name != store]

    def catalog_on(self, store: str) -> Catalog:
        """The instance's sets on any store of the configuration. Raises ConfigError."""
        return Catalog(open_store(self.store_table(store)), self.instance.name, lock=self._lock_until)

    def _lock_until(self, set_id: str) -> datetime | None:
        """What the policy says; it is not read before something is stored, for whoever only restores."""
        table = self.policy.lock if self.policy else None
        return lock_rule(table.duration, self.clock)(set_id) if table else None

    def leased(self, catalog: Catalog, purpose: str) -> AbstractContextManager[Catalog]:
        """Hold the instance's lease on this catalog's store while the catalog that it gives is written with."""
        return leased(catalog, self.config.state_dir, purpose=purpose, clock=self.clock, emit=self.emit)

    def trial_of(self, store: str | None) -> Trial:
        """What a deep check needs of a store of the configuration (default: the instance's). Raises ConfigError."""
        table = self.store_table(store or self.instance.store)
        return trial_on(table, Trial(open_store(table, small=True), self.instance.name, self.clock, self.emit))

    def attack_place(self, store: str | None) -> attack.Place:
        """What an attack on a store of the configuration works with (default: the instance's). Raises ConfigError."""
        name = store or self.instance.store
        catalog = self.catalog_on(name)
        kind = self.store_table(name).kind
        return attack.Place(catalog, arms_on(catalog.store, kind), _CURES[kind], self.clock, self.emit, new_token)

    def store_table(self, store: str) -> AnyStoreTable:
        if store not in self.config.store:
            listed = ", ".join(self.config.store)
            raise ConfigError(f"{self.path}: there is no [store.{store}]", hint=f"There are: {listed}.")
        return self.config.store[store]

    @cached_property
    def policy(self) -> Policy | None:
        """What is promised; None where the instance names no policy. Raises ConfigError."""
        return read_policy(self.instance.policy) if self.instance.policy else None

    def means(self) -> Means:
        """What the configuration has to keep its policy with. Raises ConfigError, StoreError."""
        table = self.instance
        store = self.catalog.store
        mode = getattr(self.store_table(table.store), "object_lock", None)
        lock = store.capabilities.lock
        locked = store.worm_state().retention if lock == "bucket" and isinstance(store, LocksBucket) else None
        return Means(table.seal == "age", 1 + len(table.copies), lock, mode, locked)

    def place_of(self, store: str) -> StorePlace:
        """Where a store's copies lie, and whether they can be locked there. Raises ConfigError, StoreError."""
        table = self.store_table(store)
        kind = f"{table.kind} {getattr(table, 'endpoint', '') or ''}".strip()
        catalog = self.catalog_on(store)
        catalog.check_reachable()
        locks = catalog.store.capabilities.lock != "none"
        return StorePlace(store, kind, off_site=table.kind != "local", locks=locks)

    @cached_property
    def signer(self) -> Signer | None:
        return Signer(self.instance.signing_key, self.runner) if self.instance.signing_key else None

    @cached_property
    def verifier(self) -> Verifier:
        """Trusts what trusted_signers lists and, on the host that signs, its own key."""
        key = self.instance.signing_key
        own = (public_key(key),) if key and key.with_name(f"{key.name}.pub").is_file() else ()
        return Verifier((*self.instance.trusted_signers, *own), self.runner)

    def identities(self, given: tuple[Path, ...] = ()) -> tuple[object, ...]:
        """Private keys from the command line and the configuration. Raises SecretExposed, SealError."""
        references = [*(f"file:{path}" for path in given), *self.instance.identities]
        return tuple(parse_identities((reference, read_secret(reference).encode()) for reference in references))

    def host_key(self, backup_set: BackupSet, given: tuple[Path, ...], *, signature_checked: bool) -> HostKey:
        """What a host needs to unseal the set by itself: the one identity that opens it. Raises IdentityMismatch."""
        references = [*(f"file:{path}" for path in given), *self.instance.identities]
        texts = ((reference, read_secret(reference).encode()) for reference in references)
        return HostKey(choose_identity(backup_set, texts), signature_checked)

    def wanted(
        self,
        version: str,
        *,
        install: bool,
        via: Via,
        isolate: bool,
        count: bool,
        replace: str | None,
        drill: bool,
        store: str | None,
    ) -> Wanted:
        """How to restore a set of this GitLab version, as the command line and the configuration say."""
        table = self.instance.package
        package = package_of(version, table.name) if install else None
        return Wanted(package, table.source, via, isolate or drill, count, replace, drill, store or self.instance.store)

    def open_set(
        self, text: str, *, store: str | None = None, identities: tuple[object, ...] = (), unsigned: bool = False
    ) -> BackupSet:
        """Find a set in a store (default: the instance's) and check its signature, unless none is wanted."""
        with self.reading(store) as catalog:
            set_id = self.resolve(text, catalog)
            try:
                manifest = catalog.read_manifest(set_id, None if unsigned else self.verifier)
            except SignatureInvalid as problem:
                if text != LATEST or not self.verifier.trusted:
                    raise
                hint = "Use a set whose signature holds, by its name: `drtool list` shows which do."
                raise SignatureInvalid(str(problem), hint=hint) from problem
        return BackupSet(catalog, manifest, identities)

    @contextmanager
    def reading(self, store: str | None) -> Iterator[Catalog]:
        """The sets of a store (default: the instance's). Whoever named none hears of the copies when that fails."""
        try:
            yield self.catalog_on(store) if store else self.catalog
        except (StoreError, SetMissing, SetDamaged) as problem:
            if store is None and self.instance.copies:
                problem.hint = f"{problem.hint} (Or read a copy: --store {self.store_names[1]}.)".strip()
            raise

    def resolve(self, text: str, catalog: Catalog) -> str:
        """Find a set by a name, by its beginning or as ``latest``, as this host's clock has it. Raises SetMissing."""
        return resolve(catalog, text, self.clock.now(), self.emit)

    def copy_to_all(self, set_id: str) -> list[Copied]:
        """Copy a set to every store that the configuration wants one in. Raises, as itself, what one copy raises."""
        copies = []
        for table in self.instance.copies:
            try:
                with self.leased(self.catalog_on(table.store), "a copy") as target:
                    copies.append(copy(self.open_set(set_id), target, clock=self.clock, emit=self.emit))
            except DrtoolError as problem:
                hint = f"The set itself is complete. `drtool copy {set_id} --to {table.store}` copies it later."
                raise type(problem)(f"{set_id} has no copy in {table.store}: {problem}", hint=hint) from problem
        return copies

    def backup_order(self) -> backup.Order:
        table = self.instance
        return backup.Order(
            instance=table.name,
            install=self.install,
            seal=table.seal,
            recipients=table.seal_to,
            config_recipients=table.config_seal_to or table.seal_to,
            volume_size=table.volume_size,
            volumes_in_flight=table.volumes_in_flight,
            accept_unfit_secrets=table.accept_unfit_secrets,
        )

    def backup_place(self) -> backup.Place:
        if self.policy:
            refuse_unmet(self.policy, self.means())
        if self.signer is None:
            raise ConfigError(
                f"{self.path}: instance {self.instance.name}: signing_key is missing", hint="`drtool init` makes one."
            )
        return backup.Place(
            self.catalog,
            self.runner,
            self.signer,
            self.config.state_dir,
            self.clock,
            self.emit,
            new_token,
            new_salt,
            self.verifier,
        )

    def record_office(self, *, signed: bool) -> RecordOffice:
        return RecordOffice(self.signer, self.verifier, signed, self.clock, self.emit, new_token)

    def restore_place(self, backup_set: BackupSet, runner: Runner, key: HostKey | None = None) -> restore.Place:
        return restore.Place(
            runner,
            backup_set,
            self.signer,
            self.config.state_dir,
            self.clock,
            self.emit,
            new_token,
            platform.node(),
            key,
        )


def load(path: Path | None, instance: str | None, emit: Emit) -> App:
    """Read the configuration and choose the instance. Raises ConfigError."""
    found = find_config(path)
    config = read_config(found)
    return App(found, config, config.choose(instance), emit)


def load_all(path: Path | None, instance: str | None, emit: Emit) -> list[App]:
    """The same for the instance named, or for every one there is. Raises ConfigError."""
    found = find_config(path)
    config = read_config(found)
    return [App(found, config, table, emit) for table in ([config.choose(instance)] if instance else config.instance)]


def new_salt() -> bytes:
    """16 random bytes."""
    return secrets.token_bytes(16)


def new_token() -> str:
    """Four random hex digits."""
    return secrets.token_hex(2)
