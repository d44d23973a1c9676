"""The same plan in the same world is tried once, then after pauses that grow, until somebody edits something."""

from __future__ import annotations

from lmctl.watcher.attempts import Attempts


def test_a_plan_is_tried_at_once_and_again_after_pauses_that_grow():
    attempts, now, pauses = Attempts(), 0.0, []
    attempts.declared("as it is")
    for _ in range(9):
        assert attempts.due("plan", now)
        attempts.tried("plan", now)
        assert not attempts.due("plan", now)
        pauses.append(attempts.next("plan") - now)
        now = attempts.next("plan")
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


def test_another_plan_or_another_world_is_tried_at_once():
    attempts = Attempts()
    attempts.tried("plan", 0.0)
    assert attempts.due("another", 0.0)


def test_an_edit_is_a_fresh_wish():
    attempts = Attempts()
    attempts.declared("a")
    attempts.tried("plan", 0.0)
    attempts.declared("a")
    assert not attempts.due("plan", 1.0)
    attempts.declared("b")
    assert attempts.due("plan", 1.0)


def test_what_held_for_long_is_forgotten_and_what_did_not_is_not():
    attempts = Attempts()
    attempts.tried("plan", 0.0)
    attempts.settled(1.0)
    assert not attempts.due("plan", 59.0)
    attempts.settled(120.0)
    attempts.tried("plan", 200.0)
    assert attempts.next("plan") == 260.0


def test_only_so_many_plans_are_remembered():
    attempts = Attempts()
    for number in range(1000):
        attempts.tried(f"plan {number}", 0.0)
    assert attempts.due("plan 0", 0.0)
    assert not attempts.due("plan 999", 0.0)
