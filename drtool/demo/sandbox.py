"""A small GitLab in the shape of Omnibus below one directory, with a real PostgreSQL and real git repositories.

Its commands (``opt/gitlab/bin/gitlab-backup`` and friends) are the stand-in of ``drtool/demo/standin``, copied into the
sandbox. A new sandbox is what a package installation leaves: services up, secrets made, a database without tables.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from drtool.demo import postgres
from drtool.demo.layout import Instance, lay_out
from drtool.demo.standin.services import SERVICES
from drtool.errors import CommandFailed, HostUnfit


class Sandbox(Instance):
    """One sandbox. Use ``create``, ``open`` or ``clone``; as a context manager it stops on leaving."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.postgres = postgres.Server(self.data / "postgresql", log=self.log / "postgresql/current")

    @classmethod
    def create(cls, root: Path, *, version: str = "18.9.0-ee") -> Sandbox:
        """Lay out a fresh installation of this GitLab version below ``root`` and start it.

        ``root`` is created, or must be empty. The database exists and has no tables.
        """
        if root.exists() and any(root.iterdir()):
            raise HostUnfit(f"{root} is not empty", hint="name a new directory for the sandbox")
        sandbox = cls(root)
        lay_out(sandbox, version)
        for service in SERVICES:  # runit's directories, which hold what keeps a service down
            (root / "opt/gitlab/service" / service).mkdir()
        sandbox._make_host_keys()
        sandbox.postgres.create()
        sandbox._tell_postgres()
        return sandbox

    @classmethod
    def open(cls, root: Path) -> Sandbox:
        """Take up an existing sandbox, running or not."""
        sandbox = cls(root)
        if not sandbox.settings.is_file():
            raise HostUnfit(f"{root} holds no sandbox")
        return sandbox

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start PostgreSQL. May be called twice."""
        self.postgres.start()
        self._tell_postgres()

    def stop(self) -> None:
        """Stop every process of the sandbox; its files stay."""
        self.postgres.stop()

    def destroy(self) -> None:
        """Lose the host: stop everything and remove every file."""
        self.stop()
        shutil.rmtree(self.root)

    def clone(self, to: Path) -> Sandbox:
        """Copy this sandbox to ``to`` and start the copy. This one is stopped for the copying, then as before."""
        was_running = self.postgres.running
        self.stop()
        to.parent.mkdir(parents=True, exist_ok=True)
        copy = subprocess.run(
            ["cp", "-a", "--reflink=auto", "-T", str(self.root), str(to)], capture_output=True, text=True, check=False
        )
        if copy.returncode != 0:
            raise CommandFailed(f"cannot copy {self.root}: {copy.stderr}", status=copy.returncode, stderr=copy.stderr)
        if was_running:
            self.start()
        sandbox = Sandbox(to)
        sandbox.start()
        return sandbox

    def sql(self, text: str, *, superuser: bool = False) -> str:
        """Run SQL as the role ``gitlab`` (who owns the tables) and return rows as ``a|b`` lines."""
        return self.postgres.sql(text, role=postgres.SUPERUSER if superuser else postgres.ROLE)

    def _make_host_keys(self) -> None:
        for kind in ("ecdsa", "ed25519", "rsa"):
            path = self.etc_ssh / f"ssh_host_{kind}_key"
            size = ("-b", "2048") if kind == "rsa" else ()  # the default takes seconds, and nobody connects
            subprocess.run(
                ["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", "root@sandbox", "-f", str(path)], check=True
            )

    def _tell_postgres(self) -> None:
        programs = self.postgres.programs
        server = {
            "socket": str(self.postgres.socket),
            "port": postgres.PORT,
            "programs": str(programs),
            "data": str(self.postgres.data),
            "start": [*postgres.demoted(), str(programs / "postgres"), "-D", str(self.postgres.data)],
        }
        self.write_settings({**self.read_settings(), "postgres": server})
