"""Find assignments of plain strings in a gitlab.rb, without running it.

gitlab.rb is a Ruby program. Only what is certain without running it counts as a value: strings, and arrays of strings,
outside of conditions. Whatever else sets one of the wanted names is reported as computed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

_ASSIGNMENT = re.compile(r"""[ \t]*(\w+)\[[ \t]*(?:'(\w+)'|"(\w+)"|:(\w+))[ \t]*\][ \t]*=(?![=~>])\s*""")
_STRING = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
_NIL = re.compile(r"nil\b")
_REST = re.compile(r"[ \t]*(#.*)?;?[ \t]*$")
_HEREDOC = re.compile(r"<<[-~]?(['\"`]?)([A-Z_]\w*)\1")
_END_OF_COMMENT = re.compile(r"^=end\b.*$", re.MULTILINE)
_OPENS = re.compile(r"\s*(if|unless|case|while|until|for|begin|def|class|module)\b|.*\bdo(\s*\|[^|]*\|)?\s*$")
_ENDS = re.compile(r"\s*end\b")
_ENDS_AT_ONCE = re.compile(r".*[\s;]end\s*$")
_COMMENT = re.compile(r"(^|\s)#(?!\{).*$")
_MENTION = r"""['":]{name}\b"""
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "s": " ", "e": "\x1b", "0": "\0"}
_COMPUTED = re.compile(r"#[{$@]")
# What follows these in Ruby's double quotes needs more than a table: code points, control and meta characters.
_HARD_ESCAPES = frozenset("ux123456789cCMab\nfv")


@dataclass(frozen=True, slots=True)
class Assignment:
    """``section['name'] = …``; ``values`` is None if the value is computed, empty for nil, one for a string."""

    section: str
    name: str
    values: tuple[str, ...] | None = field(repr=False)
    line: int


def read_assignments(text: str, names: Collection[str]) -> Iterator[Assignment]:
    """Yield what sets one of ``names``, in the order of the file, in which the last one wins."""
    at, depth = 0, 0
    mentions = {name: re.compile(_MENTION.format(name=name)) for name in names}
    while at < len(text):
        end = _end_of_line(text, at)
        line, number = _COMMENT.sub("", text[at:end]), text.count("\n", 0, at) + 1
        if line.startswith("=begin"):
            at = _after(_END_OF_COMMENT, text, end, otherwise=len(text))
            continue
        if line.startswith("__END__"):
            return
        found = _ASSIGNMENT.match(text, at)
        name = str(found[2] or found[3] or found[4]) if found else ""
        if found and name in names:
            values, after = _literal(text, found.end())
            yield Assignment(found[1], name, values if not depth else None, number)
            end = _end_of_line(text, after) if values is not None else end
        else:
            for mentioned in (known for known, pattern in mentions.items() if pattern.search(line)):
                yield Assignment("", mentioned, None, number)
        depth = max(0, depth + _nesting(line))
        at = end + 1
        if heredoc := _HEREDOC.search(line):
            # Without its end it was something else: two numbers and the operator that shifts one.
            at = _after(re.compile(rf"^\s*{heredoc[2]}\s*$", re.MULTILINE), text, end, otherwise=at)


def _nesting(line: str) -> int:
    """Say whether a block or a condition begins (1) or ends (-1)."""
    if _OPENS.match(line):
        return 0 if _ENDS_AT_ONCE.match(line) else 1
    return -1 if _ENDS.match(line) else 0


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _after(pattern: re.Pattern[str], text: str, at: int, *, otherwise: int) -> int:
    found = pattern.search(text, at)
    return found.end() + 1 if found else otherwise


def _literal(text: str, at: int) -> tuple[tuple[str, ...] | None, int]:
    """Read one string, an array of strings, or nil, up to the end of its line; None if there is anything else."""
    values: tuple[str, ...] | None
    if nil := _NIL.match(text, at):
        values, at = (), nil.end()
    elif text.startswith("[", at):
        values, at = _array(text, at + 1)
    else:
        value, at = _string(text, at)
        values = None if value is None else (value,)
    if values is None or not _REST.match(text, at, _end_of_line(text, at)):
        return None, at
    return values, at


def _array(text: str, at: int) -> tuple[tuple[str, ...] | None, int]:
    values: list[str] = []
    while True:
        at = _skip_blanks(text, at)
        if text.startswith("]", at):
            return tuple(values), at + 1
        value, at = _string(text, at)
        if value is None:
            return None, at
        values.append(value)
        at = _skip_blanks(text, at)
        if text.startswith(",", at):
            at += 1
        elif not text.startswith("]", at):
            return None, at


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _string(text: str, at: int) -> tuple[str | None, int]:
    found = _STRING.match(text, at)
    if not found:
        return None, at
    single, double = found.groups()
    if single is not None:
        return re.sub(r"\\(['\\])", r"\1", single), found.end()
    escaped = re.findall(r"\\(.)", double, re.DOTALL)
    bare = re.sub(r"\\.", "", double, flags=re.DOTALL)
    if _COMPUTED.search(bare) or not _HARD_ESCAPES.isdisjoint(escaped):
        return None, found.end()
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), double, flags=re.DOTALL), found.end()
