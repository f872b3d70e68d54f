"""``drtool.toml``: parsed at the door, trusted afterwards. Every complaint reads ``file: key: reason``."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from drtool.config_addresses import AddressTable, anchored_address
from drtool.config_notify import HookTable, NotifyTable
from drtool.config_stores import SECRETS_OF_STORES, AnyStoreTable, LocalStoreTable, SecretReference, StoreTable, Table
from drtool.core.packages import FromHere, FromHost, FromRepository, FromStore, PackageSource
from drtool.errors import ConfigError
from drtool.policies import parse_duration, shipped_policy
from drtool.signing import refuse_exposed

SEARCHED = (Path("drtool.toml"), Path("/etc/drtool/drtool.toml"))
"""Where the file is looked for when neither --config nor DRTOOL_CONFIG names one."""

_NAME_RULE = "use lower-case letters, digits, dots and dashes"
_COMPARE = "`drtool init DIRECTORY` writes a commented file to compare with."
_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_SMALLEST_VOLUME = 64 << 10


def parse_size(value: object) -> int:
    """Read ``"1 GiB"``, ``"512MiB"`` or a number of bytes."""
    match = re.fullmatch(r"\s*(\d+)\s*([A-Za-z]*)\s*", str(value))
    if isinstance(value, bool) or not match or match[2].upper() not in _UNITS:
        raise ValueError('write a size like "1 GiB" or "512 MiB"')
    return int(match[1]) * _UNITS[match[2].upper()]


def parse_percent(text: str) -> float:
    """Read ``5%`` or ``5`` as 0.05. Raises ConfigError."""
    match = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*%?\s*", text)
    if not match or not 0 < float(match[1]) <= 100:
        raise ConfigError(f"{text!r} is no share", hint="Write more than 0% and at most 100%, like 5%.")
    return float(match[1]) / 100


def parse_age(text: str) -> timedelta:
    """Read ``90m``, ``26h`` or ``2d``. Raises ConfigError."""
    try:
        return parse_duration(text)
    except ValueError as problem:
        hint = "Write minutes, hours or days like 90m, 26h or 2d."
        raise ConfigError(f"{text!r} is no length of time", hint=hint) from problem


Size = Annotated[int, BeforeValidator(parse_size)]
_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
Name = Annotated[str, Field(pattern=_NAME)]


class CopyTable(Table):
    """Another store that every set is copied to after its backup."""

    store: str


class PackageTable(Table):
    """Where ``restore --install`` gets GitLab's package from; without one of the three, the host's own repository.

    ``name`` is the package as apt writes it, for versions that do not tell it.
    """

    name: str | None = None
    file: Annotated[Path | None, Field(strict=False)] = None
    on_host: Annotated[Path | None, Field(strict=False)] = None
    store_key: str | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> PackageTable:
        named = [name for name in ("file", "on_host", "store_key") if getattr(self, name)]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} contradict each other: leave all but one out")
        if self.sha256 and not named:
            raise ValueError("sha256 is for a file: add file, on_host or store_key")
        return self

    @property
    def source(self) -> PackageSource:
        if self.file:
            return FromHere(PurePosixPath(self.file), self.sha256)
        if self.on_host:
            return FromHost(PurePosixPath(self.on_host), self.sha256)
        return FromStore(self.store_key, self.sha256) if self.store_key else FromRepository()


class InstanceTable(Table):
    """One GitLab."""

    name: Name
    install: Literal["omnibus"] = "omnibus"
    prefix: Annotated[Path, Field(strict=False)] = Path("/")
    backup_path: Annotated[Path | None, Field(strict=False)] = None
    store: str
    seal: Literal["age", "none"] = "age"
    seal_to: tuple[str, ...] = Field(default=(), strict=False)
    config_seal_to: tuple[str, ...] = Field(default=(), strict=False)
    identities: tuple[SecretReference, ...] = Field(default=(), strict=False)
    signing_key: Annotated[Path | None, Field(strict=False)] = None
    trusted_signers: tuple[str, ...] = Field(default=(), strict=False)
    volume_size: Annotated[Size, Field(ge=_SMALLEST_VOLUME)] = 1 << 30
    volumes_in_flight: Annotated[int, Field(ge=1, le=16)] = 2
    accept_unfit_secrets: bool = False
    copies: tuple[CopyTable, ...] = Field(default=(), strict=False)
    package: PackageTable = PackageTable()
    notify: NotifyTable = NotifyTable()
    hooks: tuple[HookTable, ...] = Field(default=(), strict=False)
    policy: Annotated[Path | None, Field(strict=False)] = None

    @model_validator(mode="after")
    def _clear_means_clear(self) -> InstanceTable:
        if self.seal == "none" and self.seal_to:
            raise ValueError('seal = "none" and seal_to contradict each other: leave one out')
        return self


class Config(Table):
    """The whole file."""

    state_dir: Annotated[Path, Field(strict=False)] = Path("/var/lib/drtool")
    instance: tuple[InstanceTable, ...] = Field(min_length=1, strict=False)
    store: dict[str, StoreTable]
    address: dict[str, AddressTable] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_fit(self) -> Config:
        names = [table.name for table in self.instance]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two instances are named {name!r}")
        for table in self.instance:
            used = [table.store, *(copied.store for copied in table.copies)]
            for name in used:
                if name not in self.store:
                    raise ValueError(f"instance {table.name!r} wants store {name!r}, there is no [store.{name}]")
                if used.count(name) > 1:
                    raise ValueError(f"instance {table.name!r} keeps two copies in store {name!r}")
        return self

    def choose(self, name: str | None) -> InstanceTable:
        """The instance of this name, or the only one. Raises ConfigError."""
        known = {table.name: table for table in self.instance}
        if name is None and len(known) == 1:
            return self.instance[0]
        if name in known:
            return known[name]
        listed = ", ".join(known)
        if name is None:
            raise ConfigError(f"there are several instances: {listed}", hint="Say which one: --instance NAME.")
        raise ConfigError(f"no instance {name!r}; there are: {listed}")


def check_name(name: str) -> str:
    """The name, if an instance may be called so. Raises ConfigError."""
    if not re.fullmatch(_NAME, name):
        raise ConfigError(f"{name!r} is no name for an instance", hint=f"{_NAME_RULE}.".capitalize())
    return name


def find_config(given: Path | None) -> Path:
    """The file to read: the one given, DRTOOL_CONFIG, or the first of SEARCHED that is there. Raises ConfigError."""
    named = given or (Path(os.environ["DRTOOL_CONFIG"]) if os.environ.get("DRTOOL_CONFIG") else None)
    for path in [named] if named else SEARCHED:
        if _is_there(path):
            return path
    if named:
        raise ConfigError(f"{named}: no such file", hint="`drtool init` writes one.")
    looked = " and ".join(str(path) for path in SEARCHED)
    raise ConfigError(f"no drtool.toml (looked for {looked})", hint="`drtool init` writes one; --config names another.")


def read_config(path: Path) -> Config:
    """Read and check the file. Relative paths in it are meant from its own directory. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"{path}: cannot be read: {reason}", hint="It should be a text file that you may read."
        ) from problem
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"{path}: not TOML: {problem}", hint=_COMPARE) from problem
    try:
        config = Config.model_validate(tables)
    except ValidationError as problem:
        raise ConfigError(
            "\n".join(_complaints(path, problem.errors(include_input=False, include_url=False))), hint=_COMPARE
        ) from None
    return _anchor(config, path.resolve().parent)


