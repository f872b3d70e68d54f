"""An instance with two directories as stores, its keys beside them, and the real console script: no GitLab anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from drtool.catalog import Catalog
from drtool.core.model import Volume, new_set_id
from drtool.hosts.local import LocalRunner
from drtool.signing import Signer, Verifier, make_key
from drtool.stores.local import LocalStore
from drtool.streams import generate_identity, parse_identities
from tests import sets
from tests.playground import Ran, drtool

CONFIG = """\
state_dir = "state"
[[instance]]
name = "gitlab"
store = "main"
signing_key = "signing_key"
identities = ["file:identity.txt"]
{more}
[[instance.copies]]
store = "copy"
[store.main]
kind = "local"
path = "main"
[store.copy]
kind = "local"
path = "copy"
"""


@dataclass(frozen=True)
class TwoStores:
    """Where everything lies, and the keys that sets here are sealed and signed with."""

    base: Path
    keys: sets.Keys

    def path(self, store: str, set_id: str, name: str) -> Path:
        return self.base / store / self.catalog(store).key(set_id, name)

    def catalog(self, store: str = "main") -> Catalog:
        return Catalog(LocalStore(self.base / store), sets.INSTANCE)

    def take(self, *, days_ago: int = 0, seed: int = 0) -> sets.Committed:
        """Put a set of some days ago into the first store."""
        set_id = new_set_id(datetime.now(UTC).replace(microsecond=0) - timedelta(days=days_ago), "0000")
        store = self.catalog().store
        return sets.commit(store, set_id=set_id, seed=seed, keys_=self.keys, with_census=True)

    def drtool(self, *arguments: str | Path) -> Ran:
        return drtool(*arguments, "--config", self.base / "drtool.toml")

    def configure(self, more: str = "") -> None:
        (self.base / "drtool.toml").write_text(CONFIG.format(more=more))


def lay_out(base: Path) -> TwoStores:
    """Two empty stores and fresh keys."""
    runner = LocalRunner()
    public_key = make_key(base / "signing_key", runner, comment="drtool@test")
    secret, recipient = generate_identity()
    identity = base / "identity.txt"
    identity.touch(mode=0o600)
    identity.write_text(secret)
    for store in ("main", "copy"):
        (base / store).mkdir()
    identities = tuple(parse_identities([("test", secret.encode())]))
    signer, verifier = Signer(base / "signing_key", runner), Verifier((public_key,), runner)
    made = TwoStores(base, sets.Keys(recipient, identities, signer, verifier, public_key))
    made.configure()
    return made


def delete(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


HARMS: tuple[Callable[[Path], None], ...] = (delete, cut, flip)


def some_volume(committed: sets.Committed) -> Volume:
    return committed.manifest.volumes[1]
