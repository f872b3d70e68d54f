"""A host whose services are real, from inside: what seeding and counting need of it. As root, on that host.

``python3 -m drtool.demo.installed seed PROJECTS EVENTS BULK_BYTES`` or ``… census``; see tests/integration/hosts.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from drtool.demo import postgres
from drtool.demo.census import doctor, take_census
from drtool.demo.layout import Instance
from drtool.demo.seed import seed
from drtool.demo.standin import settings as standin
from drtool.demo.standin.components import COMPONENTS
from drtool.errors import CommandFailed


class Installed(Instance):
    """The installation at ``/``, or below another root."""

    def sql(self, text: str, *, superuser: bool = False) -> str:
        """Run SQL as the role ``gitlab`` and return rows as ``a|b`` lines. CommandFailed at the first error."""
        server = self.read_settings()["postgres"]
        where = ("-h", server["socket"], "-p", str(server["port"]), "-d", postgres.DATABASE)
        words = ("-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-")
        if superuser:
            argv = [str(self.bin / "gitlab-psql"), *words]
        else:
            argv = [str(Path(server["programs"]) / "psql"), *words, *where, "-U", postgres.ROLE]
        result = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise CommandFailed(f"psql: {result.stderr[-500:]}", status=result.returncode, stderr=result.stderr)
        return result.stdout.strip()


def _forget_what_no_backup_carries(host: Installed) -> None:
    """Empty the components that this release has but its backup leaves out, as before 17.1 external diffs."""
    release = standin.Host(host.root).release
    for component in COMPONENTS:
        directory = host.data / component.directory
        if component.directory and release < component.since:
            shutil.rmtree(directory)
            directory.mkdir(mode=0o700)


def main(arguments: list[str]) -> None:
    host = Installed(Path("/"))
    match arguments:
        case ["seed", projects, events, bulk_bytes]:
            # A host after its first start has tables.
            host.sql("SET client_min_messages = error; DROP OWNED BY gitlab CASCADE")
            seed(host, projects=int(projects), events=int(events), bulk_bytes=int(bulk_bytes))
            _forget_what_no_backup_carries(host)
            directories = ("git-data", "gitlab-ci", "gitlab-rails/uploads", "gitlab-rails/shared")
            subprocess.run(["chown", "-R", "git:git", *(host.data / name for name in directories)], check=True)
        case ["census"]:
            opened, failed = doctor(host)
            content = {**dataclasses.asdict(take_census(host)), "opened": opened, "failed": failed}
            sys.stdout.write(json.dumps(content))
        case ["configure", settings]:
            host.configure(**json.loads(settings))
        case ["switch", switches]:
            host.switch(**json.loads(switches))
        case ["set-version", version]:
            host.set_version(version)
        case _:
            sys.exit("seed PROJECTS EVENTS BULK_BYTES | census | configure JSON | switch JSON | set-version VERSION")


if __name__ == "__main__":
    os.umask(0o022)
    main(sys.argv[1:])
