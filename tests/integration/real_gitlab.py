"""GitLab's own image in place of ours: gitlab/gitlab-ce:<version>-ce.0, or -ee.

Used where DRTOOL_TEST_GITLAB_IMAGE names one that the engine has or can pull, or where the engine has one anyway.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from docker.errors import ImageNotFound

VARIABLE = "DRTOOL_TEST_GITLAB_IMAGE"
START_SECONDS = 900.0  # it migrates and compiles for minutes at its first start
_REPOSITORIES = ("gitlab/gitlab-ce", "gitlab/gitlab-ee")
_SSH_SECONDS = 60
_CONFIG = """\
Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
PidFile none
Subsystem sftp internal-sftp
"""
# The image's own sshd is for git alone, and runs below runit.
_START_SSHD = """
mkdir -p /run/sshd
gitlab-ctl stop sshd >/dev/null 2>&1 || true
for name in deployer visitor; do useradd -m -s /bin/bash "$name" 2>/dev/null || true; done
exec /usr/sbin/sshd -f /etc/ssh/drtool-tests
"""
_SEED = """
admin = User.find_by!(username: 'root')
space = Organizations::Organization.respond_to?(:first) ? {organization_id: Organizations::Organization.first&.id} : {}
%d.times do |number|
  project = Projects::CreateService.new(
    admin, {name: "seed #{number}", path: "seed-#{number}", initialize_with_readme: number != 3}.merge(space)
  ).execute
  abort project.errors.full_messages.join(', ') unless project.persisted?
  project.wiki.create_page('home', 'Welcome') if (number %% 5).zero?
end
"""


def image(client: Any) -> str | None:
    """Return the image to use, pulled if need be; None without one."""
    if wanted := os.environ.get(VARIABLE):
        try:
            client.images.get(wanted)
        except ImageNotFound:
            client.images.pull(wanted)
        return wanted
    for repository in _REPOSITORIES:
        for found in client.images.list(name=repository):
            if found.tags:
                return str(found.tags[0])
    return None


def open_ssh(container: Any, files: Mapping[tuple[str, int], bytes]) -> None:
    """Start a second sshd, which lets in who may log in to our own hosts. ``files`` are in place already."""
    from tests.integration.hosts import put

    put(container, {"/etc/ssh/drtool-tests": _CONFIG.encode()})
    deadline = time.monotonic() + _SSH_SECONDS
    while True:
        result = container.exec_run(["sh", "-c", _START_SSHD])
        if result.exit_code == 0:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"sshd does not start: {result.output.decode(errors='replace')}")
        time.sleep(1)


def seed(container: Any, projects: int) -> None:
    """Make projects through GitLab's own code."""
    result = container.exec_run(["gitlab-rails", "runner", _SEED % projects])
    if result.exit_code != 0:
        raise RuntimeError(f"seeding failed: {result.output.decode(errors='replace')[-2000:]}")
