"""Read the transcripts of real runs, and bring them and ours to a form that can be compared line by line.

Left out on both sides, because it cannot be the same: the time, PIDs, IDs made of the time, where the root is, the
order in which repositories that are worked on side by side report, what psql prints while it loads (another major
version of pg_dump and psql), and git's own words about a damaged file. Some versions of psql (seen: 15.18) take the
end of the rows behind a COPY that failed for a command, and complain; 17.11, of the transcripts, does not.
"""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.sandboxes import DATA

_PATH_OF_GITLAB = re.compile(r"(?<=[ '\[])\S*?((?:/var)?/opt/gitlab/)")


@dataclass(frozen=True, slots=True)
class Transcript:
    name: str
    status: int
    sections: dict[str, list[str]]

    def section(self, beginning: str) -> list[str]:
        for title, lines in self.sections.items():
            if title.startswith(beginning):
                return lines
        raise KeyError(f"{self.name} has no section {beginning}")

    def has(self, beginning: str) -> bool:
        return any(title.startswith(beginning) for title in self.sections)


def transcript(number: str) -> Transcript:
    """The transcript of that number: ``01``, ``30a``. A terminal's has no status, and lines as cat -v shows them."""
    (path,) = (path for path in (DATA / "transcripts").glob(f"{number}-*") if "repositories-after" not in path.name)
    head, *parts = re.split(r"^## ", path.read_text(), flags=re.MULTILINE)
    sections = {}
    for part in parts:
        title, _, text = part.partition("\n")
        lines = text.splitlines()
        while lines and not lines[-1]:  # blank lines between sections; the output itself never ends with one
            lines.pop()
        sections[title] = lines
    status = re.search(r"^exit status: (\d+)$", head, re.MULTILINE)
    return Transcript(path.stem, int(status[1]) if status else 0, sections)


def normalised(lines: list[str]) -> list[str]:
    """Replace what differs from run to run, put JSON lines that stand together in order, drop psql's chatter."""
    plain = [line for line in _without_end_of_rows(_without_psql(lines)) if line]
    result: list[str] = []
    block: list[str] = []
    for line in plain:
        if line.startswith("{"):
            block.append(_json_line(line))
            continue
        result += sorted(block)
        block = []
        result.append(_line(line))
    return _numbered_ids(result + sorted(block))


def errors(text: str) -> list[str]:
    """Standard error without the backtrace, which the transcripts leave out as well."""
    lines = text.split("\n\nTasks: TOP", 1)[0].splitlines()
    return [line for line in _without_end_of_rows(lines) if line]


def comparable(lines: list[str]) -> list[str]:
    """Name no extension, and count no error twice in a row: both follow from the extensions that a PostgreSQL has.

    The transcripts' server has pg_trgm and btree_gist, and with it one constraint more on ``issues``; the wheel's has
    neither, but another one.
    """
    blocks: list[list[str]] = []
    for line in lines:
        text = re.sub(r"(must be owner of extension) \w+", r"\1 EXTENSION", line)
        if blocks and text.startswith(("DETAIL: ", "HINT: ")):
            blocks[-1].append(text)
        else:
            blocks.append([text])
    kept = [
        block
        for place, block in enumerate(blocks)
        if not (place and block == blocks[place - 1] and block[0].startswith("ERROR: "))
    ]
    return [line for block in kept for line in block]


def listing_of(archive: Path) -> tuple[list[str], set[str]]:
    """Top-level members in order, and every entry as ``mode size path``; owners and most sizes are the machine's."""
    entries = []
    with tarfile.open(archive) as tar:
        for member in tar:
            kind = "d" if member.isdir() else "-"
            name = member.name + ("/" if member.isdir() else "")
            entries.append((kind + _permissions(member.mode), member.size, name))
    return _listing(entries)


def listing_in(lines: list[str]) -> tuple[list[str], set[str]]:
    """The same of the output of ``tar tv`` in a transcript."""
    entries = []
    for line in lines:
        mode, _owner, size, _day, _hour, name = line.split(maxsplit=5)
        entries.append((mode, int(size), name))
    return _listing(entries)


