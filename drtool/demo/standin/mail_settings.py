"""gitlab.yml, as far as it says whether mail goes out and comes in: what a reconfigure makes of gitlab.rb."""

from __future__ import annotations

import re

from .settings import Host

_ASSIGNED = re.compile(r"^[ \t]*gitlab_rails\['(\w+)'\][ \t]*=[ \t]*(true|false)\b", re.MULTILINE)


def write(host: Host) -> None:
    """Write it. The last assignment of a setting wins, and nothing after ``__END__`` counts, as with Ruby."""
    path = host.etc / "gitlab.rb"
    text = path.read_text() if path.exists() else ""
    settings = dict(_ASSIGNED.findall(re.split(r"^__END__$", text, maxsplit=1, flags=re.MULTILINE)[0]))
    target = host.data / "gitlab-rails/etc/gitlab.yml"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(
        "production: &base\n"
        f"  gitlab:\n    email_enabled: {settings.get('gitlab_email_enabled', 'true')}\n"
        f"  incoming_email:\n    enabled: {settings.get('incoming_email_enabled', 'false')}\n"
        f"  service_desk_email:\n    enabled: {settings.get('service_desk_email_enabled', 'false')}\n"
    )
