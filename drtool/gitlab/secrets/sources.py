"""Read the places where an installation keeps its secrets: gitlab-secrets.json, gitlab.rb, secrets.yml, environment.

A file with all its keys proves nothing: Omnibus, Rails and the Helm chart generate whatever is missing, silently.
So reading never judges; ``SecretsCheck`` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from drtool.gitlab.secrets.ruby import read_assignments
from drtool.gitlab.secrets.values import Candidate, Key, Secrets

_JSON, _YAML, _RUBY, _ENVIRONMENT = "gitlab-secrets.json", "secrets.yml", "gitlab.rb", "the environment"
_ENVIRONMENT_PREFIX = "GITLAB_SECRETS_"
_KEYS = {str(key): key for key in Key}
_SECTION = "gitlab_rails"
# Names that Omnibus maps on reading. Both are tried where they differ.
_FORMER = {
    ("gitlab_ci", "db_key_base"): Key.DB,
    (_SECTION, "secret_token"): Key.OTP,
    (_SECTION, "jws_private_key"): Key.OPENID,
}
_NOT_TEXT, _COMPUTED = "is neither text nor a list of texts", "is computed"


@dataclass(slots=True)
class _Source:
    """What one place says. A key stands in at most one of the two."""

    name: str
    values: dict[Key, tuple[str, ...]] = field(default_factory=dict, repr=False)
    unreadable: dict[Key, str] = field(default_factory=dict)

    def take(self, key: Key, value: object) -> None:
        """Take over a parsed value; what is null or empty is absent, as for GitLab."""
        if value is None or value in ("", []):
            return
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(_is_text(text) for text in texts):
            self.unreadable[key] = _NOT_TEXT
        elif any("<%" in text for text in texts):  # Rails runs secrets.yml through ERB
            self.unreadable[key] = _COMPUTED
        else:
            self.values[key] = tuple(texts)


def read_secrets(
    *,
    gitlab_rb: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    secrets_json: bytes | None = None,
    secrets_yml: bytes | None = None,
) -> Secrets:
    """Read the places that exist; None is one that does not. Of two that name a secret the one further left wins.

    ``environment`` is that of a sameersbn container. Never raises for what is in them: see ``problems``.
    """
    sources: list[_Source] = []
    problems: list[str] = []
    readers: list[tuple[str, object, Callable[[], Iterable[_Source]]]] = [
        (_RUBY, gitlab_rb, lambda: _read_ruby(gitlab_rb or b"")),
        (_ENVIRONMENT, environment, lambda: [_read_environment(environment or {})]),
        (_JSON, secrets_json, lambda: _read_json(secrets_json or b"")),
        (_YAML, secrets_yml, lambda: [_read_yaml(secrets_yml or b"")]),
    ]
    for name, content, read in readers:
        if content is None:
            continue
        try:
            sources += read()
        except _Unreadable as reason:
            problems.append(f"{name} {reason}")
            sources.append(_Source(name, unreadable=dict.fromkeys(Key, "")))
    if not sources:
        return Secrets({}, frozenset(Key), ("no file with secrets was given",))
    return _merge(sources, problems)


def _is_text(value: object) -> bool:
    """Say whether it is text that has bytes: JSON can spell halves of characters."""
    try:
        return isinstance(value, str) and bool(value.encode())
    except UnicodeEncodeError:
        return False


class _Unreadable(Exception):
    """A whole source is not what its name says. The text ends a sentence and quotes nothing of it."""


def _merge(sources: list[_Source], problems: list[str]) -> Secrets:
    values: dict[Key, tuple[Candidate, ...]] = {}
    unreadable: set[Key] = set()
    for key in Key:
        naming = [source for source in sources if key in source.values or key in source.unreadable]
        if not naming:
            continue
        decides, others = naming[0], naming[1:]
        if key in decides.unreadable:
            unreadable.add(key)
            if reason := decides.unreadable[key]:
                problems.append(f"{key} could not be read: it {reason} in {decides.name}")
        current = decides.values.get(key, ())
        overruled = [(text, source.name) for source in others for text in source.values.get(key, ())]
        overruled = [(text, name) for text, name in overruled if text not in current]
        if current and overruled:
            names = " and ".join(dict.fromkeys(name for _, name in overruled))
            problems.append(f"{key}: {decides.name} overrules another value in {names}")
        values[key] = (
            *(Candidate(text, _label(key, decides.name, n, len(current))) for n, text in enumerate(current, start=1)),
            *(Candidate(text, f"another {key} in {name}", current=False) for text, name in overruled),
        )
    return Secrets(values, frozenset(unreadable), tuple(problems))


def _label(key: Key, source: str, number: int, count: int) -> str:
    which = f", value {number} of {count}," if count > 1 else ""
    return f"{key}{which} in {source}"


def _read_json(text: bytes) -> Iterable[_Source]:
    try:
        sections = json.loads(text)
    except (ValueError, RecursionError):
        raise _Unreadable("is not JSON") from None  # the parser's own words may quote the file
    if not isinstance(sections, dict):
        raise _Unreadable("is not an object of sections")
    source, former = _Source(_JSON), _Source(f"{_JSON} under its former name")
    for key in Key:
        source.take(key, _in(sections, _SECTION, key))
    for (section, old), key in _FORMER.items():
        former.take(key, _in(sections, section, old))
    return [source, former]


def _in(sections: Mapping[str, object], section: str, key: str) -> object:
    keys = sections.get(section)
    return keys.get(key) if isinstance(keys, dict) else None


def _read_ruby(text: bytes) -> Iterable[_Source]:
    source, former = _Source(_RUBY), _Source(f"{_RUBY} under its former name")
    try:
        program = text.decode()
    except ValueError:
        raise _Unreadable("is not text") from None
    for found in read_assignments(program, {*_KEYS, *(name for _, name in _FORMER)}):
        if found.section == _SECTION and found.name in _KEYS:
            into, key = source, _KEYS[found.name]
        elif (found.section, found.name) in _FORMER:
            into, key = former, _FORMER[found.section, found.name]
        elif not found.section and found.name in _KEYS:  # named by a line that is no plain assignment
            into, key = source, _KEYS[found.name]
        else:
            continue  # another section's setting of the same name
        into.values.pop(key, None)
        into.unreadable.pop(key, None)
        if found.values is None:
            into.unreadable[key] = f"{_COMPUTED} (line {found.line})"
        else:
            into.take(key, [text for text in found.values if text])
    return [source, former]


def _read_yaml(text: bytes) -> _Source:
    import yaml  # paid for by source installations only

    try:
        # The loader that makes nothing but text: unquoted digits would become a number, digits-e-digits another one.
        document = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - makes nothing but text
    except (yaml.YAMLError, RecursionError, ValueError):
        raise _Unreadable("is not YAML") from None
    if not isinstance(document, dict):
        raise _Unreadable("is not a mapping of environments")
    settings = {**_mapping(document.get("shared")), **_mapping(document.get("production"))}
    source = _Source(_YAML)
    for key in Key:
        value = settings.get(key)
        source.take(key, None if value in ("~", "null", "Null", "NULL") else value)
    return source


def _mapping(node: object, depth: int = 0) -> dict[str, object]:
    """The keys of a YAML mapping with those of ``<<`` below them, which this loader leaves alone."""
    if not isinstance(node, dict) or depth > 3:
        return {}
    merged = node.get("<<")
    below: dict[str, object] = {}
    for other in reversed(merged if isinstance(merged, list) else [merged]):
        below |= _mapping(other, depth + 1)
    return {**below, **node}


def _read_environment(environment: Mapping[str, str]) -> _Source:
    source = _Source(_ENVIRONMENT)
    for key in Key:
        text = environment.get(_ENVIRONMENT_PREFIX + key.removeprefix("gitlab_").upper())
        value: object = text
        if text and text.lstrip().startswith("["):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                value = 0  # no shape that a secret has
        source.take(key, value)
    return source
