"""Read a runbook, say what is wrong with its form, and do what it says: the checker of ``runbooks/*.md``.

What is to be executed is marked where readers do not see it, in the first line of a fenced block::

    ```sh run                  every command ends with 0
    ```sh run status=21        one command, which ends with 21
    ```sh run answer=y         a terminal is there, and y is typed into it
    ```text seen               all these lines were in what the last block printed; … stands for anything
    <!-- by hand: NAME -->     here somebody does what no command does; the scene knows NAME

Everything else is literal. A scene says which few places of the text are others in a test.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from tests.unit.test_docs import anchors, parse

HEADINGS = ("When", "Before you start", "Steps", "How to know it worked", "How to back out")
MOST_LINES = 160  # two screens: who needs it has little patience
_PROGRAMS = Path(sys.executable).parent
_SECONDS = 600  # for one block, on a machine that does much else


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, or what is done by hand. ``line`` is where its text begins."""

    line: int
    info: str
    text: str


@dataclass
class Scene:
    """Where a runbook is played: ``places`` says what stands for a word of the text, ``hands`` what people do."""

    directory: Path
    environment: Mapping[str, str]
    places: Mapping[str, Callable[[], str]]
    hands: Mapping[str, Callable[[], None]] = field(default_factory=dict)
    largest_file: int | None = None
    """In KiB; whatever writes more meets a full disk."""

    def here(self, text: str) -> str:
        """Put the scene's own places into a text, in one pass."""
        words = sorted(self.places, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, words)), lambda found: self.places[found[0]](), text) if words else text


def blocks(page: Path) -> list[Block]:
    """Every fenced block and every mark of the page, in order; indentation of lists removed."""
    found: list[Block] = []
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    for number, line in lines:
        if hand := re.fullmatch(r"\s*<!-- (by hand: .+) -->", line):
            found.append(Block(number, hand[1], ""))
        elif fence := re.fullmatch(r"( *)```(.*)", line):
            found.append(Block(number + 1, fence[2].strip(), _inside(lines, fence[1])))
    return found


def _inside(lines: Iterator[tuple[int, str]], indent: str) -> str:
    text: list[str] = []
    for _, line in lines:
        if line == f"{indent}```":
            return "\n".join(text)
        text.append(line.removeprefix(indent))
    raise AssertionError("a fenced block has no end")


def is_run(block: Block) -> bool:
    return block.info.split()[:2] == ["sh", "run"]


def flaws(page: Path) -> list[str]:
    """Say what is wrong with the form of a runbook, without running it."""
    text = page.read_text()
    prose = re.sub(r"^( *)```.*?^\1```$", "…", text, flags=re.MULTILINE | re.DOTALL)
    return [*_form(text, prose), *_links(page, prose), *_infos(page), *_commands(page, prose)]


def _form(text: str, prose: str) -> Iterator[str]:
    if not re.match(r"# \S.*\n", text):
        yield "it does not begin with its title"
    parts = re.split(r"^## (.+)\n", prose, flags=re.MULTILINE)
    if tuple(parts[1::2]) != HEADINGS:
        yield f"its headings are {parts[1::2]}, not {list(HEADINGS)}"
    yield from (
        f"nothing below {name}" for name, body in zip(parts[1::2], parts[2::2], strict=True) if not body.strip()
    )
    if len(text.splitlines()) > MOST_LINES:
        yield f"it is longer than {MOST_LINES} lines"


def _links(page: Path, prose: str) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        outside = target.startswith("https://")
        if not outside and (not file.exists() or (anchor and anchor not in anchors(file))):
            yield f"a link leads nowhere: {target}"


def _infos(page: Path) -> Iterator[str]:
    """A mark that is misspelled would be a block that nobody runs."""
    ran = False
    for block in blocks(page):
        if is_run(block):
            ran = True
            unknown = [word for word in block.info.split()[2:] if not re.fullmatch(r"status=\d+|answer=\w+", word)]
            if unknown:
                yield f"line {block.line}: unknown mark {unknown}"
            if "status=" in block.info and len(block.text.splitlines()) != 1:
                yield f"line {block.line}: which of its lines has that status?"
        elif block.info == "text seen" and not ran:
            yield f"line {block.line}: nothing was run that could be seen"
        elif block.info not in ("", "sh", "text", "text seen", "toml") and not block.info.startswith("by hand: "):
            yield f"line {block.line}: unknown mark {block.info!r}"


def _commands(page: Path, prose: str) -> Iterator[str]:
    """Every drtool line, executed or not, has to be one that the program understands."""
    lines = [line for block in blocks(page) if block.info.startswith("sh") for line in block.text.splitlines()]
    found = [line for line in lines if line.startswith("drtool ")] + re.findall(r"`(drtool [a-z][^`]*)`", prose)
    for line in found:
        try:
            parse(shlex.split(line, comments=True)[1:])
        except click.ClickException as problem:
            yield f"`{line}`: {problem.format_message()}"


def play(page: Path, scene: Scene) -> int:
    """Do what the runbook says, in order, and say how many blocks were run. Fails where it says what is not so."""
    count, printed = 0, ""
    left = dict(scene.hands)
    for block in blocks(page):
        if block.info.startswith("by hand: "):
            left.pop(block.info.removeprefix("by hand: "))()
        elif is_run(block):
            count, printed = count + 1, _run(page, block, scene)
        elif block.info == "text seen":
            _look(page, block, scene, printed)
    assert left == {}, f"{page.name} does not say: {', '.join(left)}"
    return count


def _run(page: Path, block: Block, scene: Scene) -> str:
    wanted = dict(word.split("=") for word in block.info.split()[2:])
    script = scene.here(block.text)
    if scene.largest_file is not None:
        script = f"ulimit -f {scene.largest_file}\n{script}"
    # Not sh: in a pipe, what fails before the last program would not be seen.
    command = ["bash", "-e", "-o", "pipefail", "-c", script]
    with _terminal(wanted.get("answer")) as stdin:
        ran = subprocess.run(
            command,
            cwd=scene.directory,
            env={
                **os.environ,
                **scene.environment,
                "PATH": f"{scene.environment['PATH']}:{_PROGRAMS}:{os.environ['PATH']}",
            },
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    status = int(wanted.get("status", 0))
    assert ran.returncode == status, f"{page.name}:{block.line}: {ran.returncode}, not {status}:\n{ran.stdout}"
    return ran.stdout


@contextmanager
def _terminal(answer: str | None) -> Iterator[int]:
    """What a command reads: nothing, or a terminal into which something was typed."""
    if answer is None:
        yield subprocess.DEVNULL
        return
    typed, read = pty.openpty()
    try:
        os.write(typed, f"{answer}\n".encode())
        yield read
    finally:
        os.close(typed)
        os.close(read)


def _look(page: Path, block: Block, scene: Scene, printed: str) -> None:
    """Find each line in a line of what was printed, however many spaces are in it."""
    said = [" ".join(line.split()) for line in printed.splitlines()]
    for line in scene.here(block.text).splitlines():
        pattern = ".*?".join(re.escape(" ".join(part.split())) for part in line.split("…"))
        assert any(re.search(pattern, each) for each in said), (
            f"{page.name}:{block.line}: {line!r} was not to be seen in:\n{printed}"
        )
