"""Additions to gitlab.rb that keep a restored host quiet, between two lines of ours, and their removal. Pure.

As bytes: the file is the operator's, in whatever encoding and with whatever line ends. What is added comes last, after
every ``from_file`` too, because the last assignment wins; but before ``__END__``, where Ruby stops reading.
Sources: the template of gitlab.rb and the cookbooks of the Linux package, 18; GitLab's documentation of incoming mail.
"""

from __future__ import annotations

import re
from typing import Final

from drtool.core.versions import GitLabVersion
from drtool.errors import ConfigError

_BEGIN: Final = b"# drtool isolation: begin"
_END: Final = b"# drtool isolation: end"
_NO_LINE_END: Final = b" (no line end before)"  # what to take away again, for a file without one

_RUBY_ENDS = re.compile(rb"^__END__\r?$", re.MULTILINE)
_BLOCK = re.compile(
    rb"(?P<joint>\r?\n)?^"
    + _BEGIN
    + rb"(?P<bare>"
    + re.escape(_NO_LINE_END)
    + rb")?(?P<end>\r?\n).*?^"
    + _END
    + rb"\r?(?:\n|\Z)",
    re.MULTILINE | re.DOTALL,
)

_ALWAYS: Final = (
    "gitlab_rails['gitlab_email_enabled'] = false",
    "gitlab_rails['incoming_email_enabled'] = false",  # would fetch, and delete, the mail of the real one
    "gitlab_rails['service_desk_email_enabled'] = false",
    "gitlab_rails['usage_ping_enabled'] = false",
    "gitlab_rails['sentry_enabled'] = false",
)
# On by itself as soon as external_url is https, so whether the file speaks of it says nothing.
_LETSENCRYPT: Final = ((10, 5), "letsencrypt['enable'] = false")
# Silent without settings of the operator's; and a word that a package does not know ends its reconfigure.
_IF_MENTIONED: Final = (
    ("alertmanager", "alertmanager['enable'] = false"),
    ("registry", "registry['notifications'] = nil"),
)
# What leads out of the host, or to where a living GitLab keeps its things. No isolation can stop these.
_LEADS_OUT: Final = (
    ("object storage", r"gitlab_rails\['(?:object_store|\w+_object_store_(?:enabled|connection))'\]"),
    ("uploads of GitLab's own backups", r"gitlab_rails\['backup_upload_connection'\]"),
    ("a database elsewhere", r"gitlab_rails\['db_host'\]"),
    ("a Redis elsewhere", r"gitlab_rails\['redis_(?:host|sentinels)'\]"),
    ("a Gitaly elsewhere", r".*gitaly_address"),
)


def isolation_lines(version: GitLabVersion, content: bytes) -> tuple[str, ...]:
    """The settings that this version needs, for a file that says this."""
    lines = list(_ALWAYS)
    since, letsencrypt = _LETSENCRYPT
    if version.at_least(*since):
        lines.append(letsencrypt)
    outside = remove_isolation(content)
    more = _assigns(outside, "from_file")  # what it loads may speak of anything
    return (*lines, *(line for name, line in _IF_MENTIONED if more or _assigns(outside, rf"{name}\[")))


def add_isolation(content: bytes, lines: tuple[str, ...]) -> bytes:
    """Put the lines at the end, in place of those that an earlier call added. ``remove_isolation`` undoes it exactly.

    Raises ConfigError for a file in which one of our two lines stands alone.
    """
    content = remove_isolation(content)
    ends = _RUBY_ENDS.search(content)
    read, unread = (content[: ends.start()], content[ends.start() :]) if ends else (content, b"")
    end = b"\r\n" if b"\r\n" in content else b"\n"
    bare = bool(read) and not read.endswith(b"\n")
    begin = _BEGIN + (_NO_LINE_END if bare else b"")
    block = b"".join(line + end for line in (begin, *(line.encode() for line in lines), _END))
    return read + (end if bare else b"") + block + unread


def remove_isolation(content: bytes) -> bytes:
    """Take the lines away again, and nothing else. Raises ConfigError for a file in which one of the two is missing."""
    content = _BLOCK.sub(_what_was_there, content)
    if re.search(rb"^(?:" + _BEGIN + rb"|" + _END + rb")", content, re.MULTILINE):
        raise ConfigError(
            "gitlab.rb has only one of the two lines between which drtool puts its settings",
            hint="Remove the lines from `# drtool isolation: begin` to `# drtool isolation: end` by hand.",
        )
    return content


def holds_isolation(content: bytes) -> bool:
    """Tell whether the additions are there."""
    return remove_isolation(content) != content


def leads_out(content: bytes) -> tuple[str, ...]:
    """Name what the settings lead to that no isolation of ours stops. Only this file is read, none that it loads."""
    return tuple(name for name, pattern in _LEADS_OUT if _assigns(content, pattern))


def _what_was_there(found: re.Match[bytes]) -> bytes:
    joint: bytes = found["joint"] or b""
    ours = found["bare"] and found.end() == len(found.string)  # unless somebody wrote something below
    return joint.removesuffix(found["end"]) if ours else joint


def _assigns(content: bytes, pattern: str) -> bool:
    """Tell whether a line that is no comment begins so."""
    read = _RUBY_ENDS.split(content, maxsplit=1)[0]
    return re.search(rb"^[ \t]*" + pattern.encode(), read, re.MULTILINE) is not None
