"""``drtool init``: keys and a commented configuration, ready for a first backup."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from drtool.errors import ConfigError, SealError
from drtool.hosts import Runner
from drtool.signing import make_key
from drtool.streams import generate_identity, parse_identities

TEMPLATE = """\
# drtool's configuration. `drtool check` says whether it is right.
# Secrets are never written here: say env:NAME, or file:/path of a file that only its owner can read.

state_dir = {state}        # journals of unfinished runs; losing it loses no backup

[[instance]]
name = {instance}
install = "omnibus"                   # GitLab's Linux package
store = "main"
{policy}{prefix}
# Public keys that backups are sealed to. The private key is NOT needed on this host: keep it elsewhere.
# Several may be given: age1… or ssh-ed25519 …; any one of them opens the backup.
seal_to = [{recipient}]
# config_seal_to = ["age1…"]          # other keys for gitlab.rb and gitlab-secrets.json alone
# identities = ["file:/path/to/identity.txt"]   # only where you restore or fetch

signing_key = {signing_key}
trusted_signers = [{public_key}]

# volume_size = "1 GiB"
# volumes_in_flight = 2
# accept_unfit_secrets = true     # only if the secrets that the database needs are lost for good

# [[instance.copies]]                 # every set is copied to these stores too
# store = "second"

# [instance.notify]                   # who is told; then try `drtool notify --test`
# urls = ["file:/etc/drtool/mail"]    # addresses as apprise writes them: mailtos://…, slack://…, dingtalk://…
# on = ["failure", "breach"]          # or "start" and "success" too
# ping_url = "file:/etc/drtool/ping"  # a dead-man switch like https://hc-ping.com/…

# [[instance.hooks]]                  # before- and after- a command, and on-failure
# when = "before-backup"
# command = ["/usr/local/sbin/mount-the-share"]

[store.main]
{store}
"""

_NO_POLICY = '# policy = "business"                 # what is promised: what stays, how old the newest set may be, …\n'
_LOCAL = 'kind = "local"\npath = {path}'
_EXAMPLE = """\
kind = "local"
path = "/srv/gitlab-backups"          # must exist; better on another machine than on another disk

# kind = "s3"                         # AWS S3, anything that speaks S3; then try `drtool check --deep`
# bucket = "my-gitlab-backups"
# region = "eu-central-1"
# endpoint = "https://storage.example.com:9000"      # leave out for AWS
# checksums = "when_required"         # for servers that refuse AWS' newer checksums
# conditional_put = false             # for servers that ignore If-None-Match
# object_lock = "governance"          # or "compliance"; only in a bucket that was made with object lock
# access_key_id = "env:BACKUP_KEY_ID" # leave both out to use the instance's role
# secret_access_key = "file:/etc/drtool/secret_access_key"

# kind = "spaces"                     # DigitalOcean Spaces
# bucket = "my-gitlab-backups"
# region = "fra1"
# access_key_id = "env:BACKUP_KEY_ID" # and secret_access_key, as above

# kind = "oss"                        # Alibaba Cloud OSS
# bucket = "my-gitlab-backups"
# endpoint = "https://oss-cn-hangzhou-internal.aliyuncs.com"
# region = "cn-hangzhou"
# ram_role = "gitlab-backup"          # or access_key_id and access_key_secret, as above\
"""


@dataclass(frozen=True, slots=True)
class Made:
    """What init left behind. ``identity`` is the file to move off this host."""

    config: Path
    identity: Path
    recipient: str
    signing_key: Path
    public_key: str


def initialise(
    directory: Path,
    runner: Runner,
    *,
    instance: str,
    host: str,
    store: Path | None = None,
    state: Path | None = None,
    prefix: Path | None = None,
    policy: Path | None = None,
) -> Made:
    """Make an age identity, a signing key and ``drtool.toml`` in ``directory``. The configuration comes last.

    A ``policy`` is copied there, to be changed; one of its name that is there already is kept.
    Keys that are there already are kept, so an interrupted init is simply run again. Raises ConfigError when there is
    a configuration already.
    """
    directory = directory.absolute()  # in the file, a relative path would be meant from where the file is
    config = directory / "drtool.toml"
    if config.exists():
        raise ConfigError(f"{config}: is there already", hint="Edit it, or give init another directory.")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity, recipient = _identity(directory / "identity.txt", instance)
        signing_key = directory / "signing_key"
        public = make_key(signing_key, runner, comment=f"drtool@{host}")
        if policy and not (directory / policy.name).exists():
            _write_private(directory / policy.name, policy.read_text(encoding="utf-8"))
        text = TEMPLATE.format(
            state=_quoted(state.absolute() if state else "/var/lib/drtool"),
            instance=_quoted(instance),
            policy=f"policy = {_quoted(policy.name)}\n" if policy else _NO_POLICY,
            prefix=f"prefix = {_quoted(prefix.absolute())}\n" if prefix else "",
            recipient=_quoted(recipient),
            signing_key=_quoted(signing_key),
            public_key=_quoted(public),
            store=_LOCAL.format(path=_quoted(store.absolute())) if store else _EXAMPLE,
        )
        _write_private(config, text)
    except OSError as problem:
        raise ConfigError(
            f"{directory}: {problem.strerror}", hint="Run as root, or give a directory of yours: `drtool init ./dr`."
        ) from problem
    return Made(config, identity, recipient, signing_key, public)


def _identity(path: Path, instance: str) -> tuple[Path, str]:
    if not path.exists():
        secret, public = generate_identity()
        _write_private(path, f"# age identity that opens the backups of {instance}\n# public key: {public}\n{secret}\n")
    found = parse_identities([(str(path), path.read_bytes())])
    to_public = getattr(found[0], "to_public", None)  # an OpenSSH key has none
    if len(found) > 1 or to_public is None:
        raise SealError(
            f"{path}: is there already, and is not one age identity",
            hint="Move it away, or write drtool.toml yourself and put its public key into seal_to.",
        )
    return path, str(to_public())


def _quoted(value: object) -> str:
    """A TOML string: what JSON escapes, TOML escapes in the same way."""
    return json.dumps(str(value), ensure_ascii=False)


def _write_private(path: Path, text: str) -> None:
    """Write a file nobody else can read, or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)  # one that is there already would keep its mode
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
