"""Edits settle before their turn comes, what comes meanwhile makes one more, and the world has its own time."""

from __future__ import annotations

import pytest

from lmctl.watcher.pace import Pace, Turn


@pytest.fixture
def pace() -> Pace:
    """A quiet time of 1 second, a look at the world every 60."""
    return Pace(1.0, 60.0, now=0.0)


def test_nothing_is_due_while_nothing_happens(pace):
    assert pace.turn(59.0) is None
    assert pace.wait(59.0) == 1.0


def test_an_edit_has_its_turn_once_it_settled(pace):
    pace.saved(["a"], 10.0)
    assert pace.turn(10.9) is None
    assert pace.wait(10.5) == 0.5
    assert pace.turn(11.0) == Turn(files=("a",))
    assert pace.turn(11.0) is None


def test_F20_all_that_one_save_does_is_one_turn(pace):
    for now, name in ((10.0, "a~"), (10.01, "a"), (10.02, "a"), (10.5, "b")):
        pace.saved([name], now)
    assert pace.turn(11.4) is None
    assert pace.turn(11.5) == Turn(files=("a", "a~", "b"))


def test_what_happens_in_a_turn_makes_one_more_and_none_is_lost(pace):
    pace.saved(["a"], 10.0)
    assert pace.turn(11.0)
    for now in (11.1, 12.0, 30.0):  # a turn that takes long
        pace.saved(["a"], now)
    assert pace.turn(40.0) == Turn(files=("a",))
    assert pace.turn(41.0) is None


def test_F23_saving_without_an_end_puts_no_turn_off_for_ever_and_is_remembered_in_bounds(pace):
    turns = []
    for step in range(30_000):
        now = 1.0 + step / 1000
        pace.saved([f"file {step}"], now)
        turn = pace.turn(now)
        if turn is not None:
            turns.append((now, turn))
    assert [now for now, _ in turns] == pytest.approx([11, 21], abs=0.01)
    assert all(len(turn.files) <= 16 for _, turn in turns)


def test_the_world_is_compared_every_interval(pace):
    assert pace.turn(60.0) == Turn(world=True)
    assert pace.turn(119.0) is None
    assert pace.turn(120.0) == Turn(world=True)


def test_a_program_that_ends_has_the_world_compared(pace):
    pace.ended(10.0)
    pace.ended(10.8)
    assert pace.turn(10.9) is None
    assert pace.turn(11.0) == Turn(world=True)
    assert pace.wait(11.0) == 60.0


def test_an_edit_puts_no_look_at_the_world_off(pace):
    pace.saved(["a"], 59.5)
    assert pace.turn(60.0) == Turn(files=("a",), world=True)


def test_settings_count_from_when_they_are_read(pace):
    pace.set(2.0, 10.0)
    assert pace.turn(10.0) == Turn(world=True)
    pace.saved(["a"], 11.0)
    assert pace.turn(12.5) is None
    assert pace.turn(13.0) == Turn(files=("a",))


def test_what_somebody_was_in_the_way_of_is_tried_again_before_the_interval_ends(pace):
    pace.again(5.0)
    assert pace.wait(1.0) == 4.0
    assert pace.turn(5.0) == Turn()
    assert pace.turn(59.0) is None


def test_trying_again_hurries_no_edit(pace):
    pace.again(5.0)
    pace.saved(["a"], 4.9)
    assert pace.turn(5.5) is None
    assert pace.turn(5.9) == Turn(files=("a",))
    assert pace.turn(59.0) is None


def test_what_was_saved_is_known_to_settle_until_its_turn(pace):
    assert pace.settles() is None
    pace.saved(["a"], 4.0)
    pace.saved(["a"], 4.5)
    assert pace.settles() == 5.5
    assert pace.turn(5.5)
    assert pace.settles() is None
