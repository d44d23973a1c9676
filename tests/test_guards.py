"""The table of guards is true: each guard is where it says, its test exists, and some of them are removed in turn."""

from __future__ import annotations

import ast
import os
import random

import mutations
import pytest

GUARDS = mutations.guards()
IN_TURN = 2  # guards that each run of the suite removes; tests/mutations.py removes them all


def named(one: mutations.Guard) -> str:
    return one.name


@pytest.mark.parametrize("guard", GUARDS, ids=named)
def test_a_guard_stands_where_the_table_says_and_what_is_left_without_it_is_python(guard):
    ast.parse(guard.removed((mutations.ROOT / guard.file).read_text()))


@pytest.mark.parametrize("guard", GUARDS, ids=named)
def test_the_test_that_holds_a_guard_exists(guard):
    file, _, name = guard.test.partition("::")
    tree = ast.parse((mutations.ROOT / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_rule_of_prune_is_in_the_table_and_every_name_once():
    assert {guard.rule for guard in GUARDS if guard.name.startswith("prune: ")} == set(range(1, 9))
    assert {guard.name.partition(":")[0] for guard in GUARDS} == {"prune", "trust", "transfer"}
    assert len({guard.name for guard in GUARDS}) == len(GUARDS)


def test_a_guard_that_is_removed_is_noticed():
    seed = int(os.environ.get("MUTATION_SEED") or random.SystemRandom().randrange(10**6))
    print(f"MUTATION_SEED={seed}")  # a failure shows it
    unnoticed = [why for _, why in mutations.check(mutations.chosen(IN_TURN, seed), jobs=1) if why]
    assert unnoticed == []


def test_a_removal_that_nothing_holds_would_be_told():
    """Otherwise silence would mean nothing."""
    harmless = mutations.Guard(
        "none", "lmctl/safety.py", "Pure.", "Impure.", "tests/test_safety.py::test_it_goes_to_the_second"
    )
    assert "ended with 0 without it" in mutations.survives(harmless)
    broken = mutations.Guard("none", "lmctl/safety.py", "def keeps(", "def keeps", harmless.test)
    assert "no Python" in mutations.survives(broken)
