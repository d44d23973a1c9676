"""The pages on security name tests, and the tests are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("SECURITY.md", "docs/security.md", "README.md", "CONTRIBUTING.md")
TEST = re.compile(r"tests/[\w/]+\.py(?:::\w+)?")
PROMISE = re.compile(r"^(\d+)\. \*\*(.+?)\*\*(.*?)(?=^\d+\. |^## |\n\n)", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page):
    for name in TEST.findall((ROOT / page).read_text()):
        file, _, function = name.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not function or function in defined, name


def test_ten_promises_each_with_the_tests_that_hold_it():
    text = (ROOT / "docs/security.md").read_text()
    promises = PROMISE.findall(text)
    assert [int(number) for number, _, _ in promises] == list(range(1, 11))
    without = [said for _, said, rest in promises if not any("::" in name for name in TEST.findall(rest))]
    assert without == []


@pytest.mark.parametrize("page", ["README.md", "docs/security.md"])
def test_the_policy_is_found(page):
    assert "SECURITY.md" in (ROOT / page).read_text()
