"""The packages that lmctl names are those that it imports, and what its Protocols ask for has a caller."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "lmctl").rglob("*.py"))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENGINES = {"xllamacpp"}  # an extra, asked for where it is used


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the packages that a module imports, by name alone too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            yield ast.unparse(node.args[0]).strip("f'").partition(".")[0]


def test_what_is_imported_is_named_as_a_dependency_and_nothing_else_is():
    named = {re.split("[<>=!;~ ]", text)[0].replace("-", "_") for text in PROJECT["dependencies"]}
    used = {name for tree in MODULES.values() for name in imported(tree)}
    assert used - sys.stdlib_module_names - {"lmctl"} - ENGINES == named


def test_the_oldest_python_that_is_named_is_the_oldest_that_may_install():
    versions = re.findall(r":: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert f">={versions[0]}" == PROJECT["requires-python"]


def protocols() -> Iterator[tuple[str, str]]:
    for node in MODULES[ROOT / "lmctl/host.py"].body:
        if isinstance(node, ast.ClassDef) and "Protocol" in {ast.unparse(base) for base in node.bases}:
            yield from ((node.name, one.name) for one in node.body if isinstance(one, ast.FunctionDef))


@pytest.mark.parametrize(("protocol", "method"), list(protocols()), ids=".".join)
def test_what_is_asked_of_the_outside_world_is_used_by_what_decides(protocol, method):
    deciding = (tree for path, tree in MODULES.items() if path.parent.name != "hosts")
    used = (node for tree in deciding for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    part = protocol.lower()
    assert any(node.attr == method and (part == "host" or part in ast.unparse(node.value)) for node in used)
