"""Records behave as frozen dataclasses do."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from lmctl.record import NOTHING, fields, record, replace


@record
class Point:
    x: int
    y: int = 2
    notes: Mapping[str, str] = NOTHING

    @property
    def sum(self) -> int:
        return self.x + self.y


def test_fields_come_by_position_by_name_or_by_default():
    assert Point(1).y == 2
    assert Point(1, y=5) == Point(x=1, y=5)
    assert Point(1, 5).sum == 6


@pytest.mark.parametrize(
    "make", [lambda: Point(), lambda: Point(1, z=3), lambda: Point(1, 2, {}, 4), lambda: Point(1, x=1)]
)
def test_missing_unknown_and_repeated_fields_are_refused(make):
    with pytest.raises(TypeError, match="Point takes x, y, notes"):
        make()


def test_a_record_cannot_be_changed_only_replaced():
    point = Point(1)
    with pytest.raises(AttributeError, match="frozen"):
        point.x = 2
    with pytest.raises(AttributeError, match="frozen"):
        del point.x
    assert replace(point, x=9) == Point(9)
    assert point == Point(1)


def test_equality_and_hash_follow_type_and_fields():
    @record
    class Other:
        x: int
        y: int = 2
        notes: Mapping[str, str] = NOTHING

    assert Point(1) != Other(1)
    assert Point(1) != (1, 2, {})

    @record
    class Key:
        name: str

    assert {Key("a"): 1}[Key("a")] == 1


def test_records_print_their_fields():
    assert repr(Point(1)) == "Point(x=1, y=2, notes={})"


def test_a_record_may_add_fields_to_another():
    @record
    class Named(Point):
        name: str = "origin"

    assert Named(0, 0, {}, "here") == Named(x=0, y=0, name="here")
    assert Named(0).name == "origin"
    assert fields(Point) == ("x", "y", "notes")


def test_fields_are_named_in_order_and_only_records_have_them():
    assert fields(Point(1)) == fields(Point) == ("x", "y", "notes")
    assert fields("text") == ()
