"""``policies/*.toml``: what is promised about one instance's backups. Every complaint reads ``file: key: reason``."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from datetime import UTC, timedelta, tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from drtool.core.policy import Objectives, Retention
from drtool.errors import ConfigError

_LENGTH = r"^\s*(\d{1,6})\s*([mhd])\s*$"
_SHARE = r"^(\d{1,3}(?:\.\d+)?)%$"
_MINUTES = {"m": 1, "h": 60, "d": 24 * 60}
_USUAL_A_DAY = 6
_HOURLY_A_DAY = 36
_COMPARE = "The ready ones in policies/ explain every key."


def parse_duration(value: object) -> timedelta:
    """Read ``90m``, ``26h`` or ``2d``."""
    match = re.fullmatch(_LENGTH, value) if isinstance(value, str) else None
    if not match:
        raise ValueError('write minutes, hours or days as text, like "90m", "26h" or "2d"')
    return timedelta(minutes=int(match[1]) * _MINUTES[match[2]])


def _parse_share(value: object) -> float:
    match = re.fullmatch(_SHARE, value) if isinstance(value, str) else None
    if not match or not 0 < float(match[1]) <= 100:
        raise ValueError('write a share as text, more than "0%" and at most "100%"')
    return float(match[1]) / 100


def _check_zone(name: str) -> str:
    zone_of(name)
    return name


def zone_of(name: str) -> tzinfo:
    """The time zone of this name. Raises ValueError if this host does not know it."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"this host knows no time zone {name!r}; write one like Europe/Berlin, or UTC") from None


def _text(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


Duration = Annotated[timedelta, BeforeValidator(parse_duration), _text(_LENGTH, "26h")]
Share = Annotated[float, BeforeValidator(_parse_share), _text(_SHARE, "5%")]
Zone = Annotated[str, AfterValidator(_check_zone)]
Count = Annotated[int, Field(ge=0, le=10_000)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RetentionTable(_Table):
    """Which sets stay. Without any number and without `within`, all of them do."""

    last: Count = Field(default=0, description="The newest sets, whenever they were taken.")
    hourly: Count = Field(default=0, description="The last set of each of so many hours that have one.")
    daily: Count = Field(default=0, description="The last set of each of so many days that have one.")
    weekly: Count = Field(default=0, description="The last set of each of so many weeks, which begin on Mondays.")
    monthly: Count = Field(default=0, description="The last set of each of so many months that have one.")
    yearly: Count = Field(default=0, description="The last set of each of so many years that have one.")
    within: Duration | None = Field(
        default=None, description="All sets that are no older than the newest verified one by more than this."
    )
    minimum: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3, description="So many verified sets stay whatever else is said; with fewer, nothing is removed."
    )
    patience: Duration = Field(
        default=timedelta(days=14),
        json_schema_extra={"default": "14d"},
        description="A set that is red, damaged or never verified stays until it is so much older than the newest"
        " verified one.",
    )
    time_zone: Zone = Field(default="UTC", description="Where days, weeks, months and years begin.")
    sets_a_day: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="More new sets within a day than this freeze all removal. 6, with hourly 36."
    )

    def as_retention(self) -> Retention:
        """The same as a value to decide with."""
        return Retention(
            last=self.last,
            hourly=self.hourly,
            daily=self.daily,
            weekly=self.weekly,
            monthly=self.monthly,
            yearly=self.yearly,
            within=self.within,
            minimum=self.minimum,
            patience=self.patience,
            zone=zone_of(self.time_zone),
            sets_a_day=self.sets_a_day or (_HOURLY_A_DAY if self.hourly else _USUAL_A_DAY),
        )


class ObjectivesTable(_Table):
    """What is promised. `drtool status` holds it against what is."""

    rpo: Duration | None = Field(default=None, description="At most so much work is lost.")
    rto: Duration | None = Field(default=None, description="A restore takes no longer.")
    drill_age: Duration | None = Field(default=None, description="The last restore drill is no older.")

    def as_objectives(self) -> Objectives:
        return Objectives(self.rpo, self.rto, self.drill_age)


class SealTable(_Table):
    """Whether backups must be sealed to public keys."""

    required: bool = True


class LockTable(_Table):
    """Object lock: how long nobody may delete or replace what was stored."""

    days: Annotated[int, Field(ge=1, le=36_500)]
    mode: Literal["governance", "compliance"] = Field(
        default="governance", description="In compliance mode nobody can shorten it, not even the account's owner."
    )

    @property
    def duration(self) -> timedelta:
        return timedelta(days=self.days)


class CopiesTable(_Table):
    """On how many stores a set is to be."""

    stores: Annotated[int, Field(ge=1, le=16)] = Field(default=1, description="The first one is counted.")


class VerificationTable(_Table):
    """How often sets are looked at. Only what was read whole counts as verified, so only that lets others go."""

    digest: Duration | None = Field(default=None, description="Every stored byte is read at least so often.")
    contents: Duration | None = Field(default=None, description="The newest set is unsealed and judged so often.")
    sample: Share | None = Field(default=None, description="How much of each set `drtool verify --sample` reads.")


class Policy(_Table):
    """One policy file."""

    model_config = ConfigDict(title="drtool policy")

    retention: RetentionTable = RetentionTable()
    objectives: ObjectivesTable = ObjectivesTable()
    seal: SealTable = SealTable()
    lock: LockTable | None = None
    copies: CopiesTable = CopiesTable()
    verification: VerificationTable = VerificationTable()

    @model_validator(mode="after")
    def _waits_for_verification(self) -> Policy:
        shortest = self.verification.digest
        if shortest and self.retention.patience < shortest and not self.retention.as_retention().is_empty:
            raise ValueError("retention.patience is shorter than verification.digest: sets would go before their turn")
        return self


def read_policy(path: Path) -> Policy:
    """Read and check a file. Raises ConfigError."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}", hint=_COMPARE) from problem
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"{path}: not TOML: {problem}", hint=_COMPARE) from problem
    try:
        return Policy.model_validate(tables)
    except ValidationError as problem:
        found = problem.errors(include_input=False, include_url=False)
        raise ConfigError("\n".join(_complaints(path, found)), hint=_COMPARE) from None


def shipped_policy(name: str) -> Path:
    """The file of a ready policy, like ``business``. Raises ConfigError, naming those there are."""
    ready = {path.stem: path for path in sorted(_shipped().glob("*.toml"))}
    if name not in ready:
        raise ConfigError(
            f"there is no ready policy {name!r}", hint=f"There are: {', '.join(ready)}; a file of yours ends in .toml."
        )
    return ready[name]


def _shipped() -> Path:
    """Where the ready policies are: in the package that was installed, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "shipped_policies"
    return installed if installed.is_dir() else package.parent / "policies"


def schema_text() -> str:
    """The JSON Schema of a policy file, as it lies in policies/policy.schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Policy.model_json_schema()}
    for table in schema["properties"].values():
        table.pop("default", None)  # a table that is left out has its keys' defaults, which stand there
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def _complaints(path: Path, problems: Iterable[Any]) -> list[str]:
    return [f"{path}: {_key(problem['loc'])}{_reason(problem)}" for problem in problems]


def _key(parts: Iterable[str | int]) -> str:
    return "".join([".".join(map(str, parts)), ": "]) if parts else ""


def _reason(problem: Any) -> str:
    match problem["type"]:
        case "extra_forbidden":
            return "no such key"
        case "missing":
            return "is missing"
        case "model_type":
            return "should be a table"
        case _:
            return str(problem["msg"]).removeprefix("Value error, ").replace("Input should be", "should be")
