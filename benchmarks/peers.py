"""What is compared: each case is one command line, for bytes that go to the server or come back from it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clients import BUCKET, INSTANCE, tar, untar
from benchmarks.staged import BACKUP_ID

PEERS = Path(sys.executable).parent.parent / "peers" / "bin"
"""A virtual environment of their own: awscli pins a botocore, and drtool must be measured with the one it has."""

PASSWORD = "not-a-secret"


@dataclass(frozen=True)
class Site:
    """Where everything lies. ``key`` gives a key nobody used before."""

    url: str
    work: Path
    target: Path
    recipient: str
    size: int
    key: Callable[[], str]

    @property
    def staged(self) -> str:
        return str(self.work / "staged")

    @property
    def ready_tar(self) -> Path:
        return self.work / "served" / BUCKET / "ready.tar"

    def environment(self) -> dict[str, str]:
        """For all clients. rclone may not compare ETags, which the server invents."""
        return {
            "PATH": f"{PEERS}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.work),
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "PYTHONWARNINGS": "ignore",
            "AWS_ACCESS_KEY_ID": "AKTEST",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_CONFIG_SINK_TYPE": "s3",
            "RCLONE_CONFIG_SINK_PROVIDER": "Other",
            "RCLONE_CONFIG_SINK_ENV_AUTH": "true",
            "RCLONE_CONFIG_SINK_REGION": "us-east-1",
            "RCLONE_CONFIG_SINK_ENDPOINT": self.url,
            "RCLONE_S3_USE_MULTIPART_ETAG": "false",
            "RCLONE_IGNORE_CHECKSUM": "true",
            "RESTIC_PASSWORD": PASSWORD,
        }


@dataclass(frozen=True)
class Case:
    """``command`` makes the line to measure; ``before`` what has to be run first, unmeasured."""

    name: str
    needs: tuple[str, ...]
    command: Callable[[Site, str], list[str]]
    before: Callable[[Site, str], list[str]] | None = None


def missing(case: Case) -> list[str]:
    """Name the programs a case needs and the machine does not have."""
    return [name for name in case.needs if not find(name)]


def find(program: str) -> str | None:
    return shutil.which(program, path=f"{PEERS}:/usr/local/bin:/usr/bin:/bin")


def _python(*words: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.clients", *words]


def _shell(line: str) -> list[str]:
    return ["bash", "-c", f"set -e -o pipefail; {line}"]


def _tar(site: Site) -> str:
    return shlex.join(tar(site.staged))


def _untar(site: Site) -> str:
    return shlex.join(untar(str(site.target)))


def _restic(site: Site, key: str) -> str:
    return f"restic --quiet --no-cache -r s3:{site.url}/{BUCKET}/{key}"


def _unsealed_volumes(site: Site) -> str:
    """The README's three lines, with rclone for the copy: every volume for itself, their plain bytes one tar."""
    folder = f"sealed/{INSTANCE}/sets/{BACKUP_ID}"
    names = sorted(path.name for path in (site.work / "served" / BUCKET / folder).iterdir())
    identity = site.work / "identity.txt"
    return " && ".join(f"rclone cat sink:{BUCKET}/{folder}/{name} | age -d -i {identity}" for name in names)


UP = (
    Case("drtool, sealed", (), lambda s, _: _python("drtool-up", s.url, str(s.work), s.recipient, str(s.size))),
    Case("tar \\| age \\| rclone rcat", ("age", "rclone"),
         lambda s, key: _shell(f"{_tar(s)} | age -r {s.recipient} | rclone rcat sink:{BUCKET}/{key}")),
    Case("restic backup", ("restic",),
         lambda s, key: _shell(f"cd {s.staged} && {_restic(s, key)} backup ."),
         before=lambda s, key: _shell(f"{_restic(s, key)} init")),
    Case("drtool, in clear", (), lambda s, _: _python("drtool-up", s.url, str(s.work), "", str(s.size))),
    Case("tar \\| boto3.upload_fileobj", (), lambda s, _: _python("boto3-up", s.url, s.staged)),
    Case("tar \\| aws s3 cp -", ("aws",),
         lambda s, key: _shell(f"{_tar(s)} | aws --endpoint-url {s.url} s3 cp --quiet - s3://{BUCKET}/{key}")),
    Case("s5cmd cp (of a ready tar)", ("s5cmd",),
         lambda s, key: ["s5cmd", "--log", "error", "--endpoint-url", s.url, "cp", str(s.ready_tar),
                         f"s3://{BUCKET}/{key}"]),
    Case("bare limit (one PUT of a ready tar)", (), lambda s, _: _python("bare-up", s.url, str(s.ready_tar))),
)  # fmt: skip

DOWN = (
    Case("drtool, sealed", (), lambda s, _: _python("drtool-down", s.url, str(s.work), "sealed", str(s.target))),
    Case("rclone cat \\| age -d \\| tar -x", ("age", "rclone"),
         lambda s, _: _shell(f"{{ {_unsealed_volumes(s)}; }} | {_untar(s)}")),
    Case("restic restore", ("restic",),
         lambda s, _: _shell(f"{_restic(s, 'restic')} restore latest --target {s.target}")),
    Case("drtool, in clear", (), lambda s, _: _python("drtool-down", s.url, str(s.work), "clear", str(s.target))),
    Case("boto3.download_fileobj \\| tar -x", (),
         lambda s, _: _python("boto3-down", s.url, "ready.tar", str(s.target))),
    Case("aws s3 cp - \\| tar -x", ("aws",),
         lambda s, _: _shell(f"aws --endpoint-url {s.url} s3 cp --quiet s3://{BUCKET}/ready.tar - | {_untar(s)}")),
    Case("s5cmd cp (to a file, not unpacked)", ("s5cmd",),
         lambda s, _: ["s5cmd", "--log", "error", "--endpoint-url", s.url, "cp", f"s3://{BUCKET}/ready.tar",
                       f"{s.target}/"]),
    Case("bare limit (one GET, received and dropped)", (),
         lambda s, _: _python("bare-down", s.url, "ready.tar", str(s.ready_tar.stat().st_size))),
)  # fmt: skip


def version(program: str, *words: str) -> str:
    """The first line a program says about itself; "" if it is missing."""
    found = find(program)
    if not found:
        return ""
    said = subprocess.run([found, *words], capture_output=True, text=True, check=False)
    return (said.stdout or said.stderr).strip().splitlines()[0]
