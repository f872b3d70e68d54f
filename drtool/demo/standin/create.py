"""gitlab:backup:create."""

from __future__ import annotations

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
    "and are not included in this backup. You will need these files to restore a backup.\n"
    "Please back them up manually."
)
_WHICH = (
    "Please specify which one you want to create an incremental backup for:",
    "rake gitlab:backup:create INCREMENTAL=true PREVIOUS_BACKUP=timestamp_of_backup",
)


def run(host: Host) -> None:
    """Make a backup. Returns normally only when the exit status is 0."""
    console = Console(host)
    with locked(console):
        _Creation(console, Options.from_environment(host)).run()


class _Creation:
    def __init__(self, console: Console, options: Options) -> None:
        self.console = console
        self.host = console.host
        self.options = options
        self.database = Database(console, options)
        self.staging = Staging(console, options)
        self.failed = False

    def run(self) -> None:
        self.console.phase("lock")
        full_backup_id = self._take_up_base() if self.options.incremental else None
        moment = information.Moment.now()
        version = self.database.migration_version()
        manifest = information.build(
            self.host, self.options, db_version=version, moment=moment, full_backup_id=full_backup_id
        )
        name = information.backup_id(self.host, moment, self.options.backup)
        try:
            for component in components_of(self.host):
                self._dump(component, name)
            self.console.phase("information")
            information.write(self.host, manifest)
            if not self.options.skips("tar"):
                archive = self.staging.pack(name)
                self.staging.upload(archive)
                self.staging.prune()
        finally:
            self._clean_up()
        self.console.say(_SECRETS_WARNING, "warning")
        self.console.say(f"Backup {name} is done.")
        self.console.phase("done")
        # Since 17.0 (!147057) a component that failed fails the run; before, only its line of output told.
        if self.failed and self.host.release >= (17, 0) and not self.host.switch("silent_failure"):
            raise Quit

    def _take_up_base(self) -> str | None:
        """Unpack the archive that the increment builds on. Returns the ID of the first of the chain."""
        previous = self.options.previous_backup or self.options.backup
        self.staging.unpack(previous, _WHICH)
        try:
            manifest = information.read(self.host.backups / information.FILE_NAME)
            self.options.merge(manifest)
            self.staging.verify_version(manifest)
        except BaseException:
            self._clean_up()
            raise
        return manifest.get("full_backup_id") or manifest.get("backup_id") or previous

    def _dump(self, component: Component, backup_id: str) -> None:
        title = f"Dumping {component.human_name} ... "
        if not component.enabled(self.host):
            self.console.say(f"{title}[DISABLED]")
            return
        if self.options.skips(component.identifier):
            self.console.say(f"{title}[SKIPPED]")
            return
        self.console.say(title)
        self.console.phase(component.identifier)
        succeeded = True
        match component.identifier:
            case "db":
                succeeded = self.database.dump()
            case "repositories":
                repositories.dump(self.database, self.console, self.options, backup_id)
            case _:
                succeeded = components.dump(component, self.console, self.options)
        if succeeded:
            self.console.say(f"{title}done")
        self.failed = self.failed or not succeeded

    def _clean_up(self) -> None:
        self.console.phase("cleanup")
        if not self.options.skips("tar"):
            self.staging.clean()
        self.staging.delete_temporary()