def read_secret(reference: str) -> str:
    """Fetch what a secret reference points at, without its trailing newline.

    Raises ConfigError if it is not there, SecretExposed if others could read the file too.
    """
    kind, _, where = reference.partition(":")
    if kind == "env":
        if where not in os.environ:
            raise ConfigError(f"{reference}: this environment variable is not set", hint=f"export {where}=…")
        return os.environ[where]
    path = Path(where)
    if not _is_there(path):
        raise ConfigError(f"{path}: no such file", hint="It should hold a secret, readable by its owner alone.")
    refuse_exposed(path)
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}", hint="It should hold one secret as text.") from problem


def _is_there(path: Path) -> bool:
    """Whether a file is there. Raises ConfigError if nobody may know: init makes directories private."""
    try:
        return path.is_file()
    except OSError as problem:
        raise ConfigError(
            f"{path}: cannot be read: {problem.strerror}", hint="Run as the user whose file it is, mostly root."
        ) from problem


def _complaints(path: Path, problems: Iterable[Any]) -> list[str]:
    lines: list[str] = []
    for problem in problems:
        match problem["loc"]:
            case ("store" | "address" as tables, name, _, *rest):  # the third is the kind, which nobody wrote there
                key = _key([tables, name, *rest])
            case loc:
                key = _key(loc)
        if problem["type"] == "too_short" and lines:
            continue  # pydantic did not count the instances that it complained about
        lines.append(f"{path}: {key}: {_reason(problem)}" if key else f"{path}: {_reason(problem)}")
    return lines


