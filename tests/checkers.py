"""Switch off every single check of a backup's contents in turn, and see whether any test notices.

    python -m pytest -p tests.checkers --switch-off=found.json tests/unit/test_chains.py ...

As a plugin of pytest it loads the modules below with a switch at each statement that complains: one that raises, that
adds to a list of problems, that returns or yields one. The given tests then run once, to learn which of them each
complaint comes up in; after that, for each switch by itself, those tests until one fails. ``found.json`` names the
checks, and those that nobody missed. Each round is a fork of its own, so nothing is left of the one before.
"""

from __future__ import annotations

import ast
import builtins
import importlib.abc
import importlib.machinery
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

MODULES = (
    "drtool.backup_run",
    "drtool.catalog",
    "drtool.contents",
    "drtool.core.alarm",
    "drtool.core.census",
    "drtool.core.fitness",
    "drtool.core.isolation",
    "drtool.core.machine",
    "drtool.core.marker",
    "drtool.core.model",
    "drtool.core.policy",
    "drtool.core.room",
    "drtool.discard",
    "drtool.engine",
    "drtool.evidence",
    "drtool.gitlab.application",
    "drtool.gitlab.archive",
    "drtool.gitlab.chains",
    "drtool.gitlab.components",
    "drtool.gitlab.dump",
    "drtool.gitlab.judging",
    "drtool.gitlab.manifests",
    "drtool.gitlab.output",
    "drtool.gitlab.repositories",
    "drtool.gitlab.scan",
    "drtool.gitlab.secrets.verdict",
    "drtool.gitlab.tables",
    "drtool.gitlab.worth",
    "drtool.holding",
    "drtool.isolating",
    "drtool.prune",
    "drtool.prune_plan",
    "drtool.removing",
    "drtool.restore",
    "drtool.signing",
    "drtool.undo",
    "drtool.verify",
    "drtool.volumes",
)
_LISTS = frozenset(
    {"checks", "errors", "failed", "findings", "found", "held", "lost", "missing", "problems", "reasons", "refused"}
)
_COMPLAINTS = frozenset({"Obstacle", "Short"})
_ONLY_WORDS = frozenset(
    {"__str__", "_current", "_damaged", "_few", "_why_untested", "age_text", "few", "sentence", "_tell", "_why_not"}
)
"""Functions that say what others decided."""

_PATIENCE = 20  # seconds of processor time for one round: without its check a loop may never end


@dataclass
class _Switchboard:
    """``off`` is the one check that is switched off; ``complained`` those that came up."""

    checks: dict[str, None] = field(default_factory=dict)
    complained: set[str] = field(default_factory=set)
    off: str = ""

    def is_on(self, check: str) -> bool:
        self.complained.add(check)
        return check != self.off

    def let_pass(self, check: str, complaints: Any) -> Any:
        """Nothing, of the same type, if the check is off."""
        if not complaints:
            return complaints
        return complaints if self.is_on(check) else type(complaints)()


_BOARD = _Switchboard()


# -- where the checks are --------------------------------------------------------------------------------------------