def directory_in(lines: list[str]) -> set[str]:
    """The listing of the backup directory in a transcript, as ``mode size path``."""
    entries = []
    for line in lines:
        if not line.startswith("#"):
            mode, _owner, size, name = line.split(maxsplit=3)
            entries.append((mode, int(size), name))
    return _listing(entries)[1]


def directory_of(path: Path) -> set[str]:
    """The same of a real directory."""
    entries = []
    for entry in sorted(path.rglob("*")):
        kind = "d" if entry.is_dir() else "-"
        mode = kind + _permissions(entry.stat().st_mode & 0o777)
        entries.append((mode, entry.stat().st_size, str(entry.relative_to(path))))
    return _listing(entries)[1]


def _listing(entries: list[tuple[str, int, str]]) -> tuple[list[str], set[str]]:
    order = list(dict.fromkeys(name.split("/")[0] for _, _, name in entries))
    texts = _numbered_ids([f"{mode} {_size(name, size)} {name}" for mode, size, name in entries])
    return order, set(texts)


def _size(name: str, size: int) -> str:
    """Sizes that depend on GitLab alone: what another git, gzip or PostgreSQL packs differs."""
    exact = name.endswith((".toml", ".refs", ".custom_hooks.tar", "backup_information.yml")) or size <= 20
    return str(size) if exact else "-"


def _permissions(mode: int) -> str:
    return "".join(letter if mode >> (8 - i) & 1 else "-" for i, letter in enumerate("rwxrwxrwx"))


def _without_psql(lines: list[str]) -> list[str]:
    """Drop what stands between the start of the load and GitLab's next own line; COPY counts are kept."""
    result, loading = [], False
    for line in lines:
        if re.match(r"\[\d+ lines of psql output left out here\]", line):
            continue
        if " -- Restoring PostgreSQL database" in line:
            loading = True
        elif " -- " in line:
            loading = False
        elif loading:
            continue
        result.append(line)
    return result


def _without_end_of_rows(lines: list[str]) -> list[str]:
    """Drop psql's complaint about the end of the rows of a COPY that failed."""
    return [line for line in lines if not line.startswith("backslash commands are restricted")]


def copied(lines: list[str]) -> list[str]:
    """What psql says about the rows it loaded: it does not depend on versions."""
    return [line for line in lines if re.fullmatch(r"COPY \d+", line)]


def _json_line(line: str) -> str:
    record = json.loads(line)
    if not isinstance(record.pop("pid"), int) or not re.fullmatch(r"\d{4}-.*\.\d{3}Z", record.pop("time")):
        raise ValueError(f"no pid or time in {line}")
    if "msg" in record:
        record["msg"] = _git_words(record["msg"])
    if "error" in record:
        record["error"] = _git_words(record["error"])
    return json.dumps(record)  # keys keep their order


def _git_words(text: str) -> str:
    return re.sub(r'exit status \d+(,|:) stderr: "(\\.|[^"\\])*"', r'exit status N\1 stderr: "git"', text)


def _line(line: str) -> str:
    line = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "TIME", line)
    line = re.sub(r"\(PID \d+\)", "(PID N)", line)
    line = re.sub(r"process ID \d+", "process ID N", line)
    line = re.sub(r"contains \d+,", "contains N,", line)
    line = re.sub(r"host: '/\S*/postgresql'|host: '\S*drtool-pg\S*'", "host: 'SOCKET'", line)
    return _PATH_OF_GITLAB.sub(r"\1", line)


def _numbered_ids(lines: list[str]) -> list[str]:
    """Replace IDs that begin with an epoch by ID1, ID2, …, the oldest first."""
    pattern = re.compile(r"(?<!\d)\d{10}_\d{4}_\d\d_\d\d_18\.9\.0-pre")
    found = sorted({match for line in lines for match in pattern.findall(line)})
    names = {identifier: f"ID{number}" for number, identifier in enumerate(found, 1)}
    return [pattern.sub(lambda match: names[match[0]], line) for line in lines]
