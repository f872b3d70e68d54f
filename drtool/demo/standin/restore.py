"""gitlab:backup:restore, and the two tasks it runs at its end."""

from __future__ import annotations

import os

from . import components, information, repositories
from .components import Component, components_of
from .console import Console, Quit
from .database import Database
from .lock import locked
from .options import Options
from .settings import Host
from .staging import Staging

_SECRETS_WARNING = (
    "Warning: Your gitlab.rb and gitlab-secrets.json files contain sensitive data \n"
    "and are not included in this backup. You will need to restore these files manually."
)
_WHICH = (
    "Please specify which one you want to restore:",
    "rake gitlab:backup:restore BACKUP=timestamp_of_backup",
)
_KEY_OPTIONS = "no-port-forwarding,no-X11-forwarding,no-agent-forwarding,no-pty"


def run(host: Host) -> None:
    """Restore a backup. Returns normally only when the exit status is 0, which says nothing about repositories."""
    console = Console(host)
    with locked(console):
        _Restoration(console, Options.from_environment(host)).run()


class _Restoration:
    def __init__(self, console: Console, options: Options) -> None:
        self.console = console
        self.host = console.host
        self.options = options
        self.database = Database(console, options)
        self.staging = Staging(console, options)

    def run(self) -> None:
        self.console.phase("lock")
        # A failed unpacking leaves its loose members behind: the cleaning below is not reached (18.9).
        self.staging.unpack(self.options.backup, _WHICH)
        try:
            manifest = information.read(self.host.backups / information.FILE_NAME)
            self.options.merge(manifest)
            self.staging.verify_version(manifest)
            for component in components_of(self.host):
                self._restore(component, manifest.get("backup_id") or self.options.backup)
            self._rebuild_authorized_keys()
        finally:
            self._clean_up()
        self.console.say(_SECRETS_WARNING, "warning")
        self.console.say("Restore task is done.")
        self.console.phase("done")

    def _restore(self, component: Component, backup_id: str | None) -> None:
        if self.options.skips(component.identifier) or not component.enabled(self.host):
            return  # without a line
        self.console.say(f"Restoring {component.human_name} ... ")
        self.console.phase(component.identifier)
        match component.identifier:
            case "db":
                self.database.confirm_restore()
                errors = self.database.restore()
                self.console.say(f"Restoring {component.human_name} ... done")
                if errors:
                    self.database.confirm_errors()
                return
            case "repositories":
                repositories.restore(self.database, self.console, self.options, backup_id)
            case _:
                components.restore(component, self.console, self.options)
        self.console.say(f"Restoring {component.human_name} ... done")

    def _rebuild_authorized_keys(self) -> None:
        """Do what gitlab:shell:setup does, asking its own question: only ``force=yes`` itself silences that one."""
        setting = "select coalesce(bool_and(authorized_keys_enabled), true) from application_settings"
        if self.database.query(setting) == ["f"]:
            return
        if dict(os.environ).get("force") != "yes":
            self.console.put("This task will now rebuild the authorized_keys file.\n")
            self.console.put("You will lose any data stored in the authorized_keys file.\n")
            if not self.console.ask():
                self.console.put("Quitting...\n")
                raise Quit
            self.console.put("\n")
        shell = "/opt/gitlab/embedded/service/gitlab-shell/bin/gitlab-shell"
        lines = ["# Managed by gitlab-rails"]
        for row in self.database.records("select k.id, k.key from keys k where k.usage_type <> 1 order by k.id"):
            key = " ".join(str(row["key"]).split()[:2])
            lines.append(f'command="{shell} key-{row["id"]}",{_KEY_OPTIONS} {key}')
        path = self.host.data / ".ssh/authorized_keys"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n")

    def _clean_up(self) -> None:
        self.console.phase("cleanup")
        if not self.options.skips("tar"):
            self.staging.clean()
        self.staging.delete_temporary()