def _reason(problem: Any) -> str:
    match problem["type"], problem["loc"][-1] if problem["loc"] else "":
        case "extra_forbidden", _:
            return "no such key"
        case "missing" | "union_tag_not_found", _:
            return "is missing" if problem["type"] == "missing" else "kind is missing"
        case "union_tag_invalid", _:
            return f"there is no kind {problem['ctx']['tag']!r}, only {problem['ctx']['expected_tags']}"
        case "string_pattern_mismatch", "name":
            return _NAME_RULE
        case "tuple_type" | "too_short", "instance":
            return "write [[instance]], with two brackets"
        case "tuple_type", _:
            return 'should be a list: ["…"]'
        case "path_type", _:
            return "should be a path, as text"
        case _:
            return str(problem["msg"]).removeprefix("Value error, ").replace("Input should be", "should be")


def _key(parts: Iterable[str | int]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _anchor(config: Config, base: Path) -> Config:
    """Make every relative path absolute, as seen from the file."""

    def absolute(path: Path | None) -> Path | None:
        return base / path.expanduser() if path is not None else None

    def policy(path: Path | None) -> Path | None:
        is_name = path is not None and path.name == str(path) and not path.suffix
        return shipped_policy(path.name) if path and is_name else absolute(path)

    def reference(text: str) -> str:
        return f"file:{base / Path(text[5:]).expanduser()}" if text.startswith("file:") else text

    def store(table: AnyStoreTable) -> AnyStoreTable:
        if isinstance(table, LocalStoreTable):
            return table.model_copy(update={"path": absolute(table.path)})
        secrets = {name: getattr(table, name, None) for name in SECRETS_OF_STORES}
        anchored = {name: reference(text) for name, text in secrets.items() if text}
        return table.model_copy(update={"ca_bundle": absolute(table.ca_bundle), **anchored})

    instances = tuple(
        table.model_copy(
            update={
                "prefix": absolute(table.prefix),
                "backup_path": absolute(table.backup_path),
                "signing_key": absolute(table.signing_key),
                "identities": tuple(reference(text) for text in table.identities),
                "policy": policy(table.policy),
                "notify": table.notify.anchored(reference),
                "package": table.package.model_copy(update={"file": absolute(table.package.file)}),
            }
        )
        for table in config.instance
    )
    stores = {name: store(table) for name, table in config.store.items()}
    addresses = {name: anchored_address(table, absolute, reference) for name, table in config.address.items()}
    found = {"instance": instances, "store": stores, "address": addresses}
    return config.model_copy(update={"state_dir": absolute(config.state_dir), **found})
