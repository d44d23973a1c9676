"""A saved plan is applied as it was made: about the same profiles, or not at all."""

from __future__ import annotations

import json

import pytest
from e2e_tools import listening, profile


@pytest.fixture
def two(machine, port):
    """Two profiles, none applied; their ports by name."""
    machine.hello()
    ports = {name: port() for name in ("a", "b")}
    machine.declare("".join(profile(name, path="hello.gguf", port=number) for name, number in ports.items()))
    machine.run("lock")
    return ports


def running(ports: dict[str, int]) -> set[str]:
    return {name for name, number in ports.items() if listening(number)}


@pytest.mark.parametrize(
    ("words", "scope", "runs"),
    [
        ((), {"profiles": None, "exclude": []}, {"a", "b"}),
        (("a",), {"profiles": ["a"], "exclude": []}, {"a"}),
        (("--exclude", "a"), {"profiles": None, "exclude": ["a"]}, {"b"}),
        (("a", "b", "--exclude", "b"), {"profiles": ["a", "b"], "exclude": ["b"]}, {"a"}),
    ],
    ids=["all", "named", "left-out", "both"],
)
def test_a_saved_plan_knows_the_profiles_that_it_is_about(machine, two, words, scope, runs):
    machine.run("plan", *words, "--out", "saved.json")
    saved = json.loads((machine.folder / "saved.json").read_text())
    assert saved["scope"] == scope
    shown = machine.run("apply", "--dry-run", "--plan", "saved.json", "--json").data
    assert (shown["scope"], shown["changes"]) == (scope, saved["changes"])
    machine.run("apply", "--plan", "saved.json", *words)
    assert running(two) == runs


def test_the_profiles_need_not_be_named_again(machine, two):
    machine.run("plan", "a", "--out", "saved.json")
    machine.run("apply", "--plan", "saved.json")
    assert running(two) == {"a"}


@pytest.mark.parametrize(
    ("made", "typed", "about"),
    [
        (("a",), ("b",), "is about a,"),
        (("a",), ("a", "b"), "is about a,"),
        ((), ("a",), "is about all profiles,"),
        ((), ("--exclude", "b"), "is about all profiles,"),
        (("--exclude", "a"), ("--exclude", "b"), "is about all profiles but a,"),
    ],
    ids=["another", "more", "fewer", "left-out", "another-left-out"],
)
def test_a_plan_is_not_applied_to_other_profiles_than_it_was_made_for(machine, two, made, typed, about):
    machine.run("plan", *made, "--out", "saved.json")
    for flag in ((), ("--dry-run",)):
        ran = machine.run("apply", "--plan", "saved.json", *typed, *flag, code=64)
        assert "error[E-USAGE]" in ran.err and about in ran.err
    assert running(two) == set()


def test_a_plan_about_a_profile_that_is_gone_is_stale(machine, two):
    machine.run("plan", "a", "--out", "saved.json")
    machine.declare(profile("b", path="hello.gguf", port=two["b"]))
    for flag in ((), ("--dry-run",)):
        assert "error[E-PLAN-STALE]" in machine.run("apply", "--plan", "saved.json", *flag, code=4).err
    assert running(two) == set()


def test_a_plan_of_another_declaration_is_refused(machine, two):
    machine.run("plan", "--out", "saved.json")
    machine.declare("".join(profile(name, path="hello.gguf", port=number) for name, number in two.items()), "other")
    assert "error[E-PLAN-STALE]: the saved plan is for" in machine.run("apply", "--plan", "saved.json", code=4).err


def test_a_plan_that_does_not_say_what_it_is_about_is_none(machine, two):
    machine.run("plan", "--out", "saved.json")
    saved = json.loads((machine.folder / "saved.json").read_text())
    for scope in (None, {}, {"profiles": "a", "exclude": []}, {"profiles": [], "exclude": None}):
        content = {**saved, "scope": scope} if scope is not None else {k: v for k, v in saved.items() if k != "scope"}
        (machine.folder / "saved.json").write_text(json.dumps(content))
        assert "is no saved plan" in machine.run("apply", "--plan", "saved.json", code=64).err
