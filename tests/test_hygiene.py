"""Small promises that every file of the package keeps."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lmctl.code_docs import CODES
from lmctl.errors import EXIT_CODES, WARNINGS

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "lmctl").rglob("*.py"))
PUBLIC = [path for path in FILES if path.read_text().strip()]
LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 300, 60, 7
CODE = re.compile(r'"([EW]-[A-Z]+(?:-[A-Z]+)*)"')


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


@pytest.mark.parametrize("path", PUBLIC, ids=shown)
def test_a_module_says_in_a_sentence_what_it_is(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text
    assert text.partition("\n")[0].rstrip().endswith((".", ":"))


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_files_and_functions_stay_readable(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST_FILE
    long = [one.name for one in functions(path) if (one.end_lineno or 0) - one.lineno >= LONGEST_FUNCTION]
    assert not long


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_functions_take_few_parameters(path):
    def count(one: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        names = [arg.arg for arg in (*one.args.posonlyargs, *one.args.args, *one.args.kwonlyargs)]
        return len([name for name in names if name not in {"self", "cls"}])

    assert not [one.name for one in functions(path) if count(one) > MOST_PARAMETERS]


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_every_code_has_an_exit_code(path):
    """A refusal whose code is in no table would end as a bug."""
    used = set(CODE.findall(path.read_text()))
    assert used <= EXIT_CODES.keys() | WARNINGS


def test_codes_that_nothing_says_are_called_reserved():
    tables = {"errors.py", "code_docs.py"}
    said = {code for path in FILES if path.name not in tables for code in CODE.findall(path.read_text())}
    assert {code for code, means in CODES.items() if means.startswith("reserved: ")} == CODES.keys() - said


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_nothing_is_left_for_later(path):
    assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", path.read_text())


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_output_goes_through_the_renderer(path):
    """`print` would mix text with what `--json` promises; only the programs that supervisord starts may use it."""
    if path.stem in {"launch", "embedded"}:
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]