class _Switches(ast.NodeTransformer):
    """Puts a switch at every statement that complains."""

    def __init__(self, module: str) -> None:
        self._module = module.removeprefix("drtool.")
        self._inside: list[str] = []
        self._last: ast.stmt | None = None

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._enter(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        before, self._last = self._last, node.body[-1]
        try:
            return self._enter(node)
        finally:
            self._last = before

    def _enter(self, node: ast.ClassDef | ast.FunctionDef) -> ast.AST:
        self._inside.append(node.name)
        try:
            return self.generic_visit(node)
        finally:
            self._inside.pop()

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return self._guarded(node) if node.exc else node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        match node.value:
            case ast.Call(func=ast.Attribute(attr="append" | "extend", value=to)) if _is_list(to):
                return self._guarded(node)
            case ast.Yield(value=ast.AST() as value) if _holds_a_sentence(value) or _is_a_complaint(value):
                return self._guarded(node)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        return self._thinned(node) if _is_list(node.target) else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if not _holds_a_sentence(node.value):
            return node
        if isinstance(node.targets[0], ast.Attribute) and node.targets[0].attr == "problem":
            return self._guarded(node)
        return self._thinned(node) if _is_list(node.targets[0]) else node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        if node.value is None or not _holds_a_sentence(node.value) or self._inside[-1] in _ONLY_WORDS:
            return node
        return self._thinned(node) if node is self._last else self._guarded(node)

    def _guarded(self, node: ast.stmt) -> ast.AST:
        """Let the statement be done only if it is switched on."""
        test = ast.Call(ast.Name("__is_on__", ast.Load()), [ast.Constant(self._name(node))], [])
        return ast.copy_location(ast.If(test, [node], []), node)

    def _thinned(self, node: ast.AugAssign | ast.Assign | ast.Return) -> ast.AST:
        """Let the statement be done with nothing if it is switched off."""
        assert node.value
        name = ast.Constant(self._name(node))
        node.value = ast.Call(ast.Name("__let_pass__", ast.Load()), [name, node.value], [])
        return node

    def _name(self, node: ast.stmt) -> str:
        text = f"{self._module}: {'.'.join(self._inside)}: {' '.join(ast.unparse(node).split())}"
        name, number = text, 1
        while name in _BOARD.checks:
            number += 1
            name = f"{text} ({number})"
        _BOARD.checks[name] = None
        return name


def _is_list(node: ast.expr) -> bool:
    node = node.value if isinstance(node, ast.Subscript) else node
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name.lstrip("_") in _LISTS


def _is_a_complaint(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _COMPLAINTS


def _holds_a_sentence(node: ast.AST) -> bool:
    return any(
        isinstance(each, ast.Constant) and isinstance(each.value, str) and " " in each.value.strip()
        for each in ast.walk(node)
    )


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = ast.fix_missing_locations(_Switches(fullname).visit(ast.parse(self.get_data(path))))
        return compile(tree, path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in MODULES else None
        if spec and spec.origin:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


# -- the plugin ------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--switch-off", type=Path, help="switch off every check in turn; write to this file what came of it"
    )


def pytest_configure() -> None:
    assert not set(MODULES) & set(sys.modules), "loaded before their switches were put in"
    vars(builtins)["__is_on__"] = _BOARD.is_on
    vars(builtins)["__let_pass__"] = _BOARD.let_pass
    sys.meta_path.insert(0, _Finder())


def pytest_runtestloop(session: pytest.Session) -> bool:
    tests = [item for item in session.items if not getattr(getattr(item, "obj", None), "is_hypothesis_test", False)]
    seen = _forked(partial(_look, tests))
    assert isinstance(seen, list), "the tests fail, or hang, with every check switched on"
    quickest = sorted(zip(tests, seen, strict=True), key=lambda each: float(each[1][0]))
    survivors = {}
    for check in _BOARD.checks:
        able = [item for item, (_, complained) in quickest if check in complained]
        if not _forked(partial(_misses, check, able)):
            survivors[check] = len(able)
    found = {"checks": list(_BOARD.checks), "survivors": survivors, "tests": [item.nodeid for item in tests]}
    session.config.getoption("--switch-off").write_text(json.dumps(found, indent=1))
    return True


def _look(tests: Sequence[pytest.Item]) -> list[tuple[float, list[str]]] | None:
    """Run every test; say how long it took and which checks complained in it. None if one fails."""
    resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    found = []
    for item, after in zip(tests, (*tests[1:], None), strict=False):
        _BOARD.complained.clear()
        begun = time.monotonic()
        _run(item, after)
        found.append((time.monotonic() - begun, sorted(_BOARD.complained)))
    return None if tests and tests[0].session.testsfailed else found


def _misses(check: str, tests: Sequence[pytest.Item]) -> bool:
    """Say whether a test fails when the check is off."""
    _BOARD.off = check
    for item, after in zip(tests, (*tests[1:], None), strict=False):
        _run(item, after)
        if item.session.testsfailed:
            return True
    return False


def _run(item: pytest.Item, after: pytest.Item | None) -> None:
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)


def _forked(work: Callable[[], object]) -> object:
    """Do it in a child, and return what it made; True if it came to no end."""
    with tempfile.TemporaryFile() as answer:
        child = os.fork()
        if not child:
            resource.setrlimit(resource.RLIMIT_CPU, (_PATIENCE, resource.RLIM_INFINITY))
            try:
                answer.write(json.dumps(work()).encode())
                answer.flush()
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
            return True
        answer.seek(0)
        return json.loads(answer.read())
