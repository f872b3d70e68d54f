"""gitlab-secrets.json as Omnibus makes it: whatever is missing is generated, silently."""

from __future__ import annotations

import copy
import json
import secrets
import shutil
import string
from pathlib import Path
from typing import Any

_ALPHANUMERIC = string.ascii_letters + string.digits


def complete(existing: dict[str, Any]) -> dict[str, Any]:
    """Return ``existing`` with every missing section and key added. What is there stays, known or unknown."""
    result = copy.deepcopy(existing)
    for section, keys in _fresh().items():
        present = result.setdefault(section, {})
        for key, value in keys.items():
            if present.get(key) in (None, "", []):
                present[key] = value
    return result


def reconfigure(path: Path) -> None:
    """Complete the file in place, making it if it is absent; mode 0600."""
    existing = json.loads(path.read_text()) if path.exists() else {}
    completed = complete(existing)
    if completed != existing:
        new = path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps(completed, indent=2) + "\n")
        new.replace(path)


def hand_over(path: Path, copy_: Path, user: str) -> None:
    """Give Rails, which runs as ``user``, a copy that it may read, unless it reads the file itself.

    So it goes on with old secrets until the next reconfigure, as secrets.yml has it with Omnibus.
    """
    if copy_ == path:
        return
    copy_.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = copy_.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(path.read_text())
    shutil.chown(new, user)
    new.replace(copy_)


def _fresh() -> dict[str, dict[str, Any]]:
    # Lengths and alphabets: Omnibus 17.8 and later. The signing key is no key: nothing here signs with it.
    return {
        "gitlab_workhorse": {"secret_token": secrets.token_urlsafe(32)},
        "gitlab_shell": {"secret_token": secrets.token_hex(64)},
        "gitlab_rails": {
            "secret_key_base": secrets.token_hex(64),
            "db_key_base": secrets.token_hex(64),
            "otp_key_base": secrets.token_hex(64),
            "encrypted_settings_key_base": secrets.token_hex(64),
            "openid_connect_signing_key": "sandbox-signing-key-" + secrets.token_hex(32),
            "active_record_encryption_primary_key": [_alphanumeric(32)],
            "active_record_encryption_deterministic_key": [_alphanumeric(32)],
            "active_record_encryption_key_derivation_salt": _alphanumeric(32),
        },
        "gitlab_pages": {"api_secret_key": secrets.token_urlsafe(32)},
        "gitlab_kas": {
            "api_secret_key": secrets.token_urlsafe(32),
            "private_api_secret_key": secrets.token_urlsafe(32),
        },
        "registry": {"http_secret": secrets.token_hex(64)},
        "letsencrypt": {"auto_enabled": False},
    }


def _alphanumeric(length: int) -> str:
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(length))
